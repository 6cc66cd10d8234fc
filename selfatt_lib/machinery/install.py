"""Install what a hosted notebook, Colab's or Kaggle's, lacks; what is there stays.

A package that is there in any version is left alone, PyTorch among them. MXNet comes as
the wheel that the machine can use: for a GPU, with the libraries of CUDA 11, only where
one is that it has machine code for. Those libraries go into a folder of their own,
``cuda11`` beside the packages, since PyTorch's have files of the same names.

What comes in one version only is compared with its hash, from ``pinned.txt``. The rest
has to get along with what is there, in whatever version, and has none.
"""

import importlib
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distribution, distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from selfatt_lib.machinery import cuda, hook
from selfatt_lib.machinery.progress import tqdm

# made from the locks by tools/locked.py
PINNED = Path(__file__).with_name("pinned.txt")
LIBRARIES = {library: pin.split("==")[0] for library, pin in cuda.LIBRARIES.items()}
WHEELS = {"mxnet-gpu": "mxnet-cu112", "mxnet": "mxnet"}  # by the extra that has it
# what pip says of a download, and its units in MB
DOWNLOAD = re.compile(r"(?m)^ *Downloading \S+ \(([\d.]+) (bytes|kB|MB)\)")
MEGABYTES = {"bytes": 1e-6, "kB": 1e-3, "MB": 1}


def _installed():
    """Return name → version of every package, as Python imports it."""
    found = {}
    for package in distributions():
        if package.name:  # of several versions, the first is imported
            found.setdefault(canonicalize_name(package.name), package.version)
    return found


def _too_old(requirement):
    """Tell whether DuckDB 1 is there, which lacks what `forms` calls; 2 replaces it."""
    version = _installed().get(requirement.name)
    there = version is not None and requirement.name == "duckdb"
    return there and version not in requirement.specifier


def missing(extra):
    """Return the requirements that no package meets, those to be compiled last: list.

    `extra` is "mxnet", "mxnet-gpu" or "pytorch". A package of CUDA is missing only if
    one of its libraries is found nowhere.
    """
    lacking = {
        package for library, package in LIBRARIES.items() if not cuda.find(library)
    }
    there = _installed().keys() | (set(LIBRARIES.values()) - lacking)
    wanted = [
        requirement
        for requirement in map(Requirement, requires("selfatt"))
        if (canonicalize_name(requirement.name) not in there or _too_old(requirement))
        and (
            requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        )
    ]
    return sorted(wanted, key=_is_pinned)


def _is_pinned(requirement):
    return str(requirement.specifier).startswith("==")


def _mxnet():
    """Return the extra with the MXNet that fits, and why; one that is there stays."""
    for extra, wheel in WHEELS.items():
        if wheel in _installed():
            return extra, f"{wheel} is installed"
    driver = cuda.driver()
    if driver is None:
        return "mxnet", "there is no NVIDIA driver"
    for number, gpu in enumerate(driver.gpus):
        if not driver.problem(number):
            return "mxnet-gpu", str(gpu)
    return "mxnet", driver.problem()


def _pytorch():
    """Return in words which PyTorch it is; one that is there stays."""
    if "torch" not in _installed():
        return "PyTorch, the newest that fits: none is installed"
    version, _, build = _installed()["torch"].partition("+")
    made_for = ""
    if build.startswith("cu"):  # "cu126"
        made_for = f", with CUDA {build[2:-1]}.{build[-1]}"
    elif build == "cpu":
        made_for = ", for the CPU only"
    return f"PyTorch {version} is installed{made_for}"


def install(engine="mxnet"):
    """Install what is missing for an engine. No restart is needed.

    Parameters
    ----------
    engine : {"mxnet", "pytorch"}, default "mxnet"
        MXNet that this machine can use, or the PyTorch that it has; where it has none,
        the one that pip chooses.

    Raises
    ------
    RuntimeError
        pip failed. The message ends with what it said.
    ValueError
        There is no such engine.
    """
    if engine == "mxnet":
        extra, reason = _mxnet()
        device = "GPU" if extra == "mxnet-gpu" else "CPU"
        print(f"MXNet for the {device} ({WHEELS[extra]}): {reason}", flush=True)
    elif engine == "pytorch":
        extra = "pytorch"
        print(_pytorch(), flush=True)
    else:
        raise ValueError(f"engine must be 'mxnet' or 'pytorch'; got {engine!r}")
    started = time.monotonic()
    number, size = _fetch(missing(extra))
    importlib.invalidate_caches()
    if engine == "mxnet":
        write_hook()
    seconds = time.monotonic() - started
    print(f"packages installed: {number} ({size:,.0f} MB downloaded, {seconds:.0f} s)")


def _fetch(requirements):
    """Install them, and what they need; return how many packages came, how many MB."""
    folder = Path(cuda.__file__).parents[2] / "cuda11"
    said = ""
    with (
        tempfile.TemporaryDirectory() as temporary,
        tqdm(requirements, "installing", unit=" packages") as bar,
    ):
        as_it_is = Path(temporary, "constraints.txt")
        asked = {requirement.name for requirement in requirements}
        kept = [each for each in _installed().items() if each[0] not in asked]
        lines = [f"{name}=={version}\n" for name, version in kept]
        as_it_is.write_text("".join(lines))
        for requirement in bar:
            bar.set_postfix_str(requirement.name)
            if requirement.name in LIBRARIES.values():
                target = str(folder / requirement.name)
                said += _pip(requirement, "--no-deps", "--upgrade", "--target", target)
            elif _is_pinned(requirement):
                # its own bounds are out of date
                said += _pip(requirement, "--no-deps", "--no-build-isolation")
            else:
                said += _pip(requirement, "--constraint", str(as_it_is))
    lists = re.findall(r"(?m)^Successfully installed (.+)", said)
    sizes = [float(size) * MEGABYTES[unit] for size, unit in DOWNLOAD.findall(said)]
    return sum(len(each.split()) for each in lists), sum(sizes)


def write_hook():
    """Let a plain ``import mxnet`` work in this environment, by a file beside MXNet."""
    folder = distribution(cuda.installed_wheel()).locate_file("")
    Path(folder, "selfatt.pth").write_text(hook.PTH)


def _pip(requirement, *options):
    """Install one requirement, with what it needs; return what pip said."""
    wanted = f"{requirement.name}{requirement.specifier}"
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as temporary:
        if _is_pinned(requirement):
            # pip takes hashes from a file only, and refuses what has none there
            file = Path(temporary, "requirements.txt")
            entries = re.split(r"\n(?=\S)", PINNED.read_text())
            known = {entry.split()[0]: entry for entry in entries}
            file.write_text(known.get(wanted, wanted))
            what = ["--require-hashes", "--requirement", file]
        else:
            what = [wanted]
        pip = subprocess.run(
            [*command, *options, *what], capture_output=True, text=True
        )
    if pip.returncode:
        said = "\n".join((pip.stdout + pip.stderr).splitlines()[-15:])
        raise RuntimeError(f"pip could not install {wanted}:\n{said}")
    return pip.stdout


if __name__ == "__main__":
    try:
        install(" ".join(sys.argv[1:]) or "mxnet")
    except (RuntimeError, ValueError) as error:
        sys.exit(str(error))
