"""A trained model as ONNX: what ONNX Runtime makes of it, against the reference."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from conftest import run_code
from selfatt_lib import reference
from selfatt_lib.cli import main
from selfatt_lib.config import ModelSettings
from selfatt_lib.data.tokens import plain_text, tokenize
from selfatt_lib.data.vocabulary import Vocabulary
from selfatt_lib.onnx import onnx_model
from selfatt_lib.prediction import Classifier

README = Path(__file__).parent.parent / "README.md"
WORDS = 20


def make_classifier(pooling="flatten", num_layers=1, **reading):
    rng = np.random.default_rng(1)
    sizes = {"vocab_size": WORDS, "embedding_size": 3, "hidden_size": 5}
    sizes |= {"num_layers": num_layers, "attention_units": 6, "attention_hops": 4}
    sizes |= {"classifier_units": 8, "num_classes": 3, "pooling": pooling}
    pruned = pooling == "prune"
    sizes |= {"prune_p": 3 if pruned else None, "prune_q": 2 if pruned else None}
    weights = {
        name: rng.normal(0, 0.7, shape).astype(np.float32)
        for name, shape in reference.weight_shapes(sizes).items()
    }
    rates = {"dropout": 0.0, "embedding_dropout": 0.0, "train_embedding": True}
    words = ["<unk>", "<pad>", "Tom", "&", "café", *map(str, range(WORDS - 5))]
    labels = ["schlecht", "größer", "★"]
    settings = ModelSettings(**sizes, **rates)
    return Classifier(weights, Vocabulary(words), settings, labels, **reading)


def content_of(classifier):
    return onnx_model(classifier).SerializeToString(deterministic=True)


def read(content, tokens, valid_length):
    session = onnxruntime.InferenceSession(content)
    inputs = {"tokens": tokens, "valid_length": valid_length}
    return dict(zip(("logits", "attention", "embedding"), session.run(None, inputs)))


def make_batch(size, longest, seed=2):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, WORDS, (size, longest))
    return tokens, rng.integers(1, longest + 1, size)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("pooling", ["flatten", "mean", "prune"])
def test_batches_of_any_size_give_what_the_reference_gives(pooling, num_layers):
    classifier = make_classifier(pooling, num_layers)
    content = content_of(classifier)
    every_length = make_batch(9, 9)[0], np.arange(1, 10)
    all_shorter = make_batch(3, 12)[0], np.array([4, 1, 7])
    for batch in (every_length, all_shorter, make_batch(1, 1), make_batch(30, 17)):
        found = read(content, *batch)
        expected = reference.forward(*batch, classifier.weights, pooling)
        for name, array in zip(found, expected):
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], array, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("pooling", ["flatten", "prune"])
def test_padding_and_company_change_nothing(pooling):
    content = content_of(make_classifier(pooling, num_layers=2))
    tokens, valid_length = make_batch(6, 9)
    together = read(content, tokens, valid_length)
    is_word = np.arange(9) < valid_length[:, None]
    attention = together["attention"].transpose(0, 2, 1)  # (B, T, r)
    assert (attention[~is_word] == 0).all()
    np.testing.assert_allclose(attention.sum(axis=1), 1, atol=1e-6)
    others = np.where(is_word, tokens, make_batch(6, 9, seed=3)[0])
    for name, array in read(content, others, valid_length).items():
        np.testing.assert_array_equal(array, together[name])
    for b, n in enumerate(valid_length):
        alone = read(content, tokens[b : b + 1, :n], valid_length[b : b + 1])
        together_b = {name: array[b] for name, array in together.items()}
        together_b["attention"] = together_b["attention"][:, :n]
        for name, array in alone.items():
            np.testing.assert_allclose(array[0], together_b[name], atol=1e-5)


@pytest.mark.parametrize("reading", [{}, {"max_tokens": 3, "lower": False}])
@pytest.mark.parametrize("unescape_html", [True, False])
def test_the_file_alone_suffices_to_predict_a_text(reading, unescape_html):
    reading = {"language": "de", "unescape_html": unescape_html} | reading
    classifier = make_classifier(**reading)
    content = content_of(classifier)
    about = onnxruntime.InferenceSession(content).get_modelmeta()
    assert about.producer_name == "selfatt"
    about = {name: json.loads(x) for name, x in about.custom_metadata_map.items()}
    assert about.keys() == {"labels", "vocabulary", "settings"}
    text = "Tom &amp; das Café 3"
    expected = classifier.predict([text])[0]
    if about["settings"].pop("unescape_html"):
        text = plain_text(text)
    words = tokenize(text, **about["settings"])
    assert words == expected.tokens
    numbers = {word: number for number, word in enumerate(about["vocabulary"])}
    tokens = np.array([[numbers.get(word, 0) for word in words]], np.int64)
    found = read(content, tokens, np.array([len(words)], np.int64))
    probabilities = reference.softmax(found["logits"][0])
    np.testing.assert_allclose(probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(found["attention"][0], expected.attention, atol=1e-5)
    assert about["labels"] == classifier.labels
    assert about["labels"][probabilities.argmax()] == expected.label


# The command


def export(*arguments):
    given = ["export", *map(str, arguments)]
    return CliRunner().invoke(main, given)


def error_of(*arguments):
    failed = export(*arguments)
    assert failed.exit_code == 1, failed.output
    (line,) = failed.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def test_a_run_is_written_with_the_same_bytes_by_every_process(trained, tmp_path):
    first, second = tmp_path / "first.onnx", tmp_path / "second.ONNX"
    done = export(trained.run.path, first)
    assert done.exit_code == 0, done.output
    assert str(first) in done.stdout
    code = "from selfatt_lib.cli import main; main()"
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    run_code(code, "export", trained.run.path, second, env=environment, check=True)
    assert first.read_bytes() == second.read_bytes()
    assert {*tmp_path.iterdir()} == {first, second}


def test_a_file_is_replaced_only_if_that_is_said(trained, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("mine")
    assert "exists. Name another file, or replace" in error_of(trained.run.path, path)
    assert path.read_text() == "mine"
    assert export(trained.run.path, path, "--overwrite").exit_code == 0
    assert onnxruntime.InferenceSession(path).get_modelmeta().producer_name == "selfatt"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.pb", "the name should end in .onnx"),
        ("model", "the name should end in .onnx"),
        ("model-symbol.json", "it needs MXNet, which is retired"),
        ("model-0000.params", "it needs MXNet, which is retired"),
    ],
)
def test_another_format_is_refused_with_the_reason(trained, tmp_path, name, said):
    assert said in error_of(trained.run.path, tmp_path / name)
    assert not [*tmp_path.iterdir()]


def test_what_is_no_run_is_named(tmp_path):
    line = error_of(tmp_path, tmp_path / "model.onnx")
    assert f"{str(tmp_path)!r} is not a trained run: it has no config.json" in line


def test_without_the_package_it_says_what_to_install(trained, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "selfatt_lib.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert error_of(trained.run.path, tmp_path / "model.onnx") == (
        "Error: selfatt export needs the package onnx, which is not installed here: "
        "pip install onnx"
    )


def test_the_example_in_the_readme_predicts_as_the_library(trained, tmp_path):
    section = README.read_text().split("\n## Take a model along\n")[1]
    example = re.search(r"(?s)```python\n(.*?)```", section)[1]
    export(trained.run.path, tmp_path / "model.onnx")
    printed = "print(json.dumps([text, words, label, attention[0].tolist()]))"
    done = run_code(example + printed, cwd=tmp_path)
    text, words, label, attention = json.loads(done.stdout)
    [expected] = Classifier.load(trained.run.path).predict([text])
    assert (words, label) == (expected.tokens, expected.label)
    np.testing.assert_allclose(attention, expected.attention, atol=1e-5)
