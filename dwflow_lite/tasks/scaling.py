"""How a reader's numbers are standardised, how new ones are alike, and how outputs become the reader's units again."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dwflow_lite.tasks.tables import as_float32, in_columns

# A column whose numbers differ by less than this share of their size holds rounding errors, and nothing to be scaled.
NEARLY_CONSTANT = 5e-9


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean 0 and standard deviation 1, for every feature or target, as the training split says.

    Attributes:
        mean: of each feature (*shape), float64, in the reader's units.
        std: of each feature (*shape), float64; 1 where it is constant.
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, train: np.ndarray, name: str, columns: Sequence[str] = ()) -> Scale:
        """Measure the examples of train (n, *shape).

        A feature that is constant there is only centred. So is one that hardly varies, by less than the rounding of
        numbers of its size: what looks like a difference there may be rounding.

        Raises:
            ValueError: the squares of some numbers are beyond float64; their columns are named.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.mean(train, axis=0, dtype=np.float64)
            std = np.std(train, axis=0, dtype=np.float64)
        too_large = ~np.isfinite(std)
        if too_large.any():
            raise ValueError(
                f"{name} is too large to be standardised{in_columns(too_large.reshape(-1), columns)}: "
                "divide it by a power of ten"
            )
        rounding = np.finfo(train.dtype).eps if train.dtype.kind == "f" else 0.0
        constant = (train == train[0]).all(0)
        mean = np.where(constant, train[0], mean)  # without the rounding of a sum
        hardly_varies = (std <= max(rounding, NEARLY_CONSTANT) * np.abs(mean)) & (std < 1) & ~constant
        if hardly_varies.any():
            warnings.warn(
                f"{name} hardly varies{in_columns(hardly_varies.reshape(-1), columns)}: centred, but not scaled",
                stacklevel=4,
            )
        std = np.where(constant | hardly_varies, 1.0, std)
        return cls(mean.astype(np.float64), std)

    def apply(self, values: np.ndarray, name: str, columns: Sequence[str] = ()) -> np.ndarray:
        """Numbers (n, *shape) in the reader's units, standardised: float32."""
        return as_float32((values - self.mean) / self.std, name, columns)  # in float64 till here

    def undo(self, values: Tensor) -> Tensor:
        """Standardised numbers (..., *shape) in the reader's units, float64."""
        mean, std = (torch.from_numpy(numbers).to(values.device) for numbers in (self.mean, self.std))
        return values.double() * std + mean

    def to_json(self) -> dict[str, Any]:
        """Plain lists, for a record."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}


@dataclass(frozen=True, eq=False)
class Preparation:
    """What was done to a reader's arrays; :meth:`Task.prepare` does the same to new ones.

    Attributes:
        inputs: how features were standardised; None: not.
        targets: how the targets of a regression were standardised; None: not.
        columns: names of the features, of a data frame.
        pixels: unsigned bytes were divided by 255.
    """

    inputs: Scale | None = None
    targets: Scale | None = None
    columns: tuple[str, ...] = ()
    pixels: bool = False

    def to_json(self) -> dict[str, Any]:
        """For the record of a zoo: mean and standard deviation of inputs and targets, where standardised."""
        scales = {"inputs": self.inputs, "targets": self.targets}
        told = {what: scale.to_json() for what, scale in scales.items() if scale is not None}
        return {"standardised": told} if told else {}
