"""What there is to run: the notebooks, their parameters under a profile, and their fingerprints."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from dwflow_lite.course.parameters import UsageError, fit, literals, objection
from dwflow_lite.course.paths import number_of
from dwflow_lite.course.reading import NotebookError, own_metadata, read_notebook

NAME = re.compile(r"\d\d[a-z]?_\w+\.ipynb")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
DEFAULT_PROFILE = "laptop"


@dataclass(frozen=True)
class Lesson:
    """One notebook: `defaults` are its parameters, `minutes` its stated minutes by profile, `opening` its first text.

    `problems` keep the whole selection from running; with a `fault` this notebook fails, and the others run.
    """

    stem: str
    path: Path
    title: str
    needs: tuple[str, ...]
    minutes: Mapping[str, float]
    defaults: Mapping[str, Any]
    digest: str
    problems: tuple[str, ...]
    fault: str = ""
    opening: str = ""


def discover(source: Path) -> list[Lesson]:
    """All notebooks of the folder in order: 02_topic, 03_topic, its second part 03b_topic, 04_topic.

    Raises UsageError if there are none.
    """
    files = sorted(p for p in source.glob("*.ipynb") if NAME.fullmatch(p.name)) if source.is_dir() else []
    if not files:
        raise UsageError(f"no notebooks named NN_topic.ipynb in {source}")
    return [_read(path, [p.stem for p in files[:i]]) for i, path in enumerate(files)]


def places(cells: Sequence[Any]) -> list[tuple[int, str]]:
    """For every cell its number in the author's notebook and the heading it stands under.

    The cell that papermill injects has the number of the one above it.
    """
    numbered = []
    number = 0
    heading = ""
    for cell in cells:
        if "injected-parameters" not in _tags(cell):
            number += 1
        if cell.cell_type == "markdown":
            headings = HEADING.findall(cell.source)
            if headings:
                heading = headings[-1]
        numbered.append((number, heading))
    return numbered


def _tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", ()))


def _read(path: Path, earlier: Sequence[str]) -> Lesson:
    """The notebook at `path` as a lesson; `earlier` are the stems before it. What is wrong with it is part of it."""
    try:
        nb = read_notebook(path)
        kernel, needs, minutes = own_metadata(nb)
        defaults, parameter_problems = _parameters(nb)
    except NotebookError as error:
        return Lesson(path.stem, path, path.stem, (), {}, {}, digest(str(error)), (), str(error))
    missing = [f"needs '{stem}', which is no earlier notebook" for stem in needs if stem not in earlier]
    texts = [cell.source for cell in nb.cells if cell.cell_type == "markdown"]
    title = HEADING.search("\n".join(texts))
    return Lesson(
        stem=path.stem,
        path=path,
        title=title[1] if title else path.stem,
        needs=needs,
        minutes=minutes,
        defaults=defaults,
        digest=digest([(cell.cell_type, cell.source, _tags(cell)) for cell in nb.cells]),
        problems=(*_kernel_problems(kernel), *missing, *parameter_problems),
        opening=texts[0] if texts else "",
    )


def _kernel_problems(kernel: str) -> list[str]:
    if kernel == "python3":
        return []
    mend = "Kernel > Change Kernel > Python 3, save"
    return [f"asks for the kernel '{kernel}', but the course runs on 'python3': {mend}"]


def _parameters(nb: nbformat.NotebookNode) -> tuple[dict[str, Any], list[str]]:
    """The parameters of a notebook with their defaults, and what is wrong with the cell that sets them.

    Raises NotebookError for a default that no report could hold.
    """
    tagged = [number for number, cell in enumerate(nb.cells, 1) if "parameters" in _tags(cell)]
    if [nb.cells[number - 1].cell_type for number in tagged] != ["code"]:
        return {}, [f"must have exactly one code cell tagged 'parameters', has {len(tagged)}"]
    try:
        defaults = literals(nb.cells[tagged[0] - 1].source)
    except (SyntaxError, ValueError) as error:
        return {}, [f"cell tagged 'parameters': {error}"]
    except (RecursionError, MemoryError):
        raise NotebookError(f"cell {tagged[0]}: too deeply nested to be read") from None
    for name, value in defaults.items():
        reason = objection(value)
        if reason:
            raise NotebookError(f"cell {tagged[0]}: the parameter '{name}' is {reason}")
    return defaults, []


def select(lessons: Sequence[Lesson], names: Iterable[str]) -> list[Lesson]:
    """The lessons named by number ('03', '03b') or stem, in course order; all if there are no names.

    Raises UsageError for a name that no lesson has, and for what is wrong with a lesson selected.
    """
    names = {name.removesuffix(".ipynb") for name in names}
    known = {lesson.stem for lesson in lessons} | {number_of(lesson.stem) for lesson in lessons}
    unknown = names - known
    if unknown:
        stems = "\n  ".join(lesson.stem for lesson in lessons)
        raise UsageError(f"no notebook {', '.join(sorted(unknown))}; there are:\n  {stems}")
    selected = [lesson for lesson in lessons if not names or {lesson.stem, number_of(lesson.stem)} & names]
    problems = [f"{lesson.path.name} {problem}" for lesson in selected for problem in lesson.problems]
    if problems:
        raise UsageError("\n".join(problems))
    return selected


def read_profile(path: Path, profile: str, lessons: Sequence[Lesson]) -> dict[str, dict[str, Any]]:
    """Stem -> parameters of `profile` in the YAML file; every profile in it is checked.

    Raises UsageError for bad YAML, an unknown profile, and a notebook or parameter that does not exist.
    """
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path.name} is not valid YAML: {error}") from None
    checked: dict[str, dict[str, dict[str, Any]]] = {DEFAULT_PROFILE: {}}
    try:
        for name, entries in (table or {}).items():
            checked[str(name)] = _check_profile(entries or {}, lessons, f"{path.name}, profile '{name}'")
    except AttributeError:  # no .items()
        raise UsageError(f"{path.name} must map profile -> notebook -> parameter -> value") from None
    if profile not in checked:
        raise UsageError(f"no profile '{profile}' in {path.name}; there are: {', '.join(checked)}")
    return checked[profile]


def _check_profile(
    entries: Mapping[str, Mapping[str, Any] | None], lessons: Sequence[Lesson], where: str
) -> dict[str, dict[str, Any]]:
    """One profile, stem -> parameters, with values as the notebooks take them; `where` goes into complaints."""
    by_stem = {lesson.stem: lesson for lesson in lessons}
    checked = {}
    for stem, values in entries.items():
        if stem not in by_stem:
            raise UsageError(f"{where}: no notebook '{stem}'; there are: {', '.join(by_stem)}")
        checked[stem] = fit_lesson(by_stem[stem], values or {}, where)
    return checked


def fit_lesson(lesson: Lesson, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` as the notebook's parameters; UsageError for what does not fit. One with a fault takes none."""
    return {} if lesson.fault else fit(lesson.defaults, values, f"{where}: {lesson.path.name}")


def fingerprints(lessons: Sequence[Lesson], parameters: Mapping[str, Mapping[str, Any]], code: str) -> dict[str, str]:
    """Stem -> hash of all that a result depends on: notebook, parameters, package and data, and its needs.

    Args:
        lessons: in course order, needs before what needs them.
        parameters: stem -> those that may differ from the defaults.
        code: hash of package and data.
    """
    hashes: dict[str, str] = {}
    for lesson in lessons:
        values = {**lesson.defaults, **parameters.get(lesson.stem, {})}
        needs = [hashes.get(stem) for stem in lesson.needs]
        hashes[lesson.stem] = digest([lesson.digest, sorted(values.items()), code, needs])
    return hashes


def code_digest() -> str:
    """Hash of the package's source and of the data that comes with the repository.

    Those are files right in the folder of data. Downloads lie in folders of their own, or are packed (``.gz``).
    """
    package = Path(__file__).resolve().parents[1]
    data = package.parent / "data"
    files = [*package.rglob("*.py"), *(path for path in data.glob("*") if path.is_file() and path.suffix != ".gz")]
    total = hashlib.sha256()
    for path in sorted(files):
        if path.name.startswith(".") or "__pycache__" in path.parts:
            continue
        name = f"{path.relative_to(package.parent)}\0"
        total.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def digest(thing: Any) -> str:
    """SHA-256 of anything made of JSON's types, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(thing, default=repr, sort_keys=True).encode()).hexdigest()
