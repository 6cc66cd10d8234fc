"""The model of Lin et al. (2017) in NumPy, from the paper's equations.

It reads a padded batch: B reviews of at most T tokens; a review has n of them. u are
the LSTM's units in a direction, d_a the attention's, r its hops, C the classes. The
paper's letters are kept: H are the states, A is the attention, M = AH the sentence
embedding.

`weights` is a dict of arrays, and these are the names in ``model.safetensors``. Gates
lie below each other in the order i, f, g, o (input, forget, candidate, output):

==========================================  ============================================
``embedding.weight``                        (words, E)
``layers.K.forward_lstm.i2h_weight``        (4u, E); above the first layer (4u, 2u)
``layers.K.forward_lstm.h2h_weight``        (4u, u)
``layers.K.forward_lstm.i2h_bias``          (4u,), and ``h2h_bias`` likewise
``layers.K.backward_lstm.…``                the same four for the other direction
``attention.w_s1.weight``                   (d_a, 2u)
``attention.w_s2.weight``                   (r, d_a)
``hidden.weight``, ``hidden.bias``          (b, r · 2u), (b,); pooling "mean": (b, 2u)
``hidden.row_weight``, ``row_bias``         pooling "prune": (r, 2u, p), (r, 1, p)
``hidden.column_weight``, ``column_bias``   pooling "prune": (2u, r, q), (2u, 1, q)
``output.weight``, ``output.bias``          (C, units of the hidden layer), (C,)
==========================================  ============================================
"""

import numpy as np


def forward(tokens, valid_length, weights, pooling="flatten"):
    """Read reviews: figure 1 of Lin et al. (2017).

    Parameters
    ----------
    tokens : ndarray of int, shape (B, T)
        Word numbers; what stands beyond a review's length is ignored.
    valid_length : ndarray of int, shape (B,)
        n of each review, from 1 to T.
    weights : dict of ndarray
        Named as above.
    pooling : {"flatten", "mean", "prune"}, default "flatten"

    Returns
    -------
    logits : ndarray, shape (B, C)
    attention : ndarray, shape (B, r, T)
        Each row sums to 1 over the review's tokens and is exactly 0 on padding.
    embedding : ndarray, shape (B, r, 2u)
    """
    H = states(tokens, valid_length, weights)  # (B, T, 2u)
    A = attention(H, valid_length, weights)  # (B, r, T)
    M = A @ H  # equation (7): (B, r, 2u)
    return classify(M, weights, pooling), A, M


def states(tokens, valid_length, weights):
    """Return H, the states of the last LSTM layer: ndarray, shape (B, T, 2u)."""
    H = weights["embedding.weight"][tokens]  # word vectors: (B, T, E)
    layer = 0
    while f"layers.{layer}.forward_lstm.i2h_weight" in weights:
        H = bilstm(H, valid_length, weights, layer)  # (B, T, 2u)
        layer += 1
    return H


def bilstm(x, valid_length, weights, layer=0):
    """Equations (2) to (4): h_t from both sides, (B, T, input) to (B, T, 2u)."""
    B, T, _ = x.shape
    x = np.stack([x, reverse(x, valid_length)])  # (2, B, T, input)
    lstms = (f"layers.{layer}.forward_lstm.", f"layers.{layer}.backward_lstm.")
    W_x, W_h, b_x, b_h = (
        np.stack([weights[lstm + name].T for lstm in lstms])
        for name in ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias")
    )  # (2, input, 4u), (2, u, 4u), (2, 4u), (2, 4u)
    # W_x x_t + b needs no state, so it is one product for all words
    from_x = x.reshape(2, B * T, -1) @ W_x + (b_x + b_h)[:, None]
    from_x = from_x.reshape(2, B, T, -1)  # (2, B, T, 4u)
    h = c = np.zeros((2, B, W_h.shape[1]), x.dtype)  # (2, B, u)
    states = []
    for t in range(T):
        h, c = lstm_cell(from_x[:, :, t] + h @ W_h, c)
        states.append(h)
    ahead, back = np.stack(states, axis=2)  # (B, T, u) each
    back = reverse(back, valid_length)
    return np.concatenate([ahead, back], axis=2)  # (B, T, 2u)


def reverse(x, valid_length):
    """Turn each review around within its own length; padding keeps its place."""
    place, n = np.arange(x.shape[1]), valid_length[:, None]
    from_end = np.where(place < n, n - 1 - place, place)  # (B, T)
    return np.take_along_axis(x, from_end[:, :, None], axis=1)


def lstm_cell(sums, c):
    """From W_x x_t + W_h h_{t-1} + b (…, 4u) and c_{t-1} (…, u) to h_t and c_t."""
    u = c.shape[-1]
    # sums of i, f, g, o lie side by side: σ makes the gates i, f, o, tanh makes g
    gates = sigmoid(sums)
    i, f, o = (gates[..., k * u : (k + 1) * u] for k in (0, 1, 3))  # (…, u) each
    g = np.tanh(sums[..., 2 * u : 3 * u])  # (…, u)
    c = f * c + i * g  # c_t = f_t c_{t-1} + i_t g_t
    h = o * np.tanh(c)  # h_t = o_t tanh(c_t)
    return h, c


def sigmoid(x):
    """σ(x) = 1 / (1 + e^-x), so written that no power overflows."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def attention(H, valid_length, weights):
    """Equation (6): A = softmax(W_s2 tanh(W_s1 Hᵀ)), shape (B, r, T)."""
    W_s1, W_s2 = weights["attention.w_s1.weight"], weights["attention.w_s2.weight"]
    scores = W_s2 @ np.tanh(W_s1 @ H.transpose(0, 2, 1))  # (B, r, T)
    is_word = np.arange(H.shape[1]) < valid_length[:, None]  # (B, T)
    return softmax(np.where(is_word[:, None], scores, -np.inf))  # (B, r, T)


def softmax(x):
    """exp(x) over its sum, along the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def classify(M, weights, pooling="flatten"):
    """The paper's classifier: M (B, r, 2u), a ReLU layer, logits (B, C)."""
    if pooling == "prune":
        units = prune(M, weights)  # (B, r · p + 2u · q)
    else:
        m = M.mean(axis=1) if pooling == "mean" else M.reshape(len(M), -1)
        units = m @ weights["hidden.weight"].T + weights["hidden.bias"]  # (B, b)
    units = np.maximum(units, 0)  # ReLU
    return units @ weights["output.weight"].T + weights["output.bias"]  # (B, C)


def prune(M, weights):
    """Appendix A: p units for each row of M and q for each column."""
    rows = M.transpose(1, 0, 2) @ weights["hidden.row_weight"]  # (r, B, p)
    rows = (rows + weights["hidden.row_bias"]).transpose(1, 0, 2)  # (B, r, p)
    columns = M.transpose(2, 0, 1) @ weights["hidden.column_weight"]  # (2u, B, q)
    columns = (columns + weights["hidden.column_bias"]).transpose(1, 0, 2)
    units = [rows.reshape(len(M), -1), columns.reshape(len(M), -1)]
    return np.concatenate(units, axis=1)  # (B, r · p + 2u · q)


def penalty(A, form="squared", valid_length=None):
    """Equation (8): P = ‖AAᵀ - I‖²_F of each review, shape (B,).

    "norm" is its root, the tutorial's; "mean_squared" is that of the authors' code.
    """
    _, r, T = A.shape
    P = ((A @ A.transpose(0, 2, 1) - np.eye(r, dtype=A.dtype)) ** 2).sum(axis=(1, 2))
    if form == "norm":  # the tutorial's
        return np.sqrt(P)
    if form == "mean_squared":  # the authors' code: (AᵀA - I)², its mean
        n = T if valid_length is None else valid_length
        return (P + n - r) / n**2
    return P


def cross_entropy(logits, labels, class_weights=None):
    """-w_y log softmax(logits)_y of each review, shape (B,); labels from 0 to C - 1."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))  # (B, C)
    loss = -log_p[np.arange(len(labels)), labels]
    return loss if class_weights is None else np.asarray(class_weights)[labels] * loss


def class_weights(labels, num_classes):
    """Weigh each class by the commonest class's count over its own.

    Parameters
    ----------
    labels : array of int, shape (reviews,)
        From 0 to C - 1.
    num_classes : int
        C.

    Returns
    -------
    list of float, length C
        1.0 for the commonest class, more for rarer ones, rounded to one decimal as the
        tutorial's [3.0, 5.3, 4.0, 2.0, 1.0] are. A class without a review weighs 1.0:
        no loss is ever multiplied by it.

    Raises
    ------
    ValueError
        There are no reviews.

    Examples
    --------
    >>> class_weights([0, 1, 1, 4, 4, 4, 4], 5)
    [4.0, 2.0, 1.0, 1.0, 1.0]
    """
    counts = np.bincount(np.asarray(labels, dtype=int), minlength=num_classes)
    most = counts.max()
    if not most:
        raise ValueError("class_weights needs at least one review; got none")
    return [round(float(most / count), 1) if count else 1.0 for count in counts]


def weight_shapes(sizes):
    """Return the shape of each weight: dict of tuple.

    `sizes` is a dict of the model's sizes, named as the arguments of
    `model.SelfAttentiveBiLSTM`.
    """
    u, r, b = sizes["hidden_size"], sizes["attention_hops"], sizes["classifier_units"]
    E, d_a, C = sizes["embedding_size"], sizes["attention_units"], sizes["num_classes"]
    shapes = {"embedding.weight": (sizes["vocab_size"], E)}
    for layer in range(sizes["num_layers"]):
        for direction in ("forward", "backward"):
            lstm = f"layers.{layer}.{direction}_lstm"
            shapes[f"{lstm}.i2h_weight"] = (4 * u, 2 * u if layer else E)
            shapes[f"{lstm}.h2h_weight"] = (4 * u, u)
            shapes |= {f"{lstm}.{side}_bias": (4 * u,) for side in ("i2h", "h2h")}
    shapes["attention.w_s1.weight"] = (d_a, 2 * u)
    shapes["attention.w_s2.weight"] = (r, d_a)
    if sizes["pooling"] == "prune":
        p, q = sizes["prune_p"], sizes["prune_q"]
        b = r * p + 2 * u * q
        shapes["hidden.row_weight"] = (r, 2 * u, p)
        shapes["hidden.row_bias"] = (r, 1, p)
        shapes["hidden.column_weight"] = (2 * u, r, q)
        shapes["hidden.column_bias"] = (2 * u, 1, q)
    else:
        rows = 1 if sizes["pooling"] == "mean" else r
        shapes["hidden.weight"], shapes["hidden.bias"] = (b, 2 * u * rows), (b,)
    return shapes | {"output.weight": (C, b), "output.bias": (C,)}
