"""Weight matching by coordinate descent (Git Re-Basin, arXiv 2209.04836, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dwflow_lite.symmetry.spec import Permutation, PermutationSpec, permute_axes


@dataclass(frozen=True)
class MatchingResult:
    """The best permutation found, and how it was found.

    Attributes:
        permutation: moves the units of ``b`` onto those of ``a``.
        objective: inner product <a, permuted b> at the start and after every update of one group; never falls.
        sweeps: passes over all groups in the best start.
        starts: final objective of every start (the first is from the identity).
    """

    permutation: Permutation
    objective: list[float]
    sweeps: int
    starts: list[float]


def weight_matching(
    a: Tensor, b: Tensor, spec: PermutationSpec, *, restarts: int = 0, seed: int = 0, max_sweeps: int = 100
) -> MatchingResult:
    """Rename the hidden units of ``b`` so that its weights lie close to those of ``a``.

    Maximises the sum over tensors of <A, permuted B>: a sum of bilinear assignment problems, NP-hard. Coordinate
    descent holds all groups but one, solves that one exactly (a linear assignment), and stops when no group gains.
    What it returns is a local optimum; restarts from random permutations look for a better one.

    Args:
        a: reference weights (d,), left as they are.
        b: weights (d,) to rename; the caller's tensor is not changed.
        spec: what moves together.
        restarts: further starts from random permutations.
        seed: of the group order and the restarts.
        max_sweeps: a bound nobody has met; reached, it raises ``RuntimeError``.
    """
    for name, w in (("a", a), ("b", b)):
        spec.layout.check(w)
        if w.ndim != 1 or not torch.isfinite(w).all():
            raise ValueError(f"{name} must be one finite weight vector (d,), got shape {tuple(w.shape)}")
    if restarts < 0:
        raise ValueError(f"restarts must be >= 0, got {restarts}")
    generator = torch.Generator().manual_seed(seed)
    state_a, state_b = (spec.layout.unflatten(w.detach().double().cpu()) for w in (a, b))
    best: MatchingResult | None = None
    starts: list[float] = []
    for start in range(1 + restarts):
        permutation = spec.identity() if start == 0 else spec.random(generator)
        found = _descend(state_a, state_b, spec, permutation, generator, max_sweeps)
        starts.append(found.objective[-1])
        if best is None or found.objective[-1] > best.objective[-1]:
            best = found
    return MatchingResult(best.permutation, best.objective, best.sweeps, starts)


def unit_similarity(
    a: dict[str, Tensor], b: dict[str, Tensor], spec: PermutationSpec, group: str, indices: dict[str, Tensor]
) -> Tensor:
    """Similarity (n, n) of every unit of ``a`` to every unit of ``b`` in one group, the other groups held fixed."""
    total = torch.zeros(spec.groups[group], spec.groups[group], dtype=torch.float64)
    for name, axis in spec.uses[group]:
        tensor = b[name]
        for other, other_group in enumerate(spec.axes[name]):
            if other_group is not None and other != axis:
                tensor = tensor.index_select(other, indices[other_group])
        total += a[name].movedim(axis, 0).reshape(len(total), -1) @ (tensor.movedim(axis, 0).reshape(len(total), -1).T)
    return total


def _descend(
    a: dict[str, Tensor], b: dict[str, Tensor], spec: PermutationSpec, start: Permutation,
    generator: torch.Generator, max_sweeps: int,
) -> MatchingResult:  # fmt: skip
    """Coordinate descent from one start."""
    indices = dict(start.indices)
    objective = [float(sum((a[n] * permute_axes(b[n], spec.axes[n], start)).sum() for n in a))]
    groups = list(spec.groups)
    tolerance = 1e-12 * float(sum(t.square().sum() for t in a.values()))
    for sweep in range(1, max_sweeps + 1):
        improved = False
        for g in torch.randperm(len(groups), generator=generator).tolist():
            group = groups[g]
            similarity = unit_similarity(a, b, spec, group, indices)
            rows = torch.arange(len(similarity))
            chosen = torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])
            gain = float(similarity[rows, chosen].sum() - similarity[rows, indices[group]].sum())
            if gain > tolerance:
                indices[group], improved = chosen, True
            objective.append(objective[-1] + gain if gain > tolerance else objective[-1])
        if not improved:
            return MatchingResult(Permutation(indices), objective, sweep, [])
    raise RuntimeError(f"weight matching still gained after {max_sweeps} sweeps; raise max_sweeps")
