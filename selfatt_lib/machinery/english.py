"""spaCy's tokenizer with its rules for English, which need no trained model."""

import spacy
from spacy.tokenizer import Tokenizer
from spacy.vocab import Vocab

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
