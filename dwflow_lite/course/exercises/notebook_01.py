"""Checks of 01_model_zoo."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dwflow_lite.course.exercises import exercise


@exercise("01.1")
def count_weights(answer: Callable) -> None:
    """Number of weights of an MLP of the given sizes, biases included."""
    for sizes, expected in (([4, 16, 3], 131), ([64, 32, 32, 10], 3466), ([784, 32, 32, 10], 26506)):
        got = answer(sizes)
        without = sum(m * n for m, n in zip(sizes, sizes[1:], strict=False))
        assert got != without, f"{got} counts the matrices of {sizes} only; every layer also has biases"
        assert got == expected, f"an MLP of sizes {sizes} has {expected} weights; got {got}"


@exercise("01.2")
def split_flat(answer: Callable) -> None:
    """Cut a flat vector back into tensors of the given shapes."""
    shapes = [(2, 3), (2,), (1, 2), (1,)]
    flat = torch.arange(11.0)
    parts = answer(flat, shapes)
    assert len(parts) == 4, f"four shapes make four tensors; got {len(parts)}"
    for part, shape in zip(parts, shapes, strict=True):
        assert tuple(part.shape) == shape, f"expected shape {shape}; got {tuple(part.shape)}"
    joined = torch.cat([p.reshape(-1) for p in parts])
    assert torch.equal(joined, flat), f"put together again, the parts should be 0 … 10; got {joined.tolist()}"


@exercise("01.3")
def cut(answer: Callable) -> None:
    """Disjoint parts of 0 … n-1, drawn with a generator."""
    parts = {"train": 0.6, "validation": 0.15, "test": 0.25}
    found = answer(103, parts, torch.Generator().manual_seed(0))
    assert list(found) == list(parts), f"the parts are {list(parts)}, in this order; got {list(found)}"
    together = torch.cat([found[name] for name in parts])
    assert len(together.unique()) == len(together), "some number is in two parts: an image both trained and tested on"
    assert len(together) == 103, f"{103 - len(together)} of 103 numbers are in no part; the last part takes the rest"
    sizes = [len(found[name]) for name in parts]
    assert sizes == [61, 15, 27], f"shares 0.6, 0.15, 0.25 of 103, rounded down, make [61, 15, 27]; got {sizes}"
    again, other = (answer(103, parts, torch.Generator().manual_seed(s))["train"] for s in (0, 1))
    assert torch.equal(again, found["train"]), "one seed gives one cut: draw with the generator you are given"
    assert not torch.equal(other, again), "another seed should give another cut: shuffle before you cut"
