"""The vocabulary and the word vectors."""

import numpy as np
import pytest
from servers import glove_archive, serve, use_glove

from selfatt_lib.data.tokens import TokenizedTexts, tokenize_all
from selfatt_lib.data.vectors import load_vectors
from selfatt_lib.data.vocabulary import build_vocab, coverage


def test_words_are_counted_beyond_a_million_tokens():
    """They are counted a million at a time."""
    words = ["once", "often", "never"]
    ids = np.full(2**20 + 1, 1, np.int32)
    ids[-1] = 0
    tokenized = TokenizedTexts(words, ids, np.array([0, len(ids)]))
    assert build_vocab(tokenized).idx_to_token == ["<unk>", "<pad>", "often", "once"]


def test_the_vocabulary_holds_the_commonest_words_and_unknown_is_unknown():
    tokenized = tokenize_all(["b b b a a c", "a d"])
    vocab = build_vocab(tokenized, max_size=2)
    assert vocab.idx_to_token == ["<unk>", "<pad>", "a", "b"]
    assert tokenized.encode(vocab)[0].tolist() == [3, 3, 3, 2, 2, 0]


def test_glove_knows_lower_case_only():
    cased, lowered = (
        tokenize_all(["This Movie is amazing!"], lower=lower) for lower in (False, True)
    )
    shares = []
    for tokenized in (cased, lowered):
        found = load_vectors("glove.6B.50d", tokenized.words).any(axis=1)
        shares.append(coverage(tokenized, set(np.array(tokenized.words)[found])))
    assert shares == [3 / 5, 1]


def test_each_word_has_its_vector_and_those_that_glove_lacks_have_zeros():
    words = ["<unk>", "<pad>", "the", "qqzzx", "movie", "the"]
    found = load_vectors("glove.6B.50d", words)
    assert found.dtype == np.float32
    assert found.shape == (6, 50)
    assert found[2, :3].tolist() == pytest.approx([0.418, 0.24968, -0.41242])
    assert found.any(axis=1).tolist() == [False, False, True, False, True, True]
    np.testing.assert_array_equal(found[5], found[2])


def test_a_download_that_stops_half_way_is_tried_again(cache, monkeypatch):
    archive = glove_archive()

    def respond(method, path, number):
        return (
            200,
            {"Content-Length": str(len(archive))},
            archive[: len(archive) // 2] if number == 1 else archive,
        )

    with serve(respond) as (address, asked):
        use_glove(monkeypatch, address, archive)
        words = ["<unk>", "movie", "café", "unheard", "the"]
        found = load_vectors("glove.6B.100d", words)
    assert found.dtype == np.float32
    assert found[:, :2].tolist() == pytest.approx(
        np.array([[0, 0], [2, 2.01], [3, 3.01], [0, 0], [1, 1.01]])
    )
    assert len(asked) == 2
    with serve(lambda *_: pytest.fail("a second load asked the network")) as (
        address,
        asked,
    ):
        use_glove(monkeypatch, address, archive)
        load_vectors("glove.6B.100d", ["movie"])
    assert asked == []


def test_a_download_with_the_wrong_checksum_is_refused_and_not_kept(cache, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    with serve(lambda *_: (200, {}, b"something else")) as (address, asked):
        use_glove(monkeypatch, address, glove_archive())
        with pytest.raises(RuntimeError, match=r"glove.6B.100d could not be fetched"):
            load_vectors("glove.6B.100d", ["movie"])
    assert len(asked) == 4  # once, and three times more
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
