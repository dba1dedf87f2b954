"""Executed notebooks as self-contained HTML: no script, font or picture from elsewhere, maths as MathML."""

from __future__ import annotations

import copy
import html
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from pygments.formatters import HtmlFormatter

from .execute import WIDGET_VIEW, shown_widgets
from .notebook import record_table
from .paths import write_atomic
from .report import spent

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

        def inline(found: re.Match[str]) -> str:
            return found[1] + (self._src_to_base64(found[2]) or found[2])

        return re.sub(r"(<img\b[^>]*?\bsrc=[\"'])([^\"']+)", inline, html)


class _Exporter(HTMLExporter):
    @jinja2.pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        cell = context.get("cell", {})
        path = context.get("resources", {}).get("metadata", {}).get("path", "")
        pictures = cell.get("attachments", {})
        renderer = _Renderer(escape=False, embed_images=True, path=path, attachments=pictures)
        return MarkdownWithMath(renderer=renderer).render(source)


class _Foreign(HTMLParser):
    """Collects what a browser would fetch to show the page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Links may point anywhere; all else must be inline."""
        for name, value in attrs if tag != "a" else ():
            fetched = name in ("src", "href", "srcset", "data", "poster", "xlink:href")
            if fetched and value and not value.startswith(("data:", "#")):
                self.found.append(f"<{tag} {name}={value[:120]}>")


def external_resources(page: str) -> list[str]:
    """Everything the page would load from outside itself; empty for a self-contained one."""
    parser = _Foreign()
    parser.feed(page)
    return parser.found + re.findall(r"url\(\s*['\"]?(?!data:|#)[^)]*\)|@import[^;]*;", _styles(page))


def _styles(page: str) -> str:
    return "\n".join(re.findall(r"<style.*?</style>", page, re.DOTALL) + re.findall(r"style=\"[^\"]*\"", page))


def check_formulas(nb: nbformat.NotebookNode) -> None:
    """Raise PageError for a formula in the markdown cells that cannot be shown, before any time is spent."""
    for number, cell in enumerate(nb.cells, 1):
        if cell.cell_type == "markdown":
            try:
                MarkdownWithMath(renderer=_Renderer(escape=False)).render(cell.source)
            except PageError as error:
                raise PageError(f"cell {number}: {error}") from None


def notebook_page(nb: nbformat.NotebookNode, entry: Mapping[str, Any], source: Path) -> str:
    """The page of an executed notebook.

    Args:
        entry: its line of the report (title, stem, minutes, peak_mb, profile, date).
        source: folder that pictures named in markdown are relative to.

    Raises PageError for a formula that cannot be shown and for anything the page would fetch.
    """
    nb = copy.deepcopy(nb)
    heading = entry["title"]
    for cell in nb.cells:
        if cell.cell_type == "markdown" and (found := re.findall(r"^#+ +(.+?) *$", cell.source, re.MULTILINE)):
            heading = found[-1]
        for output in cell.get("outputs", ()):
            _make_still(nb, output, heading)
    exporter = _Exporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # a progress bar ends as one line
    nb.metadata.pop("widgets", None)
    try:
        body, _ = exporter.from_notebook_node(nb, {"metadata": {"path": str(source)}})
    except PageError as error:
        raise PageError(f"{entry['stem']}: {error}") from None
    body = re.sub(r'href="(?:\./)?([\w-]+)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', body)
    facts = [
        spent(entry["minutes"]),
        f"{entry['peak_mb']:.0f} MB at most",
        f"profile {entry['profile']}",
        entry["date"][:10],
    ]
    page = _shell(entry["title"], "".join(f"<span>{html.escape(f)}</span>" for f in facts), body)
    if fetched := external_resources(page):
        raise PageError(f"{entry['stem']}: the page would fetch {', '.join(fetched[:3])}")
    return page


def _make_still(nb: nbformat.NotebookNode, output: Any, heading: str) -> None:
    """Turn an output into what a page can show: no live widget, LaTeX as MathML, every picture described."""
    data = output.get("data", {})
    if WIDGET_VIEW in data:
        widgets = shown_widgets(nb, data[WIDGET_VIEW]["model_id"])
        names = [s.get("description") for _, s in widgets if "value" in s or "index" in s]
        controls = ", ".join(html.escape(n) for n in dict.fromkeys(names) if n) or "controls"
        data.clear()
        data["text/html"] = f"<p class='widget'>Live in Jupyter: {controls}. The picture above is the still.</p>"
    elif "text/latex" in data and "text/html" not in data:
        data["text/html"] = mathml(data["text/latex"].strip().strip("$").removeprefix("\\displaystyle"), "block")
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            output.metadata.setdefault(kind, nbformat.NotebookNode()).setdefault("alt", f"Figure: {heading}")


def _shell(title: str, facts: str, body: str) -> str:
    light = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n{CSS}</style></head>\n"
        f'<body><header><!--nav--><!--/nav--><p class="facts">{facts}</p></header>\n<main>{body}</main>\n'
        "<footer><!--nav--><!--/nav--></footer></body></html>\n"
    )


def link_pages(folder: Path, titles: Mapping[str, str]) -> None:
    """Give every page in `folder` its links to the one before, the index and the one after.

    Args:
        titles: stem -> title of all notebooks, in course order.
    """
    there = [(stem, title) for stem, title in titles.items() if (folder / f"{stem}.html").exists()]
    for i, (stem, _) in enumerate(there):
        around = {j: there[j] for j in (i - 1, i + 1) if 0 <= j < len(there)}
        left, right = (
            f'<a href="{around[j][0]}.html">{html.escape(mark.format(around[j][1]))}</a>'
            if j in around
            else "<span></span>"
            for j, mark in ((i - 1, "← {}"), (i + 1, "{} →"))
        )
        links = f'<!--nav--><nav>{left}<a href="../index.html">All notebooks</a>{right}</nav><!--/nav-->'
        old = (folder / f"{stem}.html").read_text(encoding="utf-8")
        new = NAVIGATION.sub(lambda _, links=links: links, old)
        if new != old:
            write_atomic(folder / f"{stem}.html", new)


def index_page(report: Mapping[str, Any], pages: Sequence[str]) -> str:
    """The index: every notebook with its state, cost, metrics and claims; `pages`: stems that have one."""
    parts = []
    for entry in report["notebooks"]:
        name = html.escape(entry["title"])
        if entry["stem"] in pages:
            name = f'<a href="pages/{entry["stem"]}.html">{name}</a>'
        cost = f"{spent(entry['minutes'])} · {entry['peak_mb']:.0f} MB" if entry.get("minutes") is not None else ""
        stale = ' <span class="badge stale">stale</span>' if entry.get("stale") else ""
        state = f'<span class="badge {entry["status"]}">{entry["status"]}</span>{stale}'
        parts.append(
            f'<section class="lesson"><div class="row"><h2><span class="muted">{entry["stem"][:2]}</span> '
            f'{name}</h2><span><span class="muted">{cost}</span> {state}</span></div>'
        )
        if entry.get("metrics") or entry.get("claims"):
            parts.append(record_table(entry.get("metrics", {}), entry.get("claims", {})))
        if error := entry.get("error"):
            place = f"cell {error['cell']} («{error['heading']}»): " if error.get("cell") else ""
            parts.append(f"<pre>{html.escape(place + error['ename'] + ': ' + error['evalue'])}</pre>")
        if entry.get("blocked_by"):
            parts.append(f'<p class="muted">waits for {html.escape(", ".join(entry["blocked_by"]))}</p>')
        parts.append("</section>")
    versions = "".join(f"<tr><td>{k}</td><td>{html.escape(str(v))}</td></tr>" for k, v in report["versions"].items())
    facts = [f"profile {report['profile']}", report["device"], spent(report["minutes"]), report["date"][:10]]
    body = (
        f"<h1>The course, as it ran</h1>{''.join(parts)}<details><summary>Machine and versions</summary>"
        f"<p>{html.escape(report['platform'])}, {report['threads']} threads</p>"
        f"<table>{versions}</table></details>"
    )
    return _shell("The course, as it ran", "".join(f"<span>{html.escape(str(f))}</span>" for f in facts), body)
