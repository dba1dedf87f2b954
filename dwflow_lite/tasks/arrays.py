"""A reader's arrays, checked, cut and scaled: the steps of :meth:`Task.from_arrays`, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dwflow_lite.support.checks import failing_as, is_whole
from dwflow_lite.tasks.measures import KINDS
from dwflow_lite.tasks.splits import Split, check_fractions, deal_rows


@dataclass(frozen=True, eq=False)
class Examples:
    """Checked arrays of one source.

    Attributes:
        x: inputs (n, ...), float32, or int64 tokens.
        y: labels (n,), int64, or targets (n, outputs), float32.
    """

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: np.ndarray) -> Examples:
        """These rows (m,), copied."""
        return Examples(self.x[rows], self.y[rows])

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
        standardise: inputs will be scaled.
    """

    kind: str
    outputs: int | None = None
    tokens: bool = False
    standardise: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no task kind {self.kind!r}: choose one of {', '.join(KINDS)}")
        if self.tokens and self.standardise:
            raise ValueError("tokens are names, not amounts: leave standardise out")
        if self.outputs is None:
            return
        if self.kind == "regression" or not is_whole(self.outputs, 1):
            raise ValueError(
                f"outputs is a whole number >= 1 of classes; leave it out in regression; got {self.outputs!r}"
            )

    def examples(self, x: np.ndarray | Tensor, y: np.ndarray | Tensor, suffix: str = "") -> Examples:
        """Read one pair of arrays; ``suffix`` (``""`` or ``"_test"``) is how errors name them."""
        inputs = read_tokens(x, f"x{suffix}") if self.tokens else read_inputs(x, f"x{suffix}")
        if self.kind == "regression":
            targets = read_targets(y, f"y{suffix}")
        else:
            targets = read_labels(y, self.outputs, f"y{suffix}")
        if len(inputs) != len(targets):
            raise ValueError(f"x{suffix} has {len(inputs)} examples but y{suffix} has {len(targets)}")
        return Examples(inputs, targets)


# -- one array --------------------------------------------------------------------------------------------


def as_array(values: Any, name: str) -> np.ndarray:
    """Anything like an array as one of NumPy; ``ValueError`` names it if it is none."""
    with failing_as(f"{name} is no array of numbers: make its rows equally long, and bfloat16 .float()"):
        if isinstance(values, Tensor):
            values = values.detach().cpu()
        return np.asarray(values)


def without_column_axis(y: np.ndarray) -> np.ndarray:
    """Labels of shape (n, 1), as Keras writes some, as (n,); anything else as it is."""
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


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
    """Whole numbers >= 0 of shape (texts, length), as int64."""
    x = as_array(x, name)
    if x.ndim != 2 or x.size == 0 or x.dtype.kind not in "iu" or x.min() < 0:
        raise ValueError(f"{name} must be whole numbers >= 0 of shape (texts, length), got {x.dtype} of {x.shape}")
    return x.astype(np.int64)


def read_inputs(x: Any, name: str) -> np.ndarray:
    """Finite numbers of shape (n, ...), as float32; unsigned bytes are pixels and divided by 255."""
    x = as_array(x, name)
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"{name} must have shape (examples, ...) with at least one example, got {x.shape}")
    if x.dtype.kind not in "iuf":
        raise ValueError(f"{name} must hold real numbers, got dtype {x.dtype}")
    pixels = x.dtype == np.uint8
    x = x.astype(np.float32)
    if pixels:
        x = x / 255
    finite = np.isfinite(x)
    if not finite.all():
        raise ValueError(f"{name} holds NaN or infinite values in {(~finite).sum()} places; clean it first")
    return x


def read_targets(y: Any, name: str) -> np.ndarray:
    """Finite targets (n,) or (n, outputs) of a regression, as float32 (n, outputs)."""
    y = as_array(y, name)
    if y.ndim == 1:
        y = y[:, None]
    if y.ndim != 2 or y.dtype.kind not in "biuf" or not np.isfinite(y.astype(np.float32)).all():
        raise ValueError(
            f"{name} must be finite targets of shape (n,) or (n, outputs), got {y.dtype} of shape {y.shape}"
        )
    return y.astype(np.float32)


def read_labels(y: Any, classes: int | None, name: str) -> np.ndarray:
    """Labels 0 … classes-1 of shape (n,), as int64; without ``classes`` any from 0 on."""
    y = as_array(y, name)
    numbers = y.ndim == 1 and len(y) > 0 and y.dtype.kind in "iuf"
    if not numbers or not np.isfinite(y).all() or (y != np.round(y)).any():
        raise ValueError(f"{name} must be whole-number labels of shape (n,), got {y.dtype} of shape {y.shape}")
    top = int(y.max()) if classes is None else classes - 1
    if y.min() < 0 or y.max() > top:
        raise ValueError(
            f"{name} has labels from {y.min():g} to {y.max():g}, outside 0 … {top}; count the classes from 0"
        )
    return y.astype(np.int64)


# -- all arrays together ----------------------------------------------------------------------------------


def check_cut(fractions: Mapping[str, float], seed: int) -> None:
    """Raise ``ValueError`` unless the shares and the seed of a cut make one."""
    check_fractions(fractions)
    if not is_whole(seed):
        raise ValueError(f"seed must be a whole number >= 0, got {seed!r}")


def check_same_scale(x: Any, x_test: Any) -> None:
    """Raise ``ValueError`` if one holds pixels as bytes and the other as numbers: they would differ by 255."""
    pixels = [as_array(values, "x or x_test").dtype == np.uint8 for values in (x, x_test)]
    if pixels[0] != pixels[1]:
        raise ValueError("of x and x_test one is bytes (divided by 255), one is not: make both uint8 or both float")


def check_same_shapes(examples: Examples, official: Examples) -> None:
    """Raise ``ValueError`` unless one input, and one target, has the same shape in both sources."""
    if official.x.shape[1:] != examples.x.shape[1:]:
        raise ValueError(f"x_test has inputs of shape {official.x.shape[1:]}, x of shape {examples.x.shape[1:]}")
    if official.y.shape[1:] != examples.y.shape[1:]:
        raise ValueError(f"y_test has targets of shape {official.y.shape[1:]}, y of shape {examples.y.shape[1:]}")


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


def standardised(parts: Mapping[str, Examples]) -> dict[str, Examples]:
    """Every split with its features scaled as ``train`` says: mean 0, standard deviation 1 there.

    A feature that (nearly) does not vary on train, by less than 1e-6 of max(1, its mean), is only centred.
    """
    train = parts["train"].x
    mean = np.mean(train, axis=0, dtype=np.float64)
    std = np.std(train, axis=0, dtype=np.float64)
    constant = std < 1e-6 * np.maximum(1, np.abs(mean))
    std[constant] = 1.0
    scaled: dict[str, Examples] = {}
    for split, part in parts.items():
        x = (part.x - mean) / std  # in float64
        scaled[split] = Examples(x.astype(np.float32), part.y)
    return scaled
