"""How many threads compute, and what they must not be forked in the middle of."""

# its own lock must not be registered while no_fork is held
import concurrent.futures.thread  # noqa: F401
import os
from functools import cache
from threading import RLock

# Held while a module is imported that may be imported in a thread: a process forked
# meanwhile would wait for that import for ever.
no_fork = RLock()
os.register_at_fork(
    before=no_fork.acquire,
    after_in_parent=no_fork.release,
    after_in_child=no_fork.release,
)


@cache
def num_threads():
    """Return OMP_NUM_THREADS, or the number of cores that we may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    with no_fork:
        import joblib

    return joblib.cpu_count()
