import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from damage import alter
from safetensors.numpy import load_file

from conftest import SMALL, fit, make_reviews, prepare, run_code
from selfatt_lib import reference, results, training
from selfatt_lib.config import TrainingConfig
from selfatt_lib.engines.mxnet import Engine
from selfatt_lib.machinery import recording
from selfatt_lib.machinery.files import replacing, write_text
from selfatt_lib.machinery.runtime import mx
from selfatt_lib.prediction import Classifier
from selfatt_lib.results import baselines, write_metrics
from selfatt_lib.run import RunDirectory, best
from selfatt_lib.training import evaluate


def assert_same_run(a, b):
    """The same history but for the seconds, and the same weights, bit for bit."""
    pd.testing.assert_frame_equal(
        a.history.drop(columns="seconds"),
        b.history.drop(columns="seconds"),
        check_exact=True,
    )
    for file in ("model.safetensors", "checkpoint.safetensors"):
        first, second = (load_file(each.run.path / file) for each in (a, b))
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(
                first[name], second[name], err_msg=f"{file}: {name}"
            )


def replaced(config, **changed):
    return TrainingConfig(**vars(config) | changed)


# Learning


def test_training_learns(trained):
    history = trained.history
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["train_loss"].iloc[-1] < 0.7 * history["train_loss"].iloc[0]
    # the commonest star is given in a third of the reviews
    assert history["valid_accuracy"].max() > 0.6


def test_the_learning_rate_falls_by_a_tenth_every_second_epoch(tmp_path):
    prepared = prepare(
        tmp_path / "run", make_reviews(80), valid_size=20, epochs=5, learning_rate=0.01
    )
    np.testing.assert_allclose(
        fit(prepared)["learning_rate"], [0.01, 0.01, 0.009, 0.009, 0.0081]
    )


def test_the_best_epochs_weights_are_kept_and_left_in_the_model(tmp_path, monkeypatch):
    """The evaluations are made up: the second of four epochs is the best."""
    prepared = prepare(tmp_path / "run", make_reviews(80), valid_size=20, epochs=4)
    accuracies, seen = iter([0.2, 0.9, 0.4, 0.6]), []

    def made_up(engine, *_):
        seen.append(engine.weights())
        right = round(20 * next(accuracies))
        return 1.0, np.full(20, 3), np.array([3] * right + [4] * (20 - right))

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
    _, stars, predictions = evaluate(trained.engine, trained.valid_batches)
    assert np.mean(stars == predictions) == trained.history["valid_accuracy"].max()
    assert len(stars) == SMALL["valid_size"]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_was(
    tmp_path, monkeypatch
):
    prepared = prepare(tmp_path / "run", make_reviews(80), valid_size=20, epochs=3)
    losses = iter([1.0, float("nan")])
    found = (np.full(20, 3), np.full(20, 3))
    monkeypatch.setattr(training, "evaluate", lambda *_: (next(losses), *found))
    with pytest.raises(
        RuntimeError,
        match=r"the held-out loss of epoch 2 is nan\..*lower learning_rate, or set clip_norm",
    ):
        fit(prepared)
    assert [line["epoch"] for line in prepared.run.history()] == [1]
    assert "NaN" not in (prepared.run.path / "metrics.jsonl").read_text()


def test_a_run_that_diverges_is_stopped(tmp_path):
    prepared = prepare(
        tmp_path / "run",
        make_reviews(80),
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
    steps, step, count = len(prepared.train_batches), Engine.step, []

    def broken_step(*args):
        count.append(1)
        handle = step(*args)
        if len(count) == steps + 3:
            handle.outcomes = [(loss * float("nan"), x) for loss, x in handle.outcomes]
        return handle

    monkeypatch.setattr(Engine, "step", broken_step)
    with pytest.raises(
        RuntimeError, match=f"the loss of batch 3 of {steps} in epoch 2 is infinite"
    ):
        fit(prepared)
    assert len(count) < 2 * steps  # it does not wait for the end of the epoch
    assert len(prepared.run.history()) == 1
    assert "batches" not in load_file(tmp_path / "run" / "checkpoint.safetensors")


def test_of_equally_good_epochs_the_first_is_kept():
    lines = [
        {"epoch": e, "valid_accuracy": a} for e, a in enumerate([0.1, 0.5, 0.5, 0.2], 1)
    ]
    assert best(lines)["epoch"] == 2


def test_training_stops_early_when_nothing_improves(tmp_path):
    # so small a learning rate never changes a prediction
    prepared = prepare(
        tmp_path / "run",
        make_reviews(80),
        valid_size=20,
        epochs=9,
        patience=2,
        learning_rate=1e-12,
    )
    assert fit(prepared)["epoch"].tolist() == [1, 2, 3]


def test_the_gradient_is_clipped_by_its_global_norm(tmp_path, monkeypatch):
    norms = []
    clip = mx.gluon.utils.clip_global_norm

    def spy(arrays, bound, check_isfinite):
        clip(arrays, bound, check_isfinite)
        norms.append(float(sum((array**2).sum().asscalar() for array in arrays)) ** 0.5)

    monkeypatch.setattr(mx.gluon.utils, "clip_global_norm", spy)
    fit(
        prepare(
            tmp_path / "run", make_reviews(80), valid_size=20, epochs=1, clip_norm=0.01
        )
    )
    assert max(norms) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("train_embedding", [True, False])
def test_frozen_word_vectors_stay_and_free_ones_move(train_embedding, tmp_path):
    prepared = prepare(
        tmp_path / "run",
        make_reviews(80),
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


@pytest.mark.parametrize("class_weights", [None, "auto", [3.0, 5.3, 4.0, 2.0, 1.0]])
def test_the_objective_is_cross_entropy_plus_penalty(class_weights, tmp_path):
    prepared = prepare(
        tmp_path / "run",
        class_weights=class_weights,
        penalty_coefficient=0.5,
        penalty_form="norm",
    )
    batch = next(iter(prepared.valid_batches))
    loss, logits = prepared.engine.evaluate(batch).read()
    weights = prepared.engine.weights()
    _, attention, _ = reference.forward(*batch[:2], weights)
    used = class_weights
    if class_weights == "auto":
        used = reference.class_weights(prepared.train_reviews["stars"])
    expected = reference.cross_entropy(logits, batch[2] - 1, used)
    expected += 0.5 * reference.penalty(attention, "norm")
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepared = prepare(
            tmp_path / name, make_reviews(80), valid_size=20, epochs=2, seed=seed
        )
        prepared.history = fit(prepared)
        runs.append(prepared)
    assert_same_run(*runs[:2])
    assert not runs[0].history["train_loss"].equals(runs[2].history["train_loss"])


# Stopping and resuming


class Stopped(Exception):
    pass


def stop_after(prepared, batches):
    """Let training stop, as by a power cut, after so many batches."""
    original = prepared.train_batches
    seen = []

    class Stopping:
        lengths = original.lengths

        def __len__(self):
            return len(original)

        def shuffled(self, seed):
            for batch in original.shuffled(seed):
                if len(seen) == batches:
                    raise Stopped
                seen.append(1)
                yield batch

    prepared.train_batches = Stopping()
    with pytest.raises(Stopped):
        fit(prepared)


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


@pytest.fixture
def sigint_as_at_a_terminal():
    """Python's own, also where the tests themselves run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def at_step(number, act, monkeypatch):
    """Do something in the middle of a step; return the list of steps."""
    step, steps = Engine.step, []

    def acting_step(*args):
        steps.append(1)
        handle = step(*args)
        if len(steps) == number:
            act()
        return handle

    monkeypatch.setattr(Engine, "step", acting_step)
    return steps


@pytest.mark.usefixtures("sigint_as_at_a_terminal")
@pytest.mark.parametrize(
    ("number", "batch", "devices"),
    [
        (signal.SIGTERM, 2, [mx.cpu()]),
        (signal.SIGINT, 15, [mx.cpu()]),  # the last
        (signal.SIGINT, 2, [mx.cpu(0), mx.cpu(1)]),
    ],
)
def test_a_signal_stops_at_the_next_batch_and_nothing_is_lost(
    number, batch, devices, tmp_path, monkeypatch
):
    parameters = {"epochs": 2, "num_layers": 2, "embedding_dropout": 0.2}
    parameters |= {"devices": devices, "learning_rate": 0.01}
    unbroken = prepare(tmp_path / "unbroken", **parameters)
    unbroken.history = fit(unbroken)
    steps = len(unbroken.train_batches)
    assert steps == 15

    stopped = prepare(tmp_path / "stopped", **parameters)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        taken = at_step(steps + batch, lambda: os.kill(os.getpid(), number), patch)
        with pytest.raises(
            KeyboardInterrupt,
            match=f"{number.name} came. Stopped and saved after batch {batch} of {steps} in epoch 2. To go on",
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
    prepared = prepare(tmp_path / "run", make_reviews(80), valid_size=20, epochs=1)

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
    prepared = prepare(tmp_path / "run", make_reviews(80), valid_size=20, epochs=1)
    at_step(1, lambda: os.kill(os.getpid(), signal.SIGINT), monkeypatch)
    assert len(fit(prepared)) == 1
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


@pytest.mark.usefixtures("sigint_as_at_a_terminal")
def test_a_second_signal_ends_the_process_as_ever(tmp_path, monkeypatch):
    prepared = prepare(tmp_path / "run", make_reviews(80), valid_size=20)

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(1, twice, monkeypatch)
    with pytest.raises(KeyboardInterrupt) as stop:
        fit(prepared)
    assert "saved" not in str(stop.value)


def test_it_trains_in_a_thread_where_signals_cannot_be_noted(tmp_path):
    prepared = prepare(tmp_path / "run", make_reviews(80), valid_size=20, epochs=1)
    with ThreadPoolExecutor(1) as thread:
        assert len(thread.submit(fit, prepared).result()) == 1


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


# Folders that cannot be written to


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, and a function that mounts it anew with other options."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", disk],
            capture_output=True,
        )

    if shutil.which("mount") is None or mount("size=1500k").returncode:
        pytest.skip("needs to mount a disk, which only root may")
    yield disk, mount
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("cause", ["full", "almost full", "read-only", "gone"])
def test_a_disk_that_takes_no_more_is_an_error_and_the_last_epoch_stays(
    cause, small_disk, tmp_path, monkeypatch
):
    disk, mount = small_disk
    parameters = {"epochs": 3, "learning_rate": 0.01}
    unbroken = prepare(tmp_path / "unbroken", **parameters)
    unbroken.history = fit(unbroken)
    steps = len(unbroken.train_batches)

    def fill(leave):
        room = shutil.disk_usage(disk).free - leave
        (disk / "ballast").write_bytes(bytes(room))

    def spoil():
        mx.nd.waitall()
        if cause == "read-only":
            assert mount("remount", "ro").returncode == 0
        elif cause == "gone":
            (disk / "run").rename(disk / "elsewhere")
        else:
            fill(leave=4096 * (cause == "almost full"))

    def mend():
        if cause == "read-only":
            assert mount("remount", "rw").returncode == 0
        elif cause == "gone":
            (disk / "elsewhere").rename(disk / "run")
        else:
            (disk / "ballast").unlink()

    stopped = prepare(disk / "run", **parameters)
    with monkeypatch.context() as patch:
        at_step(steps + 2, spoil, patch)
        with pytest.raises(
            OSError, match=r"run/.* could not be written: .*\. What was saved before is"
        ):
            fit(stopped)
    mend()
    assert len(stopped.run.history()) in (1, 2)
    assert load_file(disk / "run" / "checkpoint.safetensors")["epoch"] == 1

    resumed = prepare(disk / "run", resume=True, **parameters)
    resumed.history = fit(resumed)
    assert_same_run(unbroken, resumed)


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.safetensors"])
def test_bytes_that_get_lost_without_an_error_are_noticed(name, tmp_path, monkeypatch):
    prepared = prepare(tmp_path / "run", make_reviews(80), valid_size=20)
    write = Path.write_bytes

    def lose_the_last_bytes(path, content):
        write(path, content[:-100] if name in path.name else content)

    monkeypatch.setattr(Path, "write_bytes", lose_the_last_bytes)
    with pytest.raises(OSError, match=f"{name} could not be written: .*not fully cov"):
        fit(prepared)
    assert not (prepared.run.path / name).exists()


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, monkeypatch):
    clock = itertools.count(2e9, -3600)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    history = fit(prepare(tmp_path / "run", make_reviews(80), valid_size=20))
    assert (history["seconds"] > 0).all()


# Small and one-sided corpora


@pytest.mark.parametrize(
    "corpus",
    [
        {"text": ["good film", "bad film"], "stars": [5, 1]},
        {"text": ["good", "bad"], "stars": [3, 3]},  # one star, one token
        {"text": ["a b c"] * 9 + ["d e"], "stars": [4] * 9 + [2]},
    ],
)
@pytest.mark.parametrize("class_weights", [None, "auto"])
def test_the_smallest_corpora_train_and_predict(corpus, class_weights, tmp_path):
    parameters = {"valid_size": 1, "attention_hops": 1, "epochs": 2}
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
    without_two = reviews[reviews["stars"] != 2].reset_index(drop=True)
    prepared = prepare(tmp_path / "run", without_two, valid_size=20, epochs=1)
    assert 2 not in set(prepared.train_reviews["stars"])
    fit(prepared)
    prepared.valid_batches.stars[:] = 2  # held out, there is nothing else
    _, stars, predictions = evaluate(prepared.engine, prepared.valid_batches)
    assert set(stars) == {2}
    assert set(predictions) <= {1, 2, 3, 4, 5}


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path):
    first = prepare(tmp_path / "run")
    first.history = fit(first)
    again = prepare(tmp_path / "run", resume=True)
    again.history = fit(again)
    assert_same_run(first, again)


def test_resuming_with_other_parameters_is_refused_by_name(trained):
    config = replaced(trained.config, resume=True, lower=False, dropout=0.1)
    with pytest.raises(
        ValueError,
        match=r"parameters: lower was True, now False; dropout was 0.5, now 0.1\. Give",
    ):
        RunDirectory(config)


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


def test_a_run_of_another_edition_is_neither_resumed_nor_loaded(tmp_path):
    parameters = {"valid_size": 20, "epochs": 1}
    fit(prepare(tmp_path / "run", make_reviews(80), **parameters))
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["format"]
    path.write_text(json.dumps(config))
    sentence = (
        r"config.json: it is of another edition of the book.*this one reads format"
    )
    with pytest.raises(ValueError, match=sentence):
        prepare(tmp_path / "run", make_reviews(80), **parameters, resume=True)
    with pytest.raises(ValueError, match=sentence):
        Classifier.load(tmp_path / "run")
    # begun anew, it is moved aside as any other
    fit(prepare(tmp_path / "run", make_reviews(80), **parameters))
    assert "format" not in json.loads((tmp_path / "run.1" / path.name).read_text())


HOLD = """
import sys
from selfatt_lib.config import TrainingConfig
from selfatt_lib.run import RunDirectory
run = RunDirectory(TrainingConfig(run_dir=sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_of_two_processes_the_second_stops_at_once_and_a_killed_one_blocks_nobody(
    tmp_path,
):
    config = TrainingConfig(run_dir=str(tmp_path / "run"))
    command = [sys.executable, "-c", HOLD, config.run_dir]
    holder = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            RuntimeError, match=r"another process is training in '.*run'"
        ):
            RunDirectory(config)
        RunDirectory(replaced(config, run_dir=str(tmp_path / "other")))
    finally:
        holder.kill()
        holder.communicate()
    RunDirectory(config)


def test_a_finished_run_is_free_for_others_while_its_notebook_stays_open(tmp_path):
    prepared = prepare(tmp_path / "run", make_reviews(80), valid_size=20, epochs=1)
    finish(prepared)
    done = run_code(HOLD, tmp_path / "run", input="")
    assert done.stdout == "held\n", done.stderr


@pytest.mark.parametrize("column", ["text", "stars"])
def test_resuming_on_changed_reviews_is_refused(column, tmp_path):
    reviews = make_reviews(100)
    fit(prepare(tmp_path / "run", reviews, valid_size=20, epochs=1))
    # the same words, in another order; or the same texts, rated the other way round
    changed = {
        "text": lambda text: " ".join(reversed(text.split())),
        "stars": lambda star: 6 - star,
    }[column]
    reviews[column] = reviews[column].map(changed)
    with pytest.raises(ValueError, match="reviews of 'review-snippets' have changed"):
        fit(prepare(tmp_path / "run", reviews, valid_size=20, epochs=1, resume=True))


def test_a_run_may_be_resumed_in_another_place(tmp_path):
    parameters = {"valid_size": 20, "epochs": 2}
    first = prepare(tmp_path / "run", make_reviews(80), **parameters)
    stop_after(first, len(first.train_batches) + 1)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert (
        len(
            fit(
                prepare(
                    tmp_path / "moved",
                    make_reviews(80),
                    **parameters,
                    resume=True,
                    device="cpu",
                )
            )
        )
        == 2
    )


def test_resuming_what_never_began_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"holds no run. Start it with resume=False"
    ):
        RunDirectory(TrainingConfig(run_dir=str(tmp_path / "nothing"), resume=True))


# The run directory


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="exists and is not a run"):
        RunDirectory(TrainingConfig(run_dir=str(tmp_path)))
    with pytest.raises(ValueError, match="exists and is not a run"):
        RunDirectory(TrainingConfig(run_dir=str(tmp_path / "thesis.txt")))


def finish(prepared):
    """Train and write the metrics, which is what makes a run a finished one."""
    prepared.history = fit(prepared)
    _, stars, predictions = evaluate(prepared.engine, prepared.valid_batches)
    results = prepared.run, prepared.history, stars, predictions
    results += len(prepared.train_reviews), prepared.engine.devices
    write_metrics(*results)
    found = baselines(prepared.train_reviews, prepared.valid_reviews)
    return write_metrics(*results, found)


def test_an_earlier_run_is_moved_aside_and_dropped_only_for_the_very_same_weights(
    tmp_path,
):
    parameters = {"valid_size": 20, "epochs": 1}
    reviews = make_reviews(80)

    def names():
        return sorted(path.name for path in tmp_path.iterdir())

    finish(prepare(tmp_path / "run", reviews, **parameters))
    again = prepare(tmp_path / "run", reviews, **parameters)
    fit(again)
    # nothing is lost while the second is not finished
    assert names() == ["run", "run.1"]
    assert (tmp_path / "run.1" / "metrics.json").exists()
    assert not (tmp_path / "run" / "metrics.json").exists()
    finish(prepare(tmp_path / "run", reviews, **parameters))
    assert names() == ["run", "run.1"]  # the third equals the second
    finish(
        prepare(
            tmp_path / "run", reviews.assign(stars=6 - reviews["stars"]), **parameters
        )
    )
    assert names() == ["run", "run.1", "run.2"]
    (tmp_path / "run" / "notes.txt").write_text("mine")
    finish(
        prepare(
            tmp_path / "run", reviews.assign(stars=6 - reviews["stars"]), **parameters
        )
    )
    assert names() == ["run", "run.1", "run.2", "run.3"]
    assert (tmp_path / "run.3" / "notes.txt").exists()


def test_a_run_killed_while_its_folder_was_made_can_be_begun_again(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / ".config.json.partial").write_text("{")
    fit(prepare(path, make_reviews(80), valid_size=20, epochs=1))
    (path / "vocab.json").unlink()
    resumed = prepare(path, make_reviews(80), valid_size=20, epochs=1, resume=True)
    assert len(fit(resumed)) == 1
    assert (path / "vocab.json").exists()


def test_a_longer_run_with_the_same_best_epoch_is_not_dropped(tmp_path):
    # so small a learning rate never changes a prediction: the first epoch is the best of both
    parameters = {"valid_size": 20, "learning_rate": 1e-12}
    finish(prepare(tmp_path / "run", make_reviews(80), epochs=3, **parameters))
    finish(prepare(tmp_path / "run", make_reviews(80), epochs=1, **parameters))
    longer, shorter = (
        load_file(tmp_path / name / "model.safetensors") for name in ("run", "run.1")
    )
    assert (longer["output.weight"] == shorter["output.weight"]).all()
    assert (tmp_path / "run.1" / "metrics.jsonl").read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "checkpoint.safetensors",
            lambda path: path.write_bytes(path.read_bytes()[:500]),
            "it is no whole file of arrays .*Start the run anew",
        ),
        (
            "checkpoint.safetensors",
            lambda path: alter(path, lambda arrays: {"a": np.zeros(1)}),
            "it has no 'epoch'. Start the run anew",
        ),
        (
            "checkpoint.safetensors",
            lambda path: alter(path, lambda a: a | {"mean:output.bias": a["epoch"]}),
            r"mean:output.bias is not float32 of the shape \(5,\)\. Start the run anew",
        ),
        (
            "checkpoint.safetensors",
            lambda path: alter(path, lambda a: {"epoch": a["epoch"]}),
            "it has no 'step'. Start the run anew",
        ),
        (
            "metrics.jsonl",
            lambda path: path.write_text("{"),
            "is damaged: (?s:.*)Start the run anew",
        ),
        (
            "metrics.jsonl",
            lambda path: path.unlink(),
            "lacks model.safetensors or some of the 2 epochs",
        ),
        (
            "model.safetensors",
            lambda path: path.unlink(),
            "lacks model.safetensors or some of the 2 epochs",
        ),
        ("config.json", lambda path: path.write_text("{"), "config.json: Expecting"),
        (
            "config.json",
            lambda path: path.write_text("[]"),
            "config.json: it holds no JSON object",
        ),
        ("config.json", lambda path: path.write_text("{}"), "config.json: format is"),
    ],
)
def test_a_damaged_run_is_not_resumed(name, damage, message, tmp_path):
    fit(prepare(tmp_path / "run", make_reviews(80), valid_size=20, epochs=2))
    damage(tmp_path / "run" / name)
    with pytest.raises(ValueError, match=message):
        fit(
            prepare(
                tmp_path / "run", make_reviews(80), valid_size=20, epochs=2, resume=True
            )
        )


SHORT = {"valid_size": 20, "epochs": 2}


@pytest.fixture
def two_runs(tmp_path):
    """Return the folders of two runs with other learning rates."""
    folders = {tmp_path / "run": 0.01, tmp_path / "other": 0.02}
    for folder, rate in folders.items():
        fit(prepare(folder, make_reviews(80), **SHORT, learning_rate=rate))
    return list(folders)


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.safetensors"])
def test_arrays_of_another_run_are_refused_though_they_fit(name, two_runs):
    run, other = two_runs
    begun = prepare(run, make_reviews(80), **SHORT, learning_rate=0.01)
    stop_after(begun, batches=len(begun.train_batches) + 1)
    shutil.copy(other / name, run)
    again = prepare(run, make_reviews(80), **SHORT, learning_rate=0.01, resume=True)
    advice = "it is another run's, or was changed. Start the run anew with resume=False"
    with pytest.raises(ValueError, match=f"{name}.* {advice}"):
        fit(again)
    assert len(again.run.history()) == 1  # and nothing was trained in vain
    if name == "model.safetensors":
        with pytest.raises(ValueError, match=f"{name}: it is another run's"):
            Classifier.load(run)


def stop_writing(path):
    with replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise Stopped


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "metrics.json"
    write_text(path, "old")
    with pytest.raises(Stopped):
        stop_writing(path)
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_metrics_hold_what_is_promised(tmp_path):
    finished = prepare(tmp_path / "run")
    metrics = finish(finished)
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text())
    promised = "accuracy weighted_f1 confusion_matrix majority_accuracy tfidf_accuracy epochs best_epoch train_size valid_size"
    assert {*promised.split(), "seconds", "device", "seed"} <= set(metrics)
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
    metrics = write_metrics(
        prepared.run, history, given, predicted, 60, prepared.engine.devices, found
    )
    assert (metrics["best_epoch"], metrics["epochs"], metrics["seconds"]) == (2, 3, 7.0)
    assert metrics["confusion_matrix"] == [
        [1, 0, 1, 0, 0],
        [0, 0, 1, 0, 0],
        [0] * 5,
        [0] * 5,
        [0, 0, 0, 1, 0],
    ]
    assert metrics["accuracy"] == 0.25
    # by hand: star 1 has precision 1 and recall 1/2, so F1 2/3; it is half of the reviews; the others have none right
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


def test_the_linear_baseline_can_be_left_out(tmp_path):
    config = TrainingConfig(
        **SMALL | {"epochs": 1}, tfidf=False, run_dir=str(tmp_path / "run")
    )
    metrics = training.fit(config, training.prepare(config, make_reviews(100)))
    assert "majority_accuracy" in metrics
    assert "tfidf_accuracy" not in metrics


def test_the_terms_of_a_large_corpus_are_those_of_its_first_reviews(monkeypatch):
    monkeypatch.setattr(results, "COUNTED_REVIEWS", 2)
    reviews = pd.DataFrame({"text": ["good film", "bad", "never counted"]})
    assert set(results.commonest_terms(reviews)) == {
        "good",
        "film",
        "good film",
        "bad",
    }


def test_the_baselines_take_reviews_of_one_star_and_without_letters():
    one_star = pd.DataFrame({"text": ["!!!", "a"], "stars": [3, 3]})
    assert baselines(one_star, one_star)["tfidf"]["accuracy"] == 1
    two_stars = pd.DataFrame({"text": ["!!!", "?"], "stars": [3, 4]})
    assert baselines(two_stars, two_stars)["tfidf"]["accuracy"] == 1


def test_a_run_directory_holds_no_pickle(trained):
    for path in trained.run.path.iterdir():
        content = path.read_bytes()
        assert not content.startswith(b"\x80"), path  # a pickle begins so
        if path.suffix != ".safetensors":
            content.decode("utf-8")


# In one call


def test_fit_does_what_the_steps_do(tmp_path):
    reviews = make_reviews(80)
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


def test_a_run_is_finished_only_if_it_ended_and_with_these_parameters(tmp_path):
    prepared = prepare(tmp_path / "run", make_reviews(80), valid_size=20, epochs=1)
    assert not prepared.run.is_finished()
    fit(prepared)
    assert not prepared.run.is_finished()
    finish(prepare(tmp_path / "run", make_reviews(80), valid_size=20, epochs=1))
    same = replaced(prepared.config, device="cpu")
    other = replaced(prepared.config, hidden_size=7)
    assert RunDirectory(same).is_finished()
    assert not RunDirectory(other).is_finished()


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


def with_sgd(prepared, rate):
    """Let the engine move the weights by the gradient itself, not by Adam's steps."""
    engine = prepared.engine
    engine.trainer = mx.gluon.Trainer(
        engine.model.collect_params(),
        "sgd",
        {"learning_rate": rate},
        update_on_kvstore=False,
    )
    return engine


WITHOUT_CHANCE = {"dropout": 0.0, "embedding_dropout": 0.0}  # each device draws its own


def test_a_step_moves_the_weights_down_the_clipped_gradient(tmp_path):
    small = {"valid_size": 20, "clip_norm": 0.01, **WITHOUT_CHANCE}
    prepared = prepare(tmp_path / "run", make_reviews(80), **small)
    engine, batch = with_sgd(prepared, 0.1), next(iter(prepared.valid_batches))
    before = engine.weights()
    loss, logits = engine.step(batch).read()
    after = engine.weights()
    moved = sum(((after[name] - before[name]) ** 2).sum() for name in before)
    assert np.sqrt(moved) == pytest.approx(0.1 * 0.01, rel=1e-2)
    assert (loss.shape, logits.shape) == ((len(batch[2]),), (len(batch[2]), 5))
    assert engine.evaluate(batch).read()[0].mean() < loss.mean()


def test_ten_steps_lose_what_the_reference_says_they_lose(tmp_path):
    prepared = prepare(tmp_path / "run", **WITHOUT_CHANCE, learning_rate=0.01)
    engine, config = prepared.engine, prepared.config
    for tokens, valid_length, stars in [*prepared.train_batches][:10]:
        logits, attention, _ = reference.forward(tokens, valid_length, engine.weights())
        expected = reference.cross_entropy(logits, stars - 1)
        expected += config.penalty_coefficient * reference.penalty(attention)
        loss, _ = engine.step((tokens, valid_length, stars)).read()
        np.testing.assert_allclose(loss, expected, atol=1e-4)


# Several devices

TWO = (mx.cpu(0), mx.cpu(1))  # to MXNet they are two devices


def test_two_devices_find_the_loss_and_the_gradient_that_one_finds(tmp_path):
    found = []
    for devices in (TWO[:1], TWO):
        prepared = prepare(tmp_path / "run", devices=devices, **WITHOUT_CHANCE)
        engine, lines = with_sgd(prepared, 0.1), []
        for batch in prepared.valid_batches:
            loss, logits = engine.step(batch).read()
            parameters = engine.model.collect_params().values()
            for parameter in parameters:
                one, *others = (weight.asnumpy() for weight in parameter.list_data())
                for other in others:
                    np.testing.assert_array_equal(one, other)
            gradients = [[g.asnumpy() for g in p.list_grad()] for p in parameters]
            lines.append((loss, logits, gradients))
        found.append(lines)
    for one, two in zip(*found):
        np.testing.assert_allclose(one[0], two[0], atol=1e-5)
        np.testing.assert_allclose(one[1], two[1], atol=1e-5)
        for (gradient,), (first, second) in zip(one[2], two[2]):
            np.testing.assert_array_equal(first, second)
            np.testing.assert_allclose(gradient, first, atol=1e-5)
    assert any(
        np.abs(gradient).max() > 1e-3 for line in found[0] for (gradient,) in line[2]
    )


def test_a_device_left_without_a_review_changes_nothing(tmp_path):
    """Batches of one review, dealt out to two devices."""
    reviews = make_reviews(40)
    settings = {"valid_size": 20, "batch_size": 1, "epochs": 1, **WITHOUT_CHANCE}
    runs = []
    for devices in (TWO[:1], TWO):
        prepared = prepare(
            tmp_path / str(len(devices)), reviews, devices=devices, **settings
        )
        prepared.history = fit(prepared)
        runs.append(prepared)
    assert_close_runs(*runs)


def assert_close_runs(a, b):
    columns = ["train_loss", "valid_loss", "train_accuracy", "valid_accuracy"]
    np.testing.assert_allclose(a.history[columns], b.history[columns], atol=1e-4)
    theirs = b.engine.weights()
    for name, value in a.engine.weights().items():
        np.testing.assert_allclose(value, theirs[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("first", "then"), [(TWO[:1], TWO), (TWO, TWO[:1])])
def test_a_run_goes_on_with_another_number_of_devices(first, then, tmp_path):
    def prepared(name, devices, **settings):
        return prepare(
            tmp_path / name, devices=devices, epochs=4, **WITHOUT_CHANCE, **settings
        )

    whole, begun = prepared("whole", TWO[:1]), prepared("parts", first)
    whole.history = fit(whole)
    stop_after(begun, batches=2 * len(begun.train_batches) + 3)
    resumed = prepared("parts", then, resume=True)
    resumed.history = fit(resumed)
    assert_close_runs(whole, resumed)


def test_all_devices_of_a_finished_run_have_the_best_weights(tmp_path):
    prepared = prepare(tmp_path / "run", devices=TWO)
    history = fit(prepared)
    saved = load_file(prepared.run.path / "model.safetensors")
    held = prepared.engine.model.output.weight.list_data()
    assert {weight.context for weight in held} == set(TWO)
    for weight in held:
        np.testing.assert_array_equal(weight.asnumpy(), saved["output.weight"])
    _, stars, predictions = evaluate(prepared.engine, prepared.valid_batches)
    assert np.mean(stars == predictions) == history["valid_accuracy"].max()


# Memory


@pytest.mark.parametrize(
    ("at_step", "advice"),
    [
        (1, r"Begin anew with batch_size=8\. In a notebook, restart the kernel"),
        (40, r"Begin anew with batch_size=8 \(batches of [\d,]+ tokens did fit\)\. In"),
    ],
)
def test_a_batch_that_does_not_fit_is_an_error_with_a_size_that_may(
    at_step, advice, tmp_path, monkeypatch
):
    prepared = prepare(tmp_path / "run")
    steps, objective = iter(range(1, 1000)), Engine.objective

    def too_large(*arguments):
        if mx.autograd.is_recording() and next(steps) == at_step:
            raise mx.MXNetError("Failed to allocate CPU Memory")
        return objective(*arguments)

    monkeypatch.setattr(Engine, "objective", too_large)
    with pytest.raises(MemoryError, match=advice):
        fit(prepared)
    done = (at_step - 1) // len(prepared.train_batches)
    assert [line["epoch"] for line in prepared.run.history()] == list(
        range(1, done + 1)
    )


@pytest.mark.parametrize(
    ("devices", "batch_size", "fitted", "advice"),
    [
        (
            ["gpu(0)", "gpu(1)"],
            64,
            [900, 1500],
            r"with batch_size=15 \(batches of 1,500 tokens did fit\), or go on .*'cpu'",
        ),
        (["cpu(0)"], 64, [6300], r"with batch_size=32 \(batches of 6,300 .*\)\. In a"),
        (["cpu(0)"], 2, [1], r"with batch_size=1 "),
        (["gpu(0)"], 1, [100], r"Begin anew with a smaller max_tokens, or go on"),
    ],
)
def test_the_advice_depends_on_what_fitted(devices, batch_size, fitted, advice):
    config = TrainingConfig(batch_size=batch_size, bucket_ratio=0.5)
    with (
        pytest.raises(MemoryError, match=advice),
        recording.advice_on_memory(config, devices, 100, fitted),
    ):
        raise MemoryError("the memory does not suffice")


@pytest.mark.parametrize(
    "said",
    [
        "cudaMalloc retry failed: out of memory",
        "CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "Failed to allocate CPU Memory",
    ],
)
def test_mxnets_words_on_memory_become_a_memory_error(said, trained):
    with (
        pytest.raises(MemoryError, match=r"the memory of cpu\(0\) does not suffice"),
        trained.engine.computing(),
    ):
        raise mx.MXNetError(said)


def test_another_error_of_mxnet_is_passed_on(trained):
    with pytest.raises(mx.MXNetError, match="shape"), trained.engine.computing():
        raise mx.MXNetError("incompatible shape")


def test_the_learning_rate_of_a_very_long_run_stays_one_that_mxnet_takes():
    config = TrainingConfig(epochs=5000)
    assert training.decayed_rate(config, 5000) > 1e-38
