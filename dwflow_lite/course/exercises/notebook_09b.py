"""Checks of 09b_one_round_basin."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dwflow_lite.course.exercises import exercise


@exercise("09b.1")
def factor_of_a_mixture(answer: Callable) -> None:
    """The factor at which a mixture with signs lies so far from the members that it mixes with a plus."""
    for distance, radius, m in ((1.0, 1.0, 4), (2.4, 2.0, 9), (4.1, 3.0, 25), (0.5, 1.0, 1), (1.9, 2.0, 5)):
        differences = radius * torch.eye(m, dtype=torch.float64)  # orthogonal, each of this length
        factor = float(answer(distance, radius, m))
        found = float((factor / m**0.5 * differences.sum(0) - differences[0]).norm())
        asked = f"distance {distance:g}, radius {radius:g} and m = {m}"
        assert abs(found - distance) < 1e-5, (
            f"{asked}: with the factor {factor:.3f} the mixture lies {found:.3f} away. Solve the formula above, "
            "squared, for f"
        )
        assert factor > 1 / m**0.5, f"{asked}: {factor:.3f} is the smaller of the two factors; return the larger"


@exercise("09b.2")
def mixture_on_the_sphere(answer: Callable) -> None:
    """The mean plus differences of members with signs, squared shares summing to 1."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(12, 5, generator=generator) + 3
    kept = weights.clone()
    mean = weights.mean(0)
    for chosen, signs in (([4], [1.0]), ([4], [-1.0]), ([0, 7, 9], [1.0, -1.0, 1.0]), ([1, 2, 3, 5], [-1.0] * 4)):
        rows, signed = torch.tensor(chosen), torch.tensor(signs)
        got = answer(weights, rows, signed)
        assert tuple(got.shape) == (5,), f"one mixture of a zoo (12, 5) is one vector (5,); got {tuple(got.shape)}"
        expected = mean + sum(s * (weights[i] - mean) for i, s in zip(chosen, signs, strict=True)) / len(chosen) ** 0.5
        assert torch.allclose(got, expected, atol=1e-4), (
            f"of members {chosen} with signs {[int(s) for s in signs]} the mixture is another one: differences to the "
            "mean of the whole zoo, each with its sign over √m, added to that mean"
        )
    assert torch.equal(weights, kept), "the zoo has changed: leave its weights as they are"


@exercise("09b.3")
def variance_in_a_mixture(answer: Callable) -> None:
    """Expected variance of what a unit reads, in the mean plus differences with these shares."""
    cases = (
        ("a member, one share of 1", [1.0], 5.0),
        ("an average of four", [0.25] * 4, 2.75),
        ("a mixture of four on the sphere", [0.5, -0.5, 0.5, -0.5], 5.0),
        ("the mean itself", [0.0, 0.0], 2.0),
        ("a mixture beyond the sphere", [1.0, -1.0], 8.0),
    )
    for what, shares, expected in cases:
        got = float(answer(2.0, 5.0, torch.tensor(shares)))
        assert abs(got - expected) < 1e-5, (
            f"{what}: where the mean has the variance 2 and members 5, it is {expected:g}; got {got:g}. Only the part "
            "of the differences, 5 - 2, is multiplied by the sum of squared shares"
        )
