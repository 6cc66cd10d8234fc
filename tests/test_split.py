"""Three parts: their sizes, each label's share, and what stays together."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from conftest import make_reviews
from selfatt_lib.data.split import split_reviews


def texts_of(parts):
    return [sorted(part["text"]) for part in parts]


def test_every_review_is_in_one_part_and_sizes_are_shares_or_counts():
    reviews = make_reviews(1000).assign(text=[f"review {i}" for i in range(1000)])
    for sizes, expected in (
        ({}, [800, 100, 100]),
        ({"valid_size": 0.25, "test_size": 30}, [720, 250, 30]),
        ({"valid_size": 50, "test_size": 30, "train_size": 600}, [600, 50, 30]),
        ({"test_size": 0}, [900, 100, 0]),
    ):
        parts = split_reviews(reviews, **sizes)
        assert [len(part) for part in parts] == expected
        together = pd.concat(parts)["text"]
        assert together.is_unique
        assert set(together) <= set(reviews["text"])


def test_each_label_has_its_share_of_every_part():
    rng = np.random.default_rng(0)
    labels = rng.choice(["rare", "some", "many"], 2000, p=[0.02, 0.28, 0.7])
    reviews = pd.DataFrame({"text": [f"{i}" for i in range(2000)], "label": labels})
    whole = reviews["label"].value_counts(normalize=True)
    for part in [*split_reviews(reviews), *split_reviews(reviews, train_size=400)]:
        share = part["label"].value_counts(normalize=True)
        np.testing.assert_allclose(share[whole.index], whole, atol=0.006)


def test_another_seed_draws_other_parts_and_the_same_seed_the_same():
    reviews = make_reviews(300)
    first, again = (texts_of(split_reviews(reviews, seed=1)) for _ in range(2))
    assert first == again
    assert first != texts_of(split_reviews(reviews, seed=2))


def test_the_parts_come_in_random_order():
    train, _, _ = split_reviews(make_reviews(300).assign(place=range(300)))
    assert abs(np.corrcoef(train["place"], range(len(train)))[0, 1]) < 0.2


def shared(parts, column):
    """Count what is on two sides."""
    sides = [set(part[column]) for part in parts]
    return len(sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2])


def test_equal_texts_and_sentences_of_one_source_stay_on_one_side():
    rng = np.random.default_rng(0)
    reviews = pd.DataFrame(
        {
            "text": [f"text {i}" for i in rng.integers(0, 100_000, 3000)],
            "source": [f"alone {i}" for i in range(2400)]
            + [f"review {i}" for i in rng.integers(0, 60, 600)],
            "label": rng.integers(1, 6, 3000),
        }
    )
    parts = split_reviews(reviews, valid_size=300, test_size=300)
    assert shared(parts, "text") == shared(parts, "source") == 0
    assert [len(part) for part in parts] == [2400, 300, 300]
    for part in parts:  # the groups have their share of each part, too
        is_group = part["source"].str.startswith("review")
        assert is_group.mean() == pytest.approx(0.2, abs=0.04)


def test_reviews_without_a_source_are_alone():
    reviews = make_reviews(100).assign(text=[f"review {i}" for i in range(100)])
    reviews["source"] = [None] * 50 + ["one"] * 50
    train, valid, test = split_reviews(reviews, valid_size=20, test_size=20)
    assert min(len(valid), len(test)) > 15
    assert shared([train, valid, test], "text") == 0
    assert valid["source"].isna().all()
    reviews["source"] = None
    assert [len(part) for part in split_reviews(reviews)] == [80, 10, 10]


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much],
)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 9), st.integers(0, 3)),
        min_size=8,
        max_size=60,
    ),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([None, 4, 5]),
)
def test_whatever_the_groups_no_part_shares_a_text_and_training_has_every_label(
    rows, valid_size, test_size, train_size
):
    reviews = pd.DataFrame(rows, columns=["text", "source", "label"]).astype(str)
    try:
        parts = split_reviews(reviews, valid_size, test_size, train_size)
    except ValueError:  # there is none
        reject()  # which may not be so always
    assert len(parts[0]) == train_size or sum(map(len, parts)) == len(rows)
    assert shared(parts, "text") == shared(parts, "source") == 0
    assert set(parts[0]["label"]) == set(reviews["label"])
    assert len(parts[1]) <= valid_size
    assert len(parts[2]) <= test_size


@pytest.mark.parametrize(
    ("labels", "sizes", "said"),
    [
        ([1, 2, 3], {"valid_size": 2, "test_size": 1}, "needs 4; the data set has 3"),
        (
            range(200),
            {},
            r"40 reviews cannot .* 200 reviews have 200 labels, 0, 1, .* and 188 more",
        ),
        ([1, 1, 2, 2], {"valid_size": 2, "train_size": 2}, "2 training, 2 validation"),
    ],
)
def test_too_few_reviews_are_refused(labels, sizes, said):
    reviews = pd.DataFrame({"label": labels})
    reviews["text"] = [f"text {i}" for i in range(len(reviews))]
    with pytest.raises(ValueError, match=said):
        split_reviews(reviews, **{"test_size": 1} | sizes if sizes else {})


def test_reviews_that_are_all_equal_cannot_be_held_out():
    reviews = pd.DataFrame({"text": ["good"] * 20, "label": [1, 2] * 10})
    with pytest.raises(ValueError, match="no review can be held out: equal texts stay"):
        split_reviews(reviews)
