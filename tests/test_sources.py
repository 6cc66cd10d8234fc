import json
import os
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from servers import serve, sha256

from conftest import run_code
from selfatt_lib.config import TrainingConfig
from selfatt_lib.data import sources
from selfatt_lib.data.sources import load_reviews, split_reviews
from selfatt_lib.machinery import readers
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
TABLE = pd.DataFrame({"text": TEXTS, "stars": STARS})


def tutorial_json(path, texts=TEXTS, labels=STARS):
    path.write_text(json.dumps({"texts": texts, "labels": labels}))


def json_lines(path, rows=None):
    rows = rows or [
        {"review_id": str(i), "stars": float(star), "text": text}
        for i, (text, star) in enumerate(zip(TEXTS, STARS))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


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


WRITERS = {
    "tutorial.json": tutorial_json,
    "indented.json": lambda path: path.write_text(
        json.dumps({"texts": TEXTS, "labels": STARS}, indent=2)
    ),
    "yelp_academic_dataset_review.json": json_lines,
    "reviews.jsonl": json_lines,
    "reviews.csv": lambda path: TABLE.to_csv(path, index=False),
    "reviews.parquet": lambda path: TABLE.assign(user="x").to_parquet(path),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", WRITERS)
def test_every_form_of_file_gives_the_same_reviews(name, zipped, tmp_path):
    path = tmp_path / name
    WRITERS[name](path)
    if zipped:
        with zipfile.ZipFile(
            tmp_path / f"{name}.zip", "w", zipfile.ZIP_DEFLATED
        ) as archive:
            archive.write(path, name)
        path = tmp_path / f"{name}.zip"
    reviews = load_reviews(path)
    assert reviews["text"].tolist() == TEXTS
    assert reviews["stars"].tolist() == STARS


def test_a_csv_may_begin_with_a_byte_order_mark_and_have_other_columns(tmp_path):
    TABLE.assign(user="x").to_csv(
        tmp_path / "a.csv",
        index=False,
        encoding="utf-8-sig",
        columns=["user", "stars", "text"],
    )
    assert load_reviews(tmp_path / "a.csv")["text"].tolist() == TEXTS


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_long_file_is_read_whole_across_chunks(form, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "CHUNK", 7)
    table = pd.DataFrame(
        {
            "text": [f"review {i}" for i in range(50)],
            "stars": [1 + i % 5 for i in range(50)],
        }
    )
    path = tmp_path / f"reviews.{form}"
    {
        "jsonl": lambda: table.to_json(path, orient="records", lines=True),
        "csv": lambda: table.to_csv(path, index=False),
        "parquet": lambda: table.to_parquet(path, row_group_size=9),
    }[form]()
    reviews = load_reviews(path)
    assert reviews["text"].tolist() == table["text"].tolist()
    assert reviews["stars"].tolist() == table["stars"].tolist()


def test_a_sample_is_drawn_evenly_and_by_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "CHUNK", 10)
    path = tmp_path / "reviews.csv"
    pd.DataFrame({"text": [f"r{i}" for i in range(400)], "stars": 3}).to_csv(
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


def test_blank_reviews_are_left_out_and_counted(tmp_path):
    path = tmp_path / "reviews.csv"
    pd.DataFrame({"text": ["good", "", "  \n ", "bad"], "stars": [5, 4, 3, 1]}).to_csv(
        path, index=False
    )
    with pytest.warns(UserWarning, match="2 reviews without a word were left out"):
        reviews = load_reviews(path)
    assert reviews["stars"].tolist() == [5, 1]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_review_of_a_million_characters_is_read(form, tmp_path):
    path = tmp_path / f"a.{form}"
    table = pd.DataFrame({"text": ["x" * 10**6, "y z\n" * 250_000], "stars": [1, 2]})
    {
        "jsonl": lambda: json_lines(path, table.to_dict("records")),
        "csv": lambda: table.to_csv(path, index=False),
        "parquet": lambda: table.to_parquet(path),
    }[form]()
    assert load_reviews(path).equals(table.astype({"text": object}))


BAD = {
    "no fields.json": (
        '{"reviews": []}',
        (
            "has no 'texts' and no 'labels'; it has: 'reviews'|"
            "has no 'text' and no 'stars'; it has: 'reviews'"
        ),
    ),
    "no labels.json": ('{"texts": ["a"]}', "has no 'labels'; it has: 'texts'"),
    "no lists.json": ('{"texts": 5, "labels": 5}', "texts and labels must be lists"),
    "unequal.json": ('{"texts": ["a", "b"], "labels": [1]}', "2 texts but 1 labels"),
    "broken.json": ('{"texts": ["a",', "the file is not valid JSON"),
    "list.json": ("[1, 2]", "got a JSON list"),
    "no stars.jsonl": (
        '{"text": "a", "stars": 1}\n{"text": "b"}\n',
        "line 2 has no 'stars'; it has: 'text'",
    ),
    "broken line.jsonl": (
        '{"text": "a", "stars": 1}\n\n{"text": \n',
        "line 3 is not valid JSON",
    ),
    "no column.csv": ("text,rating\na,1\n", "has no 'stars'; it has: 'text', 'rating'"),
    "ragged.csv": ("text,stars\na,1\nb,2,3,4\n", "cannot be read as CSV"),
    "latin.csv": (
        "text,stars\ncaf\xe9,1\n".encode("latin-1"),
        "row 1: text must be valid Unicode, in UTF-8",
    ),
    "empty.csv": ("", "is empty; expected a header with the columns text and stars"),
    "commas.csv": (
        "text,stars\nGreat, loved it,5\nBad, hated it,1\n",
        "line 2: it has 3 fields, the header 2. Put texts that contain commas",
    ),
    "array.json": (
        '[{"text": "a", "stars": 1}]',
        r'expected .* or one {"text": ..., "stars": ...} a line; got a JSON list',
    ),
    "bool.jsonl": (
        '{"text": "a", "stars": true}\n',
        "row 1: stars must be .*; got True",
    ),
    "half a character.jsonl": (
        '{"text": "a \\ud800", "stars": 1}\n',
        "row 1: text must be valid Unicode",
    ),
    "six.csv": (
        "text,stars\na,1\nb,6\n",
        "row 2: stars must be a whole number from 1 to 5; got '6'",
    ),
    "zero.jsonl": (
        '{"text": "a", "stars": 0}\n',
        "row 1: stars must be a whole number from 1 to 5; got 0",
    ),
    "half.jsonl": (
        '{"text": "a", "stars": 4}\n{"text": "a", "stars": 4.5}\n',
        "row 2: stars must be .*; got 4.5",
    ),
    "word.csv": ("text,stars\na,five\n", "row 1: stars must be .*; got 'five'"),
    "null.jsonl": (
        '{"text": "a", "stars": null}\n',
        "row 1: stars must be .*; got None",
    ),
    "number.jsonl": (
        '{"text": 7, "stars": 1}\n',
        "row 1: text must be a string; got 7",
    ),
    "not.parquet": ("text,stars\na,1\n", "cannot be read as Parquet"),
    "reviews.txt": ("good\n", "the name should end in .json, .jsonl, .csv, .parquet"),
    "header only.csv": ("text,stars\n", "holds no review"),
    "nothing.json": ('{"texts": [], "labels": []}', "holds no review"),
    "nothing.jsonl": ("", "the file is not valid JSON|holds no review"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_what_is_wrong(name, tmp_path):
    content, message = BAD[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        load_reviews(path)
    assert name in str(caught.value)


def test_a_row_is_named_by_its_place_in_the_file_not_in_the_chunk(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(readers, "CHUNK", 10)
    rows = [{"text": "a", "stars": 1}] * 24 + [{"text": "a", "stars": 7}]
    json_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(ValueError, match="row 25: stars"):
        load_reviews(tmp_path / "a.jsonl")


def test_a_parquet_file_without_the_columns_is_refused(tmp_path):
    TABLE.rename(columns={"text": "body"}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has no 'text'; it has: 'body', 'stars'"):
        load_reviews(tmp_path / "a.parquet")


def test_a_zip_archive_of_several_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", "text,stars\n")
        archive.writestr("b.csv", "text,stars\n")
    with pytest.raises(
        ValueError, match="a zip archive of 2 files; exactly one is expected"
    ):
        load_reviews(tmp_path / "a.zip")


def test_a_damaged_zip_archive_is_refused(tmp_path):
    path = tmp_path / "reviews.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("reviews.csv", "text,stars\ngood film,5\n")
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    with pytest.raises(
        ValueError, match=r"reviews.csv.zip is not a whole zip archive; get it again: "
    ):
        load_reviews(path)
    path.write_bytes(content.replace(b"good film", b"evil film"))
    with pytest.raises(ValueError, match=r"reviews.csv.zip is damaged: Bad CRC-32"):
        load_reviews(path)


def test_blank_lines_and_categories_are_no_obstacle(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '\n\n{"text": "a", "stars": 1}\n\n{"text": "b", "stars": 2}\n'
    )
    assert load_reviews(tmp_path / "a.jsonl")["stars"].tolist() == [1, 2]
    table = pd.DataFrame(
        {"text": pd.Categorical(["a", None, "b"]), "stars": pd.Categorical([1, 2, 3])}
    )
    table.to_parquet(tmp_path / "a.parquet")
    with pytest.warns(UserWarning, match="1 reviews without a word"):
        assert load_reviews(tmp_path / "a.parquet")["stars"].tolist() == [1, 3]


@pytest.mark.parametrize("name", ["yelp", "nowhere/reviews.json"])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(
        FileNotFoundError,
        match=f"'{name}' is neither a file nor one of: review-snippets, yelp-review-"
        "full",
    ):
        load_reviews(name)


def test_more_reviews_than_there_are_cannot_be_drawn_or_split(tmp_path):
    TABLE.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match="holds 5 reviews, but 6 were asked for"):
        load_reviews(tmp_path / "a.csv", size=6)
    with pytest.raises(ValueError, match="needs 7; the data set has 5"):
        split_reviews(TABLE, valid_size=4, train_size=3)
    with pytest.raises(ValueError, match="needs 6; the data set has 5"):
        split_reviews(TABLE, valid_size=5)


def test_a_split_holds_out_by_the_seed_and_loses_nothing():
    reviews = pd.DataFrame({"text": [f"r{i}" for i in range(100)], "stars": 1})
    train, valid = split_reviews(reviews, valid_size=30, seed=1)
    assert (len(train), len(valid)) == (70, 30)
    assert set(train["text"]) | set(valid["text"]) == set(reviews["text"])
    assert split_reviews(reviews, 30, seed=1)[1].equals(valid)
    assert not split_reviews(reviews, 30, seed=2)[1].equals(valid)
    assert [len(part) for part in split_reviews(reviews, 30, 20)] == [20, 30]


# Downloads


def test_the_snippets_have_the_counts_that_were_measured():
    reviews = load_reviews("review-snippets")
    assert reviews["stars"].value_counts().sort_index().tolist() == [
        4031,
        2280,
        1256,
        1936,
        4810,
    ]
    assert reviews["text"][2] == "Effective but too tepid biopic"


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
print(reviews["text"].tolist(), reviews["stars"].tolist())
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
    texts = [r"Never!\n\nThey \"fixed\" it.\n", r"\\n \\" + '"', r" \n\n ", *kept]
    read = ['Never!\n\nThey "fixed" it.\n', '\\\n \\"', *kept]  # the third is blank
    table = pd.DataFrame({"label": 3, "text": texts})
    with serve(hub(table.to_parquet())) as (address, _):
        loaded = run_with_hub(address, tmp_path)
    assert loaded.stdout.strip() == f"{read} {[4] * len(read)}", loaded.stderr
    assert "1 reviews without a word were left out" in loaded.stderr


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
