"""Alter each stored text output of each chapter, in copies, and count how many alterations nbval notices.

A pass alters one output of every cell that has so many, and compares a copy of the chapter with what the cells print: exactly these cells
must fail. The next pass takes the next output of each cell. Cells that are exempt from comparison are left as they are and counted.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).parent.parent
EXEMPT = "nbval-ignore-output"


def texts(cell):
    """Yield the kind of each text that a cell stores, and where it lies: a dict and its key."""
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            yield "stream", output, "text"
        for kind in output.get("data", {}):
            if kind.startswith("text/"):
                yield kind, output["data"], kind


def altered(text):
    """Change one character, in the middle of what is not blank: a digit into another, if there is one."""
    text = "".join(text)
    places = [i for i, character in enumerate(text) if character.isdigit()]
    places = places or [i for i, character in enumerate(text) if character.strip()]
    place = places[len(places) // 2]
    other = {"0": "1"}.get(text[place], "0") if text[place].isdigit() else "§"
    return text[:place] + other + text[place + 1 :]


def compare(path):
    """Run nbval on a copy of a chapter; return the numbers of the code cells that failed, the first being 0."""
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "--no-header", "--tb=no"]
    command += ["--nbval", "--nbval-current-env", "-p", "no:cacheprovider"]
    said = subprocess.run(
        [*command, f"--rootdir={path.parent}", "-c", os.devnull, path],
        cwd=path.parent,
        capture_output=True,
        text=True,
    ).stdout
    failed = {
        int(line.split("::Cell ")[1].split()[0])
        for line in said.splitlines()
        if line.startswith("FAILED")
    }
    if not failed and " passed" not in said:
        raise RuntimeError(f"{path.name} could not be compared:\n{said[-2000:]}")
    return failed


def alter(chapter, folder):
    """Return how many alterations of each kind were made, noticed and exempt: Counter of (what, kind)."""
    counts = Counter()
    number = 0
    while True:
        notebook = json.loads(chapter.read_text(encoding="utf-8"))
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        changed = {}
        for place, cell in enumerate(cells):
            for kind, holder, key in list(texts(cell))[number : number + 1]:
                if EXEMPT in cell["metadata"].get("tags", []):
                    counts["exempt", kind] += 1
                else:
                    holder[key] = altered(holder[key])
                    changed[place] = kind
        if not changed:
            return counts
        copy = folder / chapter.name
        copy.write_text(json.dumps(notebook), encoding="utf-8")
        failed = compare(copy)
        if more := failed - set(changed):
            raise RuntimeError(f"{chapter.name}: cells {sorted(more)} were not altered")
        for place, kind in changed.items():
            counts["made", kind] += 1
            counts["noticed", kind] += place in failed
            if place not in failed:
                tqdm.write(f"not noticed: {chapter.name}, code cell {place}, {kind}")
        number += 1


def alter_all():
    """Return the counts over all chapters."""
    counts = Counter()
    with tempfile.TemporaryDirectory(prefix="alterations-") as folder:
        for chapter in tqdm(sorted(ROOT.glob("book/*.ipynb")), desc="alterations"):
            counts += alter(chapter, Path(folder))
    return counts


def table(counts):
    """Return a line for each kind of text."""
    kinds = sorted({kind for _, kind in counts})
    row = "{:16} {:>7} {:>8} {:>7}".format
    lines = [row("text output", "altered", "noticed", "exempt")]
    for kind in kinds:
        numbers = [counts[what, kind] for what in ("made", "noticed", "exempt")]
        lines.append(row(kind, *numbers))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from tools.reproducibly import settle

    settle(os.environ)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    print(table(alter_all()))
