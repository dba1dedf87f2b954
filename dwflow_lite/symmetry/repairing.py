"""Statistics of hidden units, and how to bring those of averaged networks back (REPAIR, arXiv 2211.08403)."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from dwflow_lite.symmetry.activations import UNITS_LAST, listening, units_first
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.forward import forward_all
from dwflow_lite.zoo.zoo import Zoo

MEMBERS_AT_ONCE = 16


def unit_statistics(zoo: Zoo, task: Task, spec: PermutationSpec, *, examples: int = 512) -> Tensor:
    """Mean and standard deviation of every hidden unit of every member, on the calibration split.

    Hidden units are those of modules with a weight and a bias whose outputs the spec gives to a group.

    Args:
        zoo: networks (N, d).
        task: its calibration split is what units are measured on.
        spec: names the hidden units.
        examples: the first so many of the split.

    Returns:
        (N, 2, units): means, then deviations; units in the order of the network's modules.

    Raises:
        ValueError: there are no such modules.
    """
    return _statistics(zoo, task, spec, examples, targets=None)


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
    """
    measured = _statistics(zoo, task, spec, examples, targets)
    state = dict(zoo.layout.unflatten(zoo.weights))
    start = 0
    for name in _hidden_modules(zoo.network, spec):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]  # (N, units, ...), (N, units)
        units = slice(start, start + bias.shape[1])
        start = units.stop
        mean, deviation = measured[:, 0, units], measured[:, 1, units]
        new_mean, new_deviation = targets[:, 0, units], targets[:, 1, units]
        scale = _scale(deviation, new_deviation)
        ones = [1] * (weight.ndim - scale.ndim)
        state[f"{name}.weight"] = weight * scale.view(*scale.shape, *ones)
        state[f"{name}.bias"] = (bias - mean) * scale + new_mean
    return zoo.with_weights(zoo.layout.flatten(state), {"stage": "repair", "examples": examples})


def _hidden_modules(network: nn.Module, spec: PermutationSpec) -> list[str]:
    """Modules with a weight and a bias whose outputs belong to a group, in the network's own order."""
    hidden = []
    for name, _ in network.named_modules():
        weight, bias = f"{name}.weight", f"{name}.bias"
        if weight in spec.axes and bias in spec.axes and spec.axes[weight][0] is not None:
            hidden.append(name)
    return hidden


def _scale(deviation: Tensor, target: Tensor) -> Tensor:
    """What brings a deviation to its target; units that never change are only shifted."""
    return torch.where(deviation > 1e-6, target / deviation.clamp_min(1e-6), torch.ones_like(deviation))


@torch.no_grad()
def _statistics(zoo: Zoo, task: Task, spec: PermutationSpec, examples: int, targets: Tensor | None) -> Tensor:
    """Statistics (N, 2, units) of all hidden units; with ``targets`` of the same shape, as they are on the way to them.

    On the way: each module is measured when those before it have been corrected already.
    """
    names = _hidden_modules(zoo.network, spec)
    if not names:
        raise ValueError(f"no module of this {type(zoo.network).__name__} has hidden units with a weight and a bias")
    sizes = [zoo.layout[f"{name}.bias"].size for name in names]
    network = deepcopy(zoo.network).eval()
    measuring: nn.Module
    if targets is None:
        measuring = _Measuring(network, names)
    else:
        measuring = _Correcting(network, names, sizes)
    measuring = measuring.to(zoo.weights.device)
    x = task.calibration.x[:examples].to(zoo.weights)
    statistics = []
    for rows in torch.arange(len(zoo)).split(MEMBERS_AT_ONCE):
        state = {f"network.{name}": tensor for name, tensor in zoo.layout.unflatten(zoo.weights[rows]).items()}
        if targets is not None:
            state["targets"] = targets[rows]
        statistics.append(forward_all(measuring, state, x))
    return torch.cat(statistics)


class _Measuring(nn.Module):
    """A network that returns the statistics of its hidden units in place of its outputs.

    Args:
        network: what is measured.
        names: its modules with hidden units.
    """

    def __init__(self, network: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.network = network
        self.names = names

    def forward(self, x: Tensor) -> Tensor:
        """Mean and deviation (2, units) for inputs (n, ...)."""
        statistics: dict[str, Tensor] = {}

        def measure(name: str, module: nn.Module, outputs: Tensor) -> Tensor | None:
            units = units_first(module, outputs)
            statistics[name] = torch.stack([units.mean(1), units.std(1, correction=0)])
            return self.correct(name, module, outputs, statistics[name])

        with listening(self.network, self.names, measure):
            self.network(x)
        return torch.cat([statistics[name] for name in self.names], 1)

    def correct(self, name: str, module: nn.Module, outputs: Tensor, statistics: Tensor) -> Tensor | None:
        """The outputs that the next modules see; None: as they are."""
        return None


class _Correcting(_Measuring):
    """As :class:`_Measuring`; and corrects each module's outputs to a target before the next module sees them.

    Args:
        network: what is measured.
        names: its modules with hidden units.
        sizes: how many units each of them has.

    The targets (2, units) are a buffer, so that each of many networks run at once can have its own.
    """

    def __init__(self, network: nn.Module, names: list[str], sizes: list[int]) -> None:
        super().__init__(network, names)
        self.sizes = sizes
        self.register_buffer("targets", torch.zeros(2, sum(sizes)))

    def correct(self, name: str, module: nn.Module, outputs: Tensor, statistics: Tensor) -> Tensor:
        """Scaled and shifted to the target mean and deviation."""
        mean, deviation = statistics
        target_mean, target_deviation = self.targets.split(self.sizes, 1)[self.names.index(name)]
        scale = _scale(deviation, target_deviation)
        # One number a unit, on the axis of the units.
        shape = (-1,) if isinstance(module, UNITS_LAST) else (-1, *[1] * (outputs.ndim - 2))
        return outputs * scale.view(shape) + (target_mean - mean * scale).view(shape)
