"""Figures of matching: how far it climbs, what it finds again, what it does to a zoo, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from dwflow_lite.figures.general import draw_lines
from dwflow_lite.figures.style import require, require_named


def draw_climbs(objectives: Sequence[Sequence[float]]) -> Figure:
    """How the objective of matching rises, update by update: the mean over pairs and their range.

    Args:
        objectives: of each pair, from before its first update on; one that ended sooner stays where it is.

    Raises:
        ValueError: no pairs.
    """
    require(objectives, "pair")
    longest = max(map(len, objectives))
    climbs = [[*objective, *[objective[-1]] * (longest - len(objective))] for objective in objectives]
    lines = {"mean of pairs, and range": (range(longest), climbs)}
    return draw_lines(lines, "update", "objective ⟨A, permuted B⟩", f"The objective of {len(climbs)} pairs")


def draw_planted(levels: Sequence[float], shares: Tensor, chance: float) -> Figure:
    """Units that are found again, against the noise they were hidden in.

    Args:
        levels: L amounts of noise, in standard deviations of each tensor.
        shares: of the units found again (repeats, L), between 0 and 1.
        chance: the share that guessing finds.
    """
    lines = {
        "weight matching": (levels, 100 * shares),
        "chance": (levels, [100 * chance] * len(levels)),
    }
    noise = "noise (standard deviations of each tensor)"
    return draw_lines(lines, noise, "units found again (%)", "Planted permutations", bottom=0)


def draw_spectra(variances: Mapping[str, Tensor], title: str) -> Figure:
    """Variance of zoos along each of their principal components, largest first.

    Args:
        variances: name of a zoo -> (k,).
        title: of the figure.

    Raises:
        ValueError: no zoo.
    """
    require_named(variances, "zoo")
    lines = {name: (range(1, len(variance) + 1), variance) for name, variance in variances.items()}
    return draw_lines(lines, "principal component", "variance along it", title, marker=None, bottom=0)


def draw_rounds(spreads: Tensor) -> Figure:
    """Spread of a zoo against rounds of matching to its mean, a line for each member that it began from.

    Args:
        spreads: (references, rounds + 1), in % of their mean before the first round.
    """
    lines = {f"reference {number}": (range(len(spread)), spread) for number, spread in enumerate(spreads)}
    rounds, spread = "rounds of matching to the mean", "spread, % of the mean at round 0"
    return draw_lines(lines, rounds, spread, "From any member to a common basis", marker=".")


def draw_strengths(t: Tensor, strengths: Mapping[str, Tensor]) -> Figure:
    """How much units vary on the lines between networks, relative to the first end.

    Args:
        t: positions on the lines (T,).
        strengths: name -> standard deviations (pairs, T) over those at t = 0.

    Raises:
        ValueError: no lines.
    """
    lines = {name: (t, strength) for name, strength in strengths.items()}
    place, deviation, title = (
        "position t on the line",
        "deviation, relative to t = 0",
        "Before the ReLU, units vary less halfway",
    )
    return draw_lines(lines, place, deviation, title, bottom=0)


def draw_barriers_by_width(widths: Sequence[int], barriers: Mapping[str, Tensor]) -> Figure:
    """Loss barriers against width: means over pairs, and their range.

    Args:
        widths: W numbers of units in each hidden layer.
        barriers: name -> (pairs, W), in nats.

    Raises:
        ValueError: no barriers.
    """
    lines = {name: (widths, barrier) for name, barrier in barriers.items()}
    return draw_lines(lines, "units in each hidden layer", "loss barrier (nats)", "Width decides", log="x", bottom=0)


def draw_times_by_width(widths: Sequence[int], milliseconds: Mapping[str, Sequence[float]]) -> Figure:
    """What matching costs against width.

    Args:
        widths: W numbers of units in each hidden layer.
        milliseconds: name -> W times, for one network.

    Raises:
        ValueError: no times.
    """
    lines = {name: (widths, times) for name, times in milliseconds.items()}
    return draw_lines(lines, "units in each hidden layer", "milliseconds a network", "What matching costs", log="xy")
