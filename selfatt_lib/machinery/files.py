"""Files that are written whole or not at all, and read as if a stranger made them."""

import json
import os
import re
import stat
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from selfatt_lib.machinery.places import replace

JSON_BYTES = 2**26  # the vocabulary of a million words has about 40 MB
OWN_TYPES = re.compile(r"BOOL|F(16|32|64)|[IU](8|16|32|64)")  # NumPy's, without others
METADATA = "selfatt"  # several keys would come in another order in each process


@contextmanager
def replacing(path):
    """Give the path of a temporary file, which takes the place of `path` at the end."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file, whole or not at all, with the same bytes on every system."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def _naming(path):
    """Refuse what is no plain file, and say of any error which file it is."""
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a plain file")
        yield status.st_size
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    except SafetensorError as error:
        raise ValueError(f"{path}: it is no whole file of arrays ({error})") from error


def read_json(path):
    """Read a JSON object of at most 64 MiB: dict. ValueErrors name the file."""
    with _naming(path) as size:
        if size > JSON_BYTES:
            raise ValueError(f"at most {JSON_BYTES:,} bytes are read; it has {size:,}")
        content = json.loads(Path(path).read_bytes().decode())
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
    return content


def write_arrays(path, arrays, **marks):
    """Write a dict of arrays as safetensors, with marks that `read_arrays` compares."""
    # others it would write wrongly, without a word
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = save(contiguous, {METADATA: json.dumps(marks)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        read_layout(temporary)  # bytes can get lost without an error


def read_layout(path):
    """Return what a file of arrays holds: types and shapes by name, and the marks."""
    with _naming(path), safe_open(path, "numpy") as file:
        marks = json.loads((file.metadata() or {}).get(METADATA, "{}"))
        arrays = {name: file.get_slice(name) for name in sorted(file.keys())}
        layout = {n: (each.get_dtype(), each.get_shape()) for n, each in arrays.items()}
        for name, each in layout.items():
            if not OWN_TYPES.fullmatch(each[0]):
                raise ValueError(f"{name[:80]!r} is {_told(each)}, which NumPy has not")
        return layout, marks


def read_arrays(path, expected=None, **marks):
    """Read a file of arrays: dict. Nothing is allocated before its layout is known.

    ValueErrors name the file. `expected` are the shapes, by name, of arrays of float32,
    which may be stored as float16; without it, any are taken.
    """
    layout, found = read_layout(path)
    with _naming(path):
        if found != marks:
            raise ValueError("it is another run's, or was changed")
        if expected is not None:
            whole = {"F16": "F32"}
            layout = {n: (whole.get(t, t), shape) for n, (t, shape) in layout.items()}
            _compare(layout, {n: ("F32", [*shape]) for n, shape in expected.items()})
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in layout}
    if expected is None:
        return arrays
    return {n: array.astype(np.float32, copy=False) for n, array in arrays.items()}


def _compare(layout, expected):
    wrong = [
        f"{name[:80]!r} is {_told(layout.get(name))}, "
        f"expected {_told(expected.get(name))}"
        for name in sorted(layout | expected)
        if layout.get(name) != expected.get(name)
    ]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError("; ".join(wrong[:3]) + more)


def _told(array):
    return f"{array[0]} {tuple(array[1])}" if array else "not there"
