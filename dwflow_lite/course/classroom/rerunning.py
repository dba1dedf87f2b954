"""Ask the students' own code again: their exercise cells, in a fresh kernel, with time limits.

This runs code of others with the rights of whoever calls it. It finds scores that are old, or were written by hand; it
is no defence against somebody who writes code to deceive it.
"""

from __future__ import annotations

import ast
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

from dwflow_lite.course.classroom.copying import Copied, checked_in, exercises_of
from dwflow_lite.course.classroom.scores import (
    COPY_FORMAT,
    NOT_YET,
    WRONG,
    Score,
    ScoreError,
    read_scores,
    score_file,
)
from dwflow_lite.course.classroom.students import Class, Student, files_of
from dwflow_lite.course.execute import HONOURED, execute
from dwflow_lite.course.lessons import Lesson
from dwflow_lite.course.paths import COPY, json_text, write_atomic
from dwflow_lite.course.reading import NotebookError, read_notebook
from dwflow_lite.course.watch import Watch

NEVER = "1970-01-01T00:00:00+00:00"
HARMLESS = ("NoMetrics", "StoppedEarly")  # exercises record nothing
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


class Limits(NamedTuple):
    """Seconds that a cell of a student may take, and all exercise cells of one notebook."""

    cell: float = 60.0
    notebook: float = 300.0


def rerun(group: Class, say: Callable[[str], None], limits: Limits = Limits()) -> None:  # noqa: B008 - never changes
    """Replace the scores of a class by those of a run of the students' notebooks now; in place.

    Where a score file said something else, a remark says so. A notebook that is not there leaves the scores as read,
    and is a sentence among the unread.

    Args:
        group: as read from the score files.
        say: told what runs.
        limits: of time.
    """
    for student in group.students:
        notebooks = handed_in(student, group.course)
        for stem, copied in group.course.items():
            if stem in notebooks:
                say(f"{student.name}: {stem}")
                again, trouble = _scores_of(notebooks[stem], stem, copied, limits)
                student.unread += [trouble] if trouble else []
                _compare(student, again)
                student.scores |= again
            elif any(number in student.scores for number in copied.exercises):
                student.unread.append(f"{stem}.ipynb was not handed in: its scores are as the file says")


def _compare(student: Student, again: Mapping[str, Score]) -> None:
    for number, score in again.items():
        before = student.scores.get(number)
        claimed = before.status if before else NOT_YET
        if claimed != score.status:
            student.remarks.append(f"{number} is '{score.status}' when run again; the score file says '{claimed}'")


# -- what a student handed in --------------------------------------------------------------------------------------


def handed_in(student: Student, course: Mapping[str, Copied]) -> dict[str, nbformat.NotebookNode]:
    """Stem -> the student's notebook, found by its exercises, whatever it is called now; the newest file counts."""
    stem_of = {number: stem for stem, copied in course.items() for number in copied.exercises}
    found: dict[str, nbformat.NotebookNode] = {}
    names: dict[str, str] = {}
    for path in sorted(files_of(student, "*.ipynb"), key=lambda path: path.stat().st_mtime, reverse=True):
        name = path.relative_to(student.folder).as_posix()
        try:
            nb = read_notebook(path)
        except NotebookError as error:
            student.unread.append(f"{name} {error}")
            continue
        numbers = [*exercises_of(nb), *(number for cell in _code(nb) for number in checked_in(cell.source))]
        stem = next((stem_of[number] for number in numbers if number in stem_of), None)
        if stem is None:
            continue  # of another notebook than was asked for, or of none
        if stem in found:
            student.remarks.append(f"{name} is one more {stem}: {names[stem]} counts")
            continue
        found[stem], names[stem] = nb, name
    return found


def _code(nb: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def exercise_notebook(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A notebook of what its exercises need: of the cells above them imports and definitions, then all code from the
    first exercise on. Every cell may raise, and the others still run.
    """
    code = _code(nb)
    exercises = [id(cell) for cell in exercises_of(nb).values()]
    first = next((i for i, cell in enumerate(code) if id(cell) in exercises or checked_in(cell.source)), len(code))
    above = [line for cell in code[:first] for line in _definitions(cell.source)]
    sources = ["\n".join(above), *(cell.source for cell in code[first:])]
    may_raise = {"tags": [HONOURED]}
    cells = [nbformat.v4.new_code_cell(source, metadata=may_raise) for source in sources]
    return nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )


def _definitions(source: str) -> list[str]:
    try:
        return [ast.unparse(node) for node in ast.parse(source).body if isinstance(node, DEFINITIONS)]
    except (SyntaxError, ValueError, RecursionError):
        return []


# -- one notebook --------------------------------------------------------------------------------------------------


def _scores_of(nb: nbformat.NotebookNode, stem: str, copied: Copied, limits: Limits) -> tuple[dict[str, Score], str]:
    """The scores of all exercises of a notebook, by running it, and why it could not be run, if so.

    A cell that hangs, or ends the kernel, is wrong; the others are run without it.
    """
    untouched = {cell.source for cell in exercises_of(copied.notebook).values()}
    work = exercise_notebook(nb)
    blamed: dict[str, str] = {}
    kept: Mapping[str, Score] = {}
    trouble = ""
    if not all(cell.source in untouched for cell in work.cells if checked_in(cell.source)):
        for _ in range(len(work.cells)):
            ran, kept, error = _run(work, stem, copied, limits)
            blamed |= {n: f"the cell raised {raised}" for n, raised in _raised(ran).items() if n not in kept}
            if error is None or error["ename"] in HARMLESS:
                break
            if error["cell"] in (None, 1) or error["ename"] == "NotebookTimeout":  # 1: what they import
                trouble = f"{stem} could not be run to its end ({error['evalue']}): what is missing is as the file says"
                break
            cell = work.cells[error["cell"] - 1]
            blamed |= {number: error["evalue"].partition(" (")[0] for number in checked_in(cell.source)}
            cell.source = ""
    nothing = {} if trouble else dict.fromkeys(copied.exercises, Score(NOT_YET, "", 0, NEVER))
    wrong = {number: Score(WRONG, message, 1, NEVER) for number, message in blamed.items()}
    return {**nothing, **wrong, **kept}, trouble


def _run(
    work: nbformat.NotebookNode, stem: str, copied: Copied, limits: Limits
) -> tuple[nbformat.NotebookNode, Mapping[str, Score], dict[str, Any] | None]:
    """One run in a fresh kernel: the notebook as it ran, the scores that check kept, and what ended it early."""
    folder = Path(tempfile.mkdtemp(prefix="dwflow-grade-"))
    try:
        manifest = {stem: {"digest": copied.digest, "exercises": copied.exercises}}
        write_atomic(folder / COPY, json_text({"format": COPY_FORMAT, "notebooks": manifest}))
        path = folder / f"{stem}.ipynb"
        nbformat.write(work, path)
        lesson = Lesson(stem, path, stem, (), {}, {}, "", ())
        ran, findings = execute(
            lesson,
            {},
            folder=folder / "runs",
            artefacts=folder / "artefacts",
            cell_timeout=limits.cell,
            start_watch=lambda: Watch(limits.notebook, lambda label, elapsed: None),
            say=lambda sentence: None,
        )
        try:
            scores = read_scores(score_file(folder, stem)).scores
        except ScoreError:  # nothing was checked
            scores = {}
        return ran, scores, findings["error"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _raised(nb: nbformat.NotebookNode) -> dict[str, str]:
    """Number of each exercise whose cell raised -> the error, on one line."""
    raised = {}
    for cell in _code(nb):
        for output in cell.outputs:
            if output.output_type == "error":
                sentence = " ".join(f"{output.ename}: {output.evalue}".split())[:300]
                raised |= dict.fromkeys(checked_in(cell.source), sentence)
    return raised
