"""Reviews in three parts: to learn from, to choose the epoch by, to be scored on."""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from selfatt_lib.labels import listed


def split_reviews(reviews, valid_size=0.1, test_size=0.1, train_size=None, seed=0):
    """Split reviews at random into a training, a validation and a test part.

    Each label has the same share of every part. Reviews with equal texts, or with the
    same ``source``, stay on one side, so that no part can be answered from another.

    Parameters
    ----------
    reviews : DataFrame
        With ``text`` and ``label``, and maybe ``source``: what a sentence was cut from.
    valid_size, test_size : float or int, default 0.1
        A share of the reviews, or how many. 0: none.
    train_size : int, optional
        How many to train on; all others by default.
    seed : int, default 0

    Returns
    -------
    train, valid, test : DataFrame
        In random order.

    Raises
    ------
    ValueError
        There are too few reviews, or too few of each label.

    Notes
    -----
    Groups of two reviews or more are drawn first, as many as make up their share of the
    part, unless one would lift a label above its own. Single reviews then fill up each
    label's share. At least one review of each label is for training.
    """
    held_out = [_count(size, len(reviews)) for size in (test_size, valid_size)]
    needed = sum(held_out) + (train_size or 1)
    if len(reviews) < needed:
        raise ValueError(
            f"a split into {train_size or 'at least 1'} training, {held_out[1]:,} "
            f"validation and {held_out[0]:,} test reviews needs {needed:,}; the data "
            f"set has {len(reviews):,}. Lower valid_size, test_size or train_size."
        )
    rng = np.random.default_rng(seed)
    labels, names = pd.factorize(reviews["label"], sort=True)
    group = _groups(reviews)
    left = np.bincount(labels) - 1  # of each label: one stays for training
    part = np.zeros(len(reviews), int)  # 0 is training
    for number, size in enumerate(held_out, 1):
        quota = np.minimum(_shares(np.bincount(labels), size), left)
        if left.sum() < size:
            raise ValueError(
                f"{sum(held_out):,} reviews cannot be held out while each label keeps "
                f"one for training: {len(reviews):,} reviews have {len(names):,} "
                f"labels, {listed(names)}. Lower valid_size and test_size, or cut "
                "numbers by bins."
            )
        quota += _shares(left - quota, size - quota.sum())
        _draw(part, number, quota, labels, group, rng)
        left = left - np.bincount(labels[part == number], minlength=len(left))
        if size and not (part == number).any():
            raise ValueError(
                f"no review can be held out: equal texts stay together, and of the "
                f"{len(reviews):,} there are too few others"
            )
    training, rest = 0, np.bincount(labels[part == 0], minlength=len(names))
    if train_size is not None and rest.sum() > train_size:
        least = int(train_size >= len(names))  # of each label
        quota = least + _shares(rest - least, train_size - least * len(names))
        training, alone = 3, np.arange(len(reviews))  # what is left over is in no part
        _draw(part, training, quota, labels, alone, rng)
    order = rng.permutation(len(reviews))
    train, test, valid = (order[part[order] == n] for n in (training, 1, 2))
    return tuple(
        reviews.iloc[rows].reset_index(drop=True) for rows in (train, valid, test)
    )


def _count(size, total):
    return round(size * total) if isinstance(size, float) else size


def _groups(reviews):
    """Number what belongs together: array of int, shape (reviews,).

    Two reviews do that share their text or their source, or that others connect so.
    """
    hashes = map(hash, reviews["text"])  # the texts themselves would be copied
    texts = pd.factorize(np.fromiter(hashes, np.int64, len(reviews)))[0]
    if "source" not in reviews:
        return texts
    sources = pd.factorize(reviews["source"])[0]
    known = sources >= 0  # others are alone
    ends = texts[known], sources[known] + texts.max() + 1
    shape = (texts.max() + sources.max() + 2,) * 2
    links = coo_array((np.ones(known.sum(), bool), ends), shape)
    return connected_components(links, directed=False)[1][texts]


def _shares(counts, size):
    """Return how many of each label make up `size` in proportion: array of int."""
    exact = counts * size / max(counts.sum(), 1)
    shares = exact.astype(int)
    largest_rests = np.argsort(shares - exact, kind="stable")
    shares[largest_rests[: size - shares.sum()]] += 1
    return shares


def _draw(part, number, quota, labels, group, rng):
    """Put reviews of no part yet into one, so many of each label."""
    free = rng.permutation(np.flatnonzero(part == 0))
    is_single = np.bincount(group[free])[group[free]] == 1
    grouped = free[~is_single][np.argsort(group[free[~is_single]], kind="stable")]
    groups = np.split(grouped, np.flatnonzero(np.diff(group[grouped])) + 1)
    wanted = quota.sum() * len(grouped) / len(free)  # the groups' share of the part
    rest = quota.copy()
    for place in rng.permutation(len(groups)):
        counts = np.bincount(labels[groups[place]], minlength=len(quota))
        if (counts <= rest).all() and (quota - rest + counts).sum() <= wanted:
            part[groups[place]] = number
            rest -= counts
    single = free[is_single]
    for label, count in enumerate(rest):
        part[single[labels[single] == label][:count]] = number
