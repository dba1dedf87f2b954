"""The frame of every page: head, bar, contents, foot, and the two scripts that are the site's own."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

COURSE = "Generated networks, understood"
FILES = ("page.css", "theme.js", "page.js", "glossary.yaml")
LOOK = {name: (Path(__file__).parent / name).read_text(encoding="utf-8") for name in FILES}
LOOK_DIGEST = hashlib.sha256("".join(LOOK.values()).encode()).hexdigest()[:16]

# What a browser lets a page do: nothing is fetched but the player, a page beside it, and no script runs but those that
# carry the page's nonce.
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:; media-src data:; "
    "font-src data:; frame-src 'self' file:; base-uri 'none'; form-action 'none'"
)
DIALOGS = """
<dialog class="search" aria-label="Search the course"><form method="dialog">
<input type="search" aria-label="Search the course" autocomplete="off" spellcheck="false" autofocus>
<button type="button">Close</button></form>
<p class="said" role="status"></p><ol></ol></dialog>
<dialog class="zoom" aria-label="Figure, enlarged"><div class="sheet" tabindex="0"></div>
<div class="below"><span class="said"></span><button type="button" autofocus>Close</button></div></dialog>
"""


class Heading(NamedTuple):
    """A line of the contents: h2 or h3, the id that it has in the page, and its text."""

    level: str
    anchor: str
    text: str


def frame(
    title: str,
    body: str,
    *,
    root: str = "",
    contents: Sequence[Heading] = (),
    facts: Sequence[str] = (),
    foot: str = "",
) -> str:
    """A whole page.

    Args:
        title: of the window, as text.
        body: what the page shows, as HTML.
        root: way from the page to the folder of the site: ``""`` or ``"../"``.
        contents: headings for the list beside the text; fewer than three make no list.
        facts: short texts for the line under the links to the neighbours.
        foot: HTML of the last line.

    The nonce that lets scripts run is a digest of the page's own text, so nothing in that text can hold it.
    """
    nonce = hashlib.sha256(f"{title}\0{body}".encode(errors="backslashreplace")).hexdigest()[:32]
    listed = _contents(contents) if len(contents) >= 3 else ""
    spans = " ".join(f"<span>{dated(fact)}</span>" for fact in facts)
    said = f'<p class="facts">{spans}</p>' if facts else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en" data-root="{root}"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY.format(nonce=nonce)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="look" content="{LOOK_DIGEST}">\n'
        f'<script nonce="{nonce}">{LOOK["theme.js"]}</script>\n<style>{LOOK["page.css"]}</style></head>\n'
        f'<body><a class="skip" href="#main">To the text</a>\n{_bar(root)}\n'
        f'<div class="columns{" with-contents" if listed else ""}">{listed}<main id="main">'
        f"<!--nav--><!--/nav-->{said}{body}</main></div>\n<footer><!--nav--><!--/nav-->{foot}</footer>{DIALOGS}"
        f'<script nonce="{nonce}" src="{root}search.js"></script>\n'
        f'<script nonce="{nonce}">{LOOK["page.js"]}</script></body></html>\n'
    )


def _bar(root: str) -> str:
    links = {"glossary.html": "Glossary", "api/index.html": "Reference", "report.html": "Report of the run"}
    listed = "".join(f'<a href="{root}{page}">{name}</a>' for page, name in links.items())
    return (
        f'<header class="bar"><a class="home" href="{root}index.html">{COURSE}</a>'
        f'<nav aria-label="Course">{listed}</nav>'
        '<button class="find" type="button" aria-keyshortcuts="/" hidden>Search</button>'
        '<button class="theme" type="button" hidden></button></header>'
    )


def _contents(headings: Sequence[Heading]) -> str:
    items = "".join(
        f'<li class="{heading.level}"><a href="#{html.escape(heading.anchor)}">{html.escape(heading.text)}</a></li>'
        for heading in headings
    )
    return (
        '<aside class="contents"><details open><summary>On this page</summary>'
        f'<nav aria-label="On this page"><ol>{items}</ol></nav></details></aside>'
    )


def dated(text: str) -> str:
    """A text as HTML; no line ends within a date.

    Example:
        >>> dated("on 2026-11-26 & later")
        'on <time>2026-11-26</time> &amp; later'
    """
    return re.sub(r"\b\d{4}-\d\d-\d\d\b", r"<time>\g<0></time>", html.escape(text))


def versions_line(versions: Mapping[str, str]) -> str:
    """The packages of a run, as one line of HTML."""
    return (
        "With "
        + ", ".join(f"{html.escape(name)} {html.escape(version)}" for name, version in sorted(versions.items()))
        + "."
    )
