"""Checks of 00_a_network_from_noise."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dwflow_lite.course.exercises import exercise


@exercise("00.1")
def accuracy(answer: Callable) -> None:
    """Share of right answers, from outputs (n, classes) and labels (n,)."""
    outputs = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [5.0, 1.0, 0.0], [0.0, -1.0, -0.5]])
    labels = torch.tensor([0, 1, 2, 0])
    got = float(answer(outputs, labels))
    assert got != 75, "that is a percentage; give a share between 0 and 1"
    assert abs(got - 0.75) < 1e-6, f"three of these four answers are right, so 0.75 was expected; got {got:g}"


@exercise("00.2")
def nearest_member(answer: Callable) -> None:
    """Distance from one weight vector (d,) to the nearest row of a zoo (N, d)."""
    zoo = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 0.0]])
    for point, expected in (([0.0, 1.0], 1.0), ([3.0, 4.0], 0.0), ([3.0, 0.0], 3.0), ([1.0, 1.0], 2**0.5)):
        got = float(answer(torch.tensor(point), zoo))
        assert abs(got - expected) < 1e-5, (
            f"from {point} to the nearest of {zoo.tolist()} is {expected:g} (Euclidean); got {got:g}"
        )


@exercise("00.3")
def ensemble(answer: Callable) -> None:
    """Labels (n,) by averaged probabilities, of outputs (networks, n, classes)."""
    sure, unsure = [6.0, 0.0, 0.0], [0.0, 0.6, 0.0]
    outputs = torch.tensor([[sure, [30.0, 0.0, 0.0]], [unsure, [0.0, 3.0, 0.0]], [unsure, [0.0, 3.0, 0.0]]])
    got = answer(outputs)
    assert tuple(got.shape) == (2,), f"one label an example: shape (2,), got {tuple(got.shape)}"
    assert int(got[0]) == 0, (
        "one network is sure of 0, two lean towards 1: probabilities favour 0; did you take a vote?"
    )
    assert int(got[1]) == 1, (
        "one network shouts 30, two are quite sure of 1: probabilities are capped at 1, outputs are not"
    )
