"""Run the chapters as Colab would: make colab-check PYTHON=python3.13.

In an environment with Colab's versions, nbval compares every chapter; the first cell of
the first installs this repository's last commit. Then the same with a stand-in for the
driver of a T4, and PyTorch's NCCL in its place. Nothing that was there may change. It
downloads 2.5 GB.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

from address import ROOT, set_up
from reproducibly import SETTLED

# what Colab's image of August 2026 has, some in versions that we have not seen, and
# what this check needs besides
PACKAGES = """
numpy==2.1.3 pandas==2.2.3 pyarrow==18.1.0 spacy==3.8.15 scikit-learn==1.6.1
seaborn==0.13.2 graphviz==0.21 cython==3.0.12
click filelock huggingface-hub ipykernel<7 ipywidgets joblib matplotlib numba packaging
pip platformdirs pooch pydantic requests safetensors scipy setuptools<81 threadpoolctl
tqdm wheel
nbclient nbval pytest
"""
COLAB = {"COLAB_RELEASE_TAG": "release-colab", "PIP_NO_CACHE_DIR": "1"}
COLAB |= {"FAKE_CUDA_VERSION": "12040"}  # of the stand-in, where it is
T4 = {"FAKE_CUDA_GPUS": "Tesla T4:7:5"}


def run(*command, **options):
    """Run a command and return its output; end with what it says if it fails."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\ncolab-check: failed: {command}")
    return done.stdout


def chapters(folder, source):
    """Return copies of a clone's chapters that are installed from there."""
    shutil.copytree(folder / "source/book", folder / "book")
    paths = sorted((folder / "book").glob("*.ipynb"))
    for path in paths:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        set_up(notebook, source)
        # the first cell says what it installs
        notebook["cells"][1]["metadata"]["tags"].append("nbval-ignore-output")
        path.write_text(json.dumps(notebook), encoding="utf-8")
    return paths


def contents(site):
    """Return path → hash of all files of the packages in a folder."""
    files = [file for each in distributions(path=[site]) for file in each.files or ()]
    files = [Path(file.locate()) for file in files if "__pycache__" not in file.parts]
    files = [file for file in files if file.is_file()]
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def check(folder, base, kind, source, notebooks):
    """Make Colab's environment, of a kind ("cpu" or "gpu"), and run the chapters."""
    python = folder / kind / "bin/python"
    site = folder / kind / "lib/python3.13/site-packages"
    uv = Path(sys.executable).with_name("uv")
    run(uv, "venv", "--quiet", "--python", base, folder / kind)
    # without this project's own settings, which override NumPy's version
    install = [uv, "pip", "install", "--quiet", "--no-config", "--python", python]
    run(*install, *PACKAGES.split())
    env = {**os.environ, **SETTLED, **COLAB, "LD_LIBRARY_PATH": str(folder / kind)}
    env["PATH"] = f"{python.parent}:{env['PATH']}"
    if kind == "gpu":
        run(*install, "nvidia-nccl-cu12")
        driver = folder / kind / "libcuda.so.1"
        c_compiler = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{driver.name}"]
        run(*c_compiler, "-o", driver, ROOT / "tests/libcuda.c")
    before = contents(str(site))
    if kind == "gpu":  # as the first cell, for which alone there is the GPU
        on_gpu = {"env": env | T4, "cwd": folder}
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", source)
        run(python, "-m", "selfatt_lib.machinery.install", **on_gpu)
        said = run(python, "-m", "selfatt_lib", "doctor", **on_gpu)
        for part in (
            "mxnet-cu112             1.9.1\n",
            "Tesla T4 (compute capability 7.5, 15 GiB), MXNet has code for it\n",
            f"{site}/nvidia/nccl/lib/libnccl.so.2\n",
            f"{site}/cuda11/nvidia-cudnn-cu11/nvidia/cudnn/lib/libcudnn.so.8\n",
        ):
            if part not in said:
                sys.exit(f"{said}\ncolab-check: the doctor does not say: {part}")
    nbval = [python, "-m", "pytest", "--nbval", "--nbval-current-env", "--durations=1"]
    said = run(*nbval, "-q", "-p", "no:cacheprovider", *notebooks, cwd=folder, env=env)
    print(f"{kind}: {said}", flush=True)
    after = contents(str(site))
    if changed := [str(path) for path in before if before[path] != after.get(path)]:
        sys.exit(f"colab-check: the first cell changed what was there: {changed}")


def main(base):
    if not (version := run(base, "--version")).startswith("Python 3.13."):
        sys.exit(
            f"colab-check: expected PYTHON to be Python 3.13, Colab's; got {version}"
        )
    with tempfile.TemporaryDirectory(prefix="colab-check-") as folder:
        folder = Path(folder)
        run("git", "clone", "--quiet", ROOT, folder / "source")
        source = f"file://{folder}/source"
        notebooks = chapters(folder, source)
        for kind in ("cpu", "gpu"):
            check(folder, base, kind, f"git+{source}", notebooks)


if __name__ == "__main__":
    main(*sys.argv[1:])
