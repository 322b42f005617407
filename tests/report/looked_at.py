"""What a browser sees of a page."""

SECTIONS = (
    "curves",
    "filters",
    "rotations",
    "neighbours",
    "confusion",
    "classes",
    "map",
    "evaluations",
    "settings",
)

# Text elements that are smaller than 12 px on the screen: SVG text is scaled with its image.
_SMALL_TEXT = """
const small = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const parent = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || parent.closest(".unseen, style, title")) continue;
  let size = parseFloat(getComputedStyle(parent).fontSize);
  const matrix = parent.getScreenCTM ? parent.getScreenCTM() : null;
  if (matrix) size *= matrix.a;
  if (size < 12) small.push([size, walker.currentNode.data.trim()]);
}
return small;
"""
# Pairs of neighbouring headings that skip a level.
_SKIPPED_HEADINGS = """
const levels = [...document.querySelectorAll("h1,h2,h3,h4,h5,h6")].map(h => Number(h.tagName[1]));
return levels.filter((level, i) => i ? level > levels[i - 1] + 1 : level != 1);
"""
# What reaches beyond the right edge without standing in a box that scrolls.
_TOO_WIDE = """
return [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1
  && !e.closest(".scroll") && !e.closest(".unseen")).map(e => e.outerHTML.slice(0, 200));
"""


def look_at(chromium, path, width, height=740):
    """Opens a page in a window of that size, and finds nothing amiss that a program can find."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    chromium.get(path.as_uri())
    ask = chromium.execute_script
    assert chromium.get_log("browser") == []
    assert ask("return innerWidth") == width
    assert ask(_TOO_WIDE) == []
    assert ask("return document.documentElement.scrollWidth") <= width
    assert ask("return [...document.images].filter(i => !i.complete || !i.naturalWidth).length") == 0
    assert ask("return [...document.images].filter(i => !i.alt).length") == 0
    assert (
        ask(
            "return [...document.querySelectorAll('svg')].filter(s => !s.querySelector('path,image')"
            " || !s.getBoundingClientRect().height).length"
        )
        == 0
    )
    assert ask(_SMALL_TEXT) == []
    assert ask(_SKIPPED_HEADINGS) == []
    assert ask("return [...document.querySelectorAll('section')].map(s => s.id)") == list(SECTIONS)
    assert ask("return document.querySelectorAll('script,iframe,object,link[rel=stylesheet]').length") == 0
    assert chromium.title != "hacked"
