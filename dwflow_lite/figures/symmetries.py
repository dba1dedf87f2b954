"""Figures of symmetry: lines between networks, barriers, and one step of matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dwflow_lite.figures.style import (
    COLOURS,
    colour,
    finite_range,
    loss_axis,
    new_figure,
    on_cpu,
    require_named,
    score_axis,
)
from dwflow_lite.symmetry.barrier import BarrierCurve


def draw_barriers(curves: Mapping[str, BarrierCurve], pair: int | None = None, strong: str | None = None) -> Figure:
    """Loss and accuracy along the lines between pairs of networks.

    Every line is faint, their mean strong, and dashed the mean of the repaired lines where they were measured.

    Args:
        curves: name -> curves of the same pairs.
        pair: draw this pair alone. The axes stay the same.
        strong: keep this name strong and the others faint.

    Raises:
        ValueError: no curves, no such pair, or curves of tasks with other scores.
    """
    score_name = _score_name(curves)
    if pair is not None and not all(0 <= pair < len(curve.loss) for curve in curves.values()):
        raise ValueError(f"there is no pair {pair}: each of the curves has {len(next(iter(curves.values())).loss)}")
    label, unit = score_axis(score_name)
    figure, (left, right) = new_figure(2)
    _draw_curves(left, curves, "loss", 1, pair, strong)
    _draw_curves(right, curves, "score", unit, pair, strong)
    title = score_name[0].upper() + score_name[1:]
    left.set(xlabel="position t on the line", ylabel=loss_axis(score_name), title="Loss between two networks")
    right.set(xlabel="position t on the line", ylabel=label, title=f"{title} between two networks")
    if any(curve.repaired for curve in curves.values()):
        right.plot([], [], color="black", lw=1.6, ls="--", label="repaired")
    right.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def _score_name(curves: Mapping[str, BarrierCurve]) -> str:
    """The score that all these curves show; ValueError if there is none, or more than one."""
    require_named(curves, "curve")
    names = {curve.score_name for curve in curves.values()}
    if len(names) > 1:
        raise ValueError(f"curves of one figure show one score, these show {' and '.join(sorted(names))}")
    return names.pop()


def _draw_curves(
    ax: Axes, curves: Mapping[str, BarrierCurve], quantity: str, unit: float, pair: int | None, strong: str | None
) -> None:
    """One quantity of all curves, in units of ``unit``, on axes that hold every pair."""
    drawn = []
    for i, (name, curve) in enumerate(curves.items()):
        shade = colour(name, i)
        opacity = 1 if strong is None or strong == name else 0.2
        lines = unit * getattr(curve, quantity).numpy()  # (pairs, positions)
        drawn.append(lines.ravel())
        ax.plot(curve.t, _mean_or_one(lines, pair), color=shade, lw=2.2, alpha=opacity, label=name)
        if pair is None:
            ax.plot(curve.t, lines.T, color=shade, alpha=0.15, lw=0.8)
        if curve.repaired:
            repaired = unit * getattr(curve.repaired, quantity).numpy()
            ax.plot(curve.t, _mean_or_one(repaired, pair), color=shade, lw=1.6, ls="--", alpha=opacity)
    low, high = finite_range(np.concatenate(drawn))
    margin = 0.04 * (high - low) or 0.04
    ax.set_ylim(low - margin, high + margin)


def _mean_or_one(lines: np.ndarray, pair: int | None) -> np.ndarray:
    """The mean of lines (pairs, positions), or the line of one pair."""
    return lines.mean(0) if pair is None else lines[pair]


def draw_barrier_table(curves: Mapping[str, BarrierCurve], title: str = "Barriers") -> Figure:
    """Mean barrier of each kind in loss and accuracy, as it is (full) and repaired (pale); dots are single pairs."""
    score_name = _score_name(curves)
    label, percent = score_axis(score_name)
    barrier = "accuracy barrier (points)" if percent == 100 else f"{label} barrier"
    figure, (left, right) = new_figure(2, width=4.4, height=0.9 + 0.42 * len(curves))
    for ax, quantity, unit in ((left, "loss_barrier", 1), (right, "score_barrier", percent)):
        for i, curve in enumerate(curves.values()):
            _draw_bar(ax, i - 0.19, unit * getattr(curve, quantity).numpy(), opacity=0.9)
            if curve.repaired:
                _draw_bar(ax, i + 0.19, unit * getattr(curve.repaired, quantity).numpy(), opacity=0.4)
        ax.invert_yaxis()
        ax.set_xlim(0, None)
    left.set_yticks(range(len(curves)), list(curves))
    right.set_yticks(range(len(curves)), [""] * len(curves))
    left.set(xlabel=loss_axis(score_name).replace("loss", "loss barrier"), ylabel="matched by", title=title)
    right.set(xlabel=barrier, ylabel=" ", title="full: as it is, pale: repaired")
    return figure


def _draw_bar(ax: Axes, height: float, values: np.ndarray, opacity: float) -> None:
    """The mean of values (pairs,) as a bar, and each as a dot; what is not finite has neither."""
    values = values[np.isfinite(values)]
    if not len(values):
        return
    ax.barh(height, values.mean(), 0.36, color=COLOURS["aligned"], alpha=opacity)
    ax.plot(values, np.full(len(values), height), ".", color="black", ms=3, alpha=0.5)


def draw_assignment(similarity: Tensor, order: Tensor, objective: Sequence[float], step: int, group: str) -> Figure:
    """One update of coordinate descent: the matrix to assign, its columns in the old and the new order, and the gain.

    Args:
        similarity: (n, n), every unit of the reference against every unit of the other network, as it stands.
        order: (n,) new order of the other network's units.
        objective: history, one value at the start and one after each update.
        step: which update this is, from 1.
        group: the units it permutes.
    """
    similarity, order = on_cpu((similarity, order))
    figure, panels = new_figure(3, width=3.9, height=3.5)
    limit = float(similarity.abs().max())
    versions = {"before": similarity, "after": similarity[:, order]}
    for ax, (when, matrix) in zip(panels[:2], versions.items(), strict=True):
        ax.grid(False)
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.set(
            title=f"{group}, {when}: diagonal sums to {float(matrix.trace()):.1f}",
            xlabel="unit of the other network, in order",
            ylabel="unit of the reference",
        )
        ax.title.set_fontsize(10)
    figure.colorbar(image, ax=panels[:2], label="similarity", shrink=0.8)
    history = panels[2]
    history.plot(objective, color=COLOURS["aligned"], marker="o", ms=4)
    history.axvline(step, color="black", lw=1)
    history.set(xlabel="update", ylabel="objective ⟨A, permuted B⟩", title="It never falls")
    return figure


def draw_heads(matrices: Mapping[str, Tensor], order: Sequence[int], across: Sequence[str] = ("project",)) -> Figure:
    """Matrices of one attention layer, with a border between its heads and the number of each.

    Args:
        matrices: name -> (n, m), on one scale of colours.
        order: the heads as they stand, each a stretch of n / H rows.
        across: names of those whose heads are stretches of columns.

    Raises:
        ValueError: no matrix, or a length that heads do not divide.
    """
    require_named(matrices, "matrix")
    matrices = on_cpu(matrices)
    figure, panels = new_figure(len(matrices), width=2.9, height=3.2)
    _, limit = finite_range(np.concatenate([matrix.abs().numpy().ravel() for matrix in matrices.values()]))
    for ax, (name, matrix) in zip(panels, matrices.items(), strict=True):
        along_columns = name in across
        units = matrix.shape[1 if along_columns else 0]
        if units % len(order):
            raise ValueError(f"'{name}' has {units} units, which {len(order)} heads do not share evenly")
        ax.grid(False)
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-limit or -1, vmax=limit or 1, aspect="auto")
        size = units // len(order)
        axis, border = (ax.xaxis, ax.axvline) if along_columns else (ax.yaxis, ax.axhline)
        axis.set_ticks([size * i + (size - 1) / 2 for i in range(len(order))], [f"head {head}" for head in order])
        axis.set_tick_params(length=0, labelrotation=0 if along_columns else 90)
        for i in range(1, len(order)):
            border(size * i - 0.5, color="black", lw=1.6)
        ax.set(title=name, xlabel="column", ylabel="row")
        other = ax.yaxis if along_columns else ax.xaxis
        other.set_major_locator(MaxNLocator(6, integer=True))
        for label in ax.get_yticklabels():
            label.set_verticalalignment("center")
    figure.colorbar(image, ax=panels, label="weight", shrink=0.8)
    return figure
