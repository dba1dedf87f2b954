"""Figures of the course: each function takes what it draws and returns a Figure, and changes nothing else."""

from dwflow_lite.figures.audits import draw_accuracy_dispersion, draw_audit, draw_frontier, draw_shares
from dwflow_lite.figures.conditions import draw_confusion, draw_control, draw_labelled
from dwflow_lite.figures.flows import draw_clouds, draw_flow, draw_training, draw_trajectories
from dwflow_lite.figures.general import draw_distances, draw_images, draw_lines, draw_matrices, draw_scores
from dwflow_lite.figures.matching import (
    draw_barriers_by_width,
    draw_climbs,
    draw_planted,
    draw_rounds,
    draw_spectra,
    draw_strengths,
    draw_times_by_width,
)
from dwflow_lite.figures.newness import Plane, draw_basin, draw_sphere
from dwflow_lite.figures.scoreboard import Judged, Reported, draw_reported, draw_verdicts
from dwflow_lite.figures.style import colour, png, show
from dwflow_lite.figures.symmetries import draw_assignment, draw_barrier_table, draw_barriers, draw_heads
from dwflow_lite.figures.use import draw_cost, draw_growth, draw_reliability, draw_transfer, draw_two_opinions
from dwflow_lite.figures.zoos import draw_learning_curves
from dwflow_lite.support.colours import COLOURS

__all__ = [
    "COLOURS",
    "Judged",
    "Plane",
    "Reported",
    "colour",
    "draw_accuracy_dispersion",
    "draw_assignment",
    "draw_audit",
    "draw_barrier_table",
    "draw_barriers",
    "draw_barriers_by_width",
    "draw_basin",
    "draw_climbs",
    "draw_clouds",
    "draw_confusion",
    "draw_control",
    "draw_cost",
    "draw_distances",
    "draw_flow",
    "draw_frontier",
    "draw_growth",
    "draw_heads",
    "draw_images",
    "draw_labelled",
    "draw_learning_curves",
    "draw_lines",
    "draw_matrices",
    "draw_planted",
    "draw_reliability",
    "draw_reported",
    "draw_rounds",
    "draw_scores",
    "draw_shares",
    "draw_spectra",
    "draw_sphere",
    "draw_strengths",
    "draw_times_by_width",
    "draw_training",
    "draw_trajectories",
    "draw_transfer",
    "draw_two_opinions",
    "draw_verdicts",
    "png",
    "show",
]
