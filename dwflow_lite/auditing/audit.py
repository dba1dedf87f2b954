"""New or copied? Generated networks beside their zoo, held-out networks and simple generators."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt

import torch
from sklearn.base import clone
from torch import Tensor

from dwflow_lite.auditing.agreement import copying_statistic, effective_rank, error_consistency
from dwflow_lite.auditing.checks import (
    as_numbers,
    check_controls,
    check_kind,
    check_kinds,
    check_names,
    check_order,
    check_scores,
    check_symmetries,
    check_task,
    check_zoo,
    listed,
)
from dwflow_lite.auditing.lines import barrier_to_nearest
from dwflow_lite.auditing.measures import (
    in_range,
    match_to_first,
    nearest_distance,
    rematched_distance,
    wrong_set_overlap,
)
from dwflow_lite.auditing.rows import Bars, Row, Values
from dwflow_lite.auditing.streams import Moments, Rows, rows_at_once
from dwflow_lite.auditing.symmetries import Symmetries, check_symmetry
from dwflow_lite.auditing.table import Audit
from dwflow_lite.generate.generator import Generator
from dwflow_lite.generate.simple import simple_generators
from dwflow_lite.support.checks import whole, whole_seed
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.forward import Evaluation, evaluate, together
from dwflow_lite.zoo.storage import Shards
from dwflow_lite.zoo.zoo import Zoo

LOWEST_SHARE = 0.05  # of the fitted members, which lie below each bar
FROM_DISK = ("closed-form flow", "Gaussian on codes")  # trivial generators that never hold the whole zoo


@out_of_memory_as(
    "no memory for so many networks beside the zoo: pass fewer generated networks, generated.take(range(n)), or "
    "rematch=False"
)
def audit(  # noqa: PLR0913 - a public door
    generated: Zoo | Mapping[str, Zoo],
    zoo: Zoo,
    task: Task,
    *,
    controls: Mapping[str, Generator] | None = None,
    split: str = "validation",
    spec: PermutationSpec | None = None,
    rematch: bool = True,
    gauge: bool = True,
    barrier: bool = False,
    seed: int = 0,
    memory: int = 1 << 28,
) -> Audit:
    """Measure generated networks beside the zoo, its held-out members, and simple generators.

    A copy need not look like one: its units may be in another order, or have scales, signs and bases that no output
    sees. So the distance that decides what is new is measured up to every symmetry that is known for the network; the
    heading of the last column names them. The plain distance stands beside it.

    Args:
        generated: networks in the same basis as ``zoo`` (for an aligning model, audit against ``model.zoo_``); several
            kinds may be given by name. Networks whose record names another basis are refused, whatever ``rematch``
            says: plain distances and dispersion would mean nothing.
        zoo: what the generator was fitted on, in memory or on disk.
        task: gives the score.
        controls: unfitted generators by name, by default all of ``TRIVIAL``, and of a zoo on disk those that read it
            from there, which are the closed-form flow and the Gaussian on codes. A copy of each is fitted on the fitted
            members and samples as many networks as were generated; they themselves stay unfitted.
        split: where the score is measured; ``"test"`` is for the final report only.
        spec: of a reader's own network, for the distance up to symmetries; the course's networks have theirs, and for
            others it is derived if that is possible.
        rematch: measure that distance (a second or so for each kind of network). False: new is what is far as the
            weights stand.
        gauge: see through scales, signs and bases too, not only through the order of units. (Networks are compared as
            they are in eval mode. What is not known: how a stream of units may be rotated.)
        barrier: measure whether networks lie in the basin of their nearest member, too: nine networks on each line
            between the two, which takes about ten times as long as scoring does. (BatchNorm's statistics are measured
            afresh on the line, not for the score.)
        seed: of the controls.
        memory: bytes that networks on disk may take as they are measured, but at least one network is held at a time.
            (Generators that are fitted as controls have bounds of their own.) What is kept of all of them is small: a
            few numbers for each pair of networks, for each example, and for each unit.

    Returns:
        A table with one row for each kind of network.

    Raises:
        ValueError: networks, zoo and task that cannot be compared, or the first two of them in each other's place; two
            rows of one name, members without a score, a spec that is no symmetry, a seed that is none, or ``memory``
            that is no whole number of bytes.
        TypeError: a control that is no generator, or makes no zoo; a zoo or a task that is none.
        MemoryError: too many generated networks.

    Warns:
        RuntimeWarning: networks that return NaN or infinite outputs.
    """
    # What cannot be compared is refused before anything is measured.
    kinds = {"generated": generated} if isinstance(generated, Zoo) else generated
    check_kinds(kinds)
    check_zoo(zoo)
    check_order(kinds, zoo)
    memory, seed = whole(memory, "memory", 1), whole_seed(seed)
    if controls is None:
        controls = simple_generators(len(zoo.fitted))
        if isinstance(zoo.weights, Shards):
            controls = {name: controls[name] for name in FROM_DISK}
    check_controls(controls)
    check_names(["zoo", "held-out networks", *kinds, *controls])
    for name, networks in kinds.items():
        check_kind(name, networks, zoo)
    check_task(zoo, task, split)
    check_symmetries(zoo, spec, {"rematch": rematch, "gauge": gauge, "barrier": barrier})
    zoo = as_numbers(zoo)

    # Units of distance, and the two bars of "accurate and new", from the fitted members themselves.
    fitted = zoo.fitted
    symmetries = None
    if rematch:
        x = task.split(split).inputs(fitted.weights)
        if spec is not None:
            check_symmetry(fitted, spec, x)
        symmetries = Symmetries.of(fitted.network, spec, x, gauge)
    yardstick = Yardstick.of(fitted, task, split, symmetries, barrier, seed, memory)

    # One row for each kind of network.
    rows = [yardstick.row_of_zoo()]
    if any(zoo.held_out):
        rows.append(yardstick.row("held-out networks", zoo.unseen))
    for name, networks in kinds.items():
        rows.append(yardstick.row(name, as_numbers(networks, like=zoo)))
    n = max(len(networks) for networks in kinds.values())
    for name, control in controls.items():  # one after the other: networks of all of them might fill the memory
        rows.append(yardstick.row(name, _sampled(name, control, fitted, n, seed)))
    if any(zoo.held_out):
        held_out = rows[1].values.distance
        rows = [replace(row, z_u=copying_statistic(row.values.distance, held_out)) for row in rows]
    names = () if symmetries is None else symmetries.names
    return Audit(tuple(rows), task.score_name, split, names, yardstick.bars)


@dataclass(frozen=True)
class Reading:
    """The N fitted members in one gauge, for distances up to the order of units.

    Attributes:
        rows: (N, d), where the zoo is.
        matched: the same, matched to the first, (N, d).
        distance: of each member to its nearest other, (N,), on the CPU.
    """

    rows: Rows
    matched: Rows
    distance: Tensor

    @classmethod
    def of(cls, rows: Rows, spec: PermutationSpec, seed: int) -> Reading:
        """Match and measure the members (N, d)."""
        matched = match_to_first(rows, rows, spec, seed)
        distance = rematched_distance(rows, rows, spec, skip_self=True, zoo_matched=matched, seed=seed)
        return cls(rows, matched, distance)

    def distance_of(self, rows: Rows, spec: PermutationSpec, seed: int) -> Tensor:
        """Of networks (n, d) in the same gauge: distance to the nearest member, (n,)."""
        return rematched_distance(rows, self.rows, spec, zoo_matched=self.matched, seed=seed)


@dataclass(frozen=True)
class Yardstick:
    """What every kind of network is measured by, all of it from the N fitted members.

    Attributes:
        zoo: the fitted members.
        task, split: on which networks are scored.
        symmetries: up to which distances are measured; None: as the weights stand.
        barrier: whether straight lines to members are measured.
        seed: of the matching.
        memory: bytes that networks on disk may take.
        evaluation: scores and mistakes of the members.
        nearest: distance of each member to its nearest other, (N,).
        readings: the members in one or two gauges; empty without ``symmetries``.
        factor: by which weights are multiplied before their products are taken; 1 but for very large or small ones.
        moments: mean and inner products of the members.
    """

    zoo: Zoo
    task: Task
    split: str
    symmetries: Symmetries | None
    barrier: bool
    seed: int
    memory: int
    evaluation: Evaluation
    nearest: Tensor
    readings: tuple[Reading, ...]
    factor: float
    moments: Moments

    @classmethod
    def of(
        cls, zoo: Zoo, task: Task, split: str, symmetries: Symmetries | None, barrier: bool, seed: int, memory: int
    ) -> Yardstick:
        """Measure the fitted members themselves.

        Raises:
            ValueError: half of them are copies of others, so that the unit of distance would be zero; or some have no
                score, so that there would be no bar.
        """
        at_once = rows_at_once(memory, zoo.layout.size)
        rows = Rows(zoo.weights, at_once)
        nearest = nearest_distance(rows, rows, skip_self=True).cpu()
        readings = ()
        if symmetries is not None:
            both = symmetries.readings(zoo, at_once)
            readings = tuple(Reading.of(reading, symmetries.spec, seed) for reading in both)
        distances = [nearest, *(reading.distance for reading in readings)]
        if min(float(distance.median()) for distance in distances) == 0:
            raise ValueError("half of the zoo are exact copies of each other; there is no distance to measure by")
        evaluation = _evaluated(zoo, task, split, at_once)
        check_scores(evaluation.score)
        factor = in_range(zoo.weights[:1], zoo.weights)[2] if isinstance(zoo.weights, Tensor) else 1.0
        moments = Moments.of(zoo.weights, memory, factor)
        measured = evaluation, nearest, readings, factor, moments
        return cls(zoo, task, split, symmetries, barrier, seed, memory, *measured)

    @property
    def at_once(self) -> int:
        """How many networks on disk are held at a time."""
        return rows_at_once(self.memory, self.zoo.layout.size)

    @cached_property
    def bars(self) -> Bars:
        """What is accurate, and what is new, by the members alone."""
        distance = in_units(*self._deciding(self.nearest, self._rematched(None)))
        score = self.evaluation.score.cpu().quantile(LOWEST_SHARE)
        return Bars(float(score), float(distance.quantile(LOWEST_SHARE)), best_constant(self.task, self.split))

    def _deciding(self, nearest: Tensor, rematched: Tensor | None) -> tuple[Tensor, Tensor]:
        """Of two distances (n,) the one that says what is new, and the same of the members (N,)."""
        return (nearest, self.nearest) if rematched is None else (rematched, self._rematched(None))

    def _directions(self, moments: Moments) -> float | None:
        """Effective rank of networks, over that of as many members; None of one, or beside members that are copies."""
        n = len(moments.gram)
        if n < 2:
            return None
        order = torch.randperm(len(self.moments.gram), generator=torch.Generator().manual_seed(self.seed))
        some = order[:n].sort().values  # a few networks have few directions, members too
        of_members = effective_rank(self.moments.gram[some][:, some])
        return effective_rank(moments.gram) / of_members if of_members else None

    def _rematched(self, networks: Zoo | None) -> Tensor | None:
        """Distance up to symmetries (n,), in units of each reading, the least of them; None: of the members (N,)."""
        if self.symmetries is None:
            return None
        if networks is None:
            distances = [reading.distance for reading in self.readings]
        else:
            distances = []
            of_networks = self.symmetries.readings(networks, self.at_once)
            for reading, rows in zip(self.readings, of_networks, strict=True):
                distances.append(reading.distance_of(rows, self.symmetries.spec, self.seed))
        by_reading = [d / r.distance.median() for d, r in zip(distances, self.readings, strict=True)]
        return torch.stack(by_reading).amin(0)

    def _barrier(self, networks: Zoo, itself: bool) -> float | None:
        """Mean fall of the score on the way to the nearest member."""
        if not self.barrier:
            return None
        spec = None if self.symmetries is None else self.symmetries.spec
        asked = {"at_once": self.at_once, "skip_self": itself, "seed": self.seed}
        return float(barrier_to_nearest(networks, self.zoo, self.task, self.split, spec, **asked).mean())

    def row_of_zoo(self) -> Row:
        """The fitted members, each beside all others."""
        return self._row("zoo", self.zoo, self.evaluation, self.nearest, self._rematched(None), itself=True)

    def row(self, name: str, networks: Zoo) -> Row:
        """Networks (n, d) beside the fitted members."""
        evaluation = _evaluated(networks, self.task, self.split, self.at_once)
        rows, members = Rows(networks.weights, self.at_once), Rows(self.zoo.weights, self.at_once)
        nearest = nearest_distance(rows, members).cpu()  # (n,)
        return self._row(name, networks, evaluation, nearest, self._rematched(networks))

    def _row(
        self,
        name: str,
        networks: Zoo,
        evaluation: Evaluation,
        nearest: Tensor,
        rematched: Tensor | None,
        itself: bool = False,
    ) -> Row:
        """What was measured of n networks, as numbers in units of the zoo."""
        _warn_of_diverged(name, evaluation)
        score = evaluation.score.cpu()  # (n,)
        overlap = kappa = None
        if evaluation.wrong is not None:
            overlap = wrong_set_overlap(evaluation.wrong, self.evaluation.wrong, skip_self=itself).cpu()  # (n,)
            kappa = error_consistency(evaluation.wrong, self.evaluation.wrong, skip_self=itself)  # (n,)
        moments = self.moments if itself else Moments.of(networks.weights, self.memory, self.factor)
        centre = self.moments.mean
        distance = in_units(*self._deciding(nearest, rematched))  # (n,)
        is_accurate = (score >= self.bars.score) & evaluation.loss.cpu().isfinite()
        is_new = distance >= self.bars.distance
        values = Values(
            score=tuple(score.tolist()),
            distance=tuple(distance.tolist()),
            nearest=tuple(in_units(nearest, self.nearest).tolist()),
            overlap=None if overlap is None else tuple(overlap.tolist()),
            accurate=tuple(is_accurate.tolist()),
        )
        return Row(
            name=name,
            networks=len(networks),
            score=float(score.mean()),
            score_std=float(score.std()) if len(networks) > 1 else 0.0,
            nearest=median_in_units(nearest, self.nearest),
            rematched=None if rematched is None else median_in_units(rematched, self._rematched(None)),
            overlap=_mean(overlap),
            dispersion=sqrt(moments.squared_spread(centre) / self.moments.squared_spread(centre)),
            accurate_and_new=float((is_accurate & is_new).float().mean()),
            nll=_mean(evaluation.loss),
            ece=_mean(evaluation.ece),
            kappa=_mean(kappa),
            effective_rank=self._directions(moments),
            barrier=self._barrier(networks, itself),
            values=values,
        )


def best_constant(task: Task, split: str) -> float:
    """The score of the best answer that does not look at its input: the most frequent class, or the mean target."""
    if task.kind == "regression":
        return 0.0  # R² of the mean; a rank correlation of nothing
    y = task.split(split).y
    return float(y.unique(return_counts=True)[1].max()) / y.numel()


def in_units(distance: Tensor, of_members: Tensor) -> Tensor:
    """Distances (n,) where the median of the members (N,) is 1."""
    return distance.double() / float(of_members.median())


def median_in_units(distance: Tensor, of_members: Tensor) -> float:
    """The median of distances (n,), where the median of the members (N,) is 1."""
    return float(distance.median()) / float(of_members.median())


def _mean(values: Tensor | None) -> float | None:
    return None if values is None else float(values.mean())


def _evaluated(networks: Zoo, task: Task, split: str, at_once: int) -> Evaluation:
    """Networks on one split, on disk as few at a time as is asked for."""
    members_at_once = min(together(networks.layout), at_once) if isinstance(networks.weights, Shards) else None
    return evaluate(networks, task, split, members_at_once=members_at_once)


def _warn_of_diverged(name: str, evaluation: Evaluation) -> None:
    """Say which networks return no numbers: their scores, and the mean over all of them, mean nothing."""
    without = ~evaluation.loss.isfinite()
    if without.any():
        warnings.warn(
            f"{int(without.sum())} of {len(without)} networks of {name!r} have no finite loss (positions "
            f"{listed(without)}): their scores mean nothing",
            RuntimeWarning,
            stacklevel=6,
        )


def _sampled(name: str, control: Generator, zoo: Zoo, n: int, seed: int) -> Zoo:
    """``n`` networks of a copy of a control, fitted on a zoo; the control stays unfitted."""
    fitted = clone(control, safe=False)
    fitted.fit(zoo)
    networks = fitted.sample(n, seed=seed)
    if not isinstance(networks, Zoo):
        raise TypeError(f"control {name!r}: sample(n, seed=…) must give a Zoo, not {type(networks).__name__}")
    check_kind(name, networks, zoo)
    return as_numbers(networks, like=zoo)
