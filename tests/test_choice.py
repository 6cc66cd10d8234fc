"""Which engine computes, and on what; and what does not go together."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from conftest import CHOSEN, ENGINE
from selfatt_lib import engines
from selfatt_lib.config import TrainingConfig
from selfatt_lib.machinery import cuda
from selfatt_lib.machinery.cuda import GPU, Driver
from selfatt_lib.machinery.devices import gpu_numbers

T4, H100 = GPU("Tesla T4", (7, 5), 15 << 30), GPU("NVIDIA H100", (9, 0), 80 << 30)


@pytest.fixture
def machine(monkeypatch):
    """A machine whose engines, wheels and driver a test sets."""
    machine = SimpleNamespace(
        installed=["mxnet", "pytorch"],
        driver=None,
        wheel="mxnet",
        torch="2.14.1+cu130",
        broken=(),
    )
    monkeypatch.setattr(engines, "installed", lambda: machine.installed)
    monkeypatch.setattr(engines, "version", lambda _: machine.torch)
    monkeypatch.setattr(cuda, "driver", lambda: machine.driver)
    monkeypatch.setattr(cuda, "installed_wheel", lambda: machine.wheel)

    def load(name):
        if name in machine.broken:
            raise ImportError(f"{name} does not load")
        return SimpleNamespace(
            NAME=name,
            VERSION="1",
            choose_devices=lambda device: [device],
            check_precision=lambda precision, devices: None,
        )

    monkeypatch.setattr(engines, "_load", load)
    return machine


def chosen(*asked):
    return str(engines.choose(*asked)).split()[0]


def test_the_engine_of_this_environment_is_chosen_and_says_so():
    assert engines.choose(device="cpu") == CHOSEN
    assert str(CHOSEN) == f"{ENGINE.NAME} {ENGINE.VERSION} on cpu"


def test_the_one_that_is_installed_is_taken(machine):
    for name in ("mxnet", "pytorch"):
        machine.installed = [name]
        assert chosen() == name


def test_without_either_it_is_said_how_to_install_one(machine):
    machine.installed = []
    with pytest.raises(ImportError, match=r"neither MXNet nor PyTorch .* make setup"):
        engines.choose()


def test_one_that_was_asked_for_and_is_not_there_is_refused(machine):
    machine.installed = ["mxnet"]
    with pytest.raises(
        ImportError, match=r"needs torch, which is not .*make setup ENGINE=pytorch"
    ):
        engines.choose("pytorch")
    machine.installed = ["pytorch"]
    with pytest.raises(ImportError, match=r"needs mxnet, .*make setup ENGINE=mxnet"):
        engines.choose("mxnet")


@pytest.mark.parametrize(
    ("driver", "wheel", "torch", "expected"),
    [
        (None, "mxnet", "2.14.1+cu130", "mxnet"),
        (Driver((13, 0)), "mxnet", "2.14.1+cu130", "mxnet"),  # sees no GPU
        (Driver((13, 0), (T4,)), "mxnet", "2.14.1+cu130", "pytorch"),
        (Driver((13, 0), (T4,)), "mxnet", "2.14.1+cpu", "mxnet"),
        (Driver((13, 0), (T4,)), "mxnet-cu112", "2.14.1+cu130", "mxnet"),
        (Driver((13, 0), (H100,)), "mxnet-cu112", "2.14.1+cu130", "pytorch"),
        (Driver((13, 0), (H100, T4)), "mxnet-cu112", "2.14.1+cu130", "mxnet"),
    ],
)
def test_of_both_mxnet_is_taken_unless_only_pytorch_can_use_the_gpu(
    driver, wheel, torch, expected, machine
):
    machine.driver, machine.wheel, machine.torch = driver, wheel, torch
    assert chosen() == expected
    assert chosen("auto", "cpu") == "mxnet"


def test_what_only_pytorch_can_do_pytorch_does(machine):
    assert chosen("auto", "mps") == "pytorch"
    assert chosen("auto", "gpu", "bfloat16") == "pytorch"


@pytest.mark.parametrize("asked", [("auto", "mps"), ("auto", "gpu", "bfloat16")])
def test_what_only_pytorch_can_do_is_refused_without_it(asked, machine):
    machine.installed = ["mxnet"]
    with pytest.raises(ImportError, match=r"needs torch, which is not installed here"):
        engines.choose(*asked)


def test_a_mxnet_that_is_not_whole_leaves_the_gpu_to_pytorch(machine, monkeypatch):
    def both():
        raise ImportError("mxnet and mxnet-cu112 are both installed")

    machine.driver = Driver((13, 0), (T4,))
    monkeypatch.setattr(cuda, "installed_wheel", both)
    with pytest.warns(UserWarning, match="computing with PyTorch: .* both installed"):
        assert chosen() == "pytorch"


def test_a_library_that_does_not_load_is_named(monkeypatch):
    def broken(_):
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(engines, "import_module", broken)
    with pytest.raises(ImportError, match=r"torch does not load: libcudart.* doctor"):
        engines._load("pytorch")


def test_a_folder_that_was_left_behind_is_no_library(tmp_path, monkeypatch):
    (tmp_path / "left_behind").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(engines, "LIBRARIES", {"mxnet": "left_behind"})
    assert engines.installed() == []


def test_where_mxnet_does_not_load_pytorch_computes_and_says_why(machine):
    machine.broken = ("mxnet",)
    with pytest.warns(UserWarning, match="computing with PyTorch: mxnet does not load"):
        assert chosen() == "pytorch"
    with pytest.raises(ImportError, match="mxnet does not load"):
        engines.choose("mxnet")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"engine": "jax"}, "engine must be one of 'auto', 'mxnet', 'pytorch'"),
        ({"precision": "float16"}, "precision must be one of 'float32', 'bfloat16'"),
        ({"device": "tpu"}, "device must be 'auto', 'cpu', 'mps', 'gpu', 'gpu:N' with"),
        ({"device": "gpu:0,gpu:0"}, "several different GPUs as in 'gpu:0,gpu:1'; got"),
        ({"device": "gpu,cpu"}, "device must be"),
        (
            {"engine": "mxnet", "device": "mps"},
            "device='mps' needs engine='pytorch'; got engine='mxnet'",
        ),
        (
            {"engine": "mxnet", "precision": "bfloat16"},
            "precision='bfloat16' needs engine='pytorch'; got engine='mxnet'",
        ),
        (
            {"device": "cpu", "precision": "bfloat16"},
            "precision='bfloat16' is for an NVIDIA GPU.*got device='cpu'. There, leave",
        ),
        ({"device": "mps", "precision": "bfloat16"}, "is for an NVIDIA GPU"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(parameters, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**parameters)


@pytest.mark.parametrize(
    ("device", "numbers"),
    [
        ("cuda", [0]),
        ("cuda:1", [1]),
        ("gpu:1", [1]),
        ("gpu:2, cuda:1", [2, 1]),
        ("mps", []),
    ],
)
def test_cuda_is_taken_for_gpu(device, numbers):
    assert TrainingConfig(device=device).device == device
    assert gpu_numbers(device) == numbers


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
def test_bfloat16_without_a_gpu_is_refused_before_any_work():
    with pytest.raises(RuntimeError, match="there is no NVIDIA GPU that can be used"):
        engines.choose("pytorch", "auto", "bfloat16")
