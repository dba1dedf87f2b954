"""Checks of the exercises: ``check("02.1", your_function)`` says what is right, or what was expected and what came.

A check never raises, so that *Run all* reaches the end of a notebook; it returns whether the answer holds.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

CHECKS: dict[str, Callable[[Callable], None]] = {}


def exercise(number: str) -> Callable:
    """Register the check of an exercise; it raises ``AssertionError`` with a sentence where the answer is wrong."""

    def register(function: Callable[[Callable], None]) -> Callable[[Callable], None]:
        CHECKS[number] = function
        return function

    return register


def check(number: str, answer: Callable) -> bool:
    """Try a reader's answer to exercise ``number`` ("02.1": notebook 02, exercise 1) and print the verdict."""
    try:
        import_module(f"dwflow_lite.course.exercises.notebook_{number[:2]}")
    except ModuleNotFoundError:
        pass
    if number not in CHECKS:
        raise ValueError(f"no exercise {number!r}")
    try:
        CHECKS[number](answer)
    except NotImplementedError:
        print(f"○ {number}: not started. Replace the line that raises, and run the cell again.")
    except AssertionError as wrong:
        print(f"✗ {number}: {wrong}")
    except Exception as error:
        print(f"✗ {number}: your code raised {type(error).__name__}: {error}")
    else:
        print(f"✓ {number}: right.")
        return True
    return False
