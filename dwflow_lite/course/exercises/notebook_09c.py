"""Checks of 09c_units_in_balance."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dwflow_lite import MLP
from dwflow_lite.course.exercises import exercise


@exercise("09c.1")
def what_units_say(answer: Callable) -> None:
    """What every unit of a network adds to every output, for every input."""
    generator = torch.Generator().manual_seed(0)
    for inputs, units, outputs, images in ((3, 5, 2, 4), (4, 6, 6, 6)):
        network = MLP([inputs, units, outputs])
        for weights in network.parameters():
            weights.data = torch.randn(weights.shape, generator=generator)
        x = torch.randn(images, inputs, generator=generator)
        (reads, biases), (weighs, last) = ((layer.weight.data, layer.bias.data) for layer in network.layers)
        got = answer(reads, biases, weighs, x)
        shape = (units, images, outputs)
        assert tuple(got.shape) == shape, f"{units} units, {images} inputs, {outputs} outputs: got {tuple(got.shape)}"
        with torch.no_grad():
            expected = network(x) - last
        assert torch.allclose(got.sum(0), expected, atol=1e-4), (
            "summed over units this is not what the network says, less its last bias: the activation of a unit, relu "
            "of what it reads, times each weight that goes out of it"
        )
        alone = (x @ reads[0] + biases[0]).relu()[:, None] * weighs[:, 0]
        assert torch.allclose(got[0], alone, atol=1e-4), "the sum is right, what the first unit says is not"


@exercise("09c.2")
def miss_by_lot(answer: Callable) -> None:
    """The root mean square by which children by lot miss the mean of the members."""
    generator = torch.Generator().manual_seed(0)
    for members, units, numbers in ((2, 3, 4), (5, 4, 3)):
        said = torch.randn(members, units, numbers, generator=generator) + 2
        lots = torch.cartesian_prod(*[torch.arange(members)] * units)  # every child that can be had
        children = said[lots, torch.arange(units)].sum(1)  # (children, numbers)
        expected = float((children - said.sum(1).mean(0)).square().mean().sqrt())
        got = float(answer(said))
        assert abs(got - expected) < 1e-4, (
            f"all {len(lots)} children of {members} members with {units} units each miss by {expected:.4f}; got "
            f"{got:.4f}. Variances over members, of each unit by itself, add up over units"
        )


@exercise("09c.3")
def one_choice_after_the_other(answer: Callable) -> None:
    """The candidate of each unit that leaves the sum so far smallest in size."""
    cases = (
        ([[1.0, 1.0, 1.0], [-2.0, -2.0, -2.0]], [0, 1, 0]),
        ([[3.0, 0.5, 2.0], [1.0, -4.0, -2.0], [-2.0, 3.0, 5.0]], [1, 0, 1]),
        ([[2.0, -2.0]], [0, 0]),
        ([[1.0, 0.5], [-1.0, 0.5]], [0, 0]),
        ([[0.5, 5.0], [0.6, -0.4]], [0, 1]),
    )
    for options, expected in cases:
        got = [int(taken) for taken in answer(torch.tensor(options))]
        assert got == expected, (
            f"of candidates {options} (a row each) {expected} are to be taken; got {got}. After every unit the sum of "
            "all that was taken so far is to be as small in size as this unit's candidates allow"
        )
