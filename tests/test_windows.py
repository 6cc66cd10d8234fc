"""What Windows lacks is taken away from Python: training and predicting go on.

There is no Windows here. This shows that nothing needs what it has not; what it does
otherwise, such as its console, is not tested.
"""

import gzip
import json
import os
import subprocess
import sys
from functools import partial

import pytest

from conftest import make_reviews, run_code
from selfatt_lib import engines

# Python imports this at its start. What its own library cannot do without stays:
# os.name is "posix", and modules that ask for sys.platform take the ways of Linux.
WINDOWS = '''
import os, signal, subprocess, sys, warnings

import psutil  # its part for Linux needs `resource`

LACKING = {
    os: "fork forkpty register_at_fork mkfifo sysconf sched_getaffinity symlink link "
    "killpg getpgid",
    signal: "SIGHUP SIGKILL SIGXCPU SIGALRM",
}
for module, names in LACKING.items():
    for name in names.split():
        delattr(module, name)
for name in "resource fcntl pwd grp termios".split():
    sys.modules[name] = None
subprocess.Popen.kill = subprocess.Popen.terminate  # as it is there

# open(path, "w") writes in cp1252 there
warnings.filterwarnings("ignore", category=EncodingWarning)
warnings.filterwarnings("error", category=EncodingWarning, module="selfatt_lib")

HERE = os.environ["RULES_HOLD_IN"]


def is_open(path):
    held = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            held.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            pass
    with open("/proc/self/maps", encoding="utf-8") as maps:
        held += [line.split(None, 5)[-1].strip() for line in maps]
    return any(each == path or each.startswith(path + os.sep) for each in held)


def rules(event, arguments):
    """Refuse what Windows does: some names, and to move or delete what is open."""
    moves = event in ("os.rename", "os.remove", "os.rmdir")
    if not moves and event not in ("open", "os.mkdir"):
        return
    for path in arguments[: 2 if event == "os.rename" else 1]:
        path = isinstance(path, str | os.PathLike) and os.path.abspath(path)
        if not path or not path.startswith(HERE):
            continue
        name = os.path.basename(path)
        if set(name) & set('<>:"|?*') or name.endswith((".", " ")):
            raise OSError(22, "WinError 123: a name that Windows does not allow", path)
        if moves and is_open(path):
            raise PermissionError(13, "WinError 32: the file is open", path)


sys.addaudithook(rules)
'''


@pytest.fixture
def windows(tmp_path):
    """Return a function that runs Python without what Windows lacks."""
    (tmp_path / "as on windows").mkdir()
    (tmp_path / "as on windows" / "sitecustomize.py").write_text(WINDOWS)
    (tmp_path / "files").mkdir()
    path = [str(tmp_path / "as on windows"), os.environ.get("PYTHONPATH", "")]
    lacking = {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "RULES_HOLD_IN": str(tmp_path / "files"),
        "SELFATT_CACHE": str(tmp_path / "files" / "cache"),
        "TMPDIR": str(tmp_path / "files"),
        # the default encoding is ASCII, which refuses even more than cp1252
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "cp1252",
        "PYTHONWARNDEFAULTENCODING": "1",
        "TQDM_DISABLE": "1",
    }

    def run(*arguments, **options):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path / "files",
            env=os.environ | lacking,
            capture_output=True,
            timeout=300,
            **options,
        )

    return run


TRAIN = """
import os, sys
from selfatt_lib.config import TrainingConfig
from selfatt_lib.prediction import Classifier
from selfatt_lib.training import fit

engine, reviews = sys.argv[1:]
assert not hasattr(os, "fork")
if engine == "pytorch":  # whether it can be forked it asks sys.platform
    os.register_at_fork = lambda **calls: None
    import torch
    del os.register_at_fork
small = dict(
    engine=engine, dataset=reviews, valid_size=40, hidden_size=4, attention_units=4,
    attention_hops=2, classifier_units=4, epochs=1, tfidf=False, run_dir="runs/small",
)
fit(TrainingConfig(**small))
fit(TrainingConfig(**small | {"seed": 1}))  # the first run is moved aside
fit(TrainingConfig(**small | {"seed": 1, "epochs": 2, "resume": True}))
classifier = Classifier.load("runs/small")
assert len(classifier.predict(["caf\\u00e9 \\u2605", "a good film"] * 20)) == 40
"""


def reviews_with_accents(path):
    reviews = make_reviews(100)
    reviews["text"] += " café ★"
    writers = {".csv": partial(reviews.to_csv, index=False)}
    writers.get(path.suffix, reviews.to_parquet)(path)
    return path


@pytest.mark.parametrize("engine", engines.installed())
def test_a_run_is_trained_moved_aside_resumed_and_predicts(engine, windows, tmp_path):
    file = reviews_with_accents(tmp_path / "files" / "reviews.csv")
    done = windows("-c", TRAIN, engine, file)
    assert done.returncode == 0, done.stderr.decode()
    runs = tmp_path / "files" / "runs"
    for run, epochs in (("small.1", 1), ("small", 2)):
        lines = (runs / run / "metrics.jsonl").read_bytes()
        assert lines.count(b"\n") == epochs
        assert json.loads((runs / run / "metrics.json").read_bytes())


LOAD = """
import sys
from selfatt_lib.data.sources import load_reviews
assert all(load_reviews(sys.argv[1])["text"].str.endswith("caf\\u00e9 \\u2605"))
"""


@pytest.mark.parametrize("name", ["reviews.parquet", "reviews.csv", "packed.csv.gz"])
def test_files_are_read_packed_or_not(name, windows, tmp_path):
    path = reviews_with_accents(tmp_path / "files" / name.removesuffix(".gz"))
    if name.endswith(".gz"):
        (tmp_path / "files" / name).write_bytes(gzip.compress(path.read_bytes()))
    done = windows("-c", LOAD, tmp_path / "files" / name)
    assert done.returncode == 0, done.stderr.decode()


def test_the_commands_answer_in_utf8_wherever_they_are_sent(windows, trained):
    predict = "-m", "selfatt_lib", "predict", trained.run.path
    done = windows(*predict, input="superb café ★\n".encode())
    assert done.returncode == 0, done.stderr.decode()
    stars, _, text = done.stdout.decode("utf-8").split("  ")
    assert set(stars) <= set("★☆")
    assert text.rstrip() == "superb café ★"
    done = windows(*predict, "--json", input="superb café ★\n".encode())
    assert json.loads(done.stdout.decode("utf-8"))["text"] == "superb café ★"


def test_the_doctor_reports(windows):
    done = windows("-m", "selfatt_lib", "doctor")
    assert done.stdout.startswith(b"Python"), done.stderr.decode()
    assert b"engine='auto'" in done.stdout


STOPPED = '''
import os, signal, subprocess, sys, threading, time
from pathlib import Path
import nbformat
from jupyter_client.provisioning import LocalProvisioner
from selfatt_lib.machinery.notebook import run_notebook

def refused(self, number):
    raise ValueError(f"Unsupported signal: {number}")

async def by_event(self, number):
    os.kill(self.pid, number)

subprocess.Popen.send_signal = refused
LocalProvisioner.send_signal = by_event
cell = nbformat.v4.new_code_cell("""
import pathlib, time
try:
    pathlib.Path("run/begun").touch()
    time.sleep(60)
except KeyboardInterrupt:
    print("stopped")
""")
metadata = {"kernelspec": {"name": "python3", "display_name": "Python"}}
nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=metadata), "a.ipynb")

def stop():
    while not Path("run/begun").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

Path("run").mkdir()
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=stop, daemon=True).start()
sys.exit(run_notebook("a.ipynb", Path("run"), {}, "again"))
'''


def test_ctrl_c_reaches_the_kernel_by_jupyters_own_way(tmp_path):
    """On Windows that is an event: a process cannot be sent SIGINT."""
    done = run_code(STOPPED, cwd=tmp_path, timeout=50)
    assert done.returncode == 0, done.stderr
    assert "stopping after this batch" in done.stderr
    assert "stopped" in (tmp_path / "run" / "training.ipynb").read_text()
