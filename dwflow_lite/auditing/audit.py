"""New or copied? Generated networks beside their zoo, held-out networks and simple generators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sklearn.base import clone
from torch import Tensor

from dwflow_lite.auditing.measures import match_to_first, nearest_distance, rematched_distance, wrong_set_overlap
from dwflow_lite.auditing.table import Audit, Row
from dwflow_lite.flow.watch import dispersion_ratio
from dwflow_lite.generate.generator import Generator
from dwflow_lite.generate.simple import TRIVIAL
from dwflow_lite.networks import architecture_of
from dwflow_lite.symmetry.canonical import basis_of
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.forward import Evaluation, evaluate
from dwflow_lite.zoo.storage import Shards
from dwflow_lite.zoo.zoo import Zoo

LOWEST_SHARE = 0.05  # of the fitted members, which lie below each bar


def audit(  # noqa: PLR0913 - a public door
    generated: Zoo | Mapping[str, Zoo],
    zoo: Zoo,
    task: Task,
    *,
    controls: Mapping[str, Generator] | None = None,
    split: str = "validation",
    spec: PermutationSpec | None = None,
    rematch: bool = True,
    seed: int = 0,
) -> Audit:
    """Measure generated networks beside the zoo, its held-out members, and simple generators.

    Args:
        generated: networks in the same basis as ``zoo`` (for an aligning model, audit against ``model.zoo_``); several
            kinds may be given by name.
        zoo: what the generator was fitted on.
        task: gives the score.
        controls: unfitted generators by name, by default all of ``TRIVIAL``. A copy of each is fitted on the fitted
            members and samples as many networks as were generated; they themselves stay unfitted.
        split: where the score is measured; ``"test"`` is for the final report only.
        spec: of a reader's own network, for the distance up to permutation; the course's networks have theirs.
        rematch: measure that distance (a second or so for each kind of network).
        seed: of the controls.

    Returns:
        A table with one row for each kind of network.

    Raises:
        ValueError: networks, zoo and task that cannot be compared, or two rows of one name.
        TypeError: a control that is no generator, or makes no zoo; a zoo that is none.
    """
    kinds = {"generated": generated} if isinstance(generated, Zoo) else generated
    controls = TRIVIAL if controls is None else controls
    _check_kinds(kinds, controls)
    _check_basis(kinds, zoo)
    _check_task(zoo, task, split)
    if rematch and spec is None:
        spec = _own_spec(zoo)

    # Units of distance, and the two bars of "accurate and new", from the fitted members themselves.
    fitted = zoo.fitted
    yardstick = Yardstick.of(fitted, task, split, spec if rematch else None, seed)

    # One row for each kind of network.
    rows = [yardstick.row_of_zoo()]
    if any(zoo.held_out):
        rows.append(yardstick.row("held-out networks", zoo.unseen))
    for name, networks in kinds.items():
        rows.append(yardstick.row(name, networks))
    n = max(len(networks) for networks in kinds.values())
    for name, control in controls.items():  # one after the other: networks of all of them might fill the memory
        rows.append(yardstick.row(name, _sampled(name, control, fitted, n, seed)))
    return Audit(tuple(rows), task.score_name, split)


@dataclass(frozen=True)
class Yardstick:
    """What every kind of network is measured by, all of it from the N fitted members.

    Attributes:
        zoo: the fitted members.
        task, split: on which networks are scored.
        spec: for distances up to permutation; None: they are not measured.
        seed: of the matching.
        evaluation: scores and mistakes of the members.
        nearest: distance of each member to its nearest other, (N,).
        rematched: the same up to permutation, (N,), or None.
        matched: the members, matched to the first, (N, d), or None.
    """

    zoo: Zoo
    task: Task
    split: str
    spec: PermutationSpec | None
    seed: int
    evaluation: Evaluation
    nearest: Tensor
    rematched: Tensor | None
    matched: Tensor | None

    @classmethod
    def of(cls, zoo: Zoo, task: Task, split: str, spec: PermutationSpec | None, seed: int) -> Yardstick:
        """Measure the fitted members themselves.

        Raises:
            ValueError: half of them are copies of others, so that the unit of distance would be zero.
        """
        nearest = nearest_distance(zoo.weights, zoo.weights, skip_self=True)
        if float(nearest.median()) == 0:
            raise ValueError("half of the zoo are exact copies of each other; there is no distance to measure by")
        evaluation = evaluate(zoo, task, split)
        matched = rematched = None
        if spec is not None:
            matched = match_to_first(zoo.weights, zoo.weights, spec, seed)
            rematched = rematched_distance(
                zoo.weights, zoo.weights, spec, skip_self=True, zoo_matched=matched, seed=seed
            )
        return cls(zoo, task, split, spec, seed, evaluation, nearest, rematched, matched)

    @property
    def least_score(self) -> float:
        """The bar of *accurate*."""
        return float(self.evaluation.score.quantile(LOWEST_SHARE))

    @property
    def least_distance(self) -> float:
        """The bar of *new*."""
        distance = self.nearest if self.rematched is None else self.rematched
        return float(distance.quantile(LOWEST_SHARE))

    def row_of_zoo(self) -> Row:
        """The fitted members, each beside all others."""
        return self._row("zoo", self.zoo, self.evaluation, self.nearest, self.rematched, itself=True)

    def row(self, name: str, networks: Zoo) -> Row:
        """Networks (n, d) beside the fitted members."""
        evaluation = evaluate(networks, self.task, self.split)
        nearest = nearest_distance(networks.weights, self.zoo.weights)  # (n,)
        rematched = None
        if self.spec is not None:
            rematched = rematched_distance(
                networks.weights, self.zoo.weights, self.spec, zoo_matched=self.matched, seed=self.seed
            )  # (n,)
        return self._row(name, networks, evaluation, nearest, rematched)

    def _row(
        self, name: str, networks: Zoo, evaluation: Evaluation, nearest: Tensor, rematched: Tensor | None,
        itself: bool = False,
    ) -> Row:  # fmt: skip
        """What was measured of n networks, as numbers in units of the zoo."""
        score = evaluation.score  # (n,)
        overlap = None
        if evaluation.wrong is not None:
            overlap = wrong_set_overlap(evaluation.wrong, self.evaluation.wrong, skip_self=itself)  # (n,)
        accurate = score >= self.least_score
        new = (nearest if rematched is None else rematched) >= self.least_distance
        return Row(
            name=name,
            networks=len(networks),
            score=float(score.mean()),
            score_std=float(score.std()) if len(networks) > 1 else 0.0,
            nearest=_in_units(nearest, self.nearest),
            rematched=None if rematched is None else _in_units(rematched, self.rematched),
            overlap=None if overlap is None else float(overlap.mean()),
            dispersion=dispersion_ratio(networks.weights, self.zoo.weights),
            accurate_and_new=float((accurate & new).float().mean()),
        )


def _in_units(distance: Tensor, of_members: Tensor) -> float:
    """Median distance, where the median of the members is 1."""
    return float(distance.median()) / float(of_members.median())


def _sampled(name: str, control: Generator, zoo: Zoo, n: int, seed: int) -> Zoo:
    """``n`` networks of a copy of a control, fitted on a zoo; the control stays unfitted."""
    fitted = clone(control, safe=False)
    fitted.fit(zoo)
    networks = fitted.sample(n, seed=seed)
    if not isinstance(networks, Zoo):
        raise TypeError(f"control {name!r}: sample(n, seed=…) must give a Zoo, not {type(networks).__name__}")
    return networks


# -- checks ------------------------------------------------------------------------------------------------------


def _check_kinds(kinds: Mapping[str, Zoo], controls: Mapping[str, Generator]) -> None:
    """What is to be measured: zoos by name, generators by name, and no name twice."""
    if not isinstance(kinds, Mapping) or not all(isinstance(kind, Zoo) for kind in kinds.values()):
        raise ValueError("generated must be a Zoo (as model.sample returns it), or several by name")
    if not kinds:
        raise ValueError("an audit needs at least two fitted members and some generated networks")
    if not isinstance(controls, Mapping):
        raise TypeError(
            f"controls are generators by name, such as {{'soup': Soup(size=10)}}, not {type(controls).__name__}"
        )
    for name, control in controls.items():
        if isinstance(control, type) or not isinstance(control, Generator):
            raise TypeError(
                f"control {name!r} must be a generator with fit(zoo) and sample(n, seed=…), such as Soup(size=10), "
                f"not {control!r}"
            )
    names = ["zoo", "held-out networks", *kinds, *controls]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two rows of the audit would be named {name!r}; give one of them another name")


def _check_basis(kinds: Mapping[str, Zoo], zoo: Zoo) -> None:
    """Whether weights may be compared one by one."""
    if not isinstance(zoo, Zoo):
        raise TypeError(f"networks are audited against a Zoo, such as model.zoo_, not against {type(zoo).__name__}")
    if isinstance(zoo.weights, Shards):
        raise ValueError(f"{zoo!r} lives on disk, and an audit measures all distances: audit(…, zoo.in_memory(), …)")
    if len(zoo.fitted) < 2:
        raise ValueError("an audit needs at least two fitted members and some generated networks")
    basis = basis_of(zoo)
    for name, networks in kinds.items():
        if networks.layout != zoo.layout or architecture_of(networks.network) != architecture_of(zoo.network):
            raise ValueError(f"{name!r} has another architecture than the zoo it is audited against")
        if networks.record.get("basis", basis) != basis:
            raise ValueError(f"{name!r} was generated in another basis than this zoo's; audit against model.zoo_")


def _check_task(zoo: Zoo, task: Task, split: str) -> None:
    """Whether the zoo was trained on this cut of the task; of another, its training examples might be in the split."""
    trained_on = zoo.record.get("task", {})
    is_same_task = trained_on.get("name") == task.name
    if is_same_task and trained_on.get("fingerprint", task.fingerprint) != task.fingerprint:
        raise ValueError(
            f"the zoo was trained on another cut of {task.name!r} (seed {trained_on.get('seed')}): its training "
            f"examples may be among the {split} examples of this task"
        )


def _own_spec(zoo: Zoo) -> PermutationSpec | None:
    """What moves together in the zoo's networks; None for a reader's own, whose column stays empty."""
    try:
        return PermutationSpec.of(zoo.network)
    except ValueError:
        return None
