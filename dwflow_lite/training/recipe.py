"""How the members of a zoo are trained: one recipe, the same for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dwflow_lite.networks import INITS
from dwflow_lite.support.checks import COUNT, NOT_NEGATIVE, POSITIVE, check_ranges, is_choice

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
PRECISIONS = ("float32", "bfloat16")
RANGES = {
    "epochs": COUNT,
    "batch_size": COUNT,
    "lr": POSITIVE,
    "momentum": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
}


@dataclass(frozen=True)
class Recipe:
    """How every member of a zoo is trained. Checked when it is made; two recipes of equal values are equal.

    Attributes:
        epochs: passes over the training split.
        batch_size: examples a step and member; the last, smaller batch of an epoch is used too.
        optimizer: ``"adam"``, ``"adamw"`` or ``"sgd"``.
        lr: learning rate, constant.
        momentum: of ``"sgd"`` only.
        weight_decay: as the optimizer defines it.
        init: one of ``networks.INITS``, or several of them, dealt to the members in turn.
        precision: ``"float32"``, or ``"bfloat16"``: outputs and losses are computed under ``torch.autocast`` (which
            within ``torch.vmap`` reaches products of matrices, not convolutions); weights, optimizer, statistics and
            scores are float32 all the same.

    Raises:
        ValueError: a name that is not known, or a number out of range.

    Example:
        >>> Recipe(epochs=10, optimizer="sgd", lr=0.1)
        Recipe(epochs=10, batch_size=64, optimizer='sgd', lr=0.1, momentum=0.9, weight_decay=0.0,
               init='default', precision='float32')
        >>> Recipe(lr=-1)
        Traceback (most recent call last):
        ValueError: out of range: lr (lr must be a number > 0, got -1)
    """

    epochs: int = 40
    batch_size: int = 64
    optimizer: str = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    init: str | Sequence[str] = "default"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if not is_choice(self.optimizer, OPTIMIZERS):
            raise ValueError(f"no optimizer {self.optimizer!r}: choose one of {', '.join(OPTIMIZERS)}")
        if not is_choice(self.precision, PRECISIONS):
            raise ValueError(f"no precision {self.precision!r}: choose 'float32' or 'bfloat16'")
        check_ranges({name: getattr(self, name) for name in RANGES}, RANGES)
        if not self.inits:
            raise ValueError(f"no init in {self.init!r}: choose from {', '.join(INITS)}")
        for name in self.inits:
            if not is_choice(name, INITS):
                raise ValueError(f"no init {name!r}: choose from {', '.join(INITS)}")
        # NumPy numbers become Python's, which JSON knows; a list of inits becomes a tuple, which nobody can change.
        plain = {
            "epochs": int(self.epochs),
            "batch_size": int(self.batch_size),
            "lr": float(self.lr),
            "momentum": float(self.momentum),
            "weight_decay": float(self.weight_decay),
            "init": self.init if isinstance(self.init, str) else self.inits,
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)  # a frozen class has no other way

    @property
    def inits(self) -> tuple[str, ...]:
        """The names in ``init``, one or several."""
        several = isinstance(self.init, Sequence) and not isinstance(self.init, str)
        return tuple(self.init) if several else (self.init,)

    def init_of(self, member: int) -> str:
        """How a member starts: the inits are dealt in turn."""
        return self.inits[member % len(self.inits)]

    def to_json(self) -> dict[str, Any]:
        """Plain values for the record of a zoo, and for its identity: what has no effect is not told.

        Zoos of all versions are found by these values, so that a new field may only appear where it is not its default.
        """
        values = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimizer": self.optimizer,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "momentum": self.momentum if self.optimizer == "sgd" else None,
            "init": list(self.inits),
        }
        if self.precision != "float32":
            values["precision"] = self.precision
        return values

    def optimizer_for(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """A new optimizer of these tensors; elementwise, so that it treats stacked members as it would treat each."""
        options = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            options["momentum"] = self.momentum
        return OPTIMIZERS[self.optimizer](list(parameters), **options, fused=True)

    def autocast(self, device: torch.device) -> torch.autocast:
        """The precision of outputs and losses that are computed in here."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
