"""Matching attention heads: first heads, then units inside them (TransFusion, arXiv 2505.22697)."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dwflow_lite.symmetry.spec import PermutationSpec

METHODS = ("exact", "spectral")


def match_heads(
    a: dict[str, Tensor], b: dict[str, Tensor], spec: PermutationSpec, block: str, method: str = "exact"
) -> dict[str, Tensor]:
    """Order of the heads of ``b`` in one block, and of the units inside them, that brings them close to those of ``a``.

    ``"exact"`` maximises <A, permuted B> over all orders of the block: for every pair of heads (i, j) the best orders
    inside are H² small assignments for each group, queries and keys apart from values and projections; their values
    make an H x H matrix, and one more assignment pairs the heads. Every tensor that knows a unit has a say.

    ``"spectral"`` is the published heuristic. It pairs heads by the distance between the singular values of their
    query, key and value slices, summed (they do not change when units inside a head are renamed), then finds one order
    inside each pair for all of the block's groups together, biases and projection left out.

    Args:
        a: tensors of the reference, in float64. b: tensors to rename.
        spec: with ``heads``. block: one of them.
        method: ``"exact"`` or ``"spectral"``.

    Returns:
        Group -> index (n,), as in a :class:`Permutation`.

    Raises:
        ValueError: an unknown method, or heads whose tensors move with other groups too.
    """
    value, inside = head_scores(a, b, spec, block, method)
    pairs = torch.from_numpy(linear_sum_assignment(value.numpy(), maximize=True)[1])
    rows = torch.arange(len(pairs))
    return {g: (pairs[:, None] * index.shape[2] + index[rows, pairs]).flatten() for g, index in inside.items()}


def head_scores(
    a: dict[str, Tensor], b: dict[str, Tensor], spec: PermutationSpec, block: str, method: str = "exact"
) -> tuple[Tensor, dict[str, Tensor]]:
    """How well every head of ``a`` goes with every head of ``b``, (H, H), and the best order inside each such pair.

    The orders are given by group: (H, H, units). Arguments and errors as in :func:`match_heads`.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r} for heads: choose one of {', '.join(METHODS)}")
    number, groups = spec.heads[block]
    if tied := [n for g in groups for n, _ in spec.uses[g] if len({x for x in spec.axes[n] if x}) > 1]:
        raise ValueError(f"block {block!r}: {tied[0]!r} moves with another group as well, which is not handled")
    heads = {g: [_slices(state, spec, g, number, method) for state in (a, b)] for g in groups}
    scores = {g: torch.einsum("iux,jvx->ijuv", x, y) for g, (x, y) in heads.items()}  # heads i, j and units u, v
    if method == "spectral":
        scores = dict.fromkeys(groups, sum(scores.values()))
    inside = {g: _assign_all(s) for g, s in scores.items()}
    if method == "spectral":
        return -_spectral_distance(a, b, spec, groups, number), inside
    return sum(s.gather(3, inside[g][..., None]).sum((2, 3)) for g, s in scores.items()), inside


def _slices(state: dict[str, Tensor], spec: PermutationSpec, group: str, number: int, method: str) -> Tensor:
    """Every unit of a group as one vector, by heads: (H, units, numbers)."""
    uses = [(n, axis) for n, axis in spec.uses[group] if method == "exact" or (axis == 0 and state[n].ndim == 2)]
    rows = [state[n].movedim(axis, 0).reshape(spec.groups[group], -1) for n, axis in uses]
    return torch.cat(rows, 1).unflatten(0, (number, -1))


def _assign_all(scores: Tensor) -> Tensor:
    """Best order inside for every pair of heads: (H, H, units) for scores (H, H, units, units)."""
    return torch.stack([
        torch.stack([torch.from_numpy(linear_sum_assignment(s.numpy(), maximize=True)[1]) for s in row])
        for row in scores
    ])  # fmt: skip


def _spectral_distance(
    a: dict[str, Tensor], b: dict[str, Tensor], spec: PermutationSpec, groups: tuple[str, ...], number: int
) -> Tensor:
    """Distance (H, H) of heads: between singular values of each weight slice, one batched decomposition a tensor."""
    total = torch.zeros(number, number, dtype=torch.float64)
    for name in [n for g in groups for n, axis in spec.uses[g] if axis == 0 and a[n].ndim == 2]:
        one, other = (torch.linalg.svdvals(s[name].unflatten(0, (number, -1))) for s in (a, b))
        total += torch.cdist(one, other)
    return total
