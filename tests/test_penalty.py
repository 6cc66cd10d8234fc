import numpy as np
import pytest
from test_model import check_gradient

from selfatt_lib.machinery.runtime import mx
from selfatt_lib.penalty import WeightedSoftmaxCE, diversity_penalty
from selfatt_lib.reference import class_weights

nd = mx.nd


def test_hops_on_tokens_of_their_own_cost_nothing():
    attention = nd.array([[[1, 0, 0], [0, 0, 1]]])
    assert diversity_penalty(attention).asscalar() == 0
    assert diversity_penalty(attention, "norm").asscalar() == 0


def test_equal_hops_cost_what_one_computes_by_hand():
    """Two hops (½, ½, 0): AAᵀ is ½ everywhere, AAᵀ − I is ±½: the squares' sum is 1."""
    attention = nd.array([[[0.5, 0.5, 0], [0.5, 0.5, 0]]])
    np.testing.assert_allclose(diversity_penalty(attention).asnumpy(), [1.0])
    # six entries of 1 off the diagonal
    attention = nd.array([[[1, 0], [1, 0], [1, 0]]])
    np.testing.assert_allclose(diversity_penalty(attention).asnumpy(), [6.0])
    np.testing.assert_allclose(
        diversity_penalty(attention, "norm").asnumpy(), [np.sqrt(6)], rtol=1e-6
    )
    # AᵀA − I is (3 − 1, 0; 0, −1): the mean of 4, 0, 0 and 1
    np.testing.assert_allclose(
        diversity_penalty(attention, "mean_squared").asnumpy(), [5 / 4]
    )


def test_each_review_has_its_own_penalty_and_padding_adds_none():
    attention = np.random.default_rng(0).dirichlet(np.ones(5), size=(4, 3))
    expected = [np.linalg.norm(a @ a.T - np.eye(3)) ** 2 for a in attention]
    padded = np.concatenate([attention, np.zeros((4, 3, 2))], axis=-1)
    np.testing.assert_allclose(
        diversity_penalty(nd.array(attention)).asnumpy(), expected, rtol=1e-5
    )
    np.testing.assert_allclose(
        diversity_penalty(nd.array(padded)).asnumpy(), expected, rtol=1e-5
    )


@pytest.mark.parametrize("form", ["squared", "norm", "mean_squared"])
def test_the_penaltys_gradient_is_right(form):
    attention = np.random.default_rng(0).dirichlet(np.ones(4), size=(2, 3))
    check_gradient(lambda a: diversity_penalty(a, form).sum(), attention)


def test_the_authors_penalty_is_the_mean_of_their_matrix_over_a_reviews_own_tokens():
    """In every review as if it stood alone, however far its batch is padded."""
    lengths = [3, 7, 5, 1]
    attention = np.zeros((4, 3, 9))
    for row, n in zip(attention, lengths):
        row[:, :n] = np.random.default_rng(n).dirichlet(np.ones(n), size=3)
    alone = [row[:, :n] for row, n in zip(attention, lengths)]
    expected = [((a.T @ a - np.eye(a.shape[1])) ** 2).mean() for a in alone]
    found = diversity_penalty(nd.array(attention), "mean_squared", nd.array(lengths))
    np.testing.assert_allclose(found.asnumpy(), expected, rtol=1e-5)


def test_the_authors_penalty_pulls_a_squared_length_less():
    attention = nd.array(np.random.default_rng(0).dirichlet(np.ones(20), size=(1, 4)))
    attention.attach_grad()
    pulls = {}
    for form in ("squared", "mean_squared"):
        with mx.autograd.record():
            penalty = diversity_penalty(attention, form, nd.array([20], dtype="int32"))
        penalty.backward()
        pulls[form] = attention.grad.asnumpy()
    np.testing.assert_allclose(
        pulls["mean_squared"], pulls["squared"] / 20**2, rtol=1e-4
    )


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="one of squared, norm, mean_squared; got 'cu"):
        diversity_penalty(nd.ones((1, 1, 1)), "cubed")


def test_the_plain_norm_has_a_gradient_where_the_penalty_is_zero():
    attention = nd.array([[[1, 0], [0, 1]]])
    attention.attach_grad()
    with mx.autograd.record():
        penalty = diversity_penalty(attention, "norm").sum()
    penalty.backward()
    assert np.isfinite(attention.grad.asnumpy()).all()


def test_weights_scale_the_loss_of_their_class():
    logits = nd.array(np.random.default_rng(0).normal(size=(6, 3)))
    labels = nd.array([0, 1, 2, 2, 1, 0])
    plain = mx.gluon.loss.SoftmaxCrossEntropyLoss()(logits, labels).asnumpy()
    weighted = WeightedSoftmaxCE([3.0, 1.0, 0.5])
    weighted.initialize()
    np.testing.assert_allclose(
        weighted(logits, labels).asnumpy(), plain * [3, 1, 0.5, 0.5, 1, 3], rtol=1e-5
    )


def test_the_weighted_losss_gradient_is_right():
    loss = WeightedSoftmaxCE([3.0, 1.0, 0.5])
    loss.initialize()
    loss.cast("float64")
    labels = nd.array([0, 2], dtype="float64")
    check_gradient(
        lambda logits: loss(logits, labels).sum(),
        np.random.default_rng(0).normal(size=(2, 3)),
    )


def test_class_weights_are_the_tutorials_from_such_counts():
    """The tutorial's [3.0, 5.3, 4.0, 2.0, 1.0]: the commonest count over each count."""
    counts = [20_000, 11_300, 15_000, 30_000, 60_000]
    labels = np.repeat([0, 1, 2, 3, 4], counts)
    assert class_weights(labels, 5) == [3.0, 5.3, 4.0, 2.0, 1.0]


def test_a_class_without_reviews_has_a_finite_weight():
    assert class_weights([4, 4], 5) == [1.0] * 5


def test_class_weights_of_nothing_are_refused():
    with pytest.raises(ValueError, match="at least one review"):
        class_weights([], 5)
