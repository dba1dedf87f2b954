"""Executed notebooks as self-contained HTML: no script, font or picture from elsewhere, maths as MathML."""

from __future__ import annotations

import copy
import html
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import mistune
import nbformat
from latex2mathml.converter import convert_to_element
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from pygments.formatters import HtmlFormatter

from dwflow_lite.course.lessons import places
from dwflow_lite.course.markup import POLICY, external_resources, without_handlers
from dwflow_lite.course.outputs import WIDGET_VIEW, shown_model, widgets, widgets_inside
from dwflow_lite.course.paths import write_atomic
from dwflow_lite.course.report import cost

NAVIGATION = re.compile(r"<!--nav-->.*?<!--/nav-->", re.DOTALL)
INDEX_TITLE = "The course, as it ran"
BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


class PageError(ValueError):
    """The notebook cannot become a self-contained page."""


def mathml(formula: str, display: str = "inline") -> str:
    """LaTeX as MathML, `display` inline or block. Raises PageError naming what is not understood."""
    try:
        tree = convert_to_element(formula.strip(), display=display)
    except Exception as error:
        raise PageError(f"formula {formula.strip()!r} cannot be shown: {type(error).__name__} {error}") from None
    for element in tree.iter():
        text = element.text or ""
        if re.fullmatch(r"\\[A-Za-z]+|[{}]", text):
            raise PageError(f"formula {formula.strip()!r} cannot be shown: {text!r} is not understood")
        element.text = html.unescape(text)  # the converter writes letters as entities; what a formula says stays text
    return ElementTree.tostring(tree, encoding="unicode")


class _Renderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    def _html_embed_images(self, html: str) -> str:
        """As the base class, but without closing tags whose end comes in a later block (`<details>`)."""

        def embedded(picture: re.Match[str]) -> str:
            start, source = picture.groups()
            return start + (self._src_to_base64(source) or source)

        return re.sub(r"(<img\b[^>]*?\bsrc=[\"'])([^\"']+)", embedded, html)


class _Exporter(HTMLExporter):
    @jinja2.pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        cell = context.get("cell", nbformat.NotebookNode(metadata={}))
        path = context.get("resources", {}).get("metadata", {}).get("path", "")
        pictures = cell.get("attachments", {})
        displayed = cell.get("cell_type") == "code"  # by a note: HTML in it is text that came from somewhere
        renderer = _Renderer(escape=displayed, embed_images=True, path=path, attachments=pictures)
        try:
            return MarkdownWithMath(renderer=renderer).render(source)
        except PageError as error:
            raise PageError(f"cell {cell.metadata.get('number')}: {error}") from None
        except Exception as error:  # of nbconvert: a picture whose attachment is missing, for one
            raise PageError(f"cell {cell.metadata.get('number')}: {type(error).__name__}: {error}") from error


def notebook_page(nb: nbformat.NotebookNode, entry: Mapping[str, Any], source: Path) -> str:
    """The page of a notebook; of one that has not run, to see in time whether it can have one.

    HTML in what a cell displays as markdown is shown as text; elsewhere event handlers are left out.

    Args:
        nb: the notebook; it is left as it is.
        entry: its line of the report (title, stem, minutes, peak_mb, profile, date).
        source: folder that pictures named in markdown are relative to.

    Raises PageError, with the cell's number, for a formula or an output that cannot be shown, for a script, and for
    anything the page would fetch.
    """
    nb = copy.deepcopy(nb)
    for cell, (number, heading) in zip(nb.cells, places(nb.cells), strict=True):
        cell.metadata["number"] = number
        for output in cell.get("outputs", ()):
            try:
                _make_still(nb, output, heading or entry["title"])
            except PageError as error:
                raise PageError(f"cell {number}: {error}") from None
    nb.metadata.pop("widgets", None)
    try:
        body = _body(nb, source)
    except PageError:
        raise
    except Exception as error:
        raise PageError(f"{_cell_to_blame(nb, source)}{type(error).__name__}: {error}") from error
    body = re.sub(r'href="(?:\./)?([\w-]+)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', body)
    page = _shell(entry["title"], [cost(entry), f"profile {entry['profile']}", entry["date"][:10]], body)
    fetched = external_resources(page)
    if fetched:
        raise PageError(f"{_cell_to_blame(nb, source)}the page would fetch or run {', '.join(fetched[:3])}")
    return page


def _body(nb: nbformat.NotebookNode, source: Path) -> str:
    """The cells as HTML."""
    exporter = _Exporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # a progress bar ends as one line
    body, _ = exporter.from_notebook_node(nb, {"metadata": {"path": str(source)}})
    return without_handlers(body)


def _cell_to_blame(nb: nbformat.NotebookNode, source: Path) -> str:
    """ "cell 3: " for the first cell that has no page of its own either; empty if each has one."""
    for cell in nb.cells:
        alone = nbformat.v4.new_notebook(metadata=nb.metadata, cells=[cell])
        try:
            good = not external_resources(_body(alone, source))
        except Exception:
            good = False
        if not good:
            return f"cell {cell.metadata['number']}: "
    return ""


def _make_still(nb: nbformat.NotebookNode, output: Any, heading: str) -> None:
    """Turn an output into what a page can show: no live widget, LaTeX as MathML, every picture described."""
    data = output.get("data", {})
    _check_types(data)
    if WIDGET_VIEW in data:
        controls = ", ".join(html.escape(name) for name in _control_names(nb, shown_model(data[WIDGET_VIEW])))
        controls = controls or "controls"
        data.clear()
        data["text/html"] = f"<p class='widget'>Live in Jupyter: {controls}. The picture above is the still.</p>"
    elif "text/latex" in data and "text/html" not in data:
        data["text/html"] = mathml(data["text/latex"].strip().strip("$").removeprefix("\\displaystyle"), "block")
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            described = output.metadata.get(kind)
            if not isinstance(described, dict):
                described = nbformat.NotebookNode()
            output.metadata[kind] = described
            described.setdefault("alt", f"Figure: {heading}")


def _check_types(data: Any) -> None:
    """PageError for an output that is not what its type promises; text in a list of lines becomes one text."""
    for kind, content in data.items():
        if kind.endswith("json"):
            continue
        if isinstance(content, list) and all(isinstance(line, str) for line in content):
            data[kind] = "".join(content)
        elif not isinstance(content, str):
            raise PageError(f"an output of type {kind} holds no text")
        elif kind in ("image/png", "image/jpeg") and not BASE64.fullmatch(content):
            raise PageError(f"an output of type {kind} holds no picture")


def _control_names(nb: nbformat.NotebookNode, model: str | None) -> list[str]:
    """Descriptions of the controls in a widget, each once."""
    states = widgets(nb)
    names = []
    for inner in widgets_inside(states, model):
        state = states[inner]
        name = state.get("description")
        if isinstance(name, str) and name and name not in names and ("value" in state or "index" in state):
            names.append(name)
    return names


def _shell(title: str, facts: Sequence[str], body: str) -> str:
    light = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    spans = "".join(f"<span>{html.escape(fact)}</span>" for fact in facts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n{CSS}</style></head>\n"
        f'<body><header><!--nav--><!--/nav--><p class="facts">{spans}</p></header>\n<main>{body}</main>\n'
        "<footer><!--nav--><!--/nav--></footer></body></html>\n"
    )


def link_pages(folder: Path, titles: Mapping[str, str]) -> None:
    """Give each page in `folder` its links to the one before, the index and the one after.

    Args:
        folder: where the pages are.
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
    return _shell(INDEX_TITLE, [], body)
