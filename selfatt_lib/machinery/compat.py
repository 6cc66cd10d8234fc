"""Make MXNet 1.9.1 importable beside a current NumPy: imported before it, once.

MXNet is retired and was written for NumPy 1.19. While it is imported, it looks up names
that `numpy` has no more; they are put back, and nothing else is changed. For the GPU
wheel, the libraries of CUDA 11 are loaded. Threads and memory are settled, as MXNet and
glibc want it at the start.
"""

import ctypes
import os

import numpy as np

from selfatt_lib.machinery import cuda
from selfatt_lib.machinery.threads import num_threads

# What `import mxnet` needs of NumPy 1.26 to 2.5, by the MXNet module that asks for it.
_RENAMED = {
    "bool": "bool_",  # numpy.utils, ndarray.ndarray
    "PINF": "inf",  # numpy.utils
    "NAN": "nan",  # numpy.utils
    "NaN": "nan",  # numpy.utils
    "Inf": "inf",  # gluon.contrib.estimator.event_handler
    "alltrue": "all",  # numpy.fallback
    "trapz": "trapezoid",  # numpy.fallback
    "sometrue": "any",  # numpy_dispatch_protocol
    "round_": "round",  # numpy_dispatch_protocol
    "product": "prod",  # numpy_dispatch_protocol
}
_CONSTANTS = {"NINF": -np.inf, "PZERO": 0.0, "NZERO": -0.0}  # numpy.utils
# numpy.fallback
_LOOKED_UP_ONLY = ("in1d", "msort", "mirr", "npv", "pmt", "ppmt", "pv", "rate")


def _removed(name):
    def stand_in(*_, **__):
        raise NotImplementedError(
            f"numpy.{name} was removed from NumPy; it exists here only because "
            "MXNet looks it up."
        )

    return stand_in


def _add_missing_numpy_names():
    names = {old: getattr(np, new, None) for old, new in _RENAMED.items()}
    names |= _CONSTANTS | {name: _removed(name) for name in _LOOKED_UP_ONLY}
    for name, value in names.items():
        if name not in vars(np):
            setattr(np, name, value)


# as in glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def _keep_freed_memory():
    """Let glibc keep freed blocks of up to 64 MiB, for any thread.

    Each batch asks for the same again, and the system gives slowly.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_MMAP_THRESHOLD, 2**26)
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)


THREADS = num_threads()
# MXNet's bound on what runtime.choose_threads can ask for
os.environ.setdefault("MXNET_OMP_MAX_THREADS", str(THREADS))
_keep_freed_memory()
WHEEL = cuda.installed_wheel()
LIBRARIES = cuda.load() if WHEEL == "mxnet-cu112" else {}  # name → where it came from
_add_missing_numpy_names()
