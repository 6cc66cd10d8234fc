import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest
from test_processes import fork, in_a_process, wait_for

from selfatt_lib.machinery import cuda, hook, runtime
from selfatt_lib.machinery.cuda import GPU, Driver
from selfatt_lib.machinery.runtime import (
    choose_devices,
    choose_threads,
    mx,
    seed_everything,
)
from selfatt_lib.model import SelfAttentiveBiLSTM

T4, H100 = GPU("Tesla T4", (7, 5), 15 << 30), GPU("NVIDIA H100", (9, 0), 80 << 30)


def test_only_missing_numpy_names_are_added():
    code = """
import numpy as np
before = dict(vars(np))
import selfatt_lib.machinery.runtime
from selfatt_lib.machinery import compat
added = set(vars(np)) - set(before)
public = [name for name in before if not name.startswith("_")]
changed = [name for name in public if vars(np)[name] is not before[name]]
wanted = set(compat._RENAMED) | set(compat._CONSTANTS) | set(compat._LOOKED_UP_ONLY)
# NumPy loads some of its own parts when they are first asked for
modules = {name for name in added if type(vars(np)[name]).__name__ == "module"}
assert not changed, changed
assert added - modules <= wanted, added - wanted
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_mxnet_computes_beside_this_numpy():
    assert mx.nd.array(np.eye(2)).sum().asscalar() == 2


def test_a_name_that_mxnet_only_looks_up_says_that_it_is_gone():
    with pytest.raises(NotImplementedError, match="npv was removed"):
        np.npv(0.1, [1, 2])


# Without this library's runtime


@pytest.mark.parametrize(
    "statement", ["import mxnet", "import gluonnlp", "from mxnet import gluon"]
)
def test_a_plain_import_works_in_this_environment(statement, tmp_path):
    subprocess.run([sys.executable, "-c", statement], cwd=tmp_path, check=True)


def test_a_plain_import_that_cannot_work_says_why():
    code = """
from selfatt_lib.machinery import cuda
cuda.installed_wheel = lambda: "mxnet-cu112"
cuda.driver = lambda: None
import mxnet
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "\nImportError: mxnet-cu112 needs an NVIDIA driver" in done.stderr


def test_python_starts_without_numpy():
    code = """
import sys
assert "selfatt_lib.machinery.hook" in sys.modules
assert "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("library", ["", "raise RuntimeError"])
def test_python_starts_without_a_word_where_this_library_is_gone_or_broken(
    library, tmp_path
):
    (tmp_path / "selfatt.pth").write_text(hook.PTH)
    if library:
        (tmp_path / "selfatt_lib").mkdir()
        (tmp_path / "selfatt_lib" / "__init__.py").write_text(library)
    code = f"import site; site.addsitedir({str(tmp_path)!r}); print('started')"
    command = [sys.executable, "-E", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("started\n", "")


# Threads


def test_a_process_that_only_imports_mxnet_can_be_forked_again_and_again():
    """After each fork the engine calls a function of ours, which the next waits for."""
    code = """
import os
from selfatt_lib.machinery.runtime import mx
for _ in range(20):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def threads_of_operators():
    """Ask the engine's thread."""
    found = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    def ask(_, __):
        found.append(mx.base._LIB.omp_get_max_threads())

    device = (ctypes.c_int32 * 2)(mx.cpu().device_typeid, 0)
    nothing = (None, 0, None, 0, None, 0, None)
    mx.base._LIB.MXEnginePushSyncND(ask, None, None, device, *nothing)
    mx.nd.waitall()
    return found[0]


@pytest.mark.parametrize(
    ("hidden_size", "asked", "expected"),
    [(300, None, 6), (64, None, 3), (64, "6", 6), (300, "6", 6)],
)
def test_a_large_model_computes_with_all_cores(
    hidden_size, asked, expected, monkeypatch
):
    monkeypatch.setattr(runtime, "THREADS", 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    choose_threads(hidden_size)
    assert threads_of_operators() == expected
    monkeypatch.undo()
    choose_threads()
    assert threads_of_operators() == max(
        1, runtime.THREADS // (1 if "OMP_NUM_THREADS" in os.environ else 2)
    )


def test_a_fork_leaves_the_parents_choice_of_threads_alone():
    in_a_process(fork_and_ask)


def fork_and_ask():
    os.environ.pop("OMP_NUM_THREADS", None)
    runtime.THREADS = 6
    choose_threads(64)
    wait_for(fork(bool, True))
    assert threads_of_operators() == 3


def test_a_process_may_be_forked_before_results_are_read():
    in_a_process(compute_and_fork)


def compute_and_fork():
    sizes = {"attention_units": 5, "attention_hops": 2, "classifier_units": 8}
    model = SelfAttentiveBiLSTM(1000, 50, 6, 1, **sizes)
    model.initialize()
    ones, length = mx.nd.ones((64, 50), dtype="int32"), mx.nd.full(64, 50)
    outputs = [model(ones, length.astype("int32")) for _ in range(20)]
    wait_for(fork(bool, True))
    assert all(logits.asnumpy().any() for logits, _ in outputs)


# What stops the import


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        (
            "cuda.installed_wheel = lambda: 'mxnet-cu112'; cuda.driver = lambda: None",
            "mxnet-cu112 needs an NVIDIA driver, and none is visible here",
        ),
        (
            "import sys; sys.path.insert(0, {broken!r})",
            (
                f"libmxnet.so of {runtime.WHEEL} does not load: version "
                "`libcudnn.so.8' not found. `python -m selfatt_lib doctor` lists"
            ),
        ),
    ],
)
def test_a_wheel_that_cannot_be_imported_says_why(patches, message, tmp_path):
    (tmp_path / "mxnet").mkdir()
    (tmp_path / "mxnet" / "__init__.py").write_text(
        'raise OSError("version `libcudnn.so.8\' not found")'
    )
    patches = patches.format(broken=str(tmp_path))
    code = (
        f"from selfatt_lib.machinery import cuda; {patches}; "
        "import selfatt_lib.machinery.runtime"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1].startswith(f"ImportError: {message}")


# Devices


@pytest.fixture
def gpus(monkeypatch):
    """Return what gives this machine the GPU wheel, and GPUs that are the CPU."""

    def give(*gpus, version=(12, 4)):
        monkeypatch.setattr(runtime, "WHEEL", "mxnet-cu112")
        monkeypatch.setattr(cuda, "driver", lambda: Driver(version, gpus))
        monkeypatch.setattr(mx, "gpu", mx.cpu)

    return give


@pytest.mark.parametrize("name", ["cpu", "auto"])
def test_without_a_gpu_the_cpu_is_chosen(name, gpus):
    gpus()
    assert choose_devices(name) == ["cpu"]


def test_the_first_gpu_that_works_is_chosen(gpus):
    gpus(H100, T4)
    assert choose_devices() == ["gpu:1"]


def test_gpus_are_taken_by_their_numbers(gpus):
    gpus(T4, T4, T4)
    assert choose_devices("gpu") == ["gpu:0"]
    assert choose_devices("gpu:2") == ["gpu:2"]
    assert choose_devices("gpu:0, gpu:2") == ["gpu:0", "gpu:2"]


def test_with_the_cpu_wheel_the_cpu_is_chosen(gpus, monkeypatch):
    gpus(T4)
    monkeypatch.setattr(runtime, "WHEEL", "mxnet")
    assert choose_devices() == ["cpu"]
    monkeypatch.setattr(mx, "gpu", None)  # it is not tried
    with pytest.raises(
        RuntimeError, match=r"the installed MXNet is the CPU wheel.*setup DEVICE=gpu"
    ):
        choose_devices("gpu")


@pytest.mark.parametrize(
    ("gpu", "version", "reason"),
    [
        (H100, (12, 4), "has no machine code for the NVIDIA H100"),
        (T4, (10, 2), "the NVIDIA driver is too old"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_left_with_a_warning_or_an_error(
    gpu, version, reason, gpus
):
    gpus(gpu, version=version)
    with pytest.warns(UserWarning, match=f"computing on the CPU: .*{reason}"):
        assert choose_devices("auto") == ["cpu"]
    with pytest.raises(
        RuntimeError,
        match=f"device='gpu' was asked for, and gpu:0 cannot be used: .*{reason}.*"
        "Or use device='cpu' or 'auto'",
    ):
        choose_devices("gpu")


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (None, "there is no NVIDIA driver"),
        (Driver((12, 4), (H100,)), "no machine code for the NVIDIA H100"),
    ],
)
def test_the_gpu_wheel_is_advised_only_where_it_would_help(
    driver, reason, gpus, monkeypatch
):
    monkeypatch.setattr(runtime, "WHEEL", "mxnet")
    monkeypatch.setattr(cuda, "driver", lambda: driver)
    with pytest.raises(RuntimeError, match=f"gpu:0 cannot be used: .*{reason}"):
        choose_devices("gpu")


def test_a_driver_that_does_not_work_is_told(gpus, monkeypatch):
    gpus()
    broken = Driver((12, 4), error="CUDA_ERROR_SYSTEM_DRIVER_MISMATCH")
    monkeypatch.setattr(cuda, "driver", lambda: broken)
    with pytest.warns(UserWarning, match=r"on the CPU: .*not work \(CUDA_ERROR_SYSTEM"):
        assert choose_devices() == ["cpu"]


def test_a_gpu_that_is_not_there_is_an_error(gpus):
    gpus(T4)
    with pytest.raises(RuntimeError, match=r"gpu:1 cannot be used: there is no GPU 1"):
        choose_devices("gpu:0,gpu:1")


def test_a_gpu_on_which_nothing_runs_is_not_chosen(gpus, monkeypatch):
    real = mx.gpu
    gpus(T4)
    monkeypatch.setattr(mx, "gpu", real)
    with pytest.warns(UserWarning, match="no computation ran on the Tesla T4"):
        assert choose_devices("auto") == ["cpu"]
    with pytest.raises(
        RuntimeError, match=r"no computation ran on the Tesla T4.*says: "
    ):
        choose_devices("gpu")


@pytest.mark.parametrize(
    "name",
    ["tpu", "gpu:x", "GPU", "", 0, None, "gpu:0,gpu:0", "gpu,gpu:0", "cpu,gpu", "gpu,"],
)
def test_an_unknown_device_name_is_refused(name):
    with pytest.raises(
        ValueError, match=r"device must be 'auto', 'cpu', 'mps', 'gpu', 'gpu:N'.*; got "
    ):
        choose_devices(name)


def test_the_same_seed_draws_the_same_everywhere():
    import random

    def draw():
        return (
            random.random(),
            np.random.rand(),
            mx.nd.random.uniform(shape=(4,)).asnumpy().tolist(),
        )

    seed_everything(7)
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draw(), first))
