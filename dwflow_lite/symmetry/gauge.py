"""Continuous symmetries, which permuting units leaves: scales, signs and bases that change no output.

Each is fixed by choosing one network among all that compute the same: for every member at once, in float64, without
a reference. Do it before matching, whose scores are weighted by scale.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dwflow_lite.batchnorm import norms_with_statistics
from dwflow_lite.networks import BERT, MLP, ResNet, ViT
from dwflow_lite.symmetry.architectures import BERT_NAMES
from dwflow_lite.zoo.zoo import Zoo


def fix_gauge(zoo: Zoo) -> Zoo:
    """The gauge that fits the zoo's network: :func:`balance_relu`, :func:`normalise_filters` or :func:`fix_circuits`.

    Args:
        zoo: of MLPs with ReLU, ResNets with BatchNorm, ViTs or BERTs of the course, weights (N, d); not changed.

    Raises:
        ValueError: another network. Tanh, for one, has signs only; GELU and LayerNorm leave no scale of units.
    """
    methods = {MLP: balance_relu, ResNet: normalise_filters, ViT: fix_circuits, BERT: fix_circuits}
    if type(zoo.network) not in methods:
        raise ValueError(f"no gauge is known for {type(zoo.network).__name__}, only for MLP, ResNet, ViT and BERT")
    return methods[type(zoo.network)](zoo)


@torch.no_grad()
def balance_relu(zoo: Zoo, tolerance: float = 1e-9, max_sweeps: int = 1000) -> Zoo:
    """Scale every ReLU unit so that the weights into it (with its bias) and out of it have the same norm.

    relu(c x) = c relu(x) for c > 0. Balancing one layer unbalances its neighbours, so layers are swept to the fixed
    point. There is one only: the copy of the network whose weights have the least sum of squares, which is convex in
    the logarithms of the scales ("Equi-normalization of Neural Networks", arXiv 1902.10416).

    Args:
        zoo: of MLPs with ReLU, weights (N, d); not changed.
        tolerance: stop after a sweep in which no |log c| reached it.
        max_sweeps: give up after so many.

    Returns:
        A zoo of the same functions. A unit with no weight on one side (dead, or unused) keeps its scale.

    Raises:
        ValueError: another network.
        RuntimeError: ``max_sweeps`` were not enough.
    """
    network = zoo.network
    if type(network) is not MLP or type(network.activation) is not nn.ReLU:
        name = f"MLP with {type(network.activation).__name__}" if type(network) is MLP else type(network).__name__
        raise ValueError(f"only a plain MLP with ReLU has a scale for every unit, not {name}")
    state = _state(zoo)
    largest = float("inf")
    for sweep in range(1, max_sweeps + 1):
        changes = []
        for i in range(len(network.layers) - 1):
            weight, bias = state[f"layers.{i}.weight"], state[f"layers.{i}.bias"]
            changes.append(balance_layer(weight, bias, state[f"layers.{i + 1}.weight"]))
        largest = float(torch.stack(changes).max()) if changes else 0.0  # read once a sweep: a GPU is waited for
        if largest < tolerance:
            return _fixed(zoo, state, "balance relu", {"tolerance": tolerance, "sweeps": sweep})
    raise RuntimeError(f"not balanced after {max_sweeps} sweeps: the last had |log c| up to {largest:.2g}")


def balance_layer(weight: Tensor, bias: Tensor, after: Tensor) -> Tensor:
    """Balance the units of one layer, in place: the largest |log c| by which one was scaled, ().

    Args:
        weight: (N, units, inputs) of the layer.
        bias: (N, units) of the layer.
        after: (N, outputs, units), the weight of the next layer.
    """
    inward = torch.cat([weight, bias[..., None]], -1).norm(dim=-1)  # (N, units)
    outward = after.norm(dim=-2)
    is_used = (inward > 0) & (outward > 0)
    c = torch.where(is_used, outward / inward, 1.0).sqrt()
    weight *= c[..., None]
    bias *= c
    after /= c[:, None]
    return c.log().abs().max()


@torch.no_grad()
def normalise_filters(zoo: Zoo) -> Zoo:
    """Give every filter before a BatchNorm norm one, and the sign that makes the BatchNorm's gain positive.

    BatchNorm divides by the filter's scale again. Running mean and variance are those of the new filter, and the gain
    makes up for eps: in eval mode outputs are exact. In training mode, and once statistics are measured afresh, they
    are exact but for eps: a channel's gain is off by about eps/2 · (norm² - 1)(1/batch variance - 1/running variance).
    (Measured in four blocks with random filters of norm 0.3 to 4.7: outputs off by 1.3e-4 of the largest, and by
    1.3e-12 with eps = 1e-13; small networks trained on digits: 1.4e-6.)

    Args:
        zoo: of ResNets with BatchNorm, weights (N, d); not changed.

    Returns:
        A zoo of the same functions. A filter of zeros stays. A gain of zero leaves its filter's sign open, as it was.
        Left free: ReLU's scale between one BatchNorm and the filters that read it (in the stream: and all that adds).

    Raises:
        ValueError: another network, or a running variance below zero.
    """
    network = zoo.network
    norms = norms_with_statistics(network)
    norm_after = {
        convolution: _norm_after(convolution)
        for convolution, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.bias is None
    }
    if type(network) is not ResNet or set(norm_after.values()) != set(norms):
        name = f"ResNet with norm={network.options['norm']!r}" if type(network) is ResNet else type(network).__name__
        raise ValueError(f"only a plain ResNet with BatchNorm (and its statistics) has free filters, not {name}")
    state = _state(zoo)
    lowest = torch.stack([state[f"{norm}.running_var"].amin() for norm in norms]).tolist()
    for norm, variance in zip(norms, lowest, strict=True):
        if variance < 0:
            raise ValueError(f"{norm} has running variances below zero: recalibrate(zoo, task) first")
    normalise(state, norm_after, {name: norm.eps for name, norm in norms.items()})
    return _fixed(zoo, state, "normalise filters")


def normalise(state: dict[str, Tensor], norm_after: Mapping[str, str], eps_of: Mapping[str, float]) -> None:
    """Give filters norm one and the sign that makes the gain after them positive, in place.

    Args:
        state: tensors (N, *shape) of N networks.
        norm_after: convolution -> the norm that reads it.
        eps_of: of each norm.
    """
    for convolution, norm in norm_after.items():
        weight = state[f"{convolution}.weight"]  # (N, filters, inputs, k, k)
        gain, mean, variance = (state[f"{norm}.{part}"] for part in ("weight", "running_mean", "running_var"))
        length = weight.flatten(2).norm(dim=-1)  # (N, filters)
        sign = torch.where(gain < 0, -1, 1)
        factor = torch.where(length > 0, sign / length, 1.0)
        eps = eps_of[norm]  # the norm divides by √(variance + eps): the part that does not scale, the gain makes up
        gain *= ((variance * factor**2 + eps) / (variance + eps)).sqrt() / factor
        weight *= factor[..., None, None, None]
        mean *= factor
        variance *= factor**2


def _norm_after(convolution: str) -> str:
    """The name of the norm that reads a convolution of a ResNet: stem, conv1, conv2 or shortcut.0."""
    if convolution == "stem":
        return "stem_norm"
    if convolution.endswith("shortcut.0"):
        return convolution.removesuffix("0") + "1"
    return convolution.replace("conv", "norm")


@torch.no_grad()
def fix_circuits(zoo: Zoo) -> Zoo:
    """Write the two circuits of every attention head in the basis of their singular vectors.

    Logits depend on queries and keys only through [W_q b_q]ᵀ [W_k b_k], the output only through W_o [W_v b_v]: the
    dim/heads units between them may be mixed by any invertible matrix (the circuits: "A Mathematical Framework for
    Transformer Circuits", Elhage et al. 2021). Of each product U S Vᵀ both sides take the square root of S, so units
    come in order of singular value, and the largest entry of each column of U (query side, output side) is positive.
    Two biases are not needed: what the key bias adds is the same for all keys, which softmax does not see, and
    attention sums to one, so the value bias passes into the projection's. Where two singular values, or the largest
    two entries, nearly tie, networks that are close may get units in another order, basis or sign: match afterwards.

    Args:
        zoo: of ViTs or BERTs, weights (N, d); not changed.

    Returns:
        A zoo of the same functions. Left free: LayerNorm's gain and offset against the layers that read it; what is
        the same in all units of the stream; the order of heads and of hidden units.

    Raises:
        ValueError: another network.
    """
    state = _state(zoo)
    for layers, heads in _attentions(zoo.network):
        _drop_biases(state, layers)
        query, key, value = (_by_head(state, layers[name], heads) for name in ("query", "key", "value"))
        weight = state[f"{layers['project']}.weight"]  # (N, dim, heads units)
        project = weight.unflatten(2, (heads, -1)).transpose(1, 2)  # (N, heads, dim, units)
        query, key = _share_singular_values(query, key)
        project, value = _share_singular_values(project, value)
        state[f"{layers['project']}.weight"] = project.transpose(1, 2).flatten(2)
        for name, units in (("query", query), ("key", key), ("value", value)):
            rows = units.mT.flatten(1, 2)  # (N, heads, dim + 1, units) -> (N, heads units, dim + 1)
            state[f"{layers[name]}.weight"] = rows[..., :-1]
            state[f"{layers[name]}.bias"] = rows[..., -1]
    return _fixed(zoo, state, "fix circuits")


def _attentions(network: nn.Module) -> list[tuple[dict[str, str], int]]:
    """Of each attention the names of its layers (query, key, value, project), and how many heads it has."""
    parts = ("query", "key", "value", "project")
    attentions = []
    if type(network) is ViT:
        for i, block in enumerate(network.blocks):
            attentions.append(({part: f"blocks.{i}.{part}" for part in parts}, block.heads))
    elif type(network) is BERT:
        for i in range(network.options["depth"]):
            layers = {part: f"bert.encoder.layer.{i}.{BERT_NAMES[part]}" for part in parts}
            attentions.append((layers, network.options["heads"]))
    else:
        raise ValueError(f"only a ViT or a BERT has attention circuits, not {type(network).__name__}")
    return attentions


def _drop_biases(state: dict[str, Tensor], layers: Mapping[str, str]) -> None:
    """Take the key and the value bias out of an attention, in place; what the latter adds, the projection adds now."""
    project, value_bias = state[f"{layers['project']}.weight"], state[f"{layers['value']}.bias"]
    state[f"{layers['project']}.bias"] += (project @ value_bias[..., None])[..., 0]
    value_bias.zero_()
    state[f"{layers['key']}.bias"].zero_()


def _by_head(state: dict[str, Tensor], layer: str, heads: int) -> Tensor:
    """What a layer's units read, with its bias as one more input: (N, heads, dim + 1, units)."""
    weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]  # (N, dim, dim), (N, dim)
    rows = torch.cat([weight, bias[..., None]], -1)
    return rows.unflatten(1, (heads, -1)).mT


def _share_singular_values(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Factors (..., m, r), (..., n, r) of left @ rightᵀ = U S Vᵀ as U √S and V √S.

    The product (m, n) is never formed: with left = Q₁ R₁ and right = Q₂ R₂ it is Q₁ (R₁ R₂ᵀ) Q₂ᵀ, the middle r x r.
    """
    q1, r1 = torch.linalg.qr(left)
    q2, r2 = torch.linalg.qr(right)
    u, values, vt = torch.linalg.svd(r1 @ r2.mT)
    u, v = q1 @ u, q2 @ vt.mT
    largest = u.gather(-2, u.abs().argmax(-2, keepdim=True))  # (..., 1, r): of each column the largest entry
    sign = torch.where(largest < 0, -1, 1)
    roots = sign * values.sqrt()[..., None, :]
    return u * roots, v * roots


def _state(zoo: Zoo) -> dict[str, Tensor]:
    """The tensors (N, *shape) in float64, free to be changed."""
    return zoo.layout.unflatten(zoo.weights.to(torch.float64, copy=True))


def _fixed(zoo: Zoo, state: dict[str, Tensor], method: str, options: Mapping[str, float] | None = None) -> Zoo:
    weights = zoo.layout.flatten(state).to(zoo.weights.dtype)
    stage = {"stage": "fix gauge", "method": method} | dict(options or {})
    return zoo.with_weights(weights, stage, keep_scores=True)
