"""How an axis of a tensor runs over groups of units, and what a permutation of those groups does to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dwflow_lite.symmetry.permutation import Permutation


class Stretch(NamedTuple):
    """Part of an axis: units of one group in a row, each of them some consecutive places long.

    Attributes:
        group: whose units they are; None: this part is fixed.
        units: how many.
        each: places that one unit takes. (Of a channel of 6 x 6 pixels, flattened into a linear layer: 36.)
    """

    group: str | None
    units: int
    each: int = 1


# One group along the whole axis; None, where it is fixed (inputs, outputs); or its stretches in a row.
Axis = str | None | tuple[Stretch, ...]

# Tensor name -> one entry for each of its axes. (In tracing, ``labels.Axes`` are the labels of one tensor.)
AxesOfTensors = dict[str, tuple[Axis, ...]]

# Block name -> number of heads, and the groups that move with them.
Heads = dict[str, tuple[int, tuple[str, ...]]]


class Use(NamedTuple):
    """A place where a tensor runs over a group of units.

    Attributes:
        name: of the tensor.
        axis: which of its axes.
        start: the first place on this axis.
        units: how many units follow from there.
        each: places that one unit takes.
    """

    name: str
    axis: int
    start: int
    units: int
    each: int

    def rows(self, tensor: Tensor) -> Tensor:
        """The part of the tensor that belongs to the group, one row a unit: (units, numbers)."""
        part = tensor.narrow(self.axis, self.start, self.units * self.each)
        part = part.unflatten(self.axis, (self.units, self.each))
        return part.movedim(self.axis, 0).flatten(1)


def stretches(axis: Axis, size: int) -> tuple[Stretch, ...]:
    """An axis of ``size`` places as its stretches, also where it is one group or fixed as a whole."""
    return axis if isinstance(axis, tuple) else (Stretch(axis, size),)


def positions(axis: Axis, permutation: Permutation, size: int) -> Tensor:
    """Where each of ``size`` places of an axis is taken from, (size,); groups that the permutation lacks stay.

    Example:
        >>> swap = Permutation({"channels": torch.tensor([1, 0])})
        >>> positions("channels", swap, 2)
        tensor([1, 0])
        >>> positions((Stretch(None, 1), Stretch("channels", 2, each=3)), swap, 7)
        tensor([0, 4, 5, 6, 1, 2, 3])
    """
    parts = []
    start = 0
    for group, units, each in stretches(axis, size):
        order = permutation.indices.get(group, torch.arange(units))
        places = order[:, None] * each + torch.arange(each)  # (units, each)
        parts.append(start + places.flatten())
        start += units * each
    return torch.cat(parts)


def permute_axes(tensor: Tensor, axes: tuple[Axis, ...], permutation: Permutation) -> Tensor:
    """Permute each axis of a tensor by the order of the group it runs over (None: leave it).

    Example:
        >>> order = Permutation({"hidden0": torch.tensor([2, 0, 1])})
        >>> permute_axes(torch.tensor([[1, 1], [2, 2], [3, 3]]), ("hidden0", None), order)
        tensor([[3, 3],
                [1, 1],
                [2, 2]])
    """
    for number, axis in enumerate(axes):
        if axis is not None:
            order = positions(axis, permutation, tensor.shape[number])
            tensor = tensor.index_select(number, order.to(tensor.device))
    return tensor


# -- many networks, each in its own order ------------------------------------------------------------------------------


def places_of_many(axis: Axis, orders: Mapping[str, Tensor], size: int) -> Tensor:
    """As :func:`positions` for P networks: (P, size).

    Args:
        axis: what it runs over.
        orders: of each group on it, (P, units), one row a network.
        size: of the axis.
    """
    if isinstance(axis, str):
        return orders[axis]
    count = len(next(iter(orders.values())))
    parts = []
    start = 0
    for group, units, each in stretches(axis, size):
        order = torch.arange(units).expand(count, units) if group is None else orders[group]
        places = order[..., None] * each + torch.arange(each)  # (P, units, each)
        parts.append(start + places.flatten(1))
        start += units * each
    return torch.cat(parts, 1)


def permute_axis_of_many(tensor: Tensor, number: int, places: Tensor, members: Tensor | None = None) -> Tensor:
    """One axis of P networks permuted, each by its own order: (P, *shape).

    Args:
        tensor: (M, *shape).
        number: of the axis, counted with that of the networks.
        places: where each place is taken from, (P, size).
        members: which network each of the P is, (P,); None: they are the M themselves.

    Example:
        >>> orders = torch.tensor([[1, 0, 2], [2, 1, 0]])
        >>> permute_axis_of_many(torch.arange(6).view(2, 3), 1, orders)
        tensor([[1, 0, 2],
                [5, 4, 3]])
    """
    before, size = tensor.shape[1:number].numel(), tensor.shape[number]
    members = torch.arange(len(tensor)) if members is None else members
    # Stretches of memory that stay together are rows; each row of the result is taken from one row of the tensor.
    rows = tensor.flatten(0, number)  # (M * before * size, *after)
    first = members[:, None] * before + torch.arange(before)  # (P, before)
    index = first[..., None] * size + places[:, None]  # (P, before, size)
    return rows.index_select(0, index.flatten().to(tensor.device)).unflatten(
        0, (len(members), *tensor.shape[1 : number + 1])
    )
