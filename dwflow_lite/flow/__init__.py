"""Flow matching on points of R^k. This room knows nothing of networks."""

from dwflow_lite.flow.field import ClosedFormField, VelocityField
from dwflow_lite.flow.path import FixedSource, GaussianSource, StraightPath, couple
from dwflow_lite.flow.solver import SOLVERS, Trajectory, integrate
from dwflow_lite.flow.train import FlowTraining, dispersion_ratio, train_flow

__all__ = [
    "SOLVERS",
    "ClosedFormField",
    "FixedSource",
    "FlowTraining",
    "GaussianSource",
    "StraightPath",
    "Trajectory",
    "VelocityField",
    "couple",
    "dispersion_ratio",
    "integrate",
    "train_flow",
]
