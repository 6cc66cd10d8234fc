"""Let training stop, or anything else happen, at a place that a test chooses."""

import pytest

from conftest import ENGINE, fit


class Stopped(Exception):
    pass


def stop_after(prepared, batches):
    """Let training stop, as by a power cut, after so many batches."""
    original = prepared.train_batches
    seen = []

    class Stopping:
        lengths = original.lengths

        def __len__(self):
            return len(original)

        def shuffled(self, seed):
            for batch in original.shuffled(seed):
                if len(seen) == batches:
                    raise Stopped
                seen.append(1)
                yield batch

    prepared.train_batches = Stopping()
    with pytest.raises(Stopped):
        fit(prepared)


def at_step(number, act, monkeypatch):
    """Do something in the middle of a step; return the list of steps."""
    step, steps = ENGINE.Engine.step, []

    def acting_step(*args):
        steps.append(1)
        handle = step(*args)
        if len(steps) == number:
            act()
        return handle

    monkeypatch.setattr(ENGINE.Engine, "step", acting_step)
    return steps
