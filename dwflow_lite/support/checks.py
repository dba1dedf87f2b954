"""What callers give, checked at the door: one sentence names what was wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import numpy as np


def is_whole(value: object, least: int = 0) -> bool:
    """Whether ``value`` is an integer (of Python or NumPy, not a bool) of at least ``least``."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least


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


@contextmanager
def failing_as(message: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """Whatever fails in here fails as an error of this kind that says ``message``, and why."""
    try:
        yield
    except Exception as error:
        raise kind(f"{message} ({error})") from error
