"""The model in the page: it reads and answers as Python does, whatever is typed."""

import json
import re

import numpy as np
import pytest
from accessibility import find
from click.testing import CliRunner
from playwright.sync_api import expect

from conftest import finish, make_reviews, prepare
from selfatt_lib import reference
from selfatt_lib.cli import main
from selfatt_lib.data.sources import load_reviews
from selfatt_lib.data.split import split_reviews
from selfatt_lib.data.tokens import tokenize, tokenize_all
from selfatt_lib.machinery.places import locate_run
from selfatt_lib.prediction import Classifier
from selfatt_lib.web import rules, write_page

WORDS = "selfatt.words(text, model).flat().map(word => word.toLowerCase())"
ANSWERS = """async texts => {
  const model = await selfatt.load();
  return texts.map(text => selfatt.answer(selfatt.words(text, model).flat(), model));
}"""


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    write_page("pretrained", folder)
    return folder


@pytest.fixture
def opened(browser):
    """Open a folder's page from the disk, without a network: a page."""
    pages = []

    def open_page(folder, **how):
        page = browser.new_page(reduced_motion="reduce", **how)
        page.errors, page.asked = [], []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("dialog", lambda dialog: page.errors.append(dialog.message))
        page.on("request", lambda request: page.asked.append(request.url))
        page.set_default_timeout(20_000)
        page.goto((folder / "index.html").as_uri())
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()


def test_it_reads_the_default_corpus_as_python_does(pretrained, opened):
    texts = load_reviews()["text"].tolist()
    tokenized = tokenize_all(texts)
    page = opened(pretrained)
    found = page.evaluate(
        f"""async texts => {{
          const model = await selfatt.load();
          return texts.map(text => {WORDS});
        }}""",
        texts,
    )
    expected = [[tokenized.words[i] for i in each] for each in tokenized]
    other = [text for text, *both in zip(texts, found, expected) if both[0] != both[1]]
    # spaCy joins marks of two words here, which the page does not: one text of 14,313
    assert [text[:30] for text in other] == ["Solaris is rigid and evasive i"]


def test_it_answers_as_python_does(pretrained, opened):
    _, _, reviews = split_reviews(load_reviews())
    texts = reviews["text"].tolist()[:500]
    found = opened(pretrained).evaluate(ANSWERS, texts)
    classifier = Classifier.load("pretrained")
    for one, other in zip(found, classifier.predict(texts)):
        assert one["tokens"] == other.tokens
        assert one["known"] == other.known.tolist()
        np.testing.assert_allclose(one["attention"], other.attention, atol=1e-3)
        logits = np.log(other.probabilities)  # but for a number common to all
        logits += np.mean(one["logits"]) - logits.mean()
        np.testing.assert_allclose(one["logits"], logits, atol=1e-3)


@pytest.mark.filterwarnings("ignore:max_tokens=5 cuts off")
@pytest.mark.parametrize(
    "parameters",
    [
        {"pooling": "prune", "prune_p": 2, "prune_q": 3, "num_layers": 2},
        {"pooling": "mean", "max_tokens": 5, "lower": False, "unescape_html": True},
    ],
)
def test_any_run_can_be_a_page(parameters, tmp_path, opened):
    reviews = make_reviews(320)
    reviews["label"] = np.where(reviews["label"] > 3, "good", "<b>bad</b>")
    made = prepare(tmp_path / "run", reviews, embedding=None, **parameters)
    finish(made)
    write_page(tmp_path / "run", tmp_path / "page")
    texts = ["A GOOD film &amp; more<br>of it, <i>again</i>!", *reviews["text"][:20]]
    page = opened(tmp_path / "page")
    found = page.evaluate(ANSWERS, texts)
    for one, other in zip(found, Classifier.load(tmp_path / "run").predict(texts)):
        assert one["tokens"] == other.tokens
        np.testing.assert_allclose(one["probabilities"], other.probabilities, atol=2e-3)
    page.wait_for_selector(".chances th")
    chances = page.locator(".chances th")
    assert chances.all_text_contents() == ["<b>bad</b>", "good"]


@pytest.mark.parametrize("language", ["de", "el", "es", "fr", "id", "xx"])
def test_other_languages_have_their_rules(language, pretrained, opened):
    text = "Das ist z.B. nicht-schön (12.50€)! ¿Qué tal? L'été... http://a.bc/d :-)"
    found = opened(pretrained).evaluate(
        f"""async ([text, rules]) => {{
          const tokenize = selfatt.makeTokenizer(rules);
          const model = {{tokenize, max_tokens: 100}};
          return {WORDS};
        }}""",
        [text, rules(language)],
    )
    assert found == tokenize(text, language=language)


def test_a_language_without_rules_is_refused():
    with pytest.raises(ValueError, match="spaCy has none for language='zh'"):
        rules("zh")


HOSTILE = {
    "markup": "<img src=x onerror=alert(1)> </textarea><script>alert(2)</script>",
    "right to left": "\u202egood\u202c שלום עולם مرحبا \u2066never",
    "long": "a" * 100_000,
    "brackets": "(" * 5_000 + " good",
    "many words": "good " * 20_000,
    "half a character": "good \ud83d film \udc00",
    "properties": "__proto__ constructor toString hasOwnProperty",
    "white space": " \t\n\u3000\x85 ",
    "nothing": "",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_is_typed_is_text(text, pretrained, opened):
    page = opened(pretrained, viewport={"width": 390, "height": 800})
    area = page.locator(".selfatt-box textarea")
    # as pasted: half a character cannot be sent to the browser as it is
    area.evaluate(
        """(area, text) => {
          area.value = JSON.parse(text);
          area.dispatchEvent(new Event("input"));
        }""",
        json.dumps(text),
    )
    pieces = page.locator(".selfatt-box > .line button").count()
    assert pieces <= 100
    if text.strip():
        assert pieces > 0
    else:
        assert page.locator(".said").text_content() == "Nothing to read yet."
    assert page.locator(".selfatt-box img, .selfatt-box script").count() == 0
    assert page.errors == []
    assert {re.sub(".*/", "", url) for url in page.asked} == {
        "index.html",
        "box.js",
        "box.css",
        "model.js",
    }
    width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0


def test_words_can_be_left_out_by_keyboard(pretrained, opened):
    page = opened(pretrained)
    page.locator(".selfatt-box textarea").fill("not good at all")
    word = page.get_by_role("button", name=re.compile("^good:"))
    word.focus()
    page.keyboard.press("Enter")
    word = page.get_by_role("button", name="good: left out")
    assert word.get_attribute("aria-pressed") == "true"
    assert word.evaluate("each => each === document.activeElement")
    said = page.locator(".said").text_content()
    without = Classifier.load("pretrained").predict_tokens([["not", "at", "all"]])[0]
    stars = f"{without.stars} star{'s' * (without.stars > 1)}"
    chance = f"{round(100 * without.probabilities.max())} %"
    assert said == f"{stars}, with a probability of {chance} without “good”."
    expect(page.get_by_role("status")).to_have_text(said)
    page.keyboard.press("Enter")
    assert "without" not in page.locator(".said").text_content()

    page.get_by_role("button", name="Leave out each word in turn").click()
    changes = page.locator(".piece small").all_text_contents()
    heard = page.get_by_role("button", name=re.compile("points without it$"))
    assert heard.count() == 4
    classifier = Classifier.load("pretrained")
    tokens = ["not", "good", "at", "all"]
    whole, *rest = classifier.predict_tokens(
        [tokens, *(tokens[:i] + tokens[i + 1 :] for i in range(4))]
    )
    best = whole.probabilities.argmax()
    for shown, each in zip(changes, rest):
        change = 100 * (each.probabilities[best] - whole.probabilities[best])
        assert int(shown.replace("−", "-")) == pytest.approx(change, abs=0.6)


def test_a_sentence_can_be_chosen(pretrained, opened):
    page = opened(pretrained)
    text = "The battery lasts two days."
    page.get_by_role("combobox", name="or choose one").select_option(text)
    assert page.locator(".selfatt-box textarea").input_value() == text
    pieces = page.locator(".selfatt-box > .line button").all_text_contents()
    assert pieces == ["The", "battery", "lasts", "two", "days", "."]


def test_what_is_too_long_or_too_short_is_said(pretrained, opened):
    page = opened(pretrained)
    area, said = page.locator("textarea"), page.locator(".said")
    alone = page.get_by_role("button", name="Leave out each word in turn")
    for count, is_clipped in ((100, False), (101, True), (1, False)):
        area.fill("good " * count)
        assert ("No more than 100 words and marks" in said.text_content()) is is_clipped
        assert alone.is_visible() is (count > 1)


def test_typing_is_read_aloud_once(pretrained, opened):
    page = opened(pretrained)
    status = page.get_by_role("status")
    expect(status).to_have_text(re.compile("stars"))
    status.evaluate(
        """status => {
          window.changes = 0;
          const count = () => { changes += 1; };
          new MutationObserver(count).observe(status, {childList: true});
        }"""
    )
    page.locator("textarea").press_sequentially("Dull, dull", delay=5)
    expect(status).to_have_text(page.locator(".said").text_content())
    assert page.evaluate("changes") <= 5  # of ten keys


def test_several_boxes_share_a_model_and_hebrew_runs_from_the_right(
    pretrained, tmp_path, opened
):
    for name in ("box.js", "box.css", "model.js"):
        (tmp_path / name).symlink_to(pretrained / name)
    text = (pretrained / "index.html").read_text()
    hebrew = '<div class="selfatt-box" data-text="שלום עולם טוב"></div>'
    script = '<script defer src="box.js"></script>'  # once more
    text = text.replace("</main>", f"{hebrew}</main>").replace(
        "</head>", f"{script}</head>"
    )
    (tmp_path / "index.html").write_text(text)
    page = opened(tmp_path, viewport={"width": 1280, "height": 2000})
    expect(page.locator("textarea")).to_have_count(2)
    assert sum("model.js" in url for url in page.asked) == 1
    assert page.locator("#selfatt-text-1").input_value() == "שלום עולם טוב"
    words = page.locator(".selfatt-box").nth(1).locator("> .line button")
    places = words.evaluate_all("all => all.map(each => each.offsetLeft)")
    assert places == sorted(places, reverse=True)
    assert page.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(pretrained, opened, scheme, width):
    size = {"width": width, "height": 800}
    page = opened(pretrained, color_scheme=scheme, viewport=size)
    page.locator(".selfatt-box textarea").fill("A zyxwvut film, not good at all!")
    page.get_by_role("button", name=re.compile("^good:")).click()
    page.get_by_role("button", name="Leave out each word in turn").click()
    assert find(page) == []


def test_the_model_is_loaded_when_the_box_comes_into_view(pretrained, tmp_path, opened):
    for name in ("box.js", "box.css", "model.js"):
        (tmp_path / name).symlink_to(pretrained / name)
    text = (pretrained / "index.html").read_text()
    page = text.replace("<h1>", '<h1 style="margin-bottom: 5000px">')
    (tmp_path / "index.html").write_text(page)
    page = opened(tmp_path)
    page.wait_for_timeout(300)
    assert not any("model.js" in url for url in page.asked)
    page.locator(".selfatt-box").scroll_into_view_if_needed()
    page.wait_for_selector(".selfatt-box textarea")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (None, "it could not be read"),
        (lambda text: text[: len(text) // 2], "it does not hold a model"),
        (lambda text: text.replace('"weights": "', '"weights": "AAAAAAAA'), "not all"),
        (lambda text: text.replace('"prefix": "', '"prefix": "('), "egular expression"),
    ],
)
def test_a_damaged_model_gives_a_sentence(broken, said, pretrained, tmp_path, opened):
    for name in ("index.html", "box.js", "box.css"):
        (tmp_path / name).symlink_to(pretrained / name)
    if broken:
        script = (pretrained / "model.js").read_text()
        (tmp_path / "model.js").write_text(broken(script))
    page = opened(tmp_path)
    page.wait_for_function("() => document.querySelector('.selfatt-box [role=status]')")
    shown = page.locator(".selfatt-box").text_content()
    assert shown.startswith("The model cannot be shown: ")
    assert said in shown


def test_the_command_writes_a_page(tmp_path, opened):
    page = tmp_path / "page"
    command = ["export", "pretrained", str(page), "--web"]
    done = CliRunner().invoke(main, command)
    assert done.output == f"page with 1.8 MB: {page / 'index.html'}\n"
    opened(page).wait_for_selector(".selfatt-box textarea")
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1
    assert f"{page} exists. Name another folder" in again.output
    assert CliRunner().invoke(main, [*command, "--overwrite"]).exit_code == 0
    none = CliRunner().invoke(main, ["export", "none", str(tmp_path / "no"), "--web"])
    assert "'none' is not a trained run" in none.output
    assert not (tmp_path / "no").exists()


def test_the_pretrained_run_is_small_and_says_how_it_was_made(pretrained):
    assert (pretrained / "model.js").stat().st_size < 2_000_000
    classifier = Classifier.load("pretrained")
    assert {a.dtype for a in classifier.weights.values()} == {np.dtype("float32")}
    tokens = np.array([classifier.vocab[["good", "film"]]])
    logits, _, _ = reference.forward(tokens, np.array([2]), classifier.weights)
    assert logits.argmax() == 4
    script = (pretrained / "model.js").read_text()
    about = json.loads((locate_run("pretrained") / "about.json").read_text())
    assert about["made"] == "make pretrained"
    assert json.dumps(about["calibration"]) in script
