"""Tokenized corpora on disk, for the next run on the same reviews.

A file that is damaged, or a folder that cannot be written to, costs time only.
"""

import hashlib
import json
import os
from contextlib import suppress
from importlib.metadata import version

import numpy as np

from selfatt_lib.machinery.places import cache_dir, scratch_folder

KEPT_BYTES = 2_000_000_000  # of all corpora; those used longest ago go first


def path_of(texts, *settings):
    """Return where these very texts, tokenized with these settings, are kept."""
    digest = hashlib.sha256(repr((version("spacy"), *settings)).encode())
    for text in texts:
        text = text.encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return cache_dir() / "tokenized" / f"{digest.hexdigest()}.npz"


def read(path):
    """Return ``(words, ids, offsets)``, or None if there is no such file in order."""
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
    return (words, ids, offsets) if whole else None


def write(path, words, ids, offsets):
    """Keep a corpus, and remove those used longest ago if all take too much room."""
    words = np.frombuffer(json.dumps(words).encode(), np.uint8)
    with suppress(OSError), scratch_folder(path.parent) as scratch:
        np.savez(scratch / path.name, ids=ids, offsets=offsets, words=words)
        path.parent.mkdir(exist_ok=True)
        os.replace(scratch / path.name, path)
        held = 0
        kept = sorted(path.parent.glob("*.npz"), key=os.path.getmtime, reverse=True)
        for file in kept:
            held += file.stat().st_size
            if held > KEPT_BYTES:
                file.unlink()
