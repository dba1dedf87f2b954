"""Matching attention heads: first heads, then units inside them (TransFusion, arXiv 2505.22697)."""

from __future__ import annotations

import torch
from torch import Tensor

from dwflow_lite.support.checks import is_choice
from dwflow_lite.symmetry.axes import Use
from dwflow_lite.symmetry.matching import (
    Matching,
    State,
    assignment,
    best_orders,
    checked_states,
    head_scores,
    inner_product,
    unit_similarity,
)
from dwflow_lite.symmetry.permutation import Permutation
from dwflow_lite.symmetry.spec import PermutationSpec

METHODS = ("exact", "spectral")


def match_heads(a: Tensor, b: Tensor, spec: PermutationSpec, block: str, method: str = "exact") -> Matching:
    """Permute the heads of ``b`` in one block, and the units inside them, to bring them close to those of ``a``.

    ``"exact"`` maximises <A, permuted B> over all orders of the block (:func:`best_orders`): queries and keys apart
    from values and projections, and every tensor that knows a unit has a say.

    ``"spectral"`` is the published heuristic. It pairs heads by the distance between the singular values of their
    query, key and value slices, summed (they do not change when units inside a head are permuted), then finds one order
    inside each pair for all of the block's groups together, biases and projection left out.

    Args:
        a: reference weights (d,).
        b: weights (d,) to permute.
        spec: with heads.
        block: one of ``spec.heads``.
        method: ``"exact"`` or ``"spectral"``.

    Returns:
        A permutation that leaves all other groups as they are. Its objective is <a, permuted b> before and after, which
        the spectral method may lower.

    Raises:
        ValueError: an unknown method or block, or weights that are not one finite vector (d,).
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r} for heads: choose one of {', '.join(METHODS)}")
    if not is_choice(block, spec.heads):
        raise ValueError(f"no block {block!r} with heads: choose one of {', '.join(spec.heads) or '(none)'}")
    state_a, state_b = checked_states(a, b, spec)
    orders = _exact_orders if method == "exact" else _spectral_orders
    permutation = Permutation(dict(spec.identity().indices) | orders(state_a, state_b, spec, block))
    before = inner_product(state_a, state_b)
    after = inner_product(state_a, spec.permute(state_b, permutation))
    return Matching(permutation, [before, after])


def _exact_orders(a: State, b: State, spec: PermutationSpec, block: str) -> dict[str, Tensor]:
    heads, groups = spec.heads[block]
    similarity = {group: unit_similarity(a, b, spec, group) for group in groups}
    orders, _ = best_orders(similarity, heads)
    return orders


def _spectral_orders(a: State, b: State, spec: PermutationSpec, block: str) -> dict[str, Tensor]:
    heads, groups = spec.heads[block]
    partners = assignment(-spectral_distance(a, b, spec, block))  # (H,)
    summed = sum(use.rows(a[use.name]) @ use.rows(b[use.name]).T for use in _matrices_that_write(spec, block))
    _, inside = head_scores({"all groups": summed}, heads)
    chosen = inside["all groups"][torch.arange(heads), partners]  # (H, n / H)
    order = (partners[:, None] * chosen.shape[1] + chosen).flatten()
    return dict.fromkeys(groups, order)


def spectral_distance(a: State, b: State, spec: PermutationSpec, block: str) -> Tensor:
    """Distance (H, H) of heads: between the singular values of their slices of each matrix, summed over matrices.

    Args:
        a: named tensors of the reference (``spec.parameters``).
        b: of the network to be permuted.
        spec: with heads.
        block: one of ``spec.heads``.
    """
    heads, _ = spec.heads[block]
    distances = []
    for use in _matrices_that_write(spec, block):
        spectra_a = torch.linalg.svdvals(use.rows(a[use.name]).unflatten(0, (heads, -1)))  # (H, singular values)
        spectra_b = torch.linalg.svdvals(use.rows(b[use.name]).unflatten(0, (heads, -1)))
        distances.append(torch.cdist(spectra_a, spectra_b))
    return sum(distances)


def _matrices_that_write(spec: PermutationSpec, block: str) -> list[Use]:
    """The matrices of a block whose rows are its units: query, key and value."""
    _, groups = spec.heads[block]
    return [use for group in groups for use in spec.uses[group] if use.axis == 0 and len(spec.axes[use.name]) == 2]
