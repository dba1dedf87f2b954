"""Networks and layouts: starts of the stated law, and a bijection between tensors and vectors."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from dwflow_lite.networks import (
    ACTIVATIONS,
    BERT,
    INITS,
    MLP,
    NETWORKS,
    ResNet,
    ViT,
    architecture_of,
    behaviour_of,
    build,
    initialise,
)
from dwflow_lite.networks.constants import first_difference, keys_of, packed, template_on, unpacked
from dwflow_lite.symmetry import Permutation, PermutationSpec, derive_spec, permute_axes
from dwflow_lite.tasks import Task
from dwflow_lite.training import Recipe, train_zoo
from dwflow_lite.zoo import Entry, Layout, Zoo, batched_forward


class Raw(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x * self.scale)


class Resettable(Raw):
    def reset_parameters(self):
        nn.init.normal_(self.scale)


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


# -- networks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[], [3], [3, 0, 2], [3, -1], [3, 2.0], [3, "4"]])
def test_bad_sizes(sizes):
    with pytest.raises(ValueError, match="sizes must be at least two whole numbers"):
        MLP(sizes)


def test_bad_activation():
    with pytest.raises(ValueError, match="no activation 'sigmoid': choose one of relu"):
        MLP([3, 2], "sigmoid")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_is_the_written_formula(activation):
    network, x = (
        MLP([12, 5, 4, 2], activation),
        torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(0)),
    )
    h, act = x.reshape(7, 12), ACTIVATIONS[activation]()
    for layer in list(network.layers)[:-1]:
        h = act(h @ layer.weight.T + layer.bias)
    last = network.layers[-1]
    torch.testing.assert_close(network(x), h @ last.weight.T + last.bias)


def test_a_network_is_rebuilt_from_its_description():
    network = MLP([4, 3, 2], "tanh")
    again = build(json.loads(json.dumps(architecture_of(network))))
    assert Layout.of(again) == Layout.of(network) and again.activation_name == "tanh"
    assert NETWORKS["MLP"] is MLP


def test_a_readers_own_class_is_named_and_not_rebuilt():
    class Doubled(MLP):
        def forward(self, x):
            return 2 * super().forward(x)

    class MyMLP(nn.Linear):
        pass

    MyMLP.__qualname__ = "MLP"
    for network in (Raw(), Doubled([4, 2]), MyMLP(2, 2)):
        assert architecture_of(network)["custom"]
        with pytest.raises(ValueError, match=r"pass a module of that class, network="):
            build(architecture_of(network))


def test_a_changed_network_is_not_described_as_the_plain_one():
    rng = torch.get_rng_state()
    assert "custom" not in architecture_of(MLP([4, 3, 2]).double().eval().requires_grad_(False))  # control
    torch.set_rng_state(rng)
    network = MLP([4, 3, 2])
    after = torch.get_rng_state()
    architecture_of(network)
    assert torch.equal(torch.get_rng_state(), after)  # describing draws nothing
    changed = [MLP([4, 3, 2]) for _ in range(3)]
    changed[0].activation = nn.Tanh()
    changed[1].layers[1] = nn.Linear(3, 2, bias=False)
    changed[2].forward = lambda x: x
    assert all(architecture_of(c)["custom"] for c in changed)
    assert "Tanh" in architecture_of(changed[0])["modules"]


class Formula(nn.Module):
    def __init__(self, formula):
        super().__init__()
        self.linear, self.out, self.formula = nn.Linear(4, 6), nn.Linear(6, 2), formula
        self.register_buffer("scale", torch.ones(6))

    def forward(self, x):
        return self.out(self.formula(self.linear(x)) * self.scale)


class Single(Formula):
    def forward(self, x):
        return super().forward(x.float())


def test_behaviour_tells_forward_passes_apart_and_not_weights():
    torch.manual_seed(0)
    one, other = Formula(torch.relu), Formula(torch.relu)
    other.scale += 2.0  # a tensor of the layout, so a weight
    rng, kept = torch.get_rng_state(), deepcopy(one.state_dict())
    found = behaviour_of(one, (4,))
    assert len(found) == 4 and len(set(found)) == 4
    assert found == behaviour_of(other.double(), (4,)) == behaviour_of(one, [4], training=True)
    assert same(kept, one.state_dict()) and one.training and torch.equal(torch.get_rng_state(), rng)
    formulas = [torch.sin, nn.functional.gelu, nn.functional.relu6, lambda x: 2 * torch.relu(x)]
    others = [Formula(f) for f in formulas] + [Formula(nn.functional.dropout), Single(torch.relu), Single(torch.sin)]
    assert len({tuple(behaviour_of(n, (4,))) for n in (one, *others)}) == 8  # the last two take no float64
    assert behaviour_of(Formula(lambda x: x / 0), (4,)) == [0.0] * 4  # JSON has no infinity
    assert behaviour_of(one, (5,)) == []


@pytest.mark.parametrize(
    ("network", "shape", "outputs"),
    [
        (MLP([64, 5, 5, 3], "tanh"), (64,), [-0.348704, 0.770405, -0.751876, -0.186442, 0.537352, -1.02106]),
        (
            ResNet((4, 6), 1, channels=1, outputs=3, norm="layer"),
            (1, 8, 8),
            [-0.981026, -0.764278, -0.553077, -1.01088, -0.719625, -0.502301],
        ),
        (ViT(8, 4, 12, 2, 3, hidden=10, channels=1, outputs=2), (1, 8, 8), [-0.673362, -1.47724, -0.932892, -2.2311]),
    ],
)
def test_behaviours_are_those_that_older_records_name(network, shape, outputs):
    assert behaviour_of(network, shape) == pytest.approx(outputs, rel=1e-4)
    assert behaviour_of(network.double(), shape, training=True) == pytest.approx(outputs, rel=1e-4)
    other = MLP([64, 5, 5, 3])
    assert behaviour_of(other, (64,)) != pytest.approx(outputs[:6], rel=1e-4)  # control


# -- starts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", INITS)
def test_starts_come_from_the_seed_alone(init):
    network = MLP([6, 5, 2])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = initialise(network, init, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, initialise(network, init, seed=7))
    assert not same(first, initialise(network, init, seed=8))


@pytest.mark.parametrize("init", INITS)
def test_starts_neither_use_nor_change_the_template(init):
    network = MLP([6, 5, 2])
    kept = deepcopy(network.state_dict())
    start = initialise(network, init)
    start["layers.0.weight"].fill_(9.0)
    assert same(kept, network.state_dict())
    with torch.no_grad():
        network.layers[0].weight.fill_(5.0)
    assert (initialise(network, init)["layers.0.weight"] != 5).all()


def test_starts_do_not_seed_the_gpus(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    initialise(MLP([2, 2]))
    assert not seeded
    torch.manual_seed(0)  # control: the plain call does
    assert seeded


def test_default_is_pytorchs_own():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = MLP([6, 5, 2])
    assert same(dict(network.named_parameters()), initialise(MLP([6, 5, 2]), "default", seed=3))


@pytest.mark.parametrize(
    ("init", "bound", "std"),
    [
        ("default", 100**-0.5, 100**-0.5 / 3**0.5),
        ("kaiming", (6 / 100) ** 0.5, (2 / 100) ** 0.5),
        ("xavier", (6 / 400) ** 0.5, (2 / 400) ** 0.5),
        ("uniform", 0.1, 0.1 / 3**0.5),
        ("normal", None, 0.1),
    ],
)
def test_starts_have_the_stated_law(init, bound, std):
    start = initialise(MLP([100, 300, 2]), init)
    weight, bias = start["layers.0.weight"], start["layers.0.bias"]
    assert abs(weight.std().item() / std - 1) < 0.02
    assert abs(weight.mean().item()) < 4 * std / len(weight.flatten()) ** 0.5
    if bound:
        assert 0.99 * bound < weight.abs().max() <= bound
    else:
        assert weight.abs().max() > 3.5 * std  # control: no bound
    assert (bias == 0).all() == (init != "default")


def test_inits_differ_from_each_other():
    starts = [initialise(MLP([6, 5, 2]), init)["layers.0.weight"] for init in INITS]
    assert all(not torch.equal(a, b) for i, a in enumerate(starts) for b in starts[:i])


def test_norm_gains_stay_one():
    start = initialise(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), "normal")
    assert (start["1.weight"] == 1).all() and (start["1.bias"] == 0).all()


def test_unknown_init_and_parameters_without_a_start():
    with pytest.raises(ValueError, match="no init 'zeros': choose one of default"):
        initialise(MLP([2, 2]), "zeros")
    with pytest.raises(ValueError, match=r"Raw holds parameters but has no reset_parameters\(\)"):
        initialise(Raw())
    with pytest.raises(ValueError, match=r"0 holds parameters but has no reset_parameters\(\)"):
        initialise(nn.Sequential(Raw()))
    assert set(initialise(Resettable())) == {"scale", "linear.weight", "linear.bias"}


@pytest.mark.parametrize(
    "network", [MLP([6, 5, 2]), ResNet((4, 6), 2, channels=2), ViT(8, 4, 12, 2, 3, hidden=10, channels=1)]
)
def test_layers_draw_in_their_own_order(network):
    fresh = deepcopy(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for module in fresh.modules():  # parents first, as members of earlier zoos were drawn
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    assert same(dict(fresh.named_parameters()), initialise(network, seed=3))


def test_a_parent_has_the_last_word():
    class Outer(nn.Module):
        def __init__(self, value, inner):
            super().__init__()
            self.value, self.inner = value, inner

        def reset_parameters(self):
            for p in self.parameters():
                nn.init.constant_(p, self.value)

    start = initialise(nn.Sequential(Outer(1.0, Outer(2.0, nn.Linear(2, 2))), nn.Linear(2, 2)))
    assert (start["0.inner.inner.weight"] == 1).all()
    assert not (start["1.weight"] == 1).any()  # control: others start on their own


# -- BERT -----------------------------------------------------------------------------------------------


def small_bert(dtype=torch.float32, **options):
    return BERT(**(dict(vocabulary=20, dim=12, depth=2, heads=3, hidden=10, length=9, outputs=2) | options)).to(dtype)


def some_tokens(*shape):
    tokens = torch.randint(1, 20, (*shape, 9), generator=torch.Generator().manual_seed(0))
    tokens[..., 0, 6:] = 0
    return tokens


def bert_weights(layout, *batch, dtype=torch.float64):
    return 0.3 * torch.randn(*batch, layout.size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_bert_base_has_the_stated_number_of_parameters():
    with torch.device("meta"):
        network = BERT()
    assert sum(p.numel() for p in network.parameters()) == 109_483_009
    assert "109,483,009" in BERT.__doc__


def test_bert_is_the_model_of_hugging_face():
    network = small_bert(torch.float64)
    Layout.of(network).load_into(network, bert_weights(Layout.of(network)))
    tokens = some_tokens(5)
    theirs = [
        network.head(network.bert(tokens, attention_mask=m).pooler_output) for m in (tokens != 0, tokens.new_ones(5, 9))
    ]
    torch.testing.assert_close(network(tokens), theirs[0])
    assert not torch.allclose(network(tokens)[0], theirs[1][0])  # control: without a mask


def test_padding_changes_no_output():
    network = small_bert(torch.float64).eval()
    Layout.of(network).load_into(network, bert_weights(Layout.of(network)))
    short = some_tokens(5)[:, :6]
    padded, other = torch.cat([short, short.new_zeros(5, 3)], 1), torch.cat([short, short.new_full((5, 3), 7)], 1)
    torch.testing.assert_close(network(padded), network(short))
    assert (network(other) - network(short)).abs().max() > 1e-3  # control: other tokens are seen
    assert network(torch.zeros_like(short)).isfinite().all()  # nothing but padding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [True, False])
def test_many_berts_at_once_are_each_alone(dtype, shared):
    network = small_bert(dtype)
    layout, tokens = Layout.of(network), some_tokens(5) if shared else some_tokens(4, 5)
    weights = bert_weights(layout, 4, dtype=dtype).requires_grad_()
    outputs = batched_forward(network, layout.unflatten(weights), tokens, shared)
    (gradient,) = torch.autograd.grad(outputs.square().sum(), weights)
    for m in range(4):
        alone = weights[m].detach().requires_grad_()
        x = tokens if shared else tokens[m]
        expected = torch.func.functional_call(network, layout.unflatten(alone), (x,))
        torch.testing.assert_close(outputs[m], expected)
        torch.testing.assert_close(gradient[m], torch.autograd.grad(expected.square().sum(), alone)[0])
    assert not torch.allclose(gradient[0], gradient[1])  # control: members differ


def test_dropout_of_bert_is_off_by_default_and_draws_for_each_member():
    network, tokens = small_bert(dropout=0.5).train(), some_tokens(5)
    state = {n: p.detach().expand(3, *p.shape) for n, p in network.named_parameters()}
    one, other, _ = batched_forward(network, state, tokens, True)
    assert not torch.allclose(one, other)
    plain = small_bert().train()
    assert torch.equal(plain(tokens), plain(tokens))


def test_bert_is_described_rebuilt_and_told_apart():
    network = small_bert()
    again = build(json.loads(json.dumps(architecture_of(network))))
    assert "custom" not in architecture_of(network) and Layout.of(again) == Layout.of(network)
    found = behaviour_of(network, (9,))
    assert len(found) == 4 and found == behaviour_of(again, (9,), training=True)
    assert found != behaviour_of(small_bert(heads=2), (9,))
    assert all(e.role == "parameter" and e.dtype == "float32" for e in Layout.of(network).entries)


def test_bert_starts_as_bert():
    network = small_bert(dim=48, hidden=64)
    start = initialise(network, seed=1)
    assert same(start, initialise(network, seed=1)) and not same(start, initialise(network, seed=2))
    for name, p in start.items():
        if p.ndim > 1:
            drawn = p[1:] if "word" in name else p
            assert abs(drawn.std().item() / 0.02 - 1) < 0.25 and p.abs().max() < 0.1, name
        else:
            assert (p == ("LayerNorm.weight" in name)).all(), name
    assert (start["bert.embeddings.word_embeddings.weight"][0] == 0).all()
    other = initialise(network, "xavier", seed=1)
    assert other["bert.pooler.dense.weight"].std() > 0.1 and (other["bert.pooler.dense.bias"] == 0).all()


@pytest.mark.parametrize("options", [{"heads": 5}, {"depth": 0}, {"vocabulary": 1}, {"dropout": 1.0}, {"length": 0}])
def test_sizes_that_make_no_bert(options):
    with pytest.raises(ValueError, match="dim a multiple of heads"):
        small_bert(**options)


def test_texts_that_are_too_long_for_bert():
    assert small_bert()(some_tokens(2)).shape == (2, 2)
    with pytest.raises(ValueError, match="texts of 9 tokens for a BERT of length 8"):
        small_bert(length=8)(some_tokens(2))


def test_bert_alone_needs_transformers(monkeypatch):
    code = "import sys, dwflow_lite.figures, dwflow_lite.generate; assert 'transformers' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'dwflow-lite\[text\]'"):
        small_bert()


@pytest.mark.parametrize("stream", [False, True])
def test_permuting_units_of_bert_changes_no_output(stream):
    network, tokens = small_bert(), some_tokens(5)
    spec = PermutationSpec.of(network, stream=stream)
    blocks = {f"block{i}.{part}": n for i in range(2) for part, n in (("hidden", 10), ("query-key", 12), ("value", 12))}
    assert spec.groups == blocks | {"pooler": 12} | ({"stream": 12} if stream else {})
    weights, drawn = bert_weights(spec.layout), spec.random(torch.Generator().manual_seed(2))
    spec.verify(network, weights, tokens)
    double = network.double()
    before = torch.func.functional_call(double, spec.layout.unflatten(weights), (tokens,))
    for name, axes in spec.axes.items():
        for axis, group in enumerate(axes):
            if group is None or name.endswith("key.bias"):  # softmax does not see a key bias
                continue
            forgotten = spec.axes | {name: tuple(None if i == axis else g for i, g in enumerate(axes))}
            with pytest.raises(ValueError, match="no symmetry of this BERT"):
                PermutationSpec(spec.layout, forgotten, spec.heads).verify(network, weights, tokens)
        state = spec.layout.unflatten(weights)
        moved = state | {name: permute_axes(state[name], axes, Permutation(drawn.indices))}
        if any(axes) and not name.endswith("key.bias"):
            assert not torch.allclose(torch.func.functional_call(double, moved, (tokens,)), before)


def test_the_spec_of_bert_is_the_one_that_its_forward_pass_gives():
    network, tokens = small_bert(), some_tokens(4)
    written, derived = PermutationSpec.of(network, stream=True), derive_spec(network, tokens)

    def numbered(spec):
        known: dict[str, int] = {}
        axes = {n: [g and known.setdefault(g, len(known)) for g in spec.axes[n]] for n in sorted(spec.axes)}
        return axes, sorted((heads, sorted(known[g] for g in groups)) for heads, groups in spec.heads.values())

    assert numbered(derived) == numbered(written)
    assert numbered(derived) != numbered(written.fix("pooler"))  # control


# -- layouts --------------------------------------------------------------------------------------------

NETWORKS_OF_ALL_SORTS = [
    MLP([4, 3, 2]),
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2, bias=False)),
    Resettable(),
]


def tensors(network):
    return dict(network.named_parameters()) | dict(network.named_buffers())


@pytest.mark.parametrize("network", NETWORKS_OF_ALL_SORTS)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_flatten_and_unflatten_are_inverse(network, batch):
    layout, draw = Layout.of(network), torch.Generator().manual_seed(0)
    weights = torch.randn(*batch, layout.size, generator=draw)
    state = layout.unflatten(weights)
    assert {k: tuple(v.shape) for k, v in state.items()} == {e.name: (*batch, *e.shape) for e in layout.entries}
    assert torch.equal(layout.flatten(state), weights)
    swapped = {k: v + 1 for k, v in state.items()}
    assert torch.equal(layout.unflatten(layout.flatten(swapped))[layout.entries[0].name],
                       swapped[layout.entries[0].name])  # fmt: skip
    assert not torch.equal(layout.flatten(swapped), weights)


def test_columns_follow_the_layers_and_cover_the_vector_once():
    network = MLP([4, 3, 2])
    layout = Layout.of(network)
    expected = torch.cat([p.flatten() for p in network.parameters()])
    assert torch.equal(layout.flatten(network.state_dict()), expected)
    columns = [c for s in layout.slices.values() for c in range(s.start, s.stop)]
    assert columns == list(range(layout.size)) and layout.size == 4 * 3 + 3 + 3 * 2 + 2
    assert layout["layers.1.weight"].shape == (2, 3)
    with pytest.raises(KeyError, match="no tensor 'nothing'"):
        layout["nothing"]


def test_tensors_without_axes_have_a_column():
    network = nn.PReLU()
    network.gain = nn.Parameter(torch.tensor(2.0))
    layout = Layout.of(network)
    assert layout.load_into(deepcopy(network), torch.tensor([0.5, 3.0]))._parameters["gain"].item() == 3.0
    assert layout.unflatten(torch.zeros(4, 2))["gain"].shape == (4,)


def test_unflatten_returns_views():
    layout, weights = Layout.of(MLP([4, 3, 2])), torch.zeros(5, 23)
    layout.unflatten(weights)["layers.0.weight"][2] = 1.0
    assert weights[2, :12].eq(1).all() and weights.sum() == 12


def test_buffers_have_columns_and_counters_do_not():
    network = NETWORKS_OF_ALL_SORTS[1]
    layout = Layout.of(network)
    roles = {e.name: e.role for e in layout.entries}
    assert roles["1.running_var"] == roles["1.running_mean"] == "buffer" and roles["1.weight"] == "parameter"
    assert "1.num_batches_tracked" not in roles and "1.num_batches_tracked" in network.state_dict()
    names = list(roles)
    assert names.index("1.running_mean") > names.index("3.weight")  # after every parameter
    loaded = deepcopy(network)
    loaded[1].num_batches_tracked.fill_(7)
    layout.load_into(loaded, torch.full((layout.size,), 0.5))
    assert (loaded[1].running_var == 0.5).all() and loaded[1].num_batches_tracked == 7


def test_tensors_that_do_not_fit_are_named():
    network = MLP([4, 3, 2])
    layout, state = Layout.of(network), dict(network.state_dict())
    layout.flatten(state | {"counter": torch.tensor(3)})  # control: whole-number extras are left out
    with pytest.raises(ValueError, match=r"missing \['layers\.0\.bias'\], unknown \[\]"):
        layout.flatten({k: v for k, v in state.items() if k != "layers.0.bias"})
    with pytest.raises(ValueError, match=r"missing \[\], unknown \['extra'\]"):
        layout.flatten(state | {"extra": torch.ones(2)})
    for wrong in (torch.ones(4, 3), torch.ones(3), torch.ones(12)):
        with pytest.raises(ValueError, match=r"'layers\.0\.weight' has shape .*the layout wants"):
            layout.flatten(state | {"layers.0.weight": wrong})
    with pytest.raises(ValueError, match=r"'layers\.1\.bias' is batched \(2,\), the first \(\)"):
        layout.flatten(state | {"layers.1.bias": torch.ones(2, 2)})
    for weights in (torch.zeros(22), torch.zeros(23, 2), torch.zeros(())):
        with pytest.raises(ValueError, match="do not fit a layout of 23 weights"):
            layout.unflatten(weights)


def test_load_into_copies_and_refuses_another_network():
    layout, network = Layout.of(MLP([4, 3, 2])), MLP([4, 3, 2])
    weights = torch.arange(23.0)
    assert layout.load_into(network, weights) is network
    assert torch.equal(layout.flatten(network.state_dict()), weights)
    weights.zero_()
    assert network.layers[0].weight[0, 1] == 1  # a copy, not a view
    with pytest.raises(ValueError, match=r"MLP does not have the tensors .* layers\.0\.weight \(3, 4\)"):
        layout.load_into(MLP([4, 4, 2]), torch.zeros(23))
    with pytest.raises(ValueError, match="float64"):
        layout.load_into(MLP([4, 3, 2]).double(), torch.zeros(23))
    with pytest.raises(ValueError, match="4 tensors here, 6 there"):
        layout.load_into(MLP([4, 3, 2, 2]), torch.zeros(23))
    with pytest.raises(ValueError, match=r"one vector of weights, got shape \(2, 23\)"):
        layout.load_into(network, torch.zeros(2, 23))


@pytest.mark.parametrize("network", NETWORKS_OF_ALL_SORTS)
def test_json_round_trip(network):
    layout = Layout.of(network)
    again = Layout.from_json(json.loads(json.dumps(layout.to_json())))
    assert again == layout and hash(again) == hash(layout)
    assert again != Layout.of(MLP([9, 9]))


def test_a_layout_names_each_tensor_once():
    with pytest.raises(ValueError, match="each name once"):
        Layout((Entry("a", (2,), "float32"), Entry("a", (3,), "float32")))
    with pytest.raises(ValueError, match="at least one tensor"):
        Layout.of(nn.ReLU())


def test_tied_parameters_have_one_place():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    layout = Layout.of(network)
    assert [e.name for e in layout.entries] == ["0.weight", "0.bias", "1.bias"] and layout.size == 15
    loaded = layout.load_into(deepcopy(network), torch.arange(15.0))
    assert loaded[0].weight is loaded[1].weight and loaded[1].weight[2, 2] == 8
    assert torch.equal(layout.flatten(tensors(loaded)), torch.arange(15.0))


# -- starts of what readers build with ------------------------------------------------------------------


def drawn(build, seed):
    """The parameters of a module as PyTorch starts them, from this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dict(build().named_parameters())


PYTORCHS_OWN = {
    "attention": lambda: nn.MultiheadAttention(8, 2, batch_first=True),
    "attention of other keys": lambda: nn.MultiheadAttention(8, 2, kdim=3, vdim=4, add_bias_kv=True),
    "lstm": lambda: nn.LSTM(4, 5, 2, proj_size=3),
    "cell": lambda: nn.GRUCell(3, 4),
    "bilinear": lambda: nn.Bilinear(2, 3, 4),
    "embedding": lambda: nn.Embedding(5, 3, padding_idx=1),
    "prelu": lambda: nn.PReLU(4, init=0.25),
    "norm": lambda: nn.GroupNorm(2, 4),
    "transposed": lambda: nn.ConvTranspose2d(2, 3, 2),
}


@pytest.mark.parametrize("name", PYTORCHS_OWN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pytorchs_own_layers_start_as_pytorch_starts_them(name, dtype):
    build = PYTORCHS_OWN[name]
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        expected = drawn(build, 3)
        template = build()
        with torch.no_grad():
            for p in template.parameters():
                p.fill_(9.0)
    finally:
        torch.set_default_dtype(before)
    start = initialise(template, seed=3)
    assert same(start, expected) and {p.dtype for p in start.values()} == {dtype}
    assert not same(dict(template.named_parameters()), expected)  # control


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.TransformerEncoderLayer(8, 2, 16),
        lambda: nn.Transformer(8, 2, 1, 1, 16),
        lambda: nn.AdaptiveLogSoftmaxWithLoss(64, 20, [5, 10]),
    ],
)
def test_pytorchs_networks_start_by_the_laws_of_pytorch(build):
    start, again = initialise(build(), seed=3), [drawn(build, seed) for seed in range(200)]
    for name, tensor in start.items():
        theirs = torch.stack([parameters[name].detach() for parameters in again])
        assert tensor.abs().max() <= theirs.abs().max() * 1.001, name  # bounds are those of PyTorch
        assert tensor.std(correction=0) == pytest.approx(theirs.std(correction=0).item(), rel=0.5, abs=1e-6), name
    if isinstance(build(), nn.Transformer):  # control: a parent's law, which is wider than the layer's own
        assert start["encoder.layers.0.linear1.weight"].abs().max() > 8**-0.5 > nn.Linear(8, 16).weight.abs().max()


class Block(nn.Module):
    """A bare parameter, which some other module may start."""

    def __init__(self):
        super().__init__()
        self.token, self.linear = nn.Parameter(torch.zeros(1, 8)), nn.Linear(8, 3)


class Around(nn.Module):
    def __init__(self, starts):
        super().__init__()
        self.scales, self.inner, self.starts = nn.ParameterList([torch.ones(3)]), nn.Sequential(Block()), starts

    def reset_parameters(self):
        for name, p in self.named_parameters():
            if any(name.endswith(end) for end in self.starts):
                nn.init.constant_(p, 0.5)


def test_a_parent_starts_its_children():
    start = initialise(Around(["token", "scales.0"]))
    assert (start["inner.0.token"] == 0.5).all() and (start["scales.0"] == 0.5).all()
    assert (start["inner.0.linear.weight"] != 0.5).all()  # control: by the layer's own
    for starts, message in (
        (["token"], r"^scales holds parameters but has no reset_parameters\(\); .* start 'scales\.0' afresh"),
        (["scales.0"], r"^inner\.0 holds parameters .*or to a module around it, .* start 'inner\.0\.token' afresh"),
        ([], r"start 'scales\.0' \(and 1 more\) afresh, or freeze"),
    ):
        with pytest.raises(ValueError, match=message):
            initialise(Around(starts))


def test_what_a_reset_forgets_is_named():
    class Forgetful(nn.Linear):
        def __init__(self):
            super().__init__(3, 2)
            self.gain = nn.Parameter(torch.randn(2))

    with pytest.raises(ValueError, match=r"0\.reset_parameters\(\) does not start 'gain' afresh"):
        initialise(nn.Sequential(Forgetful()))  # was: all members had the gain of the template
    with pytest.raises(ValueError, match=r"Linear\.weight was computed from other .*parametrizations\.weight_norm"):
        with pytest.warns(FutureWarning, match="weight_norm"):
            initialise(nn.utils.weight_norm(nn.Linear(3, 2)))
    assert set(initialise(nn.Linear(3, 2))) == {"weight", "bias"}  # control


@pytest.mark.parametrize("init", INITS)
def test_frozen_parameters_stay(init):
    network = nn.Sequential(nn.Linear(3, 4), Block(), nn.Linear(8, 2))
    network[0].requires_grad_(False)
    network[1].token.requires_grad_(False)
    start = initialise(network, init, seed=1)
    for name, parameter in network.named_parameters():
        is_kept = torch.equal(start[name], parameter)
        assert is_kept == (not parameter.requires_grad), name


@pytest.mark.parametrize("init", INITS)
def test_padding_starts_at_zero(init):
    network = nn.Sequential(nn.Embedding(5, 3, padding_idx=-1), nn.EmbeddingBag(4, 3, padding_idx=0))
    start = initialise(network, init, seed=1)
    assert (start["0.weight"][4] == 0).all() and (start["1.weight"][0] == 0).all()
    assert (start["0.weight"][:4] != 0).all()  # control
    assert (initialise(nn.Embedding(5, 3), init, seed=1)["weight"] != 0).all()


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).T


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal", "symmetric"])
def test_weights_behind_parametrizations_start_as_without_them(kind, init):
    def build():
        linear = nn.Linear(4, 4)
        if kind == "symmetric":
            return nn.Sequential(parametrize.register_parametrization(linear, "weight", Symmetric()), nn.Linear(4, 2))
        options = {"use_trivialization": False} if kind == "orthogonal" else {}
        return nn.Sequential(getattr(parametrizations, kind)(linear, **options), nn.Linear(4, 2))

    network = build()
    kept = deepcopy(network.state_dict())
    starts = [initialise(network, init, seed=seed) for seed in (1, 2)]
    assert list(starts[0]) == [name for name, _ in network.named_parameters()] and same(kept, network.state_dict())
    for start in starts:
        for name, tensor in start.items():
            network.get_parameter(name).data.copy_(tensor)
    plain = initialise(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), init, seed=2)
    found = network[0].eval().weight
    if kind == "weight_norm":
        torch.testing.assert_close(found, plain["0.weight"])
    if kind == "symmetric":
        assert torch.equal(network[0].parametrizations.weight.original, plain["0.weight"])
    if kind == "orthogonal":
        torch.testing.assert_close(found @ found.T, torch.eye(4), atol=1e-5, rtol=0)
    first = next(name for name in starts[0] if name.startswith("0.parametrizations"))
    assert not torch.equal(starts[0][first], starts[1][first])  # control: was the template's, in all members
    assert torch.equal(starts[1]["1.weight"], plain["1.weight"])


def test_a_parametrization_that_starts_from_a_constant_is_refused():
    with pytest.raises(ValueError, match=r"changes the constant '0\.parametrizations\.weight\.0\.base', .*=False\)"):
        initialise(nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4))))


def test_random_features_of_a_reset_are_those_of_the_template():
    class Fourier(nn.Linear):
        def reset_parameters(self):
            super().reset_parameters()
            self.register_buffer("features", torch.randn(3, 4))

    network = Fourier(4, 2)
    kept = network.features.clone()
    assert set(initialise(network, seed=1)) == {"weight", "bias"} and torch.equal(network.features, kept)


# -- tensors that a zoo cannot keep ---------------------------------------------------------------------


class Holding(nn.Linear):
    def __init__(self, tensor, buffer=False):
        super().__init__(3, 2)
        if buffer:
            self.register_buffer("held", tensor)
        else:
            self.held = nn.Parameter(tensor, requires_grad=tensor.is_floating_point() or tensor.is_complex())


REFUSED = [
    (Holding(torch.randn(2, dtype=torch.complex64)), r"held is complex \(torch\.complex64\), .*view_as_complex"),
    (Holding(torch.arange(3)), r"held is of torch\.int64, which nobody can train: make it a buffer"),
    (
        Holding(torch.ones(2, dtype=torch.float64)),
        r"weight is of torch\.float32 and held of torch\.float64; .*float",
    ),
    (Holding(torch.eye(3).to_sparse(), buffer=True), r"held is sparse \(torch\.sparse_coo\): call \.to_dense"),
    (Holding(torch.eye(3, device="meta"), buffer=True), r"held lies on the device 'meta' and has no values"),
    (nn.Linear(3, 2, device="meta"), r"weight lies on the device 'meta'"),
    (nn.Sequential(nn.LazyLinear(2)), r"0\.weight has no shape yet: run the network once"),
    (nn.Sequential(nn.Linear(3, 2), nn.LazyBatchNorm1d()), r"1\.weight has no shape yet"),
]


@pytest.mark.parametrize(("network", "message"), REFUSED)
def test_tensors_that_a_zoo_cannot_keep_are_named(network, message):
    task = Task.from_arrays(torch.randn(40, 3), torch.arange(40) % 2)
    doors = [
        Layout.of, initialise, lambda n: Zoo.from_modules([n]), lambda n: train_zoo(task, n, recipe=Recipe(epochs=1))
    ]  # fmt: skip
    for door in doors:
        with pytest.raises(ValueError, match=f"{type(network).__name__}: {message}"):
            door(network)


def test_tensors_that_a_zoo_can_keep():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 0), nn.Linear(0, 2)).to(dtype)  # an empty one, too
        layout = Layout.of(network)
        assert layout.flatten(network.state_dict()).dtype == dtype and layout.size == 8 + 0 + 2
        assert torch.equal(layout.unflatten(torch.ones(4, layout.size))["1.weight"], torch.ones(4, 0, 2))
    constants = {"a": torch.randn(2, dtype=torch.complex64), "b": torch.arange(3), "c": torch.tensor(True)}
    network = nn.Linear(3, 2)
    for name, constant in constants.items():
        network.register_buffer(name, constant)
    assert Layout.of(network) == Layout.of(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"at least one tensor \(a parameter\)"):
        Layout.of(nn.Sequential(nn.ReLU()))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.0), torch.zeros(0, 4), torch.tensor([True, False]), torch.ones(1).expand(5), torch.randn(2, 3).T,
        torch.randn(3, dtype=torch.complex64).conj(), torch.randn(2, dtype=torch.complex128), torch.tensor([torch.nan]),
        torch.ones(3).to(torch.float8_e4m3fn), torch.tensor([7], dtype=torch.uint8), torch.randn(3).bfloat16(),
    ],
)  # fmt: skip
def test_constants_of_any_kind_go_into_bytes_and_back(tensor):
    keys = json.loads(json.dumps(keys_of({"a": tensor})))
    (back,) = unpacked(packed({"a": tensor}), keys).values()
    assert (back.shape, back.dtype) == (tensor.shape, tensor.dtype)
    assert first_difference({"a": back}, {"a": tensor}) is None
    assert first_difference({"a": back}, {}) == first_difference({}, {"a": back}) == "a"
    if tensor.numel():
        other = packed({"a": tensor})
        other["constants.a"][0] ^= 1
        with pytest.raises(ValueError, match="'a' is not as it was written"):
            unpacked(other, keys)


def test_a_template_runs_weights_of_another_precision():
    network = nn.BatchNorm1d(2).double()
    network.register_buffer("mask", torch.full((2,), -torch.inf, dtype=torch.float64))
    network.register_buffer("phase", torch.ones(2, dtype=torch.complex64))
    network.table = torch.ones(2, dtype=torch.float64)
    ready = template_on(network, torch.device("cpu"), torch.float32)
    assert (ready.mask.dtype, ready.table.dtype, ready.phase.dtype) == (torch.float32, torch.float32, torch.complex64)
    assert network.mask.dtype == torch.float64 and ready.mask.isinf().all()
    same_precision = template_on(network, torch.device("cpu"), torch.float64)
    assert same_precision.mask.dtype == same_precision.table.dtype == torch.float64  # control
