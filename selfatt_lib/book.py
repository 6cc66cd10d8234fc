"""What the chapters share: the library's own source, shown on the page."""

import ast
import inspect
import textwrap
from importlib.util import find_spec
from pathlib import Path

from IPython.display import Markdown


def show_source(*objects):
    """Show the source of functions and classes, as it is but for the docstrings.

    Parameters
    ----------
    *objects : function, class, or str
        Several are shown one below the other. A text, "module:Class.method", is read
        from the module's file, which need not be importable here.

    Returns
    -------
    IPython.display.Markdown
        Highlighted by whatever shows the notebook.
    """
    sources = "\n\n\n".join(_without_docstrings(_source(shown)) for shown in objects)
    return Markdown(f"```python\n{sources}\n```")


def _source(shown):
    if not isinstance(shown, str):
        return inspect.getsource(shown)
    module, _, names = shown.partition(":")
    text = Path(find_spec(module).origin).read_text(encoding="utf-8")
    node = ast.parse(text)
    for name in names.split("."):
        node = next(each for each in node.body if getattr(each, "name", "") == name)
    return "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])


def _without_docstrings(source):
    source = textwrap.dedent(source)
    lines = source.splitlines()
    documented = (ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            following = docstring.end_lineno
            while following < len(lines) and not lines[following].strip():
                following += 1
            lines[docstring.lineno - 1 : following] = [None] * (
                following - docstring.lineno + 1
            )
    return "\n".join(line for line in lines if line is not None)
