"""How weights start: each member of a zoo from its own seed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from dwflow_lite.networks.parametrized import behind_parametrizations, without_parametrizations
from dwflow_lite.networks.tensors import require_usual_tensors
from dwflow_lite.support.checks import whole_seed

INITS = ("default", "kaiming", "xavier", "uniform", "normal")
RESETS = ("reset_parameters", "_reset_parameters")  # the second is that of attention and transformers in PyTorch


def initialise(network: nn.Module, init: str = "default", seed: int = 0) -> dict[str, Tensor]:
    """Fresh parameters for ``network``, by name; neither the network nor the global generator is touched.

    Parameters that are frozen (``requires_grad=False``) are not drawn: nobody trains them, and a pretrained backbone,
    say, is to be what it is. Weights behind a parametrization (``weight_norm``) start as they do without it.

    Args:
        network: any module whose parameters are started by a ``reset_parameters`` of the module that holds them, as
            those of PyTorch are, or of one around it.
        init: ``"default"`` (PyTorch's own), or for tensors of two or more axes ``"kaiming"`` (He uniform),
            ``"xavier"`` (uniform), ``"uniform"`` (-0.1 … 0.1), ``"normal"`` (standard deviation 0.1), with
            biases zero; one-axis tensors that are not biases (norm gains) keep PyTorch's own start.
        seed: of this one member.

    Returns:
        Parameter name -> tensor, on the CPU, without gradient.

    Raises:
        ValueError: an unknown ``init``, or a parameter that no ``reset_parameters`` starts afresh; it is named.

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
    require_usual_tensors(network)
    fresh = without_parametrizations(network)
    trained = {name: p for name, p in fresh.named_parameters() if p.requires_grad}
    frozen = {name: p.detach().clone() for name, p in fresh.named_parameters() if not p.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.fill_(torch.nan)  # what is not started shows
        _reset(fresh, seed)
        for name, values in frozen.items():
            fresh.get_parameter(name).copy_(values)
    _check_all_started(fresh, trained)
    if init != "default":
        _fill_all(fresh, trained, init, seed)
    if any(is_parametrized(module) for module in network.modules()):
        fresh = behind_parametrizations(network, fresh)
    return {name: p.detach() for name, p in fresh.named_parameters()}


def _reset(network: nn.Module, seed: int) -> None:
    """Draw every parameter of ``network`` anew by the ``reset_parameters`` of its modules."""
    leaves: list[nn.Module] = []
    parents: list[nn.Module] = []
    for module in network.modules():
        if list(module.children()):
            parents.append(module)
        else:
            leaves.append(module)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs' generators too
        # Children first, inner parents before outer ones: a parent that starts its children has the last word.
        for module in leaves + parents[::-1]:
            reset = _reset_of(module)
            if reset:
                getattr(module, reset)()


def _reset_of(module: nn.Module) -> str | None:
    """The name of the method that starts a module afresh; None if it has none."""
    return next((name for name in RESETS if hasattr(module, name)), None)


def _check_all_started(network: nn.Module, trained: dict[str, nn.Parameter]) -> None:
    """``ValueError`` that names the parameters that nobody has started."""
    left = [name for name, parameter in trained.items() if parameter.isnan().any()]
    if not left:
        return
    holder, _, own_name = left[0].rpartition(".")
    module = network.get_submodule(holder)
    place = holder or type(module).__name__
    if _reset_of(module):
        raise ValueError(f"{place}.{_reset_of(module)}() does not start {own_name!r} afresh; let it do so")
    others = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
    raise ValueError(
        f"{place} holds parameters but has no reset_parameters(); add that method to it, or to a module around it, so "
        f"that every member can start {left[0]!r}{others} afresh, or freeze what nobody trains (requires_grad=False)"
    )


# -- other laws ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def _fill_all(network: nn.Module, trained: dict[str, nn.Parameter], init: str, seed: int) -> None:
    """Fill the parameters that are trained by one of the laws of :func:`initialise`."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in trained.items():
        if parameter.ndim >= 2:
            _fill(parameter, init, generator)
        elif name.endswith("bias"):
            parameter.zero_()
    for module in network.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None:
            module.weight[module.padding_idx] = 0.0  # as PyTorch has it, and never trains it


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
