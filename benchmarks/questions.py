"""The questions: what is timed, how often, and who the peer is.

Each function answers one and returns rows of `report`. With ``quick`` it does so in
seconds, from too few runs to rely on.
"""

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import settings
from benchmarks.harness import WITH_TORCH, Side, interleave, run_afresh
from benchmarks.report import compare, row

PRODUCT = 3000  # rows and columns of NumPy's matrices
SAME_LOSS = 1e-3  # relative
SAME_PROBABILITIES = 1e-4


def pipeline(quick=False):
    """From raw texts to batches: reviews a second.

    Ours is `tokenize_all`, `build_vocab` and `Batches`, iterated once. The peer is the
    tutorial's way: spaCy over whole texts in a process a core, lists of lists, a
    `DataLoader`. Each run is a new process with empty caches; reading the texts and
    importing the libraries are not counted. Both must come out with the same reviews
    and the same number of tokens.
    """
    count, repetitions = (2_000, 1) if quick else (20_000, 5)
    seen = []

    def run(side):
        found, seconds = run_afresh(f"benchmarks.{side}:Pipeline", path, count)
        seen.append(found)
        return seconds

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "reviews.jsonl"))
        with Side("benchmarks.reviews:Reviews") as reviews:
            reviews.call("write", path, count)
        works = {side: partial(run, side) for side in ("ours", "tutorial")}
        runs = interleave(works, repetitions, "pipeline", warm_up=0)
    if any(found != seen[0] for found in seen):
        raise RuntimeError(f"the sides read other reviews or tokens: {seen}")
    name = f"{count:,} texts to batches"
    return compare("pipeline", name, "reviews/s", runs, lambda s: count / s)


def step(quick=False):
    """A training step: reviews a second, and how near the processor's limit.

    The peers are the tutorial's model and loop (`gluon.rnn.LSTM`, no mask, the loss
    read at every step) and the same model in PyTorch, each with the threads that it
    chooses, on the same batch of reviews that are all as long: nothing is padded.
    First, at a small size and without dropout, all start from the same weights, and the
    losses of ten steps must agree. The limit is what NumPy reaches at a product of
    large matrices, which takes its turn among the steps.
    """
    repetitions = 3 if quick else 15
    names = {"ours": "ours", "tutorial": "tutorial"}
    names |= {"PyTorch": "pytorch"} if WITH_TORCH else {}
    rows = []
    with ExitStack() as stack:
        sides = {
            side: stack.enter_context(Side(f"benchmarks.{module}:TrainingStep"))
            for side, module in names.items()
        }
        numpy = stack.enter_context(Side("benchmarks.questions:MatrixProduct"))
        for name, setting, steps in (
            ("tutorial's setting", settings.tutorial(), 1),
            ("quick", settings.quick(), 10),
        ):
            check_losses(name, sides, setting.small())
            for side in sides.values():
                side.call("build", setting)
            works = {
                key: partial(side.time, "run", steps) for key, side in sides.items()
            }
            works["NumPy"] = partial(numpy.time, "run")
            runs = interleave(works, repetitions, f"step, {name}", warm_up=2)
            product, ours = runs.pop("NumPy"), runs["ours"]
            name, reviews = f"training step, {name}", steps * setting.reviews
            rows += compare("step", name, "reviews/s", runs, lambda s, n=reviews: n / s)
            limit = 2 * PRODUCT**3 / product.median
            share = 100 * steps * setting.operations() / ours.median / limit
            name += f": of {limit / 1e9:,.0f} GFLOP/s"
            spread = max(ours.spread, product.spread)
            rows.append(row("step", name, "%", share, spread=spread))
    return rows


def check_losses(name, sides, setting, steps=10):
    """Raise RuntimeError unless from the same weights all losses fall the same way."""
    losses = {}
    for key, side in sides.items():
        side.call("build", setting)
        losses[key] = side.call("run", steps)
    ours = losses["ours"]
    for key, theirs in losses.items():
        if not np.allclose(theirs, ours, rtol=SAME_LOSS, atol=0):
            raise RuntimeError(
                f"{name}: the sides do not do the same work. "
                f"Losses of ours: {ours}; of {key}: {theirs}"
            )
    print(
        f"{name}: in {steps} steps the loss falls from {ours[0]:.3f} to {ours[-1]:.3f}, "
        f"the same way on all sides ({', '.join(losses)})"
    )


class MatrixProduct:
    """What costs a step most, at the best rate that NumPy reaches on all cores."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.a, self.b = rng.random((2, PRODUCT, PRODUCT), dtype=np.float32)

    def run(self):
        self.a @ self.b


def epoch(quick=False):
    """An epoch of the default setting, by `train`: batches, steps, bar. No peer."""
    with Side("benchmarks.ours:Epoch") as side:
        works = {"ours": partial(side.call, "seconds")}
        runs = interleave(works, 2 if quick else 7, "epoch")
    return compare("epoch", "epoch of quick", "s", runs, lambda s: s)


def inference(quick=False):
    """Prediction: reviews a second in batches, and milliseconds for a single one.

    Ours is `Classifier.predict` at the default sizes, with random weights. The peer is
    the same model with the same weights in PyTorch, behind our tokenizer: texts in;
    probabilities, tokens and attention out. Its batches are sorted by length and
    packed, without which its backward LSTM would start in the padding. Both must give
    the same probabilities. The reviews are those of the default data set, and have been
    seen before: the tokenizer remembers their words.
    """
    count, repetitions = (500, 3) if quick else (4_000, 9)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        place = str(Path(folder, "run")), count
        ours = stack.enter_context(Side("benchmarks.ours:Inference", *place))
        sides, expected = {"ours": ours}, ours.call("probabilities")
        if WITH_TORCH:  # the run is there now, and its vocabulary
            peer = stack.enter_context(Side("benchmarks.pytorch:Inference", *place))
            difference = np.abs(peer.call("probabilities") - expected).max()
            if difference > SAME_PROBABILITIES:
                raise RuntimeError(
                    f"the probabilities of PyTorch differ from ours by {difference}"
                )
            sides["PyTorch"] = peer
        works = {key: partial(side.time, "run") for key, side in sides.items()}
        batches = interleave(works, repetitions, "prediction in batches")
        works = {key: partial(side.call, "single") for key, side in sides.items()}
        singles = interleave(works, repetitions, "prediction of one review")
    rows = compare(
        "inference", "prediction in batches", "reviews/s", batches, lambda s: count / s
    )
    name = "prediction of one review"
    return rows + compare("inference", name, "ms", singles, lambda s: 1000 * s)


def memory(quick=False):
    """Memory and time for many reviews, from JSON lines to batches. No peer.

    Reviews as long as the tutorial's are written to a temporary file; a new process
    with empty caches reads, splits, tokenizes, numbers and batches them, by `prepare`,
    and goes through the batches once. Counted are the seconds and the most memory that
    the process had at any time. Run once for each size.
    """
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Side("benchmarks.reviews:Reviews") as reviews,
    ):
        path = str(Path(folder, "reviews.jsonl"))
        for size in (5_000, 20_000) if quick else (250_000, 1_000_000):
            reviews.call("write", path, size)
            peak, seconds = run_afresh("benchmarks.ours:FromFile", path)
            name = f"{size:,} reviews"
            rows += [
                row("memory", f"{name}, file to batches", "s", seconds),
                row("memory", f"{name}, peak memory", "MB", peak / 1e6),
            ]
    return rows
