"""Where things lie: one helper for every path, so that nothing depends on the folder one starts from."""

from __future__ import annotations

import os
from pathlib import Path


def repository() -> Path:
    """Folder of the checkout that this package was imported from.

    Raises FileNotFoundError if that folder has no `notebooks` and `data` (the package was installed
    by copying instead of with `pip install -e .`).
    """
    folder = Path(__file__).resolve().parents[2]
    for name in ("notebooks", "data"):
        if not (folder / name).is_dir():
            raise FileNotFoundError(
                f"No folder '{name}' beside the package (looked in {folder}). The course runs from a clone "
                "of its repository: install it there with 'python -m pip install -e .' or use 'make course'."
            )
    return folder


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


def write_atomic(path: Path, text: str) -> None:
    """Write `text` so that `path` is either its old self or whole, never half; makes the folder, leaves no draft."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
