"""Checks of 05_flow_matching."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dwflow_lite.course.exercises import exercise


@exercise("05.1")
def straight_path(answer: Callable) -> None:
    """Point and velocity of the straight path."""
    x0, x1 = torch.tensor([[0.0, 0.0], [1.0, 1.0], [4.0, 0.0]]), torch.tensor([[2.0, 4.0], [3.0, 1.0], [0.0, 0.0]])
    t = torch.tensor([0.0, 0.5, 0.75])
    x, u = answer(x0, x1, t)
    assert torch.allclose(u, x1 - x0), f"the velocity is the whole way, end minus start, at every t; got {u.tolist()}"
    expected = torch.tensor([[0.0, 0.0], [2.0, 1.0], [1.0, 0.0]])
    assert x.shape == x0.shape, f"one point a row: shape (3, 2), got {tuple(x.shape)}"
    assert not torch.allclose(x, x0 + x1 - expected), "time runs the wrong way: t = 0 is the start x0"
    assert torch.allclose(x, expected), f"at times {t.tolist()} the points are {expected.tolist()}; got {x.tolist()}"


@exercise("05.2")
def midpoint_step(answer: Callable) -> None:
    """One midpoint step: exact for velocities linear in t, second order in x, two field calls."""
    calls = []

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(float(t))
        return t * torch.ones_like(x)

    got = float(answer(field, torch.zeros(1), torch.tensor(1.0), torch.tensor(2.0)))
    assert len(calls) == 2, f"a midpoint step asks the field twice; yours asked {len(calls)} times"
    assert calls == [1.0, 2.0], f"from t = 1 with h = 2 the field is asked at t = 1 and t = 2; yours asked at {calls}"
    assert abs(got - 4.0) < 1e-5, f"for v = t, from x = 0 at t = 1 with h = 2 the step ends at 4; got {got:g}"
    got = float(answer(lambda x, t: x, torch.ones(1), torch.tensor(0.0), torch.tensor(1.0)))
    assert abs(got - 2.5) < 1e-5, f"for v = x, from x = 1 with h = 1 the step ends at 2.5; got {got:g}"


@exercise("05.3")
def posterior(answer: Callable) -> None:
    """Weights of the closed-form field."""
    targets = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 3.0]])
    cases = (
        (torch.tensor([0.3, 0.1]), 0.0, 1.0, "at t = 0 nothing is known: all weights are equal"),
        (torch.tensor([0.5, 0.4]), 0.5, 1.0, "in the middle"),
        (torch.tensor([0.5, 0.4]), 0.5, 0.2, "a smaller source knows earlier"),
        (torch.tensor([1.9, 0.0]), 0.99, 1.0, "near the end one weight takes everything, and none may be NaN"),
    )
    for x, t, scale, what in cases:
        exponent = -(x - t * targets).square().sum(-1) / (2 * scale**2 * (1 - t) ** 2)
        expected, got = torch.softmax(exponent, 0), torch.as_tensor(answer(x, t, targets, scale))
        assert got.shape == (3,), f"one weight a target: shape (3,), got {tuple(got.shape)}"
        assert torch.isfinite(got).all(), f"{what}: your weights are {got.tolist()}; use torch.softmax"
        assert abs(float(got.sum()) - 1) < 1e-4, f"the weights sum to {float(got.sum()):.3f}, not to 1"
        shown = [[round(v, 3) for v in w.tolist()] for w in (expected, got)]
        assert torch.allclose(got, expected, atol=1e-4), f"{what}: expected {shown[0]}, got {shown[1]}"
