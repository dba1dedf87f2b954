"""Specs derived from a forward pass: equal to the written ones, sound on networks made to fool them."""

import warnings
from math import log10

import pytest
import torch
from own_networks import Of
from torch import nn
from torch.nn import functional as F

from dwflow_lite.networks import MLP, ResNet, ViT
from dwflow_lite.symmetry import PermutationSpec, Stretch, derive_spec, permute_axes, proving, weight_matching
from dwflow_lite.zoo import Layout


def rng(seed):
    return torch.Generator().manual_seed(seed)


def weights_for(spec, seed):
    w = 0.5 * torch.randn(spec.layout.size, generator=rng(seed), dtype=torch.float64)
    for name, columns in spec.layout.slices.items():
        if name.endswith("running_var"):
            w[columns] = w[columns].abs() + 0.1
    return w


def without_names(spec):
    """Groups numbered in the order in which sorted tensors meet them; blocks as sets."""
    number: dict[str, int] = {}

    def name(group):
        return None if group is None else number.setdefault(group, len(number))

    axes = {
        tensor: tuple(
            tuple((name(s.group), s.units, s.each) for s in axis) if isinstance(axis, tuple) else name(axis)
            for axis in spec.axes[tensor]
        )
        for tensor in sorted(spec.axes)
    }
    return axes, sorted((heads, sorted(map(name, groups))) for heads, groups in spec.heads.values())


WRITTEN = {
    "mlp": (MLP([5, 7, 6, 4]), (5,)),
    "tanh": (MLP([5, 7, 4], "tanh"), (5,)),
    "mlp on images": (MLP([16, 7, 4]), (1, 4, 4)),
    "resnet": (ResNet((4, 6, 8), 2, channels=2), (2, 8, 8)),
    "one stage": (ResNet((4,), 3, channels=1), (1, 6, 6)),
    "layer norm": (ResNet((4, 6), 2, channels=2, norm="layer"), (2, 8, 8)),
    "vit": (ViT(8, 4, 12, 2, 3, hidden=10, channels=1), (1, 8, 8)),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_derived_spec_is_the_written_one(name):
    network, shape = WRITTEN[name]
    kept = [p.clone() for p in network.parameters()]
    written = PermutationSpec.of(network, stream=True)
    derived = derive_spec(network, torch.randn(3, *shape, generator=rng(0)))
    assert without_names(derived) == without_names(written) and derived.layout == written.layout
    assert without_names(derived.fix(next(iter(derived.groups)))) != without_names(written)  # control
    assert all(torch.equal(p, k) for p, k in zip(network.parameters(), kept, strict=True))


def vgg(m, x):
    return m.head(m.pool(m.bn(m.second(m.first(x).relu()))).relu().flatten(1))


def mobile(m, x):
    x = m.stem(x).relu()
    x = x + m.down(m.norm(m.depth(F.relu6(m.up(x)))))
    return m.head(x.mean((2, 3)))


def dense(m, x):
    one = m.one(x)
    two = m.two(torch.cat([x, one], 1).relu())
    three = m.three(torch.cat([x, one, two], 1).relu())
    return m.head(m.norm(torch.cat([x, one, two, three], 1)).mean((2, 3)))


def unet(m, x):
    down = m.down(x).relu()
    middle = m.middle(down).relu()
    up = m.up(middle)
    return m.out(torch.cat([down, up], 1)).mean((2, 3))


def attention(style):
    def forward(m, x):
        n, tokens, dim = x.shape
        if style == "unbind":
            q, k, v = m.qkv(x).reshape(n, tokens, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        elif style == "index":
            found = m.qkv(x).reshape(n, tokens, 3, 3, 4).permute(2, 0, 3, 1, 4)
            q, k, v = found[0], found[1], found[2]
        else:
            q, k, v = (t.view(n, tokens, 3, 4).transpose(1, 2) for t in m.qkv(x).chunk(3, -1))
        if style == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * 0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return m.head(m.proj(y.transpose(1, 2).reshape(n, tokens, dim)).mean(1))

    return Of(forward, qkv=nn.Linear(12, 36), proj=nn.Linear(12, 12), head=nn.Linear(12, 3))


def encoder(norm_first, batch_first):
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=batch_first, norm_first=norm_first)
    return Of(lambda m, x: m.head(m.layer(m.embed(x)).mean(1 if batch_first else 0)),
              embed=nn.Linear(5, 12), layer=layer, head=nn.Linear(12, 4))  # fmt: skip


def conv(a, b, k=3, **options):
    return nn.Conv2d(a, b, k, padding=k // 2, **options)


IMAGES, TOKENS = (1, 8, 8), (5, 12)
# name -> network, input, logarithm of the number of its copies: groups n! and blocks H! (u!)^H for each kind of unit
FREE = {
    "vgg": (Of(vgg, first=conv(1, 4), second=conv(4, 5), bn=nn.BatchNorm2d(5), pool=nn.MaxPool2d(2),
               head=nn.Linear(5 * 16, 3)), IMAGES, [4, 5]),
    "depthwise": (Of(mobile, stem=conv(1, 4), up=conv(4, 7, 1), depth=conv(7, 7, groups=7, bias=False),
                     norm=nn.BatchNorm2d(7), down=conv(7, 4, 1), head=nn.Linear(4, 3)), IMAGES, [4, 7]),
    "concatenation": (Of(dense, one=conv(1, 4), two=conv(5, 3), three=conv(8, 2), norm=nn.BatchNorm2d(10),
                         head=nn.Linear(10, 3)), IMAGES, [4, 3, 2]),
    "u-net": (Of(unet, down=conv(1, 4), middle=nn.Conv2d(4, 6, 2, 2), up=nn.ConvTranspose2d(6, 5, 2, 2),
                 out=conv(9, 3)), IMAGES, [4, 6, 5]),
    "unbind": (attention("unbind"), TOKENS, [12, "heads"]),
    "index": (attention("index"), TOKENS, [12, "heads"]),
    "chunk": (attention("chunk"), TOKENS, [12, "heads"]),
    "sdpa": (attention("sdpa"), TOKENS, [12, "heads"]),
    "encoder": (encoder(False, True), (5, 5), [12, 20, "heads"]),
    "encoder, norm first": (encoder(True, True), (5, 5), [12, 20, "heads"]),
    "encoder, batch second": (encoder(True, False), (5, 5), [12, 20, "heads"]),
    "attention weights": (Of(lambda m, x: m.head(m.mha(x, x, x, need_weights=True)[0].mean(1)),
                             mha=nn.MultiheadAttention(12, 3, batch_first=True), head=nn.Linear(12, 3)), TOKENS,
                          [12, "heads"]),
    "tied": (Of(lambda m, x: m.head(m.same(m.same(x.new_ones(len(x), 6) * 0 + m.first(x)).relu())),
                first=nn.Linear(4, 6), same=nn.Linear(6, 6), head=nn.Linear(6, 2)), (4,), []),
    "channels last": (Of(lambda m, x: m.head(m.first(x).relu().permute(0, 2, 3, 1).flatten(1)), first=conv(1, 3),
                         head=nn.Linear(3 * 64, 2)), IMAGES, [3]),
    "group norm of one": (Of(lambda m, x: m.head(m.norm(m.first(x)).relu().mean((2, 3))), first=conv(1, 4),
                             norm=nn.GroupNorm(1, 4), head=nn.Linear(4, 2)), IMAGES, [4]),
}  # fmt: skip


def copies(units):
    spec = sum(log10_factorial(u) for u in units if u != "heads")
    return spec + units.count("heads") * (log10_factorial(3) + 6 * log10_factorial(4))


def log10_factorial(n):
    return sum(log10(i) for i in range(1, n + 1))


@pytest.mark.parametrize("name", FREE)
def test_everything_that_is_free_is_found(name):
    network, shape, units = FREE[name]
    x = torch.randn(2, *shape, generator=rng(0))
    spec = derive_spec(network, x)
    assert spec.log10_count() == pytest.approx(copies(units))
    for seed in range(3):
        spec.verify(network, weights_for(spec, seed), torch.randn(3, *shape, generator=rng(seed)))
    assert len(network.state_dict()) == len([n for n in network.state_dict() if n in spec.axes or "num_batches" in n])


@pytest.mark.parametrize("name", [n for n, v in FREE.items() if v[2]])
def test_a_spec_with_one_axis_forgotten_is_found_out(name):
    network, shape, _ = FREE[name]
    x = torch.randn(2, *shape, generator=rng(0))
    spec = derive_spec(network, x)
    w, drawn = weights_for(spec, 0), spec.random(rng(5))
    double = network.double().eval()
    state = dict(spec.layout.unflatten(w))
    before = torch.func.functional_call(double, state, (x.double(),))
    moving = [n for n, axes in spec.axes.items() if any(axes) and not n.endswith("in_proj_bias")]
    for tensor in moving:
        alone = state | {tensor: permute_axes(state[tensor], spec.axes[tensor], drawn)}
        after = torch.func.functional_call(double, alone, (x.double(),))
        assert not torch.allclose(after, before, rtol=1e-6, atol=1e-8), tensor
    network.float()


def test_tokens_and_shared_tables():
    text = Of(lambda m, x: m.out(m.inner(m.table(x)).relu().mean(1)), table=nn.Embedding(20, 8), inner=nn.Linear(8, 5),
              out=nn.Linear(5, 2))  # fmt: skip
    spec = derive_spec(text, torch.randint(0, 20, (3, 6), generator=rng(0)))
    spec.verify(text, weights_for(spec, 0), torch.randint(0, 20, (3, 6), generator=rng(1)))
    assert spec.axes["table.weight"] == (None, "table") and spec.axes["inner.weight"] == ("inner", "table")
    tied = Of(lambda m, x: m.table(x).mean(1).tanh() @ m.table.weight.T, table=nn.Embedding(20, 8))
    assert derive_spec(tied, torch.randint(0, 20, (3, 6), generator=rng(0))).axes == {"table.weight": (None, "table")}


def test_names_and_words_a_reader_can_read():
    spec = derive_spec(FREE["vgg"][0], torch.randn(2, 1, 8, 8))
    assert spec.axes["head.weight"] == (None, (Stretch("second", 5, 16),)) and set(spec.groups) == {"first", "second"}
    spec = derive_spec(attention("chunk"), torch.randn(2, 5, 12))
    assert spec.axes["qkv.bias"] == ((Stretch("qkv", 12), Stretch("qkv", 12), Stretch("qkv[1]", 12)),)
    assert spec.heads == {"qkv": (3, ("qkv", "qkv[1]"))} and spec.axes["proj.weight"] == ("proj", "qkv[1]")
    found = derive_spec(FREE["concatenation"][0], torch.randn(2, 1, 8, 8)).axes["norm.weight"]
    assert found == ((Stretch(None, 1), Stretch("one", 4), Stretch("two", 3), Stretch("three", 2)),)


def test_a_derived_spec_aligns_planted_copies():
    for name in ("concatenation", "sdpa", "vgg"):
        network, shape, _ = FREE[name]
        spec = derive_spec(network, torch.randn(2, *shape))
        w, hidden = weights_for(spec, 1), spec.random(rng(2))
        moved = spec.apply(hidden, w)
        assert torch.equal(spec.apply(weight_matching(w, moved, spec).permutation, moved), w)
        assert not torch.equal(moved, w)


# -- what must stay ---------------------------------------------------------------------------------------------


FOOLS = {
    "flip": lambda y: y.flip(1),
    "roll": lambda y: y.roll(1, 1),
    "cumsum": lambda y: y.cumsum(1),
    "sort": lambda y: y.sort(1).values,
    "shuffle": lambda y: y.view(-1, 2, 3).transpose(1, 2).reshape(-1, 6),
    "pad": lambda y: F.pad(y[:, :5], (1, 0)),
    "argmax": lambda y: y * y.argmax(1, keepdim=True),
    "repeat": lambda y: y[:, :3].repeat_interleave(2, 1),
    "window": lambda y: F.avg_pool1d(y[:, None], 3, 1, 1)[:, 0],
    "diff": lambda y: torch.cat([y[:, :1], y.diff(dim=1)], 1),
    "triangle": lambda y: (y[:, :, None] * y[:, None, :]).tril().sum(2),
}


@pytest.mark.parametrize("fool", FOOLS)
def test_units_that_are_not_alike_are_refused_by_name_or_fixed(fool):
    def net(f):
        return Of(lambda m, x: m.last(f(m.first(m.before(x).relu()))), before=nn.Linear(4, 5), first=nn.Linear(5, 6),
                  last=nn.Linear(6, 2))  # fmt: skip

    x = torch.randn(3, 4, generator=rng(0))
    assert set(derive_spec(net(torch.relu), x).groups.values()) == {5, 6}  # control
    if fool != "shuffle":  # that is understood, and has no word in a spec
        with pytest.raises(ValueError, match=r"unknown='fix' leaves these units where they are; or write the spec by"):
            derive_spec(net(FOOLS[fool]), x)
    with pytest.warns(UserWarning, match="units left where they are"):
        spec = derive_spec(net(FOOLS[fool]), x, unknown="fix")
    assert spec.axes["before.weight"] == ("before", None)
    if fool == "shuffle":  # two neighbourhoods of three change places, and the shuffle deals them out
        assert spec.axes["first.bias"] == ((Stretch("first", 2, 3),),)
        assert spec.axes["last.weight"] == (None, (Stretch("first", 2),) * 3)
    else:
        assert spec.axes["last.weight"] == (None, None)
    for seed in range(3):
        spec.verify(net(FOOLS[fool]), weights_for(spec, seed), x)


SOUND = {
    "one unit stands out": lambda m, x: m.last(m.first(x) * m.first(x)[:, :1]),
    "times positions": lambda m, x: m.last(m.first(x) * torch.arange(6.0, device=x.device).to(x)),
    "gram": lambda m, x: m.last((m.first(x)[:, :, None] * m.first(x)[:, None, :]).sum(1)),
    "x + linear(x)": lambda m, x: m.last(m.first(x) + m.square(m.first(x))),
    "weight on both sides": lambda m, x: m.last(m.first(x) @ m.square.weight @ m.square.weight.T),
    "softmax": lambda m, x: m.last(m.first(x).softmax(1)),
    "square image": lambda m, x: m.last(m.first(x).view(-1, 6, 1) @ m.first(x).view(-1, 1, 6)).mean(1),
    "read as heads": lambda m, x: m.last((m.first(x).view(-1, 3, 2) @ m.first(x).view(-1, 2, 3)).flatten(1)[:, :6]),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_is_derived_is_a_symmetry(name):
    network = Of(SOUND[name], first=nn.Linear(4, 6), square=nn.Linear(6, 6), last=nn.Linear(6, 2))
    x = torch.randn(3, 4, generator=rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = derive_spec(network, x, unknown="fix")
    for seed in range(4):
        spec.verify(network, weights_for(spec, seed), x)


def heads(q_heads, kv_heads, change):
    """Attention with one key and value head for several queries, or something done to each head's units."""

    def forward(m, x):
        n, tokens, _ = x.shape
        q = m.q(x).view(n, tokens, q_heads, 4).transpose(1, 2)
        k, v = (f(x).view(n, tokens, kv_heads, 4).transpose(1, 2) for f in (m.k, m.v))
        q, k, v = change(m, q, k, v)
        return m.o((q @ k.mT).softmax(-1).matmul(v).transpose(1, 2).flatten(2)).mean(1)

    return Of(forward, q=nn.Linear(5, 4 * q_heads), k=nn.Linear(5, 4 * kv_heads), v=nn.Linear(5, 4 * kv_heads),
              norm=nn.LayerNorm(4), o=nn.Linear(4 * q_heads, 2))  # fmt: skip


def rotary(m, q, k, v):
    turned = [torch.cat([-t[..., 2:], t[..., :2]], -1) * 0.3 + t for t in (q, k)]
    return *turned, v


ATTENTION = {
    "plain": (heads(3, 3, lambda m, q, k, v: (q, k, v)), 3),
    "one key head": (heads(3, 1, lambda m, q, k, v: (q, k, v)), None),
    "norm inside heads": (heads(3, 3, lambda m, q, k, v: (m.norm(q), m.norm(k), v)), None),
    "rotary": (heads(3, 3, rotary), None),
    "heads that differ": (heads(3, 3, lambda m, q, k, v: (q * torch.arange(1.0, 4).to(q)[:, None, None], k, v)), None),
    "another head's keys": (heads(3, 3, lambda m, q, k, v: (q, k[:, [1, 0, 2]], v)), None),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_of_other_kinds_is_sound(name):
    network, number = ATTENTION[name]
    x = torch.randn(2, 6, 5, generator=rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = derive_spec(network, x, unknown="fix")
    assert (number is None) or next(iter(spec.heads.values()))[0] == number
    for seed in range(4):
        spec.verify(network, weights_for(spec, seed), torch.randn(2, 6, 5, generator=rng(seed + 9)))


def test_groups_of_channels_and_shuffles_are_refused_and_others_still_move():
    def forward(m, x):
        y = m.norm(m.second(m.first(x).relu()))
        y = y.view(len(x), 2, 2, 8, 8).transpose(1, 2).reshape(len(x), 4, 8, 8)
        return m.head(m.third(y).relu().mean((2, 3)))

    network = Of(forward, first=conv(1, 3), second=conv(3, 4), norm=nn.GroupNorm(2, 4), third=conv(4, 5),
                 head=nn.Linear(5, 2))  # fmt: skip
    x = torch.randn(2, 1, 8, 8, generator=rng(0))
    with pytest.raises(ValueError, match="group_norm in norm ties channels to their neighbours in groups"):
        derive_spec(network, x)
    with pytest.warns(UserWarning, match="group_norm in norm"):
        spec = derive_spec(network, x, unknown="fix")
    assert set(spec.groups) == {"first", "third"}
    grouped = Of(lambda m, x: m.head(m.second(m.first(x)).mean((2, 3))), first=conv(1, 4), second=conv(4, 6, groups=2),
                 head=nn.Linear(6, 2))  # fmt: skip
    with pytest.raises(ValueError, match="conv2d in second has several groups of channels"):
        derive_spec(grouped, x)


def test_errors_that_say_what_to_do():
    x = torch.randn(3, 4)
    branching = Of(lambda m, x: m.a(x) if float(x.sum()) > 0 else -m.a(x), a=nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"cannot be traced .*write the spec by hand"):
        derive_spec(branching, x)
    with pytest.raises(ValueError, match="returns more than one tensor"):
        derive_spec(Of(lambda m, x: (m.a(x), x), a=nn.Linear(4, 2)), x)
    odd = Of(lambda m, x: m.b(torch.cdist(x, m.a.weight)), a=nn.Linear(4, 3), b=nn.Linear(3, 2))
    with pytest.raises(ValueError, match="cdist in forward is not known"):
        derive_spec(odd, x)
    known = Of(lambda m, x: m.b(torch.einsum("ni,oi->no", x, m.a.weight)), a=nn.Linear(4, 3), b=nn.Linear(3, 2))
    assert derive_spec(known, x).groups == {"a": 3}  # control
    with pytest.raises(ValueError, match="unknown must be"):
        derive_spec(MLP([4, 3, 2]), x, unknown="ignore")
    with pytest.raises(ValueError, match="cannot be traced"):
        derive_spec(MLP([5, 3, 2]), x)


def test_unused_and_frozen_parameters_are_named_once():
    network = Of(lambda m, x: m.out(m.used(x).relu()), used=nn.Linear(4, 3), out=nn.Linear(3, 2), idle=nn.Linear(7, 7))
    spec = derive_spec(network, torch.randn(3, 4))
    assert set(spec.axes) == {e.name for e in Layout.of(network).entries} and spec.groups == {"used": 3}


# -- the test of a proposal --------------------------------------------------------------------------------------


def generated(permutations, sizes):
    """All permutations made of some: their closure, each written as a tuple."""

    def composed(p, q):
        return tuple(tuple(a[i] for i in b) for a, b in zip(p, q, strict=True))

    identity = tuple(tuple(range(size)) for size in sizes.values())
    generators = []
    for permutation in permutations:
        indices = {g: torch.arange(size) for g, size in sizes.items()} | dict(permutation.indices)
        generators.append(tuple(tuple(indices[g].tolist()) for g in sizes))
    reached, front = {identity}, [identity]
    while front:
        front = list({composed(p, q) for p in front for q in generators} - reached)
        reached.update(front)
    return reached


@pytest.mark.parametrize(
    "heads, sizes, number", [(1, {"a": 4}, 24), (3, {"a": 6}, 6 * 2**3), (2, {"a": 4, "b": 6}, 2 * 2**2 * 6**2)]
)
def test_the_permutations_tried_generate_all_of_a_group(heads, sizes, number):
    tried = list(proving.generating_permutations(heads, sizes))
    assert len(generated(tried, sizes)) == number
    assert any(len(generated(tried[:i] + tried[i + 1 :], sizes)) < number for i in range(len(tried)))  # control


def test_a_wrong_group_is_found_out():
    network, x = MLP([4, 6, 3]), torch.randn(5, 4, generator=rng(0))
    spec = PermutationSpec.of(network)
    assert proving.failing_groups(network, spec, x) == []
    forgotten = spec.axes | {"layers.1.weight": (None, None)}
    wrong = PermutationSpec(spec.layout, forgotten)
    assert proving.failing_groups(network, wrong, x) == [("hidden0",)]  # control


# -- whose labels, and which names -------------------------------------------------------------------------------


def test_units_on_both_sides_of_tied_layers_stay():
    def network(tie):
        net = Of(lambda m, x: m.last(m.two(m.one(m.first(x)).tanh())), first=nn.Linear(4, 6), one=nn.Linear(6, 6),
                 two=nn.Linear(6, 6), last=nn.Linear(6, 2))  # fmt: skip
        if tie:
            net.two.weight = net.one.weight
        return net

    x = torch.randn(3, 4, generator=rng(0))
    assert derive_spec(network(True), x).groups == {}  # all three sets of units would have one order
    assert derive_spec(network(False), x).groups == {"first": 6, "one": 6, "two": 6}  # control


def test_constants_are_no_weights_and_stay():
    class Positions(nn.Module):
        def __init__(self, numbers):
            super().__init__()
            self.first, self.gain, self.last = nn.Linear(4, 5), nn.Parameter(torch.ones(5)), nn.Linear(5, 2)
            if isinstance(numbers, nn.Parameter):
                self.numbers = numbers
            else:
                self.register_buffer("numbers", numbers)

        def forward(self, x):
            return self.last(self.first(x) * self.numbers)

    x = torch.randn(3, 4, generator=rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert derive_spec(Positions(torch.arange(5)), x).groups == {}
        assert derive_spec(Positions(torch.arange(5.0)), x).groups == {}  # no zoo has a column for it
        assert derive_spec(Positions(torch.full((5,), 2.0)), x).groups == {"first": 5}  # units find the same anywhere
        assert derive_spec(Positions(nn.Parameter(torch.arange(5.0))), x).groups == {"first": 5}  # control


def test_groups_are_named_after_what_writes_to_them_not_after_what_scales_them():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(5))
            self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.last(self.first(x) * self.gain)

    assert next(iter(Scaled().state_dict())) == "gain"  # control: a vector comes first
    assert derive_spec(Scaled(), torch.randn(3, 4)).axes["gain"] == ("first",)


def test_units_inside_heads_in_two_axes_have_no_word_and_heads_still_move():
    def squared(m, q, k, v):
        return (*(t.unflatten(-1, (2, 2)).tanh().flatten(-2) for t in (q, k)), v)

    x = torch.randn(2, 6, 5, generator=rng(0))
    with pytest.warns(UserWarning, match="q.weight: in an order that a spec has no word for"):
        spec = derive_spec(heads(3, 3, squared), x)
    assert spec.axes["q.bias"] == ((Stretch("q", 3, 4),),)
    assert derive_spec(heads(3, 3, lambda m, q, k, v: (q, k, v)), x).axes["q.bias"] == ("q",)  # control


def test_pytorch_prints_and_warns_of_nothing_while_a_network_is_traced(capfd):
    class Picked(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x):
            h = self.first(x)
            rows = torch.where(h[:, 0] > 0)[0]
            return self.last(h.index_add(0, rows, h[rows]) if len(rows) else h)

    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.last = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2)

        def forward(self, x):
            return self.last(self.read(x)[0][:, -1])

    x = torch.randn(4, 4, generator=rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="branches, or has sizes, by the numbers in a tensor"):
            derive_spec(Picked(), x)
        with pytest.raises(ValueError, match="recurrent") as refused:
            derive_spec(Reading(), x[None].expand(2, 4, 4))
    assert str(refused.value).count("align=None") == 1  # one way out is told once
    assert "aten" not in "".join(capfd.readouterr())
    with pytest.raises(Exception, match="data-dependent"):  # control: PyTorch does print
        torch.export.export(Picked(), (x,), strict=False)
    assert "aten" in "".join(capfd.readouterr())
