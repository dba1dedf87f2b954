"""A flow on the leading codes of a zoo, the others drawn: it need not learn what looks like noise.

A flow on all N-1 codes of N members sees each code of each member once, and learns the members by heart. On the few
codes along which a zoo has a shape (two clusters, a curve), N points are many; what is left is drawn from a Gaussian.
"""

from __future__ import annotations

import torch
from sklearn.base import BaseEstimator

from dwflow_lite.compress import DualPCA, root_mean_square
from dwflow_lite.flow.field import make_field
from dwflow_lite.flow.path import GaussianSource
from dwflow_lite.flow.settings import FlowSettings, require_settings
from dwflow_lite.flow.solver import integrate
from dwflow_lite.flow.train import train_flow
from dwflow_lite.generate.generator import FIT_FEWER, SAMPLE_FEWER, require_zoo
from dwflow_lite.generate.simple import as_zoo, computable, measured, start
from dwflow_lite.support.checks import is_number, is_whole, whole_seed
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
        seed: of the field and its training.

    Example:
        >>> from dwflow_lite import MLP, Zoo
        >>> zoo = Zoo.from_modules([MLP([2, 4, 1]) for _ in range(6)])
        >>> model = LeadingFlow(1, flow=FlowSettings(hidden=8, steps=10)).fit(zoo)
        >>> len(model.sample(3, seed=0)), len(model.std_)
        (3, 4)
    """

    def __init__(
        self, components: int = 2, flow: FlowSettings | None = None, factor: float = 1.0, seed: int = 0
    ) -> None:
        self.components = components
        self.flow = flow
        self.factor = factor
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
        if not is_number(self.factor, 0):
            raise ValueError(f"factor must be a number >= 0, got {self.factor!r}")
        require_zoo(zoo)
        members = computable(zoo.fitted)
        pca = DualPCA(copy=False)
        codes = pca.fit_transform(members.weights)  # (N, k)
        k = codes.shape[1]
        if not is_whole(self.components, 0) or self.components > k:
            raise ValueError(
                f"components must be a whole number from 0 to {k}, all of this zoo, got {self.components!r}"
            )
        leading = codes[:, : self.components].float()  # (N, components)
        self.scale_ = root_mean_square(leading) if self.components > 0 else 1.0
        self.source_ = self.field_ = None
        if self.components > 0:
            points = leading / self.scale_
            self.source_ = GaussianSource(int(self.components), points.std(0))
            self.field_ = make_field(points.shape[1], flow, whole_seed(self.seed)).to(points.device)
            train_flow(self.field_, points, self.source_, flow, seed=whole_seed(self.seed))
        self.members_ = members
        self.pca_ = pca
        self.std_ = float(self.factor) * measured(lambda c: c.std(0), codes[:, self.components :])  # (k - components,)
        self.flow_ = flow
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` networks: leading codes that the flow has carried, and others that are drawn."""
        generator = start(self, n, seed)
        codes = torch.randn(n, len(self.std_), generator=generator).to(self.std_) * self.std_
        if self.field_ is not None:
            x0 = self.source_.sample(n, generator).to(self.field_.head.weight)  # (n, components)
            x1 = integrate(self.field_, x0, steps=self.flow_.solver_steps, solver=self.flow_.solver, keep=False).end
            codes = torch.cat([(x1 * self.scale_).to(codes), codes], 1)  # (n, k)
        weights = self.pca_.inverse_transform(codes)  # (n, d)
        return as_zoo(weights, self.members_, "flow on leading codes")
