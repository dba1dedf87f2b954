"""A zoo on disk: one file that is written at once, or a folder that is written member after member.

The file holds the weights (N, d) and, as bytes, the constants that all networks share. Its metadata are its format,
the version that wrote it, the record as JSON (with the layout, who is held out, and a hash of each constant), and a
hash of weights and record. What a folder holds is told in ``storage.py``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor

from dwflow_lite.networks.constants import keys_of, packed, unpacked
from dwflow_lite.support.checks import failing_as, is_whole
from dwflow_lite.support.files import ZooFileError, digest, read_safetensors, understood, write_safetensors
from dwflow_lite.support.paths import check_writable
from dwflow_lite.zoo.columns import rows_of_columns
from dwflow_lite.zoo.header import read_constants
from dwflow_lite.zoo.layout import Layout
from dwflow_lite.zoo.record import cut_stages, folder_header, join_record, record_text, split_record
from dwflow_lite.zoo.storage import (
    STORAGE,
    Shards,
    append,
    check_finite,
    check_storage,
    read_folder,
    start_folder,
    writing,
)

FORMAT = "dwflow_lite.zoo/1"
# Weights on their way to a folder: a matrix (N, d); its rows in order, some at a time; or blocks of its columns.
Writable = Tensor | Shards | Iterable[Tensor] | Iterable[tuple[slice, Tensor]]
MISSING_NAMED = 20  # of the members that a folder lacks, how many are named
ROUNDING = 1e-2  # relative to the largest weight: bfloat16 keeps eight binary digits


class SavedZoo(NamedTuple):
    """What a file or a folder says of a zoo; of the template of its networks, only the constants are in it."""

    weights: Tensor | Shards
    layout: Layout
    record: dict[str, Any]
    held_out: tuple[bool, ...]
    constants: dict[str, Tensor]


# -- one file ----------------------------------------------------------------------------------------------------


def write_file(
    path: Path,
    weights: Tensor | Shards,
    layout: Layout,
    constants: Mapping[str, Tensor],
    record: Mapping[str, Any],
    held_out: Sequence[bool],
    storage: str,
) -> None:
    """Write a zoo to one safetensors file, whole or not at all; arguments and errors as of :meth:`Zoo.save`."""
    check_storage(storage)
    if isinstance(weights, Shards):
        check_writable(path)
        _check_memory(path, weights)
        weights = weights.columns(slice(None))
    weights = weights.detach().cpu().contiguous()
    if storage == "bfloat16":
        weights = weights.to(STORAGE[storage])
        check_finite(weights)
    content = dict(record) | {"layout": layout.to_json(), "held_out": list(held_out)}
    if constants:
        content["constants"] = keys_of(constants)
    text = record_text(content)
    metadata = {"format": FORMAT, "record": text, "sha256": digest(weights, text)}
    write_safetensors({"weights": weights} | packed(constants), path, metadata)


def _check_memory(path: Path, weights: Shards) -> None:
    """``MemoryError`` unless weights fit in memory twice: as numbers, and as the bytes that are written."""
    members, size = weights.shape
    needed = 2 * members * size * weights.dtype.itemsize
    free = psutil.virtual_memory().available
    if needed > free:
        raise MemoryError(
            f"cannot write {path}: a file is written at once, which takes {needed / 1e9:.1f} GB of memory for the zoo "
            f"in {weights.folder}, and {free / 1e9:.1f} GB are free; save it to a folder, a name without a suffix"
        )


def read_file(path: Path) -> SavedZoo:
    """Read a file of :func:`write_file` and verify it; errors as of :meth:`Zoo.load`.

    Raises:
        ZooFileError: it was altered, or does not say what such a file says.
    """
    tensors, metadata = read_safetensors(path, FORMAT)
    weights = tensors.get("weights")
    text = metadata.get("record", "")
    if weights is None or metadata.get("sha256") != digest(weights, text):
        raise ZooFileError(f"{path} was altered after it was written (its hash does not match): delete it")
    with understood(path):
        record = dict(json.loads(text))
        layout = _layout_of(record.pop("layout"), weights)
        held_out = tuple(record.pop("held_out"))
        if len(held_out) != len(weights) or not all(isinstance(held, bool) for held in held_out):
            raise ValueError(f"held_out is no list of {len(weights)} times true or false")
    with failing_as(f"{path} was altered after it was written: delete it", ZooFileError):
        constants = unpacked(tensors, record.pop("constants", {}))
    if weights.dtype == torch.bfloat16 and layout.entries[0].dtype != "bfloat16":
        weights = weights.float()  # networks of another precision, rounded when they were saved
    return SavedZoo(weights, layout, record, held_out, constants)


def _layout_of(items: Any, weights: Tensor | Shards) -> Layout:
    """The layout that a file describes; ``ValueError`` unless its tensors are as large as the rows (N, d) beside it."""
    layout = Layout.from_json(items)
    sizes = [size for entry in layout.entries for size in entry.shape]
    fits = len(weights.shape) == 2 and layout.size == weights.shape[1] and weights.dtype.is_floating_point
    if not fits or not all(is_whole(size) for size in sizes):
        raise ValueError(
            f"its layout is of other weights than the {tuple(weights.shape)} of {weights.dtype} that it holds"
        )
    return layout


# -- a folder ----------------------------------------------------------------------------------------------------


def write_folder(
    folder: str | Path,
    weights: Writable,
    layout: Layout,
    constants: Mapping[str, Tensor],
    record: Mapping[str, Any],
    held_out: Sequence[bool],
    storage: str,
) -> Shards:
    """Write a zoo to a folder as its rows come, one file a member; members that are there stay as they are.

    Arguments and errors as of ``write_zoo``. Gives the matrix that is there.

    Raises:
        ValueError: the folder holds another zoo.
    """
    check_storage(storage)
    members = len(held_out)
    record_text(record)  # before a folder is begun that could not be finished
    common, notes = split_record(record, members)
    header = folder_header(layout, common, members, constants)
    with writing(folder):
        start_folder(folder, header, storage, constants=constants)
        before = read_folder(folder)
        kept_rows = {position: row for row, position in enumerate(before.notes)}
        rows = _rows_of(weights, folder, members, storage)
        for position, (row, note, held) in enumerate(zip(rows, notes, held_out, strict=True)):
            note["held_out"] = bool(held)
            if position not in kept_rows:
                append(folder, position, row, [note])
                continue
            kept_row = before.weights[kept_rows[position]]  # (d,)
            if not _same_note(note, before.notes[position]) or not _same_row(row[0], kept_row, storage):
                raise ValueError(
                    f"{folder} holds another zoo (see member {position}{_difference(row[0], kept_row)}): name another "
                    "folder, or delete it"
                )
        return read_folder(folder).weights


def _rows_of(weights: Writable, folder: str | Path, members: int, storage: str) -> Iterator[Tensor]:
    """Rows in order, each (1, d), of weights in any of the forms that can be written."""
    if isinstance(weights, Tensor | Shards):
        _warn_of_rounding(weights.dtype, folder, storage)
        yield from weights.split(1)
        return
    parts = iter(weights)
    first = next(parts, None)
    if first is None:
        return
    parts = chain([first], parts)
    _warn_of_rounding((first[1] if isinstance(first, tuple) else first).dtype, folder, storage)
    if isinstance(first, tuple):
        parts = rows_of_columns(folder, members, parts)
    for part in parts:  # (some rows, d)
        yield from part.split(1)


def _warn_of_rounding(dtype: torch.dtype, folder: str | Path, storage: str) -> None:
    """Say that a folder keeps less of weights than they are; whoever names bfloat16 knows."""
    if storage == "float32" and torch.finfo(dtype).eps < torch.finfo(torch.float32).eps:
        name = str(dtype).removeprefix("torch.")
        warnings.warn(
            f"{folder} keeps float32, to which these weights in {name} are rounded; a file, a name with a suffix, "
            "keeps them as they are",
            RuntimeWarning,
            stacklevel=5,
        )


def _same_note(note: Mapping[str, Any], kept: Mapping[str, Any]) -> bool:
    """Whether the notes of a member say what is kept of it."""
    as_kept = json.loads(json.dumps(note))  # tuples become lists
    return as_kept == kept


def _same_row(row: Tensor, kept: Tensor, storage: str) -> bool:
    """Whether the weights (d,) of a member, as they would be kept, are those that are kept."""
    return torch.equal(row.to("cpu", STORAGE[storage]).to(kept), kept)


def _difference(row: Tensor, kept: Tensor) -> str:
    """What to say of weights (d,) that differ by no more than rounding on another processor would change them."""
    largest = float((row.to(kept) - kept).abs().max()) if row.shape == kept.shape else float("inf")
    if not 0 < largest <= ROUNDING * float(kept.abs().max()):
        return ""
    return f", whose weights differ by up to {largest:.1g}, as if they were computed on another processor"


def read_members(folder: Path, verify: bool) -> SavedZoo:
    """The members that a folder has; warns of those it lacks or that diverged. Errors as of :meth:`Zoo.load`.

    Raises:
        FileNotFoundError: it has none of them.
        ZooFileError: it does not say what such a folder says.
    """
    header, weights, notes = read_folder(folder, verify)
    total = header["members"]
    if len(notes) < total:
        missing = list(islice((position for position in range(total) if position not in notes), MISSING_NAMED))
        more = "" if len(notes) + len(missing) == total else " and more"
        incomplete = f"{folder} holds {len(notes)} of {total} members; missing: {missing}{more}"
        if not notes:
            raise FileNotFoundError(incomplete)
        warnings.warn(incomplete, RuntimeWarning, stacklevel=3)
    positions = list(notes)
    own_notes = [dict(note) for note in notes.values()]
    with understood(folder):
        held_out = tuple(note.pop("held_out") for note in own_notes)
        if not all(isinstance(held, bool) for held in held_out):
            raise ValueError("held_out is neither true nor false")
        diverged = [i for i, note in enumerate(own_notes) if note.get("members", {}).get("diverged")]
        record = cut_stages(join_record(header["record"], own_notes), positions, total)
        layout = _layout_of(header["layout"], weights)
    if diverged:
        warnings.warn(
            f"members {diverged} of {folder} diverged in training and hold no networks; zoo.take the others",
            RuntimeWarning,
            stacklevel=3,
        )
    return SavedZoo(weights, layout, record, held_out, read_constants(folder, header))
