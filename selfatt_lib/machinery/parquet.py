"""Decode columns of a Parquet file.

    python parquet.py MOST_BYTES CHUNK COLUMN... <FILE

A few bytes of Parquet can stand for gigabytes, and Arrow's reader has no limit of
memory. So `readers` runs it here, in a process of its own, which has one; should it
crash, then only that. Linux enforces the limit; elsewhere a thread asks Arrow for what
it holds. The process prints a line of JSON with the names of all columns and the number
of rows, then the rows as an Arrow stream. At an error it says what is wrong.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

MEMORY = 2**31  # bytes of addresses, besides those of Python and Arrow
SECONDS = 60  # of computing, and one more for each megabyte
BUFFER = 2**20  # bytes read at a time: a column may be larger than the memory
SHOWN = 20  # names, each of at most 80 characters
TOO_LARGE = f"it takes more than {MEMORY:,} bytes of memory; save it as .jsonl"
TOO_LATE = "it takes too long to decode"


def main(most_bytes, chunk, *columns):
    limit(os.fstat(sys.stdin.fileno()).st_size)
    file = parquet.ParquetFile(sys.stdin.buffer, buffer_size=BUFFER)
    fields, rows = file.schema_arrow, file.metadata.num_rows
    there = [name for name in columns if fields.names.count(name) == 1]
    schema = pa.schema(plain(fields.field(name)) for name in there)
    named = enumerate(fields.names)
    shown = [name[:80] for place, name in named if place < SHOWN or name in columns]
    print(json.dumps([shown, rows]), flush=True)
    decoded = 0
    with pa.ipc.new_stream(sys.stdout.buffer, schema) as stream:
        for batch in file.iter_batches(int(chunk), columns=there, use_threads=False):
            batch = batch.select(there).cast(schema)
            batch.validate(full=True)  # that texts are in UTF-8, for one
            decoded += batch.nbytes
            if decoded > int(most_bytes):
                raise ValueError(f"it has more than {int(most_bytes):,} bytes unpacked")
            stream.write_batch(batch)


def plain(field):
    """Return the field of plain values: each counts, and is held, as often as it is."""
    kind = field.type
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_nested(kind):  # as objects of Python, millions in a row
        raise ValueError(f"{field.name} must be plain; got {str(kind)[:80]}")
    return pa.field(field.name, kind)


def limit(size):
    """Bound what a file of so many bytes can take."""
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
    said = TOO_LATE
    while time.process_time() < seconds:
        if pa.total_allocated_bytes() > MEMORY:
            said = TOO_LARGE
            break
        time.sleep(0.01)
    print(said, file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except MemoryError:
        sys.exit(TOO_LARGE)
    except Exception as error:  # Arrow raises a dozen types, not all documented
        sys.exit(str(error).strip())
