"""Figures of audits: what generated networks can do, against how new and how varied they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from dwflow_lite.auditing.drawing import score_range
from dwflow_lite.auditing.rows import Row
from dwflow_lite.auditing.table import FARTHEST, Audit
from dwflow_lite.figures.naming import name_points
from dwflow_lite.figures.style import as_text, colour, finite_range, new_figure, require, require_named, score_axis
from dwflow_lite.support.colours import COLOURS


def draw_audit(audits: Mapping[str, Audit]) -> Figure:
    """Score against distance to the nearest member, each kind named at its point.

    Accurate copies lie top left; top right, with the held-out networks, lie accurate *and* new ones. Squares are the
    zoo and the trivial generators, diamonds what is being audited.

    Args:
        audits: title -> audit, one panel each, on the same axes (of one score, where they measured several).
    """
    rows = _rows(audits)
    figure, panels = new_figure(len(audits), width=6.2, height=4.6)
    _, farthest = finite_range(np.array([row.nearest for row in rows]))
    for ax, (title, result) in zip(panels, audits.items(), strict=True):
        unit = score_axis(result.score_name)[1]
        rows = _rows(audits, result.score_name)
        lowest, _ = finite_range(unit * np.array([row.score - row.score_std for row in rows]))
        if unit == 100:
            lowest = max(lowest, 0)
        for i, row in enumerate(result.rows):
            shade = colour(row.name, i)
            ax.errorbar(
                row.nearest,
                unit * row.score,
                yerr=unit * row.score_std,
                fmt="s" if row.name in COLOURS else "D",
                ms=6,
                color=shade,
                mfc="none" if row.name == "zoo" else shade,
                mew=1.6,
                capsize=2,
                lw=1,
                zorder=4 if row.name == "zoo" else 3,
            )
        ax.axvline(1, color="gray", ls=":", lw=1)
        ax.set(xlabel="distance to nearest member (zoo's own = 1)", ylabel=_score_label(result), title=title)
        ax.set(ylim=(lowest - 0.06 * unit, 1.04 * unit), xlim=(-0.05, 1.4 * max(farthest, 0.1)))
        name_points(ax, [(as_text(row.name), row.nearest, unit * row.score) for row in result.rows])
    return figure


def draw_frontier(audits: Mapping[str, Audit]) -> Figure:
    """Score against the distance that decides what is new: a point for each network, a ring at each mean, both bars.

    Accurate *and* new is what lies right of the one bar and above the other, in the shaded corner. Scores far below do
    not stretch the axis, nor do distances of noise: what lies beyond an edge is drawn on it. Panels of one score
    have one pair of axes; those that show the same kinds have one legend.

    Args:
        audits: title -> audit, one panel each; of rows with the values of each network, and with bars.

    Raises:
        ValueError: an audit of an older version, without them.
    """
    _rows(audits)  # there are some
    figure, panels = new_figure(len(audits), width=7.6 if len(audits) == 1 else 5.2, height=4.6)
    have_same_names = len({tuple(result.names) for result in audits.values()}) == 1
    for title, result in audits.items():
        _require_values(title, result)
    for ax, (title, result) in zip(panels, audits.items(), strict=True):
        unit = score_axis(result.score_name)[1]
        xlim, ylim = _frontier_axes([other for other in audits.values() if other.score_name == result.score_name])
        ax.set(xlabel="distance to nearest member (zoo's own = 1)", ylabel=_score_label(result), title=title)
        ax.set(xlim=xlim, ylim=ylim)
        rings = []
        for i, row in enumerate(result.rows):
            shade = colour(row.name, i)
            x, y = np.clip(row.values.distance, *xlim), np.clip(unit * np.array(row.values.score), *ylim)
            ax.scatter(x, y, s=13, alpha=0.5, color=shade, lw=0, clip_on=False)
            x, y = np.clip(row.distance, *xlim), np.clip(unit * row.score, *ylim)
            ring = {"mfc": "white", "mec": shade, "mew": 2.2, "zorder": 4, "clip_on": False}
            rings += ax.plot(x, y, "o", ms=8, label=as_text(row.name), **ring)
        ax.axvline(result.bars.distance, color="black", ls="--", lw=1)
        ax.axhline(unit * result.bars.score, color="black", ls="--", lw=1)
        corner = (result.bars.distance, unit * result.bars.score)
        beyond = {"width": xlim[1] - corner[0], "height": ylim[1] - corner[1]}
        ax.add_patch(Rectangle(corner, **beyond, color=COLOURS["soup of 10"], alpha=0.12, lw=0, zorder=0))
        if ax is panels[-1] or not have_same_names:
            ax.legend(handles=rings, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _frontier_axes(audits: Sequence[Audit]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits of distance and of score, which audits of one score have in common: near all bars, without noise."""
    unit = score_axis(audits[0].score_name)[1]
    seen = [[row for row in result.rows if "noise" not in result.flags(row.name)] for result in audits]
    ranges = [score_range(rows, result.bars) for rows, result in zip(seen, audits, strict=True)]
    distances = [np.array(row.values.distance) for rows in seen for row in rows]
    _, farthest = finite_range(np.concatenate([[1.5], *distances]))
    return (-0.03, 1.04 * farthest), (unit * min(low for low, _ in ranges), unit * max(high for _, high in ranges))


def draw_shares(audits: Mapping[str, Audit]) -> Figure:
    """The share of networks that are accurate and lie at least so far from their nearest member, for every such bar.

    The dashed line is the bar that was set: there a curve has what the audit calls accurate and new. Panels have one
    legend, and a kind has one colour in all of them.

    Args:
        audits: title -> audit, one panel each; of rows with the values of each network, and with bars.

    Raises:
        ValueError: an audit of an older version, without them.
    """
    rows = _rows(audits)
    figure, panels = new_figure(len(audits), width=6.6 if len(audits) == 1 else 3.8, height=3.8)
    thresholds = np.linspace(0, FARTHEST, 151)
    shades = {name: colour(name, i) for i, name in enumerate(dict.fromkeys(row.name for row in rows))}
    for ax, (title, result) in zip(panels, audits.items(), strict=True):
        _require_values(title, result)
        for name in result.names:
            ax.plot(thresholds, 100 * np.array(result.curve(name, thresholds)), color=shades[name])
        ax.axvline(result.bars.distance, color="black", ls="--", lw=1)
        ax.set(xlabel="new from this distance on", ylabel="accurate, and that far (%)", title=title)
        ax.set(xlim=(0, FARTHEST), ylim=(-2, 102))
    lines = [Line2D([], [], color=shade, label=as_text(name)) for name, shade in shades.items()]
    panels[-1].legend(handles=lines, frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _require_values(title: str, result: Audit) -> None:
    if result.bars is None or any(row.values is None for row in result.rows):
        raise ValueError(f"the audit {title!r} holds averages alone, not the values of each network: audit anew")


def draw_accuracy_dispersion(audits: Mapping[str, Audit], flows: str = "h=") -> Figure:
    """Score against dispersion, one panel for each audit: flows joined in their order, everything else beside them.

    Args:
        audits: title -> audit.
        flows: how the names of the rows begin that belong on the line.
    """
    rows = _rows(audits)
    _, widest = finite_range(np.array([row.dispersion for row in rows]))
    figure, panels = new_figure(len(audits), width=5.6, height=4.4)
    for ax, (title, result) in zip(panels, audits.items(), strict=True):
        unit = score_axis(result.score_name)[1]
        lowest, _ = finite_range(unit * np.array([row.score for row in _rows(audits, result.score_name)]))
        if unit == 100:
            lowest = 0
        on_line = [row for row in result.rows if row.name.startswith(flows)]
        beside = [row for row in result.rows if not row.name.startswith(flows)]
        handles = []
        if on_line:
            handles += ax.plot(
                [row.dispersion for row in on_line],
                [unit * row.score for row in on_line],
                color=COLOURS["generated"],
                marker="o",
                label="flows, by width h",
            )
        for i, row in enumerate(beside):
            look = {"color": colour(row.name, i), "marker": "D", "s": 34, "zorder": 3}
            handles.append(ax.scatter(row.dispersion, unit * row.score, label=as_text(row.name), **look))
        ax.set(xlabel="dispersion ratio (0: all at the mean, 1: as the zoo)", ylabel=_score_label(result), title=title)
        ax.set(ylim=(lowest - 0.04 * unit, 1.06 * unit), xlim=(0, max(1.55, 1.05 * widest)))
        name_points(ax, [(as_text(row.name), row.dispersion, unit * row.score) for row in on_line], side=-1)
    panels[-1].legend(handles=handles, frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _score_label(audit: Audit) -> str:
    """Which score this is, on which split; an accuracy in percent."""
    return f"{audit.score_name}, {audit.split}" + (" (%)" if audit.score_name == "accuracy" else "")


def _rows(audits: Mapping[str, Audit], score_name: str | None = None) -> list[Row]:
    """The rows of all audits, or of those that measured one score; ``ValueError`` for none."""
    require_named(audits, "audit")
    measured = [result for result in audits.values() if score_name in (None, result.score_name)]
    rows = [row for result in measured for row in result.rows]
    require(rows, "row")
    return rows
