"""evaluate, explain and embed: on stars, on labels that are texts, on bad input."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from conftest import make_reviews, run_code
from selfatt_lib.cli import main
from selfatt_lib.prediction import Classifier
from selfatt_lib.results import accuracy_interval


def run(*arguments, **options):
    return CliRunner().invoke(main, [str(each) for each in arguments], **options)


def error_of(*arguments):
    failed = run(*arguments)
    assert failed.exit_code == 1, failed.output
    (line,) = failed.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.fixture
def reviews(tmp_path):
    """A file of labelled reviews, as `polar` was trained on but for their case."""
    table = make_reviews(200, seed=1)
    table["stars"] = np.where(table.pop("label") > 3, "Positive", "NEGATIVE")
    table.to_csv(tmp_path / "reviews.csv", index=False)
    return tmp_path / "reviews.csv"


# evaluate


def test_a_run_is_scored_on_a_file(polar, reviews):
    found = json.loads(run("evaluate", polar.run.path, reviews, "--json").stdout)
    texts = make_reviews(200, seed=1)
    given = np.where(texts["label"] > 3, "positive", "negative")
    predictions = Classifier.load(polar.run.path).predict(texts["text"])
    predicted = np.array([each.label for each in predictions])
    assert found["reviews"] == 200
    assert found["accuracy"] == pytest.approx((given == predicted).mean())
    assert found["accuracy_interval"] == accuracy_interval(found["accuracy"], 200)
    matrix = [
        [
            int(((given == row) & (predicted == column)).sum())
            for column in found["labels"]
        ]
        for row in ("negative", "positive")
    ]
    assert found["confusion_matrix"] == matrix
    assert found["labels"] == ["negative", "positive"]
    positive = found["classes"][1]
    assert positive["label"] == "positive"
    assert positive["reviews"] == (given == "positive").sum()
    assert positive["recall"] == pytest.approx(matrix[1][1] / sum(matrix[1]))
    assert positive["precision"] == pytest.approx(
        matrix[1][1] / (matrix[0][1] + matrix[1][1])
    )
    printed = run("evaluate", polar.run.path, reviews).stdout
    lower, upper = found["accuracy_interval"]
    assert "200 reviews of" in printed
    assert (
        f"{found['accuracy']:.3f}, 95 % interval {lower:.3f} to {upper:.3f}" in printed
    )
    *_, head, first, second = printed.splitlines()
    assert head.split() == ["negative", "positive"]
    assert first.split() == ["negative", *map(str, matrix[0])]
    assert second.split() == ["positive", *map(str, matrix[1])]


def test_a_score_by_stars_shows_them(trained, tmp_path):
    file = tmp_path / "reviews.csv"
    file.write_text("text,stars\nsuperb perfect love,5\nawful waste broken,1\n")
    printed = run("evaluate", trained.run.path, file).stdout
    assert [line.split()[0] for line in printed.splitlines()[5:10]] == [
        "★" * n + "☆" * (5 - n) for n in range(1, 6)
    ]
    assert "accuracy     1.000, 95 % interval 0.342 to 1.000" in printed


def test_labels_that_a_run_does_not_know_are_named(polar, tmp_path):
    file = tmp_path / "reviews.csv"
    file.write_text("text,stars\nsuperb,positive\nso so,mixed\n")
    said = error_of("evaluate", polar.run.path, file)
    assert said.endswith("none of the classes 'negative', 'positive': 'mixed'")
    assert "neither a file, a folder or pattern of files, nor" in error_of(
        "evaluate", polar.run.path, "no.csv"
    )


def test_a_file_with_other_columns_is_scored(polar, tmp_path):
    file = tmp_path / "reviews.csv"
    texts = "title,body,verdict\ngood,superb café,positive\ngood,awful,negative\n"
    file.write_bytes(texts.encode("cp1252"))
    options = ["--text-column", "body", "--label-column", "verdict", "--json"]
    command = ["evaluate", polar.run.path, file, "--encoding", "cp1252", *options]
    assert json.loads(run(*command).stdout)["accuracy"] == 1
    file.write_text(texts.partition("\n")[2])
    options += ["--columns", "title,body,verdict"]
    command = ["evaluate", polar.run.path, file, *options]
    assert json.loads(run(*command).stdout)["accuracy"] == 1


def test_html_is_undone_once(polar, tmp_path, monkeypatch):
    """What is left of a text that spoke of HTML is a text."""
    load = Classifier.load

    def load_html(run):
        classifier = load(run)
        classifier.unescape_html = True
        return classifier

    monkeypatch.setattr(Classifier, "load", load_html)
    monkeypatch.setattr(
        "selfatt_lib.commands.evaluate.reading_of", lambda *_: {"unescape_html": True}
    )
    file = tmp_path / "reviews.csv"
    rows = (
        "&amp;lt;br&amp;gt;,negative\n" + "superb,positive\n" * 20 + "<br>,negative\n"
    )
    file.write_text(f"text,label\n{rows}")
    with pytest.warns(UserWarning, match="rows left out: 1"):
        done = run("evaluate", polar.run.path, file, "--json")
    assert json.loads(done.stdout)["reviews"] == 21


def test_html_is_undone_once_on_the_page_of_a_run(polar, tmp_path):
    notebook = Path(__file__).parent.parent / "book" / "training.ipynb"
    cells = [
        "".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]
    ]
    [cell] = [source for source in cells if "= attention_html(" in source]
    classifier = Classifier.load(polar.run.path)
    classifier.unescape_html = True
    texts = {"text": ["fine &lt;br&gt; x", "<br>"], "label": ["positive", "negative"]}
    corpus = SimpleNamespace(test_reviews=pd.DataFrame(texts))
    run = SimpleNamespace(path=tmp_path)
    found = {"classifier": classifier, "corpus": corpus, "run": run}
    exec(cell, found)  # noqa: S102
    assert "lt;br" in (tmp_path / "attention.html").read_text()


def test_a_score_on_what_was_trained_on_is_called_none(polar, reviews, monkeypatch):
    assert "was trained on" not in run("evaluate", polar.run.path, reviews).stderr
    table = pd.read_csv(reviews).rename(columns={"stars": "label"})
    monkeypatch.setattr("selfatt_lib.data.sources.load_reviews", lambda *_, **__: table)
    done = run("evaluate", polar.run.path, polar.config.dataset)
    assert "was trained on a part of these reviews" in done.stderr
    assert done.exit_code == 0


# explain

HOSTILE = "superb <script>alert(1)</script> </style> שלום עולם \u202e \x1b[2J $5$ 很好"


def test_words_are_printed_with_their_attention(polar):
    output = run("explain", polar.run.path, "A superb qqzzx film").output
    found = Classifier.load(polar.run.path).predict(["A superb qqzzx film"])[0]
    head, *rows = output.splitlines()
    assert head == f"{found.label}  {found.probabilities.max():.2f}"
    assert [row.split()[0] for row in rows] == [
        f"{weight:.2f}" for weight in found.attention.sum(axis=0)
    ]
    strongest = rows[found.attention.sum(axis=0).argmax()]
    assert strongest.count("█") == max(row.count("█") for row in rows) == 20
    assert rows[2].endswith("qqzzx  (not in the vocabulary)")
    assert rows[3].endswith("film")


@pytest.mark.parametrize("name", ["trained", "polar"])
@pytest.mark.parametrize("text", [HOSTILE, "superb film " * 8_500, "x" * 100_000])
def test_any_text_is_explained(name, text, request, tmp_path):
    trained = request.getfixturevalue(name)
    page, svg, png = (tmp_path / f"out.{kind}" for kind in ("html", "svg", "png"))
    outs = ["--html", page, "--svg", svg, "--png", png]
    done = run("explain", trained.run.path, text, *outs)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [str(page), str(svg), str(png)]
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html
    assert ("4 of 5 stars" in html or "stars" in html) == (name == "trained")
    assert svg.read_text(encoding="utf-8").rstrip().endswith("</svg>")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "很" not in text or "draws boxes. --html shows all" in done.stderr
    printed = run("explain", trained.run.path, text).output
    assert printed.replace("\n", "").isprintable()
    assert len(printed.splitlines()) <= 1 + trained.config.max_tokens
    assert max(map(len, printed.splitlines())) < 120
    assert ("not all of it was read" in printed) == (len(text) > 1000)


def test_a_picture_of_very_many_words_is_refused(polar, tmp_path, monkeypatch):
    monkeypatch.setattr("selfatt_lib.commands.explain.MOST_IN_A_PICTURE", 2)
    out = tmp_path / "out.png"
    said = error_of("explain", polar.run.path, "a good film", "--png", out)
    assert "has room for 2 tokens, and the model read 3 of this text" in said
    assert [*tmp_path.iterdir()] == []


def test_a_text_without_a_word_is_not_explained(polar):
    assert "has no word" in error_of("explain", polar.run.path, "  ")


# embed


@pytest.mark.parametrize("name", ["trained", "polar"])
def test_each_row_of_a_file_has_its_embedding(name, request, tmp_path, monkeypatch):
    trained = request.getfixturevalue(name)
    monkeypatch.setattr("selfatt_lib.commands.embed.CHUNK", 7)
    file, out = tmp_path / "in.jsonl", tmp_path / "out.npz"
    texts = make_reviews(20)["text"].tolist()
    rows = [json.dumps({"id": n, "text": text}) for n, text in enumerate(texts)]
    rows[4:6] = ['{"id": 4, "text": null}', '{"id": 5, "text": " "}']
    file.write_text("\n".join(rows))
    done = run("embed", trained.run.path, "--file", file, "--out", out)
    assert done.exit_code == 0, done.output
    with np.load(out) as arrays:
        assert arrays.files == ["embedding"]
        found = arrays["embedding"]
    assert found.dtype == np.float32
    assert found.shape == (20, 2, 12)
    expected = Classifier.load(trained.run.path).embed(texts)
    expected[4:6] = np.nan
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_lines_are_embedded_too(polar, tmp_path):
    out = tmp_path / "out.npz"
    lines = "superb film\n\nawful film\n"
    run("embed", polar.run.path, "--out", out, input=lines)
    found = np.load(out)["embedding"]
    assert np.isnan(found[:, 0, 0]).tolist() == [False, True, False]
    run("embed", polar.run.path, "--out", out, "--overwrite", input="")
    assert np.load(out)["embedding"].shape == (0, 2, 12)


# What is written


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["embed", "--out"], "out.npz"),
        (["explain", "a", "--html"], "out.html"),
        (["explain", "a", "--svg"], "out.svg"),
        (["explain", "a", "--png"], "out.png"),
    ],
)
def test_a_file_is_replaced_only_on_request(command, name, polar, tmp_path):
    name_of_command, *rest = command
    command = [name_of_command, polar.run.path, *rest]
    there = tmp_path / name
    there.write_text("mine")
    assert f"{there} exists" in error_of(*command, there)
    assert there.read_text() == "mine"
    assert run(*command, there, "--overwrite", input="a\n").exit_code == 0
    assert there.read_bytes() != b"mine"
    assert "there is no folder" in error_of(*command, tmp_path / "no" / name)
    kind = there.suffix
    assert f"should end in {kind}" in error_of(*command, tmp_path / "out.txt")
    there.unlink()
    there.mkdir()
    assert f"{there} exists" in error_of(*command, there, "--overwrite")


FULL = """
import resource, signal, sys
from selfatt_lib.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["embed", "--file", "in.csv", "--out"], "out.npz"),
        (["explain", "a good film", "--html"], "out.html"),
        (["explain", "a good film", "--png"], "out.png"),
        (["predict", "--file", "in.csv", "--out"], "out.csv"),
        (["predict", "--file", "in.csv", "--out"], "out.parquet"),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(command, name, polar, tmp_path):
    file = tmp_path / "in.csv"
    make_reviews(300).to_csv(file, index=False)
    name_of_command, *rest = [each.replace("in.csv", str(file)) for each in command]
    arguments = [name_of_command, polar.run.path, *rest, tmp_path / name]
    done = run_code(FULL, *arguments)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in done.stderr
    assert len(said) == 1
    assert name in said[0]
    assert "File too large" in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
