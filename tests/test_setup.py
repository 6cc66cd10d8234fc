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


@pytest.fixture
def machine(monkeypatch):
    """A function that makes this machine another one, in the eyes of the set-up."""

    def pretend(system, architecture, libc="", macos=""):
        monkeypatch.setattr(setup.platform, "system", lambda: system)
        monkeypatch.setattr(setup.platform, "machine", lambda: architecture)
        monkeypatch.setattr(setup.platform, "libc_ver", lambda: (libc, ""))
        mac = (macos, ("", "", ""), architecture)
        monkeypatch.setattr(setup.platform, "mac_ver", lambda: mac)

    return pretend


@pytest.mark.parametrize("engine", ["mxnet", "pytorch"])
def test_this_machine_has_what_is_needed(engine):
    assert setup.problem(engine) is None


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 15, 0), (2, 7, 18)])
def test_another_python_is_refused(version, machine, monkeypatch):
    monkeypatch.setattr(setup.sys, "version_info", version)
    monkeypatch.setattr(
        setup.platform, "python_version", lambda: ".".join(map(str, version))
    )
    said = setup.problem("mxnet")
    assert said.startswith("Python 3.11 to 3.14 is needed and ")
    assert f"is {version[0]}.{version[1]}" in said
    assert "'uv venv --python 3.13 ~/python3.13'" in said
    machine("Windows", "AMD64")
    assert "say, for example, 'py -3.13 tools/setup.py'" in setup.problem("pytorch")


@pytest.mark.parametrize(
    ("system", "architecture", "expected"),
    [
        ("Linux", "aarch64", "needs the Arm Performance Libraries, which no"),
        ("Darwin", "arm64", "never built for Apple silicon"),
        ("Windows", "AMD64", "never built for Windows"),
    ],
)
def test_where_mxnet_does_not_load_it_is_refused_and_pytorch_is_not(
    system, architecture, expected, machine, monkeypatch
):
    machine(system, architecture, "glibc" * (system == "Linux"))
    said = setup.problem("mxnet")
    assert expected in said
    command = "py tools/setup.py " if system == "Windows" else "make setup ENGINE="
    assert f": say '{command}pytorch', or use Linux on x86-64, a container" in said
    monkeypatch.setenv("CC", "no-such-compiler")
    assert setup.problem("pytorch") is None


@pytest.mark.parametrize("engine", ["mxnet", "pytorch"])
@pytest.mark.parametrize(
    ("system", "architecture", "expected"),
    [
        ("Darwin", "x86_64", "no longer built for macOS on Intel: use Linux"),
        ("Linux", "x86_64", "need glibc"),
        ("Linux", "riscv64", "not built for Linux riscv64, nor is MXNet: use Linux on"),
        ("Windows", "ARM64", "not built for Windows ARM64, nor is MXNet: use Linux"),
    ],
)
def test_where_neither_engine_is_built_both_are_refused(
    engine, system, architecture, expected, machine
):
    machine(system, architecture)
    assert expected in setup.problem(engine)


def test_an_old_macos_is_refused(machine):
    machine("Darwin", "arm64", macos="13.7.8")
    assert "needs macOS 14 and this is 13.7.8: update it" in setup.problem("pytorch")
    machine("Darwin", "arm64", macos="26.1")
    assert setup.problem("pytorch") is None


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "there is no C compiler: install that" in setup.problem("mxnet")


def test_missing_headers_are_named(monkeypatch):
    monkeypatch.setattr(setup.sysconfig, "get_path", lambda _: "/nowhere")
    assert "has no headers: install that" in setup.problem("mxnet")


@pytest.mark.parametrize("engine", ["mxnet", "pytorch"])
def test_a_missing_venv_module_is_named(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert "cannot make virtual environments" in setup.problem(engine)


def test_a_problem_stops_the_set_up_before_anything_is_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(setup, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(setup, "STAMP", tmp_path / ".venv" / "installed.sha256")
    monkeypatch.setattr(setup, "problem", lambda _: "no.")
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
    monkeypatch.setattr(setup, "install", lambda *_, **__: False)
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(setup.subprocess, "run", lambda *_, **__: done)
    return tmp_path


@pytest.mark.parametrize("extra", setup.LOCKS)
def test_nothing_is_done_while_the_lock_is_the_same(extra, venv):
    engine, device = extra.split("-") if "-" in extra else (extra, "cpu")
    setup.STAMP.write_text(setup.fingerprint(extra))
    assert setup.main() is None
    assert setup.main(engine) is None
    assert setup.main(device) is None
    assert setup.main(engine, device) is setup.main(device, engine) is None
    setup.STAMP.write_text(f"{extra} another lock")
    assert "pip failed" in setup.main()
    assert setup.made_for() == f"{extra} "


@pytest.mark.parametrize(
    ("before", "asked", "after"),
    [
        ("mxnet", ["gpu"], "mxnet-gpu"),
        ("mxnet", ["gpu", "pytorch"], "pytorch"),
        ("mxnet-gpu", ["cpu"], "mxnet"),
        ("mxnet-gpu", ["pytorch"], "pytorch"),
        ("pytorch", ["mxnet"], "mxnet"),
        ("pytorch", ["mxnet", "gpu"], "mxnet-gpu"),
        ("cpu", [], "mxnet"),  # as it was called when there was no PyTorch
        ("gpu", [], "mxnet-gpu"),
    ],
)
def test_what_is_asked_for_makes_the_environment_anew(
    before, asked, after, venv, machine
):
    machine("Linux", "x86_64", "glibc")
    setup.STAMP.write_text(f"{before} 6b1f")
    assert "pip failed" in setup.main(*asked)
    assert setup.made_for() == f"{after} "


@pytest.mark.parametrize("extra", setup.LOCKS)
def test_a_set_up_that_failed_is_tried_again_for_the_same(extra, venv):
    setup.main(*extra.split("-"))
    assert "pip failed" in setup.main()
    assert setup.made_for() == f"{extra} "


@pytest.mark.parametrize(
    ("system", "architecture", "libc", "asked", "chosen"),
    [
        ("Linux", "x86_64", "glibc", [], "mxnet"),
        ("Linux", "x86_64", "glibc", ["gpu"], "mxnet-gpu"),
        ("Linux", "aarch64", "glibc", [], "pytorch"),
        ("Darwin", "arm64", "", ["gpu"], "pytorch"),
        ("Windows", "AMD64", "", [], "pytorch"),
    ],
)
def test_the_engine_that_is_not_named_is_mxnet_where_it_loads_and_else_pytorch(
    system, architecture, libc, asked, chosen, venv, machine
):
    machine(system, architecture, libc)
    setup.main(*asked)
    assert setup.made_for() == f"{chosen} "


def test_a_gpu_needs_no_other_pytorch_and_it_is_said_which_gpus_it_knows(
    venv, machine, capsys
):
    setup.STAMP.write_text(setup.fingerprint("pytorch"))
    for system, architecture, expected in (
        ("Linux", "x86_64", "the same PyTorch computes on a CPU and on NVIDIA GPUs"),
        ("Darwin", "arm64", "the same PyTorch computes on a CPU and on Apple's GPU"),
        ("Windows", "AMD64", "this PyTorch computes on the CPU only"),
    ):
        machine(system, architecture)
        assert setup.main("pytorch", "gpu") is None
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize("extra", setup.LOCKS)
def test_a_plain_import_of_mxnet_is_seen_to_where_mxnet_is(extra, venv, monkeypatch):
    ran = []
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(setup, "install", lambda *_, **__: True)
    monkeypatch.setattr(setup.subprocess, "run", lambda x, **_: ran.append(x) or done)
    assert setup.main(*extra.split("-")) is None
    assert ("write_hook()" in str(ran[-1][-1])) == (extra != "pytorch")
    assert setup.made_for() == setup.fingerprint(extra)


def test_an_environment_that_cannot_be_emptied_is_left_unfinished(venv, monkeypatch):
    """As on Windows, while a program of .venv runs."""
    setup.STAMP.write_text(setup.fingerprint("mxnet"))
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(setup.subprocess, "run", lambda *_, **__: failed)
    assert "Does something run from it?" in setup.main("pytorch")
    assert setup.made_for() == ""


def test_windows_has_pythons_program_elsewhere(machine):
    assert setup.interpreter() == setup.VENV / "bin" / "python"
    machine("Windows", "AMD64")
    assert setup.interpreter() == setup.VENV / "Scripts" / "python.exe"


def test_an_old_windows_console_can_show_all_that_is_said():
    text = (ROOT / "tools" / "setup.py").read_text()
    assert text.isascii()
    assert "\\033" not in text


def test_a_package_that_is_not_the_locked_one_stops_the_set_up(
    monkeypatch, tmp_path, capsys
):
    wheel = tmp_path / "cython-99.0-py3-none-any.whl"
    wheel.write_bytes(b"not what was locked")
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"cython==99.0 \\\n    --hash=sha256:{'0' * 64}\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(setup, "LOCKS", {"mxnet": lock})
    monkeypatch.setattr(setup, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(setup, "STAMP", tmp_path / ".venv" / "installed.sha256")
    assert "pip failed, see above" in setup.main("mxnet")
    said = capsys.readouterr().err
    assert "DO NOT MATCH THE HASHES" in said
    assert "cython==99.0 from file:" in said
    assert not list(setup.VENV.rglob("cython*"))
    assert setup.made_for() == "mxnet "  # so the next command begins anew


@pytest.mark.parametrize("asked", [["tpu"], ["cpu", "gpu"], ["mxnet", "pytorch"]])
def test_what_cannot_be_understood_is_refused(asked):
    assert setup.main(*asked) == (
        "set-up: ENGINE is mxnet or pytorch, DEVICE cpu or gpu; got "
        f"{' '.join(asked)!r}."
    )


@pytest.mark.parametrize("extra", setup.LOCKS)
def test_the_build_tools_are_in_the_lock_with_their_hashes(extra):
    entries = setup.requirements(setup.LOCKS[extra].read_text(), setup.BUILD_TOOLS)
    tools = {*setup.BUILD_TOOLS} - ({"cython"} if extra == "pytorch" else set())
    assert pins(entries).keys() == tools
    assert entries.count("--hash=sha256:") >= 2 * len(tools)


@pytest.mark.parametrize("extra", setup.LOCKS)
def test_the_lock_names_no_host_and_hashes_everything(extra):
    lock = setup.LOCKS[extra].read_text()
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
    cpu, gpu = (
        pins(setup.LOCKS[extra].read_text()) for extra in ("mxnet", "mxnet-gpu")
    )
    only_cpu, only_gpu = cpu.items() - gpu.items(), gpu.items() - cpu.items()
    assert only_cpu == {("mxnet", "1.9.1")}
    assert {name for name, _ in only_gpu} == {"mxnet-cu112", *LIBRARIES.values()}


def test_pytorchs_lock_has_the_same_versions_and_nothing_of_mxnets():
    locks = (setup.LOCKS[extra].read_text() for extra in ("mxnet", "pytorch"))
    with_mxnet, with_pytorch = map(pins, locks)
    both = with_mxnet.keys() & with_pytorch.keys()
    assert {name for name in both if with_mxnet[name] != with_pytorch[name]} == set()
    only_mxnet = {"cython", "gluonnlp", "graphviz", "llvmlite", "mxnet", "numba"}
    assert with_mxnet.keys() - both == only_mxnet
    assert "torch" in with_pytorch


def test_condas_environment_has_every_dependency_and_the_same_libraries():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = (entry["pip"] for entry in conda if isinstance(entry, dict))
    named = {
        setup.re.sub(r"[=<>].*|-base|^python-", "", entry.replace("_", "-"))
        for entry in [*(entry for entry in conda if isinstance(entry, str)), *pip]
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert {x for x in extras["mxnet-gpu"] if "==" in x} <= set(pip)
    wanted = {
        setup.re.split("[=<>]", entry)[0]
        for entry in [*project["dependencies"], *extras["mxnet-gpu"], *extras["dev"]]
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
