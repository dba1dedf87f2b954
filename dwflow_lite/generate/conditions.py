"""Zoos pooled, and what is known of each member: the name of its dataset, a number, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dwflow_lite.networks import architecture_of
from dwflow_lite.support.checks import brief, failing_as, is_number, plain
from dwflow_lite.symmetry.basis import basis_of, check_same_basis, says_nothing
from dwflow_lite.symmetry.canonical import canonicalise
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.zoo.checks import require_zoo
from dwflow_lite.zoo.zoo import Zoo

# Zoos as a caller gives them: by the names of their datasets; or several without names; or one.
Zoos = Mapping[str, Zoo] | Sequence[Zoo] | Zoo
# Numbers of their members, in the same form: of each member, or one for all members of a zoo; or a name in the records.
Numbers = Mapping[str, Any] | Sequence[Any] | Tensor | np.ndarray | str
# What a network is asked for: a dataset, a number, or both.
Condition = str | float | tuple[str, float]
# The same for all networks, or one for each of them; None: nothing.
Asked = Condition | Sequence[Condition] | np.ndarray | Tensor | None
ROUNDS = 10  # of matching to the mean


@dataclass(frozen=True)
class Conditions:
    """How conditions become vectors c: one place for each dataset (1 there, 0 elsewhere), and a standardised number.

    Attributes:
        names: of the datasets; empty where zoos have no names.
        seen: numbers of the fitted members, those of each dataset apart (of all together where zoos have no names);
            empty where members have no numbers.
    """

    names: tuple[str, ...] = ()
    seen: tuple[tuple[float, ...], ...] = ()

    @property
    def size(self) -> int:
        """Numbers in a vector."""
        return len(self.names) + bool(self.seen)

    def vectors(self, places: Tensor | None, numbers: Tensor | None) -> Tensor:
        """Vectors (n, c) of n networks.

        Args:
            places: of their datasets in ``names`` (n,); None where there are no names.
            numbers: (n,); None where there are none.
        """
        parts = []
        if self.names:
            parts.append(torch.nn.functional.one_hot(places, len(self.names)).float())
        if self.seen:
            everything = torch.tensor([number for numbers in self.seen for number in numbers], dtype=torch.float64)
            mean, std = everything.mean(), everything.std(correction=0)
            parts.append(((numbers.double() - mean) / std).float()[:, None])
        return torch.cat(parts, 1)

    def of_request(self, condition: Asked, n: int, generator: torch.Generator, extrapolate: bool = False) -> Tensor:
        """Vectors (n, c) of what is asked for.

        Args:
            condition: a name; a number; both, as a tuple (name, number); or a list of n of these, one for each network.
                Where members have names and numbers and only a name is asked for, numbers are drawn from that dataset's
                members.
            n: how many networks.
            generator: of numbers that are drawn.
            extrapolate: whether numbers may lie beyond those that were seen.

        Raises:
            ValueError: no condition, a dataset that was not seen, a number beyond those that were, a name or a number
                where there are none, or a list of another length.
        """
        if condition is None:
            raise ValueError(f"pass a condition=; members were told apart by {self.in_words()}")
        if isinstance(condition, list | np.ndarray | Tensor) and getattr(condition, "ndim", 1) == 1:
            if len(condition) != n:
                raise ValueError(f"one condition for each network: got {len(condition)} for n = {n}")
            asked = [self._read(one, extrapolate) for one in condition]
        else:
            asked = [self._read(condition, extrapolate)] * n
        places = torch.tensor([place for place, _ in asked]) if self.names else None
        numbers = None
        if self.seen:
            drawn = torch.rand(n, generator=generator, dtype=torch.float64).tolist()
            numbers = [
                self.seen[place][int(share * len(self.seen[place]))] if number is None else number
                for (place, number), share in zip(asked, drawn, strict=True)
            ]
            numbers = torch.tensor(numbers, dtype=torch.float64)
        return self.vectors(places, numbers)

    def _read(self, condition: Condition, extrapolate: bool) -> tuple[int, float | None]:
        """One condition as the place of its dataset (0 without names) and its number (None: to be drawn)."""
        name, number = condition if isinstance(condition, tuple) and len(condition) == 2 else (condition, None)
        if number is None and is_number(condition):
            name, number = None, condition
        if not isinstance(name, str | None) or not (number is None or is_number(number)):
            raise ValueError(f"a condition is a name, a number or a tuple (name, number), got {brief(condition)}")
        if (name is None) != (not self.names) or (number is not None and not self.seen):
            raise ValueError(f"asked for {brief(condition)}, where members were told apart by {self.in_words()}")
        if name is not None and name not in self.names:
            raise ValueError(f"no dataset {name!r} was seen: choose one of {', '.join(map(repr, self.names))}")
        if name is None and number is None:
            raise ValueError(f"asked for nothing, where members were told apart by {self.in_words()}")
        place = 0 if name is None else self.names.index(name)
        if number is None:
            return place, None
        number, low, high = float(plain(number)), min(self.seen[place]), max(self.seen[place])
        if not (low <= number <= high or extrapolate):
            where = f" of {name!r}" if name else ""
            raise ValueError(
                f"{number:g} lies beyond the numbers{where} that were seen, {low:g} to {high:g}: pass extrapolate=True "
                "to ask for it all the same"
            )
        return place, number

    def in_words(self) -> str:
        """By what members are told apart, for an error."""
        names = f"the name of their dataset ({', '.join(map(repr, self.names))})" if self.names else ""
        return " and ".join(part for part in (names, "a number" if self.seen else "") if part)

    def to_json(self) -> dict[str, Any]:
        """Plain lists, for a record."""
        return {"names": list(self.names), "seen": [list(numbers) for numbers in self.seen]}

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> Conditions:
        """What :meth:`to_json` wrote; ``ValueError`` where names and numbers do not fit together."""
        names = tuple(str(name) for name in written["names"])
        seen = tuple(tuple(float(number) for number in numbers) for numbers in written["seen"])
        fits = len(seen) in (0, max(1, len(names))) and all(seen) and len(set(names)) == len(names)
        if not fits or not (names or seen):
            raise ValueError("its conditions are no names, no numbers, or not as many of one as of the other")
        return cls(names, seen)


@dataclass(frozen=True)
class Pool:
    """Several zoos as one.

    Attributes:
        zoo: all members, those of the first zoo first, in memory.
        conditions: how their conditions become vectors.
        vectors: conditions of all members (N, c).
    """

    zoo: Zoo
    conditions: Conditions
    vectors: Tensor

    def fitted(self) -> Tensor:
        """Conditions (n, c) of the members a generator may be fitted on."""
        return self.vectors[~torch.tensor(self.zoo.held_out)]

    def unseen(self) -> Tensor | None:
        """Conditions (M, c) of the held-out members; None where there are none."""
        return self.vectors[torch.tensor(self.zoo.held_out)] if any(self.zoo.held_out) else None


def pool_of(zoos: Zoos, numbers: Numbers | None, same_basis: bool) -> Pool:
    """Several zoos of one architecture as one, and by what their members are told apart.

    Args:
        zoos: a mapping of dataset names to zoos, whose names tell members apart; or several zoos, or one, whose members
            numbers tell apart.
        numbers: in the same form as ``zoos``: for each zoo one number a member (held-out ones too), or one number for
            all of them; or the name under which the record has it: a split (the score on it), a setting of the recipe
            (``"weight_decay"``, ``"epochs"``), or an entry of the members. None: names alone.
        same_basis: whether zoos in different bases are refused.

    Raises:
        ValueError: nothing tells members apart, two architectures or bases, a zoo without fitted members, or numbers
            of another length, that are not finite, or that are all the same.
        TypeError: anything but zoos.
    """
    names, several = _listed(zoos)
    columns = None if numbers is None else _numbers_of(numbers, names, several, zoos)
    if columns is None and len(names) < 2:
        raise ValueError(
            "nothing tells the members apart: give zoos of several datasets by name, {'digits': zoo, …}, or numbers="
        )
    zoo = _as_one(several, names, same_basis)
    conditions = Conditions(tuple(names), _seen(columns, several, bool(names)))
    sizes = [len(one) for one in several]
    places = torch.arange(len(several)).repeat_interleave(torch.tensor(sizes)) if names else None  # (N,)
    every = None if columns is None else torch.cat(columns)  # (N,)
    return Pool(zoo, conditions, conditions.vectors(places, every).to(zoo.device))


def align_together(zoos: Zoos, spec: PermutationSpec | None = None, *, rounds: int = ROUNDS, seed: int = 0) -> Zoos:
    """Permute the hidden units of all members of several zoos into one universe, the mean of all of them.

    Args:
        zoos: of one architecture, as they were trained: a mapping, a list, or one.
        spec: as of :func:`canonicalise`.
        rounds: of matching to the mean.
        seed: of the matching.

    Returns:
        The same zoos, in the same form, in one basis.
    """
    names, several = _listed(zoos)
    everybody = _as_one(several, names, same_basis=False)
    first = everybody.held_out.index(False)
    together = canonicalise(everybody, spec, reference=first, rounds=rounds, seed=seed)
    aligned, start = [], 0
    for zoo in several:
        part = together.take(range(start, start + len(zoo)))
        aligned.append(zoo.with_weights(part.weights, part.record["stages"][-1], keep_scores=spec is None))
        start += len(zoo)
    if isinstance(zoos, Zoo):
        return aligned[0]
    return dict(zip(names, aligned, strict=True)) if names else aligned


# -- inside ------------------------------------------------------------------------------------------------------


def _listed(zoos: Zoos) -> tuple[list[str], list[Zoo]]:
    """The names of datasets, none where zoos have no names, and the zoos."""
    named = isinstance(zoos, Mapping)
    several = list(zoos.values()) if named else [zoos] if isinstance(zoos, Zoo) else zoos
    if not isinstance(several, list | tuple) or not several:
        raise TypeError(f"give zoos by name, {{'digits': zoo, …}}, or a list of them, or one; got {brief(zoos)}")
    names = list(zoos) if named else []
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"the name of a dataset is text, got {brief(name)}")
    for number, zoo in enumerate(several):
        require_zoo(zoo)
        if all(zoo.held_out):
            which = repr(names[number]) if named else f"number {number}"
            raise ValueError(f"zoo {which} has no member that a generator may be fitted on: all are held out")
    return names, list(several)


def _as_one(several: Sequence[Zoo], names: Sequence[str], same_basis: bool) -> Zoo:
    """All members in one zoo; of the records, what all of them say."""
    first = several[0]
    for number, zoo in enumerate(several[1:], 1):
        one, other = (repr(names[0]), repr(names[number])) if names else ("number 0", f"number {number}")
        if zoo.layout != first.layout or architecture_of(zoo.network) != architecture_of(first.network):
            raise ValueError(f"zoos {one} and {other} have networks of two architectures, and a flow makes one")
        if same_basis:
            check_same_basis(
                first, zoo, f"zoos {one} and {other} are in two bases", "fit with align=True, or align_together(zoos)"
            )
    record = {key: first.record[key] for key in ("architecture", "behaviour") if key in first.record}
    if same_basis and not says_nothing(first):
        record["basis"] = basis_of(first)
    weights = torch.cat([zoo.in_memory().weights.to(first.in_memory().weights) for zoo in several])
    held_out = tuple(held for zoo in several for held in zoo.held_out)
    return Zoo(weights, first.layout, first.network, record, held_out)


def _numbers_of(numbers: Numbers, names: Sequence[str], several: Sequence[Zoo], zoos: Zoos) -> list[Tensor]:
    """For each zoo the numbers of its N members (N,)."""
    if isinstance(numbers, str):
        return [_recorded(zoo, numbers) for zoo in several]
    if names:
        if not isinstance(numbers, Mapping) or set(numbers) != set(names):
            raise ValueError(f"zoos have names, so numbers are given for each: {{{names[0]!r}: …}}, for {list(names)}")
        given = [numbers[name] for name in names]
    else:
        given = [numbers] if isinstance(zoos, Zoo) else numbers
        if isinstance(given, Mapping) or len(given) != len(several):
            raise ValueError(f"numbers are given for each of {len(several)} zoos, in their order; got {brief(numbers)}")
    labels = map(repr, names) if names else (f"number {which}" for which in range(len(several)))
    return [_column(one, zoo, label) for one, zoo, label in zip(given, several, labels, strict=True)]


def _column(given: Any, zoo: Zoo, label: str) -> Tensor:
    """The numbers that were given for the members of one zoo (N,), or the one number for all of them."""
    with failing_as(f"the numbers of zoo {label} are no list of numbers"):
        listed = [plain(given)] * len(zoo) if is_number(given) else list(given)
        column = torch.tensor([float(number) for number in listed], dtype=torch.float64)
    if len(column) != len(zoo):
        raise ValueError(f"zoo {label} has {len(zoo)} members and {len(column)} numbers: give one for each")
    return _finite(column, f"zoo {label} have NaN or infinite numbers")


def _recorded(zoo: Zoo, name: str) -> Tensor:
    """What a record says under a name of each member, (N,)."""
    scores, recipe = zoo.record.get("scores") or {}, zoo.record.get("recipe") or {}
    members = zoo.record.get("members") or []
    if name in scores:
        column = zoo.scores(name).double()
    elif members and all(is_number(about.get(name)) for about in members):
        column = torch.tensor([float(about[name]) for about in members], dtype=torch.float64)
    elif is_number(recipe.get(name)):
        column = torch.full((len(zoo),), float(recipe[name]), dtype=torch.float64)
    else:
        known = [*scores, *(key for key, value in recipe.items() if is_number(value))]
        raise ValueError(f"the record of {zoo!r} has no number {name!r} of its members: choose from {known}")
    return _finite(column, f"{zoo!r} have no recorded {name!r}")


def _finite(column: Tensor, what: str) -> Tensor:
    """Numbers (N,); ``ValueError`` that names the members whose numbers are not finite."""
    bad = (~column.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"members {bad} of {what}: leave them out (zoo.take)")
    return column


def _seen(columns: list[Tensor] | None, several: Sequence[Zoo], apart: bool) -> tuple[tuple[float, ...], ...]:
    """The numbers of the fitted members, those of each zoo apart or all together; ``ValueError`` if they are one."""
    if columns is None:
        return ()
    seen = [column[~torch.tensor(zoo.held_out)] for column, zoo in zip(columns, several, strict=True)]
    together = torch.cat(seen)
    if together.min() == together.max():
        raise ValueError(f"all members have the same number, {together[0]:g}, which tells none apart: leave it out")
    return tuple(tuple(numbers.tolist()) for numbers in (seen if apart else [together]))
