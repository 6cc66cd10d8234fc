"""Texts into tokens, with spaCy's English rules. Imports no MXNet, so that other processes can begin to tokenize at once."""

from functools import lru_cache
from itertools import chain, pairwise, product
from threading import Lock

import numpy as np
import spacy
from spacy.tokenizer import Tokenizer
from spacy.vocab import Vocab

# Beyond this a "word" is noise. The tokenizer reads a word again for every mark it splits off: 1000 brackets take it 0.1 s, a million
# would take a day.
LONGEST_WORD = 300
DISTINCT_WORDS = 500_000  # words whose tokens are remembered

_english = spacy.blank("en").tokenizer  # rules only: no model to download


def _with_cases(cases):
    """Return the English tokenizer with these special cases, and a vocabulary that finds out nothing about a word but its letters."""
    return Tokenizer(
        Vocab(),
        rules=cases,
        prefix_search=_english.prefix_search,
        suffix_search=_english.suffix_search,
        infix_finditer=_english.infix_finditer,
        token_match=_english.token_match,
        url_match=_english.url_match,
    )


_tokenizer = _with_cases(_english.rules)


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
_plain = _with_cases(None)
_cases = frozenset(_english.rules)
_joined = {
    (one.text, other.text)
    for case in map(_plain, _cases)
    for one, other in pairwise(case)
}
_before, _after = map(frozenset, zip(*_joined))
_ENDS, _STARTS = map(tuple, (_before, _after))


@lru_cache(DISTINCT_WORDS)
def _edges(word):
    """Return what can be the first token of a word, and what the last, with the special cases and without: two sets."""
    split = [
        [token.text for token in tokenizer(word)] for tokenizer in (_tokenizer, _plain)
    ]
    return {tokens[0] for tokens in split}, {tokens[-1] for tokens in split}


def _may_join(before, after):
    return not _joined.isdisjoint(product(_edges(before)[1], _edges(after)[0]))


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
        self.starts, self.ends = set(), set()  # words that _may_join has to look at
        self.met_long_word = False

    def number(self, token):
        return self.numbers.setdefault(token, len(self.numbers))

    def __missing__(self, word):
        if len(word) > LONGEST_WORD:  # not worth remembering
            self.met_long_word = True
            return ()
        is_case = word in _cases
        if word.isascii() and word.isalpha() and not is_case:
            tokens = [word]  # no rule splits plain letters
        else:
            tokens = [token.text for token in _tokenizer(word)]
        if len(tokens) == 1 and not is_case:
            starts, ends = word in _after, word in _before
        else:
            starts = word.startswith(_STARTS) and not _after.isdisjoint(_edges(word)[0])
            ends = word.endswith(_ENDS)
        if starts:
            self.starts.add(word)
        if ends:
            self.ends.add(word)
        if self.lower:
            tokens = map(str.lower, tokens)
        self[word] = tuple(map(self.number, tokens))
        return self[word]

    def may_join(self, words):
        """Tell whether spaCy might join the tokens of two words that stand side by side."""
        return not self.starts.isdisjoint(words) and any(
            after in self.starts and before in self.ends and _may_join(before, after)
            for before, after in pairwise(words)
        )

    def tokenize(self, text, max_tokens=None):
        """Return the numbers of the tokens that `tokenize` returns: list of int."""
        words = text.split(None, -1 if max_tokens is None else max_tokens)[:max_tokens]
        self.met_long_word = False
        numbers = list(chain.from_iterable(map(self.__getitem__, words)))
        if self.met_long_word or self.may_join(words):
            tokens = tokenize(text, max_tokens, self.lower)
            numbers = [self.number(token) for token in tokens]
        return numbers[:max_tokens]


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
    ids = np.array(ids, np.int32)
    first = np.full(len(tokens), len(ids))
    first[ids[::-1]] = np.arange(len(ids))[::-1]  # of equal ones, the last counts
    found = np.flatnonzero(first < len(ids))
    found = found[first[found].argsort()]
    renumber = np.empty(len(tokens), np.int32)
    renumber[found] = np.arange(len(found))
    words = [tokens[number] for number in found]
    return words, renumber[ids], np.array(lengths, np.int64)
