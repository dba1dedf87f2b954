"""The residual stream of a transformer may be rotated, not only renumbered (after arXiv 2506.22712)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dwflow_lite.networks import ViT
from dwflow_lite.symmetry.matching import coordinate_descent, inner_product, unit_similarity
from dwflow_lite.symmetry.spec import Permutation, PermutationSpec
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
    state = zoo.layout.unflatten(zoo.weights.to(torch.float64, copy=True))
    readers = {"norm": ["head"]}
    for i in range(len(zoo.network.blocks)):
        readers[f"blocks.{i}.norm1"] = [f"blocks.{i}.{layer}" for layer in ("query", "key", "value")]
        readers[f"blocks.{i}.norm2"] = [f"blocks.{i}.up"]
    for norm, layers in readers.items():
        gain, offset = state[f"{norm}.weight"], state[f"{norm}.bias"]
        for layer in layers:
            weight = state[f"{layer}.weight"]
            state[f"{layer}.bias"] += (weight @ offset[..., None])[..., 0]
            weight *= gain[:, None]
            weight -= weight.mean(-1, keepdim=True)  # what it reads has mean zero
        gain.fill_(1)
        offset.zero_()
    for use in PermutationSpec.of(zoo.network, stream=True).uses["stream"]:
        if use.name.split(".")[-2] not in (*readers, "norm1", "norm2", "query", "key", "value", "up", "head"):
            state[use.name] -= state[use.name].mean(1 + use.axis, keepdim=True)  # the next norm takes it off anyway
    weights = zoo.layout.flatten(state).to(zoo.weights.dtype)
    return zoo.with_weights(weights, {"stage": "fix gauge", "method": "fold norms"}, keep_scores=True)


def rotate_stream(state: Mapping[str, Tensor], spec: PermutationSpec, rotation: Tensor) -> dict[str, Tensor]:
    """Named tensors of one network with the stream in another basis: ``rotation`` (dim, dim) times every stream axis.

    Of the same function if the norms are folded and the rotation is orthogonal and leaves the all-ones vector alone.
    """
    turned = dict(state)
    for use in spec.uses["stream"]:
        tensor = turned[use.name].movedim(use.axis, 0)
        turned[use.name] = torch.tensordot(rotation.to(tensor), tensor, 1).movedim(0, use.axis)
    return turned


def best_rotation(similarity: Tensor) -> Tensor:
    """The orthogonal matrix (n, n) with the largest inner product with similarities, that leaves all-ones alone.

    Orthogonal Procrustes: what :func:`best_orders` finds among permutations, found among rotations by one SVD.
    """
    n = len(similarity)
    ones = torch.full((n, 1), n**-0.5, dtype=similarity.dtype)
    across = torch.linalg.svd(ones)[0][:, 1:]  # a basis of all that is at right angles to it
    u, _, vt = torch.linalg.svd(across.T @ similarity @ across)
    return ones @ ones.T + across @ (u @ vt) @ across.T


def match_stream(
    a: Tensor, b: Tensor, spec: PermutationSpec, start: Permutation | None = None, *, seed: int = 0, rounds: int = 100
) -> Tensor:
    """Write ``b`` in the basis of ``a``: the stream rotated, heads and hidden units renumbered, in turn, until no gain.

    Args:
        a: reference weights (d,) of a folded network. b: weights (d,) of another (:func:`fold_norms`).
        spec: with the stream free. start: where to begin; the identity by default.
        seed: of the order of groups. rounds: at most so many.

    Returns:
        Weights (d,) of the function of ``b``.
    """
    fixed, generator = spec.fix("stream"), torch.Generator().manual_seed(seed)
    one, other = (spec.parameters(w.detach().double().cpu()) for w in (a, b))
    other = spec.rename(other, start or spec.identity())
    best, tolerance = -torch.inf, 1e-9 * inner_product(one, one)
    for _ in range(rounds):
        other = rotate_stream(other, spec, best_rotation(unit_similarity(one, other, spec, "stream")))
        permutation, objective = coordinate_descent(one, other, fixed, fixed.identity(), generator)
        other = fixed.rename(other, permutation)
        if objective[-1] <= best + tolerance:
            break
        best = objective[-1]
    return spec.layout.flatten(other).to(b)
