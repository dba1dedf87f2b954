"""Where a group of units has a say, and the matrix products there: tensors alone, on whatever device they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dwflow_lite.symmetry.axes import Axis, Use, permute_axis_of_many, places_of_many, stretches

FIXED = (None,)  # what the other axes run over, where they are one: no group


@dataclass(frozen=True, eq=False)
class Place:
    """Where a group occurs: one use in a tensor with other groups, or all its uses in tensors without any.

    A place is itself and no other, so that it is quickly found in a dictionary.

    Attributes:
        uses: of the group.
        others: what the other axes run over, if it is one use; all of many are laid out on one axis that is fixed.
        groups: on the other axes.
        weights: how many there are in its tensors.
    """

    uses: tuple[Use, ...]
    others: tuple[Axis, ...]
    groups: frozenset[str]
    weights: int

    def rows(self, state: Mapping[str, Tensor], batch_axes: int) -> Tensor:
        """What belongs to the units in named tensors (..., *shape), units first: (..., units * each, *others)."""
        parts = []
        for use in self.uses:
            axis = use.axis + batch_axes
            part = state[use.name].narrow(axis, use.start, use.units * use.each).movedim(axis, batch_axes)
            if not self.groups:  # (..., units, numbers)
                part = part.reshape(*part.shape[:batch_axes], use.units, -1)
            parts.append(part)
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0].contiguous()


def places_of(uses: Sequence[Use], axes: Mapping[str, tuple[Axis, ...]], sizes: Mapping[str, int]) -> list[Place]:
    """All places of a group that have a say in matching.

    Args:
        uses: of the group.
        axes: tensor name -> what its axes run over.
        sizes: tensor name -> its number of weights.
    """
    places, fixed = [], []
    for use in uses:
        others = [axis for number, axis in enumerate(axes[use.name]) if number != use.axis]
        others = tuple(axis if groups_of([axis]) else None for axis in others)
        groups = groups_of(others)
        if groups:
            places.append(Place((use,), others, groups, sizes[use.name]))
        else:
            fixed.append(use)
    if fixed:
        places.append(Place(tuple(fixed), FIXED, groups_of(FIXED), sum(sizes[use.name] for use in fixed)))
    return places


def groups_of(axes: Sequence[Axis]) -> frozenset[str]:
    """The groups that some axes run over."""
    return frozenset(part.group for axis in axes for part in stretches(axis, 1) if part.group is not None)


def products_at(
    a: Tensor, b: Tensor, units: int, others: Sequence[Axis], members: Tensor | None, orders: Mapping[str, Tensor]
) -> Tensor:
    """Inner products (P, n, n) of the units of ``a`` with those of some ``b``, the other axes of ``b`` put in order.

    Args:
        a: reference (n * each, *others).
        b: networks (M, n * each, *others), on the same device.
        units: their number n.
        others: what the other axes run over, None where that is no group.
        members: which network each of P descents permutes, (P,); None: they are the M, each once.
        orders: of the groups on the other axes, (P, units of the group).

    Returns:
        On the device of the networks: a row for each unit of ``a``, a column for each unit of ``b`` as given.
    """
    moved = ordered(b, others, members, orders)
    return product_of_rows(a.reshape(units, -1), moved.reshape(len(moved), units, -1))


def ordered(b: Tensor, others: Sequence[Axis], members: Tensor | None, orders: Mapping[str, Tensor]) -> Tensor:
    """Of some ``b`` what belongs to the units, the other axes in order: (P, n * each, *others); as for products."""
    moved = None
    for number, axis in enumerate(others, 2):
        if axis is None:
            continue
        places = places_of_many(axis, orders, b.shape[number])
        if moved is None:
            moved = permute_axis_of_many(b, number, places, members)
        else:
            moved = permute_axis_of_many(moved, number, places)
    if moved is None:
        moved = b if members is None else b[members.to(b.device)]
    return moved


def product_of_rows(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (P, n, n) of rows (n, numbers) with those of each of (P, n, numbers), in one matrix product."""
    return (b.flatten(0, 1) @ a.T).unflatten(0, b.shape[:2]).transpose(1, 2)


def permute_state_of_many(
    state: Mapping[str, Tensor], axes: Mapping[str, tuple[Axis, ...]], orders: Mapping[str, Tensor]
) -> dict[str, Tensor]:  # fmt: skip
    """Named tensors of P networks, (P, *shape), with the units of each in its own orders, (P, units) by group."""
    permuted = {}
    for name, tensor in state.items():
        for number, axis in enumerate(axes[name], 1):
            if groups_of([axis]):
                tensor = permute_axis_of_many(tensor, number, places_of_many(axis, orders, tensor.shape[number]))
        permuted[name] = tensor
    return permuted


# -- groups without an order -------------------------------------------------------------------------------------------


def blurred(
    a: Tensor, b: Tensor, others: Sequence[Axis], unknown: frozenset[str]
) -> tuple[Tensor, Tensor, list[Axis]]:  # fmt: skip
    """Both tensors of a place where some groups have no order: ``b`` is taken at its mean over all their orders.

    That is the mean over the group's units. Where a whole axis is one such group, the product with this mean is that
    with the sum over ``a``, and of the axis one place is left.

    Args:
        a: (places, *others).
        b: (M, places, *others).
        others: what the other axes run over.
        unknown: groups without an order.

    Returns:
        ``a``, ``b`` and what their other axes run over, as they are left.
    """
    left = list(others)
    for number, axis in enumerate(others):
        if isinstance(axis, str) and axis in unknown:
            a = a.sum(1 + number, keepdim=True)
            b = b.mean(2 + number, keepdim=True)
            left[number] = None
        elif isinstance(axis, tuple):
            b = _mean_of_stretches(b, 2 + number, axis, unknown)
            parts = [part._replace(group=None) if part.group in unknown else part for part in axis]
            left[number] = tuple(parts) if groups_of([tuple(parts)]) else None
    return a, b, left


def _mean_of_stretches(b: Tensor, number: int, axis: Axis, unknown: frozenset[str]) -> Tensor:
    """Each stretch of one axis whose group has no order: its units all at their mean."""
    parts = []
    start = 0
    for group, units, each in stretches(axis, b.shape[number]):
        part = b.narrow(number, start, units * each)
        if group in unknown:
            by_unit = part.unflatten(number, (units, each))
            part = by_unit.mean(number, keepdim=True).expand_as(by_unit).flatten(number, number + 1)
        parts.append(part)
        start += units * each
    return torch.cat(parts, number)


def expected_inner_products(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], axes: Mapping[str, tuple[Axis, ...]]
) -> Tensor:  # fmt: skip
    """<a, b> of one network with each of many, (M, *shape), expected over all orders of all groups: (M,), float64."""
    of_a, of_b = [], []
    for name, tensor in a.items():
        means = b[name]
        for number, axis in enumerate(axes[name]):
            if isinstance(axis, tuple):
                means = _mean_of_stretches(means, 1 + number, axis, groups_of([axis]))
        whole = [number for number, axis in enumerate(axes[name]) if isinstance(axis, str)]
        if whole:  # the product with a mean over units is that with the sum over them, as in blurred
            tensor, means = tensor.sum(whole), means.mean([1 + number for number in whole], keepdim=True)
        of_a.append(tensor.flatten())
        of_b.append(means.flatten(1))
    return (torch.cat(of_b, 1).double() @ torch.cat(of_a).double()).cpu()
