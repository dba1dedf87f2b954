"""What is measured of generated networks: distances, overlaps of mistakes."""

from __future__ import annotations

import torch
from torch import Tensor

from dwflow_lite.symmetry import PermutationSpec, match_all, match_each, permute_all, weight_matching


def nearest_distance(weights: Tensor, zoo: Tensor, *, skip_self: bool = False) -> Tensor:
    """Euclidean distance of each row of ``weights`` (n, d) to its nearest row of ``zoo`` (N, d): (n,).

    ``skip_self`` leaves out the row of the same position, for a zoo measured against itself.
    """
    return _distances(weights, zoo, skip_self).min(1).values


def _distances(weights: Tensor, zoo: Tensor, skip_self: bool) -> Tensor:
    distance = torch.cdist(weights, zoo, compute_mode="donot_use_mm_for_euclid_dist")
    if skip_self:
        if weights.shape != zoo.shape or len(zoo) < 2:
            raise ValueError("skip_self compares a zoo of at least two members with itself")
        distance.fill_diagonal_(float("inf"))
    return distance


def rematched_distance(
    weights: Tensor, zoo: Tensor, spec: PermutationSpec, *, skip_self: bool = False, candidates: int = 3,
    based: Tensor | None = None, seed: int = 0,
) -> Tensor:  # fmt: skip
    """Distance to the nearest row of ``zoo`` up to a renaming of hidden units: (n,), never above the plain one.

    Two networks may be neighbours under other names. Each row is weight-matched to its ``candidates`` nearest rows,
    once as the rows stand and once with all of them matched to the first row of ``zoo``. Both steps are heuristics,
    so this bounds the true distance from above. ``based`` is ``zoo`` already matched to its first row, for a caller
    that asks about several sets of ``weights``.
    """
    plain = _distances(weights, zoo, skip_self)
    if based is None:
        based = permute_all(match_all(zoo[0], zoo, spec, restarts=0, seed=seed), spec, zoo)
    permuted = permute_all(match_all(zoo[0], weights, spec, restarts=0, seed=seed), spec, weights)
    in_basis = _distances(permuted, based, skip_self)
    nearest = [d.topk(min(candidates, len(zoo)), largest=False).indices for d in (plain, in_basis)]
    pairs = {(i, j) for near in nearest for i, row in enumerate(near.tolist()) for j in row}
    pairs = sorted((i, j) for i, j in pairs if not (skip_self and i == j))

    def match(pair: tuple[int, int]) -> Tensor:
        found = weight_matching(weights[pair[0]], zoo[pair[1]], spec, restarts=0, seed=seed)
        return (weights[pair[0]] - found.apply(spec, zoo[pair[1]])).norm()

    best = plain.min(1).values.tolist()
    for (i, _), distance in zip(pairs, match_each(match, pairs), strict=True):
        best[i] = min(best[i], float(distance))
    return torch.tensor(best)


def wrong_set_overlap(wrong: Tensor, zoo_wrong: Tensor, *, skip_self: bool = False) -> Tensor:
    """Largest overlap |A ∩ B| / |A ∪ B| of the examples a network gets wrong with those a member gets wrong: (n,).

    The paper's measure of behaviour (arXiv 2601.05052, fig. 2): 1 is a behavioural copy. ``skip_self`` leaves out the
    row of the same position: without it a zoo measured against itself reads 1 whatever it does.

    Args:
        wrong: (n, examples), True where a network errs. zoo_wrong: (N, examples).
    """
    a, b = wrong.float(), zoo_wrong.float()
    both = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1) - both
    overlap = torch.where(either > 0, both / either.clamp_min(1), 1.0)  # two networks without errors behave alike
    if skip_self:
        overlap.fill_diagonal_(-1.0)
    return overlap.max(1).values
