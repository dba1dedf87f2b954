"""What callers give, checked at the door: one sentence names what was wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from math import inf, isfinite
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch

LARGEST_SEED = 2**63 - 1
LONGEST_SHOWN = 100  # characters of a value in an error


def is_whole(value: object, least: int = 0) -> bool:
    """Whether ``value`` is an integer of at least ``least``: of Python, NumPy or torch (0 axes), and not a bool."""
    value = plain(value)
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def whole(value: object, name: str, least: int = 0) -> int:
    """A whole number (of Python, NumPy or torch) as Python's own, which torch and JSON take.

    Raises:
        ValueError: it is none, or below ``least``; named ``name``.

    Example:
        >>> whole(np.int64(3), "members"), whole(torch.tensor(3), "members")
        (3, 3)
    """
    if not is_whole(value, least):
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    return int(value)


def whole_seed(seed: object) -> int:
    """A seed (of Python, NumPy or torch) as Python's own number, which torch and JSON take.

    Raises:
        ValueError: it is no whole number from 0 to 2**63 - 1.
    """
    if not is_whole(seed) or seed > LARGEST_SEED:
        raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1, got {seed!r}")
    return int(seed)


def is_choice(value: object, choices: Collection[str]) -> bool:
    """Whether ``value`` is text, and one of the choices."""
    return isinstance(value, str) and value in choices


# What some system does not take in the name of a file; and names that Windows keeps for devices.
NOT_IN_FILE_NAMES = frozenset('/\\:*?"<>|') | {chr(code) for code in (*range(32), 127)}
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
LONGEST_NAME = 150  # bytes; a file name has at most 255, and hashes and suffixes stand beside


def check_file_name(name: object, what: str, longest: int = LONGEST_NAME) -> None:
    """Raise ``ValueError`` unless ``name`` can be (a part of) the name of a file on every system, and no path.

    Args:
        name: to be checked.
        what: how the error calls it.
        longest: how many bytes it may have.

    Example:
        >>> check_file_name("my task {2}", "a task's name")
        >>> check_file_name("../mine", "a task's name")
        Traceback (most recent call last):
        ValueError: a task's name is a part of file names, which have no '/': got '../mine'
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{what} is a part of file names: it must be text, and not empty; got {name!r}")
    strange = sorted(NOT_IN_FILE_NAMES.intersection(name))
    if strange:
        raise ValueError(f"{what} is a part of file names, which have no {strange[0]!r}: got {name!r}")
    try:
        length = len(name.encode())
    except UnicodeEncodeError:  # half a character
        raise ValueError(f"{what} is a part of file names, and no text of Unicode: got {name!r}") from None
    if length > longest:
        raise ValueError(f"{what} is a part of file names: {length} bytes are more than {longest}; shorten it")
    if name.strip(" .") == "" or name != name.strip() or name.split(".")[0].strip().upper() in DEVICES:
        raise ValueError(f"{what} is a part of file names, and some system takes no {name!r}: choose another")


def check_options(where: str, options: Mapping[str, object], known: Collection[str]) -> None:
    """Refuse a keyword that ``where`` does not know.

    Args:
        where: the function as a reader calls it, e.g. ``"load_task('iris')"``.
        options: what it was called with, by name.
        known: the names there are.

    Raises:
        TypeError: as Python raises for an unknown keyword, but naming the known ones too.
    """
    for name in options:
        if name not in known:
            raise TypeError(f"{where} has no option {name!r}: choose from {', '.join(known)}")


def is_number(value: object, least: float = -inf) -> bool:
    """Whether ``value`` is a finite real number (of Python, NumPy or torch, of 0 axes) of at least ``least``."""
    value = plain(value)
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return isfinite(value) and value >= least
    except OverflowError:  # a whole number beyond all floats
        return False


def plain(value: object) -> object:
    """A number of NumPy or torch, also in an array or tensor without axes, as Python's own; anything else as it is."""
    return value.item() if isinstance(value, np.generic | np.ndarray | torch.Tensor) and value.ndim == 0 else value


def brief(value: object) -> str:
    """A value as an error names it: as Python shows it if that is short, else its beginning, or its class alone.

    Example:
        >>> brief("iris"), brief(torch.nn.Sequential(torch.nn.ReLU()))
        ("'iris'", 'a value of class Sequential')
    """
    shown = repr(value)
    if len(shown) <= LONGEST_SHOWN and "\n" not in shown:
        return shown
    if isinstance(value, int | float | str):
        return shown[:LONGEST_SHOWN] + "…"
    return f"a value of class {type(value).__name__}"


@contextmanager
def failing_as(message: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """Whatever fails in here fails as an error of this kind that says ``message``, and why."""
    try:
        yield
    except Exception as error:
        raise kind(f"{message} ({error})") from error


class Range(NamedTuple):
    """Which numbers are allowed: in words, and as a test."""

    words: str
    allows: Callable[[object], bool]


WHOLE = Range("a whole number >= 0", is_whole)
COUNT = Range("a whole number >= 1", lambda value: is_whole(value, 1))
POSITIVE = Range("a number > 0", lambda value: is_number(value) and value > 0)
NOT_NEGATIVE = Range("a number >= 0", lambda value: is_number(value, 0))


def check_ranges(values: Mapping[str, object], ranges: Mapping[str, Range]) -> None:
    """``ValueError`` that names every value out of its range, and what is allowed.

    Args:
        values: by name.
        ranges: what is allowed, for each of these names.

    Example:
        >>> check_ranges({"steps": 5, "lr": 0.1}, {"steps": COUNT, "lr": POSITIVE})
        >>> check_ranges({"steps": 0, "lr": 0.1}, {"steps": COUNT, "lr": POSITIVE})
        Traceback (most recent call last):
        ValueError: out of range: steps (steps must be a whole number >= 1, got 0)
    """
    names, reasons = [], []
    for name, value in values.items():
        if not ranges[name].allows(value):
            names.append(name)
            reasons.append(f"{name} must be {ranges[name].words}, got {brief(value)}")
    if names:
        raise ValueError(f"out of range: {', '.join(names)} ({'; '.join(reasons)})")
