"""Dropout as a generator: networks that leave out random hidden units of a network that has learnt to do without."""

from __future__ import annotations

import torch
from sklearn.base import BaseEstimator

from dwflow_lite.generate.generator import FIT_FEWER, SAMPLE_FEWER, require_zoo
from dwflow_lite.generate.simple import as_zoo, fitted_members, start
from dwflow_lite.networks.mlp import MLP
from dwflow_lite.support.checks import is_number
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.zoo.zoo import Zoo


class DropoutMasks(BaseEstimator):
    """Fitted members in turn, each without a random share of its hidden units: Monte Carlo dropout, as a generator.

    A unit that is left out is one whose outgoing weights are zero, and the others' are divided by the share that is
    left: so each mask is a network of the zoo's own architecture, and an ensemble of them is what dropout at test time
    computes (Gal & Ghahramani 2016, sec. 3), but for this: one mask holds for all inputs, which makes it a network.

    Args:
        rate: the share that is left out; None: the one that the network was trained with.

    Example:
        >>> zoo = Zoo.from_modules([MLP([2, 4, 1], dropout=0.5)])
        >>> masked = DropoutMasks().fit(zoo).sample(3, seed=0)
        >>> weights = masked.layout.unflatten(masked.weights)["layers.1.weight"]  # (3, 1, 4)
        >>> bool(((weights == 0) | (weights == 2 * zoo.module(0).layers[1].weight)).all())
        True
    """

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate

    @out_of_memory_as(FIT_FEWER)
    def fit(self, zoo: Zoo) -> DropoutMasks:
        """Remember the fitted members.

        Raises:
            ValueError: networks that are no ``MLP``, a rate out of range, or none where they have no dropout.
        """
        require_zoo(zoo)
        if type(zoo.network) is not MLP:
            raise ValueError(f"DropoutMasks knows the hidden units of an MLP, not of a {type(zoo.network).__name__}")
        rate = self.rate
        if rate is None:
            if zoo.network.dropout is None:
                raise ValueError("these networks have no dropout: train MLP(sizes, dropout=...), or name a rate")
            rate = zoo.network.dropout.p
        if not is_number(rate, 0) or rate >= 1:
            raise ValueError(f"rate must be a number from 0 to below 1, got {rate!r}")
        self.members_ = fitted_members(self, zoo)
        self.rate_ = float(rate)
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` networks with masks of their own."""
        generator = start(self, n, seed)
        members = self.members_
        rows = torch.arange(n) % len(members)
        state = members.layout.unflatten(members.weights[rows])
        for number in range(1, len(members.network.layers)):
            weight = state[f"layers.{number}.weight"]  # (n, outputs, units): the last axis is of hidden units
            stays = torch.rand(n, weight.shape[-1], generator=generator) >= self.rate_  # (n, units)
            state[f"layers.{number}.weight"] = weight * (stays / (1 - self.rate_)).to(weight)[:, None]
        return as_zoo(members.layout.flatten(state), members, f"dropout masks of {self.rate_:g}")
