"""What came out of a run: passed or failed, and the cell that is to blame."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import nbformat

from dwflow_lite.course.bounds import CUT_MIME
from dwflow_lite.course.claims import margins
from dwflow_lite.course.lessons import places
from dwflow_lite.course.outputs import cell_of_broken_claim, cell_showing, cut, displayed, records, widgets
from dwflow_lite.course.sweep import KERNEL_MIME
from dwflow_lite.course.watch import Watch

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
ERROR_MARK = "papermill-error-cell-tag"


class Fault(NamedTuple):
    """Why a notebook failed; `cell` is the index of the cell, None if it is no one cell's."""

    cell: int | None
    ename: str
    evalue: str
    traceback: str = ""


def verdict(nb: nbformat.NotebookNode, fault: Fault | None, watch: Watch) -> dict[str, Any]:
    """What a run showed, for the report; takes the hidden last cell out of `nb`.

    Args:
        nb: the executed notebook, as far as it got.
        fault: what ended the run early, if anything did.
        watch: has stood beside the run.
    """
    hidden = nb.cells.pop()
    kernel: dict[str, Any] = {}  # what the hidden cell reported
    for _, facts in displayed([hidden], KERNEL_MIME):
        kernel |= facts if isinstance(facts, dict) else {}
    if fault is None:
        fault = judge(nb, finished=bool(kernel))
    elif fault.cell == len(nb.cells):  # the hidden cell: a widget is to blame
        fault = fault._replace(cell=cell_showing(nb, kernel.get("culprit")))
    interrupted = watch.reason == "interrupted"
    seconds = watch.elapsed - (hidden.metadata.get("papermill", {}).get("duration") or 0.0)
    recorded = records(nb.cells)
    findings = {
        "status": "interrupted" if interrupted else "failed" if fault else "passed",
        "error": problem(fault, nb.cells) if fault and not interrupted else None,
        "minutes": round(max(0.0, seconds) / 60, 3),
        "peak_mb": round(max(watch.peak_mb, kernel.get("peak_mb", 0.0)), 1),
        **recorded.content(),
        "widgets": {name: kernel.get(name, 0) for name in ("controls", "values")},
        "cut": _what_was_cut(nb),
    }
    for name in ("device", "threads"):
        if name in kernel:
            findings[name] = recorded.metrics.get(name, kernel[name])
    return findings


def _what_was_cut(nb: nbformat.NotebookNode) -> list[str]:
    """For every cell that showed more than is kept: which, and how much."""
    numbers = [number for number, _ in places(nb.cells)]
    cuts = displayed(nb.cells, CUT_MIME)
    return [f"cell {numbers[index]} {sentence}" for index, sentence in cuts if isinstance(sentence, str)]


def judge(nb: nbformat.NotebookNode, finished: bool) -> Fault | None:
    """The fault of a run in which no cell raised, if it has one; `finished` if the hidden cell ran too."""
    if not finished:
        run = [index for index, cell in enumerate(nb.cells) if cell.get("execution_count")]
        return Fault(run[-1] if run else None, "StoppedEarly", "the notebook ended before its last cell")
    return _widget_fault(nb) or _record_fault(nb)


def _widget_fault(nb: nbformat.NotebookNode) -> Fault | None:
    """The first error that a widget has caught and shows."""
    for model, state in widgets(nb).items():
        outputs = state.get("outputs")
        for output in outputs if isinstance(outputs, list | tuple) else ():
            if isinstance(output, Mapping) and output.get("output_type") == "error":
                message = f"inside a widget: {output.get('ename')}: {output.get('evalue')}"
                trace = "\n".join(str(line) for line in output.get("traceback", ()))
                return Fault(cell_showing(nb, model), "WidgetError", message, trace)
    return None


def _record_fault(nb: nbformat.NotebookNode) -> Fault | None:
    """What is wrong with the records: two values for one name, a false claim, no metric at all."""
    recorded = records(nb.cells)
    if recorded.malformed:
        return Fault(recorded.cell, "RecordMalformed", recorded.malformed)
    if recorded.conflict:
        return Fault(recorded.cell, "RecordConflict", recorded.conflict)
    broken = [text for text, holds in recorded.claims.items() if not holds]
    if broken:
        sentences = [text + margins(recorded.margins, text) for text in broken]
        return Fault(cell_of_broken_claim(nb.cells, broken[0]), "ClaimFalse", "; ".join(sentences))
    if not recorded.metrics:
        return Fault(None, "NoMetrics", "no metric was recorded: a run that shows nothing proves nothing")
    return None


def problem(fault: Fault, cells: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The report's `error`: the fault, and the author's number, heading and source of its cell."""
    trace = cut(ANSI.sub("", fault.traceback), 50_000)
    if fault.ename == "WidgetError":  # the callback's own, not the sweep's around it
        trace = trace.split("\nThe above exception was the direct cause")[0]
    place: dict[str, Any] = {"cell": None, "id": None, "heading": None, "source": None}
    if fault.cell is not None:
        cell = cells[fault.cell]
        number, heading = places(cells)[fault.cell]
        first_lines = cut("\n".join(cell.source.splitlines()[:15]), 5_000)
        place = {"cell": number, "id": cell.get("id"), "heading": heading, "source": first_lines}
    return {**place, "ename": fault.ename, "evalue": cut(fault.evalue, 5_000), "traceback": trace}
