"""Training: what is learned, when it stops, and that resuming changes nothing."""

import itertools
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from stopping import Stopped, at_step, stop_after

from conftest import (
    CHOSEN,
    ENGINE,
    SMALL,
    TWO,
    assert_same_run,
    finish,
    fit,
    make_reviews,
    prepare,
    replaced,
)
from selfatt_lib import training
from selfatt_lib.config import TrainingConfig
from selfatt_lib.machinery import recording
from selfatt_lib.prediction import Classifier
from selfatt_lib.training import evaluate


def test_training_learns(trained):
    history = trained.history
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["train_loss"].iloc[-1] < 0.7 * history["train_loss"].iloc[0]
    # the commonest star is given in a third of the reviews
    assert history["valid_accuracy"].max() > 0.6


def test_the_learning_rate_falls_by_a_tenth_every_second_epoch(tmp_path):
    prepared = prepare(
        tmp_path / "run", make_reviews(100), valid_size=20, epochs=5, learning_rate=0.01
    )
    np.testing.assert_allclose(
        fit(prepared)["learning_rate"], [0.01, 0.01, 0.009, 0.009, 0.0081]
    )


def test_the_learning_rate_of_a_very_long_run_stays_one_that_mxnet_takes():
    config = TrainingConfig(epochs=5000)
    assert training.decayed_rate(config, 5000) > 1e-38


def test_the_best_epochs_weights_are_kept_and_left_in_the_model(tmp_path, monkeypatch):
    """The evaluations are made up: the second of four epochs is the best."""
    prepared = prepare(tmp_path / "run", make_reviews(100), valid_size=20, epochs=4)
    accuracies, seen = iter([0.2, 0.9, 0.4, 0.6]), []

    def made_up(engine, *_):
        seen.append(engine.weights())
        right = round(20 * next(accuracies))
        return 1.0, np.full(20, 2), np.array([2] * right + [3] * (20 - right))

    monkeypatch.setattr(training, "evaluate", made_up)
    history = fit(prepared)
    assert history["valid_accuracy"].tolist() == [0.2, 0.9, 0.4, 0.6]
    for name, value in prepared.engine.weights().items():
        np.testing.assert_array_equal(value, seen[1][name])
    assert any((seen[1][name] != seen[3][name]).any() for name in seen[1])


def test_the_last_weights_are_those_that_resuming_goes_on_from(trained):
    saved = load_file(trained.run.path / "checkpoint.safetensors")
    assert saved["epoch"] == 3
    assert saved["step"] == 3 * len(trained.train_batches)


def test_the_held_out_accuracy_is_the_left_models(trained):
    _, labels, predictions = evaluate(trained.engine, trained.valid_batches)
    assert np.mean(labels == predictions) == trained.history["valid_accuracy"].max()
    assert len(labels) == SMALL["valid_size"]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_was(
    tmp_path, monkeypatch
):
    prepared = prepare(tmp_path / "run", make_reviews(100), valid_size=20, epochs=3)
    losses = iter([1.0, float("nan")])
    found = (np.full(20, 2), np.full(20, 2))
    monkeypatch.setattr(training, "evaluate", lambda *_: (next(losses), *found))
    with pytest.raises(
        RuntimeError,
        match=r"the validation loss of epoch 2 is nan\..*"
        r"lower learning_rate, or set clip_norm",
    ):
        fit(prepared)
    assert [line["epoch"] for line in prepared.run.history()] == [1]
    assert "NaN" not in (prepared.run.path / "metrics.jsonl").read_text()


def test_a_run_that_diverges_is_stopped(tmp_path):
    prepared = prepare(
        tmp_path / "run",
        make_reviews(100),
        valid_size=20,
        epochs=2,
        learning_rate=1e30,
        clip_norm=None,
    )
    with pytest.raises(
        RuntimeError,
        match=r"the loss of batch \d of 5 in epoch 1 is infinite or no number\..*lower",
    ):
        fit(prepared)


def test_a_batch_whose_loss_is_no_number_is_named_and_what_was_saved_stays(
    tmp_path, monkeypatch
):
    prepared = prepare(tmp_path / "run", make_reviews(200), batch_size=4, epochs=2)
    steps, step, count = len(prepared.train_batches), ENGINE.Engine.step, []

    def broken_step(*args):
        count.append(1)
        handle = step(*args)
        if len(count) == steps + 3:
            handle.outcomes = [(loss * float("nan"), x) for loss, x in handle.outcomes]
        return handle

    monkeypatch.setattr(ENGINE.Engine, "step", broken_step)
    with pytest.raises(
        RuntimeError, match=f"the loss of batch 3 of {steps} in epoch 2 is infinite"
    ):
        fit(prepared)
    assert len(count) < 2 * steps  # it does not wait for the end of the epoch
    assert len(prepared.run.history()) == 1
    assert "batches" not in load_file(tmp_path / "run" / "checkpoint.safetensors")


def test_training_stops_early_when_nothing_improves(tmp_path):
    # so small a learning rate never changes a prediction
    prepared = prepare(
        tmp_path / "run",
        make_reviews(100),
        valid_size=20,
        epochs=9,
        patience=2,
        learning_rate=1e-12,
    )
    assert fit(prepared)["epoch"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("train_embedding", [True, False])
def test_frozen_word_vectors_stay_and_free_ones_move(train_embedding, tmp_path):
    prepared = prepare(
        tmp_path / "run",
        make_reviews(100),
        valid_size=20,
        epochs=1,
        train_embedding=train_embedding,
    )
    fit(prepared)
    same = np.array_equal(
        prepared.engine.weights()["embedding.weight"], prepared.vectors
    )
    assert same != train_embedding


@pytest.mark.parametrize(
    "parameters",
    [
        {"pooling": "mean"},
        {"pooling": "prune", "prune_p": 3, "prune_q": 2},
        {"num_layers": 2},
    ],
)
def test_every_kind_of_model_trains(parameters, tmp_path):
    history = fit(prepare(tmp_path / "run", learning_rate=0.02, **parameters))
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepared = prepare(
            tmp_path / name, make_reviews(100), valid_size=20, epochs=2, seed=seed
        )
        prepared.history = fit(prepared)
        runs.append(prepared)
    assert_same_run(*runs[:2])
    assert not runs[0].history["train_loss"].equals(runs[2].history["train_loss"])


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, monkeypatch):
    clock = itertools.count(2e9, -3600)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    history = fit(prepare(tmp_path / "run", make_reviews(100), valid_size=20))
    assert (history["seconds"] > 0).all()


# In one call


def test_prepare_loads_what_the_configuration_names(tmp_path):
    make_reviews(60).to_csv(tmp_path / "reviews.csv", index=False)
    config = TrainingConfig(
        dataset=str(tmp_path / "reviews.csv"), train_size=30, valid_size=10, lower=False
    )
    corpus = training.prepare(config)
    assert (len(corpus.train_reviews), len(corpus.valid_reviews)) == (30, 10)
    assert (len(corpus.train_tokens), len(corpus.valid_tokens)) == (30, 10)
    assert "I" in corpus.vocab
    assert corpus.vectors.shape == (len(corpus.vocab), 50)
    assert corpus.vectors.any(axis=1)[corpus.vocab["film"]]


def test_fit_does_what_the_steps_do(tmp_path):
    reviews = make_reviews(100)
    by_steps = prepare(tmp_path / "steps", reviews, valid_size=20)
    finish(by_steps)
    config = replaced(by_steps.config, run_dir=str(tmp_path / "fit"))
    metrics = training.fit(config, training.prepare(config, reviews))
    assert metrics == json.loads((tmp_path / "fit" / "metrics.json").read_text())
    stepwise = json.loads((tmp_path / "steps" / "metrics.json").read_text())
    assert metrics.keys() == stepwise.keys()
    assert metrics["accuracy"] == stepwise["accuracy"]
    for name in ("model.safetensors", "checkpoint.safetensors", "vocab.json"):
        files = [tmp_path / run / name for run in ("steps", "fit")]
        assert files[0].read_bytes() == files[1].read_bytes()


# Small and one-sided corpora


@pytest.mark.parametrize(
    "corpus",
    [
        {"text": ["good", "a film", "bad", "b"], "label": [5, 5, 5, 1]},
        {"text": [*"!?ab"], "label": ["yes", "no"] * 2},  # one token each
        {"text": ["a b c", "d e", *"fghijklmn"], "label": [4, 4] + [2] * 9},
    ],
)
@pytest.mark.parametrize("class_weights", [None, "auto"])
def test_the_smallest_corpora_train_and_predict(corpus, class_weights, tmp_path):
    parameters = {"attention_hops": 1, "epochs": 2, "valid_size": 1, "test_size": 1}
    config = TrainingConfig(
        **SMALL | parameters,
        class_weights=class_weights,
        run_dir=str(tmp_path / "run"),
    )
    metrics = training.fit(config, training.prepare(config, pd.DataFrame(corpus)))
    assert 0 <= metrics["accuracy"] <= 1
    assert np.sum(metrics["confusion_matrix"]) == 1
    prediction = Classifier.load(tmp_path / "run", "cpu").predict(["good"])[0]
    assert prediction.attention.tolist() == [[1.0]]
    assert np.isclose(prediction.probabilities.sum(), 1)


def test_a_star_that_is_missing_on_one_side_trains_and_predicts(tmp_path):
    reviews = make_reviews(200)
    without_two = reviews[reviews["label"] != 2].reset_index(drop=True)
    prepared = prepare(
        tmp_path / "run", without_two, labels=[1, 2, 3, 4, 5], valid_size=20, epochs=1
    )
    assert 2 not in set(prepared.train_reviews["label"])
    fit(prepared)
    prepared.valid_batches.labels[:] = 1  # held out, there is nothing else
    _, labels, predictions = evaluate(prepared.engine, prepared.valid_batches)
    assert set(labels) == {1}
    assert set(predictions) <= {0, 1, 2, 3, 4}


# Stopping and resuming


@pytest.mark.parametrize("epochs_done", [0, 1, 2])
def test_a_run_that_was_stopped_and_resumed_equals_one_that_never_stopped(
    epochs_done, tmp_path
):
    parameters = {"epochs": 4, "learning_rate": 0.01, "num_layers": 2}
    unbroken = prepare(tmp_path / "unbroken", **parameters)
    unbroken.history = fit(unbroken)

    stopped = prepare(tmp_path / "stopped", **parameters)
    stop_after(stopped, epochs_done * len(stopped.train_batches) + 2)
    assert len(stopped.run.history()) == epochs_done

    resumed = prepare(tmp_path / "stopped", resume=True, **parameters)
    resumed.history = fit(resumed)
    assert_same_run(unbroken, resumed)
    for name, value in unbroken.engine.weights().items():
        np.testing.assert_array_equal(value, resumed.engine.weights()[name])


@pytest.mark.parametrize(
    "written", ["model.safetensors", "metrics.jsonl", "checkpoint.safetensors"]
)
def test_a_stop_while_an_epoch_is_being_saved_loses_that_epoch_only(
    written, tmp_path, monkeypatch
):
    parameters = {"epochs": 3, "learning_rate": 0.01}
    unbroken = prepare(tmp_path / "unbroken", **parameters)
    unbroken.history = fit(unbroken)

    stopped = prepare(tmp_path / "stopped", **parameters)
    replace, calls = os.replace, []

    def stop(source, target):
        if target.name == written:
            calls.append(1)
            if len(calls) == 2:
                raise Stopped
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(Stopped):
            fit(stopped)
    assert not list(stopped.run.path.glob(".*"))  # nothing half-written is left

    resumed = prepare(tmp_path / "stopped", resume=True, **parameters)
    resumed.history = fit(resumed)
    assert_same_run(unbroken, resumed)


def test_a_long_epoch_is_saved_before_its_end(tmp_path, monkeypatch):
    parameters = {"epochs": 1, "learning_rate": 0.01}
    unbroken = prepare(tmp_path / "unbroken", **parameters)
    unbroken.history = fit(unbroken)

    monkeypatch.setattr(recording, "SECONDS_PER_SAVING", 0)
    stopped = prepare(tmp_path / "stopped", **parameters)
    stop_after(stopped, 7)
    resumed = prepare(tmp_path / "stopped", resume=True, **parameters)
    taken = at_step(None, None, monkeypatch)
    resumed.history = fit(resumed)
    assert len(unbroken.train_batches) - 7 <= len(taken) < len(unbroken.train_batches)
    assert_same_run(unbroken, resumed)


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path):
    first = prepare(tmp_path / "run")
    first.history = fit(first)
    again = prepare(tmp_path / "run", resume=True)
    again.history = fit(again)
    assert_same_run(first, again)


@pytest.mark.parametrize("batches_before_a_kill", [None, 1])
def test_a_finished_run_goes_on_for_more_epochs_as_if_it_had_always_had_them(
    batches_before_a_kill, tmp_path
):
    """Also one that is killed in its additional epochs, and has no patience then."""
    parameters = {"learning_rate": 0.01}
    unbroken = prepare(tmp_path / "unbroken", epochs=4, **parameters)
    unbroken.history = fit(unbroken)

    short = prepare(tmp_path / "run", epochs=2, patience=2, **parameters)
    finish(short)
    more = {"epochs": 4, "resume": True, **parameters}
    longer = prepare(tmp_path / "run", **more)
    assert not longer.run.is_finished()
    if batches_before_a_kill:
        stop_after(longer, batches_before_a_kill)
        assert not (tmp_path / "run" / "metrics.json").exists()
        longer = prepare(tmp_path / "run", **more)
    longer.history = fit(longer)
    assert_same_run(unbroken, longer)
    with pytest.raises(
        ValueError, match=r"epochs=3, but .* has 4 already\. Give epochs=4"
    ):
        prepare(tmp_path / "run", **more | {"epochs": 3})


@pytest.mark.parametrize("column", ["text", "label"])
def test_resuming_on_changed_reviews_is_refused(column, tmp_path):
    reviews = make_reviews(100)
    fit(prepare(tmp_path / "run", reviews, valid_size=20, epochs=1))
    # the same words, in another order; or the same texts, rated the other way round
    changed = {
        "text": lambda text: " ".join(reversed(text.split())),
        "label": lambda star: 6 - star,
    }[column]
    reviews[column] = reviews[column].map(changed)
    with pytest.raises(ValueError, match="reviews of 'review-snippets' have changed"):
        fit(prepare(tmp_path / "run", reviews, valid_size=20, epochs=1, resume=True))


def test_a_run_may_be_resumed_in_another_place(tmp_path):
    parameters = {"valid_size": 20, "epochs": 2}
    first = prepare(tmp_path / "run", make_reviews(100), **parameters)
    stop_after(first, len(first.train_batches) + 1)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert (
        len(
            fit(
                prepare(
                    tmp_path / "moved",
                    make_reviews(100),
                    **parameters,
                    resume=True,
                    device="cpu",
                )
            )
        )
        == 2
    )


# Signals


@pytest.fixture
def sigint_as_at_a_terminal():
    """Python's own, also where the tests themselves run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint_as_at_a_terminal")
@pytest.mark.parametrize(
    ("number", "batch", "chosen"),
    [
        (signal.SIGTERM, 2, CHOSEN),
        (signal.SIGINT, 16, CHOSEN),  # the last
        (signal.SIGINT, 2, TWO),
    ],
)
def test_a_signal_stops_at_the_next_batch_and_nothing_is_lost(
    number, batch, chosen, tmp_path, monkeypatch
):
    parameters = {"epochs": 2, "num_layers": 2, "embedding_dropout": 0.2}
    parameters |= {"chosen": chosen, "learning_rate": 0.01}
    unbroken = prepare(tmp_path / "unbroken", **parameters)
    unbroken.history = fit(unbroken)
    steps = len(unbroken.train_batches)
    assert steps == 16

    stopped = prepare(tmp_path / "stopped", **parameters)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        taken = at_step(steps + batch, lambda: os.kill(os.getpid(), number), patch)
        with pytest.raises(
            KeyboardInterrupt,
            match=f"{number.name} came. Stopped and saved after batch {batch} of "
            f"{steps} in epoch 2. To go on",
        ):
            fit(stopped)
        assert len(taken) == steps + batch
    assert signal.getsignal(number) is before

    resumed = prepare(tmp_path / "stopped", resume=True, **parameters)
    with monkeypatch.context() as patch:
        taken = at_step(None, None, patch)
        resumed.history = fit(resumed)
        assert len(taken) == steps - batch
    assert_same_run(unbroken, resumed)
    assert resumed.history["seconds"].iloc[1] > 0


def test_a_signal_while_held_out_reviews_are_predicted_stops_after_the_epoch(
    tmp_path, monkeypatch
):
    prepared = prepare(tmp_path / "run", make_reviews(100), valid_size=20, epochs=1)

    def predict_and_signal(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args)

    monkeypatch.setattr(training, "evaluate", predict_and_signal)
    with pytest.raises(
        KeyboardInterrupt, match=r"Stopped and saved after epoch 1\. To go on"
    ):
        fit(prepared)
    assert len(prepared.run.history()) == 1


@pytest.mark.usefixtures("sigint_as_at_a_terminal")
def test_what_the_process_ignores_it_goes_on_ignoring(tmp_path, monkeypatch):
    """As everything does that a shell starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepared = prepare(tmp_path / "run", make_reviews(100), valid_size=20, epochs=1)
    at_step(1, lambda: os.kill(os.getpid(), signal.SIGINT), monkeypatch)
    assert len(fit(prepared)) == 1
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


@pytest.mark.usefixtures("sigint_as_at_a_terminal")
def test_a_second_signal_ends_the_process_as_ever(tmp_path, monkeypatch):
    prepared = prepare(tmp_path / "run", make_reviews(100), valid_size=20)

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(1, twice, monkeypatch)
    with pytest.raises(KeyboardInterrupt) as stop:
        fit(prepared)
    assert "saved" not in str(stop.value)


def test_it_trains_in_a_thread_where_signals_cannot_be_noted(tmp_path):
    prepared = prepare(tmp_path / "run", make_reviews(100), valid_size=20, epochs=1)
    with ThreadPoolExecutor(1) as thread:
        assert len(thread.submit(fit, prepared).result()) == 1
