"""A whole zoo in one basis: every member permuted to agree with one reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dwflow_lite.support.checks import brief, is_whole, whole_seed
from dwflow_lite.support.jobs import run_jobs
from dwflow_lite.symmetry.basis import facts_of_alignment
from dwflow_lite.symmetry.many import match_each
from dwflow_lite.symmetry.matching import Matching, default_restarts, inner_product, weight_matching
from dwflow_lite.symmetry.permutation import Permutation
from dwflow_lite.symmetry.spec import PermutationSpec, require_spec
from dwflow_lite.zoo.checks import require_zoo
from dwflow_lite.zoo.inputs import check_taken, require_tensor
from dwflow_lite.zoo.layout import Layout
from dwflow_lite.zoo.storage import Shards
from dwflow_lite.zoo.zoo import Zoo

# One network: weights (1, d), of a zoo on disk not read yet. ``row[0]`` (d,) reads them.
Row = Tensor | Shards


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
        folder: where the result is written, member after member; needed for a zoo on disk, of which a few rows are
            read at a time.
        executor: where members are matched, one a job (:func:`dwflow_lite.support.jobs.run_jobs`).
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

    rows = _rows(zoo, executor)
    if isinstance(reference, int):
        target = rows[reference]
    else:
        target = reference.to(zoo.weights.device, zoo.weights.dtype)[None]  # (1, d), as a row
    fitted = [member for member, held in enumerate(zoo.held_out) if not held]

    alignment = _Alignment(spec, rows, [spec.identity() for _ in rows], seed, executor, progress)
    matchings = alignment.match(target, restarts)
    mean, spread = alignment.mean_and_spread(fitted)
    spreads = [spread]
    for _ in range(rounds):
        target = mean[None]
        matchings = alignment.match(target, restarts=0)
        mean, spread = alignment.mean_and_spread(fitted)
        spreads.append(spread)
        if all(matching.permutation.is_identity for matching in matchings):
            break

    state = spec.parameters(target[0])
    stage = {
        "stage": "canonicalise",
        "method": "weight matching",
        "reference": reference if isinstance(reference, int) else "given weights",
        "restarts": restarts,
        "seed": seed,
        "rounds": int(rounds),
        "basis": facts_of_alignment(target[0], spec, rounds=len(spreads) - 1),
        "fitted": len(fitted),
        "spread": spreads,
        "objective_before": [inner_product(state, spec.parameters(row[0])) for row in rows],
        "objective_after": [matching.objective[-1] for matching in matchings],
    }
    permuted = (weights[None] for weights in alignment.permuted(range(len(zoo))))  # (1, d) each, one at a time
    is_symmetry = is_known_spec or probe is not None
    return zoo.with_weights(permuted, stage, keep_scores=is_symmetry, folder=folder)


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


def _rows(zoo: Zoo, executor: Executor | None) -> list[Row]:
    rows = [zoo.weights[member : member + 1] for member in range(len(zoo))]
    if executor is not None and isinstance(zoo.weights, Tensor):
        return [row.clone() for row in rows]  # a view would travel to the workers with the whole matrix
    return rows


@dataclass
class _Alignment:
    """Members as they were read, and for each the permutation that it has got so far."""

    spec: PermutationSpec
    rows: list[Row]
    permutations: list[Permutation]
    seed: int
    executor: Executor | None
    progress: bool

    def match(self, target: Row, restarts: int) -> list[Matching]:
        """Match every member, as permuted so far, to a target (1, d), and permute it further by the result."""
        jobs = [
            (target, row, permutation, self.spec, restarts, self.seed)
            for row, permutation in zip(self.rows, self.permutations, strict=True)
        ]
        in_memory = isinstance(self.rows[0], Tensor)
        if self.executor is None and in_memory:
            matchings = match_each(lambda job: _match_row(*job), jobs, self.progress)
        else:  # by an executor; or here, one after the other, so that few rows of a zoo on disk are read at a time
            results = run_jobs(_match_row, jobs, self.executor, progress=self.progress, desc="aligning", unit="network")
            matchings = [matching for _, matching in sorted(results, key=itemgetter(0))]  # back in order of members
        for member, matching in enumerate(matchings):
            self.permutations[member] = matching.permutation.compose(self.permutations[member])  # the old one first
        return matchings

    def permuted(self, members: Iterable[int]) -> Iterator[Tensor]:
        """Some members (d,) as permuted so far, one after the other."""
        for member in members:
            yield self.spec.apply(self.permutations[member], self.rows[member][0])

    def mean_and_spread(self, members: Iterable[int]) -> tuple[Tensor, float]:
        """Mean (d,) of some members as permuted so far, and their mean squared distance to it."""
        return _mean_and_spread(self.permuted(members), _parameter_columns(self.spec.layout))


def _match_row(
    target: Row, row: Row, permutation: Permutation, spec: PermutationSpec, restarts: int, seed: int
) -> Matching:
    """Match one member (1, d), as permuted so far, to a target (1, d). A job, whose arguments can be pickled."""
    permuted = spec.apply(permutation, row[0])
    return weight_matching(target[0], permuted, spec, restarts=restarts, seed=seed)


def _parameter_columns(layout: Layout) -> Tensor:
    """Which columns (d,) are parameters: running statistics have no say in the objective, nor in the spread."""
    return torch.cat([torch.full((entry.size,), entry.role == "parameter") for entry in layout.entries])


def _mean_and_spread(members: Iterable[Tensor], columns: Tensor) -> tuple[Tensor, float]:
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
