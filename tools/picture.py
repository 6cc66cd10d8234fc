"""Draw README's picture from a run's page: tools/picture.py runs/quick.

It takes the first review of ``attention.html`` whose stars the model got right, with
its hops, and needs Chromium.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent.parent / "book/_static/attention.png"
STYLE = "article { border: 0 !important; padding: 1em; width: max-content; }"
IS_RIGHT = """all => all.findIndex(article => {
    const [predicted, given] = article.querySelectorAll("h2 [aria-label]");
    return predicted.ariaLabel === given.ariaLabel;
})"""

if __name__ == "__main__":
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(color_scheme="light", device_scale_factor=2)
        page.goto(Path(sys.argv[1], "attention.html").resolve().as_uri())
        page.add_style_tag(content=STYLE)
        articles = page.locator("article")
        article = articles.nth(articles.evaluate_all(IS_RIGHT))
        article.locator("details").evaluate("details => details.open = true")
        article.screenshot(path=PICTURE)
