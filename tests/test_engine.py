"""The MXNet engine: a step of training, on one device or several, and its memory."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from stopping import stop_after

from conftest import fit, make_reviews, prepare
from selfatt_lib import reference
from selfatt_lib.config import TrainingConfig
from selfatt_lib.engines.mxnet import Engine
from selfatt_lib.machinery import recording
from selfatt_lib.machinery.runtime import mx
from selfatt_lib.training import evaluate

WITHOUT_CHANCE = {"dropout": 0.0, "embedding_dropout": 0.0}  # each device draws its own


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


def assert_close_runs(a, b):
    columns = ["train_loss", "valid_loss", "train_accuracy", "valid_accuracy"]
    np.testing.assert_allclose(a.history[columns], b.history[columns], atol=1e-4)
    theirs = b.engine.weights()
    for name, value in a.engine.weights().items():
        np.testing.assert_allclose(value, theirs[name], atol=1e-4, err_msg=name)


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
