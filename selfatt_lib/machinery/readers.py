"""Files of reviews, in the forms that `load_reviews` lists, as Arrow batches.

A file may come from anybody. Another process, `decode`, reads it within limits, and no
code in it is run.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from glob import glob, has_magic
from pathlib import Path

import pyarrow as pa

from selfatt_lib.machinery import printable

FORMS = dict.fromkeys([".json", ".jsonl", ".ndjson"], "json")
FORMS |= dict.fromkeys([".csv", ".tsv", ".txt"], "csv") | {".parquet": "parquet"}
MOST_GROWTH = 100  # times its size, unpacked; a file below 1 MiB counts as of 1 MiB
LIBRARY = Path(__file__).parents[2]
# in a process that finds this library, and whose path is otherwise as ever
DECODER = """
import sys
sys.path.insert(0, sys.argv[1])
import selfatt_lib
del sys.path[0]
from selfatt_lib.machinery.decode import run
run()
"""


def list_files(path):
    """Return the files of a path, a folder or a pattern: list of Path.

    In a folder, only those of a known form count, and none that is hidden.
    """
    path = Path(path)
    if os.path.isdir(path):
        inside = sorted(path.iterdir())
        return [
            file
            for file in inside
            if file.name[0] not in "._" and file.is_file() and _form(file)[0]
        ]
    if os.path.isfile(path) or not has_magic(str(path)):
        return [path] * os.path.isfile(path)
    return sorted(file for file in map(Path, glob(str(path))) if file.is_file())


def read_files(path, choose, columns=None, encoding=None):
    """Read a file, a folder of such files, or a pattern of their names.

    Parameters
    ----------
    path : str or Path
    choose : callable
        Called with the names of the columns, a list of str, and the file's name.
        Returns which two of them are text and label, by number.
    columns : list of str, optional
        Names for CSV without a header, or for lists in JSON.
    encoding : str, optional
        UTF-8 by default.

    Yields
    ------
    batch : pyarrow.RecordBatch
        Columns of str: ``text`` and ``label``, null where there is none, and
        ``problem``, null where nothing is wrong with the row.
    file : str
        Where it is from, with the member of an archive.
    first_row : int
        The number of its first review in that file, from 1.
    share : float
        Of all bytes, how much is read.
    """
    files = [(os.path.abspath(file), *known_form(file)) for file in list_files(path)]
    forms = {form for _, form, _ in files}
    if len(forms) != 1:
        raise ValueError(
            f"{path} has files of {len(forms)} forms, of those in {', '.join(FORMS)}; "
            "one is expected. Name its files by a pattern, such as folder/*.csv."
        )
    order = {"files": files, "suffixes": FORMS, "growth": MOST_GROWTH}
    order |= {"columns": columns, "encoding": encoding}
    with (
        tempfile.TemporaryDirectory() as order["folder"],
        tempfile.TemporaryFile() as errors,  # which may be longer than a pipe holds
        subprocess.Popen(
            [sys.executable, "-P", "-Xutf8", "-c", DECODER, str(LIBRARY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as decoder,
    ):
        file, broken = str(path), False
        try:
            _tell(decoder, order)
            for batch, what in _batches(decoder.stdout):
                file = what.get("file", file)
                if "names" in what:
                    _tell(decoder, choose(what["names"], file))
                elif batch.num_rows:
                    yield batch, file, what["first_row"], what["share"]
            decoder.wait()
        except (pa.ArrowException, OSError):
            # it ended in the middle, which takes a moment, or goes on with nonsense
            broken = True
            with suppress(subprocess.TimeoutExpired):
                decoder.wait(timeout=5)
        finally:
            decoder.kill()
        if decoder.wait() or broken:
            raise ValueError(printable(f"{file}: {_last_words(errors, decoder)}"))


def known_form(path):
    """Return the form of a file, and what it is packed with."""
    form, packing = _form(path)
    if not form:
        raise ValueError(
            f"{path}: the name should end in {', '.join(FORMS)}, or one of these with "
            f".gz or .zst, or in .zip with one such file in it; got {path.name!r}"
        )
    return form, packing


def _form(path):
    with open(path, "rb") as stream:
        if stream.read(4) == b"PK\x03\x04" or path.suffix.lower() == ".zip":
            return "zip", "zip"
    packing = path.suffix.lower() if path.suffix.lower() in (".gz", ".zst") else ""
    suffix = Path(path.stem).suffix if packing else path.suffix
    return FORMS.get(suffix.lower()), packing


def _tell(decoder, what):
    decoder.stdin.write(json.dumps(what).encode() + b"\n")
    decoder.stdin.flush()


def _batches(stream):
    """Yield the batches of an Arrow stream, each with what is told about it."""
    with pa.ipc.open_stream(stream) as reader, suppress(StopIteration):
        while True:
            batch, notes = reader.read_next_batch_with_custom_metadata()
            yield batch, json.loads(notes["json"])


def _last_words(errors, decoder):
    if decoder.returncode == -getattr(signal, "SIGXCPU", 0):  # which Windows has not
        return "it takes too long to read"
    errors.seek(0)
    return errors.read(500).decode(errors="replace").strip() or "its reader was killed"
