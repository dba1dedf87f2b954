"""LaTeX as MathML, and short texts with formulas as HTML."""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ElementTree
from functools import lru_cache

import mistune
from latex2mathml.converter import convert_to_element

BARS = ("|", "‖", "∥")
ROWS = ("math", "mrow", "mtd", "mstyle")
RAISED = ("msub", "msup", "msubsup")
ALPHABET = re.compile(r"(\\math(?:bb|cal|bf)) +([A-Za-z])")  # without braces browsers would not see the alphabet


class PageError(ValueError):
    """The notebook cannot become a self-contained page."""


def mathml(formula: str, display: str = "inline") -> str:
    """LaTeX as MathML, `display` inline or block. Raises PageError naming what is not understood."""
    written = ALPHABET.sub(r"\1{\2}", formula.strip())
    try:
        tree = convert_to_element(written, display=display)
    except Exception as error:
        raise PageError(f"formula {formula.strip()!r} cannot be shown: {type(error).__name__} {error}") from None
    for element in tree.iter():
        text = element.text or ""
        if re.fullmatch(r"\\[A-Za-z]+|[{}]", text):
            raise PageError(f"formula {formula.strip()!r} cannot be shown: {text!r} is not understood")
        element.text = html.unescape(text)  # the converter writes letters as entities; what a formula says stays text
        if (
            element.tag == "mo" and element.text in BARS
        ):  # of one size, as TeX sets them, unless left and right ask for more
            element.attrib.setdefault("stretchy", "false")
    _space_functions(tree)
    return ElementTree.tostring(tree, encoding="unicode")


def _space_functions(tree: ElementTree.Element) -> None:
    """A thin space between the name of a function and its argument, as TeX sets it: log p, but log(p)."""
    for row in [element for element in tree.iter() if element.tag in ROWS]:
        pairs = list(enumerate(zip(row, row[1:], strict=False), 1))
        for place, (name, argument) in reversed(pairs):  # from the end, where places stay as they are
            function = _first(name, RAISED)
            if function.tag == "mi" and len(function.text or "") > 1 and _first(argument, ROWS).tag != "mo":
                row.insert(place, ElementTree.Element("mspace", width="0.167em"))


def _first(element: ElementTree.Element, within: tuple[str, ...]) -> ElementTree.Element:
    """What an element begins with; only into these tags is looked."""
    while element.tag in within and len(element):
        element = element[0]
    return element


class _Renderer(mistune.HTMLRenderer):
    def inline_math(self, text: str) -> str:
        return mathml(text)

    def block_math(self, text: str) -> str:
        return mathml(text, "block")


@lru_cache(maxsize=8192)  # the reports, homes and glossaries of one process say much the same
def markdown_html(text: str, *, formulas: bool = True) -> str:
    """Markdown with tables, and formulas if asked for, as HTML; HTML in it is shown as text."""
    plugins = ["table", "math"] if formulas else ["table"]
    return str(mistune.create_markdown(renderer=_Renderer(escape=True), plugins=plugins)(text))
