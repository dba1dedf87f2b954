"""A network at random weights, in float64, on few and small inputs: where a wrong spec cannot hide.

Weights as they are at first would hide much. Gains of one, offsets of zero, statistics of zero and one, and layer
scales of 1e-6 look the same in every order, so that a spec which forgets them passes. Here all of them are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dwflow_lite.networks.constants import constants_of, set_constants
from dwflow_lite.zoo.layout import Layout

State = dict[str, Tensor]

SIDE = 64  # images are cut to so many pixels a side, if the network takes them

LONG = 2e10  # floating point operations of a forward pass, from which on one example must do


class Probe(NamedTuple):
    """Weights in float64, inputs, what the network makes of them, and how exactly.

    Attributes:
        state: named tensors.
        x: inputs (n, ...).
        outputs: of the network with this state.
        tolerance: largest change that rounding may make, as a part of the largest output: 1e-9; or 100 times what a
            change of weights by 1e-14 makes, in a network that enlarges it.
    """

    state: State
    x: Tensor
    outputs: Tensor
    tolerance: float = 1e-9

    @classmethod
    def of(cls, network: nn.Module, state: State, x: Tensor) -> Probe:
        """The probe of a network in float64 at these weights and inputs."""
        probe = cls(state, x, run(network, state, x))
        nudged = {name: tensor * (1 + 1e-14 * (number % 3)) for number, (name, tensor) in enumerate(state.items())}
        jitter = probe.change(network, nudged)
        return probe._replace(tolerance=max(probe.tolerance, 100 * jitter))

    def change(self, network: nn.Module, state: State) -> float:
        """How far outputs are from these when the network has other weights, as a part of the largest output."""
        difference = (run(network, state, self.x) - self.outputs).abs().max()
        return float(difference / self.outputs.abs().max().clamp(min=torch.finfo(torch.float64).tiny))

    def keeps(self, network: nn.Module, state: State) -> bool:
        """Whether other weights give the same outputs, up to rounding."""
        return self.change(network, state) <= self.tolerance

    @property
    def is_useful(self) -> bool:
        """Whether outputs are finite, and can be told from others."""
        return bool(torch.isfinite(self.outputs).all()) and self.tolerance < 1e-3


class AllInDouble(TorchDispatchMode):
    """Where a network asks for a lower precision (norms of language models ask for float32), it gets float64."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):  # noqa: ANN001, ANN204 - PyTorch's own
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in (torch.float32, torch.float16, torch.bfloat16):
            kwargs["dtype"] = torch.float64
        return operator(*args, **kwargs)


@torch.no_grad()
def run(network: nn.Module, state: State, x: Tensor) -> Tensor:
    """Outputs of a network with these weights, in float64 from beginning to end."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of tensors that the forward pass itself makes
    try:
        with AllInDouble():
            return functional_call(network, state, (x,))
    finally:
        torch.set_default_dtype(default)


def random_state(layout: Layout, seed: int, size: float = 1.0) -> State:
    """Named tensors of a network, drawn at random in float64; running variances are positive.

    A matrix is drawn so that what it writes is as large as what it reads (standard deviation sqrt(2 / inputs), He
    initialisation, within 0.02 and 0.7): so outputs neither vanish nor overflow in deep networks.

    Args:
        layout: the tensors of the network.
        seed: of the draws.
        size: a factor for all but running variances.
    """
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for entry in layout.entries:
        inputs = prod(entry.shape[1:])
        spread = min(max((2 / max(inputs, 1)) ** 0.5, 0.02), 0.7)
        drawn = torch.randn(entry.shape, generator=generator).double() * (size * spread)  # drawn in float32: faster
        state[entry.name] = drawn.abs() + 0.1 if entry.name.endswith("running_var") else drawn
    return state


def perturbed_state(network: nn.Module, layout: Layout, seed: int) -> State:
    """A network's own tensors, each number changed by about a half: signs are kept, and zeros become small numbers."""
    generator = torch.Generator().manual_seed(seed)
    own = dict(network.named_parameters()) | dict(network.named_buffers())
    state: State = {}
    for entry in layout.entries:
        tensor = own[entry.name].detach().double().cpu()
        noise = torch.randn(entry.shape, generator=generator, dtype=torch.float64)
        state[entry.name] = torch.where(tensor == 0, 0.1 * noise, tensor * (0.5 * noise).exp())
    return state


def known_state(layout: Layout, weights: Tensor) -> State:
    """Flat weights (d,) as named tensors in float64, on the CPU."""
    return dict(layout.unflatten(weights.detach().cpu().double()))


def in_double(network: nn.Module) -> nn.Module:
    """A copy of a network in float64 and eval mode, on the CPU; also its tensors that are plain attributes."""
    double = deepcopy(network).cpu().double().eval()
    constants = {name: tensor for name, tensor in constants_of(double).items() if tensor.is_floating_point()}
    set_constants(double, {name: tensor.cpu().double() for name, tensor in constants.items()})
    return double


def probes(network: nn.Module, layout: Layout, x: Tensor, seeds: int) -> Iterator[Probe]:
    """Random weights at which outputs are finite and hardly depend on rounding.

    Args:
        network: in float64.
        layout: its tensors.
        x: inputs (n, ...) in float64, or whole numbers.
        seeds: how many.

    Yields:
        One after another, since each holds all weights of the network.

    Raises:
        ValueError: there are none among those that are tried.
    """
    for seed in range(seeds):
        probe = _useful_probe(network, layout, x, seed)
        if probe is None:
            raise ValueError("outputs at random weights are not finite, or hang on rounding: no spec can be tested")
        yield probe


def _useful_probe(network: nn.Module, layout: Layout, x: Tensor, seed: int) -> Probe | None:
    draws = [lambda: random_state(layout, seed), lambda: random_state(layout, seed, 0.1)]
    draws.append(lambda: perturbed_state(network, layout, seed))  # where, say, a parameter must be positive
    for draw in draws:
        probe = Probe.of(network, draw(), x)
        if probe.is_useful:
            return probe
    return None


# -- inputs ------------------------------------------------------------------------------------------------------------


def generic_inputs(x: Tensor) -> Tensor:
    """Inputs in float64; numbers that are all equal (zeros that only show a shape) hide much, and are drawn anew."""
    if not x.is_floating_point():
        return x.cpu()
    x = x.detach().double().cpu()
    if x.numel() > 1 and x.min() == x.max():
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x


def smaller_inputs(network: nn.Module, state: State, x: Tensor) -> tuple[Tensor, int]:
    """Few and small inputs on which a network can be compared with itself.

    Two examples; images cut to 64 × 64 pixels, where the network takes these and gives outputs of one size; one example
    where a forward pass is still long.

    Args:
        network: in float64.
        state: its weights.
        x: inputs (n, ...) in float64, or whole numbers.

    Returns:
        The inputs, and the floating point operations of a forward pass in products of matrices and convolutions.
    """
    whole = x[:2]
    shape, cost = _try(network, state, whole)
    if shape is None:  # it wants all of them
        whole = x
        shape, cost = _try(network, state, whole)
    if x.ndim == 4 and x.is_floating_point() and min(x.shape[-2:]) > SIDE:
        cut = whole[..., :SIDE, :SIDE]
        shape_of_cut, cost_of_cut = _try(network, state, cut)
        if shape_of_cut == shape:
            return cut, cost_of_cut
    if cost > LONG:
        shape_of_one, cost_of_one = _try(network, state, x[:1])
        if shape_of_one is not None and shape_of_one[1:] == shape[1:]:
            return x[:1], cost_of_one
    return whole, cost


def _try(network: nn.Module, state: State, x: Tensor) -> tuple[torch.Size | None, int]:
    """Shape of outputs for inputs ``x`` (None if the network does not take them), and operations of a forward pass."""
    with FlopCounterMode(display=False) as counter:
        try:
            shape = run(network, state, x).shape
        except Exception:  # whatever a reader's own code raises
            return None, 0
    return shape, counter.get_total_flops()
