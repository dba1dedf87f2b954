"""Weight matching by coordinate descent (Git Re-Basin, arXiv 2209.04836, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dwflow_lite.symmetry.spec import Permutation, PermutationSpec, permute_axes
from dwflow_lite.symmetry.transfusion import match_heads


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

    Attention heads, where the spec has them, are matched exactly (:func:`match_heads`): nothing else moves what they
    read or write, so they neither need nor take part in the descent.
    """
    for name, w in (("a", a), ("b", b)):
        spec.layout.check(w)
        if w.ndim != 1 or not torch.isfinite(w).all():
            raise ValueError(f"{name} must be one finite weight vector (d,), got shape {tuple(w.shape)}")
    if restarts < 0:
        raise ValueError(f"restarts must be >= 0, got {restarts}")
    generator = torch.Generator().manual_seed(seed)
    state_a, state_b = (spec.parameters(w.detach().double().cpu()) for w in (a, b))
    best: MatchingResult | None = None
    starts: list[float] = []
    heads = {g: i for block in spec.heads for g, i in match_heads(state_a, state_b, spec, block).items()}
    begin = [float(sum((state_a[n] * state_b[n]).sum() for n in state_a))] if heads else []
    for start in range(1 + restarts):
        permutation = spec.identity() if start == 0 else spec.random(generator)
        permutation = Permutation(dict(permutation.indices) | heads)
        permutation, objective = coordinate_descent(state_a, state_b, spec, permutation, generator, max_sweeps)
        starts.append(objective[-1])
        if best is None or objective[-1] > best.objective[-1]:
            best = MatchingResult(
                permutation, (begin if start == 0 else []) + objective, len(objective) // max(1, len(spec.free)), starts
            )
    return best


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


def coordinate_descent(
    a: dict[str, Tensor],
    b: dict[str, Tensor],
    spec: PermutationSpec,
    start: Permutation,
    generator: torch.Generator,
    max_sweeps: int = 100,
    watch: Callable[[str, Tensor, Tensor, Tensor], None] | None = None,
) -> tuple[Permutation, list[float]]:
    """One descent from one start: the permutation it ends in, and the objective at the start and after each update.

    Args:
        a: tensors of the reference, in float64. b: tensors to rename.
        spec: what moves together. start: where to begin.
        generator: of the order in which a sweep visits the groups.
        max_sweeps: reached, it raises ``RuntimeError``.
        watch: called at every update with the group, its similarities (n, n), and its indices before and after.
    """
    indices, groups = dict(start.indices), spec.free
    objective = [float(sum((a[n] * permute_axes(b[n], spec.axes[n], start)).sum() for n in a))]
    rows = {group: torch.arange(size) for group, size in spec.groups.items()}
    tolerance = 1e-12 * float(sum(tensor.square().sum() for tensor in a.values()))
    for _ in range(max_sweeps):
        before = objective[-1]
        for g in torch.randperm(len(groups), generator=generator).tolist():
            old, similarity = indices[groups[g]], unit_similarity(a, b, spec, groups[g], indices)
            new = torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])
            gain = float((similarity[rows[groups[g]], new] - similarity[rows[groups[g]], old]).sum())
            if gain > tolerance:
                indices[groups[g]] = new
            if watch:
                watch(groups[g], similarity, old, indices[groups[g]])
            objective.append(objective[-1] + gain * (gain > tolerance))
        if objective[-1] == before:
            return Permutation(indices), objective
    raise RuntimeError(f"weight matching still gained after {max_sweeps} sweeps; raise max_sweeps")
