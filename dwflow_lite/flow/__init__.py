"""Flow matching on points of R^k. This room knows nothing of networks."""

from dwflow_lite.flow.conditional import ConditionalField, guided
from dwflow_lite.flow.field import ClosedFormField, VelocityField
from dwflow_lite.flow.path import COUPLINGS, FixedSource, GaussianSource, StraightPath, couple
from dwflow_lite.flow.settings import FlowSettings
from dwflow_lite.flow.solver import SOLVERS, Field, Trajectory, integrate
from dwflow_lite.flow.train import flow_matching_loss, train_flow
from dwflow_lite.flow.watch import FlowTraining, dispersion_ratio

__all__ = [
    "COUPLINGS",
    "SOLVERS",
    "ClosedFormField",
    "ConditionalField",
    "Field",
    "FixedSource",
    "FlowSettings",
    "FlowTraining",
    "GaussianSource",
    "StraightPath",
    "Trajectory",
    "VelocityField",
    "couple",
    "dispersion_ratio",
    "flow_matching_loss",
    "guided",
    "integrate",
    "train_flow",
]
