"""What there is to run: the notebooks, their parameters under a profile, and their fingerprints."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

NAME = re.compile(r"\d\d_\w+\.ipynb")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
DEFAULT_PROFILE = "laptop"


class UsageError(Exception):
    """Asked for something that cannot be run; nothing has been executed."""


@dataclass(frozen=True)
class Lesson:
    """One notebook: `defaults` are its parameters, `minutes` its stated minutes by profile."""

    stem: str
    path: Path
    title: str
    needs: tuple[str, ...]
    minutes: Mapping[str, float]
    defaults: Mapping[str, Any]
    digest: str
    problems: tuple[str, ...]


def discover(source: Path) -> list[Lesson]:
    """All notebooks `NN_topic.ipynb` of the folder, in order. Raises UsageError if there are none."""
    files = sorted(p for p in source.glob("*.ipynb") if NAME.fullmatch(p.name)) if source.is_dir() else []
    if not files:
        raise UsageError(f"no notebooks named NN_topic.ipynb in {source}")
    return [_read(path, [p.stem for p in files[:i]]) for i, path in enumerate(files)]


def places(cells: Sequence[Any]) -> list[tuple[int, str]]:
    """For every cell its number in the author's notebook and the heading it stands under.

    The cell that papermill injects has the number of the one above it.
    """
    found, number, heading = [], 0, ""
    for cell in cells:
        number += "injected-parameters" not in cell.metadata.get("tags", ())
        if cell.cell_type == "markdown":
            heading = [heading, *HEADING.findall(cell.source)][-1]
        found.append((number, heading))
    return found


def _read(path: Path, earlier: Sequence[str]) -> Lesson:
    try:
        nb = nbformat.read(path, as_version=4)
    except Exception as error:
        return Lesson(path.stem, path, path.stem, (), {}, {}, "", (f"cannot be read as a notebook: {error}",))
    own = nb.metadata.get("dwflow", {})
    kernel = nb.metadata.get("kernelspec", {}).get("name", "python3")
    wrong = f"asks for the kernel '{kernel}', but the course runs on 'python3': Kernel > Change Kernel > Python 3, save"
    problems = [] if kernel == "python3" else [wrong]
    needs = tuple(own.get("needs", ()))
    problems += [f"needs '{n}', which is no earlier notebook" for n in needs if n not in earlier]
    tagged = [c for c in nb.cells if "parameters" in c.metadata.get("tags", ())]
    defaults: dict[str, Any] = {}
    if [c.cell_type for c in tagged] != ["code"]:
        problems.append(f"must have exactly one code cell tagged 'parameters', has {len(tagged)}")
    else:
        try:
            defaults = literals(tagged[0].source)
        except (SyntaxError, ValueError) as error:
            problems.append(f"cell tagged 'parameters': {error}")
    title = HEADING.search("\n".join(c.source for c in nb.cells if c.cell_type == "markdown"))
    content = digest([(c.cell_type, c.source, list(c.metadata.get("tags", ()))) for c in nb.cells])
    title = title[1] if title else path.stem
    return Lesson(path.stem, path, title, needs, own.get("minutes", {}), defaults, content, tuple(problems))


def literals(source: str) -> dict[str, Any]:
    """Names and values of a cell that holds only `name = literal` lines.

    Raises ValueError or SyntaxError with the offending line: papermill injects below this cell and does not
    run it again, so a value computed in it would keep its default.
    """
    found: dict[str, Any] = {}
    for line in ast.parse(source).body:
        match line:
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                pass
            case _:
                raise ValueError(f"line {line.lineno} is no plain 'name = literal'; put it in the next cell")
        try:
            found[name] = ast.literal_eval(value)
        except ValueError:
            raise ValueError(f"'{name}' is computed, not a literal; derive it in the next cell") from None
    return found


def select(lessons: Sequence[Lesson], wanted: Iterable[str]) -> list[Lesson]:
    """The lessons named by number ('03') or stem, in course order; all if `wanted` is empty."""
    names = {w.removesuffix(".ipynb") for w in wanted}
    chosen = [x for x in lessons if not names or {x.stem, x.stem[:2]} & names]
    if unknown := names - {n for x in chosen for n in (x.stem, x.stem[:2])}:
        there = "\n  ".join(x.stem for x in lessons)
        raise UsageError(f"no notebook {', '.join(sorted(unknown))}; there are:\n  {there}")
    if bad := [f"{x.path.name} {problem}" for x in chosen for problem in x.problems]:
        raise UsageError("\n".join(bad))
    return chosen


def read_profile(path: Path, profile: str, lessons: Sequence[Lesson]) -> dict[str, dict[str, Any]]:
    """Stem -> parameters of `profile` in the YAML file; every profile in it is checked.

    Raises UsageError for bad YAML, an unknown profile, and a notebook or parameter that does not exist.
    """
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path.name} is not valid YAML: {error}") from None
    by_stem = {x.stem: x for x in lessons}
    checked: dict[str, dict[str, dict[str, Any]]] = {DEFAULT_PROFILE: {}}
    try:
        for name, entries in (table or {}).items():
            where = f"{path.name}, profile '{name}'"
            if unknown := [str(stem) for stem in entries or {} if stem not in by_stem]:
                raise UsageError(f"{where}: no notebook '{unknown[0]}'; there are: {', '.join(by_stem)}")
            checked[str(name)] = {stem: fit(by_stem[stem], v or {}, where) for stem, v in (entries or {}).items()}
    except AttributeError:  # no .items()
        raise UsageError(f"{path.name} must map profile -> notebook -> parameter -> value") from None
    if profile not in checked:
        raise UsageError(f"no profile '{profile}' in {path.name}; there are: {', '.join(checked)}")
    return checked[profile]


def fit(lesson: Lesson, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` as the notebook's parameters; UsageError for an unknown name or another type.

    An integer passes for a float, and so does text like 1e-3, which YAML does not read as a number.
    """
    fitted: dict[str, Any] = {}
    where = f"{where}: {lesson.path.name}"
    for name, value in values.items():
        if name not in lesson.defaults:
            raise UsageError(f"{where} has no parameter '{name}'; it has: {', '.join(lesson.defaults) or 'none'}")
        default = lesson.defaults[name]
        if type(default) is float and type(value) in (int, str):
            with suppress(ValueError):
                value = float(value)
        kinds = type(default), type(value)
        if default is not None and kinds[0] is not kinds[1] and kinds != (tuple, list):
            wanted, got = (kind.__name__ for kind in kinds)
            raise UsageError(f"{where}: '{name}' is {wanted} (default {default!r}), but {value!r} is {got}")
        fitted[name] = value
    return fitted


def fingerprints(lessons: Sequence[Lesson], given: Mapping[str, Mapping[str, Any]], code: str) -> dict[str, str]:
    """Stem -> hash of all that a result depends on: notebook, parameters, package and data, and its needs."""
    done: dict[str, str] = {}
    for x in lessons:
        parameters = {**x.defaults, **given.get(x.stem, {})}
        done[x.stem] = digest([x.digest, sorted(parameters.items()), code, [done.get(n) for n in x.needs]])
    return done


def code_digest() -> str:
    """Hash of the package's source and of the data that comes with the repository (not the downloads)."""
    package = Path(__file__).resolve().parents[1]
    data = package.parent / "data"
    skip = {"__pycache__", "MNIST", "FashionMNIST"}
    files = [*package.rglob("*.py"), *(p for p in data.rglob("*") if p.is_file())]
    total = hashlib.sha256()
    for path in sorted(p for p in files if not skip & set(p.parts) and not p.name.startswith(".")):
        total.update(f"{path.relative_to(package.parent)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def digest(thing: Any) -> str:
    """SHA-256 of anything made of JSON's types, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(thing, default=repr, sort_keys=True).encode()).hexdigest()
