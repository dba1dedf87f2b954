"""Checks of 03_git_rebasin."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dwflow_lite.course.exercises import exercise


def _network(seed: int, n: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=generator).double() for shape in ((n, 4), (n,), (3, n)))


def _similarity(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
    return a[0] @ b[0].T + torch.outer(a[1], b[1]) + a[2].T @ b[2]


@exercise("03.1")
def similarity(answer: Callable) -> None:
    """Similarity of all units of two networks (w1, b1, w2)."""
    a, b = _network(0), _network(1)
    got, expected = answer(a, b), _similarity(a, b)
    assert tuple(got.shape) == (6, 6), f"two layers of 6 units have a matrix (6, 6); got {tuple(got.shape)}"
    assert not torch.allclose(got, expected.T), "rows and columns are exchanged: rows are units of a"
    parts = {"rows of w1": a[0] @ b[0].T, "biases": torch.outer(a[1], b[1]), "columns of w2": a[2].T @ b[2]}
    for what, part in parts.items():
        assert not torch.allclose(got, expected - part), f"the {what} are missing: all three tensors know the unit"
    assert torch.allclose(got, expected), f"entries differ by up to {float((got - expected).abs().max()):.2g}"


@exercise("03.2")
def barrier(answer: Callable) -> None:
    """Highest rise above the chord."""
    cases = (
        ([1.0, 3.0, 1.0], 2.0, "ends of equal loss"),
        ([0.0, 3.0, 4.0], 1.0, "ends that differ: the chord passes 2 in the middle"),
        ([2.0, 1.5, 1.0, 0.5, 0.0], 0.0, "a straight line"),
        ([1.0, 0.2, 1.0], 0.0, "a valley: at the ends the rise is 0, nowhere more"),
    )
    for losses, expected, what in cases:
        got = float(answer(torch.tensor(losses)))
        assert abs(got - expected) < 1e-5, f"losses {losses} ({what}) have the barrier {expected:g}; got {got:.3g}"


@exercise("03.3")
def best_order(answer: Callable) -> None:
    """The assignment that brings the units of b into the order of a."""
    a, planted = _network(2), torch.tensor([3, 0, 5, 1, 4, 2])
    twin = a[0][planted], a[1][planted], a[2][:, planted]
    got = torch.as_tensor(answer(a, twin))
    assert got.shape == (6,) and got.sort().values.tolist() == list(range(6)), f"{got.tolist()} is no permutation"
    if got.tolist() == planted.tolist():
        raise AssertionError("this is the inverse: index[i] should be the unit of b that unit i of a corresponds to")
    assert got.tolist() == planted.argsort().tolist(), f"a permuted copy should be found again; got {got.tolist()}"
    b = _network(3)
    s, got = _similarity(a, b), torch.as_tensor(answer(a, b))
    rows = torch.arange(6)
    best = max(float(s[rows, list(p)].sum()) for p in torch.cartesian_prod(*[rows] * 6).tolist() if len(set(p)) == 6)
    assert abs(float(s[rows, got].sum()) - best) < 1e-6, (
        f"the similarities of your partners sum to {float(s[rows, got].sum()):.3f}, the best order reaches {best:.3f}"
    )
