"""Rotations of the residual stream of a transformer (after arXiv 2506.22712)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dwflow_lite.symmetry.architectures import STREAM
from dwflow_lite.symmetry.spec import PermutationSpec


def rotate_stream(state: Mapping[str, Tensor], spec: PermutationSpec, rotation: Tensor) -> dict[str, Tensor]:
    """Named tensors (..., *shape) with the stream in another basis: ``rotation`` (dim, dim) times every stream axis.

    Of the same function if the norms are folded (:func:`fold_norms`) and the rotation is orthogonal and leaves the
    all-ones vector alone (:func:`best_rotation`).

    Raises:
        ValueError: a spec without a group ``stream``.
    """
    if STREAM not in spec.groups:
        raise ValueError("the spec holds the stream fixed; take PermutationSpec.of(network, stream=True)")
    rotated = dict(state)
    for use in spec.uses[STREAM]:
        axis = use.axis - len(spec.axes[use.name])  # counted from the end: there may be axes of members before it
        tensor = rotated[use.name].movedim(axis, 0)  # (dim, ...)
        rotated[use.name] = torch.tensordot(rotation.to(tensor), tensor, 1).movedim(0, axis)
    return rotated


def best_rotation(similarity: Tensor) -> Tensor:
    """The orthogonal matrix (n, n) with the largest inner product with similarities, that leaves all-ones alone.

    Orthogonal Procrustes: what :func:`best_orders` finds among permutations, found among rotations (reflections
    included) by one SVD.

    Args:
        similarity: (n, n), row: coordinate of the reference, column: coordinate to be rotated.

    Example:
        >>> rotation = best_rotation(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))
        >>> torch.allclose(rotation @ rotation.T, torch.eye(5), atol=1e-5)
        True
        >>> torch.allclose(rotation.sum(1), torch.ones(5), atol=1e-5)
        True
    """
    n = len(similarity)
    ones = torch.full((n, 1), n**-0.5, dtype=similarity.dtype)
    across = torch.linalg.svd(ones)[0][:, 1:]  # (n, n - 1), a basis of all that is at right angles to all-ones
    u, _, vt = torch.linalg.svd(across.T @ similarity @ across)
    return ones @ ones.T + across @ (u @ vt) @ across.T
