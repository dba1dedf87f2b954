"""Checks of 13_your_own_zoo."""

from __future__ import annotations

from collections.abc import Callable

from dwflow_lite.course.exercises import exercise


@exercise("13.1")
def a_table_with_gaps(answer: Callable) -> None:
    """Numbers, labels and names of the rows in which nothing is missing."""
    import numpy as np

    rows = [["1.5", "2", "rye"], ["3", "", "oats"], ["-4", "1e1", "barley"], ["0", "7", "rye"], ["8", "9", ""]]
    kept = [list(row) for row in rows]
    x, y, classes = answer(kept)
    x, y = np.asarray(x), np.asarray(y)
    assert kept == rows, "the rows have changed: leave them as they are"
    assert x.shape == (3, 2), (
        f"three of the five rows have no empty cell, with two numbers each: x is (3, 2), got {x.shape}"
    )
    assert x.dtype.kind in "fiu", "x holds texts (or objects): float(cell) makes a number of each"
    assert np.array_equal(x, [[1.5, 2], [-4, 10], [0, 7]]), "x holds the numbers of the rows without gaps, in order"
    assert list(map(str, classes)) == ["barley", "rye"], (
        f"only barley and rye are left, in the order of their names; got {list(map(str, classes))}. A class whose rows "
        "are all left out is none"
    )
    assert y.shape == (3,) and y.tolist() == [1, 0, 1], (
        f"labels are places in the sorted names, 1 0 1 here; got {y.tolist()}"
    )


@exercise("13.2")
def axes_of_two_branches(answer: Callable) -> None:
    """Axes that move together where two layers are added."""
    import torch
    from torch import nn

    from dwflow_lite.symmetry import PermutationSpec
    from dwflow_lite.zoo import Layout

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.last = nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.left(x)) + torch.relu(self.right(x)))

    network = Branches()
    layout = Layout.of(network)
    axes = dict(answer())
    missing = sorted({entry.name for entry in layout.entries} - set(axes))
    assert not missing, f"the axes of {', '.join(missing)} are missing"
    for name, of in axes.items():
        assert isinstance(of, tuple | list), (
            f"{name}: a tuple with one entry for each axis, as ('h',) or (None,) for a bias, not {of!r}"
        )
    try:
        spec = PermutationSpec(layout, {name: tuple(of) for name, of in axes.items()})
    except (TypeError, ValueError) as error:  # says itself where shapes do not fit
        raise AssertionError(str(error)) from None
    assert spec.groups, "something may move: unit 1 of both branches and column 1 of the last layer, say"
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(layout.size, generator=generator)
    x = torch.randn(4, 3, generator=generator)
    try:
        spec.verify(network, weights, x)
    except ValueError:
        raise AssertionError(
            "permuting units by these axes changes outputs. Whatever is added is paired unit by unit: both branches, "
            "their biases and the columns of the last layer share one order; inputs and outputs keep theirs"
        ) from None


@exercise("13.3")
def share_of_copies(answer: Callable) -> None:
    """Share of networks nearer to a member than half of the members' own median distance."""
    import torch

    zoo = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [20.0, 20.0]])  # nearest others 4, 4, 4, and far
    generated = torch.tensor([[0.0, 1.9], [0.0, 2.1 - 4.2], [4.0, 0.0], [19.0, 20.0], [10.0, 10.0]])
    got = float(answer(generated.clone(), zoo.clone()))
    assert abs(got - 0.6) < 1e-6, (
        f"members lie 4 apart (median over members of the nearest other, not of themselves), so half is 2; three of "
        f"five networks lie nearer than that to some member: 0.6, got {got:.2f}"
    )
    alone = float(answer(generated[-1:].clone(), zoo.clone()))
    assert alone == 0, f"one network far from all members is no copy: the share is 0, got {alone:.2f}"
