"""The network that weights from a file belong to, and whether a reader's own is it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dwflow_lite.networks import architecture_of, behaviour_of, build
from dwflow_lite.networks.constants import constants_of, set_constants
from dwflow_lite.support.files import ZooFileError, understood
from dwflow_lite.zoo.layout import Layout

LARGEST_DIFFERENCE = 2e-3  # of outputs, relative to the largest: machines round differently, other networks differ more
LARGEST_INPUT = 1 << 26  # numbers in one input of a network
BLOCKS = ("depth", "blocks")  # of an architecture, as its lists: each counts modules, of at least one tensor each


def template_for(
    path: str | Path,
    record: Mapping[str, Any],
    layout: Layout,
    network: nn.Module | None,
    constants: Mapping[str, Tensor],
) -> nn.Module:
    """The template for weights from a file: built as its record says, or a copy of a reader's network that fits.

    Args:
        path: of the file, for messages.
        record: what it says of its networks: ``architecture``, and perhaps ``behaviour``.
        layout: of its weights.
        network: a reader's; None: the record says how to build one.
        constants: that the file keeps, and the template gets; a file of version 0.1.0 keeps none.

    Raises:
        ValueError: the record names a class that is not this package's, and no network is given.
        ZooFileError: the network has other tensors, other modules, or another forward pass than the record's, or
            constants of other names or shapes.
    """
    architecture = record.get("architecture", {})
    behaviour = record.get("behaviour")
    if not isinstance(architecture, dict) or not isinstance(behaviour, dict | None):
        raise ZooFileError(f"{path} describes no network. Delete it")
    if network is None:
        network = _built(path, architecture, layout)
    if Layout.of(network) != layout:
        raise ZooFileError(f"{path} does not fit the network: {layout.difference(network)}; pass its own module")
    if not architecture.items() <= architecture_of(network).items():
        raise ZooFileError(f"{path} holds {architecture} networks, not {architecture_of(network)}")
    network = deepcopy(network)
    if constants:
        _check_constants(path, network, constants)
        own = constants_of(network)
        set_constants(network, {name: constant.to(own[name].device) for name, constant in constants.items()})
    if behaviour:
        with understood(path):
            behaves = _behaves(network, behaviour)
        if not behaves:
            raise ZooFileError(f"{path} holds networks of another forward pass than this {type(network).__name__}")
    return network


def _built(path: str | Path, architecture: Mapping[str, Any], layout: Layout) -> nn.Module:
    """The network that a file describes, unless it is larger than the layout: found out before it takes memory."""
    modules = [architecture[name] for name in BLOCKS if isinstance(architecture.get(name), int | float)]
    modules += [len(sizes) for sizes in architecture.values() if isinstance(sizes, list)]
    if max(modules, default=0) > len(layout.entries) + 1:  # a width more than layers
        raise ZooFileError(f"{path} describes another network than its layout: {architecture}. Delete it")
    try:
        with torch.device("meta"):
            outline = build(architecture)
    except ImportError:  # of what a network needs to be built
        raise
    except Exception as error:
        raise ZooFileError(f"{path}: {error}") from error
    size = sum(tensor.numel() for tensor in outline.state_dict().values())
    if size > layout.size + len(outline.state_dict()):  # which has counters of batches, too
        raise ZooFileError(
            f"{path} describes a network of {size:,} weights, and holds some of {layout.size:,}. Delete it"
        )
    return build(architecture).to(getattr(torch, layout.entries[0].dtype))


def _check_constants(path: str | Path, network: nn.Module, constants: Mapping[str, Tensor]) -> None:
    """:class:`ZooFileError` unless a network has a place for each constant of a file, and no others."""
    own = {name: _words_for(tensor) for name, tensor in constants_of(network).items()}
    saved = {name: _words_for(tensor) for name, tensor in constants.items()}
    for name in [*saved, *own]:
        here, there = saved.get(name, "missing"), own.get(name, "missing")
        if here != there:
            raise ZooFileError(f"{path} does not fit the network: constant {name!r} is {here} here, {there} there")


def _words_for(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"


def _behaves(network: nn.Module, behaviour: Mapping[str, Any]) -> bool:
    """Whether a network gives the outputs that a record remembers, for the same fixed weights and inputs."""
    if prod(behaviour["input"]) > LARGEST_INPUT:
        raise ValueError(f"inputs of shape {behaviour['input']}")
    expected = np.array(behaviour["outputs"])
    actual = np.array(behaviour_of(network, behaviour["input"]))
    if actual.shape != expected.shape:
        return False
    largest = np.abs(expected).max(initial=0.0)
    return bool((np.abs(actual - expected) <= LARGEST_DIFFERENCE * largest).all())
