import io
import random
import zipfile
from itertools import product

import numpy as np
import pytest
import spacy
from hypothesis import example, given
from hypothesis import strategies as st
from servers import serve, sha256

from conftest import make_reviews
from selfatt_lib.data import (
    Batches,
    build_vocab,
    coverage,
    load_glove,
    load_reviews,
    text,
    tokenize,
    tokenize_all,
)
from selfatt_lib.data.tokens import _WORDS, _plain_tokens, tokenize_chunk
from selfatt_lib.machinery.runtime import seed_everything


@pytest.fixture(scope="module")
def spacy_tokens():
    tokenizer = spacy.blank("en").tokenizer
    return lambda text: [token.text for token in tokenizer(text) if not token.is_space]


def test_tokens_are_spacys_without_white_space(spacy_tokens):
    for review in load_reviews(size=500, seed=1)["text"]:
        assert tokenize(review, lower=False) == spacy_tokens(review)
        assert tokenize(review) == [token.lower() for token in spacy_tokens(review)]


def test_clipping_early_gives_the_tokens_of_clipping_late(spacy_tokens):
    rng = random.Random(0)
    for _ in range(500):
        words = rng.choices(
            [
                "can't",
                "U.S.",
                "e.g.",
                "(so-called)",
                "$5.00",
                "good!!!",
                ":-)",
                "a",
                "...",
                "we'll,",
            ],
            k=40,
        )
        review = " ".join(words)
        limit = rng.randint(1, 60)
        assert tokenize(review, limit, lower=False) == spacy_tokens(review)[:limit]


def apart(reviews, limit, lower):
    """Return the tokens of reviews whose words are tokenized each on its own."""
    words, ids, lengths = tokenize_chunk(reviews, limit, lower)
    assert list(dict.fromkeys(ids)) == list(range(len(words)))  # as they first occur
    stops = lengths.cumsum()
    return [
        [words[i] for i in ids[stop - length : stop]]
        for stop, length in zip(stops, lengths)
    ]


def test_words_tokenized_apart_are_tokenized_as_spacy_does_together(spacy_tokens):
    """spaCy joins special cases across white space, here and there; texts of their pieces are as hard as it gets."""
    rng = random.Random(0)
    cases = [case for case in spacy.blank("en").tokenizer.rules if case.strip()]
    marks = ":;)(-=<>_/|8oOpDX3^.,'\"!?*"
    words = ["don't", "a.m.", "U.S.", "10", "km", "can't", "and/or", "1:30", "'s", "ca"]

    def pieces():
        case = rng.choice(cases)
        cut = rng.randint(1, len(case))
        mark = "".join(rng.choices(marks, k=rng.randint(1, 3)))
        return rng.choice([case, f"{case[:cut]} {case[cut:]}", mark, rng.choice(words)])

    hard = ["\\> :(\\ ca", "lovin' Corp. &( :]~", "(x( =]/ 'cause", "r. .8 :)- : -}"]
    drawn = [
        " ".join(pieces() for _ in range(rng.randint(1, 6))) for _ in range(20_000)
    ]
    reviews = hard + drawn
    expected = [spacy_tokens(" ".join(review.split())) for review in reviews]
    assert apart(reviews, None, False) == expected
    for limit in (1, 2, 3, 5, 8):
        clipped = [
            spacy_tokens(" ".join(review.split()[:limit]))[:limit] for review in reviews
        ]
        assert apart(reviews, limit, False) == clipped
        assert [tokenize(review, limit, lower=False) for review in reviews] == clipped
    one_by_one = [
        [token for word in review.split() for token in spacy_tokens(word)]
        for review in reviews
    ]
    assert one_by_one != expected  # it does happen
    reviews = load_reviews()["text"].tolist()
    together = [tokenize(review, 100) for review in reviews]
    assert apart(reviews, 100, True) == together


@given(st.lists(st.text(), min_size=1), st.one_of(st.none(), st.integers(1, 20)))
@example(["ﬁlm\u2028\x1c\x85bad :\u00a0)", "", " ", ") a", "b :", ")"], None)
@example([":", ")", "x" * 301, "", ": )"], 3)
def test_any_text_is_tokenized_apart_as_together(reviews, limit):
    for lower in (False, True):
        together = [tokenize(review, limit, lower) for review in reviews]
        assert apart(reviews, limit, lower) == together


def test_no_rule_of_spacys_splits_plain_letters():
    """So a word of nothing else that is no special case is one token, and a mark behind it is another."""
    rules = spacy.blank("en").tokenizer
    searches = rules.prefix_search, rules.suffix_search, rules.url_match
    for length in (1, 2, 3):
        for letters in product("ABKMSTUabckmstxyz", repeat=length):
            word = "".join(letters)
            assert not any(search(word) for search in searches)
            assert not list(rules.infix_finditer(word))
    for word in set(" ".join(load_reviews()["text"]).split()):
        if tokens := _plain_tokens(word):
            assert [token.text for token in rules(word)] == tokens


RULES = spacy.blank("en").tokenizer.rules


@given(word=st.from_regex("[A-Za-z]+[.,!?;:]?", fullmatch=True))
@example(word="U.")
@example(word="US.")
@example(word="Mr.")
@example(word="cannot,")
@example(word="cannot.")
@example(word="cannots")
@example(word="good,")
def test_plain_letters_are_one_token(word, spacy_tokens):
    tokens = _plain_tokens(word)
    assert tokens in (None, spacy_tokens(word))
    if word.isalpha():
        assert (tokens is None) == (word in RULES)


def test_words_beyond_those_remembered_are_forgotten(monkeypatch):
    monkeypatch.setattr("selfatt_lib.data.tokens.DISTINCT_WORDS", 5)
    monkeypatch.setattr(text, "CHUNK", 1)
    monkeypatch.setattr(text, "FEW", 0)
    texts = ["a b c d e f", "b a g", "g :) a b"] * 3
    tokenized = tokenize_all(texts)
    assert len(_WORDS[True]) < 10
    found = [[tokenized.words[i] for i in tokenized[n]] for n in range(len(texts))]
    assert found == [tokenize(each) for each in texts]


def test_texts_may_come_one_by_one():
    texts = ["a good film", "", "a bad film"]
    flowing, listed = tokenize_all(iter(texts)), tokenize_all(texts)
    assert flowing.words == listed.words
    np.testing.assert_array_equal(flowing.ids, listed.ids)
    np.testing.assert_array_equal(flowing.offsets, listed.offsets)


def test_lower_casing_is_optional():
    assert tokenize("This IS it", lower=False) == ["This", "IS", "it"]
    assert tokenize("This IS it") == ["this", "is", "it"]


@pytest.mark.parametrize(
    "monster",
    [
        "x" * 1_000_000,
        "(" * 1_000_000,
        "a b " * 250_000,
        "http://" + "a/" * 500_000,
        " \n\t" * 333_333,
    ],
)
def test_a_text_of_a_million_characters_is_clipped_like_any_other(monster):
    assert len(tokenize(monster, max_tokens=100)) <= 100


def test_texts_lie_flat_and_come_back_one_by_one():
    texts = ["good good film", "", "a bad, bad film"]
    tokenized = tokenize_all(texts)
    assert tokenized.ids.dtype == np.int32
    assert tokenized.lengths.tolist() == [3, 0, 5]
    assert [
        [tokenized.words[i] for i in tokenized[n]] for n in range(len(tokenized))
    ] == [tokenize(text) for text in texts]


def test_few_texts_give_the_same_as_among_many(monkeypatch):
    texts = ["Good good :) film", "", "a bad, b : ) film"]
    few = tokenize_all(texts, 3)
    monkeypatch.setattr(text, "FEW", 0)
    many = tokenize_all(texts, 3)
    assert few.words == many.words
    np.testing.assert_array_equal(few.ids, many.ids)
    np.testing.assert_array_equal(few.offsets, many.offsets)
    assert few.ids.dtype == many.ids.dtype
    assert few.offsets.dtype == many.offsets.dtype


def test_many_threads_give_the_same_as_one(monkeypatch):
    texts = make_reviews(700)["text"]
    alone = tokenize_all(texts)
    monkeypatch.setattr(text, "CHUNK", 7)
    monkeypatch.setattr(text, "THREADS", 4)
    together = tokenize_all(texts)
    assert together.words == alone.words
    np.testing.assert_array_equal(together.ids, alone.ids)
    np.testing.assert_array_equal(together.offsets, alone.offsets)


def test_no_texts_are_no_tokens():
    tokenized = tokenize_all([])
    assert len(tokenized) == len(tokenized.ids) == 0
    assert len(tokenized.encode(build_vocab(tokenized))) == 0


def test_the_vocabulary_holds_the_commonest_words_and_unknown_is_unknown():
    tokenized = tokenize_all(["b b b a a c", "a d"])
    vocab = build_vocab(tokenized, max_size=2)
    assert vocab.idx_to_token == ["<unk>", "<pad>", "a", "b"]
    assert tokenized.encode(vocab)[0].tolist() == [3, 3, 3, 2, 2, 0]


def test_glove_knows_lower_case_only():
    cased, lowered = (
        tokenize_all(["This Movie is amazing!"], lower=lower) for lower in (False, True)
    )
    assert coverage(cased, load_glove("glove.6B.50d", cased.words)) == 3 / 5
    assert coverage(lowered, load_glove("glove.6B.50d", lowered.words)) == 1


def test_word_vectors_reach_the_vocabulary():
    vocab = build_vocab(tokenize_all(["the movie qqzzx"]))
    glove = load_glove("glove.6B.50d", vocab.idx_to_token)
    vocab.set_embedding(glove)
    assert vocab.embedding["the"].asnumpy()[:3].tolist() == pytest.approx(
        [0.418, 0.24968, -0.41242]
    )
    for word in ("qqzzx", "<unk>", "<pad>"):
        assert not vocab.embedding[word].asnumpy().any()


def test_an_unknown_embedding_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError,
        match=r"embedding must be one of glove.6B.50d, glove.6B.100d.*; got 'word2vec'",
    ):
        load_glove("word2vec", ["a"])


def small_glove_archive():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        lines = [
            f"{word} {' '.join(f'{i + n / 100:.2f}' for n in range(100))}\n"
            for i, word in enumerate(["the", "movie", "café"])
        ]
        archive.writestr("glove.6B.100d.txt", "".join(lines))
    return stream.getvalue()


def set_archive(monkeypatch, address, content):
    monkeypatch.setattr(
        text,
        "GLOVE_ARCHIVE",
        {
            "base_url": f"{address}/",
            "registry": {"glove.6B.zip": f"sha256:{sha256(content)}"},
        },
    )


def test_a_download_that_stops_half_way_is_tried_again(monkeypatch, tmp_path):
    archive = small_glove_archive()
    monkeypatch.setenv("SELFATT_CACHE", str(tmp_path))

    def respond(method, path, number):
        return (
            200,
            {"Content-Length": str(len(archive))},
            archive[: len(archive) // 2] if number == 1 else archive,
        )

    with serve(respond) as (address, asked):
        set_archive(monkeypatch, address, archive)
        glove = load_glove("glove.6B.100d", ["movie", "café", "unheard"])
    assert glove["movie"].asnumpy()[:2].tolist() == pytest.approx([1.0, 1.01])
    assert "café" in glove
    assert "unheard" not in glove
    assert len(asked) == 2
    with serve(lambda *_: pytest.fail("a second load asked the network")) as (
        address,
        asked,
    ):
        set_archive(monkeypatch, address, archive)
        load_glove("glove.6B.100d", ["movie"])
    assert asked == []


def test_a_download_with_the_wrong_checksum_is_refused_and_not_kept(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("SELFATT_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda _: None)
    with serve(lambda *_: (200, {}, b"something else")) as (address, asked):
        set_archive(monkeypatch, address, small_glove_archive())
        with pytest.raises(RuntimeError, match=r"glove.6B.100d could not be fetched"):
            load_glove("glove.6B.100d", ["movie"])
    assert len(asked) == 4  # once, and three times more
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


# Batches


def make_batches(size=200, **options):
    reviews = make_reviews(size)
    tokenized = tokenize_all(reviews["text"])
    vocab = build_vocab(tokenized)
    encoded = tokenized.encode(vocab)
    return (
        encoded,
        reviews["stars"],
        Batches(
            encoded,
            reviews["stars"],
            vocab,
            **{"batch_size": 16, "num_buckets": 4, **options},
        ),
    )


def contents(batches):
    """Return each review of each batch as (tokens, stars)."""
    found = []
    for tokens, valid_length, stars in batches:
        for row, length, star in zip(
            tokens.asnumpy(), valid_length.asnumpy(), stars.asnumpy()
        ):
            found.append((tuple(row[:length]), int(star)))
    return found


@pytest.mark.parametrize("shuffle", [False, True])
def test_each_review_comes_once_an_epoch_with_its_stars(shuffle):
    encoded, stars, batches = make_batches(shuffle=shuffle)
    expected = sorted((tuple(encoded[i]), star) for i, star in enumerate(stars))
    for _ in range(2):
        assert sorted(contents(batches)) == expected


def test_batches_are_padded_to_their_longest_review_and_with_the_padding_word():
    _, _, batches = make_batches()
    for tokens, valid_length, stars in batches:
        assert (tokens.dtype, valid_length.dtype, stars.dtype) == (
            np.int32,
            np.int32,
            np.float32,
        )
        assert tokens.shape[1] == valid_length.max().asscalar()
        beyond = np.arange(tokens.shape[1]) >= valid_length.asnumpy()[:, None]
        assert (tokens.asnumpy()[beyond] == 1).all()
        assert (tokens.asnumpy()[~beyond] != 1).all()


def test_buckets_save_padding():
    def padded(batches):
        real, total = np.sum(
            [(length.sum().asscalar(), tokens.size) for tokens, length, _ in batches],
            axis=0,
        )
        return 1 - real / total

    bucketed, single = (
        make_batches(400, num_buckets=n, shuffle=True, bucket_ratio=0)[2]
        for n in (5, 1)
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
    _, _, batches = make_batches(shuffle=True)
    orders = []
    for seed in (1, 2, 1):
        seed_everything(seed)
        orders.append(contents(batches))
    assert orders[0] == orders[2] != orders[1]


def test_the_number_of_batches_is_known_beforehand():
    _, _, batches = make_batches()
    assert len(batches) == sum(1 for _ in batches)
