"""Running statistics: measured as PyTorch would, on what may be seen, and batched training with BatchNorm."""

import pytest
import torch
from torch import nn

from dwflow_lite import Recipe, Zoo, evaluate, load_task, train_zoo
from dwflow_lite.batchnorm import norms_with_statistics, recalibrate, without_statistics
from dwflow_lite.networks import MLP, ResNet, architecture_of, build
from dwflow_lite.symmetry import PermutationSpec, canonicalise, linear_barrier
from dwflow_lite.zoo import predict


@pytest.fixture(scope="module")
def task():
    return load_task("digits")


def small(norm="batch"):
    return ResNet((4, 6), 1, channels=1, norm=norm)


@pytest.fixture(scope="module")
def zoo(task):
    return train_zoo(task, small(), members=3, held_out=1, recipe=Recipe(epochs=2, batch_size=128, lr=5e-3))


def test_residual_networks_have_the_sizes_of_the_paper():
    assert sum(p.numel() for p in ResNet((64, 128, 256, 512), 2).parameters()) == 11_173_962
    assert sum(p.numel() for p in ResNet((16, 32, 64), 3).parameters()) == 272_474
    for norm in ("batch", "layer"):
        network = build(architecture_of(small(norm)))
        assert network(torch.randn(2, 1, 8, 8)).shape == (2, 10) and repr(network) == repr(small(norm))
    for options in ({"norm": "group"}, {"widths": ()}, {"blocks": 0}):
        with pytest.raises(ValueError):
            ResNet(**options)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_batched_training_with_batchnorm_equals_the_loop(task, optimizer):
    options = {"members": 3, "recipe": Recipe(epochs=1, batch_size=200, optimizer=optimizer, lr=1e-3)}
    batched, loop, other = (
        train_zoo(task, small(), method=method, seed=seed, **options)
        for method, seed in (("batched", 0), ("loop", 0), ("loop", 1))
    )
    assert float((batched.weights - loop.weights).abs().max()) < 1e-4
    assert float((batched.weights - other.weights).abs().max()) > 1e-2  # control


def test_statistics_are_those_of_pytorch(task, zoo):
    assert zoo.record["stages"][-1]["stage"] == "recalibrate" and zoo.record["stages"][-1]["split"] == "train"
    measured = recalibrate(zoo, task, batch_size=64, members_at_once=2)
    assert "scores" not in measured.record and "scores" in zoo.record
    x = task.calibration.x
    for member in range(len(zoo)):
        module = zoo.module(member)
        for norm in norms_with_statistics(module).values():
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative mean
        module.train()
        with torch.no_grad():
            for batch in x.tensor_split(-(-len(x) // 64)):
                module(batch)
        found = dict(measured.module(member).named_buffers())
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                torch.testing.assert_close(found[name], buffer, rtol=1e-4, atol=1e-5)
    parameters = torch.cat([torch.full((e.size,), e.role == "parameter") for e in zoo.layout.entries])
    assert torch.equal(measured.weights[:, parameters], zoo.weights[:, parameters])
    assert not torch.equal(measured.weights[:, ~parameters], zoo.weights[:, ~parameters])


def test_wrong_statistics_ruin_a_network_and_recalibration_mends_it(task, zoo):
    spoiled = zoo.weights.clone()
    for entry in zoo.layout.entries:
        if entry.role == "buffer":
            spoiled[:, zoo.layout.slices[entry.name]] = 3.0
    spoiled = Zoo(spoiled, zoo.layout, zoo.network)
    good, bad, mended = (evaluate(z, task).score.mean() for z in (zoo, spoiled, recalibrate(spoiled, task, "train")))
    assert float(bad) < float(good) - 0.1 and float(mended) == pytest.approx(float(good), abs=1e-3)


@pytest.mark.parametrize("split", ["test", "validation", "everything"])
def test_statistics_are_never_measured_on_what_judges(task, zoo, split):
    with pytest.raises(ValueError, match="never on"):
        recalibrate(zoo, task, split)


def test_a_line_is_judged_with_statistics_of_its_own(task, zoo):
    """Between a network and its permuted self, once aligned, nothing changes; unaligned, recalibration helps."""
    spec = PermutationSpec.of(zoo.network)
    twin = spec.apply(spec.random(torch.Generator().manual_seed(0)), zoo.weights[0])
    pair = Zoo(torch.stack([zoo.weights[0], twin]), zoo.layout, zoo.network)
    plain = linear_barrier(pair, [(0, 1)], task, points=5)
    assert float(plain.repaired.loss_barrier) < float(plain.loss_barrier)
    joined = linear_barrier(canonicalise(pair), [(0, 1)], task, points=5).repaired
    assert float(joined.loss_barrier) == pytest.approx(0, abs=1e-4)
    alone = evaluate(recalibrate(pair.take([0]), task), task).loss
    assert float(joined.loss[0, 2]) == pytest.approx(float(alone), abs=1e-4)  # the calibration split, and no other


def test_networks_without_statistics_are_left_alone(task):
    zoo = train_zoo(task, MLP([64, 4, 10]), members=2, recipe=Recipe(epochs=1))
    same = recalibrate(zoo, task)
    assert torch.equal(same.weights, zoo.weights) and "scores" in same.record


def test_a_network_that_trains_is_a_copy():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    copy = without_statistics(network)
    assert norms_with_statistics(network) and not norms_with_statistics(copy)
    assert dict(network.named_buffers()) and not dict(copy.named_buffers())


def test_a_last_batch_of_one_is_refused(task):
    n = len(task.train)
    for batch_size in (n - 1, 1):
        with pytest.raises(ValueError, match="last batch of one example"):
            train_zoo(task, small(), members=1, recipe=Recipe(epochs=1, batch_size=batch_size))
    assert (
        n % 64 != 1 and len(train_zoo(task, small(), members=1, recipe=Recipe(epochs=1, batch_size=64))) == 1
    )  # control


def test_matching_permutes_statistics_but_does_not_listen_to_them(task, zoo):
    """A planted permutation is found again though the statistics, of any size, would mislead; functions stay."""
    spec = PermutationSpec.of(zoo.network)
    planted = spec.random(torch.Generator().manual_seed(3))
    twin = spec.apply(planted, zoo.weights[0])
    misled = twin.clone()
    for entry in zoo.layout.entries:
        if entry.role == "buffer":
            columns = zoo.layout.slices[entry.name]
            misled[columns] = 1000 * torch.rand(entry.size, generator=torch.Generator().manual_seed(1))
    pair = Zoo(torch.stack([zoo.weights[0], misled]), zoo.layout, zoo.network)
    aligned = canonicalise(pair)
    stage = aligned.record["stages"][-1]
    parameters = torch.cat([torch.full((e.size,), e.role == "parameter") for e in zoo.layout.entries])
    assert torch.equal(aligned.weights[1][parameters], zoo.weights[0][parameters])
    assert stage["objective_after"][1] == pytest.approx(stage["objective_before"][0])
    x = task.validation.x[:20]
    torch.testing.assert_close(predict(aligned, x), predict(pair, x), rtol=1e-3, atol=1e-3)
    assert not torch.equal(aligned.weights[1], misled)
