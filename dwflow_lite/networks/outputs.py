"""The layer whose rows are the outputs of a network: found by asking the network, and exchanged for another."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from dwflow_lite.networks.initialising import initialise
from dwflow_lite.networks.mlp import MLP


@torch.no_grad()
def output_layer(network: nn.Module, x: Tensor) -> str:
    """The name of the layer that makes the outputs, one from each of its rows.

    Of which layer that is so, the network itself says, with random weights: turn the rows of the layer's weights and
    biases round, and the outputs are turned round. Names of modules, and their order, are not asked.

    Args:
        network: any module; not changed, and its weights are not used.
        x: inputs (n, ...); two will do.

    Returns:
        The name of a module, as ``network.get_submodule`` takes it.

    Raises:
        ValueError: no layer, or several, whose rows are the outputs.

    Example:
        >>> from dwflow_lite.networks import MLP, ResNet
        >>> output_layer(MLP([4, 3, 3]), torch.randn(2, 4)), output_layer(ResNet((4, 8), 1), torch.randn(2, 3, 8, 8))
        ('layers.1', 'head')
    """
    network = _random(network).to(x.device)
    outputs = network(x.clone())  # (n, outputs)
    turned_round = outputs.flip(-1)
    found = []
    if not torch.allclose(outputs, turned_round):  # otherwise every layer would do
        for name, module in network.named_modules():
            parameters = list(module.parameters(recurse=False))
            if parameters and all(p.shape[:1] == outputs.shape[-1:] for p in parameters):
                _turn_round(parameters)
                if torch.allclose(network(x.clone()), turned_round, rtol=1e-4, atol=1e-5):
                    found.append(name)
                _turn_round(parameters)
    if len(found) != 1:
        which = f"several layers could be it ({', '.join(found)})" if found else "of no layer are the rows the outputs"
        raise ValueError(
            f"cannot tell which layer of {type(network).__name__} makes its outputs: {which}; name it (head=)"
        )
    return found[0]


def _random(network: nn.Module) -> nn.Module:
    """A copy in eval mode with random weights, no two alike, and statistics of norms as before any example."""
    start = initialise(network)
    generator = torch.Generator().manual_seed(0)
    network = deepcopy(network).eval()
    for name, parameter in network.named_parameters():
        parameter.copy_(start[name] + 0.1 * torch.randn(parameter.shape, generator=generator))
    for module in network.modules():
        if hasattr(module, "reset_running_stats"):
            module.reset_running_stats()
    return network


def _turn_round(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.copy_(parameter.flip(0))


def with_outputs(network: nn.Module, layer: str, outputs: int) -> nn.Module:
    """A copy of a network whose output layer has so many outputs; where that is new, its weights are PyTorch's own.

    Args:
        network: not changed.
        layer: the name of its output layer (:func:`output_layer`), an ``nn.Linear``.
        outputs: of the copy.

    Raises:
        ValueError: there is no such layer, or it is no ``nn.Linear``.

    Example:
        >>> with_outputs(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), "2", 5)[2]
        Linear(in_features=3, out_features=5, bias=True)
    """
    old = dict(network.named_modules()).get(layer)
    if type(old) is not nn.Linear:
        kind = type(network).__name__
        found = f"it is a {type(old).__name__}" if old is not None else "there is none of that name"
        raise ValueError(f"the output layer must be an nn.Linear, and {layer!r} of {kind} is not: {found}")
    copy = deepcopy(network)
    if old.out_features == outputs:
        return copy
    with torch.random.fork_rng(devices=[]):  # the global generator stays as it was
        new = nn.Linear(old.in_features, outputs, old.bias is not None).to(old.weight).train(old.training)
    if layer == "":
        return new
    parent, _, own_name = layer.rpartition(".")
    setattr(copy.get_submodule(parent), own_name, new)
    if isinstance(copy, MLP):  # what a network of the course says of itself
        copy.sizes = (*copy.sizes[:-1], outputs)
    elif isinstance(getattr(copy, "options", None), dict) and "outputs" in copy.options:
        copy.options = copy.options | {"outputs": outputs}
    return copy
