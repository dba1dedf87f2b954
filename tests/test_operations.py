"""What operations say about labels: each rule by a network that keeps to it, and one that does not."""

import re
from textwrap import dedent

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dwflow_lite.symmetry import Stretch, derive_spec, operations, tracing
from dwflow_lite.symmetry.labels import Label


def rng(seed):
    return torch.Generator().manual_seed(seed)


class Between(nn.Module):
    """Two linear layers, and what is done to the 6 units between them."""

    def __init__(self, change, read=6):
        super().__init__()
        self.first, self.last, self.change = nn.Linear(4, 6), nn.Linear(read, 2), change

    def forward(self, x):
        return self.last(self.change(self.first(x)))


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
    "a vector": (Between(lambda y: y * (y @ y[0])[:, None]), Between(lambda y: y * (y @ y[:1].mT)), VECTORS,
                 "matmul in forward is not known", {"first": 6}),
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


class Stacked(nn.Module):
    """Two layers stacked along a new axis; ``change`` may tell the places of the stack, or their units, apart."""

    def __init__(self, change=lambda y: y):
        super().__init__()
        self.one, self.two, self.last = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)
        self.change = change

    def forward(self, x):
        stacked = torch.stack([self.one(x), self.two(x)], -2)  # (n, 2, 5)
        return self.last(self.change(stacked).tanh()).sum(1)


def test_an_operation_is_added_as_the_docstring_says(monkeypatch):
    x = torch.randn(VECTORS, generator=rng(0))
    with pytest.raises(ValueError, match="stack in forward is not known"):
        derive_spec(Stacked(), x)  # control
    recipe = re.search(r"( +def stack.*?)\n\n", tracing.__doc__, re.DOTALL)[1]
    names = dict(vars(operations))
    exec(dedent(recipe), names)
    monkeypatch.setitem(operations.OPERATIONS, "stack", names["stack"])
    spec = derive_spec(Stacked(), x)
    assert spec.groups == {"one": 5}
    assert spec.axes["two.bias"] == ("one",) and spec.axes["last.weight"] == (None, "one")
    places = torch.arange(1.0, 3)[:, None]
    assert derive_spec(Stacked(lambda y: y * places), x).groups == {"one": 5}  # the places of the stack differ
    units = torch.arange(1.0, 6)
    assert derive_spec(Stacked(lambda y: y * units), x).groups == {}  # control: the units differ


def test_an_operation_that_works_number_by_number_needs_one_line(monkeypatch):
    x = torch.randn(VECTORS, generator=rng(0))
    with pytest.raises(ValueError, match="hardswish in forward is not known"):  # torch does not mark it as pointwise
        derive_spec(Between(F.hardswish), x)  # control
    monkeypatch.setitem(operations.OPERATIONS, "hardswish", operations.elementwise)
    assert derive_spec(Between(F.hardswish), x).groups == {"first": 6}
