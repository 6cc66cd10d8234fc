"""Many texts through spaCy's tokenizer at once, each word once: for `data.tokens`."""

from functools import cache
from itertools import pairwise, product
from threading import RLock

import numpy as np

from selfatt_lib.machinery.languages import LONGEST_WORD, tokenizer, with_cases
from selfatt_lib.machinery.threads import hold_at_fork, importing, no_fork

DISTINCT_WORDS = 500_000  # words whose tokens are remembered


def _starts(word):
    return (word[:end] for end in range(1, len(word) + 1))


def _ends(word):
    return (word[start:] for start in range(len(word)))


def _plain_tokens(word, cases):
    """Return the tokens of a word of plain letters with one mark or none, or None.

    By the rules for English, which have these special cases.
    """
    has_mark = word.endswith((",", "!", "?", ";", ":")) or (
        word.endswith(".") and word[-2:-1].islower()
    )
    letters, *mark = (word[:-1], word[-1]) if has_mark else (word,)
    if not (letters.isascii() and letters.isalpha()) or {word, letters} & cases:
        return None
    return [letters, *mark]


class _Words(dict):
    """The tokens of each word, as numbers; `numbers` has each token's.

    spaCy joins tokens that make up a special case, such as ":" and ")", even across
    white space, now and then. Where that can happen, two words must not be tokenized
    apart: the end of the one and the start of the other may be tokens that stand side
    by side in a special case.
    """

    def __init__(self, language, lower):
        self.language, self.lower, self.lock = language, lower, RLock()
        self.tokenizer = tokenizer(language)
        self.cases = frozenset(self.tokenizer.rules)
        plain = with_cases(self.tokenizer, None)
        self.joined = {
            (one.text, other.text)
            for case in map(plain, self.cases)
            for one, other in pairwise(case)
        }
        self.before = {one for one, _ in self.joined}
        self.after = {other for _, other in self.joined}
        self.forget()

    def forget(self):
        self.clear()
        self.numbers = {}
        self.starts, self.ends = set(), set()  # words that _may_join has to look at

    def number(self, tokens):
        if self.lower:
            tokens = map(str.lower, tokens)
        # tuples of numbers cost Python's search for garbage no time, lists would
        return tuple(
            [self.numbers.setdefault(token, len(self.numbers)) for token in tokens]
        )

    def __missing__(self, word):
        if len(word) > LONGEST_WORD:  # not worth remembering
            return ()
        tokens = _plain_tokens(word, self.cases) if self.language == "en" else None
        if tokens:
            starts, ends = tokens[0] in self.after, tokens[-1] in self.before
        else:
            tokens = [token.text for token in self.tokenizer(word)]
            starts = not self.after.isdisjoint(_starts(word))
            ends = not self.before.isdisjoint(_ends(word))
        if starts:
            self.starts.add(word)
        if ends:
            self.ends.add(word)
        self[word] = self.number(tokens)
        return self[word]

    def _may_join(self, before, after):
        ends, starts = self.before & {*_ends(before)}, self.after & {*_starts(after)}
        return not self.joined.isdisjoint(product(ends, starts))

    def apart(self, words, distinct):
        """Return the places of words that must not be tokenized without their text.

        They are too long, or spaCy might join them with the next. `words` has the place
        of each word, one text after the other, in the list `distinct`.
        """

        def flags(answers):
            return np.fromiter(answers, bool, len(distinct))

        starts = flags(map(self.starts.__contains__, distinct))
        ends = flags(map(self.ends.__contains__, distinct))
        is_long = flags(len(word) > LONGEST_WORD for word in distinct)
        may_join = [
            place
            for place in np.flatnonzero(ends[words[:-1]] & starts[words[1:]])
            if self._may_join(distinct[words[place]], distinct[words[place + 1]])
        ]
        return may_join + np.flatnonzero(is_long[words]).tolist()


@cache
def _words(language, lower):
    words = _Words(language, lower)
    hold_at_fork(words.lock)  # a forked process gets them whole, and unlocked
    return words


def words_of(language, lower):
    """Return the words of a language that are known so far: one _Words for all."""
    with importing():  # a fork that waits does not know their lock, and goes first
        return _words(language, lower)


@cache
def _arrow():
    """Import Arrow, and call it once: a fork in its first call hangs what is forked.

    Its first array imports pandas, its first function makes what all others share.
    """
    with no_fork:
        import pyarrow as pa
        import pyarrow.compute as pc

        pc.utf8_trim_whitespace(pa.array([""]))
    return pa, pc


def tokenize_chunk(texts, max_tokens, lower, language, tokenize):
    """Return the distinct tokens of texts, the number of each token, each text's count.

    `tokenize` is for texts whose words cannot be tokenized apart. Arrow splits and
    numbers the words and puts their tokens in place, and lets other threads run.
    """
    pa, pc = _arrow()

    def clip(lists):
        return lists if max_tokens is None else pc.list_slice(lists, 0, max_tokens)

    trimmed = pc.utf8_trim_whitespace(pa.array(texts, pa.large_string()))
    split = clip(pc.utf8_split_whitespace(trimmed, max_splits=max_tokens))
    spans = split.offsets.to_numpy()  # text i has the words from spans[i] on
    numbered = split.flatten().dictionary_encode()
    words = numbered.indices.to_numpy().copy()
    distinct = numbered.dictionary.to_pylist()
    known = words_of(language, lower)
    with known.lock:
        if len(known) > DISTINCT_WORDS:
            known.forget()
        tokens = [known[word] for word in distinct]
        tokens.append(())
        apart = np.searchsorted(spans, known.apart(words, distinct), "right") - 1
        for number in set(apart.tolist()):
            # such a text is one word of many tokens, and others of none
            first, last = spans[number], spans[number + 1]
            words[first:last] = len(distinct)
            words[first] = len(tokens)
            together = tokenize(texts[number], max_tokens, lower, language)
            tokens.append(known.number(together))
        all_tokens = list(known.numbers)
    of_words = pa.array(tokens, pa.list_(pa.int32())).take(pa.array(words))
    starts = of_words.offsets.to_numpy()[spans]
    of_texts = clip(pa.ListArray.from_arrays(starts, of_words.values))
    encoded = of_texts.flatten().dictionary_encode()
    found = [all_tokens[number] for number in encoded.dictionary.to_pylist()]
    lengths = np.diff(of_texts.offsets).astype(np.int64)
    return found, encoded.indices.to_numpy(), lengths
