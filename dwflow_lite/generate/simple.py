"""Trivial generators: what anybody could do with a zoo, no training needed. None of them changes the zoo."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dwflow_lite.compress import DualPCA
from dwflow_lite.flow import ClosedFormField, GaussianSource, integrate
from dwflow_lite.symmetry import interpolate
from dwflow_lite.zoo.zoo import Zoo

Generator = Callable[[Zoo, int, int], Zoo]


def retrieval(zoo: Zoo, n: int, seed: int) -> Zoo:
    """Random fitted members, handed back as they are: perfect in every score that does not ask for novelty."""
    generator, weights = torch.Generator().manual_seed(seed), zoo.fitted.weights
    return _made(zoo, weights[torch.randint(len(weights), (n,), generator=generator)], "retrieval")


def member_noise(zoo: Zoo, n: int, seed: int, level: float = 0.1) -> Zoo:
    """Random fitted members plus Gaussian noise of ``level`` times each tensor's own standard deviation."""
    generator, weights = torch.Generator().manual_seed(seed), zoo.fitted.weights
    copies = weights[torch.randint(len(weights), (n,), generator=generator)]
    noise = torch.randn(copies.shape, generator=generator).to(weights)
    for columns in zoo.layout.slices.values():
        noise[:, columns] *= level * weights[:, columns].std()
    return _made(zoo, copies + noise, f"zoo + {level:g} noise")


def gaussian_weights(zoo: Zoo, n: int, seed: int) -> Zoo:
    """Gaussian noise with the mean and standard deviation of every single weight over the fitted members."""
    weights = zoo.fitted.weights
    _needs(weights, 2, "a Gaussian")
    noise = torch.randn(n, zoo.layout.size, generator=torch.Generator().manual_seed(seed)).to(weights)
    return _made(zoo, weights.mean(0) + noise * weights.std(0), "Gaussian on weights")


def closed_form_flow(zoo: Zoo, n: int, seed: int, source: float = 0.05, steps: int = 100) -> Zoo:
    """The flow a perfect learner would find in the codes (:class:`ClosedFormField`): it can only return members."""
    pca = DualPCA()
    codes = pca.fit_transform(zoo.fitted.weights)
    scale = float(codes.square().mean().sqrt())
    start = GaussianSource(codes.shape[1], source).sample(n, torch.Generator().manual_seed(seed)).to(codes)
    end = integrate(ClosedFormField(codes / scale, source), start, steps=steps, solver="euler", keep=False).end
    return _made(zoo, pca.inverse_transform(end * scale), "closed-form flow")


def gaussian_codes(zoo: Zoo, n: int, seed: int, components: int | float | None = None) -> Zoo:
    """Gaussian noise in the PCA codes of the fitted members, with each code's own standard deviation."""
    pca = DualPCA(components)
    codes = pca.fit_transform(zoo.fitted.weights)
    noise = torch.randn(n, codes.shape[1], generator=torch.Generator().manual_seed(seed))
    return _made(zoo, pca.inverse_transform(noise * codes.std(0)), "Gaussian on codes")


def pair_interpolation(zoo: Zoo, n: int, seed: int) -> Zoo:
    """Points on the lines between random pairs of fitted members, at t uniform in [0, 1]."""
    generator, weights = torch.Generator().manual_seed(seed), zoo.fitted.weights
    _needs(weights, 2, "pair interpolation")
    pairs = torch.stack([torch.randperm(len(weights), generator=generator)[:2] for _ in range(n)])
    t = torch.rand(n, 1, generator=generator)
    points = interpolate(weights[pairs[:, 0]], weights[pairs[:, 1]], t.to(weights))
    return _made(zoo, points.squeeze(1), "pair interpolation")


def soup(zoo: Zoo, n: int, seed: int, size: int = 10) -> Zoo:
    """Averages of ``size`` random fitted members (all of them where there are fewer)."""
    generator, weights = torch.Generator().manual_seed(seed), zoo.fitted.weights
    _needs(weights, 2, "a soup")
    rows = torch.stack([torch.randperm(len(weights), generator=generator)[:size] for _ in range(n)])
    return _made(zoo, weights[rows].mean(1), f"soup of {min(size, len(weights))}")


def fresh_start(zoo: Zoo, n: int, seed: int) -> Zoo:
    """Noise of each tensor's own mean and standard deviation: no network at all, the floor."""
    weights, generator = zoo.fitted.weights, torch.Generator().manual_seed(seed)
    noise = torch.randn(n, zoo.layout.size, generator=generator)
    for columns in zoo.layout.slices.values():
        noise[:, columns] = weights[:, columns].mean() + noise[:, columns] * weights[:, columns].std()
    return _made(zoo, noise, "random weights")


TRIVIAL: dict[str, Generator] = {
    "retrieval": retrieval,
    "closed-form flow": closed_form_flow,
    "zoo + noise": member_noise,
    "pair interpolation": pair_interpolation,
    "soup of 10": soup,
    "Gaussian on codes": gaussian_codes,
    "Gaussian on weights": gaussian_weights,
    "random weights": fresh_start,
}


NOISE_LADDER: dict[str, Generator] = {
    f"zoo + {level:g} noise": partial(member_noise, level=level) for level in (0.03, 0.1, 0.2, 0.4, 0.8)
}


def _needs(weights: Tensor, members: int, what: str) -> None:
    if len(weights) < members:
        raise ValueError(f"{what} needs at least {members} fitted members, got {len(weights)}")


def _made(zoo: Zoo, weights: Tensor, name: str) -> Zoo:
    record = {k: zoo.record[k] for k in ("architecture", "task") if k in zoo.record}
    return Zoo(weights, zoo.layout, zoo.network, record | {"generated": {"by": name}})
