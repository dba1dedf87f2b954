"""The student's copy: every notebook without its solutions and hints, and all that the notebooks read.

Who looks for answers finds them all the same: checks, in the package, compute right results, and the course's site and
repository hold the solutions. The copy is there so that nobody reads them by chance.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat

from dwflow_lite import __version__
from dwflow_lite.course.classroom.scores import COPY_FORMAT, order
from dwflow_lite.course.lessons import NAME, digest
from dwflow_lite.course.parameters import UsageError
from dwflow_lite.course.paths import COPY, LEFT, course_root, json_text, write_atomic
from dwflow_lite.course.reading import NotebookError, read_notebook
from dwflow_lite.course.scoreboard.age import code_of, fingerprint

FOLD = re.compile(r"[ \t]*<details\b[^>]*>\s*<summary>(.*?)</summary>.*?</details>[ \t]*\n*", re.DOTALL | re.IGNORECASE)
OPENS = re.compile(r"<details\b", re.IGNORECASE)
TAKEN_OUT = re.compile(r"(?:Hint|Solution|A thought on) \d\d[a-z]?\.\d+")
CHECK = re.compile(r"""\bcheck\(\s*["'](\d\d[a-z]?\.\d+)["']""")
EXERCISES = re.compile(r"^## Exercises", re.MULTILINE)
EXERCISE = "exercise:"  # begins the tag of a stub
OF_THE_COURSE = (".md", ".png", ".safetensors")  # of the files in `data`
SHOWN = 3  # names of files in a complaint

WELCOME = """# Your copy of the course

1. You need Python 3.11 or newer and the package `dwflow-lite`; whoever gave you this says from where it is installed
   (`python -m pip install ...`). If that is `.venv`, write `.venv/bin/python` (Windows: `.venv\\Scripts\\python`) for
   `python` everywhere here. In this folder, `python -m dwflow_lite check` says what is missing.
2. In this folder: `python -m jupyterlab notebooks`. Open a notebook and choose *Run > Run All Cells*: its first lines
   say how long that takes. It reaches its end as it is, and the last cell lists which exercises are right, wrong or not
   yet begun.
3. An exercise is a function with `raise NotImplementedError` in it. Write yours in that place and run its cell: `check`
   says whether it is right, or what was expected and what came. Try as often as you like. After a break, run the cells
   above first (*Run > Run All Above Selected Cell*). A cell that runs on and on: stop it with ■ (*Kernel > Interrupt
   Kernel*), mend your function and run it again. "To think about" has no check: bring your thought along.
4. What `check(...)` in a notebook said last is kept in `notebooks/scores/`, with the number of tries and the time. Save
   your notebooks, and hand in the folder `notebooks` with all that is in it, `scores` too; where only one file can be
   handed in, zip that folder.

Leave the notebooks where they are, beside `dwflow_copy.json`. What they compute goes into `build/`, which can be
deleted; `data/` and `benchmarks/` are read by them.
"""


class Copied(NamedTuple):
    """A notebook as students get it, its digest, the numbers of its exercises in order.

    `code` is the fingerprint of the course's own notebook, by which notebook 12 tells what is old.
    """

    notebook: nbformat.NotebookNode
    digest: str
    exercises: tuple[str, ...]
    code: str = ""


# -- one notebook --------------------------------------------------------------------------------------------------


def student_notebook(nb: nbformat.NotebookNode) -> Copied:
    """A notebook without its hints and solutions, with one cell more, which lists what is left; `nb` stays as it is.

    Everything else is as it was, with its cell ids. Hints, solutions and thoughts are folds, `<details>`, whose
    `<summary>` is `Hint 03.1`, `Solution 03.1` or `A thought on 03.5`; a stub is a code cell tagged `exercise:03.1`.

    Raises NotebookError for what might give an answer away: another fold below "## Exercises", or a stub that does
    not raise NotImplementedError.
    """
    copy = nbformat.from_dict(nb)
    cells = []
    below = False
    for number, cell in enumerate(copy.cells, 1):
        if cell.cell_type == "markdown":
            below = below or EXERCISES.search(cell.source) is not None
            source = _without_answers(cell.source, number, below)
            if cell.source.strip() and not source.strip():
                continue  # it held nothing else
            cell.source = source
        cells.append(cell)
    stubs = exercises_of(copy)
    for exercise, cell in stubs.items():
        if not _is_stub(cell.source, exercise):
            raise NotebookError(
                f"exercise {exercise} is no stub: its cell must raise NotImplementedError and call check"
            )
    numbers = tuple(sorted(stubs, key=order))
    if numbers:
        cells.append(_last_cell(numbers))
    copy.cells = cells
    content = [(cell.cell_type, cell.source, list(cell.metadata.get("tags", ()))) for cell in cells]
    return Copied(copy, digest(content), numbers)


def exercises_of(nb: nbformat.NotebookNode) -> dict[str, nbformat.NotebookNode]:
    """Number of each exercise -> the code cell that is tagged with it."""
    found = {}
    for cell in nb.cells:
        for tag in cell.metadata.get("tags", ()):
            if cell.cell_type == "code" and tag.startswith(EXERCISE):
                found[tag.removeprefix(EXERCISE)] = cell
    return found


def _without_answers(source: str, number: int, below: bool) -> str:
    def replaced(fold: re.Match[str]) -> str:
        summary = " ".join(fold[1].split())
        if below and len(OPENS.findall(fold[0])) > 1:
            raise NotebookError(f"cell {number}: the fold '{summary}' of an exercise has no end, or a fold in it")
        if TAKEN_OUT.fullmatch(summary):
            return ""
        if below:
            known = "'Hint 03.1', 'Solution 03.1' or 'A thought on 03.1'"
            raise NotebookError(f"cell {number}: the fold '{summary}' of an exercise must be called {known}")
        return fold[0]

    left = FOLD.sub(replaced, source)
    if below and OPENS.search(left):
        raise NotebookError(f"cell {number}: a fold of an exercise, <details>, has no end or no <summary>")
    return source if left == source else left.rstrip()


def _is_stub(source: str, exercise: str) -> bool:
    """Whether a cell raises NotImplementedError and calls check with its own number."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return False
    raised = [ast.unparse(node.exc) for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    return raised == ["NotImplementedError"] and exercise in checked_in(source)


def checked_in(source: str) -> list[str]:
    """The numbers of the exercises that a cell checks, by its calls `check("03.1", ...)`; it may be broken Python."""
    return CHECK.findall(source)


def _last_cell(numbers: tuple[str, ...]) -> nbformat.NotebookNode:
    arguments = ", ".join(f'"{number}"' for number in numbers)
    source = f"from dwflow_lite.course.exercises import left\n\nleft({arguments})"
    return nbformat.v4.new_code_cell(source, id="what-is-left", metadata={"tags": [LEFT]})


# -- the folder ----------------------------------------------------------------------------------------------------


def course_notebooks(source: Path) -> dict[str, Copied]:
    """Stem -> the student's copy of every notebook of the course, in order.

    Raises UsageError that names the notebook which cannot be copied, or for a folder without notebooks.
    """
    files = sorted(path for path in source.glob("*.ipynb") if NAME.fullmatch(path.name))
    if not files:
        raise UsageError(f"no notebooks named NN_topic.ipynb in {source}")
    if (source / COPY).exists():
        raise UsageError(
            f"{source} is a student's copy already: solutions and exercises stand in the course's repository"
        )
    copied = {}
    for path in files:
        try:
            one = student_notebook(read_notebook(path))
            code = fingerprint(code_of(path.name, path.read_text(encoding="utf-8")))
            copied[path.stem] = one._replace(code=code)
        except NotebookError as error:
            raise UsageError(f"{path.name}: {error}") from None
    return copied


def write_copy(out: Path | str) -> str:
    """Write the student's copy of the course into an empty or new folder; the same course, byte for byte the same copy.

    A folder that holds a copy already gets what is missing. Where a file differs, nothing is written.

    Returns a sentence for whoever asked for it. Raises UsageError for a folder that holds something else, for a file
    that differs, and where the folder cannot be written.
    """
    if not str(out).strip():
        raise UsageError("OUT names no folder")
    out = Path(out)
    root = course_root()
    copied = course_notebooks(root / "notebooks")
    files = dict(_files(root, copied))
    try:
        _check_place(out, files)
        for name, content in files.items():
            if not (out / name).exists():
                write_atomic(out / name, content)
    except OSError as error:
        raise UsageError(f"cannot write into {out}: {error.strerror or error}") from None
    exercises = sum(len(one.exercises) for one in copied.values())
    size = sum(map(len, files.values())) / 1e6
    return f"{len(copied)} notebooks with {exercises} exercises and what they read, {size:.1f} MB: give away {out}"


def _files(root: Path, copied: dict[str, Copied]) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file of the copy."""
    for stem, one in copied.items():
        yield f"notebooks/{stem}.ipynb", (nbformat.writes(one.notebook).rstrip("\n") + "\n").encode()
    manifest = {
        stem: {"digest": one.digest, "exercises": one.exercises, "code": one.code} for stem, one in copied.items()
    }
    yield (
        f"notebooks/{COPY}",
        json_text({"format": COPY_FORMAT, "version": __version__, "notebooks": manifest}).encode(),
    )
    yield "README.md", WELCOME.encode()
    read = [root / "notebooks" / "profiles.yaml", root / "LICENSE", root / "LICENSE-TEXT"]
    read += [path for path in (root / "data").glob("*") if path.suffix in OF_THE_COURSE]  # a teacher's tables stay
    read += [*(root / "benchmarks").glob("*.py"), *(root / "benchmarks").glob("*.yaml")]
    read += (root / "benchmarks" / "results").glob("*")
    for path in sorted(read):
        if path.is_file() and not path.name.startswith("."):
            yield path.relative_to(root).as_posix(), path.read_bytes()


def _check_place(out: Path, files: dict[str, bytes]) -> None:
    """UsageError unless the files can be written there without the loss of any."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is no folder")
    there = [path.name for path in out.iterdir() if not path.name.startswith(".")] if out.is_dir() else []
    if there and not (out / "notebooks" / COPY).is_file():
        raise UsageError(f"{out} is not empty, and holds no student's copy: name a new folder")
    differ = [name for name, content in files.items() if (out / name).exists() and not _holds(out / name, content)]
    if differ:
        more = f" and {len(differ) - SHOWN} more" if len(differ) > SHOWN else ""
        raise UsageError(
            f"{', '.join(differ[:SHOWN])}{more} in {out} differ from the copy, and may be a student's work: nothing "
            "was written; name a new folder"
        )


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
