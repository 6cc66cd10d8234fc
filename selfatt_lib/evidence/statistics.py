"""How far a difference between two models is from chance."""

import numpy as np
from scipy.stats import t


def paired_difference(first, second, share):
    """Return how far one encoder is ahead of another, with its interval.

    The corrected t-test of Nadeau and Bengio (2003), for scores of the same seeds, each
    with parts of its own: seeds share most of their training reviews, so that their
    scores vary less than those of other reviews would. The test counts that in.

    Parameters
    ----------
    first, second : array of float, shape (seeds,)
        The scores of both, in the same order of seeds.
    share : float
        Test reviews per training review, such as 0.125.

    Returns
    -------
    difference : float
        The mean over seeds of the first less the second.
    low, high : float
        The 95 % interval of the difference.
    p : float
        How likely chance gives so large a difference, in either direction, if there is
        none.

    Examples
    --------
    >>> found = paired_difference([0.57, 0.58, 0.56], [0.55, 0.57, 0.55], 0.125)
    >>> [round(number, 3) for number in found]
    [0.013, -0.003, 0.03, 0.076]
    """
    gains = np.asarray(first, float) - np.asarray(second, float)
    difference, freedom = gains.mean(), len(gains) - 1
    error = np.sqrt((1 / len(gains) + share) * gains.var(ddof=1))
    half = t.ppf(0.975, freedom) * error
    # where all seeds differ by the same, chance has no part in it
    p = 2 * t.sf(abs(difference) / error, freedom) if error else float(difference == 0)
    return tuple(map(float, (difference, difference - half, difference + half, p)))


def holm(p_values):
    """Correct p-values for their number: Holm (1979).

    If all are called differences that are below 0.05 after it, the chance that any of
    them is none is at most 0.05.

    Returns
    -------
    list of float
        In the order given.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values)
    corrected = p_values[order] * np.arange(len(p_values), 0, -1)
    found = np.empty(len(p_values))
    found[order] = np.minimum(np.maximum.accumulate(corrected), 1)
    return [float(p) for p in found]
