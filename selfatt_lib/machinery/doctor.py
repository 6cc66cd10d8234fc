"""What a bug report should say of the machine: ``selfatt doctor``.

It works where no engine can be imported, and says why.
"""

import os
import platform
import re
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from selfatt_lib.machinery import cuda

PACKAGES = "selfatt numpy pandas spacy scikit-learn gluonnlp mxnet mxnet-cu112 torch"
ABSENT = "not installed"


def diagnose(choose):
    """Look at the machine and at what is installed.

    Parameters
    ----------
    choose : function
        Returns what ``engine="auto"`` with ``device="auto"`` takes, as in "MXNet 1.9.1
        on cpu"; ImportError says why there is nothing to take.

    Returns
    -------
    report : list of (str, str)
        Name and finding, in the order to print them.
    works : bool
        Whether MXNet or PyTorch can be imported.
    """
    report = [
        ("Python", f"{platform.python_version()}, {sys.executable}"),
        ("system", f"{platform.platform()}, {platform.machine()}"),
    ]
    report += [(package, _version(package)) for package in PACKAGES.split()]
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    report.append(("threads", f"{os.cpu_count()} cores, OMP_NUM_THREADS {threads}"))
    report += _gpus(cuda.driver())
    chosen = _chosen(choose)  # as in training, before PyTorch is imported
    works = False
    for engine, packages, inspect in (
        ("MXNet", ("mxnet", "mxnet-cu112"), _mxnet),
        ("PyTorch", ("torch",), _pytorch),
    ):
        if all(_version(package) == ABSENT for package in packages):
            report.append((engine, ABSENT))
            continue
        try:
            report += inspect()
            works = True
        except Exception as error:  # a library that does not load may raise any
            report.append((engine, f"cannot be imported: {_in_a_line(error)}"))
    return [*report, *_libraries(), *chosen], works


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT


def _in_a_line(error):
    return " ".join(str(error).split())


def _gpus(driver):
    if driver is None:
        return [("driver", f"no NVIDIA driver (no {cuda.DRIVER})")]
    lines = [("driver", f"runs CUDA up to {'.'.join(map(str, driver.cuda))}")]
    if not driver.gpus:
        lines.append(("GPUs", driver.problem()))
    for number, gpu in enumerate(driver.gpus):
        verdict = ""
        if _version("mxnet-cu112") != ABSENT:
            verdict = f", {driver.problem(number) or 'MXNet has code for it'}"
        lines.append((f"gpu:{number}", f"{gpu}{verdict}"))
    return lines


def _chosen(choose):
    try:
        found, warned = _heard(choose)
    except Exception as error:
        return [("engine='auto'", _in_a_line(error))]
    engine, _, device = str(found).partition(" on ")
    return [("engine='auto'", engine), ("device='auto'", f"{device}{warned}")]


def _heard(function):
    """Return what a function returns, and in brackets what it warned of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        found = function()
    return found, "".join(f" ({_in_a_line(warning.message)})" for warning in said)


def _mxnet():
    from selfatt_lib.machinery.runtime import mx

    return [("MXNet", f"imported from {Path(mx.__file__).parent}")]


def _libraries():
    """Return where MXNet's libraries of CUDA were loaded from, or would be."""
    if _version("mxnet-cu112") == ABSENT:
        return []
    compat = sys.modules.get("selfatt_lib.machinery.compat")
    loaded = compat.LIBRARIES if compat else {}
    return [
        (name, str(loaded.get(name) or cuda.find(name) or "not found"))
        for name in cuda.LIBRARIES
    ]


def _pytorch():
    import torch

    built = torch.version.cuda
    built = f"built with CUDA {built}" if built else "built without CUDA"
    lines = [("PyTorch", f"imported from {Path(torch.__file__).parent}, {built}")]
    available, warned = _heard(torch.cuda.is_available)
    lines.append(("PyTorch, CUDA", f"available: {available}{warned}"))
    compiled_for = torch.cuda.get_arch_list()
    for number in range(torch.cuda.device_count() if available else 0):
        gpu = torch.cuda.get_device_properties(number)
        gpu = cuda.GPU(gpu.name, (gpu.major, gpu.minor), gpu.total_memory)
        code = "code" if has_code(gpu.capability, compiled_for) else "no code"
        lines.append((f"PyTorch, gpu:{number}", f"{gpu}, PyTorch has {code} for it"))
    if torch.backends.mps.is_built():
        available = torch.backends.mps.is_available()
        lines.append(("PyTorch, mps", f"available: {available}"))
    return lines


def has_code(capability, architectures):
    """Tell whether a GPU runs any of what was compiled, as in ["sm_80", "compute_90"].

    Machine code, sm, for X.y does on X.z if z ≥ y. The driver translates PTX, compute,
    for every newer GPU.
    """
    found = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(architectures))
    for kind, *built in found:
        major, minor = map(int, built)
        same_kind = kind == "compute" or major == capability[0]
        if same_kind and (major, minor) <= capability:
            return True
    return False


def main(choose):
    """Print the report. Returns 1 if neither engine can be imported, else 0."""
    report, works = diagnose(choose)
    for name, finding in report:
        print(f"{name:<24}{finding}")
    return int(not works)
