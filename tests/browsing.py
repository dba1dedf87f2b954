"""What tests in a real browser share: where Chromium is, sizes of windows, and what a page must not be."""

import shutil
import time
from pathlib import Path

import pytest

NO_PLAYWRIGHT = "tests in a browser need: pip install playwright"


def find_chromium():
    """Path of the machine's Chromium, else of the one that `playwright install chromium` brought, else None."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        try:
            from playwright.sync_api import sync_playwright
        except ImportError:
            return None
        with sync_playwright() as playwright:
            found = playwright.chromium.executable_path
    return found if Path(found).is_file() else None


CHROMIUM = find_chromium()
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="tests in a browser need Chromium")

SIZES = [(width, theme) for width in (390, 1280) for theme in ("light", "dark")]
SIDEWAYS = "document.documentElement.scrollWidth - innerWidth"
# Texts whose contrast with what lies behind them is below the bar of WCAG AA: 4.5, or 3 for large letters.
FAINT = """() => {
  const numbers = (colour) => {
    const context = new OffscreenCanvas(1, 1).getContext("2d");
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  let seen = 0;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const style = getComputedStyle(element);
    if (!texts.currentNode.data.trim() || !element.checkVisibility({ opacityProperty: true })) continue;
    if (element.closest("script, style, dialog, .copy, .skip")) continue;
    const [a, b] = [luminance(numbers(style.color)), luminance(ground(element))].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const bar = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    seen += 1;
    if ((a + 0.05) / (b + 0.05) < bar) faint.push([texts.currentNode.data.slice(0, 40), style.color]);
  }
  return [seen, faint];
}"""


def until(page, condition, seconds=15, what=None):
    """Wait until a condition (JavaScript, or a function) holds, also on pages that refuse Playwright's own waiting."""
    holds = condition if callable(condition) else lambda: page.evaluate(condition)
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what or condition} never held"
        page.wait_for_timeout(50)
