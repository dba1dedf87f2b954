"""Safetensors files written whole or not at all, the version that wrote them, and the digest that vouches for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dwflow_lite.support.paths import check_writable, sweep, written_whole
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


# -- writing -----------------------------------------------------------------------------------------------------


def write_safetensors(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str], *, among_many: bool = False
) -> Path:
    """Write a safetensors file beside its name, then move it there: never half-written.

    Args:
        tensors: what it holds, by name.
        path: where; its folder is made. Where it is a link, what it points to is written.
        metadata: texts by name, among them ``format``; the version of this package is added.
        among_many: into a folder of thousands, whose owner has made sure that it can be written to and swept it.

    Raises:
        OSError: it cannot be written; what was there before is as it was.
    """
    path = Path(path)
    if not among_many:
        check_writable(path)
        sweep(path.parent, path.name)
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


def read_safetensors(path: str | Path, expected: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file; what happens to the file afterwards does not reach the tensors.

    (Those of safetensors are the file itself, mapped into memory: somebody who copies another file over it, or cuts it,
    changes them, long after they were verified.)

    Args:
        path: of the file.
        expected: the format it must be of.

    Raises:
        FileNotFoundError: no such file.
        ZooFileError: truncated, or of another format.
    """
    with opened_safetensors(path, expected) as (file, metadata):
        return {name: file.get_tensor(name).clone() for name in file.keys()}, metadata


class Outline(NamedTuple):
    """What a file says of itself, of which no tensor has been read: type and shape of each, and the metadata."""

    dtypes: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read_outline(path: str | Path, expected: str) -> Outline:
    """The outline of a file; arguments and errors as of :func:`read_safetensors`."""
    with opened_safetensors(path, expected) as (file, metadata):
        slices = {name: file.get_slice(name) for name in file.keys()}
        dtypes = {name: part.get_dtype() for name, part in slices.items()}
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    return Outline(dtypes, shapes, metadata)


@contextmanager
def opened_safetensors(path: str | Path, expected: str) -> Iterator[tuple[Any, dict[str, str]]]:
    """An open file and its metadata; whatever is wrong with it says so in one sentence.

    Raises:
        FileNotFoundError: no such file.
        OSError: it cannot be read.
        ZooFileError: it is truncated, of another format than ``expected``, or no safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        what = "it is no file" if path.exists() else "no such file"
        raise FileNotFoundError(f"no file {path}: {what}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            check_format(path, metadata, expected)
            yield file, metadata
    except ZooFileError:
        raise
    except OSError as error:
        raise OSError(f"cannot read {path}: {error}") from error
    except Exception as error:  # of safetensors, whatever it did not understand
        raise ZooFileError(
            f"{path} is truncated or not a safetensors file ({error}): delete it, or name another file if it is of use"
        ) from error


@contextmanager
def understood(path: str | Path) -> Iterator[None]:
    """Whatever fails in here because of what a file says, though its hash is right, is a :class:`ZooFileError`."""
    try:
        yield
    except (ZooFileError, OSError):
        raise
    except Exception as error:
        raise ZooFileError(
            f"{path} does not say what a file of this format says ({type(error).__name__}: {error}). Delete it"
        ) from error


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
