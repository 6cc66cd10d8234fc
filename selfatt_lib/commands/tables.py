"""A user's own table of texts, read by DuckDB and never held as a whole.

Its other columns are kept as they are: no value of a CSV file is taken for a number or
a date, and JSON is passed on as it is written, but for Parquet, which has types.
"""

import csv
import io
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa

from selfatt_lib.commands import reading_of
from selfatt_lib.data.columns import choose_column
from selfatt_lib.machinery import printable
from selfatt_lib.machinery.decode import read_plain, words
from selfatt_lib.machinery.files import replacing
from selfatt_lib.machinery.forms import (
    CLOSED,
    csv_problems,
    csv_source,
    escaped,
    literal,
)
from selfatt_lib.machinery.progress import tqdm
from selfatt_lib.machinery.readers import MOST_GROWTH, known_form

WRITTEN = {".csv": "csv, HEADER false", ".jsonl": "json", ".parquet": "parquet"}
ANSWER = '"the answer of selfatt"'


@contextmanager
def opened(path, run, given):
    """Give the `Table` of a file, read as that of the run was, or as is given."""
    path, reading = Path(path), reading_of(run, given)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    form, packing = known_form(path)
    if packing == "zip":
        raise ValueError(f"{path} is an archive; unpack it and name the file")
    most = MOST_GROWTH * max(path.stat().st_size, 2**20)
    config = CLOSED | {"threads": 1}  # keeps order and memory; predictions have theirs
    with (
        tempfile.TemporaryDirectory() as folder,
        duckdb.connect(config=config) as connection,
    ):
        table = Table(connection, path, form)
        read, into = partial(table.read, reading["columns"]), f"{folder}/table"
        with table.errors(ValueError, path):
            read_plain(read, str(path), form, packing, reading["encoding"], into, most)
        table.choose(reading["text_column"])
        yield table


class Table:
    """The rows of a file, for one pass or more."""

    def __init__(self, connection, path, form):
        self.connection, self.path, self.form = connection, path, form

    def read(self, columns, plain):
        """Find names and source of the columns; no row of CSV may be wrong."""
        if self.form == "csv":
            self.names, self.source, before = csv_source(plain, columns)
            self.typed = self.source
            self.fields = [f"c{number}" for number in range(len(self.names))]
            problems = csv_problems(self.connection, self.source, before, self.fields)
            for row, problem, is_blank in problems:
                if not is_blank:
                    raise ValueError(f"row {row}: {problem}")
            return
        source = f"read_{self.form}({literal(escaped(plain))}, hive_partitioning=false"
        self.source = self.typed = f"{source})"
        if self.form == "json":
            source += ", sample_size=-1, map_inference_threshold=-1, "
            self.source = f"{source} maximum_depth=1)"
            self.typed = f"{source} dateformat='none', timestampformat='none')"
        self.names = self.connection.sql(f"FROM {self.source}").columns
        self.fields = [_quoted(name) for name in self.names]

    def choose(self, text_column):
        """Find the column of texts, and count them; no other thing may be in it."""
        where = self.names, "text", text_column, self.path, "--text-column"
        name = self.names[choose_column(*where)]
        field = self.fields[self.names.index(name)]
        self.text = self.typed_text = f"{field}::VARCHAR"
        kind = f"typeof({field})"
        if self.form == "json":  # a whole document would be one text, for example
            self.text, kind = f"({field}->>'$')", f"json_type({field})"
        others = f"{self.text} IS NOT NULL AND {kind} NOT SIMILAR TO 'VARCHAR|ENUM.*'"
        query = f"SELECT count(*), count(*) FILTER ({others}) FROM {self.source}"
        with self.errors(ValueError, self.path):
            [(self.count, others)] = self.connection.execute(query).fetchall()
        if others:
            raise ValueError(
                f"{self.path}: {others:,} of {self.count:,} rows have in {name!r} what "
                "is no text; one object a row is expected"
            )

    @contextmanager
    def errors(self, kind, path):
        """Say of an error which file it is of, in a line."""
        try:
            yield
        except (duckdb.Error, OSError, ValueError) as error:
            raise kind(printable(f"{path}: {words(error)}")) from None

    def texts(self, size):
        """Yield lists of at most `size` texts, None where there is none."""
        with self.errors(ValueError, self.path):
            rows = self.connection.execute(f"SELECT {self.text} FROM {self.source}")
            while some := rows.fetchmany(size):
                yield [text for (text,) in some]

    def write(self, out, function, fields):
        """Write all columns, and those of the dicts that `function` makes of texts.

        It is given a list of them. `fields` has DuckDB's type of each such column.
        """
        there = {name.casefold() for name in self.names}
        if taken := [name for name in fields if name.casefold() in there]:
            raise ValueError(
                f"{self.path} has a column {taken[0]!r} already; rename it"
            )
        failed = []

        def called(texts):
            try:
                return pa.array(function(texts.to_pylist()), kind)
            except BaseException as error:  # DuckDB would make a text of it
                failed.append(error)
                raise

        struct = ", ".join(f"{_quoted(name)} {type_}" for name, type_ in fields.items())
        arrow = {"BIGINT": pa.int64(), "DOUBLE": pa.float64(), "VARCHAR": pa.string()}
        kind = pa.struct([(name, arrow[type_]) for name, type_ in fields.items()])
        self.connection.create_function(
            "answer",
            called,
            ["VARCHAR"],
            f"STRUCT({struct})",
            type="arrow",
            null_handling="special",
            side_effects=True,  # called once for a row
        )
        suffix = out.suffix.lower()
        form, columns = WRITTEN[suffix], self.fields
        text, source = self.text, self.source
        if suffix == ".parquet":
            text, source = self.typed_text, self.typed
        if suffix == ".csv":
            header = io.StringIO()
            csv.writer(header, lineterminator="").writerow([*self.names, *fields])
            prefix = header.getvalue() + "\n" * bool(self.count)
            form = f"{form}, PREFIX {literal(prefix)}, SUFFIX '\n'"
            if self.form == "json":
                columns = [f"{each}->>'$'" for each in columns]
        else:  # one without a name has pandas' name for it
            names = [name or f"Unnamed: {n}" for n, name in enumerate(self.names)]
            columns = [f"{c} AS {_quoted(name)}" for c, name in zip(columns, names)]
        answered = f"SELECT *, answer({text}) AS {ANSWER} FROM {source}"
        query = f"SELECT {', '.join(columns)}, unnest({ANSWER}) FROM ({answered})"
        with replacing(out) as temporary:
            try:
                with self.errors(OSError, out):
                    copy = f"COPY ({query}) TO {literal(str(temporary))}"
                    self.connection.execute(f"{copy} (FORMAT {form})")
            except OSError:
                if failed:
                    raise failed[0] from None
                raise


def _quoted(name):
    return '"' + name.replace('"', '""') + '"'


def answer(table, classifier, out, all_probabilities=False):
    """Write a table with its predictions; return what was done, in a sentence."""
    labels = classifier.labels
    types = {int: "BIGINT", float: "DOUBLE"}
    kinds = {types.get(type(label), "VARCHAR") for label in labels}
    kind = kinds.pop() if len(kinds) == 1 else "VARCHAR"
    fields = {"predicted": kind, "probability": "DOUBLE"}
    names = [f"probability_{label}" for label in labels] * all_probabilities
    fields |= dict.fromkeys(names, "DOUBLE")
    empty = 0

    def answers(texts):
        nonlocal empty
        found = classifier.predict(texts, on_invalid="skip")
        bar.update(len(found))
        empty += found.count(None)
        return [each and row(each) for each in found]

    def row(found):
        label = str(found.label) if kind == "VARCHAR" else found.label
        probabilities = found.probabilities.astype(float).round(6).tolist()
        values = {"predicted": label, "probability": max(probabilities)}
        return values | dict(zip(names, probabilities))

    with tqdm(total=table.count, desc="predicting", unit="text", leave=False) as bar:
        table.write(out, answers, fields)
    without = f", {empty:,} of them without a text" * bool(empty)
    rows = "row" if table.count == 1 else "rows"
    return f"{table.count:,} {rows}{without}: {out}"
