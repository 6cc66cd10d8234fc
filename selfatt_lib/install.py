"""Install what is missing in a hosted notebook, Colab's or Kaggle's, and leave what is there as it is.

Such a machine brings NumPy, pandas, spaCy, PyTorch and more. A package that is there in any version is left alone. MXNet comes as the
wheel that the machine can use: the GPU wheel, with the libraries of CUDA 11, only where a GPU is that it has machine code for. Those
libraries go into a folder of their own, ``cuda11`` beside the packages, since PyTorch's have files of the same names.
"""

import importlib
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tqdm import tqdm

from selfatt_lib import cuda

LIBRARIES = {library: pin.split("==")[0] for library, pin in cuda.LIBRARIES.items()}


def _installed():
    """Return name → version of every package; of several versions, the one that Python imports."""
    found = {}
    for package in distributions():
        if package.name:
            found.setdefault(canonicalize_name(package.name), package.version)
    return found


def missing(extra):
    """Return the requirements of this library that no installed package meets: list of Requirement.

    Parameters
    ----------
    extra : {"cpu", "gpu"}
        Which MXNet. A package of CUDA is missing only if its library is found nowhere.
    """
    installed = _installed().keys()
    found = {LIBRARIES[library] for library in cuda.LIBRARIES if cuda.find(library)}
    return [
        requirement
        for requirement in map(Requirement, requires("selfatt"))
        if canonicalize_name(requirement.name) not in installed | found
        and (
            requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        )
    ]


def install():
    """Install what is missing, with the MXNet that this machine can use. No restart is needed.

    Raises
    ------
    RuntimeError
        pip failed. The message ends with what it said.
    """
    driver = cuda.driver()
    usable = driver and any(
        not driver.problem(number) for number in range(len(driver.gpus))
    )
    extra = "gpu" if usable else "cpu"
    wanted = missing(extra)
    # Those with one exact version have bounds in their metadata that are out of date, so they come without what they ask for.
    pinned = [r for r in wanted if str(r.specifier).startswith("==")]
    libraries = [r for r in pinned if r.name in LIBRARIES.values()]
    with tempfile.TemporaryDirectory() as folder:
        as_it_is = Path(folder, "constraints.txt")
        lines = [f"{name}=={version}\n" for name, version in _installed().items()]
        as_it_is.write_text("".join(lines))
        _pip([r for r in wanted if r not in pinned], "--constraint", str(as_it_is))
    _pip([r for r in pinned if r not in libraries], "--no-deps", "--no-build-isolation")
    target = Path(sysconfig.get_path("platlib"), "cuda11")
    _pip(libraries, "--no-deps", "--target", str(target))
    importlib.invalidate_caches()


def _pip(requirements, *options):
    if not requirements:
        return
    names = [
        f"{requirement.name}{requirement.specifier}" for requirement in requirements
    ]
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    said = []
    with (
        tqdm(total=len(names), desc="installing", unit=" packages") as bar,
        subprocess.Popen(
            [*command, *options, *names],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as pip,
    ):
        for line in pip.stdout:
            said.append(line)
            if line.startswith("Collecting ") and bar.n < bar.total:
                bar.set_postfix_str(line.split()[1])
                bar.update()
    if pip.returncode:
        raise RuntimeError(
            f"pip could not install {', '.join(names)}:\n{''.join(said[-15:])}"
        )


if __name__ == "__main__":
    install()
