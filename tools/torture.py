"""What takes too long for every test run: ``python tools/torture.py [kills] [inputs] [alterations]``, all three by default.

*kills* ends training at random moments and resumes it (``tools/kills.py``), *inputs* gives the loaders far more broken files than `make test`
does, *alterations* changes every stored text output of the chapters and counts what nbval notices (``tools/alterations.py``). A table closes it.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tools import alterations, kills
from tools.reproducibly import settle

FUZZED = ["tests/test_hostile.py", "tests/test_params.py", "tests/test_prediction.py"]


def torture_by_kills():
    """Return rows of the closing table: what, and how many."""
    survived = kills.torture(60)
    runs = survived.pop("whole runs")
    rows = [(f"killed or stopped: {way}", count) for way, count in survived.items()]
    return [
        *sorted(rows),
        ("kills and stops survived, the same weights", survived.total()),
        ("whole runs", runs),
    ]


def torture_by_inputs():
    command = [sys.executable, "-m", "pytest", "-q", "-rf", *FUZZED]
    done = subprocess.run(
        [*command, "--hypothesis-show-statistics", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env=os.environ | {"HYPOTHESIS_PROFILE": "torture"},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        print(done.stdout)
        raise SystemExit("torture: an input was neither read nor refused, see above")
    tried = sum(map(int, re.findall(r"(\d+) passing, 0 failing", done.stdout)))
    if not tried:
        raise SystemExit(f"torture: no input was tried:\n{done.stdout}")
    return [("broken inputs read rightly or refused", tried)]


def torture_by_alterations():
    counts = alterations.alter_all()
    print(alterations.table(counts))
    made, noticed, exempt = (
        sum(count for (what, _), count in counts.items() if what == wanted)
        for wanted in ("made", "noticed", "exempt")
    )
    return [
        ("stored outputs altered", made),
        ("alterations noticed by nbval", noticed),
        ("outputs exempt from comparison", exempt),
    ]


QUESTIONS = {
    "kills": torture_by_kills,
    "inputs": torture_by_inputs,
    "alterations": torture_by_alterations,
}


def main(questions):
    if unknown := set(questions) - set(QUESTIONS):
        raise SystemExit(f"expected some of {', '.join(QUESTIONS)}; got {unknown}")
    settle(os.environ)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    rows = []
    for question in questions or QUESTIONS:
        started = time.monotonic()
        rows += QUESTIONS[question]()
        minutes = (time.monotonic() - started) / 60
        rows.append((f"minutes of {question}", f"{minutes:.1f}"))
    print("\n" + "\n".join(f"{what:55} {count:>7}" for what, count in rows))


if __name__ == "__main__":
    main(sys.argv[1:])
