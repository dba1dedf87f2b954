"""Mixtures of members: on the sphere on which the members lie, not on the chords between them; and unit by unit.

In an aligned zoo of wide networks such a mixture is a network nobody trained, and a good one (notebook 09b).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from dwflow_lite.generate.generator import FIT_FEWER, SAMPLE_FEWER, require_zoo
from dwflow_lite.generate.simple import as_zoo, check_factor, different_rows, fitted_members, measured, start
from dwflow_lite.support.checks import is_choice, is_whole
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.symmetry.axes import Axis, stretches
from dwflow_lite.symmetry.spec import PermutationSpec, require_spec
from dwflow_lite.zoo.zoo import Zoo

COEFFICIENTS = ("sphere", "signs")


class AffineMixture(BaseEstimator):
    """The mean plus differences of random fitted members to it, weighted by a random point of a sphere.

    Σ cᵢ² = factor². With factor 1 a mixture lies as far from the mean as members do (where their differences are about
    orthogonal, as those of independently trained networks are). A :class:`Soup` is the same with cᵢ = 1/m: its squares
    sum to 1/m, and so much of the spread is left.

    Args:
        size: m, how many different members are mixed; all where there are fewer; None: all.
        coefficients: ``"sphere"``: any point of the sphere; ``"signs"``: cᵢ = ± factor / √m, so that no member has a
            larger share than another, and none is nearer than need be.
        factor: radius of the sphere, in units of the members' own distance from their mean.

    Example:
        Of members as far from their mean as from one another's opposite, mixtures keep the distance, soups do not:

        >>> from dwflow_lite import MLP
        >>> from dwflow_lite.zoo import Layout
        >>> network = MLP([3, 1])
        >>> layout = Layout.of(network)
        >>> zoo = Zoo(torch.tensor([[2.0, 0, 0, 0], [-2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, -2.0, 0, 0]]), layout, network)
        >>> mixed = AffineMixture(size=4).fit(zoo).sample(2000, seed=0)
        >>> round(float(mixed.weights.square().sum(1).mean()))
        4
    """

    def __init__(self, size: int | None = 5, coefficients: str = "sphere", factor: float = 1.0) -> None:
        self.size = size
        self.coefficients = coefficients
        self.factor = factor

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoo: Zoo) -> AffineMixture:
        """Remember the fitted members, at least two, and their mean.

        Raises:
            ValueError: a size, coefficients or a factor that make no sense, fewer than two members, or a zoo on disk.
        """
        if self.size is not None and not is_whole(self.size, 1):
            raise ValueError(f"size must be None or a whole number >= 1, got {self.size!r}")
        if not is_choice(self.coefficients, COEFFICIENTS):
            raise ValueError(f"coefficients must be one of {', '.join(COEFFICIENTS)}, got {self.coefficients!r}")
        check_factor(self.factor)
        members = fitted_members(self, zoo, at_least=2)
        mean = measured(lambda weights: weights.mean(0), members.weights)  # (d,)
        size = len(members) if self.size is None else min(int(self.size), len(members))
        self.members_, self.mean_, self.size_ = members, mean, size
        self.coefficients_ = self.coefficients
        self.factor_ = float(self.factor)
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` mixtures."""
        generator = start(self, n, seed)
        weights = self.members_.weights  # (N, d)
        rows = different_rows(len(weights), self.size_, n, generator)  # (n, m)
        on_sphere = self.factor_ * points_of_sphere(n, self.size_, self.coefficients_, generator)  # (n, m)
        shares = torch.zeros(n, len(weights)).scatter(1, rows, on_sphere).to(weights)  # (n, N)
        # Σ cᵢ (wᵢ - mean), without a copy of the centred members.
        mixed = shares @ weights + (1 - shares.sum(1, keepdim=True)) * self.mean_  # (n, d)
        return as_zoo(mixed, self.members_, f"affine mixture of {self.size_}")


def points_of_sphere(n: int, size: int, coefficients: str, generator: torch.Generator) -> Tensor:
    """Random points (n, size) of the unit sphere: any (``"sphere"``), or with coordinates of one size (``"signs"``)."""
    drawn = torch.randn(n, size, generator=generator)
    return torch.nn.functional.normalize(drawn.sign() if coefficients == "signs" else drawn)


class UnitCrossover(BaseEstimator):
    """Children of random fitted members: each hidden unit comes, with its incoming weights, from one of the parents.

    Attention heads come as a whole. Weights that no unit owns (of an output layer: its bias) are the first parent's;
    an output layer's weights go with the units that they read.

    Args:
        parents: how many different members a child has; all where there are fewer.
        spec: of a reader's own network; those of the course have theirs.
        factor: by how much children are moved away from the mean of all members. At 1 each unit is a member's own, and
            a child of many lies a little nearer to its parents than they do to each other.
    """

    def __init__(self, parents: int = 2, spec: PermutationSpec | None = None, factor: float = 1.0) -> None:
        self.parents = parents
        self.spec = spec
        self.factor = factor

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoo: Zoo) -> UnitCrossover:
        """Remember the fitted members, at least two, their mean, and which weight belongs to which unit.

        Raises:
            ValueError: parents that are no whole number >= 2, a factor below 0, fewer than two members, a zoo on disk,
                a network without a spec, or a spec of another layout.
        """
        if not is_whole(self.parents, 2):
            raise ValueError(f"parents must be a whole number >= 2, got {self.parents!r}")
        check_factor(self.factor)
        require_spec(self.spec)
        require_zoo(zoo)
        spec = _spec_of(zoo) if self.spec is None else self.spec
        if spec.layout != zoo.layout:
            raise ValueError("the spec belongs to another layout than the zoo's: make it from zoo.network")
        members = fitted_members(self, zoo, at_least=2)
        unit_of = owners(spec)  # (d,)
        mean = measured(lambda weights: weights.mean(0), members.weights)  # (d,)
        parents = min(int(self.parents), len(members))
        self.members_, self.mean_, self.owners_, self.parents_ = members, mean, unit_of, parents
        self.factor_ = float(self.factor)
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` children."""
        generator = start(self, n, seed)
        weights = self.members_.weights  # (N, d)
        parents = different_rows(len(weights), self.parents_, n, generator)  # (n, parents)
        units = int(self.owners_.max()) + 1
        of_unit = torch.randint(self.parents_, (n, units), generator=generator)  # (n, units): which parent
        of_unit = torch.cat([of_unit, torch.zeros(n, 1, dtype=torch.long)], 1)  # the last: of what no unit owns
        member = parents.gather(1, of_unit[:, self.owners_])  # (n, d): whose weight each one is
        children = weights.gather(0, member.to(weights.device))  # (n, d)
        if self.factor_ != 1:
            children = self.mean_ + self.factor_ * (children - self.mean_)
        return as_zoo(children, self.members_, f"unit crossover of {self.parents_}")


def _spec_of(zoo: Zoo) -> PermutationSpec:
    """Which weights make up a unit, in a network of the course."""
    try:
        return PermutationSpec.of(zoo.network)
    except ValueError:
        kind = type(zoo.network).__name__
        raise ValueError(
            f"which weights of {kind} networks make up a unit is not known: UnitCrossover(spec=derive_spec(network, x))"
        ) from None


def owners(spec: PermutationSpec) -> Tensor:
    """The number of the unit that each weight (d,) belongs to, over all groups; -1 where no unit owns it.

    A unit owns what it is computed from: the rows of the tensors that it is an output of. Where a tensor has no units
    as outputs, it belongs to those that it reads. All units of an attention head are one, in all of its groups.
    """
    numbers = _unit_numbers(spec)
    state = {}
    for name, axes in spec.axes.items():
        shape = spec.layout[name].shape
        owner = torch.full(shape, -1)
        for number, (axis, size) in enumerate(zip(axes, shape, strict=True)):  # outputs are axis 0
            units = _units_along(axis, size, numbers)  # (size,)
            along = [1] * len(shape)
            along[number] = size
            owner = torch.where(owner < 0, units.view(along), owner)
        state[name] = owner
    return spec.layout.flatten(state)


def _units_along(axis: Axis, size: int, numbers: Mapping[str, Tensor]) -> Tensor:
    """The number of the unit at each place of an axis, (size,); -1 where it is fixed."""
    parts = []
    for group, units, each in stretches(axis, size):
        fixed = torch.full((units,), -1)
        parts.append((fixed if group is None else numbers[group]).repeat_interleave(each))
    return torch.cat(parts)


def _unit_numbers(spec: PermutationSpec) -> dict[str, Tensor]:
    """Group -> a number (n,) for each of its units, over all groups; one for all units of an attention head."""
    numbers: dict[str, Tensor] = {}
    count = 0
    for heads, groups in spec.coordinates:
        pieces = spec.groups[groups[0]] if heads == 1 else heads  # a free group has its units, a block its heads
        for group in groups:
            numbers[group] = count + torch.arange(pieces).repeat_interleave(spec.groups[group] // pieces)
        count += pieces
    return numbers
