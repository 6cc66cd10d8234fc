import os
import random
import sys
from importlib.util import find_spec
from itertools import product

import numpy as np
import pytest
import spacy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import make_reviews, run_code
from selfatt_lib.data.sources import load_reviews
from selfatt_lib.data.tokens import is_unicode, plain_text, tokenize, tokenize_all
from selfatt_lib.data.vocabulary import build_vocab
from selfatt_lib.machinery.languages import tokenizer
from selfatt_lib.machinery.words import _plain_tokens, tokenize_chunk, words_of


def spacy_tokens_of(language):
    split = spacy.blank(language).tokenizer
    return lambda text: [token.text for token in split(text) if not token.is_space]


@pytest.fixture(scope="module")
def spacy_tokens():
    return spacy_tokens_of("en")


def test_tokens_are_spacys_without_white_space(spacy_tokens):
    for review in load_reviews(size=500, seed=1)["text"]:
        assert tokenize(review, lower=False) == spacy_tokens(review)
        assert tokenize(review) == [token.lower() for token in spacy_tokens(review)]


def test_clipping_early_gives_the_tokens_of_clipping_late(spacy_tokens):
    rng = random.Random(0)
    for _ in range(500):
        words = rng.choices(
            [
                "can't",
                "U.S.",
                "e.g.",
                "(so-called)",
                "$5.00",
                "good!!!",
                ":-)",
                "a",
                "...",
                "we'll,",
            ],
            k=40,
        )
        review = " ".join(words)
        limit = rng.randint(1, 60)
        assert tokenize(review, limit, lower=False) == spacy_tokens(review)[:limit]


def apart(reviews, limit, lower, language="en"):
    """Return the tokens of reviews whose words are tokenized each on its own."""
    words, ids, lengths = tokenize_chunk(reviews, limit, lower, language, tokenize)
    assert list(dict.fromkeys(ids)) == list(range(len(words)))  # as they first occur
    stops = lengths.cumsum()
    return [
        [words[i] for i in ids[stop - length : stop]]
        for stop, length in zip(stops, lengths)
    ]


def test_words_tokenized_apart_are_tokenized_as_spacy_does_together(spacy_tokens):
    """spaCy joins special cases across white space, here and there.

    Texts of their pieces are as hard as it gets.
    """
    rng = random.Random(0)
    cases = [case for case in spacy.blank("en").tokenizer.rules if case.strip()]
    marks = ":;)(-=<>_/|8oOpDX3^.,'\"!?*"
    words = ["don't", "a.m.", "U.S.", "10", "km", "can't", "and/or", "1:30", "'s", "ca"]

    def pieces():
        case = rng.choice(cases)
        cut = rng.randint(1, len(case))
        mark = "".join(rng.choices(marks, k=rng.randint(1, 3)))
        return rng.choice([case, f"{case[:cut]} {case[cut:]}", mark, rng.choice(words)])

    hard = ["\\> :(\\ ca", "lovin' Corp. &( :]~", "(x( =]/ 'cause", "r. .8 :)- : -}"]
    drawn = [
        " ".join(pieces() for _ in range(rng.randint(1, 6))) for _ in range(20_000)
    ]
    reviews = hard + drawn
    expected = [spacy_tokens(" ".join(review.split())) for review in reviews]
    assert apart(reviews, None, False) == expected
    for limit in (1, 2, 3, 5, 8):
        clipped = [
            spacy_tokens(" ".join(review.split()[:limit]))[:limit] for review in reviews
        ]
        assert apart(reviews, limit, False) == clipped
        assert [tokenize(review, limit, lower=False) for review in reviews] == clipped
    one_by_one = [
        [token for word in review.split() for token in spacy_tokens(word)]
        for review in reviews
    ]
    assert one_by_one != expected  # it does happen
    reviews = load_reviews()["text"].tolist()
    together = [tokenize(review, 100) for review in reviews]
    assert apart(reviews, 100, True) == together


# of rules for words; some have special cases of several words
RULED = ["de", "fr", "ru", "es", "en", "xx"]


@pytest.mark.parametrize("language", [*RULED, "ar", "gd", "hu", "tr"])
def test_in_every_language_words_are_tokenized_apart_as_together(language):
    rng = random.Random(0)
    cases = [case for case in spacy.blank(language).tokenizer.rules if case.strip()]
    words = [
        "don't",
        "10km",
        "1:30",
        "l'",
        "d’",
        "film.",
        "z.B.",
        "т.ч.",
        "д-р",
        "Straße",
    ]

    def piece():
        case = rng.choice(cases)
        cut = rng.randint(1, len(case))
        mark = "".join(rng.choices(":;)(-=<>_/|8oDX3^.,'\"!?*«»’", k=rng.randint(1, 3)))
        return rng.choice([case, f"{case[:cut]} {case[cut:]}", mark, rng.choice(words)])

    texts = [" ".join(piece() for _ in range(rng.randint(1, 6))) for _ in range(500)]
    for limit in (None, 1, 3):
        for lower in (True, False):
            together = [tokenize(text, limit, lower, language) for text in texts]
            assert apart(texts, limit, lower, language) == together
    assert all(token.split() == [token] for text in together for token in text)
    if all(len(case.split()) == 1 for case in cases):
        as_spacy = spacy_tokens_of(language)
        for text in texts:
            expected = as_spacy(" ".join(text.split()))
            assert tokenize(text, lower=False, language=language) == expected


@pytest.mark.parametrize(
    ("language", "text", "tokens"),
    [
        ("de", "Das war z.B. nicht „gut“!", "das war z.b. nicht „ gut “ !"),
        ("fr", "L'acteur n'est qu'un débutant.", "l' acteur n' est qu' un débutant ."),
        ("es", "¡Qué película, Sr. Díaz!", "¡ qué película , sr. díaz !"),
        ("ru", "Фильм т.е. кино, 2020 г.", "фильм т.е. кино , 2020 г."),
        ("xx", "Ein film, un film!", "ein film , un film !"),
        ("zh", "电影很好看。\n 不错!", "电 影 很 好 看 。 不 错 !"),
    ],
)
def test_a_language_has_rules_of_its_own(language, text, tokens, monkeypatch):
    assert tokenize(text, language=language) == tokens.split()
    for few in (20, 0):
        monkeypatch.setattr("selfatt_lib.data.tokens.FEW", few)
        many = tokenize_all([text, "", "x"], 5, language=language)
        found = [[many.words[i] for i in many[n]] for n in range(len(many))]
        assert found == [tokens.split()[:5], [], ["x"]]


def test_a_long_text_without_spaces_is_read_in_pieces():
    text = "好" * 100_000
    assert tokenize(text, 450, language="zh") == ["好"] * 450
    pieces = ["x" * 299, " " * 5, "y" * 301, "\n", *"z " * 200]
    letters = [letter for letter in "".join(pieces) if letter.strip()]
    assert tokenize("".join(pieces), language="zh") == letters


@pytest.mark.parametrize("language", ["qq", "EN", "en_core_web_sm", "../en", "", None])
def test_an_unknown_language_is_refused_with_the_known_ones(language):
    with pytest.raises(
        ValueError, match=r"language must be xx .* one of: .* de, .* zh"
    ):
        tokenize("a film", language=language)


@pytest.mark.parametrize(
    ("language", "package"),
    [("ja", "SudachiPy"), ("ko", "natto"), ("th", "PyThaiNLP"), ("vi", "[Pp]yvi")],
)
def test_a_language_that_needs_another_package_says_which(
    language, package, monkeypatch
):
    for name in ("sudachipy", "natto", "pythainlp", "pyvi"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    tokenizer.cache_clear()
    with pytest.raises(ImportError, match=f"language='{language}' needs.*{package}"):
        tokenize_all(["a film"] * 30, language=language)


@settings(deadline=None)  # a language is imported when it is first met
@given(
    st.lists(st.text(), min_size=1),
    st.one_of(st.none(), st.integers(1, 20)),
    st.sampled_from(RULED),
)
@example(["ﬁlm\u2028\x1c\x85bad :\u00a0)", "", " ", ") a", "b :", ")"], None, "en")
@example([":", ")", "x" * 301, "", ": )"], 3, "en")
def test_any_text_is_tokenized_apart_as_together(reviews, limit, language):
    for lower in (False, True):
        together = [tokenize(review, limit, lower, language) for review in reviews]
        assert apart(reviews, limit, lower, language) == together


RULES = spacy.blank("en").tokenizer.rules.keys()


def test_no_rule_of_spacys_splits_plain_letters():
    """So a word of nothing else that is no special case is one token.

    A mark behind it is another.
    """
    rules = spacy.blank("en").tokenizer
    searches = rules.prefix_search, rules.suffix_search, rules.url_match
    for length in (1, 2, 3):
        for letters in product("ABKMSTUabckmstxyz", repeat=length):
            word = "".join(letters)
            assert not any(search(word) for search in searches)
            assert not list(rules.infix_finditer(word))
    for word in set(" ".join(load_reviews()["text"]).split()):
        if tokens := _plain_tokens(word, RULES):
            assert [token.text for token in rules(word)] == tokens


@given(word=st.from_regex("[A-Za-z]+[.,!?;:]?", fullmatch=True))
@example(word="U.")
@example(word="US.")
@example(word="Mr.")
@example(word="cannot,")
@example(word="cannot.")
@example(word="cannots")
@example(word="good,")
def test_plain_letters_are_one_token(word, spacy_tokens):
    tokens = _plain_tokens(word, RULES)
    assert tokens in (None, spacy_tokens(word))
    if word.isalpha():
        assert (tokens is None) == (word in RULES)


def test_words_beyond_those_remembered_are_forgotten(monkeypatch):
    monkeypatch.setattr("selfatt_lib.machinery.words.DISTINCT_WORDS", 5)
    monkeypatch.setattr("selfatt_lib.data.tokens.CHUNK", 1)
    monkeypatch.setattr("selfatt_lib.data.tokens.FEW", 0)
    texts = ["a b c d e f", "b a g", "g :) a b"] * 3
    tokenized = tokenize_all(texts)
    assert len(words_of("en", True)) < 10
    found = [[tokenized.words[i] for i in tokenized[n]] for n in range(len(texts))]
    assert found == [tokenize(each) for each in texts]


def test_texts_may_come_one_by_one():
    texts = ["a good film", "", "a bad film"]
    flowing, listed = tokenize_all(iter(texts)), tokenize_all(texts)
    assert flowing.words == listed.words
    np.testing.assert_array_equal(flowing.ids, listed.ids)
    np.testing.assert_array_equal(flowing.offsets, listed.offsets)


def test_lower_casing_is_optional():
    assert tokenize("This IS it", lower=False) == ["This", "IS", "it"]
    assert tokenize("This IS it") == ["this", "is", "it"]


@pytest.mark.parametrize(
    "monster",
    [
        "x" * 1_000_000,
        "(" * 1_000_000,
        "a b " * 250_000,
        "http://" + "a/" * 500_000,
        " \n\t" * 333_333,
    ],
)
def test_a_text_of_a_million_characters_is_clipped_like_any_other(monster):
    assert len(tokenize(monster, max_tokens=100)) <= 100


def test_texts_lie_flat_and_come_back_one_by_one():
    texts = ["good good film", "", "a bad, bad film"]
    tokenized = tokenize_all(texts)
    assert tokenized.ids.dtype == np.int32
    assert tokenized.lengths.tolist() == [3, 0, 5]
    assert [
        [tokenized.words[i] for i in tokenized[n]] for n in range(len(tokenized))
    ] == [tokenize(text) for text in texts]


def test_few_texts_give_the_same_as_among_many(monkeypatch):
    texts = ["Good good :) film", "", "a bad, b : ) film"]
    few = tokenize_all(texts, 3)
    monkeypatch.setattr("selfatt_lib.data.tokens.FEW", 0)
    many = tokenize_all(texts, 3)
    assert few.words == many.words
    np.testing.assert_array_equal(few.ids, many.ids)
    np.testing.assert_array_equal(few.offsets, many.offsets)
    assert few.ids.dtype == many.ids.dtype
    assert few.offsets.dtype == many.offsets.dtype


def test_many_threads_give_the_same_as_one(monkeypatch):
    texts = make_reviews(700)["text"]
    alone = tokenize_all(texts)
    monkeypatch.setattr("selfatt_lib.data.tokens.CHUNK", 7)
    monkeypatch.setattr("selfatt_lib.data.tokens.num_threads", lambda: 4)
    together = tokenize_all(texts)
    assert together.words == alone.words
    np.testing.assert_array_equal(together.ids, alone.ids)
    np.testing.assert_array_equal(together.offsets, alone.offsets)


def test_no_texts_are_no_tokens():
    tokenized = tokenize_all([])
    assert len(tokenized) == len(tokenized.ids) == 0
    assert len(tokenized.encode(build_vocab(tokenized))) == 0


# HTML


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("good<br>bad<BR/>so<br />so<br\n/>", "good\nbad\nso\nso\n"),
        ("<p>one</p><p>two", "\none\n\ntwo"),
        ("Tom &amp; Jerry &#39;s caf&eacute;&nbsp;&lt;3", "Tom & Jerry 's café\xa0<3"),
        ("&lt;br&gt; &amp;lt;", "<br> &lt;"),  # once only
        ("<b>bold</b> <pre>a < b > c</pre> <brave>", None),
        ("AT&T; R & D &unheard;", None),
        ("", None),
    ],
)
def test_html_is_undone_but_for_other_tags(html, text):
    assert plain_text(html) == (html if text is None else text)


@given(st.text(st.sampled_from("&#x;<>/brpDd8005 ampltquo") | st.characters()))
def test_any_text_is_plain_unicode_without_html(text):
    text = text.encode(errors="replace").decode()
    assert is_unicode(plain_text(text))
    assert len(plain_text(text)) <= len(text)


# A fresh process


@pytest.mark.parametrize("module", ["tokens", "vocabulary"])
def test_one_sentence_takes_neither_an_engine_nor_tables(module):
    heavy = {"pandas", "sklearn", "pyarrow", "joblib"}
    heavy |= {"mxnet", "gluonnlp", "numba", "torch"}
    use = {"tokens": "tokenize('A good film!')", "vocabulary": "Vocabulary(['<unk>'])"}
    done = run_code(
        f"import sys\n"
        f"from selfatt_lib.data.{module} import *\n"
        f"{use[module]}\n"
        f"print({heavy} & {{name.partition('.')[0] for name in sys.modules}})",
        timeout=60,
    )
    assert done.stdout == "set()\n", done.stderr


WITHOUT_PYTORCH = """
import sys, threading

sys.path[:0] = sys.argv[1:]
in_thread = []
def import_it():
    in_thread.append(__import__("torch"))

def meanwhile(event, arguments):
    if event == "import" and arguments[0] == "thinc.api" and sys.argv[1:]:
        assert "torch" not in sys.modules
        thread = threading.Thread(target=import_it)
        thread.start()
        thread.join()
        del sys.modules["torch"]
sys.addaudithook(meanwhile)

import selfatt_lib.machinery.languages
assert "torch" not in sys.modules
import torch
assert len(in_thread) == len(sys.argv[1:])
"""


def test_spacy_brings_no_pytorch_and_another_thread_may_meanwhile(tmp_path):
    (tmp_path / "torch.py").touch()
    done = run_code(WITHOUT_PYTORCH, tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not find_spec("torch"), reason="PyTorch is not installed")
def test_spacy_brings_no_pytorch_where_it_is_installed():
    done = run_code(WITHOUT_PYTORCH, timeout=60)
    assert done.returncode == 0, done.stderr


FORKED = """
import os, signal, sys, threading, time
from selfatt_lib.data.tokens import tokenize_all

importing = threading.Event()
class Slow:
    def find_spec(self, name, *_):
        if name == {module!r}:
            importing.set()
            time.sleep(0.5)
sys.meta_path.insert(0, Slow())

texts = [f"good-{{n}}" for n in range(3000)]  # the thread is not done soon
thread = threading.Thread(target=tokenize_all, args=(texts, 100, True, "de"))
thread.start()
importing.wait()
child = os.fork()
if not child:
    signal.alarm(20)
    os._exit(len(tokenize_all(texts, 100, True, "de")) // 100)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("module", ["pyarrow.compute", "pandas", "spacy.lang.de"])
def test_a_process_forked_while_a_thread_prepares_to_tokenize_can_tokenize(module):
    quiet = os.environ | {"TQDM_DISABLE": "1"}
    done = run_code(FORKED.format(module=module), env=quiet, timeout=60)
    assert (done.stdout, done.stderr) == ("30\n", "")
