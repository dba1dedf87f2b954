"""Columns of a zoo, as a generator decodes them, to the rows that a folder keeps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dwflow_lite.support.checks import failing_as
from dwflow_lite.zoo.header import read_header
from dwflow_lite.zoo.shards import STORAGE


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
