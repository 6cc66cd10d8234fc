"""Run the chapters as Colab would: make colab-check PYTHON=python3.13.

An environment with Colab's versions is made, a chapter's first cell installs this
repository's last commit there, and nbval compares every chapter. Then the same with a
stand-in for the driver of a GPU, and PyTorch's NCCL in its place. Nothing that was there
may change. It downloads 2.5 GB.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path

from address import ROOT, set_up
from reproducibly import SETTLED

T4 = {"FAKE_CUDA_VERSION": "12040", "FAKE_CUDA_GPUS": "Tesla T4:7:5"}
# in the kernel of the first cells: what they installed can be imported
FIRST_USE = "from selfatt_lib.machinery.runtime import mx, nlp"


def run(*command, **options):
    """Run a command and return its output; end with what it says if it fails."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\ncolab-check: failed: {command}")
    return done.stdout


def chapters(folder):
    """Clone the last commit; return its chapters, with the clone as their address."""
    run("git", "clone", "--quiet", ROOT, folder / "source")
    shutil.copytree(folder / "source/book", folder / "book")
    paths = sorted((folder / "book").glob("*.ipynb"))
    for path in paths:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        set_up(notebook, f"file://{folder}/source")
        # it says what it installs
        notebook["cells"][1]["metadata"]["tags"].append("nbval-ignore-output")
        path.write_text(json.dumps(notebook), encoding="utf-8")
    return paths


def contents(site):
    """Return path → hash of all files of the packages in a folder."""
    files = (
        Path(file.locate())
        for package in distributions(path=[str(site)])
        for file in package.files or ()
        if "__pycache__" not in file.parts
    )
    files = (file for file in files if file.is_file())
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def check(folder, python, notebooks, more=(), driver=(), chapters_only=()):
    """Make an environment, install with the first cells, and compare the chapters.

    `more` are packages that it has besides Colab's; `driver` and `chapters_only` are
    variables. Returns the folder of the packages, and what the doctor reports.
    """
    uv, own = Path(sys.executable).with_name("uv"), folder / "venv/bin/python"
    site = folder / "venv/lib/python3.13/site-packages"
    run(uv, "venv", "--quiet", "--python", python, folder / "venv")
    # without this project's own settings, which override NumPy's version
    install = [uv, "pip", "install", "--quiet", "--no-config", "--python", own]
    run(*install, "-r", ROOT / "tools/colab.txt", *more)
    env = os.environ | SETTLED | dict(driver)
    env |= {"COLAB_RELEASE_TAG": "release-colab", "PIP_NO_CACHE_DIR": "1"}
    env["PATH"] = f"{own.parent}:{env['PATH']}"
    before, started = contents(site), time.perf_counter()

    first = json.loads(notebooks[0].read_text(encoding="utf-8"))
    use = first["cells"][2] | {"id": "first-use", "source": [FIRST_USE]}
    first["cells"] = [*first["cells"][1:3], use]
    (folder / "first.ipynb").write_text(json.dumps(first), encoding="utf-8")
    run(own.with_name("jupyter"), "execute", folder / "first.ipynb", env=env)
    print(f"{folder.name}: the first cell took {time.perf_counter() - started:.0f} s")
    after = contents(site)
    if changed := [str(path) for path in before if before[path] != after.get(path)]:
        sys.exit(f"colab-check: the first cell changed what was there: {changed}")
    report = run(own, "-m", "selfatt_lib.machinery.doctor", env=env)

    nbval = [own, "-m", "pytest", "--nbval", "--nbval-current-env", "-q"]
    nbval += ["-p", "no:cacheprovider", *notebooks]
    said = run(*nbval, cwd=folder, env=env | dict(chapters_only))
    print(f"{folder.name}: chapters: {said.strip().splitlines()[-1]}", flush=True)
    return site, report


def check_gpu(folder, python, notebooks):
    """Do so with a stand-in for a T4 and its driver, which computes nothing."""
    source, stand_in = ROOT / "tests/libcuda.c", folder / "libcuda.so.1"
    run("cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", stand_in, source)
    driver = T4 | {"LD_LIBRARY_PATH": str(folder)}
    no_gpu = {"FAKE_CUDA_GPUS": ""}
    site, report = check(
        folder, python, notebooks, ["nvidia-nccl-cu12"], driver, no_gpu
    )
    print(report)
    own = f"{site}/cuda11/nvidia-{{0}}-cu11/nvidia/{{0}}/lib/".format
    for expected in (
        "mxnet not installed",
        "mxnet-cu112 1.9.1",
        "driver runs CUDA up to 12.4",
        "gpu:0 Tesla T4 (compute capability 7.5, 15 GiB), MXNet has code for it",
        f"libnccl.so.2 {site}/nvidia/nccl/lib/libnccl.so.2",
        f"libcudnn.so.8 {own('cudnn')}libcudnn.so.8",
        f"libcublas.so.11 {own('cublas')}libcublas.so.11",
        "device='auto' cpu(0) (computing on the CPU: no computation ran on the Tesla T4",
    ):
        if not any(
            " ".join(x.split()).startswith(expected) for x in report.splitlines()
        ):
            sys.exit(f"colab-check: the doctor does not say: {expected}")


def main(python="python3.13"):
    version = run(python, "--version")
    if not version.startswith("Python 3.13."):
        sys.exit(
            f"colab-check: PYTHON must be a Python 3.13, as Colab's; got {version}"
        )
    with tempfile.TemporaryDirectory(prefix="colab-check-") as folder:
        folder = Path(folder)
        notebooks = chapters(folder)
        for kind, run_check in (("cpu", check), ("gpu", check_gpu)):
            (folder / kind).mkdir()
            run_check(folder / kind, python, notebooks)


if __name__ == "__main__":
    main(*sys.argv[1:])
