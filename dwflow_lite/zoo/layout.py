"""Where each tensor of a network lives in its flat weight vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """One tensor: its name, shape, dtype and role (``parameter``, or ``buffer`` for running statistics)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str = "parameter"

    @property
    def size(self) -> int:
        """Number of weights."""
        return prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The ordered tensors of one network; flat vector <-> named tensors, a bijection.

    Policy for buffers: floating-point ones (running mean and variance) have columns of their own, with the role
    ``buffer``; whole-number ones (BatchNorm's batch counter) are not weights and keep the template's value.
    """

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        names = [e.name for e in self.entries]
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"a layout needs at least one tensor and each name once, got {names}")

    @classmethod
    def of(cls, network: nn.Module) -> Layout:
        """The layout of a module: parameters in their own order, then floating-point buffers."""
        named = [(n, p, "parameter") for n, p in network.named_parameters()]
        named += [(n, b, "buffer") for n, b in network.named_buffers() if b.is_floating_point()]
        return cls(tuple(Entry(n, tuple(p.shape), str(p.dtype).removeprefix("torch."), role) for n, p, role in named))

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Tensor name -> its columns in the flat vector."""
        slices, start = {}, 0
        for entry in self.entries:
            slices[entry.name] = slice(start, start + entry.size)
            start += entry.size
        return slices

    @property
    def size(self) -> int:
        """Length d of the flat vector."""
        return sum(e.size for e in self.entries)

    def __getitem__(self, name: str) -> Entry:
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(f"no tensor {name!r}; the layout has {[e.name for e in self.entries]}")

    def flatten(self, state: Mapping[str, Tensor]) -> Tensor:
        """Named tensors, each (..., *shape), to flat weights (..., d). Extra whole-number tensors are left out.

        Raises:
            ValueError: a tensor is missing, unknown, or has another shape.
        """
        known = {e.name for e in self.entries}
        missing = known - set(state)
        unknown = {n for n in set(state) - known if state[n].is_floating_point()}
        if missing or unknown:
            raise ValueError(f"tensors do not fit the layout: missing {sorted(missing)}, unknown {sorted(unknown)}")
        parts = []
        for e in self.entries:
            t = state[e.name]
            batch = t.shape[: t.ndim - len(e.shape)]
            if tuple(t.shape[len(batch) :]) != e.shape:
                raise ValueError(f"tensor {e.name!r} has shape {tuple(t.shape)}, the layout wants (..., {e.shape})")
            if parts and batch != parts[0].shape[:-1]:
                raise ValueError(f"tensor {e.name!r} is batched {tuple(batch)}, the first {tuple(parts[0].shape[:-1])}")
            parts.append(t.reshape(*batch, e.size))
        return torch.cat(parts, -1)

    def unflatten(self, weights: Tensor) -> dict[str, Tensor]:
        """Flat weights (..., d) to named tensors (..., *shape): views, in the weights' own dtype."""
        self.check(weights)
        batch = weights.shape[:-1]
        return {e.name: weights[..., self.slices[e.name]].reshape((*batch, *e.shape)) for e in self.entries}

    def check(self, weights: Tensor) -> None:
        """``ValueError`` unless the last axis of ``weights`` is d long."""
        if weights.shape[-1:] != (self.size,):
            raise ValueError(f"weights of shape {tuple(weights.shape)} do not fit a layout of {self.size} weights")

    def load_into(self, network: nn.Module, weights: Tensor) -> nn.Module:
        """Copy one flat vector (d,) into ``network`` (changed and returned); dtypes follow the network."""
        self.check(weights)
        if weights.ndim != 1:
            raise ValueError(f"one network takes one vector of weights, got shape {tuple(weights.shape)}")
        if Layout.of(network) != self:
            raise ValueError(
                f"{type(network).__name__} does not have the tensors of this layout: {self.difference(network)}"
            )
        targets = dict(network.named_parameters()) | dict(network.named_buffers())
        with torch.no_grad():
            for name, tensor in self.unflatten(weights).items():
                targets[name].copy_(tensor)
        return network

    def difference(self, network: nn.Module) -> str:
        """The first tensor in which a network and this layout differ, in words."""
        other = Layout.of(network).entries
        for mine, theirs in zip(self.entries, other, strict=False):
            if mine != theirs:
                return f"{mine.name} {mine.shape} {mine.dtype} here, {theirs.name} {theirs.shape} {theirs.dtype} there"
        return f"{len(self.entries)} tensors here, {len(other)} there"

    def to_json(self) -> list[dict[str, Any]]:
        """Plain lists and dictionaries, for a record."""
        return [asdict(e) for e in self.entries]

    @classmethod
    def from_json(cls, items: list[dict[str, Any]]) -> Layout:
        """The layout that :meth:`to_json` described."""
        return cls(tuple(Entry(i["name"], tuple(i["shape"]), i["dtype"], i["role"]) for i in items))
