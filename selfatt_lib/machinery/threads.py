"""How many threads compute, and what they must not be forked in the middle of."""

import os
from concurrent.futures import ThreadPoolExecutor  # its lock is registered before ours
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


def in_threads(function, items):
    """Return a function's results in order: list. Of several, threads compute some."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(num_threads()) as threads:
        return list(threads.map(function, items))


def one_thread_for_blas():
    """Have BLAS, NumPy's and SciPy's, use one thread in each thread that calls it.

    Our products are so small that its others would only wait, and take a core to do so.
    """
    from threadpoolctl import ThreadpoolController

    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        if "mxnet" not in library.filepath:
            library.set_num_threads(1)
