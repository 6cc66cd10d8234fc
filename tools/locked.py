"""Renew what is made from the locks: tools/locked.py, after make lock and make setup.

That is the table of packages in book/licences.md, with what the installed packages say
about themselves, and selfatt_lib/machinery/pinned.txt, the hashes of what a hosted
notebook installs in one version only. No environment has both engines: of a package
that is not installed, the page keeps the licence that it has.
"""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, metadata

from packaging.requirements import Requirement
from setup import LOCKS, ROOT, requirements

PAGE = ROOT / "book" / "licences.md"
PINNED = ROOT / "selfatt_lib" / "machinery" / "pinned.txt"
BLOCK = re.compile(r"(?s)(?<=% packages, by tools/locked.py\n\n).*?(?=\n% /packages)")


def wanted(*extras):
    """Return the requirements of the library and of these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    lists = [project["dependencies"], *(optional[extra] for extra in extras)]
    return [Requirement(line) for lines in lists for line in lines]


def licence(name):
    """Return what an installed package says of its licence, at its shortest."""
    try:
        about = metadata(name)
    except PackageNotFoundError:
        row = re.search(rf"(?m)^\| {re.escape(name)} \|.*", PAGE.read_text())
        if row is None:
            raise
        return row[0].split(" | ")[2]
    words = about["License"] or ""
    filed = [line for line in about.get_all("Classifier", []) if "License ::" in line]
    return (
        about["License-Expression"]
        or (words if len(words) <= 40 and "\n" not in words else "")
        or ", ".join(line.split(" :: ")[-1] for line in filed)
        or (distribution(name).read_text("licenses/LICENSE") or "").partition("\n")[0]
    )


def names(*extras):
    """Return the names of what the library and these extras ask for: set."""
    return {requirement.name for requirement in wanted(*extras)}


def table():
    """Return the packages asked for in Markdown, and how many more there are."""
    versions, counts = {}, []
    for engine in ("mxnet", "pytorch"):
        pins = re.findall(r"(?m)^([\w.-]+)==(\S+)", LOCKS[engine].read_text())
        for name, version in pins:
            versions.setdefault(name, {})[version] = None
        asked = len(names(engine, "dev"))
        counts.append(f"{asked} of them and {len(dict(pins)) - asked} more")
    uses = dict.fromkeys(names("dev"), "book, tests")
    uses |= dict.fromkeys(names("onnx"), "library, selfatt export")
    uses |= dict.fromkeys(names("mxnet"), "library, with MXNet")
    uses |= dict.fromkeys(names("pytorch"), "library, with PyTorch")
    uses |= dict.fromkeys(names(), "library")
    lines = ["| package | version | licence | for |", "| --- | --- | --- | --- |"]
    for name, use in sorted(uses.items()):
        row = (name, ", ".join(versions[name]), licence(name), use)
        lines.append(f"| {' | '.join(row)} |")
    more = "The lock with MXNet has {}; the one with PyTorch {}.".format(*counts)
    return "\n".join([*lines, "", more, ""])


def pinned():
    """Return the locks' entries for what the library wants in one version only."""
    both = [x for x in wanted(*LOCKS) if str(x.specifier).startswith("==")]
    locks = "\n".join(lock.read_text() for lock in LOCKS.values())
    entries = requirements(locks, {requirement.name for requirement in both})
    return "\n".join(sorted(set(re.split(r"\n(?=\S)", entries)))) + "\n"


def renewed():
    """Return the two files as they should be: path → text."""
    return {PAGE: BLOCK.sub(lambda _: table(), PAGE.read_text()), PINNED: pinned()}


if __name__ == "__main__":
    for path, text in renewed().items():
        path.write_text(text)
