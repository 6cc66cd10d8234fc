"""Batches: their order, their padding."""

import numpy as np
import pytest

from conftest import make_reviews
from selfatt_lib.data.batches import Batches
from selfatt_lib.data.tokens import tokenize_all
from selfatt_lib.data.vocabulary import build_vocab


def make_batches(size=200, **options):
    reviews = make_reviews(size)
    tokenized = tokenize_all(reviews["text"])
    vocab = build_vocab(tokenized)
    encoded = tokenized.encode(vocab)
    return (
        encoded,
        reviews["label"],
        Batches(
            encoded,
            reviews["label"],
            vocab,
            **{"batch_size": 16, "num_buckets": 4, **options},
        ),
    )


def contents(batches):
    """Return each review of each batch as (tokens, label)."""
    found = []
    for tokens, valid_length, labels in batches:
        for row, length, label in zip(tokens, valid_length, labels):
            found.append((tuple(row[:length]), int(label)))
    return found


def test_each_review_comes_once_an_epoch_with_its_label():
    encoded, labels, batches = make_batches()
    expected = sorted((tuple(encoded[i]), label) for i, label in enumerate(labels))
    for epoch in (batches, batches, batches.shuffled(0), batches.shuffled(1)):
        assert sorted(contents(epoch)) == expected


def test_batches_are_padded_to_their_longest_review_and_with_the_padding_word():
    _, _, batches = make_batches()
    for tokens, valid_length, labels in batches:
        assert (tokens.dtype, valid_length.dtype, labels.dtype) == (
            np.int32,
            np.int32,
            np.int32,
        )
        assert tokens.shape[1] == valid_length.max()
        beyond = np.arange(tokens.shape[1]) >= valid_length[:, None]
        assert (tokens[beyond] == 1).all()
        assert (tokens[~beyond] != 1).all()


def test_buckets_save_padding():
    def padded(batches):
        real, total = np.sum(
            [(length.sum(), tokens.size) for tokens, length, _ in batches.shuffled(0)],
            axis=0,
        )
        return 1 - real / total

    bucketed, single = (
        make_batches(400, num_buckets=n, bucket_ratio=0)[2] for n in (5, 1)
    )
    assert padded(bucketed) < padded(single) / 2


def test_a_review_without_a_word_is_refused_with_its_place():
    tokenized = tokenize_all(["good film", " ", "bad"])
    with pytest.raises(ValueError, match="review 2 of 3 has no word"):
        Batches(tokenized, [5, 3, 1], build_vocab(tokenized))


def test_short_reviews_come_in_batches_as_large_as_the_ratio_says():
    # the shortest of four buckets is a quarter as long as the longest
    for ratio, larger in ((0, 1), (0.5, 2), (1.0, 4)):
        sizes = [
            len(tokens) for tokens, _, _ in make_batches(2000, bucket_ratio=ratio)[2]
        ]
        assert max(sizes) == pytest.approx(16 * larger, rel=0.3)


def test_the_order_depends_on_the_seed_alone_not_on_earlier_epochs():
    _, _, batches = make_batches()
    orders = [contents(batches.shuffled(seed)) for seed in (1, 2, 1)]
    assert orders[0] == orders[2] != orders[1]


def test_the_number_of_batches_is_known_beforehand():
    _, _, batches = make_batches()
    assert len(batches) == len(list(batches)) == len(list(batches.shuffled(0)))
