"""What ``make address`` writes, and that taking the address away leaves no trace."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from jupyter_book.config import get_final_config

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location(
    "address_tool", ROOT / "tools" / "address.py"
)
address = importlib.util.module_from_spec(spec)
spec.loader.exec_module(address)

URL = "https://github.com/OWNER/NAME"
COLAB = "https://colab.research.google.com"


@pytest.fixture
def copy(tmp_path):
    """The files that hold the address, as they are tracked."""
    for file in address.BLOCKS:
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / "book").mkdir()
    for chapter in (ROOT / "book").glob("*.ipynb"):
        shutil.copy(chapter, tmp_path / "book")
    return tmp_path


@pytest.fixture
def book(copy):
    """The same without an address, should they have one."""
    assert set_address(copy, "") is None
    return copy


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def config(root):
    return yaml.safe_load((root / "_config.yml").read_text())


def theme_options(root):
    """What the theme is given, the defaults included."""
    arguments = {"latex_individualpages": False}
    final, _ = get_final_config(
        user_yaml=root / "_config.yml", cli_config=arguments, raise_on_invalid=True
    )
    return final["html_theme_options"]


BUTTONS = ("use_repository_button", "use_source_button", "use_issues_button")


def write_url(root, url):
    path = root / "_config.yml"
    text = re.sub(r'(?m)^  url: ".*?"', f'  url: "{url}"', path.read_text())
    path.write_text(text)


def set_address(root, url):
    """Do what a person does; return what the command stops with, or None."""
    write_url(root, url)
    return address.main(root)


def test_the_tracked_files_are_what_make_address_leaves(copy):
    before = contents(copy)
    assert address.main(copy) is None
    assert contents(copy) == before


def test_without_an_address_none_is_made_up(book):
    assert config(book)["repository"]["url"] == ""
    options = theme_options(book)
    assert not options["repository_url"]
    assert not options["launch_buttons"]["colab_url"]
    assert not any(options.get(button) for button in BUTTONS)
    readme = (book / "README.md").read_text()
    assert "<!-- address -->\n<!-- /address -->\n" in readme
    assert not re.search("git clone|colab.research", readme)
    assert "urls" not in tomllib.loads((book / "pyproject.toml").read_text())["project"]
    for path in book.glob("book/*.ipynb"):
        assert r'"REPOSITORY = \"\"  # set by make address' in path.read_text()


def test_an_address_turns_the_buttons_on(book):
    assert set_address(book, URL) is None
    assert config(book)["repository"] == {"url": URL, "branch": "main"}
    options = theme_options(book)
    assert options["repository_url"] == URL
    assert options["launch_buttons"]["colab_url"] == COLAB
    assert all(options[button] is True for button in BUTTONS)


def test_an_address_gives_readme_the_clone_command_and_a_link_to_colab(book):
    set_address(book, URL)
    readme = (book / "README.md").read_text()
    assert f"```\ngit clone {URL}\ncd NAME\n```\n" in readme
    link = f"{COLAB}/github/OWNER/NAME/blob/main/book/training.ipynb"
    assert f"[Open in Colab]({link})" in readme
    assert (ROOT / link.partition("/blob/main/")[2]).is_file()


def test_an_address_stands_in_the_packages_metadata(book):
    set_address(book, URL)
    project = tomllib.loads((book / "pyproject.toml").read_text())["project"]
    assert project["urls"] == {"Repository": URL}


def test_an_address_changes_one_line_of_a_chapter(book):
    before = contents(book)
    set_address(book, URL)
    for path in book.glob("book/*.ipynb"):
        old, new = before[path].decode(), path.read_text()
        empty = r"REPOSITORY = \"\"  # set by make address"
        filled = rf"REPOSITORY = \"{URL}@main\"  # set by make address # fmt: skip"
        assert old.count(empty) == 1
        assert new == old.replace(empty, filled)
        cells = json.loads(new)["cells"]
        setup = next(cell for cell in cells if cell["cell_type"] == "code")
        assert json.loads(f'"{filled}"') in "".join(setup["source"]).splitlines()


def test_a_second_run_changes_nothing(book, capsys):
    set_address(book, URL)
    before = contents(book)
    capsys.readouterr()
    assert address.main(book) is None
    assert contents(book) == before
    assert "changed: nothing" in capsys.readouterr().out


def test_another_address_and_branch_replace_the_first(book):
    other = "https://github.com/a-b/c.d_e"
    set_address(book, other)
    expected = contents(book)
    set_address(book, URL)
    set_address(book, other)
    assert contents(book) == expected
    path = book / "_config.yml"
    path.write_text(path.read_text().replace("branch: main", "branch: draft"))
    assert address.main(book) is None
    assert "/a-b/c.d_e/blob/draft/book/" in (book / "README.md").read_text()
    assert f"{other}@draft" in (book / "book" / "training.ipynb").read_text()


@pytest.mark.parametrize("emptied", ['""', "", "''"])
def test_an_emptied_address_leaves_no_trace(book, emptied):
    before = contents(book)
    set_address(book, URL)
    assert {path for path in before if path.read_bytes() != before[path]} == {*before}
    path = book / "_config.yml"
    path.write_text(path.read_text().replace(f'"{URL}"', emptied))
    assert address.main(book) is None
    assert contents(book) == before


@pytest.mark.parametrize("end", ["/", ".git", ".git/"])
def test_a_slash_or_git_at_the_end_is_removed(book, end):
    set_address(book, URL)
    expected = contents(book)
    set_address(book, "")
    assert set_address(book, URL + end) is None
    assert contents(book) == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://github.com/OWNER/NAME",
        "https://gitlab.com/OWNER/NAME",
        "https://github.com/OWNER",
        "https://github.com/OWNER/NAME/tree/main",
        "https://github.com/OWNER/..",
        "https://github.com.example/OWNER/NAME",
        "git@github.com:OWNER/NAME.git",
        "OWNER/NAME",
        "https://github.com/OWNER/NAME?a",
        "https://github.com/OWNER/NA ME",
    ],
)
@pytest.mark.parametrize("earlier", ["", URL])
def test_an_address_of_another_form_is_refused_and_nothing_changed(book, url, earlier):
    set_address(book, earlier)
    write_url(book, url)
    before = contents(book)
    message = address.main(book)
    assert f"repository.url is {url!r}" in message
    assert "expected are https://github.com/OWNER/NAME" in message
    assert "correct them and run 'make address' again" in message
    assert contents(book) == before


def refused(book, file):
    """Run with an address; return why it was refused, with nothing changed."""
    write_url(book, URL)
    before = contents(book)
    message = address.main(book)
    assert message.startswith(f"address: nothing was changed. {file}: ")
    assert contents(book) == before
    return message


SETUP = {
    "cell_type": "code",
    "metadata": {"tags": ["setup"]},
    "source": ['REPOSITORY = ""  # set by make address'],
}
OTHER = {"cell_type": "code", "metadata": {}, "source": ["1"]}


@pytest.mark.parametrize(
    "cells",
    [
        [],
        [OTHER],
        [OTHER, SETUP],
        [SETUP | {"metadata": {}}],
        [SETUP | {"source": ['REPOSITORY = ""']}],
        [SETUP, SETUP],
    ],
)
def test_a_chapter_without_its_setup_cell_is_named(book, cells):
    path = book / "book" / "zeta.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    message = refused(book, "book/zeta.ipynb")
    assert f"must have the tag 'setup' and one line '{address.EMPTY}'" in message
    path.write_text(json.dumps({"cells": [SETUP, OTHER]}))
    assert address.main(book) is None


@pytest.mark.parametrize("length", [1, 10, 30, 90])
def test_a_chapter_with_an_address_of_any_length_is_in_form(book, length):
    path = book / "book" / "zeta.ipynb"
    cell = SETUP | {"execution_count": None, "id": "a", "outputs": []}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook, indent=1) + "\n")
    shutil.copy(ROOT / "book" / "ruff.toml", path.parent)
    set_address(book, f"https://github.com/o/{'n' * length}")
    for command in (["check"], ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, path], check=True)


def test_a_chapter_that_cannot_be_read_is_named(book):
    (book / "book" / "zeta.ipynb").write_text("<<<<<<< HEAD")
    refused(book, "book/zeta.ipynb")


@pytest.mark.parametrize("file", address.BLOCKS)
def test_a_file_without_its_marks_is_named(book, file):
    path = book / file
    path.write_text(re.sub(r"(?m)^.* /address.*\n", "", path.read_text()))
    assert "'address' and '/address' is expected and 0 found" in refused(book, file)


def test_a_missing_branch_is_refused(book):
    path = book / "_config.yml"
    path.write_text(path.read_text().replace("  branch: main\n", ""))
    assert "the name of a branch" in refused(book, "_config.yml")
