"""Attention heads: what may move, and two ways to match them, on a small vision transformer."""

from itertools import permutations
from math import factorial

import pytest
import torch

from dwflow_lite import MLP, Recipe, load_task, train_zoo
from dwflow_lite.networks import ViT, architecture_of, build
from dwflow_lite.symmetry import (
    Permutation,
    PermutationSpec,
    Stretch,
    canonicalise,
    identity_matching,
    match_heads,
    weight_matching,
)
from dwflow_lite.zoo import Entry, Layout, predict

SMALL = dict(image=8, patch=4, dim=12, depth=2, heads=3, hidden=10, channels=1)


def rng(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def vit():
    return ViT(**SMALL).double().eval()


@pytest.fixture(scope="module")
def spec(vit):
    return PermutationSpec.of(ViT(**SMALL))


def weights(spec, seed):
    return torch.randn(spec.layout.size, generator=rng(seed), dtype=torch.float64) * 0.5


def inner(a, b):
    return float(a.double() @ b.double())


def test_the_papers_transformer_has_its_size():
    assert sum(p.numel() for p in ViT().parameters()) == 2_693_578
    again = build(architecture_of(ViT(**SMALL)))
    assert again.options == ViT(**SMALL).options and again(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    for wrong in ({"dim": 13}, {"patch": 3}, {"depth": 0}):
        with pytest.raises(ValueError, match="multiple of"):
            ViT(**SMALL | wrong)


def test_moving_heads_and_units_changes_no_output(vit, spec):
    x, w = torch.randn(5, 1, 8, 8, generator=rng(0)).double(), weights(spec, 0)
    spec.verify(vit, w, x)
    # one shared order of query and key, another of value and projection: they are independent
    assert spec.heads["block0"] == (3, ("block0.query-key", "block0.value"))
    per_block = factorial(3) * factorial(4) ** 6 * factorial(10)
    assert spec.count() == per_block**2


def test_an_order_that_tears_heads_is_refused_and_would_change_the_function(vit, spec):
    torn = dict(spec.random(rng(1)).indices)
    torn["block0.query-key"] = torch.randperm(12, generator=rng(2))
    with pytest.raises(ValueError, match="tears a head apart"):
        spec.columns(Permutation(torn))
    loose = PermutationSpec(spec.layout, spec.axes)  # the same axes, heads forgotten
    with pytest.raises(ValueError, match="no symmetry"):
        loose.verify(vit, weights(spec, 0), torch.randn(5, 1, 8, 8, generator=rng(0)))
    with pytest.raises(ValueError, match="not made of 5 equal heads"):
        PermutationSpec(spec.layout, spec.axes, {"block0": (5, ("block0.value",))})


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_order_is_recovered_exactly(spec, seed):
    a, planted = weights(spec, seed), spec.random(rng(seed + 10))
    b = spec.apply(planted, a)
    found = weight_matching(a, b, spec)
    assert torch.equal(spec.apply(found.permutation, b), a) and inner(a, b) < inner(a, a)
    assert found.objective[0] == pytest.approx(inner(a, b)) and found.objective[-1] == pytest.approx(inner(a, a))
    assert all(late >= early - 1e-9 for early, late in zip(found.objective, found.objective[1:], strict=False))


def test_the_published_heuristic_finds_tied_orders_only(spec):
    a = weights(spec, 0)
    recovered = {"tied": 0, "untied": 0}
    for seed in range(6):
        untied = dict(spec.random(rng(seed)).indices)
        tied = untied | {f"block{i}.value": untied[f"block{i}.query-key"] for i in (0, 1)}
        for name, planted in (("tied", tied), ("untied", untied)):
            b = spec.apply(Permutation(planted), a)
            found = match_heads(a, b, spec, "block0", "spectral").permutation.indices
            _, groups = spec.heads["block0"]
            recovered[name] += all(torch.equal(found[g], planted[g].argsort()) for g in groups)
    assert recovered == {"tied": 6, "untied": 0}


@pytest.mark.parametrize("seed", range(3))
def test_exact_is_never_below_spectral_and_both_are_symmetries(vit, spec, seed):
    a, b = weights(spec, 2 * seed), weights(spec, 2 * seed + 1)
    x, value = torch.randn(4, 1, 8, 8, generator=rng(0)).double(), {}
    for method in ("exact", "spectral"):
        moved = b
        for block in spec.heads:
            matching = match_heads(a, b, spec, block, method)
            assert matching.objective == [pytest.approx(inner(a, b)), pytest.approx(inner(a, matching.apply(spec, b)))]
            moved = matching.apply(spec, moved)  # blocks share no group
        before, after = (torch.func.functional_call(vit, spec.layout.unflatten(w), (x,)) for w in (b, moved))
        torch.testing.assert_close(before, after, rtol=1e-9, atol=1e-10)
        value[method] = inner(a, moved)
    assert value["exact"] > value["spectral"] and value["exact"] > inner(a, b)


def test_exact_is_the_best_of_all_orders():
    """Brute force over a block of two heads of two units: 2 · 2⁴ orders."""
    network = ViT(**SMALL | {"dim": 4, "heads": 2, "depth": 1})
    spec = PermutationSpec.of(network)
    a, b = weights(spec, 5), weights(spec, 6)
    matching = match_heads(a, b, spec, "block0")
    _, groups = spec.heads["block0"]
    values = []
    for order in permutations(range(2)):
        for flips in torch.cartesian_prod(*[torch.arange(2)] * 4).tolist():
            index = dict(spec.identity().indices)
            for g, (first, second) in zip(groups, (flips[:2], flips[2:]), strict=True):
                inside = torch.tensor([[first, 1 - first], [second, 1 - second]])
                index[g] = (torch.tensor(order)[:, None] * 2 + inside).flatten()
            values.append(inner(a, spec.apply(Permutation(index), b)))
    best = inner(a, matching.apply(spec, b))
    assert best == pytest.approx(max(values)) and len(values) == 32 and sorted(values)[-2] < best - 1e-9


def test_a_zoo_of_transformers_trains_and_aligns():
    task = load_task("digits")
    zoo = train_zoo(task, ViT(**SMALL), members=2, recipe=Recipe(epochs=1, batch_size=256, lr=3e-3))
    aligned = canonicalise(zoo)
    torch.testing.assert_close(predict(aligned, task.test.x), predict(zoo, task.test.x), rtol=1e-3, atol=1e-4)
    stage = aligned.record["stages"][-1]
    assert stage["objective_after"][1] > stage["objective_before"][1]


def test_bad_calls_are_named(spec):
    w = weights(spec, 0)
    with pytest.raises(ValueError, match="no method 'greedy'"):
        match_heads(w, w, spec, "block0", "greedy")
    layout = PermutationSpec.of(MLP([3, 4, 6, 2])).layout
    axes = {"layers.0.weight": ("a", None), "layers.0.bias": ("a",), "layers.1.weight": ("b", "a"),
            "layers.1.bias": ("b",), "layers.2.weight": (None, "b"), "layers.2.bias": (None,)}  # fmt: skip
    PermutationSpec(layout, axes, {"one": (2, ("a",)), "other": (2, ("b",))})
    with pytest.raises(ValueError, match="runs over its groups twice"):
        PermutationSpec(layout, axes, {"pair": (2, ("a", "b"))})


def test_one_block_is_matched_and_the_rest_stays(spec):
    a, b = weights(spec, 0), weights(spec, 1)
    matching, nothing = match_heads(a, b, spec, "block1"), identity_matching(a, b, spec)
    for group, order in matching.permutation.indices.items():
        stays = torch.equal(order, nothing.permutation.indices[group])
        assert stays == (group not in ("block1.query-key", "block1.value"))
    before, after = matching.objective
    assert before == nothing.objective[-1] < after == pytest.approx(inner(a, matching.apply(spec, b)))


@pytest.mark.parametrize("method", ["exact", "spectral"])
@pytest.mark.parametrize("seed", range(3))
def test_fused_queries_keys_and_values_match_as_separate_ones(method, seed):
    size, dim = 6, 5
    shapes = {"q": (size, dim), "k": (size, dim), "v": (size, dim), "o": (dim, size)}
    separate = Layout(tuple(Entry(f"{n}.weight", s, "float64") for n, s in shapes.items()))
    fused = Layout((Entry("qkv.weight", (3 * size, dim), "float64"), Entry("o.weight", (dim, size), "float64")))
    heads = {"block": (2, ("qk", "vo"))}
    units = {"q": ("qk", None), "k": ("qk", None), "v": ("vo", None), "o": (None, "vo")}
    one = PermutationSpec(separate, {f"{n}.weight": axes for n, axes in units.items()}, heads)
    rows = (Stretch("qk", size), Stretch("qk", size), Stretch("vo", size))
    other = PermutationSpec(fused, {"qkv.weight": (rows, None), "o.weight": (None, "vo")}, heads)
    states = [{f"{n}.weight": torch.randn(*s, generator=rng(2 * seed + i)).double() for n, s in shapes.items()}
              for i in range(2)]  # fmt: skip
    together = [{"qkv.weight": torch.cat([s[f"{n}.weight"] for n in "qkv"]), "o.weight": s["o.weight"]} for s in states]
    found = match_heads(*map(separate.flatten, states), one, "block", method).permutation.indices
    again = match_heads(*map(fused.flatten, together), other, "block", method).permutation.indices
    assert found.keys() == again.keys() and all(torch.equal(found[g], again[g]) for g in found)
    moved = other.permute(together[1], Permutation(again))["qkv.weight"]
    assert torch.equal(moved[size : 2 * size], states[1]["k.weight"][found["qk"]])
    assert not torch.equal(moved, together[1]["qkv.weight"])


def test_a_block_that_is_not_there_is_refused():
    spec = PermutationSpec.of(MLP([3, 4, 2]))
    weights = torch.zeros(spec.layout.size)
    with pytest.raises(ValueError, match=r"no block 'x' with heads: choose one of \(none\)"):
        match_heads(weights, weights, spec, "x")
