"""How far differences are from chance, and the tables that they are read from."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from selfatt_lib.evidence.results import read_results, write_results
from selfatt_lib.evidence.statistics import holm, paired_bootstrap


def test_the_interval_is_the_normal_one_where_seeds_do_not_differ():
    """One model, 2,000 reviews: the bootstrap is that of a mean of -1, 0 and 1."""
    rng = np.random.default_rng(0)
    right, other = rng.random((2, 2_000)) < [[0.6], [0.55]]
    reviews, seeds = np.arange(2_000), np.ones(2_000)
    found, low, high, p = paired_bootstrap(right, other, reviews, seeds)
    gains = right * 1.0 - other
    assert found == pytest.approx(gains.mean())
    error = gains.std() / np.sqrt(2_000)
    assert (low, high) == pytest.approx(
        (found - 1.96 * error, found + 1.96 * error), abs=0.1 * error
    )
    assert p == pytest.approx(2 * norm.sf(abs(found) / error), rel=0.3)


def test_seeds_that_disagree_widen_the_interval():
    """Each seed is 10 points better or worse on all its reviews alike."""
    seeds, reviews = np.repeat(range(4), 500), np.tile(range(500), 4)
    rng = np.random.default_rng(0)
    right = rng.random(2_000) < np.where(seeds % 2, 0.6, 0.5)
    other = rng.random(2_000) < np.where(seeds % 2, 0.5, 0.6)
    _, low, high, _ = paired_bootstrap(right, other, reviews, seeds, 2_000)
    assert low < -0.07
    assert high > 0.07


def test_a_review_of_several_seeds_is_drawn_as_one():
    """Twice the same predictions, by two seeds, are no more evidence than once."""
    rng = np.random.default_rng(0)
    right, other = rng.random((2, 300)) < 0.5
    reviews, seeds = np.arange(300), np.zeros(300)
    _, low, high, _ = paired_bootstrap(right, other, reviews, seeds, 2_000)
    twice = [np.tile(each, 2) for each in (right, other, reviews)]
    _, *again, _ = paired_bootstrap(*twice, np.repeat([0, 1], 300), 2_000)
    assert again == pytest.approx((low, high), abs=0.01)


def test_holm_by_hand():
    assert holm([0.02, 0.01, 0.5, 0.04]) == pytest.approx([0.06, 0.04, 0.5, 0.08])
    assert holm([0.6, 0.9]) == [1, 1]


def test_results_are_read_as_they_were_written(tmp_path):
    table = pd.DataFrame({"encoder": ["max"], "accuracy": [0.5]})
    write_results(tmp_path / "out", {"encoders": table}, {"date": "today"})
    about, tables = read_results(tmp_path / "out")
    assert about["date"] == "today"
    pd.testing.assert_frame_equal(tables["encoders"], table)


def test_results_that_are_none_or_of_another_edition_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no results: it has no about"):
        read_results(tmp_path)
    (tmp_path / "about.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match=r"of format 0, not 1. Make it anew with"):
        read_results(tmp_path)
