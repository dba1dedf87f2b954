"""The straight line between two networks, and how much worse the networks on it are (arXiv 2209.04836, def. 2.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dwflow_lite.batchnorm import recalibrate
from dwflow_lite.tasks import Task
from dwflow_lite.zoo import Zoo, evaluate


@dataclass(frozen=True)
class BarrierCurve:
    """Loss and score along lines between pairs of networks.

    Attributes:
        t: positions on the line (T,), from 0 (first network) to 1 (second).
        loss: (pairs, T). score: (pairs, T).
    """

    t: Tensor
    loss: Tensor
    score: Tensor

    @property
    def loss_barrier(self) -> Tensor:
        """Highest rise of the loss above the line between the two ends, (pairs,)."""
        return (self.loss - _chord(self.loss, self.t)).amax(-1)

    @property
    def score_barrier(self) -> Tensor:
        """Deepest fall of the score below the line between the two ends, (pairs,)."""
        return (_chord(self.score, self.t) - self.score).amax(-1)


def _chord(values: Tensor, t: Tensor) -> Tensor:
    return (1 - t) * values[..., :1] + t * values[..., -1:]


def interpolate(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Points (1 - t) a + t b on the line from ``a`` (..., d) to ``b`` (..., d): (..., T, d) for ``t`` of shape (T,)."""
    return torch.lerp(a.unsqueeze(-2), b.unsqueeze(-2), t.unsqueeze(-1))


def linear_barrier(
    zoo: Zoo,
    pairs: list[tuple[int, int]],
    task: Task,
    *,
    split: str = "validation",
    points: int = 21,
    recalibrated: bool = False,
) -> BarrierCurve:
    """Evaluate the networks on the lines between pairs of members, all of them in one batched pass.

    Args:
        zoo: the networks, in the basis in which they are to be joined.
        pairs: positions (i, j) of members.
        task: gives loss and score.
        split: where they are measured.
        points: networks on each line, both ends included (an odd number has the midpoint).
        recalibrated: measure BatchNorm's running statistics afresh for every network on the line, from the calibration
            split. Interpolated statistics fit no network on the line (arXiv 2211.08403): without this, a barrier of
            networks with BatchNorm says little about their weights.
    """
    if points < 3 or not pairs:
        raise ValueError("a barrier needs at least one pair and three points")
    t = torch.linspace(0, 1, points)
    first, second = (torch.stack([zoo.weights[p[end]] for p in pairs]) for end in (0, 1))
    line = interpolate(first, second, t.to(zoo.weights)).flatten(0, 1)
    networks = Zoo(line, zoo.layout, zoo.network)
    result = evaluate(recalibrate(networks, task) if recalibrated else networks, task, split)
    shape = (len(pairs), points)
    return BarrierCurve(t, result.loss.view(shape).cpu(), result.score.view(shape).cpu())
