"""What a run scores, and what is scored without the model."""

import copy
import json
import math

import numpy as np
import pandas as pd
import pytest

from conftest import CHOSEN, SMALL, finish, fit, make_reviews, prepare
from selfatt_lib import results, training
from selfatt_lib.config import TrainingConfig
from selfatt_lib.results import accuracy_interval, baselines, compare, write_metrics
from selfatt_lib.run import RunDirectory
from selfatt_lib.training import evaluate


def test_the_metrics_hold_what_is_promised(tmp_path):
    finished = prepare(tmp_path / "run")
    metrics = finish(finished)
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text())
    promised = (
        "accuracy weighted_f1 confusion_matrix majority_accuracy tfidf_accuracy "
        "accuracy_interval labels valid_accuracy epochs best_epoch train_size "
        "valid_size test_size seconds device seed"
    )
    assert set(promised.split()) <= set(metrics)
    assert np.sum(metrics["confusion_matrix"]) == metrics["test_size"] == 20
    assert np.trace(metrics["confusion_matrix"]) / 20 == pytest.approx(
        metrics["accuracy"]
    )
    assert metrics["train_size"] == 240
    lines = [
        json.loads(line)
        for line in (finished.run.path / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["epoch"] for line in lines] == [1, 2, 3]


def test_the_metrics_are_those_of_the_best_epoch_and_rows_are_given_stars(tmp_path):
    prepared = prepare(tmp_path / "run", make_reviews(100), valid_size=20)
    fit(prepared)
    history = pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "valid_accuracy": [0.1, 0.8, 0.8],
            "seconds": [1.0, 2.0, 4.0],
        }
    )
    given, predicted = np.array([0, 0, 1, 4]), np.array([0, 2, 2, 3])
    results = prepared.run, history, given, predicted, prepared.corpus, CHOSEN
    metrics = write_metrics(*results, {"majority": given[::-1]})
    assert (metrics["best_epoch"], metrics["epochs"], metrics["seconds"]) == (2, 3, 7.0)
    assert metrics["confusion_matrix"] == [
        [1, 0, 1, 0, 0],
        [0, 0, 1, 0, 0],
        [0] * 5,
        [0] * 5,
        [0, 0, 0, 1, 0],
    ]
    assert metrics["accuracy"] == 0.25
    # by hand: star 1 has precision 1 and recall 1/2, so F1 2/3; it is half of the
    # reviews; the others have none right
    assert metrics["weighted_f1"] == pytest.approx(1 / 3)
    assert metrics["majority_accuracy"] == 0
    assert (tmp_path / "run" / "predictions.csv").read_text().splitlines() == [
        "label,model,majority",
        "1,1,5",
        "1,3,2",
        "2,3,1",
        "5,4,1",
    ]


def test_the_baselines_are_what_they_say(trained):
    found, labels = baselines(trained.corpus), trained.test_batches.labels
    commonest = trained.train_reviews["label"].mode()[0]
    assert (found["majority"] == commonest - 1).all()
    assert (found["tfidf"] == labels).mean() > 0.8  # single words tell the stars here
    assert "tfidf_clipped" not in found  # the model reads them whole
    # it learns from the training reviews alone
    corpus = copy.deepcopy(trained.corpus)
    corpus.test_batches.labels[:] = 4 - labels
    np.testing.assert_array_equal(baselines(corpus)["tfidf"], found["tfidf"])


def test_the_linear_baseline_is_told_twice_where_the_model_reads_a_part(tmp_path):
    with pytest.warns(UserWarning, match="max_tokens=2 cuts off 8[0-9]% of the tr"):
        prepared = prepare(tmp_path / "run", max_tokens=2)
    found, labels = baselines(prepared.corpus), prepared.test_batches.labels
    right = {name: (predicted == labels).mean() for name, predicted in found.items()}
    assert right["tfidf_clipped"] < right["tfidf"] - 0.2


def test_the_baselines_take_reviews_without_letters(tmp_path):
    reviews = pd.DataFrame({"text": [*"!?.,;:"], "label": [3, 4] * 3})
    corpus = prepare(tmp_path / "run", reviews, valid_size=1, test_size=1).corpus
    assert set(baselines(corpus)["tfidf"]) <= {0, 1}


def test_two_models_are_compared_on_the_reviews_that_one_alone_has_right():
    """McNemar's exact test, by its sum."""
    labels = np.zeros(30, int)
    first = np.r_[np.zeros(9), np.ones(3), np.zeros(10), np.ones(8)]
    second = np.r_[np.ones(9), np.zeros(3), np.zeros(10), np.ones(8)]
    found = compare(labels, first, second)
    assert (found["first_only"], found["second_only"]) == (9, 3)
    assert found["difference"] == pytest.approx(0.2)
    p = 2 * sum(math.comb(12, k) for k in range(9, 13)) / 2**12
    assert found["p"] == pytest.approx(p)
    assert compare(labels, second, first)["p"] == pytest.approx(p)
    assert compare(labels, first, first)["p"] == 1


def test_predictions_stand_in_the_order_of_the_reviews(trained):
    _, labels, predictions = evaluate(trained.engine, trained.test_batches)
    np.testing.assert_array_equal(labels, trained.test_batches.labels)
    for row in (0, 7, 19):
        batch = trained.test_batches.assemble([row])
        _, logits = trained.engine.evaluate(batch).read()
        assert logits[0].argmax() == predictions[row]


def test_the_interval_is_wilsons():
    """Wilson (1927), by his formula."""
    n, p, z = 1400, 0.6, 1.959964
    middle, half = p + z**2 / 2 / n, z * np.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
    expected = (middle + np.array([-half, half])) / (1 + z**2 / n)
    assert accuracy_interval(p, n) == pytest.approx(expected, abs=5e-4)
    assert accuracy_interval(1.0, 10)[1] == 1.0


def test_the_terms_of_a_large_corpus_are_those_of_its_first_reviews(monkeypatch):
    monkeypatch.setattr(results, "COUNTED_REVIEWS", 2)
    texts = ["good film", "bad", "never counted"]
    assert set(results.commonest_terms(texts)) == {
        "good",
        "film",
        "good film",
        "bad",
    }


def test_the_linear_baseline_can_be_left_out(tmp_path):
    config = TrainingConfig(
        **SMALL | {"epochs": 1}, tfidf=False, run_dir=str(tmp_path / "run")
    )
    metrics = training.fit(config, training.prepare(config, make_reviews(100)))
    assert "majority_accuracy" in metrics
    assert "tfidf_accuracy" not in metrics


def test_a_trained_run_is_finished_even_if_the_baselines_die(tmp_path, monkeypatch):
    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(training, "baselines", no_memory)
    config = TrainingConfig(**SMALL | {"epochs": 1}, run_dir=str(tmp_path / "run"))
    corpus = training.prepare(config, make_reviews(100))
    with pytest.raises(MemoryError):
        training.fit(config, corpus)
    assert RunDirectory(config).is_finished()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "accuracy" in metrics
    assert "tfidf_accuracy" not in metrics
