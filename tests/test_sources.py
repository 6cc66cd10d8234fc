import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from servers import serve, sha256

from conftest import run_code
from selfatt_lib.config import TrainingConfig
from selfatt_lib.data import sources
from selfatt_lib.data.sources import load_reviews
from selfatt_lib.machinery.places import cache_dir, locate
from selfatt_lib.run import RunDirectory

TEXTS = [
    "Great food.",
    "Never again!",
    "It was, well, fine.\nReally.",
    "NA",
    'Say "no".',
]
STARS = [5, 1, 3, 2, 1]
TABLE = pd.DataFrame({"text": TEXTS, "label": STARS})


def tutorial_json(path, texts=TEXTS, labels=STARS):
    path.write_text(json.dumps({"texts": texts, "labels": labels}))


def test_a_chapter_finds_the_same_files_in_whatever_folder_it_is_opened(
    tmp_path, monkeypatch
):
    """Editors open it in its own; outside a checkout, others may be named book too."""
    monkeypatch.delenv("SELFATT_CHAPTERS")  # of these tests
    checkout = tmp_path / "checkout"
    for folder in ("checkout/book", "checkout/selfatt_lib", "elsewhere/book"):
        (tmp_path / folder).mkdir(parents=True)
    tutorial_json(checkout / "mine.json")
    for folder in (checkout, checkout / "book"):
        monkeypatch.chdir(folder)
        assert (Path.cwd() / locate("runs/quick")).resolve() == checkout / "runs/quick"
        assert locate(tmp_path / "mine") == tmp_path / "mine"
        assert len(load_reviews("mine.json")) == len(TEXTS)
        config = TrainingConfig(run_dir="runs/quick")
        assert RunDirectory(config).path == checkout / "runs" / "quick"
    monkeypatch.chdir(tmp_path / "elsewhere" / "book")
    assert locate("runs/quick") == Path("runs/quick")
    with pytest.raises(FileNotFoundError):
        load_reviews("mine.json")


def written(tmp_path, content, name="reviews.csv"):
    (tmp_path / name).write_text(content)
    return tmp_path / name


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_file_gives_its_texts_and_labels_in_its_order(form, tmp_path):
    path = tmp_path / f"reviews.{form}"
    {
        "jsonl": lambda: TABLE.to_json(path, orient="records", lines=True),
        "csv": lambda: TABLE.to_csv(path, index=False),
        "parquet": lambda: TABLE.to_parquet(path),
    }[form]()
    reviews = load_reviews(path)
    assert reviews["text"].tolist() == TEXTS
    assert reviews["label"].tolist() == STARS


# Labels


@pytest.mark.parametrize(
    ("given", "options", "read"),
    [
        ("5 1 3", {}, [5, 1, 3]),
        ("5.0 1 3", {}, [5, 1, 3]),
        ("4.5 1 3", {}, [4.5, 1.0, 3.0]),
        ("0 -1 1", {}, [0, -1, 1]),
        ("good bad 3", {}, ["good", "bad", "3"]),
        ("TRUE true false", {}, ["true", "true", "false"]),
        ("2 9 3", {"bins": [3, 5, 7, 9]}, [1, 5, 2]),
        ("0.5 2.5 5", {"bins": [1.5, 3.5]}, [1, 2, 3]),
        ("1 6 9", {"bins": [5], "labels": ["bad", "good"]}, ["bad", "good", "good"]),
        ("0 1 0", {"labels": {0: "no", 1: "yes"}}, ["no", "yes", "no"]),
        ("0 1 4", {"labels": {str(n): n + 1 for n in range(5)}}, [1, 2, 5]),
        ("1 2 1", {"labels": ["1", "2"]}, ["1", "2", "1"]),
        ("high low low", {"labels": ["low", "high"]}, ["high", "low", "low"]),
        ("High LOW low", {"labels": ["low", "high"]}, ["high", "low", "low"]),
        ("ΘΕΤΙΚΟΣ θετικος no", {"labels": ["ΘΕΤΙΚΟΣ", "NO"]}, ["ΘΕΤΙΚΟΣ"] * 2 + ["NO"]),
        ("İyi kötü KÖTÜ", {"labels": ["İyi", "kötü"]}, ["İyi", "kötü", "kötü"]),
        ("STRASSE Straße", {"labels": ["straße", "b"]}, ["straße", "straße"]),
        ("01 1 02.0", {"labels": ["01", "02"]}, ["01", "01", "02"]),
        ("1 2.0 1.0", {"labels": ["1.0", "2.0"]}, ["1.0", "2.0", "1.0"]),
        ("01 10 1e1", {"labels": {"01": "no", 10.0: "yes"}}, ["no", "yes", "yes"]),
        ("STRASSE straße b", {}, ["STRASSE", "STRASSE", "b"]),
        ("a\u3000 a b\u2003", {}, ["a", "a", "b"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*differ by case")
def test_labels_are_whole_numbers_numbers_or_texts(given, options, read, tmp_path):
    rows = "".join(f"t{i},{label}\n" for i, label in enumerate(given.split(" ")))
    reviews = load_reviews(written(tmp_path, f"text,label\n{rows}"), **options)
    assert reviews["label"].tolist() == read
    assert [*map(type, reviews["label"].tolist())] == [*map(type, read)]


def test_labels_that_differ_by_case_are_one_and_it_is_said(tmp_path):
    path = written(tmp_path, "text,label\na,Good\nb,good\nc,good\nd,bad\n")
    with pytest.warns(UserWarning, match="the name of the commonest: 'Good'$"):
        labels = load_reviews(path)["label"]
    assert labels.tolist() == ["good", "good", "good", "bad"]


def test_columns_found_by_their_names_are_said_but_for_plain_ones(tmp_path, capsys):
    load_reviews(written(tmp_path, "Review,Sentiment\na,good\nb,bad\n"))
    said = "reviews.csv: texts are 'Review', labels are 'Sentiment'\n"
    assert capsys.readouterr().out == said
    load_reviews(written(tmp_path, "text,stars\na,1\nb,5\n"))
    load_reviews(
        written(tmp_path, "a,b\nx,1\ny,5\n"), text_column="a", label_column="b"
    )
    assert capsys.readouterr().out == ""


REFUSED = {
    "a label that is missing": ("text,label\na,1\nb,\n", {}, "row 2: the label is mi"),
    "a label that is unknown": (
        "text,label\na,good\nb,so-so\n",
        {"labels": ["bad", "good"]},
        "row 2: the label must be one of 'bad', 'good'; got so-so",
    ),
    "a text among numbers to cut": (
        "text,label\na,1\nb,good\n",
        {"bins": [3]},
        "bins cut numbers; got the labels 'good'",
    ),
    "no such column": (
        "a,b\nx,1\n",
        {"text_column": "text"},
        "has no 'text'; it has: 'a', 'b'",
    ),
    "too many labels": (
        "text,label\n" + "".join(f"a,label {i}\n" for i in range(1200)),
        {},
        "1,200 labels, 'label .*; at most 1,000 are expected. Is label_column right",
    ),
    "too many rows without a text": (
        "text,label\n" + "a,1\n" * 5 + ",1\n" * 5,
        {},
        "5 of 10 rows are no text with a label: no text in 5, first in row 6",
    ),
    "header only": ("text,label\n", {}, "holds no review"),
    "blank texts only": ('text,label\n" ",1\n', {}, "1 of 1 rows are no text"),
    "on_invalid": ("text,label\na,1\n", {"on_invalid": "drop"}, "on_invalid must be"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_said(name, tmp_path):
    content, options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        load_reviews(written(tmp_path, content), **options)


def test_wrong_rows_are_left_out_and_counted_if_that_is_wanted(tmp_path):
    rows = ["a,1"] * 40 + ["b,", ",1", "c,9", "d,"] + ["e,2"] * 40
    path = written(tmp_path, "text,label\n" + "\n".join(rows))
    with pytest.warns(UserWarning, match="rows left out: 4") as caught:
        reviews = load_reviews(path, on_invalid="skip", labels=[1, 2])
    assert len(reviews) == 80
    said = str(caught[0].message)
    for reason in (
        "the label is missing in 2, first in row 41",
        "no text in 1, first in row 42",
        "the label must be one of '1', '2' in 1, first in row 43",
    ):
        assert reason in said
    with pytest.raises(ValueError, match="row 41: the label is missing"):
        load_reviews(path, labels=[1, 2])


def test_a_warning_names_the_file_once(tmp_path, monkeypatch):
    written(tmp_path, "text,label\n" + "a,1\n" * 20 + ",1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=r"^reviews.csv: .*first in row 21\)$"):
        load_reviews("reviews.csv")


def test_reviews_without_a_word_are_left_out_and_counted(tmp_path):
    table = pd.DataFrame({"text": ["good"] * 30 + ["", "  \n ", None], "label": 1})
    table.to_parquet(tmp_path / "a.parquet")
    with pytest.warns(UserWarning, match="rows left out: 3 .no text in 3, first in ro"):
        assert len(load_reviews(tmp_path / "a.parquet")) == 30


def test_html_is_undone_on_request(tmp_path):
    path = written(tmp_path, "text,label\n" + "a&amp;b<br />c,1\n" * 20 + "<br>,1\n")
    with pytest.warns(UserWarning, match="no text in 1, first in row 21"):
        texts = load_reviews(path, unescape_html=True)["text"]
    assert set(texts) == {"a&b\nc"}
    assert load_reviews(path)["text"][0] == "a&amp;b<br />c"


# Samples


def test_a_sample_is_drawn_evenly_and_by_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "HELD", 10)
    path = tmp_path / "reviews.csv"
    pd.DataFrame({"text": [f"r{i}" for i in range(400)], "label": 3}).to_csv(
        path, index=False
    )
    drawn = [
        load_reviews(path, size=100, seed=seed)["text"].tolist() for seed in range(20)
    ]
    assert all(len(set(sample)) == 100 for sample in drawn)
    assert load_reviews(path, size=100, seed=0)["text"].tolist() == drawn[0] != drawn[1]
    counts = pd.Series(np.concatenate(drawn)).value_counts()
    # each review is drawn 5 times of 20 on average; 16 times would be beyond any chance
    assert len(counts) > 390
    assert counts.max() < 16
    first_half = sum(int(text[1:]) < 200 for sample in drawn for text in sample) / 2000
    assert 0.4 < first_half < 0.6


def test_a_sample_of_many_batches_is_of_the_smallest_draws(monkeypatch):
    """It forgets what it need not hold, and nothing else."""
    monkeypatch.setattr(sources, "HELD", 10)
    draws = np.random.default_rng(0).random(1000)
    names = ["text", "label", "problem"]
    columns = [[f"r{i}", "1", None] for i in range(1000)]
    batches = (
        (
            pa.RecordBatch.from_arrays(
                [pa.array(c, pa.string()) for c in zip(*columns[first : first + 20])],
                names,
            ),
            "file",
            first + 1,
            1.0,
        )
        for first in range(0, 1000, 20)
    )
    rng = np.random.default_rng(0)
    sample, left_out, rows = sources._sample(batches, 30, rng, {}, "raise")
    expected = np.sort(np.argsort(draws)[:30])
    assert sample["text"].tolist() == [f"r{i}" for i in expected]
    assert (left_out, rows) == ({}, 1000)


def test_more_reviews_than_there_are_cannot_be_drawn(tmp_path):
    TABLE.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match="holds 5 reviews, but 6 were asked for"):
        load_reviews(tmp_path / "a.csv", size=6)


@pytest.mark.parametrize("name", ["yelp", "nowhere/reviews.json"])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(
        FileNotFoundError,
        match=f"'{name}' is neither a file, a folder or pattern of files, nor one of: "
        "review-snippets, yelp-review-full",
    ):
        load_reviews(name)


# Downloads


def test_the_snippets_have_the_counts_that_were_measured():
    reviews = load_reviews("review-snippets")
    assert reviews["label"].value_counts().sort_index().tolist() == [
        4031,
        2280,
        1256,
        1936,
        4810,
    ]
    assert reviews["text"][2] == "Effective but too tepid biopic"
    assert reviews["source"].nunique() == 10_605 + 300
    assert (reviews["source"][10_605:] == reviews["source"].iloc[-1]).sum() > 1


def test_a_second_load_fetches_nothing(monkeypatch):
    load_reviews("review-snippets")
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: pytest.fail("something was run")
    )
    assert len(load_reviews("review-snippets")) == 14_313


def test_a_snippet_download_that_fails_is_retried_and_leaves_nothing(
    cache, monkeypatch, only_own_index
):
    def respond(method, path, number):
        name = "vaderSentiment-3.3.2.tar.gz"
        if path.endswith(".tar.gz"):
            return 200, {}, b"not what was promised"
        return (
            200,
            {"Content-Type": "text/html"},
            f'<a href="/files/{name}">{name}</a>'.encode(),
        )

    with serve(respond) as (address, asked):
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
        with pytest.raises(
            RuntimeError,
            match=r"could not be fetched .*pip failed 3 times(?s:.)*"
            r"DO NOT MATCH THE HASHES",
        ):
            load_reviews("review-snippets")
    assert sum(path.endswith(".tar.gz") for path in asked) == 3
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def hub(table):
    """A stand-in for the hub that has one Parquet file, as far as the client asks."""
    body = table
    headers = {
        "ETag": f'"{sha256(body)}"',
        "X-Repo-Commit": sources.YELP["revision"],
        "Accept-Ranges": "bytes",
    }

    def respond(method, path, number):
        repo, revision, name = map(
            sources.YELP.get, ("repo_id", "revision", "filename")
        )
        if path == f"/datasets/{repo}/resolve/{revision}/{name}":
            return 200, headers, body
        return 404, {"X-Error-Code": "EntryNotFound"}, b""

    return respond


LOAD_YELP = """
from selfatt_lib.data.sources import load_reviews
reviews = load_reviews("yelp-review-full")
print(reviews["text"].tolist(), reviews["label"].tolist())
"""


def run_with_hub(address, cache):
    environment = os.environ | {
        "HF_ENDPOINT": address,
        "SELFATT_CACHE": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return run_code(LOAD_YELP, env=environment)


def test_the_hub_source_is_fetched_once_from_the_clients_endpoint(tmp_path):
    table = pd.DataFrame({"label": [4, 0], "text": ["Loved it.", "Hated it."]})
    with serve(hub(table.to_parquet())) as (address, asked):
        first = run_with_hub(address, tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == "['Loved it.', 'Hated it.'] [5, 1]"
    assert asked
    offline = run_with_hub("http://127.0.0.1:9", tmp_path)  # nobody listens there
    assert offline.stdout == first.stdout, offline.stderr


def test_the_hubs_new_lines_and_quotes_are_read_as_such_and_nothing_else(tmp_path):
    kept = ["two\nlines", 'He said ""no"".', r"C:\temp\d \\ \u00e9 and\or", "end\\"]
    kept += ["plain"] * 9
    texts = [r"Never!\n\nThey \"fixed\" it.\n", r"\\n \\" + '"', r" \n\n ", *kept]
    read = ['Never!\n\nThey "fixed" it.\n', '\\\n \\"', *kept]  # the third is blank
    table = pd.DataFrame({"label": 3, "text": texts})
    with serve(hub(table.to_parquet())) as (address, _):
        loaded = run_with_hub(address, tmp_path)
    assert loaded.stdout.strip() == f"{read} {[4] * len(read)}", loaded.stderr
    assert "rows left out: 1" in loaded.stderr


def test_a_hub_that_does_not_answer_is_an_error_that_says_so(tmp_path):
    with serve(lambda *_: (404, {}, b"")) as (address, _):
        failed = run_with_hub(address, tmp_path)
    assert (
        "yelp-review-full could not be fetched from the Hugging Face hub"
        in failed.stderr
    )


def test_the_cache_can_be_moved(monkeypatch, cache):
    assert cache_dir() == cache
    monkeypatch.delenv("SELFATT_CACHE")
    assert cache_dir().name == "selfatt"
