"""What `mxnet-cu112` needs and does not bring: a driver, and the libraries of CUDA 11.

The libraries come as packages, so that nobody needs root or NVIDIA's toolkit. Nothing
of MXNet is imported here: this also says why MXNet cannot be.
"""

import ctypes
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

# What libmxnet.so asks the linker for, and what those libraries ask for in turn, in the
# order of loading; and the package that brings it, as in the extra `mxnet-gpu`.
LIBRARIES = {
    "libcudart.so.11.0": "nvidia-cuda-runtime-cu11==11.8.89",
    "libcublasLt.so.11": "nvidia-cublas-cu11==11.11.3.6",
    "libcublas.so.11": "nvidia-cublas-cu11==11.11.3.6",
    "libnvrtc.so.11.2": "nvidia-cuda-nvrtc-cu11==11.8.89",
    "libcufft.so.10": "nvidia-cufft-cu11==10.9.0.58",
    "libcurand.so.10": "nvidia-curand-cu11==10.3.0.86",
    "libcusolver.so.11": "nvidia-cusolver-cu11==11.4.1.48",
    "libnvToolsExt.so.1": "nvidia-nvtx-cu11==11.8.86",
    "libnccl.so.2": "nvidia-nccl-cu11==2.21.5",
}
# cuDNN opens its parts only when it needs them, from LD_LIBRARY_PATH first, where
# another version may lie.
PARTS = [
    f"_{what}_{when}" for what in ("ops", "cnn", "adv") for when in ("infer", "train")
]
LIBRARIES |= {
    f"libcudnn{part}.so.8": "nvidia-cudnn-cu11==8.9.6.50" for part in (*PARTS, "")
}

# The compute capabilities that libmxnet.so has machine code for. It has no PTX, which a
# driver could translate for others.
MACHINE_CODE = ((5, 0), (6, 0), (7, 0), (8, 0), (8, 6))

DRIVER = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
NO_DEVICE = "CUDA_ERROR_NO_DEVICE"
OLDEST_DRIVER = (11, 0)  # NVIDIA keeps every CUDA 11.x compatible with it
PTX_DRIVER = (11, 8)  # what NVRTC 11.8 compiles needs a driver of its own version


@dataclass(frozen=True)
class GPU:
    """A GPU: its name, compute capability as in (7, 5), and memory in bytes."""

    name: str
    capability: tuple
    memory: int

    @property
    def has_code(self):
        """Whether the wheel's machine code runs: that for X.y does on X.z if z ≥ y."""
        major, minor = self.capability
        return any(major == x and minor >= y for x, y in MACHINE_CODE)

    def __str__(self):
        capability = ".".join(map(str, self.capability))
        memory = f"{self.memory / 2**30:.0f} GiB"
        return f"{self.name} (compute capability {capability}, {memory})"


@dataclass(frozen=True)
class Driver:
    """The newest CUDA that it runs, as in (12, 4), GPUs in MXNet's order, its error."""

    cuda: tuple
    gpus: tuple = ()
    error: str | None = None

    def problem(self, index=0):
        """Return why GPU `index` cannot be used, with the way out: str, or None."""
        if self.error not in (None, NO_DEVICE):
            return (
                f"the NVIDIA driver does not work ({self.error}): nvidia-smi should "
                "say why. After an update of the driver, restart the machine"
            )
        if self.cuda < OLDEST_DRIVER:
            return (
                "the NVIDIA driver is too old: it runs CUDA up to "
                f"{self.cuda[0]}.{self.cuda[1]}, and CUDA 11 is needed. "
                "Install driver 450.80.02 or newer"
            )
        if not self.gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            hidden = f", and CUDA_VISIBLE_DEVICES={visible!r} may hide it"
            return "the NVIDIA driver sees no GPU. nvidia-smi should list one" + (
                "" if visible is None else hidden
            )
        if index >= len(self.gpus):
            last = len(self.gpus) - 1
            others = f" to gpu:{last}" if last else " only"
            return f"there is no GPU {index}; the driver sees gpu:0{others}"
        if not self.gpus[index].has_code:
            return (
                f"mxnet-cu112 has no machine code for the {self.gpus[index]}: it was "
                "built for 5.0 to 8.9, before Hopper and Blackwell. Take PyTorch (make "
                "setup ENGINE=pytorch), an older GPU (T4, L4, A100), or the CPU"
            )
        return None


def installed_wheel():
    """Return "mxnet" (CPU) or "mxnet-cu112" (GPU); ImportError unless one is whole."""
    wheels = {}
    for name in ("mxnet", "mxnet-cu112"):
        with suppress(PackageNotFoundError):
            wheels[name] = distribution(name)
    if not wheels:
        raise ImportError(
            "MXNet is not installed: make setup (or: pip install --no-deps "
            "mxnet==1.9.1; on a GPU mxnet-cu112==1.9.1)"
        )
    if len(wheels) > 1:
        raise ImportError(
            "mxnet and mxnet-cu112 are both installed, over one another, and either "
            "may be broken. Remove .venv and run make setup (or: pip uninstall -y "
            "mxnet mxnet-cu112, then pip install --no-deps the one you want)"
        )
    ((name, wheel),) = wheels.items()
    files = [wheel.locate_file(f"mxnet/libmxnet.{end}") for end in ("so", "dylib")]
    if not any(file.is_file() for file in files):
        raise ImportError(
            f"{name} is installed, but its libmxnet.so is gone: another MXNet was "
            "probably removed over it. Remove .venv and run make setup (or: pip "
            f"install --force-reinstall --no-deps {name}==1.9.1)"
        )
    return name


def driver():
    """Ask the driver which CUDA it runs and which GPUs it sees: Driver, or None."""
    try:
        cuda = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    number = ctypes.c_int()

    def ask(function, *arguments):
        if status := function(*arguments):
            name = ctypes.c_char_p()
            cuda.cuGetErrorName(status, ctypes.byref(name))
            raise OSError((name.value or b"CUDA error %d" % status).decode())
        return number.value

    def describe(index):
        device = ask(cuda.cuDeviceGet, ctypes.byref(number), index)
        name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
        ask(cuda.cuDeviceGetName, name, len(name), device)
        ask(cuda.cuDeviceTotalMem_v2, ctypes.byref(memory), device)
        capability = tuple(
            ask(cuda.cuDeviceGetAttribute, ctypes.byref(number), attribute, device)
            for attribute in (75, 76)  # compute capability, major and minor
        )
        return GPU(name.value.decode(errors="replace"), capability, memory.value)

    version = (0, 0)
    try:
        version = ask(cuda.cuDriverGetVersion, ctypes.byref(number))
        version = (version // 1000, version % 1000 // 10)
        ask(cuda.cuInit, 0)
        count = ask(cuda.cuDeviceGetCount, ctypes.byref(number))
        return Driver(version, tuple(map(describe, range(count))))
    except OSError as error:
        return Driver(version, error=str(error))


def find(library):
    """Return where one of `LIBRARIES` lies, or None to leave it to the system's linker.

    First come the packages, in ``cuda11`` (where `install` keeps them apart from
    PyTorch's) and in ``site-packages``; then conda's environment and CUDA's toolkits.
    """
    paths = [Path(entry) for entry in sys.path]
    packages = [own for path in paths for own in sorted(path.glob("cuda11/*"))]
    folders = [
        lib for root in packages + paths for lib in sorted(root.glob("nvidia/*/lib"))
    ]
    toolkits = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    toolkits += sorted(Path("/usr/local").glob("cuda-11*"), reverse=True)
    folders += [Path(sys.prefix, "lib")]
    folders += [Path(kit, "lib64") for kit in toolkits if kit is not None]
    return next((path for lib in folders if (path := lib / library).is_file()), None)


class _LinkMap(ctypes.Structure):  # what a handle of glibc's dlopen points to
    _fields_ = (("address", ctypes.c_void_p), ("name", ctypes.c_char_p))


def load():
    """Load `LIBRARIES` into this process, for libmxnet.so to find: dict, name to path.

    One that is loaded already, by PyTorch say, is taken as it is: two of one name in a
    process would be mixed up. ImportError says what is missing or clashes.
    """
    found = driver()
    if found is None:
        raise ImportError(
            "mxnet-cu112 needs an NVIDIA driver, and none is visible here (no "
            "libcuda.so.1). In a container, start it with its GPUs (docker run --gpus "
            "all); on a cluster, go to a node with a GPU. On a machine without one, "
            "install the CPU wheel: make setup DEVICE=cpu (or: pip uninstall -y "
            "mxnet-cu112; pip install --no-deps mxnet==1.9.1)"
        )
    if found.cuda < PTX_DRIVER:
        # MXNet's fused operators are compiled while it runs
        os.environ.setdefault("MXNET_USE_FUSION", "0")
    # It would warn that cuDNN is newer than the one it was built with.
    os.environ.setdefault("MXNET_CUDNN_LIB_CHECKING", "0")
    origins = {}
    for library, package in LIBRARIES.items():
        path = None
        try:
            handle = ctypes.CDLL(library, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
        except OSError:
            path = find(library)
            try:
                handle = ctypes.CDLL(str(path or library))
            except OSError as error:
                raise ImportError(
                    _why_not_loaded(library, package, path, error)
                ) from error
        link = ctypes.cast(handle._handle, ctypes.POINTER(_LinkMap)).contents
        origins[library] = Path(os.fsdecode(link.name))
    return origins


def _why_not_loaded(library, package, path, error):
    name, pip = package.split("==")[0], "pip install --force-reinstall --no-deps"
    mend = f"{name} brings it: {pip} {package}"
    if path is None:
        return f"mxnet-cu112 needs {library}, which was not found. {mend}"
    searched = os.environ.get("LD_LIBRARY_PATH")
    also = f" LD_LIBRARY_PATH={searched!r} may lead to another CUDA."
    return (
        f"{path} does not load, or clashes with another library: {error}. {mend}."
        + (also if searched else "")
    )
