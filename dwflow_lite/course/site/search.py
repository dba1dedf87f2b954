"""The index of the whole course: the text of every page, section by section, in one local file of JavaScript."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from functools import lru_cache

from bs4 import BeautifulSoup, NavigableString, Tag

from dwflow_lite.course.site.frame import COURSE

TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)
LONGEST = 20_000  # letters of one section
STARTS = ("h1", "h2", "h3", "dt")
BLOCKS = ("p", "li", "td", "th", "dd", "div", "pre", "br", "summary", "blockquote")
BESIDE = {*STARTS, "script", "style", "nav", "aside", "button"}


@lru_cache(maxsize=256)
def sections(page: str) -> tuple[dict[str, str], ...]:
    """The sections of a page in order: title of the page, heading, `at` (#id, or nothing for the beginning), text."""
    head, _, rest = page.partition("<main")
    title = html.unescape(TITLE.search(head)[1]).removesuffix(f" · {COURSE}")
    soup = BeautifulSoup("<main" + rest.rpartition("</main>")[0], "html.parser")
    parts: list[dict[str, str]] = [{"title": title, "heading": "", "at": ""}]
    words: list[list[str]] = [[]]
    for element in soup.descendants:
        if isinstance(element, Tag):
            words[-1].append(" " if element.name in BLOCKS else "")
            if element.name in STARTS and element.get("id"):
                heading = "" if element.name == "h1" else element.get_text().removesuffix("¶").strip()
                parts.append({"title": title, "heading": heading, "at": f"#{element['id']}"})
                words.append([])
        elif type(element) is NavigableString and not any(parent.name in BESIDE for parent in element.parents):
            words[-1].append(str(element))
    for part, pieces in zip(parts, words, strict=True):
        part["text"] = " ".join("".join(pieces).split())[:LONGEST]
    return tuple(part for part in parts if part["text"] or part["heading"])


def search_script(pages: Mapping[str, str]) -> str:
    """The file: `pages` are address in the site -> HTML, in the order in which equals are found."""
    index = [{"page": address, **part} for address, page in pages.items() for part in sections(page)]
    listed = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
    return f"globalThis.courseSections = {listed};\n".replace("\u2028", " ").replace("\u2029", " ")
