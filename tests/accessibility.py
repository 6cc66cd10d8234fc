"""What axe-core finds on a page: WCAG 2.1, levels A and AA, contrast included."""

from axe_playwright_python.sync_playwright import Axe

AXE = Axe()
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]


def find(page, theirs=()):
    """List what breaks a rule, or may: the rule, the element, and what axe says.

    Folded parts are opened first. Left out is what matches one of `theirs`: a rule, and
    a selector of elements that may break it.
    """
    page.locator("details").evaluate_all("all => all.forEach(e => e.open = true)")
    # what is fading in has less contrast than it will have
    page.evaluate("Promise.all(document.getAnimations().map(each => each.finished))")
    options = {"runOnly": RULES, "preload": False}  # it would fetch style sheets again
    results = AXE.run(page, options=options).response
    # axe is not sure of the contrast of ★, nor where boxes overlap
    unsure = [it for it in results["incomplete"] if it["id"] != "color-contrast"]
    found = []
    for result in results["violations"] + unsure:
        excused = ", ".join(
            selector for rule, selector in theirs if rule == result["id"]
        )
        for node in result["nodes"]:
            (target,) = node["target"]
            element = page.locator(target)
            if not (excused and element.evaluate("(e, s) => e.matches(s)", excused)):
                says = node["any"] + node["all"] + node["none"]
                found.append((result["id"], target, says[0]["message"]))
    return found
