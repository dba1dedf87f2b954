"""The axes and heads of the networks of the course: which of their units can be permuted."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from dwflow_lite.networks import ACTIVATIONS, BERT, MLP, ResNet, ViT
from dwflow_lite.symmetry.axes import AxesOfTensors, Heads

STREAM = "stream"  # the units that every block of a transformer reads and adds to


def known_axes(network: nn.Module) -> tuple[AxesOfTensors, Heads] | None:
    """Axes and heads of an MLP, ResNet, ViT or BERT of the course, its stream free; None for any other network.

    A subclass may compute anything, and an activation that was put in later need not be elementwise: neither is known.
    """
    kind = type(network)
    if kind is MLP and _is_elementwise(network.activation):
        return _mlp_axes(network), {}
    if kind is ResNet:
        return _resnet_axes(network), {}
    if kind is ViT:
        return _vit_axes(network)
    if kind is BERT:
        return _bert_axes(network)
    return None


def _is_elementwise(activation: nn.Module) -> bool:
    """Whether it is one of the course's activations; not ``identity``, which leaves more than permutations free."""
    elementwise = [kind for name, kind in ACTIVATIONS.items() if name != "identity"]
    return type(activation) in elementwise


def _mlp_axes(network: MLP) -> AxesOfTensors:
    """One group for each hidden layer: rows and bias of one linear layer, columns of the next."""
    axes: AxesOfTensors = {}
    last = len(network.layers) - 1
    for i in range(len(network.layers)):
        outputs = f"hidden{i}" if i < last else None
        inputs = f"hidden{i - 1}" if i > 0 else None
        axes[f"layers.{i}.weight"] = (outputs, inputs)
        axes[f"layers.{i}.bias"] = (outputs,)
    return axes


def _resnet_axes(network: ResNet) -> AxesOfTensors:
    """One group for the stream of each stage, which every block of it adds to; one for the inside of each block."""
    axes: AxesOfTensors = {}
    axes |= _convolution_axes(network, "stem", "stem_norm", None, "stream0")
    stream = "stream0"
    for s, stage in enumerate(network.stages):
        for b, block in enumerate(stage):
            name = f"stages.{s}.{b}"
            inside = f"stage{s}.block{b}"
            after = f"stream{s}"
            axes |= _convolution_axes(network, f"{name}.conv1", f"{name}.norm1", stream, inside)
            axes |= _convolution_axes(network, f"{name}.conv2", f"{name}.norm2", inside, after)
            if block.shortcut is not None:
                axes |= _convolution_axes(network, f"{name}.shortcut.0", f"{name}.shortcut.1", stream, after)
            stream = after
    axes["head.weight"] = (None, stream)
    axes["head.bias"] = (None,)
    return axes


def _convolution_axes(network: ResNet, convolution: str, norm: str, inputs: str | None, outputs: str) -> AxesOfTensors:
    """A convolution without bias, whose channels the norm after it scales, shifts and (BatchNorm) measures."""
    axes: AxesOfTensors = {f"{convolution}.weight": (outputs, inputs, None, None)}
    module = network.get_submodule(norm)
    for part in ("weight", "bias", "running_mean", "running_var"):
        if getattr(module, part, None) is not None:
            axes[f"{norm}.{part}"] = (outputs,)
    return axes


def _vit_axes(network: ViT) -> tuple[AxesOfTensors, Heads]:
    """The stream, which every block reads and adds to; inside each block heads, units inside them, hidden units."""
    axes: AxesOfTensors = {
        "patches.weight": (STREAM, None, None, None),
        "patches.bias": (STREAM,),
        "tokens.first": (None, STREAM),
        "tokens.position": (None, STREAM),
        "norm.weight": (STREAM,),
        "norm.bias": (STREAM,),
        "head.weight": (None, STREAM),
        "head.bias": (None,),
    }
    heads: Heads = {}
    for i, block in enumerate(network.blocks):
        layers = {layer: f"blocks.{i}.{layer}" for layer in BLOCK_LAYERS}
        axes |= _block_axes(f"block{i}", layers)
        heads |= _block_heads(f"block{i}", block.heads)
    return axes, heads


def _bert_axes(network: BERT) -> tuple[AxesOfTensors, Heads]:
    """As in a ViT; the units of the pooler, which only the head reads, are free."""
    axes: AxesOfTensors = {
        "bert.embeddings.word_embeddings.weight": (None, STREAM),
        "bert.embeddings.position_embeddings.weight": (None, STREAM),
        "bert.embeddings.token_type_embeddings.weight": (None, STREAM),
        "bert.embeddings.LayerNorm.weight": (STREAM,),
        "bert.embeddings.LayerNorm.bias": (STREAM,),
        "bert.pooler.dense.weight": ("pooler", STREAM),
        "bert.pooler.dense.bias": ("pooler",),
        "head.weight": (None, "pooler"),
        "head.bias": (None,),
    }
    heads: Heads = {}
    for i in range(network.options["depth"]):
        layers = {layer: f"bert.encoder.layer.{i}.{name}" for layer, name in BERT_NAMES.items()}
        axes |= _block_axes(f"block{i}", layers)
        heads |= _block_heads(f"block{i}", network.options["heads"])
    return axes, heads


BLOCK_LAYERS = ("query", "key", "value", "project", "up", "down", "norm1", "norm2")

# What Hugging Face calls them.
BERT_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "project": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm1": "attention.output.LayerNorm",
    "norm2": "output.LayerNorm",
}


def _block_axes(block: str, layers: Mapping[str, str]) -> AxesOfTensors:
    """Axes of one transformer block; ``layers`` gives the name of each of :data:`BLOCK_LAYERS` in the network."""
    weights = {
        "query": (f"{block}.query-key", STREAM),
        "key": (f"{block}.query-key", STREAM),
        "value": (f"{block}.value", STREAM),
        "project": (STREAM, f"{block}.value"),
        "up": (f"{block}.hidden", STREAM),
        "down": (STREAM, f"{block}.hidden"),
        "norm1": (STREAM,),
        "norm2": (STREAM,),
    }
    axes: AxesOfTensors = {}
    for layer in BLOCK_LAYERS:
        axes[f"{layers[layer]}.weight"] = weights[layer]
        axes[f"{layers[layer]}.bias"] = weights[layer][:1]
    return axes


def _block_heads(block: str, heads: int) -> Heads:
    """Queries and keys share one order of units inside a head, values and the projection another."""
    return {block: (heads, (f"{block}.query-key", f"{block}.value"))}
