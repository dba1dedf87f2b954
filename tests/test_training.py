"""Training: many at once is each alone, and an interruption changes nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import warnings
import weakref
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import DeepWeightFlow
from dwflow_lite.networks import MLP, ResNet, behaviour_of, initialise
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.symmetry import canonicalise
from dwflow_lite.tasks import Task, load_task
from dwflow_lite.training import DivergedError, Recipe, batched, loop, plan, randomness, train_zoo, trainable
from dwflow_lite.training import members as members_module
from dwflow_lite.zoo import Zoo, ZooFileError, batching, evaluate

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 4))
Y = (X[:, 0] * X[:, 1] > 0).astype(int) + (X[:, 2] > 0)
TASK = Task.from_arrays(X, Y, standardise=False, name="small")  # as zoos of version 0.1.0 were trained on it
OTHER = Task.from_arrays(X, Y, standardise=False, name="small", seed=1)
CURVE = Task.from_arrays(X, X[:, :2] ** 2, kind="regression", standardise=False)
QUICK = Recipe(epochs=2, batch_size=20, lr=1e-2)
METHODS = ("batched", "loop")
FAST = {"members": 3, "recipe": QUICK}


class Tied(nn.Module):
    """Two layers, one weight; one parameter frozen; a constant; a parameter that is never used."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)
        self.second.weight = self.first.weight
        nn.init.constant_(self.first.bias, 0.3).requires_grad_(False)
        self.register_buffer("scale", torch.full((4,), 1.5))

    def forward(self, x):
        return self.out(torch.tanh(self.second(torch.tanh(self.first(x * self.scale)))))


class Branching(MLP):
    """torch.vmap refuses a branch on data."""

    def forward(self, x):
        h = super().forward(x)
        return h if h.mean() > 0 else 2 * h


class Counting(nn.Linear):
    """A reader's own running statistic."""

    def __init__(self):
        super().__init__(4, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen += 1
        return super().forward(x)


def mlp():
    return MLP([4, 6, 3])


def dropout():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def conv():
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2), nn.Flatten(), nn.LayerNorm(3), nn.Linear(3, 3))


def batchnorm():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def same(a, b):
    return torch.equal(a.weights, b.weights)


# -- many at once is each alone -------------------------------------------------------------------------


@pytest.mark.parametrize("network", [mlp, Tied, conv])
@pytest.mark.parametrize(
    "recipe",
    [
        {"optimizer": "adam"},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    ],
)
def test_batched_equals_loop(network, recipe):
    options = FAST | {"recipe": replace(QUICK, **({"batch_size": 18, "init": ["default", "kaiming"]} | recipe))}
    together = train_zoo(TASK, network(), **options)
    alone = train_zoo(TASK, network(), method="loop", **options)
    torch.testing.assert_close(together.weights, alone.weights, atol=1e-5, rtol=1e-5)
    one, other = (torch.tensor(z.record["train_loss"]) for z in (together, alone))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    other = train_zoo(TASK, network(), seed=1, **options)
    assert (other.weights - together.weights).abs().max() > 1e-2  # control


def test_batched_equals_loop_in_regression():
    network = MLP([4, 6, 2], "tanh")
    together = train_zoo(CURVE, network, **FAST)
    alone = train_zoo(CURVE, network, method="loop", **FAST)
    torch.testing.assert_close(together.weights, alone.weights, atol=1e-5, rtol=1e-5)
    start = initialise(network, seed=together.record["members"][0]["seed"])
    assert (together.weights[0] - together.layout.flatten(start)).abs().max() > 0.02  # it moved


@pytest.mark.parametrize("method", ["batched", "loop"])
def test_a_member_is_the_same_in_a_larger_zoo(method):
    small = train_zoo(TASK, mlp(), method=method, **FAST)
    large = train_zoo(TASK, mlp(), method=method, **(FAST | {"members": 5, "held_out": 2}))
    torch.testing.assert_close(large.weights[:3], small.weights, atol=1e-6, rtol=1e-5)
    assert (large.weights[3:6] - small.weights).abs().max() > 1e-2
    assert [m["seed"] for m in large.record["members"]][:3] == [m["seed"] for m in small.record["members"]]


@pytest.mark.parametrize("network", [mlp, dropout])
@pytest.mark.parametrize("method", ["batched", "loop"])
def test_same_seed_same_zoo_whatever_the_global_generators(network, method):
    torch.manual_seed(0)
    template = network()
    kept, rng, numpy_rng = (
        deepcopy(template.state_dict()),
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),  # noqa: NPY002
    )
    one = train_zoo(TASK, template, method=method, **FAST)
    assert torch.equal(torch.get_rng_state(), rng)
    assert np.array_equal(np.random.get_state()[1], numpy_rng)  # noqa: NPY002
    assert all(torch.equal(kept[k], v) for k, v in template.state_dict().items())
    assert all(p.grad is None for p in template.parameters()) and template.training
    torch.manual_seed(1)
    assert same(one, train_zoo(TASK, network(), method=method, **FAST))
    assert not same(one, train_zoo(TASK, network(), method=method, **(FAST | {"seed": 1})))


def test_starts_and_orders_differ_between_members():
    orders = [randomness.data_order(0, m, e, 50) for m in range(3) for e in range(3)]
    assert all(sorted(o) == list(range(50)) for o in orders)
    assert len({tuple(o) for o in orders}) == 9
    assert len({randomness.member_seed(s, m) for s in range(5) for m in range(50)}) == 250


@pytest.mark.parametrize("method", ["batched", "loop"])
def test_each_step_draws_its_own_masks(monkeypatch, method):
    drawn = []

    class Drawing(nn.Linear):
        def forward(self, x):
            if self.training and len(x) > 2:  # not the probe
                drawn.append(torch.rand(x.shape[:1]).sum())
            return super().forward(x)

    seen = []
    for module in (batched, loop):
        monkeypatch.setattr(module, "step_noise", lambda *key: seen.append(key[1:]) or randomness.step_noise(*key))
    train_zoo(TASK, Drawing(4, 3), method=method, **FAST)
    steps = 2 * -(-len(TASK.train) // 20) * (1 if method == "batched" else 3)
    assert len(drawn) == steps and len(set(seen)) == steps
    draws = set()
    for key in seen:
        with randomness.step_noise(torch.device("cpu"), *key):
            draws.add(torch.rand(()).item())
    assert len(draws) == steps


def test_dropout_is_at_work_in_training_and_not_after():
    zoo = train_zoo(TASK, dropout(), **FAST)
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Identity(), nn.Linear(8, 3))
    assert not torch.allclose(zoo.weights, train_zoo(TASK, plain, **FAST).weights, atol=1e-3)
    recorded = torch.tensor(zoo.record["losses"]["test"])
    torch.testing.assert_close(evaluate(zoo, TASK, "test").loss, recorded, atol=1e-5, rtol=1e-5)


def test_training_learns_and_the_record_says_how():
    recipe = Recipe(epochs=60, batch_size=16, lr=1e-2, init="xavier")
    zoo = train_zoo(TASK, MLP([4, 16, 3]), members=2, held_out=1, recipe=recipe)
    losses = zoo.record["train_loss"]
    assert len(losses) == 60 and len(losses[0]) == 3
    assert all(last < 0.5 * first for first, last in zip(losses[0], losses[-1], strict=True))
    assert zoo.held_out == (False, False, True) and len(zoo.fitted) == 2 and len(zoo.unseen) == 1
    for split in ("train", "validation", "test"):
        torch.testing.assert_close(zoo.scores(split), evaluate(zoo, TASK, split).score, atol=1e-5, rtol=1e-5)
    assert "calibration" not in zoo.record["scores"]
    assert zoo.record["recipe"]["init"] == ["xavier"] and zoo.record["recipe"]["momentum"] is None
    assert zoo.record["diverged"] == [] and zoo.record["method"] == "batched"
    assert not zoo.weights.requires_grad


def test_inits_are_dealt_in_turn():
    zoo = train_zoo(TASK, mlp(), members=3, recipe=replace(QUICK, init=["normal", "xavier"]))
    assert [m["init"] for m in zoo.record["members"]] == ["normal", "xavier", "normal"]


def test_only_train_is_trained_on():
    changed = {s: v if s == "train" else type(v)(v.x + 5, v.y.flip(0)) for s, v in TASK.splits.items()}
    elsewhere = Task("small", TASK.kind, TASK.outputs, changed, TASK.indices)
    assert same(train_zoo(TASK, mlp(), **FAST), train_zoo(elsewhere, mlp(), **FAST))
    assert not same(train_zoo(TASK, mlp(), **FAST), train_zoo(OTHER, mlp(), **FAST))  # control


# -- chunk after chunk ----------------------------------------------------------------------------------


def steps_of(monkeypatch):
    """The members of each step of the batched training, as they are taken."""
    seen, plain = [], batched.batched_forward

    def forward(network, parameters, x):
        seen.append(len(x))
        return plain(network, parameters, x)

    monkeypatch.setattr(batched, "batched_forward", forward)
    return seen


@pytest.mark.parametrize("network", [mlp, Tied, conv])
@pytest.mark.parametrize(("size", "chunks"), [(1, [1] * 7), (3, [3, 3, 1]), (5, [5, 2]), (np.int64(9), [7])])
def test_chunked_equals_unchunked(monkeypatch, network, size, chunks):
    options = {"members": 5, "held_out": 2, "recipe": replace(QUICK, init=["default", "kaiming"])}
    whole, seen = train_zoo(TASK, network(), **options), steps_of(monkeypatch)
    chunked = train_zoo(TASK, network(), members_at_once=size, **options)
    assert seen == [n for n in chunks for _ in range(6)]
    torch.testing.assert_close(chunked.weights, whole.weights, atol=1e-6, rtol=1e-5)
    one, other = (torch.tensor(z.record["train_loss"]) for z in (chunked, whole))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    for key in ("identity", "recipe", "members", "diverged"):
        assert chunked.record[key] == whole.record[key]
    torch.testing.assert_close(chunked.scores("test"), whole.scores("test"), atol=1e-5, rtol=1e-5)
    assert (chunked.weights - whole.weights.roll(1, 0)).abs().max() > 1e-2  # control


def test_chunked_equals_unchunked_with_batchnorm():
    task, network = load_task("digits"), ResNet((4, 6), 1, channels=1)
    options = {"members": 5, "recipe": Recipe(epochs=1, batch_size=200)}
    whole, chunked, other = (
        train_zoo(task, network, **options, **more) for more in ({}, {"members_at_once": 2}, {"seed": 1})
    )
    assert float((chunked.weights - whole.weights).abs().max()) < 1e-4
    assert float((other.weights - whole.weights).abs().max()) > 1e-2  # control


def test_the_loop_is_scored_in_chunks(monkeypatch):
    seen = []
    monkeypatch.setattr(members_module, "evaluate", lambda zoo, *a: seen.append(len(zoo)) or evaluate(zoo, *a))
    zoo = train_zoo(TASK, mlp(), method="loop", members_at_once=2, **FAST)
    assert seen == [2, 1] * 3
    torch.testing.assert_close(zoo.scores("test"), evaluate(zoo, TASK, "test").score, atol=1e-5, rtol=1e-5)


def test_chunks_do_not_share_masks(monkeypatch):
    monkeypatch.setattr(plan, "member_seed", lambda *_: 0)  # same start and same order for all: only masks differ
    plain_order, plain_noise, keys = randomness.data_order, randomness.step_noise, []
    monkeypatch.setattr(randomness, "data_order", lambda seed, member, *rest: plain_order(seed, 0, *rest))
    monkeypatch.setattr(batched, "step_noise", lambda device, *key: keys.append(key) or plain_noise(device, *key))
    options = FAST | {"members": 4}
    zoo = train_zoo(TASK, dropout(), members_at_once=2, **options)
    assert len({tuple(w.tolist()) for w in zoo.weights}) == 4
    assert keys[:6] == [(0, s) for s in range(6)] and len(set(keys)) == 12
    keys.clear()
    train_zoo(TASK, dropout(), **options)
    assert keys == [(0, s) for s in range(6)]  # as before there were chunks
    monkeypatch.setattr(batched, "step_noise", lambda device, *key: plain_noise(device, *key[:2]))
    shared = train_zoo(TASK, dropout(), members_at_once=2, **options)  # control
    assert torch.equal(shared.weights[:2], shared.weights[2:]) and not torch.equal(*shared.weights[:2])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_says_what_to_do(monkeypatch, tmp_path, error):
    alive = []

    def forward(network, parameters, x):
        alive.append(weakref.ref(parameters["layers.0.weight"]))
        raise error

    monkeypatch.setattr(batched, "batched_forward", forward)
    with pytest.raises(MemoryError, match="no memory for 3 members at once: pass a smaller members_at_once") as raised:
        train_zoo(TASK, mlp(), **FAST)
    assert raised.value.__cause__ is error and [ref() for ref in alive] == [None]  # the error holds no tensors
    with pytest.raises(MemoryError, match="no memory for 2 members"):
        train_zoo(TASK, mlp(), members_at_once=2, **FAST)
    monkeypatch.undo()
    monkeypatch.setattr(Recipe, "optimizer_for", lambda *_: (_ for _ in ()).throw(RuntimeError("another")))
    with pytest.raises(RuntimeError, match="another"):  # control
        train_zoo(TASK, mlp(), **FAST)


def test_what_the_allocator_says_is_known():
    with pytest.raises(MemoryError, match="no memory for 7 members"), out_of_memory_as(plan.no_memory_for(7)):
        torch.empty(10**15)


# -- precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [mlp, conv, dropout])
@pytest.mark.parametrize("method", ["batched", "loop"])
def test_bfloat16_is_close_to_float32_and_not_equal(network, method):
    full, low, other = (
        train_zoo(TASK, network(), method=method, **(FAST | more))
        for more in ({}, {"recipe": replace(QUICK, precision="bfloat16")}, {"seed": 1})
    )
    gap, control = (float((z.weights - full.weights).abs().max()) for z in (low, other))
    assert 1e-5 < gap < 1e-2 < 0.1 < control
    assert low.weights.dtype == torch.float32
    torch.testing.assert_close(low.scores("test"), evaluate(low, TASK, "test").score, atol=1e-5, rtol=1e-5)
    assert low.record["recipe"] == full.record["recipe"] | {"precision": "bfloat16"}
    assert low.record["identity"] != full.record["identity"]


@pytest.mark.parametrize("method", ["batched", "loop"])
def test_bfloat16_learns(method):
    recipe = Recipe(epochs=60, batch_size=16, lr=1e-2, precision="bfloat16")
    losses = train_zoo(TASK, MLP([4, 16, 3]), members=2, method=method, recipe=recipe).record["train_loss"]
    assert all(last < 0.5 * first for first, last in zip(losses[0], losses[-1], strict=True))


def test_bfloat16_reaches_the_products_and_leaves_weights_and_optimizer(monkeypatch):
    seen, plain = {}, Recipe.optimizer_for

    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3, bias=False)

        def forward(self, x):
            out = self.linear(x)
            if len(x) > 2:
                seen[self.training] = out.dtype
            return out

    def optimizer(recipe, parameters):
        seen["optimizer"] = plain(recipe, parameters)
        return seen["optimizer"]

    monkeypatch.setattr(Recipe, "optimizer_for", optimizer)
    for method in ("batched", "loop"):
        for precision in ("float32", "bfloat16"):
            train_zoo(TASK, Looking(), members=3, method=method, recipe=replace(QUICK, precision=precision))
            assert (seen[True], seen[False]) == (getattr(torch, precision), torch.float32)
            group, moments = seen["optimizer"].param_groups[0]["params"], seen["optimizer"].state.values()
            assert {t.dtype for t in group} | {t.dtype for s in moments for t in s.values()} == {torch.float32}


def test_float32_keeps_the_identity_it_had():
    network = mlp()
    zoo = train_zoo(TASK, network, members_at_once=2, **FAST)
    recipe = {
        "epochs": 2, "batch_size": 20, "optimizer": "adam", "lr": 1e-2, "weight_decay": 0.0, "momentum": None,
        "init": ["default"],
    }  # fmt: skip
    identity = {
        "architecture": zoo.record["architecture"], "layout": zoo.layout.to_json(), "recipe": recipe, "seed": 0,
        "behaviour": [behaviour_of(network, (4,), on) for on in (False, True)], "buffers": [], "frozen": [],
        "task": {"name": "small", "kind": "classification", "seed": 0, "fingerprint": TASK.fingerprint},
        "sizes": {"members": 3, "held_out": 0},
    }  # fmt: skip
    text = json.dumps(identity, sort_keys=True)
    assert zoo.record["identity"] == hashlib.sha256(text.encode()).hexdigest()[:16]
    other = train_zoo(TASK, network, members=3, recipe=replace(QUICK, precision="bfloat16"))
    assert other.record["identity"] != zoo.record["identity"]


def test_frozen_parameters_are_those_of_the_template_and_tell_zoos_apart(tmp_path):
    networks = [nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)) for _ in range(2)]
    for network in networks:
        network[0].requires_grad_(False)  # a backbone that was trained before
    zoos = {method: train_zoo(TASK, networks[0], method=method, checkpoint=tmp_path, **FAST) for method in METHODS}
    for zoo in zoos.values():
        for member in range(3):
            assert torch.equal(zoo.module(member)[0].weight, networks[0][0].weight)
        assert not torch.equal(zoo.module(0)[2].weight, zoo.module(1)[2].weight)  # control
    other = train_zoo(TASK, networks[1], checkpoint=tmp_path, **FAST)
    assert torch.equal(other.module(0)[0].weight, networks[1][0].weight)
    assert same(zoos["batched"], train_zoo(TASK, networks[0], checkpoint=tmp_path, **FAST))


# -- networks that do not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["batched", "loop"])
@pytest.mark.parametrize(
    ("network", "message"),
    [
        (MLP([5, 3]), r"does not take inputs of shape \(4,\)"),
        (MLP([4, 2]), r"returns \(2, 2\) for two examples; task 'small' wants \(2, 3\)"),
        (nn.Flatten(), "Flatten has no parameters to train"),
        (nn.Linear(4, 3).requires_grad_(False), "Linear has no parameters to train"),
        (nn.LSTM(4, 3), r"returns a tuple: return one tensor \(n, 3\)"),
        (Counting(), r"changes its buffers as it trains \(seen\)"),
        (MLP([4, 3]).double(), "does not take inputs"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_training(monkeypatch, method, network, message):
    monkeypatch.setattr(Recipe, "optimizer_for", None)  # no step is taken
    with pytest.raises(ValueError, match=message):
        train_zoo(TASK, network, method=method, **FAST)


def test_a_network_that_vmap_refuses_is_trained_by_the_loop(monkeypatch):
    monkeypatch.setattr(batching, "_noted", set())
    with pytest.warns(UserWarning, match=r"Branching networks run one by one, as torch\.vmap cannot"):
        zoo = train_zoo(TASK, Branching([4, 3]), **FAST)
    assert zoo.record["method"] == "loop" and same(zoo, train_zoo(TASK, Branching([4, 3]), method="loop", **FAST))
    assert train_zoo(TASK, MLP([4, 3]), **FAST).record["method"] == "batched"  # control
    score = TASK.score(zoo.module(1)(TASK.test.x), TASK.test.y).item()
    assert abs(zoo.scores("test")[1].item() - score) < 1e-5


def test_batchnorm_without_running_statistics_is_no_obstacle():
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3))
    # SGD: the bias before a BatchNorm has gradient zero, whose rounding Adam would blow up.
    options = FAST | {"recipe": replace(QUICK, optimizer="sgd")}
    alone = train_zoo(TASK, network, method="loop", **options)
    torch.testing.assert_close(train_zoo(TASK, network, **options).weights, alone.weights, atol=1e-5, rtol=1e-5)


def test_a_parameter_without_a_start_is_refused():
    class Raw(nn.Linear):
        def __init__(self):
            super().__init__(4, 3)
            self.scaled = nn.ParameterList([torch.ones(3)])

    with pytest.raises(ValueError, match=r"scaled holds parameters but has no reset_parameters\(\)"):
        train_zoo(TASK, Raw(), **FAST)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "vmap"}, "method is 'batched' or 'loop'"),
        ({"on_diverged": "ignore"}, "on_diverged is 'raise' or 'drop'"),
        ({"members": 0}, "out of range: members"),
        ({"held_out": -1}, "out of range: held_out"),
        *[({"held_out": n}, "out of range: held_out") for n in (1.5, None, "1", True)],
        *[({"seed": s}, "out of range: seed") for s in (None, -1, 1.5, True)],
        *[({"members_at_once": n}, "out of range: members_at_once") for n in (0, -1, 1.5, "2", True)],
        ({"device": "meta"}, "cannot run on device 'meta' here; choose another"),
        ({"device": "abacus"}, "cannot run on device 'abacus' here"),
    ],
)
def test_bad_arguments(monkeypatch, options, message):
    monkeypatch.setattr(plan, "initialise", None)  # nothing is begun
    with pytest.raises(ValueError, match=message):
        train_zoo(TASK, mlp(), **(FAST | options))


@pytest.mark.parametrize("recipe", [None, {"epochs": 2}, vars(QUICK)])
def test_a_recipe_is_a_recipe(monkeypatch, recipe):
    monkeypatch.setattr(plan, "initialise", None)
    with pytest.raises(TypeError, match=r"recipe must be a Recipe, as Recipe\(epochs=10"):
        train_zoo(TASK, mlp(), members=3, recipe=recipe)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(plan, "initialise", None)
    with pytest.raises(ValueError, match="cannot run on device 'cuda' here"):
        train_zoo(TASK, mlp(), device="cuda", **FAST)


def test_numpy_numbers_are_numbers(tmp_path):
    recipe = Recipe(epochs=np.int32(2), batch_size=np.int64(20), lr=np.float32(1e-2))
    zoo = train_zoo(TASK, mlp(), members=np.int64(3), seed=np.int64(0), recipe=recipe, checkpoint=tmp_path)
    plain = train_zoo(TASK, mlp(), **FAST)
    torch.testing.assert_close(zoo.weights, plain.weights, atol=1e-5, rtol=1e-5)
    assert len(list(tmp_path.iterdir())) == 1


# -- divergence -----------------------------------------------------------------------------------------


@pytest.fixture
def poisoned(monkeypatch):
    """Member 1 starts with a NaN."""
    seeds = [randomness.member_seed(0, m) for m in range(4)]

    def start(network, init, seed):
        tensors = initialise(network, init, seed)
        if seed == seeds[1]:
            tensors["layers.0.weight"][0, 0] = float("nan")
        return tensors

    monkeypatch.setattr(plan, "initialise", start)


@pytest.mark.parametrize("method", ["batched", "loop"])
def test_diverged_members_are_named_or_dropped(poisoned, monkeypatch, method, tmp_path):
    options = FAST | {"members": 4, "method": method, "checkpoint": tmp_path / "zoo.safetensors"}
    with pytest.raises(DivergedError, match=r"1 of 4 members diverged .*: \[1\]") as raised:
        train_zoo(TASK, mlp(), **options)
    assert raised.value.members == [1] and "on_diverged='drop'" in str(raised.value)
    monkeypatch.setattr(members_module, "train_batched", None)  # the checkpoint spares the training
    monkeypatch.setattr(members_module, "train_loop", None)
    left = train_zoo(TASK, mlp(), on_diverged="drop", **options)
    assert len(left) == 3 and left.record["diverged"] == [1]
    assert [m["member"] for m in left.record["members"]] == [0, 2, 3]
    assert all(None not in row and len(row) == 3 for row in left.record["train_loss"])
    monkeypatch.undo()
    healthy = train_zoo(TASK, mlp(), **(options | {"checkpoint": None}))
    torch.testing.assert_close(left.weights, healthy.weights[[0, 2, 3]], atol=1e-6, rtol=1e-5)


def test_a_learning_rate_that_only_some_survive():
    network, found = MLP([4, 6, 2]), None
    for lr in (0.2, 0.4, 0.6, 0.8, 1.2, 2.0):
        options = {"members": 6, "recipe": replace(QUICK, optimizer="sgd", epochs=6, lr=lr)}
        try:
            train_zoo(CURVE, network, **options)
        except DivergedError as error:
            found = error.members
            if len(found) < 6:
                left = train_zoo(CURVE, network, on_diverged="drop", **options)
                assert [m["member"] for m in left.record["members"]] == [m for m in range(6) if m not in found]
                assert torch.isfinite(left.scores("test")).all()
                break
            with pytest.raises(DivergedError, match="6 of 6"):
                train_zoo(CURVE, network, on_diverged="drop", **options)
    assert found  # and the smallest rate, the control, went through: the loop got past it


def test_a_finite_weight_with_an_infinite_loss_has_diverged(monkeypatch, tmp_path):
    poisoned = randomness.member_seed(0, 2)

    def start(network, init, seed):
        return {k: v * (1e25 if seed == poisoned else 1) for k, v in initialise(network, init, seed).items()}

    monkeypatch.setattr(plan, "initialise", start)
    options = FAST | {"recipe": replace(QUICK, optimizer="sgd", lr=1e-30), "checkpoint": tmp_path}
    with pytest.raises(DivergedError, match=r"\[2\]"):
        train_zoo(CURVE, MLP([4, 6, 2]), **options)
    left = train_zoo(CURVE, MLP([4, 6, 2]), on_diverged="drop", **options)
    assert len(left) == 2 and torch.isfinite(left.scores("test")).all()
    left.save(tmp_path / "left.safetensors")


def test_all_diverged_is_an_error_even_when_dropping(monkeypatch):
    def start(network, init, seed):
        return {k: torch.full_like(p, float("nan")) for k, p in network.named_parameters()}

    monkeypatch.setattr(plan, "initialise", lambda *a: {k: v.detach() for k, v in start(*a).items()})
    with pytest.raises(DivergedError, match="3 of 3"):
        train_zoo(TASK, mlp(), on_diverged="drop", **FAST)


# -- checkpoints ----------------------------------------------------------------------------------------


def test_a_finished_zoo_is_read_and_not_trained_again(tmp_path, monkeypatch):
    zoo = train_zoo(TASK, mlp(), checkpoint=tmp_path, **FAST)
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("zoo-small-")
    calls = []
    plain = members_module.train_batched
    monkeypatch.setattr(members_module, "train_batched", lambda *a, **o: calls.append(1) or plain(*a, **o))
    again = train_zoo(TASK, mlp(), checkpoint=tmp_path, **FAST)
    assert same(zoo, again) and again.record == zoo.record and not calls
    slow, normal = replace(QUICK, lr=2e-2), replace(QUICK, init="normal")
    for other in ({"recipe": slow}, {"seed": 1}, {"members": 4}, {"recipe": normal}):
        train_zoo(TASK, mlp(), checkpoint=tmp_path, **(FAST | other))
    train_zoo(OTHER, mlp(), checkpoint=tmp_path, **FAST)
    train_zoo(TASK, MLP([4, 6, 3], "tanh"), checkpoint=tmp_path, **FAST)
    assert len(calls) == 6 and len(list(tmp_path.iterdir())) == 7  # each recipe a file of its own
    assert same(again, Zoo.load(file))


# Written by version 0.1.0 (commit a9c0612): train_zoo(TASK, mlp(), checkpoint=...) with the options of FAST, once
# into a folder, and once into half.safetensors, interrupted in its fifth step.
OLD = Path(__file__).parent / "data" / "0.1.0" / "checkpoints"


def test_a_zoo_that_version_0_1_0_trained_is_found_and_read(tmp_path, monkeypatch):
    """Its identity names it in a folder, and must stay what it was."""
    folder = Path(shutil.copytree(OLD, tmp_path / "old"))
    (file,) = folder.glob("zoo-small-*.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(plan, "initialise", None)  # nothing is trained
        for place in (folder, file):
            zoo = train_zoo(TASK, mlp(), checkpoint=place, **FAST)
            assert zoo.record["versions"]["dwflow_lite"] == "0.1.0" and same(zoo, Zoo.load(file))
    torch.testing.assert_close(zoo.weights, train_zoo(TASK, mlp(), **FAST).weights, atol=1e-5, rtol=1e-5)
    train_zoo(TASK, mlp(), checkpoint=folder, **(FAST | {"seed": 1}))  # control: another zoo is not there
    assert len(list(folder.glob("zoo-small-*"))) == 2


def test_what_version_0_1_0_left_half_done_is_refused(tmp_path):
    file = Path(shutil.copytree(OLD, tmp_path / "old")) / "half.safetensors"
    with pytest.raises(ValueError, match=r"half\.safetensors\.partial was written by version 0\.1\.0 or before"):
        train_zoo(TASK, mlp(), checkpoint=file, **FAST)
    file.with_name("half.safetensors.partial").unlink()
    train_zoo(TASK, mlp(), checkpoint=file, **FAST)  # control


def test_two_modules_with_the_same_tensors_are_two_recipes(tmp_path):
    def build(p):
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(p), nn.Linear(8, 3))

    zoos = [train_zoo(TASK, build(p), checkpoint=tmp_path, **FAST) for p in (0.0, 0.9, 0.9)]
    assert len(list(tmp_path.iterdir())) == 2
    assert not same(zoos[0], zoos[1]) and same(zoos[1], zoos[2])


class Formula(nn.Module):
    def __init__(self, formula, frozen=False, scale=1.0):
        super().__init__()
        self.linear, self.out, self.formula = nn.Linear(4, 6), nn.Linear(6, 3), formula
        self.linear.requires_grad_(not frozen)
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x):
        return self.out(self.scale * self.formula(self.linear(x), self.training))


def test_two_forward_passes_are_two_zoos(tmp_path):
    swapped = MLP([4, 6, 3])
    swapped.activation = nn.Tanh()
    networks = [
        mlp(), swapped, Formula(lambda x, _: torch.relu(x)), Formula(lambda x, _: torch.sin(x)),
        Formula(lambda x, _: torch.relu(x), frozen=True), Formula(lambda x, _: torch.relu(x), scale=0.5),
        Formula(lambda x, on: torch.relu(nn.functional.dropout(x, 0.3, on))),
        Formula(lambda x, on: torch.relu(nn.functional.dropout(x, 0.6, on))),
    ]  # fmt: skip
    zoos = [train_zoo(TASK, n, checkpoint=tmp_path, **FAST) for n in networks]
    assert len(list(tmp_path.iterdir())) == len(networks)
    assert same(zoos[0], train_zoo(TASK, mlp(), checkpoint=tmp_path, **FAST))  # control: the same is read
    assert same(zoos[2], train_zoo(TASK, Formula(lambda x, _: torch.relu(x)), checkpoint=tmp_path, **FAST))
    assert len(list(tmp_path.iterdir())) == len(networks)
    assert zoos[1].record["architecture"]["custom"]
    path = zoos[2].save(tmp_path / "relu.safetensors")
    Zoo.load(path, zoos[2].module(1).requires_grad_(False))  # control: weights are not behaviour
    for read in (lambda n: Zoo.load(path, n), lambda n: train_zoo(TASK, n, checkpoint=path, **FAST)):
        with pytest.raises(ZooFileError, match=r"relu\.safetensors holds networks of another forward pass"):
            read(networks[3])


def test_a_checkpoint_that_cannot_be_written_is_found_before_training(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("a file")
    with monkeypatch.context() as patch:
        patch.setattr(plan, "initialise", None)
        for path in (file / "zoo.safetensors", file / "folder"):
            with pytest.raises(OSError, match=f"cannot write {path}"):
                train_zoo(TASK, mlp(), checkpoint=path, **FAST)
        with pytest.raises(ValueError, match=f"checkpoint {file} is a file, but a name without suffix"):
            train_zoo(TASK, mlp(), checkpoint=file, **FAST)
    train_zoo(TASK, mlp(), checkpoint=tmp_path / "folder", **FAST)  # control


@pytest.mark.parametrize("method", ["batched", "loop"])
def test_a_trained_zoo_that_cannot_be_saved_is_returned_with_a_warning(tmp_path, monkeypatch, method):
    def full(self, path):
        raise OSError(f"cannot write {path}: disk full")

    monkeypatch.setattr(Zoo, "save", full)
    with pytest.warns(RuntimeWarning, match="the zoo is trained but not saved: cannot write .*disk full"):
        zoo = train_zoo(TASK, mlp(), method=method, checkpoint=tmp_path, **FAST)
    assert same(zoo, train_zoo(TASK, mlp(), method=method, **FAST))


def test_a_truncated_finished_zoo_is_named(tmp_path):
    train_zoo(TASK, mlp(), checkpoint=tmp_path, **FAST)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ZooFileError, match=rf"{file} is truncated .*delete it"):
        train_zoo(TASK, mlp(), checkpoint=tmp_path, **FAST)


def test_another_recipe_in_the_named_file_is_refused(tmp_path):
    file = tmp_path / "mine.safetensors"
    train_zoo(TASK, mlp(), checkpoint=file, **FAST)
    old = file.read_bytes()
    with pytest.raises(ValueError, match=r"mine\.safetensors holds another zoo"):
        train_zoo(TASK, mlp(), checkpoint=file, members=3, recipe=replace(QUICK, lr=2e-2))
    with pytest.raises(ValueError, match=r"mine\.safetensors does not fit the network"):
        train_zoo(TASK, MLP([4, 7, 3]), checkpoint=file, **FAST)
    assert file.read_bytes() == old


MADE_OF_A_ZOO = {
    "aligned": (lambda zoo: canonicalise(zoo), "what later stages made of it, canonicalise"),
    "some": (lambda zoo: zoo.take([0, 1]), "some of its members"),
    "reordered": (lambda zoo: zoo.take([1, 0, 2, 3]), "some of its members"),
    "held out otherwise": (lambda zoo: replace(zoo, held_out=(True, False, False, False)), "some of its members"),
    "generated": (lambda zoo: generated(zoo), "networks that a generator made"),
}


def generated(zoo):
    flow = FlowSettings(hidden=4, time_dim=2, steps=2, solver_steps=2)
    return DeepWeightFlow(align=False, flow=flow).fit(zoo).sample(4, seed=0)


@pytest.mark.parametrize("what", MADE_OF_A_ZOO)
def test_what_was_made_of_a_zoo_is_not_taken_for_it(tmp_path, what):
    make, message = MADE_OF_A_ZOO[what]
    asked = {"members": 3, "held_out": 1, "recipe": QUICK, "checkpoint": tmp_path / "mine.safetensors"}
    zoo = train_zoo(TASK, mlp(), **asked)
    make(zoo).save(tmp_path / "mine.safetensors")
    message = rf"mine\.safetensors does not hold the zoo as it was trained, but {message} \("
    with pytest.raises(ValueError, match=message):
        train_zoo(TASK, mlp(), **asked)
    zoo.save(tmp_path / "mine.safetensors")
    assert same(train_zoo(TASK, mlp(), **asked), zoo)  # control


def test_a_zoo_of_a_folder_is_a_finished_zoo_once_it_is_in_a_file(tmp_path):
    asked = {"members": 3, "held_out": 1, "recipe": QUICK}
    zoo = train_zoo(TASK, mlp(), folder=tmp_path / "zoo", **asked)
    file = Zoo.load(tmp_path / "zoo").save(tmp_path / "zoo.safetensors")
    assert same(train_zoo(TASK, mlp(), checkpoint=file, **asked), zoo.in_memory())


def test_a_zoo_of_a_folder_says_what_the_folder_says(tmp_path):
    asked = {"members": 3, "recipe": QUICK, "folder": tmp_path / "zoo"}
    train_zoo(TASK, mlp(), **asked)
    (tmp_path / "zoo" / "members-00000001.safetensors").unlink()
    zoo = train_zoo(TASK, mlp(), method="loop", **asked)
    assert zoo.record["method"] == Zoo.load(tmp_path / "zoo").record["method"] == "batched"
    alone = train_zoo(TASK, mlp(), method="loop", members=3, recipe=QUICK, folder=tmp_path / "loop")
    assert alone.record["method"] == "loop"  # control


def test_a_folder_with_a_dot_in_its_name_is_a_folder(tmp_path):
    (tmp_path / "zoos.v1").mkdir()
    train_zoo(TASK, mlp(), checkpoint=tmp_path / "zoos.v1", **FAST)
    assert len(list((tmp_path / "zoos.v1").iterdir())) == 1


class Interrupter:
    """Ctrl-C in the forward pass of one chosen step of the batched training."""

    def __init__(self, monkeypatch, step):
        self.plain, self.calls, self.step = batched.batched_forward, 0, step
        monkeypatch.setattr(batched, "batched_forward", self)

    def __call__(self, network, parameters, x):
        self.calls += 1
        if self.calls == self.step:
            raise KeyboardInterrupt
        return self.plain(network, parameters, x)


@pytest.mark.parametrize("network", [mlp, dropout, Tied])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("step", [4, 5])  # three steps an epoch: at an epoch's end, and amid one
def test_an_interrupted_training_goes_on_to_the_same_zoo(tmp_path, monkeypatch, network, optimizer, step):
    options = FAST | {"recipe": replace(QUICK, optimizer=optimizer, epochs=3), "checkpoint": tmp_path}
    whole = train_zoo(TASK, network(), **(options | {"checkpoint": None}))
    monkeypatch.setattr("dwflow_lite.support.checkpoints.SAVE_EVERY_SECONDS", -1.0)
    with monkeypatch.context() as patch:
        Interrupter(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train_zoo(TASK, network(), **options)
    (partial,) = tmp_path.iterdir()
    assert partial.name.endswith(".partial")
    assert torch.load(partial)["state"]["chunk"]["step"] == step - 1
    with monkeypatch.context() as patch:
        counter = Interrupter(patch, -1)
        resumed = train_zoo(TASK, network(), **options)
    assert counter.calls == 9 - (step - 1)  # only the steps that were left
    assert same(whole, resumed) and resumed.record["train_loss"] == whole.record["train_loss"]
    assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("network", [mlp, dropout])
@pytest.mark.parametrize(("step", "finished", "done"), [(4, 0, 3), (9, 0, 8), (10, 1, None), (14, 1, 4)])
def test_an_interrupted_chunk_goes_on_to_the_same_zoo(tmp_path, monkeypatch, network, step, finished, done):
    recipe = replace(QUICK, epochs=3)
    options = {"members": 4, "held_out": 1, "recipe": recipe, "members_at_once": 3}  # chunks of 3 and 2, of 9 steps
    whole, bars, plain = train_zoo(TASK, network(), **options), [], batched.progress_bar
    monkeypatch.setattr("dwflow_lite.support.checkpoints.SAVE_EVERY_SECONDS", -1.0)
    with monkeypatch.context() as patch:
        Interrupter(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train_zoo(TASK, network(), checkpoint=tmp_path, **options)
    state = torch.load(*tmp_path.iterdir())["state"]
    assert len(state["results"]) == finished and (state["chunk"] or {}).get("step") == done
    with monkeypatch.context() as patch:
        counter = Interrupter(patch, -1)
        patch.setattr(batched, "progress_bar", lambda **o: bars.append(plain(**(o | {"progress": True}))) or bars[0])
        resumed = train_zoo(TASK, network(), checkpoint=tmp_path, **options)
    assert counter.calls == 18 - (step - 1)  # only the steps that were left
    assert (bars[0].initial, bars[0].n, bars[0].total) == (step - 1, 18, 18)
    assert same(whole, resumed) and resumed.record["train_loss"] == whole.record["train_loss"]
    assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"]


@pytest.mark.parametrize(
    ("before", "step", "after", "chunks", "goes_on"),  # steps 5 and 14 are the fifth of the first and second chunk
    [
        (3, 14, 3, [2], True),
        (3, 14, 2, [2], True),
        (3, 14, None, [2], True),
        (3, 14, 1, [1, 1], False),
        (2, 14, None, [3], False),
        (2, 14, 2, [2, 1], True),
        (None, 5, 3, [3, 2], False),
        (None, 5, 5, [5], True),
        (3, 5, None, [5], False),
    ],
)
@pytest.mark.parametrize("every", [-1.0, 1e9])  # what is under way is saved at every step, or never
def test_chunks_of_another_size_go_on_to_the_same_zoo(  # noqa: PLR0913 - two fixtures, and a row of the table above
    tmp_path, monkeypatch, before, step, after, chunks, goes_on, every
):
    options = {"members": 5, "recipe": replace(QUICK, epochs=3)}
    whole = train_zoo(TASK, mlp(), **options)
    monkeypatch.setattr("dwflow_lite.support.checkpoints.SAVE_EVERY_SECONDS", every)
    with monkeypatch.context() as patch:
        Interrupter(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train_zoo(TASK, mlp(), checkpoint=tmp_path, members_at_once=before, **options)
    seen = steps_of(monkeypatch)
    resumed = train_zoo(TASK, mlp(), checkpoint=tmp_path, members_at_once=after, **options)
    left = [n for n in chunks for _ in range(9)]
    assert seen == (left[4:] if goes_on and every < 0 else left)
    torch.testing.assert_close(resumed.weights, whole.weights, atol=1e-6, rtol=1e-5)
    one, other = (torch.tensor(z.record["train_loss"]) for z in (resumed, whole))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr("dwflow_lite.support.checkpoints.SAVE_EVERY_SECONDS", -1.0)
    with monkeypatch.context() as patch:
        Interrupter(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train_zoo(TASK, mlp(), checkpoint=tmp_path / "zoo.safetensors", **FAST)
    return tmp_path / "zoo.safetensors.partial"


def test_damaged_or_foreign_partials_are_refused(tmp_path, monkeypatch):
    partial = interrupted(tmp_path, monkeypatch)
    whole = partial.read_bytes()
    where = whole.find(torch.load(partial)["state"]["chunk"]["parameters"]["layers.0.weight"].numpy().tobytes())
    flipped = bytearray(whole)
    flipped[where + 2] ^= 1  # a weight: the file loads, and would go on to another zoo
    partial.write_bytes(flipped)
    torch.load(partial)
    for content in (flipped, whole[: len(whole) // 2], b"", b"nothing"):
        partial.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{partial} is truncated or was altered; delete it to train afresh"):
            train_zoo(TASK, mlp(), checkpoint=tmp_path / "zoo.safetensors", **FAST)
    partial.write_bytes(whole)
    with pytest.raises(ValueError, match="belongs to another training"):
        train_zoo(TASK, mlp(), checkpoint=tmp_path / "zoo.safetensors", members=3, recipe=replace(QUICK, lr=0.5))
    train_zoo(TASK, mlp(), checkpoint=tmp_path / "zoo.safetensors", **FAST)  # control: the whole one serves


def test_a_failed_save_leaves_the_last_one(tmp_path, monkeypatch):
    partial = interrupted(tmp_path, monkeypatch)
    old = partial.read_bytes()

    def half(content, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        train_zoo(TASK, mlp(), checkpoint=tmp_path / "zoo.safetensors", **FAST)
    assert partial.read_bytes() == old and list(tmp_path.iterdir()) == [partial]


@pytest.mark.parametrize("method", ["batched", "loop"])
def test_a_zoo_of_one(method):
    zoo = train_zoo(TASK, mlp(), **(FAST | {"members": 1, "method": method}))
    assert len(zoo) == 1 and zoo.scores("test").shape == (1,)


def test_a_class_is_no_network():
    with pytest.raises(TypeError, match=r"a network is a module, such as nn\.Linear\(4, 3\), not <class .*MLP'>"):
        train_zoo(TASK, MLP, **FAST)
    train_zoo(TASK, mlp(), **FAST)  # control


# -- the loop goes on too --------------------------------------------------------------------------------


class LoopInterrupter:
    """Ctrl-C at one chosen step of the training one by one."""

    def __init__(self, monkeypatch, step):
        self.plain, self.calls, self.step = randomness.step_noise, 0, step
        monkeypatch.setattr(loop, "step_noise", self)

    def __call__(self, *key):
        self.calls += 1
        if self.calls == self.step:
            raise KeyboardInterrupt
        return self.plain(*key)


def in_a_loop(optimizer):
    return FAST | {"recipe": replace(QUICK, optimizer=optimizer, epochs=3), "method": "loop"}


@cache
def not_interrupted(network, optimizer):
    return train_zoo(TASK, network(), **in_a_loop(optimizer))


@pytest.mark.parametrize("network", [mlp, dropout, Tied, batchnorm])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("step", [4, 5, 9, 10, 14])  # nine steps a member, three an epoch
def test_an_interrupted_loop_goes_on_to_the_same_zoo(tmp_path, monkeypatch, network, optimizer, step):
    options, whole = in_a_loop(optimizer), not_interrupted(network, optimizer)
    monkeypatch.setattr("dwflow_lite.support.checkpoints.SAVE_EVERY_SECONDS", -1.0)
    with monkeypatch.context() as patch:
        LoopInterrupter(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train_zoo(TASK, network(), checkpoint=tmp_path, **options)
    state = torch.load(*tmp_path.iterdir())["state"]
    finished, done = divmod(step - 1, 9)
    assert len(state["results"]) == finished and (state["trainee"] or {"step": 0})["step"] == done
    with monkeypatch.context() as patch:
        counter = LoopInterrupter(patch, -1)
        resumed = train_zoo(TASK, network(), checkpoint=tmp_path, **options)
    assert counter.calls == 27 - (step - 1)  # only the steps that were left
    assert same(whole, resumed) and resumed.record["train_loss"] == whole.record["train_loss"]
    assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"]


@pytest.mark.parametrize(("first", "second"), [("batched", "loop"), ("loop", "batched")])
def test_another_method_begins_again(tmp_path, monkeypatch, first, second):
    options = FAST | {"checkpoint": tmp_path}
    whole = train_zoo(TASK, mlp(), **(options | {"checkpoint": None, "method": second}))
    monkeypatch.setattr("dwflow_lite.support.checkpoints.SAVE_EVERY_SECONDS", -1.0)
    with monkeypatch.context() as patch:
        (Interrupter if first == "batched" else LoopInterrupter)(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train_zoo(TASK, mlp(), method=first, **options)
    resumed = train_zoo(TASK, mlp(), method=second, **options)
    assert same(whole, resumed) and resumed.record["method"] == second


class Remembering(nn.Linear):
    """Adds what it returned in the step before."""

    def __init__(self):
        super().__init__(4, 3)
        self.before = 0.0

    def forward(self, x):
        y = super().forward(x) + self.before
        self.before = y.mean().detach()
        return y


@pytest.mark.parametrize("method", ["batched", "loop"])
def test_what_no_checkpoint_has_is_trained_again(tmp_path, monkeypatch, method):
    """A network that goes on from what it kept of the step before is kept member by member, not half-done."""
    options = FAST | {"recipe": replace(QUICK, epochs=3), "method": method, "members_at_once": 1}
    whole = train_zoo(TASK, Remembering(), **options)
    monkeypatch.setattr("dwflow_lite.support.checkpoints.SAVE_EVERY_SECONDS", -1.0)
    with monkeypatch.context() as patch:
        (Interrupter if method == "batched" else LoopInterrupter)(patch, 14)
        with pytest.raises(KeyboardInterrupt):
            train_zoo(TASK, Remembering(), checkpoint=tmp_path, **options)
    assert len(torch.load(*tmp_path.iterdir())["state"]["results"]) == 1
    assert same(whole, train_zoo(TASK, Remembering(), checkpoint=tmp_path, **options))
    x = TASK.train.x[:2]
    assert trainable.keeps_state(Remembering(), x) and not trainable.keeps_state(dropout(), x)


# -- what is refused before training, and what does not move --------------------------------------------


class Inner(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.inner, self.out, self.between = nn.Linear(4, 6), nn.Linear(6, 3), between

    def forward(self, x):
        return self.out(self.between(self.inner(x)))


class Ending(Inner):
    def __init__(self, end):
        super().__init__(torch.relu)
        self.end = end

    def forward(self, x):
        return self.end(super().forward(x))


class CountingSteps(nn.Linear):
    """Counts in a parameter that nobody trains."""

    def __init__(self):
        super().__init__(4, 3)
        self.steps = nn.Parameter(torch.zeros(2), requires_grad=False)

    def reset_parameters(self):
        super().reset_parameters()
        if hasattr(self, "steps"):
            nn.init.zeros_(self.steps)

    def forward(self, x):
        if self.training:
            self.steps += 1
        return super().forward(x)


def with_a_lock():
    network = mlp()
    network.lock = threading.Lock()
    return network


def after_a_call():
    network = mlp()
    network.kept = network(torch.zeros(2, 4))
    return network


def untracked():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3))


@pytest.mark.parametrize("method", ["batched", "loop"])
@pytest.mark.parametrize(
    ("network", "recipe", "message"),
    [
        (lambda: Ending(torch.detach), {}, "no output of the network depends on a parameter"),
        (lambda: Ending(lambda y: 0 * y.detach()), {}, "no output of the network depends on a parameter"),
        (lambda: Inner(lambda h: torch.from_numpy(h.numpy())), {}, r"does not run in training mode .*detach\(\)"),
        (lambda: Ending(lambda y: (y, y)), {}, r"the network returns a tuple: return one tensor \(n, 3\)"),
        (lambda: Ending(lambda y: {"logits": y}), {}, r"the network returns a dict: return one tensor \(n, 3\)"),
        (CountingSteps, {}, r"changes its buffers or frozen parameters as it trains \(steps\)"),
        (with_a_lock, {}, r"MLP cannot be copied, as every member is.*lock"),
        (after_a_call, {}, "PyTorch cannot copy it"),
        (lambda: mlp().double(), {}, r"and float32, as its weights are float64: train network\.float\(\)"),
        (lambda: mlp().half(), {}, r"and float32, as its weights are float16: train network\.float\(\)"),
        (untracked, {"batch_size": 46}, "batch_size 46 leaves a last batch of one example, which the network does not"),
        (batchnorm, {"batch_size": 1}, "batch_size 1 leaves a last batch of one example, which BatchNorm"),
    ],
)
def test_what_cannot_train_is_refused_before_training(monkeypatch, method, network, recipe, message):
    assert len(TASK.train) == 47
    monkeypatch.setattr(Recipe, "optimizer_for", None)  # no step is taken
    with pytest.raises(ValueError, match=message):
        train_zoo(TASK, network(), members=3, method=method, recipe=replace(QUICK, **recipe))


def test_a_last_batch_of_one_is_taken_where_it_can_be():
    for network in (mlp, lambda: Ending(torch.nn.Identity())):
        train_zoo(TASK, network(), members=2, recipe=replace(QUICK, batch_size=46))


@pytest.mark.parametrize("method", ["batched", "loop"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_frozen_parameters_do_not_move(method, optimizer):
    network = Inner(torch.tanh)
    network.inner.requires_grad_(False)
    recipes = [replace(QUICK, optimizer=optimizer, weight_decay=0.5, epochs=epochs) for epochs in (1, 4)]
    short, long = (train_zoo(TASK, network, members=3, recipe=recipe, method=method) for recipe in recipes)
    columns = {name: long.layout.slices[name] for name in ("inner.weight", "inner.bias", "out.weight")}
    for name in ("inner.weight", "inner.bias"):
        assert torch.equal(short.weights[:, columns[name]], long.weights[:, columns[name]])
    moved = (short.weights - long.weights)[:, columns["out.weight"]].abs()
    assert moved.max() > 1e-3  # control
    assert [parameter.requires_grad for parameter in network.inner.parameters()] == [False, False]


@pytest.mark.parametrize("method", ["batched", "loop"])
def test_diverged_members_of_a_text_task_are_dropped(monkeypatch, method):
    tokens = RNG.integers(1, 9, size=(80, 6))
    task = Task.from_arrays(tokens, (tokens == 3).sum(1), kind="regression", tokens=True, name="texts")
    network = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(24, 1))
    poisoned, plain = randomness.member_seed(0, 1), plan.initialise

    def start(network, init, seed):
        tensors = plain(network, init, seed)
        if seed == poisoned:
            tensors["0.weight"][3] = float("nan")
        return tensors

    monkeypatch.setattr(plan, "initialise", start)
    with pytest.raises(DivergedError, match=r"1 of 3 members diverged .*: \[1\]"):
        train_zoo(task, network, method=method, **FAST)
    left = train_zoo(task, network, method=method, on_diverged="drop", **FAST)
    assert [about["member"] for about in left.record["members"]] == [0, 2] and left.record["method"] == method
    assert torch.isfinite(left.scores("test")).all()


def test_a_network_with_a_precision_of_its_own_inside_is_trained():
    class Inside(nn.Linear):
        def forward(self, x):
            return super().forward(x.double())

    network = Inside(4, 3).double()
    zoos = [train_zoo(TASK, network, method=method, **FAST) for method in ("batched", "loop")]
    assert all(zoo.weights.dtype == torch.float64 for zoo in zoos)
    torch.testing.assert_close(zoos[0].weights, zoos[1].weights)


def test_what_is_recomputed_on_the_way_back_is_trained():
    from torch.utils.checkpoint import checkpoint

    network = Inner(lambda h: checkpoint(torch.tanh, h, use_reentrant=True))
    with pytest.warns(UserWarning):
        zoo = train_zoo(TASK, network, **FAST)
    torch.testing.assert_close(zoo.weights, train_zoo(TASK, Inner(torch.tanh), method="loop", **FAST).weights)


def test_a_softmax_before_the_loss_that_takes_its_own_is_named():
    for last in (nn.Softmax(-1), nn.Sequential(nn.ReLU(), nn.Softmax(-1))):
        with pytest.warns(RuntimeWarning, match="returns probabilities, .* take off the last one"):
            train_zoo(TASK, nn.Sequential(nn.Linear(4, 3), last), **FAST)
    with warnings.catch_warnings():  # control
        warnings.simplefilter("error")
        for last in (nn.LogSoftmax(-1), nn.Sigmoid(), nn.ReLU()):
            train_zoo(TASK, nn.Sequential(nn.Linear(4, 3), last), **FAST)
        train_zoo(CURVE, nn.Sequential(nn.Linear(4, 2), nn.Softmax(-1)), **FAST)


def test_precision_is_blamed_only_where_it_is_the_reason():
    class Inside(nn.Linear):
        def forward(self, x):
            return super().forward(x.double())

    for network in (Inside(5, 3).double(), nn.Linear(5, 3).double()):  # too wide, in any precision
        with pytest.raises(ValueError, match=r"does not take inputs of shape \(4,\) \(mat1"):
            train_zoo(TASK, network, **FAST)
    with pytest.raises(ValueError, match=r"float32, as its weights are float64: train network.float\(\)"):  # control
        train_zoo(TASK, nn.Linear(4, 3).double(), **FAST)
