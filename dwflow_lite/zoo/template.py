"""The network that weights from a file belong to, and whether a reader's own is it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from dwflow_lite.networks import architecture_of, behaviour_of, build
from dwflow_lite.support.files import ZooFileError
from dwflow_lite.zoo.layout import Layout

LARGEST_DIFFERENCE = 2e-3  # of outputs, relative to the largest: machines round differently, other networks differ more


def template_for(path: str | Path, record: Mapping[str, Any], layout: Layout, network: nn.Module | None) -> nn.Module:
    """The template for weights from a file: built as its record says, or a copy of a reader's network that fits.

    Args:
        path: of the file, for messages.
        record: what it says of its networks: ``architecture``, and perhaps ``behaviour``.
        layout: of its weights.
        network: a reader's; None: the record says how to build one.

    Raises:
        ValueError: the record names a class that is not this package's, and no network is given.
        ZooFileError: the network has other tensors, other modules, or another forward pass than the record's.
    """
    architecture = record.get("architecture", {})
    if network is None:
        network = build(architecture)
    if Layout.of(network) != layout:
        raise ZooFileError(f"{path} does not fit the network: {layout.difference(network)}")
    if not architecture.items() <= architecture_of(network).items():
        raise ZooFileError(f"{path} holds {architecture} networks, not {architecture_of(network)}")
    behaviour = record.get("behaviour")
    if behaviour and not _behaves(network, behaviour):
        raise ZooFileError(f"{path} holds networks of another forward pass than this {type(network).__name__}")
    return deepcopy(network)


def _behaves(network: nn.Module, behaviour: Mapping[str, Any]) -> bool:
    """Whether a network gives the outputs that a record remembers, for the same fixed weights and inputs."""
    expected = np.array(behaviour["outputs"])
    actual = np.array(behaviour_of(network, behaviour["input"]))
    if actual.shape != expected.shape:
        return False
    largest = np.abs(expected).max(initial=0.0)
    return bool((np.abs(actual - expected) <= LARGEST_DIFFERENCE * largest).all())
