"""The figures of an audit's page, as SVG by hand: this room lies below the figures, and draws without their library.

Colours are the style sheet's (``--c`` of each kind), so that one picture serves light and dark pages.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, isfinite, log10

from dwflow_lite.auditing.rows import Bars, Row
from dwflow_lite.support.colours import COLOURS

OTHERS = ("#d1495b", "#2a7f9e", "#e8963a", "#3c8d5a", "#7d4fc4", "#c2408f", "#8a6d1f", "#5f7fd9", "#1f9e9e", "#b0532c")

WIDTH = 800
NAMES = 210  # width of the column of names
LINE = 17  # height of a name
BINS = 60


@dataclass(frozen=True)
class Frame:
    """A rectangle of the picture, and the numbers that its edges stand for.

    Attributes:
        left, top, right, bottom: of the rectangle, in pixels from above.
        x, y: least and greatest number along it.
    """

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at_x(self, value: float) -> float:
        """Where a number lies, in pixels; beyond an edge: on it."""
        low, high = self.x
        share = (min(max(value, low), high) - low) / (high - low)
        return self.left + share * (self.right - self.left)

    def at_y(self, value: float) -> float:
        """Where a number lies, in pixels; beyond an edge: on it."""
        low, high = self.y
        share = (min(max(value, low), high) - low) / (high - low)
        return self.bottom - share * (self.bottom - self.top)

    def axis_x(self, label: str) -> str:
        """Ticks below, with a label."""
        parts = [f'<line class="axis" x1="{self.left}" y1="{self.bottom}" x2="{self.right}" y2="{self.bottom}"/>']
        for tick in ticks(*self.x):
            at = f"{self.at_x(tick):.1f}"
            parts.append(f'<line class="grid" x1="{at}" y1="{self.top}" x2="{at}" y2="{self.bottom}"/>')
            parts.append(text(float(at), self.bottom + 17, f"{tick:g}", "middle", "soft"))
        parts.append(text((self.left + self.right) / 2, self.bottom + 38, label, "middle"))
        return "".join(parts)

    def axis_y(self, label: str) -> str:
        """Ticks to the left, with a label above."""
        parts = [f'<line class="axis" x1="{self.left}" y1="{self.top}" x2="{self.left}" y2="{self.bottom}"/>']
        for tick in ticks(*self.y):
            at = f"{self.at_y(tick):.1f}"
            parts.append(f'<line class="grid" x1="{self.left}" y1="{at}" x2="{self.right}" y2="{at}"/>')
            parts.append(text(self.left - 8, float(at) + 4, f"{tick:g}", "end", "soft"))
        parts.append(text(self.left - 44, self.top - 12, label, "start"))
        return "".join(parts)


def frontier_of(rows: Sequence[Row], bars: Bars, score: str, noise: Collection[str]) -> str:
    """Score against distance: a point for each network, a ring at each kind's mean, and the two bars.

    Args:
        rows: with values.
        bars: of the audit.
        score: what stands at the axis; an accuracy is drawn in percent.
        noise: kinds that are left out when the axes are chosen; what lies beyond an edge is drawn on it.
    """
    unit = 100 if score.startswith("accuracy") else 1
    low, high = score_range([row for row in rows if row.name not in noise], bars)
    y = (unit * low, unit * high)
    frame = Frame(60, 34, WIDTH - NAMES - 30, 400, (0, _farthest(rows, noise)), y)
    parts = [frame.axis_x("distance to the nearest member (what lies beyond an axis stands at its end)")]
    parts.append(frame.axis_y(score + (" (%)" if unit == 100 else "")))
    parts.append(_upright(frame, bars.distance) + _level(frame, unit * bars.score))
    means = []
    for position, row in enumerate(rows):
        colour = style_of(row.name, position)
        for far, value in zip(row.values.distance, row.values.score, strict=True):
            if isfinite(far) and isfinite(value):
                at = f'cx="{frame.at_x(far):.1f}" cy="{frame.at_y(unit * value):.1f}"'
                parts.append(f'<circle class="mark faint" {colour} {at} r="2.6"/>')
        if isfinite(row.score) and isfinite(row.distance):
            means.append((row.name, colour, frame.at_x(row.distance), frame.at_y(unit * row.score)))
    for _, colour, at_x, at_y in means:  # above all points
        parts.append(f'<circle class="mark ring" {colour} cx="{at_x:.1f}" cy="{at_y:.1f}" r="6"/>')
    parts.append(_names_beside(frame, means))
    return picture("".join(parts), 450, "Score of each network against its distance to the nearest member")


def histograms_of(rows: Sequence[Row], bars: Bars, noise: Collection[str]) -> str:
    """How far the networks of each kind lie from their nearest member: one strip for each, on one axis."""
    height, gap = 26, 6
    bottom = 34 + len(rows) * (height + gap)
    frame = Frame(NAMES, 34, WIDTH - 30, bottom, (0, _farthest(rows, noise)), (0, 1))
    parts = [frame.axis_x("distance to the nearest member (the zoo's own median: 1)")]
    parts.append(_upright(frame, bars.distance))
    width = (frame.right - frame.left) / BINS
    for position, row in enumerate(rows):
        base = 34 + (position + 1) * (height + gap) - gap / 2
        counts = [0] * BINS
        for far in _numbers(row.values.distance):
            counts[min(int(far / frame.x[1] * BINS), BINS - 1)] += 1
        colour, most = style_of(row.name, position), max(*counts, 1)
        parts.append(text(frame.left - 10, base - 8, row.name, "end"))
        for number, count in enumerate(counts):
            if count:
                tall = height * count / most
                where = f'x="{frame.left + number * width:.1f}" y="{base - tall:.1f}"'
                parts.append(f'<rect class="mark" {colour} {where} width="{width:.2f}" height="{tall:.1f}"/>')
        parts.append(f'<line class="grid" x1="{frame.left}" y1="{base}" x2="{frame.right}" y2="{base}"/>')
    return picture("".join(parts), bottom + 50, "Distances to the nearest member, a histogram for each kind")


def curves_of(
    curves: Mapping[str, Sequence[float]], areas: Mapping[str, float], thresholds: Sequence[float], bars: Bars
) -> str:
    """The share that is accurate and at least so far, over the distance; kinds are named in order of the area below."""
    frame = Frame(60, 34, WIDTH - NAMES - 30, 380, (0, max(thresholds)), (0, 100))
    parts = [frame.axis_x("at least so far from the nearest member (the zoo's own median: 1)")]
    parts.append(frame.axis_y("accurate and that far (%)"))
    parts.append(_upright(frame, bars.distance))
    in_order = sorted(areas, key=lambda name: -areas[name])
    legend = WIDTH - NAMES + 8
    for position, (name, shares) in enumerate(curves.items()):
        points = " ".join(
            f"{frame.at_x(t):.1f},{frame.at_y(100 * share):.1f}" for t, share in zip(thresholds, shares, strict=True)
        )
        colour, at = style_of(name, position), 50 + LINE * in_order.index(name)
        parts.append(f'<polyline class="line" {colour} points="{points}"/>')
        parts.append(f'<line class="line" {colour} x1="{legend - 20}" y1="{at}" x2="{legend - 8}" y2="{at}"/>')
        parts.append(text(legend, at + 4, name, "start") + text(WIDTH - 6, at + 4, f"{areas[name]:.2f}", "end"))
    parts.append(text(WIDTH - 6, 30, "area", "end", "soft"))
    return picture("".join(parts), max(430, 70 + LINE * len(curves)), "Share accurate and new over the threshold")


# -- pieces ------------------------------------------------------------------------------------------------------


def picture(content: str, height: float, title: str) -> str:
    """An SVG of the page's width, with a title for readers who do not see it."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{content}</svg>"
    )


def text(x: float, y: float, words: str, anchor: str, kind: str = "ink") -> str:
    """Words whose start, middle or end lies at a place."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def style_of(name: str, position: int) -> str:
    """The colour of a kind, as the style sheet takes it."""
    return f'style="--c:{COLOURS.get(name, OTHERS[position % len(OTHERS)])}"'


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from low to high.

    Example:
        >>> ticks(0, 1.6), ticks(87, 98)
        ([0.0, 0.5, 1.0, 1.5], [88.0, 90.0, 92.0, 94.0, 96.0, 98.0])
    """
    step = 10.0 ** floor(log10((high - low) / 2))
    while (high - low) / step < 3:
        step /= 2
    for finer in (5, 2):
        if (high - low) / step > 7 and (high - low) / (step * finer) >= 3:
            step *= finer
            break
    first = -floor(-low / step + 1e-9)
    return [round(step * number, 10) for number in range(first, floor(high / step + 1e-9) + 1)]


def score_range(rows: Sequence[Row], bars: Bars) -> tuple[float, float]:
    """Where an axis of scores begins and ends: with the networks of these rows, but near the bar.

    It begins at most a fifth of the way from the bar down to chance, so that few bad networks do not hide the others.
    """
    shown = [bars.score, *_numbers([value for row in rows for value in row.values.score])]
    low, high = min(shown), max(shown)
    if bars.score > bars.chance:
        low = max(low, bars.score - (bars.score - bars.chance) / 5)
    pad = 0.05 * (high - low) or 0.01
    return low - pad, high + pad


def _numbers(values: Sequence[float]) -> list[float]:
    """Those that are finite."""
    return [value for value in values if isfinite(value)]


def _farthest(rows: Sequence[Row], noise: Collection[str]) -> float:
    """Where an axis of distances ends: beyond all networks that are no noise, and beyond the zoo's own."""
    far = _numbers([value for row in rows if row.name not in noise for value in row.values.distance])
    return 1.04 * max([*far, 1.5])


def _upright(frame: Frame, distance: float) -> str:
    """The bar of distance, named above it."""
    at = f"{frame.at_x(distance):.1f}"
    line = f'<line class="bar" x1="{at}" y1="{frame.top}" x2="{at}" y2="{frame.bottom}"/>'
    return line + text(float(at), frame.top - 12, f"new from {distance:.2f}", "middle", "soft")


def _level(frame: Frame, score: float) -> str:
    """The bar of scores."""
    at = f"{frame.at_y(score):.1f}"
    return f'<line class="bar" x1="{frame.left}" y1="{at}" x2="{frame.right}" y2="{at}"/>'


def _names_beside(frame: Frame, means: Sequence[tuple[str, str, float, float]]) -> str:
    """Names (name, colour, x, y of the mean) in a column, none above another, each with a line to its mean."""
    parts = []
    next_free = frame.top
    left = frame.right + 22
    for number, (name, colour, at_x, at_y) in enumerate(sorted(means, key=lambda mean: (mean[3], mean[2]))):
        room_below = frame.bottom - LINE * (len(means) - 1 - number)  # that those still to come need
        y = min(max(at_y, next_free), room_below)
        next_free = y + LINE
        parts.append(f'<line class="lead" x1="{at_x:.1f}" y1="{at_y:.1f}" x2="{left - 6}" y2="{y:.1f}"/>')
        parts.append(f'<circle class="mark" {colour} cx="{left}" cy="{y:.1f}" r="4"/>')
        parts.append(text(left + 9, y + 4, name, "start"))
    return "".join(parts)
