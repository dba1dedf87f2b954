"""The straight line between two networks, and how much worse the networks on it are (arXiv 2209.04836, def. 2.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dwflow_lite.batchnorm import norms_with_statistics, recalibrate
from dwflow_lite.symmetry.repairing import repair, unit_statistics
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.forward import evaluate
from dwflow_lite.zoo.zoo import Zoo


@dataclass(frozen=True)
class BarrierCurve:
    """Loss and score along lines between pairs of networks.

    Attributes:
        t: positions on the line (T,), from 0 (first network) to 1 (second).
        loss: (pairs, T). score: (pairs, T).
        repaired: the same lines, the statistics of whose networks were mended (see :func:`linear_barrier`).
    """

    t: Tensor
    loss: Tensor
    score: Tensor
    repaired: BarrierCurve | None = None

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
    repaired: bool = True,
    spec: PermutationSpec | None = None,
) -> BarrierCurve:
    """Evaluate the networks on the lines between pairs of members, all of them in one batched pass.

    Units of an average of two networks vary less than those of either, which alone makes a barrier (*variance
    collapse*, arXiv 2211.08403). So every line is measured twice: as it is, and ``repaired``: with BatchNorm, its
    running statistics measured afresh for every network on the line (interpolated ones fit none of them); without,
    :func:`repair`. Both see the calibration split only.

    Args:
        zoo: the networks, in the basis in which they are to be joined.
        pairs: positions (i, j) of members.
        task: gives loss and score.
        split: where they are measured.
        points: networks on each line, both ends included (an odd number has the midpoint).
        repaired: False spares the second measurement.
        spec: names the hidden units that :func:`repair` mends; by default that of the zoo's network.
    """
    if points < 3 or not pairs:
        raise ValueError("a barrier needs at least one pair and three points")
    t = torch.linspace(0, 1, points)
    ends = [zoo.weights[[p[end] for p in pairs]] for end in (0, 1)]
    line = Zoo(interpolate(*ends, t.to(zoo.weights)).flatten(0, 1), zoo.layout, zoo.network)
    if not repaired:
        return _measure(line, task, split, t)
    if norms_with_statistics(zoo.network):
        mended = recalibrate(line, task)
    else:
        spec = PermutationSpec.of(zoo.network) if spec is None else spec
        known = [unit_statistics(Zoo(w, zoo.layout, zoo.network), task, spec) for w in ends]
        targets = interpolate(*(s.flatten(1) for s in known), t.to(zoo.weights)).flatten(0, 1)
        mended = repair(line, targets.unflatten(1, (2, -1)), task, spec)
    return _measure(line, task, split, t, _measure(mended, task, split, t))


def _measure(
    line: Zoo, task: Task, split: str, t: Tensor, repaired: BarrierCurve | None = None
) -> BarrierCurve:  # fmt: skip
    result = evaluate(line, task, split)
    loss, score = (v.view(-1, len(t)).cpu() for v in (result.loss, result.score))
    return BarrierCurve(t, loss, score, repaired)
