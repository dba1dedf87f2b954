"""Devices, threads, generators and memory: which there are, and what a block borrows it gives back."""

from __future__ import annotations

import pytest
import torch

from dwflow_lite import batchnorm, zoo
from dwflow_lite.batchnorm import recalibrate
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import DeepWeightFlow
from dwflow_lite.generate.files import on_device, read_generator
from dwflow_lite.networks import MLP, ResNet
from dwflow_lite.networks.constants import moved
from dwflow_lite.support import devices
from dwflow_lite.support.devices import (
    devices_here,
    global_generators,
    one_thread,
    out_of_memory_as,
    said,
    seeded,
    usable_device,
)
from dwflow_lite.symmetry import PermutationSpec, activation_matching, activations, linear_barrier, repairing
from dwflow_lite.tasks import load_task
from dwflow_lite.training import Recipe, train_zoo
from dwflow_lite.zoo import Zoo, evaluate, predict

CPU = torch.device("cpu")
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
TASK = load_task("iris")


@pytest.fixture(scope="module")
def small():
    return train_zoo(TASK, MLP([4, 5, 3]), members=3, held_out=1, recipe=Recipe(epochs=1))


# -- which device ------------------------------------------------------------------------------------------------------


@NO_GPU
def test_auto_is_the_cpu_where_there_is_no_gpu():
    assert usable_device("auto") == usable_device() == CPU and "cuda:0" not in devices_here()
    assert usable_device(CPU) == usable_device("cpu") == CPU


@NO_GPU
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda"), "meta", "abacus", "", None])
def test_a_device_that_is_not_here_is_named_with_those_that_are(device):
    with pytest.raises(ValueError, match=rf"cannot run on device '{device}' here; choose another: 'cpu'.* or 'auto'"):
        usable_device(device)


def test_auto_passes_by_what_has_no_float64(monkeypatch):
    asked = []

    def reached(device, dtype=torch.float32):
        asked.append(device)
        if device == "cuda" or (device == "mps" and dtype == torch.float64):
            raise TypeError("not here")
        return torch.device(device)

    monkeypatch.setattr(devices, "_reached", reached)
    assert usable_device("auto") == CPU and asked[:3] == ["cuda", "mps", "cpu"]
    assert usable_device("mps") == torch.device("mps")  # it can be named


def test_what_is_said_of_the_cpu():
    with one_thread():
        assert said(CPU) == "the CPU, 1 thread"


# -- a zoo lies somewhere ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", CPU, "auto"])
def test_the_cpu_named_is_the_default(tmp_path, small, device):
    if device == "auto" and usable_device("auto") != CPU:
        pytest.skip("there is a GPU")
    again = train_zoo(TASK, MLP([4, 5, 3]), members=3, held_out=1, recipe=Recipe(epochs=1), device=device)
    assert torch.equal(again.weights, small.weights) and again.held_out == small.held_out
    read = Zoo.load(again.save(tmp_path / "zoo.safetensors"), device=device)
    in_folder = Zoo.load(again.save(tmp_path / "zoo"), device=device)
    for same in (again.to(device), read, in_folder):
        assert same.device == CPU and torch.equal(same.take([2, 0]).in_memory().weights, small.weights[[2, 0]])
        assert torch.equal(same.scores("test"), small.scores("test")) and same.held_out == small.held_out
        assert torch.equal(evaluate(same, TASK).loss, evaluate(small, TASK).loss)
        assert {k: v for k, v in same.record.items() if k != "seconds"} == {
            k: v for k, v in small.record.items() if k != "seconds"
        }


@NO_GPU
def test_a_zoo_goes_to_no_device_that_is_not_here(tmp_path, small):
    path = small.save(tmp_path / "zoo.safetensors")
    for go in (lambda: small.to("cuda"), lambda: Zoo.load(path, device="cuda")):
        with pytest.raises(ValueError, match="cannot run on device 'cuda' here"):
            go()


def test_constants_that_are_plain_attributes_move_too():
    network = MLP([4, 5, 3])
    network.table = torch.ones(3)  # network.to leaves it behind
    there = moved(network, "meta")
    assert there.table.device.type == "meta" and network.table.device.type == "cpu"
    assert network.to("meta").table.device.type == "cpu"  # control


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_generator_that_is_read_moves_as_a_whole(tmp_path, small, on_disk):
    own = Zoo.load(small.save(tmp_path / "zoo")) if on_disk else small
    model = DeepWeightFlow(align=None, flow=FlowSettings(hidden=8, steps=2)).fit(own)
    path = model.save(tmp_path / "flow.safetensors")
    same = DeepWeightFlow.load(path, device="cpu").sample(2, seed=0)
    torch.testing.assert_close(same.in_memory().weights, model.sample(2, seed=0).in_memory().weights)
    here = read_generator(path)
    there = on_device(here, torch.device("meta"))  # stands for a GPU: its tensors have no numbers
    for fitted, kind in ((there, "meta"), (here, "cpu")):  # what was read stays as it was
        parts = [fitted.pca.rows_, fitted.pca.components_, fitted.pca.mean_]
        parts = [part for part in parts if part is not None]
        parts += [*fitted.field.parameters(), *fitted.network.parameters()]
        assert {part.device.type for part in parts} == {kind}
        assert any(part is fitted.pca.rows_ for part in parts) or not on_disk


# -- no memory ---------------------------------------------------------------------------------------------------------


def no_memory(*arguments, **named):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_every_stage_says_which_number_to_lower(monkeypatch, small):
    residual = Zoo.from_modules([ResNet((4,), blocks=1, channels=1) for _ in range(2)])
    digits, spec, a, b = load_task("digits"), PermutationSpec.of(small.network), *small.weights[:2]
    monkeypatch.setattr(zoo.forward, "run_all", no_memory)
    monkeypatch.setattr(batchnorm, "run_all", no_memory)
    monkeypatch.setattr(repairing, "forward_all", no_memory)
    monkeypatch.setattr(activations, "_outputs", no_memory)
    stages = {
        "smaller members_at_once or inputs_at_once": [
            lambda: predict(small, TASK.test.x), lambda: evaluate(small, TASK, members_at_once=2)
        ],
        "smaller members_at_once or batch_size": [lambda: recalibrate(residual, digits)],
        "fewer points, or fewer pairs": [lambda: linear_barrier(small, [(0, 1)], TASK)],
        "fewer examples": [lambda: repairing.unit_statistics(small, TASK, spec)],
        "smaller batch_size": [lambda: activation_matching(a, b, spec, small.network, TASK.train.x)],
    }  # fmt: skip
    for what, calls in stages.items():
        for call in calls:
            with pytest.raises(MemoryError, match=rf"no memory for .*: pass a? ?{what}"):
                call()


def test_the_outermost_stage_speaks():
    with pytest.raises(MemoryError, match=r"^outer$"), out_of_memory_as("outer"), out_of_memory_as("inner"):
        no_memory()


# -- threads, generators -----------------------------------------------------------------------------------------------


def test_one_thread_gives_the_others_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with one_thread(when=False):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_seeded_block_draws_from_its_seed_and_gives_the_generator_back():
    before = torch.get_rng_state()
    draws = []
    for seed in (0, 0, 1):
        with seeded(CPU, seed):
            draws.append(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_the_generators_of_a_device():
    assert global_generators(CPU) == [torch.default_generator]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, told):
    with pytest.raises(MemoryError if told else type(error)) as raised, out_of_memory_as("take fewer"):
        raise error
    if told:
        assert str(raised.value) == "take fewer" and raised.value.__cause__ is error
    else:
        assert raised.value is error


def test_the_words_of_this_allocator_are_known():
    with pytest.raises(MemoryError, match="take fewer"), out_of_memory_as("take fewer"):
        torch.empty(10**15)
