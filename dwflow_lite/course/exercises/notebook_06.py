"""Checks of 06_generating_weights."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dwflow_lite.course.exercises import exercise


@exercise("06.1")
def dispersion(answer: Callable) -> None:
    """Spread of points about the reference's mean, over the reference's own spread."""
    reference = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) + 5
    mean = reference.mean(0)
    cases = (
        ("the reference itself", reference, 1.0),
        ("200 copies of its mean", mean.expand(200, 6), 0.0),
        ("the reference shrunk by half towards its mean", mean + 0.5 * (reference - mean), 0.5),
        ("200 copies of one far point", mean + 3 * (reference[:1] - mean).expand(200, 6), None),
    )
    for what, points, expected in cases:
        spread = (reference - mean).square().sum(-1).mean().sqrt()
        expected = float((points - mean).square().sum(-1).mean().sqrt() / spread) if expected is None else expected
        got = float(answer(points, reference))
        assert abs(got - expected) < 1e-3, (
            f"for {what} the ratio is {expected:.3f}; got {got:.3f}. Measure both about the mean of the reference"
        )


@exercise("06.2")
def soup(answer: Callable) -> None:
    """Average of m different members drawn with a generator."""
    weights = 2.0 ** torch.arange(8.0)[:, None].expand(8, 3)
    kept = weights.clone()
    seen = set()
    for seed in range(20):
        got = answer(weights, 3, torch.Generator().manual_seed(seed))
        assert tuple(got.shape) == (3,), f"one soup of a zoo (8, 3) is one vector (3,); got shape {tuple(got.shape)}"
        total = round(float(got[0]) * 3, 3)
        assert total == int(total) and bin(int(total)).count("1") == 3, (
            "the average should be of three different members, each with weight 1/3; did you draw one of them twice?"
        )
        seen.add(int(total))
    assert torch.equal(weights, kept), "the zoo has changed: averaging in place spoils every later comparison"
    assert len(seen) > 3, "twenty seeds gave nearly the same soup; draw the members with the generator"


@exercise("06.3")
def accurate_and_new(answer: Callable) -> None:
    """Share of networks that pass both bars of the zoo."""
    zoo_scores, zoo_distances = torch.linspace(0.90, 1.0, 101), torch.linspace(1.0, 2.0, 101)
    cases = (
        ("copies: accurate, at distance 0", [0.97, 0.98], [0.0, 0.0], 0.0),
        ("noise: far away, at chance", [0.1, 0.1], [3.0, 3.0], 0.0),
        ("one copy and one noise", [0.97, 0.1], [0.0, 3.0], 0.0),
        ("networks like the zoo's", [0.95, 0.96, 0.92, 0.904], [1.5, 1.06, 1.2, 1.9], 0.75),
    )
    for what, scores, distances, expected in cases:
        got = float(answer(torch.tensor(scores), torch.tensor(distances), zoo_scores, zoo_distances))
        assert abs(got - expected) < 1e-4, (
            f"{what}: the share is {expected:g}, got {got:g}. One and the same network has to pass both bars, each the "
            "0.05 quantile of the zoo"
        )
