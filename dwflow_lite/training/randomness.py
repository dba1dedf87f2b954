"""What is random in training, each from a seed of its own: the start of a member, its orders of the data, its noise.

All seeds come from ``numpy.random.SeedSequence(seed, spawn_key=key)``, of one ``seed`` for the whole zoo:

==========================================  ==========================
what is drawn                               key
==========================================  ==========================
the start of a member                       member
the order of the data, of member and epoch  member, 1 + epoch
noise of a step, ``"loop"``                 member, step, 0, 1
noise of a step, ``"batched"``              step, 0, 1
the same, in chunks after the first         step, first member, 0, 1
==========================================  ==========================

All but noise is drawn on the CPU, so that a seed gives the same networks on every device, up to rounding. Noise (of
dropout, and what a network draws itself) comes from the generator of the device, seeded by its key: drawing millions of
masks on the CPU at every step would take longer than the step.

So a member has the same start and sees the data in the same orders in a zoo of any size, whatever is drawn before.
The 0, 1 at the end of a key of noise make it longer than those of starts and orders, so that none is drawn twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from dwflow_lite.support.devices import seeded


def member_seed(seed: int, member: int) -> int:
    """The seed of a member's start."""
    return int(np.random.SeedSequence(seed, spawn_key=(member,)).generate_state(1)[0])


def data_order(seed: int, member: int, epoch: int, examples: int) -> np.ndarray:
    """The order in which a member sees the training split in an epoch: a permutation (examples,)."""
    sequence = np.random.SeedSequence(seed, spawn_key=(member, 1 + epoch))
    return np.random.default_rng(sequence).permutation(examples)


def data_orders(seed: int, members: Sequence[int], epoch: int, examples: int) -> Tensor:
    """The orders of several members: (members, examples)."""
    return torch.from_numpy(np.stack([data_order(seed, member, epoch, examples) for member in members]))


@contextmanager
def step_noise(device: torch.device, seed: int, *key: int) -> Iterator[None]:
    """Dropout in here draws from ``(seed, *key)``; the global generators are left as they were."""
    noise_seed = int(np.random.SeedSequence(seed, spawn_key=(*key, 0, 1)).generate_state(1)[0])
    with seeded(device, noise_seed):
        yield
