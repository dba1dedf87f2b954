"""What every row of the benchmarks reports, and the clock that they share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

import torch

Result = TypeVar("Result")


@dataclass(frozen=True)
class Measured:
    """What one row of a benchmark found, all of it in one run.

    Attributes:
        seconds: that the package took, the median of its repeats.
        spread: the longest repeat over the shortest.
        beside: seconds of what stands beside it: "floor", "published", "one at a time", ….
        checks: numbers that say whether the result is right: differences, objectives, accuracies.
        holds: whether it is right, and which targets it reaches. At toy size only correctness is named.
    """

    seconds: float
    spread: float = 1.0
    beside: dict[str, float] = field(default_factory=dict)
    checks: dict[str, float] = field(default_factory=dict)
    holds: dict[str, bool] = field(default_factory=dict)


def finished(call: Callable[[], Result]) -> Result:
    """The result of a call, once a card has done what it was told: it works on while Python goes on."""
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def timed(call: Callable[[], Result], repeats: int = 3, warm: int = 1) -> tuple[float, float, Result]:
    """Run a call several times.

    Args:
        call: without arguments; it leaves nothing behind that makes the next one faster.
        repeats: that are measured, at least one.
        warm: runs before them, in which libraries wake up.

    Returns:
        The median in seconds, the longest over the shortest, and the last result.
    """
    for _ in range(warm):
        finished(call)
    seconds = []
    for _ in range(repeats):
        result = None  # before the next is made: two may not fit into memory
        start = time.perf_counter()
        result = finished(call)
        seconds.append(time.perf_counter() - start)
    return median(seconds), max(seconds) / max(min(seconds), 1e-9), result


def side_by_side(
    calls: Mapping[str, Callable[[], object]], repeats: int = 5, warm: int = 1
) -> dict[str, tuple[float, float]]:
    """Run several calls in turn, so that what disturbs the machine for a while disturbs all of them.

    Args:
        calls: by name, without arguments.
        repeats: rounds that are measured.
        warm: rounds before them.

    Returns:
        For each name the median in seconds, and the longest over the shortest.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm + repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            finished(call)
            if turn >= warm:
                seconds[name].append(time.perf_counter() - start)
    return {name: (median(all_), max(all_) / max(min(all_), 1e-9)) for name, all_ in seconds.items()}
