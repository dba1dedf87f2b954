"""What networks are good for once they are there: many that answer together, and what they know of their own doubt."""

from dwflow_lite.use.detection import Uncertainty, auroc, detect, uncertainty
from dwflow_lite.use.ensembles import Ensemble, ensemble
from dwflow_lite.use.temperature import fit_temperature

__all__ = ["Ensemble", "Uncertainty", "auroc", "detect", "ensemble", "fit_temperature", "uncertainty"]
