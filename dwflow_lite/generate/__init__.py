"""From a zoo of networks to new ones: DeepWeightFlow, and the trivial generators it has to beat."""

from dwflow_lite.generate.deepweightflow import FORMAT, DeepWeightFlow
from dwflow_lite.generate.simple import (
    NOISE_LADDER,
    TRIVIAL,
    closed_form_flow,
    fresh_start,
    gaussian_codes,
    gaussian_weights,
    member_noise,
    pair_interpolation,
    retrieval,
    soup,
)

__all__ = [
    "FORMAT",
    "NOISE_LADDER",
    "TRIVIAL",
    "DeepWeightFlow",
    "closed_form_flow",
    "fresh_start",
    "gaussian_codes",
    "gaussian_weights",
    "member_noise",
    "pair_interpolation",
    "retrieval",
    "soup",
]
