"""Text and label of each review in a JSON, CSV or Parquet file, by DuckDB.

Each `of_` function takes a connection, a path, the names in ``columns=``, and a
function that tells which of a list of columns are text and label. It returns Arrow
batches of `SCHEMA`. `decode` calls them.
"""

import codecs
import csv
import io
import json
import re
from collections import Counter, deque
from functools import partial
from itertools import chain, islice

import numpy as np
import pyarrow as pa

ROWS = 8192  # reviews in a batch
LONGEST = 2**24  # bytes of a review
LARGEST = 2**29  # bytes of a JSON document that is read whole
REJECTS = 100_000  # what is wrong in a CSV file, at most
SAMPLE = 2**20  # bytes from which delimiter and quotes are found
BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001))))  # Unicode's
# DuckDB that asks for nothing from the network
CLOSED = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
SCHEMA = pa.schema(dict.fromkeys(["text", "label", "problem"], pa.string()))

# DuckDB's form of a label: numbers as short as can be, nothing for what is missing
MACROS = r"""
CREATE MACRO canonical(given) AS CASE
    WHEN strlen(given) = 1 THEN given
    WHEN given = '' OR lower(given) = 'nan' THEN NULL
    WHEN lower(given) IN ('true', 'false') THEN lower(given)
    WHEN regexp_full_match(given, '-?[0-9]+')
    THEN regexp_replace(given, '^(-?)0+([0-9])', '\1\2')
    WHEN regexp_full_match(given,
        '(?i)[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?inf(inity)?')
    THEN regexp_replace(try_cast(given AS DOUBLE)::VARCHAR, '\.0$', '')
    ELSE given END;
CREATE MACRO shown(given) AS left(given::VARCHAR, 40);
"""
REVIEWS = """
SELECT text, label, coalesce(problem, CASE WHEN label IN ('inf', '-inf')
    THEN 'label must be finite; got ' || label END) AS problem
FROM (SELECT text, problem, canonical(trim(label, {blanks})) AS label FROM ({source}))
"""
JSON = r"""
SELECT found[1] AS text, found[2] AS label, CASE
    WHEN json IS NULL THEN 'it is not valid JSON in UTF-8'
    WHEN found[1] IS NULL AND found[2] IS NULL AND json_type(json) <> {kind}
    THEN 'expected one ' || lower({kind}) || ' a review; got ' || shown(json)
    WHEN (json LIKE {text_twice} OR json LIKE {label_twice})
        AND len(wanted(json)) > len(list_distinct(wanted(json)))
    THEN 'text or label is in it twice'
    WHEN regexp_full_match(found[1],
            '(?is)-?[0-9][0-9.e+-]*|true|false|[[{{].*|-?inf.*|nan')
        AND json_type(json, {paths}[1]) <> 'VARCHAR'
    THEN 'text must be a string; got ' || shown(found[1])
    WHEN left(found[2], 1) IN ('[', '{{')
        AND json_type(json, {paths}[2]) IN ('ARRAY', 'OBJECT')
    THEN 'label must be a number or a text; got ' || shown(found[2])
    END AS problem
FROM (SELECT json, json_extract_string(json, {paths}) AS found FROM {source})
"""
CSV_PROBLEMS = """
SELECT min(line) - {header}, CASE min_by(error_type::VARCHAR, column_idx)
    WHEN 'UNQUOTED VALUE'
    THEN 'a quote in it is not closed within {longest:,} bytes, or not doubled'
    WHEN 'INVALID ENCODING'
    THEN 'it is not UTF-8; say what the file is in, as encoding="cp1252"'
    WHEN 'LINE SIZE OVER MAXIMUM' THEN 'it has more than {longest:,} bytes'
    ELSE replace(replace(min_by(error_message, column_idx),
        'Expected Number of Columns: ', 'it should have '), ' Found: ',
        ' fields; got ') END,
    trim(any_value(csv_line), {blanks}) = ''
FROM reject_errors GROUP BY line ORDER BY line
"""
PLAIN = re.compile(
    "U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|DECIMAL.*|FLOAT|DOUBLE|BOOLEAN|VARCHAR|ENUM.*"
)


def escaped(path):
    """Write a path as a pattern that only it matches."""
    return re.sub(r"[*?[]", r"[\g<0>]", path)


def literal(value):
    """Write a str, or a list of them, in SQL."""
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return "'" + value.replace("'", "''") + "'"


def batches(con, source):
    return con.sql(
        REVIEWS.format(source=source, blanks=literal(BLANKS))
    ).to_arrow_reader(ROWS)


# JSON


def of_json(con, path, columns, ask):
    """Read a review a line, an array of reviews, or a document with all of them."""
    named, rows, form = None, None, "newline_delimited"
    with open(path, "rb") as stream:
        lines = (line for line in iter(partial(stream.readline, LARGEST + 1), b""))
        lines = filter(bytes.strip, lines)
        first = next(lines, b"").removeprefix(codecs.BOM_UTF8).lstrip()
        if first[:1] == b"[":
            form = "array"
            if (first[1:] or next(lines, b"")).lstrip()[:1] == b"[":
                if not columns:
                    raise ValueError(
                        "its reviews are lists; say what is in them, for example "
                        'columns=["text", "label"]'
                    )
                named, columns = columns, None
        elif first[:1] == b"{":
            whole = first.rstrip().endswith(b"}")
            if not whole:  # of several lines
                first += stream.read(LARGEST + 1 - len(first))
            if document := parse(first, whole):
                named, rows = rows_of(document)
            if whole and rows is not None and next(lines, None):
                raise ValueError("nothing may follow the object with all reviews")
    if columns:
        raise ValueError("its reviews have names of their own; leave out columns=")
    if rows is None:
        source = (
            f"read_json_objects({literal(escaped(path))}, format={literal(form)}, "
            f"maximum_object_size={LONGEST}, ignore_errors={form != 'array'})"
        )
        if named is None:
            found = con.sql(
                f"SELECT json_keys(json) FROM {source} "
                "WHERE json_type(json) = 'OBJECT' LIMIT 1000"
            )
            keys = (keys for (keys,) in found.fetchall())
    else:
        lines = map(json.dumps, rows)
        chunks = iter(lambda: list(islice(lines, ROWS)), [])
        written = (pa.record_batch({"json": chunk}) for chunk in chunks)
        schema = pa.schema({"json": pa.string()})
        con.register("documents", pa.RecordBatchReader.from_batches(schema, written))
        source = (
            "(SELECT if(json_valid(json), json::JSON, NULL) AS json FROM documents)"
        )
        keys = (row for row in rows[:1000] if isinstance(row, dict))
    if named:
        paths = [f"/{number}" for number in ask(named)]
        kind, wanted = "ARRAY", paths
    else:
        names = list(dict.fromkeys(chain.from_iterable(keys)))
        wanted = [names[i] for i in ask(names)] if names else ["text", "label"]
        kind = "OBJECT"
        paths = ["/" + n.replace("~", "~0").replace("/", "~1") for n in wanted]
    keys = f"list_filter(json_keys(json), lambda key: key IN {literal(wanted)})"
    con.execute(f"CREATE MACRO wanted(json) AS {keys}")
    twice = [literal(f'%"{name}"%"{name}"%') for name in wanted]
    return batches(
        con,
        JSON.format(
            kind=literal(kind),
            paths=literal(paths),
            text_twice=twice[0],
            label_twice=twice[1],
            source=source,
        ),
    )


def parse(content, may_fail):
    """Return a JSON document; None for a line that DuckDB will call no JSON."""
    try:
        if len(content) > LARGEST:
            raise ValueError(
                f"it has more than {LARGEST:,} bytes; write a review a line"
            )
        return json.loads(content.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if may_fail:
            return None
        raise ValueError(f"it is not valid JSON: {error}") from None


def unique(pairs):
    """Return a JSON object as a dict; with a key twice, nobody knows what is meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key[:80]!r} occurs twice")
    return found


def rows_of(document):
    """Return names and rows of the tutorial's object, or of what pandas writes.

    Without names, each row is an object that has them. Without rows, it is a review.
    """
    values = list(document.values())
    if isinstance(document.get("data"), list) and "columns" in document:
        return list(map(str, document["columns"])), document["data"]
    if isinstance(document.get("data"), list) and "schema" in document:
        return None, document["data"]
    if values and all(isinstance(each, list) for each in values):
        if len({*map(len, values)}) > 1:
            counts = (f"{len(each):,} {name[:80]}" for name, each in document.items())
            raise ValueError(f"each text needs its label; got {', '.join(counts)}")
        return list(document), list(zip(*values))
    if values and all(isinstance(each, dict) for each in values):
        inner = list(values[0])
        if not all(map(str.isdigit, inner)) and (
            all(map(str.isdigit, document)) or len(document) > len(inner)
        ):  # index: a row each
            return None, values
        return list(document), [[each.get(key) for each in values] for key in inner]
    return None, None


# CSV


def of_csv(con, path, columns, ask):
    """Read CSV of any delimiter; without a header if its columns are named."""
    names, source, before = csv_source(path, columns)
    text, label = (f"c{number}" for number in ask(names))
    problems = csv_problems(con, source, before, [text, label])
    wanted = f"SELECT {text} AS text, {label} AS label, NULL::VARCHAR AS problem"
    return with_problems(batches(con, f"{wanted} FROM {source}"), problems)


def csv_source(path, columns=None):
    """Find how a CSV file is written: delimiter, quotes, a header or none.

    Returns the names of its columns, DuckDB's source, where they are c0, c1, …, and how
    many lines come before the first row.
    """
    with open(path, "rb") as stream:
        text = stream.read(SAMPLE).decode("utf-8-sig", "replace")
    skipped = len(re.match("[\r\n]*", text)[0].splitlines())
    text = text.lstrip("\r\n")
    if not text:
        raise ValueError("it is empty; expected a header with the names of the columns")
    csv.field_size_limit(LONGEST)

    def rows(delimiter, quote, escape):
        options = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
        if escape == "\\":
            options |= {"escapechar": escape, "doublequote": False}
        lines = io.StringIO(text, newline="")
        return csv.reader(lines, delimiter=delimiter, strict=True, **options)

    def first(way):
        try:
            return next(rows(*way))
        except csv.Error:
            return []

    def count_rows(way):
        """Count the rows if they are as long as the first; the last may be cut off."""
        lengths = Counter()
        try:
            for row in rows(*way):
                lengths[len(row)] += 1
        except csv.Error as error:
            if "unexpected end" not in str(error):
                return 0
        alike = lengths.pop(len(first(way)), 0)
        return alike if lengths.total() - lengths[0] <= 1 else 0

    ways = [(each, '"', '"') for each in ",\t;|"]
    ways += [(each, '"', "\\") for each in ",\t;|" if '\\"' in text]
    ways += [(each, "", "") for each in "\t|"]  # within which no text has a delimiter
    quoted = [each for each in ",\t;|" if re.search(f"(^|[\n{each}])'", text)]
    ways += [(each, "'", "'") for each in quoted]
    lengths = {way: len(first(way)) for way in ways}
    number = len(columns) if columns else None
    likeliest = max(ways, key=lambda way: (lengths[way] == number, lengths[way]))
    ways = [way for way in ways if way[0] == likeliest[0]]
    way = max(ways, key=lambda way: (count_rows(way), way[1] == text[0]))
    names = columns or first(way)
    if len(names) > 10_000:
        raise ValueError(f"it has {len(names):,} columns; at most 10,000 are expected")
    if len(names) != lengths[way]:
        raise ValueError(
            f"its first row has {lengths[way]} fields, columns= {number}; where the "
            "first row is a header, leave out columns="
        )
    delimiter, quote, escape = map(literal, way)
    fields = {f"c{number}": "VARCHAR" for number in range(len(names))}
    source = (
        f"read_csv({literal(escaped(path))}, auto_detect=false, columns={fields}, "
        f"header={not columns}, skip={skipped}, delim={delimiter}, quote={quote}, "
        f"escape={escape}, hive_partitioning=false, store_rejects=true, "
        f"rejects_limit={REJECTS}, max_line_size={LONGEST}, buffer_size={2 * LONGEST})"
    )
    return names, source, int(not columns) + skipped


def csv_problems(con, source, before, columns):
    """Read columns of CSV once, for the rows that DuckDB leaves out.

    Returns ``(number, what is wrong, whether it is blank)`` of each.
    """
    counts = ", ".join(f"count({each})" for each in columns)
    con.execute(f"SELECT {counts} FROM {source}").fetchall()
    query = CSV_PROBLEMS.format(header=before, longest=LONGEST, blanks=literal(BLANKS))
    problems = con.execute(query).fetchall()
    wrong = con.execute("SELECT count(*) FROM reject_errors").fetchone()
    if wrong[0] >= REJECTS:
        row, problem, _ = problems[0]
        raise ValueError(f"too many rows are no CSV; the first is row {row}: {problem}")
    con.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
    return problems


def with_problems(batches, problems):
    """Put the rows that DuckDB rejected back among the others, where they were."""
    rejected = deque(
        (row - 1 - before, problem)
        for before, (row, problem, is_blank) in enumerate(problems)
        if not is_blank
    )
    done = 0
    for batch in batches:
        end, here = done + batch.num_rows, []
        while rejected and rejected[0][0] < end:
            here.append(rejected.popleft())
        if here:
            order = np.insert(
                np.arange(batch.num_rows),
                [max(place - done, 0) for place, _ in here],
                batch.num_rows + np.arange(len(here)),
            )
            rows = pa.Table.from_batches([batch, of_problems(here)])
            batch = rows.take(order).combine_chunks().to_batches()[0]
        yield batch
        done = end
    if rejected:
        yield of_problems(rejected)


def of_problems(rejected):
    rows = [{"problem": problem} for _, problem in rejected]
    return pa.RecordBatch.from_pylist(rows, SCHEMA)


# Parquet


def of_parquet(con, path, columns, ask):
    """Read two columns of Parquet."""
    if columns:
        raise ValueError("Parquet has names of its own; leave out columns=")
    nodes = con.execute(
        f"SELECT name, num_children FROM parquet_schema({literal(escaped(path))})"
    )
    names, inner = [], 0
    for name, children in nodes.fetchall()[1:]:
        if inner:
            inner -= 1
        else:
            names.append(name)
        inner += children or 0
    chosen = ask(names)
    source = f"read_parquet({literal(escaped(path))}, hive_partitioning=false)"
    fields = con.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    text, label = (f'"{fields[i][0].replace(chr(34), chr(34) * 2)}"' for i in chosen)
    of_text, of_label = (fields[i][1] for i in chosen)
    problem = "NULL::VARCHAR"
    if not re.fullmatch("VARCHAR|ENUM.*", of_text):
        problem = literal(f"text must be a string; got {of_text[:40]}")
        problem = f"if({text} IS NULL, NULL, {problem})"
        text = "NULL"
    elif not PLAIN.fullmatch(of_label):
        problem = literal(f"label must be a number or a text; got {of_label[:40]}")
        problem = f"if({label} IS NULL, NULL, {problem})"
        label = "NULL"
    wanted = f"{text}::VARCHAR AS text, {label}::VARCHAR AS label, {problem} AS problem"
    return batches(con, f"SELECT {wanted} FROM {source}")
