"""Weight matching by coordinate descent (Git Re-Basin, arXiv 2209.04836, algorithm 1).

A worked example: one input, two hidden units, one output; ``b`` is ``a`` with its units in the other order. Unit 0 of
``a`` (2 in, bias 0, 3 out) is most like unit 1 of ``b``: 2·2 + 0·0 + 3·3 = 13.

>>> import torch
>>> from dwflow_lite import MLP, PermutationSpec
>>> from dwflow_lite.symmetry.matching import assignment, checked_states, identity_matching, unit_similarity
>>> spec = PermutationSpec.of(MLP([1, 2, 1]))
>>> a = torch.tensor([2.0, -1, 0, 1, 3, 1, 0])  # weights in (2), biases (2), weights out (2), bias
>>> b = torch.tensor([-1.0, 2, 1, 0, 1, 3, 0])
>>> (group,) = spec.groups
>>> similarity = unit_similarity(*checked_states(a, b, spec), spec, group)
>>> similarity.tolist(), assignment(similarity).tolist()  # as they stand 1 + 1; crossed 13 + 3
([[1.0, 13.0], [3.0, 1.0]], [1, 0])
>>> from dwflow_lite.symmetry import weight_matching
>>> identity_matching(a, b, spec).objective, weight_matching(a, b, spec).objective[-1]
([2.0], 16.0)

From top to bottom: what every matcher returns; how alike units are; which order of units has the most likeness; and the
descent that settles one group of units after the other, in one network. (Many descents are made in step: that is how
:func:`weight_matching` makes them, in ``descents.py``.) Throughout, ``a`` is the reference that stays and ``b`` is
permuted. A similarity matrix has a row for each unit of ``a`` and a column for each unit of ``b``, as they stand: what
is to be made large is its diagonal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dwflow_lite.symmetry.axes import Use
from dwflow_lite.symmetry.permutation import Permutation
from dwflow_lite.symmetry.rotation import rotate_stream
from dwflow_lite.symmetry.spec import PermutationSpec

UNUSUAL = 1e-12  # networks whose largest weight is smaller, or larger than 1 / UNUSUAL, are matched in float64

State = Mapping[str, Tensor]  # the named tensors of one network
# For a place in a tensor (``Use``, in ``axes.py``): inner products (n, n) of the units' rows in a with those in b.
Products = dict[Use, Tensor]


# -- what every matcher returns ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Matching:
    """How one network is brought close to another, and what was gained by it. It equals itself alone.

    Attributes:
        permutation: moves the units of ``b`` onto those of ``a``.
        objective: history of what the matcher improves, first before its first step, last what was reached. The
            matcher says what it is: the inner product <a, permuted b>, a sum of correlations, a loss.
        starts: of a matcher with restarts, what each start reached (the first is from the identity).
        rotation: of the residual stream (dim, dim), where it was rotated and not only permuted.
    """

    permutation: Permutation
    objective: list[float]
    starts: Sequence[float] = ()
    rotation: Tensor | None = None

    def apply(self, spec: PermutationSpec, weights: Tensor) -> Tensor:
        """The weights (..., d) of ``b``, or of others that move like it, in the order and the basis of ``a``."""
        permuted = spec.apply(self.permutation, weights)
        if self.rotation is None:
            return permuted
        # In double precision, as the rotation was found. (It acts on the stream, the permutation on all other groups.)
        state = spec.layout.unflatten(permuted.to(self.rotation))
        return spec.layout.flatten(rotate_stream(state, spec, self.rotation)).to(weights)


def identity_matching(a: Tensor, b: Tensor, spec: PermutationSpec) -> Matching:
    """The matcher that moves nothing, as a control; its objective is <a, b>."""
    return Matching(spec.identity(), [inner_product(*checked_states(a, b, spec))])


def checked_states(a: Tensor, b: Tensor, spec: PermutationSpec) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters of two weight vectors (d,), named, on the CPU and in one precision (float64 if either has it).

    Raises:
        ValueError: one of them is not a finite vector (d,).
    """
    require_vector("a", a, spec)
    require_vector("b", b, spec)
    is_single = torch.float64 not in (a.dtype, b.dtype) and has_usual_size(max(a.abs().max(), b.abs().max()))
    precision = torch.float32 if is_single else torch.float64
    state_a = spec.parameters(a.detach().to("cpu", precision))
    state_b = spec.parameters(b.detach().to("cpu", precision))
    return state_a, state_b


def require_vector(name: str, weights: Tensor, spec: PermutationSpec) -> None:
    """``ValueError`` unless weights are one finite vector (d,) of the spec's network."""
    spec.layout.check(weights)
    if weights.ndim != 1 or not weights.abs().max().isfinite():
        raise ValueError(f"{name} must be one finite weight vector (d,), got shape {tuple(weights.shape)}")


def has_usual_size(largest: Tensor) -> Tensor:
    """Whether products of weights, of which these are the largest, neither vanish nor overflow in single precision."""
    return (largest == 0) | ((largest >= UNUSUAL) & (largest <= 1 / UNUSUAL))


# -- how alike units are -----------------------------------------------------------------------------------------------


def inner_product(a: State, b: State) -> float:
    """Sum over tensors of <A, B>, in float64."""
    return sum(_sum_of_products(a[name], b[name]) for name in a)


def _sum_of_products(a: Tensor, b: Tensor) -> float:
    """<A, B> in float64; products that single precision cannot hold are made in float64 too."""
    total = float((a * b).sum(dtype=torch.float64))
    return total if isfinite(total) and total != 0 else float((a.double() * b.double()).sum())


def inner_products(a: State, b: State) -> Tensor:
    """As :func:`inner_product`, of one network with each of many, (M, *shape): (M,), float64, on the CPU."""
    return sum(b[name].flatten(1).double() @ a[name].flatten().double() for name in a).cpu()


def unit_similarity(
    a: State, b: State, spec: PermutationSpec, group: str, products: Products | None = None
) -> Tensor:  # fmt: skip
    """Similarity (n, n) of every unit of ``a`` to every unit of ``b`` in one group, the other groups as they stand.

    It is the sum, over all places that know the group, of the inner products of what belongs to a unit there: its
    incoming weights, its bias, its outgoing weights. The diagonal adds up to the group's part of <a, b>.

    Args:
        a: named tensors of the reference.
        b: of the network to be permuted.
        spec: tells where the group occurs.
        group: of n units.
        products: matrix products that are still valid are taken from here, those that are missing are added.
    """
    products = {} if products is None else products
    for use in spec.uses[group]:
        if use not in products:
            products[use] = use.rows(a[use.name]) @ use.rows(b[use.name]).T
    return torch.stack([products[use] for use in spec.uses[group]]).sum(0, dtype=torch.float64)


# -- which order has the most likeness ---------------------------------------------------------------------------------


def assignment(similarity: Tensor) -> Tensor:
    """The partner (n,) of every row: each column once, with the largest sum of similarities (n, n).

    Example:
        >>> assignment(torch.tensor([[9.0, 8.0], [8.0, 1.0]]))  # 8 + 8 is more than 9 + 1
        tensor([1, 0])
    """
    _, columns = linear_sum_assignment(similarity.numpy(), maximize=True)
    return torch.from_numpy(columns)


def head_scores(similarity: Mapping[str, Tensor], heads: int) -> tuple[Tensor, dict[str, Tensor]]:
    """How well every head of ``a`` goes with every head of ``b``, and the best order of units inside each such pair.

    Args:
        similarity: group -> similarities (n, n) of all its units.
        heads: H, into which each group is cut.

    Returns:
        The value (H, H) of pairing two heads, and group -> orders (H, H, n / H).
    """
    value = torch.zeros(heads, heads, dtype=torch.float64)
    orders = {}
    for group, units in similarity.items():
        blocks = units.unflatten(1, (heads, -1)).unflatten(0, (heads, -1))  # (H, n / H, H, n / H)
        blocks = blocks.transpose(1, 2)  # (H, H, n / H, n / H): one matrix for each pair of heads
        inside = [assignment(block) for block in blocks.flatten(0, 1)]  # (n / H,) each, for H * H pairs of heads
        orders[group] = torch.stack(inside).unflatten(0, (heads, heads))  # (H, H, n / H)
        value += blocks.gather(3, orders[group][..., None]).sum((2, 3))  # of each row the entry of its partner
    return value, orders


def best_orders(similarity: Mapping[str, Tensor], heads: int = 1) -> tuple[dict[str, Tensor], float]:
    """Orders of the units of some groups with the largest sum of similarities, if whole heads must move together.

    A small assignment for every group and pair of heads, and one that pairs the heads: exact. A free group is one
    head, and one assignment.

    Args:
        similarity: group -> similarities (n, n) of all its units.
        heads: into which each group is cut.

    Returns:
        Group -> index (n,), unit i of ``a`` corresponds to unit index[i] of ``b``; and how much the sum rises.
    """
    if heads == 1:
        orders = {group: assignment(units) for group, units in similarity.items()}
    else:
        value, inside = head_scores(similarity, heads)
        partners = assignment(value)  # (H,)
        orders = {}
        for group, pairs in inside.items():
            chosen = pairs[torch.arange(heads), partners]  # (H, n / H): the orders inside the pairs that were made
            orders[group] = (partners[:, None] * chosen.shape[1] + chosen).flatten()
    gain = 0.0
    for group, units in similarity.items():
        gain += float(units.gather(1, orders[group][:, None]).sum() - units.trace())  # the trace: as units stand
    return orders, gain


# -- one group after the other -----------------------------------------------------------------------------------------


def coordinate_descent(
    a: State,
    b: State,
    spec: PermutationSpec,
    start: Permutation,
    generator: torch.Generator,
    max_sweeps: int = 100,
    watch: Callable[[dict[str, Tensor], dict[str, Tensor]], None] | None = None,
) -> Matching:
    """One descent from one start; its objective is <a, permuted b>, at the start and after each visit.

    A coordinate is a free group or a block of heads. A visit solves it exactly, all others as they stand; so the
    objective never falls. It stays solved until a coordinate that shares a tensor with it moves; the descent ends when
    all are solved at once. Matrix products are the costly part, so they are kept until one of their tensors changes.
    They are made on the device of the tensors, assignments on the CPU.

    Args:
        a: named tensors of the reference, in float32 or float64.
        b: named tensors to permute; not changed.
        spec: what moves together.
        start: where to begin.
        generator: of the order in which a sweep visits the coordinates.
        max_sweeps: a bound on the work.
        watch: called at every visit with the similarities (n, n) of each group, as its units stand, and their best
            orders; both by group.

    Raises:
        RuntimeError: after ``max_sweeps`` sweeps there was still something to gain.
    """
    indices = dict(start.indices)
    moved = spec.permute(b, start)
    products = {}
    objective = [inner_product(a, moved)]
    least_gain = rounding_error(a)
    for _ in range(max_sweeps):
        for number in torch.randperm(len(spec.coordinates), generator=generator).tolist():
            heads, groups = spec.coordinates[number]
            if is_settled(groups, spec, products):
                continue
            similarity = {g: unit_similarity(a, moved, spec, g, products).cpu() for g in groups}
            orders, gain = best_orders(similarity, heads)
            if watch is not None:
                watch(similarity, orders)
            if gain <= least_gain:
                objective.append(objective[-1])
                continue
            objective.append(objective[-1] + gain)
            indices |= {g: indices[g][orders[g]] for g in groups}  # from b as it was given
            moved = spec.permute(moved, Permutation(orders))  # from b as it stands
            products = still_valid(products, spec, orders)
        if is_settled(spec.groups, spec, products):
            return Matching(Permutation(indices), objective)
    raise RuntimeError(f"matching still gained after {max_sweeps} sweeps; raise max_sweeps")


def rounding_error(a: State) -> float:
    """How much the objective may change by rounding alone: a smaller gain is none, or a descent might never end.

    The products of <a, b> are rounded by about eps |a| |b|; networks that are matched are of one length, about.
    """
    precision = torch.finfo(next(iter(a.values())).dtype).eps
    return precision * float(torch.nn.utils.get_total_norm(list(a.values()))) ** 2


def is_settled(groups: Iterable[str], spec: PermutationSpec, products: Products) -> bool:
    """Whether these groups were solved, and nothing that they depend on has changed since.

    That is so if all their products are there: a visit adds them, :func:`still_valid` drops those whose rows change.
    """
    return all(use in products for group in groups for use in spec.uses[group])


def still_valid(products: Products, spec: PermutationSpec, orders: Mapping[str, Tensor]) -> Products:
    """The matrix products that are left when some groups are permuted, each by its order (n,).

    Where a tensor runs over a permuted group, the rows of ``b`` change places, and so do the columns of the product.
    Where the same tensor runs over another group, numbers change places inside each row: that product is gone, and that
    group is no longer settled. (Groups that are permuted together never do this to one another: a spec refuses a
    tensor that runs over two groups of one block.) Tensors that know none of these groups stay as they are.
    """
    permuted = {}
    for group, index in orders.items():
        for use in spec.uses[group]:
            permuted[use] = products[use][:, index]
    changed_tensors = {use.name for use in permuted}
    unchanged = {use: product for use, product in products.items() if use.name not in changed_tensors}
    return unchanged | permuted
