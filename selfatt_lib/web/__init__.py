"""A trained run as a page: the model in JavaScript, its numbers in a script.

``box.js`` reads, computes and shows; ``model.js`` brings it a run, and is written here.
"""

import base64
import json
import re
from importlib.resources import files

import numpy as np

from selfatt_lib.machinery.files import read_json, write_text
from selfatt_lib.machinery.languages import has_rules, tokenizer, with_cases
from selfatt_lib.machinery.places import locate_run
from selfatt_lib.prediction import Classifier

CODE, MODEL = ("index.html", "box.js", "box.css"), "model.js"
NOTICE = """\
// The rules are spaCy's, under the MIT licence, Copyright (C) 2016-2024
// ExplosionAI GmbH, 2016 spaCy GmbH, 2015 Matthew Honnibal.
"""
# What has a meaning of its own in JavaScript's patterns behind a backslash
ESCAPED = set("^$\\.*+?()[]{}|/-bBDsSWnrtvfux0123456789")
LETTERS = {r"\w": r"\p{L}\p{N}_", r"\d": r"\p{Nd}"}


def write_page(run_dir, folder):
    """Write a run as a page that opens in a browser, by itself and without a network.

    Parameters
    ----------
    run_dir : str or Path
    folder : Path
        It gets ``index.html``, ``box.js``, ``box.css`` and ``model.js``.

    Returns
    -------
    int
        The bytes of ``model.js``.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        As in `Classifier.load`. ValueError: or its language is not split by rules.
    """
    about = locate_run(run_dir) / "about.json"
    script = model_script(
        Classifier.load(run_dir), read_json(about) if about.exists() else {}
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name in CODE:
        text = files(__name__).joinpath(name).read_text(encoding="utf-8")
        write_text(folder / name, text)
    write_text(folder / MODEL, script)
    return len(script)


def model_script(classifier, about):
    """Return the content of ``model.js``: words, rules, and weights of 16 bits each."""
    max_tokens, lower, language = classifier.reading
    weights = classifier.weights
    model = {
        "labels": classifier.labels,
        "pooling": classifier.settings.pooling,
        "max_tokens": max_tokens,
        "lower": lower,
        "unescape_html": classifier.unescape_html,
        "about": about,
        "rules": rules(language),
        "words": classifier.vocab.idx_to_token,
        "shapes": {name: list(array.shape) for name, array in weights.items()},
        "weights": packed(weights.values()),
    }
    return f"{NOTICE}selfatt.take({json.dumps(model)});\n"


def packed(arrays):
    """Return all numbers of arrays, rounded to 16 bits, in base64: str."""
    flat = np.concatenate([np.ravel(array) for array in arrays])
    return base64.b64encode(flat.astype("<f2").tobytes()).decode()


def rules(language):
    """Return how a language is split into words: patterns for JavaScript, and cases."""
    split = tokenizer(language)
    if not has_rules(split):
        raise ValueError(
            f"the page splits texts into words by rules, and spaCy has none for "
            f"language={language!r}"
        )
    found = {
        "prefix": split.prefix_search,
        "suffix": split.suffix_search,
        "infix": split.infix_finditer,
        "whole": split.token_match,
        "url": split.url_match,
    }
    found = {name: as_javascript(each) for name, each in found.items()}
    for name in ("whole", "url"):  # which Python matches from the start on
        found[name] = found[name] and f"^(?:{found[name]})"
    plain = with_cases(split, None)
    cases = {case: [str(token) for token in split(case)] for case in split.rules}
    apart = {case: [str(token) for token in plain(case)] for case in cases}
    joined = [[apart[case], cases[case]] for case in cases if len(apart[case]) > 1]
    return found | {"cases": list(cases.items()), "joined": joined}


def as_javascript(search):
    """Return the pattern of Python's `search` for JavaScript, with its flag "u"."""
    if search is None:
        return None
    pattern, inside = search.__self__.pattern, False
    if search.__self__.flags & re.IGNORECASE:
        pattern = f"(?i:{pattern})"
    written = []
    for part in re.findall(r"(?s)\\U[0-9A-Fa-f]{8}|\\.|\(\?[aiLsux]+\)|.", pattern):
        if part[:2] == r"\U":
            part = rf"\u{{{part[2:].lstrip('0')}}}"
        elif part in LETTERS:
            part = LETTERS[part] if inside else f"[{LETTERS[part]}]"
        elif part[0] == "\\" and (
            part[1] not in ESCAPED or (part[1] == "-" and not inside)
        ):
            part = part[1]
        elif part[:2] == "(?" and part[-1] == ")":  # all are Unicode here
            part = ""
        elif part in "[]":
            inside = part == "["
        written.append(part)
    return "".join(written)


def setup(app):
    """Put the box of the pretrained run beside a book's pages: Sphinx calls this."""

    def write(app):  # before the pages, which name its files with their checksums
        if app.builder.format == "html":
            write_page("pretrained", app.outdir / "_static" / "box")

    app.add_js_file("box/box.js", loading_method="defer")
    app.add_css_file("box/box.css")
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
