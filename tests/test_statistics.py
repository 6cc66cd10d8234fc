"""How far differences are from chance, and the tables that they are read from."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from selfatt_lib.evidence.results import read_results, write_results
from selfatt_lib.evidence.statistics import holm, paired_difference


def test_without_training_reviews_in_common_it_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 6))
    test = ttest_rel(first, second)
    found = paired_difference(first, second, share=0)
    interval = test.confidence_interval()
    assert found == pytest.approx(
        (np.mean(first - second), interval.low, interval.high, test.pvalue)
    )


def test_it_covers_the_truth_as_often_as_it_says_where_splits_overlap():
    """Means of the middle of 100 draws, each seed without a tenth of them.

    A seed's score is the mean of its "test" tenth less that of its "training" rest.
    """
    rng = np.random.default_rng(0)
    covered = {True: 0, False: 0}
    for _ in range(2_000):
        draws = rng.normal(size=100)
        scores = []
        for _ in range(5):
            order = rng.permutation(draws)
            scores.append(order[:10].mean() - order[10:].mean() / 9)
        for corrected in covered:
            share = 10 / 90 if corrected else 0
            _, low, high, _ = paired_difference(scores, np.zeros(5), share)
            covered[corrected] += low < 0 < high
    assert covered[True] > covered[False]
    assert covered[True] / 2_000 > 0.95


def test_seeds_that_all_differ_alike_leave_nothing_to_chance():
    assert paired_difference([0.5] * 3, [0.4] * 3, 0.1)[3] < 1e-6
    assert paired_difference([0.5] * 3, [0.5] * 3, 0.1) == (0, 0, 0, 1)


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
    with pytest.raises(FileNotFoundError, match="has no results: it has no about"):
        read_results(tmp_path)
    (tmp_path / "about.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match="of format 0, not 1"):
        read_results(tmp_path)
