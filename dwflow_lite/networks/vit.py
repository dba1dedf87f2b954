"""The vision transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dwflow_lite.support.checks import is_whole


class AttentionBlock(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron, each added to the stream (arXiv 2010.11929).

    Args:
        dim: of the stream, a multiple of ``heads``.
        heads: of the attention.
        hidden: units of the perceptron.
    """

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.project = nn.Linear(dim, dim)
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Stream (n, tokens, dim) to stream."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))

    def attention(self, x: Tensor) -> Tensor:
        """What the tokens tell each other: (n, tokens, dim) to (n, tokens, dim)."""
        queries = self._by_head(self.query(x))
        keys = self._by_head(self.key(x))
        values = self._by_head(self.value(x))
        scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5  # (n, heads, tokens, tokens)
        heads = scores.softmax(-1) @ values  # (n, heads, tokens, dim / heads)
        return self.project(heads.transpose(1, 2).flatten(2))

    def _by_head(self, x: Tensor) -> Tensor:
        """(n, tokens, dim) to (n, heads, tokens, dim / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Tokens(nn.Module):
    """Put a learned class token first, and add a learned position to every token.

    Args:
        patches: tokens of the input.
        dim: of each token.
    """

    def __init__(self, patches: int, dim: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(1, dim))
        self.position = nn.Parameter(torch.empty(patches + 1, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero token, positions of standard deviation 0.02."""
        nn.init.zeros_(self.first)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(n, patches, dim) to (n, 1 + patches, dim)."""
        first = self.first.expand(len(x), 1, -1)
        return torch.cat([first, x], 1) + self.position


class ViT(nn.Module):
    """A vision transformer: patches and one class token, pre-norm blocks, linear head on the class token.

    Args:
        image: side of the square image in pixels, a multiple of ``patch``.
        patch: side of a patch in pixels.
        dim: of the stream, a multiple of ``heads``.
        depth: blocks.
        heads: of each attention.
        hidden: units of each block's perceptron; 4 ``dim`` by default.
        channels: of the image.
        outputs: of the network.

    The defaults are the paper's ViT-Small-192 for CIFAR (2,693,578 parameters), without its dropout.

    Raises:
        ValueError: a number below 1, ``image`` no multiple of ``patch``, or ``dim`` no multiple of ``heads``.

    Example:
        >>> network = ViT(image=8, patch=4, dim=12, depth=2, heads=3, channels=1)
        >>> network(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(  # noqa: PLR0913 - one argument for each number that makes a vision transformer
        self,
        image: int = 32,
        patch: int = 4,
        dim: int = 192,
        depth: int = 6,
        heads: int = 3,
        hidden: int | None = None,
        channels: int = 3,
        outputs: int = 10,
    ) -> None:
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        sizes = {
            "image": image,
            "patch": patch,
            "dim": dim,
            "depth": depth,
            "heads": heads,
            "hidden": hidden,
            "channels": channels,
            "outputs": outputs,
        }
        if not all(is_whole(size, 1) for size in sizes.values()) or image % patch != 0 or dim % heads != 0:
            raise ValueError("sizes must be whole numbers >= 1, image a multiple of patch and dim one of heads")
        self.options = {name: int(size) for name, size in sizes.items()}
        image, patch, dim, depth, heads, hidden, channels, outputs = self.options.values()
        self.patches = nn.Conv2d(channels, dim, patch, patch)
        self.tokens = Tokens((image // patch) ** 2, dim)
        self.blocks = nn.ModuleList(AttentionBlock(dim, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, outputs) of images (n, channels, image, image)."""
        patches = self.patches(x).flatten(2).transpose(1, 2)  # (n, patches, dim)
        x = self.tokens(patches)  # (n, 1 + patches, dim)
        for block in self.blocks:
            x = block(x)
        class_token = x[:, 0]  # (n, dim)
        return self.head(self.norm(class_token))

    @property
    def architecture(self) -> dict[str, Any]:
        """What :func:`build` needs to make this network again."""
        return {"class": "ViT", **self.options}
