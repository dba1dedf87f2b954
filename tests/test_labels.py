"""Labels of axes: what unify, divide, deal and place promise, told by permuting real tensors; and labels as a spec."""

import pytest
import torch

from dwflow_lite.symmetry import Stretch, labelled_spec
from dwflow_lite.symmetry.labelled_spec import Span
from dwflow_lite.symmetry.labels import Label, Labelling, join


def rng(seed):
    return torch.Generator().manual_seed(seed)


def order_of(label, draws, generator):
    """What a label means: the order of its places once every atom is permuted at random (one draw for each atom)."""
    root = label.root
    if root.kind == "product":
        outer, inner = (order_of(part, draws, generator) for part in root.parts)
        return (outer[:, None] * len(inner) + inner).flatten()
    if root.kind == "row":
        first, second = (order_of(part, draws, generator) for part in root.parts)
        return torch.cat([first, len(first) + second])
    if root not in draws:
        draws[root] = torch.arange(root.size) if root.stays else torch.randperm(root.size, generator=generator)
    return draws[root]


def permuted(tensor, axes, draws, generator):
    for number, label in enumerate(axes):
        tensor = tensor.index_select(number, order_of(label, draws, generator))
    return tensor


def numbers(*shape):
    return torch.arange(torch.Size(shape).numel()).view(shape)


# -- equal -------------------------------------------------------------------------------------------------------


def components(n, pairs):
    """Which of n things belong together: by carrying the smallest number along pairs until nothing changes."""
    number = list(range(n))
    for _ in range(n):
        for i, j in pairs:
            number[i] = number[j] = min(number[i], number[j])
    return number


@pytest.mark.parametrize("seed", range(8))
def test_labels_are_equal_exactly_where_a_chain_of_unions_joins_them(seed):
    n, fixed = 12, 3
    pairs = torch.randint(0, n, (8, 2), generator=rng(seed)).tolist()
    labels = [Label(5) for _ in range(n)]
    labels[fixed].fix()
    labelling = Labelling()
    for i, j in pairs:
        labelling.unify(labels[i], labels[j])
    number = components(n, pairs)
    free = [i for i in range(n) if number[i] != number[fixed]]
    for i in range(n):
        assert labels[i].is_fixed == (number[i] == number[fixed])  # fixed spreads, and only so far
    for i in free:
        for j in free:
            assert (labels[i].root is labels[j].root) == (number[i] == number[j])
    assert len(set(number)) > 1 and len({labels[i].root for i in free}) > 1  # control: not everything is equal


def test_a_single_place_goes_with_any_units_and_other_sizes_fix_both():
    labelling, units, single = Labelling(), Label(5), Label(1)
    assert labelling.unify(units, single) is units and labelling.unify(single, units) is units
    assert not units.is_fixed and single.is_fixed
    other = Label(4)
    labelling.unify(units, other)
    assert units.is_fixed and other.is_fixed  # control


@pytest.mark.parametrize("kind, sizes", [("product", (3, 4)), ("row", (5, 7))])
@pytest.mark.parametrize("cut_first", [True, False])
def test_cutting_and_making_equal_may_come_in_any_order(kind, sizes, cut_first):
    labelling, a, b, stranger = Labelling(), Label(12), Label(12), Label(12)
    if cut_first:
        labelling.divide(a, sizes[0], kind)
        labelling.unify(a, b)
    else:
        labelling.unify(a, b)
        labelling.divide(a, sizes[0], kind)
    assert a.root.kind == b.root.kind == kind
    for one, two in zip(a.root.parts, b.root.parts, strict=True):
        assert one.root is two.root and not one.is_fixed
    assert stranger.root.kind is None  # control
    assert [part.size for part in b.root.parts] == list(sizes)


def test_labels_cut_in_two_ways_are_fixed():
    labelling, a, b = Labelling(), Label(12), Label(12)
    labelling.divide(a, 3, "product")
    labelling.divide(b, 5, "row")
    labelling.here = "sum in forward"
    labelling.unify(a, b)
    assert a.is_fixed and b.is_fixed and labelling.doubts == ["sum in forward tears units apart"]
    labelling, a, b = Labelling(), Label(12), Label(12)
    labelling.divide(a, 3, "product")
    labelling.divide(b, 6, "product")
    labelling.unify(a, b)  # 3 × 4 and 6 × 2 have 3 × 2 × 2 in common
    assert [leaf.size for leaf in a.leaves("product")] == [3, 2, 2] == [leaf.size for leaf in b.leaves("product")]
    assert not a.is_fixed and not labelling.doubts  # control


# -- cut and joined ----------------------------------------------------------------------------------------------

VIEWS = [
    ((12,), (3, 4)),
    ((3, 4), (12,)),
    ((12, 6), (3, 24)),
    ((2, 12, 5), (2, 3, 2, 2, 5)),
    ((4, 6), (2, 2, 3, 2)),
    ((5, 7), (5, 1, 7)),
    ((6, 1, 4), (24,)),
]


@pytest.mark.parametrize("before, after", VIEWS)
def test_a_view_of_what_is_permuted_is_the_permuted_view(before, after):
    labelling, generator = Labelling(), rng(0)
    axes = [Label(size) for size in before]
    dealt = labelling.deal(axes, after, "product")
    assert tuple(label.size for label in dealt) == after and not labelling.doubts
    draws = {}
    x = numbers(*before)
    moved = permuted(x, axes, draws, generator)
    assert torch.equal(moved.view(after), permuted(x.view(after), dealt, draws, generator))
    assert not torch.equal(moved, x)
    other = {label: order.roll(1) for label, order in draws.items()}
    assert not torch.equal(moved.view(after), permuted(x.view(after), dealt, other, generator))  # control


@pytest.mark.parametrize("before, after", VIEWS)
def test_a_view_and_the_view_back_lose_no_label(before, after):
    labelling = Labelling()
    axes = [Label(size) for size in before]
    back = labelling.deal(labelling.deal(axes, after, "product"), before, "product")
    for one, two in zip(axes, back, strict=True):
        leaves = [leaf for leaf in one.leaves("product") if leaf.size > 1]
        assert [id(leaf) for leaf in two.leaves("product") if leaf.size > 1] == [id(leaf) for leaf in leaves]
    sizes = [leaf.size for label in labelling.deal(axes, after, "product") for leaf in label.leaves("product")]
    assert sizes.count(1) == after.count(1)  # single places are dropped, and put where they are asked for
    strange = labelling.deal([Label(size) for size in after], before, "product")
    assert {leaf for label in strange for leaf in label.leaves("product")}.isdisjoint(
        leaf for label in axes for leaf in label.leaves("product") if leaf.size > 1
    )  # control


@pytest.mark.parametrize("lengths", [(12,), (5, 7), (1, 4, 7), (2, 2, 2, 6)])
def test_slices_of_what_is_permuted_are_the_permuted_slices(lengths):
    labelling, generator, axis = Labelling(), rng(1), Label(12)
    parts = labelling.deal([axis], lengths, "row")
    draws = {}
    x = numbers(12)
    moved = permuted(x, [axis], draws, generator)
    for part, piece, after in zip(parts, x.split(lengths), moved.split(lengths), strict=True):
        assert torch.equal(after, permuted(piece, [part], draws, generator))
    joined = join(parts, "row")
    assert torch.equal(moved, permuted(x, [joined], draws, generator))
    if len(lengths) > 1:
        backwards = join(parts[::-1], "row")
        assert not torch.equal(moved, permuted(x, [backwards], draws, generator))  # control


@pytest.mark.parametrize(
    "sizes, kind, cut, reason",
    [
        ((8, 3), "product", None, "tears units apart"),
        ((5, 7), "row", (3, "product"), "takes a part of heads"),
        ((4, 3), "product", (5, "row"), "tears units apart"),
    ],
)
def test_what_would_tear_units_is_fixed_with_a_doubt(sizes, kind, cut, reason):
    def dealt(doubtful):
        labelling, axis, other = Labelling(), Label(12), Label(2)
        labelling.here = "view in forward"
        if cut and doubtful:
            labelling.divide(axis, *cut)
        axes = labelling.deal([other, axis], [2, *(sizes if doubtful or cut else (4, 3))], kind)
        return labelling, axis, axes

    labelling, axis, axes = dealt(True)
    assert labelling.doubts == [f"view in forward {reason}"]
    assert axis.is_fixed and all(label.is_fixed for label in axes)
    labelling, axis, axes = dealt(False)  # control
    assert not labelling.doubts and not axis.is_fixed


def test_what_is_fixed_is_cut_without_a_doubt():
    labelling, axis = Labelling(), Label(12, stays=True)
    assert [label.size for label in labelling.deal([axis], [5, 7], "row")] == [5, 7]
    assert axis.root.kind is None and not labelling.doubts
    first, second = labelling.divide(axis, 3, "product")
    assert first.is_fixed and second.is_fixed and (first.size, second.size) == (3, 4)
    assert labelling.divide(axis, 5, "product") is None  # control


@pytest.mark.parametrize("kind", ["product", "row"])
def test_dividing_cuts_everywhere_and_says_whose_order_may_differ(kind):
    labelling, a, b = Labelling(), Label(12), Label(12)
    labelling.unify(a, b)
    first, second = labelling.divide(b, 3, kind)
    assert a.root.parts == (first, second) and second.size == (4 if kind == "product" else 9)
    assert first.outer_atoms == []
    assert second.outer_atoms == ([first] if kind == "product" else [])  # each head in its own order; a row: no heads
    assert labelling.divide(b, 3, kind) is None  # control: cut already


# -- at one place of an outer label ------------------------------------------------------------------------------


def test_units_have_one_label_in_each_head():
    labelling, axis = Labelling(), Label(12)
    heads, units = labelling.divide(axis, 3, "product")
    places = [units.place(heads, index) for index in range(3)]
    assert places == [units.place(heads, index) for index in range(3)]  # asked twice, the same
    assert len({units, *places}) == 4  # control: not the same in all heads
    stranger = Label(4)
    assert stranger.place(heads, 1) is stranger
    assert axis.place(Label(3), 1).leaves("product") == [heads, units]
    units.fix()
    assert all(place.is_fixed for place in places) and not heads.is_fixed


@pytest.mark.parametrize("units_first", [True, False])
def test_units_that_meet_others_without_heads_are_the_same_in_all_heads(units_first):
    labelling, axis, outside = Labelling(), Label(12), Label(4)
    heads, units = labelling.divide(axis, 3, "product")
    first, second = units.place(heads, 0), units.place(heads, 1)
    assert first.root is not second.root  # control
    labelling.unify(*((units, outside) if units_first else (outside, units)))  # a gain for the units of every head
    assert first.root is second.root is outside.root and outside.outer_atoms == [] and not outside.is_fixed


def test_dividing_also_cuts_what_the_units_are_at_each_place():
    labelling, axis = Labelling(), Label(24)
    heads, units = labelling.divide(axis, 2, "product")
    there = units.place(heads, 1)
    assert there.root.kind is None  # control
    outer, inner = labelling.divide(units, 3, "product")
    assert there.root.parts and [part.size for part in there.root.parts] == [3, 4]
    assert [part.root for part in there.root.parts] == [outer.place(heads, 1), inner.place(heads, 1)]
    assert inner.outer_atoms == [heads, outer]
    assert inner.place(heads, 1).outer_atoms == [outer.place(heads, 1)]


def test_a_place_of_an_outer_product_is_looked_up_in_each_factor():
    labelling, axis = Labelling(), Label(30)
    outer, units = labelling.divide(axis, 6, "product")
    first, second = labelling.divide(outer, 2, "product")
    places = [units.place(outer, index) for index in range(6)]
    assert places == [units.place(first, i).place(second, j) for i in range(2) for j in range(3)]
    assert places[0] is not places[5]  # control


def test_places_of_an_outer_product_differ_one_by_one_once_it_is_fixed():
    labelling, axis = Labelling(), Label(30)
    outer, units = labelling.divide(axis, 6, "product")
    labelling.divide(outer, 2, "product")
    outer.fix("called by number")
    places = [units.place(outer, index) for index in range(6)]
    assert len(set(places)) == 6 and places == [units.place(outer, index) for index in range(6)]
    assert all(place.outer_atoms == [] for place in places)
    units.fix("a test")
    assert all(place.is_fixed and place.reasons == ["a test"] for place in places)
    assert units.place(outer, 4) is units.root  # control: what is fixed is the same everywhere


def test_the_first_reason_is_kept_and_spreads():
    labelling, a, b, c = Labelling(), Label(4), Label(4), Label(4)
    labelling.unify(a, b)
    a.fix("outputs")
    labelling.unify(b, c)
    c.fix("later")
    assert a.reasons == b.reasons == c.reasons == ["outputs"]
    assert Label(4).reasons == []  # control


@pytest.mark.parametrize("index", range(3))
def test_a_place_selected_from_what_is_permuted_is_permuted_like_its_units(index):
    """Places 0, 1, 2 hold query, key and value: each may have an order of its own."""
    labelling, generator, axis = Labelling(), rng(2), Label(12)
    places, units = labelling.divide(axis, 3, "product")
    places.fix()
    draws = {}
    orders = [order_of(units.place(places, k), draws, generator) for k in range(3)]
    moved = numbers(12)[torch.cat([4 * k + order for k, order in enumerate(orders)])]
    assert torch.equal(moved.view(3, 4)[index], numbers(12).view(3, 4)[index][orders[index]])
    assert not torch.equal(orders[0], orders[1])  # control: not one order for all


# -- written as a spec -------------------------------------------------------------------------------------------


def test_fixed_stretches_side_by_side_become_one_and_single_groups_a_name():
    key, other = (Label(4),), (Label(3),)
    names = {key: "a", other: "b"}
    assert labelled_spec.axis_of([Span(key, 4)], names) == "a"
    assert labelled_spec.axis_of([Span(None, 2), Span(None, 3, 2)], names) is None
    row = [Span(None, 2), Span(None, 3, 2), Span(key, 4), Span(None, 1), Span(other, 3, 5)]
    assert labelled_spec.axis_of(row, names) == (
        Stretch(None, 8),
        Stretch("a", 4),
        Stretch(None, 1),
        Stretch("b", 3, 5),
    )
    assert labelled_spec.axis_of([Span(key, 4, 2)], names) == (Stretch("a", 4, 2),)  # control: no name says that


def test_what_a_spec_cannot_say_is_named():
    units, heads, inside = Label(6), Label(3), Label(4)
    sayable = {"q": [[Span((heads, inside), 12)], [Span((units,), 6)]], "u": [[Span((units,), 6)]]}
    assert labelled_spec.labels_without_words(sayable) == {}  # control
    twice = {"w": [[Span((units,), 6)], [Span((units,), 6)]]}
    assert labelled_spec.labels_without_words(twice) == {units: "on two axes of w"}
    shared = sayable | {"norm": [[Span((inside,), 4)]]}
    assert labelled_spec.labels_without_words(shared) == {inside: "units inside heads, which other tensors share"}
    alone = sayable | {"scale": [[Span((heads,), 3)]]}
    assert labelled_spec.labels_without_words(alone) == {inside: "units inside heads that are named elsewhere"}


def test_reasons_stand_in_the_order_of_tensors():
    labels = [Label(6) for _ in range(20)]
    row = [Span((label,), 6) for label in labels]
    assert list(labelled_spec.labels_without_words({"w": [row, row[::-1]]})) == labels
    assert list(labelled_spec.labels_without_words({"w": [row[::-1], row]})) == labels[::-1]  # control
