"""The training objective: weighted cross-entropy, and the penalty that keeps the attention hops apart."""

import numpy as np

from selfatt_lib.runtime import mx

nd, gluon = mx.nd, mx.gluon


def diversity_penalty(attention, squared=True):
    """Penalise hops that attend to the same tokens: P = ‖AAᵀ − I‖²_F.

    Entry (i, j) of AAᵀ measures how much hops i and j overlap; the diagonal nears 1 only where a hop concentrates on one
    token. The penalty therefore asks for hops that differ and that are focused.

    Parameters
    ----------
    attention : NDArray, shape (batch, hops, tokens)
        Attention weights; each row sums to 1.
    squared : bool, default True
        Take the squared Frobenius norm, as equation (8) of Lin et al. (2017) does. False gives the plain norm, which is what the
        GluonNLP tutorial's code computed.

    Returns
    -------
    NDArray, shape (batch,)
        0 where every hop looks at one token of its own, larger the more they overlap.

    Examples
    --------
    >>> float(diversity_penalty(nd.array([[[1, 0], [0, 1]]])).asscalar())
    0.0
    >>> float(diversity_penalty(nd.array([[[1, 0], [1, 0]]])).asscalar())
    2.0
    """
    # AAᵀ, shape (batch, hops, hops)
    overlap = nd.batch_dot(attention, attention, transpose_b=True)
    hops = attention.shape[1]
    identity = nd.eye(hops, ctx=attention.context, dtype=attention.dtype)
    squared_norm = nd.sum((overlap - identity) ** 2, axis=(1, 2))
    if squared:
        return squared_norm
    # The root has no derivative at 0; its subgradient 0 is taken there.
    root = nd.sqrt(nd.maximum(squared_norm, 1e-12))
    return nd.where(squared_norm > 0, root, nd.zeros_like(root))


class WeightedSoftmaxCE(gluon.HybridBlock):
    """Softmax cross-entropy in which each class has its weight: ``-weight[label] * log softmax(logits)[label]``.

    Parameters
    ----------
    class_weights : sequence of float, length C
        The factor on the loss of each class.

    Inputs
    ------
    logits : NDArray, shape (batch, C)
    labels : NDArray, shape (batch,)
        Class numbers from 0 to C - 1.

    Returns
    -------
    NDArray, shape (batch,)

    Examples
    --------
    >>> loss = WeightedSoftmaxCE([3.0, 1.0])
    >>> loss.initialize()
    >>> print(loss(nd.zeros((2, 2)), nd.array([0, 1])).asnumpy().round(3))
    [2.079 0.693]
    """

    def __init__(self, class_weights, **kwargs):
        super().__init__(**kwargs)
        self.class_weights = self.params.get_constant(
            "class_weights", nd.array(class_weights)
        )

    def hybrid_forward(self, F, logits, labels, class_weights):
        cross_entropy = -F.pick(F.log_softmax(logits, axis=-1), labels)
        return F.take(class_weights, labels) * cross_entropy


def class_weights(stars, num_classes=5):
    """Weigh each class by the commonest class's count over its own.

    Parameters
    ----------
    stars : array of int, shape (reviews,)
        From 1 to `num_classes`.
    num_classes : int, default 5

    Returns
    -------
    list of float, length `num_classes`
        1.0 for the commonest class, more for rarer ones, rounded to one decimal as the tutorial's [3.0, 5.3, 4.0, 2.0, 1.0]
        are. A class without a review weighs 1.0: no loss is ever multiplied by it.

    Raises
    ------
    ValueError
        There are no reviews.

    Examples
    --------
    >>> class_weights([1, 2, 2, 5, 5, 5, 5])
    [4.0, 2.0, 1.0, 1.0, 1.0]
    """
    stars = np.asarray(stars, dtype=int)
    counts = np.bincount(stars, minlength=num_classes + 1)[1:]
    most = counts.max()
    if not most:
        raise ValueError("class_weights needs at least one review; got none")
    return [round(float(most / count), 1) if count else 1.0 for count in counts]
