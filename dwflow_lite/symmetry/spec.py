"""Which axes of which tensors move together when hidden units are permuted (Git Re-Basin, arXiv 2209.04836, sec. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from math import factorial, lgamma, log, prod

import torch
from torch import Tensor, nn

from dwflow_lite.symmetry.architectures import STREAM, known_axes
from dwflow_lite.symmetry.axes import Axis, Use, permute_axes, stretches
from dwflow_lite.symmetry.permutation import Permutation
from dwflow_lite.symmetry.places import Place, places_of
from dwflow_lite.symmetry.probing import Probe, generic_inputs, in_double, known_state, probes
from dwflow_lite.zoo.layout import Layout


@dataclass(frozen=True, repr=False)
class PermutationSpec:
    """For every tensor axis the group of units it runs over, or None where the axis is fixed (inputs, outputs).

    Attributes:
        layout: the tensors of the network.
        axes: tensor name -> for each axis one group name or None; or, where an axis is made of parts (fused layers,
            concatenations, images flattened into a linear layer), its :class:`Stretch` es in a row.
        heads: block name -> (number of heads H, groups): these groups, of H equal stretches each, move whole heads
            together, and units only inside their head. (Attention: query and key share one order of units inside a
            head, value and output projection another.)
        why_fixed: tensor name -> why some of its units are fixed, where that is known; see :attr:`fixed`.

    Raises:
        ValueError: a tensor is missing or unknown, the number of axes is wrong, a group has two sizes or two axes of
            one tensor, or heads do not divide their groups.

    Example:
        >>> from dwflow_lite.networks import MLP
        >>> spec = PermutationSpec.of(MLP([3, 4, 2]))
        >>> spec.axes["layers.0.weight"], spec.axes["layers.1.weight"]
        (('hidden0', None), (None, 'hidden0'))
        >>> spec.groups, spec.count()
        ({'hidden0': 4}, 24)
    """

    layout: Layout
    axes: Mapping[str, tuple[Axis, ...]]
    heads: Mapping[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    why_fixed: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, network: nn.Module, stream: bool = False) -> PermutationSpec:
        """The spec of a network of the course: MLP, ResNet, ViT or BERT. Of your own: :func:`derive_spec`.

        Args:
            network: an instance of one of these classes.
            stream: let the residual stream of a transformer move too. By default only heads and hidden units move.

        Raises:
            ValueError: another network.
        """
        known = known_axes(network)
        if known is None:
            raise ValueError(
                f"no permutation spec is known for {type(network).__name__}; derive one (derive_spec(network, x)), "
                "write one (PermutationSpec(layout, axes)), or go on without alignment (align=None)"
            )
        axes, heads = known
        spec = cls(Layout.of(network), axes, heads)
        has_stream = STREAM in spec.groups
        return spec.fix(STREAM) if has_stream and not stream else spec

    # -- checks ------------------------------------------------------------------------------------------------------

    def __post_init__(self) -> None:
        names = {e.name for e in self.layout.entries}
        if set(self.axes) != names:
            raise ValueError(
                f"the spec does not fit its network: missing {sorted(names - set(self.axes))}, "
                f"unknown {sorted(set(self.axes) - names)}"
            )
        for name in self.axes:
            self._check_axes(name)
        self._check_sizes()
        for block in self.heads:
            self._check_heads(block)

    def _check_axes(self, name: str) -> None:
        """The axes of one tensor fit its shape, and no group is on two of them."""
        shape, axes = self.layout[name].shape, self.axes[name]
        if len(axes) != len(shape):
            raise ValueError(f"the spec gives {len(axes)} axes for {name!r} of shape {shape}")
        groups_before: set[str] = set()
        for axis, size in zip(axes, shape, strict=True):
            parts = stretches(axis, size)
            if sum(part.units * part.each for part in parts) != size:
                raise ValueError(f"the stretches {parts} do not fill an axis of {size} places of {name!r}")
            groups = {part.group for part in parts if part.group}
            if groups & groups_before:
                raise ValueError(f"{name!r} has one group on two axes, which this matching does not handle")
            groups_before |= groups

    def _check_sizes(self) -> None:
        """A group has as many units wherever it occurs."""
        for group, uses in self._all_uses.items():
            first = uses[0]
            for use in uses[1:]:
                if use.units != first.units:
                    raise ValueError(
                        f"group {group!r} has {first.units} units in {first.name!r} but {use.units} in {use.name!r}"
                    )

    def _check_heads(self, block: str) -> None:
        """The groups of a block are made of equal heads, and no tensor has two of them on two axes."""
        number, groups = self.heads[block]
        for group in groups:
            if group not in self.groups or self.groups[group] % number != 0:
                raise ValueError(f"block {block!r}: group {group!r} is unknown, or not made of {number} equal heads")
        axes_of: dict[str, set[int]] = {}  # tensor -> the axes on which it runs over a group of the block
        for group in groups:
            for use in self._all_uses[group]:
                axes_of.setdefault(use.name, set()).add(use.axis)
        for name, axes in axes_of.items():
            if len(axes) > 1:
                raise ValueError(f"block {block!r}: {name!r} runs over its groups twice, which is not handled")

    def check(self, permutation: Permutation) -> None:
        """``ValueError`` unless the permutation has the groups of the spec, and moves heads as a whole."""
        if permutation.sizes != self.groups:
            raise ValueError("the permutation has other groups or sizes than the spec")
        for block, (number, groups) in self.heads.items():
            # The old head of every new unit, one row a new head: (heads, units).
            old_heads = [permutation.indices[g].view(number, -1) // (self.groups[g] // number) for g in groups]
            first_units = old_heads[0][:, :1]
            for table in old_heads:
                if not torch.equal(table, first_units.expand_as(table)):
                    raise ValueError(f"block {block!r}: the permutation tears a head apart, or moves heads differently")

    def verify(self, network: nn.Module, weights: Tensor, x: Tensor) -> None:
        """Permute units at random, in float64: ``ValueError`` if outputs for inputs ``x`` (n, ...) change.

        Shapes that fit do not make a symmetry: an axis wrongly left out, or a forward pass that mixes units, is only
        seen in what the network computes. And not at any weights: gains of one and statistics of zero look alike in
        every order, so outputs are also compared at random weights.

        Args:
            network: whose outputs are compared; not changed.
            weights: (d,) of it.
            x: inputs (n, ...).
        """
        double = in_double(network)
        x = generic_inputs(x)
        given = Probe.of(double, known_state(self.layout, weights), x)
        generator = torch.Generator().manual_seed(0)
        for probe in chain([given], probes(double, self.layout, x, seeds=2)):
            state = self.permute(probe.state, self.random(generator))
            if not probe.keeps(double, state):
                raise ValueError(
                    f"permuting units by this spec changes outputs by {probe.change(double, state):.2g} of the largest "
                    f"one: it is no symmetry of this {type(network).__name__}"
                )

    # -- groups of units, and where they occur -----------------------------------------------------------------------

    @cached_property
    def groups(self) -> dict[str, int]:
        """Group name -> number of units."""
        return {group: uses[0].units for group, uses in self._all_uses.items()}

    @cached_property
    def uses(self) -> dict[str, list[Use]]:
        """Group name -> every place in a parameter that runs over it, and that has a say in matching.

        Running statistics are permuted with their channels (``axes``), but measure data, not weights: they have none.
        """
        uses_in_parameters = {}
        for group, uses in self._all_uses.items():
            uses_in_parameters[group] = [use for use in uses if self.layout[use.name].role == "parameter"]
        return uses_in_parameters

    @cached_property
    def _all_uses(self) -> dict[str, list[Use]]:
        """Group name -> every place in any tensor; groups by name, so that the order of tensors changes no result."""
        uses: dict[str, list[Use]] = {}
        for name, axes in self.axes.items():
            for number, (axis, size) in enumerate(zip(axes, self.layout[name].shape, strict=True)):
                start = 0
                for group, units, each in stretches(axis, size):
                    if group is not None:
                        uses.setdefault(group, []).append(Use(name, number, start, units, each))
                    start += units * each
        return dict(sorted(uses.items()))

    @cached_property
    def free(self) -> list[str]:
        """The groups whose units may be put in any order: all that belong to no block of heads."""
        groups_with_heads = {group for _, groups in self.heads.values() for group in groups}
        return [group for group in self.groups if group not in groups_with_heads]

    @cached_property
    def coordinates(self) -> list[tuple[int, tuple[str, ...]]]:
        """What matching solves at once, as (heads, groups): a free group (one head), or a block of heads."""
        free_groups = [(1, (group,)) for group in self.free]
        blocks = [self.heads[block] for block in sorted(self.heads)]
        return free_groups + blocks

    @cached_property
    def tied(self) -> bool:
        """Whether several layers write to one free group (a residual stream): where local optima are poor."""
        return self.width_of_tied > 0

    @cached_property
    def width_of_tied(self) -> int:
        """How many units the widest free group has to which several layers write; 0: there is none."""
        widths = [0]
        for group in self.free:
            layers = [use for use in self.uses[group] if use.axis == 0 and len(self.axes[use.name]) > 1]
            if len(layers) > 1:
                widths.append(self.groups[group])
        return max(widths)

    # -- what descents look up again and again -----------------------------------------------------------------------

    @cached_property
    def places(self) -> dict[str, list[Place]]:
        """Group name -> its places: what is multiplied at once when units are compared."""
        sizes = {entry.name: entry.size for entry in self.layout.entries}
        return {group: places_of(uses, self.axes, sizes) for group, uses in self.uses.items()}

    @cached_property
    def numbers(self) -> dict[str, slice]:
        """Group name -> the numbers of its places, counted group after group."""
        numbers, count = {}, 0
        for group, places in self.places.items():
            numbers[group] = slice(count, count + len(places))
            count += len(places)
        return numbers

    @cached_property
    def upset(self) -> list[Tensor]:
        """For each coordinate the numbers of the places whose products go when it moves, (u, 1)."""
        every = [place for places in self.places.values() for place in places]
        upset = []
        for _, groups in self.coordinates:
            numbers = [number for number, place in enumerate(every) if not place.groups.isdisjoint(groups)]
            upset.append(torch.tensor(numbers, dtype=torch.int64)[:, None])
        return upset

    @cached_property
    def neighbours(self) -> list[list[int]]:
        """For each coordinate those that share a tensor with it: when it moves, they can be solved anew."""
        tensors = [{use.name for group in groups for use in self.uses[group]} for _, groups in self.coordinates]
        neighbours = []
        for number, own in enumerate(tensors):
            neighbours.append([other for other, its in enumerate(tensors) if other != number and own & its])
        return neighbours

    @cached_property
    def growth(self) -> list[tuple[int, frozenset[str]]]:
        """In which order coordinates are found from what is fixed, each with the groups that have no order yet then.

        Next is always the coordinate with the largest part of its weights in tensors that hang on no such group.
        """
        left = dict(enumerate(self.coordinates))
        order = []
        while left:
            unknown = {group for _, groups in left.values() for group in groups}
            shares = {}
            for number, (_, groups) in left.items():
                places = [place for group in groups for place in self.places[group]]
                others = unknown - set(groups)
                known = sum(place.weights for place in places if place.groups.isdisjoint(others))
                shares[number] = known / max(1, sum(place.weights for place in places))
            number = max(shares, key=shares.get)  # of equal ones the first
            _, groups = left.pop(number)
            order.append((number, frozenset(unknown - set(groups))))
        return order

    # -- other specs -------------------------------------------------------------------------------------------------

    def fix(self, *groups: str, why: str = "fixed by hand") -> PermutationSpec:
        """The spec in which these groups no longer move (``ValueError``: unknown ones); :attr:`fixed` keeps ``why``."""
        unknown = sorted(set(groups) - set(self.groups))
        if unknown:
            raise ValueError(f"no groups {unknown}; the spec has {sorted(self.groups)}")

        def fixed(axis: Axis) -> Axis:
            if isinstance(axis, tuple):
                return tuple(part._replace(group=None) if part.group in groups else part for part in axis)
            return None if axis in groups else axis

        axes = {name: tuple(fixed(axis) for axis in old) for name, old in self.axes.items()}
        heads = {}
        for block, (number, old_groups) in self.heads.items():
            left = tuple(group for group in old_groups if group not in groups)
            if left:
                heads[block] = (number, left)
        touched = {use.name for group in groups for use in self._all_uses[group]}
        return PermutationSpec(self.layout, axes, heads, {**self.why_fixed, **dict.fromkeys(touched, why)})

    @cached_property
    def fixed(self) -> dict[str, str]:
        """Tensor name -> why, of all tensors in which nothing moves."""
        moving = {use.name for uses in self._all_uses.values() for use in uses}
        return {name: self.why_fixed.get(name, "") for name in self.axes if name not in moving}

    def __repr__(self) -> str:
        return f"PermutationSpec({len(self.axes)} tensors, {len(self.groups)} groups, {len(self.fixed)} fixed)"

    def __str__(self) -> str:
        """What moves, and what does not, with the reason: one line for each group, block of heads and fixed tensor."""
        lines = [repr(self)]
        lines += [f"  {group}: {size} units" for group, size in self.groups.items()]
        lines += [f"  {block}: {number} heads of {', '.join(groups)}" for block, (number, groups) in self.heads.items()]
        lines += [f"  {name}: fixed" + (f" ({why})" if why else "") for name, why in self.fixed.items()]
        return "\n".join(lines)

    # -- how many permutations there are -----------------------------------------------------------------------------

    def count(self) -> int:
        """How many permuted copies every network has: the product of the factorials of the group sizes."""
        return prod(factorial(n) for n in self._sets_in_any_order())

    def log10_count(self) -> float:
        """Decimal logarithm of :meth:`count`."""
        return sum(lgamma(n + 1) for n in self._sets_in_any_order()) / log(10)

    def _sets_in_any_order(self) -> list[int]:
        """Sizes of the sets that can be put in any order: free groups, heads of a block, units inside each head."""
        sizes = [self.groups[group] for group in self.free]
        sizes += [number for number, _ in self.heads.values()]
        for number, groups in self.heads.values():
            for group in groups:
                sizes += [self.groups[group] // number] * number
        return sizes

    # -- permutations ------------------------------------------------------------------------------------------------

    def identity(self) -> Permutation:
        """The permutation that moves nothing."""
        return Permutation({group: torch.arange(size) for group, size in self.groups.items()})

    def random(self, generator: torch.Generator) -> Permutation:
        """A permutation drawn uniformly."""
        indices = {group: torch.randperm(self.groups[group], generator=generator) for group in self.free}
        for block in sorted(self.heads):
            number, groups = self.heads[block]
            head_order = torch.randperm(number, generator=generator)
            for group in groups:
                size = self.groups[group] // number
                inside = torch.stack([torch.randperm(size, generator=generator) for _ in range(number)])
                indices[group] = (head_order[:, None] * size + inside).flatten()  # (heads, size) -> (n,)
        return Permutation(indices)

    def apply(self, permutation: Permutation, weights: Tensor) -> Tensor:
        """Permuted copies of flat weights (..., d): other numbers in other places, the same functions."""
        self.layout.check(weights)
        self.check(permutation)
        if permutation.is_identity:
            return weights.clone()
        if weights.ndim > 1:
            return weights[..., self.columns(permutation).to(weights.device)]
        return self.layout.flatten(self.permute(self.layout.unflatten(weights), permutation))

    def columns(self, permutation: Permutation) -> Tensor:
        """Permuting units moves whole columns of the weight matrix (N, d): the index (d,) that does it."""
        self.check(permutation)
        column_numbers = self.layout.unflatten(torch.arange(self.layout.size))
        return self.layout.flatten(self.permute(column_numbers, permutation))

    def permute(self, state: Mapping[str, Tensor], permutation: Permutation) -> dict[str, Tensor]:
        """Named tensors of one network with the units of some groups permuted; tensors without them are passed on.

        Args:
            state: tensor name -> tensor, without a batch axis.
            permutation: of some or all groups.
        """
        touched = {use.name for group in permutation.indices for use in self._all_uses[group]}
        permuted = dict(state)
        for name in touched & set(state):
            permuted[name] = permute_axes(state[name], self.axes[name], permutation)
        return permuted

    def parameters(self, weights: Tensor) -> dict[str, Tensor]:
        """The tensors that matching compares: flat weights (..., d), named, without running statistics."""
        state = self.layout.unflatten(weights)
        return {name: tensor for name, tensor in state.items() if self.layout[name].role == "parameter"}


def require_spec(spec: object) -> None:
    """``TypeError`` for anything but a spec or None, such as the network it is to be of."""
    if not isinstance(spec, PermutationSpec | None):
        raise TypeError(f"spec must be a PermutationSpec (derive_spec makes one) or None, not {type(spec).__name__}")
