"""A whole zoo in one basin: every member renamed to one reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from dwflow_lite.support.devices import one_thread
from dwflow_lite.support.jobs import run_jobs
from dwflow_lite.support.progress import bar as progress_bar
from dwflow_lite.symmetry.matching import MatchingResult, default_restarts, inner_product, weight_matching
from dwflow_lite.symmetry.spec import Permutation, PermutationSpec
from dwflow_lite.zoo.storage import Shards
from dwflow_lite.zoo.zoo import Zoo

Item, Result = TypeVar("Item"), TypeVar("Result")


def match_each(match: Callable[[Item], Result], rows: Sequence[Item], progress: bool = False) -> list[Result]:
    """Call ``match`` on every item, in a pool of as many threads as torch uses, each on one; in order."""
    workers = torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        results = pool.map(match, rows)
        return list(progress_bar(results, total=len(rows), desc="aligning", unit="network", progress=progress))


def match_all(
    reference: Tensor, weights: Tensor, spec: PermutationSpec, *, restarts: int | None = None, seed: int = 0
) -> Tensor:
    """Rows (n, d) renamed to agree with a reference (d,), all of them in parallel."""

    def match(row: Tensor) -> Tensor:
        return spec.apply(weight_matching(reference, row, spec, restarts=restarts, seed=seed).permutation, row)

    return torch.stack(match_each(match, weights))


def match_neighbours(
    zoo: Zoo, spec: PermutationSpec, match: Callable[[Tensor, Tensor], Permutation], progress: bool = False
) -> tuple[Zoo, list[tuple[int, int]]]:
    """Every member beside the next one (after the last the first), which is renamed to agree with it, in parallel.

    Args:
        zoo: networks (N, d). spec: what moves together.
        match: two weight vectors (d,) to the permutation of the second.
        progress: show a bar.

    Returns:
        A zoo of 2 N rows, and the pairs of rows (0, 1), (2, 3), … that belong together.
    """
    others = zoo.weights.roll(-1, 0)
    found = match_each(lambda pair: match(*pair), list(zip(zoo.weights, others, strict=True)), progress)
    renamed = torch.stack([spec.apply(p, w) for p, w in zip(found, others, strict=True)])
    rows = torch.stack([zoo.weights, renamed], 1).flatten(0, 1)
    return Zoo(rows, zoo.layout, zoo.network), [(2 * i, 2 * i + 1) for i in range(len(zoo))]


def canonicalise(
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
    """Rename the hidden units of every member so that its weights lie close to a reference; all members in parallel.

    With ``rounds`` the reference is only a start: the mean of the renamed members takes its place, again and again (a
    running-mean *universe*, after Git Re-Basin's MergeMany). Like k-means it alternates two steps that can only lower
    the spread of the fitted members about their mean.

    Args:
        zoo: networks of one architecture; not changed.
        spec: what moves together; by default ``PermutationSpec.of`` the zoo's network.
        reference: position of the member that stays as it is (not a held-out one), or a weight vector (d,).
        restarts: further random starts for each matching with the reference; None: as in :func:`weight_matching`.
        rounds: how often, at most, the members are matched to the mean of the fitted ones; it ends when nobody moves.
        probe: inputs (n, ...) on which a spec of your own is verified to change no output. Without them it is trusted,
            but recorded scores are dropped.
        seed: of group order and restarts.
        folder: where the result is written, member after member; needed for a zoo on disk, of which a few rows are
            read at a time. executor: where members are matched, one a job (:func:`dwflow_lite.jobs.run_jobs`).
        progress: show a bar.

    Returns:
        A zoo of the same functions. Its record's last stage holds the objective before and after, for each member (the
        inner product with the reference, or with the last mean), and the ``spread`` after the matching and each round:
        mean squared distance of the fitted members to their mean.
    """
    zoo.check_room(folder)
    known = spec is None
    spec = PermutationSpec.of(zoo.network) if known else spec
    restarts = default_restarts(spec, restarts)
    if rounds < 0:
        raise ValueError(f"rounds must be >= 0, got {rounds}")
    if spec.layout != zoo.layout:
        raise ValueError("the spec belongs to another layout than the zoo's")
    if probe is not None:
        spec.verify(zoo.network, zoo.weights[0], probe)
    if isinstance(reference, Tensor):
        target, name = reference.to(zoo.weights.device, zoo.weights.dtype), "given weights"
        zoo.layout.check(target)
        if target.ndim != 1 or not torch.isfinite(target).all():
            raise ValueError(f"a reference is one finite weight vector (d,), got shape {tuple(target.shape)}")
    else:
        if isinstance(reference, bool) or not isinstance(reference, int):
            raise ValueError(f"reference is the position of a member or a weight vector, got {reference!r}")
        if not 0 <= reference < len(zoo):
            raise ValueError(f"reference {reference} is not a member of a zoo of {len(zoo)}")
        if zoo.held_out[reference]:
            raise ValueError(f"reference {reference} is held out; choose a member that generators may see")
        name = reference
    rows = [zoo.weights[m : m + 1] for m in range(len(zoo))]  # of a zoo on disk: not read yet
    if executor is not None and isinstance(zoo.weights, Tensor):
        rows = [row.clone() for row in rows]  # a view would travel with the whole matrix
    orders = [spec.identity() for _ in rows]
    aim = target if isinstance(reference, Tensor) else rows[reference]  # nor sent to workers as numbers
    # Running statistics have no say in the objective, nor held-out members in the mean.
    columns = torch.cat([torch.full((e.size,), e.role == "parameter") for e in zoo.layout.entries])
    spread = []
    for number in range(1 + rounds):
        tries = restarts if number == 0 else 0
        found = _match(aim, rows, orders, spec, tries, seed, executor, progress)
        orders = [f.permutation.compose(order) for f, order in zip(found, orders, strict=True)]
        members = (spec.apply(o, r[0]) for o, r, held in zip(orders, rows, zoo.held_out, strict=True) if not held)
        last, (aim, moment) = aim, _mean_and_spread(members, columns)
        spread.append(moment)
        if number and all(f.permutation.is_identity for f in found):
            break
    goal = spec.parameters(last[0] if last.ndim > 1 else last)
    stage = {
        "stage": "canonicalise", "method": "weight matching", "reference": name, "restarts": restarts, "seed": seed,
        "rounds": rounds, "fitted": len(zoo) - sum(zoo.held_out), "spread": spread,
        "objective_before": [inner_product(goal, spec.parameters(r[0])) for r in rows],
        "objective_after": [f.objective[-1] for f in found],
    }  # fmt: skip
    renamed = (spec.apply(order, row[0])[None] for order, row in zip(orders, rows, strict=True))
    return zoo.with_weights(renamed, stage, keep_scores=known or probe is not None, folder=folder)


def _match_one(
    aim: Tensor | Shards, row: Tensor | Shards, order: Permutation, spec: PermutationSpec, restarts: int, seed: int
) -> MatchingResult:
    """A job: a reference (d,), or (1, d) like the member, and a member already renamed by ``order``."""
    aim = aim if aim.ndim == 1 else aim[0]
    return weight_matching(aim, spec.apply(order, row[0]), spec, restarts=restarts, seed=seed)


def _match(
    aim: Tensor | Shards, rows: list, orders: list[Permutation], spec: PermutationSpec, restarts: int, seed: int,
    executor: Executor | None, progress: bool,
) -> list[MatchingResult]:  # fmt: skip
    """How every member is to be renamed: by an executor; in memory, by threads; from disk, one after the other."""
    jobs = [(aim, row, order, spec, restarts, seed) for row, order in zip(rows, orders, strict=True)]
    if executor is None and isinstance(rows[0], Tensor):
        return match_each(lambda job: _match_one(*job), jobs, progress)
    parts = run_jobs(_match_one, jobs, executor, progress=progress, desc="aligning", unit="network")
    return [found for _, found in sorted(parts, key=itemgetter(0))]


def _mean_and_spread(members: Iterable[Tensor], columns: Tensor) -> tuple[Tensor, float]:
    """Mean (d,) of vectors that pass by once, and their mean squared distance to it over some columns (Welford)."""
    mean, moment, count = torch.zeros(()), 0.0, 0
    for count, member in enumerate(members, 1):
        away = member - mean
        mean = mean + away / count
        moment += float((away * (member - mean))[columns].sum(dtype=torch.float64))
    return mean, moment / count


def basis_of(zoo: Zoo) -> list[list]:
    """The alignments a zoo went through: two zoos of one record are comparable weight by weight only if these agree."""
    keys = ("method", "reference", "restarts", "seed", "rounds")
    stages = [s for s in zoo.record.get("stages", []) if s.get("stage") in ("canonicalise", "fix gauge")]
    # A mean depends on whom it is taken over.
    return [[*(s.get(k, 0) for k in keys), s["fitted"] if s.get("rounds") else 0] for s in stages]
