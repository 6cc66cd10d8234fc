"""A user's own table of texts, read by DuckDB and never held as a whole.

Its other columns are kept as they are: no value of a CSV file is taken for a number or
a date, and JSON is passed on as it is written, but for Parquet, which has types.
"""

import csv
import gzip
import re
import zlib
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from selfatt_lib.commands import printable
from selfatt_lib.data.columns import choose_column
from selfatt_lib.labels import listed
from selfatt_lib.machinery.files import replacing
from selfatt_lib.machinery.forms import escaped, literal
from selfatt_lib.machinery.places import locate
from selfatt_lib.machinery.progress import tqdm
from selfatt_lib.run import read_settings

READ = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}
READ |= {".ndjson": "json", ".parquet": "parquet"}
WRITTEN = {".csv": "csv, HEADER", ".jsonl": "json", ".parquet": "parquet"}
DELIMITERS = ",;\t|"
LONGEST_ROW = 2**24  # bytes
# one thread keeps the order and the memory; the predictions have theirs
CLOSED = {"threads": 1, "autoinstall_known_extensions": False}
CLOSED |= {"autoload_known_extensions": False}
UNREADABLE = (duckdb.Error, csv.Error, zlib.error, EOFError, OSError, ValueError)
ANSWER = '"the answer of selfatt"'


class Table:
    """The rows of a file, for one pass or more.

    Parameters
    ----------
    path : str
    text_column : str, optional
        By default the one with a usual name.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such file; its form is unknown; it cannot be read; its column of
        texts is not there, or could be one of several.
    """

    def __init__(self, path, text_column):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        self.form = READ.get(Path(path.lower().removesuffix(".gz")).suffix)
        if self.form is None:
            raise ValueError(
                f"{path}: the name should end in {', '.join(READ)}, or one of these "
                "and .gz"
            )
        self.connection = duckdb.connect(config=CLOSED)
        with self.errors(ValueError, "cannot be read"):
            self.names = self.connection.sql(f"FROM {self.source()}").columns
        found = choose_column(self.names, "text", text_column, path, "--text-column")
        self.text_column = self.names[found]
        is_no_text = "false"
        if self.form == "json":  # a whole document would be one text, for example
            kind = f"json_type({_quoted(self.text_column)})"
            is_no_text = f"{kind} NOT IN ('VARCHAR', 'NULL')"
        query = f"SELECT count(*), count(*) FILTER ({is_no_text}) FROM {self.source()}"
        with self.errors(ValueError, "cannot be read"):
            [(self.count, others)] = self.connection.execute(query).fetchall()
        if others:
            raise ValueError(
                f"{path}: {others:,} of {self.count:,} rows have in "
                f"{self.text_column!r} what is no text; one object a row is expected"
            )

    @contextmanager
    def errors(self, kind, what):
        """Say of DuckDB's errors which file they are of, in a line."""
        try:
            yield
        except UNREADABLE as error:
            said = re.sub(r"^[\w ]+ Error: ", "", str(error))
            said = re.split(r"\n(?:Possible|Try) ", said)[0]  # advice on parameters
            said = re.sub(r"(?s)Original Line:.*?\n(?=Expected|Value|Inv)", "", said)
            said = printable(" ".join(said.split()))[:300]
            raise kind(f"{self.path} {what}: {said}") from None

    def source(self, typed=False):
        """Return what DuckDB reads the file by; `typed`: JSON's values have types."""
        name = f"{literal(escaped(str(self.path)))}, hive_partitioning=false"
        if self.form == "parquet":
            return f"read_parquet({name})"
        # by a name with "?" in it, DuckDB would not know
        packed = "gzip" if self.path.suffix.lower() == ".gz" else "none"
        name = f"{name}, compression='{packed}'"
        if self.form == "json":
            no_dates = "dateformat='none', timestampformat='none'"
            how = no_dates if typed else "maximum_depth=1"
            return f"read_json({name}, sample_size=-1, {how})"
        delimiter, names = self._header()
        columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
        return (
            f"read_csv({name}, auto_detect=false, columns={{{columns}}}, header=true, "
            f"delim={literal(delimiter)}, quote='\"', escape='\"', "
            f"max_line_size={LONGEST_ROW})"
        )

    def _header(self):
        """Return the delimiter of a CSV file and the names of its columns."""
        opened = gzip.open if self.path.suffix.lower() == ".gz" else open
        with opened(self.path, "rt", encoding="utf-8-sig", errors="replace") as file:
            first = file.readline(LONGEST_ROW)
        delimiter = max(DELIMITERS, key=first.count)
        names = next(csv.reader([first], delimiter=delimiter), [])
        counts = Counter(name.casefold() for name in names)
        if not names or max(counts.values()) > 1 or "" in counts:
            raise ValueError(
                "the first line should name the columns, each by another name (case "
                f"does not count); got {listed(names) or 'none'}"
            )
        return delimiter, names

    def text(self, typed=False):
        """Return DuckDB's expression for the text of a row."""
        name = _quoted(self.text_column)
        in_json = self.form == "json" and not typed
        return f"{name}->>'$'" if in_json else f"{name}::VARCHAR"

    def texts(self, size):
        """Yield lists of at most `size` texts, None where there is none."""
        with self.errors(ValueError, "cannot be read"):
            rows = self.connection.execute(f"SELECT {self.text()} FROM {self.source()}")
            while some := rows.fetchmany(size):
                yield [text for (text,) in some]

    def write(self, out, function, fields):
        """Write all columns and those that `function` makes of a list of texts.

        Parameters
        ----------
        out : Path
            Written whole or not at all.
        function : callable
            Returns a dict for each text, or None.
        fields : dict
            The DuckDB type of each column that it adds, by name.
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
        typed, rows = suffix == ".parquet", f"* EXCLUDE ({ANSWER})"
        if self.form == "json" and suffix == ".csv":
            rows = f"COLUMNS({rows})->>'$'"
        answered = f"SELECT *, answer({self.text(typed)}) AS {ANSWER}"
        query = f"SELECT {rows}, unnest({ANSWER}) FROM"
        query = f"{query} ({answered} FROM {self.source(typed)})"
        with replacing(out) as temporary:
            try:
                with self.errors(OSError, f"could not be made into {out}"):
                    form = f"(FORMAT {WRITTEN[suffix]})"
                    copy = f"COPY ({query}) TO {literal(str(temporary))} {form}"
                    self.connection.execute(copy)
            except OSError:
                if failed:
                    raise failed[0] from None
                raise


def _quoted(name):
    return '"' + name.replace('"', '""') + '"'


def name_of_text(run, given):
    """Return the name of the column of texts, as given or as in training, or None."""
    return given or read_settings(locate(run)).training.text_column


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
