"""What a conditional flow has to beat: members with the nearest condition, and Gaussians whose mean moves with it.

And the paper's own way, a flow over codes of a PCA for each dataset. All are used as :class:`ConditionalDeepWeightFlow`
is: ``fit(zoos, numbers)``, ``sample(n, seed=…, condition=…)``, where one has to be named: these have no networks of all
conditions together. Zoos come in one basis (:func:`align_together`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from dwflow_lite.flow.conditional import check_label_dropout, guided, make_conditional_field
from dwflow_lite.flow.settings import FlowSettings
from dwflow_lite.flow.solver import integrate
from dwflow_lite.flow.train import train_flow
from dwflow_lite.generate.conditions import Asked, Conditions, Numbers, Zoos, pool_of
from dwflow_lite.generate.deepweightflow import DeepWeightFlow
from dwflow_lite.generate.generator import FIT_FEWER, SAMPLE_FEWER
from dwflow_lite.generate.simple import as_zoo, check_factor, compressed, computable, start
from dwflow_lite.generate.sources import make_source
from dwflow_lite.support.checks import is_whole
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.zoo.zoo import Zoo

OTHER_DATASET = 1e3  # how far another dataset is, in standard deviations of the numbers: farther than any of them


class ConditionalRetrieval(BaseEstimator):
    """Fitted members as they are, drawn from those whose condition is nearest to the one that is asked for.

    Args:
        neighbours: from how many, of that dataset; where members have no numbers, from all of that dataset.

    Example:
        >>> from dwflow_lite import MLP, Zoo
        >>> zoo = Zoo.from_modules([MLP([2, 3, 1]) for _ in range(3)])
        >>> model = ConditionalRetrieval(neighbours=1).fit(zoo, numbers=[0.0, 1.0, 2.0])
        >>> bool((model.sample(1, seed=0, condition=1.2).weights[0] == zoo.weights[1]).all())
        True
    """

    def __init__(self, neighbours: int = 5) -> None:
        self.neighbours = neighbours

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoos: Zoos, numbers: Numbers | None = None) -> ConditionalRetrieval:
        """Remember the fitted members and their conditions; arguments as of :meth:`ConditionalDeepWeightFlow.fit`.

        Raises:
            ValueError: neighbours that are no whole number >= 1, or what is refused there.
        """
        if not is_whole(self.neighbours, 1):
            raise ValueError(f"neighbours must be a whole number >= 1, got {self.neighbours!r}")
        pool = pool_of(zoos, numbers, same_basis=False)
        members, vectors = pool.zoo.fitted, pool.fitted()  # vectors (N, c)
        self.members_, self.conditions_, self.vectors_ = members, pool.conditions, vectors
        self.neighbours_ = int(self.neighbours)
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int, condition: Asked = None, extrapolate: bool = False) -> Zoo:
        """``n`` members, drawn with repeats; ``ValueError`` for no condition, or for one that was never seen."""
        generator = start(self, n, seed)
        vectors = self.conditions_.of_request(condition, n, generator, extrapolate)  # (n, c)
        near = nearest(self.conditions_, vectors, self.vectors_, self.neighbours_)  # (n, m)
        rows = near.gather(1, torch.randint(near.shape[1], (n, 1), generator=generator)).squeeze(1)  # (n,)
        return as_zoo(self.members_.weights[rows], self.members_, "conditional retrieval")


class ConditionalGaussian(BaseEstimator):
    """A Gaussian in the codes whose mean is linear in the condition: the trivial way to generate by condition.

    Codes z = a + B c + e are regressed on conditions c by least squares; e is drawn from a Gaussian with the covariance
    of the residuals, of all members or of those whose conditions are nearest.

    Args:
        neighbours: None: the residuals of all members. A number: of so many members of the nearest conditions, which
            then also give the mean; where members have no numbers, of all of that dataset (a Gaussian for each).
        factor: by which e is made wider (above 1) or narrower.

    Example:
        >>> from dwflow_lite import MLP, Zoo
        >>> zoo = Zoo.from_modules([MLP([2, 3, 1]) for _ in range(6)])
        >>> model = ConditionalGaussian().fit(zoo, numbers=[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
        >>> len(model.sample(4, seed=0, condition=2.5))
        4
    """

    def __init__(self, neighbours: int | None = None, factor: float = 1.0) -> None:
        self.neighbours = neighbours
        self.factor = factor

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoos: Zoos, numbers: Numbers | None = None) -> ConditionalGaussian:
        """Compress the fitted members and regress; arguments as of :meth:`ConditionalDeepWeightFlow.fit`.

        Raises:
            ValueError: neighbours that are no whole number >= 2, a factor below 0, or what is refused there.
        """
        if self.neighbours is not None and not is_whole(self.neighbours, 2):
            raise ValueError(f"neighbours must be None or a whole number >= 2, got {self.neighbours!r}")
        check_factor(self.factor)
        pool = pool_of(zoos, numbers, same_basis=True)
        members, pca, codes = compressed(pool.zoo)  # codes (N, k)
        vectors = pool.fitted()  # (N, c)
        coefficients = torch.linalg.pinv(with_one(vectors, codes)) @ codes  # (1 + c, k)
        self.members_, self.conditions_, self.vectors_ = members, pool.conditions, vectors
        self.pca_, self.codes_, self.coefficients_ = pca, codes, coefficients
        self.neighbours_ = None if self.neighbours is None else int(self.neighbours)
        self.factor_ = float(self.factor)
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int, condition: Asked = None, extrapolate: bool = False) -> Zoo:
        """``n`` random codes, decoded; ``ValueError`` for no condition, or for one that was never seen."""
        generator = start(self, n, seed)
        vectors = self.conditions_.of_request(condition, n, generator, extrapolate)  # (n, c)
        if self.neighbours_ is None:
            mean = with_one(vectors, self.codes_) @ self.coefficients_  # (n, k)
            residuals = self.codes_ - with_one(self.vectors_, self.codes_) @ self.coefficients_  # (N, k)
            freedom = len(residuals) - torch.linalg.matrix_rank(with_one(self.vectors_, self.codes_))
            shares = torch.randn(n, len(residuals), generator=generator).to(residuals) / freedom**0.5  # (n, N)
            noise = shares @ residuals  # (n, k), with the covariance of the residuals
        else:
            near = nearest(self.conditions_, vectors, self.vectors_, self.neighbours_)  # (n, m)
            theirs = self.codes_[near]  # (n, m, k)
            mean = theirs.mean(1)  # (n, k)
            shares = torch.randn(near.shape, generator=generator).to(theirs) / (near.shape[1] - 1) ** 0.5  # (n, m)
            noise = torch.einsum("nm,nmk->nk", shares, theirs - mean[:, None])
        weights = self.pca_.inverse_transform(mean + self.factor_ * noise)  # (n, d)
        return as_zoo(weights, self.members_, "conditional Gaussian")


class OwnCodesFlow(BaseEstimator):
    """The paper's way to several datasets: a PCA for each, one flow over the codes of all (arXiv 2601.05052, App. K).

    Each zoo is aligned and compressed by itself, to as many codes as the smallest allows; a flow is told of which zoo a
    code is, and networks are decoded by that zoo's PCA. A control: the first code of one zoo has nothing to do with the
    first code of another. ``align``, ``flow``, ``source`` and ``seed`` are as of :class:`DeepWeightFlow`,
    ``label_dropout`` is as of :class:`ConditionalDeepWeightFlow`.
    """

    def __init__(
        self,
        *,
        align: bool = True,
        flow: FlowSettings | None = None,
        source: float | str = 0.05,
        seed: int = 0,
        label_dropout: float = 0.1,
    ) -> None:
        self.align = align
        self.flow = flow
        self.source = source
        self.seed = seed
        self.label_dropout = label_dropout

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoos: Mapping[str, Zoo], numbers: Numbers | None = None) -> OwnCodesFlow:
        """Align and compress the fitted members of each zoo, and learn one flow.

        Args:
            zoos: by the names of their datasets.
            numbers: as of :meth:`ConditionalDeepWeightFlow.fit`.

        Raises:
            ValueError: zoos without names, or what :meth:`ConditionalDeepWeightFlow.fit` refuses.
        """
        check_label_dropout(self.label_dropout)
        pool = pool_of(zoos, numbers, same_basis=False)
        if not pool.conditions.names:
            raise ValueError("each zoo has a PCA of its own, found by its name: give zoos by name, {'digits': zoo, …}")
        k = min(pool.zoo.layout.size, *(len(zoo.fitted) - 1 for zoo in zoos.values()))
        parts = {}
        for name, zoo in zoos.items():
            one = DeepWeightFlow(align=self.align, components=k, flow=self.flow, source=self.source, seed=self.seed)
            parts[name] = one._prepare(zoo, None, None, False)
        codes = torch.cat([part.codes for part in parts.values()])  # (N, k)
        some = next(iter(parts.values())).fitted
        flow, seed = some.settings["flow"], some.settings["seed"]
        source = make_source(self.source, codes, some.pca, some.scale, some.layout)
        field = make_conditional_field(k, pool.conditions.size, flow, self.label_dropout, seed).to(codes.device)
        held_out = [part.held_out for part in parts.values() if part.held_out is not None]
        unseen = torch.cat(held_out) if held_out else None  # (M, k)
        train_flow(
            field,
            codes,
            source,
            flow,
            held_out=unseen,
            conditions=pool.fitted(),
            held_out_conditions=pool.unseen(),
            seed=seed,
        )
        members = computable(pool.zoo)
        self.members_, self.conditions_ = members, pool.conditions
        self.parts_ = {name: part.fitted for name, part in parts.items()}
        self.source_, self.field_, self.flow_ = source, field, flow
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(
        self, n: int, *, seed: int, condition: Asked = None, guidance: float = 1.0, extrapolate: bool = False
    ) -> Zoo:
        """``n`` networks, each decoded by the PCA of the dataset that is asked for.

        Raises:
            ValueError: no condition, or one that was never seen; guidance below 0.
        """
        generator = start(self, n, seed)
        x0 = self.source_.sample(n, generator).to(self.field_.head.weight)  # (n, k)
        vectors = self.conditions_.of_request(condition, n, generator, extrapolate).to(x0)  # (n, c)
        field = guided(self.field_, vectors, guidance)
        codes = integrate(field, x0, steps=self.flow_.solver_steps, solver=self.flow_.solver, keep=False).end  # (n, k)
        names = self.conditions_.names
        places = vectors[:, : len(names)].argmax(1)  # (n,): of the datasets in names
        weights = self.members_.weights.new_empty(n, self.members_.layout.size)  # (n, d)
        for place in places.unique().tolist():
            part, rows = self.parts_[names[place]], places == place
            weights[rows] = part.pca.inverse_transform(codes[rows].to(weights) * part.scale)
        return as_zoo(weights, self.members_, "flow over codes of each zoo's own")


# -- what they share ---------------------------------------------------------------------------------------------


def nearest(conditions: Conditions, asked: Tensor, known: Tensor, count: int) -> Tensor:
    """Positions (n, m) of the members with the nearest conditions, all of the dataset that was asked for.

    Args:
        conditions: what the vectors mean.
        asked: vectors (n, c).
        known: of the fitted members (N, c).
        count: how many at most, where there are numbers; without them, as many as the smallest dataset has.
    """
    datasets = len(conditions.names)
    m = int(known[:, :datasets].sum(0).min()) if datasets else len(known)
    if conditions.seen:
        m = min(m, count)
    weight = torch.ones(conditions.size)
    weight[:datasets] = OTHER_DATASET
    distance = torch.cdist(asked * weight, known.cpu() * weight)  # (n, N)
    return distance.topk(m, largest=False).indices


def with_one(vectors: Tensor, codes: Tensor) -> Tensor:
    """Vectors (n, c) after a column of ones, as the codes are: what is regressed on, (n, 1 + c)."""
    return torch.cat([torch.ones(len(vectors), 1), vectors.cpu()], 1).to(codes)
