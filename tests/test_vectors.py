"""A reader's own word vectors, random ones, and how many words have one."""

import bz2
import gzip
import io
import lzma
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from damage import cut

from conftest import make_reviews, prepare
from selfatt_lib.data.tokens import tokenize_all
from selfatt_lib.data.vectors import check_embedding, load_vectors
from selfatt_lib.data.vocabulary import build_vocab

VECTORS = {"good": [1, 2, 3], "Filme": [-0.5, 1e-3, 4], "é": [7, 8, 9]}
WORDS = ["<unk>", "<pad>", *VECTORS, "unheard", "good"]
PLAIN = b"good 1 2 3\nthe 0 0 1\nFilme -.5 1e-3 4\n\xc3\xa9 7 8 9\n"


def zipped(content, *names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return stream.getvalue()


def zst(content):
    stream = pa.BufferOutputStream()
    with pa.CompressedOutputStream(stream, "zstd") as out:
        out.write(content)
    return stream.getvalue().to_pybytes()


@pytest.fixture
def written(tmp_path):
    def write(content, name="own.txt"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def check(path):
    check_embedding(str(path))
    found = load_vectors(str(path), WORDS)
    assert found.dtype == np.float32
    zero = [0, 0, 0]
    expected = [zero, zero, *VECTORS.values(), zero, VECTORS["good"]]
    np.testing.assert_array_equal(found, np.float32(expected))


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        b"4 3\n" + PLAIN,  # word2vec, fastText
        PLAIN.replace(b"\n", b" \n"),  # as fastText's older files end their lines
        PLAIN.replace(b"\n", b"\r\n"),
        PLAIN.replace(b" ", b"\t"),
        PLAIN.rstrip() + b"\n\n",
        PLAIN.rstrip(),
        b"\xff\xfe 1 1 1\n" + PLAIN + b"caf\xe9 1 1 1\n\xc2\xa0 1 1 1\n",  # stray bytes
        b". . . 1 1 1\ngood name@domain.com 1 1 1\n" + PLAIN,  # GloVe's 840B has such
        PLAIN + b"good 5 5 5\n",  # the first counts
        b"nan 1 1 1\n" + PLAIN + b"inf 1 1 1\n5 1 1 1\n",  # words like any other
    ],
)
def test_vectors_are_read_as_all_programs_write_them(content, written):
    check(written(content))


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("own.vec", bytes),
        ("own", bytes),
        ("own.vec.gz", gzip.compress),
        ("own.txt.bz2", bz2.compress),
        ("own.xz", lzma.compress),
        ("own.zst", zst),
        ("own.zip", lambda content: zipped(content, "folder/", "folder/own.vec")),
        ("own.zip", lambda content: zipped(content, "own.vec", "__MACOSX/._own.vec")),
    ],
)
def test_files_may_be_compressed_and_a_damaged_one_is_refused(name, pack, written):
    path = written(pack(PLAIN * 500), name)
    check(path)
    if not name.endswith((".vec", "own")):
        for damage in (cut, lambda path: path.write_bytes(PLAIN)):
            damage(path)
            with pytest.raises(ValueError, match=rf"{path.name} cannot be read: "):
                load_vectors(path, WORDS)


def test_a_word_with_a_space_has_its_vector(written):
    path = written(b"new 1 1\nnew york 2 2\nnew york city 3 3\n")
    found = load_vectors(path, ["york", "new york", "new", "new york city"])
    assert found[:, 0].tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            PLAIN + b"unheard 1 2\n",
            r"line 5: a word and 3 numbers .* got 3 fields: 'un",
        ),
        (PLAIN + b"unheard 1 2 3 4\n", "line 5: a word and 3 numbers .* got 5 fields"),
        (b"9 3\n\n" + PLAIN, "line 2: a word and 3 numbers .* got 0 fields"),
        (b"4 4\n" + PLAIN, "line 2: a word and 4 numbers .* got 4 fields"),
        (PLAIN.replace(b"1e-3", b"one"), "line 3: a word and 3 numbers"),
        (PLAIN.replace(b"1e-3", b"nan"), "line 3: .* no NaN or infinity"),
        (PLAIN.replace(b"1e-3", b"-inf"), "line 3: .* no NaN or infinity"),
        (PLAIN.replace(b"1e-3", b"1e39"), "line 3: .* no NaN or infinity"),
        (PLAIN.replace(b"2", b"nan"), "line 1: a word and 3 numbers"),
        (b"", "line 1: a word and its numbers were expected"),
        (b"\n" * 9, "line 1: a word and its numbers were expected"),
        (b"word\n", "line 1: a word and its numbers were expected"),
        (b"text,label\ngood film,5\n", "line 1: a word and its numbers were expected"),
        (b"<html>\n", "line 1: a word and its numbers were expected"),
        (b"other 1 2\n", "none of the 7 words, such as 'é', 'unheard', 'good'"),
    ],
)
def test_what_is_no_file_of_vectors_is_refused_with_its_line(content, message, written):
    with pytest.raises(ValueError, match=rf"own.txt.*{message}"):
        load_vectors(written(content), WORDS)


def test_a_line_without_end_takes_no_memory(written):
    path = written(gzip.compress(b"good " + b"0" * 2**25), "own.gz")
    with pytest.raises(ValueError, match=r"line 2: a word and 1 numbers") as refused:
        load_vectors(path, ["0" * 2**20])
    assert len(str(refused.value)) < 500


def test_word2vecs_binary_form_is_refused_with_the_way_to_convert_it(written):
    numbers = np.arange(300, dtype=np.float32).tobytes()
    path = written(b"2 300\ngood " + numbers + b"bad " + numbers, "own.bin")
    with pytest.raises(
        ValueError, match=r"own.bin, line 2: .*binary=True\).save_word2"
    ):
        check_embedding(path)


@pytest.mark.parametrize(("names", "count"), [(["a.vec", "b.vec"], 2), ([], 0)])
def test_an_archive_must_have_one_file_in_it(names, count, written):
    path = written(zipped(PLAIN, *names), "own.zip")
    with pytest.raises(ValueError, match=f"must have one file in it; it has {count}"):
        check_embedding(path)


@pytest.mark.parametrize("name", ["word2vec", "glove.6B.51d", "."])
def test_an_unknown_embedding_is_refused_with_the_known_ones(name):
    message = f"embedding '{name}' is neither a file nor one of: glove.6B.50d, glove.*"
    for refuse in (check_embedding, lambda name: load_vectors(name, ["a"])):
        with pytest.raises(FileNotFoundError, match=message):
            refuse(name)


def test_a_wrong_embedding_or_language_is_refused_before_the_reviews_are_read(tmp_path):
    for wrong in ({"embedding": "no.vec"}, {"language": "qq"}):
        with pytest.raises((FileNotFoundError, ValueError), match=r"'(no.vec|qq)'"):
            prepare(tmp_path / "run", reviews="never looked at", **wrong)


# Random vectors


def test_random_vectors_are_drawn_for_every_word_but_padding():
    words = ["<unk>", "<pad>", *map(str, range(2000))]
    found = load_vectors(None, words, size=20, seed=1)
    assert found.dtype == np.float32
    assert found.shape == (2002, 20)
    assert np.flatnonzero(~found.any(axis=1)).tolist() == [1]
    assert found.std() == pytest.approx(0.3, rel=0.02)
    np.testing.assert_array_equal(found, load_vectors(None, words, size=20, seed=1))
    assert (found != load_vectors(None, words, size=20, seed=2)).any()
    assert load_vectors(None, words).shape == (2002, 50)


# A run


def test_a_run_takes_own_vectors_and_random_ones(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = build_vocab(tokenize_all(make_reviews(300)["text"])).idx_to_token
    lines = [f"{word} {number} 1 2 3 4\n" for number, word in enumerate(words)]
    written("".join(lines).encode(), "own.vec")
    few = {"embedding": None, "embedding_size": 7, "vocab_size": 2}
    for given, size in (({"embedding": "own.vec"}, 5), (few, 7)):
        prepared = prepare("run", **given)  # and there is no warning
        weights = prepared.engine.weights()["embedding.weight"]
        assert weights.shape == (len(prepared.vocab), size)
        np.testing.assert_array_equal(weights, prepared.vectors)


def test_few_words_with_vectors_are_warned_of(tmp_path):
    reviews = make_reviews(300)
    reviews["text"] = reviews["text"].str.upper()
    with pytest.warns(UserWarning, match=r"only 0% of the words .* \(see lower\)"):
        prepare(tmp_path / "run", reviews=reviews, lower=False)
