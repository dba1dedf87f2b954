"""Simple generators: what anybody could do with a zoo, no training needed. A flow has to beat them.

All are estimators: ``fit(zoo)`` remembers the fitted members, or measures them, and ``sample(n, seed=…)`` draws. What
is fitted is set last and together, so that a fit that fails leaves the estimator as it was.
Networks come in the precision of the zoo; of one in half precision or whole numbers, in float32. Where memory runs out,
a ``MemoryError`` says what to lower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from dwflow_lite.compress import PRECISIONS, DualPCA, root_mean_square
from dwflow_lite.flow.field import ClosedFormField
from dwflow_lite.flow.path import GaussianSource
from dwflow_lite.flow.solver import integrate
from dwflow_lite.generate.generator import (
    FIT_FEWER,
    SAMPLE_FEWER,
    Generator,
    check_number_of_networks,
    require_zoo,
)
from dwflow_lite.support.checks import is_number, is_whole
from dwflow_lite.support.devices import generator_from, out_of_memory_as
from dwflow_lite.symmetry.barrier import interpolate
from dwflow_lite.symmetry.basis import basis_of, says_nothing
from dwflow_lite.zoo.storage import Shards
from dwflow_lite.zoo.zoo import Zoo


class Retrieval(BaseEstimator):
    """Random fitted members, handed back as they are: perfect in every score that does not ask for novelty.

    Example:
        >>> from dwflow_lite import MLP, Zoo
        >>> zoo = Zoo.from_modules([MLP([2, 3, 1]), MLP([2, 3, 1])])
        >>> retrieved = Retrieval().fit(zoo).sample(5, seed=0)
        >>> len(retrieved), bool((retrieved.weights[0] == zoo.weights).all(1).any())
        (5, True)
    """

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoo: Zoo) -> Retrieval:
        """Remember the fitted members."""
        self.members_ = fitted_members(self, zoo)
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` members, drawn with repeats."""
        generator = start(self, n, seed)
        weights = self.members_.weights  # (N, d)
        rows = torch.randint(len(weights), (n,), generator=generator)
        return as_zoo(weights[rows], self.members_, "retrieval")


class ClosedFormFlow(BaseEstimator):
    """The flow a perfect learner would find in the codes (:class:`ClosedFormField`): it can only return members.

    Args:
        source: standard deviation of the noise, in units of the codes' root mean square.
        steps: of Euler's method.
    """

    def __init__(self, source: float = 0.05, steps: int = 100) -> None:
        self.source = source
        self.steps = steps

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoo: Zoo) -> ClosedFormFlow:
        """Compress the fitted members; their codes are all that the field needs.

        Raises:
            ValueError: a source that is no number > 0, steps that are no whole number >= 1, or too few members.
        """
        if not is_number(self.source, 0) or self.source == 0:
            raise ValueError(f"source must be a number > 0, got {self.source!r}")
        if not is_whole(self.steps, 1):
            raise ValueError(f"steps must be a whole number >= 1, got {self.steps!r}")
        members, pca, codes = compressed(zoo)
        scale = root_mean_square(codes)
        codes = codes / scale  # (N, k)
        self.members_ = members
        self.source_ = float(self.source)
        self.steps_ = int(self.steps)
        self.pca_, self.scale_, self.codes_ = pca, scale, codes
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` points of the source, carried along the field and decoded."""
        generator = start(self, n, seed)
        source = GaussianSource(self.codes_.shape[1], self.source_)
        field = ClosedFormField(self.codes_, self.source_)
        x0 = source.sample(n, generator).to(self.codes_)  # (n, k)
        x1 = integrate(field, x0, steps=self.steps_, solver="euler", keep=False).end  # (n, k)
        weights = self.pca_.inverse_transform(x1 * self.scale_)  # (n, d)
        return as_zoo(weights, self.members_, "closed-form flow")


class MemberNoise(BaseEstimator):
    """Random fitted members plus Gaussian noise.

    Args:
        level: of the noise, in units of each tensor's own standard deviation.
    """

    def __init__(self, level: float = 0.1) -> None:
        self.level = level

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoo: Zoo) -> MemberNoise:
        """Remember the fitted members.

        Raises:
            ValueError: a level that is no number >= 0, or a zoo on disk.
        """
        if not is_number(self.level, 0):
            raise ValueError(f"level must be a number >= 0, got {self.level!r}")
        self.members_ = fitted_members(self, zoo)
        self.level_ = float(self.level)
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` noisy copies of members."""
        generator = start(self, n, seed)
        weights = self.members_.weights  # (N, d)
        rows = torch.randint(len(weights), (n,), generator=generator)
        noise = torch.randn(n, weights.shape[1], generator=generator).to(weights)  # (n, d)
        for columns in self.members_.layout.slices.values():
            noise[:, columns] *= self.level_ * spread(weights[:, columns])
        return as_zoo(weights[rows] + noise, self.members_, f"zoo + {self.level_:g} noise")


class PairInterpolation(BaseEstimator):
    """Points on the lines between random pairs of fitted members, at t uniform in [0, 1]."""

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoo: Zoo) -> PairInterpolation:
        """Remember the fitted members, at least two."""
        self.members_ = fitted_members(self, zoo, at_least=2)
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` points on lines."""
        generator = start(self, n, seed)
        weights = self.members_.weights  # (N, d)
        pairs = different_rows(len(weights), 2, n, generator)  # (n, 2)
        t = torch.rand(n, 1, generator=generator).to(weights)
        points = interpolate(weights[pairs[:, 0]], weights[pairs[:, 1]], t)  # (n, 1, d)
        return as_zoo(points.squeeze(1), self.members_, "pair interpolation")


class Soup(BaseEstimator):
    """Averages of random fitted members.

    Args:
        size: how many different members are averaged; all where there are fewer.
    """

    def __init__(self, size: int = 10) -> None:
        self.size = size

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoo: Zoo) -> Soup:
        """Remember the fitted members, at least two.

        Raises:
            ValueError: a size that is no whole number >= 1, fewer than two members, or a zoo on disk.
        """
        if not is_whole(self.size, 1):
            raise ValueError(f"size must be a whole number >= 1, got {self.size!r}")
        members = fitted_members(self, zoo, at_least=2)
        size = min(int(self.size), len(members))
        self.members_, self.size_ = members, size
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` soups."""
        generator = start(self, n, seed)
        weights = self.members_.weights  # (N, d)
        rows = different_rows(len(weights), self.size_, n, generator)  # (n, size)
        soups = measured(lambda members: members.mean(1), weights[rows])  # (n, size, d) -> (n, d)
        return as_zoo(soups, self.members_, f"soup of {self.size_}")


class GaussianCodes(BaseEstimator):
    """Gaussian noise in the PCA codes of the fitted members, with each code's own standard deviation.

    Args:
        components: of the PCA, as in :class:`DualPCA`.
        factor: by which the noise is made wider (above 1) or narrower than the codes are.
    """

    def __init__(self, components: int | float | None = None, factor: float = 1.0) -> None:
        self.components = components
        self.factor = factor

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoo: Zoo) -> GaussianCodes:
        """Compress the fitted members, and measure their codes.

        Raises:
            ValueError: a factor that is no number >= 0, or components that the PCA cannot have.
        """
        check_factor(self.factor)
        members, pca, codes = compressed(zoo, self.components)
        std = float(self.factor) * measured(lambda c: c.std(0), codes)  # (k,)
        self.members_, self.pca_, self.std_ = members, pca, std
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` random codes, decoded."""
        generator = start(self, n, seed)
        noise = torch.randn(n, len(self.std_), generator=generator).to(self.std_)  # (n, k)
        weights = self.pca_.inverse_transform(noise * self.std_)  # (n, d)
        return as_zoo(weights, self.members_, "Gaussian on codes")


class GaussianWeights(BaseEstimator):
    """Gaussian noise with the mean and standard deviation of every single weight over the fitted members.

    Args:
        factor: by which the noise is made wider (above 1) or narrower than the weights are.
    """

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoo: Zoo) -> GaussianWeights:
        """Measure every weight over the fitted members, at least two.

        Raises:
            ValueError: a factor that is no number >= 0, fewer than two members, or a zoo on disk.
        """
        check_factor(self.factor)
        members = fitted_members(self, zoo, at_least=2)
        mean = measured(lambda weights: weights.mean(0), members.weights)  # (d,)
        std = float(self.factor) * measured(lambda weights: weights.std(0), members.weights)  # (d,)
        self.members_, self.mean_, self.std_ = members, mean, std
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` random weight vectors."""
        generator = start(self, n, seed)
        noise = torch.randn(n, len(self.mean_), generator=generator).to(self.mean_)  # (n, d)
        return as_zoo(self.mean_ + noise * self.std_, self.members_, "Gaussian on weights")


class RandomWeights(BaseEstimator):
    """Noise of each tensor's own mean and standard deviation: no network at all, the floor."""

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoo: Zoo) -> RandomWeights:
        """Remember the fitted members."""
        self.members_ = fitted_members(self, zoo)
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` random weight vectors."""
        generator = start(self, n, seed)
        weights = self.members_.weights  # (N, d)
        noise = torch.randn(n, weights.shape[1], generator=generator).to(weights)  # (n, d)
        for columns in self.members_.layout.slices.values():
            tensor = weights[:, columns]
            noise[:, columns] = measured(torch.mean, tensor) + noise[:, columns] * spread(tensor)
        return as_zoo(noise, self.members_, "random weights")


# Name -> an unfitted generator. ``sklearn.base.clone`` gives one's own, so that these stay unfitted.
TRIVIAL: dict[str, Generator] = {
    "retrieval": Retrieval(),
    "closed-form flow": ClosedFormFlow(),
    "zoo + noise": MemberNoise(),
    "pair interpolation": PairInterpolation(),
    "soup of 10": Soup(),
    "Gaussian on codes": GaussianCodes(),
    "Gaussian on weights": GaussianWeights(),
    "random weights": RandomWeights(),
}

NOISE_LADDER: dict[str, Generator] = {
    f"zoo + {level:g} noise": MemberNoise(level) for level in (0.03, 0.1, 0.2, 0.4, 0.8)
}


def simple_generators(members: int) -> dict[str, Generator]:
    """Those of :data:`TRIVIAL`, for a zoo of so many fitted members: a soup is named by how many it has.

    Example:
        >>> list(simple_generators(6))[4:6], list(simple_generators(20)) == list(TRIVIAL)
        (['soup of 6', 'Gaussian on codes'], True)
    """
    generators = {}
    for name, generator in TRIVIAL.items():
        if isinstance(generator, Soup):
            name = f"soup of {min(generator.size, members)}"
        generators[name] = generator
    return generators


# -- what they share ---------------------------------------------------------------------------------------------


def fitted_members(generator: Generator, zoo: Zoo, at_least: int = 1) -> Zoo:
    """The members of a zoo that a generator may see, in memory; ``ValueError`` where there are too few."""
    require_zoo(zoo)
    name = type(generator).__name__
    if isinstance(zoo.weights, Shards):
        raise ValueError(f"{zoo!r} lives on disk, and {name} draws from all of it: take zoo.in_memory()")
    members = zoo.fitted
    if len(members) < at_least:
        raise ValueError(f"{name} needs at least {at_least} fitted members, got {len(members)}")
    return computable(members)


def compressed(zoo: Zoo, components: int | float | None = None) -> tuple[Zoo, DualPCA, Tensor]:
    """The fitted members of a zoo, a PCA of them with so many components, and their codes (N, k)."""
    require_zoo(zoo)
    members = computable(zoo.fitted)
    pca = DualPCA(components, copy=False)
    return members, pca, pca.fit_transform(members.weights)


def computable(zoo: Zoo) -> Zoo:
    """A zoo in a precision that generators compute in: half precision and whole numbers become float32."""
    is_computable = isinstance(zoo.weights, Shards) or zoo.weights.dtype in PRECISIONS
    return zoo if is_computable else replace(zoo, weights=zoo.weights.float())


def check_factor(factor: object) -> None:
    """``ValueError`` unless it is a number by which a spread may be multiplied."""
    if not is_number(factor, 0):
        raise ValueError(f"factor must be a number >= 0, got {factor!r}")


def start(generator: Generator, n: int, seed: int) -> torch.Generator:
    """Before a draw: check that the generator is fitted, and seed its random numbers."""
    check_is_fitted(generator, msg="this %(name)s is not fitted yet: call fit(zoo) first")
    check_number_of_networks(n)
    return generator_from(seed)


def spread(tensor: Tensor) -> Tensor:
    """The standard deviation of all numbers of a tensor (N, size) of N members; of a single number it is zero."""
    return measured(lambda numbers: numbers.std(correction=min(1, numbers.numel() - 1)), tensor)


def measured(measure: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """A mean or a standard deviation of a tensor: in float64 where sums overflow, or squares vanish."""
    result = measure(tensor)
    is_held = result.isfinite().all() and result.any()
    return result if is_held else measure(tensor.double()).to(tensor)


def different_rows(members: int, size: int, n: int, generator: torch.Generator) -> Tensor:
    """``n`` times ``size`` different positions of members: (n, size)."""
    return torch.stack([torch.randperm(members, generator=generator)[:size] for _ in range(n)])


def as_zoo(weights: Tensor, members: Zoo, name: str) -> Zoo:
    """Networks (n, d) of the architecture of ``members``, with a record that names who made them."""
    record = {key: members.record[key] for key in ("architecture", "task") if key in members.record}
    if not says_nothing(members):  # also of a zoo as it was trained: it is in no basis of an aligned one
        record["basis"] = basis_of(members)
    return Zoo(weights, members.layout, members.network, record | {"generated": {"by": name}})
