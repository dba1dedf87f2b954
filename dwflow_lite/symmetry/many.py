"""Many matchings at once: each row of a zoo with a reference, or each member with its neighbour."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from dwflow_lite.support.checks import is_whole
from dwflow_lite.support.devices import generator_from, one_thread, out_of_memory_as
from dwflow_lite.support.progress import bar as progress_bar
from dwflow_lite.symmetry.descents import Descents, Orders
from dwflow_lite.symmetry.matching import Matching, State, has_usual_size, require_vector
from dwflow_lite.symmetry.permutation import Permutation
from dwflow_lite.symmetry.places import permute_state_of_many
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.zoo.zoo import Zoo

Item, Result = TypeVar("Item"), TypeVar("Result")

NARROW = 48  # units of a residual stream: up to here one start more or less is still felt
NARROW_RESTARTS = 4
MATCHED_AT_ONCE = 256 * 2**20  # bytes
LARGE = 1_000_000  # weights of a network: below, several threads gain nothing on its tensors


def match_each(match: Callable[[Item], Result], items: Sequence[Item], progress: bool = False) -> list[Result]:
    """Call ``match`` on every item, in a pool of as many threads as torch uses, each on one; results in order."""
    workers = torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        results = pool.map(match, items)
        return list(progress_bar(results, total=len(items), desc="aligning", unit="network", progress=progress))


# -- weight matching ---------------------------------------------------------------------------------------------------


@out_of_memory_as("no memory to match these weights: pass fewer restarts")
def weight_matching(
    a: Tensor, b: Tensor, spec: PermutationSpec, *, restarts: int | None = None, seed: int = 0, max_sweeps: int = 100
) -> Matching:
    """Permute the hidden units of ``b`` so that its weights lie close to those of ``a``.

    Maximises the sum over tensors of <A, permuted B>: a sum of bilinear assignment problems, NP-hard. Coordinate
    descent (:func:`coordinate_descent`) holds all groups but one (or all but one block of attention heads), solves that
    one exactly, and stops when none gains. What it returns is a local optimum; restarts look for a better one.

    Args:
        a: reference weights (d,), left as they are.
        b: weights (d,) to permute; the caller's tensor is not changed.
        spec: what moves together.
        restarts: starts beside the one from the identity. The first has no order of units to begin with, and grows from
            the layers that are held by inputs and outputs; the others are random permutations. None: one where several
            layers write to one group (residual streams, where local optima are poor), ``NARROW_RESTARTS`` if that
            stream is narrow, else none.
        seed: of the group order and the restarts.
        max_sweeps: a bound nobody has met.

    Returns:
        The best start, its objective <a, permuted b>, and in ``starts`` what every start reached.

    Raises:
        ValueError: weights that are not one finite vector (d,), a seed or a number of restarts that is none.
        RuntimeError: after ``max_sweeps`` sweeps there was still something to gain.
    """
    require_vector("a", a, spec)
    require_vector("b", b, spec)
    return match_rows(a, b[None], spec, default_restarts(spec, restarts), seed, max_sweeps)[0]


def default_restarts(spec: PermutationSpec, restarts: int | None) -> int:
    """The number of restarts asked for; without a wish, some where a group is tied by a residual stream.

    Raises:
        ValueError: restarts that are neither None nor a whole number >= 0.
    """
    if restarts is None:
        if not spec.tied:
            return 0
        return NARROW_RESTARTS if spec.width_of_tied <= NARROW else 1
    if not is_whole(restarts):
        raise ValueError(f"restarts must be None or a whole number >= 0, got {restarts!r}")
    return int(restarts)


@out_of_memory_as("no memory to match so many rows: pass fewer at a time, or fewer restarts")
def match_all(
    reference: Tensor, weights: Tensor, spec: PermutationSpec, *, restarts: int | None = None, seed: int = 0
) -> list[Matching]:
    """Weight matching of every row (n, d) with a reference (d,), all of them in step.

    Args:
        reference: weights (d,).
        weights: (n, d), each row by itself.
        spec: what moves together.
        restarts: as in :func:`weight_matching`.
        seed: the same for every row.

    Returns:
        One matching a row; ``matching.apply(spec, row)`` is the permuted row.
    """
    require_vector("a", reference, spec)
    return list(match_rows(reference, weights, spec, default_restarts(spec, restarts), seed))


@dataclass(frozen=True, eq=False)
class Matchings(Sequence[Matching]):
    """What was found for many rows with one reference; each is a :class:`Matching`.

    Attributes:
        orders: group -> index (n, units), a row for each row.
        objectives: the history of each row's best start.
        starts: what each start of each row reached.
        before: <a, row> of each row as it was given.
    """

    orders: Orders
    objectives: list[list[float]]
    starts: list[list[float]]
    before: list[float]

    def __len__(self) -> int:
        return len(self.objectives)

    @property
    def has_moves(self) -> bool:
        """Whether anybody is permuted at all."""
        return any(bool((order != torch.arange(order.shape[1])).any()) for order in self.orders.values())

    def __getitem__(self, row: int) -> Matching:
        permutation = Permutation({group: orders[row] for group, orders in self.orders.items()})
        return Matching(permutation, self.objectives[row], self.starts[row])


def match_rows(
    reference: Tensor, weights: Tensor, spec: PermutationSpec, restarts: int, seed: int, max_sweeps: int = 100
) -> Matchings:
    """Weight matching of every row (n, d) with a reference (d,), as many at a time as fit in ``MATCHED_AT_ONCE``.

    Products are made on the device of the weights, assignments on the CPU; the orders are there too.
    """
    with one_thread(spec.layout.size < LARGE):
        return _match_rows(reference, weights, spec, restarts, seed, max_sweeps)


def _match_rows(
    reference: Tensor, weights: Tensor, spec: PermutationSpec, restarts: int, seed: int, max_sweeps: int
) -> Matchings:
    spec.layout.check(weights)
    weights = weights.cpu() if weights.device.type == "mps" else weights  # which has no float64
    largest = weights.detach().abs().amax(1)  # (n,)
    if not bool(largest.isfinite().all()):
        raise ValueError("b must be one finite weight vector (d,): a row holds NaN or infinite weights")
    reference = reference.detach().to(weights.device)
    is_double = torch.float64 in (reference.dtype, weights.dtype)
    single = has_usual_size(torch.maximum(largest, reference.abs().max())) & (not is_double)  # (n,)
    starts = starts_of(spec, restarts, seed)
    orders = {group: torch.empty(len(weights), units, dtype=torch.int64) for group, units in spec.groups.items()}
    objectives: list[list[float]] = [[]] * len(weights)
    reached: list[list[float]] = [[]] * len(weights)
    before = torch.empty(len(weights), dtype=torch.float64)
    at_once = rows_at_once(spec, restarts)
    for precision, chosen in ((torch.float32, single), (torch.float64, ~single)):
        positions = chosen.cpu().nonzero().flatten()
        if len(positions) == 0:
            continue
        a = spec.parameters(reference.to(precision))
        for rows in positions.split(at_once):
            b = spec.parameters(_take(weights.detach(), rows).to(precision))
            descents = descents_from(a, b, spec, starts, restarts)
            before[rows] = descents.before
            descents.run(generator_from(seed), max_sweeps)
            for row, best, values in _best_of(descents, rows, restarts):
                objectives[row], reached[row] = descents.history[best], values
                for group, order in orders.items():
                    order[row] = descents.orders[group][best]
    return Matchings(orders, objectives, reached, before.tolist())


def starts_of(spec: PermutationSpec, restarts: int, seed: int) -> list[Permutation]:
    """Where the starts of every row begin: the identity, one that grows (written as the identity), random ones."""
    generator = generator_from(seed)  # not that of the group order: neither hangs on how long the other is used
    return [spec.identity() if number < 2 else spec.random(generator) for number in range(1 + restarts)]


def descents_from(
    a: State, b: State, spec: PermutationSpec, starts: Sequence[Permutation], restarts: int
) -> Descents:  # fmt: skip
    """Descents of M networks from all starts, those of one network in a row, each with the objective of its start."""
    count = len(next(iter(b.values())))
    orders = {group: torch.stack([start.indices[group] for start in starts]).repeat(count, 1) for group in spec.groups}
    descents = Descents(a, b, spec, torch.arange(count).repeat_interleave(len(starts)), orders)
    number = torch.arange(len(starts)).repeat(count)  # of the start, for each descent
    descents.begin((number != 1).nonzero().flatten())
    if restarts > 0:
        descents.grow((number == 1).nonzero().flatten())
    return descents


def _best_of(descents: Descents, rows: Tensor, restarts: int) -> Iterator[tuple[int, int, list[float]]]:
    """Each row with its best descent, of those equal up to rounding the first, and what all of them reached."""
    rounding = 10 * descents.least_gain  # a history sums many gains, each of them rounded
    for i, row in enumerate(rows.tolist()):
        of_row = range(i * (1 + restarts), (i + 1) * (1 + restarts))
        values = [descents.history[descent][-1] for descent in of_row]
        good_enough = max(values) - rounding
        best = next(n for n, value in enumerate(values) if value >= good_enough)
        yield row, of_row[best], values


def rows_at_once(spec: PermutationSpec, restarts: int) -> int:
    """How many rows are matched at a time, so that they and what belongs to them take ``MATCHED_AT_ONCE`` bytes."""
    largest = max(entry.size for entry in spec.layout.entries)
    products = sum(spec.groups[group] ** 2 * len(places) for group, places in spec.places.items())
    # Of each row its weights, and again with the units of other axes first; of each start also one tensor as permuted.
    numbers = 3 * spec.layout.size + (1 + restarts) * (2 * largest + products)
    return max(1, MATCHED_AT_ONCE // (4 * numbers))


def _take(weights: Tensor, rows: Tensor) -> Tensor:
    """Some rows; all of them as they are."""
    return weights if len(rows) == len(weights) else weights[rows.to(weights.device)]


# -- many rows, each moved by its own ----------------------------------------------------------------------------------


def permute_all(matchings: Sequence[Matching], spec: PermutationSpec, weights: Tensor) -> Tensor:
    """Each row (n, d) moved by its own matching: (n, d).

    Raises:
        ValueError: another number of matchings than of rows.
    """
    if len(matchings) != len(weights):
        raise ValueError(f"{len(matchings)} matchings do not fit {len(weights)} rows: give one for each row")
    if any(matching.rotation is not None for matching in matchings):
        return torch.stack([matching.apply(spec, row) for matching, row in zip(matchings, weights, strict=True)])
    for matching in matchings:
        spec.check(matching.permutation)
    orders = {g: torch.stack([matching.permutation.indices[g] for matching in matchings]) for g in spec.groups}
    return permute_rows(orders, spec, weights)


def permute_rows(orders: Orders, spec: PermutationSpec, weights: Tensor) -> Tensor:
    """Each row (n, d) with its units in its own orders (n, units): (n, d), tensor after tensor."""
    spec.layout.check(weights)
    permuted = torch.empty_like(weights)
    for name, columns in spec.layout.slices.items():  # one tensor at a time: no third copy of all rows
        tensor = weights[:, columns].unflatten(1, spec.layout[name].shape)  # (n, *shape)
        permuted[:, columns] = permute_state_of_many({name: tensor}, spec.axes, orders)[name].flatten(1)
    return permuted


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
