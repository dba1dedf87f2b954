"""From a zoo of networks to new ones: DeepWeightFlow, and the simple generators it has to beat."""

from dwflow_lite.generate.balanced import BalancedUnits
from dwflow_lite.generate.conditional import ConditionalDeepWeightFlow
from dwflow_lite.generate.conditional_simple import ConditionalGaussian, ConditionalRetrieval, OwnCodesFlow
from dwflow_lite.generate.conditions import align_together
from dwflow_lite.generate.deepweightflow import DeepWeightFlow
from dwflow_lite.generate.dropout import DropoutMasks
from dwflow_lite.generate.files import FORMAT
from dwflow_lite.generate.generator import ConditionalGenerator, Generator
from dwflow_lite.generate.leading import LeadingFlow
from dwflow_lite.generate.mixtures import AffineMixture, UnitCrossover
from dwflow_lite.generate.simple import (
    NOISE_LADDER,
    TRIVIAL,
    ClosedFormFlow,
    GaussianCodes,
    GaussianWeights,
    MemberNoise,
    PairInterpolation,
    RandomWeights,
    Retrieval,
    Soup,
)
from dwflow_lite.generate.together import fit_together

__all__ = [
    "FORMAT",
    "NOISE_LADDER",
    "TRIVIAL",
    "AffineMixture",
    "BalancedUnits",
    "ClosedFormFlow",
    "ConditionalDeepWeightFlow",
    "ConditionalGaussian",
    "ConditionalGenerator",
    "ConditionalRetrieval",
    "DeepWeightFlow",
    "DropoutMasks",
    "GaussianCodes",
    "GaussianWeights",
    "Generator",
    "LeadingFlow",
    "MemberNoise",
    "OwnCodesFlow",
    "PairInterpolation",
    "RandomWeights",
    "Retrieval",
    "Soup",
    "UnitCrossover",
    "align_together",
    "fit_together",
]
