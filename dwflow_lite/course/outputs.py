"""What stands in the cells of an executed notebook: records, widgets, and what else was displayed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import nbformat

from dwflow_lite.course.claims import Comparison
from dwflow_lite.course.notebook import RECORD_MIME

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
LONGEST_TEXT = 1_000_000  # letters of one output
LONGEST_DATA = 20_000_000


def displayed(cells: Sequence[Any], mime: str) -> Iterator[tuple[int, Any]]:
    """(index of the cell, content) of every output of this type."""
    for index, cell in enumerate(cells):
        for output in cell.get("outputs", ()):
            if mime in output.get("data", {}):
                yield index, output["data"][mime]


@dataclass
class Records:
    """What the cells of a notebook recorded, by name; `conflict` complains of a name that has two values.

    `malformed` complains of a cell that displayed something as a record which `record` did not make, and
    `cell` is the index of the cell that either is about.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, bool] = field(default_factory=dict)
    margins: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    conflict: str | None = None
    malformed: str | None = None
    cell: int | None = None

    def add(self, kind: str, name: str, value: Any, cell: int | None = None) -> None:
        """Keep one value of a kind (metrics, claims or margins)."""
        first = getattr(self, kind).setdefault(name, value)
        if first != value:
            self.conflict = f"'{name}' was recorded as {first!r} and as {value!r}"
            self.cell = cell

    def content(self) -> dict[str, Any]:
        """The part of the report that this is."""
        return {"metrics": self.metrics, "claims": self.claims, "margins": self.margins}


def records(cells: Sequence[Any]) -> Records:
    """All that the cells recorded, in the author's order."""
    collected = Records()
    for index, pairs in displayed(cells, RECORD_MIME):
        if not _is_record(pairs):
            collected.malformed = "what was displayed as a record is none: use record(metrics, claims)"
            collected.cell = index
            continue
        for kind in collected.content():
            for name, value in pairs.get(kind, ()):
                collected.add(kind, name, value, index)
    return collected


def _is_record(pairs: Any) -> bool:
    """Whether something displayed has the shape that `record` gives it, so that a report can hold and show it."""
    if not isinstance(pairs, Mapping) or not all(isinstance(pairs.get(kind, []), list) for kind in RECORDED):
        return False
    for kind, is_valid in RECORDED.items():
        for pair in pairs.get(kind, ()):
            if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str) or not is_valid(pair[1]):
                return False
    return True


def _is_metric(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_claim(value: Any) -> bool:
    return isinstance(value, bool)


def _are_margins(value: Any) -> bool:
    try:
        return bool([Comparison.from_json(content).describe() for content in value])
    except (TypeError, ValueError, KeyError, AttributeError):
        return False


RECORDED = {"metrics": _is_metric, "claims": _is_claim, "margins": _are_margins}


def cell_of_broken_claim(cells: Sequence[Any], text: str) -> int | None:
    """Index of the cell that recorded the claim as false."""
    for index, pairs in displayed(cells, RECORD_MIME):
        if _is_record(pairs) and [text, False] in pairs.get("claims", ()):
            return index
    return None


def widgets(nb: nbformat.NotebookNode) -> dict[str, Mapping[str, Any]]:
    """Model id -> state of every widget saved in the notebook; what has no state of a widget is left out."""
    saved = nb.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    states = {model: content.get("state") for model, content in saved.items()}
    return {model: state for model, state in states.items() if isinstance(state, Mapping)}


def widgets_inside(states: Mapping[str, Mapping[str, Any]], model: str | None) -> list[str]:
    """The ids of this widget and of all inside it, each once, in the order in which they stand."""
    found: list[str] = []
    waiting = [model]
    while waiting:
        current = waiting.pop(0)
        if current not in states or current in found:  # a widget may hold itself
            continue
        found.append(current)
        children = states[current].get("children")
        names = children if isinstance(children, list | tuple) else ()
        waiting = [name.removeprefix("IPY_MODEL_") for name in names if isinstance(name, str)] + waiting
    return found


def cell_showing(nb: nbformat.NotebookNode, model: str | None) -> int | None:
    """Index of the first cell that shows this widget, alone or inside another."""
    states = widgets(nb)
    for index, view in displayed(nb.cells, WIDGET_VIEW):
        if model is not None and model in widgets_inside(states, shown_model(view)):
            return index
    return None


def shown_model(view: Any) -> str | None:
    """The id of the widget that an output shows; None for an output that names none."""
    model = view.get("model_id") if isinstance(view, Mapping) else None
    return model if isinstance(model, str) else None


def shorten(cell: Any) -> None:
    """Cut what is too long to be kept in the outputs of a cell, and say so in its place.

    The kernel bounds what is printed and displayed (see `bounds.py`); this is for what comes by other ways, such as
    the message of an error.
    """
    for output in cell.get("outputs", ()):
        for name in ("text", "evalue"):
            if isinstance(output.get(name), str):
                output[name] = cut(output[name], LONGEST_TEXT)
        if isinstance(output.get("traceback"), list):
            output["traceback"] = [cut(str(line), LONGEST_TEXT) for line in output["traceback"][:1000]]
        for kind, content in output.get("data", {}).items():
            if isinstance(content, str) and len(content) > LONGEST_DATA:
                if kind == "text/plain":
                    output["data"][kind] = cut(content, LONGEST_TEXT)
                else:
                    output["data"] = {"text/plain": f"[{kind} of {len(content):,} letters: too long to be kept]"}
                    break


def cut(text: str, length: int) -> str:
    """The text, or its beginning and how much is missing."""
    return text if len(text) <= length else f"{text[:length]}\n[cut: {len(text) - length:,} more letters]"
