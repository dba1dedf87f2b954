"""One file of members in a folder: what it says of itself, and whether its content is what was written.

Its metadata are format and version, the zoo it belongs to, the position of its first row, the notes of each member as
JSON, ``sha256`` of rows and notes, and ``seal``, a hash of all these. The seal is checked when a file is opened, rows
before one of them is used. (Files of older versions have no seal, and are read whole when they are opened.)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from dwflow_lite.support.checks import failing_as
from dwflow_lite.support.files import ZooFileError, digest, json_hash, read_outline, write_safetensors

SHARD = "dwflow_lite.shard/1"
STORAGE = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NAMES_IN_FILES = {"float32": "F32", "bfloat16": "BF16"}  # of safetensors
READ_AT_ONCE = 1 << 20  # bytes


@dataclass(frozen=True)
class Shard:
    """What a file of members says of itself.

    Attributes:
        path: of the file.
        zoo: identity of the zoo it belongs to.
        first: position of its first row.
        notes: of its members, as JSON.
        sha256: of its rows and notes.
        shape: of its rows, (m, d).
        storage: how numbers are kept.
        sealed: whether a seal vouches for all this.
    """

    path: Path
    zoo: str
    first: int
    notes: str
    sha256: str
    shape: tuple[int, int]
    storage: str
    sealed: bool


def name_of_shard(first: int) -> str:
    """What the file is called whose first row is member ``first``."""
    return f"members-{first:08d}.safetensors"


# -- writing -----------------------------------------------------------------------------------------------------


def write_shard(folder: Path, zoo: str, first: int, rows: Tensor, notes: Sequence[Mapping[str, Any]]) -> None:
    """Write rows (m, d) with their notes to a file, whole or not at all; they are in the dtype in which they are kept.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps(list(notes), allow_nan=False)
    metadata = {"format": SHARD, "zoo": zoo, "first": str(first), "notes": text}
    metadata["sha256"] = digest({"weights": rows.view(torch.uint8)}, text)
    metadata["seal"] = json_hash(metadata)
    write_safetensors({"weights": rows}, folder / name_of_shard(first), metadata, among_many=True)


# -- reading -----------------------------------------------------------------------------------------------------


def read_shard(path: Path) -> Shard:
    """What a file says of itself; no row is read.

    Raises:
        FileNotFoundError: no such file.
        ZooFileError: truncated, altered, of another format, or called otherwise than its first row wants.
    """
    dtypes, shapes, metadata = read_outline(path, SHARD)
    with failing_as(f"{path} was altered after it was written: delete it", ZooFileError):
        signed = {name: text for name, text in metadata.items() if name not in ("seal", "version")}
        seal = metadata.get("seal")
        if seal not in (None, json_hash(signed)):
            raise ValueError("its hash does not match what it says of itself")
        storages = {name_in_file: storage for storage, name_in_file in NAMES_IN_FILES.items()}
        shard = Shard(
            path=path,
            zoo=metadata["zoo"],
            first=int(metadata["first"]),
            notes=metadata["notes"],
            sha256=metadata["sha256"],
            shape=shapes["weights"],
            storage=storages[dtypes["weights"]],
            sealed=seal is not None,
        )
        if len(shapes) != 1 or len(shard.shape) != 2:
            raise ValueError(f"it holds {shapes}")
    return shard


def check_name(shard: Shard) -> None:
    """:class:`ZooFileError` where a file is called otherwise than its first row wants."""
    name = name_of_shard(shard.first)
    if shard.path.name != name:
        raise ZooFileError(
            f"{shard.path} holds members from {shard.first} on, and would be called {name}: somebody renamed it. "
            "Give it back its name, or delete it"
        )


def notes_of(shard: Shard) -> list[dict[str, Any]]:
    """Notes of each member of a file; :class:`ZooFileError` where they are no such list."""
    with failing_as(f"{shard.path} was altered after it was written: delete it", ZooFileError):
        notes = json.loads(shard.notes)
        if not isinstance(notes, list) or not all(isinstance(note, dict) for note in notes):
            raise ValueError("its notes are no list of dictionaries")
        if len(notes) != shard.shape[0]:
            raise ValueError(f"it has notes of {len(notes)} members, and {shard.shape[0]} rows")
    return notes


# -- whether the content is what was written ---------------------------------------------------------------------


class Verified:
    """Which files of a zoo have been read whole since it was opened, and were what was written.

    A file that is touched afterwards, or replaced, is read whole once more before a row of it is used.

    Args:
        opened: a name for this opening of the zoo. Copies that travel to a process share what is known there.
    """

    def __init__(self, opened: str) -> None:
        self.opened = opened
        self.states = _states(opened)

    def __reduce__(self) -> tuple[type[Verified], tuple[str]]:
        return Verified, (self.opened,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Verified:
        return self

    def check(self, path: Path, sha256: str) -> None:
        """Read a file unless that has been done.

        Args:
            path: of the file.
            sha256: of its content when the zoo was opened.

        Raises:
            ZooFileError: it is not that content.
            OSError: it cannot be read.
        """
        state = state_of(path)
        if self.states.get(str(path)) == (state, sha256):
            return
        shard = read_shard(path)
        if shard.sha256 != sha256:
            raise ZooFileError(f"{path} has been replaced since the zoo was opened: load the zoo again")
        self.read(shard)

    def read(self, shard: Shard) -> None:
        """Read a file whole; :class:`ZooFileError` where it is not what was written, and others as of :meth:`check`."""
        with shard.path.open("rb", buffering=0) as file:
            state = _state(os.fstat(file.fileno()))
            if _content_hash(file, shard) != shard.sha256:
                raise ZooFileError(
                    f"{shard.path} was altered after it was written. Delete it (its hash does not match)"
                )
        self.states[str(shard.path)] = (state, shard.sha256)

    def still_holds(self, path: Path) -> bool:
        """Whether a file is untouched since it was read whole."""
        known = self.states.get(str(path))
        return known is not None and known[0] == state_of(path)


@lru_cache(maxsize=64)  # zoos that are open
def _states(opened: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """By path: state in which a file was read whole, and the hash of its content."""
    return {}


def state_of(path: Path) -> tuple[int, ...]:
    """What changes when a file is written to or replaced."""
    return _state(path.stat())


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _content_hash(file: BinaryIO, shard: Shard) -> str:
    """What ``digest({"weights": bytes}, notes)`` gives, of rows that pass by and are not kept."""
    members, size = shard.shape
    whole = hashlib.sha256(shard.notes.encode())
    description = ("weights", torch.uint8, (members, size * STORAGE[shard.storage].itemsize))
    whole.update(str(description).encode())
    header = int.from_bytes(file.read(8), "little")
    file.seek(8 + header)  # behind it come the numbers, to the end
    buffer = bytearray(READ_AT_ONCE)
    while count := file.readinto(buffer):
        whole.update(memoryview(buffer)[:count])
    return whole.hexdigest()
