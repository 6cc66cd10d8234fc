import json
import math
import re
import shutil

import numpy as np
import pytest
from damage import alter, as_folder, as_link, as_pipe, cut, damaged
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ENGINE, fit, make_reviews, prepare, run_code
from selfatt_lib import prediction as module
from selfatt_lib.config import TrainingConfig
from selfatt_lib.data.tokens import tokenize
from selfatt_lib.machinery.files import JSON_BYTES, write_arrays
from selfatt_lib.prediction import Classifier, _is_clipped
from selfatt_lib.reference import weight_shapes
from selfatt_lib.run import FORMAT, fingerprint
from selfatt_lib.training import evaluate


@pytest.fixture(scope="module")
def classifier(trained):
    return Classifier.load(trained.run.path, "cpu")


def test_a_loaded_run_predicts_as_the_trained_model_did(trained, classifier):
    _, labels, predictions = evaluate(trained.engine, trained.valid_batches)
    loaded = classifier.predict(trained.valid_reviews["text"])
    right = np.mean(
        [p.label == label for p, label in zip(loaded, trained.valid_reviews["label"])]
    )
    assert right == np.mean(labels == predictions)


def test_predictions_come_in_the_order_of_the_texts_and_do_not_depend_on_company(
    classifier,
):
    texts = make_reviews(50, seed=3)["text"].tolist()
    together = classifier.predict(texts, batch_size=7)
    assert [p.text for p in together] == texts
    for text, prediction in list(zip(texts, together))[:10]:
        alone = classifier.predict([text])[0]
        assert alone.stars == prediction.stars
        np.testing.assert_allclose(
            alone.probabilities, prediction.probabilities, atol=1e-5
        )
        np.testing.assert_allclose(alone.attention, prediction.attention, atol=1e-5)


def test_a_prediction_is_complete(classifier, trained):
    text = "The film was superb, I love qqzzx"
    prediction = classifier.predict([text])[0]
    assert prediction.tokens == tokenize(text)
    assert prediction.known.tolist() == [
        token in trained.vocab for token in prediction.tokens
    ]
    assert not prediction.known[-1]
    assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert prediction.stars == prediction.probabilities.argmax() + 1
    assert prediction.attention.shape == (2, len(prediction.tokens))
    np.testing.assert_allclose(prediction.attention.sum(axis=1), 1, atol=1e-5)


@pytest.mark.filterwarnings("ignore:max_tokens=5 cuts off")
def test_texts_are_read_as_in_training(tmp_path):
    reviews = make_reviews(100).assign(text=lambda table: table["text"].str.title())
    reading = {"lower": False, "max_tokens": 5, "embedding": None}
    fit(prepare(tmp_path / "run", reviews, valid_size=20, epochs=1, **reading))
    prediction = Classifier.load(tmp_path / "run").predict(
        ["The Film was Superb and Perfect"]
    )[0]
    assert prediction.tokens == ["The", "Film", "was", "Superb", "and"]
    assert prediction.known.tolist() == [True, True, False, True, False]


def test_language_and_html_are_those_of_training(tmp_path):
    reviews = make_reviews(80).assign(text="电影 " + make_reviews(80)["text"])
    reading = {"language": "zh", "unescape_html": True, "embedding": None}
    fit(prepare(tmp_path / "run", reviews, valid_size=20, epochs=1, **reading))
    classifier = Classifier.load(tmp_path / "run")
    text = "好电影 &amp;<br />" + "好" * 400
    found = classifier.predict([text, "<br>", None], on_invalid="skip")
    assert found[0].text == "好电影 &\n" + "好" * 400
    assert found[0].tokens == [*"好电影&", *"好" * 96]
    assert found[0].known[:3].tolist() == [False, True, True]
    assert found[0].clipped
    assert found[1:] == [None, None]
    with pytest.raises(ValueError, match=r"text 1 of 1 has no word; got '\\n'"):
        classifier.predict(["<p>"])
    weights, vocab, settings = classifier.weights, classifier.vocab, classifier.settings
    as_it_is = Classifier(weights, vocab, settings, [1, 2, 3, 4, 5]).predict([text])[0]
    assert as_it_is.text == text
    assert as_it_is.tokens[0] == "好电影"


@pytest.mark.parametrize("company", [0, 30])
@pytest.mark.parametrize(
    ("text", "clipped"),
    [
        ("good " * 100, False),
        (" good\n" * 100 + " \u2003\n", False),
        ("good " * 101, True),
        ("good " * 98 + "can't", False),
        ("good " * 99 + "can't", True),
        ("x" * 300, False),
        ("x" * 301, True),
        (f"good {'x' * 301} film", True),
        ("\u0130" * 300, False),  # twice as long in lower case
        ("\u0130" * 301, True),
    ],
)
def test_a_prediction_says_whether_the_text_was_read_to_its_end(
    text, clipped, company, classifier
):
    prediction, *others = classifier.predict([text, *["good film"] * company])
    assert prediction.clipped is clipped
    assert not any(other.clipped for other in others)


PARTS = ["\u0130", "can't", ":)", ": )", "(a.b-c)", " ", "\n", "\u03a3"]


@settings(deadline=None)
@given(
    st.lists(st.characters(exclude_categories=["Cs"]) | st.sampled_from(PARTS)),
    st.booleans(),
)
def test_no_text_is_clipped_whose_tokens_are_all_read(parts, lower):
    text = "".join(parts)
    assert not _is_clipped(text, tokenize(text, lower=lower), len(text))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, TypeError, "text 2 of 2 must be a string; got None"),
        (5, TypeError, "text 2 of 2 must be a string; got 5"),
        (b"a", TypeError, "text 2 of 2 must be a string; got b'a'"),
        ("bad \udcff", ValueError, "text 2 of 2 is not valid Unicode"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(text, error, message, classifier):
    with pytest.raises(error, match=message):
        classifier.predict(["good", text])


def test_no_texts_are_no_predictions(classifier):
    assert classifier.predict([]) == []


def test_a_blank_text_is_refused_with_its_place(classifier):
    with pytest.raises(ValueError, match="text 2 of 2 has no word; got ' '"):
        classifier.predict(["good", " "])


def test_invalid_texts_are_skipped_on_request_and_the_others_are_as_without_them(
    classifier,
):
    texts = [
        "superb film",
        None,
        "",
        "awful",
        float("nan"),
        " \t",
        "half \ud800",
        "good",
    ]
    found = classifier.predict(texts, on_invalid="skip")
    assert [p and p.text for p in found] == [
        *("superb film", None, None, "awful", None, None, None, "good")
    ]
    valid = classifier.predict(["superb film", "awful", "good"])
    for one, other in zip(filter(None, found), valid):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
    assert classifier.predict([None], on_invalid="skip") == [None]
    with pytest.raises(ValueError, match="on_invalid must be 'raise' or 'skip'; got"):
        classifier.predict(texts, on_invalid="ignore")


def test_a_single_string_is_refused(classifier):
    with pytest.raises(TypeError, match=r"in brackets: \[text\]"):
        classifier.predict("good")


def test_a_folder_that_is_not_a_run_is_refused_with_what_it_lacks(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"is not a trained run: it has no config.json, vocab.json, "
        r"model.safetensors. 'make train'",
    ):
        Classifier.load(tmp_path)


MODEL = {
    "vocab_size": 4,
    "embedding_size": 2,
    "hidden_size": 1,
    "num_layers": 1,
    "attention_units": 1,
    "attention_hops": 1,
    "classifier_units": 1,
    "num_classes": 5,
    "pooling": "flatten",
    "prune_p": None,
    "prune_q": None,
    "dropout": 0.5,
    "embedding_dropout": 0.0,
    "train_embedding": True,
}


def make_run(path, words=("good", "film"), **changes):
    """A run with a model so small that its file is mostly names and sizes."""
    words = ["<unk>", "<pad>", *sorted(words)]
    model = MODEL | {"vocab_size": len(words)} | changes
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in weight_shapes(model).items()
    }
    path.mkdir()
    (path / "config.json").write_text(
        json.dumps(
            {
                "format": FORMAT,
                "training": TrainingConfig(max_tokens=5).model_dump(),
                "model": model,
                "labels": [1, 2, 3, 4, 5],
                "reviews": "",
                "vocab": "",
                "run": "this",
            }
        )
    )
    write_words(path, {"words": words})
    write_arrays(path / "model.safetensors", arrays, run="this")
    return path


def write_words(path, content):
    """Write vocab.json, and its fingerprint into config.json."""
    (path / "vocab.json").write_text(json.dumps(content))
    config = json.loads((path / "config.json").read_text())
    config["vocab"] = fingerprint((path / "vocab.json").read_bytes())
    (path / "config.json").write_text(json.dumps(config))


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [{}, {"pooling": "mean"}, {"pooling": "prune", "prune_p": 2, "prune_q": 1}],
)
def test_a_run_of_any_model_is_loaded(changes, tmp_path):
    path = make_run(tmp_path / "run", num_layers=2, **changes)
    (prediction,) = Classifier.load(path).predict(["a good film"])
    assert prediction.known.tolist() == [False, True, True]


def change(path, **settings):
    """Set settings of a run, of the model or of how it reads."""
    config = json.loads((path / "config.json").read_text())
    for name, value in settings.items():
        part = "training" if name in ("max_tokens", "lower") else "model"
        config[part][name] = value
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("hidden_size", size) for size in ("1", 1.0, True, 0, -1, [1], {}, None)],
        ("num_layers", 101),
        ("num_classes", 1),
        ("pooling", "max"),
        ("pooling", ["flatten"]),
        ("prune_p", 0),
        ("dropout", 1),
        ("dropout", math.nan),
        ("embedding_dropout", "0.5"),
        ("train_embedding", 1),
        ("prefix", "selfattentivebilstm0_"),
        ("params", {}),
        ("max_tokens", 0),
        ("max_tokens", 5.5),
        ("max_tokens", 10**20),
        ("vocab_size", "4"),
        ("lower", None),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(name, value, run):
    change(run, **{name: value})
    with pytest.raises(ValueError, match=rf"config.json: .*\b{name}\b"):
        Classifier.load(run)


@pytest.mark.parametrize("part", ["model", "training"])
def test_a_run_without_its_settings_is_refused(part, run):
    config = json.loads((run / "config.json").read_text())
    for content in ({part: None}, {part: []}, {part: {"epochs": 0}}):
        (run / "config.json").write_text(json.dumps(config | content))
        with pytest.raises(ValueError, match=r"config.json: "):
            Classifier.load(run)


@pytest.mark.parametrize("size", [3, 2**31 - 1])
@pytest.mark.parametrize("name", [name for name in MODEL if name.endswith("_size")])
def test_a_size_that_the_other_files_do_not_have_is_refused(name, size, run):
    change(run, **{name: size})
    file = "vocab.json" if name == "vocab_size" else "model.safetensors"
    with pytest.raises(ValueError, match=rf"{file}: .*(expected|says)"):
        Classifier.load(run)


def test_pruning_without_its_sizes_is_refused(run):
    change(run, pooling="prune")
    with pytest.raises(ValueError, match=r"config.json: pooling='prune' needs prune_p"):
        Classifier.load(run)


WORDS = ["<unk>", "<pad>", "film", "good"]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"words": None},
        {"words": 4},
        {"words": "abcd"},
        {"words": WORDS[:3]},
        {"words": [*WORDS, "more"]},
        {"words": [*WORDS[:3], "film"]},
        {"words": [*WORDS[:3], 5]},
        {"words": [*WORDS[:3], {"good": 3}]},
        {"words": dict(enumerate(WORDS))},
    ],
)
def test_a_vocabulary_that_is_none_is_refused(content, run):
    write_words(run, {"words": WORDS})
    assert Classifier.load(run).vocab.idx_to_token == WORDS
    write_words(run, content)
    with pytest.raises(ValueError, match=r"vocab.json: it is no list of 4 words"):
        Classifier.load(run)


def test_another_vocabulary_of_the_same_size_is_refused(trained, tmp_path):
    run = shutil.copytree(trained.run.path, tmp_path / "run")
    content = json.loads((run / "vocab.json").read_text())
    content["words"][-2:] = content["words"][:-3:-1]
    (run / "vocab.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"vocab.json: it is another run's, or was ch"):
        Classifier.load(run, "cpu")


def test_files_of_another_run_are_refused(run, tmp_path):
    other = make_run(tmp_path / "other", words=["good", "bad", "film"])
    for name, message in (
        ("config.json", "vocab.json: it is another run's"),
        ("vocab.json", "vocab.json: it is another run's"),
        (
            "model.safetensors",
            r"'embedding.weight' is F32 \(5, 2\), expected F32 \(4, 2\)",
        ),
    ):
        mixed = shutil.copytree(run, tmp_path / f"with {name}")
        shutil.copy(other / name, mixed)
        with pytest.raises(ValueError, match=message):
            Classifier.load(mixed)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused(value, run):
    spoiled = np.float32([0, 0, value, 0, 0])
    alter(run / "model.safetensors", lambda arrays: arrays | {"output.bias": spoiled})
    with pytest.raises(
        ValueError, match=r"model.safetensors: output.bias holds infinities or NaN"
    ):
        Classifier.load(run)


FILES = ["config.json", "vocab.json", "model.safetensors"]


def enlarge(path):
    with open(path, "r+b") as file:
        file.truncate(JSON_BYTES + 1)


def nest(path):
    path.write_text('{"model": ' + "[" * 10**5 + "]" * 10**5 + "}")


def say_hello(path):
    path.write_bytes(b"hello")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage", [as_link, as_pipe, as_folder, enlarge, nest, cut, say_hello]
)
def test_a_damaged_run_is_refused_with_its_file(damage, name, run):
    damage(run / name)
    damaged = f"the run in {str(run)!r} cannot be used: {run / name}: "
    with pytest.raises(ValueError, match=f"^{re.escape(damaged)}") as refused:
        Classifier.load(run)
    mend = ". Copy the whole of it again, or train it anew."
    assert str(refused.value).endswith(mend)


@pytest.mark.parametrize(
    ("language", "kind", "said"),
    [
        ("dn", ValueError, "spaCy has no language 'dn'; .* Copy the whole of it again"),
        ("ja", ImportError, "'ja' needs a package that is not installed"),
    ],
)
def test_a_language_that_cannot_be_is_refused_before_any_text(
    language, kind, said, run
):
    config = json.loads((run / "config.json").read_text())
    config["training"]["language"] = language
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(kind, match=f"the run in .* cannot be used: .*{said}"):
        Classifier.load(run)


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("fragile") / "run")


@pytest.mark.parametrize("name", FILES)
@settings(deadline=None)
@given(data=st.data())
def test_a_run_with_any_damage_is_refused_or_predicts(name, data, fragile):
    whole = (fragile / name).read_bytes()
    (fragile / name).write_bytes(data.draw(damaged(whole)))
    try:
        classifier = Classifier.load(fragile, "cpu")
    except (ValueError, ImportError) as error:
        classifier, message = None, str(error)
    finally:
        (fragile / name).write_bytes(whole)
    if classifier is None:
        assert message.startswith(f"the run in {str(fragile)!r} cannot be used: ")
    else:
        try:
            predictions = classifier.predict(["a good film"])
        except RuntimeError as error:
            assert "its weights are too large" in str(error)  # noqa: PT017
            predictions = []
        for prediction in predictions:
            assert prediction.attention.shape == (1, 3)
            assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_weights_so_large_that_nothing_can_be_computed_predict_nothing(run):
    alter(
        run / "model.safetensors",
        lambda arrays: {name: np.full_like(a, 3e38) for name, a in arrays.items()},
    )
    with pytest.raises(RuntimeError, match="numbers overflow: its weights are too"):
        Classifier.load(run, "cpu").predict(["a good film"])


def test_no_damaged_weights_end_the_process(fragile, tmp_path):
    code = """
import random, sys
from pathlib import Path
from selfatt_lib.prediction import Classifier

run, draw = Path(sys.argv[1]), random.Random(0)
whole = (run / "model.safetensors").read_bytes()
refused = 0
for _ in range(400):
    data = bytearray(whole)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(data))
        few = draw.choice([b"", bytes(8), bytes([255] * 8), draw.randbytes(8)])
        data[place : place + draw.choice([0, 1, 8])] = few
    (run / "model.safetensors").write_bytes(data)
    try:
        Classifier.load(run, "cpu")
    except ValueError:
        refused += 1
print(refused)
"""
    run = shutil.copytree(fragile, tmp_path / "run")
    done = run_code(code, run)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200


def test_tokens_are_predicted_as_their_text_is(classifier):
    text = "The film was superb, I love it"
    from_text = classifier.predict([text])[0]
    from_tokens = classifier.predict_tokens([tokenize(text), ["bad"]])[0]
    assert from_tokens.text == "the film was superb , i love it"
    assert from_tokens.tokens == from_text.tokens
    np.testing.assert_allclose(
        from_tokens.probabilities, from_text.probabilities, atol=1e-6
    )
    np.testing.assert_allclose(from_tokens.attention, from_text.attention, atol=1e-6)


def test_tokens_beyond_the_models_length_are_clipped(classifier):
    prediction = classifier.predict_tokens([["good"] * 150])[0]
    assert prediction.tokens == ["good"] * 100
    assert prediction.attention.shape == (2, 100)
    assert prediction.text.split() == ["good"] * 150
    assert prediction.clipped
    assert not classifier.predict_tokens([["good"] * 100])[0].clipped


@pytest.mark.parametrize("wrong", [[], "good", ["good", None], None])
def test_what_is_not_a_list_of_tokens_is_refused_with_its_place(wrong, classifier):
    with pytest.raises(
        ValueError,
        match="tokens 2 of 2 must be a list of at least one string, none blank; got",
    ):
        classifier.predict_tokens([["good"], wrong])


def test_no_tokens_give_no_predictions(classifier):
    assert classifier.predict_tokens([]) == []


@pytest.mark.parametrize(
    "settings",
    [{"max_tokens": "5"}, {"max_tokens": 5.0}, {"lower": "true"}, {"seed": None}],
)
def test_settings_are_as_the_library_writes_them(settings, run):
    """What is meant by a text, or left out, is for parameters only."""
    config = json.loads((run / "config.json").read_text())
    config["training"] |= settings
    if settings == {"seed": None}:
        del config["training"]["seed"]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config.json: its settings are not as this"):
        Classifier.load(run)


@pytest.mark.parametrize("part", [None, "training", "model"])
def test_a_setting_of_any_name_is_refused_by_it(part, run):
    config = json.loads((run / "config.json").read_text())
    (config[part] if part else config)["self"] = 1
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config.json: there is no \w+ 'self'"):
        Classifier.load(run)


@pytest.mark.parametrize("batch_size", [0, -1, "x", 2.5])
def test_a_batch_of_no_text_is_refused(batch_size, classifier):
    with pytest.raises(ValueError, match="batch_size must be a whole number of at le"):
        classifier.predict(["good", "bad"], batch_size=batch_size)


# What computes


def assert_same(one, other, atol):
    assert one.stars == other.stars
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=atol)
    np.testing.assert_allclose(one.attention, other.attention, atol=atol)


def test_many_texts_are_predicted_by_an_engine_and_come_out_alike(trained, monkeypatch):
    started = []
    predictor = ENGINE.predictor

    def start(*arguments):
        started.append(arguments)
        return predictor(*arguments)

    monkeypatch.setattr(ENGINE, "predictor", start)
    monkeypatch.setattr(module, "TEXTS_WORTH_AN_ENGINE", 10)
    classifier = Classifier.load(trained.run.path, "cpu")
    texts = make_reviews(50, seed=3)["text"].tolist()
    few = [found for text in texts for found in classifier.predict([text])]
    assert not started
    for _ in range(2):
        for one, other in zip(few, classifier.predict(texts), strict=True):
            assert_same(one, other, atol=1e-5)
    assert len(started) == 1


def test_a_device_that_is_no_cpu_is_an_engines_and_asked_for_at_once(trained):
    with pytest.raises(ValueError, match="device must be 'auto', 'cpu'"):
        Classifier.load(trained.run.path, "tpu")
    with pytest.raises(RuntimeError, match="gpu:0 cannot be used"):
        Classifier.load(trained.run.path, "gpu")


def test_numpy_predicts_what_a_broken_engine_cannot(trained, monkeypatch):
    def broken(*_):
        raise ImportError("libmxnet.so does not load")

    monkeypatch.setattr(ENGINE, "predictor", broken)
    monkeypatch.setattr(module, "TEXTS_WORTH_AN_ENGINE", 1)
    classifier = Classifier.load(trained.run.path)
    with pytest.warns(UserWarning, match="NumPy predicts: libmxnet.so does not load"):
        assert len(classifier.predict(["good", "bad"])) == 2


NOT_NEEDED = ("mxnet", "gluonnlp", "pandas", "sklearn", "pyarrow", "torch", "numba")


def test_one_text_is_predicted_without_the_libraries_of_training(run):
    code = (
        "import sys; from selfatt_lib.prediction import Classifier; "
        "Classifier.load(sys.argv[1]).predict(['a good film']); "
        f"print([name for name in {NOT_NEEDED!r} if name in sys.modules])"
    )
    done = run_code(code, run)
    assert done.stdout == "[]\n", done.stderr
