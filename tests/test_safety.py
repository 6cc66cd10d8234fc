"""Nothing can run code that came as data, as the syntax of all code here shows."""

import ast
import json
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path
    for folder in ("selfatt_lib", "tools", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))

CODE_AS_DATA = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal"}
CODE_AS_DATA |= {"shelve"}
NAMES = {"eval", "exec", "compile", "os.system", "os.popen"}
NAMES |= {"joblib.load", "joblib.dump", "torch.load"}
NAMES |= {"yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all"}
METHODS = {"save_states", "load_states", "read_pickle", "to_pickle"}
# MXNet's readers, and what has to look at a file before they do
READERS = ("nd.load", "ndarray.load", ".load_parameters", ".load_params")
LOOKS = ("check_layout", "read_layout")


def problems(source):
    """List what a source must not have, each with its line."""
    tree = ast.parse(source)
    imported, found = {}, []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            within = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                name = within + alias.name
                if CODE_AS_DATA & set(name.split(".")):
                    found.append((node.lineno, name))
                if within or alias.asname:
                    imported[alias.asname or alias.name] = name

    def full_name(node):
        if isinstance(node, ast.Name):
            return imported.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{full_name(node.value)}.{node.attr}"
        return ""

    def look(node, looked):
        """Note what is wrong in a node; `looked` are its function's looks at files."""
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            looked = []
        name = full_name(node).removeprefix("builtins.")
        if name in NAMES or name.rpartition(".")[2] in METHODS:
            found.append((node.lineno, name))
        if isinstance(node, ast.Call):
            name = full_name(node.func)
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            for keyword in ("shell", "allow_pickle"):
                if ast.dump(given.get(keyword, ast.Constant(False))) != NO:
                    found.append((node.lineno, f"{name}({keyword}=…)"))
            if name in ("yaml.load", "yaml.load_all") and not full_name(
                given.get("Loader")
            ).endswith("SafeLoader"):
                found.append((node.lineno, name))
            if name.endswith(LOOKS):
                looked.append(node.lineno)
            if name.endswith(READERS) and not looked:
                found.append((node.lineno, f"{name} without check_layout before it"))
        for child in ast.iter_child_nodes(node):
            look(child, looked)

    look(tree, [])
    return sorted(set(found))


NO = ast.dump(ast.Constant(False))


def code(path):
    """Return the code of a module, or of each cell of a chapter."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return [text]
    cells = (cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
    python = TransformerManager()  # which also knows %pip
    return [python.transform_cell("".join(cell["source"])) for cell in cells]


@pytest.mark.parametrize(
    "path", [*MODULES, *CHAPTERS], ids=lambda path: str(path.relative_to(ROOT))
)
def test_nothing_that_comes_as_data_is_run(path):
    assert [problem for part in code(path) for problem in problems(part)] == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import pickle", "pickle"),
        ("import cPickle as json", "cPickle"),
        ("import dill", "dill"),
        ("import marshal, os", "marshal"),
        ("def f():\n    from shelve import open", "shelve.open"),
        ("from six.moves import cPickle", "six.moves.cPickle"),
        ("import joblib\njoblib.load(path)", "joblib.load"),
        ("from joblib import dump as keep\nkeep(x, path)", "joblib.dump"),
        ("eval(text)", "eval"),
        ("list(map(eval, texts))", "eval"),
        ("import builtins\nbuiltins.exec(text)", "exec"),
        ("exec(text)", "exec"),
        ("compile(text, '', 'exec')", "compile"),
        ("import os\nos.system(text)", "os.system"),
        ("from os import popen as p\np(text)", "os.popen"),
        ("import subprocess\nsubprocess.run(text, shell=True)", "subprocess.run"),
        ("import subprocess as s\ns.Popen(text, shell=safe)", "subprocess.Popen"),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", "numpy.load"),
        ("import yaml\nyaml.load(text)", "yaml.load"),
        ("import yaml\nyaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("from yaml import unsafe_load\nunsafe_load(text)", "yaml.unsafe_load"),
        ("import torch\ntorch.load(path)", "torch.load"),
        ("mx.nd.load(path)", "mx.nd.load"),
        ("model.load_parameters(path)", "model.load_parameters"),
        ("load(path)\ncheck_layout(path, {})\nmx.nd.load(path)\n", None),
        ("mx.nd.load(path)\ncheck_layout(path, {})", "mx.nd.load"),
        ("check_layout(p, {})\ndef f():\n    mx.nd.load(p)", "mx.nd.load"),
        ("trainer.save_states(path)", "trainer.save_states"),
        ("trainers[0].load_states(path)", ".load_states"),
        ("import pandas as pd\npd.read_pickle(path)", "pandas.read_pickle"),
        ("import re\nre.compile(text)", None),
        ("model.eval()", None),
        ("import numpy as np\nnp.load(path, allow_pickle=False)", None),
        ("import yaml\nyaml.load(text, Loader=yaml.CSafeLoader)", None),
        ("import subprocess\nsubprocess.run([text], shell=False)", None),
        ("def f():\n    read_layout(p)\n    return g(nd.load(p), 1)", None),
    ],
)
def test_what_runs_data_is_found_and_nothing_else(source, name):
    found = [what for _, what in problems(source)]
    if name is None:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].startswith(name)


def test_a_magic_command_of_a_chapter_is_no_hiding_place(tmp_path):
    cell = {"cell_type": "code", "source": ["if True:\n", "    %pip install x\n"]}
    cell["source"].append("eval(text)")
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [cell]}))
    (part,) = code(tmp_path / "a.ipynb")
    assert problems(part) == [(3, "eval")]
