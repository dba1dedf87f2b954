"""Figures of where networks lie: spheres and chords, and the basin around the mean of a zoo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

from dwflow_lite.figures.style import colour, finite_range, new_figure, on_cpu, require_named

MARKERS = "sD^vP*Xph<>"
LABEL = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}


def draw_sphere(members: Tensor, points: Mapping[str, Tensor], distances: Mapping[str, float], title: str) -> Figure:
    """Members of two weights each, the circle through them about their mean, the chords between them, and points.

    Args:
        members: (N, 2).
        points: name -> (2,), each drawn with a line to its nearest member.
        distances: name -> what stands beside the name.
        title: of the figure.
    """
    require_named(points, "point")
    members, points = on_cpu((members, points))
    mean = members.mean(0)
    radius = float((members - mean).square().sum(1).mean().sqrt())
    figure, (ax,) = new_figure(1, width=5.6, height=4.6)
    for i, one in enumerate(members):
        for other in members[i + 1 :]:
            ax.plot(*zip(one.tolist(), other.tolist(), strict=True), color="#c9ced6", lw=1, zorder=1)
    ax.add_patch(Circle(mean.tolist(), radius, fill=False, ls="--", color="gray"))
    ax.scatter(members[:, 0], members[:, 1], color=colour("zoo"), s=50, zorder=3, label="members")
    for i, (name, point) in enumerate(points.items()):
        nearest = members[(members - point).norm(dim=1).argmin()]
        ax.plot(*zip(point.tolist(), nearest.tolist(), strict=True), color=f"C{i}", lw=1.5, ls=":", zorder=2)
        ax.scatter(*point.tolist(), color=f"C{i}", marker=MARKERS[i % len(MARKERS)], s=60, zorder=4)
        ax.annotate(
            f"{name}: {distances[name]:.2f}",
            point.tolist(),
            xytext=(9, 6),
            textcoords="offset points",
            fontsize=9,
            zorder=5,
            bbox=LABEL,
        )
    ax.set(xlabel="first weight", ylabel="second weight", title=title, aspect="equal")
    edge = 1.35 * radius
    ax.set(xlim=(float(mean[0]) - edge, float(mean[0]) + edge), ylim=(float(mean[1]) - edge, float(mean[1]) + edge))
    ax.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


@dataclass(frozen=True)
class Plane:
    """Losses on a plane through a mean and two members.

    Attributes:
        axis: coordinates of the grid along both directions, in units of the radius, (n,).
        loss: (n, n), rows along the second direction.
        points: name -> its two coordinates.
    """

    axis: Tensor
    loss: Tensor
    points: Mapping[str, tuple[float, float]]


def draw_basin(planes: Mapping[str, Plane], highest: float | None = None) -> Figure:
    """Loss over a plane, one panel each on one scale of colours; dashed the circle through the members.

    Args:
        planes: title -> losses and points.
        highest: loss at the end of the scale, which is logarithmic; what lies above has the colour of the end. None:
            the highest of all planes.
    """
    require_named(planes, "plane")
    planes = {title: Plane(*on_cpu((plane.axis, plane.loss, plane.points))) for title, plane in planes.items()}
    low, high = finite_range(np.concatenate([plane.loss.numpy().ravel() for plane in planes.values()]))
    low = max(low, 1e-3)
    high = max(high if highest is None else highest, 2 * low)
    levels = np.geomspace(low, high, 17)
    figure, panels = new_figure(len(planes), width=4.2, height=3.9)
    for ax, (title, plane) in zip(panels, planes.items(), strict=True):
        ax.grid(False)
        loss = plane.loss.nan_to_num(high).clamp(low, high)
        filled = ax.contourf(plane.axis, plane.axis, loss, levels=levels, norm=LogNorm(low, high), cmap="viridis_r")
        ax.contour(plane.axis, plane.axis, loss, levels=levels, colors="white", linewidths=0.4)
        ax.add_patch(Circle((0, 0), 1, fill=False, ls="--", color="black", lw=1))
        for name, (x, y) in plane.points.items():
            ax.scatter(x, y, s=45, color="white", edgecolor="black", zorder=4)
            ax.annotate(name, (x, y), xytext=(6, 6), textcoords="offset points", fontsize=9, zorder=5, bbox=LABEL)
        ax.set(xlabel="towards member A (radius = 1)", ylabel="towards member B", title=title, aspect="equal")
    bar = figure.colorbar(filled, ax=panels, label="loss (nats)", shrink=0.85)
    bar.set_ticks(levels[::4], labels=[f"{level:.2g}" for level in levels[::4]])
    return figure
