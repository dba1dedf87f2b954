"""Checks of 07_resnets_and_batchnorm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dwflow_lite.course.exercises import exercise


@exercise("07.1")
def momentum(answer: Callable) -> None:
    """The momentum that makes a running average the mean of all batches."""
    batches, running = [4.0, 0.0, 2.0, 10.0], 99.0
    for i, batch in enumerate(batches):
        m = answer(i)
        running = (1 - m) * running + m * batch
        expected = sum(batches[: i + 1]) / (i + 1)
        assert abs(running - expected) < 1e-9, (
            f"after batch {i} of {batches}, started at 99, the running value is {running:.4g}, the mean {expected:.4g}"
        )


@exercise("07.2")
def fold(answer: Callable) -> None:
    """BatchNorm with fixed statistics folded into the linear layer before it."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    weight, bias, mean, gamma, beta, x = draw(3, 4), draw(3), draw(3), draw(3), draw(3), draw(5, 4)
    var, eps = draw(3).square() + 0.5, 0.1
    got = answer(weight, bias, mean, var, gamma, beta, eps)
    assert isinstance(got, tuple) and len(got) == 2, "return a pair (weight, bias)"
    assert got[0].shape == weight.shape and got[1].shape == bias.shape, (
        f"weight {tuple(got[0].shape)} and bias {tuple(got[1].shape)} should be {tuple(weight.shape)} and (3,)"
    )
    expected = nn.functional.batch_norm(x @ weight.T + bias, mean, var, gamma, beta, eps=eps)
    off = float((x @ got[0].T + got[1] - expected).abs().max())
    assert off < 1e-9, f"outputs differ from linear layer and BatchNorm by up to {off:.2g}"
