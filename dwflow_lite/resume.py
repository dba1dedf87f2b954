"""Work on disk that can be verified: a digest of tensors, and half-finished training, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SAVE_EVERY_SECONDS = 10.0


def digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256, in hexadecimal, of a text and of named tensors with their dtypes and shapes."""
    whole = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        whole.update(str((name, tensors[name].dtype, tuple(tensors[name].shape))).encode())
        whole.update(tensors[name].detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return whole.hexdigest()


def partial_of(path: Path) -> Path:
    """Where this process writes a file before it gets its name."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A place to write to: it becomes ``path`` once its content has reached the disk, or is gone if that fails."""
    partial = partial_of(path)
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())  # a power cut leaves no empty file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_partial(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values with a hash of all of it; ``content["identity"]`` says whose work it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        torch.save(content, partial)
        with partial.open("r+b") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.write(digest)


def read_partial(path: Path, identity: str, device: torch.device) -> dict[str, Any] | None:
    """What was written, None if nothing was; ``ValueError`` for a damaged file, or work of another identity."""
    if not path.is_file():
        return None
    raw = path.read_bytes()
    if hashlib.sha256(raw[:-32]).digest() != raw[-32:]:
        raise ValueError(f"{path} is truncated or was altered; delete it to train afresh")
    saved = torch.load(io.BytesIO(raw[:-32]), map_location=device, weights_only=True)
    if saved["identity"] != identity:
        raise ValueError(f"{path} belongs to another recipe; name another checkpoint or delete it")
    return saved
