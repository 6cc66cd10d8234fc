"""Labels of any kind."""

import numpy as np
import pytest

from selfatt_lib.labels import are_stars, class_numbers, label_text, listed, shown


@pytest.mark.parametrize("labels", [[1, 2, 3, 4, 5], [1, 5], [5, 3, 1]])
def test_whole_numbers_from_1_to_5_are_stars(labels):
    assert are_stars(labels)
    assert shown(1, labels) == "★☆☆☆☆"


@pytest.mark.parametrize(
    "labels", [[1, 2], [0, 1, 5], [1, 2.5, 5], ["1", "5"], [1, 2, 3, 4, 5, 6], [5]]
)
def test_others_are_not(labels):
    assert not are_stars(labels)
    assert shown(labels[-1], labels) == str(labels[-1])


def test_case_and_the_kind_of_number_do_not_count():
    assert class_numbers(["Good", "BAD", " good "], ["bad", "good"]).tolist() == [
        1,
        0,
        1,
    ]
    assert class_numbers(["5", 5.0, 1], [1, 5]).tolist() == [1, 1, 0]
    assert class_numbers(["true", True], [False, True]).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("007", "7"), ("-0.50", "-0.5"), (".5", "0.5"), ("+2", "2"), ("1e1", "10"),
        ("1_0", "1_0"), ("٣", "٣"), ("1e999", "inf"), ("0" * 9999 + "1", "1"),
        ("12345678901234567890", "12345678901234567890"), (np.float32(5), "5"),
        ("good\u3000", "good"), (True, "true"), ("True", "True"),
    ],
)  # fmt: skip
def test_a_label_is_written_in_one_way(label, text):
    assert label_text(label) == text


def test_unknown_labels_are_named():
    with pytest.raises(
        ValueError, match=r"labels that are none of the classes 'a', 'b': 'c', 'd'$"
    ):
        class_numbers(["a", "d", "c", "d"], ["a", "b"])


def test_of_many_labels_a_dozen_are_listed():
    assert listed(range(15)).endswith("10, 11 and 3 more")
    assert len(listed(["x" * 1000])) < 50
