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
from benchmarks.harness import Side, interleave, run_afresh
from benchmarks.report import compare, row
from selfatt_lib import engines

INSTALLED = engines.installed()
# our engines; "ours" is the one that is chosen by itself
OURS = dict(zip(("ours", "ours in PyTorch"), INSTALLED))
PEERS = {"tutorial": "mxnet", "PyTorch": "pytorch"}  # and what each needs
PRODUCT = 3000  # rows and columns of NumPy's matrices
SAME_LOSS = 1e-3  # relative


def peers(stack, names, what, *arguments):
    """Start those of these peers that can run here: dict of `Side`."""
    return {
        name: stack.enter_context(Side(f"benchmarks.{name.lower()}:{what}", *arguments))
        for name in names
        if PEERS[name] in INSTALLED
    }


def in_pairs(question, name, unit, runs, count):
    """Return the rows of "ours", and those of our other engine beside PyTorch."""
    twin = {"ours": runs.pop("ours in PyTorch", None), "PyTorch": runs.get("PyTorch")}
    rows = compare(question, name, unit, runs, count)
    if twin["ours"]:
        rows += compare(question, f"{name}, our PyTorch", unit, twin, count)
    return rows


def timed(sides, method, *arguments):
    """Return a function for each side that times this call of it."""
    return {key: partial(side.time, method, *arguments) for key, side in sides.items()}


def check(what, found, relative=0.0, absolute=0.0):
    """Raise RuntimeError unless all sides found the same as ours."""
    for key, theirs in found.items():
        if not np.allclose(theirs, found["ours"], relative, absolute):
            raise RuntimeError(
                f"{what}: the sides do not do the same work. "
                f"Ours: {found['ours']}; {key}: {theirs}"
            )


def pipeline(quick=False):
    """From raw texts to batches: reviews a second.

    Ours is `tokenize_all`, `build_vocab` and `Batches`, iterated once. The peer is the
    tutorial's way: spaCy over whole texts in a process a core, lists of lists, a
    `DataLoader`. Each run is a new process with empty caches; reading the texts and
    importing the libraries are not counted. Both must come out with the same reviews
    and the same number of tokens.
    """
    count, repetitions = (2_000, 1) if quick else (20_000, 5)
    found = {}

    def run(side):
        target = f"benchmarks.{side}:Pipeline"
        found[side], seconds = run_afresh(target, path, count)
        return seconds

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "reviews.jsonl"))
        with Side("benchmarks.reviews:Reviews") as reviews:
            reviews.call("write", path, count)
        sides = ["ours", *["tutorial"] * ("mxnet" in INSTALLED)]
        works = {side: partial(run, side) for side in sides}
        runs = interleave(works, repetitions, "pipeline", warm_up=0)
    check("reviews and tokens", found)
    name = f"{count:,} texts to batches"
    return compare("pipeline", name, "reviews/s", runs, count)


def step(quick=False):
    """A training step: reviews a second, and how near the processor's limit.

    The peers are the tutorial's model and loop (`gluon.rnn.LSTM`, no mask, the loss
    read at every step) and the same model in PyTorch, each with the threads that it
    chooses, on the same batch of reviews that are all as long: nothing is padded.
    First, at a small size and without dropout, all start from the same weights, and the
    losses of ten steps must agree. Where both engines are installed, the one on PyTorch
    has rows of its own, beside PyTorch. The limit is what NumPy reaches at a product of
    large matrices, which takes its turn among the steps.
    """
    rows = []
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(Side("benchmarks.ours:TrainingStep", engine))
            for name, engine in OURS.items()
        }
        sides |= peers(stack, PEERS, "TrainingStep")
        numpy = stack.enter_context(Side("benchmarks.questions:MatrixProduct"))
        for name, setting, steps in (
            ("tutorial's setting", settings.tutorial(), 1),
            ("quick", settings.quick(), 10),
        ):
            name = f"training step, {name}"
            for side in sides.values():
                side.call("build", setting.small())
            losses = {key: side.call("run", 10) for key, side in sides.items()}
            check(f"losses, {name}", losses, relative=SAME_LOSS)
            for side in sides.values():
                side.call("build", setting)
            works = timed(sides, "run", steps) | {"NumPy": partial(numpy.time, "run")}
            runs = interleave(works, 3 if quick else 15, name, warm_up=2)
            product, ours = runs.pop("NumPy"), runs["ours"]
            rows += in_pairs("step", name, "reviews/s", runs, steps * setting.reviews)
            limit = 2 * PRODUCT**3 / product.median
            share = 100 * steps * setting.operations() / ours.median / limit
            name += f": of {limit / 1e9:,.0f} GFLOP/s"
            spread = max(ours.spread, product.spread)
            rows.append(row("step", name, "%", share, spread=spread))
    return rows


class MatrixProduct:
    """What costs a step most, at the best rate that NumPy reaches on all cores."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.a, self.b = rng.random((2, PRODUCT, PRODUCT), dtype=np.float32)

    def run(self):
        self.a @ self.b


def epoch(quick=False):
    """An epoch of the default setting, by `train`: batches, steps, bar. No peer."""
    with ExitStack() as stack:
        works = {}
        for name, engine in OURS.items():
            side = stack.enter_context(Side("benchmarks.ours:Epoch", engine))
            works[name] = partial(side.call, "seconds")
        runs = interleave(works, 2 if quick else 7, "epoch")
    return [
        each
        for name, times in runs.items()
        for each in compare("epoch", f"epoch of quick, {name}", "s", {"ours": times})
    ]


def inference(quick=False):
    """Prediction: reviews a second of many, and milliseconds for a single one.

    Ours is `Classifier.predict` at the default sizes, with random weights: in NumPy,
    and by the engine where there are more than 10,000 texts. The peer is the same model
    with the same weights in PyTorch, behind our tokenizer: texts in; probabilities,
    tokens and attention out. Its batches are sorted by length and packed, without which
    its backward LSTM would start in the padding. Both must give the same probabilities.
    The reviews are those of the default data set, and have been seen before: the
    tokenizer remembers their words.
    """
    counts, repetitions = ((500, 10_500), 3) if quick else ((4_000, 12_000), 9)
    rows = []
    with ExitStack() as stack:
        ours = stack.enter_context(Side("benchmarks.ours:Inference", max(counts)))
        sides = {"ours": ours} | peers(stack, ["PyTorch"], "Inference", max(counts))
        for count in counts:
            name = f"prediction of {count:,} reviews"
            found = {key: side.call("run", count) for key, side in sides.items()}
            check(f"probabilities, {name}", found, absolute=1e-4)
            runs = interleave(timed(sides, "run", count), repetitions, name)
            rows += compare("inference", name, "reviews/s", runs, count)
        name = "prediction of one review"
        works = {key: partial(side.call, "single") for key, side in sides.items()}
        runs = interleave(works, repetitions, name)
    return rows + compare("inference", name, "ms", runs)


def memory(quick=False):
    """Memory and time for many reviews, from JSON lines to batches. No peer.

    Reviews as long as the tutorial's are written to a temporary file; a new process
    with empty caches reads, splits, tokenizes, numbers and batches them, by `prepare`,
    and goes through the batches once. Counted are the seconds and the most memory that
    the process had at any time. Another process draws a sample of one in fifty. Each
    is run once for each size.
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
            count = size // 50
            _, seconds = run_afresh("benchmarks.ours:Sample", path, count)
            rows.append(row("memory", f"{name}, {count:,} of them", "s", seconds))
    return rows
