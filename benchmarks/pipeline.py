"""From raw texts to batches: reviews a second, and whether the time grows in proportion to the reviews.

Ours is `tokenize_all`, `build_vocab` and `Batches`, iterated once. The peer is the tutorial's way: spaCy over whole
texts in a process a core, lists of lists, a `DataLoader`. Each run is a new process with empty caches; reading the texts and importing the
libraries are not counted. Both must come out with the same reviews and the same number of tokens. The exponent of the growth may lie below 1:
ours reads each distinct word once, and of many texts all cores read.
"""

import tempfile
from math import log
from pathlib import Path

from benchmarks.harness import Worker, in_fresh_process, interleave
from benchmarks.report import rates, row

REPETITIONS = 5


def measure(quick=False):
    count, sizes = 20_000, [20_000, 50_000, 100_000, 200_000]
    repetitions = REPETITIONS
    if quick:
        count, sizes, repetitions = 2_000, [2_000, 8_000], 1
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "reviews.jsonl"))
        with Worker("benchmarks.reviews:Reviews") as reviews:
            reviews.call("write", path=path, count=max(count, *sizes))
        seen = []
        runs = interleave(
            {
                side: in_fresh_process(
                    f"benchmarks.{module}:Pipeline", seen.append, path=path, count=count
                )
                for side, module in (("ours", "ours"), ("tutorial", "tutorial"))
            },
            repetitions,
            "pipeline",
            warm_up=0,
        )
        if any(found != seen[0] for found in seen):
            raise RuntimeError(f"the sides read other reviews or tokens: {seen}")
        growth = interleave(
            {
                size: in_fresh_process(
                    "benchmarks.ours:Pipeline", path=path, count=size
                )
                for size in sizes
            },
            min(repetitions, 3),
            "pipeline, growth",
            warm_up=0,
        )
    rows = rates("pipeline", f"{count:,} texts to batches", runs, count)
    for size, times in growth.items():
        name = f"growth, {size:,} texts"
        rows.append(row("pipeline", name, "s", times.median, spread=times.spread))
    more = log(growth[sizes[-1]].median / growth[sizes[0]].median)
    exponent = more / log(sizes[-1] / sizes[0])
    name = f"growth, {sizes[0]:,} to {sizes[-1]:,} texts"
    rows.append(row("pipeline", name, "exponent; 1 is linear", exponent))
    return rows
