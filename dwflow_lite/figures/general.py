"""Figures for anything: images, scores, distances, matrices, lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from torch import Tensor

from dwflow_lite.figures.style import colour, finite_range, new_figure, on_cpu, require, require_named, score_axis


def draw_images(images: Tensor, titles: Sequence[str], columns: int = 10, heading: str = "") -> Figure:
    """Small grey images (n, 1, h, w) in a grid, each with a title.

    Raises:
        ValueError: images of another shape, or less than one column.
    """
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"grey images have the shape (n, 1, h, w), these have {tuple(images.shape)}")
    if columns < 1:
        raise ValueError(f"a grid has at least one column, not {columns}")
    require(images, "image")
    images = on_cpu(images)
    rows = math.ceil(len(images) / columns)
    figure = plt.Figure(figsize=(0.9 * columns, 1.15 * rows + 0.3), layout="constrained")
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        ax = figure.add_subplot(rows, columns, i + 1)
        ax.imshow(image.squeeze(0), cmap="gray_r")
        ax.set_title(title, fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
    figure.suptitle(heading, fontsize=11)
    return figure


def draw_scores(
    groups: Mapping[str, Tensor],
    title: str,
    chance: float | None = None,
    xlabel: str | None = None,
    score_name: str = "accuracy",
) -> Figure:
    """One row of dots for each group: the score of every network, and the group's mean as a bar.

    Args:
        groups: name -> scores (networks,), as ``evaluate(zoo, task).score`` has them.
        title: of the figure.
        chance: a score to mark.
        xlabel: what stands at the axis; None: the name of the score.
        score_name: ``task.score_name``; accuracies, from 0 to 1, are drawn in percent, any other score as it is.

    Raises:
        ValueError: no group, or one without scores.
    """
    require_named(groups, "group")
    for name, scores in groups.items():
        require(scores, f"score of '{name}'")
    groups = on_cpu(groups)
    label, unit = score_axis(score_name)
    figure, (ax,) = new_figure(1, width=7.5, height=0.55 * len(groups) + 1.1)
    rng = np.random.default_rng(0)
    for i, (name, scores) in enumerate(groups.items()):
        values = unit * np.asarray(scores)
        heights = i + rng.uniform(-0.25, 0.25, len(values))
        ax.scatter(values, heights, s=10, alpha=0.5, color=colour(name, i))
        finite = values[np.isfinite(values)]  # of what diverged there is no score
        ax.plot([finite.mean() if len(finite) else np.nan] * 2, [i - 0.38, i + 0.38], color="black", lw=2)
    if chance is not None:
        ax.axvline(unit * chance, color="gray", ls=":", label="chance")
        ax.legend(frameon=False)
    ax.set(yticks=range(len(groups)), yticklabels=list(groups), xlabel=label if xlabel is None else xlabel, title=title)
    ax.invert_yaxis()
    return figure


def draw_distances(distances: Mapping[str, Tensor], xlabel: str, title: str) -> Figure:
    """Histograms of distances (n,) on one axis, each in percent of its own number."""
    require_named(distances, "histogram")
    for name, values in distances.items():
        require(values, f"distance of '{name}'")
    distances = on_cpu(distances)
    figure, (ax,) = new_figure(1, width=7)
    _, highest = finite_range(np.concatenate([np.asarray(values).ravel() for values in distances.values()]))
    bins = np.linspace(0, 1.02 * highest or 1.0, 60)
    for i, (name, values) in enumerate(distances.items()):
        shares = np.full(len(values), 100 / len(values))  # of those beyond the axis too
        values = np.asarray(values)
        finite = np.isfinite(values)
        ax.hist(values[finite], bins=bins, weights=shares[finite], alpha=0.6, label=name, color=colour(name, i))
    ax.set(xlabel=xlabel, ylabel="share (%)", title=title)
    ax.legend(frameon=False)
    return figure


def draw_matrices(matrices: Mapping[str, Tensor], xlabel: str, ylabel: str, label: str = "weight") -> Figure:
    """Matrices side by side on one colour scale, which ``label`` names."""
    require_named(matrices, "matrix")
    for name, matrix in matrices.items():
        require(matrix.flatten(), f"entry of '{name}'")
    matrices = on_cpu(matrices)
    figure, panels = new_figure(len(matrices), width=3.4, height=3.2)
    _, limit = finite_range(np.concatenate([matrix.abs().numpy().ravel() for matrix in matrices.values()]))
    limit = limit or 1.0
    for ax, (name, matrix) in zip(panels, matrices.items(), strict=True):
        ax.grid(False)
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        ax.set(title=name, xlabel=xlabel, ylabel=ylabel)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    figure.colorbar(image, ax=panels, label=label, shrink=0.8)
    return figure


def draw_lines(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float] | Tensor]],
    xlabel: str,
    ylabel: str,
    title: str,
    *,
    log: str = "",
    marker: str | None = "o",
    bottom: float | None = None,
) -> Figure:
    """Named lines on one pair of axes.

    Args:
        lines: name -> (x, y); ``y`` of shape (repeats, x) becomes its mean and range.
        xlabel: what ``x`` is.
        ylabel: what ``y`` is.
        title: of the figure.
        log: the logarithmic axes: ``""``, ``"x"``, ``"y"`` or ``"xy"``.
        marker: of the points; None: none.
        bottom: where the y axis begins.
    """
    require_named(lines, "line")
    lines = on_cpu(lines)
    figure, (ax,) = new_figure(1, width=6.6)
    for i, (name, (x, y)) in enumerate(lines.items()):
        y = np.asarray(y, dtype=float)
        repeated = y.ndim == 2
        middle = y.mean(0) if repeated else y
        ax.plot(x, middle, color=colour(name, i), marker=marker, ms=4, label=name)
        if repeated:
            ax.fill_between(x, y.min(0), y.max(0), color=colour(name, i), alpha=0.15, lw=0)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if "x" in log:
        ax.set_xscale("log")
        _name_places(ax, sorted({float(place) for x, _ in lines.values() for place in x}))
    if "y" in log:
        ax.set_yscale("log")
    if bottom is not None:
        ax.set_ylim(bottom=bottom)
    ax.legend(frameon=False)
    return figure


def _name_places(ax: Axes, places: Sequence[float]) -> None:
    """On a logarithmic x axis: a tick at each of a few places that stand apart, in place of powers of ten."""
    stand_apart = all(place > 0 for place in places) and all(b >= 1.3 * a for a, b in pairwise(places))
    if 1 < len(places) <= 10 and stand_apart:
        ax.set_xticks(places, [f"{place:g}" for place in places])
        ax.xaxis.set_minor_locator(NullLocator())
