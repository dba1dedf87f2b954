"""The residual network for small images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dwflow_lite.support.checks import is_whole


def _one_group_norm(channels: int) -> nn.Module:
    """A LayerNorm over channels and positions at once."""
    return nn.GroupNorm(1, channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "layer": _one_group_norm}


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions added to their input, which passes a 1 × 1 convolution where shapes change.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        stride: 1, or 2 to halve the image.
        norm: a name of ``NORMS``.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        new_norm = NORMS[norm]
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = new_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = new_norm(outputs)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), new_norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        y = torch.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        skipped = x if self.shortcut is None else self.shortcut(x)
        return torch.relu(y + skipped)


class ResNet(nn.Module):
    """A residual network for small images (arXiv 1512.03385): 3 × 3 stem, stages that halve the image, mean, linear.

    Args:
        widths: channels of each stage; ``(16, 32, 64)`` is the CIFAR family, ``(64, 128, 256, 512)`` that of ResNet-18.
        blocks: residual blocks in each stage; 1, 3 give depths 8, 20 with three stages, 2 depth 18 with four.
        channels: of the image.
        outputs: of the network.
        norm: ``"batch"``, or ``"layer"`` (one group over channels and positions).

    Raises:
        ValueError: an unknown norm, no widths, or a number below 1.

    Example:
        >>> network = ResNet((4, 8), blocks=1, channels=1)
        >>> network(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 3,
        channels: int = 3,
        outputs: int = 10,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"no norm {norm!r}: choose one of {', '.join(NORMS)}")
        widths = list(widths)
        if not widths or not all(is_whole(size, 1) for size in (*widths, blocks, channels, outputs)):
            raise ValueError("widths, blocks, channels and outputs must be whole numbers >= 1")
        widths = [int(width) for width in widths]
        blocks, channels, outputs = int(blocks), int(channels), int(outputs)
        self.options = {
            "widths": widths,
            "blocks": blocks,
            "channels": channels,
            "outputs": outputs,
            "norm": norm,
        }
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.stem_norm = NORMS[norm](widths[0])
        self.stages = nn.ModuleList()
        before = widths[0]
        for width in widths:
            stride = 1 if len(self.stages) == 0 else 2  # every stage but the first halves the image
            stage = nn.ModuleList([ResidualBlock(before, width, stride, norm)])
            for _ in range(blocks - 1):
                stage.append(ResidualBlock(width, width, 1, norm))
            self.stages.append(stage)
            before = width
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, outputs) of images (n, channels, h, w)."""
        x = torch.relu(self.stem_norm(self.stem(x)))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        means = x.mean((-2, -1))  # (n, widths[-1])
        return self.head(means)

    @property
    def architecture(self) -> dict[str, Any]:
        """What :func:`build` needs to make this network again."""
        return {"class": "ResNet", **self.options}
