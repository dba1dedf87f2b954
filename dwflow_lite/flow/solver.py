"""Follow a velocity field from t = 0 to t = 1: four Runge-Kutta schemes, counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dwflow_lite.support.checks import is_choice, is_whole
from dwflow_lite.support.devices import out_of_memory_as

Field = Callable[[Tensor, Tensor], Tensor]


def euler(field: Field, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """One field call a step, error O(h)."""
    return x + h * field(x, t)


def midpoint(field: Field, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """Two calls, error O(h²): look half a step ahead."""
    return x + h * field(x + h / 2 * field(x, t), t + h / 2)


def heun(field: Field, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """Two calls, error O(h²): average the slopes at both ends."""
    first = field(x, t)
    return x + h / 2 * (first + field(x + h * first, t + h))


def rk4(field: Field, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """Four calls, error O(h⁴): the classical scheme, the paper's choice."""
    k1 = field(x, t)
    k2 = field(x + h / 2 * k1, t + h / 2)
    k3 = field(x + h / 2 * k2, t + h / 2)
    k4 = field(x + h * k3, t + h)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


SOLVERS = {"euler": euler, "midpoint": midpoint, "heun": heun, "rk4": rk4}


@dataclass(frozen=True)
class Trajectory:
    """A flow followed: ``times`` (T,), ``points`` (T, n, k) — only the last where not kept — and field ``calls``."""

    times: Tensor
    points: Tensor
    calls: int

    @property
    def end(self) -> Tensor:
        """Where the points arrive, (n, k)."""
        return self.points[-1]


@torch.no_grad()
@out_of_memory_as("no memory for so many points: pass fewer x0 at a time, or keep=False")
def integrate(field: Field, x0: Tensor, *, steps: int = 20, solver: str = "heun", keep: bool = True) -> Trajectory:
    """Carry points x0 (n, k) along ``field`` from t = 0 to 1 in equal steps.

    Args:
        field: v(x, t) for x (n, k) and a single time t.
        x0: starting points; not changed.
        steps: number of steps.
        solver: ``euler``, ``midpoint``, ``heun`` or ``rk4``.
        keep: keep every intermediate point.

    Returns:
        Times, points and the number of field calls.

    Raises:
        ValueError: an unknown solver, steps < 1.
        FloatingPointError: the points left the finite numbers.
        MemoryError: too many points, or steps that are kept.

    Example:
        Along v(x, t) = x a point grows from 1 to e = 2.71828…; two Heun steps come close:

        >>> growth = integrate(lambda x, t: x, torch.ones(1, 1), steps=2, solver="heun")
        >>> growth.end.item(), growth.calls
        (2.640625, 4)
        >>> integrate(lambda x, t: x, torch.ones(1, 1), steps=2, solver="euler").end.item()
        2.25
    """
    if not is_choice(solver, SOLVERS):
        raise ValueError(f"no solver {solver!r}: choose one of {', '.join(SOLVERS)}")
    if not is_whole(steps, 1):
        raise ValueError(f"steps must be a whole number >= 1, got {steps!r}")
    calls = 0

    def counted(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return field(x, t)

    was_training = getattr(field, "training", False)
    if was_training:
        field.eval()
    times = torch.linspace(0, 1, steps + 1, dtype=x0.dtype, device=x0.device)  # (T,)
    x = x0  # (n, k)
    points = [x0]
    step = SOLVERS[solver]
    try:
        for t, next_t in zip(times[:-1], times[1:], strict=True):
            x = step(counted, x, t, next_t - t)
            points = [*points, x] if keep else [x]
    finally:
        if was_training:
            field.train()
    _check_finite(x, solver, steps)
    return Trajectory(times if keep else times[-1:], torch.stack(points), calls)


def _check_finite(x: Tensor, solver: str, steps: int) -> None:
    """``FloatingPointError`` where points (n, k) have arrived nowhere; asked once, as a GPU lets one wait for it."""
    if not torch.isfinite(x).all():
        raise FloatingPointError(
            f"the flow diverged: {solver} with {steps} steps left the finite numbers; take more steps"
        )
