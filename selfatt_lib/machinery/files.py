"""Files that are written whole or not at all, and read as if a stranger had made them."""

import json
import os
import stat
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

JSON_BYTES = 2**26  # the vocabulary of a million words has about 40 MB
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
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
    """Read a JSON object: dict.

    Raises
    ------
    FileNotFoundError
    ValueError
        It is not a plain file, has more than 64 MiB, is not JSON in UTF-8, nests too
        deeply, or is no object. The message names the file.
    """
    with _naming(path) as size:
        if size > JSON_BYTES:
            raise ValueError(f"at most {JSON_BYTES:,} bytes are read; it has {size:,}")
        content = json.loads(Path(path).read_bytes().decode())
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
    return content


def write_arrays(path, arrays, **marks):
    """Write arrays as safetensors, whole or not at all.

    Parameters
    ----------
    path : Path
    arrays : dict of ndarray
    **marks : str
        Kept with them, for `read_arrays` to compare.

    Raises
    ------
    OSError, ValueError
        It could not be written.
    """
    # others it would write wrongly, without a word
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = save(contiguous, {METADATA: json.dumps(marks)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        read_layout(temporary)  # bytes can get lost without an error


def read_layout(path):
    """Return what a file of arrays holds, without the arrays: shapes by name, marks."""
    with _naming(path), safe_open(path, "numpy") as file:
        marks = json.loads((file.metadata() or {}).get(METADATA, "{}"))
        names = sorted(file.keys())
        slices = {name: file.get_slice(name) for name in names}
        return (
            {
                name: (each.get_dtype(), each.get_shape())
                for name, each in slices.items()
            },
            marks,
        )


def read_arrays(path, expected=None, **marks):
    """Read the arrays of a file. Nothing is allocated before its layout is known.

    Parameters
    ----------
    path : Path
    expected : dict of tuple, optional
        The shape of each array, all of float32. By default, any are taken.
    **marks : str
        What `write_arrays` was given.

    Returns
    -------
    dict of ndarray

    Raises
    ------
    FileNotFoundError
    ValueError
        The file is damaged, holds other arrays, or has other marks. The message names
        it.
    """
    layout, found = read_layout(path)
    with _naming(path):
        if found != marks:
            raise ValueError("it is another run's, or was changed")
        if expected is not None:
            _compare(
                layout, {name: ("F32", [*shape]) for name, shape in expected.items()}
            )
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in layout}


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
