"""Parameters of notebooks: what the tagged cell declares, and whether a value given for one fits."""

from __future__ import annotations

import ast
import math
import reprlib
from collections.abc import Mapping
from typing import Any

import yaml

from dwflow_lite.course.claims import scalar

MOST_VALUES = 10_000  # in one parameter, counting those in lists
LARGEST = 2**64  # whole numbers below it are taken


class UsageError(Exception):
    """Asked for something that cannot be run; nothing has been executed."""


def literals(source: str) -> dict[str, Any]:
    """Names and values of a cell that holds only `name = literal` lines.

    Raises ValueError or SyntaxError with the offending line: papermill injects below this cell and does not
    run it again, so a value computed in it would keep its default.
    """
    values: dict[str, Any] = {}
    for line in ast.parse(source).body:
        match line:
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                pass
            case _:
                raise ValueError(f"line {line.lineno} is no plain 'name = literal'; put it in the next cell")
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, TypeError):  # TypeError: a list as a key
            raise ValueError(f"'{name}' is computed, not a literal; derive it in the next cell") from None
    return values


def from_yaml(name: str, text: str) -> Any:
    """The value typed for a parameter, read as YAML; UsageError for what is none."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:  # also dates and numbers that are none
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"-p: '{name}' is no valid YAML: {reason}") from None


def objection(value: Any) -> str:
    """Why a value cannot be a parameter, to follow "is" in a sentence; empty if it can.

    A parameter goes into the report, which is JSON, and comes back from it as it was.

    Example:
        >>> objection([1, 2.5, "text", None])
        ''
        >>> objection([1, float("inf")])
        'inf, and no finite number'
    """
    waiting = [value]
    seen = 0
    while waiting:
        part = waiting.pop()
        seen += 1
        if seen > MOST_VALUES:  # so is a list that holds itself
            return f"more than {MOST_VALUES:,} values"
        if isinstance(part, Mapping):
            waiting += [*part.keys(), *part.values()]
            if not all(isinstance(key, str) for key in part):
                return "a mapping whose keys are not all text"
        elif isinstance(part, list | tuple):
            waiting += part
        else:
            reason = _objection_to_one(part)
            if reason:
                return reason
    return ""


def _objection_to_one(value: Any) -> str:
    """As `objection`, for what holds no other values."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}, and no finite number"
    if isinstance(value, int) and not -LARGEST < value < LARGEST:
        return "a whole number beyond 64 bits"
    if isinstance(value, str) and any(0xD800 <= ord(letter) <= 0xDFFF for letter in value):
        return "text with a byte that is no UTF-8"
    if value is None or isinstance(value, bool | int | float | str):
        return ""
    return f"of type {type(value).__name__}, which JSON does not know"


def fit(defaults: Mapping[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` as the parameters that `defaults` declare; UsageError for an unknown name or another type.

    An integer passes for a float, and so does text like 1e-3, which YAML does not read as a number. `where` begins
    the complaint.
    """
    fitted: dict[str, Any] = {}
    for name, value in values.items():
        if name not in defaults:
            raise UsageError(f"{where} has no parameter '{name}'; it has: {', '.join(defaults) or 'none'}")
        default = defaults[name]
        value = _like(default, value)
        reason = objection(value)
        if reason:
            raise UsageError(f"{where}: '{name}' is {reason}")
        if not _same_kind(default, value):
            kind = type(default).__name__
            other = type(value).__name__
            given = reprlib.repr(value)
            raise UsageError(f"{where}: '{name}' is {kind} (default {default!r}), but {given} is {other}")
        if isinstance(default, list | tuple):
            _check_elements(name, default, value, where)
        fitted[name] = value
    return fitted


def _like(default: Any, value: Any) -> Any:
    """A value that is meant as a number as a number, alone or in a list; others as they are."""
    if isinstance(value, list | tuple) and isinstance(default, list | tuple) and len(value) <= MOST_VALUES:
        first = default[0] if default and len({type(one) for one in default}) == 1 else None
        return [_like(first, one) for one in value]
    try:
        value = scalar(value)  # of NumPy
        if type(default) is float and type(value) in (int, str):
            return float(value)
    except (ValueError, OverflowError):  # several values; text; an integer beyond floats
        pass
    return value


def _same_kind(default: Any, value: Any) -> bool:
    """Whether a value may stand for a default: the same type, a list for a tuple, anything for None."""
    if default is None or type(default) is type(value):
        return True
    return isinstance(default, tuple) and isinstance(value, list)


def _check_elements(name: str, default: list | tuple, value: list, where: str) -> None:
    """UsageError for a list that holds something else than the default's numbers or words."""
    kinds = {type(one) for one in default}
    if len(kinds) != 1 or not kinds <= {bool, int, float, str}:
        return
    (kind,) = kinds
    for one in value:
        if type(one) is not kind:
            other = f"{reprlib.repr(one)} is {type(one).__name__}"
            raise UsageError(f"{where}: '{name}' is a list of {kind.__name__} (default {default!r}), but {other}")
