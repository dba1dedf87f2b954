"""Many networks that answer together: the mean of their probabilities, and what it is worth as they become more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from dwflow_lite.support.checks import brief, is_number, is_whole
from dwflow_lite.support.devices import generator_from, out_of_memory_as
from dwflow_lite.tasks.checks import require_task
from dwflow_lite.tasks.measures import accuracy, brier, calibration_error
from dwflow_lite.tasks.task import Task
from dwflow_lite.use.temperature import fit_temperature
from dwflow_lite.zoo.checks import require_zoo
from dwflow_lite.zoo.forward import outputs_on
from dwflow_lite.zoo.zoo import Zoo

FITTED = "fitted"
FEWER_AT_ONCE = "no memory for so many networks together: pass a smaller members_at_once or inputs_at_once"


@dataclass(frozen=True, eq=False)
class Ensemble:
    """What the mean of the probabilities of the first 1, 2, … members is worth on one split.

    Each measure is (counts,), one number for each of :attr:`counts`; ``ensemble.at(10)`` has them by name.

    Attributes:
        split: where it was measured.
        order: positions of the members in the zoo, in the order in which they joined.
        counts: how many of them had joined at each measurement; the last is all.
        accuracy: share of examples whose label has the largest mean probability.
        nll: negative log-likelihood of the labels, in nats.
        ece: :func:`calibration_error`.
        brier: :func:`brier`.
        disagreement: share of examples on which two members name different classes, mean over pairs; of one member 0.
        kappa: how often two members are both right or both wrong, beyond chance: :func:`error_consistency` of two; of
            more, with observed and expected agreement averaged over pairs; of one member 1.
        temperature: by which the logarithm of the mean was divided.
        members: accuracy of each member alone (N,), in their order.
        probabilities: of all together (n, classes), at the last temperature.
    """

    split: str
    order: tuple[int, ...]
    counts: tuple[int, ...]
    accuracy: Tensor
    nll: Tensor
    ece: Tensor
    brier: Tensor
    disagreement: Tensor
    kappa: Tensor
    temperature: Tensor
    members: Tensor
    probabilities: Tensor

    def at(self, members: int) -> dict[str, float]:
        """All measures of the first so many members; ``ValueError`` where that was not measured."""
        if members not in self.counts:
            raise ValueError(f"nothing was measured at {members!r} members: choose from {brief(list(self.counts))}")
        place = self.counts.index(members)
        return {name: float(getattr(self, name)[place]) for name in (*MEASURES, "temperature")}

    @property
    def whole(self) -> dict[str, float]:
        """All measures of all members together."""
        return self.at(self.counts[-1])


MEASURES = ("accuracy", "nll", "ece", "brier", "disagreement", "kappa")


def ensemble(  # noqa: PLR0913 - a public door
    zoo: Zoo,
    task: Task,
    split: str = "validation",
    *,
    counts: Sequence[int] | None = None,
    seed: int | None = None,
    temperature: float | str | Sequence[float] | Tensor = 1.0,
    members_at_once: int | None = None,
    inputs_at_once: int | None = None,
) -> Ensemble:
    """Let all networks of a zoo answer together, and measure how that grows with their number, in one pass.

    Members join one after the other; what is kept of them is the sum of their probabilities and the votes for each
    class, (n, classes) each, so that memory does not grow with their number. (Lakshminarayanan et al. 2017.)

    A temperature is that of the *mean*: probabilities become p^(1/T), normalised. Members that are each calibrated
    make a mean that is too cautious, as they disagree; what is to be honest is the answer that is given, so that is
    what is cooled (Rahaman & Thiery 2021: pool, then calibrate). It changes no answer, only how sure it is.

    Args:
        zoo: networks of one architecture, in memory or on disk, on any device.
        task: a classification.
        split: one of the task's splits; ``"test"`` is for the final report only.
        counts: at how many members to measure; all together always are. None: at 1, 2, …, N.
        seed: of a random order of the members; None: as they stand.
        temperature: a number; one for each of the counts; or ``"fitted"``: those of the lowest NLL on this split, which
            must not be the test split: pass what was fitted on validation, ``ensemble(…).temperature``.
        members_at_once: as of :func:`predict`: bounds memory, not the result.
        inputs_at_once: as of :func:`predict`.

    Raises:
        TypeError: a zoo or a task that is none.
        ValueError: a regression, networks that do not fit the task, members that return NaN or infinite outputs,
            counts that are no numbers of members, or a temperature that is none.
        MemoryError: too many members, or inputs, at once.

    Warns:
        RuntimeWarning: the zoo was trained on another cut of the task.

    Example:
        >>> from dwflow_lite import MLP, Recipe, load_task, train_zoo
        >>> task = load_task("iris")
        >>> zoo = train_zoo(task, MLP([4, 5, 3]), members=3, recipe=Recipe(epochs=1))
        >>> together = ensemble(zoo, task)
        >>> together.counts, together.probabilities.shape == (len(task.validation), 3)
        ((1, 2, 3), True)
    """
    require_zoo(zoo)
    require_task(task)
    if task.kind != "classification":
        raise ValueError(
            f"an ensemble averages probabilities, and task {task.name!r} is a {task.kind}: average what its networks "
            "return, predict(zoo, task.validation.x).mean(0)"
        )
    counts = _counts(counts, len(zoo))
    temperatures = _temperatures(temperature, counts, split)
    order = list(range(len(zoo)))
    if seed is not None:
        order = torch.randperm(len(zoo), generator=generator_from(seed)).tolist()
        zoo = zoo.take(order)

    y = task.split(split).y.to(zoo.device)  # (n,)
    outputs = outputs_on(zoo, task, split, members_at_once=members_at_once, inputs_at_once=inputs_at_once)
    with out_of_memory_as(FEWER_AT_ONCE):
        sums, curves, probabilities = _grown(outputs, y, task, counts, temperatures)
    return Ensemble(
        split, tuple(order), counts, members=torch.stack(sums.accuracies), probabilities=probabilities, **curves
    )


def _grown(
    outputs: Iterator[Tensor], y: Tensor, task: Task, counts: tuple[int, ...], temperatures: list[float] | None
) -> tuple[Sums, dict[str, Tensor], Tensor]:
    """Let members join, one after the other: their sums, each measure at the counts, and the last probabilities."""
    sums = Sums(y)
    found: dict[str, list[Tensor]] = {name: [] for name in (*MEASURES, "temperature")}
    for member in members_of(outputs):  # (n, classes)
        sums.add(member)
        if sums.members not in counts:
            continue
        log_mean = sums.log_mean()  # (n, classes)
        if temperatures is None:
            chosen = fit_temperature(log_mean, y)
        else:
            chosen = temperatures[counts.index(sums.members)]
        measures = _worth(log_mean / chosen, y, task) | sums.agreement() | {"temperature": torch.tensor(chosen)}
        for name, value in measures.items():
            found[name].append(value)
    curves = {name: torch.stack(values) for name, values in found.items()}  # (counts,) each
    return sums, curves, (log_mean / chosen).softmax(-1)


def members_of(outputs: Iterator[Tensor]) -> Iterator[Tensor]:
    """The log-probabilities (n, classes) of one member after the other, of outputs (members, n, classes) of several.

    Raises:
        ValueError: a member that returns NaN or infinite outputs; it is named.
    """
    before = 0
    for several in outputs:  # (members, n, classes)
        check_finite(several, before)
        before += len(several)
        at_least_single = torch.promote_types(several.dtype, torch.float32)
        yield from several.log_softmax(-1, dtype=at_least_single)


def check_finite(outputs: Tensor, before: int) -> None:
    """``ValueError`` that names the first member of outputs (members, n, classes) that are not finite.

    Args:
        outputs: of some members.
        before: how many came before them.
    """
    is_finite = outputs.isfinite().all(-1).all(-1)  # (members,)
    if not is_finite.all():
        member = before + int(is_finite.logical_not().nonzero()[0])
        raise ValueError(
            f"member {member} returns NaN or infinite outputs, which no mean survives: leave it out, zoo.take([...])"
        )


class Sums:
    """What is kept of members that have joined: sums over them, so that any number of them takes the same memory.

    Args:
        y: labels (n,).
    """

    def __init__(self, y: Tensor) -> None:
        self.y = y
        self.members = 0
        self.accuracies: list[Tensor] = []  # of each member

    def add(self, log_probabilities: Tensor) -> None:
        """Take in one more member: (n, classes)."""
        named = torch.zeros_like(log_probabilities).scatter(-1, log_probabilities.argmax(-1, keepdim=True), 1.0)
        if self.members == 0:
            self.log_sum = log_probabilities  # (n, classes)
            self.votes = named  # (n, classes): how many members name each class
        else:
            # log(exp(a) + exp(b)): probabilities too small for a number of their own do not become zero.
            self.log_sum = torch.logaddexp(self.log_sum, log_probabilities)
            self.votes = self.votes + named
        self.members += 1
        self.accuracies.append(accuracy(log_probabilities, self.y))

    def log_mean(self) -> Tensor:
        """The logarithm of the mean of all probabilities (n, classes): outputs of a network that says just that."""
        return self.log_sum - log(self.members)

    def agreement(self) -> dict[str, Tensor]:
        """Disagreement and kappa, averaged over all pairs of members; every pair is in the votes."""
        m = self.members
        if m == 1:
            return {"disagreement": torch.zeros_like(self.accuracies[0]), "kappa": torch.ones_like(self.accuracies[0])}
        pairs = m * (m - 1)  # in both orders
        agree = (self.votes * (self.votes - 1)).sum(-1) / pairs  # (n,): share of pairs that name one class
        right = self.votes.gather(-1, self.y[:, None]).squeeze(-1)  # (n,): how many are right
        wrong = m - right
        observed = ((right * (right - 1) + wrong * (wrong - 1)) / pairs).mean()  # both right, or both wrong
        accuracies = torch.stack(self.accuracies)  # (m,)
        both_right = (accuracies.sum().square() - accuracies.square().sum()) / pairs  # mean of a·b over pairs
        expected = 1 - 2 * accuracies.mean() + 2 * both_right  # a·b + (1 - a)·(1 - b)
        by_chance = 1 - expected  # 0 only where all are always right, or all always wrong: they behave alike
        kappa = torch.where(by_chance > 0, (observed - expected) / by_chance.clamp_min(1e-12), 1.0)
        return {"disagreement": 1 - agree.mean(), "kappa": kappa}


def _worth(outputs: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
    """Accuracy, NLL, calibration and Brier score of outputs (n, classes)."""
    return {
        "accuracy": task.score(outputs, y),
        "nll": task.loss(outputs, y),
        "ece": calibration_error(outputs, y),
        "brier": brier(outputs, y),
    }


def _counts(counts: Sequence[int] | None, members: int) -> tuple[int, ...]:
    """In order and once each, all members last; ``ValueError`` for what is no number of members."""
    if counts is None:
        return tuple(range(1, members + 1))
    wrong = [count for count in counts if not is_whole(count, 1) or count > members]
    if wrong:
        raise ValueError(f"counts are whole numbers from 1 to {members}, all of this zoo; got {wrong[0]!r}")
    return tuple(sorted({int(count) for count in counts} | {members}))


def _temperatures(temperature: object, counts: tuple[int, ...], split: str) -> list[float] | None:
    """One for each of the counts; None where they are to be fitted."""
    if isinstance(temperature, str) and temperature == FITTED:
        if split == "test":
            raise ValueError(
                "a temperature fitted on the test split would choose by what it reports: fit it on validation, and "
                "pass temperature=ensemble(zoo, task, temperature='fitted').temperature"
            )
        return None
    several = [temperature] * len(counts) if is_number(temperature) else temperature
    if isinstance(several, str) or not hasattr(several, "__len__") or len(several) != len(counts):
        raise ValueError(
            f"temperature is a number > 0, one for each of {len(counts)} counts, or 'fitted'; got {brief(temperature)}"
        )
    if not all(is_number(one) and one > 0 for one in several):
        raise ValueError(f"temperatures are numbers > 0, got {brief(temperature)}")
    return [float(one) for one in several]
