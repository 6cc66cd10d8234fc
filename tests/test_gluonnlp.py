"""GluonNLP and the library: the same numbers of words, vectors, batches, pipeline."""

import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from servers import glove_archive, glove_text, serve, use_glove
from test_batches import make_batches

from benchmarks.harness import run_afresh
from benchmarks.reviews import Reviews
from selfatt_lib.data.batches import bucket_sampler
from selfatt_lib.data.tokens import TokenizedTexts
from selfatt_lib.data.vectors import load_vectors
from selfatt_lib.data.vocabulary import Vocabulary, build_vocab
from selfatt_lib.machinery.runtime import nlp

WORDS = st.sampled_from(["<unk>", "<pad>", *"abcdeABé"]) | st.text(max_size=3)


@given(st.lists(st.lists(WORDS)), st.none() | st.integers(1, 12), st.lists(WORDS))
@example([["b", "a"], ["b", "<pad>", "a", "c"]], 1, ["b", "", "<unk>"])
def test_words_have_the_numbers_that_gluonnlp_gives_them(texts, max_size, others):
    counts = Counter(word for text in texts for word in text)
    theirs = nlp.Vocab(counts, max_size=max_size, bos_token=None, eos_token=None)
    ours = build_vocab(TokenizedTexts.from_lists(texts), max_size)
    assert ours.idx_to_token == theirs.idx_to_token
    assert ours.token_to_idx == dict(theirs.token_to_idx)
    assert len(ours) == len(theirs)
    asked = [*others, *ours.idx_to_token]
    assert ours[asked] == theirs[asked]
    assert [ours[word] for word in asked] == [theirs[word] for word in asked]
    assert [word in ours for word in asked] == [word in theirs for word in asked]
    assert ours[theirs.unknown_token] == Vocabulary.UNKNOWN
    assert ours[theirs.padding_token] == Vocabulary.PADDING


def test_words_have_the_vectors_that_gluonnlp_reads(cache, monkeypatch, tmp_path):
    archive, words = glove_archive(), ["<unk>", "movie", "café", "unheard", "the"]
    with serve(lambda *_: (200, {}, archive)) as (address, _):
        use_glove(monkeypatch, address, archive)
        found = load_vectors("glove.6B.100d", words)
    (tmp_path / "glove.txt").write_bytes(glove_text())
    embedding = nlp.embedding.TokenEmbedding.from_file(str(tmp_path / "glove.txt"))
    np.testing.assert_array_equal(found, embedding[words].asnumpy())
    assert found.any(axis=1).tolist() == [False, True, True, False, True]


def gluonnlp_batches(*, shuffle, **bucketing):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some buckets are empty")
        sampler = nlp.data.FixedBucketSampler(shuffle=shuffle, **bucketing)
    return [list(map(int, batch)) for batch in sampler]


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_order_is_gluonnlps_and_so_is_the_state_of_the_generator(shuffle):
    draw = np.random.default_rng(0)
    for seed in range(200):
        longest, most = draw.integers(2, 300, size=2)
        bucketing = {
            "lengths": np.minimum(
                draw.integers(1, longest, draw.integers(1, 3000)), most
            ),
            "batch_size": int(draw.integers(1, 100)),
            "num_buckets": int(draw.integers(1, 40)),
            "ratio": draw.choice([0, 0.3, 0.5, 1, draw.uniform(0, 5)]),
        }
        np.random.seed(seed)
        theirs = gluonnlp_batches(shuffle=shuffle, **bucketing)
        rng = np.random.RandomState(seed)
        ours = bucket_sampler(**bucketing, rng=rng if shuffle else None)
        assert [batch.tolist() for batch in ours] == theirs
        (_, ours, *our_place), (_, theirs, *their_place) = (
            rng.get_state(),
            np.random.get_state(),
        )
        np.testing.assert_array_equal(ours, theirs)
        assert our_place == their_place


def test_batches_are_padded_as_gluonnlp_does():
    batchify = nlp.data.batchify.Tuple(
        nlp.data.batchify.Pad(pad_val=1, ret_length=True, dtype="int32"),
        nlp.data.batchify.Stack(dtype="int32"),
    )
    encoded, labels, batches = make_batches()
    order = bucket_sampler(encoded.lengths, 16, 4, 0.5)
    for numbers, ours in zip(order, batches, strict=True):
        chosen = [(encoded[i].tolist(), labels[i]) for i in numbers]
        (tokens, valid_length), their_labels = batchify(chosen)
        for ours_array, theirs in zip(ours, (tokens, valid_length, their_labels)):
            np.testing.assert_array_equal(ours_array, theirs.asnumpy())
            assert ours_array.dtype == np.int32
            assert theirs.shape == ours_array.shape


def test_the_tutorials_pipeline_finds_the_tokens_that_ours_finds(tmp_path):
    path = str(tmp_path / "reviews.jsonl")
    Reviews().write(path, 300)
    found = [
        run_afresh(f"benchmarks.{module}:Pipeline", path, 300)[0]
        for module in ("ours", "tutorial")
    ]
    assert found[0] == found[1]
    assert found[0][0] == 300
