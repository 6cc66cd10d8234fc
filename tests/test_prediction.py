import json
import shutil

import numpy as np
import pytest

from conftest import fit, make_reviews, prepare
from selfatt_lib.data import tokenize
from selfatt_lib.prediction import Classifier
from selfatt_lib.training import evaluate


@pytest.fixture(scope="module")
def classifier(trained):
    return Classifier.load(trained.run.path, "cpu")


def test_a_loaded_run_predicts_as_the_trained_model_did(trained, classifier):
    _, stars, predictions = evaluate(
        trained.model, trained.valid_batches, trained.objective
    )
    loaded = classifier.predict(trained.valid_reviews["text"])
    right = np.mean(
        [p.stars == star for p, star in zip(loaded, trained.valid_reviews["stars"])]
    )
    assert right == np.mean(stars == predictions)


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


def test_texts_are_read_as_in_training(tmp_path):
    reviews = make_reviews(80).assign(text=lambda table: table["text"].str.title())
    fit(
        prepare(
            tmp_path / "run",
            reviews,
            valid_size=20,
            epochs=1,
            lower=False,
            max_tokens=5,
        )
    )
    prediction = Classifier.load(tmp_path / "run").predict(
        ["The Film was Superb and Perfect"]
    )[0]
    assert prediction.tokens == ["The", "Film", "was", "Superb", "and"]
    assert prediction.known.tolist() == [True, True, False, True, False]


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


def test_a_single_string_is_refused(classifier):
    with pytest.raises(TypeError, match=r"predict\(\[text\]\)"):
        classifier.predict("good")


def test_a_folder_that_is_not_a_run_is_refused_with_what_it_lacks(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"is not a trained run: it has no config.json, vocab.json, model.params. 'make train'",
    ):
        Classifier.load(tmp_path)


def change_config(path):
    config = json.loads((path / "config.json").read_text())
    config["model"]["hidden_size"] += 1
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "config.json").write_text("{"),
        lambda path: (path / "config.json").write_text("{}"),
        lambda path: (path / "vocab.json").write_text(
            '{"idx_to_token": ["a"], "token_to_idx": {"a": 0}}'
        ),
        lambda path: (path / "model.params").write_bytes(
            (path / "model.params").read_bytes()[:1000]
        ),
        lambda path: (path / "model.params").write_bytes(b"hello"),
        change_config,
    ],
)
def test_a_damaged_run_is_refused(damage, trained, tmp_path):
    shutil.copytree(trained.run.path, tmp_path / "run")
    damage(tmp_path / "run")
    with pytest.raises(ValueError, match="is damaged"):
        Classifier.load(tmp_path / "run")


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


@pytest.mark.parametrize("wrong", [[], "good", ["good", None], None])
def test_what_is_not_a_list_of_tokens_is_refused_with_its_place(wrong, classifier):
    with pytest.raises(
        ValueError, match="tokens 2 of 2 must be a list of at least one string; got"
    ):
        classifier.predict_tokens([["good"], wrong])


def test_no_tokens_give_no_predictions(classifier):
    assert classifier.predict_tokens([]) == []
