"""Files written whole or not at all, the version that wrote them, and the one digest that vouches for them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dwflow_lite.support.checks import failing_as
from dwflow_lite.support.versions import __version__


class ZooFileError(ValueError):
    """A zoo file is truncated, altered, of another format, or does not fit the network given."""


# -- hashes ------------------------------------------------------------------------------------------------------


def digest(tensors: Tensor | Mapping[str, Tensor], text: str) -> str:
    """SHA-256, in hexadecimal, of a text and of tensors with their dtypes and shapes.

    Args:
        tensors: by name; or one tensor without a name. (Files of models and of single members are hashed with names,
            the file of a zoo without: so they were in version 0.1.0, and its files must still verify.)
        text: whatever else the file says, as it is written there.
    """
    whole = hashlib.sha256(text.encode())
    if isinstance(tensors, Tensor):
        description = (tensors.dtype, tuple(tensors.shape))
        whole.update(str(description).encode())
        whole.update(_bytes_of(tensors))
        return whole.hexdigest()
    for name in sorted(tensors):
        description = (name, tensors[name].dtype, tuple(tensors[name].shape))
        whole.update(str(description).encode())
        whole.update(_bytes_of(tensors[name]))
    return whole.hexdigest()


def _bytes_of(tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor as the bytes they are kept in."""
    return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()


def json_hash(content: Any) -> str:
    """SHA-256, in hexadecimal, of anything made of JSON's types, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# -- paths -------------------------------------------------------------------------------------------------------


def names_folder(path: str | Path) -> bool:
    """Whether a path names a folder, because it has no suffix, and not a file.

    Raises:
        IsADirectoryError: it has a suffix, and a folder is there.
        NotADirectoryError: it has none, and a file is there.

    Example:
        >>> names_folder("zoos/digits"), names_folder("zoos/digits.safetensors")
        (True, False)
    """
    path = Path(path)
    if path.suffix and path.is_dir():
        raise IsADirectoryError(
            f"it is a folder, and a name with a suffix, here {path.suffix!r}, means a file: name a file in it, or "
            "rename the folder so that it has no suffix"
        )
    if not path.suffix and path.is_file():
        raise NotADirectoryError(
            "it is a file, and a name without a suffix means a folder: name another folder, or rename the file to "
            f"{path.name}.safetensors"
        )
    return not path.suffix


def check_writable(path: Path) -> None:
    """``OSError`` that names the path, unless a file can be written there; its folder is made."""
    with failing_as(f"cannot write {path}", OSError):
        if path.is_dir():
            raise IsADirectoryError("it is a folder; name a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = partial_of(path)
        probe.touch()
        probe.unlink()


def partial_of(path: Path) -> Path:
    """Where this process writes a file before it gets its name."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


# -- writing -----------------------------------------------------------------------------------------------------


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


def write_safetensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> Path:
    """Write a safetensors file beside its name, then move it there: never half-written.

    Args:
        tensors: what it holds, by name.
        path: where; its folder is made.
        metadata: texts by name, among them ``format``; the version of this package is added.

    Raises:
        OSError: it cannot be written; what was there before is as it was.
    """
    path = Path(path)
    check_writable(path)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    signed = dict(metadata) | {"version": __version__}
    try:
        with written_whole(path) as partial:
            save_file(contiguous, partial, metadata=signed)
            partial.chmod(0o644)  # safetensors writes for the owner only; a zoo is there to be shared
    except (SafetensorError, OSError) as error:
        raise OSError(f"cannot write {path}: {error}") from error
    return path


# -- reading -----------------------------------------------------------------------------------------------------


def read_safetensors(
    path: str | Path, expected: str, only: Sequence[str] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file.

    Args:
        path: of the file.
        expected: the format it must be of.
        only: names of the tensors to read; None: all of them.

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
            check_format(path, metadata, expected)
            names = file.keys() if only is None else only
            tensors = {name: file.get_tensor(name) for name in names}
    except ZooFileError:
        raise
    except OSError as error:
        raise OSError(f"cannot read {path}: {error}") from error
    except (SafetensorError, ValueError) as error:
        raise ZooFileError(
            f"{path} is truncated or not a safetensors file ({error}). Delete it, or name another file if it is of use"
        ) from error
    return tensors, metadata


def check_format(path: str | Path, header: Mapping[str, Any], expected: str) -> None:
    """:class:`ZooFileError` unless a file is of the format that is read here; it names the version that wrote it.

    Args:
        path: of the file, for the message.
        header: what the file says of itself: its ``format``, and since version 0.2 its ``version``.
        expected: the format that is read here.
    """
    actual = header.get("format")
    if actual == expected:
        return
    if is_own_format(actual) and kind_of_format(actual) != kind_of_format(expected):
        origin = f"{READERS.get(kind_of_format(actual), 'another part of dwflow_lite')} reads it"
    elif is_own_format(actual):
        writer = header.get("version", "0.1.0 or before")
        origin = f"version {writer} of dwflow_lite wrote it, and this version, {__version__}, reads {expected!r} here"
    else:
        origin = "dwflow_lite did not write it"
    raise ZooFileError(f"{path} is of format {actual!r}, not {expected!r}: {origin}")


# What reads the files of each kind.
READERS = {"dwflow_lite.zoo": "Zoo.load", "dwflow_lite.model": "DeepWeightFlow.load"}


def kind_of_format(name: str) -> str:
    """A format without its number."""
    return name.rpartition("/")[0]


def is_own_format(name: Any) -> bool:
    """Whether a format is one of this package's, of any version."""
    return isinstance(name, str) and name.startswith("dwflow_lite.")
