"""spaCy's tokenizer with its rules for English, which need no trained model."""

import sys
from threading import get_ident


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
    from spacy.tokenizer import Tokenizer
    from spacy.vocab import Vocab
finally:
    sys.meta_path.remove(hidden)

# Beyond this a "word" is noise. The tokenizer reads a word again for every mark that it
# splits off: 1000 brackets take it 0.1 s, a million would take a day.
LONGEST_WORD = 300

_english = spacy.blank("en").tokenizer
rules = _english.rules  # the special cases


def with_cases(cases):
    """Return the English tokenizer with these special cases."""
    return Tokenizer(
        Vocab(),  # finds out nothing about a word but its letters
        rules=cases,
        prefix_search=_english.prefix_search,
        suffix_search=_english.suffix_search,
        infix_finditer=_english.infix_finditer,
        token_match=_english.token_match,
        url_match=_english.url_match,
    )


tokenizer = with_cases(rules)
