"""Texts into tokens, with spaCy's rules for their language."""

import html
import re
import warnings
from array import array
from dataclasses import dataclass
from itertools import islice, starmap

import numpy as np

from selfatt_lib.machinery import kept
from selfatt_lib.machinery.languages import LONGEST_WORD, has_rules, tokenizer
from selfatt_lib.machinery.progress import tqdm
from selfatt_lib.machinery.threads import no_fork, num_threads

CHUNK = 5000  # texts tokenized at a time
FEW = 20  # fewer are faster tokenized one by one
# Where texts are not split at spaces: 300 characters, or fewer up to a space
PIECE = re.compile(r"\S.{,299}(?!\S)|\S{300}", re.DOTALL)
BREAK = re.compile(r"<br\s*/?>|</?p>", re.IGNORECASE)
WORTH_A_WARNING = 0.05  # of the tokens, cut off
WORTH_KEEPING = 5_000  # fewer are tokenized in less than a second


def tokenize(text, max_tokens=None, lower=True, language="en"):
    """Split a text into words and punctuation with spaCy's rules.

    Parameters
    ----------
    text : str
    max_tokens : int, optional
        Keep so many tokens, as the tutorial's ``ClipSequence`` does. No more of the
        text is read than that takes.
    lower : bool, default True
        Lower-case the tokens. GloVe 6B knows lower case only: to it, the tutorial's
        "This" was an unknown word.
    language : str, default "en"
        Whose rules: spaCy's code of a language, such as "de", or "xx" for any. "zh"
        splits Chinese into characters; "ja", "ko", "th" and "vi" need packages of
        their own.

    Returns
    -------
    list of str
        Without white space. Of a word of more than 300 characters, only the first 300
        are read, if the language puts spaces between words.

    Raises
    ------
    ValueError
        spaCy has no such language.
    ImportError
        The language needs another package.

    Examples
    --------
    >>> tokenize("This movie isn't bad!")
    ['this', 'movie', 'is', "n't", 'bad', '!']
    """
    split = tokenizer(language)
    if has_rules(split):
        # A word is one token or more, so no more words are needed than tokens.
        words = text.split(None, -1 if max_tokens is None else max_tokens)
        start = " ".join(word[:LONGEST_WORD] for word in words[:max_tokens])
        tokens = [token.text for token in split(start)[:max_tokens]]
    else:
        found = (token for piece in PIECE.finditer(text) for token in split(piece[0]))
        words = (token.text for token in found if not token.is_space)
        tokens = list(islice(words, max_tokens))
    return [token.lower() for token in tokens] if lower else tokens


@dataclass(frozen=True)
class TokenizedTexts:
    """Texts as one flat array of word numbers: four bytes a token.

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

    def texts(self):
        """Return each text's tokens with spaces between them: list of str."""
        return [" ".join([self.words[i] for i in self[n]]) for n in range(len(self))]

    def encode(self, vocab):
        """Return the same texts, numbered by a vocabulary."""
        numbers = np.array(vocab[self.words], dtype=np.int32)
        return TokenizedTexts(vocab.idx_to_token, numbers[self.ids], self.offsets)


def tokenize_all(texts, max_tokens=100, lower=True, language="en"):
    """Tokenize many texts, a few thousand at a time.

    Parameters
    ----------
    texts : iterable of str
        They are taken a few at a time and not kept.
    max_tokens, lower, language
        As in `tokenize`.

    Returns
    -------
    TokenizedTexts
        Words are numbered in the order in which they first occur.
    """
    size = len(texts) if hasattr(texts, "__len__") else None
    if size is not None and size < FEW:
        return TokenizedTexts.from_lists(
            [tokenize(t, max_tokens, lower, language) for t in texts]
        )
    settings = max_tokens, lower, language
    with no_fork:
        import joblib

        from selfatt_lib.machinery.words import tokenize_chunk
    chunks = ((chunk, *settings, tokenize) for chunk in _chunks(texts))
    if not has_rules(tokenizer(language)):
        tokenized = (_one_by_one(chunk, *settings) for chunk in _chunks(texts))
    elif size is None or size > CHUNK:
        in_threads = joblib.Parallel(num_threads(), "threading", return_as="generator")
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


def _one_by_one(texts, *settings):
    """Return what `tokenize_chunk` does, in a language without rules for its words."""
    tokenized = TokenizedTexts.from_lists([tokenize(t, *settings) for t in texts])
    return tokenized.words, tokenized.ids, tokenized.lengths


def _chunks(texts):
    texts = iter(texts)
    while chunk := list(islice(texts, CHUNK)):
        yield chunk


def tokenize_kept(texts, max_tokens=100, lower=True, language="en"):
    """Return what `tokenize_all` returns, from disk if it was tokenized before.

    These very texts, with these settings, in ``tokenized/`` of `cache_dir`.

    Parameters
    ----------
    texts : sequence of str
    max_tokens, lower, language
        As in `tokenize_all`.

    Returns
    -------
    TokenizedTexts
    """
    if len(texts) < WORTH_KEEPING:
        return tokenize_all(texts, max_tokens, lower, language)
    path = kept.path_of(texts, max_tokens, lower, language)
    if found := kept.read(path):
        return TokenizedTexts(*found)
    tokenized = tokenize_all(texts, max_tokens, lower, language)
    kept.write(path, tokenized.words, tokenized.ids, tokenized.offsets)
    return tokenized


def warn_of_clipping(texts, max_tokens, lower=True, language="en"):
    """Return the share of 1000 texts' tokens that `max_tokens` cuts off: float.

    Warn if it is more than a twentieth.
    """
    lengths = tokenize_all(list(texts[:1000]), None, lower, language).lengths
    share = float(1 - np.minimum(lengths, max_tokens).sum() / lengths.sum())
    if share > WORTH_A_WARNING:
        warnings.warn(
            f"max_tokens={max_tokens} cuts off {share:.0%} of the training reviews' "
            "tokens; with more of them a model often does better: see "
            "book/parameters/reviews.yaml",
            stacklevel=3,
        )
    return share


def plain_text(text):
    """Undo HTML in a text: entities, ``<br>`` and ``<p>``.

    The two, and ``</p>``, become new lines. Other tags stay as they are.

    Parameters
    ----------
    text : str

    Returns
    -------
    str

    Examples
    --------
    >>> plain_text("Tom &amp; Jerry<br />Caf&eacute; <b>&lt;3</b>")
    'Tom & Jerry\\nCafé <b><3</b>'
    """
    return html.unescape(BREAK.sub("\n", text))


def is_unicode(text):
    """Tell whether a text can be written as UTF-8: it has no half of a character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
