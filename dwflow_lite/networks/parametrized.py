"""Weights behind parametrizations of PyTorch (``weight_norm``, ``orthogonal``): what they start from."""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from dwflow_lite.networks.constants import constants_of, first_difference, moved


@torch.no_grad()
def without_parametrizations(network: nn.Module) -> nn.Module:
    """A copy on the CPU with plain weights in place of parametrized ones."""
    network = moved(network, "cpu")
    plain = {module: _plain(module) for module in network.modules() if is_parametrized(module)}
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if child in plain:
                setattr(module, name, plain[child])
    return plain.get(network, network)


def _plain(module: nn.Module) -> nn.Module:
    """A module with the weights that its parametrizations give. (Its copies share its class, which must stay.)"""
    kind = type_before_parametrizations(module)
    plain = kind.__new__(kind)
    plain.__dict__.update(deepcopy(module.__dict__))
    del plain._modules["parametrizations"]
    for name, parametrization in module.parametrizations.items():
        is_trained = any(parameter.requires_grad for parameter in parametrization.parameters())
        plain.register_parameter(name, nn.Parameter(getattr(module, name).clone(), requires_grad=is_trained))
    return plain


@torch.no_grad()
def behind_parametrizations(network: nn.Module, plain: nn.Module) -> nn.Module:
    """A copy of a network on the CPU, whose weights, behind its parametrizations, are those of its ``plain`` copy.

    Raises:
        ValueError: a parametrization keeps a part of them in a constant, which all members share.
    """
    network = moved(network, "cpu")
    constants = {name: tensor.clone() for name, tensor in constants_of(network).items()}
    sources = dict(plain.named_modules())
    for path, module in list(network.named_modules()):
        if path not in sources:  # a parametrization
            continue
        for name, parameter in list(module.named_parameters(recurse=False)):
            parameter.copy_(getattr(sources[path], name))
        if is_parametrized(module):
            for name in module.parametrizations:
                _set(module, name, getattr(sources[path], name))
    changed = first_difference(constants_of(network), constants)
    if changed is not None:
        raise ValueError(
            f"a fresh start changes the constant {changed!r}, which all members share: take another parametrization "
            "(of orthogonal weights: use_trivialization=False)"
        )
    return network


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    """Let a parametrized tensor start from a plain value, as when it was parametrized."""
    parametrizations = module.parametrizations[name]
    if all(hasattr(parametrization, "right_inverse") for parametrization in parametrizations):
        with suppress(NotImplementedError):
            setattr(module, name, value.detach())
            return
    parametrizations.original.copy_(value)  # without an inverse, it takes what it is given
