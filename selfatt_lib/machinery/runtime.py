"""MXNet 1.9.1, imported; threads and devices chosen, random generators seeded.

This is the library's only place that imports it:

>>> from selfatt_lib.machinery.runtime import mx, nlp
"""

import atexit
import ctypes
import os
import random
import threading
import warnings
from contextlib import suppress

import numpy as np

from selfatt_lib.machinery import cuda
from selfatt_lib.machinery.compat import THREADS, WHEEL
from selfatt_lib.machinery.devices import usable
from selfatt_lib.machinery.threads import at_fork

try:
    import mxnet as mx
except OSError as error:
    raise ImportError(
        f"libmxnet.so of {WHEEL} does not load: {error}. `python -m selfatt_lib "
        "doctor` lists what it found"
    ) from error
import gluonnlp as nlp  # noqa: F401

# with fewer units, another thread costs MXNet's operators more than it brings
HIDDEN_SIZE_WORTH_ALL_CORES = 200

# Held by the thread that has MXNet compute. Only one thread may make the first call of
# a hybridized model, and no process may be forked meanwhile.
mxnet_lock = threading.RLock()


@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
def _set_threads(_, threads):
    mx.base._LIB.MXSetNumOMPThreads(threads)


def choose_threads(hidden_size=0):
    """Have MXNet's operators use all cores for a model of many units, else half.

    Half is MXNet's own default. OMP_NUM_THREADS, where it is set, decides for both.
    """
    global _chosen
    large = hidden_size >= HIDDEN_SIZE_WORTH_ALL_CORES
    share = 1 if large or "OMP_NUM_THREADS" in os.environ else 2
    _chosen = max(1, THREADS // share)
    _tell_engine()


def _tell_engine():
    # OpenMP keeps the number apart for each thread that starts others. Here that is
    # the engine's, which runs our function there.
    device = (ctypes.c_int32 * 2)(mx.cpu().device_typeid, 0)
    no_arrays = (None, 0, None, 0)
    rest = ctypes.c_void_p(_chosen), None, device, *no_arrays, None, 0, None
    with mxnet_lock:
        mx.base.check_call(mx.base._LIB.MXEnginePushSyncND(_set_threads, *rest))


def _before_fork():
    """Wait until no thread computes, and end MXNet's threads.

    fork() would end them too, but with the GIL held, and those of them that run our
    functions wait for the GIL.
    """
    mxnet_lock.acquire()
    try:
        mx.nd.waitall()
    finally:
        mx.base._LIB._ZN5mxnet22pthread_atfork_prepareEv()  # as fork() does


def _after_fork():
    _tell_engine()  # its threads are new
    _after_fork_in_child()


def _after_fork_in_child():
    # MXNet's operators have one thread there
    with suppress(RuntimeError):  # registered while a fork was under way
        mxnet_lock.release()


atexit.register(mx.nd.waitall)  # its threads may call Python, which is there till then
choose_threads()
at_fork(
    before=_before_fork,
    after_in_parent=_after_fork,
    after_in_child=_after_fork_in_child,
)


def choose_devices(name="auto"):
    """Return the names of the devices that MXNet is to compute on.

    A GPU counts only if a kernel ran on it: MXNet 1.9.1 sees GPUs that are newer than
    its machine code.

    Parameters
    ----------
    name : {"auto", "cpu", "gpu", "gpu:0", "gpu:1", "gpu:0,gpu:1", ...}, default "auto"
        "auto" takes the first GPU that works, else the CPU, and warns if there is a GPU
        and none works; "gpu" means "gpu:0". Several GPUs share the work.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        The name is none of the above, or names a GPU twice.
    RuntimeError
        A GPU was asked for by name and cannot be used.
    """
    if name == "auto":
        return [_first_gpu_that_works() or "cpu"]
    return usable(name, _problem)


def _problem(device):
    kind, _, number = device.partition(":")
    return _gpu_problem(int(number)) if kind == "gpu" else None


def context(device):
    """Return MXNet's own object for the name of a device: mxnet.Context."""
    kind, _, number = device.partition(":")
    return mx.Context(kind, int(number or 0))


def _first_gpu_that_works():
    driver = cuda.driver() if WHEEL == "mxnet-cu112" else None
    if driver is None:
        return None
    problems = [] if driver.error in (None, cuda.NO_DEVICE) else [driver.problem()]
    for number in range(len(driver.gpus)):
        problem = _gpu_problem(number)
        if not problem:
            return f"gpu:{number}"
        problems.append(problem)
    if problems:
        warnings.warn(f"computing on the CPU: {problems[0]}", stacklevel=3)
    return None


def _gpu_problem(number):
    """Return why a GPU cannot be used, in one sentence, or None."""
    driver = cuda.driver()
    if driver is None:
        return "there is no NVIDIA driver (no libcuda.so.1)"
    if problem := driver.problem(number):
        return problem
    if WHEEL != "mxnet-cu112":
        return (
            "the installed MXNet is the CPU wheel. For the GPU wheel: make setup "
            "DEVICE=gpu (or: pip uninstall -y mxnet; python -m "
            "selfatt_lib.machinery.install; then restart the kernel)"
        )
    try:
        (mx.nd.ones(1, ctx=mx.gpu(number)) + 1).asscalar()
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        return (
            f"no computation ran on the {driver.gpus[number]}. Is it full, or held by "
            f"another process? nvidia-smi tells. MXNet says: {reason}"
        )
    return None


def seed_everything(seed):
    """Seed Python's, NumPy's and MXNet's random generators (on every device).

    Parameters
    ----------
    seed : int
        From 0 to 2**31 - 1.
    """
    random.seed(seed)
    np.random.seed(seed)
    mx.random.seed(seed)
