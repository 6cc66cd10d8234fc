"""Kill training at any moment, resume it, and compare it with a run never killed.

A small model trains on real reviews in processes of their own (``kills.py RUN_DIR``).
They are ended by SIGKILL, SIGTERM or SIGINT after a random time, from the set-up to the
last line, or by SIGKILL at a random batch or stage of writing a file. After each the
run directory is looked at; after some kills the run is left to finish.
"""

import itertools
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

from safetensors import SafetensorError
from safetensors.numpy import load_file
from tqdm import tqdm

CONFIG = {"train_size": 1200, "valid_size": 300, "epochs": 5, "batch_size": 32}
CONFIG |= {"hidden_size": 12, "attention_units": 10, "classifier_units": 12}
KILLS_A_RUN = 8
WEIGHTS = ("model.safetensors", "checkpoint.safetensors")
# where a process kills itself, and among how many occasions the one is drawn
OCCASIONS = {"a batch": 160, "half of a file written": 15}
OCCASIONS |= {"before a rename": 15, "after a rename": 15}


def child(run_dir, occasion="", number="0"):
    """Train, or go on, up to the metrics; die at the occasion with this number."""
    from selfatt_lib.config import TrainingConfig
    from selfatt_lib.data.batches import Batches
    from selfatt_lib.training import fit

    owner, name = (Batches, "assemble") if occasion == "a batch" else (os, "replace")
    call, calls = getattr(owner, name), itertools.count(1)

    def dying(*args):
        die = next(calls) == int(number)
        if die and occasion == "half of a file written":
            os.truncate(args[0], os.path.getsize(args[0]) // 2)
        if not die or occasion == "after a rename":
            result = call(*args)
        if die:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)
    resume = Path(run_dir, "config.json").exists()
    fit(TrainingConfig(run_dir=run_dir, resume=resume, device="cpu", **CONFIG))


def start(run_dir, *occasion):
    """Start a child."""
    command = [sys.executable, __file__, str(run_dir), *map(str, occasion)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **quiet)


def run(run_dir, *occasion):
    """Return a child's exit status, and what it wrote to stderr."""
    process = start(run_dir, *occasion)
    _, said = process.communicate()
    return process.returncode, said


def epochs_kept(checkpoint):
    """Return how many epochs a checkpoint holds; ValueError if it is not whole."""
    try:
        return int(load_file(checkpoint).get("epoch", [0])[0])
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def history(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def look_at(run_dir, epochs_before):
    """Return how many epochs are kept; raise RuntimeError if a file or one is lost."""
    epochs = lines = 0
    try:
        for path in run_dir.glob("[!.]*"):
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".jsonl":
                lines = len(history(run_dir))
            elif path.name in WEIGHTS:
                epochs = max(epochs, epochs_kept(path))
    except ValueError as error:
        raise RuntimeError(f"{path} is not whole: {error}") from error
    if not epochs_before <= epochs <= lines:
        raise RuntimeError(
            f"of {epochs_before} epochs {epochs} are left ({lines} lines)"
        )
    return epochs


def outcome(run_dir):
    """Return what kills must not change: weights, and metrics but for the seconds."""
    metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    metrics = [part | {"seconds": None} for part in (*history(run_dir), metrics)]
    return [(run_dir / name).read_bytes() for name in WEIGHTS], metrics


def kill_once(run_dir, duration):
    """Start a child and end it; return how, or None if it had finished before."""
    way = random.choice([*2 * ["SIGKILL"], *2 * ["occasion"], "SIGTERM", "SIGINT"])
    if way == "occasion":
        way = random.choice(list(OCCASIONS))
        status, _ = run(run_dir, way, random.randint(1, OCCASIONS[way]))
        return way if status == -signal.SIGKILL else None
    process = start(run_dir)
    time.sleep(random.uniform(0, duration))
    process.send_signal(signal.Signals[way])
    _, said = process.communicate()
    if process.returncode == 0:
        return None
    if "Stopped and saved after" in said:
        return f"{way}, saved"
    # before training it ends at once, as any process does
    at_once = process.returncode == -signal.Signals[way] or "KeyboardInterrupt" in said
    if at_once or not (run_dir / "config.json").exists():
        return way
    raise RuntimeError(f"{way} ended the run with: {said[-1000:]}")


def survive(run_dir, duration):
    """Kill a run again and again, let it finish, and return the ways it was ended."""
    ways, epochs = [], 0
    while len(ways) < KILLS_A_RUN and not (run_dir / "metrics.json").exists():
        if way := kill_once(run_dir, duration):
            epochs = look_at(run_dir, epochs)
            ways.append(way)
    status, said = run(run_dir)
    if status or any(run_dir.glob(".*")):
        raise RuntimeError(
            f"the last child failed, or left parts of files: {said[-1000:]}"
        )
    return ways


def main(kills=60):
    """Print how often each way of ending a run was survived. Raises RuntimeError."""
    # started in the background, this process ignores it, and so would its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    survived = Counter()
    with (
        tempfile.TemporaryDirectory(prefix="kills-") as folder,
        tqdm(total=kills, desc="kills") as bar,
    ):
        for name in ("never-killed", "timed"):  # the first one also fills caches
            started, whole = time.perf_counter(), Path(folder, name)
            status, said = run(whole)
            if status:
                raise RuntimeError(f"the run that nobody kills failed: {said}")
        duration = time.perf_counter() - started
        for number in itertools.count():
            if survived.total() >= kills:
                break
            run_dir = Path(folder, str(number))
            survived.update(ways := survive(run_dir, duration))
            bar.update(len(ways))
            if outcome(run_dir) != outcome(whole):
                raise RuntimeError(f"run {number} is another, ended by {ways}")
    for way, count in sorted(survived.items()):
        print(f"{count:4} survived: {way}")
    print(f"{survived.total():4} in all, over {number} runs, with the same weights")


if __name__ == "__main__":
    child(*sys.argv[1:])
