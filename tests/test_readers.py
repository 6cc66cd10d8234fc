"""Files in every form that people have are read, and labels written in one way."""

import gzip
import io
import json
import zipfile
from itertools import chain

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from conftest import run_code
from selfatt_lib.data.columns import choose_columns
from selfatt_lib.machinery import readers

TEXTS = ["Great food.", "It was, well, fine.\nReally.", 'Say "no"; café | ★\tyes']
LABELS = ["5", "1", "4.5"]
TABLE = pd.DataFrame({"id": [7, 8, 9], "text": TEXTS, "label": [5, 1, 4.5]})


def read(path, text_column=None, label_column=None, **options):
    """Return all rows as tuples of text, label and problem."""

    def choose(names, where):
        return choose_columns(names, text_column, label_column, where)[0]

    found = list(readers.read_files(path, choose, **options))
    rows = chain.from_iterable(batch.to_pylist() for batch, *_ in found)
    assert [share for *_, share in found] == sorted(share for *_, share in found)
    values = (tuple(row.values()) for row in rows)
    return [row if row[2] is None else (None, None, row[2]) for row in values]


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_csv(table=TABLE, encoding="utf-8", **options):
    return table.to_csv(index=False, **options).encode(encoding)


def as_json(**options):
    return TABLE.to_json(**options).encode()


FORMS = {
    "lines.jsonl": as_json(orient="records", lines=True),
    "lines.ndjson": as_json(orient="records", lines=True),
    "one object.json": json.dumps({"texts": TEXTS, "labels": [5, 1, 4.5]}),
    "of several lines.json": json.dumps(
        {"texts": TEXTS, "labels": [5, 1, 4.5]}, indent=1
    ),
    "columns.json": as_json(),
    "columns, indented.json": as_json(indent=2),
    "columns, own index.json": TABLE.set_index(pd.Index(list("abc"))).to_json(),
    "records.json": as_json(orient="records"),
    "records, indented.json": as_json(orient="records", indent=2),
    "split.json": as_json(orient="split"),
    "index.json": as_json(orient="index"),
    "table.json": as_json(orient="table"),
    "commas.csv": as_csv(),
    "with its index.csv": TABLE.to_csv().encode(),
    "semicolons.csv": as_csv(sep=";"),
    "tabs.tsv": as_csv(sep="\t"),
    "tabs.txt": as_csv(sep="\t"),
    "bars.csv": as_csv(sep="|"),
    "all quoted.csv": as_csv(quoting=1),
    "single quotes.csv": as_csv(quotechar="'"),
    "backslashes.csv": as_csv(doublequote=False, escapechar="\\", quoting=1),
    "of windows.csv": as_csv(lineterminator="\r\n"),
    "blank lines.csv": b"\r\n\r\n" + as_csv(lineterminator="\r\n"),
    "mark of byte order.csv": as_csv(encoding="utf-8-sig"),
    "mark of byte order.json": b"\xef\xbb\xbf" + as_json(),
    "parts.parquet": TABLE.to_parquet(),
    "SHOUTED.CSV": as_csv(),
}


def zipped(*members):
    with zipfile.ZipFile(packed := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def packed(name, content, packing):
    content = content if isinstance(content, bytes) else content.encode()
    return {
        "": lambda: content,
        ".gz": lambda: gzip.compress(content),
        ".zst": lambda: pa.Codec("zstd").compress(content).to_pybytes(),
        ".zip": lambda: zipped((name, content)),
    }[packing]()


@pytest.mark.parametrize("packing", ["", ".gz", ".zst", ".zip"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_read_whatever_it_is_packed_with(name, packing, tmp_path):
    path = written(tmp_path / f"{name}{packing}", packed(name, FORMS[name], packing))
    assert read(path) == [(text, label, None) for text, label in zip(TEXTS, LABELS)]
    assert list(tmp_path.iterdir()) == [path]  # nothing was unpacked beside it


def test_columns_are_named_where_a_file_does_not(tmp_path):
    rows = [("5", "good, really", "x"), ("1", "bad", "y")]
    names = ["stars", "review", "user"]
    expected = [("good, really", "5", None), ("bad", "1", None)]
    csv = pd.DataFrame(rows).to_csv(index=False, header=False)
    for name, content in {"a.csv": csv, "values.json": json.dumps(rows)}.items():
        path = written(tmp_path / name, content)
        assert read(path, columns=names) == expected
    with pytest.raises(ValueError, match="its first row has 3 fields, columns= 2"):
        read(tmp_path / "a.csv", columns=["text", "label"])
    with pytest.raises(ValueError, match=r'for example columns=\["text", "label"\]'):
        read(tmp_path / "values.json")
    for name in ("lines.jsonl", "columns.json", "parts.parquet"):
        path = written(tmp_path / name, FORMS[name])
        with pytest.raises(ValueError, match="leave out columns="):
            read(path, columns=names)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("cp1252", "a.csv"), ("utf-16", "a.tsv"), ("latin-1", "a.jsonl.gz")],
)
def test_a_stated_encoding_is_decoded(encoding, name, tmp_path):
    content = {
        "a.csv": "text,label\ncafé,1\n",
        "a.tsv": "text\tlabel\ncafé\t1\n",
        "a.jsonl.gz": '{"text": "café", "label": 1}',
    }[name].encode(encoding)
    content = gzip.compress(content) if name.endswith(".gz") else content
    path = written(tmp_path / name, content)
    assert read(path, encoding=encoding) == [("café", "1", None)]


def test_a_wrong_encoding_is_an_error_that_says_so(tmp_path):
    path = written(tmp_path / "a.csv", "text,label\nok,1\ncafé,1\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"a.csv: it is not ascii: .*0xe9"):
        read(path, encoding="ascii")
    for encoding in ("klingon", "hex"):
        with pytest.raises(ValueError, match=f"encoding='{encoding}': "):
            read(path, encoding=encoding)
    rows = read(path)
    assert rows[0] == ("ok", "1", None)
    assert (
        rows[1][2] == 'it is not UTF-8; say what the file is in, as encoding="cp1252"'
    )
    path = written(tmp_path / "a.csv", "text,label\nok,1\n".encode("utf-16"))
    with pytest.raises(ValueError, match='it is not UTF-8; say encoding="utf-16"'):
        read(path)


@pytest.mark.parametrize(
    "name", ["a[1].csv", "50%*.csv", "[!b].csv", "a'b\\.csv", "ü?.csv"]
)
def test_a_name_that_could_be_a_pattern_is_that_file(name, tmp_path):
    written(tmp_path / "a1.csv", "text,label\nother,2\n")
    written(tmp_path / "50%.csv", "text,label\nother,2\n")
    path = written(tmp_path / name, "text,label\nright,1\n")
    assert read(path) == [("right", "1", None)]


def parts_of(folder):
    written(folder / "b.csv", "text;label\nb;2\n")
    written(folder / "a.csv", "Sentiment,Review\n1,a\n3,\n")
    written(folder / ".hidden.csv", "x")
    written(folder / "_SUCCESS", "")
    written(folder / "notes.md", "")
    (folder / "c.csv").mkdir()


def test_parts_are_read_in_the_order_of_their_names_each_with_its_columns(tmp_path):
    parts_of(tmp_path)
    expected = [("a", "1", None), (None, "3", None), ("b", "2", None)]
    for path in (tmp_path, tmp_path / "*.csv", tmp_path / "[ab].csv"):
        assert read(path) == expected
    found = readers.read_files(tmp_path, lambda names, where: [0, 1])
    places = [(file.rsplit("/")[-1], row) for _, file, row, _ in found]
    assert places == [("a.csv", 1), ("b.csv", 1)]
    written(tmp_path / "0.csv", "text,body,label\na,b,1\n")
    written(tmp_path / "z.csv", "name,label\na,1\n")
    with pytest.raises(ValueError, match=r"z.csv has no 'text'"):
        read(tmp_path)


def test_files_of_no_form_or_of_two_are_refused(tmp_path):
    written(tmp_path / "notes.md", "")
    with pytest.raises(ValueError, match=r"has files of 0 forms, of those in .json, "):
        read(tmp_path)
    for name in ("notes.md", "a.md.gz", "a"):
        written(tmp_path / name, "")
        with pytest.raises(ValueError, match=f"should end in .json, .*; got '{name}'"):
            read(tmp_path / name)
    written(tmp_path / "a.csv", "text,label\na,1\n")
    written(tmp_path / "a.jsonl", "")
    with pytest.raises(ValueError, match=r"has files of 2 forms.* such as folder/"):
        read(tmp_path)


def test_what_a_mac_adds_to_an_archive_does_not_count(tmp_path):
    members = [
        ("data/.DS_Store", "x"),
        ("data/", ""),
        ("__MACOSX/data/._reviews.csv", "x"),
        ("data/README.md", "x"),
        ("data/reviews.csv", as_csv()),
    ]
    path = written(tmp_path / "a.zip", zipped(*members))
    assert len(read(path)) == 3
    [(_, file, *_)] = readers.read_files(path, lambda names, where: [1, 2])
    assert file == f"{path}: data/reviews.csv"
    path = written(tmp_path / "b.zip", zipped(*members, ("test.jsonl", "")))
    with pytest.raises(
        ValueError,
        match=r"are 2 files of reviews \(of 3: data/README.md, data/reviews.csv, test"
        r".jsonl\); .* Unpack it and name the file",
    ):
        read(path)


WRITTEN = {
    "5": "5", "5.0": "5", '"5"': "5", '" 5.0 "': "5", "4.50": "4.5", "1e1": "10",
    '"+2"': "2", '"007"': "7", "-1": "-1", "0": "0", '"0.0"': "0", '".5"': "0.5",
    "100": "100", "12345678901234567890": "12345678901234567890", "true": "true",
    '"True"': "true", '" good\\t"': "good", '"Good"': "Good", '"none"': "none",
    '"1 star"': "1 star", "null": None, "NaN": None, '""': None, '" "': None,
    '"good\u3000"': "good", '"\u2003\u2028"': None,
    '"[x]"': "[x]",
}  # fmt: skip


def test_labels_are_written_in_one_way(tmp_path):
    lines = [f'{{"text": "a", "label": {label}}}\n' for label in WRITTEN]
    path = written(tmp_path / "a.jsonl", "".join([*lines, '{"text": "a"}']))
    rows = read(path)
    assert [label for _, label, _ in rows] == [*WRITTEN.values(), None]
    assert {problem for *_, problem in rows} == {None}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([1, 0], "int8"), ["1", "0"]),
        (np.array([1.0, 4.1], "float32"), ["1", "4.1"]),
        ([2.5, None], ["2.5", None]),
        ([True, False], ["true", "false"]),
        (pd.Categorical(["pos", "neg"]), ["pos", "neg"]),
        (pd.Categorical([3, 1]), ["3", "1"]),
        ([None, float("nan")], [None, None]),
    ],
)
def test_labels_are_the_same_in_csv_and_parquet(values, expected, tmp_path):
    table = pd.DataFrame({"text": ["a", "b"], "label": values})
    table.to_parquet(tmp_path / "a.parquet")
    table.to_csv(tmp_path / "a.csv", index=False)
    for path in tmp_path.iterdir():
        assert [label for _, label, _ in read(path)] == expected


def test_what_is_wrong_with_a_row_is_told_in_its_place(tmp_path):
    lines = [
        '{"text": "a", "label": 1}',
        '{"text": ',
        "",
        '{"text": 5, "label": 1}',
        '{"text": "5", "label": [1]}',
        '{"text": "true", "label": 1, "label": 2}',
        '{"text": "x", "label": 1e999}',
        "[]",
        '{"text": null, "label": null}',
        '{"text": "[b]", "label": 2, "meta": {"text": 5, "label": 1}}',
    ]
    assert read(written(tmp_path / "a.jsonl", "\n".join(lines))) == [
        ("a", "1", None),
        (None, None, "it is not valid JSON in UTF-8"),
        (None, None, "text must be a string; got 5"),
        (None, None, "label must be a number or a text; got [1]"),
        (None, None, "text or label is in it twice"),
        (None, None, "label must be finite; got inf"),
        (None, None, "expected one object a review; got []"),
        (None, None, None),
        ("[b]", "2", None),
    ]
    rows = ['"a\nb",1', "c", "d,2,3", '"x""y",4', "  ", "z", '"e"f,5', "g,6", '"h']
    few, many = "it should have 2 fields; got 1", "it should have 2 fields; got 3"
    quote = "a quote in it is not closed within 16,777,216 bytes, or not doubled"
    path = written(tmp_path / "a.csv", "\n".join(["text,label", *rows]))
    assert read(path) == [
        ("a\nb", "1", None),
        (None, None, few),
        (None, None, many),
        ('x"y', "4", None),
        (None, None, few),
        (None, None, quote),
        ("g", "6", None),
        (None, None, quote),
    ]


ROWS = {
    "a.csv": [r'"he \"said\" no",1', '"plain, too",2', "bare,3"],
    "a.tsv": ['"Great" film\t1', '"never closed\t2', "5' 2\" tall\t3"],
    "quoted.tsv": ['"tab\there"\t1', '"line\nend"\t2', '"double ""quotes"""\t3'],
}
READ = {
    "a.csv": ['he "said" no', "plain, too", "bare"],
    "a.tsv": ['"Great" film', '"never closed', "5' 2\" tall"],
    "quoted.tsv": ["tab\there", "line\nend", 'double "quotes"'],
}


@pytest.mark.parametrize("times", [1, 50_000])  # longer than what is looked at first
@pytest.mark.parametrize("name", ROWS)
def test_how_a_file_quotes_is_found(name, times, tmp_path):
    header = "text,label" if name == "a.csv" else "text\tlabel"
    path = written(tmp_path / name, "\n".join([header, *ROWS[name] * times]))
    found = read(path)
    assert [text for text, *_ in found] == READ[name] * times
    assert [label for _, label, _ in found] == ["1", "2", "3"] * times


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('"a,b,c";label;text\n1;2;x\n', "x"),
        ("text,label\n'nice, one',2\n", "nice, one"),
        ("'text','label'\n'x',2\n", "x"),
        ("label,text\n2,'tis good\n2,'twas bad\n", "'tis good"),
        ('label\ttext\n2\t"Great" film\n', '"Great" film'),
    ],
)
def test_a_header_and_quotes_are_told_from_one_row(content, text, tmp_path):
    rows = read(written(tmp_path / "a.csv", content))
    assert rows[0] == (text, "2", None)


@pytest.mark.parametrize("spread", [1, 7, 5000])
def test_bad_rows_of_csv_stay_where_they_were(spread, tmp_path):
    rows = ["bad" if i % spread == 3 % spread else f"t{i},1" for i in range(12_345)]
    found = read(written(tmp_path / "a.csv", "\n".join(["text,label", *rows])))
    texts = [text if problem is None else "bad" for text, _, problem in found]
    assert texts == [row.partition(",")[0] for row in rows]


def test_a_long_file_keeps_its_order_and_numbers_its_rows(tmp_path):
    texts = [f"review {i} {'x' * (i % 500)}" for i in range(200_000)]
    table = pd.DataFrame({"text": texts, "label": 1})
    table.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_parquet(tmp_path / "a.parquet", row_group_size=9_000)
    for path in tmp_path.iterdir():
        done, last = 0, 0.0
        for batch, _, row, share in readers.read_files(path, lambda *_: [0, 1]):
            assert row == done + 1
            assert batch["text"].to_pylist() == texts[done : done + batch.num_rows]
            assert last <= share <= 1
            done, last = done + batch.num_rows, share
        assert done == len(texts)
        assert last > 0.9


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "json"])
def test_a_text_of_a_million_characters_is_read(form, tmp_path):
    table = pd.DataFrame({"text": ["x" * 10**6, "y z\n" * 250_000], "label": [1, 2]})
    path = tmp_path / f"a.{form}"
    {
        "csv": lambda: table.to_csv(path, index=False),
        "jsonl": lambda: table.to_json(path, orient="records", lines=True),
        "json": lambda: table.to_json(path),
        "parquet": lambda: table.to_parquet(path),
    }[form]()
    assert [text for text, *_ in read(path)] == table["text"].tolist()


STOPS = {
    "empty.csv": ("", "it is empty; expected a header"),
    "cut.jsonl.gz": (gzip.compress(b"x" * 10**5)[:-9], "damaged: .*Get it again"),
    "cut.csv.zst": (packed("", "x" * 10**5, ".zst")[:-9], "damaged: .*Get it again"),
    "no.csv.gz": ("text,label\n", "it is damaged: Not a gzipped file"),
    "bomb.csv.gz": (gzip.compress(b"\n" * 2**27), "more than 104,857,600 bytes unpac"),
    "bomb.json.zst": (
        packed("", " " * 2**27, ".zst"),
        "more than 104,857,600 bytes unpacked",
    ),
    "cut.json": ('[{"text": "a", "label": 1}, {"text": "b"', "review 2 is not valid "),
    "cut object.json": ('{"texts": ["a", "b', "it is not valid JSON: Unterminated"),
    "unequal.json": ('{"texts": ["a", "b"], "labels": [1]}', "got 2 texts, 1 labels"),
    "key twice.json": ('{"text": {"0": "a"},\n"text": {"0": 1}}', "'text' occurs twi"),
    "all wrong.csv": ("text,label\n" + "x\n" * 200_000, "first is row 1: it should"),
}  # fmt: skip


@pytest.mark.parametrize("name", STOPS)
def test_a_file_that_cannot_be_read_on_says_why(name, tmp_path):
    content, message = STOPS[name]
    path = written(tmp_path / name, content)
    with pytest.raises(ValueError, match=message) as refused:
        read(path)
    assert str(refused.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["header.csv", "nothing.json", "empty.jsonl"])
def test_a_file_without_reviews_yields_none(name, tmp_path):
    contents = {"header.csv": "text,label\n", "nothing.json": "[]", "empty.jsonl": ""}
    assert read(written(tmp_path / name, contents[name])) == []


# Columns


@pytest.mark.parametrize(
    ("names", "chosen", "guessed"),
    [
        (["text", "label"], [0, 1], False),
        (["stars", "id", "text"], [2, 0], False),
        (["Id", "HelpfulnessNumerator", "Score", "Summary", "Text"], [4, 2], True),
        (["reviewText", "overall", "summary"], [0, 1], True),
        (["star_rating", "review_headline", "review body"], [2, 0], True),
        (["review", "sentiment"], [0, 1], True),
        (["title", "text", "rating"], [1, 2], True),
        (["text", "label", "label_text"], [0, 1], False),
        (["text", "comment", "label"], [0, 2], False),
    ],
)
def test_usual_columns_are_found_and_guesses_told(names, chosen, guessed):
    assert choose_columns(names) == (chosen, guessed)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["review", "comment", "label"], {}, "could mean 'review', 'comment' by text"),
        (["text", "score", "rating"], {}, "by label; .*by label_column="),
        (["a", "label"], {}, "has no 'text', .*it has: 'a', 'label'.*text_column="),
        ([], {}, "it has: nothing"),
        (["a", "a", "label"], {"text_column": "a"}, "has 'a' more than once"),
        (["text", "text", "label"], {}, "has 'text' more than once"),
        (["text", "label"], {"text_column": "Text"}, "has no 'Text'; it has: 'text'"),
        (["text", "a"], {"label_column": "text"}, "text and label are both 'text'"),
    ],
)
def test_columns_that_are_not_clear_are_asked_for(names, options, message):
    with pytest.raises(ValueError, match=message):
        choose_columns(names, **options)


def test_a_given_column_wins(tmp_path):
    assert choose_columns(["text", "b", "label"], "b") == ([1, 2], False)
    names = ["a/b~c", 'x"y', "%_'"]
    table = pd.DataFrame([["t", 1, 2], ["u", 3, 4]], columns=names)
    table.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_parquet(tmp_path / "a.parquet")
    for path in tmp_path.iterdir():
        for i, label in ((1, "1"), (2, "2")):
            assert read(path, names[0], names[i])[0] == ("t", label, None)


def test_duckdb_stays_out_of_this_process():
    code = "import sys, selfatt_lib.data.sources; print('duckdb' in sys.modules)"
    assert run_code(code).stdout == "False\n"
