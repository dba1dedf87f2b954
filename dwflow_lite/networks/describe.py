"""What a record says of a network: how to build it again, and what its forward pass does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dwflow_lite.networks.bert import BERT
from dwflow_lite.networks.constants import moved
from dwflow_lite.networks.mlp import MLP
from dwflow_lite.networks.resnet import ResNet
from dwflow_lite.networks.vit import ViT

NETWORKS: dict[str, type[nn.Module]] = {"MLP": MLP, "ResNet": ResNet, "ViT": ViT, "BERT": BERT}


# -- how to build it --------------------------------------------------------------------------------------


def build(architecture: dict[str, Any]) -> nn.Module:
    """The network that a record describes, with weights of PyTorch's own start.

    Args:
        architecture: what :func:`architecture_of` gave.

    Raises:
        ValueError: a reader's own class, which the reader must supply.

    Example:
        >>> build({"class": "MLP", "sizes": [4, 3, 2], "activation": "tanh"}).sizes
        (4, 3, 2)
    """
    options = dict(architecture)
    name = options.pop("class", None)
    if name not in NETWORKS or options.get("custom"):
        raise ValueError(
            f"cannot rebuild a {name!r} network from its record, which holds no code: pass a module of that "
            "class, network=..."
        )
    return NETWORKS[name](**options)


def architecture_of(network: nn.Module) -> dict[str, Any]:
    """The description of a network, made of JSON's types.

    Args:
        network: any module.

    Returns:
        For a network of the course what :func:`build` needs; for a reader's own, or one that was changed after it was
        built, its class, its modules and ``"custom": True``.
    """
    ours = type(network) in NETWORKS.values()
    has_own_forward = "forward" in vars(network)  # assigned to this one object
    if ours and not has_own_forward:
        with torch.device("meta"):  # draws no weights
            unchanged = build(network.architecture)
        if repr(network) == repr(unchanged):  # it lists every module with its sizes
            return network.architecture
    return {"class": type(network).__qualname__, "custom": True, "modules": repr(network)}


# -- what its forward pass does ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """One way to ask a network for outputs that every machine computes alike.

    Attributes:
        dtype: that weights, and inputs other than tokens, are of.
        digits: that machines agree on in this dtype.
        largest: of the second input; a relu and a relu6 differ on large inputs only.
        tokens: whether inputs are 0 and 1, tokens that every vocabulary has.
    """

    dtype: torch.dtype
    digits: int
    largest: float = 1.0
    tokens: bool = False

    @torch.no_grad()
    def run(self, network: nn.Module, input_shape: Sequence[int]) -> Tensor:
        """Fill every tensor of ``network`` with fixed numbers and return its outputs (m,) for two fixed inputs."""
        rng = np.random.default_rng(0)  # NumPy's, which draws the same on all machines
        x = torch.from_numpy(rng.random((2, *input_shape))).to(self.dtype)
        if self.tokens:
            x = (2 * x).long()  # from [0, 1) to 0 and 1
        else:
            x[1] *= self.largest
        for p in network.parameters():
            bound = 1.0
            if p.ndim > 1:
                fan_in = p[0].numel()
                bound = (3 / fan_in) ** 0.5  # a variance of 1 / fan_in: layers keep the size of what passes
            p.copy_(torch.from_numpy(rng.uniform(-bound, bound, p.shape)))
        for buffer in network.buffers():
            if torch.is_floating_point(buffer):
                buffer.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, buffer.shape)))  # positive, as variances are
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # of dropout, say
            outputs = network(x).double().flatten()
        return outputs.nan_to_num(0.0, 0.0, 0.0)  # JSON has no infinity

    def rounded(self, outputs: Tensor) -> list[float]:
        """Outputs (m,) to ``digits`` significant digits, rounding noise as zero."""
        noise = outputs.abs() <= 1e-9 * outputs.abs().max()
        return [float(f"{value:.{self.digits}g}") for value in outputs.masked_fill(noise, 0.0).tolist()]


def behaviour_of(network: nn.Module, input_shape: Sequence[int], training: bool = False) -> list[float]:
    """Outputs for two fixed inputs and fixed weights, rounded so that machines agree: what tells forward passes apart.

    Args:
        network: any module with parameters; it is copied, and neither it nor the global generator is touched.
        input_shape: of one input, without the axis of examples.
        training: ask it in training mode.

    Returns:
        Six digits in float64; three for a network that runs in its own precision only; one that takes neither is given
        tokens; empty if it does not take them either.
    """
    own_dtype = next(network.parameters()).dtype
    probes = (
        Probe(torch.float64, digits=6, largest=20.0),
        Probe(own_dtype, digits=3),
        Probe(torch.float64, digits=6, tokens=True),
    )
    for probe in probes:
        try:
            copy = moved(network, "cpu").train(training)
            if probe.dtype == torch.float64:
                copy = copy.double()  # complex constants stay complex, which .to(torch.float64) would make real
            outputs = probe.run(copy, input_shape)
        except Exception:  # whatever a reader's own code raises
            continue
        return probe.rounded(outputs)
    return []
