"""What ``make address`` writes, and that taking the address away leaves no trace."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_book.config import get_final_config

from conftest import run_code
from tools import address

ROOT = Path(__file__).parent.parent
URL = "https://github.com/OWNER/NAME"
COLAB = "https://colab.research.google.com"
CHAPTERS = sorted(ROOT.glob("book/*.ipynb"))
BUTTONS = ("use_repository_button", "use_source_button", "use_issues_button")


@pytest.fixture
def book(tmp_path):
    """The files that hold the address, as they are tracked."""
    (tmp_path / "book").mkdir()
    for path in [*map(ROOT.joinpath, address.BLOCKS), *CHAPTERS]:
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    return tmp_path


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def set_address(root, url, branch="main"):
    """Do what a person does."""
    path = root / "_config.yml"
    text = re.sub(r"(?m)^  url: \S+", f'  url: "{url}"', path.read_text())
    path.write_text(re.sub(r"(?m)^  branch: \S+", f"  branch: {branch}", text))
    address.main(root)


def theme_options(root):
    """What the theme is given, the defaults included."""
    final, _ = get_final_config(
        user_yaml=root / "_config.yml", cli_config={"latex_individualpages": False}
    )
    return final["html_theme_options"]


def first_cells(path):
    cells = json.loads(path.read_text())["cells"]
    return ["".join(x["source"]) for x in cells if x["cell_type"] == "code"][:2]


def run_first_cell(root, chapter="data", **environment):
    """Run a chapter's first cell; return the commands that it gives."""
    given = []

    class Shell:
        def run_line_magic(self, name, line):
            return environment if name == "env" else given.append(f"%{name} {line}")

        def system(self, line):
            given.append(f"!{line}")

    cell = first_cells(root / "book" / f"{chapter}.ipynb")[0]
    code = TransformerManager().transform_cell(cell)
    exec(code, {"get_ipython": Shell})  # noqa: S102
    return given


def test_the_tracked_files_are_what_make_address_leaves(book):
    before = contents(book)
    address.main(book)
    assert contents(book) == before


def test_without_an_address_none_is_made_up(book):
    set_address(book, "")
    options = theme_options(book)
    assert not options["repository_url"]
    assert not options["launch_buttons"]["colab_url"]
    assert not any(options.get(button) for button in BUTTONS)
    assert not re.search("git clone|colab.research", (book / "README.md").read_text())
    assert "urls" not in tomllib.loads((book / "pyproject.toml").read_text())["project"]
    with pytest.raises(RuntimeError, match=r"no address in _config\.yml: set"):
        run_first_cell(book, COLAB_RELEASE_TAG="release-1")


def test_an_address_stands_wherever_it_is_needed_and_leaves_no_trace(book):
    set_address(book, "")
    before = contents(book)
    set_address(book, "https://github.com/a-b/c.d_e")
    set_address(book, URL, branch="a/draft")
    options = theme_options(book)
    assert options["repository_url"] == URL
    assert options["launch_buttons"]["colab_url"] == COLAB
    assert all(options[button] is True for button in BUTTONS)
    readme = (book / "README.md").read_text()
    assert f"```\ngit clone {URL}\ncd NAME\n```\n" in readme
    link = f"{COLAB}/github/OWNER/NAME/blob/a/draft/book/training.ipynb"
    assert f"[Open in Colab][colab].\n\n[colab]: {link}\n" in readme
    project = tomllib.loads((book / "pyproject.toml").read_text())["project"]
    assert project["urls"] == {"Repository": URL}
    set_address(book, "")
    assert contents(book) == before


@pytest.mark.parametrize("host", ["COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"])
@pytest.mark.parametrize(
    ("chapter", "argument"),
    [
        ("data", ""),
        ("training", " pytorch"),
        ("visualization", " pytorch"),
        ("pytorch", " pytorch"),
    ],
)
def test_the_first_cell_installs_in_colab_and_kaggle_and_nowhere_else(
    chapter, argument, host, book
):
    set_address(book, URL)
    assert run_first_cell(book, chapter, **{host: "a"}) == [
        f"%pip install --quiet --no-deps git+{URL}@main",
        f"!python -m selfatt_lib.machinery.install{argument}",
    ]
    assert run_first_cell(book, chapter, HOME="/root") == []


# Which chapter needs MXNet

IMPORT = """
import json, sys
sys.modules |= {"mxnet": None, "gluonnlp": None}
for chapter, statements in json.loads(sys.argv[1]).items():
    for statement in statements:
        try:
            exec(statement)
        except ImportError as error:
            if "mxnet" in str(error).lower() or "gluonnlp" in str(error):
                print(chapter)
                break
"""


def imports(notebook):
    """Return the statements by which a chapter imports: list of str."""
    transform = TransformerManager().transform_cell
    code = [x["source"] for x in notebook["cells"] if x["cell_type"] == "code"]
    trees = [ast.parse(transform("".join(source))) for source in code]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    wanted = ast.Import, ast.ImportFrom
    return [ast.unparse(node) for node in nodes if isinstance(node, wanted)]


def test_the_chapters_that_get_mxnet_are_those_that_cannot_do_without():
    books = {path.stem: json.loads(path.read_text()) for path in CHAPTERS}
    statements = {name: imports(notebook) for name, notebook in books.items()}
    done = run_code(IMPORT, json.dumps(statements))
    assert done.returncode == 0, done.stderr
    needed = [name for name in books if address.engine_of(books[name]) == "mxnet"]
    assert done.stdout.split() == needed


@pytest.mark.parametrize(
    ("source", "engine"),
    [
        ("import gluonnlp as nlp", "mxnet"),
        ("import numpy\nfrom selfatt_lib.machinery.runtime import mx", "mxnet"),
        ("if True:\n    from selfatt_lib.engines import mxnet", "mxnet"),
        ("from selfatt_lib import penalty, reference", "mxnet"),
        ("from selfatt_lib.model import SelfAttention", "mxnet"),
        ("from selfatt_lib.pytorch import SelfAttention, diversity_penalty", "pytorch"),
        ("from sklearn.model_selection import train_test_split", "pytorch"),
        ("# as in import mxnet", "pytorch"),
    ],
)
def test_what_leads_to_mxnet_is_seen_in_an_import(source, engine):
    cell = {"cell_type": "code", "source": source.splitlines(keepends=True)}
    text = {"cell_type": "markdown", "source": ["import mxnet"]}
    assert address.engine_of({"cells": [text, cell]}) == engine


@pytest.mark.parametrize("url", ["", URL, URL + 90 * "e"])
def test_a_chapter_without_set_up_cells_gets_them_in_form_and_of_few_lines(book, url):
    chapter = {"cells": [{"cell_type": "markdown", "id": "a", "metadata": {}}]}
    chapter["cells"][0]["source"] = ["# Zeta"]
    path = book / "book" / "zeta.ipynb"
    path.write_text(json.dumps(chapter | {"nbformat": 4, "nbformat_minor": 5} | META))
    shutil.copy(ROOT / "book" / "ruff.toml", path.parent)
    set_address(book, url)
    first, second = first_cells(path)
    assert len(first.splitlines()) <= 4
    assert second == '%config InlineBackend.figure_formats = ["retina"]'
    for command in (["check"], ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, path], check=True)


META = {"metadata": {"language_info": {"name": "python"}}}


@pytest.mark.parametrize(
    "url",
    [
        "http://github.com/OWNER/NAME",
        "https://gitlab.com/OWNER/NAME",
        "https://github.com.example/OWNER/NAME",
        "https://github.com/OWNER",
        f"{URL}/",
        f"{URL}.git",
        f"{URL}/tree/main",
        "git@github.com:OWNER/NAME.git",
    ],
)
def test_an_address_of_another_form_is_refused_and_nothing_changed(book, url):
    set_address(book, "https://github.com/a/b")
    before = contents(book)
    with pytest.raises(SystemExit, match=r"nothing was changed.*expected are url: "):
        set_address(book, url)
    changed = {path for path, was in before.items() if path.read_bytes() != was}
    assert changed == {book / "_config.yml"}


def test_a_missing_branch_is_refused(book):
    with pytest.raises(SystemExit, match="the name of a branch"):
        set_address(book, URL, branch="")
