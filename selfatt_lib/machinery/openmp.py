"""Processes that are forked while PyTorch computes; imported after PyTorch."""

import threading

from threadpoolctl import ThreadpoolController

from selfatt_lib.machinery.threads import at_fork, hold_at_fork, num_threads

# A thread that computes holds one, a fork all. Of the processes that were forked while
# others computed, one in six waited for ever at oneDNN's cache, which was locked by a
# thread of the parent's. With one lock for all, predictions took 1.6 times as long.
_locks = [threading.RLock() for _ in range(num_threads())]
for _lock in _locks:
    hold_at_fork(_lock)


def no_fork_here():
    """Return the lock that lets no process be forked while this thread computes."""
    return _locks[threading.get_native_id() % len(_locks)]


def _end_threads():
    """End the threads that compute for this one; it starts others when it needs them.

    A forked process has none of them, but GNU OpenMP waits for them there, for ever.
    """
    for library in _gnu_openmp:
        library.dynlib.omp_pause_resource_all(2)  # for good


_gnu_openmp = ThreadpoolController().select(prefix="libgomp").lib_controllers
at_fork(before=_end_threads)
