"""What cannot run at once runs one by one, everywhere; and a zoo never changes, whatever a network does."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dwflow_lite.auditing import audit
from dwflow_lite.batchnorm import recalibrate
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import DeepWeightFlow
from dwflow_lite.networks import MLP
from dwflow_lite.symmetry import PermutationSpec, activation_matching, linear_barrier, unit_statistics
from dwflow_lite.symmetry.repairing import repair
from dwflow_lite.symmetry.straight_through import straight_through_matching
from dwflow_lite.tasks import Task
from dwflow_lite.training import Recipe, train_zoo
from dwflow_lite.zoo import Layout, Zoo, batching, evaluate, forward_all, predict

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 5, 4)).astype(np.float32)
TASK = Task.from_arrays(X, (X.mean(1)[:, 0] > 0).astype(int) + (X.mean(1)[:, 1] > 0), name="series")
FAST = {"members": 4, "held_out": 1, "recipe": Recipe(epochs=2, batch_size=16, lr=1e-2)}
ONE_BY_ONE = "networks run one by one, as torch.vmap cannot run them at once"


@pytest.fixture(autouse=True)
def nothing_noted(monkeypatch):
    monkeypatch.setattr(batching, "_noted", set())


# -- networks that vmap refuses ----------------------------------------------------------------------------------


class Series(nn.Module):
    """Reads (n, 5, 4); subclasses say how."""

    def __init__(self, width=4):
        super().__init__()
        self.start()
        self.out = nn.Linear(width, 3)

    def start(self):
        pass

    def read(self, x):
        return x.mean(1)

    def forward(self, x):
        return self.out(self.read(x))


class Recurrent(Series):
    kind = nn.LSTM

    def start(self):
        self.r = self.kind(4, 4, batch_first=True)

    def read(self, x):
        return self.r(x)[0][:, -1]


class Gated(Recurrent):
    kind = nn.GRU


class Plain(Recurrent):
    kind = nn.RNN


class Cell(Series):
    def start(self):
        self.cell = nn.LSTMCell(4, 4)

    def read(self, x):
        h = c = torch.zeros(len(x), 4)
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
        return h


class Fresh(Series):
    """Writes into a fresh tensor."""

    def start(self):
        self.inner = nn.Linear(4, 4)

    def read(self, x):
        h = torch.zeros(len(x), 5, 4)
        for step in range(5):
            h[:, step] = torch.tanh(self.inner(x[:, step]))
        return h.mean(1)


class Numbers(Series):
    """Leaves torch on the way."""

    def start(self):
        self.inner = nn.Linear(4, 4)

    def read(self, x):
        return torch.from_numpy(np.tanh(self.inner(x.mean(1)).detach().numpy()))


class Item(Series):
    def start(self):
        self.inner = nn.Linear(4, 4)

    def read(self, x):
        h = self.inner(x.mean(1))
        return h / (1 + h.abs().max().item())


class Branch(Series):
    def read(self, x):
        h = x.mean(1) * self.out.weight.mean()
        return h if h.mean() > 0 else 2 * h


class Nonzero(Series):
    def read(self, x):
        h = x.mean(1) * self.out.weight[0]
        rows, columns = torch.nonzero(h > 0, as_tuple=True)
        return torch.zeros_like(h).index_put((rows, columns), h[rows, columns])


class Sign(torch.autograd.Function):
    """Of the older kind, without setup_context."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class StraightThrough(Series):
    def start(self):
        self.inner = nn.Linear(4, 4)

    def read(self, x):
        return Sign.apply(self.inner(x.mean(1)))


class Hooked(Series):
    """A reader's hook that keeps numbers."""

    def start(self):
        self.seen = []
        self.register_forward_hook(lambda module, x, y: self.seen.append(float(y.mean())))


class Rewriting(Series):
    def read(self, x):
        self.out.weight.data.clamp_(-0.1, 0.1)
        return x.mean(1)


# -- networks that vmap takes, and of which it makes something else -----------------------------------------------


class Seeded(Series):
    """Drops the same inputs each time."""

    def read(self, x):
        torch.manual_seed(3)
        return F.dropout(x.mean(1), 0.5, training=True)


class Generating(Series):
    def read(self, x):
        generator = torch.Generator().manual_seed(1)
        return x.mean(1) * (torch.rand(len(x), 4, generator=generator) > 0.5)


class Aliased(Series):
    """Keeps its parameters in a list too, which functional_call does not replace."""

    def start(self):
        self.inner = nn.Linear(4, 4)
        self.list = [self.inner.weight, self.inner.bias]

    def read(self, x):
        return F.linear(x.mean(1), *self.list).tanh()


REFUSED = [
    Recurrent, Gated, Plain, Cell, Fresh, Numbers, Item, Branch, Nonzero, StraightThrough, Hooked, Rewriting, Seeded,
    Generating, Aliased,
]  # fmt: skip


def alone(zoo, x):
    """What each member gives, called by itself."""
    with torch.no_grad():
        return torch.stack([zoo.module(member)(x) for member in range(len(zoo))])


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_run_at_once_runs_one_by_one_everywhere(kind):
    with pytest.warns(UserWarning, match=f"{kind.__name__} {ONE_BY_ONE}") as noted:
        zoo = train_zoo(TASK, kind(), **FAST)
        assert zoo.record["method"] == "loop"
        assert torch.equal(zoo.weights, train_zoo(TASK, kind(), method="loop", **FAST).weights)
        weights, x = zoo.weights.clone(), TASK.test.x
        expected = alone(zoo, x)
        assert torch.equal(predict(zoo, x), expected)
        assert torch.equal(predict(zoo, x, members_at_once=2, inputs_at_once=len(x)), expected)
        assert torch.equal(evaluate(zoo, TASK, "test").score, TASK.score(expected, TASK.test.y))
        torch.testing.assert_close(zoo.scores("test"), TASK.score(expected, TASK.test.y), atol=1e-5, rtol=1e-5)
        curve = linear_barrier(zoo, [(0, 1)], TASK, points=3, repaired=False)
        ends = evaluate(zoo, TASK).loss[:2]
        torch.testing.assert_close(curve.loss[0, [0, -1]], ends)
        model = DeepWeightFlow(align=None, flow=FlowSettings(hidden=16, steps=10, every=5)).fit(zoo)
        table = audit(model.sample(3, seed=0), model.zoo_, TASK, rematch=False)
        assert np.isfinite([row.score for row in table.rows]).all()
    assert sum(ONE_BY_ONE in str(warning.message) for warning in noted) == 1  # said once
    assert torch.equal(zoo.weights, weights)
    assert (expected - expected.roll(1, 0)).abs().max() > 1e-4  # control: the wrong member is seen


def test_it_is_found_out_before_training(monkeypatch):
    monkeypatch.setattr(Recipe, "optimizer_for", lambda *_: pytest.fail("it trains already"))
    with pytest.warns(UserWarning, match=ONE_BY_ONE), pytest.raises(pytest.fail.Exception):
        train_zoo(TASK, Recurrent(), **FAST)


@pytest.mark.parametrize("network", [MLP([20, 6, 3]), Series(), nn.Sequential(nn.Flatten(), nn.Linear(20, 3))])
def test_what_can_run_at_once_does(network):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo = train_zoo(TASK, network, **FAST)
        predict(zoo, TASK.test.x)
    assert zoo.record["method"] == "batched"


def test_it_is_not_found_out_by_words(monkeypatch):
    """An error of any kind and text."""

    def fails(*args, **options):
        raise KeyError("no such thing")

    zoo = Zoo.from_modules([Series() for _ in range(3)])
    expected = predict(zoo, TASK.test.x)
    monkeypatch.setattr(batching, "batched_forward", fails)
    with pytest.warns(UserWarning, match=rf"Series {ONE_BY_ONE} \(KeyError: 'no such thing'\)"):
        torch.testing.assert_close(predict(zoo, TASK.test.x), expected)


def test_other_numbers_are_seen(monkeypatch):
    plain = batching.batched_forward
    zoo = Zoo.from_modules([Series() for _ in range(3)])
    expected = predict(zoo, TASK.test.x)
    monkeypatch.setattr(batching, "batched_forward", lambda *a, **o: plain(*a, **o) * 1.01)
    with pytest.warns(UserWarning, match=r"at once they give other numbers than one by one"):
        torch.testing.assert_close(predict(zoo, TASK.test.x), expected)


class Crooked(torch.autograd.Function):
    """Right outputs, and under vmap another gradient."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient

    @staticmethod
    def vmap(info, in_dims, x):
        return 2 * x - x.detach(), in_dims[0]


class CrookedNetwork(Series):
    def start(self):
        self.inner = nn.Linear(4, 4)

    def read(self, x):
        return Crooked.apply(self.inner(x.mean(1)))


def test_other_gradients_are_seen_too():
    with pytest.warns(UserWarning, match="CrookedNetwork networks run one by one"):
        zoo = train_zoo(TASK, CrookedNetwork(), **FAST)
    assert zoo.record["method"] == "loop"


class Large(Series):
    """Fails at once, but not for two examples."""

    def read(self, x):
        if len(x) > 8 and not self.training:
            x = torch.from_numpy(x.numpy())
            float(self.out.weight.sum())
        return x.mean(1)


def test_a_pass_that_fails_later_goes_one_by_one():
    zoo = Zoo.from_modules([Large() for _ in range(3)])
    with pytest.warns(UserWarning, match=f"Large {ONE_BY_ONE}"):
        assert torch.equal(predict(zoo, TASK.test.x), alone(zoo, TASK.test.x))


# -- networks that keep something from call to call ----------------------------------------------------------------


class Counting(Series):
    def start(self):
        self.calls = 0

    def read(self, x):
        self.calls += 1
        return x.mean(1) * self.calls


class Remembering(Series):
    def start(self):
        self.h = None

    def read(self, x):
        h = x.mean(1) if self.h is None else x.mean(1) + self.h
        self.h = torch.tanh(self.out(h)).mean().detach()
        return h


class Tallying(Series):
    """Counts in a buffer, when it does not train."""

    def start(self):
        self.register_buffer("calls", torch.zeros(()))

    def read(self, x):
        if not self.training:
            self.calls += 1
        return x.mean(1) * (1 + self.calls)


class Attending(Series):
    """Keeps what it returned, with its graph: a copy of it fails."""

    def read(self, x):
        self.kept = self.out(x.mean(1))
        return x.mean(1)


@pytest.mark.parametrize("kind", [Counting, Remembering, Tallying, Attending])
@pytest.mark.filterwarnings("ignore:.*run one by one")
def test_every_member_and_call_begins_anew(kind):
    zoo, looped = (train_zoo(TASK, kind(), method=method, **FAST) for method in ("batched", "loop"))
    torch.testing.assert_close(zoo.weights, looped.weights, atol=1e-5, rtol=1e-5)
    x = TASK.test.x
    torch.testing.assert_close(predict(zoo, x), alone(zoo, x))
    for sizes in ((1, 16), (3, 16), (5, 4)):
        parts = [alone(zoo, part) for part in x.split(sizes[1])]
        torch.testing.assert_close(
            predict(zoo, x, members_at_once=sizes[0], inputs_at_once=sizes[1]), torch.cat(parts, 1)
        )
    if kind is Counting:  # control: its calls do differ
        module = zoo.module(0)
        assert not torch.equal(module(x), module(x))


# -- a zoo never changes -------------------------------------------------------------------------------------------


class Normed(nn.Module):
    """An embedding that shortens its own rows as they are read."""

    def __init__(self):
        super().__init__()
        self.table, self.hidden, self.out = nn.Embedding(7, 4, max_norm=0.1), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        tokens = (3 * x.abs()).long().clamp(0, 6)
        return self.out(self.hidden(self.table(tokens).mean((1, 2))).relu())


class Clamping(Series):
    def start(self):
        self.hidden = nn.Linear(4, 4)

    def read(self, x):
        with torch.no_grad():
            self.out.weight.clamp_(-0.1, 0.1)
        return self.hidden(x.mean(1)).relu()


class Shrinking(Clamping):
    def read(self, x):
        with torch.no_grad():
            self.out.weight.mul_(0.5)
        return self.hidden(x.mean(1)).relu()


class Replacing(Clamping):
    def read(self, x):
        self.out.weight.data = self.out.weight.data * 0.5
        return self.hidden(x.mean(1)).relu()


def spec_of(network):
    """One group of hidden units."""
    layout = Layout.of(network)
    axes = {entry.name: (None,) * len(entry.shape) for entry in layout.entries}
    axes |= {"hidden.weight": ("h", None), "hidden.bias": ("h",), "out.weight": (None, "h")}
    return PermutationSpec(layout, axes)


@pytest.mark.parametrize("kind", [Normed, Clamping, Shrinking, Replacing])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore:.*run one by one", "ignore:There is a performance drop")
def test_a_zoo_never_changes(kind, dtype, tmp_path):
    torch.manual_seed(0)
    zoo = Zoo.from_modules([kind().to(dtype) for _ in range(4)])
    spec, (a, b) = spec_of(zoo.network), zoo.weights[:2]
    kept, template = zoo.weights.clone(), [tensor.clone() for tensor in zoo.network.state_dict().values()]
    x = TASK.test.x.to(dtype)
    expected = alone(zoo, x)
    disk = Zoo.load(zoo.save(tmp_path / "zoo"), zoo.network) if dtype == torch.float32 else zoo

    torch.testing.assert_close(predict(zoo, x), expected)
    torch.testing.assert_close(predict(disk, x, members_at_once=2), expected)
    state = zoo.layout.unflatten(zoo.weights)
    forward_all(zoo.network, state, x)
    evaluate(zoo, TASK)
    evaluate(disk, TASK)
    unit_statistics(zoo, TASK, spec)
    linear_barrier(zoo, [(0, 1)], TASK, points=3, spec=spec)
    repair(zoo, unit_statistics(zoo, TASK, spec), TASK, spec)
    activation_matching(a, b, spec, zoo.network, x)
    straight_through_matching(a, b, spec, zoo.network, TASK, steps=2)
    recalibrate(zoo, TASK)
    spec.verify(zoo.network, a, x)
    model = DeepWeightFlow(align=None, flow=FlowSettings(hidden=16, steps=10, every=5)).fit(zoo)
    sampled = model.sample(3, seed=0)
    if sampled.weights.dtype == zoo.weights.dtype:
        audit(sampled, zoo, TASK, rematch=False)

    assert torch.equal(zoo.weights, kept)
    assert torch.equal(disk.in_memory().weights, kept)
    for before, after in zip(template, zoo.network.state_dict().values(), strict=True):
        assert torch.equal(before, after)
    module = zoo.module(0)  # control: the network does change itself
    before = [tensor.clone() for tensor in module.state_dict().values()]
    module(x)
    assert not all(torch.equal(one, other) for one, other in zip(before, module.state_dict().values(), strict=True))


class Scaling(Clamping):
    """Writes to its inputs."""

    def read(self, x):
        return self.hidden(x.mul_(2.0).mean(1)).relu()


class Rectifying(Clamping):
    def read(self, x):
        return self.hidden(F.relu(x, inplace=True).sub_(1).mean(1)).relu()


@pytest.mark.parametrize("kind", [Scaling, Rectifying])
@pytest.mark.filterwarnings("ignore:.*run one by one")
def test_inputs_never_change(kind):
    kept = {name: split.x.clone() for name, split in TASK.splits.items()}
    zoos = [train_zoo(TASK, kind(), method=method, **FAST) for method in ("batched", "loop")]
    zoo, (a, b), spec = zoos[0], zoos[0].weights[:2], spec_of(kind())
    torch.testing.assert_close(zoo.weights, zoos[1].weights, atol=1e-5, rtol=1e-5)
    expected = torch.stack([zoo.module(member)(TASK.test.x.clone()) for member in range(len(zoo))]).detach()
    for sizes in ({}, {"members_at_once": 1}, {"inputs_at_once": 4}):
        torch.testing.assert_close(predict(zoo, TASK.test.x, **sizes), expected)
    linear_barrier(zoo, [(0, 1)], TASK, points=3, spec=spec)
    activation_matching(a, b, spec, zoo.network, TASK.calibration.x)
    straight_through_matching(a, b, spec, zoo.network, TASK, steps=2)
    spec.verify(zoo.network, a, TASK.calibration.x.double())
    evaluate(zoo, TASK)
    for name, split in TASK.splits.items():
        assert torch.equal(split.x, kept[name])
    x = TASK.test.x.clone()  # control: the network does write to them
    zoo.module(0)(x)
    assert not torch.equal(x, TASK.test.x)


class NormedByBatch(Clamping):
    """Writes to its weights, beside BatchNorm."""

    def start(self):
        self.hidden, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def read(self, x):
        with torch.no_grad():
            self.out.weight.clamp_(-0.1, 0.1)
        return self.norm(self.hidden(x.mean(1))).relu()


class RecurrentNorm(Recurrent):
    def start(self):
        self.r, self.norm = nn.GRU(4, 4, batch_first=True), nn.BatchNorm1d(4)

    def read(self, x):
        return self.norm(self.r(x)[0][:, -1])


class InstanceNormed(Series):
    def start(self):
        self.norm = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)

    def read(self, x):
        return self.norm(x.transpose(1, 2)).relu().mean(2)


@pytest.mark.parametrize("kind", [NormedByBatch, RecurrentNorm, InstanceNormed])
@pytest.mark.filterwarnings("ignore:.*run one by one")
def test_recalibration_changes_statistics_alone(kind):
    zoo = train_zoo(TASK, kind(), **FAST)
    measured = recalibrate(zoo, TASK, members_at_once=2)
    is_statistic = torch.cat([torch.full((entry.size,), entry.role == "buffer") for entry in zoo.layout.entries])
    assert is_statistic.any()
    assert torch.equal(measured.weights[:, ~is_statistic], zoo.weights[:, ~is_statistic])
    assert not torch.equal(measured.weights[:, is_statistic], zoo.weights[:, is_statistic])  # control
    for member in range(len(zoo)):
        module = zoo.module(member)
        module.norm.reset_running_stats()
        module.norm.momentum = 1.0  # of the one batch
        module.norm.train()
        with torch.no_grad():
            module(TASK.calibration.x)
        found = measured.module(member).norm
        torch.testing.assert_close(found.running_mean, module.norm.running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.running_var, module.norm.running_var, rtol=1e-4, atol=1e-5)


# -- what is no network of a zoo ------------------------------------------------------------------------------------


class Pair(Series):
    def forward(self, x):
        return super().forward(x), x


class Flat(Series):
    def forward(self, x):
        return super().forward(x).mean(-1)


def test_networks_that_return_something_else_are_named():
    pairs, flat, narrow = (Zoo.from_modules([kind() for _ in range(2)]) for kind in (Pair, Flat, Series))
    for use in (lambda: predict(pairs, TASK.test.x), lambda: evaluate(pairs, TASK)):
        with pytest.raises(ValueError, match=r"Pair returns a tuple: return one tensor \(n, outputs\)"):
            use()
    with pytest.raises(ValueError, match=r"the networks return \(\d+,\) for \d+ examples: return one row an example"):
        evaluate(flat, TASK)
    for sizes in ({"members_at_once": 0}, {"inputs_at_once": 0}, {"members_at_once": 1.5}):
        with pytest.raises(ValueError, match="must be a whole number >= 1"):
            predict(narrow, TASK.test.x, **sizes)
    assert predict(narrow, TASK.test.x[:0]).shape == (2, 0, 3)  # control, of no examples
    assert predict(narrow, TASK.test.x, members_at_once=np.int64(1)).shape == (2, len(TASK.test), 3)


class NoisyAlways(nn.Module):
    """Its outputs are random in eval mode, too."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(4, 3)

    def forward(self, x):
        return self.one(x) + torch.randn(len(x), 3)


def test_one_network_of_random_outputs_runs_as_it_does_alone(recwarn):
    x = torch.zeros(5, 4)
    predict(Zoo.from_modules([NoisyAlways()]), x)
    assert not [str(said.message) for said in recwarn if ONE_BY_ONE in str(said.message)]
    with pytest.warns(UserWarning, match=f"NoisyAlways {ONE_BY_ONE}"):  # control: of two each would draw its own
        predict(Zoo.from_modules([NoisyAlways(), NoisyAlways()]), x)
