"""Statistics of hidden units: REPAIR, matching by activations, and matching by the loss halfway."""

import warnings
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from dwflow_lite import MLP, Recipe, Zoo, load_task, train_zoo
from dwflow_lite.batchnorm import norms_with_statistics, recalibrate
from dwflow_lite.networks import ResNet, ViT
from dwflow_lite.symmetry import (
    Permutation,
    PermutationSpec,
    activation_matching,
    derive_spec,
    interpolate,
    linear_barrier,
    repair,
    straight_through_matching,
    unit_statistics,
    weight_matching,
)
from dwflow_lite.tasks import Task
from dwflow_lite.zoo import Layout, evaluate, predict

NETWORKS = {
    "mlp": MLP([64, 12, 9, 10]),
    "resnet, layer norm": ResNet((4, 6), 1, channels=1, norm="layer"),
    "resnet, batch norm": ResNet((4, 6), 1, channels=1),
    "vit": ViT(8, 4, 12, 2, 3, hidden=10, channels=1),
}
WITHOUT_BATCHNORM = [name for name in NETWORKS if "batch" not in name]


def rng(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def task():
    return load_task("digits")


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request, task):
    network = NETWORKS[request.param]
    return train_zoo(task, network, members=3, recipe=Recipe(epochs=4, lr=4e-3)), PermutationSpec.of(network)


def zoo_of(zoo, *rows):
    return Zoo(torch.stack(rows), zoo.layout, zoo.network)


def statistics_of_an_mlp(zoo, x):
    """Written out: mean and deviation of every hidden unit before the activation."""
    state, y, found = zoo.layout.unflatten(zoo.weights), x.flatten(1).expand(len(zoo), -1, -1), []
    for i in range(len(zoo.network.layers) - 1):
        y = y @ state[f"layers.{i}.weight"].mT + state[f"layers.{i}.bias"][:, None]
        found.append(torch.stack([y.mean(1), y.std(1, correction=0)], 1))
        y = y.relu()
    return torch.cat(found, 2)


def test_statistics_are_those_of_the_units(task):
    zoo = train_zoo(task, NETWORKS["mlp"], members=20, recipe=Recipe(epochs=1))
    spec = PermutationSpec.of(zoo.network)
    found = unit_statistics(zoo, task, spec)
    assert found.shape == (20, 2, 12 + 9)
    torch.testing.assert_close(found, statistics_of_an_mlp(zoo, task.calibration.x), rtol=1e-4, atol=1e-5)
    assert (found - statistics_of_an_mlp(zoo, task.validation.x)).abs().max() > 0.01  # the calibration split, no other


@pytest.mark.parametrize("name", WITHOUT_BATCHNORM)
def test_repaired_units_have_the_statistics_asked_for(task, name):
    network = NETWORKS[name]
    zoo, spec = train_zoo(task, network, members=2, recipe=Recipe(epochs=4, lr=4e-3)), PermutationSpec.of(network)
    ends = unit_statistics(zoo, task, spec)
    halfway = zoo_of(zoo, zoo.weights.mean(0))
    targets = ends.mean(0, keepdim=True)
    mended = repair(halfway, targets, task, spec)
    reached = unit_statistics(mended, task, spec)
    torch.testing.assert_close(reached, targets, rtol=2e-3, atol=2e-3)
    assert (unit_statistics(halfway, task, spec) - targets).abs().max() > 0.05  # control: not so before
    # a network that has its own statistics already is left alone, and so is the caller's zoo
    kept = zoo.weights.clone()
    same = repair(zoo, ends, task, spec)
    assert torch.equal(zoo.weights, kept)
    torch.testing.assert_close(predict(same, task.validation.x), predict(zoo, task.validation.x), rtol=1e-3, atol=1e-3)


def test_variance_collapses_halfway_and_repair_brings_it_back(task):
    zoo = train_zoo(task, MLP([64, 32, 32, 10]), members=4, recipe=Recipe(epochs=15))
    spec = PermutationSpec.of(zoo.network)
    b = [weight_matching(zoo.weights[0], w, spec).apply(spec, w) for w in zoo.weights[1:]]
    ends = unit_statistics(zoo_of(zoo, zoo.weights[0], *b), task, spec)[:, 1].mean()
    halfway = zoo_of(zoo, *[(zoo.weights[0] + w) / 2 for w in b])
    assert unit_statistics(halfway, task, spec)[:, 1].mean() < 0.9 * ends
    curve = linear_barrier(zoo_of(zoo, zoo.weights[0], *b), [(0, 1), (0, 2), (0, 3)], task, points=5)
    assert curve.repaired.loss_barrier.mean() < curve.loss_barrier.mean()


def test_both_ends_of_a_repaired_line_are_the_networks_themselves(task, trained):
    zoo, _ = trained
    pairs = [(0, 1), (1, 2)]
    curve = linear_barrier(zoo, pairs, task, points=3)
    ends = curve.loss[:, [0, -1]]
    if norms_with_statistics(zoo.network):
        # Members have statistics of the training split, the repaired line those of the calibration split.
        recalibrated = evaluate(recalibrate(zoo, task), task, "validation").loss[torch.tensor(pairs)]
        assert (recalibrated - ends).abs().max() > 1e-3  # control: that can be told apart
        ends = recalibrated
    torch.testing.assert_close(curve.repaired.loss[:, [0, -1]], ends, rtol=1e-3, atol=1e-3)
    assert (curve.repaired.loss[:, 1] - curve.loss[:, 1]).abs().max() > 1e-3
    plain = linear_barrier(zoo, [(0, 1), (1, 2)], task, points=3, repaired=False)
    assert plain.repaired is None and torch.equal(plain.loss, curve.loss)


def test_a_network_with_nothing_to_mend_is_named(task):
    linear = train_zoo(task, MLP([64, 10]), members=2, recipe=Recipe(epochs=1))
    with pytest.raises(ValueError, match="no module of this MLP has hidden units"):
        linear_barrier(linear, [(0, 1)], task, points=3)
    assert linear_barrier(linear, [(0, 1)], task, points=3, repaired=False).loss.shape == (1, 3)


# -- activations ----------------------------------------------------------------------------------------


def test_activations_find_planted_orders(task, trained):
    zoo, spec = trained
    a = zoo.weights[0]
    for seed in range(3):
        hidden = spec.random(rng(seed))
        back = activation_matching(a, spec.apply(hidden, a), spec, zoo.network, task.train.x[:500], batch_size=200)
        assert back.permutation.compose(hidden).is_identity and not hidden.is_identity
        assert back.objective[-1] > back.objective[0]
    matching = activation_matching(a, zoo.weights[1], spec, zoo.network, task.train.x[:500])
    moved = matching.apply(spec, zoo.weights[1])
    x = task.validation.x
    torch.testing.assert_close(
        predict(zoo_of(zoo, moved), x), predict(zoo.take([1]), x), rtol=1e-3, atol=1e-3
    )  # still the same function


def test_activations_agree_with_a_correlation_matrix(task):
    """Against NumPy: the best assignment of the correlations of hidden units, layer by layer."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    zoo = train_zoo(task, NETWORKS["mlp"], members=2, recipe=Recipe(epochs=4))
    spec, x = PermutationSpec.of(zoo.network), task.train.x[:400]
    state = [zoo.layout.unflatten(w) for w in zoo.weights]
    ys = [x.flatten(1)] * 2
    found = activation_matching(*zoo.weights, spec, zoo.network, x)
    before = after = 0.0
    for i in (0, 1):
        zs = [y @ s[f"layers.{i}.weight"].T + s[f"layers.{i}.bias"] for y, s in zip(ys, state, strict=True)]
        n = zs[0].shape[1]
        correlation = np.corrcoef(zs[0].T.numpy(), zs[1].T.numpy())[:n, n:]
        order = linear_sum_assignment(-correlation)[1]
        assert found.permutation.indices[f"hidden{i}"].tolist() == order.tolist()
        before += correlation.trace()
        after += correlation[np.arange(n), order].sum()
        ys = [z.relu() for z in zs]
    assert found.objective[0] == pytest.approx(before, abs=1e-4) and len(found.objective) == 3
    assert found.objective[-1] == pytest.approx(after, abs=1e-4) and after > before + 0.1


def test_activations_lower_the_barrier(task):
    zoo = train_zoo(task, MLP([64, 32, 10]), members=3, recipe=Recipe(epochs=15))
    spec = PermutationSpec.of(zoo.network)
    rows = [activation_matching(zoo.weights[0], w, spec, zoo.network, task.train.x).apply(spec, w) for w in zoo.weights]
    assert torch.equal(rows[0], zoo.weights[0])
    pairs = [(0, 1), (0, 2)]
    naive, better = (linear_barrier(z, pairs, task).loss_barrier.mean() for z in (zoo, zoo_of(zoo, *rows)))
    assert better < naive / 2


def test_a_group_that_nobody_writes_to_cannot_be_observed(task):
    spec = PermutationSpec.of(NETWORKS["mlp"])
    odd = PermutationSpec(spec.layout, {n: (None, None) if "weight" in n else (None,) for n in spec.axes}
                          | {"layers.1.weight": (None, "inputs")})  # fmt: skip
    w = torch.randn(spec.layout.size, generator=rng(0))
    with pytest.raises(ValueError, match="no module writes to group 'inputs'"):
        activation_matching(w, w, odd, NETWORKS["mlp"], task.train.x[:10])


# -- straight through -----------------------------------------------------------------------------------


def test_straight_through_starts_at_weight_matching_and_is_never_worse(task, trained):
    zoo, spec = trained
    a, b = zoo.weights[:2].clone()
    kept = a.clone(), b.clone()
    start = weight_matching(a, b, spec).permutation
    same = straight_through_matching(a, b, spec, zoo.network, task, steps=0)
    assert len(same.objective) == 1
    assert all(torch.equal(i, start.indices[g]) for g, i in same.permutation.indices.items())
    found = straight_through_matching(a, b, spec, zoo.network, task, steps=25, batch_size=64, lr=1e-2)
    losses = found.objective
    assert len(losses) == 26 and min(losses) <= losses[0]
    assert losses == sorted(losses, reverse=True)  # the lowest so far
    assert torch.equal(a, kept[0]) and torch.equal(b, kept[1])
    moved = zoo_of(zoo, found.apply(spec, b))
    x = task.validation.x
    torch.testing.assert_close(predict(moved, x), predict(zoo_of(zoo, b), x), rtol=1e-3, atol=1e-3)
    again = straight_through_matching(a, b, spec, zoo.network, task, steps=25, batch_size=64, lr=1e-2)
    assert all(torch.equal(i, found.permutation.indices[g]) for g, i in again.permutation.indices.items())


def test_straight_through_keeps_the_best_it_saw(task):
    zoo = train_zoo(task, MLP([64, 8, 10]), members=2, recipe=Recipe(epochs=10, lr=4e-3))
    spec = PermutationSpec.of(zoo.network)
    a, b = zoo.weights
    found = straight_through_matching(a, b, spec, zoo.network, task, steps=60, lr=2e-2)
    losses = found.objective
    halfway = zoo_of(zoo, interpolate(a, found.apply(spec, b), torch.tensor([0.5]))[0])
    assert float(evaluate(halfway, task, "calibration").loss) == pytest.approx(min(losses), abs=1e-5)
    assert min(losses) < losses[0]  # narrow networks: weight matching is not the last word
    random = Permutation({"hidden0": torch.randperm(8, generator=rng(0))})
    other = zoo_of(zoo, interpolate(a, spec.apply(random, b), torch.tensor([0.5]))[0])
    assert float(evaluate(other, task, "calibration").loss) > min(losses)


# -- modules that are not called, are called twice, or return something else ----------------------------


X = torch.randn(200, 5, 4, generator=rng(5))
SERIES = Task.from_arrays(X, (X.mean(1)[:, 0] > 0).long() + (X.mean(1)[:, 1] > 0).long(), name="series")


class Attention(nn.Module):
    """The last layer of an attention is not called as a module."""

    def __init__(self):
        super().__init__()
        self.into, self.attention = nn.Linear(4, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.out = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.into(x)
        return self.out(self.up(h + self.attention(h, h, h)[0]).relu().mean(1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(4, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True)

    def forward(self, x):
        return self.out(self.layer(self.into(x)).mean(1))


class Functional(nn.Module):
    """Uses the weights of a module, and not the module."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(4, 7), nn.Linear(7, 6), nn.Linear(6, 3)

    def between(self, h):
        return nn.functional.linear(h, self.second.weight, self.second.bias)

    def forward(self, x):
        return self.out(self.between(self.first(x.mean(1)).relu()).relu())


class Tuples(Functional):
    """One of its modules returns two things."""

    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    def __init__(self):
        super().__init__()
        self.second = self.Pair(7, 6)

    def between(self, h):
        return self.second(h)[0]


class Twins(nn.Module):
    """One module, called for each half of a series."""

    def __init__(self):
        super().__init__()
        self.part, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.part(x[:, :2].mean(1)).relu() + self.part(x[:, 2:].mean(1)).relu())


class Shared(nn.Module):
    """Two modules of one weight."""

    def __init__(self):
        super().__init__()
        self.before, self.one, self.two, self.out = nn.Linear(4, 7), nn.Linear(7, 6), nn.Linear(7, 6), nn.Linear(6, 3)
        self.two.weight = self.one.weight

    def forward(self, x):
        h = self.before(x.mean(1)).relu()
        return self.out((self.one(h) + self.two(h)).relu())


class Turned(nn.Module):
    """The weight of a transposed convolution runs over what it reads first."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.norm = nn.ConvTranspose1d(4, 6, 3), nn.Conv1d(6, 8, 3), nn.GroupNorm(1, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.norm(self.down(self.up(x.transpose(1, 2)).relu())).relu().mean(2))


class OwnLayer(nn.Module):
    """A reader's layer: its units are on the last axis, though it is no Linear."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return x @ self.weight.T + self.bias


def spec_of(network, x):
    if not isinstance(network, Shared):
        return derive_spec(network, x)
    before, between = ("before",), ("between",)
    axes = {
        "before.weight": (*before, None), "before.bias": before, "one.weight": (*between, *before), "one.bias": between,
        "two.bias": between, "out.weight": (None, *between), "out.bias": (None,),
    }  # fmt: skip
    return PermutationSpec(Layout.of(network), axes)


LEFT_OUT = {
    Attention: None,
    Encoder: None,
    Functional: "second is not called as a module",
    Tuples: "second returns a tuple",
    Twins: None,
    Shared: "one shares its weights with two; two shares its weights with one",
    Turned: None,
    lambda: nn.Sequential(OwnLayer(), nn.ReLU(), nn.Flatten(), nn.Linear(30, 3)): None,
}


@pytest.mark.parametrize("kind", LEFT_OUT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_module_is_measured_or_named(kind, dtype):
    torch.manual_seed(1)
    zoo = Zoo.from_modules([kind().to(dtype) for _ in range(3)])
    spec = spec_of(zoo.network, SERIES.train.x[:3].to(dtype))
    left_out = LEFT_OUT[kind]
    expected = (
        pytest.warns(UserWarning, match=f"are not measured, nor repaired: {left_out}") if left_out else nullcontext()
    )
    with expected, warnings.catch_warnings():
        if not left_out:
            warnings.filterwarnings("error", message=".*not measured")
        ends = unit_statistics(zoo, SERIES, spec)
        halfway = zoo_of(zoo, zoo.weights[:2].mean(0))
        targets = ends[:2].mean(0, keepdim=True)
        mended = repair(halfway, targets, SERIES, spec)
        reached = unit_statistics(mended, SERIES, spec)
        curve = linear_barrier(zoo, [(0, 1), (1, 2)], SERIES, points=3, spec=spec)
        before = unit_statistics(halfway, SERIES, spec)
    torch.testing.assert_close(reached, targets, rtol=2e-3, atol=2e-3)
    assert (before - targets).abs().max() > 0.05  # control
    ends_of_line = curve.loss[:, [0, -1]]
    torch.testing.assert_close(curve.repaired.loss[:, [0, -1]], ends_of_line, rtol=1e-3, atol=1e-3)
    assert (curve.repaired.loss[:, 1] - curve.loss[:, 1]).abs().max() > 1e-5


def outputs_by_hand(module, kind, x):
    """What the units that are watched do in one network, (n, units) or (n, ..., units), module after module."""
    with torch.no_grad():
        if kind is Attention:
            h = module.into(x)
            attended = module.attention(h, h, h)[0]
            return [h, attended, module.up(h + attended)]
        return [module.part(x[:, :2].mean(1))]


@pytest.mark.parametrize("kind", [Attention, Twins])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_what_is_measured_is_what_the_units_do(kind):
    torch.manual_seed(0)
    zoo = Zoo.from_modules([kind() for _ in range(3)])
    spec, x = derive_spec(zoo.network, SERIES.train.x[:3]), SERIES.calibration.x
    found = unit_statistics(zoo, SERIES, spec)
    for member in range(len(zoo)):
        units = [outputs.flatten(0, -2) for outputs in outputs_by_hand(zoo.module(member), kind, x)]  # (numbers, units)
        means = torch.cat([numbers.mean(0) for numbers in units])
        deviations = torch.cat([numbers.std(0, correction=0) for numbers in units])
        torch.testing.assert_close(found[member], torch.stack([means, deviations]), rtol=1e-4, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 0.01  # control


def test_activations_match_modules_of_any_kind():
    for kind in (Twins, Turned):
        torch.manual_seed(0)
        network = kind()
        spec = derive_spec(network, SERIES.train.x[:3])
        a = Zoo.from_modules([network]).weights[0]
        hidden = spec.random(rng(2))
        back = activation_matching(a, spec.apply(hidden, a), spec, network, SERIES.train.x)
        assert back.permutation.compose(hidden).is_identity and not hidden.is_identity
    network = Functional()
    spec = derive_spec(network, SERIES.train.x[:3])
    w = Zoo.from_modules([network]).weights[0]
    with pytest.raises(ValueError, match=r"no module writes to group '.*second is not called as a module: match it by"):
        activation_matching(w, w, spec, network, SERIES.train.x)


REFUSED = {
    "steps must be a whole number >= 0, got -1": lambda a, b, s, t: straight_through_matching(
        a, b, s, NET, t, steps=-1
    ),
    "batch_size must be a whole number >= 1, got 0": lambda a, b, s, t: straight_through_matching(
        a, b, s, NET, t, batch_size=0
    ),
    "lr must be a number > 0, got 0": lambda a, b, s, t: straight_through_matching(a, b, s, NET, t, lr=0),
    "seed must be a whole number from 0": lambda a, b, s, t: straight_through_matching(a, b, s, NET, t, seed=-1),
    "batch_size must be a whole number >= 1, got -3": lambda a, b, s, t: activation_matching(
        a, b, s, NET, t.train.x, batch_size=-3
    ),
    r"x must be finite inputs \(n >= 1, ...\), got shape \(0": lambda a, b, s, t: activation_matching(
        a, b, s, NET, t.train.x[:0]
    ),
    r"x must be finite inputs \(n >= 1, ...\), got shape list": lambda a, b, s, t: activation_matching(
        a, b, s, NET, [1.0]
    ),
    "MLP does not take inputs of shape": lambda a, b, s, t: activation_matching(a, b, s, NET, t.train.x[..., :3]),
    "MLP does not have the tensors of the spec": lambda a, b, s, t: activation_matching(
        a, b, s, MLP([64, 5, 10]), t.train.x
    ),
    "examples must be a whole number >= 1, got 0": lambda a, b, s, t: unit_statistics(LINES, t, s, examples=0),
    r"targets must be of shape \(2, 2, 21\)": lambda a, b, s, t: repair(LINES, torch.zeros(2, 2, 3), t, s),
    "a barrier needs at least one pair of members": lambda a, b, s, t: linear_barrier(LINES, [], t),
    r"as \[\(0, 1\)\], and three points": lambda a, b, s, t: linear_barrier(LINES, [(0, 1)], t, points=2),
    r"as \[\(0, 1\)\], and three point": lambda a, b, s, t: linear_barrier(LINES, [(0, 1, 1)], t),
    r"cannot join members \[7\] of a zoo of 2": lambda a, b, s, t: linear_barrier(LINES, [(0, 7)], t),
    "batches of at least two examples": lambda a, b, s, t: recalibrate(LINES, t, batch_size="many"),
    "members_at_once must be a whole number >= 1, got 0": lambda a, b, s, t: recalibrate(LINES, t, members_at_once=0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_numbers_out_of_range_are_refused_in_a_sentence(task, message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message](*LINES.weights, PermutationSpec.of(NET), task)


NET = NETWORKS["mlp"]
LINES = Zoo.from_modules([MLP([64, 12, 9, 10]) for _ in range(2)])


def test_nothing_is_dropped_as_the_loss_halfway_is_measured(task):
    """A matching by the loss draws no mask, and leaves the generator of the process alone."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 10))
    zoo = Zoo.from_modules([network, nn.Sequential(*[type(m)() if not list(m.parameters()) else m for m in network])])
    spec = derive_spec(network, task.train.x[:3])
    state = torch.get_rng_state()
    one, other = (straight_through_matching(*zoo.weights, spec, network, task, steps=2).objective for _ in range(2))
    assert one == other and torch.equal(torch.get_rng_state(), state)
    halfway = zoo_of(zoo, zoo.weights.mean(0))
    assert one[0] == pytest.approx(float(evaluate(halfway, task, "calibration").loss), abs=1e-4)
