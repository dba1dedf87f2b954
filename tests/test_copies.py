"""Copies that compute the same as members by other weights are no new networks, whatever their class; others are."""

from copy import deepcopy

import pytest
import torch
from own_networks import Of
from torch import nn

from dwflow_lite import MLP, Zoo, audit, canonicalise, load_task
from dwflow_lite.generate import MemberNoise, Soup
from dwflow_lite.symmetry import PermutationSpec, basis_of, linear_barrier
from dwflow_lite.zoo import Layout


@pytest.fixture(scope="module")
def task():
    return load_task("iris")


def normed(m, x):
    return m.c(m.n2(m.b(m.n1(m.a(x)).relu())).relu())


def up(m, x):
    return m.c(m.n2(m.b(m.n1(m.a(x[..., None, None])).relu())).relu().mean((2, 3)))


def gated(m, x):
    return m.c(m.gate(x).sigmoid() * m.a(x))


def attending(m, x):
    tokens = m.embed(x[..., None])
    q, k, v = (layer(tokens).unflatten(-1, (2, 3)).transpose(1, 2) for layer in (m.q, m.k, m.v))
    found = ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)
    return m.c((tokens + m.o(found)).mean(1))


def chain(first, second):
    return nn.Sequential(nn.Linear(4, 6), first(), nn.Linear(6, 5), second(), nn.Linear(5, 3))


def weight_normed():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.BatchNorm1d(6), nn.ReLU(),
                         nn.Linear(6, 3))  # fmt: skip


NETWORKS = {
    "norms last": lambda: Of(normed, a=nn.Linear(4, 6), b=nn.Linear(6, 5), c=nn.Linear(5, 3), n1=nn.BatchNorm1d(6),
                             n2=nn.BatchNorm1d(5)),
    "up-convolution": lambda: Of(up, a=nn.ConvTranspose2d(4, 6, 2), n1=nn.BatchNorm2d(6),
                                 b=nn.ConvTranspose2d(6, 6, 2), n2=nn.BatchNorm2d(6), c=nn.Linear(6, 3)),
    "gated": lambda: Of(gated, gate=nn.Linear(4, 6), a=nn.Linear(4, 6), c=nn.Linear(6, 3)),
    "bilinear": lambda: Of(lambda m, x: m.c(m.gate(x) * m.a(x)), gate=nn.Linear(4, 6), a=nn.Linear(4, 6),
                           c=nn.Linear(6, 3)),
    "own slopes": lambda: Of(lambda m, x: m.c(m.act(m.a(x))), a=nn.Linear(4, 6), act=nn.PReLU(6), c=nn.Linear(6, 3)),
    "attention": lambda: Of(attending, embed=nn.Linear(1, 6), q=nn.Linear(6, 6), k=nn.Linear(6, 6), v=nn.Linear(6, 6),
                            o=nn.Linear(6, 6), c=nn.Linear(6, 3)),
    "scales, then signs": lambda: chain(nn.ReLU, nn.Tanh),
    "scales and signs": lambda: chain(nn.Identity, nn.Identity),
}  # fmt: skip

POSITIVE, ANY = 1, 2  # what a unit may be scaled by
GATE = ("gate.weight", "gate.bias")

# network -> for each scaled set of units: tensors multiplied by c, tensors divided by it (axis 0, columns: axis 1), c
PLANTED = {
    "gated": [(["a.weight", "a.bias"], ["c.weight"], ANY)],
    "bilinear": [(["a.weight", "a.bias"], [*GATE], ANY), (["a.weight", "a.bias"], ["c.weight"], ANY)],
    "own slopes": [(["a.weight", "a.bias"], ["c.weight"], POSITIVE)],
    "attention": [(["q.weight", "q.bias"], ["k.weight", "k.bias"], ANY), (["v.weight", "v.bias"], ["o.weight"], ANY)],
    "scales, then signs": [(["0.weight", "0.bias"], ["2.weight"], POSITIVE), (["2.weight", "2.bias"], ["4.weight"], 0)],
    "scales and signs": [(["0.weight", "0.bias"], ["2.weight"], ANY), (["2.weight", "2.bias"], ["4.weight"], ANY)],
}  # fmt: skip


def members(make, number, seed):
    """Networks with random weights and statistics."""
    generator = torch.Generator().manual_seed(seed)
    networks = [make().eval() for _ in range(number)]
    for network in networks:
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator) * 0.6
                tensor.data = drawn.abs() + 0.3 if name.endswith("running_var") else drawn
    return networks


def factors(units, kind, generator):
    """What units are multiplied by: up to e³ of it or of its inverse, or signs only (0)."""
    sign = torch.randn(units, generator=generator).sign()
    size = (2 * torch.rand(units, generator=generator) - 1).mul(3).exp()
    return {0: sign, POSITIVE: size, ANY: sign * size}[kind]


def times(state, name, c, columns=()):
    """A tensor times c, along its units, in place."""
    tensor = state[name]
    tensor *= c if name in columns else c.reshape(-1, *[1] * (tensor.ndim - 1))


@torch.no_grad()
def copy_of(network, name, generator, wrong=False):
    """The same function by other weights; ``wrong``: one side only, so that it is another function."""
    copy = deepcopy(network)
    state = dict(copy.named_parameters()) | dict(copy.named_buffers())
    if hasattr(copy, "n1"):
        for layer, norm in (("a", copy.n1), ("b", copy.n2)):
            c, shift = factors(norm.num_features, ANY, generator), torch.randn(norm.num_features, generator=generator)
            weight = state[f"{layer}.weight"]
            times({"": weight.transpose(0, 1) if weight.ndim == 4 else weight}, "", c)
            state[f"{layer}.bias"].mul_(c).add_(shift)
            before = norm.running_var.clone()
            norm.running_mean.mul_(c).add_(0 if wrong else shift)
            norm.running_var.mul_(c**2)
            norm.weight.mul_(((norm.running_var + norm.eps) / (before + norm.eps)).sqrt() / c)
        return copy
    for multiplied, divided, kind in PLANTED[name]:
        c = factors(len(state[multiplied[0]]), kind, generator)
        for tensor in multiplied:
            times(state, tensor, c)
        for tensor in [] if wrong else divided:
            times(state, tensor, 1 / c, columns=("c.weight", "o.weight", "2.weight", "4.weight"))
    return copy


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_of_networks_of_any_class_are_copies(task, name):
    originals, x = members(NETWORKS[name], 6, seed=0), task.validation.x
    generator = torch.Generator().manual_seed(1)
    copies = [copy_of(network, name, generator) for network in originals]
    others = [copy_of(network, name, generator, wrong=True) for network in originals]
    for original, copy, other in zip(originals, copies, others, strict=True):
        torch.testing.assert_close(copy(x), original(x), rtol=1e-3, atol=1e-3)
        assert not torch.allclose(other(x), original(x), rtol=1e-3, atol=1e-3)
    kinds = {"copies": copies, "others": others, "strangers": members(NETWORKS[name], 6, seed=2)}
    kinds = {kind: Zoo.from_modules(networks) for kind, networks in kinds.items()}
    zoo = Zoo.from_modules(originals)
    found = audit(kinds, zoo, task, controls={})
    assert found["copies"].rematched < 0.01 and found["copies"].accurate_and_new == 0
    for control in ("others", "strangers"):
        assert found[control].rematched > 0.1
    assert audit(kinds, zoo, task, controls={}, gauge=False)["copies"].rematched > 0.1  # control


def test_copies_with_units_that_do_nothing_are_copies(task):
    def idle(change):
        networks = members(lambda: chain(nn.ReLU, nn.ReLU), 6, seed=0)
        for network in networks:
            state = dict(network.named_parameters())
            for tensor in ("0.weight", "0.bias"):  # the first unit reads nothing
                state[tensor].data[0] = 0.0
            state["2.weight"].data[:, 1] = 0.0  # nobody reads the second
            change(state)
        return networks

    def otherwise(state):
        state["2.weight"].data[:, 0] = 3.0
        state["0.weight"].data[1], state["0.bias"].data[1] = -2.0, 4.0

    def awake(state):
        otherwise(state)
        state["0.bias"].data[0] = 1.0

    zoo, copies, others = (Zoo.from_modules(idle(change)) for change in (lambda state: None, otherwise, awake))
    x = task.validation.x
    torch.testing.assert_close(copies.module(0)(x), zoo.module(0)(x))
    found = audit({"copies": copies, "others": others}, zoo, task, controls={})
    assert found["copies"].rematched < 0.01 and found["copies"].nearest > 0.1
    assert found["others"].rematched > 0.1  # control


def test_norms_after_layers_of_two_tensors_are_audited(task):
    zoo = Zoo.from_modules(members(weight_normed, 5, seed=0))
    kinds = {"copies": zoo.take([0, 1]), "strangers": Zoo.from_modules(members(weight_normed, 3, seed=1))}
    found = audit(kinds, zoo, task, controls={})
    assert found["copies"].rematched == 0 and found["strangers"].rematched > 0.1  # control


# -- other functions are no copies -------------------------------------------------------------------------------


def test_a_spec_that_is_no_symmetry_is_refused(task):
    network = MLP([4, 6, 3])
    layout, known = Layout.of(network), PermutationSpec.of(network)
    forgotten = PermutationSpec(layout, {**known.axes, "layers.0.bias": (None,)})
    zoo = Zoo.from_modules(members(lambda: MLP([4, 6, 3]), 5, seed=0))
    moved = torch.stack([forgotten.apply(forgotten.random(torch.Generator().manual_seed(1)), w) for w in zoo.weights])
    others = Zoo(moved, layout, network)
    with pytest.raises(ValueError, match=r"no symmetry of this MLP: .* changes outputs by .*; derive one"):
        audit(others, zoo, task, controls={}, spec=forgotten)
    found = audit(others, zoo, task, controls={}, spec=known)  # control: by the true one they are new
    assert found["generated"].rematched > 0.1
    assert audit(others, zoo, task, controls={}, spec=forgotten, rematch=False).symmetries == ()


def test_what_a_baseline_makes_of_a_trained_zoo_is_in_no_aligned_basis(task):
    weights = Zoo.from_modules(members(lambda: MLP([4, 6, 3]), 6, seed=0)).weights
    network = MLP([4, 6, 3])
    trained = Zoo(weights, Layout.of(network), network, {"task": {"name": "iris"}, "identity": {"seed": 0}})
    aligned = canonicalise(trained)
    for baseline in (Soup(3), MemberNoise(0.1)):
        networks = baseline.fit(trained).sample(3, seed=0)
        with pytest.raises(ValueError, match=r"another basis .*as trained here, weight matching there"):
            audit(networks, aligned, task, controls={})
        with pytest.raises(ValueError, match="not in one basis"):
            linear_barrier(aligned, [(0, 0)], task, points=3, other=networks)
        again = Soup(2).fit(networks).sample(2, seed=0)
        with pytest.raises(ValueError, match="another basis"):
            audit(again, aligned, task, controls={})
        for same, zoo in ((networks, trained), (baseline.fit(aligned).sample(3, seed=0), aligned)):  # controls
            assert basis_of(same) == basis_of(zoo) and len(audit(same, zoo, task, controls={}, rematch=False).rows) == 2
