"""Symmetry: permuting units changes no function, matching undoes a permutation, one basis, and the barrier."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import permutations
from math import factorial, log10

import numpy as np
import pytest
import torch
from torch import nn

from dwflow_lite.networks import MLP, ResNet, ViT
from dwflow_lite.symmetry import (
    Permutation,
    PermutationSpec,
    Stretch,
    activation_matching,
    basis_of,
    canonicalise,
    coordinate_descent,
    derive_spec,
    fix_gauge,
    identity_matching,
    interpolate,
    linear_barrier,
    match_all,
    match_each,
    match_neighbours,
    permute_all,
    permute_axes,
    weight_matching,
)
from dwflow_lite.tasks import load_task
from dwflow_lite.training import Recipe, train_zoo
from dwflow_lite.zoo import Entry, Layout, Zoo, evaluate, predict


class Pooled(nn.Module):
    """A reader's own convolutional network: tensors of four axes, and a mean over positions before the head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 5, 3)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))).mean((-2, -1)))


POOLED_AXES = {
    "first.weight": ("a", None, None, None), "first.bias": ("a",),
    "second.weight": ("b", "a", None, None), "second.bias": ("b",),
    "head.weight": (None, "b"), "head.bias": (None,),
}  # fmt: skip


def random_state(seed):
    return torch.Generator().manual_seed(seed)


def random_weights(spec, seed, scale=1.0):
    weights = scale * torch.randn(spec.layout.size, generator=random_state(seed), dtype=torch.float64)
    for name, columns in spec.layout.slices.items():
        if name.endswith("running_var"):
            weights[columns] = weights[columns].abs() + 0.1
    return weights


def outputs(network, layout, weights, x):
    return torch.func.functional_call(network, layout.unflatten(weights), (x,))


def same(p, q):
    return p.indices.keys() == q.indices.keys() and all(torch.equal(i, q.indices[g]) for g, i in p.indices.items())


def inner(a, b):
    return float(a.double() @ b.double())


class Fused(nn.Module):
    """A convolution flattened into a linear layer, then attention whose queries, keys and values are one layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.qkv = nn.Linear(8, 24)
        self.first = nn.Linear(4 * 4 * 4, 16)
        self.project = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.conv(x)).flatten(1)
        x = self.first(x).unflatten(1, (2, 8))  # two tokens of eight
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        y = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.project(y.transpose(1, 2).flatten(2)).sum(1)


QKV = (Stretch("qk", 8), Stretch("qk", 8), Stretch("vo", 8))
FUSED_AXES = {
    "conv.weight": ("c", None, None, None), "conv.bias": ("c",),
    "first.weight": (None, (Stretch("c", 4, 16),)), "first.bias": (None,),
    "qkv.weight": (QKV, None), "qkv.bias": (QKV,), "project.weight": (None, "vo"), "project.bias": (None,),
}  # fmt: skip
FUSED_HEADS = {"attention": (2, ("qk", "vo"))}


CASES = {
    "relu": (MLP([5, 7, 6, 4]), (5,)),
    "tanh": (MLP([5, 7, 6, 4], "tanh"), (5,)),
    "one group": (MLP([5, 9, 2], "gelu"), (5,)),
    "convolutions": (Pooled(), (2, 6, 6)),
    "resnet, batch norm": (ResNet((4, 6), 2, channels=2, outputs=3), (2, 6, 6)),
    "resnet, layer norm": (ResNet((4, 6), 2, channels=2, outputs=3, norm="layer"), (2, 6, 6)),
    "transformer": (ViT(8, 4, 12, 2, 3, hidden=10, channels=2, outputs=3), (2, 8, 8)),
    "transformer, stream": (ViT(8, 4, 12, 2, 3, hidden=10, channels=2, outputs=3), (2, 8, 8)),
    "fused": (Fused(), (2, 6, 6)),
}


def case(name):
    network, shape = CASES[name]
    if name == "convolutions":
        spec = PermutationSpec(Layout.of(network), POOLED_AXES)
    elif name == "fused":
        spec = PermutationSpec(Layout.of(network), FUSED_AXES, FUSED_HEADS)
    else:
        spec = PermutationSpec.of(network, stream=name.endswith("stream"))
    return network.double().eval(), spec, torch.randn(11, *shape, generator=random_state(3), dtype=torch.float64)


# -- spec and permutations ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_permuting_units_changes_no_output(name):
    network, spec, x = case(name)
    w = random_weights(spec, 0, 0.5)
    for seed in range(5):
        permutation = spec.random(random_state(seed))
        moved = spec.apply(permutation, w)
        assert not torch.equal(moved, w)
        assert torch.equal(moved.sort().values, w.sort().values)
        torch.testing.assert_close(
            outputs(network, spec.layout, moved, x), outputs(network, spec.layout, w, x), rtol=1e-10, atol=1e-11
        )


@pytest.mark.parametrize("name", CASES)
def test_moving_one_tensor_alone_changes_outputs(name):
    network, spec, x = case(name)
    w = random_weights(spec, 0, 0.5)
    permutation, before = spec.random(random_state(1)), outputs(network, spec.layout, w, x)
    for tensor, groups in spec.axes.items():
        if not any(groups) or tensor.endswith("key.bias"):  # softmax does not see a key bias
            continue
        state = dict(spec.layout.unflatten(w))
        state[tensor] = permute_axes(state[tensor], groups, permutation)
        after = outputs(network, spec.layout, spec.layout.flatten(state), x)
        assert (after - before).abs().max() > 1e-3, tensor
        # and a spec that forgets this tensor is no symmetry either
        corrupted = PermutationSpec(spec.layout, dict(spec.axes) | {tensor: (None,) * len(groups)})
        part = Permutation({g: permutation.indices[g] for g in corrupted.groups})
        after = outputs(network, spec.layout, corrupted.apply(part, w), x)
        assert (after - before).abs().max() > 1e-3, tensor


@pytest.mark.parametrize("name", CASES)
def test_permuting_units_changes_no_output_in_training_mode(name):
    """BatchNorm normalises by the batch there, and its running statistics come out permuted as well."""
    network, spec, x = case(name)
    network, w = deepcopy(network).train(), random_weights(spec, 0, 0.5)
    permutation = spec.random(random_state(1))
    states = [{n: t.clone() for n, t in spec.layout.unflatten(v).items()} for v in (w, spec.apply(permutation, w))]
    before, after = (torch.func.functional_call(network, state, (x,)) for state in states)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-10)
    measured = [spec.layout.flatten(state) for state in states]
    torch.testing.assert_close(measured[1], spec.apply(permutation, measured[0]), rtol=1e-9, atol=1e-10)
    assert not torch.allclose(measured[1], measured[0])  # control: not the same without permuting


def test_a_batch_is_permuted_row_by_row():
    _, spec, _ = case("relu")
    batch = torch.stack([random_weights(spec, s) for s in range(3)])
    permutation = spec.random(random_state(0))
    assert torch.equal(spec.apply(permutation, batch)[1], spec.apply(permutation, batch[1]))
    with pytest.raises(ValueError, match="do not fit a layout"):
        spec.apply(permutation, batch[:, :-1])


@pytest.mark.parametrize("name", CASES)
def test_permutations_form_a_group(name):
    _, spec, _ = case(name)
    p, q, r = (spec.random(random_state(s)) for s in range(3))
    one, w = spec.identity(), random_weights(spec, 1)
    assert one.is_identity and not p.is_identity
    assert same(p.compose(one), p) and same(one.compose(p), p)
    assert p.compose(p.inverse()).is_identity and p.inverse().compose(p).is_identity
    assert same(p.compose(q).compose(r), p.compose(q.compose(r)))
    assert torch.equal(spec.apply(p.compose(q), w), spec.apply(p, spec.apply(q, w)))
    assert torch.equal(spec.apply(p.inverse(), spec.apply(p, w)), w)
    assert torch.equal(spec.apply(one, w), w)
    # the order matters, or the two laws above would hold for a wrong compose as well
    assert not torch.equal(spec.apply(p.compose(q), w), spec.apply(q, spec.apply(p, w)))


def test_copies_are_counted():
    spec = PermutationSpec.of(MLP([784, 32, 32, 10]))
    assert spec.groups == {"hidden0": 32, "hidden1": 32}
    assert spec.count() == factorial(32) ** 2
    assert spec.log10_count() == pytest.approx(log10(factorial(32) ** 2), rel=1e-12)
    small = PermutationSpec.of(MLP([2, 3, 4, 2, 1]))
    assert small.count() == 6 * 24 * 2 and small.log10_count() == pytest.approx(log10(288))
    linear = PermutationSpec.of(MLP([4, 3]))
    assert linear.count() == 1 and linear.log10_count() == 0 and linear.identity().is_identity


LAYOUT = Layout.of(MLP([3, 4, 2]))
AXES = {
    "layers.0.weight": ("h", None), "layers.0.bias": ("h",), "layers.1.weight": (None, "h"), "layers.1.bias": (None,)
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.0.bias": None}, r"missing \['layers.0.bias'\]"),
        ({"layers.9.bias": ("h",)}, r"unknown \['layers.9.bias'\]"),
        ({"layers.0.weight": ("h",)}, r"1 axes for 'layers.0.weight'"),
        ({"layers.0.bias": ("h", None)}, r"2 axes for 'layers.0.bias'"),
        ({"layers.1.bias": ("h",)}, r"group 'h' has 4 units in .* but 2 in 'layers.1.bias'"),
        ({"layers.0.weight": ("h", "h")}, "one group on two axes"),
    ],
)
def test_a_spec_that_does_not_fit(change, message):
    assert PermutationSpec(LAYOUT, AXES).groups == {"h": 4}  # unchanged it fits
    axes = {k: v for k, v in (AXES | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        PermutationSpec(LAYOUT, axes)


@pytest.mark.parametrize("network", [nn.Linear(3, 2), Pooled(), MLP([3, 4, 2], "identity")])
def test_networks_without_a_known_spec(network):
    with pytest.raises(ValueError, match=rf"no permutation spec is known for {type(network).__name__}.*align=None"):
        PermutationSpec.of(network)


@pytest.mark.parametrize("index", [[0, 0, 1], [1, 2, 3], [-1, 0, 1], [0, 2]])
def test_what_is_no_permutation(index):
    assert same(Permutation({"g": torch.tensor([1, 2, 0])}), Permutation({"g": torch.tensor([1, 2, 0])}))
    with pytest.raises(ValueError, match=r"group 'g': .* is not a permutation"):
        Permutation({"g": torch.tensor(index)})


def test_a_permutation_of_another_network_is_refused():
    spec, other = PermutationSpec(LAYOUT, AXES), PermutationSpec.of(MLP([3, 5, 2]))
    for wrong in (other.identity(), Permutation({"h": torch.arange(5)}), Permutation({})):
        with pytest.raises(ValueError, match="other groups or sizes"):
            spec.columns(wrong)


# -- weight matching ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_permutation_is_recovered(name, seed):
    _, spec, _ = case(name)
    a, planted = random_weights(spec, seed), spec.random(random_state(seed + 10))
    b = spec.apply(planted, a)
    found = weight_matching(a, b, spec)
    assert same(found.permutation, planted.inverse())
    assert torch.equal(spec.apply(found.permutation, b), a)
    assert not torch.equal(spec.apply(spec.identity(), b), a) and inner(a, b) < found.objective[-1]


@pytest.mark.parametrize("name", CASES)
def test_matching_of_every_architecture(name):
    """Unrelated weights: monotone, idempotent, itself to itself, the same function, whatever the order of tensors."""
    network, spec, x = case(name)
    a, b = random_weights(spec, 20), random_weights(spec, 21)
    found = weight_matching(a, b, spec, restarts=0, seed=1)
    moved, parameters = spec.apply(found.permutation, b), counted(spec)
    assert all(late >= early for early, late in zip(found.objective, found.objective[1:], strict=False))
    assert found.objective[-1] > found.objective[0] == pytest.approx(inner(a[parameters], b[parameters]))
    assert found.objective[-1] == pytest.approx(inner(a[parameters], moved[parameters]))
    torch.testing.assert_close(
        outputs(network, spec.layout, moved, x), outputs(network, spec.layout, b, x), rtol=1e-9, atol=1e-10
    )
    assert weight_matching(a, moved, spec, restarts=0, seed=1).permutation.is_identity
    assert weight_matching(a, a, spec).permutation.is_identity and not found.permutation.is_identity

    entries = spec.layout.entries
    shuffled = Layout(tuple(entries[i] for i in torch.randperm(len(entries), generator=random_state(0)).tolist()))
    other = PermutationSpec(shuffled, dict(reversed(spec.axes.items())), dict(reversed(spec.heads.items())))
    again = weight_matching(*(shuffled.flatten(spec.layout.unflatten(w)) for w in (a, b)), other, restarts=0, seed=1)
    assert shuffled != spec.layout and same(again.permutation, found.permutation)
    if len(spec.coordinates) > 4:  # control: another order of visits does end elsewhere
        assert any(
            not same(weight_matching(a, b, spec, restarts=0, seed=s).permutation, found.permutation)
            for s in range(2, 9)
        )


def counted(spec):
    return torch.cat([torch.full((e.size,), e.role == "parameter") for e in spec.layout.entries])


@pytest.mark.parametrize("name", CASES)
def test_running_statistics_have_no_say(name):
    _, spec, _ = case(name)
    a, b = random_weights(spec, 1), random_weights(spec, 2)
    shifted = b + 100 * ~counted(spec)
    found = weight_matching(a, b, spec).permutation
    assert same(weight_matching(a, shifted, spec).permutation, found)
    if spec.layout.entries[-1].role == "buffer":
        assert not torch.equal(spec.apply(found, shifted), shifted)  # but they are permuted


def test_streams_are_restarted_and_plain_layers_not():
    tied = {name for name in CASES if case(name)[1].tied}
    assert tied == {"resnet, batch norm", "resnet, layer norm", "transformer, stream"}
    for name in CASES:
        _, spec, _ = case(name)
        a, b = random_weights(spec, 1), random_weights(spec, 2)
        assert len(weight_matching(a, b, spec).starts) == (5 if name in tied else 1)
        assert len(weight_matching(a, b, spec, restarts=2).starts) == 3
    with pytest.raises(ValueError, match="restarts must be None or a whole number >= 0"):
        weight_matching(a, b, spec, restarts=-1)


def planted_and_found(spec, restarts, noise=3.0, seeds=20):
    """How many permutations of some networks, hidden under noise, are found again whole."""
    found = 0
    for seed in range(seeds):
        a, hidden = random_weights(spec, seed), spec.random(random_state(seed))
        b = spec.apply(hidden, a + noise * random_weights(spec, seed + 100))
        back = weight_matching(a, b, spec, restarts=restarts, seed=seed).permutation
        found += back.compose(hidden).is_identity
    return found


def test_a_noisy_plant_in_a_stream_needs_restarts():
    """Git Re-Basin's issue 8: a tied stream leaves local optima even where the truth is known."""
    spec = PermutationSpec.of(ResNet((16,), 1, channels=1, outputs=2, norm="layer"))
    assert spec.tied and spec.groups == {"stage0.block0": 16, "stream0": 16}
    # Of 60 seeds 35 and 57 are found. The default is as many restarts as here.
    assert planted_and_found(spec, restarts=0) <= 14
    assert planted_and_found(spec, restarts=4) >= 17
    # control: the stream alone is one assignment, solved exactly: nothing is left for restarts to find
    alone = spec.fix("stage0.block0")
    assert planted_and_found(alone, restarts=0) == planted_and_found(alone, restarts=4) == 20


def test_groups_can_be_held_fixed():
    vit = ViT(8, 4, 12, 2, 3, hidden=10, channels=2, outputs=3)
    free, fixed = PermutationSpec.of(vit, stream=True), PermutationSpec.of(vit)
    assert free.fix("stream") == fixed and "stream" in free.groups and "stream" not in fixed.groups
    halves = PermutationSpec(Layout.of(Fused()), FUSED_AXES, FUSED_HEADS).fix("qk")
    assert halves.heads == {"attention": (2, ("vo",))} and "qk" not in halves.groups
    assert not PermutationSpec(Layout.of(Fused()), FUSED_AXES, FUSED_HEADS).fix("qk", "vo").heads
    w, p = random_weights(halves, 0), halves.random(random_state(0))
    moved = halves.layout.unflatten(halves.apply(p, w))["qkv.weight"]
    assert torch.equal(moved[:16], halves.layout.unflatten(w)["qkv.weight"][:16])  # queries and keys stay
    with pytest.raises(ValueError, match=r"no groups \['hidden'\]"):
        free.fix("hidden")


def test_a_block_of_heads_on_two_axes_of_one_tensor_is_refused():
    """Its two groups could not be solved apart, whichever axes they are."""
    layout = Layout(tuple(Entry(n, s, "float64") for n, s in (("mix", (5, 4, 4)), ("read", (4, 3)), ("write", (3, 4)))))
    axes = {"mix": (None, "one", "other"), "read": ("one", None), "write": (None, "other")}
    assert PermutationSpec(layout, axes).count() == 24**2  # two free groups may
    PermutationSpec(layout, axes | {"mix": (None, "one", None)}, {"block": (2, ("one", "other"))})
    with pytest.raises(ValueError, match="'mix' runs over its groups twice"):
        PermutationSpec(layout, axes, {"block": (2, ("one", "other"))})


def test_stretches_must_fill_their_axis():
    layout = Layout.of(Fused())
    with pytest.raises(ValueError, match=r"do not fill an axis of 64 places of 'first\.weight'"):
        PermutationSpec(layout, FUSED_AXES | {"first.weight": (None, (Stretch("c", 4, 15),))}, FUSED_HEADS)
    wrong = PermutationSpec(layout, FUSED_AXES | {"first.weight": (None, (Stretch(None, 48), Stretch("c", 4, 4)))},
                            FUSED_HEADS)  # fmt: skip
    with pytest.raises(ValueError, match="no symmetry"):  # it fits, and is wrong
        wrong.verify(Fused(), random_weights(wrong, 0), torch.randn(3, 2, 6, 6))


def hard_pair(seed, sizes=(3, 8, 8, 8, 2)):
    """Two unrelated networks: many local optima."""
    spec = PermutationSpec.of(MLP(list(sizes)))
    return spec, random_weights(spec, 2 * seed), random_weights(spec, 2 * seed + 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_objective_climbs_to_the_inner_product(seed):
    spec, a, b = hard_pair(seed)
    found = weight_matching(a, b, spec, seed=seed)
    history = torch.tensor(found.objective, dtype=torch.float64)
    assert (history.diff() >= 0).all() and history[-1] > history[0]
    assert history[0] == pytest.approx(inner(a, b))
    assert history[-1] == pytest.approx(inner(a, spec.apply(found.permutation, b)))
    assert found.objective[-1] == found.starts[0] and len(history) > len(spec.groups)


@pytest.mark.parametrize("seed", range(4))
def test_a_matched_network_stays_where_it_is(seed):
    spec, a, b = hard_pair(seed)
    assert weight_matching(a, a, spec).permutation.is_identity
    found = weight_matching(a, b, spec, seed=seed)
    assert not found.permutation.is_identity
    again = weight_matching(a, spec.apply(found.permutation, b), spec, seed=seed + 7)
    assert again.permutation.is_identity and len(set(again.objective)) == 1
    assert len(again.objective) == 1 + len(spec.groups)  # every group is visited once, and never again


@pytest.mark.parametrize("seed", range(4))
def test_one_group_is_solved_exactly(seed):
    spec, a, b = hard_pair(seed, (3, 5, 2))
    every = [Permutation({"hidden0": torch.tensor(p)}) for p in permutations(range(5))]
    values = [inner(a, spec.apply(p, b)) for p in every]
    found = weight_matching(a, b, spec)
    assert found.objective[-1] == pytest.approx(max(values))
    assert same(found.permutation, every[values.index(max(values))])
    assert sorted(values)[-2] < max(values) - 1e-6  # a second best would have been noticed


def test_restarts_never_lower_the_objective():
    helped = 0
    for seed in range(4):
        spec, a, b = hard_pair(seed)
        alone, more = weight_matching(a, b, spec), weight_matching(a, b, spec, restarts=6)
        assert len(more.starts) == 7 and more.starts[0] == alone.objective[-1] == alone.starts[0]
        assert more.objective[-1] == max(more.starts) >= alone.objective[-1]
        assert more.objective[-1] == pytest.approx(inner(a, spec.apply(more.permutation, b)))
        helped += more.objective[-1] > alone.objective[-1] + 1e-6
    assert helped  # the pairs do have several local optima
    with pytest.raises(ValueError, match="restarts"):
        weight_matching(a, b, spec, restarts=-1)


def test_matching_is_seeded_and_touches_nothing():
    spec, a, b = hard_pair(0)
    kept, state = (a.clone(), b.clone()), torch.get_rng_state()
    results = [weight_matching(a, b, spec, restarts=3, seed=s) for s in (0, 0, 1)]
    assert torch.equal(a, kept[0]) and torch.equal(b, kept[1]) and torch.equal(torch.get_rng_state(), state)
    assert same(results[0].permutation, results[1].permutation) and results[0].starts == results[1].starts
    assert results[0].starts != results[2].starts


def test_weights_that_cannot_be_matched():
    spec, a, b = hard_pair(0)
    bad = b.clone()
    bad[3] = float("nan")
    for first, second, message in [
        (a, bad, "b must be one finite"), (bad, a, "a must be one finite"), (a, b[:-1], "do not fit"),
        (a, torch.stack([b, b]), r"b must be one finite weight vector \(d,\)"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            weight_matching(first, second, spec)
    with pytest.raises(RuntimeError, match="raise max_sweeps"):
        weight_matching(a, b, spec, max_sweeps=1)


def test_a_watched_descent_shows_every_update():
    spec, a, b = hard_pair(1)
    tensors, updates = [spec.layout.unflatten(w) for w in (a, b)], []
    descent = coordinate_descent(*tensors, spec, spec.identity(), random_state(0), watch=lambda *u: updates.append(u))
    permutation, objective = descent.permutation, descent.objective
    assert len(updates) == len(objective) - 1
    state = dict(spec.identity().indices)
    for (similarities, orders), early, late in zip(updates, objective, objective[1:], strict=False):
        (group, similarity), order = *similarities.items(), orders[next(iter(orders))]
        gain = float(similarity.gather(1, order[:, None]).sum() - similarity.trace())
        assert late - early == pytest.approx(gain, abs=1e-9)
        state[group] = state[group][order]
    assert same(Permutation(state), permutation) and any(o.diff().ne(1).any() for _, u in updates for o in u.values())


def test_networks_matched_together_come_out_as_alone():
    spec, a, _ = hard_pair(0)
    rows = torch.stack([random_weights(spec, s) for s in range(7)])
    threads = torch.get_num_threads()
    together = match_each(lambda w: weight_matching(a, w, spec, restarts=2, seed=3), rows)
    assert torch.get_num_threads() == threads
    for w, found in zip(rows, together, strict=True):
        alone = weight_matching(a, w, spec, restarts=2, seed=3)
        assert same(found.permutation, alone.permutation) and found.starts == alone.starts
    assert not same(together[0].permutation, together[1].permutation)  # the order of the answers is that of the rows
    with pytest.raises(ValueError, match="b must be one finite"):
        match_each(lambda w: weight_matching(a, w, spec), [rows[0], rows[1] * float("nan")])


def test_a_matching_moves_weights_by_itself():
    spec, a, b = hard_pair(0)
    matching = weight_matching(a, b, spec, restarts=2)
    assert torch.equal(matching.apply(spec, b), spec.apply(matching.permutation, b))
    rows = torch.stack([a, b])
    assert torch.equal(matching.apply(spec, rows)[1], matching.apply(spec, b))
    assert not torch.equal(matching.apply(spec, b), b) and matching.rotation is None
    assert matching.objective[-1] == max(matching.starts) == pytest.approx(inner(a, matching.apply(spec, b)))


def test_the_matcher_that_moves_nothing():
    spec, a, b = hard_pair(0)
    nothing = identity_matching(a, b, spec)
    assert nothing.permutation.is_identity and torch.equal(nothing.apply(spec, b), b)
    assert nothing.objective == weight_matching(a, b, spec).objective[:1] == [pytest.approx(inner(a, b))]
    with pytest.raises(ValueError, match="b must be one finite"):
        identity_matching(a, b * float("nan"), spec)


def test_a_matching_for_every_row_and_for_every_neighbour():
    spec, a, _ = hard_pair(0)
    rows = torch.stack([random_weights(spec, s) for s in range(4)])
    together = match_all(a, rows, spec, restarts=1, seed=3)
    moved = permute_all(together, spec, rows)
    for row, new, matching in zip(rows, moved, together, strict=True):
        alone = weight_matching(a, row, spec, restarts=1, seed=3)
        assert same(matching.permutation, alone.permutation) and torch.equal(new, alone.apply(spec, row))
    with pytest.raises(ValueError, match="3 matchings do not fit 4 rows"):
        permute_all(together[:3], spec, rows)

    zoo = Zoo(rows, spec.layout, MLP([3, 8, 8, 8, 2]))
    lines, pairs = match_neighbours(zoo, spec, lambda one, other: weight_matching(one, other, spec))
    assert pairs == [(0, 1), (2, 3), (4, 5), (6, 7)] and torch.equal(lines.weights[::2], rows)
    assert torch.equal(lines.weights[7], weight_matching(rows[3], rows[0], spec).apply(spec, rows[0]))
    plain, _ = match_neighbours(zoo, spec, lambda one, other: identity_matching(one, other, spec))
    assert torch.equal(plain.weights[1::2], rows.roll(-1, 0))  # control: nobody moved
    assert (rows * lines.weights[1::2]).sum() > (rows * plain.weights[1::2]).sum()


# -- a whole zoo ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return load_task("digits")


@pytest.fixture(scope="module")
def trained(digits):
    return train_zoo(digits, MLP([64, 16, 10]), members=5, held_out=1, recipe=Recipe(epochs=10, lr=5e-3))


@pytest.fixture(scope="module")
def aligned(trained):
    return canonicalise(trained)


def near_zoo(noise=0.05):
    """Six networks close to one: their best permutation is not in doubt."""
    network = MLP([8, 6, 6, 3])
    spec = PermutationSpec.of(network)
    centre = random_weights(spec, 0).float()
    shake = torch.randn(6, spec.layout.size, generator=random_state(1))
    return Zoo(centre + noise * shake, spec.layout, network, {"scores": {"test": [0.5] * 6}}), spec


def test_an_aligned_zoo_computes_the_same(trained, aligned, digits):
    before = trained.weights.clone()
    x = digits.validation.x
    torch.testing.assert_close(predict(aligned, x), predict(trained, x), rtol=1e-4, atol=1e-4)
    assert torch.equal(aligned.weights[0], trained.weights[0]) and torch.equal(trained.weights, before)
    assert not torch.equal(aligned.weights[1:], trained.weights[1:])
    assert (predict(aligned, x)[1] - predict(trained, x)[2]).abs().max() > 0.1  # two members do differ
    assert torch.equal(aligned.scores("test"), trained.scores("test")) and aligned.held_out == trained.held_out


def test_the_record_of_alignment(trained, aligned):
    stage = aligned.record["stages"][-1]
    assert stage["stage"] == "canonicalise" and stage["reference"] == 0 and not trained.record["stages"]
    before, after = stage["objective_before"], stage["objective_after"]
    assert len(before) == len(after) == len(trained)
    assert all(late >= early - 1e-9 for early, late in zip(before, after, strict=True))
    assert all(late > early for early, late in zip(before[1:], after[1:], strict=True))
    target = aligned.weights[0]
    assert after == pytest.approx([inner(target, w) for w in aligned.weights])
    assert before == pytest.approx([inner(target, w) for w in trained.weights])


def test_alignment_forgets_in_which_order_units_stood():
    zoo, spec = near_zoo()
    shuffled = zoo.weights.clone()
    for member in range(1, 6):
        shuffled[member] = spec.apply(spec.random(random_state(member)), shuffled[member])
    assert not torch.equal(shuffled, zoo.weights)
    permuted = Zoo(shuffled, zoo.layout, zoo.network, zoo.record)
    assert torch.equal(canonicalise(permuted).weights, canonicalise(zoo).weights)
    assert torch.equal(canonicalise(permuted).weights, zoo.weights)
    assert torch.equal(canonicalise(permuted, reference=zoo.weights[0]).weights, zoo.weights)
    other = canonicalise(permuted, reference=3)  # another reference, another basis
    assert torch.equal(other.weights[3], shuffled[3]) and not torch.equal(other.weights, zoo.weights)


@pytest.mark.parametrize("name", CASES)
def test_the_canonical_form_forgets_the_order_in_every_architecture(name):
    network, spec, _ = case(name)
    centre = random_weights(spec, 0)
    near = centre + 0.05 * torch.stack([random_weights(spec, s) for s in range(1, 5)])
    shuffled = torch.stack([near[0]] + [spec.apply(spec.random(random_state(m)), near[m]) for m in range(1, 4)])
    zoo, permuted = (Zoo(w, spec.layout, network) for w in (near, shuffled))
    assert not torch.equal(shuffled, near)
    for rounds in (0, 3):  # small groups: a descent may end elsewhere, five more do not
        plain = canonicalise(zoo, spec, rounds=rounds, restarts=5).weights
        assert torch.equal(canonicalise(permuted, spec, rounds=rounds, restarts=5).weights, plain)
    assert torch.equal(plain, near)


def test_references_that_are_refused(trained):
    with pytest.raises(ValueError, match="reference 5 is held out"):
        canonicalise(trained, reference=5)
    for reference in (6, -1):
        with pytest.raises(ValueError, match=f"reference {reference} is not a member of a zoo of 6"):
            canonicalise(trained, reference=reference)
    with pytest.raises(ValueError, match="do not fit"):
        canonicalise(trained, reference=torch.zeros(3))
    with pytest.raises(ValueError, match="another layout"):
        canonicalise(trained, PermutationSpec.of(MLP([64, 17, 10])))
    zoo, _ = near_zoo()
    custom = Zoo(torch.randn(2, 5), Layout.of(nn.Linear(4, 1)), nn.Linear(4, 1))
    with pytest.raises(ValueError, match="no permutation spec is known for Linear"):
        canonicalise(custom)
    assert len(canonicalise(zoo)) == 6


def spread(zoo):
    fitted = zoo.fitted.weights.double()
    return float((fitted - fitted.mean(0)).square().sum() / len(fitted))


def test_a_universe_only_tightens_the_zoo(trained, aligned, digits):
    universe = canonicalise(trained, rounds=10)
    stage = universe.record["stages"][-1]
    assert all(late <= early for early, late in zip(stage["spread"], stage["spread"][1:], strict=False))
    assert stage["spread"][0] == pytest.approx(spread(aligned), rel=1e-5)
    assert stage["spread"][-1] == pytest.approx(spread(universe), rel=1e-5)
    assert stage["spread"][-1] < stage["spread"][0] - 0.1 < spread(trained) - 0.2
    assert len(stage["spread"]) < 11  # it ended because nobody moved
    x = digits.validation.x
    torch.testing.assert_close(predict(universe, x), predict(trained, x), rtol=1e-4, atol=1e-4)
    again = canonicalise(universe, reference=universe.fitted.weights.mean(0))
    assert torch.equal(again.weights, universe.weights)


def test_held_out_members_have_no_say_in_the_universe(trained):
    other = trained.weights.clone()
    other[-1] = 50 * torch.randn(len(other[0]), generator=random_state(0))
    changed = Zoo(other, trained.layout, trained.network, held_out=trained.held_out)
    one, two = (canonicalise(z, rounds=10).weights for z in (trained, changed))
    assert torch.equal(one[:-1], two[:-1]) and not torch.equal(one[-1], two[-1])
    seen = Zoo(other, trained.layout, trained.network)
    assert not torch.equal(canonicalise(seen, rounds=10).weights[:-1], one[:-1])  # control: now it has a say


def test_cycles_close_through_a_reference_and_not_between_pairs(trained):
    spec, (a, b, c) = PermutationSpec.of(trained.network), trained.weights[:3]

    def to(x, y):
        return weight_matching(y, x, spec).permutation

    assert not to(c, a).compose(to(b, c)).compose(to(a, b)).is_identity
    common = [to(w, trained.weights[4]) for w in (a, b, c)]
    through = [common[(i + 1) % 3].inverse().compose(common[i]) for i in range(3)]
    assert through[2].compose(through[1]).compose(through[0]).is_identity


def test_bases_differ_by_rounds_gauge_and_members(trained):
    bases = [basis_of(z) for z in (
        trained, canonicalise(trained), canonicalise(trained, rounds=3), canonicalise(trained.take(range(4)), rounds=3),
        fix_gauge(trained), canonicalise(fix_gauge(trained)),
    )]  # fmt: skip
    assert len({repr(b) for b in bases}) == 6
    assert basis_of(canonicalise(trained)) == basis_of(canonicalise(trained.take(range(4))))
    with pytest.raises(ValueError, match="rounds must be a whole number >= 0"):
        canonicalise(trained, rounds=-1)


# -- the line between two networks ----------------------------------------------------------------------


def test_interpolation_runs_from_end_to_end():
    a, b = torch.randn(2, 3, 7, generator=random_state(0))
    line = interpolate(a, b, torch.tensor([0.0, 0.25, 1.0]))
    assert line.shape == (3, 3, 7)
    assert torch.equal(line[:, 0], a) and torch.equal(line[:, 2], b)
    torch.testing.assert_close(line[:, 1], 0.75 * a + 0.25 * b)


PAIRS = [(0, 1), (0, 2), (3, 4), (1, 4)]


def test_a_barrier_curve_ends_at_its_members(trained, digits):
    curve = linear_barrier(trained, PAIRS, digits, points=5)
    members = evaluate(trained, digits, "validation")
    assert curve.loss.shape == curve.score.shape == (4, 5)
    for column, end in ((0, 0), (-1, 1)):
        rows = [pair[end] for pair in PAIRS]
        torch.testing.assert_close(curve.score[:, column], members.score[rows])
        torch.testing.assert_close(curve.loss[:, column], members.loss[rows], rtol=1e-4, atol=1e-5)
    rise = (curve.loss - ((1 - curve.t) * curve.loss[:, :1] + curve.t * curve.loss[:, -1:])).max(1).values
    torch.testing.assert_close(curve.loss_barrier, rise)
    other = evaluate(trained, digits, "test").score[[0, 0, 3, 1]]
    torch.testing.assert_close(linear_barrier(trained, PAIRS, digits, split="test", points=3).score[:, 0], other)


def test_no_barrier_to_oneself(trained, digits):
    own = linear_barrier(trained, [(i, i) for i in range(3)], digits, points=5)
    torch.testing.assert_close(own.loss_barrier, torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(own.score_barrier, torch.zeros(3), rtol=0, atol=1e-6)
    assert linear_barrier(trained, [(0, 1)], digits, points=5).loss_barrier > 0.05


def test_alignment_lowers_the_barrier(trained, aligned, digits):
    naive, better = (linear_barrier(z, PAIRS, digits, points=11) for z in (trained, aligned))
    assert better.loss_barrier.mean() < naive.loss_barrier.mean()
    assert better.score_barrier.mean() < naive.score_barrier.mean()
    # a member and its permuted self: a barrier that alignment removes altogether
    spec = PermutationSpec.of(trained.network)
    twin = spec.apply(spec.random(random_state(2)), trained.weights[0])
    pair = Zoo(torch.stack([trained.weights[0], twin]), trained.layout, trained.network)
    assert linear_barrier(pair, [(0, 1)], digits, points=5).loss_barrier > 0.1
    joined = linear_barrier(canonicalise(pair), [(0, 1)], digits, points=5)
    torch.testing.assert_close(joined.loss_barrier, torch.zeros(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("pairs", "points"), [([], 5), ([(0, 1)], 2)])
def test_a_barrier_needs_pairs_and_points(trained, digits, pairs, points):
    with pytest.raises(ValueError, match=r"at least one pair .*and three points"):
        linear_barrier(trained, pairs, digits, points=points)


def test_a_spec_that_is_no_symmetry_is_found_out(trained):
    network, spec, x = case("convolutions")
    w = random_weights(spec, 0, 0.5)
    spec.verify(network, w, x)
    broken = PermutationSpec(spec.layout, dict(spec.axes) | {"first.bias": (None,)})
    with pytest.raises(ValueError, match="it is no symmetry of this Pooled"):
        broken.verify(network, w, x)
    zoo = Zoo(torch.stack([w, -w]), spec.layout, network, {"scores": {"test": [0.1, 0.2]}})
    with pytest.raises(ValueError, match="no symmetry"):
        canonicalise(zoo, broken, probe=x)
    assert "scores" in canonicalise(zoo, spec, probe=x).record
    assert "scores" not in canonicalise(zoo, spec).record  # trusted, so nothing is claimed of the functions
    assert "scores" in canonicalise(trained).record


class Shifted(MLP):
    def forward(self, x):
        return super().forward(x).cumsum(-1)


def test_a_network_that_only_looks_like_an_mlp_has_no_known_spec():
    swapped = MLP([3, 4, 2])
    swapped.activation = nn.Softmax(-1)
    for network in (Shifted([3, 4, 2]), swapped):
        with pytest.raises(ValueError, match="no permutation spec is known"):
            PermutationSpec.of(network)


@pytest.mark.parametrize("reference", [1.0, "0", True])
def test_a_reference_is_a_position(trained, reference):
    with pytest.raises(ValueError, match="position of a member or a weight vector"):
        canonicalise(trained, reference=reference)


def test_a_reference_of_ones_own_is_checked(trained):
    for wrong in (trained.weights[:2], trained.weights[0] * float("nan")):
        with pytest.raises(ValueError, match="one finite weight vector"):
            canonicalise(trained, reference=wrong)


def test_permutations_of_other_kinds_are_refused():
    with pytest.raises(ValueError, match="int64"):
        Permutation({"g": torch.tensor([0.0, 1.0])})
    with pytest.raises(ValueError, match="same groups and sizes"):
        Permutation({"g": torch.arange(2)}).compose(Permutation({"g": torch.arange(3)}))


def test_matchings_and_permutations_equal_themselves_alone():
    _, spec, _ = case("relu")
    a, b = random_weights(spec, 1), random_weights(spec, 2)
    one, other = weight_matching(a, b, spec), weight_matching(a, b, spec)
    assert one == one and one != other and one.permutation != other.permutation
    assert len({one, other, one}) == 2
    assert other.permutation.compose(one.permutation.inverse()).is_identity  # control: they move alike


def test_matchers_refuse_what_is_not_finite_and_seeds_that_are_none():
    network, spec, x = case("relu")
    a, b = random_weights(spec, 1), random_weights(spec, 2)
    with pytest.raises(ValueError, match="a must be one finite weight vector"):
        activation_matching(a * float("nan"), b, spec, network, x)
    for inputs in (x[:0], x * float("nan")):
        with pytest.raises(ValueError, match="x must be finite inputs"):
            activation_matching(a, b, spec, network, inputs)
    activation_matching(a, b, spec, network, x)  # control
    with pytest.raises(ValueError, match="seed must be a whole number"):
        weight_matching(a, b, spec, seed=None)
    plain, numpy = (weight_matching(a, b, spec, restarts=3, seed=seed) for seed in (2, np.int64(2)))
    assert plain.starts == numpy.starts


def test_a_zoo_aligned_by_numpy_numbers_can_be_saved(tmp_path):
    zoo = Zoo.from_modules([MLP([3, 4, 2]) for _ in range(3)])
    aligned = canonicalise(zoo, reference=np.int64(1), restarts=np.int64(1), rounds=np.int64(1), seed=np.int64(2))
    plain = canonicalise(zoo, reference=1, restarts=1, rounds=1, seed=2)
    assert Zoo.load(aligned.save(tmp_path / "aligned.safetensors")).record == plain.record


def test_lines_between_zoos_run_in_one_basis(trained, digits):
    aligned = canonicalise(trained)
    first, second = aligned.take([0, 1]), aligned.take([2, 3, 4])
    between = linear_barrier(first, [(0, 2), (1, 0)], digits, points=3, repaired=False, other=second)
    within = linear_barrier(aligned, [(0, 4), (1, 2)], digits, points=3, repaired=False)
    assert torch.equal(between.loss, within.loss) and torch.equal(between.score, within.score)
    for other, difference in (
        (canonicalise(trained, reference=1), "the references differ"),
        (fix_gauge(aligned), "balance"),
    ):
        with pytest.raises(ValueError, match=f"not in one basis .*{difference}"):
            linear_barrier(first, [(0, 0)], digits, points=3, repaired=False, other=other)
    with pytest.raises(ValueError, match="another architecture"):
        linear_barrier(first, [(0, 0)], digits, other=Zoo.from_modules([MLP([64, 5, 10])]))
    for pair in ((2, 0), (0, 3), (-1, 0)):
        with pytest.raises(ValueError, match="no pair"):
            linear_barrier(first, [pair], digits, other=second)


def test_wrong_arguments_of_alignment_and_lines_are_said(trained, digits):
    spec, other = PermutationSpec.of(trained.network), nn.Sequential(nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 10))
    x = digits.train.x[:4]
    stranger = Zoo.from_modules([other, deepcopy(other)])
    for call, kind, message in (
        (lambda: canonicalise(spec, trained), TypeError, "a zoo is made by .* got PermutationSpec"),
        (lambda: canonicalise([trained], spec), TypeError, "a zoo is made by"),
        (lambda: canonicalise(trained, trained.network), TypeError, "spec must be a PermutationSpec .* not MLP"),
        (lambda: canonicalise(trained, spec, probe=digits), TypeError, "inputs of networks are a tensor"),
        (lambda: canonicalise(trained, spec, probe=x[..., :5]), ValueError, "do not take a probe .* of shape"),
        (lambda: canonicalise(trained, reference=trained.network), ValueError, "got a value of class MLP$"),
        (lambda: derive_spec(x, other), TypeError, "a network is a module"),
        (lambda: derive_spec(other, x.numpy()), TypeError, "inputs of networks are a tensor"),
        (lambda: linear_barrier([trained], [(0, 1)], digits), TypeError, "a zoo is made by"),
        (lambda: linear_barrier(trained, digits, [(0, 1)]), TypeError, "a task is made by"),
        (
            lambda: linear_barrier(trained, (0, 1), digits),
            TypeError,
            r"at least one pair .* as \[\(0, 1\)\].*; got \(0, 1\)",
        ),
        (lambda: linear_barrier(trained, [(0, 1.5)], digits), TypeError, "at least one pair"),
        (lambda: linear_barrier(trained, [(0, 1)], digits, spec=other), TypeError, "spec must be"),
        (lambda: linear_barrier(trained, [(0, 1)], digits, other=[trained]), TypeError, "a zoo is made by"),
        (lambda: canonicalise(stranger), ValueError, "no permutation spec is known for Sequential"),
    ):
        with pytest.raises(kind, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    curve = linear_barrier(trained, np.array([[0, 1]]), digits, points=3, repaired=False)  # control
    assert curve.loss.shape == (1, 3) and len(canonicalise(trained, spec, probe=x)) == len(trained)


def test_a_line_that_cannot_be_repaired_says_how_to_measure_it_as_it_is(digits):
    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.head = nn.GRU(8, 4, batch_first=True), nn.Linear(4, 10)

        def forward(self, x):
            return self.head(self.read(x.flatten(0, 1))[0][:, -1])

    zoo = Zoo.from_modules([Reading(), Reading()])
    with pytest.warns(UserWarning, match="recurrent"):
        spec = derive_spec(Reading(), digits.train.x[:4], unknown="fix")
    for of in (None, spec):
        with pytest.raises(ValueError, match=r"cannot be repaired \(no .*\); repaired=False measures them as they are"):
            linear_barrier(zoo, [(0, 1)], digits, points=3, spec=of)
    assert linear_barrier(zoo, [(0, 1)], digits, points=3, repaired=False).loss.isfinite().all()  # control


def test_held_out_networks_alone_are_aligned_to_given_weights(trained):
    some = trained.take([0, 1, 5])
    unseen = replace(some, held_out=(True,) * 3)
    alone = canonicalise(unseen, reference=trained.weights[2])
    assert torch.equal(alone.weights, canonicalise(some, reference=trained.weights[2]).weights)  # control: seen ones
    assert alone.record["stages"][-1]["spread"] == [0.0]
    with pytest.raises(
        ValueError, match=r"rounds match to the mean of members that generators may see, and .* has none"
    ):
        canonicalise(unseen, reference=trained.weights[2], rounds=1)
