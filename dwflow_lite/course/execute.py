"""One notebook through papermill, in a kernel of its own; once more in a fresh one if an answer gets lost."""

from __future__ import annotations

import logging
import math
import os
import shutil
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat

from dwflow_lite.course.lessons import Lesson, places
from dwflow_lite.course.verdict import Fault, verdict
from dwflow_lite.course.watch import Watch

QUIET = "__import__('dwflow_lite.course.sweep').course.sweep.quiet_bars()"
SWEEP = QUIET.replace("quiet_bars", "sweep")


def execute(
    lesson: Lesson,
    parameters: Mapping[str, Any],
    *,
    folder: Path,
    artefacts: Path,
    cell_timeout: float,
    start_watch: Callable[[], Watch],
    say: Callable[[str], None],
) -> tuple[nbformat.NotebookNode, dict[str, Any]]:
    """Run a copy of the notebook, in an empty scratch folder; twice if an answer of the kernel gets lost.

    Args:
        lesson: the notebook.
        parameters: what papermill injects, already checked.
        folder: for the copy and the scratch folder; it does not exist yet.
        artefacts: folder that the notebooks share.
        cell_timeout: seconds one cell may take.
        start_watch: makes the watch of an attempt.
        say: told, in a sentence, why there is a second attempt.

    Returns the notebook as far as it got, without the hidden last cell, and its part of the report.
    """
    watch = start_watch()
    nb, fault = _attempt(lesson, parameters, folder, artefacts, cell_timeout, watch)
    repeated = None
    if watch.reason == "lost":
        repeated = f"{watch.label()}: {watch.loss}"
        say(f"{repeated}; once more in a fresh kernel")
        shutil.rmtree(folder)
        watch = start_watch()
        nb, fault = _attempt(lesson, parameters, folder, artefacts, cell_timeout, watch)
    findings = verdict(nb, fault, watch)
    return nb, {**findings, "attempts": 2 if repeated else 1, "repeated": repeated}


def _attempt(
    lesson: Lesson, parameters: Mapping[str, Any], folder: Path, artefacts: Path, cell_timeout: float, watch: Watch
) -> tuple[nbformat.NotebookNode, Fault | None]:
    """The notebook as far as it got, still with the hidden last cell, and what ended it early, if anything did."""
    source = folder / "source.ipynb"
    target = folder / "target.ipynb"
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    nb = nbformat.v4.upgrade(nbformat.read(lesson.path, as_version=4))
    watch.labels = _labels(nb, injected=bool(parameters))
    nb.cells.append(nbformat.v4.new_code_cell(SWEEP))
    nbformat.write(nb, source)

    from dwflow_lite.course.kernel import kernel_class  # takes time to import

    options = {
        "parameters": dict(parameters),
        "cwd": str(scratch),
        "execution_timeout": math.ceil(cell_timeout),
        "kernel_manager_class": kernel_class(_environment(folder, artefacts), watch),
    }
    watch.start()
    try:
        fault = _run_papermill(source, target, options, watch)
    finally:
        watch.finish()
    if watch.reason == "timeout":
        fault = Fault(watch.cell, "NotebookTimeout", f"the notebook ran longer than {watch.limit:g} s")
    if watch.reason == "lost":
        fault = Fault(watch.cell, "AnswerLost", f"papermill waits for this cell in vain, twice in a row: {watch.loss}")
    nb = nbformat.read(target if target.exists() else source, as_version=4)
    for name in ("input_path", "output_path"):
        nb.metadata.get("papermill", {}).pop(name, None)
    return nb, fault


def _labels(nb: nbformat.NotebookNode, injected: bool) -> list[str]:
    """What progress says of each cell that papermill runs: its number, the heading above it."""
    labels = [f"cell {number}/{len(nb.cells)}  {heading}" for number, heading in places(nb.cells)]
    labels.append("sweeping the widgets")
    if injected:  # papermill adds a cell with the parameters, somewhere behind the first
        labels.insert(0, labels[0])
    return labels


def _environment(folder: Path, artefacts: Path) -> dict[str, str]:
    """Environment variables of the kernel, over those of this process."""
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "IPYTHONDIR": str(folder / "ipython"),  # no start-up files of whoever runs this
        "TQDM_DISABLE": "1",  # bars are for people: in a run they would fill outputs and widget state
        "GOMP_SPINCOUNT": "1000",  # idle threads sleep soon: two kernels that spin on the same cores stall each other
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "DWFLOW_ARTEFACTS": str(artefacts),
    }


def _run_papermill(source: Path, target: Path, options: Mapping[str, Any], watch: Watch) -> Fault | None:
    """Execute `source` into `target`; what ended it early, if anything did. An interruption goes to the watch."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    def cell_started(cell: nbformat.NotebookNode, cell_index: int) -> None:
        watch.cell = cell_index

    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    try:
        papermill.execute_notebook(
            str(source),
            str(target),
            kernel_name="python3",
            language="python",
            progress_bar=False,
            shutdown_kernel="immediate",
            extra_arguments=["--IPKernelApp.log_level=40", f"--IPKernelApp.exec_lines={QUIET}"],  # log errors only
            on_cell_start=cell_started,
            **options,
        )
    except PapermillExecutionError as error:
        return Fault(error.cell_index, error.ename, error.evalue, "\n".join(error.traceback))
    except CellTimeoutError:
        return Fault(watch.cell, "CellTimeout", f"the cell ran longer than {options['execution_timeout']:g} s")
    except KeyboardInterrupt:
        watch.reason = "interrupted"
    except (DeadKernelError, RuntimeError) as error:
        reason = f"the kernel died (a crash, os._exit or out of memory; {watch.peak_mb:.0f} MB seen): {error}"
        return Fault(watch.cell, "KernelDied", reason)
    except Exception as error:  # whatever else goes wrong is this notebook's failure, not the course's
        return Fault(watch.cell, type(error).__name__, str(error), traceback.format_exc())
    return None
