"""Where things lie, whatever folder one starts from, and how files are written."""

from __future__ import annotations

import json
import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from dwflow_lite.support.replacing import replace

COPY = "dwflow_copy.json"  # marks the folder of notebooks of a student's copy, and says what is in it
LEFT = "left"  # tag of the cell that a student's copy adds: what is left to do
DRAFT = re.compile(r"\..+\.(\d+)\.(?:draft|partial)")  # of a process, by its number


def number_of(stem: str) -> str:
    """The number of a notebook, with the letter of a second part: "03" of "03_topic", "03b" of "03b_topic"."""
    return stem.partition("_")[0]


def repository() -> Path:
    """Folder of the student's copy in which we stand; else of the checkout that this package was imported from.

    Raises FileNotFoundError if we stand in no student's copy, and the package was installed by copying, not with
    `pip install -e .`.
    """
    copy = student_copy()
    if copy is not None:
        if (copy.parent / "data").is_dir():
            return copy.parent
        raise FileNotFoundError(
            f"The student's copy in {copy.parent} has lost its folder 'data': take it from the copy you were given."
        )
    folder = checkout()
    if folder is not None:
        return folder
    raise FileNotFoundError(
        f"{Path.cwd()} lies in no student's copy of the course (no {COPY} above it): put the notebook back into the "
        "folder 'notebooks' of your copy, and start there. In a clone of the course: install it with 'python -m pip "
        f"install -e .', or use 'make course' (no folders 'notebooks' and 'data' beside the package)."
    )


def checkout() -> Path | None:
    """Folder of the checkout that this package was imported from; None if it was installed by copying."""
    folder = Path(__file__).resolve().parents[2]
    return folder if all((folder / name).is_dir() for name in ("notebooks", "data")) else None


def course_root() -> Path:
    """Where the course itself is: the checkout, also for a teacher who stands in a student's copy; else that copy."""
    return checkout() or repository()


def student_copy() -> Path | None:
    """The notebooks of the student's copy in which we stand: in this folder, one above it, or its `notebooks`.

    The runner, whose kernels stand elsewhere, names its own in the environment variable DWFLOW_COPY.
    """
    named = os.environ.get("DWFLOW_COPY")
    if named and (Path(named) / COPY).is_file():
        return Path(named)
    with suppress(OSError):  # where we stand is gone, or may not be looked at
        here = Path.cwd()
        for folder in (here, *here.parents):
            for place in (folder, folder / "notebooks"):
                if (place / COPY).is_file():
                    return place
    return None


def data_folder() -> Path:
    """The repository's `data` folder."""
    return repository() / "data"


def notebooks_folder() -> Path:
    """The repository's `notebooks` folder."""
    return repository() / "notebooks"


def artefacts() -> Path:
    """Folder for what notebooks make and share (zoos by recipe hash); created if it is not there.

    The runner names it in the environment variable DWFLOW_ARTEFACTS; without it: `build/artefacts`.
    """
    named = os.environ.get("DWFLOW_ARTEFACTS")
    folder = Path(named) if named else repository() / "build" / "artefacts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_atomic(path: Path, text: str | bytes) -> None:
    """Write `text` (or bytes) so that `path` is its old self or whole, never half; makes the folder, leaves no draft.

    Half a character (a lone surrogate, which UTF-8 cannot hold) is written as its escape, which JSON reads back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        if isinstance(text, bytes):
            draft.write_bytes(text)
        else:
            draft.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")  # one digest everywhere
        replace(draft, path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def json_text(thing: Any) -> str:
    """`thing` as a JSON file; NaN and infinities, which JSON does not know, become the text "nan", "inf", "-inf".

    Example:
        >>> print(json_text({"loss": float("nan")}), end="")
        {
         "loss": "nan"
        }
    """
    return json.dumps(_as_json_knows(thing), indent=1, ensure_ascii=False, allow_nan=False, default=repr) + "\n"


def _as_json_knows(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {key: _as_json_knows(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [_as_json_knows(value) for value in thing]
    if isinstance(thing, float) and not math.isfinite(thing):
        return str(thing)
    return thing


def sweep_drafts(folder: Path) -> None:
    """Delete what killed processes have left half-written in `folder`: `.NAME.PID.draft` and `.NAME.PID.partial`.

    The drafts of processes that live are left alone.
    """
    import psutil

    with suppress(OSError):  # there is no such folder, or it may not be read
        for path in folder.iterdir():
            match = DRAFT.fullmatch(path.name)
            if match and not psutil.pid_exists(int(match[1])):
                with suppress(OSError):
                    path.unlink()
