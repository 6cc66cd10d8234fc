"""Make .venv from a lock: ``python3 tools/setup.py [cpu|gpu]``.

Does nothing when that was done and the lock has not changed. Without an argument it
keeps to what .venv was made for, at first the CPU. The two MXNet wheels share a folder,
so .venv is made anew each time. Any Python since 3.8 can run this and be told what is
missing.
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
LOCKS = {"cpu": ROOT / "requirements.lock", "gpu": ROOT / "requirements-gpu.lock"}
STAMP = VENV / "installed.sha256"  # the device, and the hash of its lock

# GluonNLP comes as source; pip builds it with these, which are installed first
BUILD_TOOLS = ("pip", "setuptools", "wheel", "cython")

# Why a system cannot be used. For those not named here, MXNet was never built.
REASONS = {
    "Linux aarch64": "MXNet needs the Arm Performance Libraries, which no index has",
    "Darwin arm64": "MXNet was never built for Apple silicon",
    "Darwin x86_64": "Numba is no longer built for macOS on Intel",
}


def problem():
    """Return why the environment cannot be made here, in one sentence, or None."""
    python = sys.executable
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        return (
            f"Python 3.11 to 3.14 is needed and {python} is "
            f"{platform.python_version()}: install one, or let uv do it with "
            "'uv venv --python 3.13 ~/python3.13' and say "
            "'make PYTHON=~/python3.13/bin/python setup'."
        )
    here = f"{platform.system()} {platform.machine()}"
    if here != "Linux x86_64":
        reason = REASONS.get(here, f"MXNet was never built for {here}")
        return f"{reason}: use Linux on x86-64, a container with it, or Colab."
    if platform.libc_ver()[0] != "glibc":
        return (
            "MXNet's wheels need glibc and this Linux has another C library (Alpine?): "
            "use Debian, Ubuntu, Fedora or the like."
        )
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    headers = Path(sysconfig.get_path("include"), "Python.h")
    builds = "GluonNLP is compiled at set-up and"
    venvs = importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv")
    for there, lacking, package in (
        (shutil.which(compiler.split()[0]), f"{builds} there is no C compiler", "gcc"),
        (headers.is_file(), f"{builds} {python} has no headers", "python3-dev"),
        (venvs, f"{python} cannot make virtual environments", "python3-venv"),
    ):
        if not there:
            return f"{lacking}: install that (on Debian: apt install {package})."
    return None


def fingerprint(device):
    """Return what the environment for a device is made from."""
    return device + " " + hashlib.sha256(LOCKS[device].read_bytes()).hexdigest()


def made_for():
    """Return what is installed: "cpu 6b1f…" or "gpu …", or an empty text."""
    return STAMP.read_text() if STAMP.is_file() else ""


def requirements(lock, names):
    """Return a lock's entries for the named packages, with their hashes."""
    entries = re.split(r"\n(?=\S)", lock)
    return "\n".join(x for x in entries if re.split(r"[=\s]", x)[0] in names)


def install(number, *arguments):
    """Run pip on so many packages, with a bar, and tell whether it succeeded.

    All that it says goes to .venv/install.log.
    """
    command = [VENV / "bin" / "python", "-m", "pip", "install", *arguments]
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
                bar = "█" * round(30 * done / number)
                print(f"\rset-up: {bar:<30} {done} of {number}, {step}\033[K", end="")
                sys.stdout.flush()
    if done and sys.stdout.isatty():
        print()
    if pip.returncode:
        print(*said[-15:], sep="", file=sys.stderr)
    return pip.returncode == 0


def main(device=None):
    if device not in (None, *LOCKS):
        return f"set-up: DEVICE is cpu or gpu; got {device!r}."
    device = device or ("gpu" if made_for().startswith("gpu ") else "cpu")
    if made_for() == fingerprint(device):
        return None
    if reason := problem():
        return f"set-up: {reason}"
    size = "one to three minutes"
    if device == "gpu":
        size = "2.1 GB to download for the GPU"
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            size += ", but no NVIDIA driver (libcuda.so.1) is visible here to run it"
    print(f"set-up: installing into .venv ({size})", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    STAMP.write_text(f"{device} ")  # should this fail, the next try knows for what
    build_tools = VENV / "build-tools.txt"
    lock = LOCKS[device].read_text()
    build_tools.write_text(requirements(lock, BUILD_TOOLS))
    for number, *what in (
        (len(BUILD_TOOLS), "--require-hashes", "-r", build_tools),
        (
            len(re.findall(r"(?m)^[\w.-]+==", lock)),
            "--require-hashes",
            "-r",
            LOCKS[device],
        ),
        (1, "--editable", ROOT),
    ):
        if not install(number, *what):
            return (
                "set-up: pip failed, see above and .venv/install.log. Run the command "
                "again when that is mended."
            )
    # for a plain `import mxnet`
    hook = "from selfatt_lib.machinery.install import write_hook; write_hook()"
    subprocess.run([VENV / "bin" / "python", "-c", hook], check=True)
    STAMP.write_text(fingerprint(device))
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
