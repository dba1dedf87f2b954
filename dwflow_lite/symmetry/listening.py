"""What modules return as a network runs: which of them can be watched, and along which axis their units lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dwflow_lite.support.checks import failing_as

# Units on the last axis of what they return.
UNITS_LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention)
CHANNELS = (_ConvNd, _NormBase, nn.GroupNorm)  # units on axis 1


@dataclass(frozen=True)
class Watched:
    """A module whose units are watched.

    Attributes:
        name: of the module.
        place: of the module that returns what the units do: itself, or the attention whose last layer it is.
        units: how many.
    """

    name: str
    place: str
    units: int


def axis_of_units(module: nn.Module, outputs: Tensor, units: int) -> int | None:
    """The axis of what a module returned along which its units lie, counted from the end; None if nobody can tell."""
    if isinstance(module, UNITS_LAST):
        candidates = [outputs.ndim - 1]
    elif isinstance(module, CHANNELS):
        candidates = [1]
    else:  # a reader's own: an axis of that size, if there is just one
        candidates = list(range(1, outputs.ndim))
    fitting = [axis for axis in candidates if axis < outputs.ndim and outputs.shape[axis] == units]
    return fitting[0] - outputs.ndim if len(fitting) == 1 else None


def output_axis(module: nn.Module) -> int:
    """The axis of the weight of a module that runs over what it returns."""
    return 1 if isinstance(module, (_ConvTransposeNd, nn.Embedding, nn.EmbeddingBag)) else 0


def units_first(outputs: Tensor, axis: int) -> Tensor:
    """What a module returned, one row a unit: (units, everything else)."""
    return outputs.movedim(axis, 0).flatten(1)


@contextmanager
def listening(
    network: nn.Module, watched: Sequence[Watched], hear: Callable[[Watched, Tensor, int], Tensor | None]
) -> Iterator[None]:
    """In here ``hear`` is called with each of these modules that runs, what it returns, and the axis of its units.

    What ``hear`` returns, if anything, takes the place of the module's output.
    """

    def hook_of(one: Watched) -> Callable[[nn.Module, tuple, object], object]:
        def hook(module: nn.Module, _: tuple, outputs: object) -> object:
            is_attention = isinstance(module, nn.MultiheadAttention)  # returns what it says, and weights
            said = outputs[0] if is_attention else outputs
            heard = hear(one, said, axis_of_units(module, said, one.units))
            if heard is None:
                return None
            return (heard, *outputs[1:]) if is_attention else heard

        return hook

    hooks = [network.get_submodule(one.place).register_forward_hook(hook_of(one)) for one in watched]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def watchable(network: nn.Module, units_of: Mapping[str, int], x: Tensor) -> tuple[list[Watched], dict[str, str]]:
    """Which modules can be watched, found out by a run.

    Args:
        network: in eval mode, on the device of ``x``; not changed.
        units_of: module name -> number of its units.
        x: inputs (n, ...); two will do.

    Returns:
        Those that can, in the same order; and for the others, why not.
    """
    why_not = dict.fromkeys(units_of, "is not called as a module")
    network = deepcopy(network)

    def outcome_of(name: str) -> Callable[[nn.Module, tuple, object], None]:
        def hook(module: nn.Module, _: tuple, outputs: object) -> None:
            said = outputs[0] if isinstance(module, nn.MultiheadAttention) else outputs
            if not isinstance(said, Tensor):
                why_not[name] = f"returns a {type(said).__name__}"
            elif axis_of_units(module, said, units_of[name]) is None:
                why_not[name] = (
                    f"returns {tuple(said.shape)}, in which its {units_of[name]} units have no axis of their own"
                )
            else:
                why_not.pop(name, None)

        return hook

    places = {name: _place_of(network, name) for name in units_of}
    for name, place in places.items():
        network.get_submodule(place).register_forward_hook(outcome_of(name))
    with torch.no_grad(), failing_as(f"{type(network).__name__} does not take inputs of shape {tuple(x.shape[1:])}"):
        network(x.clone())
    watched = [Watched(name, places[name], units) for name, units in units_of.items() if name not in why_not]
    return watched, why_not


def _place_of(network: nn.Module, name: str) -> str:
    """The module that returns what a module computes: the last layer of an attention is not called by itself."""
    parent, _, own = name.rpartition(".")
    is_last = own == "out_proj" and isinstance(network.get_submodule(parent), nn.MultiheadAttention)
    return parent if is_last else name
