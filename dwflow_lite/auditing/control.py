"""Does a conditional generator do what it is asked for? Requested against measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.forward import evaluate
from dwflow_lite.zoo.zoo import Zoo


class Control(NamedTuple):
    """How networks follow a number that was asked for.

    Attributes:
        slope: of the line through measured against requested numbers: 1 is control, 0 is none.
        spread: standard deviation of measured numbers about that line, in their unit.
        error: root mean square of measured less requested, in their unit.
    """

    slope: float
    spread: float
    error: float


def control_of(requested: Sequence[float] | Tensor, measured: Sequence[float] | Tensor) -> Control:
    """The line of least squares through what was measured against what was requested.

    Args:
        requested: of n networks, at least three, not all the same.
        measured: of the same networks, in the same unit.

    Raises:
        ValueError: fewer than three, of two lengths, not finite, or one request alone.

    Example:
        >>> control_of([0.0, 0.5, 1.0], [0.1, 0.6, 1.1])
        Control(slope=1.0, spread=0.0, error=0.1)
    """
    x, y = (torch.as_tensor(numbers, dtype=torch.float64).flatten().cpu().numpy() for numbers in (requested, measured))
    if len(x) != len(y) or len(x) < 3 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"a line needs as many finite measurements as requests, at least 3: got {len(y)} of {len(x)}")
    if np.ptp(x) == 0:
        raise ValueError(f"all requests are {x[0]:g}: ask for different numbers to see whether they are followed")
    slope, intercept = np.polyfit(x, y, 1)
    spread = np.std(y - slope * x - intercept)
    error = np.sqrt(np.mean((y - x) ** 2))
    return Control(*(round(float(number), 12) for number in (slope, spread, error)))


def scores_on(networks: Zoo, tasks: Mapping[str, Task], split: str = "validation") -> Tensor:
    """Score of n networks on each of several tasks, (n, tasks)."""
    return torch.stack([evaluate(networks, task, split).score for task in tasks.values()], 1)


def confusion(made: Mapping[str, Zoo], tasks: Mapping[str, Task], split: str = "validation") -> Tensor:
    """Mean score of the networks that were asked for each dataset, on each dataset: (requested, measured).

    Args:
        made: dataset that was asked for -> the networks.
        tasks: dataset -> its task, in the order of the columns.
        split: of the tasks.
    """
    return torch.stack([scores_on(networks, tasks, split).mean(0) for networks in made.values()])
