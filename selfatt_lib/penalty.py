"""The training objective: weighted cross-entropy, and what keeps the hops apart."""

from selfatt_lib.config import PenaltyForm
from selfatt_lib.machinery.runtime import mx

nd, gluon = mx.nd, mx.gluon


FORMS = PenaltyForm.__args__


def diversity_penalty(attention, form="squared", valid_length=None):
    """Penalise hops that attend to the same tokens, equation (8): P = ‖AAᵀ − I‖²_F.

    Entry (i, j) of AAᵀ measures how much hops i and j overlap; the diagonal nears 1
    only where a hop concentrates on one token. The penalty therefore asks for hops that
    differ and that are focused.

    Parameters
    ----------
    attention : NDArray, shape (B, r, T)
        A; each row sums to 1.
    form : {"squared", "norm", "mean_squared"}, default "squared"
        Whose penalty it is:

        - "squared": P, equation (8) of Lin et al. (2017);
        - "norm": its root, what the GluonNLP tutorial's code computes;
        - "mean_squared": the mean of the n² entries of (AᵀA − I)², what the authors'
          code computes. It is (P + n − r) / n² for n tokens and r hops. Theirs counts
          the padding of a batch among the n tokens; here n is the review's own length.
    valid_length : NDArray, shape (B,), optional
        n of each review; all the tokens by default. Only "mean_squared" depends on it.

    Returns
    -------
    NDArray, shape (B,)
        "squared" and "norm" are 0 where every hop looks at one token of its own, larger
        the more the hops overlap.

    Raises
    ------
    ValueError
        Unknown form.

    Examples
    --------
    >>> same_word = nd.array([[[1, 0], [1, 0]]])
    >>> float(diversity_penalty(same_word).asscalar())
    2.0
    >>> float(diversity_penalty(same_word, "mean_squared").asscalar())
    0.5
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}")
    _, hops, tokens = attention.shape
    overlap = nd.batch_dot(attention, attention, transpose_b=True)  # AAᵀ: (B, r, r)
    identity = nd.eye(hops, ctx=attention.context, dtype=attention.dtype)  # (r, r)
    P = nd.sum((overlap - identity) ** 2, axis=(1, 2))  # (B,)
    if form == "norm":
        # The root has no derivative at 0; its subgradient 0 is taken there.
        root = nd.sqrt(nd.maximum(P, 1e-12))
        return nd.where(P > 0, root, nd.zeros_like(root))
    if form == "mean_squared":
        n = tokens if valid_length is None else valid_length.astype(P.dtype)
        return (P + n - hops) / n**2
    return P


class WeightedSoftmaxCE(gluon.HybridBlock):
    """Cross-entropy with a weight for each class: -w_y log softmax(logits)_y.

    Parameters
    ----------
    class_weights : sequence of float, length C
        The factor on the loss of each class.

    Inputs
    ------
    logits : NDArray, shape (B, C)
    labels : NDArray, shape (B,)
        Class numbers from 0 to C - 1.

    Returns
    -------
    NDArray, shape (B,)

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
        cross_entropy = -F.pick(F.log_softmax(logits, axis=-1), labels)  # (B,)
        return F.take(class_weights, labels) * cross_entropy
