"""Networks put together unit by unit, so that what one unit lacks another makes up for (notebook 09c).

A layer's output is a sum over its units. Where the units of a child come from many networks, each term is a little off,
and, by chance, so is their sum. But a child has many units, and each may be had from more than one network: whoever
looks at the sum while choosing can keep it small. Greedy choices of this kind are known from herding (Welling, Herding
dynamical weights to learn, 2009) and from balancing vectors (Alweiss, Liu and Sawhney, Discrepancy minimization via a
self-balancing walk, 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from sklearn.base import BaseEstimator, clone
from torch import Tensor

from dwflow_lite.generate.generator import FIT_FEWER, SAMPLE_FEWER, Generator, is_generator, require_zoo
from dwflow_lite.generate.simple import as_zoo, fitted_members, start
from dwflow_lite.networks import MLP
from dwflow_lite.support.checks import is_whole
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.zoo.zoo import Zoo

NUMBERS_AT_ONCE = 2**22  # of contributions: children and members are taken in parts of so many
CHILDREN_AT_ONCE = 32  # of whom candidates are drawn; another number gives other children


class BalancedUnits(BaseEstimator):
    """Of every hidden unit a generator makes a few; a child takes the one that keeps what units say in balance.

    Inputs tell what a unit contributes to the layer after it; their labels are never asked for. On average over members
    the contributions of all units are what an ensemble of the members says. A child's units are taken in random order,
    and of the candidates for each the one is taken that leaves the sum of deviations from that average smallest. No
    weight is changed: every unit is one that the generator made, with all its incoming weights.

    Args:
        of: the generator of the candidates, unfitted, such as ``UnitCrossover(100)``.
        inputs: (b, ...), a few dozen examples, such as ``task.calibration.x[:64]``.
        candidates: how many there are for each unit. With one, nothing is chosen.
    """

    def __init__(self, of: Generator, inputs: Tensor, candidates: int = 2) -> None:
        self.of = of
        self.inputs = inputs
        self.candidates = candidates

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoo: Zoo) -> BalancedUnits:
        """Fit the generator, and measure what each unit contributes on average over the fitted members.

        Raises:
            TypeError: inputs that are no tensor of floating-point numbers, or no generator.
            ValueError: candidates that are no whole number >= 1, inputs that do not fit the network, are not finite, or
                so large that sums overflow, networks other than :class:`MLP` with a hidden layer, fewer than two
                members, or a zoo on disk.
        """
        if not is_whole(self.candidates, 1):
            raise ValueError(f"candidates must be a whole number >= 1, got {self.candidates!r}")
        if not is_generator(self.of):
            raise TypeError(f"of must be a generator, such as UnitCrossover(100), got {type(self.of).__name__}")
        require_zoo(zoo)
        _check_network(zoo)
        members = fitted_members(self, zoo, at_least=2)
        x = _checked_inputs(self.inputs, zoo.network.sizes[0]).to(members.weights)  # (b, inputs)
        of = clone(self.of, safe=False).fit(zoo)
        layers = MLPLayers(members, x)
        if not all(average.square().sum().isfinite() for average in layers.averages):
            raise ValueError("what units say of these inputs is too large for sums: scale the inputs as the task does")
        self.members_, self.of_, self.candidates_, self.layers_ = members, of, int(self.candidates), layers
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` children."""
        generator = start(self, n, seed)
        parts = []
        for begin in range(0, n, CHILDREN_AT_ONCE):
            parts += self._children(min(CHILDREN_AT_ONCE, n - begin), generator)
        return as_zoo(torch.cat(parts), self.members_, f"balanced units of {self.candidates_} candidates")

    def _children(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """``n`` children, in parts (…, d)."""
        seed = int(torch.randint(2**31, (), generator=generator))
        made = self.of_.sample(n * self.candidates_, seed=seed).weights
        if len(made) != n * self.candidates_:
            raise ValueError(f"{type(self.of_).__name__} made {len(made)} of {n * self.candidates_} networks")
        candidates = made.to(self.members_.weights).view(n, self.candidates_, -1)  # (n, K, d)
        # Drawn for all children at once, so that how many are put together at once changes none of them.
        orders = [torch.rand(n, units, generator=generator).argsort(1) for units in self.layers_.hidden]  # (n, U) each
        at_once = self.layers_.at_once(self.candidates_)
        split = zip(candidates.split(at_once), *(order.split(at_once) for order in orders), strict=True)
        return [self.layers_.put_together(part, of_part) for part, *of_part in split]


def balance(deviations: Tensor, order: Tensor) -> Tensor:
    """Which candidate each unit of a child is taken from, (n, U), so that deviations cancel.

    Greedy: unit after unit, the candidate that leaves the sum of all deviations so far the smallest.

    Args:
        deviations: (n, K, U, D), of n children with K candidates for each of U units, in D numbers.
        order: (n, U), in which each child's units have their turn.

    Example:
        Each unit may be one too high or two too low: 1, then 1 - 2 = -1, then -1 + 1 = 0.

        >>> deviations = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 3, 1)
        >>> balance(deviations, torch.tensor([[0, 1, 2]]))
        tensor([[0, 1, 0]])
    """
    child = torch.arange(len(deviations), device=deviations.device)  # (n,)
    total = torch.zeros_like(deviations[:, :1, 0])  # (n, 1, D)
    chosen = torch.zeros_like(order, device=deviations.device)  # (n, U)
    for unit in order.to(deviations.device).T:  # (n,): one unit of each child
        sums = total + deviations[child, :, unit]  # (n, K, D)
        best = sums.square().sum(2).argmin(1)  # (n,)
        total = sums[child, best].unsqueeze(1)
        chosen[child, unit] = best
    return chosen


class MLPLayers:
    """What units of MLPs contribute to the layer after them, for a few inputs; and the members' average of it.

    A unit of the last hidden layer speaks through its own outgoing weights, which go with it. Those of an earlier one
    belong to the units that read it, and are not chosen yet: it speaks through the members' mean ones.

    Args:
        members: a zoo (N, d) of MLPs.
        x: (b, inputs), what they are asked.
    """

    def __init__(self, members: Zoo, x: Tensor) -> None:
        self.layout, self.network, self.x = members.layout, members.network, x
        self.hidden = self.network.sizes[1:-1]
        mean = self.layout.unflatten(members.weights.mean(0))
        self.onward = [mean[f"layers.{number + 1}.weight"] for number in range(len(self.hidden) - 1)]  # (O, U) each
        weights, averages = members.weights, []
        parts = weights.split(self.at_once(1))
        inputs = [x.expand(len(part), *x.shape) for part in parts]  # (n, b, inputs)
        for number in range(len(self.hidden)):
            total = 0.0
            for i, part in enumerate(parts):
                state = self.layout.unflatten(part)
                activations = self.activations(state, number, inputs[i])  # (n, U, b)
                total = total + self.contributions(state, number, activations).sum(0)  # (U, b · O)
                inputs[i] = activations.mT
            averages.append(total / len(weights))
        self.averages = averages

    def at_once(self, candidates: int) -> int:
        """How many children of so many candidates are put together at once."""
        widest = max(units * onward for units, onward in pairwise(self.network.sizes[1:]))
        return max(1, NUMBERS_AT_ONCE // (candidates * widest * len(self.x)))

    def activations(self, state: dict[str, Tensor], number: int, x: Tensor) -> Tensor:
        """Of one hidden layer of n networks, for inputs (n, b, I) of their own: (n, U, b)."""
        weight, bias = state[f"layers.{number}.weight"], state[f"layers.{number}.bias"]  # (n, U, I), (n, U)
        return self.network.activation(weight @ x.mT + bias.unsqueeze(2))

    def contributions(self, state: dict[str, Tensor], number: int, activations: Tensor) -> Tensor:
        """What every unit (n, U, b) adds to each output of the next layer, for each input: (n, U, b · O)."""
        last = number == len(self.hidden) - 1
        onward = state[f"layers.{number + 1}.weight"] if last else self.onward[number]  # ([n,] O, U)
        return (activations.unsqueeze(3) * onward.mT.unsqueeze(-2)).flatten(2)

    def put_together(self, candidates: Tensor, orders: Sequence[Tensor]) -> Tensor:
        """Children (n, d), of candidates (n, K, d), layer by layer; ``orders`` (n, U) of each hidden one's units."""
        n, options, _ = candidates.shape
        child = torch.arange(n, device=candidates.device).unsqueeze(1)  # (n, 1)
        state = self.layout.unflatten(candidates)  # tensors (n, K, ...)
        flat = {name: tensor.flatten(0, 1) for name, tensor in state.items()}  # (n · K, ...)
        made = {}
        x = self.x.expand(n, *self.x.shape)  # (n, b, I)
        for number, (average, order) in enumerate(zip(self.averages, orders, strict=True)):
            activations = self.activations(flat, number, x.repeat_interleave(options, 0))  # (n · K, U, b)
            deviations = self.contributions(flat, number, activations) - average
            chosen = balance(deviations.unflatten(0, (n, options)), order)  # (n, U)
            unit = torch.arange(chosen.shape[1], device=chosen.device)  # (U,)
            for name in (f"layers.{number}.weight", f"layers.{number}.bias"):
                made[name] = state[name][child, chosen, unit]
            x = activations.unflatten(0, (n, options))[child, chosen, unit].mT  # (n, b, U)
        last = f"layers.{len(self.hidden)}"
        made[f"{last}.weight"] = state[f"{last}.weight"].mT[child, chosen, unit].mT  # (n, O, U): they go with the units
        made[f"{last}.bias"] = state[f"{last}.bias"][:, 0]  # no unit's: the first candidate's
        return self.layout.flatten(made)


def _check_network(zoo: Zoo) -> None:
    """``ValueError`` for networks of which it is not known how outputs come from weights: only plain MLPs are."""
    network, known = zoo.network, {}
    if type(network) is MLP and len(network.layers) > 1:  # a subclass may compute anything
        for number, (inputs, outputs) in enumerate(pairwise(network.sizes)):
            known |= {f"layers.{number}.weight": (outputs, inputs), f"layers.{number}.bias": (outputs,)}
    if not known or known != {entry.name: entry.shape for entry in zoo.layout.entries}:  # or has parametrizations
        kind = type(network).__name__
        raise ValueError(f"units are balanced in plain MLPs with a hidden layer, not in this {kind}")


def _checked_inputs(inputs: Tensor, size: int) -> Tensor:
    """Inputs (b, size), flattened; an error where they do not fit, or are no finite numbers."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.layout != torch.strided:
        kind = f"{inputs.dtype}, {inputs.layout}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(
            f"inputs must be a dense tensor of floating-point numbers, as task.calibration.x is, got {kind}"
        )
    if inputs.ndim < 2 or not len(inputs) or inputs.flatten(1).shape[1] != size:
        raise ValueError(f"the networks take {size} numbers an example, got inputs of shape {tuple(inputs.shape)}")
    if not inputs.isfinite().all():
        raise ValueError("inputs must be finite: there are NaN or infinite numbers among them")
    return inputs.flatten(1)
