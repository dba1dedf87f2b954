"""The terms and the notation of the course: one page, and the addresses that other pages link to."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from dwflow_lite.course.site.dress import dress
from dwflow_lite.course.site.frame import COURSE, LOOK, frame
from dwflow_lite.course.site.maths import markdown_html, mathml

TITLE = "Glossary and notation"


@cache
def glossary() -> dict[str, Any]:
    """What glossary.yaml holds: `terms` (term, also, link, met, says) and `notation` (sign, says)."""
    return yaml.safe_load(LOOK["glossary.yaml"])


def anchor(term: str) -> str:
    """Where a term stands in the page."""
    return re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")


@cache
def addresses(root: str) -> dict[str, str]:
    """Each form of each term -> its address, from a page whose way to the site's folder is `root`."""
    return {
        form: f"{root}glossary.html#{anchor(entry['term'])}"
        for entry in glossary()["terms"]
        for form in entry.get("link", [entry["term"], *entry.get("also", ())])
    }


def glossary_page(pages: Mapping[str, str]) -> str:
    """The page; `pages` are number -> address of the notebooks that have one."""
    items = []
    for entry in sorted(glossary()["terms"], key=lambda entry: entry["term"].lower()):
        number = entry["met"]
        met = f' <a href="{pages[number]}">Notebook {number}</a>' if number in pages else ""
        says = markdown_html(entry["says"]).strip().removeprefix("<p>").removesuffix("</p>")
        items.append(f'<dt id="{anchor(entry["term"])}">{html.escape(entry["term"])}</dt><dd>{says}{met}</dd>')
    rows = "".join(
        f"<tr><td>{mathml(line['sign'])}</td><td>{markdown_html(line['says'])}</td></tr>"
        for line in glossary()["notation"]
    )
    body = (
        f"<h1>{TITLE}</h1><p>Terms link here from their first use in each notebook.</p>"
        f'<h2 id="terms">Terms</h2><dl>{"".join(items)}</dl>'
        f'<h2 id="notation">Notation</h2><table><tbody>{rows}</tbody></table>'
    )
    body, _ = dress(body)
    return frame(f"{TITLE} · {COURSE}", body)
