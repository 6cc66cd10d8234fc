"""The paper in NumPy: held against its equations, written out for one review."""

import numpy as np
import pytest

from selfatt_lib import reference

B, T, E, U, R, C = 4, 9, 3, 5, 3, 5


def make_weights(pooling="flatten", num_layers=1, scale=0.7):
    rng = np.random.default_rng(1)
    sizes = {"vocab_size": 20, "embedding_size": E, "hidden_size": U}
    sizes |= {"num_layers": num_layers, "attention_units": 6, "attention_hops": R}
    sizes |= {"classifier_units": 8, "num_classes": C}
    sizes |= {"pooling": pooling, "prune_p": 3, "prune_q": 2}
    shapes = reference.weight_shapes(sizes)
    return {
        name: rng.normal(0, scale, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def make_batch():
    rng = np.random.default_rng(2)
    return rng.integers(0, 20, (B, T)), np.array([T, 1, 4, 6])


def one_way(x, weights, prefix):
    """Equations (2) and (3) in float64, word by word: (n, input) to (n, u)."""
    names = ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias")
    w_x, w_h, b_x, b_h = (weights[prefix + name].astype(float) for name in names)
    h, c, states = np.zeros(U), np.zeros(U), []
    for word in x:
        sums = w_x @ word + w_h @ h + b_x + b_h
        i, f, g, o = np.split(sums, 4)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        states.append(h)
    return np.array(states)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("pooling", ["flatten", "mean", "prune"])
def test_a_batch_gives_what_the_equations_give_for_each_review(pooling, num_layers):
    weights = make_weights(pooling, num_layers)
    tokens, valid_length = make_batch()
    logits, attention, embedding = reference.forward(
        tokens, valid_length, weights, pooling
    )
    for b, n in enumerate(valid_length):
        H = weights["embedding.weight"][tokens[b, :n]].astype(float)
        for layer in range(num_layers):
            ahead = one_way(H, weights, f"layers.{layer}.forward_lstm.")
            back = one_way(H[::-1], weights, f"layers.{layer}.backward_lstm.")[::-1]
            H = np.concatenate([ahead, back], axis=1)
        scores = weights["attention.w_s2.weight"] @ np.tanh(
            weights["attention.w_s1.weight"] @ H.T
        )
        A = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        M = A @ H
        if pooling == "prune":
            parts = [
                weights[f"hidden.{part}_weight"][k].T @ vector
                + weights[f"hidden.{part}_bias"][k, 0]
                for part, vectors in (("row", M), ("column", M.T))
                for k, vector in enumerate(vectors)
            ]
            units = np.concatenate(parts)
        else:
            pooled = M.mean(axis=0) if pooling == "mean" else M.ravel()
            units = weights["hidden.weight"] @ pooled + weights["hidden.bias"]
        expected = (
            weights["output.weight"] @ np.maximum(units, 0) + weights["output.bias"]
        )
        np.testing.assert_allclose(attention[b, :, :n], A, atol=1e-5)
        np.testing.assert_allclose(embedding[b], M, atol=1e-5)
        np.testing.assert_allclose(logits[b], expected, atol=1e-5)


def test_padding_and_company_change_nothing():
    weights, (tokens, valid_length) = make_weights(), make_batch()
    together = reference.forward(tokens, valid_length, weights)
    for b, n in enumerate(valid_length):
        alone = reference.forward(tokens[b : b + 1, :n], np.array([n]), weights)
        for one, many in zip(alone, together):
            read = many[b, :, :n] if many is together[1] else many[b]
            np.testing.assert_allclose(one[0], read, atol=1e-5)
    filled = np.concatenate([tokens, np.full((B, 5), 7)], axis=1)
    logits, attention, _ = reference.forward(filled, valid_length, weights)
    np.testing.assert_allclose(logits, together[0], atol=1e-5)
    is_word = np.arange(T + 5) < valid_length[:, None]
    assert (attention.transpose(0, 2, 1)[~is_word] == 0).all()
    np.testing.assert_allclose(attention.sum(axis=2), 1, atol=1e-6)


def test_everything_stays_in_float32():
    for found in reference.forward(*make_batch(), make_weights()):
        assert found.dtype == np.float32


def test_large_weights_saturate_without_overflow():
    with np.errstate(all="raise", under="ignore"):
        logits, _, _ = reference.forward(*make_batch(), make_weights(scale=100))
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("form", ["squared", "norm", "mean_squared"])
def test_the_penalty_is_the_squared_distance_from_the_identity(form):
    _, A, _ = reference.forward(*make_batch(), make_weights())
    _, lengths = make_batch()
    found = reference.penalty(A, form, lengths)
    for a, n, P in zip(A.astype(float), lengths, found):
        a = a[:, :n]
        expected = {
            "squared": np.linalg.norm(a @ a.T - np.eye(R)) ** 2,
            "norm": np.linalg.norm(a @ a.T - np.eye(R)),
            "mean_squared": ((a.T @ a - np.eye(n)) ** 2).mean(),
        }
        assert P == pytest.approx(expected[form], abs=1e-5)


def test_cross_entropy_is_the_weighted_log_of_the_right_class():
    logits = np.array([[0.0, np.log(3)], [1000.0, 0.0]])
    plain = reference.cross_entropy(logits, np.array([1, 1]))
    np.testing.assert_allclose(plain, [-np.log(0.75), 1000])
    weighted = reference.cross_entropy(logits, np.array([1, 1]), [9.0, 2.0])
    np.testing.assert_allclose(weighted, 2 * plain)
