"""A matrix of networks on disk, kept as shards of rows.

A folder of shards holds ``zoo.json`` (what all members share) and safetensors files of one or more rows each, named by
the position of their first row. A row is there or it is not: a crash or a full disk loses what was being written."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from torch import Tensor

from dwflow_lite.support.checks import failing_as
from dwflow_lite.support.files import (
    ZooFileError,
    check_writable,
    digest,
    json_hash,
    read_safetensors,
    write_safetensors,
    written_whole,
)

FOLDER, SHARD = "dwflow_lite.folder/1", "dwflow_lite.shard/1"


STORAGE = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
        which = which.tolist() if hasattr(which, "tolist") else which
        if isinstance(which, int):
            return self._read([self.rows[which]], slice(0, self.size))[0]
        rows = self.rows[which] if isinstance(which, slice) else tuple(self.rows[i] for i in which)
        return replace(self, rows=rows)

    def __getattr__(self, name: str) -> None:
        raise AttributeError(f"weights on disk have no {name!r}: zoo.in_memory() reads them into a tensor")

    @classmethod
    def __torch_function__(cls, function: Any, *_: Any) -> None:
        raise TypeError(f"{function.__name__} takes no weights on disk: zoo.in_memory() reads them into a tensor")

    def split(self, at_once: int) -> Iterator[Tensor]:
        """All rows in order, as tensors of at most ``at_once`` rows."""
        for start in range(0, len(self), at_once):
            yield self._read(self.rows[start : start + at_once], slice(0, self.size))

    def columns(self, columns: slice, dtype: torch.dtype = torch.float32) -> Tensor:
        """Some columns, in a row, of all rows: (N, columns)."""
        return self._read(self.rows, columns, dtype)

    def to(self, device: torch.device | str) -> Shards:
        """The same matrix, read onto ``device``."""
        return replace(self, device=torch.device(device))

    def _read(self, rows: Sequence[tuple[str, int]], columns: slice, dtype: torch.dtype = torch.float32) -> Tensor:
        start, stop, _ = columns.indices(self.size)
        block = torch.empty(len(rows), stop - start, dtype=dtype, device=self.device)
        for name, places in groupby(enumerate(rows), key=lambda item: item[1][0]):
            path = self.folder / name
            with failing_as(f"cannot read {path}", ZooFileError), safe_open(path, framework="pt") as file:
                stored = file.get_slice("weights")
                for i, (_, place) in places:
                    block[i] = stored[place : place + 1, start:stop][0]
        return block

    def fingerprint(self) -> str:
        """What tells these rows from others: a hash of their places and of the hashes of their files."""
        files = sorted({name for name, _ in self.rows})
        hashes = [read_safetensors(self.folder / name, SHARD, ())[1]["sha256"] for name in files]
        return json_hash([self.rows, hashes])


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
    header = dict(header) | {"storage": storage}
    identity = f"{identity or json_hash(header)[:16]}-{storage}"
    check_writable(folder / "zoo.json")
    if (folder / "zoo.json").is_file():
        if read_header(folder)["identity"] != identity:
            raise ValueError(f"{folder} holds another zoo: name another folder, or delete it")
    else:
        write_header(folder, header | {"identity": identity})
    sweep(folder)


def sweep(folder: str | Path) -> None:
    """Remove what processes that died as they wrote have left."""
    for left in Path(folder).glob(".members-*.partial"):
        left.unlink(missing_ok=True)


def write_header(folder: Path, header: Mapping[str, Any]) -> None:
    """Write ``zoo.json``, at once or not at all."""
    path, header = folder / "zoo.json", dict(header) | {"format": FOLDER}
    with failing_as(f"cannot write {path}", OSError), written_whole(path) as partial:
        partial.write_text(json.dumps(header | {"sha256": json_hash(header)}, sort_keys=True))


def read_header(folder: str | Path) -> dict[str, Any]:
    """What ``zoo.json`` says; ``FileNotFoundError`` or :class:`ZooFileError` where it is not there, or damaged."""
    path = Path(folder) / "zoo.json"
    if not path.is_file():
        raise FileNotFoundError(f"no zoo in {folder}: it has no zoo.json")
    with failing_as(f"{path} is damaged; delete the folder, or put the file back", ZooFileError):
        header = json.loads(path.read_text())
        known = header.pop("sha256", None)
        if header["format"] != FOLDER:
            raise ValueError(f"its format is {header['format']!r}, not {FOLDER!r}")
        if missing := {"identity", "layout", "members", "record", "size", "storage"} - set(header):
            raise ValueError(f"it lacks {sorted(missing)}")
        if known != json_hash(header):
            raise ValueError("its hash does not match")
    return header


def append(folder: str | Path, first: int, rows: Tensor, notes: Sequence[Mapping[str, Any]]) -> None:
    """Add members ``first``, ``first`` + 1, … to a folder: one file, written whole or not at all.

    Args:
        rows: (m, d), finite. notes: what is known of each, JSON-able.
    """
    header = read_header(folder)
    if rows.shape != (len(notes), header["size"]):
        raise ValueError(f"{len(notes)} members of {header['size']} weights are no rows of {tuple(rows.shape)}")
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
        with failing_as(f"{path} was altered after it was written. Delete it", ZooFileError):
            text, first, owner, written = (metadata[key] for key in ("notes", "first", "zoo", "sha256"))
            if verify and digest({k: t.view(torch.uint8) for k, t in tensors.items()}, text) != written:
                raise ValueError("its hash does not match")
            members = {int(first) + place: note for place, note in enumerate(json.loads(text))}
        if owner != header["identity"]:
            raise ZooFileError(f"{path} belongs to another zoo than {folder / 'zoo.json'}. Move it away")
        if twice := sorted(notes.keys() & members.keys()):
            raise ZooFileError(f"{path} holds members {twice}, which another file in the folder holds too. Delete one")
        notes |= members
        rows += [(path.name, place) for place in range(len(members))]
    return header, Shards(folder, tuple(rows), header["size"], header["storage"]), notes


def rows_of_columns(folder: str | Path, members: int, blocks: Iterable[tuple[slice, Tensor]]) -> Iterator[Tensor]:
    """Members, one at a time as (1, d), that come as blocks of columns (slice, (members, columns)), in any order.

    Columns of many rows are far apart in files of rows; they pass through one scratch file of the whole matrix, which
    has no name, and so is gone whatever happens.
    """
    header = read_header(folder)
    dtype, width = STORAGE[header["storage"]], STORAGE[header["storage"]].itemsize * header["size"]
    full = f"cannot write {members} members to {folder}"
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        with failing_as(full, OSError):
            file.truncate(members * width)
        for columns, block in blocks:
            with failing_as(full, OSError):
                for row, part in enumerate(block.to("cpu", dtype).contiguous()):
                    file.seek(row * width + columns.start * dtype.itemsize)
                    left = part.view(torch.uint8).numpy()
                    while len(left):  # a disk that is nearly full takes a part of it
                        left = left[file.write(left) :]
        for row in range(members):
            weights = torch.empty(1, header["size"], dtype=dtype)
            file.seek(row * width)
            left = weights[0].view(torch.uint8).numpy()
            while len(left):
                left = left[file.readinto(left) :]
            yield weights
