"""Memory and time for many reviews, from JSON lines to batches.

Reviews as long as the tutorial's are written to a temporary file; a new process with empty caches reads, splits, tokenizes, numbers and batches
them, by `prepare`, and goes through the batches once. Counted are the bytes that a token of the corpus takes, the seconds, and the most
memory that the process had at any time. Run once for each size. No peer.
"""

import tempfile
from pathlib import Path

from benchmarks.harness import Worker, in_fresh_process, interleave
from benchmarks.report import row

SIZES = (250_000, 500_000, 1_000_000)
QUICK_SIZES = (5_000, 20_000)


def measure(quick=False, sizes=None):
    sizes = sizes or (QUICK_SIZES if quick else SIZES)
    found = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        Worker("benchmarks.reviews:Reviews") as reviews,
    ):

        def run(size):
            path = str(Path(folder, "reviews.jsonl"))
            reviews.call("write", path=path, count=size)

            def keep(result):
                found[size] = result

            return in_fresh_process("benchmarks.ours:FromFile", keep, path=path)()

        works = {size: lambda size=size: run(size) for size in sizes}
        runs = interleave(works, 1, "memory", warm_up=0)
    rows = []
    for size in sizes:
        name, result = f"{size:,} reviews", found[size]
        rows += [
            row("memory", f"{name}, file to batches", "s", runs[size].median),
            row("memory", f"{name}, peak memory", "MB", result["peak"] / 1e6),
        ]
    rows.append(row("memory", "corpus", "bytes a token", result["bytes_a_token"]))
    return rows
