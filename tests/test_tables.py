"""selfatt predict --file: a table comes back with all its columns, and two more."""

import csv
import gzip
import json
import shutil
import subprocess
import sys
import time
from datetime import date
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyarrow import parquet

from conftest import make_reviews
from selfatt_lib.cli import main
from selfatt_lib.prediction import Classifier

BIG = 123456789012345678901234567890
CSV = """id,text,when,n
007,"superb ""perfect""
love",2020-01-02,1.10
008,,2020-01-03,NA
009," ",,123456789012345678901234567890
010,"awful, waste",31/12/1999,TRUE
"""
JSONL = f"""\
{{"id": "007", "text": "superb \\"love\\"", "n": {BIG}, "when": "2020-01-02T10:00:00Z"}}
{{"id": "008", "text": null, "n": 1.5, "more": {{"a": [1, "x"]}}}}
{{"id": "9", "n": null, "text": "awful waste"}}
"""


def run(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


def predicted(trained, file, kind, *options):
    """Predict a file; return what was written to one of the kind beside it."""
    out = file.with_name(f"out{kind}")
    done = run("predict", trained.run.path, "--file", file, "--out", out, *options)
    assert done.exit_code == 0, done.output
    return out


def lines_of(trained, file, *options):
    """Predict a file; return the rows as JSON has them: list of dict."""
    out = predicted(trained, file, ".jsonl", "--overwrite", *options)
    return [json.loads(line) for line in out.read_bytes().splitlines()]


def error_of(trained, file, out="out.csv", *options):
    """Return the one sentence that refuses a file, which leaves nothing behind."""
    there = {path.name for path in file.parent.iterdir()}
    command = ["predict", trained.run.path, "--file", file]
    failed = run(*command, "--out", file.parent / out, *options)
    assert failed.exit_code == 1, failed.output
    assert {path.name for path in file.parent.iterdir()} == there
    said = failed.stderr.rpartition("\r")[2].strip()
    assert said.startswith("Error: ")
    assert said.isprintable()
    return said


def test_a_csv_file_comes_back_as_it_is(polar, tmp_path):
    file = tmp_path / "in.csv"
    file.write_text(CSV)
    with predicted(polar, file, ".csv").open(newline="") as out:
        rows = list(csv.DictReader(out))
    with file.open(newline="") as given:
        for row, expected in zip(rows, csv.DictReader(given), strict=True):
            assert list(row) == ["id", "text", "when", "n", "predicted", "probability"]
            assert {name: row[name] for name in expected} == expected
    assert [row["predicted"] for row in rows] == ["positive", "", "", "negative"]
    texts = [row["text"] for row in rows]
    expected = Classifier.load(polar.run.path).predict(texts, on_invalid="skip")
    for row, found in zip(rows, expected):
        if found is None:
            assert row["probability"] == ""
        else:
            probability = float(row["probability"])
            assert probability == pytest.approx(found.probabilities.max(), abs=1e-5)


def test_stars_are_predicted_as_numbers(trained, tmp_path):
    file = tmp_path / "in.csv"
    file.write_text(CSV)
    options = ["--all-probabilities"]
    first, second, *_ = lines_of(trained, file, *options)
    assert first["predicted"] == 5
    assert first["id"] == "007"
    named = [first[f"probability_{label}"] for label in range(1, 6)]
    assert max(named) == first["probability"] == first["probability_5"]
    assert sum(named) == pytest.approx(1, abs=1e-4)
    assert (
        second["predicted"] is second["probability"] is second["probability_1"] is None
    )
    assert list(first)[4:] == [
        *("predicted", "probability"),
        *(f"probability_{n}" for n in range(1, 6)),
    ]
    table = parquet.read_table(predicted(trained, file, ".parquet"))
    assert table["predicted"].type == pa.int64()
    assert table["predicted"].to_pylist() == [5, None, None, 1]
    assert table["id"].to_pylist() == ["007", "008", "009", "010"]


def test_json_lines_come_back_as_they_are(polar, tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text(JSONL)
    rows = lines_of(polar, file)
    given = [json.loads(line) for line in JSONL.splitlines()]
    names = ["id", "text", "n", "when", "more", "predicted", "probability"]
    for row, expected in zip(rows, given, strict=True):
        assert list(row) == names
        assert {name: row[name] for name in names[:5]} == dict.fromkeys(
            names[:5]
        ) | expected
    assert [row["predicted"] for row in rows] == ["positive", None, "negative"]
    with predicted(polar, file, ".csv").open(newline="") as out:
        first, second, _ = csv.DictReader(out)
    assert first["n"] == str(BIG)
    assert first["when"] == "2020-01-02T10:00:00Z"
    assert json.loads(second["more"]) == {"a": [1, "x"]}
    table = parquet.read_table(predicted(polar, file, ".parquet"))
    assert table.column_names == names
    assert table["when"].to_pylist()[0] == "2020-01-02T10:00:00Z"
    assert table["predicted"].to_pylist() == ["positive", None, "negative"]


def test_parquet_keeps_its_types(polar, tmp_path):
    columns = {
        "day": pa.array([date(2020, 1, 2), None]),
        "text": pa.array(["superb love", None]),
        "big": pa.array([2**64 - 1, 0], pa.uint64()),
        "price": pa.array([Decimal("1.10"), None], pa.decimal128(10, 2)),
        "list": pa.array([[1, 2], None], pa.list_(pa.int32())),
        "bytes": pa.array([b"\xff", b""]),
    }
    file = tmp_path / "in.parquet"
    parquet.write_table(pa.table(columns), file)
    table = parquet.read_table(predicted(polar, file, ".parquet"))
    assert table.column_names == [*columns, "predicted", "probability"]
    for name, column in columns.items():
        assert table[name].to_pylist() == column.to_pylist()
    for name in ("day", "big", "price"):
        assert table[name].type == columns[name].type
    assert table["predicted"].to_pylist() == ["positive", None]
    line, _ = lines_of(polar, file)
    assert line["day"] == "2020-01-02"
    assert line["big"] == 2**64 - 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a[1]*?'b.csv", "id,text\n1,superb love\n"),
        ("semi.csv", 'id;text\n1;"superb love"\n'),
        ("tab.tsv", "id\ttext\n1\tsuperb love\n"),
        ("bom.csv", "\ufefftext,id\r\nsuperb love,1\r\n"),
        ("ONE.CSV", "text\nsuperb love\n"),
        ("list.json", '[{"id": 1, "text": "superb love"}]'),
        ("lines.json", '{"id": 1, "text": "superb love"}\n'),
        ("tab.txt", "id\ttext\n1\tsuperb love\n"),
        ("blank.csv", "\r\n\r\nid,text\r\n1,superb love\r\n"),
        ("ends.csv", "id,text\r\n1,superb love\n"),
        ("single.csv", "id,text\n'1, or 2','superb love'\n"),
        ("commas.csv", '"a,b,c";id;text\n"1,2";3;superb love\n'),
        ("same.csv", "id,id,text\n1,2,superb love\n"),
    ],
)
def test_a_file_of_any_of_these_forms_is_read(name, content, polar, tmp_path):
    for suffix, data in (
        ("", content.encode()),
        (".gz", gzip.compress(content.encode())),
        (".zst", pa.Codec("zstd").compress(content.encode()).to_pybytes()),
    ):
        file = tmp_path / (name + suffix)
        file.write_bytes(data)
        (row,) = lines_of(polar, file)
        assert row["text"] == "superb love"
        assert row["predicted"] == "positive"


def read_as(trained, folder, **settings):
    """Copy a run, as if it had been trained with other settings."""
    path = shutil.copytree(trained.run.path, folder / "run")
    config = json.loads((path / "config.json").read_text())
    config["training"] |= settings
    (path / "config.json").write_text(json.dumps(config))
    return SimpleNamespace(run=SimpleNamespace(path=path))


def test_a_header_comes_back_as_it_was_in_csv(polar, tmp_path):
    file = tmp_path / "in.csv"
    for header in (",text", "id,id,text", '"a ""b"", c",Id,ID,text', " ,text"):
        cells = header.count(",") - header.count(", ")
        for rows in ("", "1," * cells + "superb love\n"):
            file.write_text(f"{header}\n{rows}")
            out = predicted(polar, file, ".csv", "--overwrite").read_text()
            first, *others = out.splitlines()
            assert first == f"{header},predicted,probability"
            assert len(others) == bool(rows)
    make_reviews(3).to_csv(file)  # pandas' own
    for row, number in zip(lines_of(polar, file), "012", strict=True):
        assert row["Unnamed: 0"] == number
    file.write_text("id,id,text\n1,2,superb love\n")
    (row,) = lines_of(polar, file)
    assert (row["id"], row["id_1"]) == ("1", "2")


def test_quotes_after_a_backslash_are_found(polar, tmp_path):
    file = tmp_path / "in.csv"
    file.write_text('id,text\n1,"a \\"superb\\" love, really"\n')
    (row,) = lines_of(polar, file)
    assert row["text"] == 'a "superb" love, really'


def test_encoding_and_columns_are_those_of_training_or_those_given(polar, tmp_path):
    file = tmp_path / "in.csv"
    file.write_bytes("café,superb love\n".encode("cp1252"))
    options = ["--columns", "place,text", "--encoding", "cp1252"]
    (row,) = expected = lines_of(polar, file, *options)
    assert (row["place"], row["predicted"]) == ("café", "positive")
    run_so = read_as(polar, tmp_path, encoding="cp1252", columns=["place", "text"])
    assert lines_of(run_so, file) == expected
    out = predicted(run_so, file, ".csv", "--overwrite").read_text()
    assert out.startswith("place,text,predicted,probability\ncafé,superb love,")
    file.write_text("text\ncafé superb\n")
    said = error_of(run_so, file, "new.csv")
    assert "its first row has 1 fields, columns= 2; where the first row is a" in said
    (row,) = lines_of(run_so, file, "--columns", "", "--encoding", "utf-8")
    assert row["text"] == "café superb"
    assert "unknown encoding: latin-0" in error_of(
        polar, file, "new.csv", "--encoding", "latin-0"
    )
    file = tmp_path / "in.parquet"  # has both of its own
    parquet.write_table(pa.table({"text": ["café superb"]}), file)
    (row,) = lines_of(run_so, file)
    assert row["text"] == "café superb"


def test_json_lines_may_have_many_keys(polar, tmp_path):
    file = tmp_path / "in.jsonl"
    lines = [{"text": "superb love", f"key {n}": n} for n in range(250)]
    file.write_text("\n".join(map(json.dumps, lines)))
    assert len(lines_of(polar, file)[-1]) == 253


def test_numbers_in_parquet_are_no_texts(polar, tmp_path):
    file = tmp_path / "in.parquet"
    parquet.write_table(pa.table({"text": [5, None, 6]}), file)
    assert "2 of 3 rows have in 'text' what is no text" in error_of(polar, file)


def test_a_folder_adds_no_column(polar, tmp_path):
    file = tmp_path / "year=2020" / "in.csv"
    file.parent.mkdir()
    file.write_text("Review Text\nsuperb love\n")  # a usual name of the texts
    (row,) = lines_of(polar, file)
    assert list(row) == ["Review Text", "predicted", "probability"]
    assert row["predicted"] == "positive"


def test_rows_that_look_odd_are_rows(polar, tmp_path):
    file = tmp_path / "in.csv"
    texts = [
        "#1 film",
        "it's",
        "'quoted, with a comma'",
        "\\N",
        "x" * 3_000_000,
        "NULL",
    ]
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([["text"], *([text] for text in texts)])
    assert [row["text"] for row in lines_of(polar, file)] == texts


@pytest.fixture
def sizes(monkeypatch):
    """How many texts were predicted at each call: list of int."""
    sizes, real = [], Classifier.predict

    def predict(self, texts, **options):
        sizes.append(len(texts))
        return real(self, texts, **options)

    monkeypatch.setattr(Classifier, "predict", predict)
    return sizes


def test_many_rows_keep_their_order_in_every_form(polar, tmp_path, sizes):
    reviews = make_reviews(7_000).assign(number=range(7_000))
    reviews.to_csv(tmp_path / "in.csv", index=False)
    reviews.to_json(tmp_path / "in.jsonl", orient="records", lines=True)
    reviews.to_parquet(tmp_path / "in.parquet")
    for kind in (".csv", ".jsonl", ".parquet"):
        file = (tmp_path / "in").with_suffix(kind)
        table = parquet.read_table(predicted(polar, file, ".parquet", "--overwrite"))
        numbers = [int(number) for number in table["number"].to_pylist()]
        assert numbers == [*range(7_000)]
        assert table["text"].to_pylist() == reviews["text"].tolist()
        given = np.where(reviews["label"] > 3, "positive", "negative")
        assert (given == table["predicted"].to_numpy()).mean() > 0.8
    assert sum(sizes) == 3 * 7_000  # each row once
    assert max(sizes) < 3_000  # never all at once


def test_equal_texts_are_predicted_row_by_row(polar, tmp_path, sizes):
    file = tmp_path / "in.parquet"
    parquet.write_table(pa.table({"text": ["superb love"] * 3_000}), file)
    assert {row["predicted"] for row in lines_of(polar, file)} == {"positive"}
    assert sum(sizes) == 3_000  # else the bar would count wrongly


def test_the_column_of_texts_is_that_of_training_or_the_one_named(polar, tmp_path):
    file = tmp_path / "in.csv"
    file.write_text("review,comment,Größe\nsuperb love,1,awful\n")
    said = error_of(polar, file)
    assert "could mean 'review', 'comment' by text" in said
    assert "by --text-column." in said
    assert "has no 'text'" in error_of(polar, file, "out.csv", "--text-column", "text")
    (row,) = lines_of(polar, file, "--text-column", "review")
    assert row["predicted"] == "positive"
    (row,) = lines_of(read_as(polar, tmp_path, text_column="Größe"), file)
    assert row["predicted"] == "negative"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "in.csv",
            b"id,text\n1,good\n2,a,b\n",
            "row 2: it should have 2 fields; got 3",
        ),
        (
            "in.csv",
            b"id,text,n\n1,good,1\n2,a\n",
            "row 2: it should have 3 fields; got 2",
        ),
        (
            "in.csv",
            b'id,text\n1,"good\n2,bad\n',
            "row 1: a quote in it is not closed",
        ),
        ("in.csv", b"id,text\n1,caf\xe9\n", "row 1: it is not UTF-8; say"),
        ("in.csv", b"", "it is empty; expected a header with the names of the col"),
        ("in.csv", "id,text".encode("utf-16"), 'say encoding="utf-16"'),
        ("in.csv", b"text,id,TEXT\na,b,c\n", "could mean 'text', 'TEXT' by text"),
        ("in.csv", b"text,text\na,b\n", "has 'text' more than once"),
        ("in.csv", b'"text,id\na,b\n', "has no 'text', nor another usual name"),
        ("in.csv.gz", b"id,text\n", "in.csv.gz: it is damaged: Not a gzipped file"),
        (
            "in.csv.gz",
            gzip.compress(b"id,text\n1,a\n" * 9999)[:-9],
            "Get it again.",
        ),
        ("in.jsonl", b'{"text": "a"}\n{"text": "b"\n', "Malformed JSON"),
        ("in.jsonl", b'{"text": "\\ud800"}\n', "review 1 is not valid JSON: no low"),
        (
            "in.jsonl",
            b'{"text": ["a", "b"]}\n',
            "1 of 1 rows have in 'text' what is no",
        ),
        ("in.json", b'{"texts": ["a"], "labels": [1]}', "1 of 1 rows have in 'texts'"),
        ("in.json", b'{"text": {"0": "a"}, "x": {"0": 1}}', "what is no text; one obj"),
        ("in.jsonl", b'{"text": 5}\n{"text": null}\n', "1 of 2 rows have in 'text'"),
        ("in.jsonl", b'["a"]\n', "has no 'text', nor another usual name"),
        ("in.jsonl", b"", "has no 'text', nor another usual name"),
        ("in.parquet", b"PAR1", "too small to be a Parquet file"),
        ("in.xlsx", b"", "should end in .json, .jsonl"),
        ("in.csv.zip", b"", "in.csv.zip is an archive; unpack it and name the file"),
        ("in.csv", b"text,Predicted\na,b\n", "has a column 'predicted' already"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(
    name, content, said, polar, tmp_path
):
    file = tmp_path / name
    file.write_bytes(content)
    found = error_of(polar, file)
    assert said in found
    assert str(file) in found


def test_a_wrong_row_far_down_leaves_nothing_behind(polar, tmp_path):
    file = tmp_path / "in.csv"
    file.write_bytes(b"id,text\n" + b"1,good\n" * 9_000 + b"2,caf\xe9\n")
    out = tmp_path / "out.csv"
    out.write_text("mine")
    assert "row 9001: it is not UTF-8" in error_of(
        polar, file, "out.csv", "--overwrite"
    )
    assert out.read_text() == "mine"


def test_a_killed_command_leaves_no_half_of_a_table(polar, tmp_path):
    file, out = tmp_path / "in.csv", tmp_path / "out.csv"
    partial = tmp_path / ".out.csv.partial"
    make_reviews(20_000).to_csv(file, index=False)
    command = [sys.executable, "-m", "selfatt_lib", "predict", polar.run.path]
    command += ["--file", file, "--out", out]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not partial.exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert not out.exists()
    assert run(*command[3:]).exit_code == 0  # another go, over what was left
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "out.csv"}


def test_what_is_wrong_is_said_before_any_work(polar, tmp_path, monkeypatch):
    monkeypatch.setattr(Classifier, "predict", None)
    file = tmp_path / "in.csv"
    assert "there is no file" in error_of(polar, file)
    file.write_text("text\nfine\n")
    said = error_of(polar, file, "out.xlsx")
    assert "should end in .csv or .jsonl or .parquet" in said
    assert "there is no folder" in error_of(polar, file, "no/out.csv")
    (tmp_path / "out.csv").write_text("mine")
    assert "out.csv exists" in error_of(polar, file)
    assert (
        "'nowhere' is not a trained run"
        in run(
            *("predict", "nowhere", "--file", file, "--out", tmp_path / "new.csv")
        ).output
    )


@pytest.mark.parametrize(
    "options",
    [
        ["--file", "in.csv"],
        ["--file", "in.csv", "--out", "out.csv", "a text"],
        ["--file", "in.csv", "--out", "out.csv", "--json"],
        ["--out", "out.csv"],
        ["--text-column", "a", "a text"],
    ],
)
def test_options_that_do_not_go_together_are_refused(options, polar):
    failed = run("predict", polar.run.path, *options)
    assert failed.exit_code == 2
    assert "--file" in failed.output


def test_an_error_in_the_model_is_said_as_it_is(polar, tmp_path, monkeypatch):
    def predict(self, texts, **options):
        raise RuntimeError("the model's numbers overflow")

    monkeypatch.setattr(Classifier, "predict", predict)
    file = tmp_path / "in.csv"
    file.write_text("text\nfine\n")
    assert error_of(polar, file) == "Error: the model's numbers overflow"
