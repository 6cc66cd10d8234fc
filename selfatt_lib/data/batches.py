"""Buckets of similar length, batches padded no further than their longest review, and their way to the devices."""

import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np

from selfatt_lib.machinery.runtime import mx, nlp


class Batches:
    """Batches of reviews of similar length.

    Parameters
    ----------
    tokenized : TokenizedTexts
        Numbered by `vocab` or otherwise.
    stars : array of int, shape (reviews,)
        From 1 to 5.
    vocab : gluonnlp.Vocab
        Gives the numbers of the words and of the padding.
    batch_size : int, default 64
    num_buckets : int, default 10
        Reviews are sorted into so many buckets by length; a batch takes from one.
    bucket_ratio : float, default 0.5
        Lets buckets of short reviews have larger batches: ``max(ratio * batch_size * longest / length, batch_size)``.
    shuffle : bool, default False
        Draw the order of reviews and batches from NumPy's global generator, anew at each iteration. The order depends on the
        generator's state alone, not on earlier iterations.

    Yields
    ------
    tokens : NDArray of int32, shape (B, T)
    valid_length : NDArray of int32, shape (B,)
    stars : NDArray of float32, shape (B,)
        As given, from 1 to 5.

    Raises
    ------
    ValueError
        A review has no word (with its place).
    """

    def __init__(
        self,
        tokenized,
        stars,
        vocab,
        batch_size=64,
        num_buckets=10,
        bucket_ratio=0.5,
        shuffle=False,
    ):
        self.tokenized, self.stars = tokenized, np.asarray(stars, dtype=np.float32)
        self.bucketing = {
            "batch_size": batch_size,
            "num_buckets": num_buckets,
            "ratio": bucket_ratio,
            "shuffle": shuffle,
        }
        self.numbers = np.array(vocab[tokenized.words], dtype=np.int32)
        self.padding = vocab[vocab.padding_token]
        self.lengths = tokenized.lengths
        if not self.lengths.all():
            place = int(self.lengths.argmin()) + 1
            raise ValueError(
                f"review {place} of {len(self.lengths)} has no word; leave such reviews out, as load_reviews does"
            )

    def sampler(self):
        """Return a fresh sampler: an iterable of lists of review numbers."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Some buckets are empty")
            return nlp.data.FixedBucketSampler(self.lengths, **self.bucketing)

    def assemble(self, reviews):
        """Return the batch of the reviews with these numbers, as it is yielded but in arrays of NumPy."""
        ids, offsets = self.tokenized.ids, self.tokenized.offsets[reviews]
        valid_length = self.lengths[reviews].astype(np.int32)
        place = np.arange(valid_length.max())
        is_word = place < valid_length[:, None]
        tokens = np.full(is_word.shape, self.padding, np.int32)
        tokens[is_word] = self.numbers[ids[(offsets[:, None] + place)[is_word]]]
        return tokens, valid_length, self.stars[reviews]

    def arrays(self):
        """Yield the batches in arrays of NumPy."""
        return map(self.assemble, self.sampler())

    @cached_property
    def _num_batches(self):
        return len(self.sampler())

    def __len__(self):
        return self._num_batches

    def __iter__(self):
        for arrays in self.arrays():
            yield tuple(map(mx.nd.from_numpy, arrays))


def on_devices(batches, devices, ahead=2):
    """Bring batches to the devices, the next ones while the model still works on the last.

    A batch is dealt out evenly. A device that is left without a review, since the batch has fewer than there are devices, gets one with
    a share of 0.

    Parameters
    ----------
    batches : Batches
    devices : list of mxnet.Context
    ahead : int, default 2
        So many batches are made in advance, by a thread.

    Yields
    ------
    list of (share, tokens, valid_length, stars)
        For each device the share of the batch's reviews, which add up to 1, and the arrays as `Batches` yields them.
    """

    def deal_out(*arrays):
        count, parts = len(arrays[0]), []
        split = [np.array_split(array, len(devices)) for array in arrays]
        for device, own in zip(devices, zip(*split)):
            share = len(own[0]) / count
            some = own if share else [array[:1] for array in arrays]
            on_device = [
                mx.nd.from_numpy(array).as_in_context(device) for array in some
            ]
            parts.append((share, *on_device))
        return parts

    made = (deal_out(*batch) for batch in batches.arrays())
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, made, None) for _ in range(ahead))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, made, None))
            yield batch
