"""What operations say about labels: each rule by a network that keeps to it, and one that does not."""

import re
from textwrap import dedent

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dwflow_lite.symmetry import Stretch, derive_spec, operation_sums, operations, tracing
from dwflow_lite.symmetry.labels import Label


def rng(seed):
    return torch.Generator().manual_seed(seed)


class Between(nn.Module):
    """Two linear layers, and what is done to the 6 units between them."""

    def __init__(self, change, read=6):
        super().__init__()
        self.first, self.last, self.change = nn.Linear(4, 6), nn.Linear(read, 2), change
        self.scale = 1.0  # numbers that differ tell units apart

    def forward(self, x):
        return self.last(self.change(self.first(x) * self.scale))


class Learned(nn.Module):
    """Learned tokens, which the inputs only scale: attention sees them as a set, unless it is causal."""

    def __init__(self, **options):
        super().__init__()
        self.tokens, self.last, self.options = nn.Parameter(torch.randn(5, 6)), nn.Linear(6, 2), options

    def forward(self, x):
        y = self.tokens * x[:, :1, None]
        return self.last(F.scaled_dot_product_attention(y, y, y, **self.options).mean(1))


class Grouped(nn.Module):
    """Attention of 4 heads of queries on 2 or 4 heads of keys and values, of 3 units."""

    def __init__(self, heads):
        super().__init__()
        self.q, self.kv, self.last, self.heads = nn.Linear(4, 12), nn.Linear(4, 3 * heads), nn.Linear(12, 2), heads

    def forward(self, x):
        q = self.q(x).unflatten(-1, (4, 3)).transpose(1, 2)
        kv = self.kv(x).unflatten(-1, (self.heads, 3)).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, kv, kv, enable_gqa=self.heads < 4)
        return self.last(y.transpose(1, 2).flatten(2))


VECTORS, SEQUENCES = (3, 4), (2, 7, 4)
# A form that is refused, one that is known, shape of inputs, what the refusal says, free groups of the known form.
REFUSED = {
    "a step": (Between(lambda y: y[:, ::2], 3), Between(lambda y: y[:, :3], 3), VECTORS,
               "slice in forward is not known", {"first": 3, "first[1]": 3}),
    "a window": (Between(lambda y: F.max_pool1d(y[:, None], 3, 1, 1)[:, 0]),
                 Between(lambda y: F.max_pool1d(y[:, :, None], 1)[:, :, 0]), VECTORS,
                 "max_pool1d in forward mixes neighbours", {"first": 6}),
    "windows": (Between(lambda y: y * y.unfold(1, 2, 2).sum((1, 2))[:, None]),
                Between(lambda y: y * (y @ y[0])[:, None]), VECTORS, "unfold in forward is not known", {"first": 6}),
    "causal": (Learned(is_causal=True), Learned(), VECTORS, "attention in forward orders its tokens",
               {"tokens": 5, "tokens[1]": 6}),
    "grouped queries": (Grouped(2), Grouped(4), SEQUENCES, "attention in forward is not known", {"q": 12}),
    "a product of units": (Between(lambda y: y.prod(1, keepdim=True).expand(-1, 6)),
                           Between(lambda y: y.sum(1, keepdim=True).expand(-1, 6)), VECTORS,
                           "prod in forward is not known", {"first": 6}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_form_that_is_not_known_is_refused_and_the_known_form_is_not(name):
    refused, known, shape, message, groups = REFUSED[name]
    x = torch.randn(shape, generator=rng(0))
    with pytest.raises(ValueError, match=message):
        derive_spec(refused, x)
    spec = derive_spec(known, x)  # control
    assert spec.groups == groups


def test_a_slice_from_the_middle_is_cut_where_it_begins():
    spec = derive_spec(Between(lambda y: y[:, 4:], 2), torch.randn(VECTORS, generator=rng(0)))
    assert spec.axes["first.bias"] == ((Stretch("first", 4), Stretch("first[1]", 2)),)
    assert spec.axes["last.weight"] == (None, "first[1]")
    spec = derive_spec(Between(lambda y: y[:, -3:], 3), torch.randn(VECTORS, generator=rng(0)))
    assert spec.groups == {"first": 3, "first[1]": 3} and spec.axes["last.weight"] == (None, "first[1]")
    spec = derive_spec(Between(lambda y: y[:, :4], 4), torch.randn(VECTORS, generator=rng(0)))
    assert spec.axes["last.weight"] == (None, "first")  # control


# -- the table ---------------------------------------------------------------------------------------------------


def test_every_name_in_the_table_is_an_operator():
    assert [name for name in operations.OPERATIONS if not hasattr(torch.ops.aten, name)] == []
    assert not hasattr(torch.ops.aten, "linaer")  # control


def test_a_rule_that_gives_other_shapes_is_not_believed(monkeypatch):
    network, x = Between(torch.tanh), torch.randn(VECTORS, generator=rng(0))
    monkeypatch.setitem(operations.OPERATIONS, "tanh", lambda call: [call.tensors[0]])
    assert derive_spec(network, x).groups == {"first": 6}  # control
    for wrong in ([[Label(3), Label(5)]], [[Label(3)]], [], None):
        monkeypatch.setitem(operations.OPERATIONS, "tanh", lambda call, wrong=wrong: wrong)
        with pytest.raises(ValueError, match="tanh in forward is not known"):
            derive_spec(network, x)


class Distances(nn.Module):
    """Distances from learned centres (radial basis functions); ``change`` may tell centres, or units, apart."""

    def __init__(self, change=lambda y: y, weigh=lambda y: y):
        super().__init__()
        self.first, self.centres, self.last = nn.Linear(4, 5), nn.Parameter(torch.randn(7, 5)), nn.Linear(7, 2)
        self.change, self.weigh = change, weigh

    def forward(self, x):
        return self.last(self.change(torch.cdist(self.weigh(self.first(x)), self.centres)))


def test_an_operation_is_added_as_the_docstring_says(monkeypatch):
    x = torch.randn(VECTORS, generator=rng(0))
    with pytest.raises(ValueError, match="cdist in forward is not known"):
        derive_spec(Distances(), x)  # control
    recipe = re.search(r"( +def distances.*?)\n\n", tracing.__doc__, re.DOTALL)[1]
    names = dict(vars(operation_sums))
    exec(dedent(recipe), names)
    monkeypatch.setitem(operations.OPERATIONS, "cdist", names["distances"])
    spec = derive_spec(Distances(), x)
    assert sorted(spec.groups.values()) == [5, 7]
    units, centres = spec.axes["first.bias"][0], spec.axes["last.weight"][1]
    assert spec.axes["centres"] == (centres, units) and units != centres
    assert set(derive_spec(Distances(lambda y: y * torch.arange(1.0, 8)), x).groups.values()) == {5}  # centres differ
    assert set(derive_spec(Distances(weigh=lambda y: y * torch.arange(1.0, 6)), x).groups.values()) == {7}  # units do


# -- operators that need no line: marked as pointwise, or made of simpler ones ---------------------------------------

POINTWISE = {
    "hardswish": F.hardswish, "hardswish, in place": lambda y: F.hardswish(y * 1, inplace=True), "silu": F.silu,
    "mish": F.mish, "softplus": F.softplus, "hardsigmoid": F.hardsigmoid, "elu": F.elu, "celu": F.celu, "selu": F.selu,
    "gelu": lambda y: F.gelu(y, approximate="tanh"), "softsign": F.softsign, "tanhshrink": F.tanhshrink,
    "hardshrink": F.hardshrink, "softshrink": F.softshrink, "logsigmoid": F.logsigmoid, "relu6": F.relu6,
    "threshold": lambda y: F.threshold(y, 0.1, 0.2), "rrelu": nn.RReLU().eval(), "hardtanh": F.hardtanh,
    "clamp": lambda y: y.clamp(-1, 1), "clip": lambda y: torch.clip(y, max=0.4), "erf": torch.erf, "sinc": torch.sinc,
    "where": lambda y: torch.where(y > 0, y, 0.1 * y), "masked fill": lambda y: y.masked_fill(y < 0, -0.2),
    "method": lambda y: y.sigmoid(), "function": torch.sigmoid, "module": nn.Sigmoid(),
    "power": lambda y: y.abs() ** 1.5,
    "in place": lambda y: (y * 1).relu_().mul_(2).add_(1), "lerp": lambda y: torch.lerp(y, y.tanh(), 0.3),
    "addcmul": lambda y: torch.addcmul(y, y.tanh(), y, value=0.5), "maximum": lambda y: torch.maximum(y, -0.1 * y),
    "max of two": lambda y: torch.max(y, -0.1 * y), "dropout": nn.Dropout(0.5).eval(),
    "xlogy": lambda y: y.xlogy(y.exp()),
    "atan2": lambda y: torch.atan2(y, y.exp()), "nan to num": torch.nan_to_num, "softmax": lambda y: y.softmax(-1),
    "log softmax": lambda y: y.log_softmax(1), "softmin": lambda y: F.softmin(y, 1),
    "no grad": torch.no_grad()(torch.tanh),
}  # fmt: skip


@pytest.mark.parametrize("name", POINTWISE)
def test_what_works_number_by_number_is_known_without_a_list(name):
    x = torch.randn(VECTORS, generator=rng(0))
    assert derive_spec(Between(POINTWISE[name]), x).groups == {"first": 6}
    weighed = Between(lambda y: POINTWISE[name](y * torch.arange(1.0, 7)))
    assert derive_spec(weighed, x).groups == {}  # control


class Image(nn.Module):
    """Two convolutions, and what is done to the 6 channels between them."""

    def __init__(self, change, read=6):
        super().__init__()
        self.first, self.last, self.change = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(read, 3, 1), change
        self.scale = 1.0  # numbers that differ tell channels apart

    def forward(self, x):
        return self.last(self.change(self.first(x) * self.scale)).mean((2, 3))


def squeeze_excite(y):
    return y * (y.mean((2, 3), keepdim=True) * 2).sigmoid()


MADE_OF_PARTS = {  # network, groups: what happens to units between two layers
    "glu": (Between(F.glu, 3), {"first": 3}),  # each unit with its gate
    "chunk and gate": (Between(lambda y: y.chunk(2, -1)[0] * F.silu(y.chunk(2, -1)[1]), 3), {"first": 3}),
    "split and gate": (Between(lambda y: y.split(3, -1)[0] * F.gelu(y.split([3, 3], -1)[1]), 3), {"first": 3}),
    "stack": (Between(lambda y: torch.stack([y, y.tanh()], 1).sum(1)), {"first": 6}),
    "einsum": (Between(lambda y: torch.einsum("nu,mu->nm", y, y) @ y), {"first": 6}),
    "normalize": (Between(lambda y: F.normalize(y, dim=1)), {"first": 6}),
    "norm": (Between(lambda y: y / torch.linalg.vector_norm(y, dim=-1, keepdim=True)), {"first": 6}),
    "cosine": (Between(lambda y: y * F.cosine_similarity(y, y.tanh(), dim=1)[:, None]), {"first": 6}),
    "max": (Between(lambda y: y - y.max(1, keepdim=True).values), {"first": 6}),
    "median": (Between(lambda y: y - y.median(1, keepdim=True).values), {"first": 6}),
    "variance": (Between(lambda y: y / (1 + torch.var_mean(y, 1, keepdim=True)[0])), {"first": 6}),
    "flip of others": (Between(lambda y: y[:, None].repeat(1, 4, 1).flip(1).cumsum(1).mean(1)), {"first": 6}),
    "rms norm": (Between(nn.RMSNorm(6)), {"first": 6}),
    "layer norm": (Between(nn.LayerNorm(6)), {"first": 6}),
    "unflatten": (Between(lambda y: y.unflatten(1, (6, 1)).movedim(1, 2).squeeze(1)), {"first": 6}),
    "squeeze and excite": (Image(squeeze_excite), {"first": 6}),
    "upsample": (Image(lambda y: F.interpolate(y, scale_factor=2)), {"first": 6}),
    "bilinear": (Image(lambda y: F.interpolate(y, scale_factor=2, mode="bilinear")), {"first": 6}),
    "adaptive pools": (Image(lambda y: F.adaptive_max_pool2d(y, 2) + F.adaptive_avg_pool2d(y, 2)), {"first": 6}),
    "padding": (Image(lambda y: F.pad(y, (1, 1, 2, 0))), {"first": 6}),
    "reflection": (Image(lambda y: F.pad(y, (1, 1, 1, 1), mode="reflect")), {"first": 6}),
    "rolled image": (Image(lambda y: y.roll((1, 1), (2, 3))), {"first": 6}),
    "instance norm": (Image(nn.InstanceNorm2d(6, affine=True)), {"first": 6}),
    "every other pixel": (Image(lambda y: y[:, :, ::2, ::2]), {"first": 6}),
    "pixels by number": (Image(lambda y: y[:, :, torch.tensor([2, 0])]), {"first": 6}),
    "max pool with places": (Image(lambda y: F.max_pool2d(y, 2, return_indices=True)[0]), {"first": 6}),
    "unshuffle": (Image(lambda y: F.pixel_unshuffle(y, 2), 24), {"first": 6}),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE_OF_PARTS)
def test_what_is_made_of_known_parts_is_known(name):
    network, groups = MADE_OF_PARTS[name]
    x = torch.randn((2, 2, 8, 8) if isinstance(network, Image) else VECTORS, generator=rng(0))
    spec = derive_spec(network, x)
    assert spec.groups == groups
    network.scale = torch.arange(1.0, 7).view((6, 1, 1) if isinstance(network, Image) else (6,))
    assert derive_spec(network, x).groups == {}  # control: units that differ


def test_whole_channels_move_with_their_pixels():
    network = Image(lambda y: F.pixel_shuffle(y.repeat(1, 2, 1, 1), 2), 3)
    network.first = nn.Conv2d(2, 12, 3, padding=1)
    network.change = lambda y: F.pixel_shuffle(y, 2)
    spec = derive_spec(network, torch.randn(2, 2, 8, 8, generator=rng(0)))
    assert spec.axes["first.bias"] == ((Stretch("first", 3, 4),),) and spec.axes["last.weight"][1] == "first"
    network.last, network.change = nn.Conv2d(12, 3, 1), lambda y: y
    assert derive_spec(network, torch.randn(2, 2, 8, 8)).groups == {"first": 12}  # control


TELL_APART = {
    "argmax": (lambda y: y * y.argmax(1, keepdim=True), "argmax in forward gives places by number"),
    "places of maxima": (lambda y: y * y.max(1, keepdim=True).indices, "max in forward gives places by number"),
    "sorted": (lambda y: y.topk(6, 1).values, "topk in forward depends on the order of units"),
    "local response": (lambda y: F.local_response_norm(y[:, :, None], 3)[:, :, 0], "in forward (depends|mixes|tears)"),
    "channel shuffle": (lambda y: F.channel_shuffle(y[:, :, None, None], 2)[:, :, 0, 0], None),
}


@pytest.mark.parametrize("name", TELL_APART)
def test_what_tells_units_apart_is_refused_by_name_or_sound(name):
    change, message = TELL_APART[name]
    x = torch.randn(VECTORS, generator=rng(0))
    if message:
        with pytest.raises(ValueError, match=message):
            derive_spec(Between(change), x)
    with pytest.warns(UserWarning, match="units left where they are"):
        spec = derive_spec(Between(change), x, unknown="fix")
    assert spec.groups.get("first") != 6
    assert derive_spec(Between(torch.tanh), x).groups == {"first": 6}  # control


class Hidden(nn.Module):
    """Differences from one example to the next, which count only where they are large: at no random weights."""

    def __init__(self, shared):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)
        self.shared = shared

    def forward(self, x):
        y = self.first(x)
        before = (y if self.shared else self.second(x))[:1]
        steps = self.last(y.diff(dim=0, prepend=before))
        return self.last(y.relu()) + self.last.bias * self.second(x).mean() + (steps.square() - 1e4).relu()


def test_what_is_put_before_differences_has_the_same_units_also_where_no_output_shows_it():
    x = torch.randn(4, 4, generator=rng(0))
    network = Hidden(shared=False)
    spec = derive_spec(network, x)
    assert spec.groups == {"first": 6} and spec.axes["second.bias"] == ("first",)
    weights = 9 * torch.randn(spec.layout.size, generator=rng(1))  # here it shows
    spec.verify(network, weights, x)
    assert set(derive_spec(Hidden(shared=True), x).groups) == {"first", "second"}  # control
    alone = derive_spec(Hidden(shared=True), x)
    with pytest.raises(ValueError, match="changes outputs"):
        alone.verify(network, weights, x)


def test_an_operator_that_has_no_form_but_in_place_is_named():
    def of_others(y):
        return (y.T @ y).fill_diagonal_(0.0).sum(0) * y

    x = torch.randn(VECTORS, generator=rng(0))
    with pytest.raises(ValueError, match="fill_diagonal in forward is not known"):
        derive_spec(Between(of_others), x)
    with pytest.warns(UserWarning, match="fill_diagonal in forward is not known"):
        assert derive_spec(Between(of_others), x, unknown="fix").groups == {}
    assert derive_spec(Between(lambda y: (y.T @ y).sum(0) * y), x).groups == {"first": 6}  # control


RECURRENT = {
    "lstm": nn.LSTM(4, 6, batch_first=True),
    "gru": nn.GRU(4, 3, 2, batch_first=True, bidirectional=True),
    "rnn_tanh": nn.RNN(4, 6, batch_first=True),
    "rnn_relu": nn.RNN(4, 6, nonlinearity="relu", batch_first=True),
}


class Recurrent(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.last = layer, nn.Linear(6, 2)

    def forward(self, x):
        if isinstance(self.layer, nn.RNNBase):
            return self.last(self.layer(x)[0].mean(1))
        state = None
        for t in range(x.shape[1]):
            state = self.layer(x[:, t], state)
        return self.last(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_are_refused_by_name(name):
    x = torch.randn(2, 5, 4, generator=rng(0))
    with pytest.raises(ValueError, match=rf"{name} in layer is a recurrent layer, .*align=None"):
        derive_spec(Recurrent(RECURRENT[name]), x)
    control = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Flatten(), nn.Linear(30, 2))
    assert derive_spec(control, x).groups == {"0": 6}  # control


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_recurrent_cells_in_a_loop_are_refused_by_name(cell):
    with pytest.raises(ValueError, match=r"cell in layer is a recurrent layer, .*align=None"):
        derive_spec(Recurrent(cell(4, 6)), torch.randn(2, 5, 4, generator=rng(0)))
