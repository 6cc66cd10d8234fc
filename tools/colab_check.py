"""Run the chapters as Colab would: ``make colab-check``, or ``python tools/colab_check.py [PYTHON]``, with a Python 3.13.

An environment with Colab's versions and a stand-in for the module ``google.colab`` is made, the chapters' first cell installs this
repository (its last commit) there, and nbval compares every chapter. Then the same with a stand-in for the driver of a GPU, and
PyTorch's NCCL in its place. Nothing that was there may change. It downloads 2.5 GB.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path

import nbformat
from reproducibly import SETTLED

ROOT = Path(__file__).resolve().parent.parent
T4 = {"FAKE_CUDA_VERSION": "12040", "FAKE_CUDA_GPUS": "Tesla T4:7:5"}
# After the first cell, in the same kernel: what it installed can be imported.
FIRST_USE = """
from selfatt_lib.machinery.runtime import mx, nlp
import numpy, pandas, spacy
print(mx.__version__, nlp.__version__, numpy.__version__, pandas.__version__, spacy.__version__)
"""
VERSIONS = "1.9.1 0.10.0 2.1.3 2.2.3 3.8.15"


def python_3_13(candidates):
    """Return the first of these commands that is a Python 3.13, or None."""
    code = "import sys; sys.exit(sys.version_info[:2] != (3, 13))"
    for command in filter(shutil.which, candidates):
        if subprocess.run([command, "-c", code], capture_output=True).returncode == 0:
            return command
    return None


def run(*command, **options):
    """Run a command, show what it says if it fails, and return its output."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, **options
    )
    if done.returncode:
        sys.exit(
            f"{done.stdout}{done.stderr}\ncolab-check: failed: {' '.join(map(str, command))}"
        )
    return done.stdout


def say(text):
    print(f"colab-check: {text}", flush=True)


def received():
    """Return the bytes that this machine has received from the network since it started."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    devices = (line.replace(":", " ").split() for line in lines)
    return sum(int(numbers[1]) for numbers in devices if numbers[0] != "lo")


class Machine:
    """A stand-in for a Colab machine, in a folder."""

    def __init__(self, folder, python, more=(), environment=()):
        self.folder, self.python = folder, folder / "venv" / "bin" / "python"
        folder.mkdir()
        uv = Path(sys.executable).with_name("uv")
        run(uv, "venv", "--quiet", "--python", python, folder / "venv")
        packages = ["-r", ROOT / "tools" / "colab.txt", *more]
        # without this project's own settings, which override NumPy's version
        install = ["pip", "install", "--quiet", "--no-config", "--python", self.python]
        run(uv, *install, *packages)
        self.site = Path(
            run(
                self.python,
                "-c",
                "import sysconfig; print(sysconfig.get_path('platlib'))",
            ).strip()
        )
        (self.site / "google" / "colab").mkdir(parents=True)
        (self.site / "google" / "colab" / "__init__.py").touch()
        (self.site / "google-colab.pth").write_text("import google.colab\n")
        self.environment = {
            **os.environ,
            "PIP_NO_CACHE_DIR": "1",
            **SETTLED,
            **dict(environment),
        }
        self.before = self.contents()

    def contents(self):
        """Return path → hash of all files of the packages."""
        files = (
            Path(file.locate())
            for package in distributions(path=[str(self.site)])
            for file in package.files or ()
            if "__pycache__" not in file.parts
        )
        return {
            path: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.is_file()
        }

    def run_first_cell(self, chapter):
        """Run a chapter's first cell as a notebook of its own; return the seconds and the bytes that it downloaded."""
        notebook = nbformat.read(chapter, as_version=4)
        cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
        notebook.cells = [cell, nbformat.v4.new_code_cell(FIRST_USE)]
        path = self.folder / "first.ipynb"
        nbformat.write(notebook, path)
        started, before = time.perf_counter(), received()
        run(
            self.python.with_name("jupyter"),
            *("execute", "--inplace", path),
            env=self.environment,
        )
        seconds, downloaded = time.perf_counter() - started, received() - before
        printed = nbformat.read(path, as_version=4).cells[1].outputs[0].text.strip()
        if printed != VERSIONS:
            sys.exit(f"colab-check: expected the versions {VERSIONS}; got {printed}")
        after = self.contents()
        changed = [
            str(path) for path, was in self.before.items() if after.get(path) != was
        ]
        if changed:
            sys.exit(f"colab-check: the first cell changed what was there: {changed}")
        return seconds, downloaded

    def compare_chapters(self, book, environment=()):
        """Run nbval on every chapter; return its last line."""
        command = "-m pytest --nbval --nbval-current-env -q -p no:cacheprovider"
        said = run(
            self.python,
            *command.split(),
            *sorted(book.glob("*.ipynb")),
            cwd=self.folder,
            env={**self.environment, **dict(environment)},
        )
        return said.strip().splitlines()[-1]


def chapters(folder):
    """Clone the last commit, and copy the chapters with the clone as their repository; return the copies' folder."""
    run("git", "clone", "--quiet", ROOT, folder / "source")
    book = folder / "book"
    shutil.copytree(folder / "source" / "book", book)
    for path in book.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
        repository = f'REPOSITORY = "file://{folder / "source"}"'
        cell.source = re.sub(r'REPOSITORY = ".*"', repository, cell.source)
        cell.metadata.tags.append("nbval-ignore-output")  # it says what it installs
        nbformat.write(notebook, path)
    return book


def check_cpu(folder, python, book):
    machine = Machine(folder / "cpu", python)
    seconds, downloaded = machine.run_first_cell(book / "model.ipynb")
    say(
        f"CPU: the first cell took {seconds:.0f} s and downloaded {downloaded / 1e6:.0f} MB"
    )
    say(f"CPU: chapters: {machine.compare_chapters(book)}")


def check_gpu(folder, python, book):
    driver = folder / "driver"
    driver.mkdir()
    source = ROOT / "tests" / "libcuda.c"
    name = "libcuda.so.1"
    run("cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", driver / name, source)
    machine = Machine(
        folder / "gpu",
        python,
        more=["nvidia-nccl-cu12"],
        environment={"LD_LIBRARY_PATH": str(driver), **T4},
    )
    seconds, downloaded = machine.run_first_cell(book / "model.ipynb")
    say(
        f"GPU: the first cell took {seconds:.0f} s and downloaded {downloaded / 1e6:.0f} MB"
    )
    doctor = run(
        machine.python, "-m", "selfatt_lib.machinery.doctor", env=machine.environment
    )
    print(doctor)
    report = dict(line.split(maxsplit=1) for line in doctor.splitlines())
    own, shared = machine.site / "cuda11", machine.site / "nvidia"
    expected = {
        "mxnet": "not installed",
        "mxnet-cu112": "1.9.1",
        "driver": "runs CUDA up to 12.4",
        "gpu:0": "Tesla T4 (compute capability 7.5, 15 GiB), MXNet has code for it",
        "libnccl.so.2": str(shared / "nccl/lib/libnccl.so.2"),
        "libcudnn.so.8": str(own / "nvidia-cudnn-cu11/nvidia/cudnn/lib/libcudnn.so.8"),
        "libcublas.so.11": str(
            own / "nvidia-cublas-cu11/nvidia/cublas/lib/libcublas.so.11"
        ),
    }
    for what, value in expected.items():
        if report.get(what) != value:
            sys.exit(
                f"colab-check: expected {what} {value}; the doctor says {report.get(what)}"
            )
    if "no computation ran on the Tesla T4" not in report["device='auto'"]:
        sys.exit(
            "colab-check: the stand-in computes nothing, and the doctor does not say so"
        )
    without_gpu = {"FAKE_CUDA_GPUS": ""}
    said = machine.compare_chapters(book, without_gpu)
    say(f"GPU: chapters, on the CPU with mxnet-cu112: {said}")


def main(python=None):
    wanted = python_3_13(filter(None, [python, sys.executable, "python3.13"]))
    if wanted is None:
        say(
            "not run: no Python 3.13 is at hand. Name one: make colab-check PYTHON=/path/to/python3.13"
        )
        return
    if run("git", "-C", ROOT, "status", "--porcelain"):
        say("what is not committed is not checked")
    with tempfile.TemporaryDirectory(prefix="colab-check-") as folder:
        folder = Path(folder)
        book = chapters(folder)
        check_cpu(folder, wanted, book)
        check_gpu(folder, wanted, book)
    say("passed")


if __name__ == "__main__":
    main(*sys.argv[1:])
