"""The engine that is installed: a step, on one device or several, and its memory."""

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
from safetensors.numpy import load_file
from stopping import stop_after

from conftest import CHOSEN, ENGINE, TWO, fit, make_reviews, prepare
from selfatt_lib import engines, reference
from selfatt_lib.config import TrainingConfig
from selfatt_lib.machinery import recording
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
        used = reference.class_weights(prepared.train_batches.labels, 5)
    expected = reference.cross_entropy(logits, batch[2], used)
    expected += 0.5 * reference.penalty(attention, "norm")
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def with_sgd(prepared, rate):
    """Let the engine move the weights by the gradient itself, not by Adam's steps."""
    engine = prepared.engine
    if ENGINE.NAME == "PyTorch":
        import torch

        engine.optimizer = torch.optim.SGD(engine.trained.values(), rate)
    else:
        from selfatt_lib.machinery.runtime import mx

        weights, how = engine.model.collect_params(), {"learning_rate": rate}
        engine.trainer = mx.gluon.Trainer(weights, "sgd", how, update_on_kvstore=False)
    return engine


def on_each_device(engine):
    """Return the weights that each device holds: list of list of ndarray."""
    if ENGINE.NAME == "PyTorch":
        models = [model.parameters() for model in engine.models]
        return [[w.detach().numpy() for w in each] for each in models]
    held = [w.list_data() for w in engine.model.collect_params().values()]
    return [[w.asnumpy() for w in each] for each in zip(*held)]


def test_a_step_moves_the_weights_down_the_clipped_gradient(tmp_path):
    small = {"valid_size": 20, "clip_norm": 0.01, **WITHOUT_CHANCE}
    prepared = prepare(tmp_path / "run", make_reviews(100), **small)
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
    for tokens, valid_length, labels in [*prepared.train_batches][:10]:
        logits, attention, _ = reference.forward(tokens, valid_length, engine.weights())
        expected = reference.cross_entropy(logits, labels)
        expected += config.penalty_coefficient * reference.penalty(attention)
        loss, _ = engine.step((tokens, valid_length, labels)).read()
        np.testing.assert_allclose(loss, expected, atol=1e-4)


LOSSES = Path(__file__).with_name("losses.json")
BOOK = Path(__file__).parents[1] / "book"


@pytest.mark.parametrize("name", json.loads(LOSSES.read_text()))
def test_ten_steps_lose_what_they_lost_with_mxnet_and_leave_the_same_state(name):
    """Adam, clipping, class weights and penalty, from the same weights on."""
    stored = json.loads(LOSSES.read_text())[name]
    losses, state = ten_steps(stored["config"])
    np.testing.assert_allclose(losses, stored["losses"], 0, 1e-4)
    for array, values in stored["state"].items():
        np.testing.assert_allclose(state[array], values, 1e-3, 1e-6, err_msg=array)


def ten_steps(parameters):
    """Return the losses of ten steps on two batches, and the engine's state."""
    config = TrainingConfig(**parameters, **WITHOUT_CHANCE)
    sizes = config.model_settings(vocab_size=40, embedding_size=7).model_dump()
    rng = np.random.RandomState(0)  # draws the same for ever
    weights = {
        name: rng.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in reference.weight_shapes(sizes).items()
    }
    batches = []
    for T in (9, 5):
        valid_length = rng.randint(1, T + 1, 6).astype(np.int32)
        valid_length[0] = T
        tokens = rng.randint(0, 40, (6, T)).astype(np.int32)
        batches.append((tokens, valid_length, rng.randint(1, 6, 6) - 1))
    vectors = weights["embedding.weight"]
    engine = ENGINE.Engine(config, vectors, 5, config.class_weights, ["cpu"])
    engine.load_weights(weights)
    losses = [engine.step(batches[i % 2]).read()[0].tolist() for i in range(10)]
    return losses, engine.state()


@pytest.mark.skipif(ENGINE.NAME != "MXNet", reason="MXNet is not installed")
def test_the_losses_of_mxnet_in_the_pytorch_chapter_are_mxnets():
    """Its cells that make them, with the other engine's name."""
    chapter = nbformat.read(BOOK / "pytorch.ipynb", as_version=4)
    wanted = ("Batches(", "def draw", "def ten_steps", "in_mxnet =")
    cells = [
        cell.source
        for cell in chapter.cells
        if cell.cell_type == "code" and any(each in cell.source for each in wanted)
    ]
    assert len(cells) == len(wanted)
    found = {"TrainingConfig": TrainingConfig}
    for source in cells:
        exec(source.replace('"pytorch"', '"mxnet"'), found)  # noqa: S102
    assert found["apart"] < 1e-5


# Several devices


def test_two_devices_find_the_loss_and_the_gradient_that_one_finds(tmp_path):
    found = []
    for chosen in (CHOSEN, TWO):
        prepared = prepare(tmp_path / "run", chosen=chosen, **WITHOUT_CHANCE)
        engine, lines = with_sgd(prepared, 0.1), []
        for batch in prepared.valid_batches:
            before = engine.weights()
            loss, logits = engine.step(batch).read()
            one, *others = on_each_device(engine)
            assert len(others) == len(chosen.devices) - 1
            for other in others:
                for weight, copy in zip(one, other, strict=True):
                    np.testing.assert_array_equal(weight, copy)
            after = engine.weights()
            moves = [(after[name] - before[name]) / 0.1 for name in before]
            lines.append([loss, logits, *moves])
        found.append(lines)
    for one, two in zip(*found, strict=True):
        for ours, theirs in zip(one, two, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert max(np.abs(move).max() for move in found[0][0][2:]) > 1e-3


def assert_close_runs(a, b):
    columns = ["train_loss", "valid_loss", "train_accuracy", "valid_accuracy"]
    np.testing.assert_allclose(a.history[columns], b.history[columns], atol=1e-4)
    theirs = b.engine.weights()
    for name, value in a.engine.weights().items():
        np.testing.assert_allclose(value, theirs[name], atol=1e-4, err_msg=name)


BOTH = len(engines.installed()) == 2


@pytest.mark.skipif(not BOTH, reason="needs both engines in one environment")
@pytest.mark.parametrize("order", [["mxnet", "pytorch"], ["pytorch", "mxnet"]])
def test_a_run_goes_on_with_the_other_engine_in_the_middle_of_an_epoch(
    order, tmp_path, monkeypatch
):
    first, second = (engines.choose(name, "cpu") for name in order)
    same = {"epochs": 4, **WITHOUT_CHANCE}
    whole = prepare(tmp_path / "whole", chosen=first, **same)
    whole.history = fit(whole)
    begun = prepare(tmp_path / "parts", chosen=first, **same)
    with monkeypatch.context() as patch:
        patch.setattr(recording, "SECONDS_PER_SAVING", 0)  # after each batch
        stop_after(begun, batches=2 * len(begun.train_batches) + 3)
    resumed = prepare(tmp_path / "parts", chosen=second, resume=True, **same)
    resumed.history = fit(resumed)
    assert_close_runs(whole, resumed)


def test_a_device_left_without_a_review_changes_nothing(tmp_path):
    """Batches of one review, dealt out to two devices."""
    reviews = make_reviews(60)
    settings = {"valid_size": 20, "batch_size": 1, "epochs": 1, **WITHOUT_CHANCE}
    runs = []
    for name, chosen in (("one", CHOSEN), ("two", TWO)):
        prepared = prepare(tmp_path / name, reviews, chosen=chosen, **settings)
        prepared.history = fit(prepared)
        runs.append(prepared)
    assert_close_runs(*runs)


@pytest.mark.parametrize(("first", "then"), [(CHOSEN, TWO), (TWO, CHOSEN)])
def test_a_run_goes_on_with_another_number_of_devices(first, then, tmp_path):
    def prepared(name, chosen, **settings):
        return prepare(
            tmp_path / name, chosen=chosen, epochs=4, **WITHOUT_CHANCE, **settings
        )

    whole, begun = prepared("whole", CHOSEN), prepared("parts", first)
    whole.history = fit(whole)
    stop_after(begun, batches=2 * len(begun.train_batches) + 3)
    resumed = prepared("parts", then, resume=True)
    resumed.history = fit(resumed)
    assert_close_runs(whole, resumed)


def test_all_devices_of_a_finished_run_have_the_best_weights(tmp_path):
    prepared = prepare(tmp_path / "run", chosen=TWO)
    history = fit(prepared)
    saved = load_file(prepared.run.path / "model.safetensors")
    held = on_each_device(prepared.engine)
    assert len(held) == 2
    for *_, weight, _ in held:  # the last two are of the last layer
        np.testing.assert_array_equal(weight, saved["output.weight"])
    _, labels, predictions = evaluate(prepared.engine, prepared.valid_batches)
    assert np.mean(labels == predictions) == history["valid_accuracy"].max()


# Memory

if ENGINE.NAME == "PyTorch":
    ERROR = RuntimeError
    NO_MEMORY = [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000",
        "MPS backend out of memory (MPS allocated: 17.17 GB, other allocations: 1 KB)",
        "Invalid buffer size: 20.00 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ]
else:
    from selfatt_lib.machinery.runtime import mx

    ERROR = mx.MXNetError
    NO_MEMORY = [
        "Failed to allocate CPU Memory",
        "cudaMalloc retry failed: out of memory",
        "CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS_STATUS_ALLOC_FAILED",
    ]


def is_training(engine):
    if ENGINE.NAME == "PyTorch":
        return engine.models[0].training
    return mx.autograd.is_recording()


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
    steps, objective = iter(range(1, 1000)), ENGINE.Engine.objective

    def too_large(engine, *arguments):
        if is_training(engine) and next(steps) == at_step:
            raise ERROR(NO_MEMORY[0])
        return objective(engine, *arguments)

    monkeypatch.setattr(ENGINE.Engine, "objective", too_large)
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
            ["gpu:0", "gpu:1"],
            64,
            [900, 1500],
            r"with batch_size=15 \(batches of 1,500 tokens did fit\), or go on .*'cpu'",
        ),
        (["cpu"], 64, [6300], r"with batch_size=32 \(batches of 6,300 .*\)\. In a"),
        (["cpu"], 2, [1], r"with batch_size=1 "),
        (["gpu:0"], 1, [100], r"Begin anew with a smaller max_tokens, or go on"),
    ],
)
def test_the_advice_depends_on_what_fitted(devices, batch_size, fitted, advice):
    config = TrainingConfig(batch_size=batch_size, bucket_ratio=0.5)
    with (
        pytest.raises(MemoryError, match=advice),
        recording.advice_on_memory(config, devices, 100, fitted),
    ):
        raise MemoryError("the memory does not suffice")


@pytest.mark.parametrize("said", NO_MEMORY)
def test_the_librarys_words_on_memory_become_a_memory_error(said, trained):
    with (
        pytest.raises(MemoryError, match=r"the memory of cpu does not suffice"),
        trained.engine.computing(),
    ):
        raise ERROR(said)


def test_another_error_of_the_library_is_passed_on(trained):
    with pytest.raises(ERROR, match="shape"), trained.engine.computing():
        raise ERROR("incompatible shape")
