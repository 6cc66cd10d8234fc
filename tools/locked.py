"""Renew what is made from the locks: tools/locked.py, after make lock and make setup.

That is the table of packages in book/licences.md, with what the installed packages say
about themselves, and selfatt_lib/machinery/pinned.txt, the hashes of what a hosted
notebook installs in one version only.
"""

import re
import tomllib
from importlib.metadata import distribution, metadata

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
    about = metadata(name)
    words = about["License"] or ""
    filed = [line for line in about.get_all("Classifier", []) if "License ::" in line]
    return (
        about["License-Expression"]
        or (words if len(words) <= 40 and "\n" not in words else "")
        or ", ".join(line.split(" :: ")[-1] for line in filed)
        or (distribution(name).read_text("licenses/LICENSE") or "").partition("\n")[0]
    )


def table():
    """Return the packages asked for in Markdown, and how many more there are."""
    versions = {}
    for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", LOCKS["cpu"].read_text()):
        versions.setdefault(name, []).append(version)
    library = {requirement.name for requirement in wanted("cpu")}
    named = sorted({requirement.name for requirement in wanted("cpu", "dev")})
    lines = ["| package | version | licence | for |", "| --- | --- | --- | --- |"]
    for name in named:
        use = "library" if name in library else "book, tests"
        row = (name, ", ".join(versions[name]), licence(name), use)
        lines.append(f"| {' | '.join(row)} |")
    more = f"These {len(named)} packages need {len(versions) - len(named)} more."
    return "\n".join([*lines, "", more, ""])


def pinned():
    """Return the locks' entries for what the library wants in one version only."""
    both = [x for x in wanted("cpu", "gpu") if str(x.specifier).startswith("==")]
    locks = "\n".join(lock.read_text() for lock in LOCKS.values())
    entries = requirements(locks, {requirement.name for requirement in both})
    return "\n".join(sorted(set(re.split(r"\n(?=\S)", entries)))) + "\n"


def renewed():
    """Return the two files as they should be: path → text."""
    return {PAGE: BLOCK.sub(lambda _: table(), PAGE.read_text()), PINNED: pinned()}


if __name__ == "__main__":
    for path, text in renewed().items():
        path.write_text(text)
