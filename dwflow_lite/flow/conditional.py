"""A velocity field that is told a condition, and how strongly it is followed (arXiv 2207.12598; 2311.13443)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dwflow_lite.flow.field import Dropout, VelocityField
from dwflow_lite.flow.settings import FlowSettings
from dwflow_lite.flow.solver import Field
from dwflow_lite.support.checks import is_number, is_whole
from dwflow_lite.support.devices import seeded


class Targets(NamedTuple):
    """Points (N, k) where a flow is to end, and what is known of each: conditions (N, c), or None."""

    points: Tensor
    conditions: Tensor | None = None


class LabelDropout(Dropout):
    """In training, forget the condition of each point with probability p; drawn on the CPU, as all dropout here.

    Args:
        p: in [0, 1).
    """

    def forward(self, embedded: Tensor, nothing: Tensor) -> Tensor:
        """Embedded conditions (n, e); in training some of them are ``nothing`` (e,)."""
        if not self.training or self.p == 0:
            return embedded
        forgotten = torch.rand(len(embedded), 1, generator=self.generator) < self.p  # (n, 1)
        return torch.where(forgotten.to(embedded.device), nothing, embedded)


class ConditionalField(VelocityField):
    """The field v(x, t, c): :class:`VelocityField`, with the embedded condition added to the embedded time.

    A condition c is embedded as time is, by Linear-GELU-Linear, whose last layer starts at zero: an untrained field is
    the plain one, whatever the condition. In training a condition is forgotten now and then, and a learned vector takes
    its place; so one network learns v(x, t, c) and v(x, t), which :func:`guided` needs (classifier-free guidance, Ho &
    Salimans 2022, algorithm 1). The paper adds a condition at the same place, without forgetting (arXiv 2601.05052,
    App. K).

    Args:
        dim: k.
        conditions: c, numbers in a condition.
        hidden: as of :class:`VelocityField`, like ``time_dim`` and ``dropout``.
        time_dim: width of both embeddings.
        dropout: in training only.
        label_dropout: probability with which a condition is forgotten, in training only.

    Example:
        >>> field = ConditionalField(2, conditions=3, hidden=8, time_dim=4)
        >>> x, t, c = torch.zeros(5, 2), torch.tensor(0.5), torch.eye(3)[[0, 1, 2, 0, 1]]
        >>> field(x, t, c).shape, field(x, t).shape  # told a condition, and none
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        dim: int,
        conditions: int,
        hidden: int = FlowSettings.hidden,
        time_dim: int = FlowSettings.time_dim,
        dropout: float = FlowSettings.dropout,
        label_dropout: float = 0.1,
    ) -> None:
        super().__init__(dim, hidden, time_dim, dropout)
        if not is_whole(conditions, 1):
            raise ValueError(f"conditions must be a whole number >= 1, got {conditions!r}")
        check_label_dropout(label_dropout)
        self.conditions = int(conditions)
        self.embed = nn.Sequential(nn.Linear(self.conditions, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim))
        self.nothing = nn.Parameter(torch.zeros(time_dim))  # stands where no condition is known
        self.forget = LabelDropout(float(label_dropout))
        nn.init.zeros_(self.embed[-1].weight)
        nn.init.zeros_(self.embed[-1].bias)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Velocities (n, k) at points x (n, k) and times t (n,) or a single time, told conditions (n, c) or none."""
        embedded = self.time(t.expand(len(x))[:, None])  # (n, e)
        if condition is None:
            embedded = embedded + self.nothing
        else:
            embedded = embedded + self.forget(self.embed(condition), self.nothing)
        return self.head(self.body(torch.cat([x, embedded], -1)))  # (n, k)


def make_conditional_field(
    dim: int, conditions: int, settings: FlowSettings, label_dropout: float, seed: int
) -> ConditionalField:
    """A new field on k = ``dim`` coordinates; what it shares with :func:`make_field` starts as that does."""
    with seeded(torch.device("cpu"), seed):
        return ConditionalField(dim, conditions, settings.hidden, settings.time_dim, settings.dropout, label_dropout)


def check_label_dropout(label_dropout: float) -> None:
    """``ValueError`` unless a probability of forgetting is in [0, 1)."""
    if not is_number(label_dropout, 0) or not label_dropout < 1:
        raise ValueError(f"label_dropout must be a number in [0, 1), got {label_dropout!r}")


def check_coupling(settings: FlowSettings) -> None:
    """``ValueError`` unless pairs come as they are drawn."""
    if settings.coupling != "independent":
        raise ValueError(
            f"coupling={settings.coupling!r} pairs whatever the condition, so that each condition would learn from a "
            "part of the noise, and be asked to start from all of it: choose 'independent'"
        )


def given(field: Field, condition: Tensor | None) -> Field:
    """The field v(x, t) that a field becomes once it is told conditions (n, c); the field itself if there are none."""
    return field if condition is None else partial(field, condition=condition)


def guided(field: ConditionalField, condition: Tensor | None, guidance: float = 1.0) -> Field:
    """The field v(x, t) + w (v(x, t, c) - v(x, t)), which follows a condition as strongly as w says.

    w = 0 ignores the condition, w = 1 is the plain conditional field, and w > 1 goes beyond it: away from what is
    likely under any condition. (The w of Ho & Salimans, eq. 6, is ours less one; for flows: Zheng et al. 2023.)

    Args:
        field: trained, some of its conditions forgotten.
        condition: (n, c), of the points that will follow it; None: of none, whatever w.
        guidance: w >= 0.

    Raises:
        ValueError: w that is no number >= 0.
    """
    if not is_number(guidance, 0):
        raise ValueError(f"guidance must be a number >= 0, got {guidance!r}")
    if condition is None or guidance == 0:
        return field
    if guidance == 1:
        return given(field, condition)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        free = field(x, t)  # (n, k)
        return free + guidance * (field(x, t, condition) - free)

    return velocity
