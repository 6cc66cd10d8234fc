import subprocess
import sys

from selfatt_lib.machinery import cuda, doctor, runtime
from selfatt_lib.machinery.cuda import GPU, Driver
from selfatt_lib.machinery.install import LIBRARIES
from selfatt_lib.machinery.runtime import mx


def test_the_doctor_reports_this_machine():
    done = subprocess.run(
        [sys.executable, "-m", "selfatt_lib.machinery.doctor"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert report["Python"].endswith(sys.executable)
    assert "1.9.1" in (report["mxnet"], report["mxnet-cu112"])
    assert report["numpy"].count(".") == 2
    assert report["device='auto'"] in ("cpu(0)", "gpu(0)")
    assert {"driver", "threads", "MXNet"} <= report.keys()


def test_every_gpu_is_listed_with_what_speaks_against_it(monkeypatch):
    gpus = GPU("Tesla T4", (7, 5), 15 << 30), GPU("NVIDIA H200", (9, 0), 141 << 30)
    monkeypatch.setattr(runtime, "WHEEL", "mxnet-cu112")
    monkeypatch.setattr(mx, "gpu", mx.cpu)
    monkeypatch.setattr(cuda, "driver", lambda: Driver((12, 8), gpus))
    report = dict(doctor.diagnose()[0])
    assert report["driver"] == "runs CUDA up to 12.8"
    assert (
        report["gpu:0"]
        == "Tesla T4 (compute capability 7.5, 15 GiB), MXNet has code for it"
    )
    assert report["gpu:1"].startswith(
        "NVIDIA H200 (compute capability 9.0, 141 GiB), mxnet-cu112 has no machine code"
    )


def test_the_reason_for_the_cpu_is_told(monkeypatch):
    monkeypatch.setattr(runtime, "WHEEL", "mxnet-cu112")
    h200 = GPU("NVIDIA H200", (9, 0), 141 << 30)
    monkeypatch.setattr(cuda, "driver", lambda: Driver((12, 8), (h200,)))
    report = dict(doctor.diagnose()[0])
    assert report["device='auto'"].startswith(
        "cpu(0) (computing on the CPU: mxnet-cu112"
    )


def test_where_mxnet_cannot_be_imported_the_doctor_says_why():
    code = """
import sys
from selfatt_lib.machinery import cuda, doctor
cuda.installed_wheel = lambda: "mxnet-cu112"
cuda.driver = lambda: None
sys.exit(doctor.main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "driver                  no NVIDIA driver" in done.stdout
    gpu_wheel = "mxnet-cu112             1.9.1" in done.stdout
    for library in LIBRARIES:
        assert (f"\n{library:<24}" in done.stdout) is gpu_wheel
    assert done.stdout.splitlines()[-1].startswith(
        "mxnet-cu112 needs an NVIDIA driver, and none is visible here"
    )


def test_the_command_says_in_one_sentence_that_mxnet_is_missing():
    code = """
from selfatt_lib.machinery import cuda
from selfatt_lib.cli import main
def missing(): raise ImportError("MXNet is not installed: make setup")
cuda.installed_wheel = missing
main(["doctor"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "MXNet is not installed: make setup" in done.stdout + done.stderr
