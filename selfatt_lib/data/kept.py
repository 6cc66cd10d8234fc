"""Tokenized corpora on disk, so that the next run on the same reviews need not tokenize them again."""

import hashlib
import json
import os
from contextlib import suppress

import numpy as np
import spacy

from selfatt_lib.data.sources import cache_dir, scratch_folder
from selfatt_lib.data.tokens import TokenizedTexts, tokenize_all

# fewer are tokenized in less than a second
TEXTS_WORTH_KEEPING = 5_000
KEPT_BYTES = 2_000_000_000  # of all corpora; those used longest ago go first


def tokenize_kept(texts, max_tokens=100, lower=True):
    """Return what `tokenize_all` returns, from ``tokenized/`` in `cache_dir` if these very texts were tokenized before.

    A file that is damaged, or a folder that cannot be written to, costs time and nothing else.

    Parameters
    ----------
    texts : sequence of str
    max_tokens, lower
        As in `tokenize_all`.

    Returns
    -------
    TokenizedTexts
    """
    if len(texts) < TEXTS_WORTH_KEEPING:
        return tokenize_all(texts, max_tokens, lower)
    path = cache_dir() / "tokenized" / f"{_key(texts, max_tokens, lower)}.npz"
    tokenized = _read(path)
    if tokenized is None:
        tokenized = tokenize_all(texts, max_tokens, lower)
        with suppress(OSError):
            _write(path, tokenized)
    return tokenized


def _key(texts, *settings):
    """Return what tells apart everything that the tokens depend on."""
    digest = hashlib.sha256(repr((spacy.__version__, *settings)).encode())
    for text in texts:
        text = text.encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.hexdigest()


def _read(path):
    try:
        # np.load compares checksums, and runs no code
        with open(path, "rb") as file, np.load(file) as arrays:
            ids, offsets = arrays["ids"], arrays["offsets"]
            words = json.loads(arrays["words"].tobytes())
        whole = (
            ids.dtype == np.int32
            and offsets.dtype == np.int64
            and offsets[0] == 0
            and offsets[-1] == len(ids)
            and (np.diff(offsets) >= 0).all()
            and (len(ids) == 0 or 0 <= ids.min() <= ids.max() < len(words))
        )
    except Exception:  # there is none, or whatever a damaged one leads to
        return None
    with suppress(OSError):  # a cache that may only be read
        os.utime(path)
    return TokenizedTexts(words, ids, offsets) if whole else None


def _write(path, tokenized):
    words = np.frombuffer(json.dumps(tokenized.words).encode(), np.uint8)
    with scratch_folder(path.parent) as scratch:
        np.savez(
            scratch / path.name,
            ids=tokenized.ids,
            offsets=tokenized.offsets,
            words=words,
        )
        path.parent.mkdir(exist_ok=True)
        os.replace(scratch / path.name, path)
        held = 0
        kept = sorted(path.parent.glob("*.npz"), key=os.path.getmtime, reverse=True)
        for file in kept:
            held += file.stat().st_size
            if held > KEPT_BYTES:
                file.unlink()
