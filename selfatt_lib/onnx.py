"""A trained model as one ONNX file, for other programs: `reference.forward` once more.

The functions and letters are those of `reference`. Only the LSTM is a whole operator
of ONNX, which takes both directions and each review's length.
"""

import json
from importlib.metadata import version

import numpy as np

try:
    from onnx import TensorProto, checker, helper, numpy_helper
except ModuleNotFoundError:
    raise ImportError(
        "selfatt export needs the package onnx, which is not installed here: "
        "pip install onnx"
    ) from None

OPSET, IR_VERSION = 17, 8  # of 2022, so that older programs read it, too
# e to it is 0. -inf is not used: a GPU in a browser need not know infinities.
LOWEST = np.finfo(np.float32).min


def onnx_model(classifier):
    """Build the ONNX model of a trained run.

    Its inputs are ``tokens``, int64 of shape (batch, words), the numbers of the words,
    and ``valid_length``, int64 of shape (batch,), how many of them each review has,
    from 1 on; what stands beyond is ignored. Its outputs are those of
    `reference.forward`: ``logits``, whose softmax gives the probabilities,
    ``attention`` and ``embedding``.

    Its metadata are JSON: ``labels``, in the order of the logits; ``vocabulary``, the
    words in the order of their numbers, of which 0 stands for any unknown word;
    ``settings``, how a text becomes words: whether by `plain_text` first
    (``unescape_html``), and the arguments ``max_tokens``, ``lower`` and ``language`` of
    `tokenize`.

    Parameters
    ----------
    classifier : Classifier
        As `Classifier.load` returns it.

    Returns
    -------
    onnx.ModelProto
        In opset 17 and IR version 8. The same run gives the same model, and its
        ``SerializeToString(deterministic=True)`` the same bytes.

    Examples
    --------
    >>> from selfatt_lib.prediction import Classifier
    >>> model = onnx_model(Classifier.load("runs/quick"))  # doctest: +SKIP
    """
    sizes, floats = classifier.settings, TensorProto.FLOAT
    r = sizes.attention_hops
    graph = Graph(classifier.weights)
    forward(graph, sizes.num_layers, sizes.pooling)
    tensor = helper.make_tensor_value_info
    inputs = [
        tensor("tokens", TensorProto.INT64, ["batch", "words"]),
        tensor("valid_length", TensorProto.INT64, ["batch"]),
    ]
    outputs = [
        tensor("logits", floats, ["batch", sizes.num_classes]),
        tensor("attention", floats, ["batch", r, "words"]),
        tensor("embedding", floats, ["batch", r, 2 * sizes.hidden_size]),
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "selfatt", inputs, outputs, graph.constants()),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="selfatt",
        producer_version=version("selfatt"),
    )
    settings = dict(zip(("max_tokens", "lower", "language"), classifier.reading))
    settings["unescape_html"] = classifier.unescape_html
    about = {"labels": classifier.labels, "vocabulary": classifier.vocab.idx_to_token}
    about["settings"] = settings
    helper.set_model_props(model, {name: json.dumps(about[name]) for name in about})
    checker.check_model(model, full_check=True)
    return model


class Graph:
    """The nodes of an ONNX graph, and by name the arrays that they read."""

    def __init__(self, weights):
        self.nodes, self.arrays = [], dict(weights)

    def add(self, operator, *inputs, name=None, **attributes):
        """Add a node; return its output's name.

        An input is such a name, that of a weight, an array, or one or more integers.
        """
        name, names = name or f"{operator}_{len(self.nodes)}", []
        for place, each in enumerate(inputs):
            if isinstance(each, (int, list)):
                each = np.array(each, np.int64)
            if not isinstance(each, str):
                self.arrays[f"{name}.{place}"] = each
                each = f"{name}.{place}"
            names.append(each)
        self.nodes.append(helper.make_node(operator, names, [name], **attributes))
        return name

    def constants(self):
        """Return the arrays that the nodes read: list of TensorProto."""
        read = {name for node in self.nodes for name in node.input}
        arrays = self.arrays.items()
        return [numpy_helper.from_array(a, name) for name, a in arrays if name in read]


def forward(graph, num_layers, pooling):
    """Figure 1 of Lin et al. (2017)."""
    H = states(graph, num_layers)  # (T, B, 2u)
    A = attention(graph, H)  # (B, r, T)
    H = graph.add("Transpose", H, perm=[1, 0, 2])  # (B, T, 2u)
    M = graph.add("MatMul", A, H, name="embedding")  # equation (7): (B, r, 2u)
    classify(graph, M, pooling)


def states(graph, num_layers):
    """Equations (2) to (4): H, of which ONNX wants the words first, (T, B, 2u)."""
    add = graph.add
    n = add("Cast", "valid_length", to=TensorProto.INT32)  # (B,)
    tokens = add("Transpose", "tokens", perm=[1, 0])  # (T, B)
    H = add("Gather", "embedding.weight", tokens)  # word vectors: (T, B, E)
    for layer in range(num_layers):
        W, R, b = lstm_weights(graph.arrays, layer)
        sizes = {"hidden_size": R.shape[2], "direction": "bidirectional"}
        H = add("LSTM", H, W, R, b, n, **sizes)  # (T, 2, B, u)
        H = add("Transpose", H, perm=[0, 2, 1, 3])  # (T, B, 2, u)
        H = add("Reshape", H, [0, 0, -1])  # (T, B, 2u); 0 keeps a size
    return H


def lstm_weights(weights, layer):
    """Return W_x (2, 4u, input), W_h (2, 4u, u) and both biases (2, 8u) of a layer."""
    lstms = [f"layers.{layer}.{way}_lstm" for way in ("forward", "backward")]
    arrays = []
    for name in ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias"):
        both = np.stack([weights[f"{lstm}.{name}"] for lstm in lstms])  # (2, 4u, …)
        i, f, g, o = np.split(both, 4, axis=1)
        arrays.append(np.concatenate([i, o, f, g], axis=1))  # ONNX's order
    W_x, W_h, b_x, b_h = arrays
    return W_x, W_h, np.concatenate([b_x, b_h], axis=1)


def attention(graph, H):
    """Equation (6): A = softmax(W_s2 tanh(W_s1 Hᵀ)), shape (B, r, T)."""
    add = graph.add
    H = add("Transpose", H, perm=[1, 2, 0])  # Hᵀ: (B, 2u, T)
    units = add("Tanh", add("MatMul", "attention.w_s1.weight", H))  # (B, d_a, T)
    scores = add("MatMul", "attention.w_s2.weight", units)  # (B, r, T)
    T = add("Squeeze", add("Shape", "tokens", start=1))
    n = add("Unsqueeze", "valid_length", [1, 2])  # (B, 1, 1)
    is_word = add("Less", add("Range", 0, T, 1), n)  # (B, 1, T)
    scores = add("Where", is_word, scores, LOWEST)  # (B, r, T)
    return add("Softmax", scores, name="attention")


def classify(graph, M, pooling):
    """The paper's classifier: M (B, r, 2u), a ReLU layer, logits (B, C)."""
    add = graph.add
    if pooling == "prune":
        units = prune(graph, M)  # (B, r · p + 2u · q)
    else:
        if pooling == "mean":
            m = add("ReduceMean", M, axes=[1], keepdims=0)  # (B, 2u)
        else:
            m = add("Reshape", M, [0, -1])  # (B, r · 2u)
        units = add("Gemm", m, "hidden.weight", "hidden.bias", transB=1)  # (B, b)
    units = add("Relu", units)
    add("Gemm", units, "output.weight", "output.bias", transB=1, name="logits")


def prune(graph, M):
    """Appendix A: p units for each row of M and q for each column."""
    add, units = graph.add, []
    for part, perm in (("row", [1, 0, 2]), ("column", [2, 0, 1])):
        x = add("Transpose", M, perm=perm)  # rows (r, B, 2u), columns (2u, B, r)
        x = add("MatMul", x, f"hidden.{part}_weight")  # (r, B, p) and (2u, B, q)
        x = add("Add", x, f"hidden.{part}_bias")
        x = add("Transpose", x, perm=[1, 0, 2])  # (B, r, p) and (B, 2u, q)
        units.append(add("Reshape", x, [0, -1]))
    return add("Concat", *units, axis=1)  # (B, r · p + 2u · q)
