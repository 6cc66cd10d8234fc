"""What takes too long for every test run: make torture, or ARGS=kills for one part.

*kills* ends training at random moments and resumes it, *inputs* gives the loaders far
more broken files than `make test` does, and *alterations* changes, in copies, one after
the other, every text output that the chapters store, and counts what nbval notices.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kills
from reproducibly import settle
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
FUZZED = ["tests/test_hostile.py", "tests/test_files.py", "tests/test_prediction.py"]


def pytest(*arguments):
    """Return pytest's exit status, and what it printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += arguments
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout


def inputs():
    os.environ["HYPOTHESIS_PROFILE"] = "torture"
    status, said = pytest("--hypothesis-show-statistics", *FUZZED)
    tried = sum(map(int, re.findall(r"(\d+) passing, 0 failing", said)))
    if status or not tried:
        sys.exit(f"{said}\ntorture: an input was neither read nor refused")
    print(f"{tried} broken inputs were read rightly or refused")


def texts(cell):
    """Return where the texts lie that a cell stores: list of (dict, key)."""
    streams = [(output, "text") for output in cell["outputs"] if "text" in output]
    data = [output.get("data", {}) for output in cell["outputs"]]
    return streams + [(x, kind) for x in data for kind in x if kind.startswith("text/")]


def altered(text):
    """Change one character in the middle: a digit, if there is one, into another."""
    text = "".join(text)
    found = [*re.finditer(r"\d", text)] or [*re.finditer(r"\S", text)]
    place = found[len(found) // 2].start()
    return text[:place] + ("1" if text[place] == "0" else "0") + text[place + 1 :]


def alterations():
    made = noticed = 0
    with tempfile.TemporaryDirectory(prefix="alterations-") as folder:
        nbval = ["--nbval", "--nbval-current-env", "-rf", "--tb=no", "-c", os.devnull]
        for chapter in tqdm(sorted(ROOT.glob("book/*.ipynb")), desc="alterations"):
            for number in itertools.count():
                notebook = json.loads(chapter.read_text(encoding="utf-8"))
                cells = [x for x in notebook["cells"] if x["cell_type"] == "code"]
                # one text of each cell that has so many: exactly these cells must fail
                chosen = {i for i, x in enumerate(cells) if len(texts(x)) > number}
                if not chosen:
                    break
                for i in chosen:
                    holder, key = texts(cells[i])[number]
                    holder[key] = altered(holder[key])
                copy = Path(folder, chapter.name)
                copy.write_text(json.dumps(notebook), encoding="utf-8")
                _, said = pytest(*nbval, f"--rootdir={folder}", copy)
                failed = re.findall(r"(?m)^FAILED .*::Cell (\d+)", said)
                failed = {int(i) for i in failed}
                if not failed or failed - chosen:
                    sys.exit(f"{said}\ntorture: {failed} failed, {chosen} were altered")
                made, noticed = made + len(chosen), noticed + len(failed)
                for i in chosen - failed:
                    tqdm.write(f"not noticed: {chapter.name}, code cell {i}")
    print(f"{made} stored outputs altered, {noticed} noticed by nbval")


PARTS = {"kills": kills.main, "inputs": inputs, "alterations": alterations}

if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - set(PARTS):
        sys.exit(f"torture: ARGS is some of {', '.join(PARTS)}; got {unknown}")
    settle(os.environ)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for part in sys.argv[1:] or PARTS:
        started = time.monotonic()
        PARTS[part]()
        print(f"{part}: {(time.monotonic() - started) / 60:.1f} minutes")
