"""Is a result older than the code that it names?"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dwflow_lite.course.paths import COPY, repository
from dwflow_lite.course.scoreboard.rows import Row


@lru_cache(maxsize=256)  # many rows name the same files
def fingerprint(text: str) -> str:
    """A digest of what Python code does: without its layout, comments and docstrings.

    It needs no history: whoever has the files can compute it, also where they came without ``.git``.

    Example:
        >>> fingerprint("x = f(1,\\n      2)  # a comment\\n") == fingerprint("x = f(1, 2)\\n")
        True
    """
    return hashlib.sha256(json.dumps(_plain(ast.parse(text))).encode()).hexdigest()[:12]


def _plain(node: object) -> object:
    """A syntax tree as lists and text: without positions and docstrings, nor empty fields (some versions add them)."""
    if isinstance(node, list):
        return [_plain(part) for part in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    is_described = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    if is_described and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    return [type(node).__name__, *([name, _plain(value)] for name, value in fields.items() if value not in (None, []))]


def code_of(file: str, text: str) -> str:
    """The Python code of a file: of a notebook, its code cells."""
    if not file.endswith(".ipynb"):
        return text
    return "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "code")


def fingerprints(files: Sequence[str], root: Path) -> dict[str, str | None]:
    """File -> its fingerprint as it is now; None for a file that is not there.

    A student's copy holds no package: there, files of the package are those installed, and notebooks those copied.
    """
    list_of_copy = root / "notebooks" / COPY
    copied = json.loads(list_of_copy.read_text(encoding="utf-8"))["notebooks"] if list_of_copy.is_file() else {}
    package = Path(__file__).resolve().parents[2]
    found: dict[str, str | None] = {}
    for file in files:
        path = package.parent / file if copied and file.startswith("dwflow_lite/") else root / file
        if copied and Path(file).stem in copied:
            found[file] = copied[Path(file).stem]["code"]
        else:
            found[file] = fingerprint(code_of(file, path.read_text(encoding="utf-8"))) if path.is_file() else None
    return found


def changed_since(then: Mapping[str, str | None], now: Mapping[str, str | None]) -> list[str]:
    """Files that are not what they were: changed, moved here since, or gone.

    Args:
        then: file -> fingerprint when the result was made; None: there was no such file.
        now: the same of today.
    """
    return sorted(file for file in now if now[file] is None or then.get(file) != now[file])


def what_is_old(row: Row, stored: Mapping[str, Any], root: Path | None = None) -> list[str]:
    """Files that a row names and that have changed since its result was made; none if nothing has, or nothing was run.

    A result that is newer than the table is old in itself: the table must be written anew.

    Args:
        row: with the numbers of today's results.
        stored: the rows of ``benchmarks/results/scoreboard.json`` by name.
        root: of the repository; None: of this one.
    """
    root = repository() if root is None else root
    if not row.numbers:
        return []
    entry = stored.get(row.name, {})
    if entry.get("numbers") != row.numbers:
        return [f"benchmarks/results/{row.claim['result']}"]
    return changed_since(entry["code"], fingerprints(row.claim["code"], root))


def is_old(row: Row, stored: Mapping[str, Any], root: Path | None = None) -> bool:
    """Whether anything is; arguments as of :func:`what_is_old`."""
    return bool(what_is_old(row, stored, root))


def read_stored(root: Path | None = None) -> dict[str, Any]:
    """The rows of the table that was written last, by name; none if there is none."""
    root = repository() if root is None else root
    path = root / "benchmarks" / "results" / "scoreboard.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else {}
