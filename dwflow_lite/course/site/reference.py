"""The reference of the package, read from its sources by griffe: nothing is imported, and no room needs to run."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

import griffe
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonConsoleLexer, PythonLexer

from dwflow_lite.course.site.frame import COURSE, Heading, frame
from dwflow_lite.course.site.maths import markdown_html

PACKAGE = Path(__file__).resolve().parents[2]
TYPED = re.compile(r"^([ \t]*>>> .*(?:\n[ \t]*\S.*)*\n?)", re.MULTILINE)  # to the next empty line
ROLE = re.compile(r":\w+:`~?([^`]+)`")
LABELS = {
    "parameters": "Args",
    "attributes": "Attributes",
    "returns": "Returns",
    "raises": "Raises",
    "yields": "Yields",
}
ROOMS = (
    "tasks", "networks", "zoo", "batchnorm", "training", "symmetry", "compress", "flow", "generate", "auditing", "use",
    "figures", "widgets", "course",
)  # fmt: skip


@cache
def _package() -> Any:
    return griffe.load(PACKAGE.name, search_paths=[str(PACKAGE.parent)], docstring_parser="google")


def _rooms() -> dict[str, Any]:
    return {name: _package().modules[name] for name in ROOMS if name in _package().modules}


@cache
def names(root: str) -> dict[str, str]:
    """Public names -> their address, from a page whose way to the site's folder is `root`; also `room.name`."""
    found: dict[str, str] = {}
    for room, module in _rooms().items():
        for item in _public(module):
            address = f"{root}api/{room}.html#{item.name}"
            found[f"{room}.{item.name}"] = address
            found.setdefault(item.name, address)
    return found


@cache
def reference_pages() -> dict[str, str]:
    """Name of the file in the folder `api` -> page: one for every room, and an index."""
    package, rooms = _package(), _rooms()
    pages = {f"{name}.html": _room_page(room) for name, room in rooms.items()}
    return {"index.html": _index(package, rooms), **pages}


def _index(package: Any, rooms: dict[str, Any]) -> str:
    """The names that a reader has from the package itself, then its rooms."""
    home = {str(name) for name in package.exports}
    listed = {name: [item for item in _public(room) if item.name in home] for name, room in rooms.items()}
    rows = [_row(f"{name}.html", item) for name, items in listed.items() for item in items]
    rooms_rows = [
        f'<tr><td><a href="{name}.html"><code>{room.path}</code></a></td><td>{_text(_first(room))}</td></tr>'
        for name, room in rooms.items()
    ]
    body = (
        f"<h1>Reference of {package.name}</h1>{_text(_docstring(package))}"
        f'<h2 id="names">From <code>{package.name}</code> itself</h2>{_table(rows)}'
        f'<h2 id="rooms">Rooms</h2>{_table(rooms_rows)}'
    )
    return frame(f"Reference · {COURSE}", body, root="../")


def _room_page(room: Any) -> str:
    items = list(_public(room))
    parts = [f"<h1><code>{room.path}</code></h1>", _text(_docstring(room))]
    parts.append(_table([_row("", item) for item in items]))
    for item in items:
        parts += _item(item, item.name, "h2")
    contents = [Heading("h2", item.name, item.name) for item in items]
    return frame(f"{room.path} · {COURSE}", "".join(parts), root="../", contents=contents)


def _table(rows: list[str]) -> str:
    return f'<div class="table" role="group" aria-label="Table"><table><tbody>{"".join(rows)}</tbody></table></div>'


def _public(room: Any) -> Iterator[Any]:
    """What a room shows: the names of its `__all__`, else what is defined in its file without an underscore."""
    if room.exports:
        names = [str(name) for name in room.exports]
    else:
        names = [name for name, member in room.members.items() if not name.startswith("_") and not member.is_alias]
    for name in names:
        item = room[name]
        if item.kind.value == "module" and not item.is_alias:  # a file has the name of what the room takes from it
            item = item[name]
        item = item.final_target if item.is_alias else item
        if item.kind.value in ("class", "function") or item.docstring or item.kind.value == "attribute":
            yield item


def _row(page: str, item: Any) -> str:
    link = f'<a href="{page}#{item.name}"><code>{item.name}</code></a>'
    return f"<tr><td>{link}</td><td>{_text(_first(item))}</td></tr>"


def _item(item: Any, anchor: str, level: str) -> Iterator[str]:
    """A class, a function or a constant: heading, signature, docstring, and the public methods of a class."""
    yield f'<{level} id="{anchor}"><code>{html.escape(anchor)}</code></{level}>'
    yield _code(_signature(item))
    place = item.relative_package_filepath if item.filepath else ""
    yield f'<p class="facts">{html.escape(str(place))}, line {item.lineno}</p>'
    if item.docstring:
        for section in item.docstring.parsed:
            yield _section(section)
    if item.kind.value == "class":
        for name, member in item.members.items():
            is_method = not member.is_alias and member.kind.value == "function"
            if not name.startswith("_") and (is_method or "property" in getattr(member, "labels", ())):
                yield from _item(member, f"{anchor}.{name}", "h3")


def _signature(item: Any) -> str:
    """As it stands in the source, one parameter a line where it is long."""
    if item.kind.value == "class":
        bases = ", ".join(str(base) for base in item.bases)
        head = f"class {item.name}({bases})" if bases else f"class {item.name}"
        init = item.members.get("__init__")
        return head if init is None or init.is_alias else f"{head}\n{_called(item.name, init, skip=1)}"
    if item.kind.value == "attribute":
        if "property" in item.labels:
            return f"{item.name}: {item.annotation}"
        value = str(item.value or "")
        return f"{item.name} = {value}" if value and len(value) < 300 else item.name
    is_bound = item.parent is not None and item.parent.kind.value == "class" and "staticmethod" not in item.labels
    return _called(item.name, item, skip=int(is_bound))


def _called(name: str, function: Any, skip: int) -> str:
    written = []
    starred = False
    for parameter in list(function.parameters)[skip:]:
        kind = parameter.kind.value if parameter.kind else ""
        if kind == "keyword-only" and not starred:
            written.append("*")
        starred = starred or kind in ("keyword-only", "variadic positional")
        stars = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        hint = f": {parameter.annotation}" if parameter.annotation is not None else ""
        equals = " = " if hint else "="
        default = f"{equals}{parameter.default}" if parameter.default is not None and not stars else ""
        written.append(f"{stars}{parameter.name}{hint}{default}")
    returns = f" -> {function.returns}" if function.returns is not None and function.name != "__init__" else ""
    line = f"{name}({', '.join(written)}){returns}"
    if len(line) <= 88:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in written) + f"){returns}"


def _section(section: Any) -> str:
    """One part of a docstring as HTML."""
    kind = section.kind.value
    if kind == "text":
        return _text(section.value)
    if kind == "examples":
        return "".join(_text(text) for _, text in section.value)
    if kind == "admonition":
        return f"<p><b>{html.escape(section.title or '')}</b></p>{_text(section.value.description)}"
    rows = "".join(_definition(element) for element in section.value)
    return f"<p><b>{LABELS.get(kind, kind.capitalize())}</b></p><dl>{rows}</dl>"


def _definition(element: Any) -> str:
    name = getattr(element, "name", "") or getattr(element, "annotation", None) or ""
    says = _text(element.description)
    return f"<dt><code>{html.escape(str(name))}</code></dt><dd>{says}</dd>" if name else f"<dd>{says}</dd>"


def _docstring(item: Any) -> str:
    return item.docstring.value if item.docstring else ""


def _first(item: Any) -> str:
    """The first sentence of a docstring."""
    paragraph = _docstring(item).split("\n\n")[0]
    found = re.match(r".*?[.:](?=\s|$)", paragraph, re.DOTALL)
    return (found[0] if found else paragraph).rstrip(":")


def _text(text: str) -> str:
    """Prose as HTML; in it, what is typed at a prompt and what that answers stands as code."""
    parts = TYPED.split(text)  # prose, typed, prose, …
    return "".join(_console(dedent(part)) if number % 2 else _prose(part) for number, part in enumerate(parts))


def _prose(text: str) -> str:
    return markdown_html(ROLE.sub(r"`\1`", text), formulas=False)


def _code(source: str) -> str:
    return highlight(source, PythonLexer(), HtmlFormatter())


def _console(text: str) -> str:
    return highlight(text, PythonConsoleLexer(), HtmlFormatter())
