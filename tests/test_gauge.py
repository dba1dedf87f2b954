"""Continuous symmetries: every gauge keeps the function, undoes a planted one, and is reached once and for all."""

import pytest
import torch
from torch import nn

from dwflow_lite import MLP, Zoo
from dwflow_lite.batchnorm import norms_with_statistics, without_statistics
from dwflow_lite.networks import BERT, ResNet, ViT
from dwflow_lite.symmetry import Permutation, PermutationSpec
from dwflow_lite.symmetry.gauge import balance_relu, fix_circuits, fix_gauge, normalise_filters
from dwflow_lite.zoo import Layout, batched_forward, predict

NETWORKS = {
    "mlp": lambda: MLP([64, 7, 6, 5, 3]),
    "resnet": lambda: ResNet((4, 6), 2, channels=1),
    "vit": lambda: ViT(image=8, patch=4, dim=12, depth=2, heads=3, hidden=10, channels=1),
}
TIGHT = dict(rtol=1e-9, atol=1e-10)
KINDS = pytest.mark.parametrize("kind", NETWORKS)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def random_zoo(network, members=4, seed=0):
    """Random weights in float64: gains of both signs, running means off zero and running variances of any size."""
    network = network.double()
    layout = Layout.of(network)
    weights = torch.randn(members, layout.size, generator=rng(seed), dtype=torch.float64) * 0.5
    for name, columns in layout.slices.items():
        if name.endswith("running_var"):
            weights[:, columns] = weights[:, columns].exp() + 0.01
    return Zoo(weights, layout, network)


def images(n=9):
    return torch.randn(n, 1, 8, 8, generator=rng(99), dtype=torch.float64)


def train_mode(zoo, x):
    """Outputs (N, n, outputs) of networks that normalise by the batch."""
    parameters = {n: t for n, t in zoo.layout.unflatten(zoo.weights).items() if zoo.layout[n].role == "parameter"}
    return batched_forward(without_statistics(zoo.network), parameters, x, shared_input=True).detach()


def changed(zoo, **tensors):
    """The zoo with some tensors replaced, in place of the dots ``__`` in their names."""
    state = zoo.layout.unflatten(zoo.weights) | {name.replace("__", "."): t for name, t in tensors.items()}
    return Zoo(zoo.layout.flatten(state), zoo.layout, zoo.network)


def planted(zoo, seed=1, wrong=False):
    """Other weights of the same functions, by a random gauge of the zoo's kind; ``wrong``: one side is forgotten."""
    g, state = rng(seed), {n: t.clone() for n, t in zoo.layout.unflatten(zoo.weights).items()}
    members = len(zoo)

    def scales(n):
        return torch.empty(members, n, dtype=torch.float64).uniform_(-1.2, 1.2, generator=g).exp()

    if isinstance(zoo.network, MLP):
        for i, width in enumerate(zoo.network.sizes[1:-1]):
            c = scales(width)
            state[f"layers.{i}.weight"] *= c[..., None]
            state[f"layers.{i}.bias"] *= c
            state[f"layers.{i + 1}.weight"] /= 1.0 if wrong else c[:, None]
    elif isinstance(zoo.network, ResNet):
        for norm, module in norms_with_statistics(zoo.network).items():
            conv = norm.replace("stem_norm", "stem").replace("norm", "conv").replace("cut.1", "cut.0")
            size = scales(module.num_features)
            sign = torch.randint(2, size.shape, generator=g) * 2.0 - 1
            before = (state[f"{norm}.running_var"] + module.eps).sqrt()
            state[f"{conv}.weight"] *= (size * sign)[..., None, None, None]
            state[f"{norm}.running_mean"] *= size * sign
            state[f"{norm}.running_var"] *= size**2
            after = (state[f"{norm}.running_var"] + module.eps).sqrt()
            state[f"{norm}.weight"] *= 1.0 if wrong else after / before / size * sign
    else:
        heads, units = zoo.network.blocks[0].heads, zoo.network.options["dim"] // zoo.network.blocks[0].heads
        for i in range(len(zoo.network.blocks)):
            qk, vo = torch.randn(2, members, heads, units, units, generator=g, dtype=torch.float64)
            other = torch.eye(units, dtype=torch.float64) if wrong else qk.inverse().mT
            for layer, mix in (("query", qk), ("key", other), ("value", vo)):
                for part in ("weight", "bias"):
                    t = state[f"blocks.{i}.{layer}.{part}"].reshape(members, heads, units, -1)
                    state[f"blocks.{i}.{layer}.{part}"] = (mix @ t).reshape_as(state[f"blocks.{i}.{layer}.{part}"])
            project = state[f"blocks.{i}.project.weight"].unflatten(2, (heads, units))
            state[f"blocks.{i}.project.weight"] = torch.einsum("nohu,nhuv->nohv", project, vo.inverse()).flatten(2)
    return Zoo(zoo.layout.flatten(state), zoo.layout, zoo.network)


@KINDS
def test_outputs_stay_and_weights_do_not(kind):
    zoo, x = random_zoo(NETWORKS[kind]()), images()
    fixed = fix_gauge(zoo)
    torch.testing.assert_close(predict(fixed, x), predict(zoo, x), **TIGHT)
    assert float((fixed.weights - zoo.weights).abs().max()) > 0.1
    control = planted(zoo, wrong=True)  # one side rescaled or mixed, the other not
    assert float((predict(control, x) - predict(zoo, x)).abs().max()) > 1e-2


@KINDS
def test_a_planted_gauge_is_undone(kind):
    zoo, x = random_zoo(NETWORKS[kind]()), images()
    twin = planted(zoo)
    torch.testing.assert_close(predict(twin, x), predict(zoo, x), **TIGHT)
    assert float((twin.weights - zoo.weights).abs().max()) > 0.5
    torch.testing.assert_close(fix_gauge(twin).weights, fix_gauge(zoo).weights, rtol=1e-7, atol=1e-8)
    control = fix_gauge(planted(zoo, wrong=True))  # other functions have other canonical weights
    assert float((control.weights - fix_gauge(zoo).weights).abs().max()) > 1e-2


@KINDS
def test_it_is_done_once_and_each_member_by_itself(kind):
    zoo = random_zoo(NETWORKS[kind]())
    fixed = fix_gauge(zoo)
    torch.testing.assert_close(fix_gauge(fixed).weights, fixed.weights, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(fix_gauge(zoo.take([2])).weights[0], fixed.weights[2], rtol=1e-8, atol=1e-9)


@KINDS
def test_a_zoo_keeps_its_dtype_record_and_tensors(kind):
    plain = random_zoo(NETWORKS[kind]())
    for dtype in (torch.float32, torch.float64):
        network = NETWORKS[kind]().to(dtype)
        zoo = Zoo(plain.weights.to(dtype), Layout.of(network), network, {"scores": {"test": [1.0] * 4}})
        before = zoo.weights.clone()
        fixed = fix_gauge(zoo)
        assert fixed.weights.dtype == dtype and torch.equal(zoo.weights, before) and "stages" not in zoo.record
        assert fixed.record["stages"][-1]["stage"] == "fix gauge" and fixed.record["scores"] == zoo.record["scores"]
        exact = fix_gauge(Zoo(zoo.weights.double(), plain.layout, plain.network)).weights
        assert torch.equal(fixed.weights, exact.to(dtype)) and not torch.equal(fixed.weights, zoo.weights)
        x = images().to(dtype)
        torch.testing.assert_close(predict(fixed, x), predict(zoo, x), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", ["mlp", "resnet"])
def test_it_commutes_with_permuting(kind):
    zoo = random_zoo(NETWORKS[kind]())
    spec = PermutationSpec.of(zoo.network)
    move = spec.random(rng(5))
    first = fix_gauge(Zoo(spec.apply(move, zoo.weights), zoo.layout, zoo.network)).weights
    torch.testing.assert_close(first, spec.apply(move, fix_gauge(zoo).weights), rtol=1e-8, atol=1e-9)
    assert float((first - fix_gauge(zoo).weights).abs().max()) > 0.1


def test_circuits_commute_with_the_order_of_heads_and_forget_the_order_inside():
    zoo = random_zoo(NETWORKS["vit"]())
    spec, fixed = PermutationSpec.of(zoo.network), fix_circuits(zoo)
    both = spec.random(rng(5))
    heads, inside = dict(spec.identity().indices), dict(spec.identity().indices)
    for block, (number, groups) in spec.heads.items():
        for group in groups:
            units = spec.groups[group] // number
            order = both.indices[group].view(number, units)[:, :1] // units
            heads[group] = (order * units + torch.arange(units)).flatten()
            rows = [torch.randperm(units, generator=rng(7 * h)) + h * units for h in range(number)]
            inside[group] = torch.cat(rows)
        heads[f"{block}.hidden"] = both.indices[f"{block}.hidden"]
    for move, after in ((heads, Permutation(heads)), (inside, spec.identity())):
        moved = spec.apply(Permutation(move), zoo.weights)
        assert float((moved - zoo.weights).abs().max()) > 0.1
        found = fix_circuits(Zoo(moved, zoo.layout, zoo.network)).weights
        torch.testing.assert_close(found, spec.apply(after, fixed.weights), rtol=1e-7, atol=1e-8)
    torn = spec.apply(Permutation(inside), fixed.weights)  # control: what does not commute
    assert float((torn - fixed.weights).abs().max()) > 0.1


# -- ReLU --------------------------------------------------------------------------------------------------------


def imbalance(zoo):
    """Largest |log| of the ratio of norms on the two sides of a unit."""
    state, worst = zoo.layout.unflatten(zoo.weights), 0.0
    for i in range(len(zoo.network.layers) - 1):
        inward = (state[f"layers.{i}.weight"].square().sum(-1) + state[f"layers.{i}.bias"].square()).sqrt()
        outward = state[f"layers.{i + 1}.weight"].square().sum(-2).sqrt()
        worst = max(worst, float((outward / inward).log().abs().max()))
    return worst


def test_sides_agree_at_the_fixed_point_and_not_after_one_sweep():
    zoo = random_zoo(NETWORKS["mlp"]())
    assert imbalance(balance_relu(zoo)) < 1e-8
    once = balance_relu(zoo, tolerance=float("inf"))
    assert once.record["stages"][-1]["sweeps"] == 1 and imbalance(once) > 1e-2
    shallow = random_zoo(MLP([64, 7, 3]))  # one hidden layer: one sweep is enough
    assert imbalance(balance_relu(shallow, tolerance=float("inf"))) < 1e-12
    with pytest.raises(RuntimeError, match="not balanced after 2 sweeps"):
        balance_relu(zoo, max_sweeps=2)
    linear = random_zoo(MLP([64, 3]))
    assert torch.equal(balance_relu(linear).weights, linear.weights)


def test_the_balanced_network_is_the_smallest_of_its_copies():
    zoo = random_zoo(NETWORKS["mlp"]())
    least = balance_relu(zoo).weights.square().sum(1)
    for seed in range(5):
        assert (planted(zoo, seed).weights.square().sum(1) > least * 1.01).all()


def test_dead_and_unused_units_keep_their_scale():
    zoo = random_zoo(MLP([64, 7, 3]))
    first, bias, last = (
        zoo.layout.unflatten(zoo.weights)[f"layers.{n}"].clone() for n in ("0.weight", "0.bias", "1.weight")
    )
    first[:, 0], bias[:, 0], last[:, :, 1] = 0, 0, 0
    zoo = changed(zoo, layers__0__weight=first, layers__0__bias=bias, layers__1__weight=last)
    fixed = balance_relu(zoo)
    state = zoo.layout.unflatten(fixed.weights)
    assert torch.equal(state["layers.0.weight"][:, :2], first[:, :2]) and torch.equal(
        state["layers.1.weight"][..., :2], last[..., :2]
    )
    assert not torch.isclose(state["layers.0.weight"][:, 2:], first[:, 2:]).any()
    torch.testing.assert_close(predict(fixed, images()), predict(zoo, images()), **TIGHT)


# -- BatchNorm ---------------------------------------------------------------------------------------------------


def test_filters_have_norm_one_and_gains_are_positive():
    zoo = random_zoo(NETWORKS["resnet"]())
    before, after = (zoo.layout.unflatten(z.weights) for z in (zoo, normalise_filters(zoo)))
    for name, filters in after.items():
        if filters.ndim == 5:
            norms = filters.flatten(2).norm(dim=-1)
            torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-12, atol=0)
            assert not torch.isclose(before[name].flatten(2).norm(dim=-1), norms).all()
    gains = [name.removesuffix("running_mean") + "weight" for name in after if name.endswith("running_mean")]
    assert len(gains) == 10 and all((after[g] >= 0).all() and (before[g] < 0).any() for g in gains)


@pytest.mark.parametrize("eps, tolerance", [(1e-5, 1e-3), (1e-13, 1e-9)])
def test_in_training_mode_only_eps_is_seen(eps, tolerance):
    network, x = NETWORKS["resnet"](), images(16)
    for norm in norms_with_statistics(network).values():
        norm.eps = eps
    zoo = random_zoo(network)
    fixed, wrong = normalise_filters(zoo), planted(zoo, wrong=True)
    for mode, allowed in ((predict, 1e-10), (train_mode, tolerance)):
        scale = float(mode(zoo, x).abs().max())
        off = float((mode(fixed, x) - mode(zoo, x)).abs().max()) / scale
        assert off < allowed and float((mode(wrong, x) - mode(zoo, x)).abs().max()) / scale > 1e-2
        if eps == 1e-5 and mode is train_mode:
            assert off > 1e-8  # eps is seen


def test_a_gain_that_ignores_eps_is_not_exact():
    """Control: without the correction for eps, channels of small variance are off in eval mode too."""
    zoo = random_zoo(NETWORKS["resnet"]())
    small = {n: t * 1e-5 for n, t in zoo.layout.unflatten(zoo.weights).items() if n.endswith("running_var")}
    zoo = Zoo(zoo.layout.flatten(zoo.layout.unflatten(zoo.weights) | small), zoo.layout, zoo.network)
    fixed, x = normalise_filters(zoo), images()
    torch.testing.assert_close(predict(fixed, x), predict(zoo, x), **TIGHT)
    naive = zoo.layout.unflatten(zoo.weights)["stem_norm.weight"].abs()
    off = (predict(changed(fixed, stem_norm__weight=naive), x) - predict(zoo, x)).abs().max()
    assert float(off / predict(zoo, x).abs().max()) > 1e-3


def test_filters_of_zeros_stay():
    zoo = random_zoo(NETWORKS["resnet"]())
    stem = zoo.layout.unflatten(zoo.weights)["stem.weight"].clone()
    stem[:, 1] = 0
    zoo = changed(zoo, stem__weight=stem)
    fixed = normalise_filters(zoo)
    before, after = (zoo.layout.unflatten(z.weights) for z in (zoo, fixed))
    for part in ("stem.weight", "stem_norm.weight", "stem_norm.running_mean", "stem_norm.running_var"):
        assert torch.equal(before[part][:, 1], after[part][:, 1]) and not torch.equal(before[part], after[part])
    torch.testing.assert_close(predict(fixed, images()), predict(zoo, images()), **TIGHT)


# -- attention ---------------------------------------------------------------------------------------------------


def test_circuits_are_those_of_the_whole_product():
    """Against the singular values of the dim x dim product that is never formed; units are in their order."""
    zoo = random_zoo(NETWORKS["vit"]())
    before, after = (zoo.layout.unflatten(z.weights) for z in (zoo, fix_circuits(zoo)))

    def sides(state, layers):
        rows = [torch.cat([state[f"blocks.1.{n}.weight"], state[f"blocks.1.{n}.bias"][..., None]], -1) for n in layers]
        return [r.unflatten(1, (3, 4)) for r in rows]  # (N, heads, units, dim + 1)

    (query, key), (q, k) = (sides(s, ("query", "key")) for s in (before, after))
    (value,), (v,) = (sides(s, ("value",)) for s in (before, after))
    out, o = (s["blocks.1.project.weight"].unflatten(2, (3, 4)).permute(0, 2, 3, 1) for s in (before, after))
    for left, right, fixed_left, fixed_right in ((query, key, q, k), (out, value, o, v)):
        right = torch.cat([right[..., :-1], torch.zeros_like(right[..., :1])], -1)  # biases attention does not need
        torch.testing.assert_close(fixed_left.mT @ fixed_right, left.mT @ right, **TIGHT)
        values = torch.linalg.svdvals(left.mT @ right)[..., :4]
        for side in (fixed_left, fixed_right):
            torch.testing.assert_close(side @ side.mT, values.diag_embed(), rtol=1e-8, atol=1e-9)
        largest = fixed_left.gather(-1, fixed_left.abs().argmax(-1, keepdim=True))
        assert (largest > 0).all() and not torch.allclose(left @ left.mT, values.diag_embed())


# -- errors, and what is left ------------------------------------------------------------------------------------


class Child(MLP):
    pass


def swapped():
    network = MLP([64, 4, 3])
    network.activation = nn.Softmax(-1)
    return network


def biased():
    network = ResNet((4,), 1, channels=1)
    network.stem = nn.Conv2d(1, 4, 3, padding=1)  # its bias would have to be rescaled too
    return network


@pytest.mark.parametrize(
    "network, named",
    [
        (lambda: MLP([64, 4, 3], "gelu"), "MLP with GELU"),
        (lambda: MLP([64, 4, 3], "identity"), "MLP with Identity"),
        (swapped, "MLP with Softmax"),
        (lambda: Child([64, 4, 3]), "Child"),
        (lambda: ResNet((4,), 1, channels=1, norm="layer"), "ResNet with norm='layer'"),
        (lambda: without_statistics(ResNet((4,), 1, channels=1)), "ResNet with norm='batch'"),
        (biased, "plain ResNet"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), "Sequential"),
    ],
)
def test_a_network_without_a_known_gauge_is_named(network, named):
    zoo = random_zoo(network())
    with pytest.raises(ValueError, match=named):
        fix_gauge(zoo)
    kind = type(zoo.network).__name__
    for fix, fits in ((balance_relu, "MLP"), (normalise_filters, "ResNet"), (fix_circuits, "ViT")):
        with pytest.raises(ValueError, match=named if kind == fits else kind):
            fix(zoo)


def test_a_negative_variance_is_refused():
    zoo = random_zoo(NETWORKS["resnet"]())
    variance = zoo.layout.unflatten(zoo.weights)["stem_norm.running_var"]
    with pytest.raises(ValueError, match=r"stem_norm has running variances below zero: recalibrate"):
        normalise_filters(changed(zoo, stem_norm__running_var=-variance))


def test_what_is_left_free():
    """Functions agree and canonical weights do not: ReLU's scale after a BatchNorm."""
    x, zoo = images(), random_zoo(NETWORKS["resnet"]())
    state = {n: t.clone() for n, t in zoo.layout.unflatten(zoo.weights).items()}
    block = "stages.0.0"
    for name, factor in ((f"{block}.norm1.weight", 2.0), (f"{block}.norm1.bias", 2.0)):
        state[name][:, 0] *= factor
    state[f"{block}.conv2.weight"][:, :, 0] /= 2.0
    scaled = Zoo(zoo.layout.flatten(state), zoo.layout, zoo.network)
    torch.testing.assert_close(predict(scaled, x), predict(zoo, x), **TIGHT)
    assert float((fix_gauge(scaled).weights - fix_gauge(zoo).weights).abs().max()) > 1e-2


def test_biases_that_attention_does_not_need():
    x, zoo = images(), random_zoo(NETWORKS["vit"]())
    state = {n: t.clone() for n, t in zoo.layout.unflatten(zoo.weights).items()}
    keyed = changed(zoo, blocks__0__key__bias=state["blocks.0.key.bias"] + 1)
    moved = torch.einsum("noi,ni->no", state["blocks.0.project.weight"], state["blocks.0.value.bias"])
    folded = changed(zoo, blocks__0__value__bias=torch.zeros_like(state["blocks.0.value.bias"]),
                     blocks__0__project__bias=state["blocks.0.project.bias"] + moved)  # fmt: skip
    for other in (keyed, folded):
        assert float((other.weights - zoo.weights).abs().max()) > 0.1
        torch.testing.assert_close(predict(other, x), predict(zoo, x), **TIGHT)
        torch.testing.assert_close(fix_gauge(other).weights, fix_gauge(zoo).weights, **TIGHT)
    queried = changed(zoo, blocks__0__query__bias=state["blocks.0.query.bias"] + 1)  # control: this one is needed
    assert float((predict(queried, x) - predict(zoo, x)).abs().max()) > 1e-3


def test_circuits_of_a_bert_are_fixed_too():
    network = BERT(vocabulary=9, length=6, dim=12, depth=2, heads=3, hidden=10, outputs=2).double()
    layout = Layout.of(network)
    weights = torch.randn(3, layout.size, generator=rng(0), dtype=torch.float64) * 0.3
    zoo, tokens = Zoo(weights, layout, network), torch.randint(1, 9, (5, 6), generator=rng(1))
    state = {name: tensor.clone() for name, tensor in layout.unflatten(weights).items()}
    mix = torch.randn(3, 4, 4, generator=rng(2), dtype=torch.float64)  # one for each head
    for layer, by in (("query", mix), ("key", mix.inverse().mT)):
        for part in ("weight", "bias"):
            name = f"bert.encoder.layer.0.attention.self.{layer}.{part}"
            state[name] = (by @ state[name].reshape(3, 3, 4, -1)).reshape_as(state[name])
    twin = Zoo(layout.flatten(state), layout, network)
    torch.testing.assert_close(predict(twin, tokens), predict(zoo, tokens), **TIGHT)
    fixed = fix_gauge(zoo)
    torch.testing.assert_close(predict(fixed, tokens), predict(zoo, tokens), **TIGHT)
    torch.testing.assert_close(fix_gauge(twin).weights, fixed.weights, rtol=1e-7, atol=1e-8)
    assert float((twin.weights - weights).abs().max()) > 0.1 and float((fixed.weights - weights).abs().max()) > 0.1
