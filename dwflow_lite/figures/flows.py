"""Figures of flows: their training, their moments, and the paths of points in the plane."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dwflow_lite.figures.style import finite_range, new_figure, on_cpu, require_named, score_axis
from dwflow_lite.flow.watch import FlowTraining
from dwflow_lite.support.colours import COLOURS


def draw_training(training: FlowTraining) -> Figure:
    """Loss of a flow on seen and held-out codes, and the spread of what it generates."""
    figure, (left, right) = new_figure(2)
    left.plot(training.steps, training.loss, color=COLOURS["generated"], label="training")
    if training.held_out_loss:
        left.plot(training.steps, training.held_out_loss, color=COLOURS["held-out networks"], label="held out")
    left.set(xlabel="training step", ylabel="flow-matching loss", title="What the loss says")
    left.set_ylim(bottom=0)
    left.legend(frameon=False)
    right.plot(training.steps, training.dispersion, color=COLOURS["generated"])
    right.axhline(1, color="gray", ls=":", label="spread of the targets")
    right.set(
        xlabel="training step",
        ylabel="dispersion ratio",
        title="Do samples spread like their targets?",
        ylim=(0, 1.3),
    )
    right.legend(frameon=False)
    return figure


def draw_flow(
    codes: Tensor, points: Tensor, scores: Tensor, frame: int, chance: float, *, score_name: str = "accuracy"
) -> Figure:
    """One moment of a flow: where the points are in code space, and what the networks they decode to can do.

    Args:
        codes: of the zoo, (N, k >= 2).
        points: trajectory (T, n, k).
        scores: of the decoded networks, (T, n), from 0 to 1.
        frame: which moment, 0 … T-1.
        chance: the score of guessing, from 0 to 1.
        score_name: what the scores are (``task.score_name``).

    Raises:
        ValueError: no such frame, or codes of fewer than two dimensions.
    """
    if not 0 <= frame < len(points):
        raise ValueError(f"there is no frame {frame}: the trajectory has {len(points)} points of time")
    if codes.shape[1] < 2:
        raise ValueError("codes of one dimension have no plane to be drawn in")
    codes, points, scores = on_cpu((codes, points, scores))
    label, unit = score_axis(score_name)
    figure, (left, right) = new_figure(2)
    t = frame / max(1, len(points) - 1)
    _draw_points(left, codes, points, frame)
    left.set(xlabel="first code (rms units)", ylabel="second code (rms units)", title=f"Weight space at t = {t:.2f}")
    left.legend(frameon=False, loc="upper right", fontsize=8)
    times = np.linspace(0, 1, len(points))
    right.plot(times, unit * scores, color=COLOURS["generated"], alpha=0.15, lw=0.7)
    right.plot(times, unit * scores.mean(1), color=COLOURS["generated"], lw=2, label="mean")
    right.axvline(t, color="black", lw=1)
    right.axhline(unit * chance, color="gray", ls=":", label="chance")
    right.set(
        xlabel="time t",
        ylabel=label,
        title=f"Decoded networks: {unit * scores[frame].mean():.1f} %" if unit == 100 else "Decoded networks",
    )
    if unit == 100:
        right.set_ylim(0, 101)
    right.legend(framealpha=0.9, edgecolor="none", loc="lower right", fontsize=8)  # over the line of the moment
    return figure


def _draw_points(ax: Axes, codes: Tensor, points: Tensor, frame: int) -> None:
    """Two coordinates of codes and of trajectories up to a frame, on axes that hold every frame."""
    past, now = points[: frame + 1], points[frame]
    ax.scatter(codes[:, 0], codes[:, 1], s=14, color=COLOURS["zoo"], alpha=0.5, label="zoo")
    ax.plot(past[:, :, 0], past[:, :, 1], color=COLOURS["generated"], alpha=0.25, lw=0.7)
    ax.scatter(now[:, 0], now[:, 1], s=12, color=COLOURS["generated"], label="flow")
    everything = np.concatenate([codes[:, :2].numpy(), points[:, :, :2].reshape(-1, 2).numpy()])
    _hold(ax, everything)


def _hold(ax: Axes, points: np.ndarray) -> None:
    """Limit the axes to points (n, 2), with a margin; what is not finite lies outside."""
    (left, right), (bottom, top) = finite_range(points[:, 0]), finite_range(points[:, 1])
    ax.set(xlim=(left - 0.3, right + 0.3), ylim=(bottom - 0.3, top + 0.3))


def draw_clouds(clouds: Mapping[str, Tensor], reference: Tensor, arrows: Mapping[str, Tensor] | None = None) -> Figure:
    """Clouds of points, one panel each, the reference grey beneath.

    Args:
        clouds: name -> points (n, 2).
        reference: points (m, 2).
        arrows: name -> (n, 2), drawn from the points of that cloud instead of dots.
    """
    require_named(clouds, "cloud")
    clouds, reference, arrows = on_cpu((clouds, reference, arrows))
    figure, panels = new_figure(len(clouds), width=3.4, height=3.5)
    everything = np.concatenate([np.asarray(points) for points in (reference, *clouds.values())])
    for ax, (name, points) in zip(panels, clouds.items(), strict=True):
        ax.scatter(*reference.T, s=6, color=COLOURS["zoo"], alpha=0.25, lw=0)
        if arrows and name in arrows:
            ax.quiver(*points.T, *arrows[name].T, color=COLOURS["generated"], angles="xy", width=0.004)
        else:
            ax.scatter(*points.T, s=7, color=COLOURS["generated"], alpha=0.7, lw=0)
        ax.set(title=name, xlabel="$x_1$", ylabel="$x_2$")
        _hold(ax, everything)
    return figure


def draw_trajectories(paths: Mapping[str, Tensor], reference: Tensor) -> Figure:
    """Trajectories, one panel for each set: start light, way thin, end strong; the reference grey beneath.

    Args:
        paths: name -> points (T, n, 2).
        reference: points (m, 2).
    """
    require_named(paths, "set of trajectories")
    paths, reference = on_cpu((paths, reference))
    figure, panels = new_figure(len(paths), width=3.8, height=3.7)
    for ax, (name, points) in zip(panels, paths.items(), strict=True):
        ax.scatter(*reference.T, s=6, color=COLOURS["zoo"], alpha=0.25, lw=0)
        ax.plot(points[..., 0], points[..., 1], color=COLOURS["generated"], lw=0.6, alpha=0.4)
        ax.scatter(*points[0].T, s=8, color=COLOURS["not aligned"], label="start, t = 0")
        ax.scatter(*points[-1].T, s=8, color=COLOURS["generated"], label="end, t = 1")
        ax.set(title=name, xlabel="$x_1$", ylabel="$x_2$")
    panels[0].legend(frameon=False, fontsize=8)
    return figure
