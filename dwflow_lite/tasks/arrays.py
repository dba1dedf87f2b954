"""A reader's arrays, checked and cut: what :meth:`Task.from_arrays` does with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from dwflow_lite.support.checks import failing_as


def _column(y: np.ndarray) -> np.ndarray:
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def _array(values: np.ndarray | Tensor, name: str) -> np.ndarray:
    with failing_as(f"{name} is no array of numbers: make its rows equally long, and bfloat16 .float()"):
        return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)


def _inputs(x: np.ndarray | Tensor, name: str, tokens: bool = False) -> np.ndarray:
    x = _array(x, name)
    if tokens:
        if x.ndim != 2 or not x.size or x.dtype.kind not in "iu" or x.min() < 0:
            raise ValueError(f"{name} must be whole numbers >= 0 of shape (texts, length), got {x.dtype} of {x.shape}")
        return x.astype(np.int64)
    if x.ndim < 2 or not len(x):
        raise ValueError(f"{name} must have shape (examples, ...) with at least one example, got {x.shape}")
    if x.dtype.kind not in "iuf":
        raise ValueError(f"{name} must hold real numbers, got dtype {x.dtype}")
    x = x.astype(np.float32) / 255 if x.dtype == np.uint8 else x.astype(np.float32)
    if not np.isfinite(x).all():
        raise ValueError(f"{name} holds NaN or infinite values in {(~np.isfinite(x)).sum()} places; clean it first")
    return x


def _targets(y: np.ndarray | Tensor, kind: str, outputs: int | None, name: str) -> np.ndarray:
    y = _array(y, name)
    if kind == "regression":
        y = y[:, None] if y.ndim == 1 else y
        if y.ndim != 2 or y.dtype.kind not in "biuf" or not np.isfinite(y.astype(np.float32)).all():
            raise ValueError(
                f"{name} must be finite targets of shape (n,) or (n, outputs), got {y.dtype} of shape {y.shape}"
            )
        return y.astype(np.float32)
    if y.ndim != 1 or y.dtype.kind not in "iuf" or not len(y) or not np.isfinite(y).all() or (y != np.round(y)).any():
        raise ValueError(f"{name} must be whole-number labels of shape (n,), got {y.dtype} of shape {y.shape}")
    top = outputs - 1 if outputs else int(y.max())
    if y.min() < 0 or y.max() > top:
        raise ValueError(f"{name} has labels from {y.min():g} to {y.max():g}, outside 0 … {top}; renumber them from 0")
    return y.astype(np.int64)


def _pair(x: Any, y: Any, kind: str, outputs: int | None, tokens: bool, end: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = _inputs(x, f"x{end}", tokens), _targets(y, kind, outputs, f"y{end}")
    if len(x) != len(y):
        raise ValueError(f"x{end} has {len(x)} examples but y{end} has {len(y)}")
    return x, y


def _cut(y: np.ndarray, kind: str, fractions: Mapping[str, float], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Split name -> row positions, cut class by class (regression: all rows as one class)."""
    groups = [np.flatnonzero(y == c) for c in np.unique(y)] if kind == "classification" else [np.arange(len(y))]
    shares = np.array(list(fractions.values()))
    rows: dict[str, list[np.ndarray]] = {name: [] for name in fractions}
    # A random offset a class keeps rounding from starving the small splits when classes are small.
    for group in map(rng.permutation, groups):
        edges = np.cumsum(shares) / max(shares.sum(), 1e-12) * len(group)
        edges = np.floor(edges + rng.random()).clip(0, len(group)).astype(int)
        edges[-1] = len(group)
        for name, part in zip(fractions, np.split(group, edges[:-1]), strict=True):
            rows[name].append(part)
    return {name: rng.permutation(np.concatenate(parts)) for name, parts in rows.items()}
