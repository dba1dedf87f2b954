"""Many descents in step: members of a zoo, and several starts of each, as one batched computation.

Every descent goes as :func:`coordinate_descent` does, and ends where that would end. All have one reference and visit
the groups in one order, so a visit is made by all of them together that have something to solve there: a matrix product
for each place, then an assignment for each descent, on the CPU. Who has settled everything visits no more.

Nothing of ``b`` is permuted on the way: a descent is its orders of units, and they are looked up where a product needs
them. A product has a row for each unit of ``a`` and a column for each unit of ``b`` *as it was given*, so it stays
valid when its own group moves, and goes when another axis of its tensor does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dwflow_lite.symmetry.matching import State, assignment, best_orders, inner_products, rounding_error
from dwflow_lite.symmetry.places import (
    Place,
    blurred,
    expected_inner_products,
    ordered,
    permute_state_of_many,
    product_of_rows,
    products_at,
)
from dwflow_lite.symmetry.spec import PermutationSpec

Orders = dict[str, Tensor]  # group -> index (P, n), a row for each descent
NOTHING: frozenset[str] = frozenset()


@dataclass
class Descents:
    """P descents in step.

    Attributes:
        a: named tensors of the reference.
        b: of M networks, (M, *shape).
        spec: what moves together.
        members: which of the networks each descent permutes, (P,), ascending.
        orders: group -> index (P, n), where each descent is.
        history: of each descent the objective, at its start and after each of its visits.
        products: group -> of each of its places and each descent (places, P, n, n), on the CPU.
        valid: of each place, group after group, which descents have its product, (all places, P).
        settled: for each coordinate, which descents have nothing to solve there, (coordinates, P).
    """

    a: State
    b: State
    spec: PermutationSpec
    members: Tensor
    orders: Orders
    history: list[list[float]] = field(init=False)
    products: dict[str, Tensor] = field(default_factory=dict)
    valid: Tensor = field(init=False)
    settled: Tensor = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.members)
        self.history = [[] for _ in range(count)]
        self.places = self.spec.places
        self.rows: dict[Place, tuple[Tensor, Tensor]] = {}  # of a (units, ...) and b (M, units, ...), laid out once
        for group, places in self.places.items():
            n = self.spec.groups[group]
            dtype = self.a[places[0].uses[0].name].dtype if places else torch.float64
            self.products[group] = torch.empty(len(places), count, n, n, dtype=dtype)
        self.valid = torch.zeros(sum(map(len, self.places.values())), count, dtype=torch.bool)
        self.settled = torch.zeros(len(self.spec.coordinates), count, dtype=torch.bool)
        for number, (_, groups) in enumerate(self.spec.coordinates):
            self.settled[number] = not any(self.places[group] for group in groups)
        self.before = inner_products(self.a, self.b)  # <a, b>, (M,)
        self.least_gain = rounding_error(self.a)

    # -- similarities ------------------------------------------------------------------------------------------------

    def similarity(self, group: str, which: Tensor, unknown: frozenset[str] = NOTHING) -> Tensor:
        """Similarity (p, n, n) of the units of ``a`` to those of ``b``, as they stand, for some descents (p,)."""
        places = self.places[group]
        known = [number for number, place in enumerate(places) if not place.groups & unknown]
        self.multiply(group, known, which)
        products = self.products[group] if len(known) == len(places) else self.products[group][known]
        total = products.index_select(1, which).sum(0, dtype=torch.float64)
        hazy = [place for place in places if place.groups & unknown]
        if hazy:
            total += self.expected_product(group, hazy, which, unknown)
        as_they_stand = self.orders[group][which]  # (p, n)
        return total.gather(2, as_they_stand[:, None].expand_as(total))

    def multiply(self, group: str, numbers: Sequence[int], which: Tensor) -> None:
        """Make the products of some places of a group, by their numbers in it, where they are not valid any more."""
        valid = self.valid[self.spec.numbers[group]]  # (places, P)
        has = valid.index_select(1, which)  # (places, p)
        how_many = has.sum(1).tolist()
        for number in numbers:
            if how_many[number] == len(which):
                continue
            missing = which if how_many[number] == 0 else which[~has[number]]
            place = self.places[group][number]
            a, b = self.rows_of(place)
            orders = self.some(missing, place.groups)
            products = products_at(a, b, self.spec.groups[group], place.others, self.members_of(missing), orders)
            self.products[group][number].index_copy_(0, missing, products.cpu())
            valid[number].index_fill_(0, missing, True)

    def expected_product(self, group: str, places: Sequence[Place], which: Tensor, unknown: frozenset[str]) -> Tensor:
        """The summands of some places (p, n, n) that hang on groups without an order, together; none is kept."""
        n = self.spec.groups[group]
        members, rows_a, rows_b = self.members_of(which), [], []
        for place in places:
            a, b, others = blurred(*self.rows_of(place), place.others, unknown)
            b = ordered(b, others, members, self.some(which, place.groups - unknown))  # (p, n * each, *others)
            rows_a.append(a.reshape(n, -1))
            rows_b.append(b.reshape(len(which), n, -1))
        return product_of_rows(torch.cat(rows_a, 1), torch.cat(rows_b, 2)).cpu()

    def rows_of(self, place: Place) -> tuple[Tensor, Tensor]:
        """Of reference and networks what belongs to the units of a place, laid out once."""
        if place not in self.rows:
            self.rows[place] = place.rows(self.a, 0), place.rows(self.b, 1)
        return self.rows[place]

    def members_of(self, which: Tensor) -> Tensor | None:
        """The networks (p,) of some descents; None, if that is each network once, so that no copy is made."""
        is_each_once = which.shape == self.members.shape == self.before.shape
        return None if is_each_once else self.members.index_select(0, which)

    def some(self, which: Tensor, groups: frozenset[str]) -> Orders:
        """The orders (p, n) of some groups, of some descents (p,)."""
        return {group: self.orders[group].index_select(0, which) for group in groups}

    # -- visits ------------------------------------------------------------------------------------------------------

    def visit(self, number: int, which: Tensor) -> None:
        """Solve one coordinate exactly for some descents (p,); who gains moves, and all are settled there."""
        heads, groups = self.spec.coordinates[number]
        similarity = {group: self.similarity(group, which) for group in groups}
        orders, gains = best_orders_of_many(similarity, heads)
        for descent, gain in zip(which.tolist(), gains.tolist(), strict=True):
            before = self.history[descent][-1]
            self.history[descent].append(before + gain if gain > self.least_gain else before)
        has_gained = gains > self.least_gain
        movers = which[has_gained]
        self.move({group: order[has_gained] for group, order in orders.items()}, movers)
        self.valid[self.spec.upset[number], movers] = False
        for other in self.spec.neighbours[number]:
            self.settled[other, movers] = False
        self.settled[number, which] = True

    def move(self, orders: Orders, which: Tensor) -> None:
        """Put the units of some descents (p,), as they stand, in other orders (p, n)."""
        for group, order in orders.items():
            self.orders[group][which] = self.orders[group][which].gather(1, order)

    # -- starts ------------------------------------------------------------------------------------------------------

    def begin(self, which: Tensor) -> None:
        """Write the objective <a, permuted b> of some descents (p,), as they stand, into their histories."""
        moved = torch.zeros(len(which), dtype=torch.bool)
        for order in self.orders.values():
            moved |= (order[which] != torch.arange(order.shape[1])).any(1)
        total = self.before[self.members[which]]  # (p,), of those that start from the identity
        if moved.any():
            movers = which[moved]
            orders = self.some(movers, frozenset(self.orders))
            state = {name: b[self.members[movers].to(b.device)] for name, b in self.b.items()}
            total[moved] = inner_products(self.a, permute_state_of_many(state, self.spec.axes, orders))
        for descent, objective in zip(which.tolist(), total.tolist(), strict=True):
            self.history[descent] = [objective]

    def grow(self, which: Tensor) -> None:
        """Let some descents (p,) begin without an order: from what is fixed, one coordinate after the other.

        A group that was not visited yet has no order: ``b`` is taken at its mean over all orders of that group. So the
        objective, as an expectation, is known from the beginning, a visit can only raise it, and in the end, when every
        group has an order, it is <a, permuted b>. In which order the units of ``b`` were given makes no difference.
        """
        total = expected_inner_products(self.a, self.b, self.spec.axes)[self.members[which]]  # (p,)
        for number, unknown in self.spec.growth:
            heads, groups = self.spec.coordinates[number]
            similarity = {group: self.similarity(group, which, unknown) for group in groups}
            orders, gains = best_orders_of_many(similarity, heads)
            for units in similarity.values():  # (p, n, n)
                total += units.diagonal(dim1=1, dim2=2).sum(1) - units.sum((1, 2)) / units.shape[1]
            total += gains  # over the diagonal, as units stood
            self.move(orders, which)
        for descent, objective in zip(which.tolist(), total.tolist(), strict=True):
            self.history[descent] = [objective]

    # -- from start to end -------------------------------------------------------------------------------------------

    def run(self, generator: torch.Generator, max_sweeps: int) -> None:
        """Visit coordinates, sweep after sweep, until every descent is settled everywhere.

        Raises:
            RuntimeError: after ``max_sweeps`` sweeps there was still something to gain.
        """
        for _ in range(max_sweeps):
            for number in torch.randperm(len(self.spec.coordinates), generator=generator).tolist():
                which = (~self.settled[number]).nonzero().flatten()
                if which.numel() > 0:
                    self.visit(number, which)
            if bool(self.settled.all()):
                return
        raise RuntimeError(f"matching still gained after {max_sweeps} sweeps; raise max_sweeps")


def best_orders_of_many(similarity: Mapping[str, Tensor], heads: int) -> tuple[Orders, Tensor]:
    """As :func:`best_orders`, for each of p descents: group -> orders (p, n), and what each would gain (p,).

    Args:
        similarity: group -> (p, n, n).
        heads: into which each group is cut.
    """
    if heads == 1:
        orders = {group: torch.stack([assignment(one) for one in units]) for group, units in similarity.items()}
    else:
        solved = []
        for i in range(len(next(iter(similarity.values())))):
            solved.append(best_orders({group: units[i] for group, units in similarity.items()}, heads)[0])
        orders = {group: torch.stack([one[group] for one in solved]) for group in similarity}
    gains = 0
    for group, units in similarity.items():
        of_partners = units.gather(2, orders[group][..., None]).sum((1, 2))  # (p,)
        gains += of_partners - units.diagonal(dim1=1, dim2=2).sum(1)  # the diagonal: as units stand
    return orders, gains
