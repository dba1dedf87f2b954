"""Weight matching by coordinate descent (Git Re-Basin, arXiv 2209.04836, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dwflow_lite.symmetry.spec import Permutation, PermutationSpec, Use

TIED_RESTARTS = 4


def assignment(similarity: Tensor) -> Tensor:
    """The partner (n,) of every row: each column once, with the largest sum of similarities (n, n)."""
    return torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])


def unit_similarity(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], spec: PermutationSpec, group: str,
    known: dict[Use, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Similarity (n, n) of every unit of ``a`` to every unit of ``b`` in one group, the other groups as they stand.

    ``known`` holds matrix products that are still valid, one for each place; those that are missing are added.
    """
    known = {} if known is None else known
    for use in spec.uses[group]:
        if use not in known:
            known[use] = use.rows(a[use.name]) @ use.rows(b[use.name]).T
    return torch.stack([known[use] for use in spec.uses[group]]).sum(0, dtype=torch.float64)


def head_scores(similarity: Mapping[str, Tensor], heads: int) -> tuple[Tensor, dict[str, Tensor]]:
    """How well every head of ``a`` goes with every head of ``b``, and the best order of units inside each such pair.

    Args:
        similarity: group -> similarities (n, n) of all its units. heads: H, into which each group is cut.

    Returns:
        The value (H, H) of pairing two heads, and group -> orders (H, H, n / H).
    """
    value, inside = torch.zeros(heads, heads, dtype=torch.float64), {}
    for group, units in similarity.items():
        pairs = units.unflatten(1, (heads, -1)).unflatten(0, (heads, -1)).transpose(1, 2)  # heads i, j and units u, v
        inside[group] = torch.stack([torch.stack([assignment(pair) for pair in row]) for row in pairs])
        value += pairs.gather(3, inside[group][..., None]).sum((2, 3))
    return value, inside


def best_orders(similarity: Mapping[str, Tensor], heads: int = 1) -> tuple[dict[str, Tensor], float]:
    """Orders of the units of some groups with the largest sum of similarities, if whole heads must move together.

    A small assignment for every group and pair of heads, and one that pairs the heads: exact. A free group is one
    head, and one assignment.

    Returns:
        Group -> index (n,), unit i of ``a`` corresponds to unit index[i] of ``b``; and how much the sum rises.
    """
    if heads == 1:
        orders = {group: assignment(units) for group, units in similarity.items()}
    else:
        value, inside = head_scores(similarity, heads)
        pairs, rows = assignment(value), torch.arange(heads)
        orders = {g: (pairs[:, None] * i.shape[2] + i[rows, pairs]).flatten() for g, i in inside.items()}
    return orders, sum(float(s.gather(1, orders[g][:, None]).sum() - s.trace()) for g, s in similarity.items())


def inner_product(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Sum over tensors of <A, B>, in float64."""
    return float(sum((a[name] * b[name]).sum(dtype=torch.float64) for name in a))


def still_known(
    known: Mapping[Use, Tensor], spec: PermutationSpec, order: Mapping[str, Tensor]
) -> dict[Use, Tensor]:  # fmt: skip
    """What is left of matrix products when groups get a new order: their own, renamed, and those of other tensors."""
    own = {use: index for group, index in order.items() for use in spec.uses[group]}
    changed = {use.name for use in own}
    kept = {use: product for use, product in known.items() if use.name not in changed}
    return kept | {use: known[use][:, index] for use, index in own.items()}


@dataclass(frozen=True)
class MatchingResult:
    """The best permutation found, and how it was found.

    Attributes:
        permutation: moves the units of ``b`` onto those of ``a``.
        objective: inner product <a, permuted b> at the start and after every visit of a coordinate, in the best start;
            it never falls.
        starts: final objective of every start (the first is from the identity).
    """

    permutation: Permutation
    objective: list[float]
    starts: list[float]


def weight_matching(
    a: Tensor, b: Tensor, spec: PermutationSpec, *, restarts: int | None = None, seed: int = 0, max_sweeps: int = 100
) -> MatchingResult:
    """Rename the hidden units of ``b`` so that its weights lie close to those of ``a``.

    Maximises the sum over tensors of <A, permuted B>: a sum of bilinear assignment problems, NP-hard. Coordinate
    descent holds all groups but one (or all but one block of attention heads), solves that one exactly, and stops when
    none gains. What it returns is a local optimum; restarts from random permutations look for a better one.

    Args:
        a: reference weights (d,), left as they are.
        b: weights (d,) to rename; the caller's tensor is not changed.
        spec: what moves together.
        restarts: further starts from random permutations; None: ``TIED_RESTARTS`` where several layers write to one
            group (residual streams, where local optima are poor), else none.
        seed: of the group order and the restarts.
        max_sweeps: a bound nobody has met; reached, it raises ``RuntimeError``.
    """
    for name, w in (("a", a), ("b", b)):
        spec.layout.check(w)
        if w.ndim != 1 or not w.abs().max().isfinite():
            raise ValueError(f"{name} must be one finite weight vector (d,), got shape {tuple(w.shape)}")
    restarts = default_restarts(spec, restarts)
    generator = torch.Generator().manual_seed(seed)
    precision = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    state_a, state_b = (spec.parameters(w.detach().to("cpu", precision)) for w in (a, b))
    best: MatchingResult | None = None
    starts: list[float] = []
    for start in range(1 + restarts):
        permutation = spec.identity() if start == 0 else spec.random(generator)
        permutation, objective = coordinate_descent(state_a, state_b, spec, permutation, generator, max_sweeps)
        starts.append(objective[-1])
        if best is None or objective[-1] > best.objective[-1]:
            best = MatchingResult(permutation, objective, starts)
    return best


def default_restarts(spec: PermutationSpec, restarts: int | None) -> int:
    """The number of restarts asked for; without a wish, some where a group is tied by a residual stream."""
    if restarts is None:
        return TIED_RESTARTS if spec.tied else 0
    if restarts < 0:
        raise ValueError(f"restarts must be >= 0, got {restarts}")
    return restarts


def coordinate_descent(
    a: dict[str, Tensor],
    b: dict[str, Tensor],
    spec: PermutationSpec,
    start: Permutation,
    generator: torch.Generator,
    max_sweeps: int = 100,
    watch: Callable[[dict[str, Tensor], dict[str, Tensor]], None] | None = None,
) -> tuple[Permutation, list[float]]:
    """One descent from one start: the permutation it ends in, and the objective at the start and after each visit.

    A coordinate is a free group or a block of heads. Of its similarities only those parts are computed afresh whose
    tensors have changed since; where none has, nothing is to be gained and the visit is spared.

    Args:
        a: tensors of the reference, in float32 or float64. b: tensors to rename.
        spec: what moves together. start: where to begin.
        generator: of the order in which a sweep visits the coordinates.
        max_sweeps: reached, it raises ``RuntimeError``.
        watch: called at every visit with the similarities (n, n) of each group, as its units stand, and their best
            order; both by group.
    """
    indices, moved, known = dict(start.indices), spec.rename(b, start), {}
    precision = torch.finfo(next(iter(a.values())).dtype).eps
    objective, tolerance = [inner_product(a, moved)], precision * inner_product(a, a)
    for _ in range(max_sweeps):
        for c in torch.randperm(len(spec.coordinates), generator=generator).tolist():
            heads, groups = spec.coordinates[c]
            if all(use in known for g in groups for use in spec.uses[g]):
                continue  # nothing that it depends on has changed
            similarity = {g: unit_similarity(a, moved, spec, g, known) for g in groups}
            order, gain = best_orders(similarity, heads)
            if watch:
                watch(similarity, order)
            if gain > tolerance:
                indices |= {g: indices[g][order[g]] for g in groups}
                moved = spec.rename(moved, Permutation(order))
                known = still_known(known, spec, order)
            objective.append(objective[-1] + gain * (gain > tolerance))
        if all(use in known for uses in spec.uses.values() for use in uses):
            return Permutation(indices), objective
    raise RuntimeError(f"weight matching still gained after {max_sweeps} sweeps; raise max_sweeps")
