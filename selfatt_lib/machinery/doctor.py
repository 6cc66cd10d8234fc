"""What a bug report should say of the machine: ``selfatt doctor``.

It works where MXNet cannot be imported, and says why.
"""

import os
import platform
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from selfatt_lib.machinery import cuda

PACKAGES = "selfatt mxnet mxnet-cu112 gluonnlp numpy pandas spacy scikit-learn torch"


def diagnose():
    """Look at the machine and at what is installed.

    Returns
    -------
    report : list of (str, str)
        Name and finding, in the order to print them.
    problem : str or None
        Why MXNet cannot be imported.
    """
    report = [
        ("Python", f"{platform.python_version()}, {sys.executable}"),
        ("system", f"{platform.platform()}, {platform.machine()}"),
    ]
    for package in PACKAGES.split():
        try:
            report.append((package, version(package)))
        except PackageNotFoundError:
            report.append((package, "not installed"))
    report += _gpus(cuda.driver())
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    report.append(("threads", f"{os.cpu_count()} cores, OMP_NUM_THREADS {threads}"))
    try:
        from selfatt_lib.machinery import compat, runtime
    except Exception as error:
        if ("mxnet-cu112", "not installed") not in report:
            for name in cuda.LIBRARIES:
                report.append((name, str(cuda.find(name) or "not found")))
        return [*report, ("MXNet", "cannot be imported, see below")], str(error)
    report += [(name, str(path)) for name, path in compat.LIBRARIES.items()]
    report.append(("MXNet", f"imported from {Path(runtime.mx.__file__).parent}"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        device = ", ".join(map(str, runtime.choose_devices()))
    reasons = "".join(f" ({warning.message})" for warning in said)
    return [*report, ("device='auto'", f"{device}{reasons}")], None


def _gpus(driver):
    if driver is None:
        return [("driver", "no NVIDIA driver (no libcuda.so.1)")]
    lines = [("driver", f"runs CUDA up to {'.'.join(map(str, driver.cuda))}")]
    if not driver.gpus:
        lines.append(("GPUs", driver.problem()))
    for number, gpu in enumerate(driver.gpus):
        verdict = driver.problem(number) or "MXNet has code for it"
        lines.append((f"gpu:{number}", f"{gpu}, {verdict}"))
    return lines


def main():
    """Print the report. Returns 1 if MXNet cannot be imported, else 0."""
    report, problem = diagnose()
    for name, finding in report:
        print(f"{name:<24}{finding}")
    if problem:
        print(f"\n{problem}")
    return int(problem is not None)


if __name__ == "__main__":
    sys.exit(main())
