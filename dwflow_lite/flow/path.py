"""Where a flow starts, the path to where it ends, and who is paired with whom (arXiv 2210.02747; 2302.00482)."""

from __future__ import annotations

from math import ceil
from typing import Protocol

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class Source(Protocol):
    """A distribution of starting points."""

    def sample(self, n: int, generator: torch.Generator, *, training: bool = False) -> Tensor:
        """``n`` points (n, k); ``training`` tells the draws a flow is fitted on from those it generates from."""
        ...


class GaussianSource:
    """Gaussian noise with a given mean and scale; every draw is fresh.

    Args:
        dim: k.
        scale: standard deviation: a number, one for each coordinate (k,), or a factor L (k, k) of the covariance LLᵀ.
        mean: (k,); zero by default.
    """

    def __init__(self, dim: int, scale: float | Tensor = 1.0, mean: Tensor | None = None) -> None:
        self.dim = dim
        self.scale = torch.as_tensor(scale, dtype=torch.float32)
        self.mean = torch.zeros(dim, device=self.scale.device) if mean is None else mean
        shapes = [(), (dim,), (dim, dim)]
        if tuple(self.scale.shape) not in shapes or not torch.isfinite(self.scale).all():
            raise ValueError(f"scale must be finite and of shape {shapes}, got {tuple(self.scale.shape)}")
        if self.scale.ndim < 2 and not (self.scale > 0).all():
            raise ValueError("the scale of a source must be positive")

    def sample(self, n: int, generator: torch.Generator, *, training: bool = False) -> Tensor:
        """``n`` fresh points (n, k), where scale and mean are; drawn on the CPU, so that a seed gives the same ones."""
        noise = torch.randn(n, self.dim, generator=generator).to(self.scale)  # (n, k)
        scaled = noise @ self.scale.T if self.scale.ndim == 2 else noise * self.scale
        return self.mean + scaled


class FixedSource:
    """A set of starting points drawn once and reused in training, as the paper's code does; fresh when generating."""

    def __init__(self, base: Source, size: int, generator: torch.Generator) -> None:
        self.base = base
        self.points = base.sample(size, generator)  # (size, k)

    def sample(self, n: int, generator: torch.Generator, *, training: bool = False) -> Tensor:
        """In training ``n`` of the fixed points, without repeats where there are enough; else fresh ones."""
        if not training:
            return self.base.sample(n, generator)
        passes = ceil(n / len(self.points))
        rows = torch.cat([torch.randperm(len(self.points), generator=generator) for _ in range(passes)])
        return self.points[rows[:n].to(self.points.device)]


class StraightPath:
    """The straight path x_t = (1-t) x0 + t x1 + σε, with target velocity u = x1 - x0 (arXiv 2302.00482, eq. 14).

    Args:
        noise: σ, the standard deviation of the path noise (0.001 in the paper).
    """

    def __init__(self, noise: float = 0.0) -> None:
        if not noise >= 0:
            raise ValueError(f"path noise must be >= 0, got {noise}")
        self.noise = noise

    def sample(
        self, x0: Tensor, x1: Tensor, t: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Points x_t and velocities u, both (n, k), for pairs x0, x1 (n, k) at times t (n,).

        Raises:
            ValueError: x0 and x1 of two shapes, or not one time for each pair.
        """
        if x0.shape != x1.shape or t.shape != x0.shape[:1]:
            raise ValueError(f"shapes do not fit: x0 {tuple(x0.shape)}, x1 {tuple(x1.shape)}, t {tuple(t.shape)}")
        x = torch.lerp(x0, x1, t[:, None])
        if self.noise:
            x = x + self.noise * torch.randn(x.shape, generator=generator).to(x)
        return x, x1 - x0


COUPLINGS = ("independent", "assignment")


def couple(x0: Tensor, x1: Tensor, coupling: str = "independent") -> tuple[Tensor, Tensor]:
    """Pair sources with targets, both (n, k): as they come, or by the assignment of least total squared distance.

    For batches of equal size the exact optimal transport plan is a permutation, so one linear assignment finds it.

    Raises:
        ValueError: a coupling that there is none of, or an assignment of batches of two shapes.
    """
    if coupling not in COUPLINGS:
        raise ValueError(f"no coupling {coupling!r}: choose one of {', '.join(COUPLINGS)}")
    if coupling == "independent":
        return x0, x1
    if x0.shape != x1.shape:
        raise ValueError(f"assignment coupling pairs batches of one size, got {tuple(x0.shape)} and {tuple(x1.shape)}")
    cost = torch.cdist(x0.cpu().double(), x1.cpu().double()).square()  # (n, n)
    _, partners = linear_sum_assignment(cost.numpy())
    return x0, x1[torch.from_numpy(partners).to(x1.device)]
