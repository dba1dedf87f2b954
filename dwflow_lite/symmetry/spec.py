"""Which axes of which tensors move together when hidden units are renamed (Git Re-Basin, arXiv 2209.04836, sec. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from math import factorial, lgamma, log, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dwflow_lite.networks import ACTIVATIONS, BERT, MLP, ResNet, ViT
from dwflow_lite.zoo.layout import Layout


@dataclass(frozen=True)
class Permutation:
    """One index array for each group of units: new unit ``i`` of group ``g`` is old unit ``indices[g][i]``."""

    indices: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for group, index in self.indices.items():
            if index.dtype != torch.int64 or index.ndim != 1:
                raise ValueError(f"group {group!r}: an index is a vector of dtype int64, got {index.dtype}")
            if not torch.equal(index.sort().values, torch.arange(len(index), device=index.device)):
                raise ValueError(f"group {group!r}: {index.tolist()} is not a permutation of 0 … {len(index) - 1}")

    def compose(self, first: Permutation) -> Permutation:
        """The permutation that does ``first``, then this one."""
        if {g: len(i) for g, i in first.indices.items()} != {g: len(i) for g, i in self.indices.items()}:
            raise ValueError("only permutations of the same groups and sizes can be composed")
        return Permutation({g: first.indices[g][index] for g, index in self.indices.items()})

    def inverse(self) -> Permutation:
        """The permutation that undoes this one."""
        return Permutation({g: index.argsort() for g, index in self.indices.items()})

    @property
    def is_identity(self) -> bool:
        """Whether nothing moves."""
        return all(torch.equal(i, torch.arange(len(i), device=i.device)) for i in self.indices.values())


class Stretch(NamedTuple):
    """Part of an axis: ``units`` units of one group (None: fixed) in a row, each of ``each`` consecutive places."""

    group: str | None
    units: int
    each: int = 1


Axis = str | None | tuple[Stretch, ...]


class Use(NamedTuple):
    """Where a tensor runs over a group: from ``start`` on along ``axis``, ``units`` units of ``each`` places."""

    name: str
    axis: int
    start: int
    units: int
    each: int

    def rows(self, tensor: Tensor) -> Tensor:
        """The part of the tensor that belongs to the group, one row a unit: (units, numbers)."""
        part = tensor.narrow(self.axis, self.start, self.units * self.each).unflatten(self.axis, (self.units, -1))
        return part.movedim(self.axis, 0).flatten(1)


@dataclass(frozen=True)
class PermutationSpec:
    """For every tensor axis the group of units it runs over, or None where the axis is fixed (inputs, outputs).

    Attributes:
        layout: the tensors of the network.
        axes: tensor name -> for each axis one group name or None; or, where an axis is made of parts (fused layers,
            concatenations, images flattened into a linear layer), its :class:`Stretch` es in a row.
        heads: block name -> (number of heads H, groups): these groups, of H equal stretches each, move whole heads
            together, and units only inside their head. (Attention: query and key share one order of units inside a
            head, value and output projection another.)

    Raises ``ValueError`` where a tensor is missing or unknown, the number of axes is wrong, or a group has two sizes.
    """

    layout: Layout
    axes: Mapping[str, tuple[Axis, ...]]
    heads: Mapping[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = {e.name for e in self.layout.entries}
        if set(self.axes) != names:
            raise ValueError(
                f"the spec does not fit its network: missing {sorted(names - set(self.axes))}, "
                f"unknown {sorted(set(self.axes) - names)}"
            )
        sizes: dict[str, tuple[int, str]] = {}
        for name, axes in self.axes.items():
            shape, seen = self.layout[name].shape, set()
            if len(axes) != len(shape):
                raise ValueError(f"the spec gives {len(axes)} axes for {name!r} of shape {shape}")
            for axis, size in zip(axes, shape, strict=True):
                parts = _stretches(axis, size)
                if sum(s.units * s.each for s in parts) != size:
                    raise ValueError(f"the stretches {parts} do not fill an axis of {size} places of {name!r}")
                groups = {s.group for s in parts if s.group}
                if seen & groups:
                    raise ValueError(f"{name!r} has one group on two axes, which this matching does not handle")
                seen |= groups
                for group, units, _ in parts:
                    if group and sizes.setdefault(group, (units, name))[0] != units:
                        was, where = sizes[group]
                        raise ValueError(f"group {group!r} has {was} units in {where!r} but {units} in {name!r}")
        for block, (number, groups) in self.heads.items():
            if bad := [g for g in groups if g not in sizes or sizes[g][0] % number]:
                raise ValueError(f"block {block!r}: group {bad[0]!r} is unknown, or not made of {number} equal heads")
            places = {(u.name, u.axis) for g in groups for u in self._all_uses[g]}
            if twice := [n for n, axis in places if axis and (n, 0) in places]:
                raise ValueError(f"block {block!r}: {twice[0]!r} runs over its groups twice, which is not handled")

    @classmethod
    def of(cls, network: nn.Module, stream: bool = False) -> PermutationSpec:
        """The spec of a network of the course: MLP, ResNet, ViT or BERT. Of your own: :func:`derive_spec`.

        ``stream``: let the residual stream of a transformer move too. By default only heads and hidden units move.
        """
        # A subclass may compute anything, and an activation that was put in later need not be elementwise.
        elementwise = [a for name, a in ACTIVATIONS.items() if name != "identity"]
        if type(network) is MLP and type(network.activation) in elementwise:
            axes, heads = _mlp_axes(network), {}
        elif type(network) is ResNet:
            axes, heads = _resnet_axes(network), {}
        elif type(network) in (ViT, BERT):
            axes, heads = _vit_axes(network) if type(network) is ViT else _bert_axes(network)
        else:
            raise ValueError(
                f"no permutation spec is known for {type(network).__name__}; derive one (symmetry.derive_spec), write "
                "one (PermutationSpec(layout, axes)), or go on without alignment (align=None)"
            )
        spec = cls(Layout.of(network), axes, heads)
        return spec if stream or type(network) not in (ViT, BERT) else spec.fix("stream")

    def fix(self, *groups: str) -> PermutationSpec:
        """The spec in which these groups no longer move."""
        if unknown := set(groups) - set(self.groups):
            raise ValueError(f"no groups {sorted(unknown)}; the spec has {sorted(self.groups)}")

        def fixed(axis: Axis) -> Axis:
            if isinstance(axis, tuple):
                return tuple(s._replace(group=None) if s.group in groups else s for s in axis)
            return None if axis in groups else axis

        axes = {name: tuple(map(fixed, old)) for name, old in self.axes.items()}
        heads = {b: (n, tuple(g for g in gs if g not in groups)) for b, (n, gs) in self.heads.items()}
        return PermutationSpec(self.layout, axes, {b: v for b, v in heads.items() if v[1]})

    def verify(self, network: nn.Module, weights: Tensor, x: Tensor) -> None:
        """Rename units at random, in float64: ``ValueError`` if outputs for inputs ``x`` (n, ...) change.

        Shapes that fit do not make a symmetry: an axis wrongly left out, or a forward pass that mixes units, is only
        seen in what the network computes.
        """
        moved = self.apply(self.random(torch.Generator().manual_seed(0)), weights)
        double = deepcopy(network).double().eval()
        x = x.double() if x.is_floating_point() else x
        with torch.no_grad():
            before, after = (functional_call(double, self.layout.unflatten(w.double()), (x,)) for w in (weights, moved))
        if not torch.allclose(before, after, rtol=1e-6, atol=1e-8):
            raise ValueError(
                f"renaming units by this spec changes outputs by up to {float((before - after).abs().max()):.2g}: "
                f"it is no symmetry of this {type(network).__name__}"
            )

    @cached_property
    def groups(self) -> dict[str, int]:
        """Group name -> number of units."""
        return {g: uses[0].units for g, uses in self._all_uses.items()}

    @cached_property
    def _all_uses(self) -> dict[str, list[Use]]:
        found: dict[str, list[Use]] = {}
        for name, axes in self.axes.items():
            for number, (axis, size) in enumerate(zip(axes, self.layout[name].shape, strict=True)):
                start = 0
                for group, units, each in _stretches(axis, size):
                    if group:
                        found.setdefault(group, []).append(Use(name, number, start, units, each))
                    start += units * each
        return dict(sorted(found.items()))  # whatever the order of the tensors, results are the same

    @cached_property
    def uses(self) -> dict[str, list[Use]]:
        """Group name -> every place in a parameter that runs over it, and that has a say in matching.

        Running statistics are renamed with their channels (``axes``), but measure data, not weights: they have none.
        """
        return {
            group: [u for u in uses if self.layout[u.name].role == "parameter"]
            for group, uses in self._all_uses.items()
        }

    @cached_property
    def coordinates(self) -> list[tuple[int, tuple[str, ...]]]:
        """What matching solves at once, as (heads, groups): a free group (one head), or a block of heads."""
        return [(1, (g,)) for g in self.free] + [self.heads[block] for block in sorted(self.heads)]

    @cached_property
    def tied(self) -> bool:
        """Whether several layers write to one free group (a residual stream): where local optima are poor."""
        writers = [[u for u in self.uses[g] if u.axis == 0 and len(self.axes[u.name]) > 1] for g in self.free]
        return any(len(layers) > 1 for layers in writers)

    def count(self) -> int:
        """How many relabelled copies every network has: the product of the factorials of the group sizes."""
        return prod(factorial(n) for n in self._orders())

    def log10_count(self) -> float:
        """Decimal logarithm of :meth:`count`."""
        return sum(lgamma(n + 1) for n in self._orders()) / log(10)

    def _orders(self) -> list[int]:
        """Sizes of the sets that can be put in any order: free groups, heads of a block, units inside each head."""
        inside = [self.groups[g] // h for h, groups in self.heads.values() for g in groups for _ in range(h)]
        return [self.groups[g] for g in self.free] + [h for h, _ in self.heads.values()] + inside

    @cached_property
    def free(self) -> list[str]:
        """The groups whose units may be put in any order: all that belong to no block of heads."""
        bound = {g for _, groups in self.heads.values() for g in groups}
        return [g for g in self.groups if g not in bound]

    def identity(self) -> Permutation:
        """The permutation that moves nothing."""
        return Permutation({g: torch.arange(size) for g, size in self.groups.items()})

    def random(self, generator: torch.Generator) -> Permutation:
        """A permutation drawn uniformly."""
        indices = {g: torch.randperm(self.groups[g], generator=generator) for g in self.free}
        for number, groups in (self.heads[block] for block in sorted(self.heads)):
            order = torch.randperm(number, generator=generator)
            for g in groups:
                size = self.groups[g] // number
                inside = torch.stack([torch.randperm(size, generator=generator) for _ in range(number)])
                indices[g] = (order[:, None] * size + inside).flatten()
        return Permutation(indices)

    def check(self, permutation: Permutation) -> None:
        """``ValueError`` unless the permutation has the groups of the spec, and moves heads as a whole."""
        if {g: len(i) for g, i in permutation.indices.items()} != self.groups:
            raise ValueError("the permutation has other groups or sizes than the spec")
        for block, (number, groups) in self.heads.items():
            orders = [permutation.indices[g].view(number, -1) // (self.groups[g] // number) for g in groups]
            if any(not torch.equal(o, orders[0][:, :1].expand_as(o)) for o in orders):
                raise ValueError(f"block {block!r}: the permutation tears a head apart, or moves heads differently")

    def columns(self, permutation: Permutation) -> Tensor:
        """Renaming units moves whole columns of the weight matrix: the (d,) index that does it."""
        self.check(permutation)
        state = self.layout.unflatten(torch.arange(self.layout.size))
        return self.layout.flatten(self.rename(state, permutation))

    def rename(self, state: Mapping[str, Tensor], permutation: Permutation) -> dict[str, Tensor]:
        """Named tensors with the units of some groups renamed; tensors that know none of these stay as they are."""
        touched = {u.name for g in permutation.indices for u in self._all_uses[g]}
        return {n: permute_axes(t, self.axes[n], permutation) if n in touched else t for n, t in state.items()}

    def parameters(self, weights: Tensor) -> dict[str, Tensor]:
        """The tensors that matching compares: flat weights (..., d), named, without running statistics."""
        return {n: t for n, t in self.layout.unflatten(weights).items() if self.layout[n].role == "parameter"}

    def apply(self, permutation: Permutation, weights: Tensor) -> Tensor:
        """Renamed copies of flat weights (..., d): other numbers in other places, the same functions."""
        self.layout.check(weights)
        self.check(permutation)
        if permutation.is_identity:
            return weights.clone()
        if weights.ndim > 1:
            return weights[..., self.columns(permutation).to(weights.device)]
        return self.layout.flatten(self.rename(self.layout.unflatten(weights), permutation))


def permute_axes(tensor: Tensor, axes: tuple[Axis, ...], permutation: Permutation) -> Tensor:
    """Reorder each axis of a tensor by the permutation of the group it runs over (None: leave it)."""
    for number, axis in enumerate(axes):
        if axis is not None:
            order = positions(axis, permutation, tensor.shape[number])
            tensor = tensor.index_select(number, order.to(tensor.device))
    return tensor


def positions(axis: Axis, permutation: Permutation, size: int) -> Tensor:
    """Where each of ``size`` places of an axis is taken from; groups that the permutation does not name stay."""
    parts, start = [], 0
    for group, units, each in _stretches(axis, size):
        index = permutation.indices.get(group, torch.arange(units))
        parts.append(start + (index[:, None] * each + torch.arange(each)).flatten())
        start += units * each
    return torch.cat(parts)


def _stretches(axis: Axis, size: int) -> tuple[Stretch, ...]:
    return axis if isinstance(axis, tuple) else (Stretch(axis, size),)


Axes = dict[str, tuple[Axis, ...]]
Heads = dict[str, tuple[int, tuple[str, ...]]]


def _mlp_axes(network: MLP) -> Axes:
    last, axes = len(network.layers) - 1, {}
    for i in range(len(network.layers)):
        units, inputs = f"hidden{i}" if i < last else None, f"hidden{i - 1}" if i > 0 else None
        axes[f"layers.{i}.weight"], axes[f"layers.{i}.bias"] = (units, inputs), (units,)
    return axes


def _resnet_axes(network: ResNet) -> Axes:
    """One group for the stream of each stage, which every block of it adds to; one for the inside of each block."""
    names = {name for name, t in [*network.named_parameters(), *network.named_buffers()] if t.is_floating_point()}
    axes: Axes = {}

    def layer(conv: str, norm: str, inputs: str | None, outputs: str) -> None:
        axes[f"{conv}.weight"] = (outputs, inputs, None, None)
        parts = ("weight", "bias", "running_mean", "running_var")
        axes.update({f"{norm}.{part}": (outputs,) for part in parts if f"{norm}.{part}" in names})

    layer("stem", "stem_norm", None, "stream0")
    stream = "stream0"
    for s, stage in enumerate(network.stages):
        for b, block in enumerate(stage):
            name, inside, after = f"stages.{s}.{b}", f"stage{s}.block{b}", f"stream{s}"
            layer(f"{name}.conv1", f"{name}.norm1", stream, inside)
            layer(f"{name}.conv2", f"{name}.norm2", inside, after)
            if block.shortcut is not None:
                layer(f"{name}.shortcut.0", f"{name}.shortcut.1", stream, after)
            stream = after
    axes["head.weight"], axes["head.bias"] = (None, stream), (None,)
    return axes


def _vit_axes(network: ViT) -> tuple[Axes, Heads]:
    """The stream, which every block reads and adds to; inside each block heads, units inside them, hidden units."""
    axes: Axes = {
        "patches.weight": ("stream", None, None, None), "patches.bias": ("stream",),
        "tokens.first": (None, "stream"), "tokens.position": (None, "stream"),
        "norm.weight": ("stream",), "norm.bias": ("stream",), "head.weight": (None, "stream"), "head.bias": (None,),
    }  # fmt: skip
    heads: Heads = {}
    for i, block in enumerate(network.blocks):
        names = ("query", "key", "value", "project", "up", "down", "norm1", "norm2")
        _attention_axes(axes, heads, i, block.heads, [f"blocks.{i}.{name}" for name in names])
    return axes, heads


def _bert_axes(network: BERT) -> tuple[Axes, Heads]:
    """As in a ViT; the units of the pooler, which only the head reads, are free."""
    axes: Axes = {f"bert.embeddings.{kind}_embeddings.weight": (None, "stream")
                  for kind in ("word", "position", "token_type")}  # fmt: skip
    axes |= {f"bert.embeddings.LayerNorm.{part}": ("stream",) for part in ("weight", "bias")}
    axes |= {"bert.pooler.dense.weight": ("pooler", "stream"), "bert.pooler.dense.bias": ("pooler",),
             "head.weight": (None, "pooler"), "head.bias": (None,)}  # fmt: skip
    heads: Heads = {}
    for i in range(network.options["depth"]):
        names = (*(f"attention.self.{name}" for name in ("query", "key", "value")), "attention.output.dense",
                 "intermediate.dense", "output.dense", "attention.output.LayerNorm", "output.LayerNorm")  # fmt: skip
        layers = [f"bert.encoder.layer.{i}.{name}" for name in names]
        _attention_axes(axes, heads, i, network.options["heads"], layers)
    return axes, heads


def _attention_axes(axes: Axes, heads: Heads, i: int, number: int, layers: Sequence[str]) -> None:
    """Axes of block ``i``: query, key, value, projection, up, down and two norms, whose names are ``layers``."""
    qk, vo, hidden = f"block{i}.query-key", f"block{i}.value", f"block{i}.hidden"
    heads[f"block{i}"] = (number, (qk, vo))
    moves = ((qk, "stream"), (qk, "stream"), (vo, "stream"), ("stream", vo), (hidden, "stream"), ("stream", hidden))
    for layer, units in zip(layers, (*moves, ("stream",), ("stream",)), strict=True):
        axes[f"{layer}.weight"], axes[f"{layer}.bias"] = units, units[:1]
