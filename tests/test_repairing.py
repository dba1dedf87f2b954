"""Statistics of hidden units: REPAIR, matching by activations, and matching by the loss halfway."""

import pytest
import torch

from dwflow_lite import MLP, Recipe, Zoo, load_task, train_zoo
from dwflow_lite.batchnorm import norms_with_statistics, recalibrate
from dwflow_lite.networks import ResNet, ViT
from dwflow_lite.symmetry import (
    Permutation,
    PermutationSpec,
    activation_matching,
    interpolate,
    linear_barrier,
    repair,
    straight_through_matching,
    unit_statistics,
    weight_matching,
)
from dwflow_lite.zoo import evaluate, predict

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
