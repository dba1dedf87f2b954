"""One notebook through papermill, in a kernel of its own; once more in a fresh one if that failed, not the notebook."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat

from dwflow_lite.course.lessons import Lesson, places
from dwflow_lite.course.outputs import shorten
from dwflow_lite.course.paths import COPY
from dwflow_lite.course.reading import read_notebook
from dwflow_lite.course.verdict import ERROR_MARK, Fault, verdict
from dwflow_lite.course.watch import Watch

PREPARE = "__import__('dwflow_lite.course.sweep').course.sweep.prepare()"
SWEEP = PREPARE.replace("prepare", "sweep")
KERNEL_OPTIONS = [
    "--IPKernelApp.log_level=40",  # errors only
    f"--IPKernelApp.exec_lines={PREPARE}",
    "--HistoryManager.hist_file=:memory:",  # nothing to write, nothing that a full disk could stop
]
NEVER_STARTED = "the kernel died before the first cell"  # two that start at once may choose the same port
ROOM = 2**18  # bytes that a kernel needs on the disk
HONOURED = "raises-exception"  # the one tag by which an author says that a cell may raise


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
    """Run a copy of the notebook, in an empty scratch folder; twice if an answer gets lost or the kernel never starts.

    Args:
        lesson: the notebook.
        parameters: what papermill injects, already checked.
        folder: for the scratch folders.
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
    elif fault is not None and fault.ename == "KernelDied" and fault.cell is None:
        repeated = NEVER_STARTED
    if repeated:
        say(f"{repeated}; once more in a fresh kernel")
        watch = start_watch()
        nb, fault = _attempt(lesson, parameters, folder, artefacts, cell_timeout, watch)
    findings = verdict(nb, fault, watch)
    return nb, {**findings, "attempts": 2 if repeated else 1, "repeated": repeated}


def _attempt(
    lesson: Lesson, parameters: Mapping[str, Any], folder: Path, artefacts: Path, cell_timeout: float, watch: Watch
) -> tuple[nbformat.NotebookNode, Fault | None]:
    """The notebook as far as it got, still with the hidden last cell, and what ended it early, if anything did."""
    folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=folder))  # another one each time: what a notebook left may be undeletable
    scratch = place / "scratch"
    scratch.mkdir()
    _check_room(place)
    nb = read_notebook(lesson.path)
    watch.labels = _labels(nb, injected=bool(parameters))
    nb.cells.append(nbformat.v4.new_code_cell(SWEEP))

    from dwflow_lite.course.kernel import kernel_class  # takes time to import

    options = {
        "parameters": dict(parameters),
        "cwd": str(scratch),
        "execution_timeout": math.ceil(cell_timeout),
        "kernel_manager_class": kernel_class(_environment(place, artefacts, lesson.path.parent), watch),
    }
    watch.start()
    try:
        nb, fault = _run_papermill(nb, options, watch)
    finally:
        watch.finish()
    if watch.reason == "timeout":
        fault = Fault(watch.cell, "NotebookTimeout", f"the notebook ran longer than {watch.limit:g} s")
    if watch.reason == "lost":
        fault = Fault(watch.cell, "AnswerLost", f"papermill waits for this cell in vain, twice in a row: {watch.loss}")
    nb.cells = [cell for cell in nb.cells if ERROR_MARK not in cell.metadata.get("tags", ())]
    for name in ("input_path", "output_path"):
        nb.metadata.get("papermill", {}).pop(name, None)
    for cell in nb.cells:
        shorten(cell)
    return nb, fault


def _check_room(place: Path) -> None:
    """OSError if there is no room for the little that a kernel writes: it would die as it starts, and not say why."""
    probe = place / "probe"
    probe.write_bytes(bytes(ROOM))
    probe.unlink()


def _labels(nb: nbformat.NotebookNode, injected: bool) -> list[str]:
    """What progress says of each cell that papermill runs: its number, the heading above it."""
    labels = [f"cell {number}/{len(nb.cells)}  {heading}" for number, heading in places(nb.cells)]
    labels.append("sweeping the widgets")
    if injected:  # papermill adds a cell with the parameters, somewhere behind the first
        labels.insert(0, labels[0])
    return labels


def _environment(place: Path, artefacts: Path, source: Path) -> dict[str, str]:
    """Environment variables of the kernel, over those of this process."""
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "IPYTHONDIR": str(place / "ipython"),  # no start-up files of whoever runs this
        "TQDM_DISABLE": "1",  # bars are for people: in a run they would fill outputs and widget state
        "GOMP_SPINCOUNT": "1000",  # idle threads sleep soon: two kernels that spin on the same cores stall each other
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "DWFLOW_ARTEFACTS": str(artefacts),
        "DWFLOW_COPY": str(source.resolve()) if (source / COPY).is_file() else "",  # wherever the kernel stands
    }


def _run_papermill(
    nb: nbformat.NotebookNode, options: Mapping[str, Any], watch: Watch
) -> tuple[nbformat.NotebookNode, Fault | None]:
    """Execute a notebook; what came of it, and what ended it early. The watch is told of an interruption."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from dwflow_lite.course.engine import ENGINE, WAIT_FOR_OUTPUTS

    def cell_started(cell: nbformat.NotebookNode, cell_index: int) -> None:
        watch.cell_starts(cell_index)

    for name in ("papermill", "asyncio"):  # of a kernel that was killed, asyncio would print what nobody asked for
        logging.getLogger(name).setLevel(logging.CRITICAL)
    kept = [nb]  # papermill's own copy comes last
    fault = None
    try:
        papermill.execute_notebook(
            nb,
            None,
            engine_name=ENGINE,
            keep=kept,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            shutdown_kernel="immediate",
            extra_arguments=KERNEL_OPTIONS,
            on_cell_start=cell_started,
            **options,
        )
    except PapermillExecutionError as error:
        fault = Fault(error.cell_index, error.ename, error.evalue, "\n".join(error.traceback))
        if _may_raise(kept[-1], error.cell_index):  # papermill names the last cell that raised: so might all others
            fault = None
    except CellTimeoutError:
        limit = options["execution_timeout"]
        fault = Fault(watch.cell, "CellTimeout", f"the cell ran longer than {limit:g} s")
        if watch.cell_elapsed < limit:  # nbclient ends both waits by the same error
            late = f"{WAIT_FOR_OUTPUTS} s after its end the outputs of the cell had not all come in"
            fault = Fault(watch.cell, "OutputsLate", f"{late}: it shows more than the runner can take")
    except KeyboardInterrupt:
        watch.reason = "interrupted"
    except (DeadKernelError, RuntimeError) as error:
        reason = f"the kernel died (a crash, os._exit or out of memory; {watch.peak_mb:.0f} MB seen): {error}"
        fault = Fault(watch.cell, "KernelDied", reason)
    except Exception as error:  # whatever else goes wrong is this notebook's failure, not the course's
        fault = Fault(watch.cell, type(error).__name__, str(error), traceback.format_exc())
    return kept[-1], fault


def _may_raise(nb: nbformat.NotebookNode, index: int) -> bool:
    """Whether the cell is tagged raises-exception; `index` counts without the marks that papermill adds."""
    cells = [cell for cell in nb.cells if ERROR_MARK not in cell.metadata.get("tags", ())]
    return HONOURED in cells[index].metadata.get("tags", ())
