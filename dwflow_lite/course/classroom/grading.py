"""A class's score files: read whatever was handed in, and put it into a table."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from dwflow_lite.course.classroom.copying import Copied, course_notebooks
from dwflow_lite.course.classroom.rerunning import Limits, rerun
from dwflow_lite.course.classroom.scores import FOLDER, NOT_YET, RIGHT, WRONG, Score, ScoreError, read_scores
from dwflow_lite.course.classroom.students import Class, Student, files_of, is_noise
from dwflow_lite.course.parameters import UsageError
from dwflow_lite.course.paths import COPY, course_root, number_of, write_atomic
from dwflow_lite.course.report import say

MARKS = {RIGHT: "✓", WRONG: "✗", NOT_YET: "○", None: "·"}
LEGEND = "✓ right  ✗ wrong  ○ not yet  · not checked"
TABLE = "grades.csv"
HEAD = re.compile(r"student(,\d\d[a-z]?\.\d+)*,right,wrong,not yet")
HANDED_IN_LOOSE = (".json", ".ipynb", ".zip", ".7z", ".rar", ".gz", ".tgz")
FORMULA = tuple("=+-@\t\r")  # with what a cell begins that a spreadsheet would compute
LONGEST_NAME = 24  # of a student, in the table


# -- reading -------------------------------------------------------------------------------------------------------


def read_class(folder: Path, wanted: Sequence[str] = ()) -> Class:
    """Read what a class handed in: a folder with one folder for each student, score files anywhere in it.

    Args:
        folder: of the class.
        wanted: numbers or stems of notebooks; all if empty.

    Raises UsageError where there is no such folder, no student in it, or no such notebook.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}: name the one that holds a folder for each student")
    if any((place / COPY).is_file() for place in (folder, folder / "notebooks")):
        raise UsageError(
            f"{folder} is the copy of one student: put it into a folder of the class, under the student's name"
        )
    course = course_notebooks(course_root() / "notebooks")
    chosen = _selected(course, wanted)
    children = sorted(path for path in _children(folder) if not is_noise(path.name))
    students = [Student(path.name, path) for path in children if path.is_dir()]
    loose = [path for path in children if not path.is_dir() and path.suffix.lower() in HANDED_IN_LOOSE]
    unread = [f"{path.name} lies in no student's folder: {_advice(path)}" for path in loose]
    if not students:
        raise UsageError("\n".join([f"no student's folder in {folder}: it needs one for each student", *unread]))
    group = Class(students, chosen, unread)
    owners: dict[str, str] = {}
    for student in students:
        _read_student(student, course, owners)
        student.scores = {number: score for number, score in student.scores.items() if number in group.exercises}
    return group


def _selected(course: dict[str, Copied], wanted: Sequence[str]) -> dict[str, Copied]:
    names = {name.removesuffix(".ipynb") for name in wanted}
    unknown = names - {name for stem in course for name in (stem, number_of(stem))}
    if unknown:
        raise UsageError(f"no notebook {', '.join(sorted(unknown))}; there are: {', '.join(course)}")
    return {stem: one for stem, one in course.items() if not names or {stem, number_of(stem)} & names}


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror or error}") from None


def _advice(path: Path) -> str:
    packed = path.suffix.lower() not in (".json", ".ipynb")
    return "unpack it into one" if packed else "put it into one"


def _read_student(student: Student, course: Mapping[str, Copied], owners: dict[str, str]) -> None:
    """Read all score files of a student; `owners` maps the content of each file to whose it is."""
    notebook_of = {number: stem for stem, one in course.items() for number in one.exercises}
    files = files_of(student, f"{FOLDER}/*.json")
    if not files:
        packed = [path for kind in ("*.zip", "*.7z", "*.rar", "*.tar.gz") for path in files_of(student, kind)]
        what = f"unpack {packed[0].name} first" if packed else "nothing was checked, or the folder was not handed in"
        student.unread.append(f"no score files ({FOLDER}/*.json): {what}")
    for path in files:
        name = path.relative_to(student.folder).as_posix()
        try:
            read = read_scores(path)
        except ScoreError as error:
            student.unread.append(f"{name} {error}")
            continue
        owner = owners.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), student.name)
        if owner != student.name:
            student.remarks.append(f"{name} is the same file, to the second, as one of {owner}'s")
        known = {number: score for number, score in read.scores.items() if number in notebook_of}
        foreign = sorted(read.scores.keys() - known.keys())
        if foreign:
            student.unread.append(f"{name} names {', '.join(foreign[:3])}, which is no exercise of this course")
        stems = {notebook_of[number] for number in known}
        if any(course[stem].digest != read.digest for stem in stems):
            student.remarks.append(f"{name} was made with another version of {' and '.join(sorted(stems))}")
        _take(student, name, known)


def _take(student: Student, name: str, scores: Mapping[str, Score]) -> None:
    """Add the scores of one file; of two for one exercise the newer counts."""
    double = sorted(scores.keys() & student.scores.keys())
    if double:
        student.remarks.append(f"{name} has {', '.join(double[:3])} once more: the newer counts")
    for number, score in scores.items():
        there = student.scores.get(number)
        if there is None or score.when > there.when:
            student.scores[number] = score


# -- telling -------------------------------------------------------------------------------------------------------


def told(group: Class) -> Iterator[str]:
    """The lines of a report: students and exercises, then each exercise that somebody checked, then all sentences."""
    yield from _table(group)
    yield f"\n{LEGEND}\n"
    checked = {number for student in group.students for number in student.scores}
    for number in group.exercises:
        if number in checked:
            scores = [student.scores[number] for student in group.students if number in student.scores]
            yield _about(number, scores, len(group.students))
    unopened = []
    for stem, one in group.course.items():
        never = [number for number in one.exercises if number not in checked]
        unopened += [f"all of {number_of(stem)}"] if len(never) == len(one.exercises) > 0 else never
    if unopened:
        yield f"checked by nobody: {', '.join(unopened)}"
    sentences = [f"  {student.name}: {one}" for student in group.students for one in student.remarks]
    if sentences:
        yield "\nto look at:"
        yield from sentences
    sentences = [f"  {student.name}: {one}" for student in group.students for one in student.unread]
    sentences += [f"  {one}" for one in group.unread]
    if sentences:
        yield "\nnot read:"
        yield from sentences


def _harmless(line: str) -> str:
    """A line without letters that steer a terminal: names of folders and files are strangers', too."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in line)


def _table(group: Class) -> Iterator[str]:
    named = {student.name: _short(student.name) for student in group.students}
    width = max(len("student"), *map(len, named.values()))
    columns = [(number_of(stem), one.exercises) for stem, one in group.course.items() if one.exercises]
    yield "  ".join([f"{'student':<{width}}", *(f"{head:<{len(numbers)}}" for head, numbers in columns), "right"])
    for student in group.students:
        marks = [
            "".join(MARKS[score.status if (score := student.scores.get(number)) else None] for number in numbers)
            for _, numbers in columns
        ]
        padded = [f"{mark:<{len(head)}}" for mark, (head, _) in zip(marks, columns, strict=True)]
        right = sum(score.status == RIGHT for score in student.scores.values())
        yield "  ".join([f"{named[student.name]:<{width}}", *padded, f"{right} of {len(group.exercises)}"])


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _about(number: str, scores: Sequence[Score], students: int) -> str:
    """One exercise in the class: how many are right, and what was said most often to those who are wrong."""
    counts = Counter(score.status for score in scores)
    line = f"{number}  {counts[RIGHT]} of {students} right"
    if counts[RIGHT]:
        tries = median(score.attempts for score in scores if score.status == RIGHT)
        line += f" (after {tries:g} {'try' if tries == 1 else 'tries'}, at the median)"
    for status in (WRONG, NOT_YET):
        if counts[status]:
            line += f", {counts[status]} {status}"
    messages = [score.message for score in scores if score.status == WRONG]
    if messages:
        alike = Counter(map(_without_numbers, messages))
        kind, times = alike.most_common(1)[0]
        example = next(message for message in messages if _without_numbers(message) == kind)
        line += f"; most often ({times}): {example}"
    return line


def _without_numbers(message: str) -> str:
    """A message without what differs from answer to answer."""
    return re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "#", message)


def write_table(group: Class, path: Path) -> None:
    """Write students and exercises as a CSV file; UsageError where it cannot be written."""
    try:
        write_atomic(path, _csv(group).encode("utf-8-sig"))  # with the mark by which spreadsheets know UTF-8
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def _check_table(path: Path) -> None:
    """UsageError where a table stands that is not ours any more: what a teacher has added would be lost."""
    try:
        first = path.read_text(encoding="utf-8-sig", errors="replace").partition("\n")[0] if path.exists() else ""
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    if first and not HEAD.fullmatch(first.strip()):
        raise UsageError(f"{path} was not written by this command, or has got columns of its own: move it away first")


def _csv(group: Class) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["student", *group.exercises, RIGHT, WRONG, NOT_YET])
    for student in group.students:
        name = f"'{student.name}" if student.name.startswith(FORMULA) else student.name
        statuses = [score.status if (score := student.scores.get(number)) else "" for number in group.exercises]
        writer.writerow([name, *statuses, *(statuses.count(status) for status in (RIGHT, WRONG, NOT_YET))])
    return text.getvalue()


# -- the command ---------------------------------------------------------------------------------------------------


def grade(folder: Path | str, notebooks: Sequence[str] = (), *, again: bool = False, cell_timeout: float = 60.0) -> int:
    """Print how a class stands, and write `grades.csv` into its folder.

    Args:
        folder: with one folder for each student.
        notebooks: numbers or stems; all if empty.
        again: run the exercises of every student again, with the rights of whoever calls this.
        cell_timeout: seconds that one of their cells may take then.

    Returns 0, or 1 if something that was handed in could not be read. Raises UsageError where nothing can be done.
    """
    if not 0 < cell_timeout < math.inf:
        raise UsageError("a timeout is seconds above 0, and finite")
    if not str(folder).strip():
        raise UsageError("FOLDER names no folder: name the one that holds a folder for each student")
    folder = Path(folder)
    table = folder / TABLE
    group = read_class(folder, notebooks)
    _check_table(table)
    if again:
        rerun(group, lambda line: say(sys.stdout, f"{line}\n"), Limits(cell_timeout))
    for line in told(group):
        say(sys.stdout, f"{_harmless(line)}\n")
    write_table(group, table)
    say(sys.stdout, f"\nwritten: {table}\n")
    return 1 if group.unread or any(student.unread for student in group.students) else 0
