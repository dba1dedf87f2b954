"""Weights on disk: files written whole or not at all, and a matrix of networks kept as shards of rows.

A folder of shards holds ``zoo.json`` (what all members share) and safetensors files of one or more rows each, named by
the position of their first row. A row is there or it is not: a crash or a full disk loses what was being written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dwflow_lite.resume import digest
from dwflow_lite.tasks import failing_as

FOLDER, SHARD = "dwflow_lite.folder/1", "dwflow_lite.shard/1"
STORAGE = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class ZooFileError(ValueError):
    """A zoo file is truncated, altered, of another format, or does not fit the network given."""


# -- one file ----------------------------------------------------------------------------------------------------


def check_writable(path: Path) -> None:
    """``OSError`` that names the path, unless a file can be written there; its folder is made."""
    with failing_as(f"cannot write {path}", OSError):
        if path.is_dir():
            raise IsADirectoryError("it is a folder; name a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = _partial(path)
        probe.touch()
        probe.unlink()


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def write_safetensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> Path:
    """Write a safetensors file beside its name, then move it there: never half-written."""
    path = Path(path)
    check_writable(path)
    partial = _partial(path)
    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata=dict(metadata))
        partial.chmod(0o644)  # safetensors writes for the owner only; a zoo is there to be shared
        os.replace(partial, path)
    except (SafetensorError, OSError) as error:
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_safetensors(
    path: str | Path, expected: str, only: Sequence[str] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (all, or ``only`` these) and metadata of a file of format ``expected``.

    Raises:
        FileNotFoundError: no such file.
        ZooFileError: truncated, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in (file.keys() if only is None else only)}
    except OSError as error:
        raise OSError(f"cannot read {path}: {error}") from error
    except (SafetensorError, ValueError) as error:
        raise ZooFileError(f"{path} is truncated or not a safetensors file ({error}). Delete it") from error
    if metadata.get("format") != expected:
        raise ZooFileError(f"{path} is of format {metadata.get('format')!r}, not {expected!r}")
    return tensors, metadata


# -- many rows ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shards:
    """A matrix (N, d) on disk, read by rows or by columns and never whole: the ``weights`` of a zoo that is too large.

    ``shards[3]`` reads a row, ``split(n)`` reads n rows at a time, ``columns(s)`` some columns of all rows; a slice
    or list of rows is a view that reads nothing. What is read is float32, on ``device``, and the caller's own.

    Attributes:
        folder: where the files are. rows: for each row its file, and its place in it. size: d.
        storage: ``"float32"`` or ``"bfloat16"``, how numbers are kept on disk.
    """

    folder: Path
    rows: tuple[tuple[str, int], ...]
    size: int
    storage: str
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    ndim: ClassVar[int] = 2
    dtype: ClassVar[torch.dtype] = torch.float32

    @property
    def shape(self) -> tuple[int, int]:
        """(N, d)."""
        return len(self.rows), self.size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: int | slice | Sequence[int]) -> Tensor | Shards:
        if isinstance(which, int):
            return self._read([self.rows[which]], slice(0, self.size))[0]
        rows = self.rows[which] if isinstance(which, slice) else tuple(self.rows[i] for i in which)
        return replace(self, rows=rows)

    def split(self, at_once: int) -> Iterator[Tensor]:
        """All rows in order, as tensors of at most ``at_once`` rows."""
        for start in range(0, len(self), at_once):
            yield self._read(self.rows[start : start + at_once], slice(0, self.size))

    def columns(self, columns: slice) -> Tensor:
        """Some columns, in a row, of all rows: (N, columns)."""
        return self._read(self.rows, columns)

    def to(self, device: torch.device | str) -> Shards:
        """The same matrix, read onto ``device``."""
        return replace(self, device=torch.device(device))

    def _read(self, rows: Sequence[tuple[str, int]], columns: slice) -> Tensor:
        start, stop, _ = columns.indices(self.size)
        block = torch.empty(len(rows), stop - start, device=self.device)
        for name, places in groupby(enumerate(rows), key=lambda item: item[1][0]):
            try:
                with safe_open(self.folder / name, framework="pt") as file:
                    stored = file.get_slice("weights")
                    for i, (_, place) in places:
                        block[i] = stored[place : place + 1, start:stop][0]
            except (SafetensorError, OSError, ValueError) as error:
                raise ZooFileError(f"cannot read {self.folder / name}: {error}") from error
        return block


def start_folder(folder: str | Path, header: Mapping[str, Any], storage: str, identity: str = "") -> None:
    """Make a folder for shards, or find the same one begun before.

    Args:
        header: see ``folder_header`` of the zoo's room. storage: a name in ``STORAGE``.
        identity: what tells this zoo from others; by default a hash of the header.

    Raises:
        ValueError: the folder holds another zoo, or ``storage`` is unknown.
        OSError: it cannot be written.
    """
    folder = Path(folder)
    if storage not in STORAGE:
        raise ValueError(f"no storage {storage!r}: choose one of {', '.join(STORAGE)}")
    text = json.dumps(dict(header) | {"storage": storage}, sort_keys=True, allow_nan=False)
    identity = f"{identity or hashlib.sha256(text.encode()).hexdigest()[:16]}-{storage}"
    check_writable(folder / "zoo.json")
    if (folder / "zoo.json").is_file():
        if read_header(folder)["identity"] != identity:
            raise ValueError(f"{folder} holds another zoo: name another folder, or delete it")
    else:
        write_header(folder, json.loads(text) | {"identity": identity})
    for left in folder.glob(".members-*.partial"):  # by a process that died as it wrote
        left.unlink(missing_ok=True)


def write_header(folder: Path, header: Mapping[str, Any]) -> None:
    """Write ``zoo.json``, at once or not at all."""
    path = folder / "zoo.json"
    with failing_as(f"cannot write {path}", OSError):
        _partial(path).write_text(json.dumps(dict(header) | {"format": FOLDER}, sort_keys=True, allow_nan=False))
        os.replace(_partial(path), path)


def read_header(folder: str | Path) -> dict[str, Any]:
    """What ``zoo.json`` says; ``FileNotFoundError`` or :class:`ZooFileError` where it is not there, or damaged."""
    path = Path(folder) / "zoo.json"
    if not path.is_file():
        raise FileNotFoundError(f"no zoo in {folder}: it has no zoo.json")
    with failing_as(f"{path} is damaged", ZooFileError):
        header = json.loads(path.read_text())
        if header["format"] != FOLDER:
            raise ValueError(f"its format is {header['format']!r}, not {FOLDER!r}")
        if missing := {"identity", "layout", "members", "record", "size", "storage"} - set(header):
            raise ValueError(f"it lacks {sorted(missing)}")
    return header


def append(folder: str | Path, first: int, rows: Tensor, notes: Sequence[Mapping[str, Any]]) -> None:
    """Add members ``first``, ``first`` + 1, … to a folder: one file, written whole or not at all.

    Args:
        rows: (m, d), finite. notes: what is known of each, JSON-able.
    """
    header = read_header(folder)
    rows = rows.detach().to("cpu", STORAGE[header["storage"]]).contiguous()
    if bad := (~rows.isfinite().all(1)).nonzero().flatten().tolist():
        raise ValueError(f"members {[first + i for i in bad]} hold NaN or infinite weights, or beyond the storage")
    text = json.dumps(list(notes), allow_nan=False)
    metadata = {"format": SHARD, "zoo": header["identity"], "first": str(first), "notes": text}
    metadata["sha256"] = digest({"weights": rows.view(torch.uint8)}, text)
    write_safetensors({"weights": rows}, Path(folder) / f"members-{first:08d}.safetensors", metadata)


def read_folder(folder: str | Path, verify: bool = False) -> tuple[dict[str, Any], Shards, dict[int, Any]]:
    """Header, matrix and notes (position -> notes) of the members that are there, in order.

    Every file is checked to be complete; ``verify`` reads all of them and compares their hashes.
    """
    folder, header, rows, notes = Path(folder).resolve(), read_header(folder), [], {}
    for path in sorted(folder.glob("members-*.safetensors")):
        tensors, metadata = read_safetensors(path, SHARD, only=None if verify else ())
        if (
            verify
            and digest({k: t.view(torch.uint8) for k, t in tensors.items()}, metadata["notes"]) != metadata["sha256"]
        ):
            raise ZooFileError(f"{path} was altered after it was written: its hash does not match. Delete it")
        if metadata["zoo"] != header["identity"]:
            raise ZooFileError(f"{path} belongs to another zoo than {folder / 'zoo.json'}")
        for place, note in enumerate(json.loads(metadata["notes"])):
            notes[int(metadata["first"]) + place] = note
            rows.append((path.name, place))
    if len(notes) != len(rows):
        raise ZooFileError(f"{folder} holds some members twice")
    return header, Shards(folder, tuple(rows), header["size"], header["storage"]), notes


def append_columns(
    folder: str | Path, members: int, blocks: Iterable[tuple[slice, Tensor]], notes: Sequence[Mapping[str, Any]]
) -> None:
    """Add members 0 … ``members`` - 1 that come as blocks of columns (slice, (members, columns)), in any order.

    Columns of many rows are far apart in files of rows; they pass through one scratch file of the whole matrix.
    """
    folder = Path(folder)
    header, scratch = read_header(folder), _partial(folder / "members-columns")
    dtype, size = STORAGE[header["storage"]], header["size"]
    width = dtype.itemsize * size
    try:
        with scratch.open("w+b") as file:
            for columns, block in blocks:
                for row, part in enumerate(block.to("cpu", dtype).contiguous()):
                    file.seek(row * width + columns.start * dtype.itemsize)
                    file.write(part.view(torch.uint8).numpy())
            for row in range(members):
                file.seek(row * width)
                weights = torch.frombuffer(bytearray(file.read(width)), dtype=dtype)
                append(folder, row, weights[None], notes[row : row + 1])
    finally:
        scratch.unlink(missing_ok=True)
