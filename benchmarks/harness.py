"""Run the sides of a comparison in processes of their own, and in turn.

Sides differ in the libraries that they load and in the threads that these start, so
none shares a process with another. They take turns (ours, the peer, ours, the peer, …),
so that whatever else the machine does hits all alike; those that wait sleep. pyperf
runs each benchmark to its end before the next, so a busy minute would hit one side.
"""

import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module

import click
import numpy as np


class Side(ProcessPoolExecutor):
    """An object of a class, ``module:Class``, in a process of its own.

    `cache` is a folder for ``$SELFATT_CACHE`` there, in place of the user's.
    """

    def __init__(self, target, *arguments, cache=None):
        super().__init__(1, multiprocessing.get_context("spawn"))
        self.built = self.submit(_build, target, arguments, cache)

    def run(self, method, *arguments):
        """Return what a method returns, and the seconds that it takes there."""
        self.built.result()
        return self.submit(_run, method, arguments).result()

    def call(self, method, *arguments):
        """Return what a method returns."""
        return self.run(method, *arguments)[0]

    def time(self, method, *arguments):
        """Return the seconds that a method takes."""
        return self.run(method, *arguments)[1]


def _build(target, arguments, cache):
    global _object
    module, _, name = target.partition(":")
    os.environ["TQDM_DISABLE"] = "1"
    if cache:
        os.environ["SELFATT_CACHE"] = cache
    _object = getattr(import_module(module), name)(*arguments)


def _run(method, arguments):
    started = time.perf_counter()
    result = getattr(_object, method)(*arguments)
    return result, time.perf_counter() - started


def run_afresh(target, *arguments):
    """Return result and seconds of ``run`` in a new process without caches on disk."""
    with (
        tempfile.TemporaryDirectory() as cache,
        Side(target, *arguments, cache=cache) as side,
    ):
        return side.run("run")


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


def interleave(works, repetitions, label, warm_up=1):
    """Let the sides work in turn, and return their `Runs`, by name.

    Each of `works` does its work once and returns the seconds. `warm_up` rounds come
    before those that count.
    """
    runs = {name: Runs() for name in works}
    with click.progressbar(range(-warm_up, repetitions), label=label) as rounds:
        for number in rounds:
            for name, work in works.items():
                seconds = work()
                if number >= 0:
                    runs[name].append(seconds)
    return runs
