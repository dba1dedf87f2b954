"""Files written whole or not at all, and the one digest that vouches for them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dwflow_lite.support.checks import failing_as


class ZooFileError(ValueError):
    """A zoo file is truncated, altered, of another format, or does not fit the network given."""


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


def check_writable(path: Path) -> None:
    """``OSError`` that names the path, unless a file can be written there; its folder is made."""
    with failing_as(f"cannot write {path}", OSError):
        if path.is_dir():
            raise IsADirectoryError("it is a folder; name a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = partial_of(path)
        probe.touch()
        probe.unlink()


def write_safetensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> Path:
    """Write a safetensors file beside its name, then move it there: never half-written."""
    path = Path(path)
    check_writable(path)
    try:
        with written_whole(path) as partial:
            save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata=dict(metadata))
            partial.chmod(0o644)  # safetensors writes for the owner only; a zoo is there to be shared
    except (SafetensorError, OSError) as error:
        raise OSError(f"cannot write {path}: {error}") from error
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


def json_hash(content: Any) -> str:
    """SHA-256, in hexadecimal, of anything made of JSON's types, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
