"""Scales and signs that no output sees, of any network of which the permutations are known.

A unit before a ReLU may be scaled: what it reads by c > 0, what reads it by 1/c. Before a tanh it may change its sign.
In eval mode BatchNorm is a scale and an offset that the layer before it can take over. None of this is read off names:
each is planted in random weights, and is a symmetry of this network if the outputs stay. For every member one copy is
chosen among all that compute the same, so that distances between members count nothing that nobody sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from dwflow_lite.batchnorm import norms_with_statistics
from dwflow_lite.networks.constants import moved
from dwflow_lite.symmetry.axes import Use, stretches
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.zoo.layout import Layout

State = dict[str, Tensor]  # the tensors of N networks in float64, (N, *shape), free to be changed

LARGEST_CHANGE = 1e-7  # of outputs, relative to the largest: what rounding makes of a symmetry
PROBES = 4  # examples
WRITERS = 8  # layers, at most, that are tried as the one that a norm reads
FARTHER = 30.0  # times the examples, that bounds such as ReLU6's are met
TOLERANCE, MAX_SWEEPS = 1e-6, 200  # of balancing: the largest |log c| that may be left


class Sides(NamedTuple):
    """Where the units of a group are written (what is scaled by c), and where they are read (by 1/c)."""

    inward: tuple[Use, ...]
    outward: tuple[Use, ...]


@dataclass(frozen=True)
class HiddenScales:
    """What may be scaled in the networks of one architecture without a change of any output, in eval mode.

    Attributes:
        layout: of the networks.
        norms: BatchNorms that keep statistics, by name, with their eps.
        writers: of those that can pass their scale on: the layer that takes it over.
        transposed: those of these layers whose units are on the second axis: transposed convolutions.
        scaled: groups of units that have a scale.
        signed: groups of units that have a sign.
    """

    layout: Layout
    norms: dict[str, float]
    writers: dict[str, str]
    transposed: frozenset[str] = frozenset()
    scaled: tuple[Sides, ...] = ()
    signed: tuple[Sides, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Which kinds there are, in words."""
        kinds = {"BatchNorm": self.norms, "scale": self.scaled, "sign": self.signed}
        return tuple(name for name, found in kinds.items() if found)

    @torch.no_grad()
    def fix(self, weights: Tensor) -> Tensor:
        """The same functions (in eval mode), each as one copy that does not depend on scales: (N, d) to (N, d).

        BatchNorms keep mean 0 and variance 1, and where they can, gain 1; both sides of a unit have the same norm (see
        ``balance_relu``); the cubes of the weights into a unit with a sign have a sum >= 0.
        """
        if not self.names:
            return weights
        state = self.layout.unflatten(weights.to(torch.float64, copy=True))
        for norm, eps in self.norms.items():
            fold_statistics(state, norm, eps)
        for norm, writer in self.writers.items():
            fold_gain(state, norm, writer, writer in self.transposed)
        balance(state, self.scaled)  # first: which sign a sum has hangs on scales, and no norm hangs on signs
        for sides in self.signed:  # in the order of the layers: the signs of one are summed in the next
            scale_units(state, sides, choose_signs(state, sides))
        fixed = self.layout.flatten(state)
        rounded = fixed.to(weights.dtype)
        return rounded if rounded.isfinite().all() else fixed  # scales may be too large for single precision


# -- what is done to weights -------------------------------------------------------------------------------------------


def fold_statistics(state: State, norm: str, eps: float) -> None:
    """Let a BatchNorm keep mean 0 and variance 1: gain and offset take over what it had. In place.

    A channel whose variance is below zero (of a generated network, say) stays as it is.
    """
    gain, offset, mean, variance = (
        state[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )  # (N, channels) each
    is_variance = variance + eps > 0
    deviation = torch.where(is_variance, variance + eps, 1.0).sqrt()
    gain /= deviation
    offset -= torch.where(is_variance, gain * mean, 0.0)
    mean.masked_fill_(is_variance, 0.0)
    variance.masked_fill_(is_variance, 1.0 - eps)


def fold_gain(state: State, norm: str, writer: str, transposed: bool = False) -> None:
    """Move the gain of a BatchNorm (mean 0, variance 1) into the layer before it, whose bias moves into the offset."""
    gain, offset, mean = (state[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean"))
    bias = state.get(f"{writer}.bias")
    factor = torch.where(mean == 0, gain, 1.0)  # a channel that kept its statistics keeps its gain
    if bias is not None:
        offset += torch.where(mean == 0, factor * bias, 0.0)
        bias.masked_fill_(mean == 0, 0.0)
    weight = state[f"{writer}.weight"]  # (N, channels, ...), of a transposed convolution (N, inputs, channels, ...)
    channels = weight.transpose(1, 2) if transposed else weight  # a view
    channels *= factor.reshape(*factor.shape, *[1] * (weight.ndim - 2))
    gain /= torch.where(factor == 0, 1.0, factor)
    gain.masked_fill_((mean == 0) & (factor == 0), 1.0)


def part_of_units(state: State, use: Use) -> Tensor:
    """What belongs to the units of a group in one place, (N, units, ...): a view."""
    axis = use.axis + 1  # the first is that of the networks
    part = state[use.name].narrow(axis, use.start, use.units * use.each)
    return part.unflatten(axis, (use.units, use.each)).movedim(axis, 1)


def scale_units(state: State, sides: Sides, c: Tensor) -> None:
    """Scale what units read by c (N, units), and what reads them by 1/c, in place."""
    for uses, factor in ((sides.inward, c), (sides.outward, 1 / c)):
        for use in uses:
            part = part_of_units(state, use)
            part *= factor.reshape(*factor.shape, *[1] * (part.ndim - 2))


def choose_signs(state: State, sides: Sides) -> Tensor:
    """Of each unit the sign (N, units) that makes the sum of cubes of the weights into it positive.

    (Of cubes: where a norm takes the mean away, weights may have the sum zero.) The first layer decides, where it has
    a say: others that write to a stream read units whose signs are chosen later.
    """
    cubes = [part_of_units(state, use).flatten(2).pow(3).sum(-1) for use in sides.inward]  # (N, units) each
    first = sides.inward[0].name.rpartition(".")[0]
    of_first = sum(part for part, use in zip(cubes, sides.inward, strict=True) if use.name.rpartition(".")[0] == first)
    return torch.where(torch.where(of_first == 0, sum(cubes), of_first) < 0, -1.0, 1.0)


def balance(state: State, groups: Iterable[Sides]) -> None:
    """Scale units, in place, until both sides of each have the same norm.

    Of a unit that reads nothing, or that nobody reads, one side is zero, and no output sees any scale of the other: nor
    whether it is there at all, since scales may be as small as one likes. It becomes zero too.
    """
    groups = list(groups)
    for _ in range(MAX_SWEEPS if groups else 0):
        changes = torch.stack([balance_group(state, sides) for sides in groups])
        if float(changes.max()) < TOLERANCE:  # read once a sweep: a GPU is waited for
            return


def balance_group(state: State, sides: Sides) -> Tensor:
    """One step of :func:`balance` for one group of units, in place: the largest |log c| of its scales, ()."""
    inward, outward = (
        sum(part_of_units(state, use).flatten(2).square().sum(-1) for use in uses) for uses in sides
    )  # (N, units) each, squares of norms
    is_used = (inward > 0) & (outward > 0)
    c = torch.where(is_used, outward / inward, 1.0) ** 0.25
    scale_units(state, sides, c)
    for use in (*sides.inward, *sides.outward):
        part = part_of_units(state, use)
        part.masked_fill_(~is_used.reshape(*is_used.shape, *[1] * (part.ndim - 2)), 0.0)
    return c.log().abs().max()


# -- which of it this network allows -----------------------------------------------------------------------------------


def find_scales(network: nn.Module, spec: PermutationSpec, x: Tensor) -> HiddenScales:
    """Try which scales and signs of units no output sees.

    Args:
        network: a module; not changed.
        spec: its groups of units.
        x: some inputs (n, ...) that it takes.

    Returns:
        What was found: nothing for a network that cannot be run in float64.
    """
    layout = spec.layout
    norms = _norms(network, layout)
    trial = _Trial.of(network, layout, x)
    if trial is None:
        return HiddenScales(layout, {}, {})
    if not all(trial.stays(lambda state, norm=norm: fold_statistics(state, norm, norms[norm])) for norm in norms):
        norms = {}
    for norm, eps in norms.items():
        fold_statistics(trial.state, norm, eps)
    writers, transposed = {}, _transposed(network)
    for norm, candidates in _layers_before(network, norms, layout).items():
        left = [candidate for candidate in candidates if candidate not in writers.values()]
        for writer in left[:WRITERS]:
            fold = partial(fold_gain, norm=norm, writer=writer, transposed=writer in transposed)
            if trial.stays(fold):
                writers[norm] = writer
                fold(trial.state)
                break

    fixed = {f"{norm}.{part}" for norm in norms for part in ("running_mean", "running_var")}
    fixed |= {f"{norm}.weight" for norm in writers}
    scaled, signed = [], []
    for group in _in_order_of_layers(spec):
        found = False
        for sides in _possible_sides(spec, group, fixed):
            if not found:
                has_scale, has_sign = trial.has_scale(sides), trial.has_sign(sides)
                scaled += [sides] if has_scale else []
                signed += [sides] if has_sign else []
                found = has_scale or has_sign
        for sides in [] if found else _sides_of_factors(spec, group, fixed):  # several may hold
            scaled += [sides] if trial.has_scale(sides) else []
            signed += [sides] if trial.has_sign(sides) else []
    return HiddenScales(layout, norms, writers, transposed, tuple(scaled), tuple(signed))


def _norms(network: nn.Module, layout: Layout) -> dict[str, float]:
    """BatchNorms with statistics, gain and offset, and their eps."""
    names = {entry.name for entry in layout.entries}
    norms = {}
    for norm, module in norms_with_statistics(network).items():
        if {f"{norm}.weight", f"{norm}.bias", f"{norm}.running_mean", f"{norm}.running_var"} <= names:
            norms[norm] = module.eps
    return norms


def _layers_before(network: nn.Module, norms: Iterable[str], layout: Layout) -> dict[str, list[str]]:
    """For each norm the layers that it may read, of as many outputs: the one made before it, then all, in their order.

    (A module may make its norms after all of its layers.)
    """
    shapes = {entry.name: entry.shape for entry in layout.entries if len(entry.shape) >= 2}
    modules, transposed = dict(network.named_modules()), _transposed(network)
    layers = {n: shapes[f"{n}.weight"][1 if n in transposed else 0] for n in modules if f"{n}.weight" in shapes}
    candidates = {}
    before = ""
    for name, module in modules.items():
        if name in layers:
            before = name
        elif isinstance(module, _BatchNorm) and name in norms:
            in_order = [before, *(layer for layer in layers if layer != before)]
            candidates[name] = [layer for layer in in_order if layers.get(layer) == module.num_features]
            before = ""
    return candidates


def _transposed(network: nn.Module) -> frozenset[str]:
    """Transposed convolutions, by name: their weights are (inputs, outputs, …)."""
    return frozenset(name for name, module in network.named_modules() if isinstance(module, _ConvTransposeNd))


def _in_order_of_layers(spec: PermutationSpec) -> list[str]:
    """The groups in the order in which they first occur in the layout."""
    groups = {}
    for entry in spec.layout.entries:
        for axis, size in zip(spec.axes[entry.name], entry.shape, strict=True):
            groups |= {part.group: None for part in stretches(axis, size) if part.group}
    return list(groups)


def _possible_sides(spec: PermutationSpec, group: str, fixed: set[str]) -> list[Sides]:
    """Where the units of a group may be written and read: three guesses, the likeliest first."""
    uses = [use for use in spec.uses[group] if use.name not in fixed]
    vectors = tuple(use for use in uses if len(spec.layout[use.name].shape) == 1)
    rows = tuple(use for use in uses if use not in vectors and use.axis == 0)
    columns = tuple(use for use in uses if use not in vectors and use.axis > 0)
    layers = {use.name.rpartition(".")[0] for use in rows + columns}
    of_norms = tuple(use for use in vectors if use.name.rpartition(".")[0] not in layers)
    guesses = [
        Sides(rows + vectors, columns),  # layers of PyTorch: weights (outputs, inputs)
        Sides(of_norms, columns),  # a norm that hides the scale of the layer before it, and has one of its own
        Sides(columns + vectors if columns else (), rows),  # x @ weight, weights (inputs, outputs)
    ]
    return [sides for sides in guesses if sides.inward and sides.outward]


def _sides_of_factors(spec: PermutationSpec, group: str, fixed: set[str]) -> list[Sides]:
    """Each layer that writes to a group, alone: a factor of a gated unit, or what is before a slope of each unit's own.

    It is read by the columns; where there are none (queries and keys, which meet in a product), by the other layer.
    """
    uses = [use for use in spec.uses[group] if use.name not in fixed]
    columns = tuple(use for use in uses if use.axis > 0)
    written: dict[tuple[str, int], tuple[Use, ...]] = {}  # (layer, where its units begin) -> matrix, and bias
    for use in uses:
        if use.axis == 0 and len(spec.layout[use.name].shape) > 1:
            written[use.name.rpartition(".")[0], use.start] = (use,)
    for use in uses:
        layer = use.name.rpartition(".")[0], use.start
        if len(spec.layout[use.name].shape) == 1 and layer in written:
            written[layer] += (use,)
    factors = list(written.values())
    if columns:
        return [Sides(factor, columns) for factor in factors]
    return [Sides(*factors)] if len(factors) == 2 else []


@dataclass
class _Trial:
    """A network with random weights and fixed inputs, in which symmetries are planted.

    Attributes:
        outputs_of: a state of one network to its outputs.
        state: random tensors, (1, *shape).
    """

    outputs_of: Callable[[State], Tensor]
    state: State

    @classmethod
    def of(cls, network: nn.Module, layout: Layout, x: Tensor) -> _Trial | None:
        """Random weights of variance 1 / inputs, and a few examples; None for a network that does not run so."""
        network = moved(network, "cpu").double().eval()
        x = x[:PROBES].detach().cpu()
        if x.is_floating_point():
            x = torch.cat([x.double(), FARTHER * x.double()])
        generator = torch.Generator().manual_seed(0)
        state = {}
        for entry in layout.entries:
            numbers = torch.rand(1, *entry.shape, generator=generator, dtype=torch.float64)
            if entry.role == "parameter":
                inputs = max(1, entry.size // entry.shape[0]) if len(entry.shape) > 1 else 1
                state[entry.name] = (2 * numbers - 1) * (3 / inputs) ** 0.5
            else:
                state[entry.name] = 0.5 + numbers  # positive, as variances are

        @torch.no_grad()
        def outputs_of(state: State) -> Tensor:
            one = {name: tensor[0] for name, tensor in state.items()}
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)  # of whatever draws in eval mode
                return functional_call(network, one, (x.clone(),))

        try:
            outputs = outputs_of(state)
        except Exception:  # whatever a reader's own code raises
            return None
        return cls(outputs_of, state) if outputs.isfinite().all() else None

    def stays(self, change: Callable[[State], None]) -> bool:
        """Whether outputs stay when a copy of the state is changed in place."""
        before = self.outputs_of(self.state)
        state = {name: tensor.clone() for name, tensor in self.state.items()}
        change(state)
        after = self.outputs_of(state)
        return bool((after - before).abs().max() <= LARGEST_CHANGE * before.abs().max())

    def has_scale(self, sides: Sides) -> bool:
        """Whether units may be scaled by positive numbers."""
        logs = torch.rand(1, sides.inward[0].units, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return self._stays_scaled(sides, torch.exp(4 * logs - 2))

    def has_sign(self, sides: Sides) -> bool:
        """Whether units may change their sign."""
        return self._stays_scaled(sides, -torch.ones(1, sides.inward[0].units, dtype=torch.float64))

    def _stays_scaled(self, sides: Sides, c: Tensor) -> bool:
        """Whether scaling both sides changes nothing, and scaling one does: units that nobody reads tell nothing."""
        both = self.stays(lambda state: scale_units(state, sides, c))
        return both and not self.stays(lambda state: scale_units(state, Sides(sides.inward, ()), c))
