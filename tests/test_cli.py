import json

import pytest
from click.testing import CliRunner

from selfatt_lib.cli import main
from selfatt_lib.prediction import Classifier
from selfatt_lib.training import write_text


def run(*arguments, **options):
    return CliRunner().invoke(
        main, [str(argument) for argument in arguments], **options
    )


def test_texts_are_predicted_one_a_line(trained):
    done = run("predict", trained.run.path, "superb perfect love", "awful broken waste")
    assert done.exit_code == 0
    best, worst = done.output.splitlines()
    assert best.startswith("★★★★★")
    assert best.endswith("superb perfect love")
    probability = (
        Classifier.load(trained.run.path)
        .predict(["superb perfect love"])[0]
        .probabilities.max()
    )
    assert f"  {probability:.2f}  " in best
    assert worst.startswith("★☆☆☆☆")


def test_texts_are_read_from_standard_input_where_none_is_given(trained):
    done = run("predict", trained.run.path, input="superb film\n\nawful film\r\n")
    assert [line.split("  ")[-1] for line in done.output.splitlines()] == [
        "superb film",
        "awful film",
    ]


@pytest.mark.parametrize(
    "order", [["--json", "superb café film"], ["superb café film", "--json"]]
)
def test_json_lines_hold_probabilities_tokens_and_attention(order, trained):
    line = json.loads(run("predict", trained.run.path, *order).output)
    assert line["text"] == "superb café film"
    assert line["tokens"] == ["superb", "café", "film"]
    assert len(line["probabilities"]) == 5
    assert sum(line["probabilities"]) == pytest.approx(1, abs=1e-4)
    assert [len(hop) for hop in line["attention"]] == [3, 3]
    expected = Classifier.load(trained.run.path).predict(["superb café film"])[0]
    assert line["stars"] == expected.stars
    assert line["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    assert line["attention"] == [
        pytest.approx(hop, abs=1e-5) for hop in expected.attention
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere", "a"], "'nowhere' is not a trained run"),
        (["summary", "nowhere"], "'nowhere' holds no finished run"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_a_status(arguments, message):
    failed = run(*arguments)
    assert failed.exit_code == 1
    assert failed.output.startswith("Error: ")
    assert message in failed.output


def test_a_blank_text_is_refused(trained):
    assert "text 1 of 1 has no word" in run("predict", trained.run.path, " ").output


def test_the_summary_sets_the_model_beside_its_baselines(tmp_path):
    names = ("accuracy", "weighted_f1")
    metrics = {
        f"{who}{name}": value
        for who, value in (("", 0.6), ("tfidf_", 0.5), ("majority_", 0.3))
        for name in names
    }
    metrics |= {
        "valid_size": 1400,
        "train_size": 12913,
        "best_epoch": 6,
        "epochs": 8,
        "seconds": 50.2,
        "device": "cpu(0)",
        "seed": 0,
    }
    write_text(tmp_path / "metrics.json", json.dumps(metrics))
    write_text(tmp_path / "attention.html", "")
    output = run("summary", tmp_path).output
    for expected in (
        "1,400 held-out reviews, 12,913 trained on",
        "0.600",
        "0.500",
        "0.300",
        "epoch 6 of 8",
    ):
        assert expected in output
    assert str(tmp_path / "attention.html") in output
    assert "training.ipynb" not in output  # there is none
    metrics["device"] = "cpu(0)\x1b[2J"
    write_text(tmp_path / "metrics.json", json.dumps(metrics))
    failed = run("summary", tmp_path).output
    assert "metrics.json is damaged" in failed
    assert "\x1b" not in failed


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_damaged_metrics_are_named(content, tmp_path):
    (tmp_path / "metrics.json").write_text(content)
    failed = run("summary", tmp_path)
    assert failed.exit_code == 1
    assert "metrics.json is damaged" in failed.output


def test_help_lists_the_commands():
    output = run("--help").output
    assert "predict" in output
    assert "summary" in output
