"""How a flow is trained and followed: every setting, with its default, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from dwflow_lite.flow.path import COUPLINGS
from dwflow_lite.flow.solver import SOLVERS
from dwflow_lite.support.checks import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    Range,
    check_ranges,
    is_choice,
    is_number,
    is_whole,
)

WHOLE_NUMBERS = ("hidden", "time_dim", "steps", "batch_size", "every", "solver_steps")
NUMBERS = ("dropout", "lr", "final_lr", "weight_decay", "path_noise")
# Name -> all that may be chosen.
CHOICES = {"coupling": COUPLINGS, "keep": ("last", "best", "lowest"), "solver": tuple(SOLVERS)}


def _one_of(choices: tuple[str, ...]) -> Range:
    return Range("one of " + ", ".join(map(repr, choices)), lambda value: is_choice(value, choices))


RANGES = {name: COUNT for name in WHOLE_NUMBERS} | {name: NOT_NEGATIVE for name in NUMBERS}
RANGES |= {name: _one_of(choices) for name, choices in CHOICES.items()}
RANGES |= {
    "hidden": Range("a whole number >= 2", lambda value: is_whole(value, 2)),
    "patience": Range("None or a whole number >= 1", lambda value: value is None or is_whole(value, 1)),
}
# Of numbers, once it is known that they are some.
NARROWER = {"lr": POSITIVE, "dropout": Range("a number in [0, 1)", lambda value: is_number(value, 0) and value < 1)}


@dataclass(frozen=True)
class FlowSettings:
    """Settings of a flow: its field, its training, and how it is followed. They check themselves.

    Args:
        hidden: width of the field. The wider, the better it can remember its targets.
        time_dim: width of the field's time embedding.
        dropout: of the field, in training only.
        steps: optimizer steps, each on one batch of pairs.
        batch_size: pairs in a batch.
        lr: learning rate at the start, falling along a cosine.
        final_lr: learning rate at the end.
        weight_decay: of AdamW.
        path_noise: standard deviation of the noise on the path from source to target.
        coupling: who is paired within a batch: ``"independent"``, as they come, or ``"assignment"``.
        every: steps between two looks at the training.
        patience: stop after so many looks without a lower held-out loss; None: never.
        keep: the state in which the field ends: ``"last"``; ``"best"``, that of the lowest held-out loss; or
            ``"lowest"``, that of the lowest loss of a single batch, as the paper's code has it (a lucky batch is no
            evidence, so it is here to be compared with).
        solver: how the flow is followed from noise to codes: ``"euler"``, ``"midpoint"``, ``"heun"`` or ``"rk4"``.
        solver_steps: in how many steps.

    Raises:
        ValueError: a setting that makes no sense.

    Example:
        Settings do not change; ``dataclasses.replace`` makes others from them:

        >>> from dataclasses import replace
        >>> settings = FlowSettings(steps=500)
        >>> replace(settings, hidden=32).steps
        500
        >>> FlowSettings(steps=0)
        Traceback (most recent call last):
        ...
        ValueError: out of range: flow steps (flow steps must be a whole number >= 1, got 0)
    """

    hidden: int = 512
    time_dim: int = 64
    dropout: float = 0.1
    steps: int = 600
    batch_size: int = 128
    lr: float = 5e-3
    final_lr: float = 1e-6
    weight_decay: float = 1e-5
    path_noise: float = 0.0
    coupling: str = "independent"
    every: int = 50
    patience: int | None = None
    keep: str = "last"
    solver: str = "heun"
    solver_steps: int = 20

    def __post_init__(self) -> None:
        self._check()
        # NumPy's numbers become Python's, which JSON can write; a frozen class has no other way to set them.
        for name in WHOLE_NUMBERS:
            object.__setattr__(self, name, int(getattr(self, name)))
        for name in NUMBERS:
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.patience is not None:
            object.__setattr__(self, "patience", int(self.patience))

    def _check(self) -> None:
        for ranges in (RANGES, NARROWER):
            values = {f"flow {name}": getattr(self, name) for name in ranges}
            check_ranges(values, {f"flow {name}": allowed for name, allowed in ranges.items()})

    @classmethod
    def published(cls) -> FlowSettings:
        """The settings of the paper's released code for its MLPs (arXiv 2601.05052)."""
        return cls(
            steps=30_000,
            batch_size=8,
            lr=5e-4,
            path_noise=0.001,
            every=1000,
            keep="lowest",
            solver="rk4",
            solver_steps=99,
        )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary of all settings, for a record."""
        return asdict(self)

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> FlowSettings:
        """The settings that :meth:`to_json` wrote; those that an older version did not write take their defaults.

        Raises:
            ValueError: a setting that is not known, or makes no sense.
        """
        known = [setting.name for setting in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(f"unknown flow settings {unknown}; there are {', '.join(known)}")
        return cls(**settings)


def require_settings(settings: object) -> None:
    """``TypeError`` for anything but :class:`FlowSettings`, such as a dictionary."""
    if not isinstance(settings, FlowSettings):
        raise TypeError(f"settings of a flow are given as FlowSettings(steps=…, …), not as {type(settings).__name__}")
