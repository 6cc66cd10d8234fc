"""What tools/setup.py says where the environment cannot be made."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from conftest import run_code
from selfatt_lib.machinery.install import LIBRARIES

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("setup_tool", ROOT / "tools" / "setup.py")
setup = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup)


def test_this_machine_has_what_is_needed():
    assert setup.problem() is None


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 15, 0), (2, 7, 18)])
def test_another_python_is_refused(version, monkeypatch):
    monkeypatch.setattr(setup.sys, "version_info", version)
    monkeypatch.setattr(
        setup.platform, "python_version", lambda: ".".join(map(str, version))
    )
    assert setup.problem().startswith("Python 3.11 to 3.14 is needed and ")
    assert f"is {version[0]}.{version[1]}" in setup.problem()
    assert "'uv venv --python 3.13 ~/python3.13'" in setup.problem()


@pytest.mark.parametrize(
    ("system", "machine", "libc", "expected"),
    [
        ("Linux", "aarch64", "glibc", "needs the Arm Performance Libraries, which no"),
        (
            "Darwin",
            "x86_64",
            "",
            "Numba is no longer built for macOS on Intel: use Linux",
        ),
        ("Darwin", "arm64", "", "never built for Apple silicon: use Linux on x86-64"),
        ("Windows", "AMD64", "", "never built for Windows AMD64: use Linux on x86-64"),
        ("Linux", "x86_64", "", "need glibc"),
    ],
)
def test_a_platform_where_mxnet_does_not_load_is_refused(
    system, machine, libc, expected, monkeypatch
):
    monkeypatch.setattr(setup.platform, "system", lambda: system)
    monkeypatch.setattr(setup.platform, "machine", lambda: machine)
    monkeypatch.setattr(setup.platform, "libc_ver", lambda: (libc, ""))
    assert expected in setup.problem()


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "there is no C compiler: install that" in setup.problem()


def test_missing_headers_are_named(monkeypatch):
    monkeypatch.setattr(setup.sysconfig, "get_path", lambda _: "/nowhere")
    assert "has no headers: install that" in setup.problem()


def test_a_missing_venv_module_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert "cannot make virtual environments" in setup.problem()


def test_a_problem_stops_the_set_up_before_anything_is_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(setup, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(setup, "STAMP", tmp_path / ".venv" / "installed.sha256")
    monkeypatch.setattr(setup, "problem", lambda: "no.")
    monkeypatch.setattr(
        setup.subprocess, "run", lambda *_, **__: pytest.fail("something was run")
    )
    assert setup.main() == "set-up: no."
    assert not (tmp_path / ".venv").exists()


@pytest.fixture
def venv(monkeypatch, tmp_path):
    """A folder in place of .venv, and a pip that fails."""
    monkeypatch.setattr(setup, "VENV", tmp_path)
    monkeypatch.setattr(setup, "STAMP", tmp_path / "installed.sha256")
    monkeypatch.setattr(setup, "install", lambda *_: False)
    monkeypatch.setattr(setup.subprocess, "run", lambda *_, **__: None)
    return tmp_path


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_nothing_is_done_while_the_lock_is_the_same(device, venv):
    setup.STAMP.write_text(setup.fingerprint(device))
    assert setup.main() is None
    assert setup.main(device) is None
    setup.STAMP.write_text(f"{device} another lock")
    assert "pip failed" in setup.main()
    assert setup.made_for() == f"{device} "


def test_another_device_makes_the_environment_anew(venv):
    assert "pip failed" in setup.main()
    assert setup.made_for() == "cpu "
    setup.STAMP.write_text(setup.fingerprint("cpu"))
    assert "pip failed" in setup.main("gpu")
    assert setup.made_for() == "gpu "


def test_a_set_up_that_failed_is_tried_again_for_the_same_device(venv):
    setup.main("gpu")
    assert "pip failed" in setup.main()
    assert setup.made_for() == "gpu "


def test_a_package_that_is_not_the_locked_one_stops_the_set_up(
    monkeypatch, tmp_path, capsys
):
    wheel = tmp_path / "cython-99.0-py3-none-any.whl"
    wheel.write_bytes(b"not what was locked")
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"cython==99.0 \\\n    --hash=sha256:{'0' * 64}\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(setup, "LOCKS", {"cpu": lock})
    monkeypatch.setattr(setup, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(setup, "STAMP", tmp_path / ".venv" / "installed.sha256")
    assert "pip failed, see above" in setup.main()
    said = capsys.readouterr().err
    assert "DO NOT MATCH THE HASHES" in said
    assert "cython==99.0 from file:" in said
    assert not list(setup.VENV.rglob("cython*"))
    assert setup.made_for() == "cpu "  # so the next command begins anew


def test_an_unknown_device_is_refused():
    assert setup.main("tpu") == "set-up: DEVICE is cpu or gpu; got 'tpu'."


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_build_tools_are_in_the_lock_with_their_hashes(device):
    entries = setup.requirements(setup.LOCKS[device].read_text(), setup.BUILD_TOOLS)
    for name in setup.BUILD_TOOLS:
        assert f"{name}==" in entries
    assert entries.count("--hash=sha256:") >= 2 * len(setup.BUILD_TOOLS)
    assert "numpy" not in entries


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_lock_names_no_host_and_hashes_everything(device):
    lock = setup.LOCKS[device].read_text()
    assert "://" not in lock
    entries = [
        entry
        for entry in setup.re.split(r"\n(?=\S)", lock)
        if not entry.startswith("#")
    ]
    assert all("--hash=sha256:" in entry for entry in entries)


def pins(text):
    """Return the entries with one exact version: dict."""
    return dict(setup.re.findall(r"(?m)^([\w.-]+)==(\S+)", text))


def test_the_locks_differ_in_mxnet_and_its_libraries_only():
    cpu, gpu = (pins(setup.LOCKS[device].read_text()) for device in ("cpu", "gpu"))
    only_cpu, only_gpu = cpu.items() - gpu.items(), gpu.items() - cpu.items()
    assert only_cpu == {("mxnet", "1.9.1")}
    assert {name for name, _ in only_gpu} == {"mxnet-cu112", *LIBRARIES.values()}


def test_condas_environment_has_every_dependency_and_the_same_libraries():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = (entry["pip"] for entry in conda if isinstance(entry, dict))
    named = {
        setup.re.split("[=<>]", entry)[0].replace("_", "-").removesuffix("-base")
        for entry in [*(entry for entry in conda if isinstance(entry, str)), *pip]
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(extras["gpu"]) <= set(pip)
    wanted = {
        setup.re.split("[=<>]", entry)[0]
        for entry in [*project["dependencies"], *extras["dev"]]
    }
    # conda's file makes the environment; it is not for formatting or rewriting locks
    assert wanted - named == {"ruff", "uv"}


def test_the_set_up_can_be_read_by_an_old_python():
    """It has to say which Python is needed, so it uses nothing newer than 3.8."""
    path = str(ROOT / "tools" / "setup.py")
    code = f"import ast; ast.parse(open({path!r}).read(), feature_version=(3, 8))"
    done = run_code(code)
    assert done.returncode == 0, done.stderr


def test_make_help_lists_a_readers_commands_and_then_all_others():
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for_readers, for_others = listed.split("To change the book")
    for command in ("setup", "train", "lab", "book", "test", "clean"):
        assert f"  make {command} — " in for_readers
    assert "selfatt predict runs/quick" in for_readers
    targets = setup.re.findall("(?m)^([a-z-]+):", (ROOT / "Makefile").read_text())
    for command in set(targets) - {"help"}:
        assert (f"  make {command} — " in for_readers) != (
            f"  make {command} — " in for_others
        )
