"""Run the sides of a comparison in processes of their own, and in turn.

Sides differ in the libraries they load and in the threads these start, so none shares a process with another, and MXNet and PyTorch none at
all: spaCy, which loads both wherever it finds them, finds one. They are asked in turn
(ours, the peer, ours, the peer, …), so that whatever else the machine does hits all alike; those that wait sleep.
"""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tqdm import tqdm

FOLDER = Path(__file__).parent
WITH_TORCH = find_spec("torch") is not None


class Worker:
    """A side in a process of its own.

    Parameters
    ----------
    target : str
        ``module:Class``.
    cache : str, optional
        Folder for ``$SELFATT_CACHE``, in place of the user's.
    **arguments
        Of the class, as far as JSON can hold them.
    """

    def __init__(self, target, cache=None, **arguments):
        self.target = target
        self.errors = tempfile.TemporaryFile("w+")
        hidden = "mxnet" if target.startswith("benchmarks.pytorch") else "torch"
        path = [str(FOLDER / f"without_{hidden}"), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "TQDM_DISABLE": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
        }
        if cache:
            environment["SELFATT_CACHE"] = cache
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", target, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )
        self.ready = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.errors.close()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"{self.target} failed:\n{self.errors.read()[-4000:]}")
        return json.loads(line)

    def _ask(self, method, arguments):
        self.wait()
        print(json.dumps([method, arguments]), file=self.process.stdin, flush=True)
        return self._answer()

    def wait(self):
        """Wait until the side is built."""
        if not self.ready:
            self._answer()
            self.ready = True

    def call(self, method, **arguments):
        """Return what a method of the side returns."""
        return self._ask(method, arguments)["result"]

    def time(self, method="run", **arguments):
        """Return the seconds that a method takes, measured in the side's process."""
        return self._ask(method, arguments)["seconds"]


@contextmanager
def side_by_side(sides, **arguments):
    """Start a worker for each side, all at once, and stop them at the end.

    Parameters
    ----------
    sides : dict of str to str
        Targets by name.
    **arguments
        Of the classes.

    Yields
    ------
    dict of str to Worker
    """
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(target, **arguments))
            for name, target in sides.items()
        }
        for worker in workers.values():
            worker.wait()
        yield workers


class Runs(list):
    """What the repetitions of one side took, in seconds."""

    @property
    def median(self):
        return float(np.median(self))

    @property
    def spread(self):
        """The interquartile range over the median."""
        low, high = np.percentile(self, [25, 75])
        return float((high - low) / self.median)


def interleave(sides, repetitions, label, warm_up=1):
    """Ask the sides in turn.

    Parameters
    ----------
    sides : dict of str to callable
        Each does its work once and returns the seconds that it took.
    repetitions : int
    label : str
        For the progress bar.
    warm_up : int, default 1
        Rounds before those that count.

    Returns
    -------
    dict of str to Runs
    """
    runs = {name: Runs() for name in sides}
    for _ in range(warm_up):
        for work in sides.values():
            work()
    with tqdm(total=repetitions * len(sides), desc=label, unit=" runs") as bar:
        for _ in range(repetitions):
            for name, work in sides.items():
                runs[name].append(work())
                bar.update()
    return runs


def in_fresh_process(target, check=None, **arguments):
    """Return a function that times a side's ``run`` in a new process whose caches, on disk too, are empty.

    Parameters
    ----------
    target : str
        As in `Worker`.
    check : callable, optional
        Gets what ``run`` returned.
    **arguments
        Of the class.
    """

    def run():
        with (
            tempfile.TemporaryDirectory() as cache,
            Worker(target, cache, **arguments) as worker,
        ):
            answer = worker._ask("run", {})
        if check:
            check(answer["result"])
        return answer["seconds"]

    return run
