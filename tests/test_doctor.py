import sys
import warnings
from importlib.metadata import PackageNotFoundError

import pytest

from conftest import run_code
from selfatt_lib import engines
from selfatt_lib.machinery import cuda, doctor
from selfatt_lib.machinery.cuda import GPU, Driver

GPUS = GPU("Tesla T4", (7, 5), 15 << 30), GPU("NVIDIA H200", (9, 0), 141 << 30)
LIBRARY = {"mxnet": "MXNet", "pytorch": "PyTorch"}


def report_of(printed):
    lines = printed.splitlines()
    return {line[:24].rstrip(): line[24:] for line in lines}


def test_the_doctor_reports_this_machine():
    done = run_code("from selfatt_lib.cli import main; main(['doctor'])")
    assert done.returncode == 0, done.stderr
    report = report_of(done.stdout)
    assert report["Python"].endswith(sys.executable)
    assert report["numpy"].count(".") == 2
    assert {"driver", "threads"} <= report.keys()
    for engine, name in LIBRARY.items():
        there = engine in engines.installed()
        said = "imported from " if there else "not installed"
        assert report[name].startswith(said)
    assert report["engine='auto'"].split()[0] in LIBRARY.values()
    assert report["device='auto'"] in ("cpu", "gpu:0")


@pytest.fixture
def only(monkeypatch):
    """Return a function that has only one package installed, as the doctor sees it."""

    def install(name):
        def version(package):
            if package != name:
                raise PackageNotFoundError
            return "1.0"

        monkeypatch.setattr(doctor, "version", version)

    return install


def test_every_gpu_is_listed_with_what_speaks_against_it(only, monkeypatch):
    monkeypatch.setattr(cuda, "driver", lambda: Driver((12, 8), GPUS))
    only("mxnet-cu112")
    report = dict(doctor.diagnose(lambda: "MXNet 1.9.1 on gpu:0")[0])
    assert report["driver"] == "runs CUDA up to 12.8"
    t4, h200 = map(str, GPUS)
    assert t4 == "Tesla T4 (compute capability 7.5, 15 GiB)"
    assert report["gpu:0"] == f"{t4}, MXNet has code for it"
    assert report["gpu:1"].startswith(f"{h200}, mxnet-cu112 has no machine code for")
    only("selfatt")
    assert dict(doctor.diagnose(str)[0])["gpu:1"] == h200


def test_the_reason_for_the_cpu_is_told_and_nothing_that_concerns_no_user(only):
    only("selfatt")

    def choose():
        warnings.warn("computing on the CPU:\nno code", stacklevel=1)
        warnings.warn("a module is deprecated", DeprecationWarning, stacklevel=1)
        return "MXNet 1.9.1 on cpu"

    report = dict(doctor.diagnose(choose)[0])
    assert report["engine='auto'"] == "MXNet 1.9.1"
    assert report["device='auto'"] == "cpu (computing on the CPU: no code)"


TORCH = """
from types import SimpleNamespace as Names
import warnings

version = Names(cuda="12.8")

def is_available():
    warnings.warn("the driver is old")
    return True

gpus = [Names(name="T4", major=7, minor=5, total_memory=15 << 30),
        Names(name="H200", major=9, minor=0, total_memory=141 << 30)]
cuda = Names(
    is_available=is_available,
    device_count=lambda: 2,
    get_device_properties=gpus.__getitem__,
    get_arch_list=lambda: ["sm_80", "sm_90"],
)
backends = Names(mps=Names(is_built=lambda: True, is_available=lambda: False))
"""
DOCTOR = """
import sys
from importlib.metadata import PackageNotFoundError
from selfatt_lib.machinery import cuda, doctor

there = sys.argv[2:]
def version(package):
    if package not in there:
        raise PackageNotFoundError
    return "1.0"

def choose():
    raise ImportError("nothing\\nworks")

sys.path.insert(0, sys.argv[1])
doctor.version = version
cuda.installed_wheel = lambda: "mxnet-cu112"
cuda.driver = lambda: None
sys.exit(doctor.main(choose))
"""


def test_pytorch_is_reported_with_its_gpus(tmp_path):
    (tmp_path / "torch.py").write_text(TORCH)
    # what cannot be imported of the other engine is no problem
    for mxnet, said in (("", "not installed"), ("mxnet-cu112", "cannot be imported: ")):
        done = run_code(DOCTOR, tmp_path, "torch", mxnet)
        assert done.returncode == 0, done.stderr
        report = report_of(done.stdout)
        assert report["MXNet"].startswith(said)
        assert report["PyTorch"] == f"imported from {tmp_path}, built with CUDA 12.8"
        assert report["PyTorch, CUDA"] == "available: True (the driver is old)"
        assert report["PyTorch, mps"] == "available: False"
        no_code = "(compute capability 7.5, 15 GiB), PyTorch has no code for it"
        assert report["PyTorch, gpu:0"] == f"T4 {no_code}"
        assert report["PyTorch, gpu:1"].endswith(", PyTorch has code for it")


def test_where_no_engine_can_be_imported_the_doctor_says_why(tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('no c10.dll')")
    done = run_code(DOCTOR, tmp_path, "torch", "mxnet-cu112")
    assert done.returncode == 1, done.stderr
    report = report_of(done.stdout)
    assert report["driver"] == "no NVIDIA driver (no libcuda.so.1)"
    assert report["MXNet"].startswith(
        "cannot be imported: mxnet-cu112 needs an NVIDIA driver, and none is visible"
    )
    assert report["PyTorch"] == "cannot be imported: no c10.dll"
    assert cuda.LIBRARIES.keys() <= report.keys()
    assert done.stdout.splitlines()[-1].split() == ["engine='auto'", "nothing", "works"]


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((8, 9), ["sm_80"], True),  # Ada runs Ampere's
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "sm_90a"], True),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["compute_80"], True),
        ((7, 5), ["sm_80", "compute_80"], False),
        ((12, 0), ["sm_120"], True),
        ((7, 5), [], False),
    ],
)
def test_a_gpu_runs_code_of_its_generation_or_ptx(capability, architectures, expected):
    assert doctor.has_code(capability, architectures) is expected


def test_the_command_says_in_one_sentence_that_both_engines_are_missing():
    code = """
from importlib.metadata import PackageNotFoundError
from selfatt_lib import engines
from selfatt_lib.cli import main
from selfatt_lib.machinery import doctor
def missing(_): raise PackageNotFoundError
doctor.version = missing
engines.installed = list
main(["doctor"])
"""
    done = run_code(code)
    assert done.returncode == 1
    assert done.stderr == ""
    report = report_of(done.stdout)
    assert report["MXNet"] == report["PyTorch"] == "not installed"
    assert report["engine='auto'"].startswith("neither MXNet nor PyTorch is installed")
