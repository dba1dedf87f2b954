"""Remove the permutation symmetry of a zoo: what moves together, matching, one basin, and the barrier that shows it."""

from dwflow_lite.symmetry.barrier import BarrierCurve, interpolate, linear_barrier
from dwflow_lite.symmetry.canonical import basis_of, canonicalise, match_all, match_each
from dwflow_lite.symmetry.matching import MatchingResult, coordinate_descent, unit_similarity, weight_matching
from dwflow_lite.symmetry.spec import Permutation, PermutationSpec
from dwflow_lite.symmetry.transfusion import head_scores, match_heads

__all__ = [
    "BarrierCurve",
    "MatchingResult",
    "Permutation",
    "PermutationSpec",
    "basis_of",
    "canonicalise",
    "coordinate_descent",
    "head_scores",
    "interpolate",
    "linear_barrier",
    "match_all",
    "match_each",
    "match_heads",
    "unit_similarity",
    "weight_matching",
]
