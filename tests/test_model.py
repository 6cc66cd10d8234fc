import numpy as np
import pytest

from selfatt_lib import reference
from selfatt_lib.machinery.runtime import mx, seed_everything
from selfatt_lib.model import BiLSTM, PrunedLayer, SelfAttention, SelfAttentiveBiLSTM

nd = mx.nd

PRUNE = {"prune_p": 3, "prune_q": 2}
REVIEWS = [[5, 2, 9, 4, 11, 3, 7], [6], [8, 8, 1, 0]]  # of 7, 1 and 4 tokens


def make_model(pooling="flatten", num_layers=2, hybridize=False, **arguments):
    seed_everything(3)
    sizes = {
        "hidden_size": 5,
        "attention_units": 6,
        "attention_hops": 3,
        "classifier_units": 8,
    }
    model = SelfAttentiveBiLSTM(
        12, 4, num_layers=num_layers, pooling=pooling, **PRUNE, **sizes, **arguments
    )
    model.initialize(mx.init.Normal(0.5))
    for name, parameter in model.collect_params().items():
        # initialised to zero, which would hide a bias that is not added
        if name.endswith("bias"):
            parameter.set_data(nd.random.normal(0, 0.5, shape=parameter.shape))
    if hybridize:
        model.hybridize()
    return model


def as_batch(reviews, width=None, padding=1):
    width = width or max(map(len, reviews))
    tokens = np.full((len(reviews), width), padding)
    for row, review in enumerate(reviews):
        tokens[row, : len(review)] = review
    return nd.array(tokens, dtype="int32"), nd.array(
        [len(review) for review in reviews], dtype="int32"
    )


def weights_of(model):
    parameters = model.named_parameters().items()
    return {name: parameter.data().asnumpy() for name, parameter in parameters}


@pytest.mark.parametrize("hybridize", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("pooling", ["flatten", "mean", "prune"])
def test_the_model_agrees_with_the_papers_equations(pooling, num_layers, hybridize):
    model = make_model(pooling, num_layers, hybridize)
    tokens, valid_length = as_batch(REVIEWS)
    found = model(tokens, valid_length)
    expected = reference.forward(
        tokens.asnumpy(), valid_length.asnumpy(), weights_of(model), pooling
    )
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours.asnumpy(), theirs, atol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("pooling", ["flatten", "mean", "prune"])
def test_the_weights_have_the_names_and_shapes_of_the_reference(pooling, num_layers):
    sizes = {
        "vocab_size": 12,
        "embedding_size": 4,
        "hidden_size": 5,
        "num_layers": num_layers,
        "attention_units": 6,
        "attention_hops": 3,
        "classifier_units": 8,
        "num_classes": 7,
        "pooling": pooling,
        **PRUNE,
    }
    parameters = SelfAttentiveBiLSTM(**sizes).named_parameters().items()
    found = {name: parameter.shape for name, parameter in parameters}
    assert found == reference.weight_shapes(sizes)


@pytest.mark.parametrize("pooling", ["flatten", "mean", "prune"])
def test_padding_and_company_change_nothing(pooling):
    model = make_model(pooling, hybridize=True)
    together, _ = model(*as_batch(REVIEWS))
    for arranged in (
        model(*as_batch(REVIEWS, width=30)),
        model(*as_batch(REVIEWS, width=30, padding=10)),
        [nd.concat(*(model(*as_batch([review]))[0] for review in REVIEWS), dim=0)],
        [model(*as_batch(REVIEWS[::-1]))[0][::-1]],
    ):
        np.testing.assert_allclose(arranged[0].asnumpy(), together.asnumpy(), atol=1e-5)


def test_attention_sums_to_one_over_the_review_and_is_exactly_zero_on_padding():
    _, attention = make_model()(*as_batch(REVIEWS, width=10))
    attention = attention.asnumpy()
    np.testing.assert_allclose(attention.sum(axis=-1), 1, atol=1e-6)
    for row, review in enumerate(REVIEWS):
        assert (attention[row, :, len(review) :] == 0).all()
        assert (attention[row, :, : len(review)] > 0).all()


@pytest.mark.parametrize("hybridize", [False, True])
def test_no_gradient_reaches_the_padding(hybridize):
    model = make_model(hybridize=hybridize, dropout=0.0)
    with mx.autograd.record():
        logits, _ = model(*as_batch([[5, 2], [3, 4, 6, 7]], padding=10))
        loss = (logits**2).sum()
    loss.backward()
    gradient = model.embedding.weight.grad().asnumpy()
    assert (gradient[10] == 0).all()
    assert (np.abs(gradient[[5, 2, 3, 4, 6, 7]]).sum(axis=1) > 0).all()


def test_a_frozen_embedding_gets_no_gradient():
    assert make_model(train_embedding=False).embedding.weight.grad_req == "null"
    assert make_model(train_embedding=True).embedding.weight.grad_req == "write"


@pytest.mark.parametrize(
    "arguments", [{"dropout": 0.5}, {"dropout": 0.0, "embedding_dropout": 0.5}]
)
def test_dropout_acts_in_training_only(arguments):
    model = make_model(**arguments)
    batch = as_batch(REVIEWS)
    np.testing.assert_array_equal(
        model(*batch)[0].asnumpy(), model(*batch)[0].asnumpy()
    )
    with mx.autograd.train_mode():
        assert (model(*batch)[0].asnumpy() != model(*batch)[0].asnumpy()).any()


@pytest.mark.parametrize("num_layers", [1, 3])
def test_dropout_lies_between_layers_and_around_the_hidden_layer(
    num_layers, monkeypatch
):
    model = make_model(num_layers=num_layers, embedding_dropout=0.1)
    dropped = []
    for block in (model.dropout, model.embedding_dropout):
        monkeypatch.setattr(
            block,
            "forward",
            lambda x, rate=block._rate: dropped.append((rate, x.shape)) or x,
        )
    model(*as_batch(REVIEWS))
    # word vectors (B, T, 4); states between the layers (B, T, 2u); M (B, r, 2u); the
    # hidden layer's units
    between = [(0.5, (3, 7, 10))] * (num_layers - 1)
    assert dropped == [(0.1, (3, 7, 4)), *between, (0.5, (3, 3, 10)), (0.5, (3, 8))]


def test_the_bilstm_reads_each_direction_within_the_review():
    seed_everything(0)
    layer = BiLSTM(3, 4)
    layer.initialize(mx.init.Normal(0.5))
    inputs = nd.random.normal(shape=(2, 6, 4))
    padded = layer(inputs, nd.array([4, 6])).asnumpy()
    alone = layer(inputs[:1, :4], nd.array([4])).asnumpy()
    np.testing.assert_allclose(padded[:1, :4], alone, atol=1e-6)


def check_gradient(function, array, epsilon=1e-6):
    """Compare a scalar function's gradient with central differences, in float64."""
    array = nd.array(array, dtype="float64")
    array.attach_grad()
    with mx.autograd.record():
        value = function(array)
    value.backward()
    numeric = np.zeros(array.size)
    for i in range(array.size):
        for sign in (1, -1):
            moved = array.asnumpy().copy()
            moved.reshape(-1)[i] += sign * epsilon
            numeric[i] += (
                sign
                * function(nd.array(moved, dtype="float64")).asscalar()
                / (2 * epsilon)
            )
    np.testing.assert_allclose(
        array.grad.asnumpy().reshape(-1), numeric, atol=1e-6, rtol=1e-5
    )
    assert np.abs(numeric).max() > 1e-4  # there was something to compare


@pytest.mark.parametrize("output", [0, 1])
def test_the_attentions_gradient_is_right(output):
    seed_everything(1)
    block = SelfAttention(3, 2, 4)
    block.initialize(mx.init.Normal(0.7))
    block.cast("float64")
    length = nd.array([3, 5], dtype="int32")
    target = nd.random.normal(shape=(2, 2, 4 if output == 0 else 5), dtype="float64")
    hidden = np.random.default_rng(0).normal(size=(2, 5, 4))
    check_gradient(lambda h: (block(h, length)[output] * target).sum(), hidden)


def test_the_pruned_layers_gradient_is_right():
    seed_everything(1)
    block = PrunedLayer(2, 4, 3, 2)
    block.initialize(mx.init.Normal(0.7))
    block.cast("float64")
    embedding = np.random.default_rng(0).normal(size=(2, 2, 4))
    check_gradient(lambda m: (block(m) ** 2).sum(), embedding)


def test_pruning_leaves_the_papers_number_of_weights():
    """Table 4: r = 30, 2u = 600, p = 150, q = 10 leave 2.88 million of 54 million."""
    layer = PrunedLayer(30, 600, 150, 10)
    weights = sum(
        np.prod(p.shape)
        for name, p in layer.collect_params().items()
        if name.endswith("weight")
    )
    assert weights == 2_880_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "max"}, "pooling must be one of flatten, mean, prune; got 'max'"),
        (
            {"pooling": "prune"},
            r"needs prune_p and prune_q \(for example 150 and 10\); got None and None",
        ),
        ({"pooling": "prune", "prune_p": 4}, "got 4 and None"),
    ],
)
def test_an_impossible_pooling_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SelfAttentiveBiLSTM(12, 4, 5, 1, 6, 3, 8, **arguments)
