import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from selfatt_lib import commands
from selfatt_lib.cli import main
from selfatt_lib.commands import lines
from selfatt_lib.machinery.files import write_text
from selfatt_lib.prediction import Classifier


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


def test_labels_that_are_no_stars_stand_in_a_column(polar):
    done = run("predict", polar.run.path, "superb perfect love", " ", "awful waste")
    best, blank, worst = done.output.splitlines()
    assert best.startswith(("positive  0.", "positive  1."))
    assert blank.startswith("-----     ----  ")
    assert worst.startswith("negative  ")
    assert worst.index("awful") == best.index("superb")


def test_each_line_of_standard_input_has_one_answer_in_order(trained):
    lines = "\ufeffsuperb film\n\n  \nawful film\r\nno line end"
    done = run("predict", trained.run.path, input=lines)
    shown = [line.split("  ", 2) for line in done.output.splitlines()]
    assert [text for _, _, text in shown] == [
        *("superb film", "", "  ", "awful film", "no line end")
    ]
    assert [stars for stars, _, _ in shown[1:3]] == ["-----"] * 2
    # what a BOM would make of the first word
    answers = run("predict", trained.run.path, "--json", input=lines).output
    answers = [json.loads(line) for line in answers.splitlines()]
    assert answers[0]["tokens"] == ["superb", "film"]
    nothing = dict.fromkeys(["label", "probabilities", "tokens", "attention"])
    assert answers[1] == {"text": "", "clipped": None} | nothing
    assert answers[1].keys() == answers[0].keys()


def test_a_line_that_is_not_utf8_is_named_after_the_answers_before_it(trained):
    failed = run("predict", trained.run.path, input=b"superb\n\ncaf\xe9 awful\nbad\n")
    assert failed.exit_code == 1
    assert failed.output.splitlines()[0].endswith("superb")
    assert "line 3 of standard input cannot be read: 'utf-8'" in failed.output
    assert "iconv" in failed.output
    assert "bad" not in failed.output


def test_a_line_without_end_is_refused_before_it_fills_the_memory(trained, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST_LINE", 10**6)
    endless = io.BytesIO(b"superb\n" + b"a" * 3_000_000)
    failed = run("predict", trained.run.path, input=endless)
    assert "line 2 of standard input cannot be read: it has more than" in failed.output
    assert endless.tell() < 2_000_000


def test_a_line_is_answered_before_the_next_one_comes(trained):
    command = [Path(sys.executable).with_name("selfatt"), "predict", trained.run.path]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        for text in (b"superb film\n", b"awful film\n"):
            process.stdin.write(text)
            process.stdin.flush()
            assert process.stdout.readline().endswith(text)
    finally:
        process.communicate()


def test_a_reader_that_has_enough_ends_it_without_a_word(trained):
    selfatt = Path(sys.executable).with_name("selfatt")
    command = shlex.join([str(selfatt), "predict", str(trained.run.path)])
    command = f"yes superb | {command} | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.endswith("superb\n")
    assert done.stderr == ""


def test_a_text_that_looks_like_an_option_or_a_file_gets_a_hint(trained, tmp_path):
    failed = run("predict", trained.run.path, "-5 stars")
    assert failed.exit_code == 2
    assert 'write -- first: selfatt predict RUN -- "-5 stars"' in failed.output
    assert run("predict", trained.run.path, "--", "-5 stars").output.endswith(
        "-5 stars\n"
    )
    file = tmp_path / "my reviews.txt"
    file.write_text("superb\n")
    done = run("predict", trained.run.path, file)
    assert done.exit_code == 0
    assert "is a file, and its name is predicted" in done.stderr
    assert f"< '{file}'" in done.stderr


def test_an_answer_is_one_line_and_moves_no_cursor(trained):
    done = run("predict", trained.run.path, "superb\n\x1b[2Jfilm")
    assert done.output.endswith("superb  [2Jfilm\n")


def test_a_review_that_is_not_read_to_its_end_is_marked(trained):
    read = "good " * trained.config.max_tokens
    long_word = "good " + 301 * "x"
    for text, clipped in ((read, False), (read + "awful", True), (long_word, True)):
        done = run("predict", trained.run.path, text)
        assert ("[not all of it read] good" in done.output) == clipped
        line = json.loads(run("predict", trained.run.path, "--json", text).output)
        assert line["clipped"] == clipped


@pytest.mark.parametrize(
    "order", [["--json", "superb café film"], ["superb café film", "--json"]]
)
def test_json_lines_hold_probabilities_tokens_and_attention(order, trained):
    line = json.loads(run("predict", trained.run.path, *order).output)
    assert line["text"] == "superb café film"
    assert line["tokens"] == ["superb", "café", "film"]
    assert list(line["probabilities"]) == ["1", "2", "3", "4", "5"]
    assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert [len(hop) for hop in line["attention"]] == [3, 3]
    expected = Classifier.load(trained.run.path).predict(["superb café film"])[0]
    assert line["label"] == expected.stars
    found = [*line["probabilities"].values()]
    assert found == pytest.approx(expected.probabilities, abs=1e-5)
    assert line["attention"] == [
        pytest.approx(hop, abs=1e-5) for hop in expected.attention
    ]


def test_json_lines_name_labels_that_are_no_stars(polar):
    line = json.loads(run("predict", polar.run.path, "--json", "superb love").output)
    assert line["label"] == "positive"
    assert list(line["probabilities"]) == ["negative", "positive"]
    assert line["probabilities"]["positive"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere", "a"], "'nowhere' is not a trained run"),
        (["explain", "nowhere", "a"], "'nowhere' is not a trained run"),
        (["evaluate", "nowhere", "a.csv"], "'nowhere' is not a trained run"),
        (["embed", "nowhere", "--out", "a.npz"], "'nowhere' is not a trained run"),
        (["summary", "nowhere"], "'nowhere' holds no finished run"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_a_status(arguments, message):
    failed = run(*arguments)
    assert failed.exit_code == 1
    assert failed.output.startswith("Error: ")
    assert message in failed.output


def test_a_blank_text_has_an_answer_in_its_place_too(trained):
    answers = run("predict", trained.run.path, " ", "good").output.splitlines()
    assert answers[0].startswith("-----")
    assert answers[1].endswith("good")


METRICS = {
    f"{who}{name}": value
    for who, value in (("", 0.6), ("tfidf_", 0.5), ("majority_", 0.3))
    for name in ("accuracy", "weighted_f1")
}
METRICS |= {
    "accuracy_interval": [0.5744, 0.6253],
    "labels": [1, 2, 3, 4, 5],
    "valid_accuracy": 0.612,
    "train_size": 11451,
    "valid_size": 1430,
    "test_size": 1431,
    "best_epoch": 6,
    "epochs": 8,
    "seconds": 50.2,
    "engine": "MXNet 1.9.1",
    "device": "cpu",
    "seed": 0,
}


def summary_of(folder, **changed):
    write_text(folder / "metrics.json", json.dumps(METRICS | changed))
    return run("summary", folder).output


def test_the_summary_sets_the_model_beside_its_baselines(tmp_path):
    write_text(tmp_path / "attention.html", "")
    output = summary_of(tmp_path)
    shown = [" ".join(line.split()) for line in output.splitlines()]
    for expected in (
        "1,431 test reviews, 11,451 trained on, 1,430 to choose the epoch",
        "accuracy 95 % interval weighted F1",
        "self-attentive BiLSTM 0.600 0.575 to 0.625 0.600",
        "TF-IDF + logistic regression 0.500 0.474 to 0.526 0.500",
        "always the commonest star 0.300 0.277 to 0.324 0.300",
        "epoch 6 of 8 was chosen, with an accuracy of 0.612 on the reviews for that;",
        "50 s of training with MXNet 1.9.1 on cpu, seed 0",
    ):
        assert expected in shown
    assert "what the model reads" not in output  # it reads all
    assert str(tmp_path / "attention.html") in output
    assert "training.ipynb" not in output  # there is none


def test_the_summary_tells_what_tfidf_makes_of_clipped_reviews(tmp_path):
    clipped = {"tfidf_clipped_accuracy": 0.45, "tfidf_clipped_weighted_f1": 0.44}
    lines = summary_of(tmp_path, **clipped).splitlines()
    assert lines[6].split("  ")[1] == "the same on what the model reads"
    assert lines[6].split()[-5:] == ["0.450", "0.424", "to", "0.476", "0.440"]


def test_a_summary_speaks_of_stars_only_where_labels_are_stars(polar):
    output = run("summary", polar.run.path).output
    assert "always the commonest label" in output
    assert f"{polar.metrics['accuracy']:.3f}" in output


def test_metrics_that_a_terminal_would_obey_are_refused(tmp_path):
    failed = summary_of(tmp_path, engine="MXNet\x1b[2J")
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
    for name in ("train", "summary", "predict", "evaluate", "explain", "embed"):
        assert name in output


def test_a_command_is_printed_as_its_system_takes_it(monkeypatch):
    words = ("selfatt", "predict", "my run")
    assert commands.typed(*words) == "selfatt predict 'my run'"
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        assert commands.typed(*words, r"runs\quick") == (
            r'selfatt predict "my run" runs\quick'
        )


def test_closed_output_is_no_error(trained):
    command = [sys.executable, "-m", "selfatt_lib", "predict", trained.run.path, "good"]
    command = shlex.join(map(str, command))
    assert subprocess.run(f"{command} >&- 2>&-", shell=True).returncode == 0


def test_the_library_is_the_command_too(trained):
    command = [
        sys.executable,
        "-m",
        "selfatt_lib",
        "predict",
        trained.run.path,
        "a film",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == run("predict", trained.run.path, "a film").output
