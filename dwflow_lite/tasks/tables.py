"""Anything like a table, as one array of numbers: lists, tensors, data frames; what has no numbers is named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dwflow_lite.support.checks import failing_as, plain

NUMBERS = "biuf"  # kinds of dtype that are real numbers: bool, signed, unsigned, float
GAPS = ("NAType", "NaTType")  # of pandas
GAP_TEXTS = ("", "na", "n/a", "nan", "null", "none", "?", "-", ".")  # what files write where nothing was filled in
LONGEST_SHOWN = 40  # characters of a text
NAMED_AT_MOST = 5  # of many columns, an error names so many


def as_array(values: Any, name: str) -> np.ndarray:
    """Anything like an array as one of NumPy.

    Args:
        values: an array, a tensor, lists of lists, or a data frame or series (pandas, polars).
        name: how errors call it.

    Raises:
        ValueError: it is none, is sparse, or is masked somewhere.
    """
    if hasattr(values, "toarray") or (isinstance(values, Tensor) and values.layout != torch.strided):
        dense = "to_dense" if isinstance(values, Tensor) else "toarray"
        raise ValueError(f"{name} is sparse, of shape {tuple(values.shape)}: pass {name}.{dense}() if memory holds it")
    if np.ma.is_masked(values):
        count, columns = _counted(np.ma.getmaskarray(values), ())
        raise ValueError(f"{name} is masked in {count} places{columns}: fill them ({name}.filled(…)) or leave them out")
    if is_frame(values):
        return _array_of_frame(values, name)
    with failing_as(f"{name} is no array of numbers: make its rows equally long, and bfloat16 .float()"):
        if isinstance(values, Tensor):
            values = values.detach().cpu()
        array = np.asarray(_with_gaps(values))
    if array.ndim == 0 and array.dtype == object:
        raise ValueError(
            f"{name} is no array of numbers but {type(values).__name__}: pass an array, a tensor, lists or a data frame"
        )
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    return array


def is_frame(values: Any) -> bool:
    """Whether this is a data frame: a table whose columns have names, and a type each."""
    return hasattr(values, "columns") and hasattr(values, "to_numpy")


def column_names(values: Any) -> tuple[str, ...]:
    """The names of a data frame's columns; none of anything else."""
    return tuple(str(column) for column in values.columns) if is_frame(values) else ()


def check_same_columns(names: Sequence[str], known: Sequence[str], name: str) -> None:
    """Raise ``ValueError`` if two tables name their columns, and not alike; arrays without names pass.

    Args:
        names: of the columns at hand.
        known: of those that the network is trained on.
        name: what the table at hand is called.
    """
    if names and known and tuple(names) != tuple(known):
        missing = [column for column in known if column not in names]
        lacking = f"{missing} {'are' if len(missing) > 1 else 'is'} missing" if missing else "order them alike"
        others = "" if set(names) <= set(known) else ", and leave the others out"
        raise ValueError(f"the columns of {name} are {list(names)}, those of x {list(known)}: {lacking}{others}")


def check_same_index(x: Any, y: Any, names: str) -> None:
    """Raise ``ValueError`` if ``x`` and ``y`` of pandas hold the same rows in another order: rows go by position."""
    if not (hasattr(x, "iloc") and hasattr(y, "iloc")) or len(x) != len(y) or x.index.equals(y.index):
        return
    if x.index.is_unique and y.index.is_unique and x.index.isin(y.index).all():
        raise ValueError(f"{names} have the same index in another order, and rows go by position: pass y.loc[x.index]")


def check_numbers(array: np.ndarray, name: str, columns: Sequence[str] = ()) -> None:
    """Raise ``ValueError`` that names the column of an array which holds anything but real numbers."""
    if array.dtype.kind in NUMBERS:
        return
    where = ""
    if array.ndim == 2 and array.dtype.kind in "OUS":
        where = f": its numbers are written as text, pass {name}.astype(float)"
        for position, column in enumerate(array.T):
            if not all(_is_number(value) for value in column):
                where = _strange(position, columns, column)
                break
    raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}{where}")


def check_finite(array: np.ndarray, name: str, columns: Sequence[str] = ()) -> None:
    """Raise ``ValueError`` that names the columns of an array which hold NaN or infinity."""
    finite = np.isfinite(array)
    if not finite.all():
        count, where = _counted(~finite, columns)
        raise ValueError(f"{name} holds NaN or infinite values in {count} places{where}; clean it first")


def as_float32(array: np.ndarray, name: str, columns: Sequence[str] = ()) -> np.ndarray:
    """Finite numbers as float32; ``ValueError`` names the columns that hold larger ones than it has."""
    with np.errstate(over="ignore"):
        small = array.astype(np.float32)
    too_large = ~np.isfinite(small)
    if too_large.any():
        count, where = _counted(too_large, columns)
        raise ValueError(f"{name} is beyond float32 (3.4e38) in {count} places{where}: divide it by a power of ten")
    return small


def in_columns(which: np.ndarray, columns: Sequence[str] = ()) -> str:
    """In which columns ``which`` (columns,) is True, by name or else by position; nothing of an only, nameless column.

    Example:
        >>> in_columns(np.array([True, False, True])), in_columns(np.array([False, True]), ["age", "size"])
        (' in columns 0, 2', " in column 'size'")
    """
    if which.size == 1 and not columns:
        return ""
    positions = np.flatnonzero(which)
    titles = [_title(position, columns) for position in positions[:NAMED_AT_MOST]]
    more = f" and {len(positions) - NAMED_AT_MOST} more" if len(positions) > NAMED_AT_MOST else ""
    return f" in column{'s' if len(positions) > 1 else ''} {', '.join(titles)}{more}"


def check_no_text(array: np.ndarray, name: str) -> None:
    """Raise ``ValueError`` that says what to do with texts, a path, or the named fields of a record array."""
    if array.dtype.names:
        raise ValueError(
            f"{name} has named fields ({', '.join(array.dtype.names)}): make columns of them, "
            f"np.stack([{name}[field] for field in {name}.dtype.names], 1)"
        )
    first = next((value for value in array.reshape(-1)[:1] if isinstance(value, str)), None)
    if first is None or array.ndim > 1:
        return
    first = str(first)  # not NumPy's
    shown = repr(first if len(first) <= LONGEST_SHOWN else first[:LONGEST_SHOWN] + "…")
    if array.ndim == 0:
        raise ValueError(f"{name} is the text {shown} and no array: if it names a file, read that first")
    raise ValueError(
        f"{name} holds texts ({shown}), and networks take numbers: dwflow_lite.tasks.Vocabulary.of(texts) encodes "
        "them, and tokens=True keeps them whole"
    )


def missing_among(values: np.ndarray) -> int:
    """How many of these objects are gaps: None, NaN, or what pandas writes instead."""
    return sum(
        value is None or type(value).__name__ in GAPS or (isinstance(value, float) and value != value)
        for value in values
    )


def _strange(position: int, columns: Sequence[str], values: Iterable[object]) -> str:
    """What is wrong with a column, in words: its first value that is no number, and a gap only if all of these are."""
    where = f": column {_title(position, columns)} holds"
    strange = [value for value in values if not _is_number(value)]
    if not strange:
        return f"{where} numbers written as text: make them numbers, .astype(float)"
    told = [value for value in strange if not _is_gap(value)]
    if told:
        return f"{where} {plain(told[0])!r}, to be encoded as numbers"
    return f"{where} {plain(strange[0])!r} where a number is missing: fill it in, or leave its row out"


def _is_number(value: object) -> bool:
    """Whether this is a number, or a text of one."""
    if not isinstance(value, str | bytes):
        return isinstance(value, Real) and not isinstance(value, np.timedelta64)  # a whole number to NumPy
    try:
        float(value)
    except ValueError:
        return False
    return True


def _is_gap(value: object) -> bool:
    """Whether this stands where nothing was filled in."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return value is None or (isinstance(text, str) and text.strip().lower() in GAP_TEXTS)


def _title(position: int, columns: Sequence[str]) -> str:
    """A column as a reader knows it: by name, else by position."""
    return repr(columns[position]) if columns else str(position)


def _counted(bad: np.ndarray, columns: Sequence[str]) -> tuple[int, str]:
    """How many places of an array are bad, and in words in which columns, if it is a table."""
    where = in_columns(bad.any(0), columns) if bad.ndim == 2 else ""
    return int(bad.sum()), where


def _with_gaps(values: Any) -> Any:
    """A series of pandas that marks missing numbers by its own sign, with NaN there; anything else as it is."""
    dtype = getattr(values, "dtype", None)
    if hasattr(values, "iloc") and not isinstance(dtype, np.dtype) and getattr(dtype, "kind", "O") in NUMBERS:
        if values.isna().any():
            return values.to_numpy(dtype=np.float64, na_value=np.nan)
        return values.to_numpy(dtype=dtype.type)
    return values


def _array_of_frame(frame: Any, name: str) -> np.ndarray:
    """A data frame (n, columns) as one array; its columns may have a type each."""
    width = frame.shape[1]
    columns = [frame.iloc[:, i] for i in range(width)] if hasattr(frame, "iloc") else [frame[c] for c in frame.columns]
    names = column_names(frame)
    arrays = []
    for position, column in enumerate(columns):
        array = np.asarray(_with_gaps(column))
        if array.dtype == object and all(value is None or isinstance(value, Real) for value in array):
            array = array.astype(np.float64)
        if array.dtype.kind not in NUMBERS:
            raise ValueError(
                f"{name} must hold real numbers, got dtype {array.dtype}{_strange(position, names, array)}"
            )
        arrays.append(array)
    dtype = np.result_type(*arrays) if arrays else np.dtype(float)
    if dtype in (np.uint8, np.bool_):  # small amounts of a table, not pixels
        dtype = np.dtype(np.int64)
    return np.stack(arrays, axis=1).astype(dtype) if arrays else np.empty((len(frame), 0))
