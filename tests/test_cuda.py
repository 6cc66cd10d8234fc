"""The loader of CUDA 11, with stand-ins for driver and libraries, compiled here."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from selfatt_lib.machinery import cuda
from selfatt_lib.machinery.cuda import GPU, Driver
from selfatt_lib.machinery.install import LIBRARIES

HERE = Path(__file__).parent
COMPILE = ("cc", "-shared", "-fPIC")
T4, H100 = GPU("Tesla T4", (7, 5), 15 << 30), GPU("NVIDIA H100", (9, 0), 80 << 30)


def compile_library(path, *sources_and_options):
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [*COMPILE, f"-Wl,-soname,{path.name}", "-o", path, *sources_and_options],
        check=True,
    )
    return path


@pytest.fixture(scope="session")
def driver_folder(tmp_path_factory):
    """Where a stand-in for the driver lies."""
    folder = tmp_path_factory.mktemp("driver")
    compile_library(folder / "libcuda.so.1", HERE / "libcuda.c")
    return folder


@pytest.fixture(scope="session")
def empty_library(tmp_path_factory):
    source = tmp_path_factory.mktemp("source") / "empty.c"
    source.write_text("int nothing;\n")
    return source


@pytest.fixture
def packages(tmp_path, empty_library):
    """Packages with a stand-in for each library, in CUDA's own order of folders."""
    for library, package in LIBRARIES.items():
        compile_library(
            tmp_path / "packages" / "nvidia" / package / "lib" / library, empty_library
        )
    return tmp_path / "packages"


def ask(code, folder, *packages, **environment):
    """Run code where only the stand-in driver and these packages are: its JSON."""
    hidden = ("MXNET_USE_FUSION", "CUDA_HOME", "CUDA_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            f"import json; from selfatt_lib.machinery import cuda; {code}",
        ],
        env={
            **kept,
            "LD_LIBRARY_PATH": str(folder),
            "PYTHONPATH": os.pathsep.join(map(str, [*packages, HERE.parent])),
            **environment,
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


LOAD = """
try:
    print(json.dumps({name: str(path) for name, path in cuda.load().items()}))
except ImportError as error:
    print(json.dumps(str(error)))
"""


# The driver


def test_the_driver_is_asked_for_its_version_and_its_gpus(driver_folder):
    found = ask(
        "d = cuda.driver(); gpus = [vars(gpu) for gpu in d.gpus]\n"
        "print(json.dumps([d.cuda, gpus, d.error]))",
        driver_folder,
        FAKE_CUDA_VERSION="12040",
        FAKE_CUDA_GPUS="Tesla T4:7:5,NVIDIA H100:9:0",
    )
    t4 = {"name": "Tesla T4", "capability": [7, 5], "memory": 15 << 30}
    h100 = {"name": "NVIDIA H100", "capability": [9, 0], "memory": 15 << 30}
    assert found == [[12, 4], [t4, h100], None]


@pytest.mark.parametrize(
    ("status", "error"), [("100", "CUDA_ERROR_NO_DEVICE"), ("803", "CUDA error 803")]
)
def test_what_the_driver_says_instead_is_kept(status, error, driver_folder):
    found = ask(
        "d = cuda.driver(); print(json.dumps([d.cuda, d.gpus, d.error]))",
        driver_folder,
        FAKE_CUDA_VERSION="11020",
        FAKE_CUDA_INIT=status,
    )
    assert found == [[11, 2], [], error]


def test_a_machine_without_a_driver_has_none(monkeypatch):
    def missing(name, *_, **__):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(cuda.ctypes, "CDLL", missing)
    assert cuda.driver() is None


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((3, 5), False),  # Kepler
        ((5, 2), True),  # Maxwell
        ((6, 1), True),  # Pascal
        ((7, 0), True),  # Volta
        ((7, 5), True),  # Turing
        ((8, 0), True),  # Ampere
        ((8, 6), True),
        ((8, 9), True),  # Ada
        ((9, 0), False),  # Hopper
        ((10, 0), False),  # Blackwell
        ((12, 0), False),
    ],
)
def test_machine_code_runs_on_gpus_of_its_own_generation(capability, expected):
    assert GPU("some GPU", capability, 0).has_code is expected


@pytest.mark.parametrize(
    ("driver", "index", "problem"),
    [
        (Driver((12, 4), (T4,)), 0, None),
        (Driver((11, 0), (T4, T4)), 1, None),
        (
            Driver((10, 2), (T4,)),
            0,
            (
                "the NVIDIA driver is too old: it runs CUDA up to 10.2, and CUDA 11 is "
                "needed. Install driver 450.80.02 or newer"
            ),
        ),
        (
            Driver((12, 4), error="CUDA_ERROR_NO_DEVICE"),
            0,
            "the NVIDIA driver sees no GPU. nvidia-smi should list one",
        ),
        (
            Driver((0, 0), error="CUDA_ERROR_STUB_LIBRARY"),
            0,
            (
                "the NVIDIA driver does not work (CUDA_ERROR_STUB_LIBRARY): nvidia-smi "
                "should say why. After an update of the driver, restart the machine"
            ),
        ),
        (Driver((12, 4), (T4,)), 1, "there is no GPU 1; the driver sees gpu:0 only"),
        (
            Driver((12, 4), (T4, T4)),
            5,
            "there is no GPU 5; the driver sees gpu:0 to gpu:1",
        ),
        (
            Driver((12, 4), (T4, H100)),
            1,
            (
                "mxnet-cu112 has no machine code for the NVIDIA H100 (compute "
                "capability 9.0, 80 GiB): it was built for 5.0 to 8.9, before Hopper "
                "and Blackwell. Take PyTorch (make setup ENGINE=pytorch), an older GPU "
                "(T4, L4, A100), or the CPU"
            ),
        ),
    ],
)
def test_each_reason_against_a_gpu_has_its_sentence(
    driver, index, problem, monkeypatch
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert driver.problem(index) == problem


def test_a_gpu_may_be_hidden(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES='' may hide it" in Driver((12, 4)).problem()


# The libraries


def test_every_library_is_loaded_from_its_package(driver_folder, packages):
    loaded = ask(LOAD, driver_folder, packages)
    assert list(loaded) == list(LIBRARIES)
    for library, path in loaded.items():
        assert path == str(packages / "nvidia" / LIBRARIES[library] / "lib" / library)


def test_libraries_kept_apart_come_before_those_of_other_packages(
    driver_folder, packages, empty_library
):
    own = compile_library(
        packages / "cuda11/nvidia-cublas-cu11/nvidia/cublas/lib/libcublas.so.11",
        empty_library,
    )
    loaded = ask(LOAD, driver_folder, packages)
    assert loaded["libcublas.so.11"] == str(own)
    assert str(packages / "nvidia") in loaded["libnccl.so.2"]


def test_a_toolkit_is_searched_after_the_packages(
    driver_folder, packages, tmp_path, empty_library
):
    (library,) = packages.rglob("libcufft.so.10")
    library.unlink()
    other = compile_library(tmp_path / "kit" / "lib64" / library.name, empty_library)
    compile_library(tmp_path / "kit" / "lib64" / "libnccl.so.2", empty_library)
    loaded = ask(LOAD, driver_folder, packages, CUDA_HOME=str(tmp_path / "kit"))
    assert loaded["libcufft.so.10"] == str(other)
    assert str(packages) in loaded["libnccl.so.2"]


def test_what_only_the_linker_finds_is_loaded_by_its_name(
    driver_folder, packages, tmp_path, empty_library
):
    name = "libnowhere.so.1"  # a name that no machine has
    system = compile_library(tmp_path / "system" / name, empty_library)
    folders = f"{driver_folder}:{system.parent}"
    code = f"cuda.LIBRARIES = {{{name!r}: 'nvidia-nowhere==1'}}\n{LOAD}"
    assert ask(code, folders, packages) == {name: str(system)}


def test_a_library_that_is_loaded_already_is_taken_as_it_is(
    driver_folder, packages, tmp_path, empty_library
):
    theirs = compile_library(tmp_path / "torch" / "libnccl.so.2", empty_library)
    loaded = ask(
        f"import ctypes; ctypes.CDLL({str(theirs)!r})\n{LOAD}", driver_folder, packages
    )
    assert loaded["libnccl.so.2"] == str(theirs)


def test_a_missing_library_is_named_with_its_package(driver_folder, packages):
    pin = "nvidia-curand-cu11==10.3.0.86"  # under a name that no machine has
    code = f"cuda.LIBRARIES = {{'libnowhere.so.1': {pin!r}}}\n{LOAD}"
    assert ask(code, driver_folder, packages) == (
        "mxnet-cu112 needs libnowhere.so.1, which was not found. nvidia-curand-cu11 "
        "brings it: pip install --force-reinstall --no-deps "
        "nvidia-curand-cu11==10.3.0.86"
    )


def test_a_damaged_library_is_named_with_its_path(driver_folder, packages):
    (library,) = packages.rglob("libcudnn.so.8")
    library.write_bytes(b"not a library")
    message = ask(LOAD, driver_folder, packages)
    assert message.startswith(
        f"{library} does not load, or clashes with another library: "
    )
    assert "nvidia-cudnn-cu11 brings it" in message
    assert f"LD_LIBRARY_PATH='{driver_folder}' may lead to another CUDA" in message


def test_a_library_that_lacks_what_it_stands_on_is_named(
    driver_folder, packages, tmp_path, empty_library
):
    """As cuBLAS of one version beside cuBLASLt of another."""
    other = compile_library(tmp_path / "other" / "libcublasLt.so.99", empty_library)
    (library,) = packages.rglob("libcublas.so.11")
    compile_library(library, empty_library, "-Wl,--no-as-needed", other)
    message = ask(LOAD, driver_folder, packages)
    assert message.startswith(f"{library} does not load")
    assert "libcublasLt.so.99: cannot open shared object file" in message


def test_without_a_driver_the_cpu_wheel_is_advised(monkeypatch):
    monkeypatch.setattr(cuda, "driver", lambda: None)
    with pytest.raises(ImportError) as error:
        cuda.load()
    assert str(error.value) == (
        "mxnet-cu112 needs an NVIDIA driver, and none is visible here (no "
        "libcuda.so.1). In a container, start it with its GPUs (docker run --gpus "
        "all); on a cluster, go to a node with a GPU. On a machine without one, "
        "install the CPU wheel: make setup DEVICE=cpu (or: pip uninstall -y "
        "mxnet-cu112; pip install --no-deps mxnet==1.9.1)"
    )


@pytest.mark.parametrize(("version", "expected"), [("11040", "0"), ("11080", "unset")])
def test_operators_are_not_fused_by_a_compiler_newer_than_the_driver(
    version, expected, driver_folder, packages
):
    code = (
        "import os; cuda.load(); "
        "print(json.dumps(os.environ.get('MXNET_USE_FUSION', 'unset')))"
    )
    assert ask(code, driver_folder, packages, FAKE_CUDA_VERSION=version) == expected


def test_a_part_of_cudnn_elsewhere_is_not_taken(
    driver_folder, packages, tmp_path, empty_library
):
    """cuDNN would open its parts by name; those of its package are loaded by then."""
    name = "libcudnn_ops_infer.so.8"
    other = compile_library(tmp_path / "module" / name, empty_library)
    code = f"""
import ctypes, os
cuda.load()
handle = ctypes.CDLL({name!r})._handle
link = ctypes.cast(handle, ctypes.POINTER(cuda._LinkMap)).contents
print(json.dumps(os.fsdecode(link.name)))"""
    assert str(packages) in ask(code, f"{other.parent}:{driver_folder}", packages)


# The wheels


def register(folder, name):
    """Make a package known by name, without its content."""
    info = folder / f"{name.replace('-', '_')}-1.9.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.9.1\n"
    )


@pytest.fixture
def nothing_installed(tmp_path, monkeypatch):
    """Only what a test puts into this folder is installed."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


@pytest.mark.parametrize("name", ["mxnet", "mxnet-cu112"])
def test_the_installed_wheel_is_found(name, nothing_installed):
    register(nothing_installed, name)
    (nothing_installed / "mxnet").mkdir()
    (nothing_installed / "mxnet" / "libmxnet.so").touch()
    assert cuda.installed_wheel() == name


def test_no_wheel_is_said(nothing_installed):
    with pytest.raises(ImportError, match=r"MXNet is not installed: make setup"):
        cuda.installed_wheel()


def test_both_wheels_are_a_mixture(nothing_installed):
    register(nothing_installed, "mxnet")
    register(nothing_installed, "mxnet-cu112")
    with pytest.raises(
        ImportError,
        match=r"mxnet and mxnet-cu112 are both installed, over one another.*"
        r"Remove .venv.*pip uninstall -y mxnet mxnet-cu112",
    ):
        cuda.installed_wheel()


def test_a_wheel_whose_library_went_with_the_other_is_said(nothing_installed):
    register(nothing_installed, "mxnet-cu112")
    with pytest.raises(
        ImportError,
        match=r"mxnet-cu112 is installed, but its libmxnet.so is gone.*"
        r"--force-reinstall --no-deps mxnet-cu112==1.9.1",
    ):
        cuda.installed_wheel()


def test_the_libraries_are_those_of_the_extra():
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["mxnet-gpu"]
    wanted = {each for each in extra if each.startswith("nvidia-")}
    assert wanted == {*cuda.LIBRARIES.values()}
