import errno
import os

import numpy as np
import pytest
from damage import cut, turn_a_bit

from conftest import make_reviews
from selfatt_lib.data import tokens
from selfatt_lib.data.tokens import tokenize_all, tokenize_kept
from selfatt_lib.machinery import kept

TEXTS = [*make_reviews(20)["text"], "naïve ☕"]


@pytest.fixture
def corpora(cache, monkeypatch):
    """Where corpora of any size are kept; the list tells how many were tokenized."""
    monkeypatch.setattr(tokens, "WORTH_KEEPING", 1)
    tokenized = []
    monkeypatch.setattr(
        tokens,
        "tokenize_all",
        lambda texts, *settings: (
            tokenized.append(texts) or tokenize_all(texts, *settings)
        ),
    )
    return cache / "tokenized", tokenized


def check(found, *settings, texts=TEXTS):
    expected = tokenize_all(texts, *settings)
    assert found.words == expected.words
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    assert (found.ids.dtype, found.offsets.dtype) == (np.int32, np.int64)


def test_the_same_texts_are_tokenized_once(corpora):
    _, tokenized = corpora
    for _ in range(3):
        check(tokenize_kept(TEXTS))
    assert len(tokenized) == 1


def test_other_texts_and_other_settings_are_others(corpora):
    folder, tokenized = corpora
    for texts, settings in (
        (TEXTS, ()),
        (TEXTS, (5,)),
        (TEXTS, (5, False)),
        (TEXTS, (5, False, "de")),
        (TEXTS[1:], ()),
        ([TEXTS[0] + TEXTS[1], *TEXTS[2:]], ()),
    ):
        check(tokenize_kept(texts, *settings), *settings, texts=texts)
    assert len(tokenized) == len(list(folder.iterdir())) == 6


def test_few_texts_are_not_kept(corpora, monkeypatch):
    folder, _ = corpora
    monkeypatch.setattr(tokens, "WORTH_KEEPING", len(TEXTS) + 1)
    check(tokenize_kept(TEXTS))
    assert not folder.exists()


def other_numbers(path):
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, "ids": arrays["ids"] + 1000})


def pickled(path):
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, "ids": np.array([object()])})


def without_offsets(path):
    with np.load(path) as arrays:
        np.savez(path, ids=arrays["ids"], words=arrays["words"])


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        turn_a_bit,
        other_numbers,
        pickled,
        without_offsets,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<html>"),
    ],
)
def test_a_damaged_file_is_made_anew(damage, corpora):
    folder, tokenized = corpora
    tokenize_kept(TEXTS)
    damage(next(folder.iterdir()))
    check(tokenize_kept(TEXTS))
    check(tokenize_kept(TEXTS))
    assert len(tokenized) == 2
    assert len(list(folder.iterdir())) == 1


def test_a_folder_that_cannot_be_written_to_costs_time_only(corpora):
    folder, _ = corpora
    folder.parent.mkdir()
    folder.write_text("a file where the folder should be")
    check(tokenize_kept(TEXTS))


def test_a_cache_that_may_only_be_read_is_used(corpora, monkeypatch):
    _, tokenized = corpora
    tokenize_kept(TEXTS)

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for module, name in ((os, "utime"), (os, "replace"), (kept, "scratch_folder")):
        monkeypatch.setattr(module, name, refuse)
    check(tokenize_kept(TEXTS))
    assert len(tokenized) == 1


def test_a_disk_that_fills_up_costs_time_only_and_keeps_nothing(corpora, monkeypatch):
    folder, _ = corpora

    def fill_up(path, **_):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", fill_up)
    check(tokenize_kept(TEXTS))
    assert [path.name for path in folder.parent.iterdir()] == ["tokenized.lock"]


def test_what_a_killed_process_left_is_removed(corpora):
    folder, _ = corpora
    left = folder.with_name("tokenized.killed.part")
    left.mkdir(parents=True)
    (left / "half.npz").write_bytes(b"half of it")
    tokenize_kept(TEXTS)
    assert not left.exists()
    assert len(list(folder.iterdir())) == 1


def test_those_used_longest_ago_go_first(corpora, monkeypatch):
    folder, _ = corpora
    for number in range(3):
        tokenize_kept(TEXTS[number:])
    size = max(path.stat().st_size for path in folder.iterdir())
    tokenize_kept(TEXTS)  # used again
    monkeypatch.setattr(kept, "KEPT_BYTES", 3 * size)
    tokenize_kept(TEXTS[3:])
    assert set(folder.iterdir()) == {
        kept.path_of(TEXTS[start:], 100, True, "en") for start in (0, 2, 3)
    }
