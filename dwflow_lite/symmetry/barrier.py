"""The straight line between two networks, and how much worse the networks on it are (arXiv 2209.04836, def. 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from operator import index

import torch
from torch import Tensor

from dwflow_lite.batchnorm import norms_with_statistics, recalibrate
from dwflow_lite.support.checks import brief, is_whole
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.symmetry.basis import joined, pairs_of_joined
from dwflow_lite.symmetry.repairing import repair, unit_statistics
from dwflow_lite.symmetry.spec import PermutationSpec, require_spec
from dwflow_lite.tasks.checks import require_task
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.checks import require_zoo, warn_of_other_cut
from dwflow_lite.zoo.forward import evaluate
from dwflow_lite.zoo.members import positions_of
from dwflow_lite.zoo.zoo import Zoo

NEEDS = "a barrier needs at least one pair of members, as [(0, 1)], and three points"


@dataclass(frozen=True)
class BarrierCurve:
    """Loss and score along lines between pairs of networks.

    Attributes:
        t: positions on the line (T,), from 0 (first network) to 1 (second).
        loss: (pairs, T).
        score: (pairs, T).
        repaired: the same lines, the statistics of whose networks were repaired (see :func:`linear_barrier`).
        score_name: what the score is.

    Example:
        >>> curve = BarrierCurve(torch.linspace(0, 1, 3), torch.tensor([[1.0, 5.0, 3.0]]), torch.ones(1, 3))
        >>> curve.loss_barrier  # halfway the loss is 5, the line between the two ends 2
        tensor([3.])
    """

    t: Tensor
    loss: Tensor
    score: Tensor
    repaired: BarrierCurve | None = None
    score_name: str = "accuracy"

    @property
    def loss_barrier(self) -> Tensor:
        """Highest rise of the loss above the line between the two ends, (pairs,)."""
        return (self.loss - _chord(self.loss, self.t)).amax(-1)

    @property
    def score_barrier(self) -> Tensor:
        """Deepest fall of the score below the line between the two ends, (pairs,)."""
        return (_chord(self.score, self.t) - self.score).amax(-1)


def _chord(values: Tensor, t: Tensor) -> Tensor:
    """The line between the first and the last of values (..., T), at the same positions."""
    return (1 - t) * values[..., :1] + t * values[..., -1:]


def interpolate(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Points (1 - t) a + t b on the line from ``a`` (..., d) to ``b`` (..., d): (..., T, d) for ``t`` of shape (T,).

    Example:
        >>> interpolate(torch.tensor([0.0, 8.0]), torch.tensor([4.0, 0.0]), torch.tensor([0.0, 0.25, 1.0]))
        tensor([[0., 8.],
                [1., 6.],
                [4., 0.]])
    """
    return torch.lerp(a.unsqueeze(-2), b.unsqueeze(-2), t.unsqueeze(-1))


def linear_barrier(  # noqa: PLR0913 - a public door
    zoo: Zoo,
    pairs: list[tuple[int, int]],
    task: Task,
    *,
    split: str = "validation",
    points: int = 21,
    repaired: bool = True,
    spec: PermutationSpec | None = None,
    other: Zoo | None = None,
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
        points: T networks on each line, both ends included (an odd number has the midpoint).
        repaired: False spares the second measurement.
        spec: names the hidden units that :func:`repair` corrects; by default that of the zoo's network.
        other: the zoo of the second networks, in the same basis; by default they are members of ``zoo`` too.

    Returns:
        Loss and score, on the CPU; they are computed on the device of ``zoo``.

    Raises:
        ValueError: zoos of two architectures or bases; no pair, members that are not there, or fewer than three points;
            or lines that cannot be repaired.
        TypeError: no zoo, no task, no spec, or pairs that are none.
        MemoryError: too many pairs and points.
    """
    require_zoo(zoo)
    require_task(task)
    warn_of_other_cut(zoo, task, split)
    if other is not None:
        require_zoo(other)
    require_spec(spec)
    pairs = _as_pairs(pairs)
    if not is_whole(points, 3) or len(pairs) == 0 or any(len(pair) != 2 for pair in pairs):
        raise ValueError(NEEDS)
    points = int(points)
    if other is not None:
        pairs = pairs_of_joined(zoo, other, pairs)
        zoo = joined(zoo, other)
    message = f"no memory for {len(pairs)} lines of {points} networks: pass fewer points, or fewer pairs at a time"
    with out_of_memory_as(message):
        return _curve(zoo, pairs, task, split, points, repaired, spec)


def _curve(
    zoo: Zoo,
    pairs: list[tuple[int, int]],
    task: Task,
    split: str,
    points: int,
    repaired: bool,
    spec: PermutationSpec | None,
) -> BarrierCurve:
    """:func:`linear_barrier`, of arguments that are known to be some; both ends are members of ``zoo``."""
    t = torch.linspace(0, 1, points)
    first, second = (zoo.weights[positions_of(members, len(zoo), "join")] for members in zip(*pairs, strict=True))
    weights = interpolate(first, second, t.to(zoo.weights)).flatten(0, 1)  # (pairs, T, d) -> (pairs T, d)
    line = Zoo(weights, zoo.layout, zoo.network)
    loss, score = _loss_and_score(line, task, split, points)
    if not repaired:
        return BarrierCurve(t, loss, score, score_name=task.score_name)

    if norms_with_statistics(zoo.network):
        repaired_line = recalibrate(line, task)
    else:
        ends = [Zoo(weights, zoo.layout, zoo.network) for weights in (first, second)]
        try:
            spec = PermutationSpec.of(zoo.network) if spec is None else spec
            targets = _statistics_between(*ends, t, task, spec)
        except ValueError as error:
            raise ValueError(
                f"the lines cannot be repaired ({error}); repaired=False measures them as they are"
            ) from error
        repaired_line = repair(line, targets, task, spec)
    repaired_loss, repaired_score = _loss_and_score(repaired_line, task, split, points)
    repaired_curve = BarrierCurve(t, repaired_loss, repaired_score, score_name=task.score_name)
    return BarrierCurve(t, loss, score, repaired_curve, task.score_name)


def _as_pairs(pairs: object) -> list[tuple[int, ...]]:
    """Pairs of positions as Python's own numbers."""
    try:
        return [tuple(index(member) for member in pair) for pair in pairs]
    except TypeError as error:
        raise TypeError(f"{NEEDS}; got {brief(pairs)}") from error


def _loss_and_score(line: Zoo, task: Task, split: str, points: int) -> tuple[Tensor, Tensor]:
    """Of networks (pairs T, d): loss and score (pairs, T), on the CPU."""
    evaluation = evaluate(line, task, split)
    return evaluation.loss.view(-1, points).cpu(), evaluation.score.view(-1, points).cpu()


def _statistics_between(first: Zoo, second: Zoo, t: Tensor, task: Task, spec: PermutationSpec) -> Tensor:
    """Statistics (pairs T, 2, units) on the lines between those of the networks at the two ends."""
    start = unit_statistics(first, task, spec).flatten(1)  # (pairs, 2 units)
    end = unit_statistics(second, task, spec).flatten(1)
    between = interpolate(start, end, t.to(first.weights)).flatten(0, 1)  # (pairs T, 2 units)
    return between.unflatten(1, (2, -1))
