"""The book as a reader gets it: its HTML, and what a browser makes of that."""

import mimetypes
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from accessibility import find
from bs4 import BeautifulSoup
from servers import serve

ROOT = Path(__file__).parent.parent
WIDTHS = {"desktop": (1280, 800), "phone": (390, 844)}


def toc_files(entry):
    """Yield what a table of contents lists, at any depth."""
    for key, value in entry.items():
        if key in ("root", "file"):
            yield value.removesuffix(".md").removesuffix(".ipynb")
        elif isinstance(value, list):
            for part in value:
                yield from toc_files(part)


CHAPTERS = list(toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text())))
NOTEBOOKS = [name for name in CHAPTERS if (ROOT / f"{name}.ipynb").exists()]
PAGES = [f"{name}.html" for name in [*CHAPTERS, "genindex", "search"]]
every_page = pytest.mark.parametrize("name", PAGES)


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """Build the book outside the repository, as `make book` does."""
    out = tmp_path_factory.mktemp("book")
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    done = subprocess.run(
        [jupyter_book, "build", ROOT, "-W", "-n", "--keep-going", "--path-output", out],
        capture_output=True,
        text=True,
    )
    log = (done.stdout + done.stderr).splitlines()
    warnings = [line for line in log if re.search("WARNING|ERROR", line)]
    assert done.returncode == 0, "\n".join(warnings or log[-20:])
    return out / "_build" / "html"


@cache
def parse(path):
    return BeautifulSoup(path.read_text(), "html.parser")


def is_elsewhere(url):
    return urlsplit(url).netloc != ""


# The HTML


LOADED = "script[src], img[src], iframe[src], embed[src], source[src], video[src]"
IMPORTED = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")


@every_page
def test_nothing_on_a_page_lies_on_another_host(name, html):
    page = parse(html / name)
    loaded = [tag["src"] for tag in page.select(LOADED)]
    loaded += [tag["data"] for tag in page.select("object[data]")]
    loaded += [tag["href"] for tag in page.select("link[href]")]
    sheets = [tag["href"] for tag in page.select('link[rel~="stylesheet"]')]
    styles = [
        (html / name).parent.joinpath(urlsplit(sheet).path).read_text()
        for sheet in sheets
        if not is_elsewhere(sheet)
    ]
    styles += [tag.get_text() for tag in page.select("style")]
    styles += [tag["style"] for tag in page.select("[style]")]
    assert sheets
    assert [url for url in loaded if is_elsewhere(url)] == []
    assert [url for style in styles for url in IMPORTED.findall(style)] == []


def links(page):
    for tag in page.select("[href], [src]"):
        yield tag.get("href") or tag.get("src")
    for tag in page.select('meta[http-equiv="Refresh"]'):
        yield tag["content"].partition("url=")[2]


def leads_somewhere(url, path, html):
    """Tell whether a link on the page at a path leads to a file, and an id in it."""
    address = urlsplit(url)
    target = path
    if address.path:
        target = path.parent.joinpath(unquote(address.path)).resolve()
    if not (target.is_file() and target.is_relative_to(html.resolve())):
        return False
    fragment = unquote(address.fragment)
    return not fragment or parse(target).find(id=fragment) is not None


@pytest.mark.parametrize("name", ["index.html", *PAGES])
def test_every_link_within_the_book_leads_somewhere(name, html):
    path = html / name
    within = [url for url in links(parse(path)) if not urlsplit(url).scheme]
    within = [url for url in within if not is_elsewhere(url)]
    assert within
    assert [url for url in within if not leads_somewhere(url, path, html)] == []


@every_page
def test_every_image_is_there_and_says_in_words_what_it_shows(name, html):
    empty, unsaid = [], []
    for image in parse(html / name).select("img"):
        src, alt = image["src"], image.get("alt", "").strip()
        file = (html / name).parent / unquote(src)
        if not src.startswith("data:") and not (file.is_file() and file.stat().st_size):
            empty.append(src)
        # where a chapter gives none, Sphinx puts the name of the file in its place
        if not alt or (mimetypes.guess_type(alt)[0] or "").startswith("image/"):
            unsaid.append(src)
    assert empty == []
    assert unsaid == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_chapter_can_be_downloaded_as_the_notebook_that_it_is(name, html):
    path = html / f"{name}.html"
    offered = [tag["href"] for tag in parse(path).select("a[href$='.ipynb']")]
    offered = [url for url in offered if "_sources/" in url]
    assert len(offered) == 1
    downloaded = path.parent.joinpath(offered[0]).read_bytes()
    assert downloaded == (ROOT / f"{name}.ipynb").read_bytes()


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_solution_that_a_chapter_writes_is_on_its_page(name, html):
    source = ROOT / (f"{name}.ipynb" if name in NOTEBOOKS else f"{name}.md")
    written = re.findall(r"\{solution(?:-start)?\}", source.read_text())
    assert len(parse(html / f"{name}.html").select(".solution")) == len(written)


# The browser


@pytest.fixture(scope="module")
def site(html):
    """Serve the book on this machine; yield its address."""

    def respond(_method, path, _number):
        file = html / unquote(urlsplit(path).path).lstrip("/")
        if not file.is_file():
            return 404, {}, b""
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return 200, {"Content-Type": kind}, file.read_bytes()

    with serve(respond) as (address, _):
        yield address


def open_page(browser, site, name, width="desktop"):
    """Load a page and wait for its equations; note all that goes wrong."""
    size = dict(zip(("width", "height"), WIDTHS[width]))
    page = browser.new_page(viewport=size, reduced_motion="reduce")
    visit = SimpleNamespace(page=page, elsewhere=[], errors=[])

    def block(route):
        visit.elsewhere.append(route.request.url)
        route.abort()

    def note_message(message):
        if message.type == "error":
            visit.errors.append(f"console: {message.text}")

    def note_response(response):
        if response.status >= 400:
            visit.errors.append(f"{response.status}: {response.url}")

    page.set_default_timeout(10_000)
    page.route(lambda url: not url.startswith(f"{site}/"), block)
    page.on("console", note_message)
    page.on("pageerror", lambda error: visit.errors.append(f"uncaught: {error}"))
    page.on("requestfailed", lambda it: visit.errors.append(f"failed: {it.url}"))
    page.on("response", note_response)
    page.goto(f"{site}/{name}")
    page.evaluate("async () => { await window.MathJax?.startup?.promise }")
    return visit


VISITS = [(name, width) for name in PAGES for width in WIDTHS]


@pytest.fixture(scope="module", params=VISITS, ids="-".join)
def visit(request, browser, site):
    """A page, loaded once for all the tests that look at it."""
    visit = open_page(browser, site, *request.param)
    yield visit
    visit.page.close()


def too_wide(page):
    """List what is wider than its place: the page, or a box that cuts text off."""
    code = """all => all.filter(e => e.scrollWidth > e.clientWidth + 1)
        .map(e => e.id || e.tagName)"""
    return page.locator("html, .admonition").evaluate_all(code)


def test_no_page_fetches_anything_from_another_host(visit):
    assert visit.elsewhere == []


def test_a_page_loads_without_an_error(visit):
    assert visit.errors == []


def test_every_image_is_shown(visit):
    code = "all => all.filter(i => !(i.complete && i.naturalWidth)).map(i => i.src)"
    assert visit.page.locator("img").evaluate_all(code) == []


def test_every_equation_is_set(visit):
    # MathJax sets an undefined command in red instead of refusing the equation
    code = """all => all.filter(e => !e.querySelector("mjx-container")
        || e.querySelector("mjx-merror, [data-mjx-error], [style*='color: red']")
    ).map(e => e.textContent)"""
    assert visit.page.locator(".math").evaluate_all(code) == []


def test_a_page_is_no_wider_than_its_window(visit):
    assert too_wide(visit.page) == []


def test_every_solution_is_folded_until_its_button_is_clicked(visit):
    for solution in visit.page.locator(".solution").all():
        text = solution.locator("> :not(.admonition-title)").first
        assert text.is_hidden()
        solution.locator(".toggle-button").click()
        assert text.is_visible()
    assert too_wide(visit.page) == []


# What axe-core finds in the HTML of others, by rule and selector
THEIRS = [
    # docutils gives each work a role that a later edition of ARIA does without
    ("aria-deprecated-role", "div.citation[role=doc-biblioentry]"),
    # docutils calls a bibliography a list, whose members then are no list items
    ("aria-required-children", "div.citation-list[role=list]"),
    # the theme: white on orange, on narrow pages, after scrolling
    ("color-contrast", "#pst-back-to-top"),
]


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_nothing_in_either_theme(visit, theme):
    shown = visit.page.locator("html")
    for _ in range(3):  # the button goes through system, light and dark
        visit.page.locator(".article-header-buttons .theme-switch-button").click()
        if shown.get_attribute("data-mode") == theme:
            break
    assert shown.get_attribute("data-theme") == theme
    assert find(visit.page, THEIRS) == []


def test_a_search_finds_pages(browser, site):
    page = open_page(browser, site, "search.html?q=penalty").page
    page.wait_for_selector("#search-results li a")
    page.wait_for_function("document.querySelector('.search-summary').textContent")
    results = page.locator("#search-results li a")
    found = results.evaluate_all("all => all.map(a => a.href)")
    paths = [urlsplit(url).path.lstrip("/") for url in found]
    assert "book/penalty.html" in paths
    assert set(paths) <= set(PAGES)
    page.close()
