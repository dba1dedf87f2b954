"""What HTML would fetch or run: named, so that a page can be refused, or taken out."""

from __future__ import annotations

import re

from bs4 import BeautifulSoup

FETCHED = ("src", "href", "srcset", "imagesrcset", "data", "poster", "xlink:href", "background", "ping")
RUNNING = ("script", "iframe", "frame", "frameset", "object", "embed", "applet", "base")
WORDS = ("alt", "title", "content", "aria-label")  # attributes that are read, not followed
RUN_BY_LINK = ("javascript:", "vbscript:", "data:text/html")


def parsed(html: str | BeautifulSoup) -> BeautifulSoup:
    """HTML as a tree; a tree is taken as it is, so that a page is read once."""
    return html if isinstance(html, BeautifulSoup) else BeautifulSoup(html, "html.parser")


def external_resources(page: str | BeautifulSoup) -> list[str]:
    """Everything the page would load from outside itself, or run. Empty for a self-contained page.

    Links may point anywhere. Scripts count as foreign wherever their text stands, and so does what embeds other pages.
    """
    styles = []
    resources = []
    for tag in parsed(page).find_all(True):
        styles.append(tag.text if tag.name == "style" else _text(tag.get("style", "")))
        if tag.name == "a":
            continue
        fetched = [
            f"<{tag.name} {name}={_text(value)[:120]}>"
            for name, value in tag.attrs.items()
            if name in FETCHED and value and not _text(value).strip().startswith(("data:", "#"))
        ]
        if tag.name in RUNNING and not fetched:
            start = " ".join((tag.text or str(tag)).split())[:60]
            fetched = [f"<{tag.name}> {start}"]
        if tag.name == "meta" and _text(tag.get("http-equiv", "")).lower() == "refresh":
            fetched = [f"<meta refresh={_text(tag.get('content', ''))[:120]}>"]
        resources += fetched
    from_styles = re.findall(r"url\(\s*['\"]?(?!data:|#)[^)]*\)|@import[^;]*;", "\n".join(styles))
    return resources + from_styles


def remove_handlers(soup: BeautifulSoup) -> None:
    """Take out the attributes that run something: event handlers, and links to `javascript:`."""
    for tag in soup.find_all(True):
        for name, value in list(tag.attrs.items()):
            if name.lower().startswith("on") or (name not in WORDS and _runs(_text(value))):
                del tag[name]


def _runs(link: str) -> bool:
    """Whether following this link would run something; browsers pass over blanks and control characters in it."""
    plain = re.sub(r"[\x00-\x20]", "", link).lower()
    return any(scheme in plain for scheme in RUN_BY_LINK)


def _text(value: str | list[str]) -> str:
    """An attribute's value; of some, such as class, BeautifulSoup gives the words one by one."""
    return value if isinstance(value, str) else " ".join(value)
