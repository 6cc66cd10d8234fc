"""Prediction: reviews a second in batches, and milliseconds for a single one.

Ours is `Classifier.predict` at the default sizes, with random weights. The peer is the same model with the same weights in PyTorch, behind
our tokenizer: texts in; probabilities, tokens and attention out. Its batches are sorted by length and packed, without which its backward LSTM
would start in the padding. Both must give the same probabilities. The reviews are those of the default data set, and they have
been seen before: the tokenizer remembers their words.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.harness import WITH_TORCH, Worker, interleave
from benchmarks.report import rates, row

TOLERANCE = 1e-4  # between the probabilities
AT_A_TIME = 25  # single reviews, before it is the other side's turn


def measure(quick=False):
    reviews, repetitions = (500, 3) if quick else (4_000, 9)
    singles = 250
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        side = {"run_dir": str(Path(folder, "run")), "reviews": reviews}
        ours = stack.enter_context(Worker("benchmarks.ours:Inference", **side))
        workers = {"ours": ours}
        if WITH_TORCH:
            ours.wait()  # until the run is there
            peer = Worker("benchmarks.pytorch:Inference", **side)
            workers["PyTorch"] = stack.enter_context(peer)
        probabilities = {
            name: worker.call("probabilities") for name, worker in workers.items()
        }
        for name, theirs in probabilities.items():
            difference = np.abs(np.subtract(theirs, probabilities["ours"])).max()
            if difference > TOLERANCE:
                raise RuntimeError(
                    f"the probabilities of {name} differ from ours by {difference}"
                )
            if name != "ours":
                print(
                    f"inference: the probabilities of {name} are ours, within {difference:.1e}"
                )
        runs = interleave(
            {name: worker.time for name, worker in workers.items()},
            repetitions,
            "inference",
        )
        latencies = {name: [] for name in workers}
        for first in range(0, singles, AT_A_TIME):
            for name, worker in workers.items():
                latencies[name] += worker.call(
                    "one_by_one", first=first, last=first + AT_A_TIME
                )
    rows = rates("inference", "prediction in batches", runs, reviews)
    for what, percentile in (("median", 50), ("99th percentile", 99)):
        ms = {
            name: float(1000 * np.percentile(seconds, percentile))
            for name, seconds in latencies.items()
        }
        name = f"prediction of one review, {what}"
        for peer in [name for name in ms if name != "ours"] or [None]:
            rows.append(
                row("inference", name, "ms", ms["ours"], ms.get(peer), peer, less=True)
            )
    return rows
