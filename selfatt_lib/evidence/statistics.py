"""How far a difference between two models is from chance."""

import numpy as np

DRAWS = 4_000


def paired_bootstrap(right, other, reviews, seeds, draws=DRAWS, seed=0):
    """Return how much more accurate one encoder is than another, with its interval.

    Both predicted the same reviews, with several seeds. Of each draw, the reviews and
    the seeds are drawn anew with replacement: so the interval is one for other reviews
    and other seeds. (The training reviews, which the splits share for the most part,
    are not drawn anew.)

    Parameters
    ----------
    right, other : array of bool, shape (predictions,)
        Whether each prediction of the one and of the other is right.
    reviews, seeds : array, shape (predictions,)
        Of which review and seed it is.
    draws : int, default 4,000
    seed : int, default 0

    Returns
    -------
    difference : float
        The mean over seeds of the accuracies' differences.
    low, high : float
        Between them lies the middle 95 % of the draws.
    p : float
        Twice the share of draws on the other side of 0 (at least 1 of them), at most 1.

    Examples
    --------
    >>> right = np.array([True] * 60 + [False] * 40)
    >>> paired_bootstrap(right, right, np.arange(100), np.zeros(100))
    (0.0, 0.0, 0.0, 1.0)
    """
    rng = np.random.default_rng(seed)
    gains = np.asarray(right, float) - np.asarray(other, float)
    reviews, row = np.unique(reviews, return_inverse=True)
    seeds, column = np.unique(seeds, return_inverse=True)
    found = np.empty(draws)
    for draw in range(draws):
        times = rng.multinomial(len(reviews), np.full(len(reviews), 1 / len(reviews)))
        often = rng.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)))
        totals = np.bincount(column, gains * times[row], len(seeds))
        counts = np.bincount(column, times[row], len(seeds))
        found[draw] = (often * totals / counts).sum() / len(seeds)
    means = np.bincount(column, gains) / np.bincount(column)
    difference = float(means.mean())
    low, high = (float(end) for end in np.quantile(found, [0.025, 0.975]))
    beyond = min((found <= 0).sum(), (found >= 0).sum())
    return difference, low, high, min(1.0, 2 * max(int(beyond), 1) / draws)


def holm(p_values):
    """Correct p-values for their number: Holm (1979).

    Returns
    -------
    list of float
        In the order given. Where one is below 0.05, it stays so with a probability of
        at most 0.05 that any of those below is chance alone.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values)
    corrected = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.minimum(np.maximum.accumulate(corrected), 1)
    found = np.empty(len(p_values))
    found[order] = corrected
    return [float(p) for p in found]
