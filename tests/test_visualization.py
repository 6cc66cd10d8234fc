import re
from html.parser import HTMLParser
from itertools import pairwise
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from accessibility import find
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import run_code
from selfatt_lib.data.tokens import tokenize
from selfatt_lib.machinery.languages import LONGEST_WORD
from selfatt_lib.visualization import (
    STRONGEST,
    _spans,
    attention_heatmap,
    attention_html,
    plot_confusion,
    plot_history,
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


STARS = {"label": 4, "labels": [1, 2, 3, 4, 5]}
STARS["probabilities"] = np.array([0.05, 0.05, 0.1, 0.6, 0.2])


def make_prediction(tokens, text=None, clipped=False, **answer):
    attention = np.array(
        [np.linspace(1, 3, len(tokens)), np.linspace(3, 1, len(tokens))]
    )
    return SimpleNamespace(
        **STARS | answer,
        text=" ".join(tokens) if text is None else text,
        tokens=tokens,
        clipped=clipped,
        known=np.array([token != "qqzzx" for token in tokens]),
        attention=attention / attention.sum(axis=1, keepdims=True),
    )


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def test_the_heatmap_has_a_row_for_each_hop_and_a_column_for_each_token():
    attention = np.array([[0.1, 0.9], [0.6, 0.4], [0.5, 0.5]])
    ax = attention_heatmap(attention, ["good", "film"])
    np.testing.assert_array_equal(
        np.asarray(ax.collections[0].get_array()).reshape(3, 2), attention
    )
    assert [label.get_text() for label in ax.get_xticklabels()] == ["good", "film"]
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "hop 1",
        "hop 2",
        "hop 3",
    ]


def test_a_heatmap_shows_dollars_as_dollars():
    ax = attention_heatmap(np.ones((1, 3)) / 3, ["$$", r"$\frac$", "$5"])
    ax.figure.canvas.draw()  # where matplotlib would fail to read mathematics


def test_a_heatmap_of_other_tokens_is_refused():
    with pytest.raises(
        ValueError,
        match=r"must have the shape \(hops, 3\), a column for each token; got \(2, 2\)",
    ):
        attention_heatmap(np.ones((2, 2)) / 2, ["a", "b", "c"])


def test_the_page_shows_the_sum_and_each_hop_of_each_review():
    prediction = make_prediction(["good", "qqzzx", "film"])
    page = Page(attention_html([prediction, prediction], labels=[5, 4]))
    marks = [attributes for tag, attributes in page.tags if tag == "mark"]
    assert len(marks) == 2 * (1 + 2) * 3
    summed = [float(mark["title"]) for mark in marks[:3]]
    np.testing.assert_allclose(summed, prediction.attention.sum(axis=0), atol=1e-3)
    hop = [float(mark["title"]) for mark in marks[3:6]]
    np.testing.assert_allclose(hop, prediction.attention[0], atol=1e-3)
    assert [mark.get("class") for mark in marks[:3]] == [None, "unknown", None]
    assert any("probability 0.60" in text for text in page.text)


def test_the_stars_predicted_and_given_are_told_apart():
    given = pd.Series([5, 1], index=[7, 0])  # the index is not the place
    page = Page(attention_html([make_prediction(["a"])] * 2, labels=given))
    labels = [
        attributes["aria-label"]
        for tag, attributes in page.tags
        if tag == "span" and "aria-label" in attributes
    ]
    assert labels == ["4 of 5 stars", "5 of 5 stars", "4 of 5 stars", "1 of 5 stars"]


def test_labels_that_are_no_stars_are_shown_by_their_names():
    odd = "<b>חיובי</b>"
    answer = {"labels": ["\ud800", odd], "label": odd}
    prediction = make_prediction(["a"], probabilities=np.array([0.2, 0.8]), **answer)
    html = attention_html([prediction], labels=["\ud800"])
    page = Page(html)
    assert "★" not in html
    assert "b" not in [tag for tag, _ in page.tags]
    shown = "".join(page.text)
    assert f"predicted: {odd} with probability 0.80 · given: ?" in shown
    # a name that runs from right to left leaves what follows it in place
    assert [tag for tag, _ in page.tags].count("bdi") == 2
    numbers = {"labels": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], "label": 10}
    probabilities = np.eye(10)[9]
    prediction = make_prediction(["a"], probabilities=probabilities, **numbers)
    shown = "".join(Page(attention_html([prediction], labels=[4])).text)
    assert "predicted: 10 with probability 1.00 · given: 4" in shown


def test_the_strongest_colour_is_the_one_with_most_attention():
    page = Page(attention_html([make_prediction(["a", "b", "c"])]))
    shades = [
        float(attributes["style"].removeprefix("--a:"))
        for tag, attributes in page.tags
        if tag == "mark"
    ][3:6]
    assert shades == sorted(shades)
    assert shades[0] < shades[-1] == STRONGEST


def open_review(browser, tmp_path, text, tokens, width=1280, **given):
    """Open a page of one review; return it, and the paragraph of summed attention."""
    html = attention_html([make_prediction(tokens, text, **given)])
    page, _ = open_in(browser, html, tmp_path / "page.html")
    page.set_viewport_size({"width": width, "height": 800})
    return page, page.locator("p:has(mark)").first


def test_a_review_is_shown_as_it_was_written(browser, tmp_path):
    text = "  Can't say  it's BAD (2nd gen.),\n\n\n\nİSTANBUL ΟΔΟΣ!\r\nI'd buy\tit  "
    tokens = tokenize(text)
    page, review = open_review(browser, tmp_path, text, tokens)
    shown = "Can't say it's BAD (2nd gen.),\n\nİSTANBUL ΟΔΟΣ!\nI'd buy it"
    assert review.text_content() == review.inner_text() == shown
    marks = review.locator("mark").all_text_contents()
    assert [mark.lower() for mark in marks] == tokens
    assert page.locator(".unread, .note:has-text('not read')").count() == 0
    page.close()


@pytest.mark.parametrize("width", [1280, 90])
def test_no_line_breaks_within_a_word(width, browser, tmp_path):
    text = "I can't, don't won't (well) gimme"
    tokens = [tokenize(word) for word in text.split()]
    page, review = open_review(browser, tmp_path, text, tokenize(text), width)
    code = "all => all.map(mark => mark.getBoundingClientRect().toJSON())"
    boxes = iter(review.locator("mark").evaluate_all(code))
    lines = set()
    for parts in tokens:
        first, *others = [next(boxes) for _ in parts]
        lines.add(first["top"])
        for box in others:
            assert box["top"] == first["top"]
            assert box["left"] == pytest.approx(first["right"], abs=0.1)
            first = box
    assert (len(lines) > 1) == (width == 90)
    page.close()


@pytest.mark.parametrize(
    "text", ["x" * 299, "good " * 40, f"{'good ' * 10}{'x' * 500}"]
)
def test_a_page_is_as_wide_as_a_phone(text, browser, tmp_path):
    page, _ = open_review(browser, tmp_path, text, tokenize(text), 320, clipped=True)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width == 320
    page.close()


def test_the_end_that_was_not_read_is_grey_and_called_so():
    text = "It isn't good\nand in the <b>end</b> it's awful."
    html = attention_html([make_prediction(["it", "is", "n't"], text, clipped=True)])
    page = Page(html)
    shown = "".join(page.text)
    assert "It isn't [not read: good\nand in the <b>end</b> it's awful.]" in shown
    assert "Grey: not read. The model read 3 tokens, and at most 300 char" in shown
    assert shown.count("It isn't [not read: good") == 1
    assert shown.count("It isn't […]") == 2  # hop by hop


def test_a_text_clipped_within_a_word_says_where():
    html = attention_html([make_prediction(["ca"], "Can't read", clipped=True)])
    shown = "".join(Page(html).text)
    assert "Ca[not read: n't read]" in shown
    assert "The model read 1 token, and" in shown


def test_the_end_of_a_very_long_word_is_called_not_read():
    text = f"{'a' * LONGEST_WORD}aaa a{'b' * 400} a"
    html = attention_html([make_prediction(tokenize(text), text, clipped=True)])
    read = ["a" * LONGEST_WORD, f"a{'b' * (LONGEST_WORD - 1)}", "a"]
    shown = f"{read[0]}[not read: aaa] {read[1]}[not read: {'b' * 101}] a"
    assert shown in "".join(Page(html).text)
    assert [text for text in Page(html).text if text in read] == read * 3


PARTS = ["\u0130", "can't", ":)", ": )", "(a.b-c)", " ", "\n", "\u03a3"]


@settings(deadline=None)
@given(
    st.lists(st.characters(exclude_categories=["Cs"]) | st.sampled_from(PARTS)),
    st.sampled_from([3, 100, 400]),
    st.booleans(),
    st.sampled_from(["en", "fr", "zh"]),
)
@example(["好" * 301, "坏", " 坏"], 400, True, "zh")
@example(["\u03a3" * 301, "\u03b1 ", "\u03a3"], 100, True, "xx")
@example(["x" * 301, " xx"], 100, True, "en")
def test_every_token_of_any_text_is_found_in_it(parts, max_tokens, lower, language):
    text = "".join(parts)
    tokens = tokenize(text, max_tokens, lower, language)
    if tokens:
        spans = list(_spans(text, tokens))
        found = ["".join(text[start:end].split()) for start, end in spans]
        assert [each.lower() if lower else each for each in found] == tokens
        assert spans == sorted(spans)
        if language != "zh":  # a new word begins behind what was not read of a long one
            starts = {word.start() for word in re.finditer(r"\S+", text)}
            assert {start for start, _ in spans} >= starts or len(tokens) == max_tokens


# Grounds and texts: this page's own and the book's, Jupyter's, VS Code's and Colab's.
THEMES = [
    ("#ffffff", "#222832"),
    ("#14181e", "#ced6dd"),
    ("#ffffff", "rgba(0, 0, 0, .87)"),
    ("#111111", "rgba(255, 255, 255, .87)"),
    ("#ffffff", "#3b3b3b"),
    ("#1f1f1f", "#cccccc"),
    ("#383838", "#e3e3e3"),
]
TEXT = "It isn't all bad, it's dull and far too long for me"
CLIPPED = make_prediction(tokenize(TEXT, 12), TEXT, clipped=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_can_be_read_in_either_scheme(scheme, browser, tmp_path):
    html = attention_html([CLIPPED] * 2, labels=[4, 1])
    page, _ = open_in(browser, html, tmp_path / "page.html")
    page.emulate_media(color_scheme=scheme)
    assert find(page) == []
    page.close()


@pytest.mark.parametrize(("ground", "color"), THEMES)
def test_a_notebook_can_be_read_in_any_theme(ground, color, browser, tmp_path):
    style = f"background: {ground}; color: {color}"
    html = attention_html([CLIPPED], page=False)
    html = (
        f'<!DOCTYPE html><html lang="en"><title>a</title><body style="{style}">{html}'
    )
    page, _ = open_in(browser, html, tmp_path / "page.html")
    assert find(page) == []
    page.close()


def test_reviews_cannot_bring_markup_into_the_page():
    hostile = [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</style>",
        "&amp;",
    ]
    page = Page(attention_html([make_prediction(hostile)], title="<b>&"))
    ours = "html head meta title body header h1 style div article h2 p mark details "
    ours += "summary span"
    assert {tag for tag, _ in page.tags} <= {*ours.split()}
    for token in hostile:
        assert token in page.text
    assert "<b>&" in page.text


OWNED = "window.owned=1"
HOSTILE = [
    f"<script>{OWNED};document.title='owned';alert(1)</script>",
    f'"><img src=x onerror={OWNED}>',
    f"'><svg onload={OWNED}>",
    f"</style><script>{OWNED}</script>",
    f"</title><script>{OWNED}</script>",
    f"</mark></p><iframe src='javascript:parent.{OWNED}'></iframe>",
    f"<a href='javascript:{OWNED}'>here</a>",
    f"javascript:{OWNED}",
    f'" onmouseover="{OWNED}" onclick="{OWNED}',
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<link rel=stylesheet href=http://127.0.0.1:9/>",
    "--a:url(http://127.0.0.1:9/)",
    "&lt;script&gt;&#60;&amp;",
    "<!-- ]]> {title} {body.__class__}",
    "\u202etfel-ot-thgir",
]


def open_in(browser, html, path):
    """Open a page from a file; list what it does that a page of text does not."""
    path.write_text(html, encoding="utf-8")
    page, deeds = browser.new_page(), []

    def refuse(dialog):
        deeds.append(dialog.message)
        dialog.dismiss()

    page.on("request", lambda request: deeds.append(request.url))
    page.on("dialog", refuse)
    page.on("pageerror", lambda error: deeds.append(str(error)))
    page.goto(path.as_uri())
    deeds.remove(path.as_uri())
    return page, deeds


TOUCH = """all => all.forEach(element => {
    for (const kind of ["mouseover", "click", "focus", "error", "load"])
        element.dispatchEvent(new MouseEvent(kind, {bubbles: true}));
})"""


def test_a_browser_shows_a_hostile_title_as_text(browser, tmp_path):
    title = " ".join(HOSTILE)
    html = attention_html([make_prediction(["a"])], title=title)
    page, deeds = open_in(browser, html, tmp_path / "page.html")
    page.locator("*").evaluate_all(TOUCH)
    assert page.locator("h1").text_content() == title
    assert page.title() == title
    assert page.evaluate("window.owned") is None
    assert deeds == []
    page.close()


@pytest.mark.parametrize("whole", [True, False])
def test_a_browser_shows_a_hostile_review_as_text(whole, browser, tmp_path):
    text = " ".join(HOSTILE * 2)
    html = attention_html([make_prediction(HOSTILE, text, clipped=True)], page=whole)
    if not whole:  # as a notebook's page has it
        html = f'<!DOCTYPE html><meta charset="utf-8"><div>{html}</div>'
    page, deeds = open_in(browser, html, tmp_path / "page.html")
    page.locator("*").evaluate_all(TOUCH)
    shown = page.locator("mark").all_text_contents()
    assert shown == HOSTILE * 3  # summed, and for each of two hops
    (unread,) = page.locator(".unread:has-text('not read')").all_text_contents()
    assert unread == f"[not read: {' '.join(HOSTILE)}]"
    assert page.locator("script, img, svg, iframe, a, link").count() == 0
    assert page.evaluate("window.owned") is None
    assert page.evaluate("document.title") == (
        "Where the model looked" if whole else ""
    )
    assert deeds == []
    page.close()


@pytest.mark.parametrize(
    "token",
    [
        "\u202efed",
        "\u2067fed",
        "\u2069\u202efed",
        "\u202c\u2069\u2069\u202efed",
        "עברית",
    ],
)
def test_a_word_from_right_to_left_leaves_the_others_in_place(token, browser, tmp_path):
    tokens = ["abc", token, "ghi", "jkl", token, "mno"]
    text = f"abc {token} ghi jkl{token}mno {token} pqr"
    page, review = open_review(browser, tmp_path, text, tokens, clipped=True)
    left = review.locator("mark, .unread span").evaluate_all(
        "all => all.map(box => box.getBoundingClientRect().left)"
    )
    assert len(left) == 6 + len(["[not", "read:", token, "pqr]"])
    assert left == sorted(left)
    page.close()


def test_half_a_character_can_be_written(tmp_path):
    html = attention_html([make_prediction(["\ud83d", "\udcff"])], title="\ud800")
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    assert [text for text in Page(html).text if text == "?"] == ["?"] * 8


def test_the_page_fetches_nothing_and_runs_nothing():
    html = attention_html([make_prediction(["a"])])
    assert "http" not in html
    assert "<script" not in html
    assert not any(
        "src" in attributes or "href" in attributes for _, attributes in Page(html).tags
    )


def names_on(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_the_confusion_matrix_shows_counts():
    matrix = np.arange(25).reshape(5, 5)
    ax = plot_confusion(matrix)
    assert [text.get_text() for text in ax.texts] == [str(n) for n in range(25)]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted stars", "given stars")
    assert names_on(ax.xaxis) == names_on(ax.yaxis) == ["1", "2", "3", "4", "5"]
    shares = np.asarray(ax.collections[0].get_array()).reshape(5, 5)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(shares, matrix / matrix.sum(axis=1, keepdims=True))


def test_a_confusion_matrix_names_its_labels():
    odd = ["$5", "half a \ud800", f"a{'b' * 50}c", "a\nb"]
    ax = plot_confusion(np.eye(4, dtype=int), odd)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted label", "given label")
    names = [r"\$5", "half a ?", f"a{'b' * 11}…{'b' * 10}c", "a b"]
    assert names_on(ax.xaxis) == names_on(ax.yaxis) == names
    ax.figure.canvas.draw()


@pytest.mark.parametrize("count", [2, 3, 10, 15, 30, 300])
@pytest.mark.parametrize("name", ["{}", "the {}th of the categories"])
def test_no_name_of_a_confusion_matrix_runs_into_another(count, name):
    labels = [name.format(number) for number in range(count)]
    ax = plot_confusion(np.full((count, count), 1234), labels)
    assert len(ax.texts) == (count**2 if count <= 15 else 0)
    assert max(ax.figure.get_size_inches()) < 14
    ax.figure.canvas.draw()
    for axis, lower, upper in ((ax.xaxis, "x0", "x1"), (ax.yaxis, "y0", "y1")):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
        boxes.sort(key=lambda box: getattr(box, lower))
        for box, next_box in pairwise(boxes):
            assert getattr(box, upper) <= getattr(next_box, lower)
    if count <= 30:
        assert len(names_on(ax.xaxis)) == count
    for text in ax.texts[:1]:  # a count of four digits fits into its field
        width = text.get_window_extent().width
        assert width < ax.get_window_extent().width / count


def test_the_curves_show_the_history(trained):
    figure = plot_history(trained.history)
    for ax, quantity in zip(figure.axes, ("loss", "accuracy")):
        np.testing.assert_array_equal(
            ax.lines[0].get_ydata(), trained.history[f"train_{quantity}"]
        )
        np.testing.assert_array_equal(
            ax.lines[1].get_ydata(), trained.history[f"valid_{quantity}"]
        )
    history = trained.history.assign(valid_accuracy=[0.1, 0.9, 0.5])
    *parts, kept = plot_history(history).axes[1].lines
    assert [line.get_label() for line in parts] == ["training", "validation"]
    assert (kept.get_xdata(), kept.get_ydata()) == ([2], [0.9])


def test_pictures_do_without_mxnet():
    code = "import selfatt_lib.visualization, sys; assert 'mxnet' not in sys.modules"
    done = run_code(code)
    assert done.returncode == 0, done.stderr
