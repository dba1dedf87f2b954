"""Checks of 07_resnets_and_batchnorm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dwflow_lite.course.exercises import exercise


@exercise("07.1")
def pooled(answer: Callable) -> None:
    """Mean and variance of two batches of equal size taken together."""
    a, b = torch.tensor([1.0, 5.0, 3.0, 7.0]), torch.tensor([10.0, 12.0, 10.0, 8.0])
    for first, second in ((a, b), (b, a), (a, a + 1)):
        both = torch.cat([first, second])
        given = [float(f) for x in (first, second) for f in (x.mean(), x.var(correction=0))]
        got, expected = answer(*given), (float(both.mean()), float(both.var(correction=0)))
        assert len(got) == 2, "return two numbers, the mean and the variance"
        for name, mine, right in zip(("mean", "variance"), got, expected, strict=True):
            assert abs(mine - right) < 1e-5, f"m1, v1, m2, v2 = {given}: the {name} is {right:.4g}, not {mine:.4g}"


@exercise("07.2")
def fold(answer: Callable) -> None:
    """BatchNorm with fixed statistics folded into the linear layer before it."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    weight, bias, mean, gamma, beta, x = draw(3, 4), draw(3), draw(3), draw(3), draw(3), draw(5, 4)
    var, eps = draw(3).square() + 0.5, 0.1
    got = answer(weight, bias, mean, var, gamma, beta, eps)
    assert len(got) == 2, "return a pair (weight, bias)"
    assert got[0].shape == weight.shape and got[1].shape == bias.shape, (
        f"weight {tuple(got[0].shape)} and bias {tuple(got[1].shape)} should be {tuple(weight.shape)} and (3,)"
    )
    expected = nn.functional.batch_norm(x @ weight.T + bias, mean, var, gamma, beta, eps=eps)
    off = float((x @ got[0].T + got[1] - expected).abs().max())
    assert off < 1e-9, f"outputs differ from linear layer and BatchNorm by up to {off:.2g}"
