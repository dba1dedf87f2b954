"""A reader's arrays, checked, cut and scaled: the steps of :meth:`Task.from_arrays`, in NumPy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dwflow_lite.support.checks import failing_as, is_whole
from dwflow_lite.tasks.measures import KINDS
from dwflow_lite.tasks.scaling import Preparation, Scale
from dwflow_lite.tasks.splits import Split, check_fractions, deal_rows
from dwflow_lite.tasks.tables import (
    NUMBERS,
    as_array,
    as_float32,
    check_finite,
    check_no_text,
    check_numbers,
    check_same_columns,
    check_same_index,
    column_names,
    in_columns,
    missing_among,
)

BRIGHT = 127  # of pixels, which go to 255; where none is brighter, whole numbers may be amounts
LARGEST = 2**63 - 1  # of int64, which holds labels and tokens


@dataclass(frozen=True, eq=False)
class Examples:
    """Checked arrays of one source.

    Attributes:
        x: inputs (n, ...), in the precision in which they came, or int64 tokens.
        y: labels (n,), int64, or targets (n, outputs), float64.
        columns: names of the features, of a data frame.
    """

    x: np.ndarray
    y: np.ndarray
    columns: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: np.ndarray) -> Examples:
        """These rows (m,), copied."""
        return Examples(self.x[rows], self.y[rows], self.columns)

    def tensors(self) -> Split:
        """The same as tensors, laid out row by row."""
        x = np.ascontiguousarray(self.x)
        y = np.ascontiguousarray(self.y)
        return Split(torch.from_numpy(x), torch.from_numpy(y))


@dataclass(frozen=True)
class Reading:
    """How arrays are to be read; checks itself.

    Attributes:
        kind: ``"classification"`` or ``"regression"``.
        outputs: number of classes; None: the largest label plus one, or regression.
        tokens: inputs are whole numbers and stay so.
        standardise: scale inputs, and targets of a regression; None: inputs only where they are vectors.
    """

    kind: str
    outputs: int | None = None
    tokens: bool = False
    standardise: bool | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no task kind {self.kind!r}: choose one of {', '.join(KINDS)}")
        if not isinstance(self.standardise, bool | np.bool_ | None):
            raise ValueError(f"standardise is True, False or None (vectors only), got {self.standardise!r}")
        if self.tokens and self.standardise:
            raise ValueError("tokens are names, not amounts: leave standardise out")
        if self.outputs is None:
            return
        if self.kind == "regression" or not is_whole(self.outputs, 1):
            raise ValueError(
                f"outputs is a whole number >= 1 of classes; leave it out in regression; got {self.outputs!r}"
            )

    def examples(self, x: Any, y: Any, suffix: str = "") -> Examples:
        """Read one pair of arrays; ``suffix`` (``""`` or ``"_test"``) is how errors name them.

        Raises:
            ValueError: arrays that are no inputs or targets of this kind, or whose rows do not go together.
        """
        check_same_index(x, y, f"x{suffix} and y{suffix}")
        inputs = read_tokens(x, f"x{suffix}") if self.tokens else read_inputs(x, f"x{suffix}")
        if self.kind == "regression":
            targets = read_targets(y, f"y{suffix}")
        else:
            targets = read_labels(y, self.outputs, f"y{suffix}")
        if len(inputs) != len(targets):
            raise ValueError(f"x{suffix} has {len(inputs)} examples but y{suffix} has {len(targets)}")
        return Examples(inputs, targets, column_names(x))

    def scales_inputs(self, x: np.ndarray) -> bool:
        """Whether these inputs (n, ...) are to be standardised: by default vectors are, images and tokens are not."""
        if self.standardise is None:
            return x.ndim == 2 and not self.tokens
        return bool(self.standardise)

    @property
    def scales_targets(self) -> bool:
        """Whether targets are to be standardised."""
        return self.kind == "regression" and self.standardise in (None, True)


# -- one array --------------------------------------------------------------------------------------------


def read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of these names in an ``.npz``; ``ValueError`` if it cannot be read or one is missing."""
    with failing_as(f"{path.name} is truncated or not a readable .npz of plain arrays"):
        with np.load(path, allow_pickle=False) as archive:
            present = archive.files
            arrays = {name: archive[name] for name in names if name in present}
    missing = [name for name in names if name not in present]
    if missing:
        raise ValueError(f"{path.name} lacks {missing}; it holds {present}")
    return arrays


def read_tokens(x: Any, name: str) -> np.ndarray:
    """Whole numbers >= 0 of shape (texts, length), as int64.

    Raises:
        ValueError: anything else, or tokens beyond int64.
    """
    x = as_array(x, name)
    check_no_text(x, name)
    if x.ndim != 2 or x.size == 0 or x.dtype.kind not in "iu" or x.min() < 0:
        raise ValueError(f"{name} must be whole numbers >= 0 of shape (texts, length), got {x.dtype} of {x.shape}")
    if int(x.max()) > LARGEST:
        raise ValueError(f"{name} holds the token {x.max()}, beyond int64; count the tokens from 0")
    return x.astype(np.int64)


def read_inputs(x: Any, name: str) -> np.ndarray:
    """Finite numbers of shape (n, ...), as they came, or as float32 where they are pixels: bytes divided by 255.

    Raises:
        ValueError: fewer than two axes, nothing in them, text, or NaN or infinite numbers.
    """
    columns = column_names(x)
    x = as_array(x, name)
    check_no_text(x, name)
    if x.ndim < 2 or x.size == 0:
        raise ValueError(
            f"{name} must have shape (examples, ...) with at least one example and one number in each, got {x.shape}"
            + (f"; one feature is {name}[:, None]" if x.ndim == 1 else "")
        )
    check_numbers(x, name, columns)
    if x.dtype == np.uint8:
        return x.astype(np.float32) / 255
    if x.dtype == bool:
        return x.astype(np.float32)
    check_finite(x, name, columns)
    return x


def read_rows(x: Any, shape: tuple[int, ...], tokens: bool) -> np.ndarray:
    """New inputs (n, *shape), read as those of a task were.

    Raises:
        ValueError: one row alone, rows of another shape, or what no input of a task may be.
    """
    alone = as_array(x, "x")
    if alone.shape == shape and alone.dtype.kind in NUMBERS:
        raise ValueError(
            f"x must have shape (examples, ...), and {shape} is that of one row alone: pass a list of it, [x]"
        )
    inputs = read_tokens(x, "x") if tokens else read_inputs(x, "x")
    if inputs.shape[1:] != shape:
        raise ValueError(
            f"these rows have inputs of shape {inputs.shape[1:]}, the task of {shape}: pass the same columns"
        )
    return inputs


def read_targets(y: Any, name: str) -> np.ndarray:
    """Finite targets (n,) or (n, outputs) of a regression, as float64 (n, outputs).

    Raises:
        ValueError: another shape, no targets, or targets that are not finite numbers.
    """
    columns = column_names(y)
    y = as_array(y, name)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or y.size == 0 or y.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must be finite targets of shape (n,) or (n, outputs), got {y.dtype} of shape {y.shape}"
        )
    with failing_as(f"{name} must be finite targets"):
        check_finite(y, name, columns)
    return y.astype(np.float64)


def read_labels(y: Any, classes: int | None, name: str) -> np.ndarray:
    """Labels 0 … classes-1 of shape (n,) or (n, 1), as int64 (n,); without ``classes`` any from 0 on.

    Raises:
        ValueError: another shape, no labels, or labels that are not whole numbers of this range.
    """
    y = as_array(y, name)
    if y.ndim == 2 and y.shape[1] == 1:  # as Keras writes some
        y = y[:, 0]
    numbers = y.ndim == 1 and len(y) > 0 and y.dtype.kind in "biuf"
    if not numbers or not np.isfinite(y).all() or (y != np.round(y)).any():
        raise ValueError(
            f"{name} must be whole-number labels of shape (n,), got {y.dtype} of shape {y.shape}"
            + _how_to_label(y, name)
        )
    lowest, highest = int(y.min()), int(y.max())
    top = highest if classes is None else int(classes) - 1
    if lowest < 0 or highest > top:
        how = f" (np.unique({name}, return_inverse=True)); amounts to be predicted take kind='regression'"
        raise ValueError(
            f"{name} has labels from {lowest} to {highest}, outside 0 … {top}; count the classes from 0"
            + (how if classes is None else "")
        )
    if highest > LARGEST:
        raise ValueError(f"{name} has labels up to {highest:g}, beyond int64; count the classes from 0")
    return y.astype(np.int64)


def _how_to_label(y: np.ndarray, name: str) -> str:
    """What to do with labels that are none, in words."""
    if y.ndim == 2 and y.dtype.kind in "biuf":
        return f"; of one row for each example, with a 1 at its class, {name}.argmax(1) makes labels"
    if y.ndim == 1 and y.dtype == object and missing_among(y):
        return f"; {missing_among(y)} of them are missing: leave these examples out"
    if y.ndim == 1 and y.dtype.kind in "OUST":
        return f"; np.unique({name}, return_inverse=True) gives the names of the classes (for classes=), and labels"
    if y.ndim == 1 and y.dtype.kind == "f":
        missing = int((~np.isfinite(y)).sum())
        if missing:
            return f"; {missing} of them are NaN or infinite: leave these examples out"
        return "; if they are amounts to be predicted, pass kind='regression'"
    return ""


# -- all arrays together ----------------------------------------------------------------------------------


def check_cut(fractions: Mapping[str, float], seed: int) -> None:
    """Raise ``ValueError`` unless the shares and the seed of a cut make one."""
    check_fractions(fractions)
    if not is_whole(seed):
        raise ValueError(f"seed must be a whole number >= 0, got {seed!r}")


def is_pixels(x: Any) -> bool:
    """Whether these inputs are unsigned bytes, which are read as pixels and divided by 255."""
    return as_array(x, "x").dtype == np.uint8


def check_same_scale(x: Any, x_test: Any) -> None:
    """Raise ``ValueError`` if one holds pixels as bytes and the other as numbers: they would differ by 255."""
    if is_pixels(x) != is_pixels(x_test):
        raise ValueError("of x and x_test one is bytes (divided by 255), one is not: make both uint8 or both float")


def check_same_shapes(examples: Examples, official: Examples) -> None:
    """Raise ``ValueError`` unless one input, and one target, has the same shape in both sources."""
    check_same_columns(official.columns, examples.columns, "x_test")
    if official.x.shape[1:] != examples.x.shape[1:]:
        raise ValueError(f"x_test has inputs of shape {official.x.shape[1:]}, x of shape {examples.x.shape[1:]}")
    if official.y.shape[1:] != examples.y.shape[1:]:
        raise ValueError(f"y_test has targets of shape {official.y.shape[1:]}, y of shape {examples.y.shape[1:]}")


def count_outputs(kind: str, outputs: int | None, sources: Sequence[Examples]) -> int:
    """How many numbers a network is to return for one example.

    Args:
        kind: of the task.
        outputs: number of classes as the reader says, or None: the labels that occur say it.
        sources: all examples.

    Raises:
        ValueError: one class only, or a target that does not vary; or, without ``outputs``, labels that are not
            0, 1, 2 … without a gap.
    """
    if kind == "regression":
        _check_targets_vary(np.concatenate([source.y for source in sources]))
        return sources[0].y.shape[1]
    labels = np.unique(np.concatenate([source.y for source in sources]))
    highest = int(labels[-1])
    if outputs is not None:
        return int(outputs)
    if len(labels) <= highest:
        raise ValueError(
            f"y has labels up to {highest}, but only {len(labels)} of the classes 0 … {highest} occur: count them from "
            "0 (np.unique(y, return_inverse=True)), or pass outputs=, the number of classes, if some are only missing; "
            "for amounts to be predicted pass kind='regression'"
        )
    if len(labels) == 1:
        raise ValueError("y holds one class only: there is nothing to learn; pass outputs=, if others are only missing")
    return len(labels)


def _check_targets_vary(y: np.ndarray) -> None:
    """Raise ``ValueError`` if a column of targets (n, outputs) is the same for all examples."""
    constant = (y == y[0]).all(0)
    if constant.any():
        raise ValueError(
            f"y{in_columns(constant)} is the same for all {len(y)} examples: there is nothing to learn; leave it out"
        )


def cut(
    sources: Sequence[tuple[Examples, Sequence[str]]], stratified: bool, fractions: Mapping[str, float], seed: int
) -> tuple[dict[str, Examples], dict[str, np.ndarray]]:
    """Cut each source into its splits.

    Args:
        sources: examples, and the splits they are dealt to.
        stratified: deal class by class (:func:`deal_rows`).
        fractions: split name -> share of its source.
        seed: of the order.

    Returns:
        Split name -> its examples, and split name -> their positions, counted through all sources.
    """
    rng = np.random.default_rng(seed)
    parts: dict[str, Examples] = {}
    positions: dict[str, np.ndarray] = {}
    offset = 0
    for examples, splits in sources:
        shares = {split: fractions[split] for split in splits}
        for split, rows in deal_rows(examples.y, stratified, shares, rng).items():
            parts[split] = examples.take(rows)
            positions[split] = rows + offset
        offset += len(examples)
    return parts, positions


def standardised(
    parts: Mapping[str, Examples], reading: Reading, pixels: bool
) -> tuple[dict[str, Examples], Preparation]:
    """Every split as the networks see it, in float32: scaled as ``train`` says, where that was asked for.

    Args:
        parts: split name -> its examples.
        reading: says what is scaled.
        pixels: inputs were bytes.

    Returns:
        The same, scaled; and what was done.
    """
    train = parts["train"]
    _note_whole_pixels(train.x, reading)
    inputs = targets = None
    if reading.scales_inputs(train.x):
        inputs = Scale.of(train.x, "x", train.columns)
    if reading.scales_targets:
        targets = Scale.of(train.y, "y")
    done = Preparation(inputs, targets, train.columns, pixels)
    scaled: dict[str, Examples] = {}
    for split, part in parts.items():
        x = part.x if reading.tokens else prepared(part.x, inputs, "x", part.columns)
        y = prepared(part.y, targets, "y") if reading.kind == "regression" else part.y
        scaled[split] = Examples(x, y, part.columns)
    return scaled, done


def _note_whole_pixels(x: np.ndarray, reading: Reading) -> None:
    """Warn of images (n, ...) that hold what bytes do, 0 … 255, and are no bytes: nothing scales them."""
    if x.ndim < 3 or x.dtype == np.uint8 or reading.tokens or reading.scales_inputs(x):
        return
    if x.min() >= 0 and BRIGHT < x.max() <= 255 and (x == np.round(x)).all():
        warnings.warn(
            f"x holds whole numbers up to {x.max():g} as {x.dtype}, and stays as it is: pixels are divided by 255 as "
            "bytes, x.astype(np.uint8)",
            stacklevel=4,
        )


def prepared(values: np.ndarray, scale: Scale | None, name: str, columns: Sequence[str] = ()) -> np.ndarray:
    """Numbers (n, ...) as the networks see them: scaled, if there is a scale, and float32."""
    return as_float32(values, name, columns) if scale is None else scale.apply(values, name, columns)
