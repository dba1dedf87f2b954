"""The four splits of a task, and the one place where examples are dealt to them.

* ``train`` fits weights; ``calibration`` re-estimates BatchNorm statistics; ``validation`` makes choices;
  ``test`` is read once, to report. No other room of the package ever cuts data again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

SPLITS = ("train", "calibration", "validation", "test")

FRACTIONS = {"train": 0.6, "calibration": 0.05, "validation": 0.15, "test": 0.2}


@dataclass(frozen=True, eq=False)
class Split:
    """One split: inputs and targets of the same examples, in the same order.

    Attributes:
        x: inputs (n, ...), float32, or int64 where they are tokens.
        y: labels (n,), int64, or targets (n, outputs), float32.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def inputs(self, like: Tensor) -> Tensor:
        """``x`` on the device of ``like``, and in its dtype; whole numbers (tokens) keep theirs."""
        dtype = like.dtype if self.x.is_floating_point() else None
        return self.x.to(like.device, dtype)


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raise ``ValueError`` unless there is a share of at least 0 for each split, and for nothing else."""
    if set(fractions) != set(SPLITS) or min(fractions.values()) < 0:
        raise ValueError(f"fractions must give a share >= 0 for each of {SPLITS}, got {dict(fractions)}")


def deal_rows(
    y: np.ndarray, stratified: bool, fractions: Mapping[str, float], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Deal the examples of one array to splits at random.

    Args:
        y: labels (n,) or targets (n, outputs).
        stratified: deal class by class, so that each split has its share of every class.
        fractions: split name -> share. Only their ratios count; the last split takes what rounding leaves, and all if
            it is the only one, even with a share of 0.
        rng: draws the order.

    Returns:
        Split name -> rows of ``y``, shuffled. Every row is in one split.
    """
    if stratified:
        groups = [np.flatnonzero(y == label) for label in np.unique(y)]
    else:
        groups = [np.arange(len(y))]
    shares = np.array(list(fractions.values()))
    ends = np.cumsum(shares) / max(shares.sum(), 1e-12)  # where each split ends, as a share of the rows
    dealt: dict[str, list[np.ndarray]] = {split: [] for split in fractions}
    for group in groups:
        group = rng.permutation(group)
        # A random offset a class keeps rounding from starving the small splits when classes are small.
        edges = np.floor(ends * len(group) + rng.random()).clip(0, len(group)).astype(int)
        edges[-1] = len(group)
        for split, rows in zip(fractions, np.split(group, edges[:-1]), strict=True):
            dealt[split].append(rows)
    return {split: rng.permutation(np.concatenate(parts)) for split, parts in dealt.items()}
