"""A whole zoo in one basis: every member permuted to agree with one reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dwflow_lite.support.checks import brief, is_whole, whole_seed
from dwflow_lite.support.devices import one_thread, out_of_memory_as
from dwflow_lite.support.jobs import by_position, run_jobs
from dwflow_lite.symmetry.basis import facts_of_alignment
from dwflow_lite.symmetry.descents import Orders
from dwflow_lite.symmetry.many import LARGE, Matchings, default_restarts, match_rows, permute_rows, rows_at_once
from dwflow_lite.symmetry.matching import inner_product, inner_products
from dwflow_lite.symmetry.spec import PermutationSpec, require_spec
from dwflow_lite.zoo.checks import require_zoo
from dwflow_lite.zoo.inputs import check_taken, require_tensor
from dwflow_lite.zoo.layout import Layout
from dwflow_lite.zoo.storage import Shards
from dwflow_lite.zoo.zoo import Zoo

JOBS = 16  # at least so many, if there are as many members, where an executor runs them


@out_of_memory_as(
    "no memory to align so many networks: pass fewer restarts, fewer members, or a zoo on disk and a folder"
)
def canonicalise(  # noqa: PLR0913 - a public door
    zoo: Zoo,
    spec: PermutationSpec | None = None,
    *,
    reference: int | Tensor = 0,
    restarts: int | None = None,
    rounds: int = 0,
    probe: Tensor | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> Zoo:
    """Permute the hidden units of every member so that its weights lie close to a reference; all members in parallel.

    With ``rounds`` the reference is only a start: the mean of the permuted members takes its place, again and again (a
    running-mean *universe*, after Git Re-Basin's MergeMany). Like k-means it alternates two steps that can only lower
    the spread of the fitted members about their mean.

    Args:
        zoo: networks of one architecture; not changed.
        spec: what moves together; by default ``PermutationSpec.of`` the zoo's network.
        reference: position of the member that stays as it is (not a held-out one), or a weight vector (d,).
        restarts: further starts from random permutations, of each matching with the reference; None: as in
            :func:`weight_matching`.
        rounds: how often, at most, the members are matched to the mean of the fitted ones; it ends when nobody moves.
        probe: inputs (n, ...) on which a spec of your own is verified to change no output. Without them it is trusted,
            but recorded scores are dropped.
        seed: of group order and restarts.
        folder: where the result is written, member after member; needed for a zoo on disk, of which as many rows are
            read at a time as are matched at once (``MATCHED_AT_ONCE`` bytes).
        executor: where members are matched, a few a job (:func:`dwflow_lite.support.jobs.run_jobs`).
        progress: show a bar.

    Returns:
        A zoo of the same functions. Its record's last stage holds the objective before and after, for each member (the
        inner product with the reference, or with the last mean), and the ``spread`` after the matching and each round:
        mean squared distance of the fitted members to their mean; and the facts by which :func:`basis_of` knows the
        basis.

    Raises:
        ValueError: a spec of another layout or that is no symmetry, a reference that is no member that generators may
            see, a probe that the networks do not take, or a zoo on disk and no folder.
        TypeError: no zoo, no spec, or a probe that is no tensor.
        MemoryError: too many members in memory, or too many restarts.
    """
    require_zoo(zoo)
    zoo.check_room(folder)
    seed = whole_seed(seed)
    require_spec(spec)
    is_known_spec = spec is None
    spec = PermutationSpec.of(zoo.network) if spec is None else spec
    restarts = default_restarts(spec, restarts)
    _check(zoo, spec, rounds, probe)
    _check_reference(zoo, reference)
    reference = reference if isinstance(reference, Tensor) else int(reference)  # JSON knows no NumPy numbers

    if isinstance(reference, int):
        target = _light(zoo.weights[reference : reference + 1])
    else:
        target = reference.to(zoo.weights.device, zoo.weights.dtype)[None]
    fitted = [member for member, held in enumerate(zoo.held_out) if not held]

    alignment = _Alignment.of(zoo, spec, restarts, seed, executor, progress)
    with one_thread(spec.layout.size < LARGE):
        target, matchings, spreads = _aligned(alignment, target, fitted, restarts, rounds)
        target = _read(target)[0]
        before = (
            _objectives(target, zoo.weights, spec) if len(spreads) > 1 else [x for m in matchings for x in m.before]
        )

    stage = {
        "stage": "canonicalise",
        "method": "weight matching",
        "reference": reference if isinstance(reference, int) else "given weights",
        "restarts": restarts,
        "seed": seed,
        "rounds": int(rounds),
        "basis": facts_of_alignment(target, spec, rounds=len(spreads) - 1),
        "fitted": len(fitted),
        "spread": spreads,
        "objective_before": before,
        "objective_after": [history[-1] for part in matchings for history in part.objectives],
    }
    is_symmetry = is_known_spec or probe is not None
    return zoo.with_weights(alignment.result(), stage, keep_scores=is_symmetry, folder=folder)


def _aligned(
    alignment: _Alignment, target: Tensor | Shards, fitted: Sequence[int], restarts: int, rounds: int
) -> tuple[Tensor | Shards, list[Matchings], list[float]]:
    """Match to a target (1, d), then in rounds to the mean of fitted members, until nobody moves.

    Returns:
        The last target, the matchings with it of each part, and the spread after each matching.
    """
    matchings = alignment.match(target, restarts)
    mean, spread = alignment.mean_and_spread(fitted)
    spreads = [spread]
    for _ in range(rounds):
        target = mean[None]
        matchings = alignment.match(target, restarts=0)
        mean, spread = alignment.mean_and_spread(fitted)
        spreads.append(spread)
        if not any(part.has_moves for part in matchings):
            break
    return target, matchings, spreads


# -- checks ------------------------------------------------------------------------------------------------------------


def _check(zoo: Zoo, spec: PermutationSpec, rounds: int, probe: Tensor | None) -> None:
    if not is_whole(rounds):
        raise ValueError(f"rounds must be a whole number >= 0, got {rounds!r}")
    if rounds and all(zoo.held_out):
        raise ValueError(f"rounds match to the mean of members that generators may see, and {zoo!r} has none: rounds=0")
    if spec.layout != zoo.layout:
        raise ValueError("the spec belongs to another layout than the zoo's")
    if probe is not None:
        require_tensor(probe)
        try:
            spec.verify(zoo.network, zoo.weights[0], probe)
        except Exception:
            check_taken(zoo, probe, f"a probe (n, ...) of shape {tuple(probe.shape)}")
            raise


def _check_reference(zoo: Zoo, reference: int | Tensor) -> None:
    if isinstance(reference, Tensor):
        zoo.layout.check(reference)
        if reference.ndim != 1 or not torch.isfinite(reference).all():
            raise ValueError(f"a reference is one finite weight vector (d,), got shape {tuple(reference.shape)}")
        return
    if isinstance(reference, bool) or not isinstance(reference, int | np.integer):
        raise ValueError(f"reference is the position of a member or a weight vector, got {brief(reference)}")
    if not 0 <= reference < len(zoo):
        raise ValueError(f"reference {reference} is not a member of a zoo of {len(zoo)}")
    if zoo.held_out[reference]:
        raise ValueError(f"reference {reference} is held out; choose a member that generators may see")


# -- one target, every member ------------------------------------------------------------------------------------------


@dataclass
class _Alignment:
    """Members in parts, as permuted so far; those of a zoo on disk as they are there, and beside them their orders."""

    spec: PermutationSpec
    parts: list[Tensor | Shards]  # (m, d) each
    orders: list[Orders | None]  # of each part on disk, group -> (m, units); None: nobody was permuted, or is in memory
    seed: int
    executor: Executor | None
    progress: bool

    @classmethod
    def of(
        cls, zoo: Zoo, spec: PermutationSpec, restarts: int, seed: int, executor: Executor | None, progress: bool
    ) -> _Alignment:
        """Parts of as many members as are matched at a time; with an executor smaller ones, so that each has a job."""
        at_once = rows_at_once(spec, restarts)
        if executor is not None:
            at_once = min(at_once, ceil(len(zoo) / JOBS))
        parts = [zoo.weights[start : start + at_once] for start in range(0, len(zoo), at_once)]
        if executor is not None:
            parts = [_light(part) for part in parts]
        return cls(spec, parts, [None] * len(parts), seed, executor, progress)

    def match(self, target: Tensor | Shards, restarts: int) -> list[Matchings]:
        """Match every member, as permuted so far, to a target (1, d), and permute it further by the result."""
        jobs = [
            (target, part, orders, self.spec, restarts, self.seed)
            for part, orders in zip(self.parts, self.orders, strict=True)
        ]
        results = run_jobs(_match_part, jobs, self.executor, progress=self.progress, desc="aligning", unit="part")
        in_order = list(by_position(results))
        for number, matchings in enumerate(in_order):
            before = self.orders[number]
            if isinstance(self.parts[number], Tensor):
                self.parts[number] = permute_rows(matchings.orders, self.spec, self.parts[number])
            elif before is None:
                self.orders[number] = matchings.orders
            else:  # the old ones first
                self.orders[number] = {g: before[g].gather(1, order) for g, order in matchings.orders.items()}
        return in_order

    def permuted(self) -> Iterator[Tensor]:
        """All members as permuted so far, (m, d) at a time."""
        for part, orders in zip(self.parts, self.orders, strict=True):
            yield _permuted(part, orders, self.spec)

    def result(self) -> Tensor | Iterator[Tensor]:
        """All members as permuted in the end: (N, d), or (m, d) at a time."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Tensor):
            return self.parts[0]
        return self.permuted()

    def mean_and_spread(self, members: Sequence[int]) -> tuple[Tensor, float]:
        """Mean (d,) of some members as permuted so far, and their mean squared distance to it."""
        chosen = set(members)
        rows = (row for part in self.permuted() for row in part)
        some = (row for member, row in enumerate(rows) if member in chosen)
        return _mean_and_spread(some, _parameter_columns(self.spec.layout))


def _match_part(
    target: Tensor | Shards,
    part: Tensor | Shards,
    orders: Orders | None,
    spec: PermutationSpec,
    restarts: int,
    seed: int,
) -> Matchings:
    """Match some members (m, d), as permuted so far, to a target (1, d). A job, whose arguments can be pickled."""
    return match_rows(_read(target)[0], _permuted(part, orders, spec), spec, restarts, seed)


def _permuted(part: Tensor | Shards, orders: Orders | None, spec: PermutationSpec) -> Tensor:
    weights = _read(part)
    return weights if orders is None else permute_rows(orders, spec, weights)


def _objectives(target: Tensor, weights: Tensor | Shards, spec: PermutationSpec) -> list[float]:
    """The inner product of each row (N, d) with a target (d,)."""
    state = spec.parameters(target)
    totals = [inner_products(state, spec.parameters(rows)) for rows in weights.split(rows_at_once(spec, 0))]
    return torch.cat(totals).tolist()


def _light(rows: Tensor | Shards) -> Tensor | Shards:
    """Rows that travel to a worker alone: a view of a tensor would take the whole matrix along."""
    return rows.clone() if isinstance(rows, Tensor) else rows


def _read(rows: Tensor | Shards) -> Tensor:
    return rows if isinstance(rows, Tensor) else rows.columns(slice(None))


def _parameter_columns(layout: Layout) -> Tensor | slice:
    """Which columns (d,) are parameters: running statistics have no say in the objective, nor in the spread."""
    if all(entry.role == "parameter" for entry in layout.entries):
        return slice(None)
    return torch.cat([torch.full((entry.size,), entry.role == "parameter") for entry in layout.entries])


def _mean_and_spread(members: Iterable[Tensor], columns: Tensor | slice) -> tuple[Tensor, float]:
    """Mean (d,) of vectors that pass by once, and their mean squared distance to it over some columns.

    Welford's method: each vector moves the mean by its share of the difference, and adds the product of its differences
    to the old and to the new mean.
    """
    mean = torch.zeros(())
    squares = 0.0  # sum of squared distances to the mean so far
    count = 0
    for count, member in enumerate(members, 1):
        difference = member - mean
        mean = mean + difference / count
        squares += inner_product({"": difference[columns]}, {"": (member - mean)[columns]})
    return mean, squares / max(count, 1)  # of nobody: 0
