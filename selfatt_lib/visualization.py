"""Pictures of a run: where the model looked, how it learned, what it confused.

NumPy in; no MXNet.
"""

import re
from html import escape
from itertools import chain

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from selfatt_lib.labels import are_stars, shown
from selfatt_lib.machinery import printable
from selfatt_lib.machinery.languages import LONGEST_WORD

# Readable in print, in dark mode, and to colour-blind readers: one hue that only
# changes in lightness, and two far apart.
SEQUENTIAL = "Blues"
TRAIN, VALID = "#0072B2", "#D55E00"

MOST_COUNTS = 15  # in a row of a picture
LARGEST_SIDE = 10  # of a confusion matrix, in inches

# Words keep the colour of the text around them, which is not known here: dark on
# light, or light on dark. A ground with this much of the orange in it is at least 4.5:1
# from either, in the themes that the tests go through.
STRONGEST = 0.54

# A word is a box of its own, and so is a token in it: characters that turn the
# direction of writing stay within it, which even isolation does not see to. No line
# breaks in a box unless it is wider than a line.
STYLE = """
.selfatt { line-height: 1.9; max-width: 46em; padding: 0 .1em; }
.selfatt article { margin: 1.6em 0; padding-bottom: 1em;
  border-bottom: 1px solid rgba(128, 128, 128, .35); }
.selfatt h1, .selfatt .note { font: 600 1.4em/1.6 system-ui, sans-serif;
  margin: .7em 0 .3em; }
.selfatt .note { font-size: .85em; font-weight: 400; opacity: .75; }
.selfatt h2, .selfatt .hop, .selfatt summary { color: inherit;
  font: 600 .85em/1.6 system-ui, sans-serif; margin: 0 0 .3em; }
.selfatt .hop { font-weight: 400; opacity: .75; margin-right: .4em; }
.selfatt p { margin: .2em 0; white-space: pre-line; }
.selfatt mark, .selfatt .word, .selfatt .unread span { display: inline-block;
  line-height: normal; max-width: 100%; overflow-wrap: anywhere; }
.selfatt mark { color: inherit; background: rgba(225, 100, 0, var(--a));
  border-radius: .2em; padding: .1em; margin: 0 -.1em; }
.selfatt .word mark:not(:first-child) { padding-left: 0; margin-left: 0; }
.selfatt .word mark:not(:last-child) { padding-right: 0; margin-right: 0; }
.selfatt mark.unknown { text-decoration: underline dotted; }
.selfatt .unread { opacity: .7; }
@media print { .selfatt mark { -webkit-print-color-adjust: exact;
  print-color-adjust: exact; } }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ background: #fff; color: #222832; }}
@media (prefers-color-scheme: dark) {{
  :root {{ background: #14181e; color: #ced6dd; }}
}}
body {{ margin: 0 auto; max-width: 46em; padding: 0 1em; }}
.selfatt {{ font-family: Georgia, 'Times New Roman', serif; }}
</style>
</head>
<body>
<header class="selfatt"><h1>{title}</h1>
<p class="note">The stronger its colour, the more attention a word got, summed over \
the hops; point at it for the number. Underlined: not in the model's vocabulary.</p>
</header>
{body}
</body>
</html>
"""


def attention_heatmap(attention, tokens, ax=None):
    """Draw hops × tokens, the tutorial's picture.

    Colours run from 0 to 1 in every picture, so that pictures can be compared.

    Parameters
    ----------
    attention : ndarray, shape (hops, tokens)
    tokens : list of str
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        There are not as many tokens as columns.
    """
    attention = np.asarray(attention)
    if attention.ndim != 2 or attention.shape[1] != len(tokens):
        raise ValueError(
            f"attention must have the shape (hops, {len(tokens)}), a column for each "
            f"token; got {attention.shape}"
        )
    hops, names = len(attention), [_in_picture(token) for token in tokens]
    if ax is None:
        room = 0.06 * max(8, *map(len, names))  # for the tokens, aslant; inches
        size = 1.6 + 0.62 * len(tokens), 0.72 + 0.42 * hops + room
        _, ax = plt.subplots(figsize=size, layout="constrained")
    sns.heatmap(
        attention,
        ax=ax,
        cmap=SEQUENTIAL,
        vmin=0,
        vmax=1,
        annot=len(tokens) <= MOST_COUNTS,
        fmt=".2f",
        annot_kws={"size": 8},
        linewidths=0.5,
        xticklabels=names,
        yticklabels=[f"hop {hop}" for hop in range(1, hops + 1)],
        cbar_kws={"label": "attention"},
    )
    aslant = {"rotation": 45, "rotation_mode": "anchor", "ha": "right"}
    plt.setp(ax.get_xticklabels(), **aslant)
    ax.tick_params(axis="y", rotation=0)
    return ax


def _in_picture(text, longest=24):
    """Return a text as matplotlib can draw it: short, and nothing to interpret."""
    if len(text) > longest:  # often it is the ends by which names differ
        text = f"{text[: longest // 2]}…{text[-(longest // 2 - 1) :]}"
    text = text.encode("utf-8", "replace").decode("utf-8")  # half a character
    return printable(text).replace("$", r"\$")  # which would begin mathematics


def attention_html(predictions, labels=None, title="Where the model looked", page=True):
    """Shade the words of reviews by attention, summed over the hops and hop by hop.

    Parameters
    ----------
    predictions : list of Prediction
        Anything with ``label``, ``labels``, ``probabilities``, ``text``, ``tokens``,
        ``known``, ``attention`` and ``clipped``.
    labels : sequence, optional
        The labels that were given to the reviews, in the order of the predictions.
    title : str
    page : bool, default True
        A whole document, or False for a part that a notebook shows.

    Returns
    -------
    str
        HTML without scripts and without anything to fetch. The reviews stand in it as
        they were written, what the model did not read in grey. Every text in it is
        escaped; half a character becomes a question mark.
    """
    articles = []
    if labels is None:
        labels = [None] * len(predictions)
    for prediction, label in zip(predictions, labels, strict=True):
        known = prediction.labels
        given = "" if label is None else f" · given: {_label(label, known)}"
        hops = "".join(
            f'<p><span class="hop">hop {hop}</span> '
            f"{_shaded(prediction, weights, '[…]')}</p>"
            for hop, weights in enumerate(prediction.attention, 1)
        )
        articles.append(
            f"<article><h2>predicted: {_label(prediction.label, known)} "
            f"with probability {prediction.probabilities.max():.2f}{given}</h2>"
            f"<p>{_shaded(prediction, prediction.attention.sum(axis=0))}</p>"
            f"{_note(prediction)}"
            f"<details><summary>hop by hop</summary>{hops}</details></article>"
        )
    body = f'<style>{STYLE}</style><div class="selfatt">{"".join(articles)}</div>'
    html = PAGE.format(title=escape(title), body=body) if page else body
    # half a character could not be written
    return html.encode("utf-8", "replace").decode("utf-8")


def _label(label, labels):
    if not are_stars(labels):
        return f"<bdi>{escape(str(label))}</bdi>"  # a name may run from right to left
    said = f'role="img" aria-label="{label} of 5 stars"'
    return f"<span {said}>{shown(label, labels)}</span>"


def _note(prediction):
    if not prediction.clipped:
        return ""
    count = len(prediction.tokens)
    return (
        f'<p class="note">Grey: not read. The model read {count} token'
        f"{'s' * (count != 1)}, and at most {LONGEST_WORD} characters of a word.</p>"
    )


def _shaded(prediction, weights, unread=None):
    """Return the text with each token shaded, the one with the most weight strongest.

    What was not read is replaced by `unread`, if that is given.
    """
    text = prediction.text
    shades = np.asarray(weights) / max(float(np.max(weights)), 1e-12)
    html, word, end = [], [], 0
    for (start, stop), known, shade, weight in zip(
        _spans(text, prediction.tokens), prediction.known, shades, weights
    ):
        if end < start:
            html += [_word(word), _between(text[end:start], unread)]
            word = []
        word.append(
            f"<mark{'' if known else ' class=unknown'} "
            f'style="--a:{STRONGEST * shade:.2f}" title="{weight:.3f}">'
            f"{escape(text[start:stop])}</mark>"
        )
        end = stop
    html += [_word(word), _between(text[end:], unread)]
    return "".join(html).strip()


def _spans(text, tokens):
    """Yield where each token stands in its text.

    The characters of the tokens are those of the text that are no white space, one
    after the other, but for the end of a very long word.
    """
    longest = max(LONGEST_WORD, *map(len, tokens))  # a user's own token is read whole
    letters = "".join(word[:longest] for word in text.split())
    if not letters.casefold().startswith("".join("".join(tokens).split()).casefold()):
        longest = None  # all is read in a language that puts no spaces between words
    words = (range(*word.span())[:longest] for word in re.finditer(r"\S+", text))
    read = chain.from_iterable(words)
    for token in map("".join, map(str.split, tokens)):
        places, size = [], 0
        while size < len(token):
            places.append(next(read))
            letter = text[places[-1]]
            # in lower case, "İ" is two characters
            size += 1 if letter == token[size] else len(letter.lower())
        yield places[0], places[-1] + 1


def _word(marks):
    html = "".join(marks)
    return html if len(marks) < 2 else f'<span class="word">{html}</span>'


def _between(text, unread):
    """Return what stands between two tokens: white space, or what was not read."""
    rest = text.strip()
    if not rest:
        return _space(text)
    before, _, after = text.partition(rest)
    parts = re.split(r"(\s+)", unread or f"[not read: {rest}]")
    boxes = "".join(
        _space(part) if part.isspace() else f"<span>{escape(part)}</span>"
        for part in parts
    )
    return f'{_space(before)}<span class="unread">{boxes}</span>{_space(after)}'


def _space(text):
    """Return a space, or a line break or two where the text has such."""
    breaks = len(f"{text}.".splitlines()) - 1
    return "\n" * min(breaks, 2) or " " * bool(text)


def plot_history(history):
    """Draw loss and accuracy by epoch, in training and on the validation reviews.

    The epoch with the best accuracy on these is the one that is kept. The score of a
    run is that of other reviews, the test ones, and no point of these curves.

    Parameters
    ----------
    history : DataFrame
        From `train`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for ax, quantity in zip(axes, ("loss", "accuracy")):
        for part, label, style, color in (
            ("train", "training", "o-", TRAIN),
            ("valid", "validation", "s--", VALID),
        ):
            values = history[f"{part}_{quantity}"]
            ax.plot(history["epoch"], values, style, color=color, label=label)
        ax.set(xlabel="epoch", ylabel=quantity)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.3)
    best = history.loc[history["valid_accuracy"].idxmax()]
    axes[1].plot(
        best["epoch"],
        best["valid_accuracy"],
        "o",
        ms=13,
        mfc="none",
        color=VALID,
        label="kept",
    )
    axes[1].legend()
    return figure


def plot_confusion(matrix, labels=None):
    """Draw a confusion matrix: counts, coloured by their share of the row.

    Parameters
    ----------
    matrix : array of int, shape (C, C)
        Rows: given labels. Columns: predicted labels.
    labels : list, optional
        The classes in their order; by default whole numbers from 1.

    Returns
    -------
    matplotlib.axes.Axes

    Notes
    -----
    Of more than 15 classes the counts are left out, and of more than some 40 the names
    of a part, evenly spaced; long names lose their middle.
    """
    matrix = np.asarray(matrix)
    labels = range(1, len(matrix) + 1) if labels is None else labels
    names = [_in_picture(str(label)) for label in labels]
    what = "stars" if are_stars(labels) else "label"
    few = len(matrix) <= MOST_COUNTS
    cell = max(0.6 if few else 0.25, 1.8 / len(matrix))  # inches
    side = min(cell * len(matrix), LARGEST_SIDE)
    room = 0.08 * max(map(len, names))  # for the names
    upright = room > side / len(matrix)
    size = side + 1.3 + room, side + 0.6 + room * upright
    _, ax = plt.subplots(figsize=size, layout="constrained")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    sns.heatmap(
        pd.DataFrame(shares, index=names, columns=names),
        ax=ax,
        cmap=SEQUENTIAL,
        vmin=0,
        vmax=1,
        annot=matrix if few else None,
        fmt="d",
        linewidths=0.5 if few else 0,
        cbar_kws={"label": f"share of the given {what}"},
    )
    ax.set(xlabel=f"predicted {what}", ylabel=f"given {what}")
    ax.tick_params(axis="x", rotation=90 * upright)
    ax.tick_params(axis="y", rotation=0)
    return ax
