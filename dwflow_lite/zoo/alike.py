"""Whether modules differ in their weights alone, so that they make a zoo."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any

from torch import nn

from dwflow_lite.networks import architecture_of
from dwflow_lite.networks.constants import constants_of, first_difference
from dwflow_lite.support.checks import brief
from dwflow_lite.zoo.layout import Layout

SETTINGS = (bool, int, float, str, FunctionType, BuiltinFunctionType)  # types that can be compared


def check_alike(modules: Sequence[nn.Module], layout: Layout) -> None:
    """Refuse modules that differ from the first in more than their weights.

    A warning names numbers and functions, kept as attributes, that differ: they may be settings of the forward pass, or
    mean nothing to it.

    Args:
        modules: at least one.
        layout: of the first.

    Raises:
        ValueError: one has other tensors, another class or other modules in it, or another constant.
    """
    first = modules[0]
    architecture = architecture_of(first)
    constants, settings = constants_of(first), settings_of(first)
    warned = False
    for i, module in enumerate(modules):
        if Layout.of(module) != layout:
            raise ValueError(f"module {i} differs from module 0: {layout.difference(module)}")
        if type(module) is not type(first) or architecture_of(module) != architecture:
            raise ValueError(f"module {i} differs from module 0: {_where_unlike(module, first)}")
        different = first_difference(constants_of(module), constants)
        if different is not None:
            raise ValueError(f"module {i} differs from module 0 in {different!r}, which {_what_to_do(different)}")
        others = settings_of(module)
        names = [name for name in settings if name in others and not _same(settings[name], others[name])]
        if names and not warned:
            name = names[0]
            warnings.warn(
                f"module {i} differs from module 0 in {name!r} ({others[name]!r}, not {settings[name]!r}), which is no "
                "weight: all members run with that of module 0",
                RuntimeWarning,
                stacklevel=3,
            )
            warned = True


def settings_of(network: nn.Module) -> dict[str, Any]:
    """The numbers, texts and functions that a module and those in it keep as attributes, by name."""
    settings = {}
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, SETTINGS) and name != "training" and not name.startswith("_"):
                settings[f"{path}.{name}" if path else name] = value
    return settings


def _where_unlike(module: nn.Module, first: nn.Module) -> str:
    """The first part in which a module is unlike another of the same tensors, in one line."""
    if type(module) is not type(first):
        mine, theirs = (f"{kind.__module__}.{kind.__qualname__}" for kind in (type(module), type(first)))
        return f"class {mine}, not {theirs if theirs != mine else 'the one of this name: define it once, not per call'}"
    parts, others = (dict(each.named_modules()) for each in (module, first))
    for name in [*parts, *(name for name in others if name not in parts)]:
        mine, theirs = (_own_line(each.get(name)) for each in (parts, others))
        if mine != theirs:
            return f"{name or 'the whole'} is {mine}, not {theirs}"
    return f"{brief(architecture_of(module))}, not {brief(architecture_of(first))}"


def _own_line(module: nn.Module | None) -> str:
    """A module without those in it, as PyTorch shows it."""
    return "missing" if module is None else f"{type(module).__name__}({module.extra_repr()})"


def _same(one: Any, other: Any) -> bool:
    """Whether two settings are equal; functions are if they come from one line of code."""
    if isinstance(one, FunctionType) and isinstance(other, FunctionType):
        return one.__code__ is other.__code__
    return one == other


def _what_to_do(constant: str) -> str:
    """About a constant that differs between modules."""
    says = "is no parameter but a constant, and all members share one"
    if "parametrizations." in constant:
        return f"{says}: call torch.nn.utils.parametrize.remove_parametrizations on each module first"
    return (
        f"{says}: give each module the same, or, if each is to keep its own, make {constant!r} an nn.Parameter "
        "(requires_grad=False where it is not trained)"
    )
