"""Many matchings at once: each row of a zoo with a reference, or each member with its neighbour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from dwflow_lite.support.devices import one_thread
from dwflow_lite.support.progress import bar as progress_bar
from dwflow_lite.symmetry.matching import Matching, weight_matching
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.zoo.zoo import Zoo

Item, Result = TypeVar("Item"), TypeVar("Result")


def match_each(match: Callable[[Item], Result], items: Sequence[Item], progress: bool = False) -> list[Result]:
    """Call ``match`` on every item, in a pool of as many threads as torch uses, each on one; results in order."""
    workers = torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        results = pool.map(match, items)
        return list(progress_bar(results, total=len(items), desc="aligning", unit="network", progress=progress))


def match_all(
    reference: Tensor, weights: Tensor, spec: PermutationSpec, *, restarts: int | None = None, seed: int = 0
) -> list[Matching]:
    """Weight matching of every row (n, d) with a reference (d,), all of them in parallel.

    Args:
        reference: weights (d,).
        weights: (n, d), each row by itself.
        spec: what moves together.
        restarts: as in :func:`weight_matching`.
        seed: the same for every row.

    Returns:
        One matching a row; ``matching.apply(spec, row)`` is the permuted row.
    """

    def match(row: Tensor) -> Matching:
        return weight_matching(reference, row, spec, restarts=restarts, seed=seed)

    return match_each(match, weights)


def permute_all(matchings: Sequence[Matching], spec: PermutationSpec, weights: Tensor) -> Tensor:
    """Each row (n, d) moved by its own matching: (n, d).

    Raises:
        ValueError: another number of matchings than of rows.
    """
    if len(matchings) != len(weights):
        raise ValueError(f"{len(matchings)} matchings do not fit {len(weights)} rows: give one for each row")
    return torch.stack([matching.apply(spec, row) for matching, row in zip(matchings, weights, strict=True)])


def match_neighbours(
    zoo: Zoo, spec: PermutationSpec, match: Callable[[Tensor, Tensor], Matching], progress: bool = False
) -> tuple[Zoo, list[tuple[int, int]]]:
    """Every member beside the next one (after the last the first), which is matched to it, all in parallel.

    Args:
        zoo: networks (N, d).
        spec: what moves together.
        match: two weight vectors (d,) to the matching of the second with the first.
        progress: show a bar.

    Returns:
        A zoo of 2 N rows, and the pairs of rows (0, 1), (2, 3), … that belong together.
    """
    neighbours = zoo.weights.roll(-1, 0)
    pairs = list(zip(zoo.weights, neighbours, strict=True))
    matchings = match_each(lambda pair: match(*pair), pairs, progress)
    permuted = permute_all(matchings, spec, neighbours)
    rows = torch.stack([zoo.weights, permuted], 1).flatten(0, 1)  # (N, 2, d) -> (2 N, d)
    positions = [(2 * i, 2 * i + 1) for i in range(len(zoo))]
    return Zoo(rows, zoo.layout, zoo.network), positions
