"""spaCy's tokenizers with their rules for a language, which need no trained model."""

import sys
from functools import cache
from pkgutil import iter_modules
from threading import get_ident

from selfatt_lib.machinery.threads import no_fork


class NoPyTorch:
    """An import finder that finds no PyTorch, for the thread that made it.

    spaCy would import it, which takes seconds, for models that we do not use.
    """

    def __init__(self):
        self.thread = get_ident()

    def find_spec(self, name, path=None, target=None):
        if name == "torch" and get_ident() == self.thread:
            raise ModuleNotFoundError("not while spaCy is imported", name=name)


sys.meta_path.insert(0, hidden := NoPyTorch())
try:
    import spacy
    import spacy.lang
    from spacy.tokenizer import Tokenizer
    from spacy.vocab import Vocab
finally:
    sys.meta_path.remove(hidden)

# Beyond this a "word" is noise. The tokenizer reads a word again for every mark that it
# splits off: 1000 brackets take it 0.1 s, a million would take a day.
LONGEST_WORD = 300


@cache
def tokenizer(language):
    """Return the tokenizer for a language, by spaCy's code of it.

    Special cases of several words are left out: so a word is one token or more, and no
    token has white space in it. ValueError: spaCy has no such language. ImportError: it
    has no rules for it, and needs a package that is not installed.
    """
    codes = [each.name for each in iter_modules(spacy.lang.__path__) if each.ispkg]
    if language not in codes:
        raise ValueError(
            f"spaCy has no language {language!r}; language must be xx for any, or one "
            f"of: {', '.join(codes)}"
        )
    with no_fork:  # it imports the language
        try:
            found = spacy.blank(language).tokenizer
        except ImportError as error:
            raise ImportError(
                f"language={language!r} needs a package that is not installed. spaCy "
                f"says: {error}"
            ) from None
    if not has_rules(found):
        return found
    return with_cases(
        found,
        {case: found.rules[case] for case in found.rules if [case] == case.split()},
    )


def has_rules(tokenizer):
    """Tell whether a tokenizer splits word by word, with spaCy's rules."""
    return type(tokenizer) is Tokenizer


def with_cases(tokenizer, cases):
    """Return a tokenizer with the same rules, but these special cases."""
    return Tokenizer(
        Vocab(),  # finds out nothing about a word but its letters
        rules=cases,
        prefix_search=tokenizer.prefix_search,
        suffix_search=tokenizer.suffix_search,
        infix_finditer=tokenizer.infix_finditer,
        token_match=tokenizer.token_match,
        url_match=tokenizer.url_match,
    )
