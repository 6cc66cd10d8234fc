"""The commands of ``selfatt``, a file for each. This one has what several need.

What takes long to import is imported where it is used: `predict` starts in a second.
"""

import os
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import click

from selfatt_lib.machinery import printable

# on Windows it is selfatt.exe
PROGRAM = sys.argv[0] if Path(sys.argv[0]).stem == "selfatt" else "selfatt"


@contextmanager
def one_sentence():
    """Turn the library's errors into the command's."""
    try:
        yield
    except BrokenPipeError:  # `| head` has read enough
        raise
    except (
        ImportError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise click.ClickException(str(error)) from error


def typed(*words):
    """Return a command as it is typed here."""
    return (subprocess.list2cmdline if os.name == "nt" else shlex.join)(words)


def parameter_option(what):
    """Return the option ``-p NAME VALUE``, whose help is `what`."""
    names, two = ("-p", "-r", "pairs"), {"nargs": 2, "metavar": "NAME VALUE"}
    return click.option(*names, multiple=True, help=what, **two)


def reading_options(command):
    """Add the options that say how a file is read."""
    for name, what in (
        ("--encoding", "UTF-8 or another."),
        ("--columns", 'Of a CSV file without a header, as "text,label"; "" if it has.'),
        ("--text-column", "Its name."),
    ):
        add = click.option(
            name, metavar="NAME", help=f"{what} By default as in training."
        )
        command = add(command)
    return command


def reading_of(run, given):
    """Return how the file of a run was read, with what is given instead: dict."""
    from selfatt_lib.machinery.places import locate_run
    from selfatt_lib.run import read_settings

    given = {name: value for name, value in given.items() if value is not None}
    if given.get("columns"):
        given["columns"] = given["columns"].split(",")
    return read_settings(locate_run(run)).training.reading | given


def padded(labels):
    """Return the labels as they are shown, and all as wide as the widest: dict."""
    from selfatt_lib.labels import shown

    names = {label: printable(shown(label, labels)) for label in labels}
    width = max(map(len, names.values()))
    return {label: name.ljust(width) for label, name in names.items()}


def new_file(path, suffixes, overwrite=False):
    """Return where a file is to be written: Path. What speaks against it is said now.

    FileExistsError, FileNotFoundError, ValueError: before any work.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path}: the name should end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {str(path.parent)!r}")
    if path.exists() and not (overwrite and path.is_file()):
        raise FileExistsError(
            f"{path} exists. Name another file, or replace it by --overwrite."
        )
    return path


@contextmanager
def written(path):
    """Give a temporary file that takes the place of `path`; name that in an error."""
    from selfatt_lib.machinery.files import replacing

    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise OSError(f"{path} could not be written: {error}") from error
