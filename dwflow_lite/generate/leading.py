"""A flow on the leading codes of a zoo, the others drawn: it need not learn what looks like noise.

A flow on all N-1 codes of N members sees each code of each member once, and learns the members by heart. On the few
codes along which a zoo has a shape (two clusters, a curve), N points are many; what is left is drawn from a Gaussian,
of all members or of those that lie near in the leading codes.
"""

from __future__ import annotations

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from dwflow_lite.compress import root_mean_square
from dwflow_lite.flow.field import make_field
from dwflow_lite.flow.path import GaussianSource
from dwflow_lite.flow.settings import FlowSettings, require_settings
from dwflow_lite.flow.solver import integrate
from dwflow_lite.flow.train import train_flow
from dwflow_lite.generate.generator import FIT_FEWER, SAMPLE_FEWER
from dwflow_lite.generate.simple import as_zoo, check_factor, compressed, measured, start
from dwflow_lite.support.checks import is_whole, whole_seed
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.zoo.zoo import Zoo

SETTINGS = FlowSettings(hidden=64, dropout=0.0)  # of a flow between points of few coordinates


class LeadingFlow(BaseEstimator):
    """A flow from Gaussian noise to the first codes of the PCA; each of the others is drawn with its own deviation.

    With no flow at all (``components=0``) it is :class:`GaussianCodes`.

    Args:
        components: how many codes the flow learns, those of the largest variance first.
        flow: ``FlowSettings``; None: a narrow field, without dropout.
        factor: by which the codes that are drawn are spread wider (above 1) or narrower than the members' are.
        neighbours: how many members, the nearest in the leading codes, have their mean and covariance in the codes that
            are drawn; None: all, each code by itself.
        seed: of the field and its training.

    Example:
        >>> from dwflow_lite import MLP, Zoo
        >>> zoo = Zoo.from_modules([MLP([2, 4, 1]) for _ in range(6)])
        >>> model = LeadingFlow(1, flow=FlowSettings(hidden=8, steps=10)).fit(zoo)
        >>> len(model.sample(3, seed=0)), len(model.std_)
        (3, 4)
    """

    def __init__(
        self,
        components: int = 2,
        flow: FlowSettings | None = None,
        factor: float = 1.0,
        neighbours: int | None = None,
        seed: int = 0,
    ) -> None:
        self.components = components
        self.flow = flow
        self.factor = factor
        self.neighbours = neighbours
        self.seed = seed

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoo: Zoo) -> LeadingFlow:
        """Compress the fitted members, learn the leading codes, and measure the others.

        Raises:
            ValueError: more components than the PCA has, or another setting that makes no sense.
            TypeError: ``flow`` that is no ``FlowSettings``, or a zoo that is none.
        """
        flow = SETTINGS if self.flow is None else self.flow
        require_settings(flow)
        if flow.patience is not None or flow.keep == "best":
            raise ValueError(
                "a LeadingFlow watches no held-out members: patience=None and keep='last' are its settings"
            )
        check_factor(self.factor)
        if self.neighbours is not None and not is_whole(self.neighbours, 2):
            raise ValueError(f"neighbours must be None or a whole number >= 2, got {self.neighbours!r}")
        seed = whole_seed(self.seed)
        members, pca, codes = compressed(zoo)
        k = codes.shape[1]
        if not is_whole(self.components, 0) or self.components > k:
            raise ValueError(
                f"components must be a whole number from 0 to {k}, all of this zoo, got {self.components!r}"
            )
        leading, rest = codes[:, : self.components].float(), codes[:, self.components :]  # (N, components), (N, others)
        has_others = rest.shape[1] > 0  # few members have few codes, and the flow may have taken all
        std = measured(lambda c: c.std(0), rest) if has_others else rest.new_zeros(0)  # (others,)
        scale = source = field = None
        if self.components > 0:
            scale = root_mean_square(leading)
            points = leading / scale
            source = GaussianSource(int(self.components), points.std(0))
            field = make_field(points.shape[1], flow, seed).to(points.device)
            train_flow(field, points, source, flow, seed=seed)
        neighbours = None if self.neighbours is None else min(int(self.neighbours), len(codes))
        self.members_, self.pca_ = members, pca
        self.scale_, self.source_, self.field_ = scale, source, field
        self.leading_, self.rest_, self.std_ = leading, rest, std
        self.factor_ = float(self.factor)
        self.neighbours_ = neighbours
        self.flow_ = flow
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` networks: leading codes that the flow has carried, and others that are drawn."""
        generator = start(self, n, seed)
        x1 = self._leading(n, generator)  # (n, components)
        others = self._others(x1, generator)  # (n, others)
        weights = self.pca_.inverse_transform(torch.cat([x1.to(others), others], 1))  # (n, d)
        return as_zoo(weights, self.members_, "flow on leading codes")

    def _leading(self, n: int, generator: torch.Generator) -> Tensor:
        """Leading codes (n, components), where the flow takes noise."""
        if self.field_ is None:
            return self.leading_.new_empty(n, 0)
        x0 = self.source_.sample(n, generator).to(self.field_.head.weight)  # (n, components)
        x1 = integrate(self.field_, x0, steps=self.flow_.solver_steps, solver=self.flow_.solver, keep=False).end
        return x1 * self.scale_

    def _others(self, x1: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the codes (n, others) that go with leading codes (n, components)."""
        if self.neighbours_ is None:
            noise = torch.randn(len(x1), len(self.std_), generator=generator).to(self.std_)
            return self.factor_ * noise * self.std_
        m = self.neighbours_
        nearest = torch.cdist(x1, self.leading_).topk(m, largest=False).indices  # (n, m)
        theirs = self.rest_[nearest]  # (n, m, others)
        mean = theirs.mean(1)  # (n, others)
        # Noise with the covariance of m points: their differences to the mean, each times a number of its own.
        shares = torch.randn(len(x1), m, generator=generator).to(theirs) / (m - 1) ** 0.5  # (n, m)
        return mean + self.factor_ * torch.einsum("nm,nmo->no", shares, theirs - mean[:, None])
