"""Make .venv from a lock: ``python3 tools/setup.py [cpu|gpu]``. Does nothing when that was done and the lock has not changed.

Without an argument, it keeps to what .venv was made for, at first the CPU. The two MXNet wheels share a folder, so the one never goes
over the other: .venv is made anew.

Runs on any Python since 3.8 without anything installed, so that it can say what is missing.
"""

import ctypes
import hashlib
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

# Needed by pip to build GluonNLP, which comes as source, so they are installed first.
BUILD_TOOLS = ("pip", "setuptools", "wheel", "cython")


# Why a system cannot be used. Of those not named here, MXNet was never built for them.
REASONS = {
    "Linux aarch64": "MXNet on ARM needs the Arm Performance Libraries, which no package index has",
    "Darwin arm64": "MXNet was never built for Apple silicon",
    "Darwin x86_64": "Numba is no longer built for macOS on Intel",
}


def problem():
    """Return why the environment cannot be made on this machine, in one sentence, or None."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        found = platform.python_version()
        return (
            f"Python 3.11 to 3.14 is needed and {sys.executable} is {found}: install one, or let uv do it with "
            "'uv venv --python 3.13 ~/python3.13' and say 'make PYTHON=~/python3.13/bin/python setup'."
        )
    here = f"{platform.system()} {platform.machine()}"
    if here != "Linux x86_64":
        reason = REASONS.get(here, f"MXNet was never built for {here}")
        return f"{reason}: use Linux on x86-64, a container with it, or Colab."
    if platform.libc_ver()[0] != "glibc":
        return "MXNet's wheels need glibc and this Linux has another C library (Alpine?): use Debian, Ubuntu, Fedora or the like."
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if shutil.which(compiler.split()[0]) is None:
        return "GluonNLP is compiled at set-up and there is no C compiler: install one (on Debian: apt install gcc)."
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return f"GluonNLP is compiled at set-up and the headers of {sys.executable} are missing: install them (on Debian: apt install python3-dev)."
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return f"{sys.executable} cannot make virtual environments: install the missing part (on Debian: apt install python3-venv)."
    return None


def fingerprint(device):
    """Return what the environment for a device is made from."""
    return device + " " + hashlib.sha256(LOCKS[device].read_bytes()).hexdigest()


def made_for():
    """Return what is installed: "cpu 6b1f…" or "gpu …", or an empty text."""
    return STAMP.read_text() if STAMP.is_file() else ""


def requirements(lock, names):
    """Return the entries of a lock, hashes included, that belong to the named packages."""
    entries = re.split(r"\n(?=\S)", lock)
    return "\n".join(
        entry for entry in entries if re.split(r"[=\s]", entry, maxsplit=1)[0] in names
    )


def install(arguments, number):
    """Run pip, show how far it is of so many packages, and return whether it succeeded. What it says goes to .venv/install.log."""
    options = ["--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    command = [VENV / "bin" / "python", "-m", "pip", "install", *options, *arguments]
    started, done, shown = time.monotonic(), 0, sys.stdout.isatty()
    with open(VENV / "install.log", "a+") as log:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as pip:
            for line in pip.stdout:
                log.write(line)
                done += line.startswith(
                    ("Collecting ", "Processing ", "Requirement already")
                )
                # meant for another Python or platform
                number -= line.startswith("Ignoring ")
                if shown and done:
                    bar = "█" * round(30 * done / number)
                    left = (time.monotonic() - started) * (number - done) / done
                    step = f"about {left:.0f} s left" if done < number else "unpacking"
                    print(
                        f"\rset-up: {bar:<30} {done} of {number} packages, {step}\033[K",
                        end="",
                        flush=True,
                    )
        if shown and number > 1:
            print()
        if pip.returncode:
            log.seek(0)
            print(
                *[line for line in log if not line.startswith("WARNING")][-15:],
                sep="",
                file=sys.stderr,
            )
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
            print(
                "set-up: no NVIDIA driver is visible here (no libcuda.so.1), and MXNet will not run without one."
            )
    print(f"set-up: installing into .venv ({size})", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    STAMP.write_text(f"{device} ")  # should this fail, the next try knows for what
    lock = LOCKS[device].read_text()
    build = VENV / "build-tools.txt"
    build.write_text(requirements(lock, BUILD_TOOLS))
    for arguments, number in (
        (["--require-hashes", "-r", build], len(BUILD_TOOLS)),
        (
            ["--require-hashes", "-r", LOCKS[device]],
            len(re.findall(r"^[\w.-]+==", lock, re.MULTILINE)),
        ),
        (["--editable", ROOT], 1),
    ):
        if not install(arguments, number):
            return "set-up: pip failed, see above and .venv/install.log. Run the command again when that is mended."
    # for a plain `import mxnet`
    hook = "from selfatt_lib.machinery.install import write_hook; write_hook()"
    subprocess.run([VENV / "bin" / "python", "-c", hook], check=True)
    STAMP.write_text(fingerprint(device))
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
