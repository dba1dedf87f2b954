"""Where work runs, and on how many threads: tiny tensors run no faster on several, and two programs whose threads
spin stall each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread(when: bool = True) -> Iterator[None]:
    """Run a block on one thread of this process if ``when``; the number of threads is given back after it."""
    before = torch.get_num_threads()
    if when:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
