"""The model of Lin et al. (2017) in NumPy, one review at a time, written from the paper's equations.

It shares no code with `selfatt_lib.model`; the tests compare the two.
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(inputs, w_input, w_hidden, b_input, b_hidden):
    """Run an LSTM over inputs of shape (tokens, size); gates lie in the order input, forget, candidate, output."""
    units = w_hidden.shape[1]
    h, c, states = np.zeros(units), np.zeros(units), []
    for x in inputs:
        i, f, g, o = np.split(w_input @ x + b_input + w_hidden @ h + b_hidden, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.array(states)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def self_attentive_bilstm(tokens, weights, num_layers, pooling):
    """Return logits (C,) and attention (r, tokens) of one review: an array of word numbers without padding."""
    hidden = weights["embedding"][tokens]
    for layer in range(num_layers):
        forward = lstm(hidden, *weights[f"forward{layer}"])
        backward = lstm(hidden[::-1], *weights[f"backward{layer}"])[::-1]
        # H, equations (1) to (4): (n, 2u)
        hidden = np.concatenate([forward, backward], axis=1)
    # A, equation (6): (r, n)
    attention = softmax(weights["W_s2"] @ np.tanh(weights["W_s1"] @ hidden.T))
    embedding = attention @ hidden  # M, equation (7): (r, 2u)
    # appendix A: a group of units for each row and for each column
    if pooling == "prune":
        rows = [
            m @ w + b[0]
            for m, w, b in zip(embedding, weights["row_weight"], weights["row_bias"])
        ]
        columns = [
            m @ w + b[0]
            for m, w, b in zip(
                embedding.T, weights["column_weight"], weights["column_bias"]
            )
        ]
        units = np.concatenate(rows + columns)
    else:
        pooled = embedding.mean(axis=0) if pooling == "mean" else embedding.reshape(-1)
        units = weights["hidden_weight"] @ pooled + weights["hidden_bias"]
    return weights["output_weight"] @ np.maximum(units, 0) + weights[
        "output_bias"
    ], attention
