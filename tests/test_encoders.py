"""The encoders that attention is held against, beside the same in NumPy."""

import numpy as np
import pytest

from conftest import finish, prepare
from selfatt_lib import engines, reference
from selfatt_lib.config import Encoder, TrainingConfig
from selfatt_lib.prediction import Classifier

OTHERS = [name for name in Encoder.__args__ if name != "attention"]


def make_engine(encoder, **given):
    sizes = {"hidden_size": 6, "classifier_units": 7, "num_layers": 2} | given
    config = TrainingConfig(encoder=encoder, engine="mxnet", device="cpu", **sizes)
    vectors = np.random.default_rng(0).normal(size=(30, 5)).astype("float32")
    return engines.build(config, vectors, num_classes=3)


def batch(lengths, tokens=None, seed=0):
    shape = len(lengths), tokens or max(lengths)
    numbers = np.random.default_rng(seed).integers(0, 30, shape).astype("int32")
    return numbers, np.array(lengths, "int32"), np.zeros(len(lengths), int)


def embed(encoder, words, weights):
    """A review's vector, from word vectors (n, E), by the formula."""
    n = np.array([len(words)])
    H = words[None]
    if encoder not in ("average", "cnn"):
        for layer in range(2):
            H = reference.bilstm(H, n, weights, layer)
    H = H[0]
    u = H.shape[1] // 2
    if encoder == "last":
        return np.concatenate([H[-1, :u], H[0, u:]])
    if encoder == "max":
        return H.max(axis=0)
    if encoder in ("average", "uniform"):
        return H.mean(axis=0)
    found = []
    for number, width in enumerate((3, 4, 5)):
        W, b = (
            weights[f"encoder.convolutions.{number}.{name}"]
            for name in ("weight", "bias")
        )
        before = width // 2
        padded = np.pad(H, ((before, width - 1 - before), (0, 0)))
        windows = [padded[t : t + width].T for t in range(len(H))]  # (E, w) each
        values = [
            np.maximum((W * window).sum(axis=(1, 2)) + b, 0) for window in windows
        ]
        found.append(np.max(values, axis=0))
    return np.concatenate(found)


@pytest.mark.parametrize("encoder", OTHERS)
def test_an_encoder_computes_its_formula_whatever_stands_at_padding(encoder):
    engine, (tokens, lengths, labels) = make_engine(encoder), batch([1, 2, 9, 4, 6])
    _, logits = engine.evaluate((tokens, lengths, labels)).read()
    weights = engine.weights()
    for row, n in enumerate(lengths):
        words = weights["embedding.weight"][tokens[row, :n]]
        m = embed(encoder, words, weights)
        hidden = weights["hidden.weight"] @ m + weights["hidden.bias"]
        hidden = np.maximum(hidden, 0)
        expected = weights["output.weight"] @ hidden + weights["output.bias"]
        np.testing.assert_allclose(logits[row], expected, atol=1e-5)


@pytest.mark.parametrize("encoder", OTHERS)
def test_a_step_moves_every_weight(encoder):
    engine = make_engine(encoder)
    before = engine.weights()
    engine.step(batch([3, 7, 5]))
    for name, array in engine.weights().items():
        assert (array != before[name]).any(), name


def test_uniform_is_attention_with_all_weights_alike():
    uniform = make_engine("uniform", attention_hops=1)
    attention = make_engine("attention", attention_hops=1)
    weights = uniform.weights()
    silent = {
        name: np.zeros_like(array)
        for name, array in attention.weights().items()
        if name.startswith("attention")
    }
    attention.load_weights(weights | silent)
    given = batch([3, 1, 8])
    both = (engine.evaluate(given).read()[1] for engine in (uniform, attention))
    np.testing.assert_allclose(*both, atol=1e-6)


@pytest.mark.parametrize("encoder", ["max", "cnn"])
def test_a_run_of_another_encoder_is_trained_scored_and_resumed(encoder, tmp_path):
    encoder = {"encoder": encoder, "engine": "mxnet", "learning_rate": 0.02}
    prepared = prepare(tmp_path, epochs=1, **encoder)
    assert finish(prepared)["epochs"] == 1
    prepared = prepare(tmp_path, epochs=6, resume=True, **encoder)
    assert finish(prepared)["accuracy"] > 0.5
    with pytest.raises(ValueError, match=r"its encoder is '[a-z]*', which is for comp"):
        Classifier.load(tmp_path)


@pytest.mark.parametrize("engine", ["auto", "pytorch"])
def test_an_encoder_needs_mxnet_by_name(engine):
    with pytest.raises(ValueError, match="'cnn' needs engine='mxnet'; got engine="):
        TrainingConfig(encoder="cnn", engine=engine)


def test_the_notebook_refuses_other_encoders_before_any_work():
    with pytest.raises(ValueError, match="encoder='cnn' is for comparisons, without"):
        TrainingConfig.from_namespace({"encoder": "cnn", "engine": "mxnet"})
