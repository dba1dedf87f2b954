"""A line of an audit: what was measured of one kind of network, on average and of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Values:
    """What was measured of each of n networks, in their order; distances in units of the zoo.

    Attributes:
        score: of each.
        distance: to its nearest member, up to symmetries where any are known: the one that decides what is new.
        nearest: the plain one.
        overlap: :func:`wrong_set_overlap` with its most similar member; None for regression.
        accurate: whether it scores at least as well as all but the lowest twentieth of the fitted members; no network
            without a finite loss does.
    """

    score: tuple[float, ...]
    distance: tuple[float, ...]
    nearest: tuple[float, ...]
    overlap: tuple[float, ...] | None
    accurate: tuple[bool, ...]

    @classmethod
    def pooled(cls, several: Sequence[Values]) -> Values:
        """All networks of several, one after the other."""
        joined = {}
        for field_ in fields(cls):
            parts = [getattr(values, field_.name) for values in several]
            joined[field_.name] = None if None in parts else tuple(value for part in parts for value in part)
        return cls(**joined)


class Bars(NamedTuple):
    """What generated networks are judged by, fixed before one of them is read: from the fitted members alone.

    Attributes:
        score: that all but the lowest twentieth of them reach.
        distance: that all but the lowest twentieth keep from their nearest other member, in units of the zoo.
        chance: the score of the best constant answer: of naming the most frequent class, or the mean of the targets.
    """

    score: float
    distance: float
    chance: float


@dataclass(frozen=True)
class Row:
    """One line of an audit; distances are in units of the zoo's own median distance to the nearest other member.

    Attributes:
        name: of these networks.
        networks: how many.
        score: mean over networks.
        score_std: their standard deviation.
        nearest: median distance to the nearest fitted member (1: as far as a member from its nearest other, 0: a copy).
        rematched: the same up to the symmetries that the audit sees through; None where none is known. In a zoo
            aligned to a reference, only the reference was matched to everybody, so it is everybody's nearest plain
            neighbour; here all pairs are treated alike.
        overlap: mean :func:`wrong_set_overlap` with the fitted members; None for regression.
        dispersion: spread about the zoo's mean, over the zoo's spread.
        accurate_and_new: share of networks that score at least as well *and* lie at least as far from their nearest
            member as all but the lowest twentieth of the fitted members do (held-out networks: about 0.9).
        nll: mean loss; of a classification, the negative log-likelihood in nats.
        ece: mean calibration error (:func:`calibration_error`); None for regression.
        kappa: mean :func:`error_consistency` with the most similar member; None for regression.
        z_u: :func:`copying_statistic` beside held-out networks; None without any.
        effective_rank: directions in which they spread (:func:`effective_rank`), over those of as many fitted members
            (1: as the zoo); None for a single network, and beside members that are copies of each other.
        barrier: mean fall of the score on straight lines to the nearest member, its units matched: about zero where
            both lie in one basin; None where it was not measured.
        values: of each network, for curves and histograms; None in rows of older versions.
    """

    name: str
    networks: int
    score: float
    score_std: float
    nearest: float
    rematched: float | None
    overlap: float | None
    dispersion: float
    accurate_and_new: float
    nll: float | None = None
    ece: float | None = None
    kappa: float | None = None
    z_u: float | None = field(default=None, compare=False)  # held-out networks change no other row, but for this
    effective_rank: float | None = None
    barrier: float | None = None
    values: Values | None = field(default=None, repr=False, compare=False)  # rows are equal by their numbers

    def __post_init__(self) -> None:
        if isinstance(self.values, Mapping):  # as JSON brings them back
            lists = {name: None if value is None else tuple(value) for name, value in self.values.items()}
            object.__setattr__(self, "values", Values(**lists))

    @property
    def distance(self) -> float:
        """The median distance that decides: up to symmetries, where any are known."""
        return self.nearest if self.rematched is None else self.rematched

    def numbers(self) -> dict[str, Any]:
        """Everything but the values of each network, JSON-able; ``Row(**numbers)`` is the row again."""
        return {field_.name: getattr(self, field_.name) for field_ in fields(self) if field_.name != "values"}

    @classmethod
    def mean(cls, rows: Sequence[Row]) -> Row:
        """Average rows of one name, number by number, and pool their values; ``networks`` stays a whole number."""
        means = {}
        for field_ in fields(cls):
            values = [getattr(row, field_.name) for row in rows]
            if field_.name == "name" or None in values:
                means[field_.name] = values[0] if field_.name == "name" else None
            elif field_.name == "values":
                means["values"] = Values.pooled(values)
            else:
                means[field_.name] = sum(values) / len(values)
        return cls(**means | {"networks": round(means["networks"])})
