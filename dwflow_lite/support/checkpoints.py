"""Half-finished work on disk: written whole or not at all, and verified when it is read."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from dwflow_lite.support.files import written_whole

SAVE_EVERY_SECONDS = 10.0


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
