"""Which room of the library may lead to which: imports point down, and nobody pries."""

import ast
import re
from pathlib import Path

import pytest

from conftest import run_code

LIBRARY = Path(__file__).parent.parent / "selfatt_lib"

# From the ground up; a module imports from lower floors, or from its own room.
FLOORS = [
    {"reference", "labels"},
    {"machinery", "__init__"},
    {"config"},
    {"data", "model", "penalty", "pytorch", "run", "visualization", "book"},
    {"encoders", "results"},
    {"engines"},
    {"training", "prediction", "onnx"},
    {"sweep", "torchrun", "web"},
    {"evidence"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
# (importing, imported) within a floor
STAIRS = {("results", "run")}
# Who knows an engine: which names, in which modules
KNOWING = [
    (
        {"mxnet", "gluonnlp", "mx", "nlp"},
        r"machinery\..*|model|penalty|encoders|engines\.mxnet|evidence\.measures",
    ),
    ({"torch"}, r"machinery\.doctor|pytorch|torchrun|engines\.pytorch"),
]
# What may bring one: those that compute with MXNet stand on `machinery.runtime`
COMPUTING = (
    r"(model|penalty|encoders|pytorch|torchrun|engines\..*|"
    r"evidence\.(experiments|measures)|machinery\.(compat|runtime|lstm))"
)


def name_of(path):
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "__init__"


MODULES = {name_of(path): path for path in LIBRARY.rglob("*.py")}


def imports_of(name):
    """Yield ``(module, names)`` of all that a module imports, wherever it does."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from ((each.name, []) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module, [each.name for each in node.names]


def ours(name):
    """Yield the library's modules that a module imports."""
    for module, names in imports_of(name):
        if module == "selfatt_lib":
            yield from names
        elif module.startswith("selfatt_lib."):
            found = module.removeprefix("selfatt_lib.")
            inner = [f"{found}.{each}" for each in names]
            yield from [each for each in inner if each in MODULES] or [found]


def floor(name):
    room = name.partition(".")[0]
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    room = name.partition(".")[0]
    for imported in ours(name):
        other = imported.partition(".")[0]
        assert (
            other == room or floor(imported) < floor(name) or (room, other) in STAIRS
        ), f"{name} imports {imported}"


def test_no_module_leads_back_to_itself():
    known = {}

    def reached(name, path=()):
        assert name not in path, " → ".join([*path, name])
        if name not in known:
            known[name] = [reached(each, (*path, name)) for each in ours(name)]

    for name in MODULES:
        reached(name)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(("names", "knowing"), KNOWING, ids=["mxnet", "torch"])
def test_only_the_engine_and_the_machinery_know_an_engine(names, knowing, name):
    if not re.fullmatch(knowing, name):
        for module, imported in imports_of(name):
            assert not names & {module.partition(".")[0], *imported}


@pytest.mark.parametrize("name", MODULES)
def test_nothing_private_of_another_module_is_used(name):
    tree = ast.parse(MODULES[name].read_text())
    rooms = set()
    for module, names in imports_of(name):
        if module.startswith("selfatt_lib"):
            assert not [each for each in names if each.startswith("_")]
            rooms |= {each for each in names if f"{module}.{each}".count(".") <= 2}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            private = node.attr.startswith("_") and not node.attr.endswith("__")
            assert not (private and node.value.id in rooms), ast.unparse(node)


@pytest.mark.parametrize("name", MODULES)
def test_a_file_is_read_in_a_sitting(name):
    assert len(MODULES[name].read_text().splitlines()) <= 400


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("reference", "selfatt_lib.data spacy pandas mxnet torch"),
        ("config", "selfatt_lib.data spacy pandas mxnet torch"),
        ("run", "spacy pandas sklearn mxnet numba torch"),
        ("prediction", "pandas sklearn pyarrow joblib mxnet gluonnlp numba torch"),
        ("training", "mxnet gluonnlp numba torch"),
        ("engines", "mxnet gluonnlp numba torch spacy pandas"),
        ("results", "mxnet gluonnlp spacy torch"),
        ("visualization", "mxnet gluonnlp sklearn torch"),
        ("cli", "numpy mxnet spacy pandas papermill duckdb matplotlib torch onnx"),
    ],
)
def test_a_module_brings_no_more_than_it_needs(module, absent):
    code = f"import sys, selfatt_lib.{module}; print(*sys.modules)"
    done = run_code(code)
    assert not set(absent.split()) & set(done.stdout.split()), done.stderr


def test_nothing_but_the_engines_brings_an_engine():
    names = [name for name in MODULES if not re.fullmatch(COMPUTING, name)]
    imports = [f"import selfatt_lib.{name}" for name in names if "__" not in name]
    done = run_code("\n".join(["import sys", *imports, "print(*sys.modules)"]))
    engines = {"mxnet", "gluonnlp", "numba", "torch"}
    assert not engines & set(done.stdout.split()), done.stderr
    assert len(done.stdout.split()) > 500, done.stderr


BOTH = """
import sys
from types import ModuleType
from selfatt_lib import engines

sys.path.insert(0, sys.argv[1])
mxnet = sys.modules["selfatt_lib.engines.mxnet"] = ModuleType("mxnet")
mxnet.choose_devices = lambda name: [name]
assert engines.installed() == ["mxnet", "pytorch"]
assert engines.choose(device="cpu").module is mxnet
print({"mxnet", "torch"} & set(sys.modules))
"""


def test_with_both_installed_a_cpu_is_chosen_without_importing_either(tmp_path):
    for name in ("mxnet", "torch"):
        (tmp_path / f"{name}.py").touch()
    done = run_code(BOTH, tmp_path)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize("room", ["__init__", "machinery", "evidence"])
def test_a_room_lists_what_is_in_it(room):
    inner = "" if room == "__init__" else f"{room}."
    found = [name.removeprefix(inner) for name in MODULES if name.startswith(inner)]
    found = {name.partition(".")[0] for name in found} - {"__init__", "__main__"}
    listed = re.findall(r"^`(\w+)`", MODULES[room].read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(found)
