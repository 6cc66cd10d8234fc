"""Kill training at any moment, resume it, and compare what comes out with a run that was never killed.

``python tools/kills.py`` is the harness, with the number of kills as its argument. It trains a small model on real reviews in processes of
their own (``python tools/kills.py child``), and ends them in four ways: by SIGKILL after a random time, from the set-up to the last line;
by SIGKILL at a random batch, held-out batch or stage of writing a file; by SIGTERM and by SIGINT after a random time. After each it looks
at the run directory. A run that has had its share of kills is left to finish.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

CONFIG = {
    "train_size": 1200,
    "valid_size": 300,
    "hidden_size": 12,
    "attention_units": 10,
    "classifier_units": 12,
    "epochs": 5,
    "batch_size": 32,
    "device": "cpu",
}
KILLS_A_RUN = 8
PARAMS = ("model.params", "checkpoint.params")
# where a process kills itself, and among how many occasions the one is drawn
OCCASIONS = {
    "batch": 150,
    "held-out batch": 30,
    "half of the arrays written": 10,
    "before a rename": 15,
    "after a rename": 15,
}


# The process that is killed


def child(run_dir, occasion=None, number=0):
    """Train, from the beginning or from where an earlier child was killed, up to the metrics."""
    from selfatt_lib import training

    if occasion:
        _die_at(training, occasion, int(number))
    resume = Path(run_dir, "config.json").exists()
    training.fit(training.TrainingConfig(run_dir=run_dir, resume=resume, **CONFIG))


def _die_at(training, occasion, number):
    count = 0

    def die():
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    step, bring = training.training_step, training.on_devices
    save, replace = training.nd.save, os.replace

    def dying_step(*args):
        die()
        return step(*args)

    def dying_batches(batches, devices):
        for batch in bring(batches, devices):
            if not batches.bucketing["shuffle"]:
                die()
            yield batch

    def dying_save(path, arrays):
        save(path, arrays)
        whole = Path(path).read_bytes()
        Path(path).write_bytes(whole[: len(whole) // 2])
        die()
        Path(path).write_bytes(whole)

    def dying_replace(source, target):
        if occasion == "before a rename":
            die()
        replace(source, target)
        if occasion == "after a rename":
            die()

    if occasion == "batch":
        training.training_step = dying_step
    elif occasion == "held-out batch":
        training.on_devices = dying_batches
    elif occasion == "half of the arrays written":
        training.nd.save = dying_save
    else:
        os.replace = dying_replace


# The harness


class Finding(Exception):
    """Something was lost or half-written."""


def start(run_dir, *occasion):
    """Start a child."""
    command = [sys.executable, __file__, "child", run_dir, *map(str, occasion)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def run(run_dir, *occasion):
    """Return a child's exit status, and what it wrote to stderr."""
    process = start(run_dir, *occasion)
    _, said = process.communicate()
    return process.returncode, said


def look_at(run_dir, epochs_before):
    """Return how many epochs are kept. Raises Finding if a file is not whole, or epochs were lost."""
    from selfatt_lib.machinery.runtime import mx
    from selfatt_lib.params import read_layout

    path, epochs = Path(run_dir), 0
    try:
        for name in ("config.json", "vocab.json", "metrics.json"):
            if (path / name).exists():
                json.loads((path / name).read_text(encoding="utf-8"))
        lines = []
        if (path / "metrics.jsonl").exists():
            lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        lines = [json.loads(line) for line in lines]
        for name in PARAMS:
            if (path / name).exists():
                read_layout(path / name)
        if (path / PARAMS[1]).exists():
            epochs = int(mx.nd.load(str(path / PARAMS[1]))["epoch"].asscalar())
    except ValueError as error:
        raise Finding(f"{run_dir} holds a file that is not whole: {error}") from error
    if epochs < epochs_before or len(lines) < epochs:
        raise Finding(
            f"{run_dir} had {epochs_before} epochs; now it has {epochs}, and {len(lines)} lines of metrics"
        )
    return epochs


def outcome(run_dir):
    """Return what must not depend on kills: weights byte for byte, the history and the metrics without the seconds."""
    path = Path(run_dir)
    lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    history = [json.loads(line) for line in lines]
    metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    for part in (*history, metrics):
        del part["seconds"]
    return [(path / name).read_bytes() for name in PARAMS], history, metrics


def kill_once(run_dir, duration, rng):
    """Start a child and end it; return how, or None if it had finished before."""
    way = rng.choice(["time", "time", "occasion", "occasion", "SIGTERM", "SIGINT"])
    if way == "occasion":
        occasion = rng.choice(list(OCCASIONS))
        number = rng.randint(1, OCCASIONS[occasion])
        status, _ = run(run_dir, occasion, number)
        return occasion if status == -signal.SIGKILL else None
    process = start(run_dir)
    time.sleep(rng.uniform(0, duration))
    number = signal.SIGKILL if way == "time" else signal.Signals[way]
    process.send_signal(number)
    _, said = process.communicate()
    if process.returncode == 0:
        return None
    if way != "time" and Path(run_dir, "config.json").exists():
        # before training it ends at once, as any process does
        in_training = "Stopped and saved after" in said
        at_once = process.returncode == -number or "KeyboardInterrupt" in said
        if not (in_training or at_once):
            raise Finding(f"{way} ended the run with: {said[-1000:]}")
        way += ", saved" if in_training else ", before training"
    return "a random time" if way == "time" else way


def torture(kills=60, seed=None):
    """Return how often each way of ending a run was survived: Counter. Raises Finding."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    print(f"kills: seed {seed}")
    # started in the background, this process ignores it, and so would its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng, survived, runs = random.Random(seed), Counter(), 0
    with (
        tempfile.TemporaryDirectory(prefix="kills-") as folder,
        tqdm(total=kills, desc="kills", unit=" kills") as bar,
    ):
        reference = str(Path(folder, "never-killed"))
        status, said = run(reference)
        if status:
            raise RuntimeError(f"the run that nobody kills failed: {said}")
        started = time.perf_counter()
        run(str(Path(folder, "timed")))
        duration = time.perf_counter() - started
        while survived.total() < kills:
            runs += 1
            run_dir, epochs, ended = str(Path(folder, f"run-{runs}")), 0, 0
            while ended < KILLS_A_RUN and not Path(run_dir, "metrics.json").exists():
                if way := kill_once(run_dir, duration, rng):
                    epochs = look_at(run_dir, epochs)
                    survived[way] += 1
                    ended += 1
                    bar.update()
            status, said = run(run_dir)
            if status:
                raise Finding(f"the last child failed: {said[-1000:]}")
            if outcome(run_dir) != outcome(reference):
                raise Finding(
                    f"run {runs}, killed {ended} times, is not the run never killed"
                )
            if left := list(Path(run_dir).glob(".*")):
                raise Finding(f"left over: {left}")
    survived["whole runs"] = runs
    return survived


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        from tools.reproducibly import settle

        settle(os.environ)
        for way, count in torture(*map(int, sys.argv[1:])).items():
            print(f"{count:4} {way}")
