"""Remove the permutation symmetry of a zoo: what moves together, matching, one basis, and the barrier that shows it."""

from dwflow_lite.symmetry.activations import activation_matching
from dwflow_lite.symmetry.axes import Stretch, Use, permute_axes, positions
from dwflow_lite.symmetry.barrier import BarrierCurve, interpolate, linear_barrier
from dwflow_lite.symmetry.basis import basis_of
from dwflow_lite.symmetry.canonical import canonicalise
from dwflow_lite.symmetry.gauge import fix_gauge
from dwflow_lite.symmetry.heads import match_heads, spectral_distance
from dwflow_lite.symmetry.many import match_all, match_each, match_neighbours, permute_all, weight_matching
from dwflow_lite.symmetry.matching import (
    Matching,
    best_orders,
    coordinate_descent,
    head_scores,
    identity_matching,
    unit_similarity,
)
from dwflow_lite.symmetry.permutation import Permutation
from dwflow_lite.symmetry.repairing import repair, unit_statistics
from dwflow_lite.symmetry.rotation import best_rotation, rotate_stream
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.symmetry.straight_through import straight_through_matching
from dwflow_lite.symmetry.stream import fold_norms, match_stream
from dwflow_lite.symmetry.tracing import derive_spec

__all__ = [
    "BarrierCurve",
    "Matching",
    "Permutation",
    "PermutationSpec",
    "Stretch",
    "Use",
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
    "identity_matching",
    "interpolate",
    "linear_barrier",
    "match_all",
    "match_each",
    "match_heads",
    "match_neighbours",
    "match_stream",
    "permute_all",
    "permute_axes",
    "positions",
    "repair",
    "rotate_stream",
    "spectral_distance",
    "straight_through_matching",
    "unit_similarity",
    "unit_statistics",
    "weight_matching",
]
