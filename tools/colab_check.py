"""Run the chapters as Colab would: make colab-check PYTHON=python3.13.

In environments with Colab's versions, a chapter's first cell installs this repository's
last commit, and nbval runs the chapters. Nothing that was there may change. ARGS="cpu"
names one or more of the three:

- cpu: with MXNet, all outputs compared but those of the chapter pytorch.
- gpu: the same with MXNet's GPU wheel, a stand-in for the driver of a T4, and PyTorch's
  NCCL in its place. It computes on the CPU.
- pytorch: with Colab's PyTorch, the chapters that need no MXNet. Only the outputs of
  the chapter pytorch are compared, since those of the others are MXNet's.

It downloads 5 GB, half of it Colab's PyTorch.
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

from address import ROOT, engine_of, set_up
from reproducibly import SETTLED

# what Colab's image of August 2026 has, some in versions that we have not seen, and
# what this check needs besides
PACKAGES = """
numpy==2.1.3 pandas==2.2.3 pyarrow==18.1.0 spacy==3.8.15 scikit-learn==1.6.1
seaborn==0.13.2 graphviz==0.21 cython==3.0.12
click filelock huggingface-hub ipykernel<7 ipywidgets joblib matplotlib numba packaging
pip platformdirs pooch pydantic pyyaml requests safetensors scipy setuptools<81
threadpoolctl tqdm wheel
nbclient nbval pytest
"""
# What Colab has besides, as far as this is about it. Its PyTorch is that of June 2026,
# there built for CUDA 12.8.
RUNTIMES = {"cpu": [], "gpu": ["nvidia-nccl-cu12"], "pytorch": ["torch==2.11.0"]}
COLAB = {"COLAB_RELEASE_TAG": "release-colab", "PIP_NO_CACHE_DIR": "1"}
COLAB |= {"FAKE_CUDA_VERSION": "12040"}  # of the stand-in, where it is
T4 = {"FAKE_CUDA_GPUS": "Tesla T4:7:5"}


def run(*command, **options):
    """Run a command and return what it says; end with that if it fails."""
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run([str(part) for part in command], **both, **options)
    if done.returncode:
        sys.exit(f"{done.stdout}\ncolab-check: failed: {command}")
    return done.stdout


def chapters(folder, source, kind):
    """Copy the chapters that a runtime runs, with first cells that install from there.

    Return their paths, and the code of a first cell.
    """
    shutil.copytree(source / "book", folder / "book")
    engine, paths = "pytorch" if kind == "pytorch" else "mxnet", []
    for path in sorted((folder / "book").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if kind == "pytorch":
            wanted = engine_of(notebook) == "pytorch"
        else:
            wanted = path.stem != "pytorch"
        if wanted:
            set_up(notebook, f"file://{source}", engine)
            first = notebook["cells"][1]
            # it says what it installs
            first["metadata"]["tags"].append("nbval-ignore-output")
            path.write_text(json.dumps(notebook), encoding="utf-8")
            paths.append(path)
    return paths, "".join(first["source"])


def contents(site):
    """Return path → hash of all files of the packages in a folder."""
    files = [file for each in distributions(path=[site]) for file in each.files or ()]
    files = [Path(file.locate()) for file in files if "__pycache__" not in file.parts]
    files = [file for file in files if file.is_file()]
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def check(folder, base, kind, source):
    """Make Colab's environment in a folder, and run there what a runtime runs."""
    notebooks, first_cell = chapters(folder, source, kind)
    python = folder / "env/bin/python"
    site = folder / "env/lib/python3.13/site-packages"
    uv = Path(sys.executable).with_name("uv")
    run(uv, "venv", "--quiet", "--python", base, folder / "env")
    # without this project's own settings, which override NumPy's version
    install = [uv, "pip", "install", "--quiet", "--no-config", "--python", python]
    run(*install, *PACKAGES.split(), *RUNTIMES[kind])
    env = {**os.environ, **SETTLED, **COLAB, "LD_LIBRARY_PATH": str(folder)}
    env["PATH"] = f"{python.parent}:{env['PATH']}"
    on_gpu = env  # for the first cell alone there is the GPU
    if kind == "gpu":
        driver = folder / "libcuda.so.1"
        c_compiler = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{driver.name}"]
        run(*c_compiler, "-o", driver, ROOT / "tests/libcuda.c")
        on_gpu = env | T4
    before = contents(str(site))
    ipython = [python, "-m", "IPython", "--colors", "NoColor", "-c", first_cell]
    said = run(*ipython, cwd=folder, env=on_gpu)
    print(f"{kind}: {said}", flush=True)
    if "\npackages installed: " not in said:
        sys.exit("colab-check: the first cell did not install")
    if kind == "gpu":
        doctor = [python, "-m", "selfatt_lib", "doctor"]
        said = run(*doctor, cwd=folder, env=on_gpu)
        for part in (
            "mxnet-cu112             1.9.1\n",
            "Tesla T4 (compute capability 7.5, 15 GiB), MXNet has code for it\n",
            f"{site}/nvidia/nccl/lib/libnccl.so.2\n",
            f"{site}/cuda11/nvidia-cudnn-cu11/nvidia/cudnn/lib/libcudnn.so.8\n",
        ):
            if part not in said:
                sys.exit(f"{said}\ncolab-check: the doctor does not say: {part}")
    # with PyTorch, the other chapters' stored outputs are MXNet's
    compared = [x for x in notebooks if kind != "pytorch" or x.stem == "pytorch"]
    executed = [path for path in notebooks if path not in compared]
    nbval = [python, "-m", "pytest", "--nbval-current-env", "--durations=1", "-q"]
    nbval += ["-p", "no:cacheprovider"]
    for how, paths in (("--nbval-lax", executed), ("--nbval", compared)):
        if paths:
            print(run(*nbval, how, *paths, cwd=folder, env=env), flush=True)
    after = contents(str(site))
    if changed := [str(path) for path in before if before[path] != after.get(path)]:
        sys.exit(f"colab-check: the first cell changed what was there: {changed}")


def main(base, *kinds):
    if not (version := run(base, "--version")).startswith("Python 3.13."):
        sys.exit(
            f"colab-check: expected PYTHON to be Python 3.13, Colab's; got {version}"
        )
    if unknown := [kind for kind in kinds if kind not in RUNTIMES]:
        sys.exit(f"colab-check: ARGS names {', '.join(RUNTIMES)}; got {unknown}")
    with tempfile.TemporaryDirectory(prefix="colab-check-") as folder:
        source = Path(folder, "source")
        run("git", "clone", "--quiet", ROOT, source)
        for kind in kinds or RUNTIMES:
            check(Path(folder, kind), base, kind, source)


if __name__ == "__main__":
    main(*sys.argv[1:])
