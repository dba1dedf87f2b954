"""Where work runs: on how many threads, from which random generators, and what to do when memory runs out."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dwflow_lite.support.checks import whole_seed

OUT_OF_MEMORY = ("not enough memory", "can't allocate memory")  # what the allocator of the CPU says


@contextmanager
def one_thread(when: bool = True) -> Iterator[None]:
    """Run a block on one thread of this process if ``when``; the number of threads is given back after it.

    Tiny tensors run no faster on several, and two programs whose threads spin stall each other.
    """
    before = torch.get_num_threads()
    if when:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def global_generators(device: torch.device) -> list[torch.Generator]:
    """The generators from which modules such as ``nn.Dropout`` draw: of the CPU, and of ``device`` if that is a GPU."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    return generators


def generator_from(seed: int) -> torch.Generator:
    """A new generator of the CPU that starts from a seed, a whole number of Python or NumPy >= 0."""
    return torch.Generator().manual_seed(whole_seed(seed))


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """What draws from the global generators in here draws from ``seed``; they are given back as they were.

    Args:
        device: whose generators, see :func:`global_generators`.
        seed: a whole number >= 0.
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # torch.manual_seed would seed the generators of all GPUs, and fork_rng gives back only those that it is told.
        for generator in global_generators(device):
            generator.manual_seed(seed)
        yield


@contextmanager
def out_of_memory_as(message: str) -> Iterator[None]:
    """Out of memory in here, be it the GPU's or the CPU's, is a ``MemoryError`` that says ``message``."""
    try:
        yield
    except RuntimeError as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        on_cpu = any(words in str(error) for words in OUT_OF_MEMORY)
        if not on_gpu and not on_cpu:
            raise
        traceback.clear_frames(error.__traceback__)  # a notebook keeps the error, and with it all that they hold
        raise MemoryError(message) from error
