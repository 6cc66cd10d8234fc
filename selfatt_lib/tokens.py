"""Texts into tokens, with spaCy's English rules. Imports no MXNet, so that other processes can begin to tokenize at once."""

from itertools import chain, pairwise, product
from threading import Lock

import numpy as np
import spacy
from spacy.tokenizer import Tokenizer

# Beyond this a "word" is noise. The tokenizer reads a word again for every mark it splits off: 1000 brackets take it 0.1 s, a million
# would take a day.
LONGEST_WORD = 300
DISTINCT_WORDS = 500_000  # words whose tokens are remembered

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


def tokenize_chunk(texts, max_tokens, lower):
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
