"""One notebook through papermill: its own kernel, a watchdog beside it, and a verdict on what came out."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import psutil

from .claims import margins
from .lessons import Lesson, places
from .notebook import RECORD_MIME
from .sweep import KERNEL_MIME

QUIET = "__import__('dwflow_lite.course.sweep').course.sweep.quiet_bars()"
SWEEP = QUIET.replace("quiet_bars", "sweep")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Fault(NamedTuple):
    """Why a notebook failed; `cell` is the index of the cell, None if it is no one cell's."""

    cell: int | None
    ename: str
    evalue: str
    traceback: str = ""


class Watch(threading.Thread):
    """Beside a running notebook: samples memory, keeps the deadline, tells progress, kills the kernel.

    Args:
        limit: seconds the notebook may run.
        tick: called often with (what is running, seconds since the start).
    """

    def __init__(self, limit: float, tick: Callable[[str, float], None]) -> None:
        super().__init__(daemon=True)
        self.limit, self.tick, self.begun = limit, tick, time.monotonic()
        self.labels: list[str] = []  # what to say of each cell
        self.cell: int | None = None
        self.peak_mb = 0.0
        self.reason: str | None = None  # why the kernel was killed: 'timeout' or 'interrupted'
        self._kernel: psutil.Process | None = None
        self._seen: set[psutil.Process] = set()
        self._over = threading.Event()

    def started(self, pid: int) -> None:
        """The kernel process exists now."""
        self._kernel = psutil.Process(pid)
        self._seen.add(self._kernel)
        if self.reason:
            self.kill(self.reason)

    def run(self) -> None:
        """Sample until `finish`."""
        while not self._over.wait(0.2):
            self._sample()
            elapsed = time.monotonic() - self.begun
            if self.reason is None and elapsed > self.limit:
                self.kill("timeout")
            self.tick(self.labels[self.cell or 0], elapsed)

    def _sample(self) -> None:
        """Measure the kernel and its children, and remember them for `kill`."""
        total = 0
        with suppress(psutil.Error):
            self._seen.update(self._kernel.children(recursive=True) if self._kernel else ())
        for process in list(self._seen):
            with suppress(psutil.Error):
                total += process.memory_info().rss
        self.peak_mb = max(self.peak_mb, total / 2**20)

    def kill(self, reason: str | None = None) -> None:
        """End the kernel and every process it started; `reason` is kept for the verdict."""
        self.reason = self.reason or reason
        self._sample()
        for process in list(self._seen):
            with suppress(psutil.Error):
                process.kill()

    def finish(self) -> None:
        """Stop watching; nothing of the kernel outlives this call."""
        self._over.set()
        self.join()
        self.kill()


def kernel_class(env: Mapping[str, str], watch: Watch) -> type:
    """A kernel manager that always starts this very interpreter, whatever kernelspecs are installed."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class CourseKernel(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(**get_kernel_dict())

        async def start_kernel(self, **kw: Any) -> None:
            await super().start_kernel(env={**os.environ, **env}, **kw)
            watch.started(self.provisioner.pid)

    return CourseKernel


def execute(
    lesson: Lesson, parameters: Mapping[str, Any], folder: Path, watch: Watch, artefacts: Path, cell_timeout: float
) -> tuple[nbformat.NotebookNode, dict[str, Any]]:
    """Run a copy of the notebook in an empty scratch folder inside `folder`.

    Args:
        parameters: what papermill injects, already checked.
        artefacts: folder that the notebooks share.
        cell_timeout: seconds one cell may take.

    Returns the notebook as far as it got, without the hidden last cell, and its part of the report.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    given, done, scratch = folder / "given.ipynb", folder / "done.ipynb", folder / "scratch"
    scratch.mkdir(parents=True)
    nb = nbformat.v4.upgrade(nbformat.read(lesson.path, as_version=4))
    watch.labels = [f"cell {i}/{len(nb.cells)}  {name}" for i, name in places(nb.cells)]
    watch.labels = watch.labels[:1] * bool(parameters) + [*watch.labels, "sweeping the widgets"]  # papermill adds one
    nb.cells.append(nbformat.v4.new_code_cell(SWEEP))
    nbformat.write(nb, given)
    packages = str(Path(__file__).resolve().parents[2])
    env = {
        "PYTHONPATH": os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")])),
        "IPYTHONDIR": str(folder / "ipython"),  # no start-up files of whoever runs this
        "TQDM_DISABLE": "1",  # bars are for people: in a run they would fill outputs and widget state
        "GOMP_SPINCOUNT": "1000",  # idle threads sleep soon: two kernels that spin on the same cores stall each other
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "DWFLOW_ARTEFACTS": str(artefacts),
    }
    fault = None
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    watch.start()
    try:
        papermill.execute_notebook(
            str(given),
            str(done),
            parameters=dict(parameters),
            kernel_name="python3",
            language="python",
            progress_bar=False,
            cwd=str(scratch),
            execution_timeout=math.ceil(cell_timeout),
            kernel_manager_class=kernel_class(env, watch),
            shutdown_kernel="immediate",
            extra_arguments=["--IPKernelApp.log_level=40", f"--IPKernelApp.exec_lines={QUIET}"],  # log errors only
            on_cell_start=lambda cell, cell_index: setattr(watch, "cell", cell_index),
        )
    except PapermillExecutionError as error:
        fault = Fault(error.cell_index, error.ename, error.evalue, "\n".join(error.traceback))
    except CellTimeoutError:
        fault = Fault(watch.cell, "CellTimeout", f"the cell ran longer than {cell_timeout:g} s")
    except KeyboardInterrupt:
        watch.reason = "interrupted"
    except (DeadKernelError, RuntimeError) as error:
        died = f"the kernel died (a crash, os._exit or out of memory; {watch.peak_mb:.0f} MB seen): {error}"
        fault = Fault(watch.cell, "KernelDied", died)
    except Exception as error:  # whatever else goes wrong is this notebook's failure, not the course's
        fault = Fault(watch.cell, type(error).__name__, str(error), traceback.format_exc())
    finally:
        watch.finish()
    if watch.reason == "timeout":
        fault = Fault(watch.cell, "NotebookTimeout", f"the notebook ran longer than {watch.limit:g} s")
    nb = nbformat.read(done if done.exists() else given, as_version=4)
    for name in ("input_path", "output_path"):
        nb.metadata.get("papermill", {}).pop(name, None)
    return nb, _findings(nb, fault, watch)


def _findings(nb: nbformat.NotebookNode, fault: Fault | None, watch: Watch) -> dict[str, Any]:
    """What the run showed, for the report; takes the hidden cell and papermill's markers out of `nb`."""
    *nb.cells, hidden = [c for c in nb.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", ())]
    kernel = {k: v for _, facts in _shown([hidden], KERNEL_MIME) for k, v in facts.items()}
    recorded = records(nb.cells)
    if fault is None:
        fault = _judge(nb, finished=bool(kernel))
    elif fault.cell == len(nb.cells):
        fault = fault._replace(cell=_cell_showing(nb, kernel.get("culprit")))
    duration = time.monotonic() - watch.begun - (hidden.metadata.get("papermill", {}).get("duration") or 0.0)
    return {
        "status": "interrupted" if watch.reason == "interrupted" else "failed" if fault else "passed",
        "error": problem(fault, nb.cells) if fault and watch.reason != "interrupted" else None,
        "minutes": round(max(0.0, duration) / 60, 3),
        "peak_mb": round(max(watch.peak_mb, kernel.get("peak_mb", 0.0)), 1),
        **recorded.content(),
        "widgets": {k: kernel.get(k, 0) for k in ("controls", "values")},
        **{k: recorded.metrics.get(k, kernel[k]) for k in ("device", "threads") if k in kernel},
    }


def problem(fault: Fault, cells: Sequence[Any] = ()) -> dict[str, Any]:
    """The report's `error`: the fault, and the author's number, heading and source of its cell."""
    trace = ANSI.sub("", fault.traceback)
    if fault.ename == "WidgetError":  # the callback's own, not the sweep's around it
        trace = trace.split("\nThe above exception was the direct cause")[0]
    at: dict[str, Any] = dict.fromkeys(("cell", "id", "heading", "source"))
    if fault.cell is not None:
        cell = cells[fault.cell]
        at["cell"], at["heading"] = places(cells)[fault.cell]
        at["id"], at["source"] = cell.get("id"), "\n".join(cell.source.splitlines()[:15])
    return {**at, "ename": fault.ename, "evalue": fault.evalue, "traceback": trace}


def _shown(cells: Sequence[Any], mime: str) -> Iterator[tuple[int, Any]]:
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
    """All that the cells recorded."""
    kept = Records()
    for _, recorded in _shown(cells, RECORD_MIME):
        for kind in kept.content():
            for name, value in recorded.get(kind, ()):
                kept.add(kind, name, value)
    return kept


def _judge(nb: nbformat.NotebookNode, finished: bool) -> Fault | None:
    """The fault of a run in which no cell raised, if it has one; `finished` if the hidden cell ran too."""
    if not finished:
        ran = [i for i, c in enumerate(nb.cells) if c.get("execution_count")]
        return Fault(ran[-1] if ran else None, "StoppedEarly", "the notebook ended before its last cell")
    for model, state in widgets(nb).items():
        for output in state.get("outputs", ()):
            if output.get("output_type") == "error":
                said = f"inside a widget: {output['ename']}: {output['evalue']}"
                return Fault(_cell_showing(nb, model), "WidgetError", said, "\n".join(output.get("traceback", ())))
    recorded = records(nb.cells)
    if recorded.conflict:
        return Fault(None, "RecordConflict", recorded.conflict)
    if broken := [text for text, holds in recorded.claims.items() if not holds]:
        where = (i for i, said in _shown(nb.cells, RECORD_MIME) if [broken[0], False] in said.get("claims", ()))
        return Fault(next(where), "ClaimFalse", "; ".join(text + margins(recorded.margins, text) for text in broken))
    if not recorded.metrics:
        return Fault(None, "NoMetrics", "no metric was recorded: a run that shows nothing proves nothing")
    return None


def widgets(nb: nbformat.NotebookNode) -> dict[str, Mapping[str, Any]]:
    """Model id -> state of every widget saved in the notebook."""
    saved = nb.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    return {model: content.get("state", {}) for model, content in saved.items()}


def inside(every: Mapping[str, Mapping[str, Any]], model: str) -> Iterator[str]:
    """The ids of this widget and of all inside it, in the order in which they stand."""
    if model in every:
        yield model
        for child in every[model].get("children", ()):
            yield from inside(every, child.removeprefix("IPY_MODEL_"))


def _cell_showing(nb: nbformat.NotebookNode, model: str | None) -> int | None:
    views, every = _shown(nb.cells, WIDGET_VIEW), widgets(nb)
    return next((i for i, view in views if model in inside(every, view["model_id"])), None)
