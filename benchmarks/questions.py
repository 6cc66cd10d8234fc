"""The questions: what is timed, how often, and who the peer is.

Each function answers one and returns rows of `report`. With ``quick`` it does so in
seconds, from too few runs to rely on.
"""

import json
import os
import subprocess
import sys
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


def gpu(quick=False):
    """An epoch on a GPU: seconds, reviews a second, how near its limit.

    Ours is `train`, with PyTorch; the peer is the same model in a plain PyTorch loop
    (`DataLoader`, random batches, packed sequences, the loss read at every step). The
    reviews of the tutorial's setting and the paper's have the lengths of the tutorial's
    198,000; those of `quick` are its own. First, ten steps without dropout must have
    the same losses. The limit is what PyTorch reaches at a product of large matrices
    with TF32; what counts are the products for words, and none for padding.
    """
    try:
        engines.choose("pytorch", "gpu")
    except (ImportError, RuntimeError) as error:
        print(f"gpu: skipped. {error}")
        return []
    return on_device("gpu", (8192, 50), *((5_000, 1) if quick else (198_000, 3)))


def on_device(device, product, count, repetitions):
    """Return the rows of `gpu`; `product` says how large a product is, how often."""
    rows = []
    with ExitStack() as stack:
        sides = {
            "ours": Side("benchmarks.ours:TrainingStep", "pytorch", device),
            "PyTorch": Side("benchmarks.pytorch:TrainingStep", device),
        }
        for side in sides.values():
            stack.enter_context(side)
        path = str(Path(stack.enter_context(tempfile.TemporaryDirectory()), "r.jsonl"))
        with Side("benchmarks.reviews:Reviews") as reviews:
            reviews.call("write", path, count)
        size, times = product
        limit = Side("benchmarks.pytorch:MatrixProduct", device, size)
        stack.enter_context(limit)
        for name in ("tutorial", "quick", "paper"):
            given = {} if name == "quick" else settings.made_up(name, path)
            for side in sides.values():
                side.call("build", getattr(settings, name)().small())
            losses = {key: side.call("run", 10) for key, side in sides.items()}
            check(f"losses, {name}", losses, relative=SAME_LOSS)
            with (
                Side("benchmarks.ours:Epoch", "pytorch", device, given) as ours,
                Side("benchmarks.pytorch:Epoch", device, given) as plain,
            ):
                works = {
                    "ours": partial(ours.call, "seconds"),
                    "PyTorch": partial(plain.call, "seconds"),
                    "product": partial(limit.time, "run", times),
                }
                runs = interleave(works, repetitions, f"{device}, {name}")
                setting = ours.call("setting")
            products = runs.pop("product")
            name = f"epoch of {setting.reviews:,} reviews on {device}, {name}"
            rows += compare("gpu", name, "s", runs)
            rows += compare("gpu", name, "reviews/s", runs, setting.reviews)
            peak = times * 2 * size**3 / products.median
            share = 100 * setting.operations() / runs["ours"].median / peak
            name += f": of {peak / 1e12:.3g} TFLOP/s"
            rows.append(row("gpu", name, "%", share, spread=runs["ours"].spread))
    return rows


def processes(quick=False):
    """An epoch that processes with a thread each share, by torchrun. No peer.

    The efficiency is how many times faster so many are than one, of so many.
    """
    if "pytorch" not in INSTALLED:
        print("processes: skipped, since PyTorch is not installed")
        return []
    rows = []
    large = {"hidden_size": 300, "num_layers": 2, "train_size": 200 if quick else 1500}
    numbers = [n for n in (1, 2, 4, 8, 16) if n <= os.cpu_count()]
    for name, given in (("quick", {}), ("two layers of 300 units", large)):
        works = {n: partial(shared_epoch, n, given) for n in numbers}
        label = f"processes, {name}"
        runs = interleave(works, 1 if quick else 5, label, warm_up=0)
        for n, times in runs.items():
            each = f"epoch, {name}, {n} process{'es' * (n > 1)}"
            rows += compare("processes", each, "s", {"ours": times})
            if n > 1:
                share = 100 * runs[1].median / times.median / n
                each, spread = f"{each}: efficiency", max(runs[1].spread, times.spread)
                rows.append(row("processes", each, "%", share, spread=spread))
    return rows


def shared_epoch(number, given):
    """Return the seconds of an epoch that so many processes share."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        given = given | {"epochs": 2, "valid_size": 1, "test_size": 1, "tfidf": False}
        given |= {"device": "cpu", "run_dir": run}
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(number), "-m", "selfatt_lib", "train"]
        for name, value in given.items():
            command += ["-p", name, str(value)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{number} processes: {done.stderr}")
        *_, last = (run / "metrics.jsonl").read_text().splitlines()
    return json.loads(last)["seconds"]
