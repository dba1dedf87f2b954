"""What is measured of generated networks: distances, overlaps of mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

import torch
from torch import Tensor

from dwflow_lite.auditing.streams import Rows
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.symmetry.many import match_all, permute_all
from dwflow_lite.symmetry.matching import Matching
from dwflow_lite.symmetry.spec import PermutationSpec

SMALLEST = 2.0**-20  # the largest weight of all networks, below which they are multiplied; its inverse, above

FEWER = "no memory for so many networks beside the zoo: pass fewer at a time"

SUSPECT = 0.1  # of other bounds, and of the distance that was found: the lower bound of a suspected copy
RESTARTS_OF_SUSPECTS = 10


@out_of_memory_as(FEWER)
def nearest_distance(weights: Tensor | Rows, zoo: Tensor | Rows, *, skip_self: bool = False) -> Tensor:
    """Euclidean distance of each row of ``weights`` (n, d) to its nearest row of ``zoo`` (N, d): (n,).

    ``skip_self`` leaves out the row of the same position, for a zoo measured against itself.
    """
    return _distances(Rows.of(weights), Rows.of(zoo), skip_self).min(1).values


def nearest_member(weights: Rows, zoo: Rows, *, skip_self: bool = False) -> Tensor:
    """Which row of ``zoo`` (N, d) is nearest to each of ``weights`` (n, d), as they stand: its position, (n,)."""
    return _distances(weights, zoo, skip_self).argmin(1)


def _distances(weights: Rows, zoo: Rows, skip_self: bool) -> Tensor:
    """All distances (n, N), block by block."""
    if skip_self and (weights.weights.shape != zoo.weights.shape or len(zoo) < 2):
        raise ValueError("skip_self compares a zoo of at least two members with itself")
    columns = []
    for _, there in zoo.blocks():  # outside, since it is the longer one to read
        columns.append(torch.cat([_all_distances(here, there) for _, here in weights.blocks()]))  # (n, some)
    distance = torch.cat(columns, 1)  # (n, N)
    if skip_self:
        distance.fill_diagonal_(float("inf"))
    return distance


def _all_distances(weights: Tensor, zoo: Tensor) -> Tensor:
    """Of rows (n, d) to rows (N, d): (n, N)."""
    weights, zoo, factor = in_range(weights, zoo)
    distance = torch.cdist(weights, zoo, compute_mode="donot_use_mm_for_euclid_dist")
    return distance if factor == 1 else distance.double() / factor


def in_range(weights: Tensor, zoo: Tensor) -> tuple[Tensor, Tensor, float]:
    """Weights whose squares neither vanish nor overflow: times a power of two, which rounds nothing, where they would.

    Args:
        weights: (n, d).
        zoo: (N, d).

    Returns:
        Both in one precision, and the factor by which both were multiplied: 1 for weights of usual size.
    """
    dtype = torch.promote_types(weights.dtype, zoo.dtype)
    if dtype not in (torch.float32, torch.float64):
        dtype = torch.float32
    weights, zoo = weights.to(dtype), zoo.to(zoo.device, dtype)
    largest = max(float(weights.abs().max()), float(zoo.abs().max()))
    if largest == 0 or SMALLEST <= largest <= 1 / SMALLEST:
        return weights, zoo, 1.0
    factor = 2.0 ** -round(log2(largest))
    return weights * factor, zoo * factor, factor


@out_of_memory_as(f"{FEWER}, or fewer candidates")
def rematched_distance(
    weights: Tensor | Rows,
    zoo: Tensor | Rows,
    spec: PermutationSpec,
    *,
    skip_self: bool = False,
    candidates: int = 3,
    zoo_matched: Tensor | Rows | None = None,
    seed: int = 0,
) -> Tensor:
    """Distance to the nearest row of ``zoo`` up to a permutation of hidden units, never above the plain one.

    Two networks may be neighbours after a permutation. Each row is weight-matched to its ``candidates`` nearest rows,
    once as the rows stand and once with all of them matched to the first row of ``zoo``. Both steps are heuristics,
    so this bounds the true distance from above. Numbers in order of size bound it from below, whatever is permuted:
    where this bound is (nearly) zero, a copy is suspected, and matched from many starts.

    Args:
        weights: (n, d).
        zoo: (N, d).
        spec: what moves together.
        skip_self: leave out the row of the same position, for a zoo measured against itself.
        candidates: how many neighbours of each kind are matched.
        zoo_matched: ``zoo`` matched to its first row, for a caller that asks about several sets of ``weights``.
        seed: of the matching.

    Networks are matched, permuted and compared on the device of ``weights``.

    Returns:
        Distances (n,), on the CPU.
    """
    weights, zoo = Rows.of(weights), Rows.of(zoo)
    zoo_matched = match_to_first(zoo, zoo, spec, seed) if zoo_matched is None else Rows.of(zoo_matched)
    weights_matched = match_to_first(weights, zoo, spec, seed)
    plain = _distances(weights, zoo, skip_self)  # (n, N)
    matched = _distances(weights_matched, zoo_matched, skip_self)  # (n, N)
    pairs = _nearest_pairs(plain, candidates) | _nearest_pairs(matched, candidates)
    if skip_self:
        pairs = {(i, j) for i, j in pairs if i != j}

    best = plain.min(1).values  # (n,)
    for restarts in (0, RESTARTS_OF_SUSPECTS):
        if restarts:
            pairs = _suspected_copies(_sorted_distances(weights, zoo, spec, skip_self), best)
        for i, columns in _by_row(pairs).items():
            some = len(columns) if isinstance(zoo.weights, Tensor) else zoo.at_once
            for start in range(0, len(columns), some):
                row, others, factor = in_range(weights[[i]], zoo[columns[start : start + some]])  # (1, d), (m, d)
                matchings = match_all(row[0], others, spec, restarts=restarts, seed=seed)
                distance = (row - permute_all(matchings, spec, others)).norm(dim=1).min()
                best[i] = torch.minimum(best[i], distance.to(best) / factor)
    return best.cpu()


def _sorted_distances(weights: Rows, zoo: Rows, spec: PermutationSpec, skip_self: bool) -> Tensor:
    """Distances (n, N) when the numbers of every tensor stand in order of size: never above those of any permutation.

    (Of two vectors with given numbers, those in the same order are the closest.)
    """

    def in_order(rows: Tensor, _: Sequence[int]) -> Tensor:
        return torch.cat([rows[:, columns].sort(1).values for columns in spec.layout.slices.values()], 1)

    return _distances(weights.changed(in_order), zoo.changed(in_order), skip_self)


def _suspected_copies(at_least: Tensor, best: Tensor) -> set[tuple[int, int]]:
    """Pairs of rows that may be copies, by lower bounds (n, N), though the distance that was found, best (n,), is not.

    Among members of a zoo the bounds are much alike, so a copy is what stands out by its own.
    """
    lowest = at_least.min(1)
    largest = at_least.masked_fill(at_least.isinf(), 0.0).max(1).values
    is_suspect = lowest.values < SUSPECT * torch.minimum(largest, best.to(largest))
    columns = lowest.indices.tolist()
    return {(i, columns[i]) for i in is_suspect.nonzero().flatten().tolist()}


def match_to_first(weights: Rows, zoo: Rows, spec: PermutationSpec, seed: int) -> Rows:
    """Rows (n, d), their hidden units permuted to agree with the first row of ``zoo`` (N, d)."""
    first = zoo[[0]]  # (1, d)

    def matchings_of(rows: Tensor) -> list[Matching]:
        rows_in_range, first_in_range, _ = in_range(rows, first)
        return match_all(first_in_range[0], rows_in_range, spec, restarts=0, seed=seed)

    if isinstance(weights.weights, Tensor):
        return Rows(permute_all(matchings_of(weights.weights), spec, weights.weights))
    # Of rows on disk their matchings are kept, a few numbers a unit, and the rows are moved whenever they are read.
    matchings = [matching for _, rows in weights.blocks() for matching in matchings_of(rows)]

    def moved(rows: Tensor, positions: Sequence[int]) -> Tensor:
        return permute_all([matchings[position] for position in positions], spec, rows)

    return weights.changed(moved)


def _nearest_pairs(distances: Tensor, candidates: int) -> set[tuple[int, int]]:
    """For each row of (n, N) its nearest columns, as pairs of positions."""
    k = min(candidates, distances.shape[1])
    columns = distances.topk(k, largest=False).indices.tolist()  # (n, k)
    return {(i, j) for i, row in enumerate(columns) for j in row}


def _by_row(pairs: set[tuple[int, int]]) -> dict[int, list[int]]:
    """Pairs (row, column) as the columns of each row, both in order."""
    columns_of: dict[int, list[int]] = {}
    for row, column in sorted(pairs):
        columns_of.setdefault(row, []).append(column)
    return columns_of


@out_of_memory_as(FEWER)
def wrong_set_overlap(wrong: Tensor, zoo_wrong: Tensor, *, skip_self: bool = False) -> Tensor:
    """Largest overlap |A ∩ B| / |A ∪ B| of the examples a network gets wrong with those a member gets wrong: (n,).

    The paper's measure of behaviour (arXiv 2601.05052, fig. 2): 1 is a behavioural copy. ``skip_self`` leaves out the
    row of the same position: without it a zoo measured against itself reads 1 whatever it does.

    Args:
        wrong: (n, examples), True where a network errs.
        zoo_wrong: (N, examples).
        skip_self: see above.
    """
    a = wrong.float()
    b = zoo_wrong.float()
    both = a @ b.T  # (n, N), sizes of A ∩ B
    either = a.sum(1)[:, None] + b.sum(1) - both  # (n, N), sizes of A ∪ B
    overlap = torch.where(either > 0, both / either.clamp_min(1), 1.0)  # two networks without errors behave alike
    if skip_self:
        overlap.fill_diagonal_(-1.0)
    return overlap.max(1).values
