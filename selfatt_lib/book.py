"""What the chapters share: the library's own source, shown on the page."""

import ast
import inspect
import textwrap

from IPython.display import Markdown


def show_source(*objects):
    """Show the source of functions and classes, as it is but for the docstrings.

    Parameters
    ----------
    *objects : function or class
        Several are shown one below the other.

    Returns
    -------
    IPython.display.Markdown
        Highlighted by whatever shows the notebook.
    """
    sources = "\n\n\n".join(
        _without_docstrings(inspect.getsource(shown)) for shown in objects
    )
    return Markdown(f"```python\n{sources}\n```")


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
