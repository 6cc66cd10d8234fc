"""Import MXNet 1.9.1 beside a current NumPy, choose the device, seed every random generator.

MXNet is retired and was written for NumPy 1.19. While it is imported, it looks up names on the `numpy` module that have since
been removed. This module puts back what is missing, nothing else, and is the only place that imports MXNet:

>>> from selfatt_lib.runtime import mx, nlp
"""

import random
import re

import numpy as np

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
            f"numpy.{name} was removed from NumPy; it exists here only because MXNet looks it up."
        )

    return stand_in


def _add_missing_numpy_names():
    names = {old: getattr(np, new, None) for old, new in _RENAMED.items()}
    names |= _CONSTANTS | {name: _removed(name) for name in _LOOKED_UP_ONLY}
    for name, value in names.items():
        if name not in vars(np):
            setattr(np, name, value)


_add_missing_numpy_names()

import gluonnlp as nlp  # noqa: F401
import mxnet as mx


def choose_device(name="auto"):
    """Return the MXNet device to compute on.

    A GPU counts only if a kernel ran on it: MXNet 1.9.1 sees GPUs that are newer than its machine code.

    Parameters
    ----------
    name : {"auto", "cpu", "gpu", "gpu:0", "gpu:1", ...}, default "auto"
        "auto" takes the first GPU if it works, else the CPU; "gpu" means "gpu:0".

    Returns
    -------
    mxnet.Context

    Raises
    ------
    ValueError
        The name is none of the above.
    RuntimeError
        A GPU was asked for by name and cannot be used.
    """
    gpu = re.fullmatch(r"gpu(?::(\d+))?", name) if isinstance(name, str) else None
    if name == "cpu" or (name == "auto" and not mx.context.num_gpus()):
        return mx.cpu()
    if not gpu and name != "auto":
        raise ValueError(
            f"device must be 'auto', 'cpu', 'gpu' or 'gpu:N' with a whole number N; got {name!r}"
        )
    device = mx.gpu(int(gpu.group(1) or 0) if gpu else 0)
    try:
        (mx.nd.ones(1, ctx=device) + 1).asscalar()
    except mx.MXNetError as error:
        if name == "auto":
            return mx.cpu()
        reason = str(error).strip().splitlines()[-1]
        raise RuntimeError(
            f"device={name!r} was asked for, but no computation ran on it. Use device='cpu' or 'auto'. MXNet says: {reason}"
        ) from None
    return device


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
