"""One notebook through papermill: its own kernel, a watchdog beside it, and a verdict on what came out."""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import psutil

from .lessons import Lesson
from .notebook import RECORD_MIME
from .sweep import KERNEL_MIME

HIDDEN = "dwflow-hidden"
NOT_OURS = {HIDDEN, "injected-parameters", "papermill-error-cell-tag"}
QUIET = "from dwflow_lite.course.sweep import quiet_bars\n\nquiet_bars()\ndel quiet_bars\n"
SWEEP = "from dwflow_lite.course.sweep import sweep\n\nsweep()"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Watch(threading.Thread):
    """Beside a running notebook: samples memory, keeps the deadline, tells progress, kills the kernel.

    Args:
        limit: seconds the notebook may run.
        tick: called about twice a second with (cell index or None, seconds since the start).
    """

    def __init__(self, limit: float, tick: Callable[[int | None, float], None]) -> None:
        super().__init__(daemon=True)
        self.limit, self.tick = limit, tick
        self.begun = time.monotonic()
        self.cell: int | None = None
        self.peak_mb = 0.0
        self.reason: str | None = None  # why the kernel was killed: 'timeout' or 'interrupted'
        self._kernel: psutil.Process | None = None
        self._seen: dict[int, psutil.Process] = {}
        self._over = threading.Event()

    def started(self, pid: int) -> None:
        """The kernel process exists now."""
        self._kernel = psutil.Process(pid)
        if self.reason:
            self.kill(self.reason)

    def cell_started(self, cell: Any, cell_index: int) -> None:
        """Hook of nbclient: the cell of this index is next."""
        self.cell = cell_index

    def run(self) -> None:
        """Sample until `finish`."""
        turn = 0
        while not self._over.wait(0.2):
            self._sample()
            if self.reason is None and time.monotonic() - self.begun > self.limit:
                self.kill("timeout")
            turn += 1
            if turn % 3 == 0:
                self.tick(self.cell, time.monotonic() - self.begun)

    def _tree(self) -> Iterator[psutil.Process]:
        if self._kernel is not None:
            yield self._kernel
            try:
                yield from self._kernel.children(recursive=True)
            except psutil.Error:
                pass

    def _sample(self) -> None:
        total = 0
        for process in self._tree():
            self._seen[process.pid] = process
            try:
                total += process.memory_info().rss
            except psutil.Error:
                pass
        self.peak_mb = max(self.peak_mb, total / 2**20)

    def kill(self, reason: str | None = None) -> None:
        """End the kernel and every process it started; `reason` is kept for the verdict."""
        self.reason = self.reason or reason
        for process in [*self._tree(), *self._seen.values()]:
            try:
                process.kill()
            except psutil.Error:
                pass

    def finish(self) -> None:
        """Stop watching; nothing of the kernel outlives this call."""
        self._over.set()
        if self.is_alive():
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
    lesson: Lesson,
    parameters: Mapping[str, Any],
    folder: Path,
    watch: Watch,
    env: Mapping[str, str],
    cell_timeout: float,
) -> tuple[nbformat.NotebookNode, dict[str, Any]]:
    """Run a copy of the notebook in an empty scratch folder inside `folder`.

    Args:
        parameters: what papermill injects, already checked.
        env: variables added to the kernel's environment.
        cell_timeout: seconds one cell may take.

    Returns the notebook as far as it got, without the hidden cell, and the findings: `error` (None if all
    is well), `cells`, `seconds`, `slowest`, `metrics`, `claims`, `kernel`.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    startup = folder / "ipython" / "profile_default" / "startup" / "quiet.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(QUIET)
    nb = nbformat.v4.upgrade(nbformat.read(lesson.path, as_version=4))
    nb.cells.append(nbformat.v4.new_code_cell(SWEEP, metadata={"tags": [HIDDEN]}))
    nbformat.write(nb, folder / "given.ipynb")
    packages = str(Path(__file__).resolve().parents[2])
    env = {
        "PYTHONPATH": os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")])),
        "IPYTHONDIR": str(folder / "ipython"),  # no start-up files of whoever runs this
        "TQDM_DISABLE": "1",  # bars are for people: in a run they would fill outputs and widget state
        "GOMP_SPINCOUNT": "1000",  # idle threads sleep soon: two kernels that spin on the same cores stall each other
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        **env,
    }
    fault: tuple[int | None, str, str, list[str]] | None = None
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    watch.start()
    try:
        papermill.execute_notebook(
            str(folder / "given.ipynb"),
            str(folder / "done.ipynb"),
            parameters=dict(parameters),
            kernel_name="python3",
            language="python",
            progress_bar=False,
            cwd=str(scratch),
            execution_timeout=math.ceil(cell_timeout),
            kernel_manager_class=kernel_class(env, watch),
            shutdown_kernel="immediate",
            extra_arguments=["--IPKernelApp.log_level=40"],  # errors only
            on_cell_start=watch.cell_started,
        )
    except PapermillExecutionError as error:
        fault = (error.cell_index, error.ename, error.evalue, error.traceback)
    except CellTimeoutError:
        fault = (watch.cell, "CellTimeout", f"the cell ran longer than {cell_timeout:g} s", [])
    except KeyboardInterrupt:
        watch.reason = "interrupted"
    except (DeadKernelError, RuntimeError) as error:
        died = f"the kernel died (a crash, os._exit or out of memory; {watch.peak_mb:.0f} MB seen): {error}"
        fault = (watch.cell, "KernelDied", died, [])
    except Exception as error:  # whatever else goes wrong is this notebook's failure, not the course's
        fault = (watch.cell, type(error).__name__, str(error), traceback.format_exc().splitlines())
    finally:
        watch.finish()
    if watch.reason == "timeout":
        fault = (watch.cell, "NotebookTimeout", f"the notebook ran longer than {watch.limit:g} s", [])
    done = folder / "done.ipynb"
    nb = nbformat.read(done if done.exists() else folder / "given.ipynb", as_version=4)
    for name in ("input_path", "output_path"):
        nb.metadata.get("papermill", {}).pop(name, None)
    return nb, _findings(nb, fault, watch)


def _findings(nb: nbformat.NotebookNode, fault: Any, watch: Watch) -> dict[str, Any]:
    """What the run showed; takes the hidden and papermill's own cells out of `nb`."""
    nb.cells = [c for c in nb.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", ())]
    where: dict[str, Any] = {}
    headings: dict[int, str] = {}
    heading = ""
    for index, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown" and (found := re.findall(r"^#+ +(.+?) *$", cell.source, re.MULTILINE)):
            heading = found[-1]
        headings[index] = heading
    hidden = next(i for i, c in enumerate(nb.cells) if HIDDEN in c.metadata.get("tags", ()))
    own = [i for i, c in enumerate(nb.cells) if not NOT_OURS & set(c.metadata.get("tags", ()))]

    def locate(index: int | None) -> dict[str, Any]:
        if index is None or index == hidden:
            return {"cell": None, "id": None, "heading": None, "source": None}
        lines = nb.cells[index].source.splitlines()
        number = own.index(index) + 1 if index in own else None
        text = "\n".join(lines[:15] + (["..."] if len(lines) > 15 else []))
        return {"cell": number, "id": nb.cells[index].get("id"), "heading": headings[index], "source": text}

    kernel: dict[str, Any] = {}
    for output in nb.cells[hidden].get("outputs", ()):
        kernel.update(output.get("data", {}).get(KERNEL_MIME, {}))
    metrics, claims, doubled = records(nb.cells[:hidden])
    if fault is None:
        fault = _judge(nb, hidden, kernel, metrics, claims, doubled, watch)
    elif fault[0] == hidden:
        fault = (_cell_showing(nb, kernel.get("culprit")), *fault[1:])
    error = None
    if fault is not None:
        trace = ANSI.sub("", "\n".join(fault[3]))
        if fault[1] == "WidgetError":  # the callback's own, not the sweep's around it
            trace = trace.split("\nThe above exception was the direct cause")[0]
        error = {**locate(fault[0]), "ename": fault[1], "evalue": fault[2], "traceback": trace}
    spent = {i: nb.cells[i].metadata.get("papermill", {}).get("duration") or 0.0 for i in (*own, hidden)}
    slow = sorted(own, key=lambda i: -spent[i])[:3]
    where["slowest"] = [
        {"cell": own.index(i) + 1, "heading": headings[i], "seconds": round(spent[i], 2)}
        for i in slow
        if spent[i] > 0.5
    ]
    del nb.cells[hidden]
    return {
        **where,
        "error": error,
        "cells": len(own),
        "seconds": max(0.0, time.monotonic() - watch.begun - spent[hidden]),
        "peak_mb": round(max(watch.peak_mb, kernel.get("peak_mb", 0.0)), 1),
        "metrics": metrics,
        "claims": claims,
        "kernel": kernel,
    }


def records(cells: list[Any]) -> tuple[dict[str, Any], dict[str, bool], str | None]:
    """All metrics and claims that the cells recorded, and a complaint if one name has two values."""
    metrics: dict[str, Any] = {}
    claims: dict[str, bool] = {}
    doubled = None
    for cell in cells:
        for output in cell.get("outputs", ()):
            said = output.get("data", {}).get(RECORD_MIME, {})
            for kept, new in ((metrics, said.get("metrics", ())), (claims, said.get("claims", ()))):
                for name, value in new:
                    if kept.setdefault(name, value) != value:
                        doubled = f"'{name}' was recorded as {kept[name]!r} and as {value!r}"
    return metrics, claims, doubled


def _judge(
    nb: nbformat.NotebookNode,
    hidden: int,
    kernel: Mapping[str, Any],
    metrics: Mapping[str, Any],
    claims: Mapping[str, bool],
    doubled: str | None,
    watch: Watch,
) -> tuple[int | None, str, str, list[str]] | None:
    """The fault of a run in which no cell raised, if it has one."""
    if "executable" not in kernel:
        counts = [i for i, c in enumerate(nb.cells[:hidden]) if c.get("execution_count")]
        return (counts[-1] if counts else None, "StoppedEarly", "the notebook ended before its last cell", [])
    if kernel.get("executable") != sys.executable:
        return (None, "WrongKernel", "the kernel is another Python than the one running the course", [])
    state = nb.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for model, content in state.items():
        for output in content.get("state", {}).get("outputs", ()):
            if output.get("output_type") == "error":
                said = f"inside a widget: {output['ename']}: {output['evalue']}"
                return (_cell_showing(nb, model), "WidgetError", said, list(output.get("traceback", ())))
    if doubled:
        return (None, "RecordConflict", doubled, [])
    if broken := [text for text, holds in claims.items() if not holds]:
        return (_cell_claiming(nb, broken[0]), "ClaimFalse", "; ".join(broken), [])
    if not metrics:
        return (None, "NoMetrics", "no metric was recorded: a run that shows nothing proves nothing", [])
    return None


def shown_widgets(nb: nbformat.NotebookNode, model: str) -> list[tuple[str, Mapping[str, Any]]]:
    """(model id, state) of the widget and of all inside it, by the widget state saved in the notebook."""
    state = nb.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    found, todo = {}, [model]
    while todo:
        name = todo.pop(0)
        if name in found or name not in state:
            continue
        found[name] = state[name].get("state", {})
        todo += [str(c).removeprefix("IPY_MODEL_") for c in found[name].get("children", ())]
    return list(found.items())


def _cell_showing(nb: nbformat.NotebookNode, model: str | None) -> int | None:
    for index, cell in enumerate(nb.cells):
        for output in cell.get("outputs", ()):
            top = output.get("data", {}).get(WIDGET_VIEW, {}).get("model_id")
            if model and top and model in dict(shown_widgets(nb, top)):
                return index
    return None


def _cell_claiming(nb: nbformat.NotebookNode, claim: str) -> int | None:
    for index, cell in enumerate(nb.cells):
        for output in cell.get("outputs", ()):
            if [claim, False] in output.get("data", {}).get(RECORD_MIME, {}).get("claims", ()):
                return index
    return None
