"""Checks of 08b_zoos_on_disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dwflow_lite.course.exercises import exercise


@exercise("08b.1")
def passes(answer: Callable) -> None:
    """Chunks of columns in which a zoo passes a bounded memory."""
    for n, d, memory in ((100, 10**6, 2**28), (100, 11_173_962, 2**28), (20, 1000, 2**28), (50, 1001, 6500)):
        expected, got = -(-d // (memory // (12 * n))), answer(n, d, memory)
        assert got == expected, f"{n} networks of {d:,} weights in {memory:,} bytes: {expected} chunks, not {got}"


@exercise("08b.2")
def gram_in_chunks(answer: Callable) -> None:
    """The Gram matrix of centred networks, summed while their columns pass by once."""
    x = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)) + 1000  # far from zero: centring matters
    y = x.double()
    expected = (y - y.mean(0)) @ (y - y.mean(0)).T
    for width in (50, 20, 1):
        got = answer(_once(x, width))
        assert getattr(got, "shape", None) == (6, 6), "six networks, so a matrix (6, 6) of inner products"
        assert got.dtype == torch.float64, f"sums of so many products are kept in float64, not in {got.dtype}"
        off = float((got - expected).abs().max())
        assert off < 1e-6, (
            f"in chunks of {width} columns an inner product is off by {off:.3g}. Take the mean of each column off all "
            "rows, in float64, before you multiply, and add up what all chunks bring"
        )


def _once(x: Tensor, width: int) -> Iterator[Tensor]:
    """Columns of x, so many at a time."""
    yield from (part.clone() for part in x.split(width, 1))
