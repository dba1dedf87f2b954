"""Zoos: choosing members, running them together, and files that are whole or refused."""

from __future__ import annotations

import json
import os
import struct
import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.base import clone
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from dwflow_lite.auditing import audit
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import DeepWeightFlow, GaussianWeights, MemberNoise, Retrieval
from dwflow_lite.generate import files as generator_files
from dwflow_lite.networks import MLP, initialise
from dwflow_lite.support import files as files_module
from dwflow_lite.symmetry import linear_barrier
from dwflow_lite.tasks import load_task
from dwflow_lite.training import Recipe, train_zoo
from dwflow_lite.zoo import Entry, Layout, Zoo, ZooFileError, batched_forward, evaluate, predict, saving


class Own(nn.Module):
    """A reader's own network, with a buffer and two parameters that are one."""

    def __init__(self, width=4):
        super().__init__()
        self.inner = nn.Linear(4, width)
        self.again = nn.Linear(4, width)
        self.again.weight = self.inner.weight
        self.out = nn.Linear(width, 3)
        self.register_buffer("shift", torch.full((4,), 0.25))
        self.register_buffer("fixed", torch.full((4,), 2.0), persistent=False)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.out(self.drop(torch.tanh(self.inner(x + self.shift) - self.again(x * self.fixed))))


def make_zoo(members=5, network=None, **record):
    network = network or MLP([4, 6, 3])
    modules = []
    for seed in range(members):
        module = deepcopy(network)
        with torch.no_grad():
            for name, value in initialise(network, seed=seed).items():
                module.get_parameter(name).copy_(value)
        modules.append(module)
    return Zoo.from_modules(modules, record=record)


def with_record(held_out=2):
    members = [{"member": m} for m in range(5)]
    zoo = make_zoo(members=5, scores={"test": [0.0, 0.1, 0.2, 0.3, 0.4]}, losses={"test": [4.0, 3.0, 2.0, 1.0, 0.0]})
    record = dict(zoo.record) | {
        "members": members,
        "train_loss": [[m + 10.0 * e for m in range(5)] for e in (0, 1)],
    }
    return Zoo(zoo.weights, zoo.layout, zoo.network, record, (False,) * (5 - held_out) + (True,) * held_out)


INPUTS = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))


# -- choosing members -----------------------------------------------------------------------------------


def test_what_is_recorded_follows_the_members():
    zoo = with_record()
    taken = zoo.take([4, 0, -2])
    assert torch.equal(taken.weights, zoo.weights[[4, 0, 3]])
    torch.testing.assert_close(taken.scores("test"), torch.tensor([0.4, 0.0, 0.3]))
    assert taken.record["losses"]["test"] == [0.0, 4.0, 1.0]
    assert [m["member"] for m in taken.record["members"]] == [4, 0, 3]
    assert taken.record["train_loss"] == [[4.0, 0.0, 3.0], [14.0, 10.0, 13.0]]
    assert taken.held_out == (True, False, True)
    assert torch.equal(zoo.take(slice(1, 3)).weights, zoo.weights[1:3])
    assert zoo.record["scores"]["test"] == [0.0, 0.1, 0.2, 0.3, 0.4]  # the zoo taken from is as it was


def test_fitted_and_unseen_part_the_members():
    zoo = with_record(held_out=2)
    assert torch.equal(torch.cat([zoo.fitted.weights, zoo.unseen.weights]), zoo.weights)
    assert len(zoo.fitted) == 3 and not any(zoo.fitted.held_out) and all(zoo.unseen.held_out)
    torch.testing.assert_close(zoo.unseen.scores("test"), torch.tensor([0.3, 0.4]))
    assert zoo.fitted.unseen is None and make_zoo().unseen is None
    assert "5 MLP networks x 51 weights, 2 held out" in repr(zoo)


def test_what_stages_say_of_members_follows_them():
    zoo = with_record()
    stage = {"stage": "canonicalise", "objective_before": [0, 1, 2, 3, 4], "objective_after": [5, 6, 7, 8, 9]}
    stage |= {"spread": [0.5, 0.4, 0.3, 0.2, 0.1]}  # of each round, as many as there are members
    zoo = zoo.with_weights(zoo.weights, {"stage": "first"}).with_weights(zoo.weights, stage)
    first, taken = zoo.take([4, 0, -2]).record["stages"]
    assert first == {"stage": "first"}
    assert (taken["objective_before"], taken["objective_after"]) == ([4, 0, 3], [9, 5, 8])
    assert taken["spread"] == stage["spread"] and zoo.record["stages"][1] == stage
    again = zoo.take([4, 0, -2]).take([1]).record["stages"][1]
    assert again["objective_after"] == [5]
    assert [len(part.record["stages"][1]["objective_after"]) for part in (zoo.fitted, zoo.unseen)] == [3, 2]


@pytest.mark.parametrize("members", [[], [5], [-6], slice(9, 12)])
def test_members_that_are_not_there(members):
    with pytest.raises(ValueError, match=r"cannot take members .* of a zoo of 5"):
        make_zoo().take(members)


def test_a_mask_is_a_mask():
    zoo = with_record()
    mask = [True, False, False, True, False]
    for given in (mask, np.array(mask), torch.tensor(mask)):
        assert torch.equal(zoo.take(given).weights, zoo.weights[[0, 3]])
    for given in (np.array([3, 0]), torch.tensor([3, 0]), range(3, -1, -3), (np.int64(3), 0)):
        assert torch.equal(zoo.take(given).weights, zoo.weights[[3, 0]])  # control: positions
    for given in (mask[:4], [1.7], torch.tensor([1.0]), ["1"], 2, [[0, 1]], [None]):
        with pytest.raises(ValueError, match="take members by whole-number positions or by 5 booleans"):
            zoo.take(given)
    with pytest.raises(ValueError, match=r"cannot take members \[\]"):
        zoo.take([False] * 5)


def test_scores_that_are_not_there():
    with pytest.raises(ValueError, match="no recorded validation scores; call evaluate"):
        with_record().scores("validation")


def test_a_member_that_diverged_has_no_score():
    zoo = make_zoo(3, scores={"validation": [0.5, None, 0.25]})
    assert zoo.scores().isnan().tolist() == [False, True, False] and zoo.scores()[2] == 0.25
    assert zoo.take([1]).scores().isnan().all()
    assert zoo.take(~zoo.scores().isnan()).scores().tolist() == [0.5, 0.25]


def test_the_split_is_validation_unless_it_is_named():
    zoo = make_zoo(2, scores={"validation": [0.5, 0.25], "test": [0.75, 1.0]})
    assert zoo.scores().tolist() == [0.5, 0.25]
    assert zoo.scores("test").tolist() == [0.75, 1.0]


def test_a_zoo_equals_itself_and_can_be_a_key(tmp_path):
    zoo, other = make_zoo(2), make_zoo(2)
    with pytest.raises(RuntimeError, match="Boolean value"):
        bool(zoo.weights == other.weights)  # control: so compares what it holds
    assert zoo == zoo and zoo != other and zoo != "zoo" and hash(zoo) == hash(zoo)
    assert {zoo: 1, other: 2}[zoo] == 1 and other in [zoo, other] and zoo not in [other]
    disk = Zoo.load(zoo.save(tmp_path / "zoo"))
    assert disk == disk and disk != zoo and len({disk, zoo}) == 2
    task = load_task("iris")
    result = evaluate(zoo, task)
    assert result == result and result != evaluate(zoo, task) and len({result}) == 1


# -- a reader's own networks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "held_out",
    [[1, -1], (1, 4), np.array([4, 1]), torch.tensor([1, 4]), slice(1, 5, 3), [False, True, False, False, True]],
)
def test_networks_of_a_reader_are_held_out(held_out):
    modules = [MLP([4, 3]) for _ in range(5)]
    zoo = Zoo.from_modules(modules, held_out=held_out, record={"note": "mine"})
    plain = Zoo.from_modules(modules)
    assert zoo.held_out == (False, True, False, False, True) and zoo.record["note"] == "mine"
    assert torch.equal(zoo.fitted.weights, plain.weights[[0, 2, 3]])
    assert torch.equal(zoo.unseen.weights, plain.weights[[1, 4]])
    assert plain.fitted is plain and plain.unseen is None and "held_out" not in zoo.record  # control


def test_held_out_networks_of_a_reader_are_not_fitted_on():
    modules = [MLP([4, 3]) for _ in range(6)]
    changed = [deepcopy(module) for module in modules]
    with torch.no_grad():
        changed[5].layers[0].weight += 5
    flow = FlowSettings(hidden=8, time_dim=4, steps=5, every=5)
    for generator in (GaussianWeights(), Retrieval(), DeepWeightFlow(align=None, flow=flow)):
        samples = []
        for networks, held_out in ((modules, [5]), (changed, [5]), (changed, [])):
            zoo = Zoo.from_modules(networks, held_out=held_out)
            samples.append(clone(generator).fit(zoo).sample(20, seed=0).weights)
        assert torch.equal(samples[0], samples[1])
        assert not torch.equal(samples[1], samples[2])  # control: one that is not held out is


def test_what_from_modules_does_not_name_is_refused():
    modules = [MLP([4, 3]) for _ in range(3)]
    for typo in ({"heldout": [1]}, {"held_outs": [1]}, {"seed": 0}, {"scores": {}}):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            Zoo.from_modules(modules, **typo)
    for held_out in (1, [True], [0.5], ["1"], [[0]], [None]):
        with pytest.raises(ValueError, match="hold out members by whole-number positions or by 3 booleans, got"):
            Zoo.from_modules(modules, held_out=held_out)
    for held_out in ([3], [-4]):
        with pytest.raises(ValueError, match=r"cannot hold out members \[.*\] of a zoo of 3"):
            Zoo.from_modules(modules, held_out=held_out)
    for nobody in ([], (), [False] * 3, np.array([])):
        assert not any(Zoo.from_modules(modules, held_out=nobody).held_out)


def test_what_is_no_zoo():
    zoo = make_zoo(3)
    for bad in (float("nan"), float("inf")):
        weights = zoo.weights.clone()
        weights[1, 3] = bad
        with pytest.raises(ValueError, match=r"members \[1\] hold NaN or infinite"):
            Zoo(weights, zoo.layout, zoo.network)
    with pytest.raises(ValueError, match="members >= 1"):
        Zoo(zoo.weights[:0], zoo.layout, zoo.network)
    with pytest.raises(ValueError, match="members >= 1"):
        Zoo(zoo.weights[0], zoo.layout, zoo.network)
    with pytest.raises(ValueError, match="do not fit a layout of 51"):
        Zoo(zoo.weights[:, :-1], zoo.layout, zoo.network)
    with pytest.raises(ValueError, match=r"MLP does not fit: layers\.0\.weight \(6, 4\) here, \(5, 4\) there"):
        Zoo(zoo.weights, zoo.layout, MLP([4, 5, 3]))
    with pytest.raises(ValueError, match=r"Linear does not fit: layers\.0\.weight \(6, 4\) here, missing there"):
        Zoo(zoo.weights, zoo.layout, nn.Linear(4, 6))
    for member, message in (
        (3, r"cannot take members \[3\] of a zoo of 3"),
        ("0", r"by whole-number positions .*\['0'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            zoo.module(member)
    assert torch.equal(zoo.module(np.int64(-1)).layers[0].weight, zoo.module(2).layers[0].weight)  # control
    with pytest.raises(ValueError, match="held_out has 2 entries for 3"):
        Zoo(zoo.weights, zoo.layout, zoo.network, held_out=(True, False))
    with pytest.raises(ValueError, match="at least one module"):
        Zoo.from_modules([])
    with pytest.raises(ValueError, match=r"module 1 differs from module 0: layers\.0\.weight"):
        Zoo.from_modules([MLP([4, 3]), MLP([4, 2])])


class Twin(Own):
    pass


@pytest.mark.parametrize(
    "modules",
    [
        (MLP([4, 3]), MLP([4, 3], "tanh")),
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Sequential(nn.Linear(4, 3), nn.Sigmoid())),
        (Own(), Twin()),
    ],
)
def test_modules_of_the_same_tensors_and_other_activations_make_no_zoo(modules):
    assert len(Zoo.from_modules([modules[0], deepcopy(modules[0]).eval()])) == 2  # control
    with pytest.raises(ValueError, match=r"module 1 differs from module 0: .*, not "):
        Zoo.from_modules(modules)


# -- immutability ---------------------------------------------------------------------------------------


def test_settings_that_differ_are_told():
    class Scaled(nn.Module):
        def __init__(self, scale, function, runs=0):
            super().__init__()
            self.out, self.scale, self.function = nn.Linear(4, 3), scale, function
            self.local = lambda x: x * scale

        def forward(self, x):
            return self.function(self.out(x)) * self.scale

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Zoo.from_modules([Scaled(2.0, torch.relu), Scaled(2.0, torch.relu).eval()])  # control
    with pytest.warns(RuntimeWarning, match=r"module 1 differs .* 0 in 'scale' \(3\.0, not 2\.0\), which is no"):
        Zoo.from_modules([Scaled(2.0, torch.relu), Scaled(3.0, torch.relu)])
    with pytest.warns(RuntimeWarning, match=r"differs from module 0 in 'function' \(<built-in method tanh"):
        Zoo.from_modules([Scaled(2.0, torch.relu), Scaled(2.0, torch.tanh)])


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (torch.zeros(2, 51, dtype=torch.complex64), ValueError, r"are real numbers, not torch\.complex64: keep pairs"),
        (torch.zeros(2, 51, dtype=torch.int64), ValueError, r"are real numbers, not torch\.int64: take weights\.float"),
        (np.zeros((2, 51)), TypeError, r"are a tensor \(members, d\), not a ndarray: take torch\.as_tensor"),
        ([[0.0] * 51], TypeError, r"are a tensor \(members, d\), not a list"),
    ],
)
def test_weights_that_are_none(weights, error, message):
    zoo = make_zoo(2)
    with pytest.raises(error, match=message):
        Zoo(weights, zoo.layout, zoo.network)
    assert len(Zoo(torch.as_tensor(weights).real.double(), zoo.layout, zoo.network)) == len(weights)  # control


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e18, 1e37, 3e38])
def test_weights_of_any_size_are_run_and_kept(tmp_path, scale):
    zoo = make_zoo(3)
    zoo = Zoo(zoo.weights.clamp(-1, 1) * scale, zoo.layout, zoo.network, zoo.record)
    assert predict(zoo, INPUTS).shape == (3, 7, 3)
    evaluation = evaluate(zoo, IRIS)
    assert evaluation.score.isfinite().all() and (evaluation.loss.isfinite().all() or scale > 1e15)
    for name in ("zoo", "zoo.safetensors"):
        assert torch.equal(Zoo.load(zoo.save(tmp_path / name)).in_memory().weights, zoo.weights)
    with pytest.raises(ValueError, match=r"members \[0, 1, 2\] hold NaN or infinite"):
        Zoo(zoo.weights * (1e39 / scale), zoo.layout, zoo.network)  # control


def test_a_stage_makes_a_new_zoo():
    zoo = with_record()
    kept, record = zoo.weights.clone(), json.dumps(zoo.record)
    new = zoo.with_weights(zoo.weights + 1, {"stage": "shift"}).with_weights(zoo.weights, {"stage": "back"})
    assert torch.equal(zoo.weights, kept) and json.dumps(zoo.record) == record
    assert [s["stage"] for s in new.record["stages"]] == ["shift", "back"]
    assert "scores" not in new.record and new.held_out == zoo.held_out
    assert zoo.with_weights(zoo.weights, {}, keep_scores=True).scores("test").tolist() == zoo.scores("test").tolist()
    with pytest.raises(AttributeError):
        zoo.weights = kept


def test_modules_are_independent_of_the_zoo():
    zoo = make_zoo()
    kept = zoo.weights.clone()
    module, other = zoo.module(2), zoo.module(2)
    assert not module.training and torch.equal(zoo.layout.flatten(module.state_dict()), kept[2])
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
    assert torch.equal(zoo.weights, kept) and other(INPUTS).abs().sum() > 0
    assert not torch.equal(zoo.network(INPUTS), module(INPUTS))


def test_a_zoo_of_modules_copies_them():
    modules = [MLP([4, 3]) for _ in range(2)]
    zoo = Zoo.from_modules(modules)
    kept = zoo.weights.clone()
    with torch.no_grad():
        modules[0].layers[0].weight.zero_()
    assert torch.equal(zoo.weights, kept) and zoo.network is not modules[0]


# -- many at once ---------------------------------------------------------------------------------------


class Branching(MLP):
    """torch.vmap refuses a branch on data."""

    def forward(self, x):
        h = super().forward(x)
        return h if h.mean() > 0 else 2 * h


CONV = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


@pytest.mark.parametrize("network", [MLP([4, 6, 3]), Own(), Branching([4, 3]), CONV])
@pytest.mark.parametrize("members", [1, 5])
def test_predict_equals_a_loop_over_modules(network, members):
    zoo = make_zoo(members, network)
    with torch.no_grad():
        loop = torch.stack([zoo.module(m)(INPUTS) for m in range(members)])
    together = predict(zoo, INPUTS)
    assert together.shape == (members, 7, 3)
    torch.testing.assert_close(together, loop, atol=1e-5, rtol=1e-5)
    if members > 1:
        assert (together - loop.roll(1, 0)).abs().max() > 1e-3  # control: the wrong member is seen


@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (5, 7), (100, 100)])
def test_chunks_bound_memory_and_not_the_result(sizes):
    zoo = make_zoo(5, Own())
    together = predict(zoo, INPUTS, members_at_once=sizes[0], inputs_at_once=sizes[1])
    torch.testing.assert_close(together, predict(zoo, INPUTS), atol=1e-6, rtol=1e-5)


def test_predict_changes_nothing_and_keeps_errors():
    network = Own().train()
    zoo = make_zoo(3, network)
    kept, rng = zoo.weights.clone(), torch.get_rng_state()
    assert torch.equal(predict(zoo, INPUTS), predict(zoo, INPUTS))  # no dropout
    assert zoo.network.training and torch.equal(zoo.weights, kept) and torch.equal(torch.get_rng_state(), rng)
    assert not predict(zoo, INPUTS).requires_grad
    with pytest.raises(RuntimeError, match=r"size of tensor|shapes"):
        predict(zoo, torch.ones(7, 5))


def test_inputs_of_each_member_or_shared():
    zoo = make_zoo(3)
    state, own = zoo.layout.unflatten(zoo.weights), torch.stack([INPUTS, 2 * INPUTS, 3 * INPUTS])
    separate = batched_forward(zoo.network, state, own)
    shared = batched_forward(zoo.network, state, INPUTS, shared_input=True)
    torch.testing.assert_close(separate[0], shared[0])
    assert not torch.allclose(separate[1], shared[1])


def test_members_drop_different_units():
    network = nn.Dropout(0.5)
    outputs = batched_forward(network.train(), {"unused": torch.zeros(2, 1)}, torch.ones(64), shared_input=True)
    assert not torch.equal(outputs[0], outputs[1])
    still = batched_forward(network.eval(), {"unused": torch.zeros(2, 1)}, torch.ones(64), shared_input=True)
    assert torch.equal(still[0], still[-1])


@pytest.mark.parametrize("members", [1, 4])
def test_evaluate_equals_a_loop(members):
    task, zoo = load_task("iris"), make_zoo(members)
    for name in ("train", "test"):
        result, data = evaluate(zoo, task, name), task.split(name)
        outputs = [zoo.module(m)(data.x).detach() for m in range(members)]
        torch.testing.assert_close(result.loss, torch.stack([task.loss(o, data.y) for o in outputs]))
        torch.testing.assert_close(result.score, torch.stack([task.score(o, data.y) for o in outputs]))
        assert result.split == name
    assert not torch.equal(evaluate(zoo, task, "train").loss, evaluate(zoo, task, "test").loss)


def test_evaluate_refuses_another_task():
    with pytest.raises(ValueError, match="return 2 outputs, task 'iris' wants 3"):
        evaluate(make_zoo(2, MLP([4, 2])), load_task("iris"))
    with pytest.raises(ValueError, match=r"weight \(3, 5\)\) do not take inputs of shape \(4,\) of task 'iris'"):
        evaluate(make_zoo(2, MLP([5, 3])), load_task("iris"))
    with pytest.raises(ValueError, match="no split 'dev'"):
        evaluate(make_zoo(2), load_task("iris"), "dev")


# -- files ----------------------------------------------------------------------------------------------


def test_saved_and_loaded_to_the_bit(tmp_path):
    zoo = with_record()
    path = zoo.save(tmp_path / "new" / "zoo.safetensors")
    again = Zoo.load(path)
    assert again.weights.numpy().tobytes() == zoo.weights.numpy().tobytes()
    assert again.layout == zoo.layout and again.held_out == zoo.held_out and again.record == zoo.record
    assert torch.equal(predict(again, INPUTS), predict(zoo, INPUTS))
    assert again.network.activation_name == "relu"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(FileNotFoundError):
        Zoo.load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_keep_their_bits(tmp_path, dtype):
    zoo = Zoo.from_modules([MLP([4, 3]).to(dtype) for _ in range(2)])
    again = Zoo.load(zoo.save(tmp_path / "z.safetensors"), MLP([4, 3]).to(dtype))
    assert again.weights.dtype == dtype and torch.equal(again.weights, zoo.weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_file_in_bfloat16_is_half_as_large_and_read_as_the_zoo_is(tmp_path, dtype):
    zoo = make_zoo(3, MLP([4, 60, 3]).to(dtype))
    half = zoo.save(tmp_path / "half.safetensors", "bfloat16")
    again = Zoo.load(half, zoo.network)
    assert again.weights.dtype == (torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    assert torch.equal(again.weights.bfloat16(), zoo.weights.bfloat16()) and again.record == zoo.record
    whole = zoo.save(tmp_path / "whole.safetensors")
    assert torch.equal(Zoo.load(whole, zoo.network).weights, zoo.weights)  # control
    saved = 2 * zoo.weights.numel() * (dtype.itemsize / 2 - 1)
    assert whole.stat().st_size - half.stat().st_size == pytest.approx(saved, abs=8)
    with pytest.raises(ValueError, match="no storage 'int8': choose one of float32, bfloat16"):
        zoo.save(tmp_path / "int8.safetensors", "int8")
    large = zoo.weights.clone()
    large[1, 0] = 3.4e38
    if dtype != torch.bfloat16:
        with pytest.raises(ValueError, match=r"members \[1\] hold NaN or infinite weights, or beyond the storage"):
            Zoo(large, zoo.layout, zoo.network).save(tmp_path / "large.safetensors", "bfloat16")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["half.safetensors", "whole.safetensors"]


def test_a_readers_own_class_needs_its_module(tmp_path):
    zoo = make_zoo(3, Own())
    path = zoo.save(tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match=r"cannot rebuild a 'Own' network .*network="):
        Zoo.load(path)
    again = Zoo.load(path, network=Own())
    assert torch.equal(again.weights, zoo.weights)
    torch.testing.assert_close(predict(again, INPUTS), predict(zoo, INPUTS))
    with pytest.raises(ZooFileError, match=r"does not fit the network: inner\.weight \(4, 4\) float32 here"):
        Zoo.load(path, network=Own(5))


def test_weights_of_another_network_are_refused(tmp_path):
    path = make_zoo().save(tmp_path / "zoo.safetensors")
    Zoo.load(path, MLP([4, 6, 3]))  # control
    with pytest.raises(ZooFileError, match="does not fit the network"):
        Zoo.load(path, MLP([4, 7, 3]))
    with pytest.raises(ZooFileError, match=r"holds .*'relu'.* networks, not .*'tanh'"):
        Zoo.load(path, MLP([4, 6, 3], "tanh"))
    changed = MLP([4, 6, 3])
    changed.activation = nn.Tanh()
    with pytest.raises(ZooFileError, match=r"holds .*'relu'.* networks, not .*Tanh"):
        Zoo.load(path, changed)
    own = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    path = make_zoo(2, own).save(tmp_path / "own.safetensors")
    Zoo.load(path, own)  # control
    with pytest.raises(ZooFileError, match=r"holds .*ReLU.* networks, not .*Sigmoid"):
        Zoo.load(path, nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()))


def test_the_embedded_zoo_is_read():
    assert len(Zoo.load(Path(__file__).parents[1] / "data" / "digits_mlp.safetensors")) == 120


def header(path):
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return raw, 8 + length


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = make_zoo().save(tmp_path / "zoo.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ZooFileError, match=rf"{path} is truncated or not a safetensors file .*: delete it"):
        Zoo.load(path)


def test_an_unreadable_file_is_not_called_truncated(tmp_path, monkeypatch):
    path = make_zoo().save(tmp_path / "zoo.safetensors")

    def refuse(*args, **options):
        raise PermissionError("permission denied")

    monkeypatch.setattr(files_module, "safe_open", refuse)
    with pytest.raises(OSError, match=rf"cannot read {path}: permission denied"):
        Zoo.load(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        Zoo.load(tmp_path / "absent.safetensors")


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("a file")
    below = tmp_path / "file" / "zoo.safetensors"
    (tmp_path / "folder.v2").mkdir()
    for path, why in ((below, "file"), (tmp_path / "folder.v2", "it is a folder")):
        with pytest.raises(OSError, match=rf"cannot write {path} \(.*{why}"):
            make_zoo().save(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.v2"]
    assert not list((tmp_path / "folder.v2").iterdir())


@pytest.mark.parametrize("where", [0, 500, -1])
def test_one_flipped_bit_of_a_weight_is_seen(tmp_path, where):
    path = make_zoo().save(tmp_path / "zoo.safetensors")
    raw, start = header(path)
    body = bytearray(raw[start:])
    body[where] ^= 1
    path.write_bytes(raw[:start] + bytes(body))
    with pytest.raises(ZooFileError, match="was altered after it was written"):
        Zoo.load(path)


@pytest.mark.parametrize(("old", "new"), [(b"0.4", b"0.9"), (b"true", b"True"), (b"sha256", b"sha257")])
def test_an_altered_record_is_seen(tmp_path, old, new):
    path = with_record().save(tmp_path / "zoo.safetensors")
    raw, start = header(path)
    assert raw[:start].count(old)
    path.write_bytes(raw[:start].replace(old, new, 1) + raw[start:])
    with pytest.raises(ZooFileError, match="was altered"):
        Zoo.load(path)


def test_other_formats_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}, {"format": "dwflow_lite.zoo/99"}):
        save_file({"weights": torch.zeros(2, 3)}, path, metadata=metadata)
        with pytest.raises(ZooFileError, match=r"is of format .*, not 'dwflow_lite\.zoo/1'"):
            Zoo.load(path)
    for name in ("weights", "something"):
        save_file({name: torch.zeros(2, 3)}, path, metadata={"format": saving.FORMAT})
        with pytest.raises(ZooFileError, match="was altered"):
            Zoo.load(path)
    path.write_text("no safetensors at all")
    with pytest.raises(ZooFileError, match="truncated or not a safetensors file"):
        Zoo.load(path)


@pytest.mark.parametrize("failing", ["save_file", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    path = make_zoo(3).save(tmp_path / "zoo.safetensors")
    old = path.read_bytes()

    def half(tensors, target, metadata=None):
        target.write_bytes(b"half")
        raise OSError("disk full")

    def refuse(source, target):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        if failing == "save_file":
            patch.setattr(files_module, "save_file", half)
        else:
            patch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="disk full"):
            make_zoo(4).save(path)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]
    make_zoo(4).save(path)  # control: without the failure the file is replaced
    assert len(Zoo.load(path)) == 4


def test_a_record_that_json_does_not_have_is_refused(tmp_path):
    zoo = make_zoo(2, scores={"test": [float("nan"), 1.0]})
    with pytest.raises(ValueError, match="JSON"):
        zoo.save(tmp_path / "zoo.safetensors")
    assert not list(tmp_path.iterdir())


def test_tensors_without_columns_stay_the_templates():
    network = deepcopy(CONV)
    network[2].num_batches_tracked.fill_(3)
    zoo = make_zoo(2, network)
    assert zoo.module(1)[2].num_batches_tracked == 3
    assert Layout.of(zoo.module(0)) == zoo.layout


@pytest.mark.parametrize("name", ["zoo.safetensors", "zoo"])
@pytest.mark.parametrize(
    "record",
    [
        {"seed": np.int64(3)},
        {"seed": float("nan")},
        {"members": [{}, {"lr": np.float32(0.5)}, {}]},
        {"scores": {"test": [0.5, float("nan"), 0.5]}},
        {5: 1, "a": 2},
    ],
)
def test_a_record_that_cannot_be_written_leaves_nothing_half_written(tmp_path, name, record):
    zoo = make_zoo(3, **{"seed": 0})
    careless = Zoo(zoo.weights, zoo.layout, zoo.network, record)
    with pytest.raises(ValueError, match="the record of the zoo is not JSON-able: take plain numbers"):
        careless.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    zoo.save(tmp_path / name)  # control


def test_a_record_of_other_members_is_refused(tmp_path):
    zoo = make_zoo(3)
    careless = Zoo(zoo.weights, zoo.layout, zoo.network, {"scores": {"test": [0.5]}})
    with pytest.raises(ValueError, match="the record must say scores of each of 3 members"):
        careless.save(tmp_path / "zoo")
    assert not list(tmp_path.iterdir())


def test_a_class_is_no_network(tmp_path):
    path = make_zoo(2).save(tmp_path / "zoo.safetensors")
    for careless in (MLP, [4, 6, 3], "MLP"):
        with pytest.raises(TypeError, match=r"a network is a module, such as nn\.Linear"):
            Zoo.load(path, careless)
    with pytest.raises(TypeError, match=r"a network is a module, such as nn\.Linear"):
        Zoo.from_modules([MLP])
    with pytest.raises(TypeError, match="a zoo needs a list of modules, got one Sequential"):
        Zoo.from_modules(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))  # was a zoo of its two layers
    assert len(Zoo.from_modules(nn.Linear(3, 2) for _ in range(2))) == len(Zoo.load(path)) == 2  # control


# -- constants --------------------------------------------------------------------------------------------


class Masked(nn.Module):
    """Attention of each place to those before it: a mask, a table of positions, random features, a flag."""

    def __init__(self, seed=0, mask=-torch.inf, places=4):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.up, self.query, self.out = nn.Linear(1, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("mask", torch.full((places, places), mask).triu(1))
        self.register_buffer("position", torch.randn(places, 6, generator=draw), persistent=False)
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("phase", torch.randn(6, generator=draw, dtype=torch.complex64))
        self.features = torch.randn(6, 6, generator=draw)  # a plain attribute

    def forward(self, x):
        h = self.up(x[..., None]) + self.position * self.phase.abs()  # (n, places, 6)
        h = h + (h @ self.features).cos()
        attention = (self.query(h) @ h.transpose(-1, -2) + self.mask).softmax(-1)
        return self.out((attention @ h).mean(-2))


NAMES = ["mask", "position", "flags", "phase", "features"]
IRIS = load_task("iris")


@pytest.mark.parametrize("mask", [-torch.inf, -1e9])
def test_constants_are_no_weights(mask):
    zoo = train_zoo(IRIS, Masked(mask=mask), members=3, held_out=1, recipe=Recipe(epochs=1))
    assert {entry.role for entry in zoo.layout.entries} == {"parameter"} and list(zoo.constants) == NAMES
    assert zoo.layout.size == sum(p.numel() for p in Masked().parameters())
    assert torch.equal(zoo.constants["mask"], Masked(mask=mask).mask) and zoo.record["diverged"] == []
    table = audit(zoo.take([0, 1]), zoo, IRIS)
    assert all(torch.tensor([row.nearest for row in table.rows if row.nearest is not None]) < 10)
    for made in (MemberNoise(0.5).fit(zoo).sample(2, seed=0), GaussianWeights().fit(zoo).sample(2, seed=0)):
        assert torch.equal(made.module(1).mask, zoo.network.mask)  # no noise on it
        assert not torch.equal(made.module(1).out.weight, made.module(0).out.weight)  # control
    alone = zoo.module(2)
    torch.testing.assert_close(predict(zoo, INPUTS)[2], alone(INPUTS).detach())
    alone.mask.zero_()
    assert not torch.allclose(predict(zoo, INPUTS)[2], alone(INPUTS))  # control: the mask matters


@pytest.mark.parametrize("name", ["zoo.safetensors", "zoo"])
def test_constants_are_kept_beside_the_members(tmp_path, name):
    zoo = make_zoo(3, Masked(seed=1))
    other = Masked(seed=2, mask=0.0)
    path = zoo.save(tmp_path / name)
    loaded = Zoo.load(path, other, verify=True)
    assert all(torch.equal(loaded.constants[n], zoo.constants[n]) for n in NAMES) and list(loaded.constants) == NAMES
    assert torch.equal(predict(loaded.in_memory(), INPUTS), predict(zoo, INPUTS))
    assert other.mask.sum() == 0  # the reader's own is as it was
    assert not torch.equal(other.position, zoo.constants["position"])  # control
    assert torch.equal(loaded.layout.flatten(loaded.module(1).state_dict()), zoo.weights[1])
    with pytest.raises(ZooFileError, match=r"constant 'mask' is \(4, 4\) .*32 here, \(5, 5\) .*32 there"):
        Zoo.load(path, Masked(places=5))
    without = Masked()
    del without.features
    with pytest.raises(ZooFileError, match=r"constant 'features' is \(6, 6\) torch.float32 here, missing there"):
        Zoo.load(path, without)


def test_constants_in_a_folder_are_written_by_training_and_by_stages(tmp_path):
    zoo = train_zoo(IRIS, Masked(seed=1), members=2, recipe=Recipe(epochs=1), folder=tmp_path / "trained")
    stage = zoo.with_weights(zoo.in_memory().weights * 1.1, {"stage": "larger"}, folder=tmp_path / "larger")
    for folder, of in ((tmp_path / "trained", zoo), (tmp_path / "larger", stage)):
        assert torch.equal(predict(Zoo.load(folder, Masked(seed=5)), INPUTS), predict(of, INPUTS))
    again = train_zoo(IRIS, Masked(seed=1), members=2, recipe=Recipe(epochs=1), folder=tmp_path / "trained")
    assert torch.equal(again.in_memory().weights, zoo.in_memory().weights)  # control
    with pytest.raises(ValueError, match="holds another zoo"):
        train_zoo(IRIS, Masked(seed=2), members=2, recipe=Recipe(epochs=1), folder=tmp_path / "trained")


@pytest.mark.parametrize("name", ["zoo.safetensors", "zoo"])
def test_altered_constants_are_seen(tmp_path, name):
    path = make_zoo(2, Masked()).save(tmp_path / name)
    file = path if path.is_file() else path / "constants.safetensors"
    content = file.read_bytes()
    start = content.index(Masked().position.numpy().tobytes())
    for where in (start, start + 95):
        flipped = bytearray(content)
        flipped[where] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(ZooFileError, match="the constant 'position' is not as it was written"):
            Zoo.load(path, Masked())
    if path.is_dir():
        file.unlink()
        with pytest.raises(ZooFileError, match=r"constants\.safetensors is damaged or not there"):
            Zoo.load(path, Masked())
    file.write_bytes(content)
    assert len(Zoo.load(path, Masked())) == 2  # control


@pytest.mark.parametrize("loss", ["gone", "altered"])
def test_constants_that_were_lost_are_written_by_who_goes_on(tmp_path, loss):
    def train(seed):
        return train_zoo(IRIS, Masked(seed=seed), members=3, recipe=Recipe(epochs=1), folder=tmp_path / "trained")

    zoo = train(seed=1)
    zoo.in_memory().save(tmp_path / "saved")
    for folder, go_on in (("trained", lambda: train(seed=1)), ("saved", lambda: zoo.save(tmp_path / "saved"))):
        file = tmp_path / folder / "constants.safetensors"
        content = file.read_bytes()
        file.unlink() if loss == "gone" else file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ZooFileError, match=r"constants\.safetensors is damaged or not there"):
            Zoo.load(tmp_path / folder, Masked(seed=2))
        (tmp_path / folder / "members-00000001.safetensors").unlink()
        go_on()
        loaded = Zoo.load(tmp_path / folder, Masked(seed=2), verify=True)
        assert torch.equal(predict(loaded, INPUTS), predict(zoo, INPUTS))
        content = file.read_bytes()
        go_on()
        assert file.read_bytes() == content  # control: those that are there stay
    with pytest.raises(ValueError, match="holds another zoo"):  # control: others are not written
        train(seed=2)
    assert torch.equal(Zoo.load(tmp_path / "trained", Masked()).constants["position"], Masked(seed=1).position)


def test_constants_go_with_a_generator(tmp_path):
    model = DeepWeightFlow(align=None, flow=FlowSettings(hidden=8, steps=5)).fit(make_zoo(4, Masked(seed=1)))
    loaded = DeepWeightFlow.load(model.save(tmp_path / "model.safetensors"), Masked(seed=2, mask=0.0))
    expected = predict(model.sample(2, seed=0), INPUTS)
    assert torch.equal(predict(loaded.sample(2, seed=0), INPUTS), expected)
    changed = Masked(seed=2, mask=0.0)
    model.layout_.load_into(changed, model.sample(2, seed=0).weights[0])
    assert not torch.allclose(changed(INPUTS), expected[0])  # control


@pytest.mark.parametrize("name", NAMES)
def test_modules_of_other_constants_make_no_zoo(name):
    modules = [Masked(), Masked(), Masked()]
    assert len(Zoo.from_modules(modules)) == 3  # control
    tensor = getattr(modules[1], name)
    setattr(modules[1], name, ~tensor if name == "flags" else tensor * 1.5 + 1)
    with pytest.raises(ValueError, match=f"module 1 differs from module 0 in '{name}', which is no parameter"):
        Zoo.from_modules(modules)


def test_statistics_of_ones_own_are_constants_unless_they_are_parameters():
    class Centred(nn.Module):
        def __init__(self, kept):
            super().__init__()
            self.out = nn.Linear(4, 3)
            if kept == "buffer":
                self.register_buffer("average", torch.zeros(4))
            else:
                self.average = nn.Parameter(torch.zeros(4), requires_grad=False)

        def forward(self, x):
            if self.training:
                with torch.no_grad():
                    self.average.lerp_(x.mean(0), 0.1)
            return self.out(x - self.average)

    zoos = {}
    for kept in ("buffer", "parameter"):
        modules = [Centred(kept), Centred(kept)]
        modules[1](INPUTS)
        if kept == "parameter":
            zoos[kept] = Zoo.from_modules(modules)
            continue
        with pytest.raises(ValueError, match="module 1 differs from module 0 in 'average'"):
            Zoo.from_modules(modules)
    assert torch.equal(zoos["parameter"].module(1).average, modules[1].average)
    with pytest.raises(ValueError, match=r"changes its buffers as it trains \(average\)"):
        train_zoo(IRIS, Centred("buffer"), members=2, recipe=Recipe(epochs=1))


def test_parametrizations_that_keep_a_state_of_their_own_are_to_be_removed():
    modules = [nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 3))) for _ in range(2)]
    with pytest.raises(ValueError, match=r"module 1 .* in '0\.parametrizations.*\._u', .*remove_parametr"):
        Zoo.from_modules(modules)
    outputs = torch.stack([module.eval()(INPUTS).detach() for module in modules])
    for module in modules:
        parametrize.remove_parametrizations(module[0], "weight")
    torch.testing.assert_close(predict(Zoo.from_modules(modules), INPUTS), outputs)


def test_running_statistics_of_torch_have_columns_and_counters_are_neither():
    network = nn.Sequential(nn.Conv1d(1, 2, 1), nn.InstanceNorm1d(2, track_running_stats=True), nn.BatchNorm1d(2))
    modules = [network, deepcopy(network)]
    modules[1](torch.randn(5, 1, 4))
    zoo = Zoo.from_modules(modules)  # though one has counted a batch
    buffers = [entry.name for entry in zoo.layout.entries if entry.role == "buffer"]
    assert buffers == ["1.running_mean", "1.running_var", "2.running_mean", "2.running_var"] and not zoo.constants
    assert torch.equal(zoo.module(1)[1].running_mean, modules[1][1].running_mean)


def test_one_constant_under_two_names_is_kept_once(tmp_path):
    class Shared(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
            for layer in (self, self.first, self.last):
                layer.register_buffer("scale", value.expand(4))  # of stride 0, too

        def forward(self, x):
            return self.last(self.first(x * self.scale) * self.first.scale) * self.last.scale.sum()

    shared = Shared(torch.tensor([0.5]))
    shared.first.scale = shared.last.scale = shared.scale
    zoo = make_zoo(2, shared)
    assert list(zoo.constants) == ["scale"]
    other = Shared(torch.tensor([2.0]))
    other.first.scale = other.last.scale = other.scale
    loaded = Zoo.load(zoo.save(tmp_path / "zoo.safetensors"), other)
    assert torch.equal(predict(loaded, INPUTS), predict(zoo, INPUTS))


def test_an_old_generator_whose_constants_are_weights_is_read_without_them(tmp_path, monkeypatch):
    network = Masked(mask=-1e9)
    zoo = make_zoo(4, network)
    layout = Layout((*zoo.layout.entries, Entry.of("position", network.position, "buffer")))
    for noise in (0.0, 0.1):
        position = network.position.flatten() + noise * torch.randn(4, 24, generator=torch.Generator().manual_seed(0))
        as_before = deepcopy(network)
        del as_before.position
        as_before.position = nn.Parameter(network.position)
        old = Zoo(torch.cat([zoo.weights, position], 1), layout, as_before, zoo.record)
        model = DeepWeightFlow(align=None, components=2, flow=FlowSettings(hidden=8, steps=5)).fit(old)
        with monkeypatch.context() as before:  # as versions before 0.2.0 wrote it
            before.setattr(generator_files, "constants_of", lambda network: {})
            path = model.save(tmp_path / "model.safetensors")
        if noise:
            with pytest.raises(ZooFileError, match=r"before 0\.2\.0, .* 'position' as .* members differ in it"):
                DeepWeightFlow.load(path, Masked(seed=3, mask=-1e9))
            continue
        loaded = DeepWeightFlow.load(path, Masked(seed=3, mask=-1e9))
        made, expected = loaded.sample(2, seed=0), model.sample(2, seed=0).weights
        assert torch.equal(made.weights, expected[:, : zoo.layout.size]) and made.layout == zoo.layout
        torch.testing.assert_close(made.constants["position"], network.position)


def test_a_file_whose_constants_are_weights_is_read_without_them(tmp_path):
    network = Masked(mask=-1e9)
    zoo = make_zoo(3, network)
    entries = list(zoo.layout.entries)
    entries += [Entry.of(name, network.get_buffer(name), "buffer") for name in ("mask", "position")]
    numbers = torch.cat([network.mask.flatten(), network.position.flatten()]).expand(3, -1)
    old = torch.cat([zoo.weights, numbers], 1)  # as versions before 0.2.0 kept them
    other = Masked(mask=-1e9)
    other.mask.zero_()
    other.position.zero_()
    path = tmp_path / "zoo.safetensors"
    saving.write_file(path, old, Layout(tuple(entries)), {}, zoo.record, zoo.held_out, "float32")
    loaded = Zoo.load(path, other)
    assert loaded.layout == zoo.layout and torch.equal(loaded.weights, zoo.weights)
    assert torch.equal(loaded.constants["mask"], network.mask)
    assert torch.equal(predict(loaded, INPUTS), predict(zoo, INPUTS))
    saving.write_folder(tmp_path / "zoo", old, Layout(tuple(entries)), {}, zoo.record, zoo.held_out, "float32")
    with pytest.warns(RuntimeWarning, match=r"before 0\.2\.0, .* constants \['mask', 'position'\] as weights"):
        assert torch.equal(Zoo.load(tmp_path / "zoo", other).weights, zoo.weights)
    old = old + torch.arange(3.0)[:, None]  # noise on all columns
    saving.write_file(path, old, Layout(tuple(entries)), {}, zoo.record, zoo.held_out, "float32")
    with pytest.raises(ZooFileError, match=r"before 0\.2\.0, .* constant 'mask' as .* members differ in it"):
        Zoo.load(path, other)


def test_what_is_no_zoo_and_no_task_is_said_in_one_line():
    zoo, task = make_zoo(2, MLP([4, 6, 3])), load_task("iris")
    for call, kind, message in (
        (lambda: predict([zoo, zoo], INPUTS), TypeError, "outputs are those of a Zoo; got list"),
        (lambda: evaluate(task, zoo), TypeError, "a task is made by .* got Zoo"),
        (lambda: evaluate(zoo, "iris"), TypeError, "a task is made by load_task .* got 'iris'"),
        (lambda: Zoo.load(zoo.network), TypeError, "a path is text or a Path, got a value of class MLP$"),
        (lambda: Layout.of(torch.jit.script(nn.Linear(4, 3))), TypeError, "take the module that it was made of"),
    ):
        with pytest.raises(kind, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert predict(zoo, INPUTS).shape == (2, 7, 3) and len(evaluate(zoo, task).score) == 2  # control


def test_a_mask_of_zeros_and_ones_is_not_read_as_positions():
    modules = [nn.Linear(3, 2) for _ in range(4)]
    for mask in ([0, 1, 0, 1], np.array([0, 0, 0, 1]), [1, -3]):
        with pytest.raises(ValueError, match=r"held_out names a module twice: .* give True and False"):
            Zoo.from_modules(modules, held_out=mask)
    control = Zoo.from_modules(modules, held_out=[False, True, False, True])
    assert control.held_out == Zoo.from_modules(modules, held_out=[3, 1]).held_out


def test_modules_that_differ_are_told_apart_in_one_line():
    def local():
        class Local(nn.Linear):
            pass

        return Local(3, 2)

    def with_dropout(share):
        return nn.Sequential(*(nn.Linear(4, 4) for _ in range(9)), nn.Dropout(share))

    for modules, message in (
        ([with_dropout(0.1), with_dropout(0.2)], r"9 is Dropout\(p=0.2, .*\), not Dropout\(p=0.1, .*\)$"),
        ([nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Linear(3, 2), nn.ReLU())], r"1 is ReLU\(\), not missing$"),
        ([local(), local()], r"class .*Local, not the one of this name: define it once, not per call$"),
    ):
        with pytest.raises(ValueError, match=f"module 1 differs from module 0: {message}"):
            Zoo.from_modules(modules)
    assert len(Zoo.from_modules([with_dropout(0.1), with_dropout(0.1)])) == 2  # control


def test_scores_on_another_cut_of_the_task_carry_a_warning():
    task, other = load_task("iris"), load_task("iris", seed=1)
    zoo = train_zoo(task, MLP([4, 5, 3]), members=2, recipe=Recipe(epochs=1))
    seen = {tuple(row) for row in task.train.x.tolist()} & {tuple(row) for row in task.test.x.tolist()}
    assert len(seen) < 3  # but for twins, nothing of this cut was trained on
    for split in ("validation", "test"):
        with pytest.warns(RuntimeWarning, match=rf"another cut of 'iris' \(seed 0\): .* among the {split} examples"):
            evaluate(zoo, other, split)
    with pytest.warns(RuntimeWarning, match="another cut of 'iris'"):
        linear_barrier(zoo, [(0, 1)], other, points=3, repaired=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(zoo, task, "test")  # control
        linear_barrier(zoo, [(0, 1)], task, points=3, repaired=False)
