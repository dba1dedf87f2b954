"""Checks of 11_conditional_generation."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dwflow_lite.course.exercises import exercise


@exercise("11.1")
def guided_velocity(answer: Callable) -> None:
    """The velocity that follows a condition w times as strongly."""
    generator = torch.Generator().manual_seed(0)
    free, told = torch.randn(2, 6, 3, generator=generator)
    kept = free.clone(), told.clone()
    cases = ((0.0, free, "without the condition"), (1.0, told, "with the condition"))
    for w, expected, name in (*cases, (3.0, 3 * told - 2 * free, "beyond it"), (0.5, (free + told) / 2, "halfway")):
        got = answer(free, told, w)
        assert got.shape == free.shape, f"velocities stay (6, 3); got {tuple(got.shape)}"
        assert torch.allclose(got, expected, atol=1e-5), (
            f"at w = {w:g} the velocity is the one {name}: start from v(x, t), and go w times the way to v(x, t, c)"
        )
    assert torch.equal(free, kept[0]) and torch.equal(told, kept[1]), "velocities have changed: leave them as they are"


@exercise("11.2")
def forget_conditions(answer: Callable) -> None:
    """Embedded conditions, some of them replaced by the vector that stands for none."""
    embedded = torch.arange(1.0, 8001).view(4000, 2)
    nothing = torch.tensor([-1.0, -2.0])
    for p in (0.1, 0.5):
        got = answer(embedded, nothing, p, torch.Generator().manual_seed(0))
        assert got.shape == embedded.shape, f"embedded conditions stay (4000, 2); got {tuple(got.shape)}"
        forgotten = (got == nothing).all(1)
        whole = forgotten | (got == embedded).all(1)
        assert whole.all(), (
            "a condition is kept whole or forgotten whole: draw one number for each row, not for each entry"
        )
        share = float(forgotten.float().mean())
        assert abs(share - p) < 0.05, f"with p = {p:g} about that share is forgotten; got {share:.2f}"
        again = answer(embedded, nothing, p, torch.Generator().manual_seed(1))
        assert not torch.equal(got, again), (
            "another generator forgets other conditions: draw from the one that is given"
        )
    assert torch.equal(embedded, torch.arange(1.0, 8001).view(4000, 2)), "the embedded conditions have changed"


@exercise("11.3")
def slope_of_control(answer: Callable) -> None:
    """Slope of the least-squares line through measured against requested numbers."""
    generator = torch.Generator().manual_seed(0)
    requested = 0.5 + torch.rand(60, generator=generator)
    noise = 0.1 * torch.randn(60, generator=generator)
    unasked = torch.where(torch.arange(60) % 2 == 0, 0.3, 0.9)
    cases = {
        "networks that do as they are asked": requested,
        "networks that do so beside an offset": requested - 0.4,
        "networks that follow half the way": 0.5 * requested + noise,
        "networks that do the opposite": 2 - requested,
        "networks that follow nothing": unasked,
    }
    for name, measured in cases.items():
        x, y = (numbers - numbers.mean() for numbers in (requested.double(), measured.double()))
        expected = float((x * y).sum() / (x * x).sum())
        got = float(answer(requested, measured))
        assert abs(got - expected) < 1e-3, (
            f"of {name} the slope is {expected:.3f}; got {got:.3f}. Take the mean off both, and divide their "
            "products by the squares of what was requested"
        )


@exercise("11.4")
def mean_under_a_condition(answer: Callable) -> None:
    """The mean code at a number that was asked for, linear in that number."""
    generator = torch.Generator().manual_seed(0)
    direction, offset = torch.randn(2, 5, generator=generator)
    numbers = 3 + torch.rand(40, generator=generator)
    exact = offset + numbers[:, None] * direction
    noisy = exact + 0.3 * torch.randn(40, 5, generator=generator)
    for name, codes in (("codes on a line", exact), ("codes about a line", noisy)):
        columns = torch.stack([torch.ones(40), numbers], 1).double()
        line = torch.linalg.lstsq(columns, codes.double()).solution  # (2, 5)
        for asked in (3.2, 3.9, 5.0):
            expected = line[0] + asked * line[1]
            got = answer(codes, numbers, asked)
            assert tuple(got.shape) == (5,), f"a mean code is a vector (5,); got {tuple(got.shape)}"
            assert torch.allclose(got.double(), expected, atol=1e-2), (
                f"of {name} the mean at {asked:g} lies elsewhere: the mean of all codes, plus the slope of every "
                "coordinate times how far the number lies from the mean number"
            )
