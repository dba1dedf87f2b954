"""Executed notebooks as self-contained HTML: no script, font or picture from elsewhere, maths as MathML."""

from __future__ import annotations

import copy
import html
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from bs4 import BeautifulSoup
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor

from dwflow_lite.course.lessons import places
from dwflow_lite.course.markup import external_resources, parsed, remove_handlers
from dwflow_lite.course.outputs import WIDGET_VIEW, shown_model, widgets, widgets_inside
from dwflow_lite.course.paths import number_of, write_atomic
from dwflow_lite.course.player import embed
from dwflow_lite.course.report import cost
from dwflow_lite.course.site.dress import dress
from dwflow_lite.course.site.frame import frame, versions_line
from dwflow_lite.course.site.glossary import addresses
from dwflow_lite.course.site.maths import PageError, mathml
from dwflow_lite.course.site.reference import names

NAVIGATION = re.compile(r"<!--nav-->.*?<!--/nav-->", re.DOTALL)
BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")


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
    """The page of a notebook.

    HTML in what a cell displays as markdown is shown as text; elsewhere event handlers are left out.

    Args:
        nb: the notebook; it is left as it is.
        entry: its line of the report (title, stem, minutes, peak_mb, profile, date, versions).
        source: folder that pictures named in markdown are relative to.

    Raises PageError, with the cell's number, for a formula or an output that cannot be shown, for a script, and for
    anything the page would fetch.
    """
    body = checked_body(nb, entry, source)
    number = number_of(entry["stem"])
    dressed, headings = dress(body, number, addresses("../"), names("../"))
    facts = [cost(entry), f"profile {entry['profile']}", entry["date"][:10]]
    if "device" in entry:
        facts.append(f"{entry['device']}, {entry['threads']} thread{'s' if entry['threads'] != 1 else ''}")
    foot = versions_line(entry["versions"]) if entry.get("versions") else ""
    title = f"{number} · {entry['title']}"
    return frame(title, dressed, root="../", contents=headings, facts=[fact for fact in facts if fact], foot=foot)


def checked_body(nb: nbformat.NotebookNode, entry: Mapping[str, Any], source: Path) -> BeautifulSoup:
    """The cells of a notebook as a page has them; of one that has not run, to see in time whether it can have a page.

    Arguments and errors are those of :func:`notebook_page`.
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
        body = _body(nb, source, entry["stem"])
    except PageError:
        raise
    except Exception as error:
        raise PageError(f"{_cell_to_blame(nb, source)}{type(error).__name__}: {error}") from error
    fetched = external_resources(body)
    if fetched:
        raise PageError(f"{_cell_to_blame(nb, source)}the page would fetch or run {', '.join(fetched[:3])}")
    return body


def _body(nb: nbformat.NotebookNode, source: Path, stem: str = "") -> BeautifulSoup:
    """The cells as HTML, with links to other pages, and a place for the player where this notebook has it."""
    body, _ = _exporter().from_notebook_node(nb, {"metadata": {"path": str(source)}})
    body = re.sub(r'href="(?:\./)?([\w-]+)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', body)
    tree = parsed(embed.marked(body, stem))
    remove_handlers(tree)
    return tree


@cache
def _exporter() -> _Exporter:
    """One for all pages: what takes it long is to compile its templates."""
    exporter = _Exporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # a progress bar ends as one line
    return exporter


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
        named = f": {controls}" if controls else ""
        data.clear()
        data["text/html"] = (
            f"<p class='widget'>These controls work in Jupyter only{named}. "
            "Here, the picture above shows one setting of them.</p>"
        )
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


def link_pages(folder: Path, titles: Mapping[str, str]) -> None:
    """Give each page in `folder` its links to the one before, the index and the one after, and the player its place.

    Args:
        folder: where the pages are; the player, if there is one, is beside it.
        titles: stem -> title of all notebooks that have a page, in course order.
    """
    shown = {stem: f"{number_of(stem)} · {html.escape(title)}" for stem, title in titles.items()}
    stems = [None, *titles, None]
    for before, stem, after in zip(stems, stems[1:], stems[2:], strict=False):
        left = f'<a rel="prev" href="{before}.html">← {shown[before]}</a>' if before else "<span></span>"
        right = f'<a rel="next" href="{after}.html">{shown[after]} →</a>' if after else "<span></span>"
        places = iter(("", ", at the end"))  # above the text and below it
        inside = f'{left}<a href="../index.html">All notebooks</a>{right}'

        def nav(_: re.Match[str], inside: str = inside, places: Iterator[str] = places) -> str:
            label = f"Notebooks{next(places, '')}"
            return f'<!--nav--><nav class="pager" aria-label="{label}">{inside}</nav><!--/nav-->'

        old = (folder / f"{stem}.html").read_text(encoding="utf-8")
        new = embed.filled(NAVIGATION.sub(nav, old), (folder.parent / embed.FILE).is_file())
        if new != old:
            write_atomic(folder / f"{stem}.html", new)
