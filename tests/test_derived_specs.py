"""Specs derived from networks that people use: as many groups as are counted by hand, outputs kept, or refused."""

import warnings

import pytest
import torch
from own_networks import Of
from torch import nn
from torch.nn import functional as F

from dwflow_lite.symmetry import PermutationSpec, derive_spec, proving, weight_matching
from dwflow_lite.symmetry.probing import Probe, in_double, known_state, probes, random_state
from dwflow_lite.zoo import Layout


def rng(seed):
    return torch.Generator().manual_seed(seed)


def largest_change(network, spec, x, seed=3):
    """The largest change of an output, as a part of the largest one, when all groups are permuted at random."""
    double = in_double(network)
    probe = next(probes(double, spec.layout, x.double() if x.is_floating_point() else x, seeds=1))
    return probe.change(double, spec.permute(probe.state, spec.random(rng(seed))))


def torn(spec):
    """The spec with one axis forgotten: of a matrix that moves."""
    name = next(n for n, axes in spec.axes.items() if len(axes) > 1 and any(axes))
    return PermutationSpec(spec.layout, spec.axes | {name: (None,) * len(spec.axes[name])}, spec.heads)


# -- torchvision -------------------------------------------------------------------------------------------------

# Groups counted by hand.
# resnet18: 4 streams and the inside of 8 blocks. squeezenet: the first layer, and squeeze and 2 expansions of 8 fires,
# but for the first layer and the 24: 25. mobilenet_v2: 16 insides (all blocks but the first), 7 streams (16, 24, 32,
# 64, 96, 160, 320), the stem and the last: 25. mobilenet_v3_small: 27, see below.
VISION = {"resnet18": (12, 0), "squeezenet1_0": (25, 0), "mobilenet_v2": (25, 0), "mobilenet_v3_small": (27, 0)}


@pytest.mark.parametrize("name", VISION)
def test_networks_of_torchvision_have_the_groups_that_are_counted_by_hand(name):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    network, x = getattr(models, name)(num_classes=5), torch.randn(2, 3, 40, 40, generator=rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        spec = derive_spec(network, x)
    assert (len(spec.groups), len(spec.heads)) == VISION[name]
    assert list(spec.fixed.values()) == ["outputs keep their order"]
    assert largest_change(network, spec, x) < 1e-12
    assert largest_change(network, torn(spec), x) > 1e-6  # control


def test_a_small_vision_transformer_has_a_stream_and_heads():
    models = pytest.importorskip("torchvision.models")
    network, x = models.VisionTransformer(16, 8, 2, 4, 16, 24, num_classes=3), torch.randn(2, 3, 16, 16)
    spec = derive_spec(network, x)
    assert len(spec.groups) == 1 + 2 * 3 and len(spec.heads) == 2  # stream; queries and keys, values, hidden
    assert largest_change(network, spec, x) < 1e-12
    assert largest_change(network, torn(spec), x) > 1e-6  # control


def test_shuffled_channels_and_groups_of_channels_are_refused_by_name():
    models = pytest.importorskip("torchvision.models")
    x = torch.randn(2, 3, 32, 32)
    with pytest.raises(
        ValueError, match=r"view in stage2.0 tears units apart \(also in stage2.1, stage2.2 and 13 more"
    ):
        derive_spec(models.shufflenet_v2_x0_5(num_classes=3), x)
    with pytest.raises(ValueError, match=r"conv2d in .* has several groups of channels \(also in"):
        derive_spec(models.regnet_x_400mf(num_classes=3), x)


def test_a_stem_on_both_axes_of_a_layer_stays_and_is_named():
    """MobileNetV3-Large: a block without expansion adds a layer of the stem's channels to these."""
    block = Of(lambda m, x: m.head((x := m.stem(x).relu()) + m.project(m.depth(x).relu())).mean((2, 3)),
               stem=nn.Conv2d(1, 4, 3), depth=nn.Conv2d(4, 4, 3, padding=1, groups=4), project=nn.Conv2d(4, 4, 1),
               head=nn.Conv2d(4, 2, 1))  # fmt: skip
    x = torch.randn(2, 1, 8, 8)
    with pytest.warns(UserWarning, match=r"on two axes of project.weight"):
        spec = derive_spec(block, x)
    assert spec.groups == {} and spec.fixed["stem.weight"].startswith("on two axes of project.weight")
    block.run = lambda m, x: m.head(m.project(m.depth(m.stem(x).relu()).relu())).mean((2, 3))  # control: nothing added
    assert sorted(derive_spec(block, x).groups.values()) == [4, 4]


# -- transformers ------------------------------------------------------------------------------------------------


def language_model(kind, **options):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, kind[0])(vocab_size=40, bos_token_id=0, eos_token_id=0, pad_token_id=0, **options)
    return getattr(transformers, kind[1])(config)


def bert(kind, result):
    network = language_model(("BertConfig", kind), hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
                             intermediate_size=24, max_position_embeddings=16)  # fmt: skip
    return Of(lambda m, x: getattr(m.model(x), result), model=network)


def gpt2():
    network = language_model(("GPT2Config", "GPT2LMHeadModel"), n_embd=16, n_layer=2, n_head=4, n_positions=16)
    return Of(lambda m, x: m.model(x, use_cache=False).logits, model=network)


def llama(heads, tied):
    network = language_model(("LlamaConfig", "LlamaForCausalLM"), hidden_size=16, num_hidden_layers=2,
                             num_attention_heads=4, num_key_value_heads=heads, intermediate_size=24,
                             max_position_embeddings=16, tie_word_embeddings=tied)  # fmt: skip
    return Of(lambda m, x: m.model(x, use_cache=False).logits, model=network)


# What is made, and its groups and blocks of heads: a stream, and in each of 2 blocks queries-keys, values, hidden.
LANGUAGE = {
    "bert, pooled": (lambda: bert("BertModel", "pooler_output"), 7, 2),
    "bert, hidden states": (lambda: bert("BertModel", "last_hidden_state"), 6, 2),  # the stream is what comes out
    "bert, classes": (lambda: bert("BertForSequenceClassification", "logits"), 8, 2),  # and the pooler
    "gpt2, head tied": (gpt2, 7, 2),
    "llama": (lambda: llama(4, False), 7, 2),  # rotary: queries and keys move with their heads only
    "llama, head tied": (lambda: llama(4, True), 7, 2),
    "llama, grouped queries": (lambda: llama(2, False), 5, 0),  # groups of queries move with their key, as one group
}


@pytest.mark.parametrize("name", LANGUAGE)
def test_language_models_have_the_groups_that_are_counted_by_hand(name):
    make, groups, blocks = LANGUAGE[name]
    torch.manual_seed(0)
    network, x = make(), torch.randint(1, 40, (2, 7), generator=rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = derive_spec(network, x)
    assert len(spec.heads) == blocks
    assert len(spec.groups) == groups + (name == "bert, hidden states")  # its pooler, which reaches no output
    assert largest_change(network, spec, x) < 1e-12
    assert largest_change(network, torn(spec), x) > 1e-6  # control


def test_rotary_heads_move_as_a_whole_and_planted_copies_are_found():
    torch.manual_seed(0)
    network, x = llama(4, False), torch.randint(1, 40, (2, 7), generator=rng(0))
    spec = derive_spec(network, x)
    number, (queries, values) = next(iter(spec.heads.values()))
    assert (number, spec.groups[queries], spec.groups[values]) == (4, 4, 16)
    spec = spec.fix(*(g for g in spec.groups if g not in (queries, values)))
    w = spec.layout.flatten(random_state(spec.layout, 0))
    moved = spec.apply(spec.random(rng(1)), w)
    assert not torch.equal(moved, w)  # control
    assert torch.equal(spec.apply(weight_matching(w, moved, spec).permutation, moved), w)


def test_a_model_that_returns_its_own_kind_of_output_is_refused_by_name():
    network = language_model(("BertConfig", "BertModel"), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                             intermediate_size=8)  # fmt: skip
    with pytest.raises(ValueError, match=r"BertModel returns no tensor .*; derive the spec of a module that returns"):
        derive_spec(network, torch.randint(0, 40, (2, 5)))


@pytest.mark.parametrize("norm_first", [True, False])
def test_an_encoder_of_pytorch_without_its_fast_path(norm_first):
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    network = Of(lambda m, x: m.head(m.encoder(m.embed(x)).mean(1)), embed=nn.Linear(5, 12), encoder=encoder,
                 head=nn.Linear(12, 3))  # fmt: skip
    x = torch.randn(2, 4, 5, generator=rng(0))
    spec = derive_spec(network, x)
    assert len(spec.groups) == 7 and len(spec.heads) == 2
    assert largest_change(network, spec, x) < 1e-12 and largest_change(network, torn(spec), x) > 1e-6  # control


GATES = {"glu": torch.sigmoid, "swiglu": F.silu, "geglu": F.gelu, "reglu": torch.relu}


@pytest.mark.parametrize("gate", GATES)
def test_units_move_with_their_gates(gate):
    apart = Of(lambda m, x: m.down(GATES[gate](m.gate(x)) * m.up(x)), gate=nn.Linear(4, 6), up=nn.Linear(4, 6),
               down=nn.Linear(6, 2))  # fmt: skip
    x = torch.randn(3, 4, generator=rng(0))
    assert derive_spec(apart, x).groups == {"gate": 6}

    def fused(m, x):
        up, gate_of_up = m.both(x).chunk(2, -1)
        return m.down(up * GATES[gate](gate_of_up))

    network = Of(fused, both=nn.Linear(4, 12), down=nn.Linear(6, 2))
    spec = derive_spec(network, x)
    assert spec.groups == {"both": 6} and largest_change(network, spec, x) < 1e-12
    assert largest_change(network, torn(spec), x) > 1e-6  # control


# -- one tensor under two names ----------------------------------------------------------------------------------


def language(tied):
    """Tokens, a hidden layer that adds to the stream, and a head: its weight is the table of tokens in three ways."""
    forwards = {
        "assigned": lambda m, h: m.head(h),
        "functional": lambda m, h: F.linear(h, m.table.weight),
        "transposed": lambda m, h: h @ m.table.weight.T,
    }

    def forward(m, x):
        h = m.table(x)
        return forwards[tied](m, h + m.down(m.up(h).relu()))

    network = Of(forward, table=nn.Embedding(9, 6), up=nn.Linear(6, 5), down=nn.Linear(5, 6))
    if tied == "assigned":
        network.head = nn.Linear(6, 9, bias=False)
        network.head.weight = network.table.weight
    return network


@pytest.mark.parametrize("tied", ["assigned", "functional", "transposed"])
def test_a_tied_head_costs_no_group(tied):
    network, x = language(tied), torch.randint(0, 9, (3, 4), generator=rng(0))
    spec = derive_spec(network, x)
    assert spec.groups == {"table": 6, "up": 5} and spec.axes["table.weight"] == (None, "table")
    assert largest_change(network, spec, x) < 1e-12
    assert largest_change(network, torn(spec), x) > 1e-6  # control


def test_a_block_under_two_names_has_the_groups_of_one_name():
    def network(names):
        block = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 6))
        net = Of(
            lambda m, x: m.last(m.first(x) + m.f(m.first(x))), first=nn.Linear(4, 6), last=nn.Linear(6, 2), f=block
        )
        for name in names:
            setattr(net, name, block)
        return net

    x = torch.randn(3, 4, generator=rng(0))
    one, two, alias = (derive_spec(network(names), x) for names in ((), ("g",), ("a", "g")))
    assert one.groups == two.groups == alias.groups == {"first": 6, "f.0": 7}
    assert one.axes == two.axes == alias.axes
    unused = network(())
    unused.g = nn.Linear(3, 3)
    assert derive_spec(unused, x).fixed["g.weight"] == "no part of the forward pass"  # control


def test_a_weight_under_the_name_that_is_used_second():
    class Late(nn.Module):
        """The first name of the weight is never called."""

        def __init__(self, tie):
            super().__init__()
            self.idle, self.used, self.last = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)
            if tie:
                self.used.weight = self.idle.weight

        def forward(self, x):
            return self.last(self.used(x))

    x = torch.randn(3, 4, generator=rng(0))
    tied = derive_spec(Late(True), x)
    assert tied.axes["idle.weight"] == tied.axes["used.bias"] + (None,) and tied.groups == {"idle": 6}
    assert derive_spec(Late(False), x).axes["idle.weight"] == (None, None)  # control: not used at all


def test_parametrised_weights_move():
    def network(change):
        net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        change(net)
        return net

    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    x = torch.randn(3, 4, generator=rng(0))
    for change in (
        lambda net: nn.utils.parametrizations.weight_norm(net[0]),
        lambda net: nn.utils.parametrize.register_parametrization(net[0], "weight", Doubled()),
    ):
        spec = derive_spec(network(change), x)
        assert list(spec.groups.values()) == [6] and list(spec.fixed) == ["2.bias"]
        assert largest_change(network(change), spec, x) < 1e-12
        assert largest_change(network(change), torn(spec), x) > 1e-6  # control


# -- where a wrong spec cannot hide ------------------------------------------------------------------------------


class Scaled(nn.Module):
    """A block at its first weights: gain 1, offset 0, statistics 0 and 1, layer scale 1e-6."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Linear(6, 2)
        self.scale = nn.Parameter(torch.full((6,), 1e-6))

    def forward(self, x):
        y = self.first(x)
        return self.last(y + self.scale * self.norm(y).relu())


@pytest.mark.parametrize("forgotten", ["norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "scale"])
def test_a_spec_that_forgets_constant_vectors_is_found_out(forgotten):
    network, x = Scaled(), torch.randn(5, 4, generator=rng(0))
    spec = derive_spec(network, x)
    wrong = PermutationSpec(spec.layout, spec.axes | {forgotten: (None,)})
    w = spec.layout.flatten(network.state_dict())
    double = in_double(network)
    at_first = Probe.of(double, known_state(spec.layout, w), x.double())
    assert at_first.keeps(double, wrong.permute(at_first.state, wrong.random(rng(0))))  # control: there it hides
    with pytest.raises(ValueError, match="it is no symmetry"):
        wrong.verify(network, w, x)
    assert proving.failing_groups(network, wrong, x) == [("first",)]
    spec.verify(network, w, x)
    assert proving.failing_groups(network, spec, x) == []  # control


def test_groups_that_must_move_together_are_found_out():
    network, x = Scaled(), torch.zeros(2, 4)  # inputs that only show a shape
    spec = derive_spec(network, x)
    apart = spec.axes | {name: ("other",) for name in ("norm.weight", "norm.bias")}
    failing = proving.failing_groups(network, PermutationSpec(spec.layout, apart), x)
    assert failing == [("first",), ("other",)]
    assert proving.failing_groups(network, spec, x) == []  # control


def test_outputs_that_no_probe_can_tell_are_refused():
    noisy = Of(lambda m, x: m.last(F.dropout(m.first(x), training=True)), first=nn.Linear(4, 6), last=nn.Linear(6, 2))
    x = torch.randn(3, 4, generator=rng(0))
    with pytest.raises(ValueError, match="draws random numbers in eval mode"):
        derive_spec(noisy, x)
    endless = Of(lambda m, x: m.last(m.first(x)) / 0, first=nn.Linear(4, 6), last=nn.Linear(6, 2))
    with pytest.raises(ValueError, match="not finite"):
        derive_spec(endless, x)
    positive = Of(lambda m, x: m.last(m.first(x)) * m.width.log(), first=nn.Linear(4, 6), last=nn.Linear(6, 2))
    positive.width = nn.Parameter(torch.full((2,), 3.0))
    assert derive_spec(positive, x).groups == {"first": 6}  # control: random weights only where they can be


def test_what_a_forward_pass_may_not_do_is_said_in_a_sentence():
    first, last = nn.Linear(4, 6), nn.Linear(6, 2)
    x = torch.randn(3, 4, generator=rng(0))

    def in_place(m, x):
        with torch.no_grad():
            m.first.weight.mul_(0.9)
        return m.last(m.first(x))

    def while_large(m, x):
        y = m.first(x)
        while y.norm() > 1:
            y = y / 2
        return m.last(y)

    refused = {
        "changes its parameter first.weight in its forward pass": in_place,
        "leaves PyTorch for NumPy": lambda m, x: m.last(torch.from_numpy(m.first(x).detach().numpy())),
        "branches, or has sizes, by the numbers in a tensor": while_large,
        "gives a size that depends on numbers in x": lambda m, x: m.last(m.first(x)[x[:, 0] > 0]),
        "returns more than one tensor": lambda m, x: (m.first(x), x),
        r"returns no tensor \(dict\)": lambda m, x: {"y": m.first(x)},
        "does not run on x": lambda m, x: m.last(x),
    }
    for message, forward in refused.items():
        network = Of(forward, first=first, last=last)
        kept = first.weight.clone()
        with pytest.raises(ValueError, match=message) as error:
            derive_spec(network, x)
        assert "\n" not in str(error.value) and torch.equal(first.weight, kept)
    assert derive_spec(Of(lambda m, x: m.last(m.first(x)), first=first, last=last), x).groups == {"first": 6}  # control


# -- what is not permuted, and why -------------------------------------------------------------------------------


def test_fixed_tensors_are_listed_with_their_reasons():
    network = Of(lambda m, x: m.last(m.inner(m.table(x) + m.place).relu().mean(1)), table=nn.Embedding(9, 6),
                 inner=nn.Linear(6, 5), last=nn.Linear(5, 2), idle=nn.Linear(2, 2))  # fmt: skip
    network.place = nn.Parameter(torch.randn(4, 6))
    spec = derive_spec(network, torch.randint(0, 9, (3, 4), generator=rng(0)))
    assert spec.fixed == {
        "last.bias": "outputs keep their order",
        "idle.weight": "no part of the forward pass",
        "idle.bias": "no part of the forward pass",
    }
    assert "inner: 5 units" in str(spec) and "last.bias: fixed (outputs keep their order)" in str(spec)
    assert "entries of a table" in spec.why_fixed["table.weight"]
    less = spec.fix("inner", why="for a test")
    assert less.fixed["inner.bias"] == "for a test" and "inner.bias" not in spec.fixed  # control
    by_hand = PermutationSpec(Layout.of(network), spec.axes)
    assert by_hand == spec and set(by_hand.fixed) == set(spec.fixed) and set(by_hand.fixed.values()) == {""}


def test_a_constant_is_no_weight_and_its_units_stay_or_are_named():
    class Constant(nn.Module):
        def __init__(self, constant):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
            self.constant = constant

        def forward(self, x):
            return self.last(self.first(x) * self.constant)

    x = torch.randn(3, 4, generator=rng(0))
    spec = derive_spec(Constant(torch.arange(1.0, 7)), x)
    assert spec.groups == {} and spec.fixed["first.bias"] == "meets a constant"
    assert derive_spec(Constant(torch.ones(())), x).groups == {"first": 6}  # control


def test_tensors_that_a_network_makes_or_keeps_are_tested_in_double_too():
    network = Of(lambda m, x: m.last(m.first(x) @ m.features + torch.ones(1, 1) @ m.gain), first=nn.Linear(4, 6),
                 last=nn.Linear(5, 2))  # fmt: skip
    network.features, network.gain = torch.randn(6, 5, generator=rng(0)), nn.Parameter(torch.ones(1, 5))
    x = torch.randn(3, 4, generator=rng(0))
    spec = derive_spec(network, x)
    assert "first" not in spec.groups and spec.fixed["first.bias"] == "meets a constant"
    assert network.features.dtype == torch.get_default_dtype() == torch.float32
    network.features = torch.ones(6, 5)
    assert derive_spec(network, x).groups["first"] == 6  # control: alike in every order


def test_zeros_and_copies_go_with_units_in_any_order():
    x = torch.randn(3, 4, generator=rng(0))
    for change in (
        lambda y: torch.maximum(y, torch.zeros_like(y)),
        lambda y: y + torch.zeros(3, 6),
        lambda y: y / y.norm(dim=1, keepdim=True).expand(3, 6),
    ):
        network = Of(
            lambda m, x, change=change: m.last(change(m.first(x))), first=nn.Linear(4, 6), last=nn.Linear(6, 2)
        )
        assert derive_spec(network, x).groups == {"first": 6}
    network.run = lambda m, x: m.last(m.first(x) + torch.arange(6.0))
    assert derive_spec(network, x).groups == {}  # control
