"""Checks of 04_transfusion."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial

import torch
from torch import Tensor

from dwflow_lite.course.exercises import exercise, in_short, whole


@exercise("04.1")
def keeps_heads(answer: Callable) -> None:
    """Whether an order of rows moves whole heads."""
    cases = (
        ([0, 1, 2, 3, 4, 5], 2, True, "nothing moves"),
        ([3, 4, 5, 0, 1, 2], 2, True, "two heads have changed places"),
        ([5, 3, 4, 1, 0, 2], 2, True, "heads have changed places, and units inside them"),
        ([0, 1, 3, 2, 4, 5], 2, False, "units 2 and 3 have changed heads"),
        ([0, 1, 3, 2, 4, 5], 3, True, "with three heads of two, 2 and 3 are one head"),
        ([0, 3, 1, 4, 2, 5], 3, False, "every head is mixed"),
    )
    for index, heads, expected, what in cases:
        got = answer(torch.tensor(index), heads)
        assert bool(got) == expected, f"{index} with {heads} heads: {what}, so {expected}; got {got}"


@exercise("04.2")
def count_orders(answer: Callable) -> None:
    """Orders of one attention layer that leave its function alone."""
    for heads, units in ((1, 2), (3, 8), (12, 64), (2, 1)):
        expected, got = factorial(heads) * factorial(units) ** (2 * heads), whole(answer(heads, units))
        assert got == expected, f"{heads} heads of {units} units: expected {in_short(expected)}, got {in_short(got)}"


def _attention(q: Tensor, k: Tensor, v: Tensor, o: Tensor, x: Tensor, heads: int) -> Tensor:
    q, k, v = ((x @ w.T).unflatten(-1, (heads, -1)).transpose(0, 1) for w in (q, k, v))
    return ((q @ k.transpose(1, 2)).softmax(-1) @ v).transpose(0, 1).flatten(1) @ o.T


@exercise("04.3")
def permute_attention(answer: Callable) -> None:
    """Queries and keys by one order, values and projection by another."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, o = (torch.randn(6, 6, generator=generator).double() for _ in range(4))
    x = torch.randn(5, 6, generator=generator).double()
    qk, vo = torch.tensor([5, 3, 4, 1, 0, 2]), torch.tensor([4, 3, 5, 2, 1, 0])
    got = answer(q, k, v, o, qk, vo)
    assert len(got) == 4, "return four matrices: q, k, v, o"
    for name, old, new, order in (("q", q, got[0], qk), ("k", k, got[1], qk), ("v", v, got[2], vo)):
        which = "vo" if order is vo else "qk"
        assert torch.equal(new, old[order]), f"the units of {name} are its rows, in the order of {which}"
    before, after = _attention(q, k, v, o, x, 2), _attention(*got, x, 2)
    assert torch.allclose(before, after), (
        f"outputs changed by up to {float((before - after).abs().max()):.2g}: the projection reads values by columns"
    )
