"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from dwflow_lite.support.checks import is_number, is_whole

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU, "identity": nn.Identity}


class MLP(nn.Module):
    """A multilayer perceptron: linear layers with an elementwise activation between them.

    Args:
        sizes: widths from input to output, e.g. ``[784, 32, 32, 10]``: two hidden layers.
        activation: ``relu``, ``gelu``, ``tanh``, ``silu`` or ``identity``.
        dropout: the share of hidden units that training leaves out, anew for every example; from 0 to below 1.

    Raises:
        ValueError: fewer than two sizes, one that is no whole number >= 1, an unknown activation, or a dropout out of
            range.

    Example:
        >>> import torch
        >>> network = MLP([64, 32, 10])
        >>> network(torch.zeros(5, 1, 8, 8)).shape  # inputs are flattened
        torch.Size([5, 10])
        >>> sum(p.numel() for p in network.parameters())
        2410
    """

    def __init__(self, sizes: Sequence[int], activation: str = "relu", dropout: float = 0.0) -> None:
        super().__init__()
        if len(sizes) < 2 or not all(is_whole(size, 1) for size in sizes):
            raise ValueError(f"sizes must be at least two whole numbers >= 1 (input … output), got {list(sizes)}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"no activation {activation!r}: choose one of {', '.join(ACTIVATIONS)}")
        if not is_number(dropout, 0) or dropout >= 1:
            raise ValueError(f"dropout must be a number from 0 to below 1, got {dropout!r}")
        self.sizes = tuple(int(size) for size in sizes)
        self.activation_name = activation
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(self.sizes))
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(float(dropout)) if dropout > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, sizes[-1]) of inputs (n, ...), which are flattened to (n, sizes[0])."""
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
            if self.dropout is not None:
                x = self.dropout(x)
        return self.layers[-1](x)

    @property
    def architecture(self) -> dict[str, Any]:
        """What :func:`build` needs to make this network again."""
        options = {} if self.dropout is None else {"dropout": self.dropout.p}
        return {"class": "MLP", "sizes": list(self.sizes), "activation": self.activation_name} | options
