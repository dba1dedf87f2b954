"""Rows of weights, read a few at a time: of a tensor, or of a zoo on disk, in the gauge in which they are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dwflow_lite.support.products import gram_of
from dwflow_lite.zoo.storage import Shards

BESIDE = 8  # times the rows that are read at once, in float32: two sides, in float64 as their gauge is fixed, and more


@dataclass(frozen=True)
class Rows:
    """N rows of weights (N, d). What is in memory stays there; what is on disk is read, and changed, block by block.

    Attributes:
        weights: (N, d), as they stand.
        at_once: how many rows on disk are held at a time.
        changes: what is made of rows (m, d) at given positions after they were read, one after the other.
    """

    weights: Tensor | Shards
    at_once: int = 1
    changes: tuple[Callable[[Tensor, Sequence[int]], Tensor], ...] = ()

    @classmethod
    def of(cls, weights: Tensor | Shards | Rows) -> Rows:
        """Rows of whatever has them."""
        return weights if isinstance(weights, Rows) else cls(weights)

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, positions: Sequence[int]) -> Tensor:
        """The rows at these positions, (m, d)."""
        if isinstance(self.weights, Tensor):
            return self.weights[list(positions)]
        rows = self.weights[list(positions)].columns(slice(None))
        for change in self.changes:
            rows = change(rows, positions)
        return rows

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, as blocks (m, d) and where they stand; a tensor is one block."""
        if isinstance(self.weights, Tensor):
            yield slice(0, len(self)), self.weights
            return
        for start in range(0, len(self), self.at_once):
            positions = range(start, min(start + self.at_once, len(self)))
            yield slice(positions.start, positions.stop), self[positions]

    def changed(self, change: Callable[[Tensor, Sequence[int]], Tensor]) -> Rows:
        """The same rows after a change: made at once in memory, and otherwise whenever they are read."""
        if isinstance(self.weights, Tensor):
            return Rows(change(self.weights, range(len(self))))
        return Rows(self.weights, self.at_once, (*self.changes, change))


def rows_at_once(memory: int, width: int) -> int:
    """How many rows of so many weights to hold at a time, in so many bytes; at least one.

    Example:
        >>> rows_at_once(1 << 20, 4096), rows_at_once(1, 4096)
        (8, 1)
    """
    return max(1, memory // (BESIDE * 4 * width))


@dataclass(frozen=True)
class Moments:
    """Mean (d,) of n rows of weights, and their inner products about it (n, n); both float64, and on the CPU."""

    mean: Tensor
    gram: Tensor

    @classmethod
    def of(cls, weights: Tensor | Shards, memory: int, factor: float = 1.0) -> Moments:
        """Of rows (n, d), multiplied by a factor; a few columns at a time, which take at most so many bytes."""
        n, width = weights.shape
        gram = torch.zeros(n, n, dtype=torch.float64)
        means = []
        step = max(1, memory // (n * (4 + 8)))  # as read, and in float64
        for start in range(0, width, step):
            columns = slice(start, min(start + step, width))
            part = weights[:, columns] if isinstance(weights, Tensor) else weights.columns(columns)  # (n, columns)
            precision = torch.float32 if part.device.type == "mps" else torch.float64
            more, mean = gram_of(part if factor == 1 else part * factor, precision)
            gram += more.cpu()
            means.append(mean.cpu().double())
        return cls(torch.cat(means), gram)

    def squared_spread(self, mean: Tensor) -> float:
        """Mean squared distance of the rows to a point (d,)."""
        return float(self.gram.trace() / len(self.gram) + (self.mean - mean).square().sum())
