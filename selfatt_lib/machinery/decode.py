"""Decode files of reviews with DuckDB, in a process that can take only so much.

A few bytes can stand for gigabytes, and whatever reads a stranger's file may crash. So
`readers` runs this file in a process of its own. Linux limits its memory; elsewhere a
thread looks at what it has.

A line of JSON on stdin says what to read. On stdout goes one Arrow stream. For each
file: an empty batch with its name; one with the names of its columns, to which a line
on stdin replies which two are text and label; then its reviews. At an error, the last
words on stderr say what is wrong.
"""

import codecs
import gzip
import io
import json
import os
import re
import stat
import sys
import threading
import time
import zipfile
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import psutil
import pyarrow as pa

from selfatt_lib.machinery.forms import (
    CLOSED,
    LONGEST,
    MACROS,
    SCHEMA,
    escaped,
    literal,
    of_csv,
    of_json,
    of_parquet,
)

MEMORY = 2**31  # bytes of addresses, besides those of Python and its libraries
SECONDS = 60  # of computing, and one more for each megabyte
TOO_LARGE = f"it takes more than {MEMORY:,} bytes of memory to read"
TOO_LATE = "it takes too long to read"
HIDDEN = re.compile(r"(^|/)(\.[^./]|__MACOSX/)")  # in an archive, what Macs add
NOTHING = pa.record_batch([pa.nulls(0, pa.string())] * 3, SCHEMA)


def main():
    order = json.loads(sys.stdin.buffer.readline())
    sizes = [os.path.getsize(path) for path, _, _ in order["files"]]
    limit(sum(sizes))
    with pa.ipc.new_stream(sys.stdout.buffer, SCHEMA) as stream:
        for number, (path, form, packing) in enumerate(order["files"]):
            shares = np.cumsum([0, *sizes])[number : number + 2] / max(sum(sizes), 1)
            most = order["growth"] * max(sizes[number], 2**20)
            tell(stream, file=path)
            if packing == "zip":
                packing, form = choose_member(path, order["suffixes"], most)
                tell(stream, file=f"{path}: {packing}")
            into = os.path.join(order["folder"], str(number))
            deliver = partial(send, stream, form, order["columns"], most, shares)
            read_plain(deliver, path, form, packing, order["encoding"], into, most)
            Path(into).unlink(missing_ok=True)


def read_plain(read, path, form, packing, encoding, into, most):
    """Call `read` with the path of a file as it is without packing, and in UTF-8."""
    encoding = None if form == "parquet" else encoding
    try:
        "".encode(encoding or "utf-8")
    except LookupError as error:
        raise ValueError(f"encoding={encoding!r}: {error}") from None
    if packing or encoding:
        unpack(path, packing, encoding, into, most)
        path = into
    with open(path, "rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise ValueError('it is not UTF-8; say encoding="utf-16"')
    try:
        read(path)
    except duckdb.InvalidInputException as error:
        if "invalid state" not in str(error):
            raise
        # lines that end in different ways, which DuckDB refuses
        unpack(path, "", None, f"{into} lines", most, newlines=True)
        read(f"{into} lines")


def send(stream, form, columns, most, shares, path):
    """Send the reviews of a file that is not packed."""
    read = {"json": of_json, "csv": of_csv, "parquet": of_parquet}[form]
    done = size = 0
    with connect(path) as con:
        for batch in read(con, path, columns, partial(ask_for_columns, stream)):
            size += batch.nbytes
            if form == "parquet" and size > most:
                raise ValueError(f"it has more than {most:,} bytes unpacked")
            # DuckDB does not always tell
            read_so_far = max(con.query_progress() / 100, size / os.path.getsize(path))
            share = float(np.interp(read_so_far, [0, 1], shares))
            tell(stream, batch, first_row=done + 1, share=share)
            done += batch.num_rows


def tell(stream, batch=NOTHING, **what):
    stream.write_batch(batch, {"json": json.dumps(what)})


def ask_for_columns(stream, names):
    """Return the numbers of the columns that the parent chooses."""
    tell(stream, names=[name[:200] for name in names])
    sys.stdout.buffer.flush()
    return json.loads(sys.stdin.buffer.readline())


def connect(path):
    """Open DuckDB, which may read this file and nothing else."""
    con = duckdb.connect(
        config=CLOSED | {"threads": min(os.cpu_count() or 1, 4), "temp_directory": ""}
    )
    con.execute(MACROS)
    # it takes a column of 1.0 and NaN for one of 1.0, whose greatest and smallest it is
    con.execute("SET disabled_optimizers = 'statistics_propagation'")
    con.execute(f"SET allowed_paths = {literal([path, escaped(path)])}")
    con.execute("SET enable_progress_bar_print = false")  # before there is a bar
    con.execute("SET enable_progress_bar = true; SET progress_bar_time = 0")
    con.execute("SET enable_external_access = false; SET lock_configuration = true")
    return con


# Archives and encodings


def choose_member(path, suffixes, most):
    """Return the name of the one file of reviews in a zip archive, and its form."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # a dozen types
        raise ValueError(f"not a whole zip archive; get it again: {error}") from None
    members = [
        member
        for member in members
        if not (member.is_dir() or HIDDEN.search(member.filename))
    ]
    forms = [
        suffixes.get(os.path.splitext(member.filename)[1].lower()) for member in members
    ]
    if len(forms) - forms.count(None) != 1:
        shown = ", ".join(member.filename for member in members[:5])[:100]
        raise ValueError(
            f"in the archive are {len(forms) - forms.count(None)} files of reviews (of "
            f"{len(members)}: {shown}); exactly one should end in "
            f"{', '.join(suffixes)}. Unpack it and name the file."
        )
    [(member, form)] = [each for each in zip(members, forms) if each[1]]
    reasons = {
        "is encrypted": member.flag_bits & 1,
        "is a link": stat.S_ISLNK(member.external_attr >> 16),
        # of other methods, zipfile unpacks 4 KB at one go, which may be gigabytes
        "is not packed by deflate": member.compress_type
        not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
        f"has {member.file_size:,} bytes, more than {most:,}": member.file_size > most,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(
                f"{member.filename!r} {reason}. Unpack it and name the file."
            )
    return member.filename, form


def unpack(path, packing, encoding, into, most, newlines=False):
    """Write the file as it is without packing, and in UTF-8."""
    decoder = encoding and codecs.getincrementaldecoder(encoding)()
    if newlines:
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
    with open(into, "wb") as file:
        for chunk in unpacked_chunks(path, packing):
            if decoder:
                try:
                    text = decoder.decode(chunk, final=not chunk)
                except UnicodeError as error:
                    raise ValueError(f"it is not {encoding}: {error}") from None
                chunk = text.encode(errors="surrogateescape")
            file.write(chunk)
            if file.tell() > most:
                raise ValueError(f"it has more than {most:,} bytes unpacked")


def unpacked_chunks(path, packing):
    """Yield bytes, and at the end none."""
    try:
        with (
            open(path, "rb") as file,
            gzip.open(file)
            if packing == ".gz"
            else pa.CompressedInputStream(file, "zstd")
            if packing == ".zst"
            else zipfile.ZipFile(file).open(packing)
            if packing
            else file as stream,
        ):
            while chunk := stream.read(2**20):
                yield chunk
    except Exception as error:  # each library has types of its own
        raise ValueError(f"it is damaged: {error}. Get it again.") from None
    yield b""


# Limits


def limit(size):
    """Bound what files of so many bytes can take."""
    seconds = SECONDS + size // 10**6
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    except (ImportError, FileNotFoundError):  # Windows, macOS
        threading.Thread(target=watch, args=(seconds,), daemon=True).start()
        return
    pa.set_memory_pool(pa.system_memory_pool())  # others ask for more than they use
    memory = MEMORY + pages * resource.getpagesize()
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        set_before = resource.getrlimit(what)
        limits = [most, *(n for n in set_before if n != resource.RLIM_INFINITY)]
        resource.setrlimit(what, (min(limits), set_before[1]))


def watch(seconds):
    """End the process, in the middle of what it does, once it has taken too much."""
    process, said = psutil.Process(), TOO_LATE
    while time.process_time() < seconds:
        if process.memory_info().rss > MEMORY:
            said = TOO_LARGE
            break
        time.sleep(0.01)
    print(said, file=sys.stderr, flush=True)
    os._exit(1)


def words(error):
    """Say in a few words what DuckDB, Arrow and others say in many."""
    said = str(error).strip()
    if isinstance(error, MemoryError) or re.search("(?i)out of memory|bad.alloc", said):
        return TOO_LARGE
    if "maximum_object_size" in said:
        return f"a review has more than {LONGEST:,} bytes"
    if found := re.search(r"Malformed JSON .* record/value (\d+): (.*?)\.", said):
        return f"review {int(found[1]) - 1} is not valid JSON: {found[2]}"
    said = re.sub(r"^[\w ]+ Error: ", "", said.partition("\n")[0])
    return said[:250] or type(error).__name__


def run():
    """Do it, and end with what is wrong, if anything is."""
    try:
        main()
    except Exception as error:  # a dozen types, not all documented
        sys.exit(words(error))
