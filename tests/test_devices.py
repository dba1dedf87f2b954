"""Threads, generators and memory: what a block borrows, it gives back."""

from __future__ import annotations

import pytest
import torch

from dwflow_lite.support.devices import global_generators, one_thread, out_of_memory_as, seeded

CPU = torch.device("cpu")


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
