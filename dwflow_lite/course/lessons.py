"""What there is to run: the notebooks, their parameters under a profile, and their fingerprints."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

NAME = re.compile(r"\d\d_\w+\.ipynb")
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
    known: list[str] = []
    lessons = []
    for path in files:
        lessons.append(_read(path, known))
        known.append(path.stem)
    return lessons


def _read(path: Path, earlier: Sequence[str]) -> Lesson:
    try:
        nb = nbformat.read(path, as_version=4)
    except Exception as error:
        return Lesson(path.stem, path, path.stem, (), {}, {}, "", (f"cannot be read as a notebook: {error}",))
    problems = []
    own = nb.metadata.get("dwflow", {})
    kernel = nb.metadata.get("kernelspec", {}).get("name", "python3")
    if kernel != "python3":
        problems.append(
            f"asks for the kernel '{kernel}', but the course runs on 'python3'. Open it, choose "
            "Kernel > Change Kernel > Python 3, save (not there: 'python -m ipykernel install --sys-prefix')"
        )
    needs = tuple(own.get("needs", ()))
    problems += [f"needs '{n}', which is no earlier notebook" for n in needs if n not in earlier]
    tagged = [c for c in nb.cells if "parameters" in c.metadata.get("tags", ())]
    defaults: dict[str, Any] = {}
    if len(tagged) != 1 or tagged[0].cell_type != "code":
        problems.append(f"must have exactly one code cell tagged 'parameters', has {len(tagged)}")
    else:
        try:
            defaults = literals(tagged[0].source)
        except ValueError as error:
            problems.append(f"cell tagged 'parameters': {error}")
    text = "\n".join(c.source for c in nb.cells if c.cell_type == "markdown")
    title = re.search(r"^# +(.+?) *$", text, re.MULTILINE)
    cells = [(c.cell_type, c.source, list(c.metadata.get("tags", ()))) for c in nb.cells]
    return Lesson(
        stem=path.stem,
        path=path,
        title=title[1] if title else path.stem,
        needs=needs,
        minutes=own.get("minutes", {}),
        defaults=defaults,
        digest=_hash(cells),
        problems=tuple(problems),
    )


def literals(source: str) -> dict[str, Any]:
    """Names and values of a cell that holds only `name = literal` lines.

    Raises ValueError with the offending line: papermill injects below this cell and does not run it again,
    so a value computed in it would keep its default.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"not plain Python: {error}") from None
    found: dict[str, Any] = {}
    for line in tree.body:
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        simple = isinstance(line, ast.Assign | ast.AnnAssign) and len(targets) == 1
        if not simple or not isinstance(targets[0], ast.Name) or line.value is None:
            raise ValueError(f"line {line.lineno} is no plain 'name = literal'; put it in the next cell")
        name = targets[0].id
        if name in found:
            raise ValueError(f"'{name}' is set twice")
        try:
            found[name] = ast.literal_eval(line.value)
        except ValueError:
            raise ValueError(f"'{name}' is computed, not a literal; derive it in the next cell") from None
    return found


def select(lessons: Sequence[Lesson], wanted: Iterable[str]) -> list[Lesson]:
    """The lessons named by number ('03') or stem, in course order; all if `wanted` is empty."""
    names = [w.removesuffix(".ipynb") for w in wanted]
    exact = {n for n in names if any(n in (x.stem, x.stem[:2]) for x in lessons)}
    if unknown := [n for n in names if n not in exact]:
        there = "\n  ".join(x.stem for x in lessons)
        raise UsageError(f"no notebook {', '.join(unknown)}; there are:\n  {there}")
    chosen = [x for x in lessons if not names or x.stem in exact or x.stem[:2] in exact]
    if bad := [f"{x.path.name} {problem}" for x in chosen for problem in x.problems]:
        raise UsageError("\n".join(bad))
    return chosen


def read_profile(path: Path, profile: str, lessons: Sequence[Lesson]) -> dict[str, dict[str, Any]]:
    """Stem -> parameters of `profile` in the YAML file; every profile in it is checked.

    Raises UsageError for bad YAML, an unknown profile, and a notebook or parameter that does not exist.
    """
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    except yaml.YAMLError as error:
        raise UsageError(f"{path.name} is not valid YAML: {error}") from None
    table = {} if table is None else table
    if not isinstance(table, dict) or not all(isinstance(v, dict | None) for v in table.values()):
        raise UsageError(f"{path.name} must map profile -> notebook -> parameter -> value")
    by_stem = {x.stem: x for x in lessons}
    checked: dict[str, dict[str, dict[str, Any]]] = {DEFAULT_PROFILE: {}}
    for name, entries in table.items():
        checked[str(name)] = {}
        for stem, values in (entries or {}).items():
            where = f"{path.name}, profile '{name}'"
            if stem not in by_stem:
                raise UsageError(f"{where}: no notebook '{stem}'; there are: {', '.join(by_stem)}")
            if not isinstance(values, dict | None):
                raise UsageError(f"{where}: '{stem}' must map parameter -> value")
            checked[str(name)][stem] = fit(by_stem[stem], values or {}, where)
    if profile not in checked:
        raise UsageError(f"no profile '{profile}' in {path.name}; there are: {', '.join(checked)}")
    return checked[profile]


def fit(lesson: Lesson, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` as the notebook's parameters; UsageError for an unknown name or another type.

    An integer passes for a float, and so does text like 1e-3, which YAML does not read as a number.
    """
    fitted: dict[str, Any] = {}
    for name, value in values.items():
        if name not in lesson.defaults:
            raise UsageError(
                f"{where}: {lesson.path.name} has no parameter '{name}'; it has: {', '.join(lesson.defaults) or 'none'}"
            )
        default = lesson.defaults[name]
        if isinstance(default, float) and isinstance(value, int | str) and not isinstance(value, bool):
            try:
                value = float(value)
            except ValueError:
                pass
        same = type(value) is type(default) or (isinstance(default, tuple) and isinstance(value, list))
        if default is not None and not same:
            raise UsageError(
                f"{where}: {lesson.path.name}: '{name}' is {type(default).__name__} (default {default!r}), "
                f"but {value!r} is {type(value).__name__}"
            )
        fitted[name] = value
    return fitted


def fingerprints(lessons: Sequence[Lesson], given: Mapping[str, Mapping[str, Any]], code: str) -> dict[str, str]:
    """Stem -> hash of all that a result depends on: notebook, parameters, package and data, and its needs."""
    done: dict[str, str] = {}
    for x in lessons:
        parameters = {**x.defaults, **given.get(x.stem, {})}
        done[x.stem] = _hash([x.digest, sorted(parameters.items()), code, [done.get(n) for n in x.needs]])
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


def _hash(thing: Any) -> str:
    return hashlib.sha256(json.dumps(thing, default=repr, sort_keys=True).encode()).hexdigest()
