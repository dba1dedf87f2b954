"""What callers give, checked at the door: one sentence names what was wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, isfinite
from numbers import Real

import numpy as np


def is_whole(value: object, least: int = 0) -> bool:
    """Whether ``value`` is an integer (of Python or NumPy) of at least ``least``."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least


def is_number(value: object, least: float = -inf) -> bool:
    """Whether ``value`` is a finite real number (of Python or NumPy) of at least ``least``."""
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value) and value >= least


@contextmanager
def failing_as(message: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """Whatever fails in here fails as an error of this kind that says ``message``, and why."""
    try:
        yield
    except Exception as error:
        raise kind(f"{message} ({error})") from error
