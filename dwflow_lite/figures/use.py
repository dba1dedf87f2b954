"""Figures of what networks are good for: answering together, and starting another task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from dwflow_lite.figures.style import colour, new_figure, on_cpu, require, require_named
from dwflow_lite.use.curves import Transfer
from dwflow_lite.use.ensembles import Ensemble

# What is drawn of an ensemble, in this order: how it is called, and the factor to its unit.
GROWING = {
    "accuracy": ("accuracy (%)", 100.0),
    "nll": ("NLL (nats)", 1.0),
    "ece": ("ECE (points)", 100.0),
    "brier": ("Brier score", 1.0),
    "disagreement": ("disagreement (%)", 100.0),
    "temperature": ("temperature", 1.0),
}
FAINT = 0.2  # opacity of what is not looked at


def draw_two_opinions(one: float, other: float) -> Figure:
    """The negative logarithm of a probability, at two probabilities of the right class and at their mean.

    Args:
        one: what the first network gives the right class, in (0, 1].
        other: what the second gives it.

    Raises:
        ValueError: a probability out of range.
    """
    for p in (one, other):
        if not 0 < p <= 1:
            raise ValueError(f"a probability to take the logarithm of is above 0 and at most 1, not {p:g}")
    middle = (one + other) / 2
    p = np.linspace(min(0.02, one, other), 1, 200)
    figure, (ax,) = new_figure(1, width=6)
    ax.plot(p, -np.log(p), color="black", lw=1.2, label="NLL = -log p")
    ends = [-math.log(one), -math.log(other)]
    ax.plot([one, other], ends, color=colour("zoo"), ls="--", marker="o", label="the two networks")
    above, below = sum(ends) / 2, -math.log(middle)
    ax.plot(middle, above, color=colour("zoo"), marker="D", ls="", label=f"mean of their NLL: {above:.2f}")
    ax.plot(middle, below, color=colour("generated"), marker="D", ls="", label=f"NLL of their mean: {below:.2f}")
    ax.annotate("", (middle, below), (middle, above), arrowprops={"arrowstyle": "->", "color": colour("generated")})
    ax.set(xlabel="probability of the right class, p", ylabel="NLL (nats)", title="Two networks, one image")
    ax.legend(frameon=False, fontsize=9)
    return figure


def draw_growth(
    curves: Mapping[str, Ensemble | Sequence[Ensemble]],
    measures: Sequence[str] = ("accuracy", "nll", "ece", "disagreement"),
    *,
    kind: str | None = None,
    members: int | None = None,
) -> Figure:
    """What ensembles are worth as they grow, a panel for each measure.

    Args:
        curves: kind of networks -> an ensemble; or several at the same counts, drawn as their mean and range.
        measures: some of accuracy, nll, ece, brier, disagreement, temperature.
        kind: the one to look at: the others are faint, and it is written at ``members`` in the titles. None: all.
        members: how many of that kind to mark; None: all that there are. More than there are: the largest number.

    Raises:
        ValueError: nothing to draw, an unknown measure or kind, or ensembles of one kind at different counts.
        TypeError: curves without names.
    """
    require_named(curves, "ensemble")
    require(measures, "measure")
    unknown = [measure for measure in measures if measure not in GROWING]
    if unknown:
        raise ValueError(f"no measure {unknown[0]!r}: choose from {', '.join(GROWING)}")
    if kind is not None and kind not in curves:
        raise ValueError(f"no kind {kind!r}: choose from {', '.join(curves)}")
    several = {name: [some] if isinstance(some, Ensemble) else list(some) for name, some in curves.items()}
    for name, some in several.items():
        require(some, f"ensemble of '{name}'")
        if len({each.counts for each in some}) > 1:
            raise ValueError(f"the ensembles of '{name}' were measured at different counts, and have no mean")
    figure, panels = new_figure(len(measures), width=2.8, height=3.0)
    for ax, measure in zip(panels, measures, strict=True):
        label, unit = GROWING[measure]
        for i, (name, some) in enumerate(several.items()):
            counts = some[0].counts
            y = unit * np.stack([np.asarray(on_cpu(getattr(each, measure))) for each in some])  # (ensembles, counts)
            strong = kind in (None, name)
            _draw_mean_and_range(ax, counts, y, name, i, 1.0 if strong else FAINT)
            if name == kind:
                place = max(j for j, count in enumerate(counts) if count <= max(members or counts[-1], counts[0]))
                ax.plot(counts[place], y.mean(0)[place], color=colour(name, i), marker="o", ms=8)
                ax.set_title(f"{y.mean(0)[place]:.4g} at {counts[place]}", fontsize=10)
        if kind is None:
            ax.set_title(label.partition(" (")[0], fontsize=10)
        ax.set(xlabel="networks", ylabel=label, xscale="log")
        _name_counts(ax)
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def _draw_mean_and_range(ax: Axes, x: Sequence[int], y: np.ndarray, name: str, position: int, opacity: float) -> None:
    """A line and, of several, their range: y (repeats, x)."""
    shade = colour(name, position)
    ax.plot(x, y.mean(0), color=shade, alpha=opacity, marker="o", ms=3, lw=1.5, label=name)
    if len(y) > 1:
        ax.fill_between(x, y.min(0), y.max(0), color=shade, alpha=0.15 * opacity, lw=0)


def _name_counts(ax: Axes) -> None:
    """On a logarithmic x axis: 1, 3, 10, 30, … in place of powers of ten."""
    low, high = ax.get_xlim()
    places = [n for n in (1, 3, 10, 30, 100, 300, 1000) if low <= n <= high]
    ax.set_xticks(places, [str(n) for n in places])
    ax.xaxis.set_minor_locator(NullLocator())


def draw_reliability(probabilities: Mapping[str, Tensor], y: Tensor, title: str, bins: int = 10) -> Figure:
    """How often answers are right, against how sure they are: on the diagonal, probabilities are honest.

    Args:
        probabilities: name -> (n, classes), rows that sum to 1.
        y: labels (n,).
        title: of the figure.
        bins: of equal numbers of answers, by how sure they are.

    Raises:
        ValueError: nothing to draw, or fewer answers than bins.
        TypeError: probabilities without names.
    """
    require_named(probabilities, "table of probabilities")
    if bins < 1 or len(y) < bins:
        raise ValueError(f"{len(y)} answers do not fill {bins} bins")
    probabilities, y = on_cpu((dict(probabilities), y))
    figure, (ax,) = new_figure(1, width=4.8, height=4.2)
    ax.plot([0, 100], [0, 100], color="gray", ls=":", label="honest")
    lowest = 100.0
    for i, (name, table) in enumerate(probabilities.items()):
        confidence, named = table.max(1)
        right = (named == y).double()
        order = confidence.argsort()
        groups = [(float(confidence[g].mean()), float(right[g].mean())) for g in order.tensor_split(bins)]
        x, height = (100 * np.array(values) for values in zip(*groups, strict=True))
        ax.plot(x, height, color=colour(name, i), marker="o", ms=4, label=name)
        lowest = min(lowest, *x, *height)
    ax.set(xlabel="how sure: probability of the answer (%)", ylabel="how often right (%)", title=title)
    ax.set(xlim=(0.9 * lowest, 101), ylim=(0.9 * lowest, 101))
    ax.legend(frameon=False, fontsize=9)
    return figure


def draw_cost(
    trained: tuple[Sequence[float], Sequence[float]], ways: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> Figure:
    """What ensembles are worth against what they cost, beside networks that were simply trained.

    Args:
        trained: costs, which increase, and NLL of ensembles of trained networks: the line to be below.
        ways: name -> costs and NLL, one of each for every zoo; drawn as dots.

    Raises:
        ValueError: nothing to draw.
        TypeError: ways without names.
    """
    require_named(ways, "way")
    require(trained[0], "ensemble of trained networks")
    figure, (ax,) = new_figure(1, width=7, height=4)
    ax.plot(*trained, color=colour("trained"), marker=".", label="trained")
    for i, (name, (costs, losses)) in enumerate(ways.items()):
        require(costs, f"cost of '{name}'")
        ax.scatter(costs, losses, color=colour(name, i), s=30, alpha=0.8, zorder=3, label=name)
    ax.set(xscale="log", xlabel="cost (of training one network = 1)", ylabel="NLL (nats)", title="At equal cost")
    _name_counts(ax)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_transfer(found: Mapping[str, Transfer], kind: str | None = None) -> Figure:
    """Accuracy against epochs of fine-tuning for each kind of start, a panel for each transfer; bands: one deviation.

    Args:
        found: title -> transfer.
        kind: of start to look at; the others are faint. None: all.

    Raises:
        ValueError: nothing to draw, or a kind that a transfer does not have.
        TypeError: transfers without names.
    """
    require_named(found, "transfer")
    for title, each in found.items():
        if kind is not None and kind not in each.kinds:
            raise ValueError(f"no kind of start {kind!r} in '{title}': choose from {', '.join(each.kinds)}")
    figure, panels = new_figure(len(found), width=4.8, height=3.6)
    for ax, (title, each) in zip(panels, found.items(), strict=True):
        places = range(len(each.epochs))  # epochs grow too fast for a linear axis, and begin at 0
        for i, name in enumerate(each.kinds):
            mean, spread = 100 * np.array(each.mean(name)), 100 * np.array(each.spread(name))
            opacity = 1.0 if kind in (None, name) else FAINT
            ax.plot(places, mean, color=colour(name, i), alpha=opacity, marker="o", ms=4, label=name)
            ax.fill_between(places, mean - spread, mean + spread, color=colour(name, i), alpha=0.12 * opacity, lw=0)
        ax.set_xticks(places, [str(epochs) for epochs in each.epochs])
        ax.set(xlabel="epochs of fine-tuning", ylabel=f"accuracy, {each.split} (%)", title=title)
    lows, highs = zip(*(ax.get_ylim() for ax in panels), strict=True)
    for ax in panels:  # one scale
        ax.set_ylim(max(min(lows), 0), min(max(highs), 101))
    panels[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
