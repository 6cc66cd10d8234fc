"""Decode columns of a Parquet file: ``python parquet.py MOST_BYTES CHUNK COLUMN... <FILE``.

A few bytes of Parquet can stand for gigabytes, and Arrow's reader has no limit of memory. So `sources` runs it here, in a process of
its own, which has one; should it crash, then only that. It prints a line of JSON with the names of all columns and the number of rows,
then the rows as an Arrow stream. At an error it says what is wrong.
"""

import json
import sys

import pyarrow as pa
from pyarrow import parquet

MEMORY = 2**31  # bytes of addresses
BUFFER = 2**20  # bytes read at a time: a column may be larger than the memory


def main(most_bytes, chunk, *columns):
    limit_memory()
    file = parquet.ParquetFile(sys.stdin.buffer, buffer_size=BUFFER)
    fields, decoded = file.schema_arrow, 0
    print(json.dumps([fields.names, file.metadata.num_rows]), flush=True)
    schema = pa.schema(plain(fields.field(name)) for name in columns)
    with pa.ipc.new_stream(sys.stdout.buffer, schema) as stream:
        for batch in file.iter_batches(int(chunk), columns=columns, use_threads=False):
            batch = batch.select(columns).cast(schema)
            batch.validate(full=True)  # that texts are in UTF-8, for one
            decoded += batch.nbytes
            if decoded > int(most_bytes):
                raise ValueError(f"it has more than {int(most_bytes):,} bytes unpacked")
            stream.write_batch(batch)


def plain(field):
    """Return the field without a dictionary: a value counts, and is held, as often as it occurs."""
    if pa.types.is_dictionary(field.type):
        field = field.with_type(field.type.value_type)
    return field


def limit_memory():
    if sys.platform == "linux":
        import resource

        pa.set_memory_pool(pa.system_memory_pool())  # others ask for more than they use
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except MemoryError:
        sys.exit(f"it takes more than {MEMORY:,} bytes of memory; save it as .jsonl")
    except Exception as error:  # Arrow raises a dozen types, not all documented
        sys.exit(str(error).strip())
