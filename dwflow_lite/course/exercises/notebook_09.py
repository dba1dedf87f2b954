"""Checks of 09_new_and_accurate."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dwflow_lite.course.exercises import exercise


@exercise("09.1")
def knob_by_distance(answer: Callable) -> None:
    """Smallest factor whose networks lie as far from members as held-out networks do."""
    members = 10.0 * torch.arange(6.0)[:, None] * torch.tensor([[1.0, 0.0]])  # on a line, ten apart
    aside = torch.tensor([0.0, 1.0])
    held_out = members[:5] + torch.tensor([1.0, 2.0, 3.0, 3.5, 4.0])[:, None] * aside  # median 3
    far = {2.0: [1.0, 3.5, 5.0], 0.5: [0.1, 0.2, 9.0], 1.5: [0.5, 3.0, 3.2], 1.0: [2.0, 2.5, 8.0], 3.0: [9.0, 9.0, 9.0]}
    draws = {factor: members[:3] + torch.tensor(steps)[:, None] * aside for factor, steps in far.items()}
    for left_out, expected in ((None, 1.5), (1.5, 2.0)):
        given = {factor: networks for factor, networks in draws.items() if factor != left_out}
        got = float(answer(given, members, held_out))
        assert got == expected, (
            f"of the factors {sorted(given)} the smallest that is far enough is {expected:g}; got {got:g}. Compare "
            "medians of the distance to the nearest member, and mind that keys come in any order"
        )


@exercise("09.2")
def mistakes_beyond_chance(answer: Callable) -> None:
    """Cohen's kappa of the mistakes of two networks."""
    cases = (
        ("one behaviour, two mistakes of eight", [0, 1], [0, 1], 1.0),
        ("two mistakes each, one in common", [0, 1], [1, 2], 1 / 3),
        ("two coins, two mistakes in common", [0, 1, 2, 3], [2, 3, 4, 5], 0.0),
        ("two mistakes each, none in common", [0, 1], [2, 3], -1 / 3),
        ("one mistake and four, one in common", [0], [0, 1, 2, 3], 0.25),
    )
    for what, first, second, expected in cases:
        a, b = torch.zeros(2, 8, dtype=torch.bool)
        a[first], b[second] = True, True
        got = float(answer(a, b))
        assert abs(got - expected) < 1e-5, (
            f"{what}: kappa is {expected:.3f}; got {got:.3f}. Observed: the share of images on which both are right or "
            "both wrong; expected: the same of two coins that err as often; the difference over 1 - expected"
        )
