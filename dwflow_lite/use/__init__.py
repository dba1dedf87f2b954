"""What networks are good for: many that answer together, what they know of their doubt, and starts for another task."""

from dwflow_lite.use.curves import Transfer
from dwflow_lite.use.detection import Uncertainty, auroc, detect, uncertainty
from dwflow_lite.use.ensembles import Ensemble, ensemble
from dwflow_lite.use.temperature import fit_temperature
from dwflow_lite.use.transfer import carry_over, random_starts, transfer, zero_shot

__all__ = [
    "Ensemble",
    "Transfer",
    "Uncertainty",
    "auroc",
    "carry_over",
    "detect",
    "ensemble",
    "fit_temperature",
    "random_starts",
    "transfer",
    "uncertainty",
    "zero_shot",
]
