"""Checks of 02_permutation_symmetry."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial

import torch

from dwflow_lite.course.exercises import exercise


@exercise("02.1")
def swap_units(answer: Callable) -> None:
    """Swap hidden units i and j of a one-hidden-layer network given as (W1, b1, W2)."""
    generator = torch.Generator().manual_seed(0)
    w1, b1, w2 = (torch.randn(*s, generator=generator).double() for s in ((5, 3), (5,), (2, 5)))
    x = torch.randn(7, 3, generator=generator).double()
    kept = w1.clone(), b1.clone(), w2.clone()
    v1, c1, v2 = answer(w1, b1, w2, 1, 3)
    assert all(torch.equal(a, b) for a, b in zip((w1, b1, w2), kept, strict=True)), (
        "the tensors you were given have changed; work on copies"
    )
    assert torch.equal(v1[1], w1[3]) and torch.equal(v1[3], w1[1]), "rows 1 and 3 of W1 should have changed places"
    assert torch.equal(c1[1], b1[3]), "the bias belongs to the unit: entries 1 and 3 of b1 should have changed places"
    before, after = (torch.relu(x @ a.T + b) @ c.T for a, b, c in ((w1, b1, w2), (v1, c1, v2)))
    assert torch.allclose(before, after), (
        f"outputs changed by up to {float((before - after).abs().max()):.2g}; which columns of W2 read units 1 and 3?"
    )


@exercise("02.2")
def count_symmetries(answer: Callable) -> None:
    """Relabelled copies of an MLP of the given sizes."""
    cases = (([4, 16, 3], factorial(16)), ([784, 32, 32, 10], factorial(32) ** 2), ([5, 2], 1))
    for sizes, expected in cases:
        got = answer(sizes)
        hidden = sizes[1:-1]
        assert got == expected, (
            f"sizes {sizes} have hidden layers {hidden or 'none'}; inputs and outputs keep their names. "
            f"Expected {expected:.3g}, got {got:.3g}"
        )


@exercise("02.3")
def rescale_unit(answer: Callable) -> None:
    """Scale one unit of a ReLU network up and its readers down."""
    generator = torch.Generator().manual_seed(1)
    w1, b1, w2 = (torch.randn(*s, generator=generator).double() for s in ((5, 3), (5,), (2, 5)))
    x = torch.randn(50, 3, generator=generator).double()
    kept = w1.clone(), b1.clone(), w2.clone()
    v1, c1, v2 = answer(w1, b1, w2, 2, 4.0)
    assert all(torch.equal(a, b) for a, b in zip((w1, b1, w2), kept, strict=True)), (
        "the tensors you were given have changed; work on copies"
    )
    assert torch.allclose(v1[2], 4 * w1[2]), "row 2 of W1 should be 4 times what it was"
    others = [0, 1, 3, 4]
    assert torch.equal(v1[others], w1[others]) and torch.equal(v2[:, others], w2[:, others]), (
        "only unit 2 should change"
    )
    before, after = (torch.relu(x @ a.T + b) @ c.T for a, b, c in ((w1, b1, w2), (v1, c1, v2)))
    assert torch.allclose(before, after), (
        f"outputs changed by up to {float((before - after).abs().max()):.2g}: scale the bias too, and divide the column"
    )
