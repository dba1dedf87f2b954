"""Matching attention heads: first heads, then units inside them (TransFusion, arXiv 2505.22697)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dwflow_lite.symmetry.matching import assignment, best_orders, head_scores, unit_similarity
from dwflow_lite.symmetry.spec import PermutationSpec, Use

METHODS = ("exact", "spectral")


def match_heads(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], spec: PermutationSpec, block: str, method: str = "exact"
) -> dict[str, Tensor]:
    """Order of the heads of ``b`` in one block, and of the units inside them, that brings them close to those of ``a``.

    ``"exact"`` maximises <A, permuted B> over all orders of the block (:func:`best_orders`): queries and keys apart
    from values and projections, and every tensor that knows a unit has a say.

    ``"spectral"`` is the published heuristic. It pairs heads by the distance between the singular values of their
    query, key and value slices, summed (they do not change when units inside a head are renamed), then finds one order
    inside each pair for all of the block's groups together, biases and projection left out.

    Args:
        a: tensors of the reference, in float64. b: tensors to rename.
        spec: with ``heads``. block: one of them.
        method: ``"exact"`` or ``"spectral"``.

    Returns:
        Group -> index (n,), as in a :class:`Permutation`.

    Raises:
        ValueError: an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r} for heads: choose one of {', '.join(METHODS)}")
    heads, groups = spec.heads[block]
    if method == "exact":
        return best_orders({g: unit_similarity(a, b, spec, g) for g in groups}, heads)[0]
    tied = sum(u.rows(a[u.name]) @ u.rows(b[u.name]).T for u in _writers(spec, block))
    _, inside = head_scores({"all": tied}, heads)
    pairs = assignment(-spectral_distance(a, b, spec, block))
    units = inside["all"][torch.arange(heads), pairs]
    return dict.fromkeys(groups, (pairs[:, None] * units.shape[1] + units).flatten())


def spectral_distance(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], spec: PermutationSpec, block: str
) -> Tensor:  # fmt: skip
    """Distance (H, H) of heads: between singular values of each weight slice, one batched decomposition a tensor."""
    heads, _ = spec.heads[block]
    spectra = [[torch.linalg.svdvals(u.rows(s[u.name]).unflatten(0, (heads, -1))) for s in (a, b)]
               for u in _writers(spec, block)]  # fmt: skip
    return sum(torch.cdist(one, other) for one, other in spectra)


def _writers(spec: PermutationSpec, block: str) -> list[Use]:
    """The matrices of a block whose rows are its units."""
    _, groups = spec.heads[block]
    return [u for g in groups for u in spec.uses[g] if u.axis == 0 and len(spec.axes[u.name]) == 2]
