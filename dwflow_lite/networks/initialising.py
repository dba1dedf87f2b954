"""How weights start: each member of a zoo from its own seed."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from dwflow_lite.support.checks import whole_seed

INITS = ("default", "kaiming", "xavier", "uniform", "normal")


def initialise(network: nn.Module, init: str = "default", seed: int = 0) -> dict[str, Tensor]:
    """Fresh parameters for ``network``, by name; neither the network nor the global generator is touched.

    Args:
        network: any module whose parameters sit in modules with ``reset_parameters``, as those of PyTorch do.
        init: ``"default"`` (PyTorch's own), or for tensors of two or more axes ``"kaiming"`` (He uniform),
            ``"xavier"`` (uniform), ``"uniform"`` (-0.1 … 0.1), ``"normal"`` (standard deviation 0.1), with
            biases zero; one-axis tensors that are not biases (norm gains) keep PyTorch's own start.
        seed: of this one member.

    Returns:
        Parameter name -> tensor, on the CPU, without gradient.

    Raises:
        ValueError: an unknown ``init``, or a module with parameters and no ``reset_parameters``.

    Example:
        >>> start = initialise(nn.Linear(3, 2), "normal", seed=7)
        >>> {name: tuple(tensor.shape) for name, tensor in start.items()}
        {'weight': (2, 3), 'bias': (2,)}
        >>> bool((start["bias"] == 0).all())
        True
    """
    if init not in INITS:
        raise ValueError(f"no init {init!r}: choose one of {', '.join(INITS)}")
    seed = whole_seed(seed)
    fresh = deepcopy(network).cpu()
    _reset(fresh, seed)
    parameters = {name: p.detach() for name, p in fresh.named_parameters()}
    if init != "default":
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in parameters.items():
            if parameter.ndim >= 2:
                _fill(parameter, init, generator)
            elif name.endswith("bias"):
                parameter.zero_()
    return parameters


def _reset(network: nn.Module, seed: int) -> None:
    """Draw every parameter of ``network`` anew by the ``reset_parameters`` of the module that holds it."""
    leaves: list[tuple[str, nn.Module]] = []
    parents: list[tuple[str, nn.Module]] = []
    for name, module in network.named_modules():
        if list(module.children()):
            parents.append((name, module))
        else:
            leaves.append((name, module))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs' generators too
        # Children first, inner parents before outer ones: a parent that starts its children has the last word.
        for name, module in leaves + parents[::-1]:
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif list(module.parameters(recurse=False)):
                raise ValueError(
                    f"{name or type(module).__name__} holds parameters but has no reset_parameters(); "
                    "add that method to it so that every member can start afresh"
                )


def _fill(weight: Tensor, init: str, generator: torch.Generator) -> None:
    """Fill a tensor of two or more axes by one of the laws of :func:`initialise`."""
    if init == "kaiming":
        nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
    elif init == "xavier":
        nn.init.xavier_uniform_(weight, generator=generator)
    elif init == "uniform":
        nn.init.uniform_(weight, -0.1, 0.1, generator=generator)
    else:
        nn.init.normal_(weight, std=0.1, generator=generator)
