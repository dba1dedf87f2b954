"""Where each tensor of a network lives in its flat weight vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from dwflow_lite.networks.constants import buffers_of, running_statistics
from dwflow_lite.networks.tensors import require_usual_tensors
from dwflow_lite.support.checks import brief


@dataclass(frozen=True)
class Entry:
    """One tensor: its name, shape, dtype and role (``parameter``, or ``buffer`` for running statistics)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str = "parameter"

    @classmethod
    def of(cls, name: str, tensor: Tensor, role: str) -> Entry:
        """The entry of a tensor that a network has."""
        return cls(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), role)

    @property
    def size(self) -> int:
        """Number of weights."""
        return prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The ordered tensors of one network; flat vector <-> named tensors, a bijection.

    What has columns: parameters, also those that are frozen (``requires_grad=False``), and then the running means and
    variances of PyTorch's norm layers, with the role ``buffer``. Every other buffer is a constant, which all members
    share: it has no column, and keeps the template's value.

    Example:
        >>> network = nn.Linear(3, 2)
        >>> layout = Layout.of(network)
        >>> layout.size, layout.slices
        (8, {'weight': slice(0, 6, None), 'bias': slice(6, 8, None)})
        >>> weights = layout.flatten(network.state_dict())
        >>> weights.shape
        torch.Size([8])
        >>> torch.equal(layout.unflatten(weights)["weight"], network.weight)
        True
        >>> layout.unflatten(torch.zeros(5, 8))["weight"].shape  # five networks at once
        torch.Size([5, 2, 3])
    """

    entries: tuple[Entry, ...]
    constants: frozenset[str] = field(default=frozenset(), compare=False, repr=False)  # which `flatten` leaves out

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"a layout needs at least one tensor (a parameter) and each name once, got {names}")

    @classmethod
    def of(cls, network: nn.Module) -> Layout:
        """The layout of a module: parameters in their own order, then running statistics.

        Raises:
            TypeError: no module.
            ValueError: no parameters, or tensors that a zoo cannot keep: complex, of whole numbers, sparse, quantised,
                without values yet, or of several precisions in one network. The tensor is named.
        """
        require_module(network)
        require_usual_tensors(network)
        entries = []
        for name, parameter in network.named_parameters():
            entries.append(Entry.of(name, parameter, "parameter"))
        for name, statistic in running_statistics(network).items():
            entries.append(Entry.of(name, statistic, "buffer"))
        return cls(tuple(entries), frozenset(buffers_of(network)))

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Tensor name -> its columns in the flat vector."""
        slices = {}
        start = 0
        for entry in self.entries:
            stop = start + entry.size
            slices[entry.name] = slice(start, stop)
            start = stop
        return slices

    @property
    def size(self) -> int:
        """Length d of the flat vector."""
        return sum(entry.size for entry in self.entries)

    def __getitem__(self, name: str) -> Entry:
        if name not in self._by_name:
            raise KeyError(f"no tensor {name!r}; the layout has {[entry.name for entry in self.entries]}")
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in self.entries}

    def flatten(self, state: Mapping[str, Tensor]) -> Tensor:
        """Named tensors, each (..., *shape), to flat weights (..., d), without constants and whole numbers.

        Raises:
            ValueError: a tensor is missing, unknown, or has another shape.
        """
        self._check_names(state)
        parts = []  # of each tensor (..., size)
        for entry in self.entries:
            tensor = state[entry.name]
            batch_axes = tensor.ndim - len(entry.shape)
            batch = tuple(tensor.shape[:batch_axes])
            shape = tuple(tensor.shape[batch_axes:])
            if batch_axes < 0 or shape != entry.shape:
                raise ValueError(
                    f"tensor {entry.name!r} has shape {tuple(tensor.shape)}, the layout wants (..., {entry.shape})"
                )
            part = tensor.reshape(*batch, entry.size)
            if parts and batch != parts[0].shape[:-1]:
                raise ValueError(f"tensor {entry.name!r} is batched {batch}, the first {tuple(parts[0].shape[:-1])}")
            parts.append(part)
        return torch.cat(parts, -1)

    def _check_names(self, state: Mapping[str, Tensor]) -> None:
        """``ValueError`` unless ``state`` has every tensor of the layout, and beside them only what is no weight."""
        known = {entry.name for entry in self.entries}
        missing = known - set(state)
        others = set(state) - known - self.constants
        unknown = {name for name in others if state[name].is_floating_point()}
        if missing or unknown:
            raise ValueError(f"tensors do not fit the layout: missing {sorted(missing)}, unknown {sorted(unknown)}")

    def unflatten(self, weights: Tensor) -> dict[str, Tensor]:
        """Flat weights (..., d) to named tensors (..., *shape): views, in the weights' own dtype."""
        self.check(weights)
        batch = weights.shape[:-1]
        state = {}
        for entry in self.entries:
            part = weights[..., self.slices[entry.name]]  # (..., size)
            state[entry.name] = part.reshape((*batch, *entry.shape))
        return state

    def check(self, weights: Tensor) -> None:
        """``ValueError`` unless the last axis of ``weights`` is d long."""
        if weights.shape[-1:] != (self.size,):
            raise ValueError(f"weights of shape {tuple(weights.shape)} do not fit a layout of {self.size} weights")

    def check_network(self, network: nn.Module) -> None:
        """``ValueError`` unless a network has a place of the right shape for each tensor."""
        places = dict(network.named_parameters()) | running_statistics(network)
        for entry in self.entries:
            if entry.name not in places or tuple(places[entry.name].shape) != entry.shape:
                found = tuple(places[entry.name].shape) if entry.name in places else "missing"
                raise ValueError(
                    f"{type(network).__name__} does not fit: {entry.name} {entry.shape} here, {found} there"
                )

    def load_into(self, network: nn.Module, weights: Tensor) -> nn.Module:
        """Copy one flat vector (d,) into ``network`` (changed and returned); dtypes follow the network.

        Raises:
            ValueError: weights of another shape, or a network with other tensors than this layout's.
        """
        self.check(weights)
        if weights.ndim != 1:
            raise ValueError(f"one network takes one vector of weights, got shape {tuple(weights.shape)}")
        if Layout.of(network) != self:
            raise ValueError(
                f"{type(network).__name__} does not have the tensors of this layout: {self.difference(network)}"
            )
        targets = dict(network.named_parameters()) | running_statistics(network)
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
        return [asdict(entry) for entry in self.entries]

    @classmethod
    def from_json(cls, items: list[dict[str, Any]]) -> Layout:
        """The layout that :meth:`to_json` described."""
        entries = [Entry(item["name"], tuple(item["shape"]), item["dtype"], item["role"]) for item in items]
        return cls(tuple(entries))


def require_module(network: object) -> None:
    """``TypeError`` for anything but a module, such as its class; and for a scripted one, which takes no weights."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"a network is a module, such as nn.Linear(4, 3), not {brief(network)}")
    if isinstance(network, torch.jit.ScriptModule):
        raise TypeError("a network of torch.jit cannot run with other weights: take the module that it was made of")
