"""A training step: reviews a second, and how near the processor's limit.

Ours is `training_step`. The peers are the tutorial's model and loop (`gluon.rnn.LSTM`, no mask, the loss read at every step) and the same
model in PyTorch, each with the threads it chooses, on the same batch of reviews that are all as long: nothing is padded. First, at a
small size and without dropout, all start from the same weights, and the losses of ten steps must agree. The limit is what NumPy reaches at a
product of large matrices, which is timed in turn with the steps.
"""

from dataclasses import asdict
from functools import partial

import numpy as np

from benchmarks import settings
from benchmarks.harness import WITH_TORCH, Worker, interleave, side_by_side
from benchmarks.report import rates, row

SIDES = {
    "ours": "benchmarks.ours:TrainingStep",
    "tutorial": "benchmarks.tutorial:TrainingStep",
}
if WITH_TORCH:
    SIDES["PyTorch"] = "benchmarks.pytorch:TrainingStep"
PRODUCT = 3000  # rows and columns of NumPy's matrices
TOLERANCE = 1e-3  # between the losses


def measure(quick=False):
    repetitions = 3 if quick else 15
    rows = []
    with (
        side_by_side(SIDES) as workers,
        Worker("benchmarks.matrices:MatrixProduct", size=PRODUCT) as numpy,
    ):
        for name, setting, steps in (
            ("tutorial's setting", settings.tutorial(), 1),
            ("quick", settings.quick(), 10),
        ):
            check(name, workers, setting.small())
            for worker in workers.values():
                worker.call("build", **asdict(setting))
            works = {
                side: partial(worker.time, steps=steps)
                for side, worker in workers.items()
            } | {"NumPy": numpy.time}
            runs = interleave(works, repetitions, f"step, {name}", warm_up=2)
            rows += report(name, setting, steps, runs)
    return rows


def check(name, workers, setting, steps=10):
    """Raise RuntimeError unless all sides start from the same weights and their losses fall in the same way."""
    for worker in workers.values():
        worker.call("build", **asdict(setting))
    losses = {
        side: worker.call("losses", steps=steps) for side, worker in workers.items()
    }
    ours = losses["ours"]
    for side, theirs in losses.items():
        if not np.allclose(theirs, ours, rtol=TOLERANCE, atol=0):
            raise RuntimeError(
                f"{name}: the sides do not do the same work. Losses of ours: {ours}; of {side}: {theirs}"
            )
    print(
        f"{name}: in {steps} steps the loss falls from {ours[0]:.3f} to {ours[-1]:.3f}, "
        f"the same way on all sides ({', '.join(losses)})"
    )


def report(name, setting, steps, runs):
    """Return the rows: reviews a second against each peer, and the share of NumPy's rate that ours reaches."""
    product = runs.pop("NumPy")
    name = f"training step, {name}"
    rows = rates("step", name, runs, steps * setting.reviews)
    ours = runs["ours"]
    limit = 2 * PRODUCT**3 / product.median
    reached = steps * operations(setting) / ours.median
    spread = max(ours.spread, product.spread)
    what = f"{name}: of {limit / 1e9:,.0f} GFLOP/s"
    return [*rows, row("step", what, "%", 100 * reached / limit, spread=spread)]


def operations(setting):
    """Count the floating-point operations of a step's matrix products: two for each multiplication and its addition.

    A product of (m, k) and (k, n) takes 2mkn. The gradients of its two factors are two products of the same size, so that each product
    counts three times; twice where the first factor needs no gradient: frozen word vectors. The recurrent product is not needed at the
    first word, whose state before is 0.
    """
    words = setting.reviews * setting.tokens
    u, hops = setting.hidden_size, setting.attention_hops
    inputs = [setting.embedding_size] + [2 * u] * (setting.num_layers - 1)
    total = 0
    for layer, size in enumerate(inputs):
        products = 3 if layer or setting.train_embedding else 2
        total += 2 * products * 2 * words * size * 4 * u  # both directions
        total += 2 * 3 * 2 * (words - setting.reviews) * u * 4 * u
    attention = words * (
        2 * u * setting.attention_units + setting.attention_units * hops
    )
    embedding = words * hops * 2 * u
    overlap = words * hops * hops
    units = setting.classifier_units
    classifier = setting.reviews * (hops * 2 * u * units + units * 5)
    return total + 3 * 2 * (attention + embedding + overlap + classifier)
