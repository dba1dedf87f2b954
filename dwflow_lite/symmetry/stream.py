"""The residual stream of a transformer may be rotated, not only permuted (after arXiv 2506.22712)."""

from __future__ import annotations

import torch
from torch import Tensor

from dwflow_lite.networks import ViT
from dwflow_lite.support.devices import generator_from
from dwflow_lite.symmetry.architectures import STREAM
from dwflow_lite.symmetry.matching import Matching, checked_states, coordinate_descent, inner_product, unit_similarity
from dwflow_lite.symmetry.permutation import Permutation
from dwflow_lite.symmetry.rotation import best_rotation, rotate_stream
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.zoo.zoo import Zoo


@torch.no_grad()
def fold_norms(zoo: Zoo) -> Zoo:
    """Move the gain and offset of every LayerNorm into the layers that read it, and take the mean off what is written.

    A LayerNorm without gain and offset sees only the direction of the stream across the all-ones vector; then every
    rotation that leaves that vector alone is a symmetry.

    Args:
        zoo: of ViTs, weights (N, d); not changed.

    Returns:
        A zoo of the same functions, whose LayerNorms have gain one and offset zero.

    Raises:
        ValueError: another network.
    """
    if type(zoo.network) is not ViT:
        raise ValueError(f"only a ViT has norms to fold, not {type(zoo.network).__name__}")
    state = zoo.layout.unflatten(zoo.weights.to(torch.float64, copy=True))  # views of one copy, changed in place
    for norm, layers in _readers(zoo.network).items():
        gain, offset = state[f"{norm}.weight"], state[f"{norm}.bias"]  # (N, dim)
        for layer in layers:
            weight = state[f"{layer}.weight"]  # (N, outputs, dim)
            state[f"{layer}.bias"] += (weight @ offset[..., None])[..., 0]
            weight *= gain[:, None]
            weight -= weight.mean(-1, keepdim=True)  # what it reads has mean zero
        gain.fill_(1)
        offset.zero_()
    for name, axis in _writers(zoo.network):
        state[name] -= state[name].mean(1 + axis, keepdim=True)  # (axis 0: members.) The next norm takes it off anyway.
    weights = zoo.layout.flatten(state).to(zoo.weights.dtype)
    return zoo.with_weights(weights, {"stage": "fix gauge", "method": "fold norms"}, keep_scores=True)


def _readers(network: ViT) -> dict[str, list[str]]:
    """Each LayerNorm of a ViT, and the layers that read what it returns."""
    readers = {"norm": ["head"]}
    for i in range(len(network.blocks)):
        readers[f"blocks.{i}.norm1"] = [f"blocks.{i}.{layer}" for layer in ("query", "key", "value")]
        readers[f"blocks.{i}.norm2"] = [f"blocks.{i}.up"]
    return readers


def _writers(network: ViT) -> list[tuple[str, int]]:
    """The tensors of a ViT that write to the stream, each with the axis that runs over it."""
    writers = [("patches.weight", 0), ("patches.bias", 0), ("tokens.first", 1), ("tokens.position", 1)]
    for i in range(len(network.blocks)):
        for layer in ("project", "down"):
            writers += [(f"blocks.{i}.{layer}.weight", 0), (f"blocks.{i}.{layer}.bias", 0)]
    return writers


def match_stream(
    a: Tensor, b: Tensor, spec: PermutationSpec, start: Permutation | None = None, *, seed: int = 0, rounds: int = 100
) -> Matching:
    """Write ``b`` in the basis of ``a``: the stream rotated, heads and hidden units permuted, in turn, until no gain.

    Args:
        a: reference weights (d,) of a folded network (:func:`fold_norms`).
        b: weights (d,) of another one.
        spec: with the stream free.
        start: where to begin; the identity by default.
        seed: of the order of groups.
        rounds: at most so many.

    Returns:
        A matching with a ``rotation``, the product of all that were made; an order of the stream in ``start`` is the
        first of them, so that its ``permutation`` leaves the stream alone. Its objective is <a, moved b>, at the start
        and after each round.
    """
    without_stream = spec.fix(STREAM)
    generator = generator_from(seed)
    one, other = checked_states(a.double(), b.double(), spec)
    start = spec.identity() if start is None else start
    moved = spec.permute(other, start)

    # Rotations act on the stream and permutations on all other groups: they commute, and are collected apart.
    rotation = torch.eye(spec.groups[STREAM], dtype=torch.float64)[start.indices[STREAM]]
    permutation = Permutation({group: start.indices[group] for group in without_stream.groups})

    objective = [inner_product(one, moved)]
    tolerance = 1e-9 * inner_product(one, one)
    for number in range(rounds):
        turn = best_rotation(unit_similarity(one, moved, spec, STREAM))
        moved = rotate_stream(moved, spec, turn)
        rotation = turn @ rotation
        descent = coordinate_descent(one, moved, without_stream, without_stream.identity(), generator)
        moved = without_stream.permute(moved, descent.permutation)
        permutation = descent.permutation.compose(permutation)
        objective.append(descent.objective[-1])
        if number > 0 and objective[-1] <= objective[-2] + tolerance:
            break
    stream_stays = torch.arange(spec.groups[STREAM])
    return Matching(Permutation({**permutation.indices, STREAM: stream_stays}), objective, rotation=rotation)
