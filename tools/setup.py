"""Make .venv from a lock: ``python3 tools/setup.py [mxnet|pytorch] [cpu|gpu]``.

Does nothing when that was done and the lock has not changed. What is not said stays as
it was when .venv was made. At first that is MXNet on the CPU where MXNet can be loaded,
and PyTorch elsewhere. .venv is made anew each time: the two MXNet wheels share a
folder. Any Python since 3.8 can run this and be told what is missing. On Windows, where
there is no make, it is the command that a reader gives: ``py tools/setup.py``.
"""

import ctypes
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
# by the extra of pyproject.toml that they contain
LOCKS = {
    "mxnet": ROOT / "requirements.lock",
    "mxnet-gpu": ROOT / "requirements-gpu.lock",
    "pytorch": ROOT / "requirements-pytorch.lock",
}
STAMP = VENV / "installed.sha256"  # the extra, and the hash of its lock

# GluonNLP comes as source; pip builds it with these, which are installed first
BUILD_TOOLS = ("pip", "setuptools", "wheel", "cython")

# The systems that PyTorch's lock has every package for. MXNet's have Linux x86_64 only.
SYSTEMS = ("Linux x86_64", "Linux aarch64", "Darwin arm64", "Windows AMD64")
NO_MXNET = {
    "Linux aarch64": "MXNet needs the Arm Performance Libraries, which no index has",
    "Darwin arm64": "MXNet was never built for Apple silicon",
    "Windows AMD64": "MXNet 1.9.1 was never built for Windows",
}
ELSEWHERE = "use Linux on x86-64, a container with it, or Colab."
# what a reader is told who asks for PyTorch on a GPU
GPUS = {
    "Linux": "the same PyTorch computes on a CPU and on NVIDIA GPUs.",
    "Darwin": "the same PyTorch computes on a CPU and on Apple's GPU (device mps).",
    "Windows": "this PyTorch computes on the CPU only. For an NVIDIA GPU, put a build "
    "of it with CUDA into .venv afterwards, as PyTorch's site says.",
}
FAILED = (
    "set-up: pip failed, see above and .venv/install.log. Run the command again when "
    "that is mended."
)


def system():
    """Return what the packages depend on, for example "Linux x86_64"."""
    return f"{platform.system()} {platform.machine()}"


def problem(engine):
    """Return why there cannot be that engine here, in one sentence, or None."""
    here, this, windows = system(), sys.executable, platform.system() == "Windows"
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        mend = (
            "install one, or let uv do it with 'uv venv --python 3.13 ~/python3.13' "
            "and say 'make PYTHON=~/python3.13/bin/python setup'."
        )
        if windows:
            mend = "install one and say, for example, 'py -3.13 tools/setup.py'."
        version = platform.python_version()
        return f"Python 3.11 to 3.14 is needed and {this} is {version}: {mend}"
    if here == "Darwin x86_64":
        return (
            "PyTorch and Numba, which MXNet's side needs, are no longer built for "
            f"macOS on Intel: {ELSEWHERE} Is this Apple silicon? Then {this} is "
            "Intel's: install a Python for arm64."
        )
    if here not in SYSTEMS:
        return f"PyTorch is not built for {here}, nor is MXNet: {ELSEWHERE}"
    if platform.system() == "Linux" and platform.libc_ver()[0] != "glibc":
        return (
            "the wheels of MXNet and PyTorch need glibc and this Linux has another C "
            "library (Alpine?): use Debian, Ubuntu, Fedora or the like."
        )
    if engine == "mxnet" and here in NO_MXNET:
        say = "py tools/setup.py " if windows else "make setup ENGINE="
        return f"{NO_MXNET[here]}: say '{say}pytorch', or {ELSEWHERE}"
    macos = platform.mac_ver()[0]
    if macos and int(macos.split(".")[0]) < 14:
        return f"PyTorch needs macOS 14 and this is {macos}: update it, or {ELSEWHERE}"
    venvs = importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv")
    needed = [(venvs, f"{this} cannot make virtual environments", "python3-venv")]
    if engine == "mxnet":
        builds = "GluonNLP is compiled at set-up and"
        compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
        compiles = shutil.which(compiler.split()[0])
        headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
        needed += [
            (compiles, f"{builds} there is no C compiler", "gcc"),
            (headers, f"{builds} {this} has no headers", "python3-dev"),
        ]
    for there, lacking, package in needed:
        if not there:
            return f"{lacking}: install that (on Debian: apt install {package})."
    return None


def size(extra):
    """Return what is installed, and how much there is to download."""
    if extra == "mxnet":
        return "MXNet: 0.6 GB to download, one to three minutes"
    if extra == "mxnet-gpu":
        text = "MXNet for the GPU: 2.7 GB to download"
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            text += ", but no NVIDIA driver (libcuda.so.1) is visible here to run it"
        return text
    if platform.system() == "Linux":
        return "PyTorch with CUDA 13: 3.5 GB to download, 7 GB on disk, some minutes"
    return "PyTorch: 0.5 GB to download"


def fingerprint(extra):
    """Return what the environment with an extra is made from."""
    return extra + " " + hashlib.sha256(LOCKS[extra].read_bytes()).hexdigest()


def made_for():
    """Return what is installed: "mxnet 6b1f...", or an empty text."""
    return STAMP.read_text() if STAMP.is_file() else ""


def requirements(lock, names):
    """Return a lock's entries for the named packages, with their hashes."""
    entries = re.split(r"\n(?=\S)", lock)
    return "\n".join(x for x in entries if re.split(r"[=\s]", x)[0] in names)


def interpreter():
    """Return the path of the environment's Python."""
    windows = platform.system() == "Windows"
    return VENV / ("Scripts/python.exe" if windows else "bin/python")


def install(*arguments, number=1):
    """Run pip on so many packages, with a bar, and tell whether it succeeded.

    All that it says goes to .venv/install.log.
    """
    command = [interpreter(), "-m", "pip", "install", *arguments]
    command += ["--no-deps", "--no-build-isolation", "--log", VENV / "install.log"]
    command += ["--disable-pip-version-check", "--root-user-action=ignore"]
    said, done, started = [], 0, time.monotonic()
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, **both) as pip:
        for line in pip.stdout:
            said.append(line)
            done += line.startswith(("Collecting ", "Requirement already"))
            number -= line.startswith("Ignoring ")  # for another Python or platform
            if done and sys.stdout.isatty():
                left = (time.monotonic() - started) * (number - done) / done
                step = f"about {left:.0f} s left" if done < number else "unpacking"
                bar = "#" * round(30 * done / number)
                said_so_far = f"\rset-up: {bar:<30} {done} of {number}, {step}"
                print(f"{said_so_far:<79}", end="")
                sys.stdout.flush()
    if done and sys.stdout.isatty():
        print()
    if pip.returncode:
        print(*said[-15:], sep="", file=sys.stderr)
    return pip.returncode == 0


def remembered():
    """Return for which engine and device .venv was made, or what fits the system."""
    extra = made_for().partition(" ")[0]
    if extra:  # in the first edition "cpu" or "gpu"
        engine = "pytorch" if extra == "pytorch" else "mxnet"
    else:
        engine = "mxnet" if system() == "Linux x86_64" else "pytorch"
    return engine, "gpu" if extra.endswith("gpu") else "cpu"


def main(*asked):
    engines = [word for word in asked if word in ("mxnet", "pytorch")]
    devices = [word for word in asked if word in ("cpu", "gpu")]
    if len(engines) > 1 or len(devices) > 1 or len(asked) > len(engines + devices):
        said = " ".join(asked)
        return f"set-up: ENGINE is mxnet or pytorch, DEVICE cpu or gpu; got {said!r}."
    kept_engine, kept_device = remembered()
    (engine,), (device,) = engines or [kept_engine], devices or [kept_device]
    extra = "mxnet-gpu" if (engine, device) == ("mxnet", "gpu") else engine
    done = made_for() == fingerprint(extra)
    reason = None if done else problem(engine)
    if reason:
        return f"set-up: {reason}"
    if (engine, device) == ("pytorch", "gpu"):
        print(f"set-up: {GPUS[platform.system()]}", flush=True)
    if done:
        return None
    print(f"set-up: installing into .venv ({size(extra)})", flush=True)
    if STAMP.is_file():
        STAMP.unlink()  # what follows may end with half of it deleted
    if subprocess.run([sys.executable, "-m", "venv", "--clear", VENV]).returncode:
        return "set-up: .venv could not be made, see above. Does something run from it?"
    STAMP.write_text(f"{extra} ")  # should this fail, the next try knows for what
    lock = LOCKS[extra].read_text()
    tools = VENV / "build-tools.txt"
    tools.write_text(requirements(lock, BUILD_TOOLS))
    for file in (tools, LOCKS[extra]):
        number = len(re.findall(r"(?m)^[\w.-]+==", file.read_text()))
        if not install("--require-hashes", "-r", file, number=number):
            return FAILED
    if not install("--editable", ROOT):
        return FAILED
    if engine == "mxnet":  # for a plain `import mxnet`
        hook = "from selfatt_lib.machinery.install import write_hook; write_hook()"
        subprocess.run([interpreter(), "-c", hook], check=True)
    STAMP.write_text(fingerprint(extra))
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
