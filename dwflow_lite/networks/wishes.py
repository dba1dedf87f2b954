"""What is to be said of inputs that a network does not take: where convolutions look for channels, who takes tokens."""

from __future__ import annotations

from torch import Tensor, nn

CHANNELS = (1, 2, 3, 4)  # of images that files hold


def what_it_takes(network: nn.Module, x: Tensor) -> str:
    """How inputs (n, ...) become what the first layers of a network look for; empty if nothing is to be said.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, 32, 32, 3)
        >>> what_it_takes(nn.Conv2d(3, 4, 3), x), what_it_takes(nn.Linear(32, 4), x)
        ('; convolutions take channels first: x.transpose(0, 3, 1, 2)', '')
    """
    embeds, convolves = (any(isinstance(m, kind) for m in network.modules()) for kind in (nn.Embedding, nn.Conv2d))
    if embeds and x.is_floating_point():
        return "; nn.Embedding takes whole numbers: Task.from_arrays(x, y, tokens=True)"
    if not embeds and not x.is_floating_point():
        return "; tokens are whole numbers, to be looked up in nn.Embedding first"
    if not convolves:
        return ""
    if x.ndim == 3:
        return "; convolutions take an axis of channels, here of one: x[:, None]"
    if x.ndim == 4 and x.shape[-1] in CHANNELS and x.shape[1] not in CHANNELS:
        return "; convolutions take channels first: x.transpose(0, 3, 1, 2)"
    return ""
