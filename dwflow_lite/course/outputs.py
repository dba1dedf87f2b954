"""What stands in the cells of an executed notebook: records, widgets, and what else was displayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import nbformat

from dwflow_lite.course.notebook import RECORD_MIME

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"


def displayed(cells: Sequence[Any], mime: str) -> Iterator[tuple[int, Any]]:
    """(index of the cell, content) of every output of this type."""
    for index, cell in enumerate(cells):
        for output in cell.get("outputs", ()):
            if mime in output.get("data", {}):
                yield index, output["data"][mime]


@dataclass
class Records:
    """What the cells of a notebook recorded, by name; `conflict` complains of a name that has two values."""

    metrics: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, bool] = field(default_factory=dict)
    margins: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    conflict: str | None = None

    def add(self, kind: str, name: str, value: Any) -> None:
        """Keep one value of a kind (metrics, claims or margins)."""
        first = getattr(self, kind).setdefault(name, value)
        if first != value:
            self.conflict = f"'{name}' was recorded as {first!r} and as {value!r}"

    def content(self) -> dict[str, Any]:
        """The part of the report that this is."""
        return {"metrics": self.metrics, "claims": self.claims, "margins": self.margins}


def records(cells: Sequence[Any]) -> Records:
    """All that the cells recorded, in the author's order."""
    collected = Records()
    for _, pairs in displayed(cells, RECORD_MIME):
        for kind in collected.content():
            for name, value in pairs.get(kind, ()):
                collected.add(kind, name, value)
    return collected


def cell_of_broken_claim(cells: Sequence[Any], text: str) -> int | None:
    """Index of the cell that recorded the claim as false."""
    for index, pairs in displayed(cells, RECORD_MIME):
        if [text, False] in pairs.get("claims", ()):
            return index
    return None


def widgets(nb: nbformat.NotebookNode) -> dict[str, Mapping[str, Any]]:
    """Model id -> state of every widget saved in the notebook."""
    saved = nb.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    return {model: content.get("state", {}) for model, content in saved.items()}


def widgets_inside(states: Mapping[str, Mapping[str, Any]], model: str) -> Iterator[str]:
    """The ids of this widget and of all inside it, in the order in which they stand."""
    if model in states:
        yield model
        for child in states[model].get("children", ()):
            yield from widgets_inside(states, child.removeprefix("IPY_MODEL_"))


def cell_showing(nb: nbformat.NotebookNode, model: str | None) -> int | None:
    """Index of the first cell that shows this widget, alone or inside another."""
    states = widgets(nb)
    for index, view in displayed(nb.cells, WIDGET_VIEW):
        if model in widgets_inside(states, view["model_id"]):
            return index
    return None
