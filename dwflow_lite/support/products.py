"""Products of few rows of very many columns: a few columns at a time, where the rows are, on any device.

What is made of some columns (a copy in float64, centred) is used while it is in the processor's cache, and never waits
for memory. Each core takes a range of columns for itself: threads that shared such small tensors would wait for each
other after every step, and for every other program on the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

IN_CACHE = 1 << 23  # bytes for one core: few enough for a processor's cache, enough for fast products
ON_A_GPU = 1 << 26  # bytes that keep a GPU busy
WORTH_A_THREAD = 1 << 20  # numbers


def centred(part: Tensor) -> tuple[Tensor, Tensor]:
    """Rows about their mean, in place, and it. Repeated rows give exact zeros, which a rounded mean would not."""
    first = part[0].clone()
    part -= first
    mean = part.new_full((len(part),), 1 / len(part)) @ part  # (c,), faster than part.mean(0)
    part -= mean
    return part, first + mean


def gram_of(rows: Tensor, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Inner products (N, N) of rows (N, c) about their mean, and it (c,): in this precision, and summed in float64."""
    half = len(rows) // 2
    means = rows.new_empty(rows.shape[1], dtype=precision)

    def gram_of_range(columns: slice) -> Tensor:
        gram = rows.new_zeros(len(rows), len(rows), dtype=_widest(rows))
        for few, part in _parts_of(rows, columns, precision):  # (N, few)
            _, means[few] = centred(part)
            add_product(gram[:half, :half], part[:half], part[:half].T)
            add_product(gram[half:], part[half:], part.T)
        return gram

    gram = sum(_on_all_cores(gram_of_range, rows))
    gram[:half, half:] = gram[half:, :half].T  # the quarter that symmetry gives
    return gram, means


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to a sum in place, which may be of a higher precision."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def projected(x: Tensor, rows: Tensor, mean: Tensor | None, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Products (m, N) of x (m, c) with rows (N, c), all about one mean, and the squares (m,) of x about it.

    ``mean`` (c,): None: of the rows, from which it is taken; otherwise of ``x`` alone.
    """

    def projected_range(columns: slice) -> tuple[Tensor, Tensor]:
        products = rows.new_zeros(len(x), len(rows), dtype=_widest(rows))
        squares = rows.new_zeros(len(x), dtype=_widest(rows))
        for few, part in _parts_of(rows, columns, precision, beside=len(x)):  # (N, few)
            if mean is None:
                part, here = centred(part)
            else:
                here = mean[few].to(precision)
            about = x[:, few].to(precision) - here  # (m, few)
            products += about @ part.T
            squares += about.square().sum(1)
        return products, squares

    products, squares = zip(*_on_all_cores(projected_range, rows), strict=True)
    return sum(products), sum(squares)


def row_shares(codes: Tensor, combination: Tensor) -> Tensor:
    """The shares (..., N), whose sum is 1, of rows that codes (..., k) decode to; on the CPU, in float64.

    Rows about their mean would be combined by codes · combinationᵀ. If these coefficients sum to zero, the mean drops
    out; if they sum to one, it is added.

    Args:
        codes: of points.
        combination: (N, k), by which rows about their mean become components.
    """
    about_mean = codes.to("cpu", torch.float64) @ combination.T
    return about_mean - about_mean.mean(-1, keepdim=True) + 1 / len(combination)


def combined(coefficients: Tensor, rows: Tensor, origin: Tensor | None = None) -> Tensor:
    """Combinations (n, c) of rows (N, c) by coefficients (n, N), in their precision, about an origin (c,) if any."""
    weights = coefficients @ rows.to(coefficients.dtype)
    return weights if origin is None else weights.add_(origin)


def _parts_of(rows: Tensor, columns: slice, precision: torch.dtype, beside: int = 0) -> Iterator[tuple[slice, Tensor]]:
    """These columns of rows (N, c), a few at a time: which, and a copy of them (N, few) that the next one overwrites.

    So few that they, and as many of ``beside`` further rows, take the bytes named above.
    """
    at_once = IN_CACHE if rows.device.type == "cpu" else ON_A_GPU
    step = max(1, at_once // (8 * max(len(rows) + beside, 1)))
    room = rows.new_empty(len(rows) * step, dtype=precision)
    for start in range(columns.start, columns.stop, step):
        few = slice(start, min(start + step, columns.stop))
        width = few.stop - few.start
        yield few, room[: len(rows) * width].view(len(rows), width).copy_(rows[:, few])


def _on_all_cores(function: Callable[[slice], Result], rows: Tensor) -> list[Result]:
    """What a function makes of ranges of columns of rows (N, c), in order: one range for each thread of PyTorch."""
    width = rows.shape[1]
    threads = torch.get_num_threads()
    if rows.device.type != "cpu" or threads == 1 or rows.numel() < WORTH_A_THREAD:
        return [function(slice(0, width))]
    step = -(-width // threads)
    ranges = [slice(start, min(start + step, width)) for start in range(0, width, step)]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, ranges))
    finally:
        torch.set_num_threads(threads)  # new threads of this process begin with what was set last


def _widest(rows: Tensor) -> torch.dtype:
    """The precision of sums: float64, but on Apple's GPUs, which do not have it."""
    return torch.float32 if rows.device.type == "mps" else torch.float64
