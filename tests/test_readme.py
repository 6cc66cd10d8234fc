"""README.md and the pages name what there is: files, commands, parameters."""

import re
import shlex
from pathlib import Path

import nbformat
import pytest

from selfatt_lib.cli import main
from selfatt_lib.config import TrainingConfig

ROOT = Path(__file__).parent.parent
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
PAGES = [README, CONTRIBUTING, *sorted(ROOT.glob("book/*.md"))]
PAGES += sorted(ROOT.glob("book/*.ipynb"))
TREE = README.read_text().split("\n## What is where\n\n```\n")[1].split("```")[0]


def named_in(tree):
    """Yield the paths of a tree: two blanks a floor, several names a line."""
    folders = {-2: ROOT}
    for line in tree.splitlines():
        floor = len(line) - len(line.lstrip())
        for name in re.split(" {2,}", line.strip())[0].split():
            yield (path := folders[floor - 2] / name)
            if name.endswith("/"):
                folders[floor] = path


def test_the_tree_names_every_module_of_the_library_and_only_what_there_is():
    named = set(named_in(TREE))
    assert [path for path in named if not path.exists()] == []
    modules = (ROOT / "selfatt_lib").rglob("*.py")
    assert {path for path in modules if path.name != "__init__.py"} <= named


@pytest.mark.parametrize("page", [README, CONTRIBUTING], ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_can_be_given(page):
    text = page.read_text()
    if page.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n".join(cell.source for cell in cells)
    makefile = (ROOT / "Makefile").read_text()
    known = set(re.findall(r"(?m)^([a-z-]+):", makefile))
    assert set(re.findall(r"(?m)(?:^|`)make ([a-z-]+)", text)) <= known
    for line in re.findall(r"\.venv/bin/selfatt ([^\n`<]+)", text):
        name, *arguments = shlex.split(line)
        given = main.commands[name].make_context(name, arguments).params
        parameters = {parameter for parameter, _ in given.get("pairs", ())}
        assert parameters <= set(TrainingConfig.model_fields), line
