"""A matrix of networks on disk, kept as shards of rows.

A folder of shards holds what all members share, and safetensors files of one or more rows each:

    zoo.json                       format and version; layout, record, number of members, storage; identity (whose
                                   shards belong here, and no other folder's); a hash of all this
    constants.safetensors          tensors that all members share and nobody trains, where there are any
    members-00000000.safetensors   weights (m, d) and what ``shards.py`` says of them: notes, position, hashes
    .lock                          while somebody writes: who

A row is there or it is not: a crash or a full disk loses what was being written. Members are in the order of their
positions, which names of files must agree with. A row is checked against its hash before it is first used."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from dwflow_lite.support.checks import failing_as, is_choice
from dwflow_lite.support.files import ZooFileError, json_hash, opened_safetensors
from dwflow_lite.support.locks import one_writer
from dwflow_lite.support.paths import as_path, check_writable, sweep
from dwflow_lite.zoo.header import CONSTANTS_FILE, keep_constants, read_header, write_constants, write_header
from dwflow_lite.zoo.members import positions_of
from dwflow_lite.zoo.shards import (
    SHARD,
    STORAGE,
    Shard,
    Verified,
    check_name,
    notes_of,
    read_shard,
    write_shard,
)

# -- the matrix --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shards:
    """A matrix (N, d) on disk, read by rows or by columns and never whole: the ``weights`` of a zoo that is too large.

    ``shards[3]`` reads a row, ``split(n)`` reads n rows at a time, ``columns(s)`` some columns of all rows; a slice
    or list of rows (positions, or a boolean each) is a view that reads nothing. What is read is float32, on ``device``,
    and the caller's own.

    Attributes:
        folder: where the files are.
        rows: for each row its file, and its place in it.
        size: number of columns d.
        storage: ``"float32"`` or ``"bfloat16"``, how numbers are kept on disk.
        hashes: of the content of each file, as it was when the zoo was opened.
        verified: which files have been read whole since, and were that content.
        device: onto which rows are read.
    """

    folder: Path
    rows: tuple[tuple[str, int], ...]
    size: int
    storage: str
    hashes: Mapping[str, str] = field(compare=False, repr=False)
    verified: Verified = field(compare=False, repr=False)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    ndim: ClassVar[int] = 2
    dtype: ClassVar[torch.dtype] = torch.float32

    @property
    def shape(self) -> tuple[int, int]:
        """(N, d)."""
        return len(self.rows), self.size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: int | slice | Sequence[int] | Sequence[bool]) -> Tensor | Shards:
        if hasattr(which, "tolist"):  # of NumPy or torch: a number, or an array of them
            which = which.tolist()
        if isinstance(which, int) and not isinstance(which, bool):
            if not -len(self) <= which < len(self):  # an IndexError ends loops over rows
                raise IndexError(f"no row {which} of weights {self.shape} on disk")
            return self._read([self.rows[which]], slice(0, self.size))[0]  # (d,)
        if not isinstance(which, slice | Sequence) or isinstance(which, tuple):
            raise TypeError(f"weights on disk are read by rows, not by {which!r}: .columns(slice) reads some columns")
        rows = tuple(self.rows[position] for position in positions_of(which, len(self), "read"))
        hashes = {name: self.hashes[name] for name, _ in rows}  # a view of few rows travels light
        return replace(self, rows=rows, hashes=hashes)

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
        """Neighbouring columns of all rows: (N, columns); ``ValueError`` for any others."""
        if not isinstance(columns, slice) or columns.step not in (None, 1):
            raise ValueError(f"columns of weights on disk are neighbours, as slice(2, 5); got {columns!r}")
        return self._read(self.rows, columns, dtype)

    def to(self, device: torch.device | str) -> Shards:
        """The same matrix, read onto ``device``."""
        return replace(self, device=torch.device(device))

    def _read(self, rows: Sequence[tuple[str, int]], columns: slice, dtype: torch.dtype = torch.float32) -> Tensor:
        """These rows and columns as a tensor (rows, columns); a file is opened once for neighbours in it."""
        start, stop, _ = columns.indices(self.size)
        stop = max(start, stop)
        block = torch.empty(len(rows), stop - start, dtype=dtype, device=self.device)
        next_row = 0
        for name, rows_of_file in groupby(rows, key=itemgetter(0)):
            places = [at for _, at in rows_of_file]
            self._read_file(name, places, slice(start, stop), block[next_row : next_row + len(places)])
            next_row += len(places)
        return block

    def _read_file(self, name: str, places: Sequence[int], columns: slice, block: Tensor) -> None:
        """Fill a block (rows, columns) with rows of one file, once the file is known to hold what was written."""
        path = self.folder / name
        with failing_as(f"cannot read {path}", ZooFileError):
            self.verified.check(path, self.hashes[name])
            with opened_safetensors(path, SHARD) as (file, _):
                stored = file.get_slice("weights")  # (rows of the file, d), not read yet
                for row, at in enumerate(places):
                    block[row] = stored[at : at + 1, columns][0]
            if not self.verified.still_holds(path):
                raise ZooFileError("it was written to while it was read: read once more")

    def fingerprint(self) -> str:
        """What tells these rows from others: a hash of their places and of the hashes of their files."""
        names = sorted({name for name, _ in self.rows})
        return json_hash([self.rows, [self.hashes[name] for name in names]])


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
    folder = as_path(folder)
    if folder.suffix:
        raise ValueError(
            f"a zoo in {folder} could not be loaded: a name with a suffix, here {folder.suffix!r}, means a file; name "
            "(or rename) the folder without one"
        )
    check_writable(folder / "zoo.json")


@contextmanager
def writing(folder: str | Path) -> Iterator[None]:
    """Make a folder, and hold it for as long as it is written to: one writer at a time, and any number of readers.

    Raises:
        ValueError: its name has a suffix.
        OSError: nothing can be written there; ``FolderInUseError`` where somebody else writes, with who it is.
    """
    check_folder(folder)
    with one_writer(Path(folder)):
        yield


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
    zoo = f"{own_identity}-{storage}"
    if not (folder / "zoo.json").is_file():
        if constants:  # before the header, which says that they are there
            write_constants(folder, constants)
        header["identity"] = f"{zoo}-{secrets.token_hex(4)}"  # shards of another folder do not belong here
        write_header(folder, header)
    else:
        written = read_header(folder)
        if zoo not in (written["identity"], written["identity"].rpartition("-")[0]):  # older versions named no folder
            raise ValueError(f"{folder} holds another zoo: name another folder, or delete it")
        keep_constants(folder, written, constants or {})
    sweep_folder(folder)


def sweep_folder(folder: str | Path) -> None:
    """Remove what processes that died as they wrote have left."""
    sweep(folder, "members-", "zoo.json", CONSTANTS_FILE)


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
    _check_positions(first, len(rows), header)
    write_shard(Path(folder), header["identity"], first, rows, notes)


def _check_positions(first: int, count: int, header: Mapping[str, Any]) -> None:
    """``ValueError`` unless a zoo has members at these positions."""
    if first < 0 or count < 1 or first + count > header["members"]:
        raise ValueError(f"a zoo of {header['members']} members has none from {first} to {first + count - 1}")


def read_folder(folder: str | Path, verify: bool = False) -> FolderContent:
    """The members that are there, in order of their positions.

    Args:
        folder: begun by :func:`start_folder`.
        verify: read every row now; otherwise a file is read whole before a row of it is first used.

    Raises:
        FileNotFoundError: no zoo there.
        ZooFileError: a file is damaged, of an unknown format, of another zoo, called otherwise than its first member
            wants, or holds members that another holds.
    """
    folder = Path(folder).resolve()
    header = read_header(folder)
    verified = Verified(secrets.token_hex(8))
    rows: dict[int, tuple[str, int]] = {}  # position -> file, and row in it
    notes: dict[int, dict[str, Any]] = {}
    shards = [read_shard(path) for path in sorted(folder.glob("members-*.safetensors"))]
    for shard in shards:
        _check_belongs(shard, header)
        positions = range(shard.first, shard.first + shard.shape[0])
        twice = [position for position in positions if position in rows]
        if twice:
            raise ZooFileError(
                f"{shard.path} holds members {twice}, which another file in the folder holds too. Delete one"
            )
        rows |= {position: (shard.path.name, row) for row, position in enumerate(positions)}
    for shard in shards:
        check_name(shard)
        if verify or not shard.sealed:
            verified.read(shard)
        notes |= dict(enumerate(notes_of(shard), shard.first))
    order = sorted(rows)
    hashes = {shard.path.name: shard.sha256 for shard in shards}
    in_order = tuple(rows[position] for position in order)
    weights = Shards(folder, in_order, header["size"], header["storage"], hashes, verified)
    return FolderContent(header, weights, {position: notes[position] for position in order})


def _check_belongs(shard: Shard, header: Mapping[str, Any]) -> None:
    """:class:`ZooFileError` unless a file is of the zoo of its folder, and its rows are as that zoo's are."""
    if shard.zoo != header["identity"]:
        raise ZooFileError(f"{shard.path} belongs to another zoo than {shard.path.parent / 'zoo.json'}. Move it away")
    with failing_as(f"{shard.path} was altered after it was written: delete it", ZooFileError):
        _check_positions(shard.first, shard.shape[0], header)
        if (shard.shape[1], shard.storage) != (header["size"], header["storage"]):
            raise ValueError(f"its rows are {shard.shape[1]} {shard.storage}")


def rows_of_files(folder: str | Path, rows: Sequence[tuple[str, int]], size: int, storage: str) -> Shards:
    """Rows that another file names, as a generator names those of the zoo that it decodes from.

    Args:
        folder: where the files are.
        rows: for each row its file, and its place in it.
        size: number of columns d.
        storage: a name in ``STORAGE``.

    Raises:
        FileNotFoundError: a file is not there.
        ZooFileError: a file is damaged, or has no such rows.
    """
    folder = Path(folder).resolve()
    shards = {name: read_shard(folder / name) for name in {name for name, _ in rows}}
    for name, at in rows:
        shard = shards[name]
        check_name(shard)
        if shard.path.parent != folder:
            raise ZooFileError(f"{shard.path} is not in {folder}")
        if (shard.shape[1], shard.storage) != (size, storage) or not 0 <= at < shard.shape[0]:
            raise ZooFileError(f"{shard.path} holds {shard.shape} weights, and no row {at} of {size}")
    hashes = {name: shard.sha256 for name, shard in shards.items()}
    return Shards(folder, tuple(rows), size, storage, hashes, Verified(secrets.token_hex(8)))
