"""Many descents in step: each ends as it would alone, whatever is beside it; starts without an order; a fake GPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dwflow_lite.networks import MLP, ResNet, ViT
from dwflow_lite.symmetry import (
    PermutationSpec,
    Stretch,
    canonicalise,
    coordinate_descent,
    many,
    match_all,
    permute_all,
    weight_matching,
)
from dwflow_lite.symmetry.descents import Descents
from dwflow_lite.symmetry.many import default_restarts, permute_rows, rows_at_once
from dwflow_lite.symmetry.matching import checked_states, inner_product
from dwflow_lite.symmetry.places import permute_state_of_many, products_at
from dwflow_lite.zoo import Layout, Zoo


class Fused(nn.Module):
    """A convolution flattened into a linear layer, and queries, keys and values in one: axes made of stretches."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.first = nn.Linear(4 * 4 * 4, 8)
        self.qkv = nn.Linear(8, 24)
        self.project = nn.Linear(8, 5)
        self.both = nn.Linear(4 + 8, 3)  # reads the channels and, beside them, what attention returns


QKV = (Stretch("qk", 8), Stretch("qk", 8), Stretch("vo", 8))
FUSED = PermutationSpec(
    Layout.of(Fused()),
    {
        "conv.weight": ("c", None, None, None), "conv.bias": ("c",),
        "first.weight": ("read", (Stretch("c", 4, 16),)), "first.bias": ("read",),
        "qkv.weight": (QKV, "read"), "qkv.bias": (QKV,), "project.weight": (None, "vo"), "project.bias": (None,),
        "both.weight": (None, (Stretch("c", 4), Stretch("vo", 8))), "both.bias": (None,),
    },
    {"attention": (2, ("qk", "vo"))},
)  # fmt: skip
SPECS = {
    "mlp": PermutationSpec.of(MLP([5, 7, 6, 4])),
    "resnet": PermutationSpec.of(ResNet((4, 6), 2, channels=2, outputs=3)),
    "vit": PermutationSpec.of(ViT(8, 4, 12, 2, 3, hidden=10, channels=2, outputs=3)),
    "vit, stream": PermutationSpec.of(ViT(8, 4, 12, 2, 3, hidden=10, channels=2, outputs=3), stream=True),
    "stretches": FUSED,
    "nothing moves": PermutationSpec.of(MLP([5, 7, 4])).fix("hidden0"),
}


@pytest.fixture(params=SPECS)
def spec(request):
    return SPECS[request.param]


def random_state(seed):
    return torch.Generator().manual_seed(seed)


def rows_of(spec, count, seed=0):
    return torch.randn(count, spec.layout.size, generator=random_state(seed), dtype=torch.float64)


def same(p, q):
    return p.indices.keys() == q.indices.keys() and all(torch.equal(i, q.indices[g]) for g, i in p.indices.items())


def descents_of(spec, a, rows, starts, members):
    orders = {g: torch.stack([start.indices[g] for start in starts]) for g in spec.groups}
    return Descents(spec.parameters(a), spec.parameters(rows), spec, torch.tensor(members), orders)


# -- together as alone ---------------------------------------------------------------------------------------------


def test_descents_in_step_go_as_each_alone(spec):
    a, rows = rows_of(spec, 1, 9)[0], rows_of(spec, 3)
    members = [0, 0, 1, 2, 2, 2]
    starts = [spec.identity(), *(spec.random(random_state(s)) for s in range(4)), spec.identity()]
    together = descents_of(spec, a, rows, starts, members)
    together.begin(torch.arange(6))
    together.run(random_state(7), max_sweeps=100)
    differ = False
    for number, (start, member) in enumerate(zip(starts, members, strict=True)):
        alone = coordinate_descent(*checked_states(a, rows[member], spec), spec, start, random_state(7))
        assert together.history[number] == pytest.approx(alone.objective)
        for group, index in alone.permutation.indices.items():
            assert torch.equal(together.orders[group][number], index)
        for seed in range(8, 12):
            other = coordinate_descent(*checked_states(a, rows[member], spec), spec, start, random_state(seed))
            differ |= together.history[number] != pytest.approx(other.objective)
    assert differ or len(spec.coordinates) < 2  # control: another order of visits is another history


def test_many_rows_are_matched_as_one(spec):
    a, rows = rows_of(spec, 1, 9)[0], rows_of(spec, 5)
    together = match_all(a, rows, spec, restarts=2, seed=3)
    for row, found in zip(rows, together, strict=True):
        alone = weight_matching(a, row, spec, restarts=2, seed=3)
        assert same(found.permutation, alone.permutation)
        assert found.starts == pytest.approx(alone.starts) and found.objective == pytest.approx(alone.objective)
        moved = spec.parameters(alone.apply(spec, row))
        assert found.objective[-1] == pytest.approx(inner_product(spec.parameters(a), moved)) == max(found.starts)
    if spec.groups:
        assert not same(together[0].permutation, together[1].permutation)  # control: rows differ


def test_how_many_rows_fit_changes_no_result(spec, monkeypatch):
    a, rows = rows_of(spec, 1, 9)[0], rows_of(spec, 5)
    at_once = match_all(a, rows, spec, restarts=1)
    assert rows_at_once(spec, 1) > 5
    sizes = []
    begin = Descents.begin
    monkeypatch.setattr(Descents, "begin", lambda self, which: (sizes.append(len(which)), begin(self, which))[1])
    monkeypatch.setattr(many, "MATCHED_AT_ONCE", 2 * many.MATCHED_AT_ONCE // rows_at_once(spec, 1))
    by_two = match_all(a, rows, spec, restarts=1)
    assert sizes == [2, 2, 1]
    assert all(same(p.permutation, q.permutation) for p, q in zip(at_once, by_two, strict=True))


def test_rows_of_unusual_size_stand_beside_others():
    spec = SPECS["mlp"]
    a, rows = rows_of(spec, 1, 9)[0].float(), rows_of(spec, 4).float()
    rows[1], rows[3] = rows[1] * 1e13, rows[3] * 1e36  # squares of the last overflow in single precision
    scaled = rows.clone()
    together = match_all(a * 1e4, scaled, spec)
    for row, found in zip(rows.double(), together, strict=True):
        assert same(weight_matching(a.double() * 1e4, row, spec).permutation, found.permutation)
        assert torch.tensor(found.objective, dtype=torch.float64).isfinite().all() and not found.permutation.is_identity
    scaled[2, 3] = float("inf")
    with pytest.raises(ValueError, match="b must be one finite weight vector"):
        match_all(a, scaled, spec)


def test_all_rows_are_permuted_as_each_alone(spec):
    rows = rows_of(spec, 4).float()
    permutations = [spec.random(random_state(s)) for s in range(4)]
    orders = {g: torch.stack([p.indices[g] for p in permutations]) for g in spec.groups}
    moved = permute_rows(orders, spec, rows)
    assert moved.dtype == rows.dtype and moved.data_ptr() != rows.data_ptr()
    for row, new, permutation in zip(rows, moved, permutations, strict=True):
        assert torch.equal(new, spec.apply(permutation, row))
    if spec.groups:
        assert not torch.equal(moved, permute_rows({g: o.roll(1, 0) for g, o in orders.items()}, spec, rows))


def test_rotated_matchings_are_applied_one_by_one():
    spec = SPECS["vit, stream"]
    rows = rows_of(spec, 2)
    turned = [weight_matching(rows[0], row, spec.fix("stream")) for row in rows]
    dim = spec.groups["stream"]
    permutations = [type(m.permutation)({**m.permutation.indices, "stream": torch.arange(dim)}) for m in turned]
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=random_state(0), dtype=torch.float64))[0]
    matchings = [type(m)(p, m.objective, rotation=rotation) for m, p in zip(turned, permutations, strict=True)]
    moved = permute_all(matchings, spec, rows)
    assert torch.equal(moved[1], matchings[1].apply(spec, rows[1]))
    assert not torch.equal(moved[1], spec.apply(permutations[1], rows[1]))  # control: the rotation was not left out


# -- a start without an order ----------------------------------------------------------------------------------------


def test_growth_visits_every_coordinate_from_what_is_fixed(spec):
    order = spec.growth
    assert sorted(number for number, _ in order) == list(range(len(spec.coordinates)))
    for position, (_, unknown) in enumerate(order):
        later = {group for number, _ in order[position + 1 :] for group in spec.coordinates[number][1]}
        assert unknown == later


def test_a_grown_start_hangs_on_no_order_of_units(spec):
    a, rows = rows_of(spec, 1, 9)[0], rows_of(spec, 3)
    hidden = [spec.random(random_state(s)) for s in range(3)]
    shuffled = torch.stack([spec.apply(p, row) for p, row in zip(hidden, rows, strict=True)])
    ends, objectives = [], []
    for given in (rows, shuffled):
        grown = descents_of(spec, a, given, [spec.identity()] * 3, [0, 1, 2])
        grown.grow(torch.arange(3))
        ends.append(permute_rows(grown.orders, spec, given))
        objectives.append([history[0] for history in grown.history])
        parameters = [spec.parameters(row) for row in ends[-1]]
        assert objectives[-1] == pytest.approx([inner_product(spec.parameters(a), state) for state in parameters])
    assert torch.equal(*ends) and objectives[0] == pytest.approx(objectives[1])
    if spec.groups:
        assert not torch.equal(rows, shuffled)  # control: the identity, which is no start without an order


def test_a_grown_start_finds_what_descents_miss():
    """A permutation under much noise: from the identity the stream is lost, grown from its fixed ends it is not."""
    spec = PermutationSpec.of(ResNet((16, 32), 1, channels=3))
    found = {0: 0, 1: 0}
    for seed in range(6):
        a, hidden = rows_of(spec, 1, seed)[0], spec.random(random_state(seed))
        b = spec.apply(hidden, a + 3 * rows_of(spec, 1, seed + 100)[0])
        for restarts in found:
            back = weight_matching(a, b, spec, restarts=restarts, seed=seed).permutation
            found[restarts] += back.compose(hidden).is_identity
    assert found[1] > found[0]


def test_restarts_by_default_are_one_in_wide_streams_and_more_in_narrow_ones():
    assert default_restarts(PermutationSpec.of(ResNet((16, 32, 64), 1)), None) == 1
    assert default_restarts(PermutationSpec.of(ResNet((16, 32), 1)), None) == many.NARROW_RESTARTS
    assert default_restarts(SPECS["mlp"], None) == default_restarts(SPECS["vit"], None) == 0
    assert default_restarts(SPECS["mlp"], 3) == 3


# -- a zoo -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_zoo_in_parts_is_aligned_as_a_whole(rounds, monkeypatch, tmp_path):
    network = MLP([5, 7, 6, 4])
    zoo = Zoo(rows_of(SPECS["mlp"], 7).float(), Layout.of(network), network)
    whole = canonicalise(zoo, rounds=rounds)
    monkeypatch.setattr(many, "MATCHED_AT_ONCE", 3 * many.MATCHED_AT_ONCE // rows_at_once(SPECS["mlp"], 0))
    assert rows_at_once(SPECS["mlp"], 0) == 3
    disk = Zoo.load(zoo.save(tmp_path / "zoo"), network)
    for parts in (canonicalise(zoo, rounds=rounds), canonicalise(disk, rounds=rounds, folder=tmp_path / "aligned")):
        assert torch.equal(parts.in_memory().weights, whole.weights)
        stage, expected = parts.record["stages"][-1], whole.record["stages"][-1]
        assert stage["basis"] == expected["basis"]
        assert stage["objective_before"] == pytest.approx(expected["objective_before"])
        assert stage["objective_after"] == pytest.approx(expected["objective_after"])
    assert not torch.equal(whole.weights, zoo.weights)


# -- a GPU that is not there -----------------------------------------------------------------------------------------


def test_products_are_made_where_the_weights_are(spec):
    rows = rows_of(spec, 2).float()
    members = torch.tensor([0, 0, 1])
    orders = {g: torch.arange(n).expand(3, n).contiguous() for g, n in spec.groups.items()}
    state_a, state_b = spec.parameters(rows[0]), spec.parameters(rows)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
        fake_a = {name: torch.empty(t.shape, device="cuda") for name, t in state_a.items()}
        fake_b = {name: torch.empty(t.shape, device="cuda") for name, t in state_b.items()}
        moved = permute_state_of_many(fake_b, spec.axes, {g: o[:2] for g, o in orders.items()})
        assert all(tensor.device.type == "cuda" for tensor in moved.values())
        for group, n in spec.groups.items():
            for place in spec.places[group]:
                a, b = place.rows(fake_a, 0), place.rows(fake_b, 1)
                products = products_at(a, b, n, place.others, members, orders)
                assert products.device.type == "cuda" and products.shape == (3, n, n)
                with pytest.raises(RuntimeError, match="same device"):  # control: the reference stays behind
                    products_at(torch.empty(a.shape, device="cpu"), b, n, place.others, members, orders)
