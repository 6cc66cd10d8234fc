"""Install what is missing in a hosted notebook, Colab's or Kaggle's, and leave what is there as it is.

Such a machine brings NumPy, pandas, spaCy, PyTorch and more. A package that is there in any version is left alone. MXNet comes as the
wheel that the machine can use: the GPU wheel, with the libraries of CUDA 11, only where a GPU is that it has machine code for. Those
libraries go into a folder of their own, ``cuda11`` beside the packages, since PyTorch's have files of the same names.

What comes in one version only is compared with its hash, from ``pinned.txt``. The rest has to get along with what is there, in whatever
version, and has none.
"""

import importlib
import re
import subprocess
import sys
import tempfile
from importlib.metadata import distribution, distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from selfatt_lib.machinery import cuda, hook
from selfatt_lib.machinery.progress import tqdm

# made from the locks by tools/locked.py
PINNED = Path(__file__).with_name("pinned.txt")
LIBRARIES = {library: pin.split("==")[0] for library, pin in cuda.LIBRARIES.items()}


def _installed():
    """Return name → version of every package; of several versions, the one that Python imports."""
    found = {}
    for package in distributions():
        if package.name:
            found.setdefault(canonicalize_name(package.name), package.version)
    return found


def missing(extra):
    """Return the requirements of this library that no installed package meets, those to be compiled last: list of Requirement.

    Parameters
    ----------
    extra : {"cpu", "gpu"}
        Which MXNet. A package of CUDA is missing only if a library of its own is found nowhere.
    """
    lacking = {
        package for library, package in LIBRARIES.items() if not cuda.find(library)
    }
    there = _installed().keys() | (set(LIBRARIES.values()) - lacking)
    wanted = [
        requirement
        for requirement in map(Requirement, requires("selfatt"))
        if canonicalize_name(requirement.name) not in there
        and (
            requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        )
    ]
    return sorted(wanted, key=_is_pinned)


def _is_pinned(requirement):
    return str(requirement.specifier).startswith("==")


def _extra():
    """Return "gpu" if that wheel is there, or if none is and the driver has a GPU for it; else "cpu". And why."""
    for extra, wheel in (("gpu", "mxnet-cu112"), ("cpu", "mxnet")):
        if wheel in _installed():
            return extra, f"{wheel} is installed"
    driver = cuda.driver()
    if driver is None:
        return "cpu", "there is no NVIDIA driver"
    for number, gpu in enumerate(driver.gpus):
        if not driver.problem(number):
            return "gpu", str(gpu)
    return "cpu", driver.problem()


def install():
    """Install what is missing, with the MXNet that this machine can use. No restart is needed.

    Raises
    ------
    RuntimeError
        pip failed. The message ends with what it said.
    """
    folder = Path(cuda.__file__).parents[2] / "cuda11"
    extra, reason = _extra()
    print(f"MXNet for the {extra.upper()}: {reason}")
    with (
        tempfile.TemporaryDirectory() as temporary,
        tqdm(missing(extra), "installing", unit=" packages") as bar,
    ):
        as_it_is = Path(temporary, "constraints.txt")
        lines = [f"{name}=={version}\n" for name, version in _installed().items()]
        as_it_is.write_text("".join(lines))
        for requirement in bar:
            bar.set_postfix_str(requirement.name)
            if requirement.name in LIBRARIES.values():
                target = str(folder / requirement.name)
                _pip(requirement, "--no-deps", "--upgrade", "--target", target)
            elif _is_pinned(requirement):
                # its own bounds are out of date
                _pip(requirement, "--no-deps", "--no-build-isolation")
            else:
                _pip(requirement, "--constraint", str(as_it_is))
    importlib.invalidate_caches()
    write_hook()


def write_hook():
    """Let a plain ``import mxnet`` work in this environment, by a file beside MXNet."""
    folder = distribution(cuda.installed_wheel()).locate_file("")
    Path(folder, "selfatt.pth").write_text(hook.PTH)


def _pip(requirement, *options):
    wanted = f"{requirement.name}{requirement.specifier}"
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as temporary:
        if _is_pinned(requirement):
            # pip takes hashes from a file only
            file = Path(temporary, "requirements.txt")
            file.write_text(_with_hashes(wanted))
            what = ["--require-hashes", "--requirement", file]
        else:
            what = [wanted]
        pip = subprocess.run(
            [*command, *options, *what], capture_output=True, text=True
        )
    if pip.returncode:
        said = "\n".join((pip.stdout + pip.stderr).splitlines()[-15:])
        raise RuntimeError(f"pip could not install {wanted}:\n{said}")


def _with_hashes(wanted):
    """Return the entry of a package in one version; without a hash, which pip then refuses, if there is none."""
    entries = re.split(r"\n(?=\S)", PINNED.read_text())
    return next((entry for entry in entries if entry.split()[0] == wanted), wanted)


if __name__ == "__main__":
    try:
        install()
    except RuntimeError as error:
        sys.exit(str(error))
