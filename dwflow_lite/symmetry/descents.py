"""Many descents in step: members of a zoo, and several starts of each, as one batched computation.

Every descent goes as :func:`coordinate_descent` does, and ends where that would end. All have one reference and visit
the groups in one order, so a visit is made by all of them together that have something to solve there: a matrix product
for each place in a tensor, then an assignment for each descent, on the CPU. Who has settled everything visits no more.

Nothing of ``b`` is permuted on the way: a descent is its orders of units, and they are looked up where a product needs
them. A product has a row for each unit of ``a`` and a column for each unit of ``b`` *as it was given*, so it stays
valid when its own group moves, and goes when another axis of its tensor does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dwflow_lite.symmetry.axes import Axis, Use, permute_axis_of_many, places_of_many, stretches
from dwflow_lite.symmetry.matching import State, best_orders, rounding_error
from dwflow_lite.symmetry.spec import PermutationSpec

Orders = dict[str, Tensor]  # group -> index (P, n), a row for each descent


# -- one place in a tensor: tensors alone, on whatever device ----------------------------------------------------------


def units_first(tensor: Tensor, use: Use, batch_axes: int) -> Tensor:
    """The part of a tensor (..., *shape) that belongs to a group, its units' places first: (..., places, *others)."""
    axis = use.axis + batch_axes
    part = tensor.narrow(axis, use.start, use.units * use.each)
    return part.movedim(axis, batch_axes).contiguous()


def products_of_use(
    a: Tensor, b: Tensor, use: Use, others: Sequence[Axis], members: Tensor, orders: Mapping[str, Tensor]
) -> Tensor:  # fmt: skip
    """Inner products (P, n, n) of the units of ``a`` with those of some ``b``, the other axes of ``b`` put in order.

    Args:
        a: reference (places, *others), as :func:`units_first` lays it.
        b: networks (M, places, *others).
        use: whose units they are.
        others: what the other axes run over.
        members: which network each descent permutes, (P,).
        orders: of all groups on the other axes, (P, n).
    """
    chosen = members.to(b.device)
    moved = None  # (P, places, *others)
    for number, axis in enumerate(others, 2):
        if axis is not None:
            places = places_of_many(axis, orders, b.shape[number]).to(b.device)
            source = b if moved is None else moved
            moved = permute_axis_of_many(source, number, places, chosen if moved is None else None)
    moved = b[chosen] if moved is None else moved
    rows_a = a.reshape(use.units, -1)  # (n, numbers)
    rows_b = moved.reshape(len(members) * use.units, -1)  # (P * n, numbers)
    return (rows_b @ rows_a.T).unflatten(0, (len(members), use.units)).transpose(1, 2)


def blurred(
    a: Tensor, b: Tensor, others: Sequence[Axis], unknown: frozenset[str]
) -> tuple[Tensor, Tensor, list[Axis]]:  # fmt: skip
    """Both tensors of a use where the order of some groups is unknown: ``b`` is taken at its mean over all orders.

    That is the mean over the group's units. Where a whole axis is one such group, a product with its mean is one with
    the sum over ``a``, and the axis is gone.

    Args:
        a: (places, *others).
        b: (M, places, *others).
        others: what the other axes run over.
        unknown: groups.

    Returns:
        ``a``, ``b`` and what their other axes run over, as they are left.
    """
    left = list(others)
    for number, axis in enumerate(others):
        if axis in unknown:
            a, b, left[number] = a.sum(1 + number, keepdim=True), b.mean(2 + number, keepdim=True), None
        elif isinstance(axis, tuple):
            start, parts = 0, []
            for group, units, each in stretches(axis, b.shape[2 + number]):
                part = b.narrow(2 + number, start, units * each)
                if group in unknown:
                    by_unit = part.unflatten(2 + number, (units, each))
                    by_unit = by_unit.mean(2 + number, keepdim=True).expand_as(by_unit)
                    part = by_unit.flatten(2 + number, 3 + number)
                parts.append(part)
                start += units * each
            b = torch.cat(parts, 2 + number)
    return a, b, left


def groups_of(axes: Sequence[Axis]) -> set[str]:
    """The groups that some axes run over."""
    return {part.group for axis in axes for part in stretches(axis, 1) if part.group}


# -- all descents ------------------------------------------------------------------------------------------------------


@dataclass
class Descents:
    """P descents in step.

    Attributes:
        a: named tensors of the reference.
        b: of M networks, (M, *shape).
        spec: what moves together.
        members: which of the networks each descent permutes, (P,).
        orders: group -> index (P, n), where each descent is.
        history: of each descent the objective, at its start and after each of its visits.
        products: of each place in a tensor, (P, n, n), on the CPU.
        valid: of each place, which descents have its product, (P,).
        settled: for each coordinate, which descents have nothing to solve there, (coordinates, P).
    """

    a: State
    b: State
    spec: PermutationSpec
    members: Tensor
    orders: Orders
    history: list[list[float]] = field(init=False)
    products: dict[Use, Tensor] = field(default_factory=dict)
    valid: dict[Use, Tensor] = field(default_factory=dict)
    settled: Tensor = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.members)
        self._laid: dict[Use, tuple[Tensor, Tensor]] = {}
        self.history = [[] for _ in range(count)]
        self.settled = torch.zeros(len(self.spec.coordinates), count, dtype=torch.bool)
        for number, (_, groups) in enumerate(self.spec.coordinates):
            self.settled[number] = not any(self.spec.uses[group] for group in groups)
        for group, uses in self.spec.uses.items():
            for use in uses:
                n = self.spec.groups[group]
                self.products[use] = torch.empty(count, n, n, dtype=self.a[use.name].dtype)
                self.valid[use] = torch.zeros(count, dtype=torch.bool)
        self._least_gain = rounding_error(self.a)
        self._upset_by = [_upset_by(self.spec, groups) for _, groups in self.spec.coordinates]

    # -- similarities ------------------------------------------------------------------------------------------------

    def similarity(self, group: str, which: Tensor, unknown: frozenset[str] = frozenset()) -> Tensor:
        """Similarity (p, n, n) of the units of ``a`` to those of ``b``, as they stand, for some descents (p,)."""
        n = self.spec.groups[group]
        total = torch.zeros(len(which), n, n, dtype=torch.float64)
        for use in self.spec.uses[group]:
            total += self._product(use, which, unknown)
        as_they_stand = self.orders[group][which]  # (p, n)
        return total.gather(2, as_they_stand[:, None].expand_as(total))

    def _product(self, use: Use, which: Tensor, unknown: frozenset[str]) -> Tensor:
        """One summand (p, n, n) of a similarity, columns as given: kept if it is valid and hangs on nothing unknown."""
        a, b = self._rows(use)
        others = list(self.spec.axes[use.name])
        del others[use.axis]
        if groups_of(others) & unknown:
            a, b, others = blurred(a, b, others, unknown)
            return products_of_use(a, b, use, others, self.members[which], self._some(which, others)).cpu()
        missing = which[~self.valid[use][which]]
        if len(missing) > 0:
            orders = self._some(missing, others)
            self.products[use][missing] = products_of_use(a, b, use, others, self.members[missing], orders).cpu()
            self.valid[use][missing] = True
        return self.products[use][which]

    def _rows(self, use: Use) -> tuple[Tensor, Tensor]:
        """Reference and networks with the units of a use first; laid out once."""
        if use not in self._laid:
            self._laid[use] = units_first(self.a[use.name], use, 0), units_first(self.b[use.name], use, 1)
        return self._laid[use]

    def _some(self, which: Tensor, axes: Sequence[Axis]) -> Orders:
        return {group: self.orders[group][which] for group in groups_of(axes)}

    # -- visits ------------------------------------------------------------------------------------------------------

    def visit(self, number: int, which: Tensor) -> None:
        """Solve one coordinate exactly for some descents (p,); who gains moves, and all are settled there."""
        orders, gains = self._solve(number, which)
        for descent, gain in zip(which.tolist(), gains, strict=True):
            before = self.history[descent][-1]
            self.history[descent].append(before + gain if gain > self._least_gain else before)
        gained = torch.tensor(gains) > self._least_gain
        self._move({group: order[gained] for group, order in orders.items()}, which[gained])
        uses, coordinates = self._upset_by[number]
        for use in uses:
            self.valid[use][which[gained]] = False
        for other in coordinates:
            self.settled[other, which[gained]] = False
        self.settled[number, which] = True

    def grow(self, which: Tensor) -> None:
        """Let some descents (p,) begin without an order: from what is fixed, one coordinate after the other.

        A group that was not visited yet has no order, and is blurred. So the result hangs on no order of ``b``.
        """
        for number, unknown in growth(self.spec):
            orders, _ = self._solve(number, which, unknown)
            self._move(orders, which)

    def _solve(
        self, number: int, which: Tensor, unknown: frozenset[str] = frozenset()
    ) -> tuple[Orders, list[float]]:  # fmt: skip
        """Best orders (p, n) of the units of a coordinate as they stand, and what each descent would gain."""
        heads, groups = self.spec.coordinates[number]
        similarity = {group: self.similarity(group, which, unknown) for group in groups}
        solved = [best_orders({group: units[i] for group, units in similarity.items()}, heads) for i in range(len(which))]
        orders = {group: torch.stack([order[group] for order, _ in solved]) for group in groups}
        return orders, [gain for _, gain in solved]

    def _move(self, orders: Orders, which: Tensor) -> None:
        for group, order in orders.items():
            self.orders[group][which] = self.orders[group][which].gather(1, order)

    # -- from start to end -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Write the objective of every start <a, permuted b> into its history."""
        total = torch.zeros(len(self.members), dtype=torch.float64)
        moves = self._has_moved()
        still = (~moves).nonzero().flatten()
        moving = moves.nonzero().flatten()
        for name, b in self.b.items():
            of_members = (b * self.a[name]).flatten(1).sum(1, dtype=torch.float64).cpu()  # (M,)
            total[still] += of_members[self.members[still]]
            if len(moving) == 0:
                continue
            permuted = b[self.members[moving].to(b.device)]
            for axis_number, axis in enumerate(self.spec.axes[name], 1):
                if axis is not None:
                    places = places_of_many(axis, self._some(moving, [axis]), b.shape[axis_number])
                    permuted = permute_axis_of_many(permuted, axis_number, places.to(b.device))
            total[moving] += (permuted * self.a[name]).flatten(1).sum(1, dtype=torch.float64).cpu()
        self.history = [[objective] for objective in total.tolist()]

    def _has_moved(self) -> Tensor:
        """Which descents (P,) are not at the identity."""
        moved = torch.zeros(len(self.members), dtype=torch.bool)
        for order in self.orders.values():
            moved |= (order != torch.arange(order.shape[1])).any(1)
        return moved

    def run(self, generator: torch.Generator, max_sweeps: int) -> None:
        """Visit coordinates, sweep after sweep, until every descent is settled everywhere.

        Raises:
            RuntimeError: after ``max_sweeps`` sweeps there was still something to gain.
        """
        self.begin()
        for _ in range(max_sweeps):
            for number in torch.randperm(len(self.spec.coordinates), generator=generator).tolist():
                which = (~self.settled[number]).nonzero().flatten()
                if len(which) > 0:
                    self.visit(number, which)
            if bool(self.settled.all()):
                return
        raise RuntimeError(f"weight matching still gained after {max_sweeps} sweeps; raise max_sweeps")


def _upset_by(spec: PermutationSpec, groups: Sequence[str]) -> tuple[list[Use], list[int]]:
    """What no longer holds when some groups move: products of other groups in the same tensors, and their coordinates."""
    names = {use.name for group in groups for use in spec.uses[group]}
    uses = [use for group, of in spec.uses.items() if group not in groups for use in of if use.name in names]
    upset = {group for group in spec.uses if any(use in uses for use in spec.uses[group])}
    coordinates = [number for number, (_, members) in enumerate(spec.coordinates) if upset & set(members)]
    return uses, coordinates


def growth(spec: PermutationSpec) -> list[tuple[int, frozenset[str]]]:
    """In which order coordinates are found from what is fixed, each with the groups whose order is still unknown then.

    Next is always the coordinate with the largest part of its weights in tensors that hang on nothing unknown.
    """
    left = dict(enumerate(spec.coordinates))
    places = {}  # coordinate -> for each of its uses the weights in the tensor, and the groups it hangs on
    for number, (_, groups) in left.items():
        uses = [use for group in groups for use in spec.uses[group]]
        places[number] = [(spec.layout[use.name].size, groups_of(spec.axes[use.name]) - set(groups)) for use in uses]
    order = []
    while left:
        unknown = {group for _, groups in left.values() for group in groups}
        shares = {}
        for number in left:
            known = sum(size for size, groups in places[number] if not groups & unknown)
            shares[number] = known / max(1, sum(size for size, _ in places[number]))
        number = max(shares, key=shares.get)  # of equal ones the first
        _, groups = left.pop(number)
        order.append((number, frozenset(unknown - set(groups))))
    return order
