"""Starts that are given: networks that members go on from, in place of weights drawn anew."""

from __future__ import annotations

from torch import Tensor, nn

from dwflow_lite.networks.constants import constants_of, first_difference, key_of
from dwflow_lite.support.files import json_hash
from dwflow_lite.zoo.checks import require_zoo
from dwflow_lite.zoo.layout import Layout
from dwflow_lite.zoo.zoo import Zoo


def check_start(start: Zoo, network: nn.Module, members: int) -> None:
    """Refuse starts that are not one network of this architecture for each member.

    Args:
        start: the networks; None: members draw their own, and nothing is asked.
        network: the template that is trained.
        members: how many, with those held out.

    Raises:
        TypeError: no zoo.
        ValueError: another number of networks, other tensors, or another constant.
    """
    if start is None:
        return
    require_zoo(start)
    if len(start) != members:
        raise ValueError(f"start has {len(start)} networks for {members} members (held-out ones too): give one each")
    if Layout.of(network) != start.layout:
        raise ValueError(f"the networks of start do not fit this one: {start.layout.difference(network)}")
    different = first_difference(start.constants, constants_of(network))
    if different is not None:
        raise ValueError(f"the networks of start do not fit this one: the constant {different!r} has other numbers")


def parameters_of(start: Zoo, member: int, network: nn.Module) -> dict[str, Tensor]:
    """The parameters of one network of ``start``, by name and in the precision of the template: copies, on the CPU."""
    tensors = start.layout.unflatten(start.weights[member])
    return {name: tensors[name].to("cpu", p.dtype, copy=True) for name, p in network.named_parameters()}


def digest_of(start: Zoo) -> str:
    """SHA-256, in hexadecimal, of the weights of all networks, in order; the same in memory and on disk."""
    return json_hash([key_of(rows) for rows in start.weights.split(1)])
