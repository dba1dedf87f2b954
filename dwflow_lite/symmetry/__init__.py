"""Remove the permutation symmetry of a zoo: what moves together, matching, one basin, and the barrier that shows it."""

from dwflow_lite.symmetry.barrier import BarrierCurve, interpolate, linear_barrier
from dwflow_lite.symmetry.canonical import basis_of, canonicalise, match_all, match_each, match_neighbours
from dwflow_lite.symmetry.gauge import fix_gauge
from dwflow_lite.symmetry.heads import match_heads, spectral_distance
from dwflow_lite.symmetry.matching import (
    MatchingResult,
    best_orders,
    coordinate_descent,
    head_scores,
    unit_similarity,
    weight_matching,
)
from dwflow_lite.symmetry.repairing import activation_matching, repair, unit_statistics
from dwflow_lite.symmetry.spec import Permutation, PermutationSpec, Stretch
from dwflow_lite.symmetry.straight_through import straight_through_matching
from dwflow_lite.symmetry.stream import best_rotation, fold_norms, match_stream, rotate_stream
from dwflow_lite.symmetry.tracing import derive_spec

__all__ = [
    "BarrierCurve",
    "MatchingResult",
    "Permutation",
    "PermutationSpec",
    "Stretch",
    "activation_matching",
    "basis_of",
    "best_orders",
    "best_rotation",
    "canonicalise",
    "coordinate_descent",
    "derive_spec",
    "fix_gauge",
    "fold_norms",
    "head_scores",
    "interpolate",
    "linear_barrier",
    "match_all",
    "match_each",
    "match_heads",
    "match_neighbours",
    "match_stream",
    "repair",
    "rotate_stream",
    "spectral_distance",
    "straight_through_matching",
    "unit_similarity",
    "unit_statistics",
    "weight_matching",
]
