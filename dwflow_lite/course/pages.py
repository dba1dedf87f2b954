"""Executed notebooks as self-contained HTML: no script, font or picture from elsewhere, maths as MathML."""

from __future__ import annotations

import copy
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import mistune
import nbformat
from bs4 import BeautifulSoup
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from pygments.formatters import HtmlFormatter

from .execute import WIDGET_VIEW, inside, widgets
from .lessons import places
from .paths import write_atomic
from .report import cost

FETCHED = ("src", "href", "srcset", "data", "poster", "xlink:href")
NAVIGATION = re.compile(r"<!--nav-->.*?<!--/nav-->", re.DOTALL)
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


class PageError(ValueError):
    """The notebook cannot become a self-contained page."""


def mathml(formula: str, display: str = "inline") -> str:
    """LaTeX as MathML, `display` inline or block. Raises PageError naming what is not understood."""
    try:
        out = convert(formula.strip(), display=display)
    except Exception as error:
        raise PageError(f"formula {formula.strip()!r} cannot be shown: {type(error).__name__} {error}") from None
    if unknown := re.search(r">(\\[A-Za-z]+|[{}])<", out):
        raise PageError(f"formula {formula.strip()!r} cannot be shown: {unknown[1]!r} is not understood")
    return out


class _Renderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    def _html_embed_images(self, html: str) -> str:
        """As the base class, but without closing tags whose end comes in a later block (`<details>`)."""
        picture = r"(<img\b[^>]*?\bsrc=[\"'])([^\"']+)"
        return re.sub(picture, lambda found: found[1] + (self._src_to_base64(found[2]) or found[2]), html)


class _Exporter(HTMLExporter):
    @jinja2.pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        cell = context.get("cell", nbformat.NotebookNode(metadata={}))
        path = context.get("resources", {}).get("metadata", {}).get("path", "")
        pictures = cell.get("attachments", {})
        renderer = _Renderer(escape=False, embed_images=True, path=path, attachments=pictures)
        try:
            return MarkdownWithMath(renderer=renderer).render(source)
        except PageError as error:
            raise PageError(f"cell {cell.metadata.get('number')}: {error}") from None


def external_resources(page: str) -> list[str]:
    """Everything the page would load from outside itself; links may point anywhere. Empty for a self-contained one."""
    styles, found = [], []
    for tag in BeautifulSoup(page, "html.parser").find_all(True):
        styles.append(tag.text if tag.name == "style" else tag.get("style", ""))
        fetched = {k: v for k, v in tag.attrs.items() if k in FETCHED and v and tag.name != "a"}
        found += [f"<{tag.name} {k}={v[:120]}>" for k, v in fetched.items() if not v.startswith(("data:", "#"))]
    return found + re.findall(r"url\(\s*['\"]?(?!data:|#)[^)]*\)|@import[^;]*;", "\n".join(styles))


def notebook_page(nb: nbformat.NotebookNode, entry: Mapping[str, Any], source: Path) -> str:
    """The page of a notebook; of one that has not run, to see in time whether it can have one.

    Args:
        entry: its line of the report (title, stem, minutes, peak_mb, profile, date).
        source: folder that pictures named in markdown are relative to.

    Raises PageError for a formula that cannot be shown and for anything the page would fetch.
    """
    nb = copy.deepcopy(nb)
    for cell, (number, heading) in zip(nb.cells, places(nb.cells), strict=True):
        cell.metadata["number"] = number
        for output in cell.get("outputs", ()):
            _make_still(nb, output, heading or entry["title"])
    exporter = _Exporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # a progress bar ends as one line
    nb.metadata.pop("widgets", None)
    body, _ = exporter.from_notebook_node(nb, {"metadata": {"path": str(source)}})
    body = re.sub(r'href="(?:\./)?([\w-]+)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', body)
    page = _shell(entry["title"], [cost(entry), f"profile {entry['profile']}", entry["date"][:10]], body)
    if fetched := external_resources(page):
        raise PageError(f"the page would fetch {', '.join(fetched[:3])}")
    return page


def _make_still(nb: nbformat.NotebookNode, output: Any, heading: str) -> None:
    """Turn an output into what a page can show: no live widget, LaTeX as MathML, every picture described."""
    data = output.get("data", {})
    if WIDGET_VIEW in data:
        every = widgets(nb)
        states = [every[model] for model in inside(every, data[WIDGET_VIEW]["model_id"])]
        names = [s.get("description") for s in states if "value" in s or "index" in s]
        controls = ", ".join(html.escape(n) for n in dict.fromkeys(names) if n) or "controls"
        data.clear()
        data["text/html"] = f"<p class='widget'>Live in Jupyter: {controls}. The picture above is the still.</p>"
    elif "text/latex" in data and "text/html" not in data:
        data["text/html"] = mathml(data["text/latex"].strip().strip("$").removeprefix("\\displaystyle"), "block")
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            output.metadata.setdefault(kind, nbformat.NotebookNode()).setdefault("alt", f"Figure: {heading}")


def _shell(title: str, facts: Sequence[str], body: str) -> str:
    light = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    said = "".join(f"<span>{html.escape(fact)}</span>" for fact in facts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n{CSS}</style></head>\n"
        f'<body><header><!--nav--><!--/nav--><p class="facts">{said}</p></header>\n<main>{body}</main>\n'
        "<footer><!--nav--><!--/nav--></footer></body></html>\n"
    )


def link_pages(folder: Path, titles: Mapping[str, str]) -> None:
    """Give each page in `folder` its links to the one before, the index and the one after.

    Args:
        titles: stem -> title of all notebooks that have a page, in course order.
    """

    shown = {stem: html.escape(title) for stem, title in titles.items()}
    stems = [None, *titles, None]
    for before, stem, after in zip(stems, stems[1:], stems[2:], strict=False):
        left = f'<a href="{before}.html">← {shown[before]}</a>' if before else "<span></span>"
        right = f'<a href="{after}.html">{shown[after]} →</a>' if after else "<span></span>"
        nav = f'<nav>{left}<a href="../index.html">All notebooks</a>{right}</nav>'
        old = (folder / f"{stem}.html").read_text(encoding="utf-8")
        new = NAVIGATION.sub(lambda _, nav=nav: f"<!--nav-->{nav}<!--/nav-->", old)
        if new != old:
            write_atomic(folder / f"{stem}.html", new)


def index_page(report: str) -> str:
    """The index: the report, whose markdown it is given."""
    body = mistune.create_markdown(escape=True, plugins=["table"])(report)
    states = "passed|cached|failed|blocked|interrupted|pending|stale"
    body = re.sub(rf"<td>({states})</td>", r'<td><span class="badge \1">\1</span></td>', body)
    return _shell("The course, as it ran", [], body)
