"""What the chapters share."""

import inspect

from conftest import run_code
from selfatt_lib import book
from selfatt_lib.book import show_source
from selfatt_lib.reference import class_weights
from selfatt_lib.run import RunDirectory


def shown(*objects):
    text = show_source(*objects).data
    assert text.startswith("```python\n")
    assert text.endswith("\n```")
    return text.removeprefix("```python\n").removesuffix("\n```")


def documented(number):
    """Add one.

    Nothing more.
    """

    # a comment stays
    return f"""{number + 1}"""  # as do other texts


class Documented:
    """A class."""

    def method(self):
        """Return its name."""
        return "method"


def test_source_is_shown_without_docstrings_and_otherwise_as_it_is():
    assert shown(documented) == (
        "def documented(number):\n"
        "    # a comment stays\n"
        '    return f"""{number + 1}"""  # as do other texts'
    )
    assert shown(Documented) == (
        'class Documented:\n    def method(self):\n        return "method"'
    )


def test_a_method_is_shown_from_its_own_margin():
    assert shown(Documented.method) == 'def method(self):\n    return "method"'


def test_a_name_is_read_from_its_file_without_an_import():
    name = "selfatt_lib.run:RunDirectory.begin"
    assert shown(name) == shown(RunDirectory.begin)
    assert shown("selfatt_lib.reference:class_weights") == shown(class_weights)
    code = "import sys; from selfatt_lib.book import show_source; "
    code += "show_source('selfatt_lib.model:BiLSTM', 'selfatt_lib.pytorch:BiLSTM')"
    code += "; assert not {'mxnet', 'torch'} & {*sys.modules}"
    assert run_code(code).returncode == 0


def test_several_objects_are_shown_one_below_the_other():
    both = shown(Documented, class_weights)
    assert both == f"{shown(Documented)}\n\n\n{shown(class_weights)}"


def test_what_is_shown_is_code_that_the_library_has():
    source = inspect.getsource(book)
    lines = shown(show_source, book._without_docstrings).splitlines()
    assert len(lines) > 10
    assert all(line in source for line in lines)
