"""A permutation of hidden units: one order for each group of units that moves together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Permutation:
    """One index array for each group of units: new unit ``i`` of group ``g`` is old unit ``indices[g][i]``.

    A permutation equals itself alone; whether two move alike: ``a.compose(b.inverse()).is_identity``.

    Attributes:
        indices: group name -> order (n,) of its n units, int64.

    Raises:
        ValueError: an index of another dtype or shape, or one that does not name each of 0 … n - 1 once.

    Example:
        >>> turn = Permutation({"hidden0": torch.tensor([1, 2, 0])})
        >>> turn.inverse().indices["hidden0"]
        tensor([2, 0, 1])
        >>> turn.compose(turn).compose(turn).is_identity
        True
    """

    indices: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for group, index in self.indices.items():
            if index.dtype != torch.int64 or index.ndim != 1:
                raise ValueError(f"group {group!r}: an index is a vector of dtype int64, got {index.dtype}")
            if not torch.equal(index.sort().values, _in_order(index)):
                raise ValueError(f"group {group!r}: {index.tolist()} is not a permutation of 0 … {len(index) - 1}")

    @property
    def sizes(self) -> dict[str, int]:
        """Group name -> number of units."""
        return {group: len(index) for group, index in self.indices.items()}

    @property
    def is_identity(self) -> bool:
        """Whether nothing moves."""
        return all(torch.equal(index, _in_order(index)) for index in self.indices.values())

    def compose(self, first: Permutation) -> Permutation:
        """The permutation that does ``first``, then this one; ``ValueError`` for other groups or sizes."""
        if first.sizes != self.sizes:
            raise ValueError("only permutations of the same groups and sizes can be composed")
        return Permutation({group: first.indices[group][index] for group, index in self.indices.items()})

    def inverse(self) -> Permutation:
        """The permutation that undoes this one."""
        return Permutation({group: index.argsort() for group, index in self.indices.items()})


def _in_order(index: Tensor) -> Tensor:
    """0 … n - 1, for an index (n,)."""
    return torch.arange(len(index), device=index.device)
