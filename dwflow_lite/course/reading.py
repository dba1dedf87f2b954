"""A notebook's file, read so that whatever it holds is either a notebook that can be run or one sentence."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import nbformat
from nbformat.validator import normalize

MADE_BY_A_RUN = ("injected-parameters", "papermill-error-cell-tag")  # tags of cells that papermill adds


class NotebookError(ValueError):
    """The file holds no notebook that could be run; the message says what is wrong, and in which cell."""


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path` as its author wrote it, in the newest format.

    What an earlier run has left in it is taken out: outputs, states of widgets, injected cells. Cells without an id,
    or with that of another, get one.

    Raises NotebookError for a file that is no notebook, in one sentence that names the cell where it is one cell's.
    """
    if not path.is_file():
        raise NotebookError("cannot be read as a notebook: it is no file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        content = json.loads(text, parse_constant=_no_json)
        if not isinstance(content, dict) or not isinstance(content.get("nbformat"), int):
            raise ValueError("it has no 'nbformat'")
        if not isinstance(content.get("metadata", {}), dict):
            raise ValueError("its metadata are no mapping")
        for number, cell in enumerate(content.get("cells", ()), 1):
            if not isinstance(cell, dict) or not isinstance(cell.get("metadata", {}), dict):
                raise ValueError(f"cell {number} is no mapping, or its metadata are none")
        nb = _in_newest_format(text)
    except Exception as error:  # whatever stands in the file; nbformat raises of many kinds
        raise NotebookError(f"cannot be read as a notebook: {_sentence(error)}") from None
    _check_cells(nb)
    nb = _without_traces_of_a_run(nb)
    try:
        nbformat.validate(nb)
    except nbformat.ValidationError as error:
        raise NotebookError(_place(error) + _sentence(error)) from None
    return nb


def _no_json(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which JSON does not know")


def _in_newest_format(text: str) -> nbformat.NotebookNode:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ids that are missing or double, which are mended
        nb = nbformat.v4.upgrade(nbformat.convert(nbformat.reader.reads(text), 4))
        return nbformat.from_dict(normalize(nb)[1])  # formats before 4 are of another class


def _check_cells(nb: nbformat.NotebookNode) -> None:
    """NotebookError where a cell lacks the shape that everything else counts on."""
    for number, cell in enumerate(nb.cells, 1):
        if cell.get("cell_type") not in ("code", "markdown", "raw"):
            raise NotebookError(f"cell {number}: its type '{cell.get('cell_type')}' is not known")
        tags = cell.metadata.get("tags", [])
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise NotebookError(f"cell {number}: its tags are no list of words")


def _without_traces_of_a_run(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take out what a run writes and an author does not: it would pass for this run's."""
    for name in ("widgets", "papermill", "dwflow_run", "language_info"):
        nb.metadata.pop(name, None)
    nb.cells = [cell for cell in nb.cells if not set(MADE_BY_A_RUN) & set(cell.metadata.get("tags", ()))]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
    return nb


def _place(error: nbformat.ValidationError) -> str:
    """ "cell 3: ", if the error is one cell's."""
    path = list(error.absolute_path)
    if path[:1] == ["cells"] and len(path) > 1 and isinstance(path[1], int):
        return f"cell {path[1] + 1}: "
    return ""


def _sentence(error: Exception) -> str:
    """The first line of an error's message, not too long."""
    message = str(getattr(error, "message", error)).strip() or type(error).__name__
    first = message.splitlines()[0]
    return first if len(first) < 200 else first[:200] + " …"


def own_metadata(nb: nbformat.NotebookNode) -> tuple[str, tuple[str, ...], dict[str, float]]:
    """What a notebook says of itself in its metadata: its kernel, the stems that it needs, and its minutes by profile.

    Raises NotebookError for metadata of another shape.
    """
    kernel = nb.metadata.get("kernelspec", {})
    own = nb.metadata.get("dwflow", {})
    if not isinstance(kernel, Mapping) or not isinstance(kernel.get("name", ""), str):
        raise NotebookError("its metadata name no kernel: 'kernelspec' should hold a 'name'")
    if not isinstance(own, Mapping):
        raise NotebookError("its metadata 'dwflow' are no mapping")
    needs = own.get("needs", [])
    if not isinstance(needs, list) or not all(isinstance(stem, str) for stem in needs):
        raise NotebookError("its metadata 'needs' are no list of names of notebooks")
    minutes = own.get("minutes", {})
    if not isinstance(minutes, Mapping) or not all(_is_time(value) for value in minutes.values()):
        raise NotebookError("its metadata 'minutes' do not map profiles to minutes")
    return kernel.get("name", "python3"), tuple(needs), dict(minutes)


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
