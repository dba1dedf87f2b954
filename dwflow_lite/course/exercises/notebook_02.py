"""Checks of 02_permutation_symmetry."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial

import torch
from torch import Tensor

from dwflow_lite.course.exercises import exercise, in_short, whole


def _try(answer: Callable, seed: int, *how: float) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], float]:
    """A random one-hidden-layer network (W1, b1, W2), what the answer makes of it, and how far their outputs differ."""
    generator = torch.Generator().manual_seed(seed)
    network = tuple(torch.randn(*s, generator=generator).double() for s in ((5, 3), (5,), (2, 5)))
    x = torch.randn(50, 3, generator=generator).double()
    kept = [w.clone() for w in network]
    try:
        changed = answer(*network, *how)
    except IndexError as error:
        shapes = "units are rows of W1 (5, 3), entries of b1 (5,) and columns of W2 (2, 5)"
        raise AssertionError(f"your code raised IndexError: {error}; {shapes}") from None
    assert all(torch.equal(a, b) for a, b in zip(network, kept, strict=True)), (
        "the tensors you were given have changed; work on copies"
    )
    before, after = (torch.relu(x @ w1.T + b1) @ w2.T for w1, b1, w2 in (network, changed))
    return network, changed, 0.0 if torch.allclose(before, after) else float((before - after).abs().max())


@exercise("02.1")
def swap_units(answer: Callable) -> None:
    """Swap hidden units i and j of a one-hidden-layer network given as (W1, b1, W2)."""
    (w1, b1, _), (v1, c1, _), difference = _try(answer, 0, 1, 3)
    assert not torch.equal(v1[1], v1[3]), (
        "rows 1 and 3 of W1 are the same now: w1[i] looks into w1, and was overwritten before it was used; index with "
        "a list of all positions, or clone the row first"
    )
    assert torch.equal(v1[1], w1[3]) and torch.equal(v1[3], w1[1]), "rows 1 and 3 of W1 should have changed places"
    assert torch.equal(c1[1], b1[3]), "the bias belongs to the unit: entries 1 and 3 of b1 should have changed places"
    assert not difference, f"outputs changed by up to {difference:.2g}; which columns of W2 read units 1 and 3?"


@exercise("02.2")
def count_symmetries(answer: Callable) -> None:
    """Permuted copies of an MLP of the given sizes."""
    cases = (([4, 16, 3], factorial(16)), ([784, 32, 32, 10], factorial(32) ** 2), ([5, 2], 1))
    for sizes, expected in cases:
        got = whole(answer(sizes))
        hidden = sizes[1:-1]
        assert got == expected, (
            f"sizes {sizes} have hidden layers {hidden or 'none'}; inputs and outputs keep their order. "
            f"Expected {in_short(expected)}, got {in_short(got)}"
        )


@exercise("02.3")
def rescale_unit(answer: Callable) -> None:
    """Scale one unit of a ReLU network up and its readers down."""
    (w1, _, w2), (v1, _, v2), difference = _try(answer, 1, 2, 4.0)
    assert torch.allclose(v1[2], 4 * w1[2]), "row 2 of W1 should be 4 times what it was"
    others = [0, 1, 3, 4]
    assert torch.equal(v1[others], w1[others]) and torch.equal(v2[:, others], w2[:, others]), (
        "only unit 2 should change"
    )
    assert not difference, f"outputs changed by up to {difference:.2g}: scale the bias too, and divide the column"
