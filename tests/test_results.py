"""What a run scores, and what is scored without the model."""

import json

import numpy as np
import pandas as pd
import pytest

from conftest import CHOSEN, SMALL, finish, fit, make_reviews, prepare
from selfatt_lib import results, training
from selfatt_lib.config import TrainingConfig
from selfatt_lib.results import baselines, write_metrics
from selfatt_lib.run import RunDirectory


def test_the_metrics_hold_what_is_promised(tmp_path):
    finished = prepare(tmp_path / "run")
    metrics = finish(finished)
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text())
    promised = (
        "accuracy weighted_f1 confusion_matrix majority_accuracy tfidf_accuracy "
        "epochs best_epoch train_size valid_size seconds device seed"
    )
    assert set(promised.split()) <= set(metrics)
    assert np.sum(metrics["confusion_matrix"]) == metrics["valid_size"] == 60
    assert np.trace(metrics["confusion_matrix"]) / 60 == pytest.approx(
        metrics["accuracy"]
    )
    assert metrics["train_size"] == 240
    lines = [
        json.loads(line)
        for line in (finished.run.path / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["epoch"] for line in lines] == [1, 2, 3]


def test_the_metrics_are_those_of_the_best_epoch_and_rows_are_given_stars(tmp_path):
    prepared = prepare(tmp_path / "run", make_reviews(80), valid_size=20)
    fit(prepared)
    history = pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "valid_accuracy": [0.1, 0.8, 0.8],
            "seconds": [1.0, 2.0, 4.0],
        }
    )
    given, predicted = np.array([1, 1, 2, 5]), np.array([1, 3, 3, 4])
    found = baselines(prepared.train_reviews, prepared.valid_reviews)
    metrics = write_metrics(prepared.run, history, given, predicted, 60, CHOSEN, found)
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


def test_the_baselines_are_what_they_say():
    train, valid = make_reviews(300), make_reviews(100, seed=5)
    found = baselines(train, valid)
    commonest = train["stars"].mode()[0]
    assert found["majority"]["accuracy"] == (valid["stars"] == commonest).mean()
    assert found["tfidf"]["accuracy"] > 0.8  # single words tell the stars here
    # it learns from the training reviews alone
    misled = baselines(train, valid.assign(stars=6 - valid["stars"]))
    assert misled["tfidf"]["accuracy"] < 0.5


def test_the_baselines_take_reviews_of_one_star_and_without_letters():
    one_star = pd.DataFrame({"text": ["!!!", "a"], "stars": [3, 3]})
    assert baselines(one_star, one_star)["tfidf"]["accuracy"] == 1
    two_stars = pd.DataFrame({"text": ["!!!", "?"], "stars": [3, 4]})
    assert baselines(two_stars, two_stars)["tfidf"]["accuracy"] == 1


def test_the_terms_of_a_large_corpus_are_those_of_its_first_reviews(monkeypatch):
    monkeypatch.setattr(results, "COUNTED_REVIEWS", 2)
    reviews = pd.DataFrame({"text": ["good film", "bad", "never counted"]})
    assert set(results.commonest_terms(reviews)) == {
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
