"""A matrix of networks on disk, kept as shards of rows.

A folder of shards holds what all members share, and safetensors files of one or more rows each:

    zoo.json                       format and version; layout, record, number of members, storage; identity (whose
                                   shards belong here); a hash of all this
    constants.safetensors          tensors that all members share and nobody trains, where there are any
    members-00000000.safetensors   weights (m, d); format and version, identity, position of the first row, the notes of
                                   each member, and a hash of all this as metadata

A row is there or it is not: a crash or a full disk loses what was being written."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import FileIO
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from dwflow_lite.networks.constants import packed, unpacked
from dwflow_lite.support.checks import failing_as, is_choice
from dwflow_lite.support.files import (
    ZooFileError,
    check_format,
    check_writable,
    digest,
    is_own_format,
    json_hash,
    read_safetensors,
    write_safetensors,
    written_whole,
)
from dwflow_lite.support.versions import __version__

FOLDER, SHARD, CONSTANTS = "dwflow_lite.folder/1", "dwflow_lite.shard/1", "dwflow_lite.constants/1"
CONSTANTS_FILE = "constants.safetensors"
HEADER_KEYS = {"identity", "layout", "members", "record", "size", "storage"}
STORAGE = {"float32": torch.float32, "bfloat16": torch.bfloat16}


# -- the matrix --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shards:
    """A matrix (N, d) on disk, read by rows or by columns and never whole: the ``weights`` of a zoo that is too large.

    ``shards[3]`` reads a row, ``split(n)`` reads n rows at a time, ``columns(s)`` some columns of all rows; a slice
    or list of rows is a view that reads nothing. What is read is float32, on ``device``, and the caller's own.

    Attributes:
        folder: where the files are.
        rows: for each row its file, and its place in it.
        size: number of columns d.
        storage: ``"float32"`` or ``"bfloat16"``, how numbers are kept on disk.
        device: onto which rows are read.
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
        if hasattr(which, "tolist"):  # of NumPy or torch: a number, or an array of them
            which = which.tolist()
        if isinstance(which, int):
            return self._read([self.rows[which]], slice(0, self.size))[0]  # (d,)
        if isinstance(which, slice):
            return replace(self, rows=self.rows[which])
        return replace(self, rows=tuple(self.rows[row] for row in which))

    def __getattr__(self, name: str) -> None:  # called for what is not there: all that a tensor has beside
        raise AttributeError(f"weights on disk have no {name!r}: zoo.in_memory() reads them into a tensor")

    @classmethod
    def __torch_function__(cls, function: Callable, *_: Any) -> None:
        raise TypeError(f"{function.__name__} takes no weights on disk: zoo.in_memory() reads them into a tensor")

    def split(self, at_once: int) -> Iterator[Tensor]:
        """All rows in order, as tensors of at most ``at_once`` rows."""
        for start in range(0, len(self), at_once):
            yield self._read(self.rows[start : start + at_once], slice(0, self.size))

    def columns(self, columns: slice, dtype: torch.dtype = torch.float32) -> Tensor:
        """Neighbouring columns of all rows: (N, columns)."""
        return self._read(self.rows, columns, dtype)

    def to(self, device: torch.device | str) -> Shards:
        """The same matrix, read onto ``device``."""
        return replace(self, device=torch.device(device))

    def _read(self, rows: Sequence[tuple[str, int]], columns: slice, dtype: torch.dtype = torch.float32) -> Tensor:
        """These rows and columns as a tensor (rows, columns); a file is opened once for neighbours in it."""
        start, stop, _ = columns.indices(self.size)
        block = torch.empty(len(rows), stop - start, dtype=dtype, device=self.device)
        next_row = 0
        for name, rows_of_file in groupby(rows, key=itemgetter(0)):
            path = self.folder / name
            with failing_as(f"cannot read {path}", ZooFileError), safe_open(path, framework="pt") as file:
                stored = file.get_slice("weights")  # (rows of the file, d), not read yet
                for _, place in rows_of_file:
                    block[next_row] = stored[place : place + 1, start:stop][0]
                    next_row += 1
        return block

    def fingerprint(self) -> str:
        """What tells these rows from others: a hash of their places and of the hashes of their files."""
        names = sorted({name for name, _ in self.rows})
        hashes = []
        for name in names:
            _, metadata = read_safetensors(self.folder / name, SHARD, only=())
            hashes.append(metadata["sha256"])
        return json_hash([self.rows, hashes])


# -- how numbers are kept ----------------------------------------------------------------------------------------


def check_storage(storage: str) -> None:
    """``ValueError`` unless ``storage`` is a name in ``STORAGE``."""
    if not is_choice(storage, STORAGE):
        raise ValueError(f"no storage {storage!r}: choose one of {', '.join(STORAGE)}")


def check_finite(rows: Tensor, first: int = 0) -> None:
    """``ValueError`` that names the members whose rows (m, d) are not finite; ``first`` is the position of row 0."""
    finite = rows.isfinite().all(1)  # (m,)
    members = [first + row for row, is_finite in enumerate(finite.tolist()) if not is_finite]
    if members:
        raise ValueError(f"members {members} hold NaN or infinite weights, or beyond the storage")


# -- the folder --------------------------------------------------------------------------------------------------


class FolderContent(NamedTuple):
    """What is in a folder: its header, the matrix of the members that are there, and position -> notes of each."""

    header: dict[str, Any]
    weights: Shards
    notes: dict[int, dict[str, Any]]


def check_folder(folder: str | Path) -> None:
    """Make the folder of a zoo.

    Raises:
        ValueError: its name has a suffix, which would make it the name of a file.
        OSError: nothing can be written there.
    """
    folder = Path(folder)
    if folder.suffix:
        raise ValueError(
            f"a zoo in {folder} could not be loaded: a name with a suffix, here {folder.suffix!r}, means a file; name "
            "(or rename) the folder without one"
        )
    check_writable(folder / "zoo.json")


def start_folder(
    folder: str | Path,
    header: Mapping[str, Any],
    storage: str,
    identity: str = "",
    constants: Mapping[str, Tensor] | None = None,
) -> None:
    """Make a folder for shards, or find the same one begun before.

    Args:
        folder: a name without suffix.
        header: what all members share (``folder_header`` in ``record.py``).
        storage: a name in ``STORAGE``.
        identity: what tells this zoo from others; by default a hash of the header.
        constants: those that the header names.

    Raises:
        ValueError: the folder holds another zoo, its name has a suffix, or ``storage`` is unknown.
        OSError: it cannot be written.
    """
    folder = Path(folder)
    check_storage(storage)
    check_folder(folder)
    header = dict(header) | {"storage": storage}
    own_identity = identity or json_hash(header)[:16]
    header["identity"] = f"{own_identity}-{storage}"
    if not (folder / "zoo.json").is_file():
        if constants:  # before the header, which says that they are there
            write_safetensors(packed(constants), folder / CONSTANTS_FILE, {"format": CONSTANTS})
        write_header(folder, header)
    elif read_header(folder)["identity"] != header["identity"]:
        raise ValueError(f"{folder} holds another zoo: name another folder, or delete it")
    sweep(folder)


def read_constants(folder: str | Path, header: Mapping[str, Any]) -> dict[str, Tensor]:
    """The constants that the header of a folder names; :class:`ZooFileError` unless they are as they were written."""
    keys = header.get("constants", {})
    if not keys:
        return {}
    path = Path(folder) / CONSTANTS_FILE
    with failing_as(f"{path} is damaged or not there; put the file back, or delete the folder", ZooFileError):
        tensors, _ = read_safetensors(path, CONSTANTS)
        return unpacked(tensors, keys)


def sweep(folder: str | Path) -> None:
    """Remove what processes that died as they wrote have left."""
    for partial in Path(folder).glob(".members-*.partial"):
        partial.unlink(missing_ok=True)


def write_header(folder: Path, header: Mapping[str, Any]) -> None:
    """Write ``zoo.json``, at once or not at all."""
    path = folder / "zoo.json"
    header = dict(header) | {"format": FOLDER, "version": __version__}
    text = json.dumps(header | {"sha256": json_hash(header)}, sort_keys=True)
    with failing_as(f"cannot write {path}", OSError), written_whole(path) as partial:
        partial.write_text(text)


def read_header(folder: str | Path) -> dict[str, Any]:
    """What ``zoo.json`` says.

    Raises:
        FileNotFoundError: it is not there.
        ZooFileError: it is damaged, or of a format that this version does not know.
    """
    path = Path(folder) / "zoo.json"
    if not path.is_file():
        raise FileNotFoundError(f"no zoo in {folder}: it has no zoo.json")
    damaged = f"{path} is damaged; delete the folder, or put the file back"
    with failing_as(damaged, ZooFileError):
        header = json.loads(path.read_text())
        written_hash = header.pop("sha256", None)
        if not is_own_format(header["format"]):
            raise ValueError(f"its format is {header['format']!r}, not {FOLDER!r}")
    check_format(path, header, FOLDER)  # what another version wrote is not damaged, and not to be deleted
    with failing_as(damaged, ZooFileError):
        missing = HEADER_KEYS - set(header)
        if missing:
            raise ValueError(f"it lacks {sorted(missing)}")
        if written_hash != json_hash(header):
            raise ValueError("its hash does not match")
    return header


def append(folder: str | Path, first: int, rows: Tensor, notes: Sequence[Mapping[str, Any]]) -> None:
    """Add members ``first``, ``first`` + 1, … to a folder: one file, written whole or not at all.

    Args:
        folder: begun by :func:`start_folder`.
        first: position of the first row.
        rows: (m, d), finite.
        notes: what is known of each, JSON-able.

    Raises:
        ValueError: rows of another size, or numbers that are not finite as they are kept.
        OSError: the file cannot be written.
    """
    header = read_header(folder)
    if rows.shape != (len(notes), header["size"]):
        raise ValueError(f"{len(notes)} members of {header['size']} weights are no rows of {tuple(rows.shape)}")
    rows = rows.detach().to("cpu", STORAGE[header["storage"]]).contiguous()
    check_finite(rows, first)
    text = json.dumps(list(notes), allow_nan=False)
    metadata = {
        "format": SHARD,
        "zoo": header["identity"],
        "first": str(first),
        "notes": text,
        "sha256": _shard_digest({"weights": rows}, text),
    }
    write_safetensors({"weights": rows}, Path(folder) / f"members-{first:08d}.safetensors", metadata)


def read_folder(folder: str | Path, verify: bool = False) -> FolderContent:
    """The members that are there, in order of their positions.

    Args:
        folder: begun by :func:`start_folder`.
        verify: read everything and compare hashes; otherwise every file is only checked to be complete.

    Raises:
        FileNotFoundError: no zoo there.
        ZooFileError: a file is damaged, of an unknown format, of another zoo, or holds members that another holds.
    """
    folder = Path(folder).resolve()
    header = read_header(folder)
    places: dict[int, tuple[str, int]] = {}  # position -> file, and row in it
    notes: dict[int, dict[str, Any]] = {}
    for path in sorted(folder.glob("members-*.safetensors")):
        first, notes_of_file = _read_shard(path, header["identity"], verify)
        positions = range(first, first + len(notes_of_file))
        twice = [position for position in positions if position in notes]
        if twice:
            raise ZooFileError(f"{path} holds members {twice}, which another file in the folder holds too. Delete one")
        for row, position in enumerate(positions):
            places[position] = (path.name, row)
            notes[position] = notes_of_file[row]
    order = sorted(places)  # by position, whatever the files are called
    rows = tuple(places[position] for position in order)
    weights = Shards(folder, rows, header["size"], header["storage"])
    return FolderContent(header, weights, {position: notes[position] for position in order})


def _read_shard(path: Path, identity: str, verify: bool) -> tuple[int, list[dict[str, Any]]]:
    """Position of the first member of a file, and the notes of each."""
    tensors, metadata = read_safetensors(path, SHARD, only=None if verify else ())
    with failing_as(f"{path} was altered after it was written. Delete it", ZooFileError):
        text = metadata["notes"]
        first = int(metadata["first"])
        owner = metadata["zoo"]
        written_hash = metadata["sha256"]
        if verify and _shard_digest(tensors, text) != written_hash:
            raise ValueError("its hash does not match")
        notes = json.loads(text)
    if owner != identity:
        raise ZooFileError(f"{path} belongs to another zoo than {path.parent / 'zoo.json'}. Move it away")
    return first, notes


def _shard_digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """The digest of a file of members: of its rows as bytes, and of its notes."""
    as_bytes = {name: tensor.view(torch.uint8) for name, tensor in tensors.items()}
    return digest(as_bytes, text)


# -- columns to rows ---------------------------------------------------------------------------------------------


def rows_of_columns(folder: str | Path, members: int, blocks: Iterable[tuple[slice, Tensor]]) -> Iterator[Tensor]:
    """Members, one at a time as (1, d), that come as blocks of columns (slice, (members, columns)), in any order.

    Columns of many rows are far apart in files of rows; they pass through one scratch file of the whole matrix, which
    has no name, and so is gone whatever happens.

    Args:
        folder: begun by :func:`start_folder`; the scratch file lies on its disk.
        members: number of rows N.
        blocks: all columns, each once.

    Raises:
        OSError: the disk is full.
    """
    header = read_header(folder)
    dtype = STORAGE[header["storage"]]
    row_bytes = dtype.itemsize * header["size"]
    full = f"cannot write {members} members to {folder}"
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        with failing_as(full, OSError):
            file.truncate(members * row_bytes)
        for columns, block in blocks:
            numbers = block.to("cpu", dtype).contiguous()  # (N, columns)
            with failing_as(full, OSError):
                for member in range(len(numbers)):
                    file.seek(member * row_bytes + columns.start * dtype.itemsize)
                    _write_all(file, numbers[member].view(torch.uint8).numpy())
        for member in range(members):
            weights = torch.empty(1, header["size"], dtype=dtype)
            file.seek(member * row_bytes)
            _read_all(file, weights[0].view(torch.uint8).numpy())
            yield weights


def _write_all(file: FileIO, content: np.ndarray) -> None:
    """Write all bytes: a disk that is nearly full takes a part of them, and refuses the rest."""
    written = 0
    while written < len(content):
        written += file.write(content[written:])


def _read_all(file: FileIO, buffer: np.ndarray) -> None:
    """Fill a buffer with the bytes that come next, which may arrive in parts."""
    filled = 0
    while filled < len(buffer):
        filled += file.readinto(buffer[filled:])
