"""Half-finished training on disk: written whole or not at all, and verified when read."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

SAVE_EVERY_SECONDS = 10.0


def write_partial(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values with a hash of all of it; ``content["identity"]`` says whose work it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(content, beside)
        with beside.open("r+b") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.write(digest)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


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
