"""Figures of the scoreboard: the paper's figures beside ours, and verdicts by difference and distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from dwflow_lite.figures.naming import name_points
from dwflow_lite.figures.style import colour, new_figure, require, require_named


class Reported(NamedTuple):
    """What the paper reports and what was found here, each with its spread over networks.

    Attributes:
        name: of what was measured.
        paper: mean and spread; of no spread, 0.
        here: mean and spread.
        same: whether task and network are the paper's.
    """

    name: str
    paper: tuple[float, float]
    here: tuple[float, float]
    same: bool


class Judged(NamedTuple):
    """Networks of one origin against a claim.

    Attributes:
        mean: of the differences.
        ends: of its interval; infinite where there was one zoo.
        distance: to the nearest training network, zoo's own = 1.
        verdict: in words; it has a colour.
    """

    mean: float
    ends: tuple[float, float]
    distance: float
    verdict: str


def draw_reported(pairs: Sequence[Reported], xlabel: str, title: str) -> Figure:
    """Two points on a line for each pair: the paper's and ours; hollow where ours is of another task or network."""
    require(pairs, "pair")
    figure, (ax,) = new_figure(1, width=5.4, height=0.5 * len(pairs) + 1.3)
    for y, pair in enumerate(pairs):
        ax.plot([pair.paper[0], pair.here[0]], [y, y], color="#c9ced6", lw=3, zorder=1)
        for name, (mean, spread), up in (("the paper", pair.paper, -0.1), ("here", pair.here, 0.1)):
            shade = colour(name)
            hollow = name == "here" and not pair.same
            ax.errorbar(
                mean,
                y + up,
                xerr=spread,
                fmt="D" if name == "the paper" else "o",
                ms=7,
                color=shade,
                mfc="white" if hollow else shade,
                mew=1.8,
                capsize=2,
                lw=1.2,
                zorder=3,
            )
    handles = [
        Line2D([], [], marker="D", ls="", color=colour("the paper"), label="the paper"),
        Line2D([], [], marker="o", ls="", color=colour("here"), label="here"),
    ]
    if not all(pair.same for pair in pairs):
        handles.append(Line2D([], [], marker="o", ls="", color=colour("here"), mfc="white", label="here, another task"))
    ax.legend(
        handles=handles, frameon=False, fontsize=9, ncols=len(handles), loc="upper left", bbox_to_anchor=(0, -0.14)
    )
    ax.set(yticks=range(len(pairs)), yticklabels=[pair.name for pair in pairs])
    ax.set(xlabel=xlabel, ylabel="networks", title=title)
    ax.invert_yaxis()
    return figure


def draw_verdicts(
    judged: Mapping[str, Judged], bar: float, near: float | None, ylabel: str, title: str, low: float = -3.0
) -> Figure:
    """How much better networks are, against how far they lie from training networks, in the colours of their verdicts.

    Args:
        judged: origin -> what was found.
        bar: above it the claim holds; that part is shaded.
        near: below this distance networks are copies; None: distances do not count.
        ylabel: what the difference is.
        title: of the figure.
        low: what lies lower is drawn at this edge.
    """
    require_named(judged, "judged")
    figure, (ax,) = new_figure(1, width=5.4, height=4.6)
    right = 1.32 * max(1.0, *(found.distance for found in judged.values()))
    top = 1.0 + max(0.5, *(found.mean for found in judged.values()))
    ax.set(xlim=(-0.05, right), ylim=(low - 0.35 * (top - low), top), ylabel=ylabel, title=title)
    ax.set(xlabel="distance to the nearest training network (zoo's own = 1)")
    start = -0.05 if near is None else near
    ax.add_patch(Rectangle((start, bar), right - start, top - bar, color=colour("reproduced"), alpha=0.12, lw=0))
    ax.axhline(bar, color="black", ls="--", lw=1)
    if near is not None:
        ax.axvline(near, color="black", ls="--", lw=1)
    places = {name: max(found.mean, low) for name, found in judged.items()}
    for name, found in judged.items():
        shade, marker = colour(found.verdict), "o" if found.mean > low else "v"
        if found.mean > low:
            ends = [min(max(end, low), top) for end in found.ends]
            ax.plot([found.distance] * 2, ends, color=shade, lw=2, zorder=3)
        ax.plot(found.distance, places[name], marker, color=shade, ms=7, zorder=4)
    name_points(ax, [(name, found.distance, places[name]) for name, found in judged.items()])
    verdicts = dict.fromkeys(found.verdict for found in judged.values())
    handles = [Line2D([], [], marker="o", ls="", color=colour(verdict), label=verdict) for verdict in verdicts]
    ax.legend(handles=handles, framealpha=0.9, edgecolor="none", fontsize=9, loc="lower left")
    return figure
