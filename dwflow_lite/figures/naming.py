"""Names beside the points of a figure, where they cover neither each other nor what is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy import ndarray

SIZE = 8  # of a name, in points
REACHES = (9, 16, 26, 40, 58, 80, 106, 136, 170)  # of a name from its point, in pixels
ANGLES = np.linspace(0, 2 * np.pi, 32, endpoint=False)
STEP = 4  # between two looks at what is drawn, in pixels
LOOKS = 16  # along the line from a point to its name
RING = 5 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)[::4]  # about a point: its marker

# What speaks against a place for a name, beside the length of its line in pixels.
OVER_NAME = 1e6
OUTSIDE = 1e5
LINE_OVER_NAME = 150.0
LINE_OVER_LINE = 25.0
OVER_DRAWN = 8.0  # for each place on it
WRONG_SIDE = 12.0


def name_points(ax: Axes, points: Sequence[tuple[str, float, float]], side: int = 1) -> None:
    """Name points (name, x, y), each at the best of many places around it, with a line to the point.

    Points that stand alone come first. The best place is free of other names and covers least of what is drawn; its
    line is short and crosses no name. Without room for all, some names overlap.

    Args:
        ax: whose limits are final, with all that is drawn in it.
        points: to name.
        side: 1: names rather to the right; -1: to the left.
    """
    ax.figure.draw_without_rendering()  # now the axes have their place
    shown = [point for point in points if _is_inside(ax, point)]  # others have no place
    if not shown:
        return
    at = ax.transData.transform([point[1:] for point in shown])  # (n, 2), in pixels
    drawn = np.concatenate([_drawn(ax), *(at + place for place in RING)])
    taken = np.empty((0, 4))  # the boxes of names so far: left, bottom, right, top
    crossed = np.empty((0, 2))  # places on their lines
    for i in np.argsort([-_room(at, i) for i in range(len(at))], kind="stable"):
        boxes, lines = _places(at[i], _size(ax, shown[i][0]))
        best = int(np.argmin(_costs(ax, boxes, lines, drawn, taken, crossed) + _wrong_side(boxes, at[i], side)))
        taken = np.vstack([taken, boxes[best]])
        crossed = np.vstack([crossed, lines[best, 1:]])
        _write(ax, shown[i], boxes[best])


def _is_inside(ax: Axes, point: tuple[str, float, float]) -> bool:
    """Whether a point lies within the limits of the axes; NaN does not."""
    (left, right), (bottom, top) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    return left <= point[1] <= right and bottom <= point[2] <= top


def _room(at: ndarray, i: int) -> float:
    """How far point ``i`` of (n, 2) lies from the nearest three others, on average; infinite for one alone."""
    apart = np.sort(np.hypot(*(np.delete(at, i, 0) - at[i]).T))[:3]
    return float(apart.mean()) if len(apart) else float("inf")


def _size(ax: Axes, name: str) -> ndarray:
    """Width and height of a name, in pixels, with a margin."""
    text = ax.text(0, 0, name, fontsize=SIZE)
    extent = text.get_window_extent()
    text.remove()
    return np.array([extent.width + 5, extent.height + 2])


def _drawn(ax: Axes) -> ndarray:
    """Places (m, 2) in pixels at which something is drawn: along lines and error bars, and at points."""
    parts = [line.get_transform().transform(line.get_xydata()) for line in ax.lines]
    for collection in ax.collections:
        parts += [collection.get_transform().transform(path.vertices) for path in collection.get_paths()]
        parts += [collection.get_offset_transform().transform(collection.get_offsets())]
    dense = [_between(one, two) for part in parts for one, two in zip(part, part[1:], strict=False)]
    everything = np.concatenate([np.empty((0, 2)), *parts, *dense])
    return everything[np.isfinite(everything).all(1)]


def _between(one: ndarray, two: ndarray) -> ndarray:
    """Places (m, 2) from one to another, a few pixels apart."""
    apart = np.hypot(*(two - one))
    looks = int(apart / STEP) + 1 if np.isfinite(apart) else 1
    return one + np.linspace(0, 1, looks)[:, None] * (two - one)


def _places(point: ndarray, size: ndarray) -> tuple[ndarray, ndarray]:
    """Boxes (c, 4) in which a name of this size may stand, and places (c, LOOKS, 2) on their lines to the point."""
    directions = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)  # (a, 2)
    centres = point + (np.array(REACHES)[:, None, None] + size / 2) * directions  # (r, a, 2)
    centres = centres.reshape(-1, 2)
    boxes = np.concatenate([centres - size / 2, centres + size / 2], 1)
    ends = np.clip(point, boxes[:, :2], boxes[:, 2:])  # where the lines meet the boxes
    return boxes, point + np.linspace(0, 1, LOOKS)[:, None] * (ends - point)[:, None]


def _inside(places: ndarray, boxes: ndarray) -> ndarray:
    """Whether places (…, 1, 2) lie in boxes (k, 4): (…, k)."""
    return ((places > boxes[:, :2]) & (places < boxes[:, 2:])).all(-1)


def _costs(ax: Axes, boxes: ndarray, lines: ndarray, drawn: ndarray, taken: ndarray, crossed: ndarray) -> ndarray:
    """What speaks against each of several places (c,): see the numbers above."""
    frame = ax.bbox.extents
    length = np.hypot(*(lines[:, -1] - lines[:, 0]).T)
    outside = (boxes[:, :2] < frame[:2]).any(1) | (boxes[:, 2:] > frame[2:]).any(1)
    over_name = ((boxes[:, None, :2] < taken[:, 2:]) & (taken[:, :2] < boxes[:, None, 2:])).all(-1).sum(1)
    over_drawn = _inside(drawn[:, None], boxes).sum(0)
    line_over_name = _inside(lines[:, :, None], taken).any(1).sum(1) + _inside(crossed[:, None], boxes).any(0)
    apart = np.hypot(*np.moveaxis(lines[:, 1:, None] - crossed, -1, 0))  # (c, LOOKS - 1, of other lines)
    line_over_line = (apart < STEP).any((1, 2))
    return (
        length
        + OUTSIDE * outside
        + OVER_NAME * over_name
        + OVER_DRAWN * over_drawn
        + LINE_OVER_NAME * line_over_name
        + LINE_OVER_LINE * line_over_line
    )


def _wrong_side(boxes: ndarray, point: ndarray, side: int) -> ndarray:
    """A little against each place (c,) on the other side of the point."""
    return WRONG_SIDE * (side * ((boxes[:, 0] + boxes[:, 2]) / 2 - point[0]) < 0)


def _write(ax: Axes, point: tuple[str, float, float], box: ndarray) -> None:
    """The name in its box, and the line to its point."""
    name, x, y = point
    ax.annotate(
        name,
        (x, y),
        xytext=tuple(ax.transData.inverted().transform((box[:2] + box[2:]) / 2)),
        fontsize=SIZE,
        va="center",
        ha="center",
        bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        zorder=5,
        arrowprops={"arrowstyle": "-", "color": "gray", "lw": 0.5, "shrinkA": 0, "shrinkB": 2},
    )
