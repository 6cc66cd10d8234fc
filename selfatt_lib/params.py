"""Look at what a stranger may have written before anything else reads it: JSON, and files of MXNet's arrays.

MXNet believes what a file says of its own sizes. Here every size is held against the file's before memory is asked for.
"""

import json
import math
import os
import stat
import struct
from contextlib import contextmanager

import numpy as np

JSON_BYTES = 2**26  # the vocabulary of a million words has about 40 MB
LIST_MAGIC, ARRAY_MAGIC = 0x112, 0xF993FAC9
DENSE, CPU = 0, (1, 0)
MOST_DIMENSIONS = 32
# by their numbers in the file
DTYPES = [
    np.dtype(name)
    for name in ["float32", "float64", "float16", "uint8", "int32", "int8", "int64"]
]


@contextmanager
def _opened(path):
    """Open a file and give it with its size; say of what is wrong in it which file that is."""
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a plain file")
        with open(path, "rb") as file:
            yield file, status.st_size
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_json(path):
    """Read a JSON object.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
    ValueError
        It is not a plain file, has more than 64 MiB, is not JSON in UTF-8, nests too deeply, or is no object. The message names the file.
    """
    with _opened(path) as (file, size):
        if size > JSON_BYTES:
            raise ValueError(f"at most {JSON_BYTES:,} bytes are read; it has {size:,}")
        content = json.loads(file.read(size).decode())
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
    return content


def mark(run):
    """Return the name of the array, of one zero, that marks a file as a run's: one for each combination of settings and reviews."""
    return f"run.{run}"


def read_layout(path, run=None):
    """Read which arrays a file holds, without MXNet and without the arrays themselves.

    Parameters
    ----------
    path : str or Path
        What `mxnet.nd.save` or Gluon's `save_parameters` wrote.
    run : str, optional
        The run whose `mark` has to be there.

    Returns
    -------
    dict
        By the array's name: its shape, a tuple of int, and its dtype, NumPy's. Without the mark, if `run` is given.

    Raises
    ------
    FileNotFoundError
    ValueError
        MXNet would not have written this: the file ends too early or too late, or holds anything but dense arrays on the CPU with
        names of their own. Or the mark is not there. The message names the file.

    Notes
    -----
    MXNet 1.9.1 writes, little-endian, 0x112 and 0 (uint64); the number of arrays (uint64) and the arrays; again their number and
    the names, each with its bytes counted before it (uint64). An array is 0xF993FAC9 (uint32), its kind of storage and number of
    dimensions (int32), the dimensions (int64), the device's kind and number and the dtype's number (int32), and the data
    (``NDArray::Save`` in ``src/ndarray/ndarray.cc``).
    """
    with _opened(path) as (file, size):

        def take(count):
            if count > size - file.tell():
                raise ValueError("it ends too early")
            return count

        def read(form):
            return struct.unpack(form, file.read(take(struct.calcsize(form))))

        def read_array():
            magic, storage, ndim = read("<Iii")
            if magic != ARRAY_MAGIC or storage != DENSE:
                raise ValueError("it holds something that is not a dense array")
            if not 1 <= ndim <= MOST_DIMENSIONS:
                raise ValueError(f"it holds an array of {ndim} dimensions")
            shape = read(f"<{ndim}q")
            *device, dtype = read("<3i")
            if (
                min(shape) < 1
                or tuple(device) != CPU
                or dtype not in range(len(DTYPES))
            ):
                raise ValueError(
                    f"it holds an array of the shape {shape} and dtype number {dtype} on device {device}"
                )
            dtype = DTYPES[dtype]
            file.seek(take(math.prod(shape) * dtype.itemsize), os.SEEK_CUR)
            return shape, dtype

        def read_name():
            (length,) = read("<Q")
            return file.read(take(length)).decode()

        if read("<2Q") != (LIST_MAGIC, 0):
            raise ValueError("it is not a file of MXNet's arrays")
        (count,) = read("<Q")
        arrays = [read_array() for _ in range(count)]
        if read("<Q") != (count,):
            raise ValueError("it has not one name for each array")
        layout = {read_name(): array for array in arrays}
        if len(layout) < count:
            raise ValueError("two arrays have the same name")
        if file.tell() != size:
            raise ValueError("it goes on after its end")
        if run is not None and layout.pop(mark(run), None) != ((1,), DTYPES[0]):
            raise ValueError("it is another run's, or was changed")
    return layout


def check_layout(path, expected, run=None):
    """Raise ValueError unless a file holds arrays of these names, shapes and dtypes, and no others.

    Parameters
    ----------
    path : str or Path
    expected : dict
        By the array's name: anything with a ``shape`` and a ``dtype``, such as an array or a parameter of Gluon's.
    run : str, optional
        As in `read_layout`.

    Raises
    ------
    FileNotFoundError
    ValueError
        As `read_layout`, or the message says which arrays are other than expected.
    """
    layout = read_layout(path, run)
    expected = {
        name: (tuple(array.shape), np.dtype(array.dtype))
        for name, array in expected.items()
    }
    wrong = [
        f"{name[:80]!r} is {_told(layout.get(name))}, expected {_told(expected.get(name))}"
        for name in sorted(layout | expected)
        if layout.get(name) != expected.get(name)
    ]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"{path}: {'; '.join(wrong[:3])}{more}")


def _told(array):
    return "{1} {0}".format(*array) if array else "not there"
