"""Files of reviews, in the forms that `load_reviews` lists, as tables.

A file may come from anybody: it is read in chunks and within limits, and no code in it
is run.
"""

import codecs
import csv
import io
import json
import reprlib
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path

import pandas as pd
import pyarrow as pa

from selfatt_lib.machinery import parquet

CHUNK = 10_000  # reviews read at a time
NEEDED = ["text", "stars"]
LONGEST_ROW = 2**24  # bytes of a line of JSON, characters of a row of CSV
LARGEST_OBJECT = 2**29  # bytes of an object with all reviews: it is held whole
MOST_GROWTH = 100  # times its size, unpacked; a file below 1 MiB counts as of 1 MiB
DEFLATE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

csv.field_size_limit(LONGEST_ROW)  # it would be 131,072


def read_file(path):
    """Yield tables of text and stars as they are, and the share of the file read."""
    readers = {
        ".json": _read_json,
        ".jsonl": _read_json,
        ".csv": _read_csv,
        ".parquet": read_parquet,
    }
    name, total = path.name, path.stat().st_size
    with open(path, "rb") as stream:
        zipped = stream.read(4) == b"PK\x03\x04" or path.suffix.lower() == ".zip"
        stream.seek(0)
        if zipped:
            stream, name, total = _open_member(stream, path, total)
        reader = readers.get(Path(name).suffix.lower())
        if reader is None:
            raise ValueError(
                f"{path}: the name should end in {', '.join(readers)} "
                f"(or .zip with one such file in it); got {name!r}"
            )
        try:
            if zipped and reader is read_parquet:
                reader = _read_zipped_parquet
            # closed before the stream is
            with closing(reader(stream, path, max(total, 1))) as chunks:
                yield from chunks
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path} is damaged: {error}. Get it again.") from None


@contextmanager
def _refusing(message):
    """Refuse a file for whatever Arrow or zipfile raises: a dozen types each."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{message}: {str(error).strip()}") from None


def _most_unpacked(path):
    return MOST_GROWTH * max(path.stat().st_size, 2**20)


def _open_member(stream, path, packed):
    """Return the only file in a zip archive: a stream, its name, its size."""
    damaged = f"{path} is not a whole zip archive; get it again"
    with _refusing(damaged):
        archive = zipfile.ZipFile(stream)
        members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) != 1:
        raise ValueError(
            f"{path} is a zip archive of {len(members)} files; exactly one is "
            "expected. Unpack it and name the file."
        )
    [member] = members
    size, method = member.file_size, member.compress_type
    reasons = {
        "is encrypted": member.flag_bits & 1,
        "is a link": stat.S_ISLNK(member.external_attr >> 16),
        # of other methods, zipfile unpacks 4 KB at one go, which may be gigabytes
        "is not packed by deflate": method not in DEFLATE,
        f"has {size:,} bytes, too many for {packed:,}": size > _most_unpacked(path),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(
                f"{path}: {member.filename!r} in it {reason}. "
                "Unpack it and name the file."
            )
    with _refusing(damaged):  # the stream ends where the archive says
        unpacked = io.BufferedReader(archive.open(member))
    return unpacked, member.filename, size


def _read_json(stream, path, total):
    read = iter(partial(stream.readline, LARGEST_OBJECT + 1), b"")
    lines = ((number, line) for number, line in enumerate(read, 1) if line.strip())
    number, head = next(lines, (1, b""))
    if head.rstrip().endswith(b"}"):
        first = _parse(head, path, number, LARGEST_OBJECT)
        if "texts" not in first:
            lines = chain([(number, head)], lines)
            yield from _in_chunks(_json_reviews(lines, path), stream, total)
            return
        if more := next(lines, None):
            raise ValueError(
                f"{path}: line {more[0]}: nothing may follow the object with the texts "
                "and labels"
            )
    else:  # an object of several lines
        head += stream.read(LARGEST_OBJECT + 1 - len(head))
        first = _parse(head, path, None, LARGEST_OBJECT)
    yield _read_tutorial_json(first, path), 1.0


def _json_reviews(lines, path):
    for number, line in lines:
        review = _parse(line, path, number, LONGEST_ROW)
        try:
            found = review["text"], review["stars"]
        except KeyError:
            _require(review, NEEDED, f"{path}: line {number}")
        yield found


def _read_tutorial_json(whole, path):
    expected = '{"texts": [...], "labels": [...]}'
    _require(
        whole,
        ["texts", "labels"],
        f"{path}: the object (expected: {expected}, or one review a line)",
    )
    texts, labels = whole["texts"], whole["labels"]
    if not (isinstance(texts, list) and isinstance(labels, list)):
        raise ValueError(f"{path}: texts and labels must be lists, as in {expected}")
    if len(texts) != len(labels):
        raise ValueError(
            f"{path}: {len(texts):,} texts but {len(labels):,} labels; "
            "each text needs its label"
        )
    return _frame(texts, labels)


def _parse(content, path, number, most):
    place = f"line {number}" if number else "the file"
    if len(content) > most:
        raise ValueError(
            f"{path}: {place} has more than {most:,} bytes. "
            'Write one review a line, {"text": ..., "stars": ...}.'
        )
    try:
        value = _json.decode(content.removeprefix(codecs.BOM_UTF8).decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {place} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(
            f'{path}: {place}: expected {{"texts": [...], "labels": [...]}} or one '
            f'{{"text": ..., "stars": ...}} a line; got a JSON {type(value).__name__}'
        )
    return value


def _unique(pairs):
    """Return a JSON object as a dict; with a key twice, nobody knows what is meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {reprlib.repr(key)} occurs twice")
    return found


_json = json.JSONDecoder(object_pairs_hook=_unique)


def _read_csv(stream, path, total):
    # A byte that is not UTF-8 becomes half a character, which no text may have, so that
    # the row is named.
    with io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="") as text:
        rows = _csv_rows(text, path)
        header = next(rows, None)
        if header is None:
            raise ValueError(
                f"{path} is empty; expected a header with the columns text and stars"
            )
        _require(header, NEEDED, f"{path}, read as CSV in UTF-8,")
        needed = itemgetter(*map(header.index, NEEDED))
        yield from _in_chunks(map(needed, rows), stream, total)


def _csv_rows(text, path):
    """Yield the header and the rows of a CSV file, except blank ones."""
    begins, size, fields = 1, 0, None

    def lines():
        nonlocal size
        while line := text.readline(LONGEST_ROW + 1):
            size += len(line)
            if size > LONGEST_ROW:
                raise csv.Error(f"it has more than {LONGEST_ROW:,} characters")
            yield line

    rows = csv.reader(lines(), strict=True)
    try:
        for row in rows:
            if any(map(str.strip, row)):
                fields = fields or len(row)
                if len(row) != fields:
                    raise csv.Error(
                        f"it has {len(row):,} fields, the header {fields:,}"
                    )
                yield row
            begins, size = rows.line_num + 1, 0
    except csv.Error as error:
        raise ValueError(
            f"{path} cannot be read as CSV: the row that begins in line {begins}: "
            f"{error}. Put texts that contain commas, quotes or line ends in quotes, "
            "and double the quotes in them."
        ) from None


def read_parquet(stream, path, total, columns=NEEDED):
    """Have another process decode it, whose memory has a limit, and which may crash."""
    unreadable = f"{path} cannot be read as Parquet"
    command = [sys.executable, "-P", "-Xutf8", parquet.__file__]
    command += map(str, [_most_unpacked(path), CHUNK, *columns])
    done = 0
    with (
        tempfile.TemporaryFile() as errors,  # which may be longer than a pipe holds
        subprocess.Popen(
            command, stdin=stream, stdout=subprocess.PIPE, stderr=errors
        ) as decoder,
    ):
        try:
            if head := decoder.stdout.readline():
                names, rows = json.loads(head)
                _require(names, columns, path)
                with _refusing(unreadable):
                    for batch in pa.ipc.open_stream(decoder.stdout):
                        done += batch.num_rows
                        yield batch.to_pandas(), done / max(rows, 1)
            if status := decoder.wait():
                raise ValueError(f"{unreadable}: {_last_words(errors, status)}")
        finally:
            decoder.kill()


def _last_words(errors, status):
    if status == -getattr(signal, "SIGXCPU", 0):  # which Windows has not
        return parquet.TOO_LATE
    errors.seek(0)
    said = errors.read(500).decode(errors="replace").strip() or "the decoder was killed"
    # one line, and nothing that a terminal would obey
    return "".join(char if char.isprintable() else "\ufffd" for char in said)


def _read_zipped_parquet(stream, path, total):
    """Unpack it first: it is not read from front to back, as an archive can be."""
    with tempfile.TemporaryFile() as file:  # without a name: gone with the process
        shutil.copyfileobj(stream, file)
        file.flush()
        yield from read_parquet(file, path, total)


def _in_chunks(reviews, stream, total):
    while some := list(islice(reviews, CHUNK)):
        yield _frame(*zip(*some)), min(stream.tell() / total, 1.0)


def _frame(texts, stars):
    columns = zip(NEEDED, (texts, stars))
    return pd.DataFrame({name: pd.Series(each, dtype=object) for name, each in columns})


def _require(found, expected, where):
    shown = ", ".join(map(reprlib.repr, islice(found, 20))) or "nothing"
    missing = [name for name in expected if name not in found]
    if missing:
        raise ValueError(
            f"{where} has no {' and no '.join(map(repr, missing))}; it has: {shown}"
        )
    for name in expected:
        if list(found).count(name) > 1:
            raise ValueError(f"{where} has {name!r} more than once; it has: {shown}")


def read_files(path, text_column=None, label_column=None, columns=None, encoding=None):
    if not path.is_file():
        raise FileNotFoundError(f"dataset {str(path)!r} is neither a file nor known")
    first = 1
    for chunk, share in read_file(path):

        def txt(v):
            if v is None or v != v or v == "":
                return None
            if isinstance(v, float) and v.is_integer():
                v = int(v)
            return str(v).strip()

        batch = pa.RecordBatch.from_arrays(
            [
                pa.array(
                    [None if t is None or t != t else str(t) for t in chunk["text"]],
                    pa.string(),
                ),
                pa.array([txt(v) for v in chunk["stars"]], pa.string()),
                pa.nulls(len(chunk), pa.string()),
            ],
            ["text", "label", "problem"],
        )
        yield batch, path, first, share
        first += len(chunk)
