"""A whole epoch of the default setting: what share of its time is not the training step, and what share of its places is padding.

MXNet computes while Python goes on, so the time around a call says nothing. Timed in turn, in one process, are an epoch of `train`, with the
batches made, the results kept and the bar moved; and the same calls of `training_step` on the same batches, all made before and followed by
nothing but the wait for the last. What the first takes longer is spent outside the step. No peer.
"""

from benchmarks.harness import Worker, interleave
from benchmarks.report import row


def measure(quick=False):
    with Worker("benchmarks.ours:Epoch") as worker:
        runs = interleave(
            {
                "epoch": lambda: worker.call("whole"),
                "steps": lambda: worker.call("steps"),
            },
            2 if quick else 7,
            "epoch",
        )
        padding = worker.call("padding")
    epoch, steps = runs["epoch"], runs["steps"]
    spread = max(epoch.spread, steps.spread)
    outside = 100 * (1 - steps.median / epoch.median)
    return [
        row("epoch", "epoch of quick", "s", epoch.median, spread=epoch.spread),
        row("epoch", "epoch outside the step", "%", outside, spread=spread),
        row("epoch", "epoch's padding", "% of places", 100 * padding),
    ]
