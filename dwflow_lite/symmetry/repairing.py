"""Statistics of hidden units, and how to bring those of averaged networks back (REPAIR, arXiv 2211.08403)."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from dwflow_lite.networks.constants import template_on
from dwflow_lite.support.checks import is_whole
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.symmetry.listening import Watched, listening, output_axis, units_first, watchable
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.batching import runs_batched
from dwflow_lite.zoo.forward import forward_all, together
from dwflow_lite.zoo.zoo import Zoo

MEMBERS_AT_ONCE = 16


def unit_statistics(zoo: Zoo, task: Task, spec: PermutationSpec, *, examples: int = 512) -> Tensor:
    """Mean and standard deviation of every hidden unit of every member, on the calibration split.

    Hidden units are those of modules with a weight and a bias whose outputs the spec gives to a group. Modules of which
    that cannot be measured are left out, and a warning names them. Of a module that is called several times, the first
    call counts.

    Args:
        zoo: networks (N, d).
        task: its calibration split is what units are measured on.
        spec: names the hidden units.
        examples: the first so many of the split.

    Returns:
        (N, 2, units), on the device of the zoo: means, then deviations; units in the order of the network's modules.

    Raises:
        ValueError: there are no such modules, or the networks do not take the inputs of the task.
        MemoryError: too many examples.
    """
    x = _inputs(zoo, task, examples)
    return _statistics(zoo, x, _hidden_modules(zoo, spec, x), targets=None)


def repair(zoo: Zoo, targets: Tensor, task: Task, spec: PermutationSpec, *, examples: int = 512) -> Zoo:
    """Rescale and shift every hidden unit so that it has a given mean and standard deviation.

    For networks without BatchNorm (with it: :func:`recalibrate`). One pass, in which each module is corrected before
    the next one sees its outputs; the correction is then written into its weight and bias.

    Args:
        zoo: averaged networks (N, d).
        targets: (N, 2, units) as from :func:`unit_statistics`, such as an average of those of the networks that were
            averaged.
        task: its calibration split is what units are measured on.
        spec: names the hidden units.
        examples: the first so many of the split.

    Returns:
        The repaired networks, of other functions.

    Raises:
        ValueError: as :func:`unit_statistics`; or targets of another shape.
        MemoryError: too many examples.
    """
    x = _inputs(zoo, task, examples)
    hidden = _hidden_modules(zoo, spec, x)
    shape = (len(zoo), 2, sum(module.units for module in hidden))
    if tuple(targets.shape) != shape:
        raise ValueError(f"targets must be of shape {shape} (members, 2, units), got {tuple(targets.shape)}")
    targets = targets.to(zoo.device, zoo.weights.dtype)
    measured = _statistics(zoo, x, hidden, targets)
    state = dict(zoo.layout.unflatten(zoo.weights))
    start = 0
    for module in hidden:
        weight, bias = state[f"{module.name}.weight"], state[f"{module.name}.bias"]  # (N, ...), (N, units)
        units = slice(start, start + module.units)
        start = units.stop
        mean, deviation = measured[:, 0, units], measured[:, 1, units]
        new_mean, new_deviation = targets[:, 0, units], targets[:, 1, units]
        scale = _scale(deviation, new_deviation)  # (N, units)
        axes = [1] * weight.ndim
        axes[0] = len(zoo)
        axes[1 + output_axis(zoo.network.get_submodule(module.name))] = module.units
        state[f"{module.name}.weight"] = weight * scale.view(axes)
        state[f"{module.name}.bias"] = (bias - mean) * scale + new_mean
    return zoo.with_weights(zoo.layout.flatten(state), {"stage": "repair", "examples": examples})


def _scale(deviation: Tensor, target: Tensor) -> Tensor:
    """What brings a deviation to its target; units that never change are only shifted."""
    return torch.where(deviation > 1e-6, target / deviation.clamp_min(1e-6), torch.ones_like(deviation))


# -- which modules -----------------------------------------------------------------------------------------------------


def _inputs(zoo: Zoo, task: Task, examples: int) -> Tensor:
    """The first examples (n, ...) of the calibration split."""
    if not is_whole(examples, 1):
        raise ValueError(f"examples must be a whole number >= 1, got {examples!r}")
    return task.calibration.inputs(zoo.weights)[: int(examples)]


def _hidden_modules(zoo: Zoo, spec: PermutationSpec, x: Tensor) -> list[Watched]:
    """Modules with a weight and a bias whose outputs belong to a group, in the network's own order.

    Those that cannot be watched, or not be corrected by their weight and bias alone, are named in a warning.
    """
    kind = type(zoo.network).__name__
    owners = _owners(zoo.network)
    units_of: dict[str, int] = {}
    why_not: dict[str, str] = {}
    for name, module in zoo.network.named_modules():
        weight, bias = f"{name}.weight", f"{name}.bias"
        has_both = isinstance(getattr(module, "weight", None), Tensor) and bias in spec.axes
        if not has_both or spec.axes[bias][0] is None:
            continue
        axis = output_axis(module)
        sharing = [
            other for part in (module.weight, module.bias) for other in owners.get(id(part), []) if other != name
        ]
        if sharing:
            why_not[name] = f"shares its weights with {sharing[0]}"
        elif weight not in spec.axes or axis >= len(spec.axes[weight]) or spec.axes[weight][axis] != spec.axes[bias][0]:
            why_not[name] = "has a weight that does not run over the units of its bias"
        else:
            units_of[name] = spec.layout[bias].size
    network = template_on(zoo.network, zoo.weights.device, zoo.weights.dtype).eval()
    watched, unseen = watchable(network, units_of, x[:2])
    why_not |= unseen
    reasons = "; ".join(f"{name} {reason}" for name, reason in why_not.items())
    if not watched:
        because = f" that can be watched: {reasons}" if reasons else ""
        raise ValueError(f"no module of this {kind} has hidden units with a weight and a bias{because}")
    if why_not:
        warnings.warn(f"some modules of {kind} are not measured, nor repaired: {reasons}", stacklevel=3)
    return watched


def _owners(network: nn.Module) -> dict[int, list[str]]:
    """For each parameter, by its id, the modules that hold it."""
    owners: dict[int, list[str]] = {}
    for name, module in network.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    return owners


# -- measuring ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _statistics(zoo: Zoo, x: Tensor, hidden: list[Watched], targets: Tensor | None) -> Tensor:
    """Statistics (N, 2, units) of all hidden units; with ``targets`` of the same shape, as they are on the way to them.

    On the way: each module is measured when those before it have been corrected already.
    """
    network = template_on(zoo.network, zoo.weights.device, zoo.weights.dtype).eval()
    measuring = _Measuring(network, hidden)
    running: nn.Module = measuring
    if targets is not None:
        running = template_on(_Correcting(network, hidden), zoo.weights.device, zoo.weights.dtype)
    at_once = None
    start = 0
    statistics = []
    members_at_once = together(zoo.layout, MEMBERS_AT_ONCE)
    message = f"no memory for {members_at_once} members with {len(x)} examples at once: pass fewer examples"
    with out_of_memory_as(message):
        for weights in zoo.weights.split(members_at_once):  # (members, d)
            state = {f"network.{name}": tensor for name, tensor in zoo.layout.unflatten(weights).items()}
            if at_once is None:
                at_once = runs_batched(measuring, state, x[:2], wraps=network)
            if targets is not None:
                state["targets"] = targets[start : start + len(weights)]
            start += len(weights)
            statistics.append(forward_all(running, state, x, at_once))
        return torch.cat(statistics)


class _Measuring(nn.Module):
    """A network that returns the statistics of its hidden units in place of its outputs.

    Args:
        network: what is measured.
        hidden: its modules with hidden units.
    """

    def __init__(self, network: nn.Module, hidden: list[Watched]) -> None:
        super().__init__()
        self.network = network
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        """Mean and deviation (2, units) for inputs (n, ...)."""
        statistics: dict[str, Tensor] = {}

        def measure(module: Watched, outputs: Tensor, axis: int) -> Tensor | None:
            if module.name not in statistics:  # the first call
                units = units_first(outputs, axis)
                statistics[module.name] = torch.stack([units.mean(1), units.std(1, correction=0)])
            return self.correct(module, outputs, axis, statistics[module.name])

        with listening(self.network, self.hidden, measure):
            self.network(x)
        return torch.cat([statistics[module.name] for module in self.hidden], 1)

    def correct(self, module: Watched, outputs: Tensor, axis: int, statistics: Tensor) -> Tensor | None:
        """The outputs that the next modules see; None: as they are."""
        return None


class _Correcting(_Measuring):
    """As :class:`_Measuring`; and corrects each module's outputs to a target before the next module sees them.

    Args:
        network: what is measured.
        hidden: its modules with hidden units.

    The targets (2, units) are a buffer, so that each of many networks run at once can have its own.
    """

    def __init__(self, network: nn.Module, hidden: list[Watched]) -> None:
        super().__init__(network, hidden)
        self.names = [module.name for module in hidden]
        self.sizes = [module.units for module in hidden]
        self.register_buffer("targets", torch.zeros(2, sum(self.sizes)))

    def correct(self, module: Watched, outputs: Tensor, axis: int, statistics: Tensor) -> Tensor:
        """Scaled and shifted to the target mean and deviation."""
        mean, deviation = statistics
        target_mean, target_deviation = self.targets.split(self.sizes, 1)[self.names.index(module.name)]
        scale = _scale(deviation, target_deviation)
        shape = (-1, *[1] * (-1 - axis))  # one number a unit, on the axis of the units
        return outputs * scale.view(shape) + (target_mean - mean * scale).view(shape)
