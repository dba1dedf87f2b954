"""Figures of what was asked for and what came: points by label, datasets by name, and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dwflow_lite.auditing.control import control_of
from dwflow_lite.figures.style import colour, finite_range, new_figure, on_cpu, require, require_named, score_axis
from dwflow_lite.support.colours import COLOURS


def draw_labelled(panels: Mapping[str, Mapping[str, Tensor]], reference: Mapping[str, Tensor]) -> Figure:
    """Points in the plane under the label that was asked for, over pale points of the data with that label.

    Args:
        panels: title -> label -> points (n, 2); one panel each, on the same axes, which hold nearly all of them.
        reference: label -> points (m, 2).

    Raises:
        ValueError: no panel, or no reference.
    """
    require_named(panels, "points by label")
    require_named(reference, "points")
    panels, reference = on_cpu((panels, reference))
    places = {label: position for position, label in enumerate(reference)}
    figure, axes = new_figure(len(panels), width=3.6, height=3.5)
    everything = [*reference.values(), *(points for clouds in panels.values() for points in clouds.values())]
    for ax, (title, clouds) in zip(axes, panels.items(), strict=True):
        for label, points in reference.items():
            ax.scatter(*points.T, s=7, color=colour(label, places[label]), alpha=0.12, lw=0)
        for label, points in clouds.items():
            shade = colour(label, places.get(label, 7))
            ax.scatter(*points.T, s=9, color=shade, alpha=0.8, lw=0, label=label)
        ax.set(title=title, xlabel="$x_1$", ylabel="$x_2$")
        _hold_nearly_all(ax, np.concatenate([np.asarray(points) for points in everything]))
        ax.legend(frameon=False, fontsize=8, loc="upper left", title="asked for", title_fontsize=8)
    return figure


def _hold_nearly_all(ax: Axes, points: np.ndarray) -> None:
    """Axes from the lowest to the highest of all finite coordinates, with a margin."""
    for values, limits in ((points[:, 0], ax.set_xlim), (points[:, 1], ax.set_ylim)):
        low, high = finite_range(values)
        margin = 0.06 * (high - low) or 1.0
        limits(low - margin, high + margin)


def draw_confusion(tables: Mapping[str, Tensor], names: Sequence[str], score_name: str = "accuracy") -> Figure:
    """What networks that were asked for by a dataset's name read on each dataset, one table each.

    Args:
        tables: title -> scores (asked for, measured on), as :func:`dwflow_lite.auditing.confusion` gives them.
        names: of the datasets, in the order of rows and columns.
        score_name: ``task.score_name``; accuracies are written in percent.

    Raises:
        ValueError: no table, or one that is not as large as the names are many.
    """
    require_named(tables, "table")
    require(names, "name")
    tables = on_cpu(tables)
    label, unit = score_axis(score_name)
    figure, axes = new_figure(len(tables), width=3.3, height=3.2)
    for ax, (title, table) in zip(axes, tables.items(), strict=True):
        values = unit * np.asarray(table, dtype=float)
        if values.shape != (len(names), len(names)):
            raise ValueError(f"table {title!r} has the shape {values.shape}, and there are {len(names)} names")
        ax.grid(False)
        image = ax.imshow(values, cmap="Blues", vmin=0, vmax=unit)
        for (row, column), value in np.ndenumerate(values):
            ink = "white" if value > 0.6 * unit else "black"
            ax.text(column, row, f"{value:.0f}" if unit == 100 else f"{value:.2f}", ha="center", va="center", color=ink)
        ax.set_xticks(range(len(names)), names, rotation=25, ha="right", fontsize=8)
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.set(title=title, xlabel="measured on", ylabel="asked for")
    figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    return figure


def draw_control(panels: Mapping[str, tuple[Tensor, Tensor]], what: str, unit: float = 100.0) -> Figure:
    """Measured against requested numbers: a dot for each network, the line through them, and the one they should be on.

    Args:
        panels: title -> requested (n,) and measured (n,) numbers; one panel each, on the same axes.
        what: the number, as it stands at the axes.
        unit: by which numbers are multiplied.

    Raises:
        ValueError: no panel; or what :func:`dwflow_lite.auditing.control_of` refuses.
    """
    require_named(panels, "requested and measured numbers")
    panels = on_cpu(panels)
    everything = unit * np.concatenate([np.concatenate([np.asarray(x), np.asarray(y)]) for x, y in panels.values()])
    low, high = finite_range(everything)
    margin = 0.06 * (high - low) or 1.0
    figure, axes = new_figure(len(panels), width=3.5, height=3.5)
    for ax, (title, (requested, measured)) in zip(axes, panels.items(), strict=True):
        slope = control_of(requested, measured).slope
        shade = COLOURS.get(title, COLOURS["generated"])
        x, y = unit * np.asarray(requested), unit * np.asarray(measured)
        ends = np.array([x.min(), x.max()])
        ax.plot([low, high], [low, high], color="gray", ls=":", label="as asked")
        ax.scatter(x, y, s=13, color=shade, alpha=0.55, lw=0)
        ax.plot(ends, y.mean() + slope * (ends - x.mean()), color=shade, lw=2, label=f"slope {slope:z.2f}")
        ax.set(title=title, xlabel=f"{what}: asked for", ylabel="measured")
        ax.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin))
        ax.legend(frameon=False, fontsize=8, loc="upper left")
    return figure
