"""Velocity fields: the paper's network, and the closed form of a finite set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dwflow_lite.flow.settings import FlowSettings
from dwflow_lite.flow.solver import Field
from dwflow_lite.support.checks import is_whole
from dwflow_lite.support.devices import seeded


class Dropout(nn.Module):
    """In training, set each number to zero with probability p, and scale the others so that the mean stays.

    ``nn.Dropout`` draws from the generators of the process, which all its threads share, and on a GPU other masks than
    on the CPU. This one draws on the CPU, from a generator that :func:`dropout_from` gives it.

    Args:
        p: in [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None  # None: that of the process

    def forward(self, x: Tensor) -> Tensor:
        """``x``, in training with gaps."""
        if not self.training or self.p == 0:
            return x
        kept = torch.rand(x.shape, generator=self.generator) >= self.p
        return x * kept.to(x).div_(1 - self.p)

    def extra_repr(self) -> str:
        """What a field's ``repr`` says of it."""
        return f"p={self.p}"


class VelocityField(nn.Module):
    """The paper's field v(x, t) (arXiv 2601.05052, sec. 1.3 of its code): an MLP on [x ; time embedding].

    Linear(→h) LayerNorm GELU Dropout, Linear(→h/2) LayerNorm GELU Dropout, Linear(→h) LayerNorm GELU, Linear(→k);
    the last layer starts at zero, so that an untrained flow moves nothing.

    Args:
        dim: k.
        hidden: width h. Defaults are those of ``FlowSettings``.
        time_dim: width of the time embedding Linear-GELU-Linear.
        dropout: in training only.
    """

    conditions = 0  # numbers that it is told beside x and t: see ConditionalField

    def __init__(
        self,
        dim: int,
        hidden: int = FlowSettings.hidden,
        time_dim: int = FlowSettings.time_dim,
        dropout: float = FlowSettings.dropout,
    ) -> None:
        super().__init__()
        if not (is_whole(dim, 1) and is_whole(time_dim, 1) and is_whole(hidden, 2)):
            sizes = f"{dim!r}, {time_dim!r}, {hidden!r}"
            raise ValueError(f"dim and time_dim must be whole numbers >= 1 and hidden one >= 2, got {sizes}")
        self.dim = dim
        self.time = nn.Sequential(nn.Linear(1, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim))
        self.body = nn.Sequential(
            nn.Linear(dim + time_dim, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(hidden, hidden // 2),
            nn.LayerNorm(hidden // 2),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(hidden // 2, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
        )
        self.head = nn.Linear(hidden, dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocities (n, k) at points x (n, k) and times t (n,) or a single time."""
        embedded = self.time(t.expand(len(x))[:, None])  # (n, time_dim)
        return self.head(self.body(torch.cat([x, embedded], -1)))  # (n, k)


def make_field(dim: int, settings: FlowSettings, seed: int) -> VelocityField:
    """A new field on k = ``dim`` coordinates; its weights are drawn from ``seed``, and nobody else's draws change."""
    with seeded(torch.device("cpu"), seed):
        return VelocityField(dim, settings.hidden, settings.time_dim, settings.dropout)


@contextmanager
def dropout_from(field: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """In here the dropout of a field draws from ``generator``."""
    layers = [layer for layer in field.modules() if isinstance(layer, Dropout)]
    for layer in layers:
        layer.generator = generator
    try:
        yield
    finally:
        for layer in layers:
            layer.generator = None


class ClosedFormField:
    """The exact minimiser of the flow-matching loss for a finite set of targets and a centred Gaussian source.

    v(x, t) = Σᵢ wᵢ(x, t) uᵢ(x, t), where wᵢ is the posterior probability that the path through x ends in target i,
    and uᵢ its velocity (arXiv 2506.03719, eq. 6; with path noise σ, the posterior mean of x0 shrinks accordingly).
    Followed to t = 1 it can only return the targets: a flow that fits its zoo perfectly has memorised it.

    Args:
        targets: (N, k).
        scale: standard deviation of the source.
        noise: σ of the path.
    """

    def __init__(self, targets: Tensor, scale: float = 1.0, noise: float = 0.0) -> None:
        if targets.ndim != 2 or not scale > 0 or not noise >= 0:
            raise ValueError("targets must be (N, k), scale > 0 and noise >= 0")
        self.targets = targets
        self.scale = scale
        self.noise = noise

    def weights(self, x: Tensor, t: Tensor) -> Tensor:
        """Posterior (n, N) over targets of points x (n, k) at times t (n,) or a single time."""
        t = t.expand(len(x))[:, None]  # (n, 1)
        variance = ((1 - t) * self.scale) ** 2 + self.noise**2  # (n, 1)
        distance = (x[:, None] - t[..., None] * self.targets).square().sum(-1)  # (n, N), squared
        return torch.softmax(-distance / (2 * variance.clamp_min(1e-12)), -1)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocities (n, k)."""
        column = t.expand(len(x))[:, None]  # (n, 1)
        variance = (((1 - column) * self.scale) ** 2 + self.noise**2).clamp_min(1e-12)  # (n, 1)
        target = self.weights(x, t) @ self.targets  # (n, k), the expected end
        # E[x1 - x0 | x_t = x]: x0 is the part (1-t) s² / variance of the residual x - t x1.
        return target - (1 - column) * self.scale**2 / variance * (x - column * target)


def grid_velocities(field: Field, t: float, low: float, high: float, n: int = 15) -> tuple[Tensor, Tensor]:
    """Points of an n x n grid over a square and the velocities of a two-dimensional field there, both (n², 2)."""
    axis = torch.linspace(low, high, n)
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        return points, field(points, torch.tensor(t))
