"""What is to be said of images that a network does not take: where convolutions look for channels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

CHANNELS = (1, 2, 3, 4)  # of images that files hold


def where_channels_go(network: nn.Module, shape: Sequence[int]) -> str:
    """How inputs of this shape become images for the convolutions of a network; empty if nothing is to be said.

    Example:
        >>> where_channels_go(nn.Conv2d(3, 4, 3), (32, 32, 3)), where_channels_go(nn.Linear(32, 4), (32, 32, 3))
        ('; convolutions take channels first: x.transpose(0, 3, 1, 2)', '')
    """
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return ""
    if len(shape) == 2:
        return "; convolutions take an axis of channels, here of one: x[:, None]"
    if len(shape) == 3 and shape[-1] in CHANNELS and shape[0] not in CHANNELS:
        return "; convolutions take channels first: x.transpose(0, 3, 1, 2)"
    return ""
