"""Buckets of similar length, batches padded no further than their longest review."""

import numpy as np

from selfatt_lib.data.vocabulary import Vocabulary


def bucket_sampler(lengths, batch_size, num_buckets, ratio, rng=None):
    """Put reviews of similar length into batches, as GluonNLP's FixedBucketSampler.

    Parameters
    ----------
    lengths : array of int, shape (reviews,)
        At least one, none of them 0.
    batch_size, num_buckets : int
    ratio : float
        Lets buckets of short reviews have larger batches:
        ``max(ratio * batch_size * longest / length, batch_size)``.
    rng : numpy.random.RandomState, optional
        Draws the order of batches and of reviews in a bucket. Without it they come
        longest bucket first, in the order of the reviews.

    Returns
    -------
    list of ndarray of int
        The numbers of each batch's reviews.
    """
    lengths = np.asarray(lengths)
    longest, shortest = lengths.max(), lengths.min()
    width = max((1 + longest - shortest) // num_buckets, 1)
    # the greatest length that each bucket takes, the smallest first
    keys = np.unique(np.maximum(longest - width * np.arange(num_buckets), shortest))
    bucket_of = np.searchsorted(keys, lengths)  # the first whose key is long enough
    buckets = [np.flatnonzero(bucket_of == i) for i in range(len(keys))]
    sizes = [max(int(longest / key * ratio * batch_size), batch_size) for key in keys]
    batches = [  # reviews from `start` on in bucket i
        (i, start)
        for i in reversed(range(len(keys)))
        for start in range(0, len(buckets[i]), sizes[i])
    ]
    if rng:
        for drawn in (batches, *buckets):
            rng.shuffle(drawn)
    return [buckets[i][start : start + sizes[i]] for i, start in batches]


class Batches:
    """Batches of reviews of similar length.

    Parameters
    ----------
    tokenized : TokenizedTexts
        Numbered by `vocab` or otherwise.
    labels : array of int, shape (reviews,)
        The number of each review's class, from 0: `labels.class_numbers`.
    vocab : Vocabulary
        Gives the numbers of the words.
    batch_size : int, default 64
    num_buckets : int, default 10
        Reviews are sorted into so many buckets by length; a batch takes from one.
    bucket_ratio : float, default 0.5
        Lets buckets of short reviews have larger batches, see `bucket_sampler`.

    Attributes
    ----------
    lengths : ndarray of int64, shape (reviews,)
        Tokens of each review.

    Yields
    ------
    tokens : ndarray of int32, shape (B, T)
    valid_length : ndarray of int32, shape (B,)
    labels : ndarray of int32, shape (B,)

    Raises
    ------
    ValueError
        A review has no word (with its place), or `batch_size` or `num_buckets` is no
        whole number of at least 1.
    """

    def __init__(
        self,
        tokenized,
        labels,
        vocab,
        batch_size=64,
        num_buckets=10,
        bucket_ratio=0.5,
    ):
        self.tokenized, self.labels = tokenized, np.asarray(labels, dtype=np.int32)
        self.numbers = np.array(vocab[tokenized.words], dtype=np.int32)
        self.lengths = tokenized.lengths
        if not self.lengths.all():
            place = int(self.lengths.argmin()) + 1
            raise ValueError(
                f"review {place} of {len(self.lengths)} has no word; "
                "leave such reviews out, as load_reviews does"
            )
        for name, value in (("batch_size", batch_size), ("num_buckets", num_buckets)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(
                    f"{name} must be a whole number of at least 1; got {value!r}"
                )
        self.bucketing = batch_size, num_buckets, bucket_ratio
        self.in_order = bucket_sampler(self.lengths, *self.bucketing)

    def __len__(self):
        return len(self.in_order)

    def __iter__(self):
        return map(self.assemble, self.in_order)

    def shuffled(self, seed):
        """Yield the batches, and the reviews in them, in an order drawn with a seed."""
        rng = np.random.RandomState(seed)
        return map(self.assemble, bucket_sampler(self.lengths, *self.bucketing, rng))

    def assemble(self, numbers):
        """Return the batch of the reviews with these numbers."""
        valid_length = self.lengths[numbers].astype(np.int32)  # (B,)
        place = np.arange(valid_length.max())  # (T,)
        is_word = place < valid_length[:, None]  # (B, T)
        tokens = np.full(is_word.shape, Vocabulary.PADDING, np.int32)  # (B, T)
        # where each token lies in the flat array of all texts
        flat = self.tokenized.offsets[numbers][:, None] + place  # (B, T)
        tokens[is_word] = self.numbers[self.tokenized.ids[flat[is_word]]]
        return tokens, valid_length, self.labels[numbers]
