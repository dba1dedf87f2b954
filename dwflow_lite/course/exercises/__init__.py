"""Checks of the exercises: ``check("02.1", your_function)`` says what is right, or what was expected and what came.

A check never raises, so that *Run all* reaches the end of a notebook; it returns whether the answer holds.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any
from warnings import catch_warnings, simplefilter

CHECKS: dict[str, Callable[[Callable], None]] = {}


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
    right, sentence = _verdict(number, answer)
    print(sentence)
    return right


class _Watched:
    """The reader's function; remembers what it raised and what it returned last."""

    def __init__(self, answer: Callable) -> None:
        self.answer = answer
        self.error: BaseException | None = None
        self.returned: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            self.returned = self.answer(*args, **kwargs)
        except (Exception, SystemExit) as error:
            self.error = error
            raise
        return self.returned


def _verdict(number: str, answer: Any) -> tuple[bool, str]:
    """Whether the answer is right, and the sentence that says so."""
    if not callable(answer):
        return False, f"✗ {number}: the answer is a function; hand over the function itself, not {_described(answer)}."
    watched = _Watched(answer)
    try:
        with catch_warnings():
            simplefilter("ignore")  # of torch, about what the check makes of an answer of another kind
            CHECKS[number](watched)
    except (Exception, SystemExit) as error:
        if error is not watched.error:  # of the check
            return False, f"✗ {number}: {_complaint(number, error, watched.returned)}"
        if isinstance(error, NotImplementedError):
            return False, f"○ {number}: not started. Replace the line that raises, and run the cell again."
        return False, f"✗ {number}: your code raised {type(error).__name__}: {_short(error)}".rstrip(" :")
    return True, f"✓ {number}: right."


def _complaint(number: str, error: BaseException, returned: Any) -> str:
    """What a check found wrong with what was returned; an answer of another kind makes the check itself fail."""
    if isinstance(error, AssertionError) and str(error):
        return _short(error)
    task = (CHECKS[number].__doc__ or "").strip().splitlines()[0]
    return f"your function returned {_described(returned)}, which is not what was asked for: {task}"


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
