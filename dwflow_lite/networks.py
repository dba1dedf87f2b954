"""The networks of the course, written plainly, and how their weights start."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dwflow_lite.support.checks import failing_as
from dwflow_lite.tasks.text import PADDING

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU, "identity": nn.Identity}
INITS = ("default", "kaiming", "xavier", "uniform", "normal")


class MLP(nn.Module):
    """A multilayer perceptron: linear layers with an elementwise activation between them.

    Args:
        sizes: widths from input to output, e.g. ``[784, 32, 32, 10]``: two hidden layers.
        activation: ``relu``, ``gelu``, ``tanh``, ``silu`` or ``identity``.

    Input of shape (n, ...) is flattened to (n, sizes[0]); output (n, sizes[-1]).
    """

    def __init__(self, sizes: Sequence[int], activation: str = "relu") -> None:
        super().__init__()
        if len(sizes) < 2 or any(not isinstance(s, int) or s < 1 for s in sizes):
            raise ValueError(f"sizes must be at least two whole numbers >= 1 (input … output), got {list(sizes)}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"no activation {activation!r}: choose one of {', '.join(ACTIVATIONS)}")
        self.sizes, self.activation_name = tuple(sizes), activation
        self.layers = nn.ModuleList(nn.Linear(m, n) for m, n in zip(sizes[:-1], sizes[1:], strict=True))
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, sizes[-1]) of inputs (n, ...)."""
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)

    @property
    def architecture(self) -> dict[str, Any]:
        """What :func:`build` needs to make this network again."""
        return {"class": "MLP", "sizes": list(self.sizes), "activation": self.activation_name}


NORMS = {"batch": nn.BatchNorm2d, "layer": lambda channels: nn.GroupNorm(1, channels)}


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions added to their input, which passes a 1 × 1 convolution where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = NORMS[norm](outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = NORMS[norm](outputs)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), NORMS[norm](outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        y = torch.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return torch.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    """A residual network for small images (arXiv 1512.03385): 3 × 3 stem, stages that halve the image, mean, linear.

    Args:
        widths: channels of each stage; ``(16, 32, 64)`` is the CIFAR family, ``(64, 128, 256, 512)`` that of ResNet-18.
        blocks: residual blocks in each stage; 1, 3 give depths 8, 20 with three stages, 2 depth 18 with four.
        channels: of the image. outputs: of the network.
        norm: ``"batch"``, or ``"layer"`` (one group over channels and positions).
    """

    def __init__(
        self, widths: Sequence[int] = (16, 32, 64), blocks: int = 3, channels: int = 3, outputs: int = 10,
        norm: str = "batch",
    ) -> None:  # fmt: skip
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"no norm {norm!r}: choose one of {', '.join(NORMS)}")
        if not widths or min(*widths, blocks, channels, outputs) < 1:
            raise ValueError("widths, blocks, channels and outputs must be whole numbers >= 1")
        self.options = dict(widths=list(widths), blocks=blocks, channels=channels, outputs=outputs, norm=norm)
        self.stem, self.stem_norm = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), NORMS[norm](widths[0])
        before = [widths[0], *widths[:-1]]
        self.stages = nn.ModuleList(
            nn.ModuleList(
                ResidualBlock(m if b == 0 else n, n, 2 if b == 0 and s > 0 else 1, norm) for b in range(blocks)
            )
            for s, (m, n) in enumerate(zip(before, widths, strict=True))
        )
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, outputs) of images (n, channels, h, w)."""
        x = torch.relu(self.stem_norm(self.stem(x)))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.head(x.mean((-2, -1)))

    @property
    def architecture(self) -> dict[str, Any]:
        """What :func:`build` needs to make this network again."""
        return {"class": "ResNet", **self.options}


class AttentionBlock(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron, each added to the stream (arXiv 2010.11929)."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value, self.project = (nn.Linear(dim, dim) for _ in range(4))
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Stream (n, tokens, dim) to stream."""
        y = self.norm1(x)
        q, k, v = (f(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + self.project((weights @ v).transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class ViT(nn.Module):
    """A vision transformer: patches and one class token, pre-norm blocks, linear head on the class token.

    Args:
        image: side of the square image, a multiple of ``patch``. patch: side of a patch.
        dim: of the stream, a multiple of ``heads``. depth: blocks. heads: of each attention.
        hidden: units of each block's perceptron; 4 ``dim`` by default.
        channels: of the image. outputs: of the network.

    The defaults are the paper's ViT-Small-192 for CIFAR (2,693,578 parameters), without its dropout.
    """

    def __init__(
        self, image: int = 32, patch: int = 4, dim: int = 192, depth: int = 6, heads: int = 3,
        hidden: int | None = None, channels: int = 3, outputs: int = 10,
    ) -> None:  # fmt: skip
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        if min(image, patch, dim, depth, heads, hidden, channels, outputs) < 1 or image % patch or dim % heads:
            raise ValueError("sizes must be whole numbers >= 1, image a multiple of patch and dim one of heads")
        self.options = dict(image=image, patch=patch, dim=dim, depth=depth, heads=heads, hidden=hidden,
                            channels=channels, outputs=outputs)  # fmt: skip
        self.patches = nn.Conv2d(channels, dim, patch, patch)
        self.tokens = Tokens((image // patch) ** 2, dim)
        self.blocks = nn.ModuleList(AttentionBlock(dim, heads, hidden) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, outputs) of images (n, channels, image, image)."""
        x = self.tokens(self.patches(x).flatten(2).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))

    @property
    def architecture(self) -> dict[str, Any]:
        """What :func:`build` needs to make this network again."""
        return {"class": "ViT", **self.options}


class Tokens(nn.Module):
    """Put a learned class token first, and add a learned position to every token."""

    def __init__(self, patches: int, dim: int) -> None:
        super().__init__()
        self.first, self.position = nn.Parameter(torch.empty(1, dim)), nn.Parameter(torch.empty(patches + 1, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero token, positions of standard deviation 0.02."""
        nn.init.zeros_(self.first)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(n, patches, dim) to (n, 1 + patches, dim)."""
        return torch.cat([self.first.expand(len(x), 1, -1), x], 1) + self.position


class BERT(nn.Module):
    """A transformer for text (arXiv 1810.04805): the ``BertModel`` of Hugging Face, linear head on its pooled output.

    Args:
        vocabulary: number of tokens; 0 is padding, which no token attends to.
        dim: of the stream, a multiple of ``heads``. depth: blocks. heads: of each attention.
        hidden: units of each block's perceptron. length: of the longest text, in tokens.
        outputs: of the network. dropout: everywhere where BERT has it.

    The defaults are BERT-base (109,483,009 parameters with the head). It is built here and starts from
    :meth:`reset_parameters`; nothing is downloaded.

    Raises:
        ImportError: ``transformers``, the extra ``text`` of this package, is not installed.
    """

    def __init__(
        self, vocabulary: int = 30522, dim: int = 768, depth: int = 12, heads: int = 12, hidden: int = 3072,
        length: int = 512, outputs: int = 1, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        with failing_as("BERT needs transformers: pip install 'dwflow-lite[text]'", ImportError):
            from transformers import BertConfig, BertModel
        if min(vocabulary - 1, dim, depth, heads, hidden, length, outputs) < 1 or dim % heads or not 0 <= dropout < 1:
            raise ValueError(
                "sizes must be whole numbers >= 1 (vocabulary >= 2), dim a multiple of heads, dropout from 0 to below 1"
            )
        self.options = dict(vocabulary=vocabulary, dim=dim, depth=depth, heads=heads, hidden=hidden, length=length,
                            outputs=outputs, dropout=dropout)  # fmt: skip
        self.bert = BertModel(BertConfig(
            vocab_size=vocabulary, hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads,
            intermediate_size=hidden, max_position_embeddings=length, hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout, attn_implementation="eager",
        ))  # fmt: skip
        self.head = nn.Linear(dim, outputs)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """BERT's own start: standard deviation 0.02, zero biases and padding, LayerNorms that change nothing."""
        for name, p in self.named_parameters():
            nn.init.normal_(p, std=0.02) if p.ndim > 1 else nn.init.constant_(p, name.endswith("LayerNorm.weight"))
        self.bert.embeddings.word_embeddings.weight[0] = 0.0

    def forward(self, tokens: Tensor) -> Tensor:
        """Outputs (n, outputs) of whole-number tokens (n, at most ``length``), each below ``vocabulary``."""
        if tokens.shape[1] > self.options["length"]:
            raise ValueError(f"texts of {tokens.shape[1]} tokens for a BERT of length {self.options['length']}")
        # Types, positions and mask are given ready: what BertModel would do depends on data, which vmap does not take.
        places = torch.arange(tokens.shape[1], device=tokens.device)[None]
        x = self.bert.embeddings(tokens, token_type_ids=torch.zeros_like(places), position_ids=places)
        mask = (tokens == PADDING)[:, None, None].to(x.dtype) * torch.finfo(x.dtype).min
        return self.head(self.bert.pooler(self.bert.encoder(x, attention_mask=mask)[0]))

    @property
    def architecture(self) -> dict[str, Any]:
        """What :func:`build` needs to make this network again."""
        return {"class": "BERT", **self.options}


NETWORKS = {"MLP": MLP, "ResNet": ResNet, "ViT": ViT, "BERT": BERT}


def architecture_of(network: nn.Module) -> dict[str, Any]:
    """The JSON-able description of a network; a reader's own (or a changed one) is named, with its modules."""
    if type(network) in NETWORKS.values() and "forward" not in vars(network):
        with torch.device("meta"):  # draws no weights
            plain = build(network.architecture)
        if repr(network) == repr(plain):
            return network.architecture
    return {"class": type(network).__qualname__, "custom": True, "modules": repr(network)}


def behaviour_of(network: nn.Module, input_shape: Sequence[int], training: bool = False) -> list[float]:
    """Outputs for two fixed inputs and fixed weights, rounded so that machines agree: what tells forward passes apart.

    Six digits in float64; three for a network that runs in its own precision only; one that takes neither is given
    tokens; empty if it does not take them either.
    """
    own = next(network.parameters()).dtype
    for dtype, largest, digits in ((torch.float64, 20.0, 6), (own, 1.0, 3), (torch.float64, None, 6)):
        try:
            outputs = _probe(deepcopy(network).cpu().to(dtype).train(training), input_shape, dtype, largest)
        except Exception:  # whatever a reader's own code raises
            continue
        outputs[outputs.abs() <= 1e-9 * outputs.abs().max()] = 0.0  # rounding noise
        return [float(f"{v:.{digits}g}") for v in outputs.tolist()]
    return []


@torch.no_grad()
def _probe(network: nn.Module, input_shape: Sequence[int], dtype: torch.dtype, largest: float | None) -> Tensor:
    """Fill every tensor of ``network`` with fixed numbers (all machines draw the same) and run it; None: on tokens."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random((2, *input_shape))).to(dtype)
    if largest is None:
        x = (2 * x).long()  # 0 and 1, which every vocabulary has
    else:
        x[1] *= largest  # a relu and a relu6 differ on large inputs only
    for p in network.parameters():
        bound = (3 / p[0].numel()) ** 0.5 if p.ndim > 1 else 1.0
        p.copy_(torch.from_numpy(rng.uniform(-bound, bound, p.shape)))
    for b in filter(torch.is_floating_point, network.buffers()):
        b.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, b.shape)))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return network(x).double().nan_to_num(0.0, 0.0, 0.0).flatten()


def build(architecture: dict[str, Any]) -> nn.Module:
    """The network a record describes; ``ValueError`` for a reader's own class, which the reader must supply."""
    options = dict(architecture)
    name = options.pop("class", None)
    if name not in NETWORKS or options.get("custom"):
        raise ValueError(f"cannot rebuild a {name!r} network from its record; pass it: Zoo.load(path, network=...)")
    return NETWORKS[name](**options)


def initialise(network: nn.Module, init: str = "default", seed: int = 0) -> dict[str, Tensor]:
    """Fresh parameters for ``network``, by name; neither the network nor the global generator is touched.

    Args:
        network: any module; ``"default"`` needs every parameter to sit in a module with ``reset_parameters``.
        init: ``"default"`` (PyTorch's own), or for tensors of two or more axes ``"kaiming"`` (He uniform),
            ``"xavier"`` (uniform), ``"uniform"`` (-0.1 … 0.1), ``"normal"`` (standard deviation 0.1), with
            biases zero; one-axis tensors that are not biases (norm gains) keep PyTorch's own start.
        seed: of this one member.
    """
    if init not in INITS:
        raise ValueError(f"no init {init!r}: choose one of {', '.join(INITS)}")
    fresh = deepcopy(network).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs' generators too
        modules = list(fresh.named_modules())
        parents = [m for m in modules if len(list(m[1].modules())) > 1]
        leaves = [m for m in modules if m not in parents]
        for path, module in leaves + parents[::-1]:  # children first: a parent that starts them has the last word
            own = list(module.parameters(recurse=False))
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif own:
                raise ValueError(
                    f"{path or type(module).__name__} holds parameters but has no reset_parameters(); "
                    "add that method to it so that every member can start afresh"
                )
    generator = torch.Generator().manual_seed(seed)
    fill = {
        "kaiming": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu", generator=generator),
        "xavier": lambda w: nn.init.xavier_uniform_(w, generator=generator),
        "uniform": lambda w: nn.init.uniform_(w, -0.1, 0.1, generator=generator),
        "normal": lambda w: nn.init.normal_(w, std=0.1, generator=generator),
    }
    parameters = {name: p.detach() for name, p in fresh.named_parameters()}
    if init != "default":
        for name, p in parameters.items():
            if p.ndim >= 2:
                fill[init](p)
            elif name.endswith("bias"):
                p.zero_()
    return parameters
