"""Checks of the exercises: ``check("02.1", your_function)`` says what is right, or what was expected and what came.

A check never raises, so that *Run all* reaches the end of a notebook; it returns whether the answer holds. In a
student's copy it also keeps what it said in ``scores/`` beside the notebook, and the last cell lists what is ``left``.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from math import log10
from numbers import Integral
from typing import Any
from warnings import catch_warnings, simplefilter

from dwflow_lite.course.classroom.scores import NOT_YET, RIGHT, STATUSES, WRONG, keep, kept

CHECKS: dict[str, Callable[[Callable], None]] = {}
_STATUS: dict[str, str] = {}  # of the exercises that were checked in this kernel, by number
_SAID: set[str] = set()  # about score files: once is enough


def exercise(number: str) -> Callable:
    """Register the check of an exercise; it raises ``AssertionError`` with a sentence where the answer is wrong."""

    def register(function: Callable[[Callable], None]) -> Callable[[Callable], None]:
        CHECKS[number] = function
        return function

    return register


def check(number: str, answer: Callable) -> bool:
    """Try a reader's answer to exercise ``number`` ("02.1": notebook 02, exercise 1) and print the verdict."""
    number = str(number)
    if re.fullmatch(r"\d\d[a-z]?\.\d+", number):
        with suppress(ModuleNotFoundError):
            import_module(f"dwflow_lite.course.exercises.notebook_{number.partition('.')[0]}")
    if number not in CHECKS:
        raise ValueError(f"no exercise {number!r}")
    status, sentence = _verdict(number, answer)
    print(sentence)
    _STATUS[number] = status
    about_the_file = keep(number, status, sentence.partition(": ")[2])
    if about_the_file and about_the_file not in _SAID:
        _SAID.add(about_the_file)
        print(about_the_file)
    return status == RIGHT


def left(*numbers: str) -> None:
    """Print how these exercises stood when they were last checked: the last cell of a notebook in a student's copy.

    Example:
        >>> left("00.8", "00.9")
        exercises: 0 of 2 right; not yet: 00.8, 00.9 (not kept: no file dwflow_copy.json lies beside the notebook)
    """
    scores, file, why_not = kept(numbers[0])
    stand = {number: score.status for number, score in scores.items()} if file else _STATUS
    by_status = {status: [n for n in numbers if stand.get(n, NOT_YET) == status] for status in STATUSES}
    parts = [f"exercises: {len(by_status[RIGHT])} of {len(numbers)} right"]
    parts += [f"{status}: {', '.join(by_status[status])}" for status in (WRONG, NOT_YET) if by_status[status]]
    where = f"kept in {file}" if file else f"not kept: {why_not}"
    print(f"{'; '.join(parts)} ({where})")


class _Watched:
    """The reader's function; remembers what it raised and what it returned last, and hands it on as another kind."""

    def __init__(self, answer: Callable, kind: str = "") -> None:
        self.answer = answer
        self.kind = kind
        self.error: BaseException | None = None
        self.returned: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            self.returned = self.answer(*args, **kwargs)
        except (Exception, SystemExit) as error:
            self.error = error
            raise
        return _as_tensors(self.returned, self.kind) if self.kind else self.returned


KINDS = ("", "as it is", "float32", "float64")  # "": what was returned; else tensors, where it holds numbers


def _as_tensors(value: Any, kind: str) -> Any:
    """Numbers in lists and arrays as tensors, of the type they have or of a float type."""
    import numpy as np
    import torch

    if isinstance(value, dict):
        return {key: _as_tensors(one, kind) for key, one in value.items()}
    if isinstance(value, tuple):
        return tuple(_as_tensors(one, kind) for one in value)
    if isinstance(value, list | np.ndarray):
        with suppress(Exception):  # it holds something else
            value = torch.as_tensor(np.asarray(value))
    if isinstance(value, torch.Tensor) and value.is_floating_point() and kind.startswith("float"):
        value = value.to(getattr(torch, kind))
    return value


def _verdict(number: str, answer: Any) -> tuple[str, str]:
    """How the answer stands, and the sentence that says so."""
    if not callable(answer):
        return WRONG, f"✗ {number}: the answer is a function; hand over the function itself, not {_described(answer)}."
    complaint = ""
    for kind in KINDS:  # right numbers of another kind, an array say, are right
        watched = _Watched(answer, kind)
        try:
            with catch_warnings():
                simplefilter("ignore")  # of torch, about what the check makes of an answer of another kind
                CHECKS[number](watched)
        except (Exception, SystemExit) as error:
            if isinstance(error, NotImplementedError) and error is watched.error:
                return NOT_YET, f"○ {number}: not started. Replace the line that raises, and run the cell again."
            if error is watched.error:
                return WRONG, f"✗ {number}: your code raised {type(error).__name__}: {_short(error)}".rstrip(" :")
            if isinstance(error, AssertionError) and str(error):
                return WRONG, f"✗ {number}: {_short(error)}"
            complaint = complaint or _complaint(number, error, watched.returned)
        else:
            return RIGHT, f"✓ {number}: right."
    return WRONG, f"✗ {number}: {complaint}"


def _complaint(number: str, error: BaseException, returned: Any) -> str:
    """That an answer is of another kind, by which the check itself failed, and how; and what was asked for."""
    task = (CHECKS[number].__doc__ or "").strip().splitlines()[0]
    failed = f"{type(error).__name__}: {_short(error)}".rstrip(" :")
    return f"your function returned {_described(returned)}, with which nothing could be checked ({failed}). {task}"


def in_short(count: int) -> str:
    """A whole number of any size in a few letters.

    Example:
        >>> in_short(24), in_short(10**40)
        ('24', 'about 10^40.00')
    """
    return str(count) if abs(count) < 10**6 else f"about {'-' if count < 0 else ''}10^{log10(abs(count)):.2f}"


def whole(count: Any) -> int:
    """A count that an answer gave, if it is a whole number; ``AssertionError`` that says why it must be, if not."""
    assert isinstance(count, Integral), (
        f"a count is exact: return a whole number (int), not {_described(count)}; math.factorial gives one"
    )
    return int(count)


def _described(value: Any) -> str:
    """A value in a few words."""
    if value is None:
        return "None"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"a {type(value).__name__} of shape {_short(tuple(shape))} and type {getattr(value, 'dtype', 'unknown')}"
    with suppress(Exception):
        return f"{_short(reprlib.repr(value))} ({type(value).__name__})"
    return f"a {type(value).__name__}"


def _short(thing: Any) -> str:
    """A text on one line, not too long."""
    try:
        line = " ".join(str(thing).split())
    except Exception:
        line = f"a {type(thing).__name__}"
    return line if len(line) <= 400 else line[:400] + " …"
