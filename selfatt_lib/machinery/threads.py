"""How many threads compute, and what they must not be forked in the middle of."""

import os
import time
from concurrent.futures import ThreadPoolExecutor  # its lock is registered before ours
from contextlib import contextmanager, suppress
from functools import cache
from threading import RLock


def at_fork(**calls):
    """Do what `os.register_at_fork` does, or nothing where no process can be forked."""
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(**calls)


def hold_at_fork(lock):
    """Have every fork hold a lock, so that no child finds it held by another thread."""

    def release():
        with suppress(RuntimeError):  # registered while a fork was under way
            lock.release()

    at_fork(before=lock.acquire, after_in_parent=release, after_in_child=release)


# Held while a module is imported that may be imported in a thread: a process forked
# meanwhile would wait for that import for ever.
no_fork = RLock()
_under_way = []  # forks, from their wish on


def _after_fork():
    _under_way.clear()


at_fork(after_in_parent=_after_fork, after_in_child=_after_fork)
hold_at_fork(no_fork)
at_fork(before=lambda: _under_way.append(1))  # runs before it waits


@contextmanager
def importing():
    """Let no process be forked in an import, and those that waited go first.

    Such a fork knows nothing of the locks that the imported module holds at forks.
    """
    with no_fork:
        yield
    while _under_way:
        time.sleep(0.001)


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
