"""Engines: what computes the steps of training, and predicts in large.

An engine is a module, `mxnet` or `pytorch`, with these things in it.

``Engine(config, vectors, num_classes, class_weights=None, devices=None)`` is a model in
training. A batch is ``(tokens (B, T), valid_length (B,), labels (B,))`` in arrays of
NumPy, labels from 0 to C - 1; weights and states are dicts of NumPy arrays, the weights
named as in `reference`.

- ``step(batch)`` moves the weights once, ``evaluate(batch)`` does not. Both return a
  handle at once; its ``read()`` waits, and gives loss (B,) and logits (B, C).
- ``replay(batch)`` draws the random numbers that a step on the batch draws.
- ``seed(seed)``, ``set_learning_rate(rate)``
- ``weights()``, ``load_weights(weights)``; ``state()``, ``load_state(state)``: the
  weights as ``weight:NAME``, Adam's moments as ``mean:NAME`` and ``variance:NAME`` of
  those that are trained, and ``step``, their number. So one engine goes on where the
  other stopped.
- ``devices``: list of str, what it computes on: "cpu", "gpu:0", "mps".

Where the memory does not suffice, it raises MemoryError.

``predictor(settings, weights, device)`` returns a function from ``(tokens,
valid_length)`` to logits (B, C) and attention (B, r, T). ``choose_devices(name)``
returns the devices that a name stands for, ``NAME`` and ``VERSION`` are the library's.
"""

import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import version
from types import ModuleType

import numpy as np

from selfatt_lib.config import check_engine
from selfatt_lib.machinery import cuda
from selfatt_lib.machinery.threads import importing

LIBRARIES = {"mxnet": "mxnet", "pytorch": "torch"}  # engine → what it imports
MOMENTS = ("mean", "variance")


@dataclass(frozen=True)
class Chosen:
    """An engine, and what it is to compute on; as text "MXNet 1.9.1 on cpu"."""

    module: ModuleType
    devices: list

    @property
    def library(self):
        """What computes, "MXNet 1.9.1": str."""
        return f"{self.module.NAME} {self.module.VERSION}"

    def __str__(self):
        return f"{self.library} on {', '.join(self.devices)}"


def choose(engine="auto", device="auto", precision="float32"):
    """Choose what a run computes with, and on what.

    Parameters
    ----------
    engine : {"auto", "mxnet", "pytorch"}, default "auto"
        "auto" takes MXNet where it is installed and loads; PyTorch where it is not,
        where MXNet cannot use the GPU that is there, and for what only PyTorch has.
    device : str, default "auto"
        "cpu"; "gpu" or "gpu:N", an NVIDIA GPU ("cuda" is taken for "gpu"); several that
        share the work, "gpu:0,gpu:1"; "mps", Apple's, with PyTorch. "auto" takes the
        first NVIDIA GPU that works, else the CPU.
    precision : {"float32", "bfloat16"}, default "float32"
        "bfloat16" is for PyTorch on an NVIDIA GPU: the products of the attention and
        the classifier are computed with 8 bits of precision, the weights are kept in
        float32. With either, cuDNN rounds the factors of the LSTM's products to TF32,
        11 bits, from Ampere on.

    Returns
    -------
    Chosen

    Raises
    ------
    ValueError
        A name is unknown, or two do not go together.
    ImportError
        The library that is needed is not installed, or does not load.
    RuntimeError
        A device was asked for by name and cannot be used, or lacks the precision.
    """
    check_engine(engine, device, precision)
    needed = engine
    if device == "mps" or precision == "bfloat16":
        needed = "pytorch"
    elif engine == "auto":
        needed = _choose_engine(device)
    if needed not in installed():
        raise ImportError(
            f"engine={engine!r} with device={device!r} and precision={precision!r} "
            f"needs {LIBRARIES[needed]}, which is not installed here. Install it (make "
            f"setup ENGINE={needed}), or leave them at 'auto', 'auto' and 'float32'."
        )
    module = _load(needed)
    devices = module.choose_devices(device)
    if precision != "float32":
        module.check_precision(precision, devices)
    return Chosen(module, devices)


def installed():
    """Return the engines whose library is installed, without importing it: list."""
    # on the path only: `machinery.hook` takes the question for an import
    specs = map(PathFinder.find_spec, LIBRARIES.values())
    # an empty folder, left of one that was removed, has no origin
    return [name for name, spec in zip(LIBRARIES, specs) if spec and spec.origin]


def _load(engine):
    if engine == "pytorch":
        # Its threads wait for each other by counting, on Linux to 300,000. With other
        # work on the machine that is most of what they do, and to sleep at once costs
        # more where there is none.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        with importing():
            return import_module(f"selfatt_lib.engines.{engine}")
    except OSError as error:
        raise ImportError(
            f"{LIBRARIES[engine]} does not load: {error}. `selfatt doctor` lists what "
            "is installed"
        ) from error


def _choose_engine(device):
    there = installed()
    if not there:
        raise ImportError(
            "neither MXNet nor PyTorch is installed here, and one is needed. Install "
            "one: make setup, or in an environment of your own: pip install torch"
        )
    if len(there) == 1:
        return there[0]
    try:
        if device != "cpu" and _mxnet_cannot_use_the_gpu():
            return "pytorch"
        _load("mxnet")
    except ImportError as error:
        warnings.warn(f"computing with PyTorch: {error}", stacklevel=3)
        return "pytorch"
    return "mxnet"


def _mxnet_cannot_use_the_gpu():
    """Tell whether there is a GPU that PyTorch may be able to use, and MXNet is not."""
    driver = cuda.driver()
    if driver is None or not driver.gpus or version("torch").endswith("+cpu"):
        return False
    return cuda.installed_wheel() != "mxnet-cu112" or all(
        driver.problem(number) for number in range(len(driver.gpus))
    )


def build(config, vectors, num_classes, class_weights=None, chosen=None):
    """Return the engine for a run, with weights drawn from its seed.

    `chosen` is what `choose` returned for the run's parameters.
    """
    chosen = chosen or choose(config.engine, config.device, config.precision)
    return chosen.module.Engine(
        config, vectors, num_classes, class_weights, chosen.devices
    )


def deal_out(batch, parts):
    """Return each device's share of a batch's reviews, from 0 to 1, and its arrays.

    A device that is left without a review gets one, with a share of 0.
    """
    owns = np.array_split(np.arange(len(batch[0])), parts)
    shares = [len(own) / len(batch[0]) for own in owns]
    owns = [own if len(own) else [0] for own in owns]
    return shares, [[array[own] for array in batch] for own in owns]


class Handle:
    """What becomes of a batch, left on the devices until it is asked for.

    `as_array` waits for an array of the engine's, and returns it as one of NumPy's.
    """

    def __init__(self, shares, outcomes, as_array):
        self.as_array = as_array
        self.outcomes = [
            (loss.detach(), logits.detach())
            for share, (loss, logits) in zip(shares, outcomes)
            if share
        ]

    def read(self):
        """Wait, and return loss (B,) and logits (B, C) as arrays of NumPy."""
        read = [[self.as_array(array) for array in each] for each in self.outcomes]
        return [np.concatenate(arrays) for arrays in zip(*read)]


NO_MEMORY = ("out of memory", "failed to allocate", "alloc_failed", "not enough memory")
NO_MEMORY += ("can't allocate memory", "invalid buffer size")


@contextmanager
def memory_errors(errors, devices):
    """Make a library's error a MemoryError where it speaks of memory."""
    try:
        yield
    except errors as error:
        if any(words in str(error).lower() for words in NO_MEMORY):
            named = ", ".join(devices)
            raise MemoryError(f"the memory of {named} does not suffice") from error
        raise


def check_state(state, weights, trained):
    """Raise ValueError unless a state has all of a model's arrays.

    `weights` is a dict of what has the shape of each weight, `trained` the names of
    those that Adam moves.
    """
    expected = {f"weight:{name}": weights[name].shape for name in weights}
    for part in MOMENTS:
        expected |= {f"{part}:{name}": weights[name].shape for name in trained}
    for name, shape in expected.items():
        found = state.get(name)
        if found is None or found.shape != tuple(shape) or found.dtype != np.float32:
            raise ValueError(
                f"the checkpoint is damaged: {name} is not float32 of the shape "
                f"{tuple(shape)}. Start the run anew with resume=False."
            )
