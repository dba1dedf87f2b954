"""The shapes of digits and capitals: a few strokes each, on a board of 10 × 10, x to the right and y down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PIECES = 4  # straight pieces between two control points of a curve
BEND = 0.75  # of the way between both neighbours: how far a curve heads on at a point; a loop of four is nearly round


@dataclass(frozen=True)
class Stroke:
    """One stroke of a pen.

    Attributes:
        points: that it passes, (x, y) each, from 0 to 10.
        bends: it passes them on a smooth curve; else straight, with corners.
        closes: it ends where it began.
    """

    points: tuple[tuple[float, float], ...]
    bends: bool = False
    closes: bool = False

    def corners(self, points: np.ndarray) -> list[np.ndarray]:
        """The corners of the straight pieces that draw it, for many strokes of this kind at once.

        Curves are cubic between two points, and head at each in the direction from the one before to the one after
        (Hermite's form, with the slopes of Catmull and Rom).

        Args:
            points: where the stroke passes in each of n images, (n, points, 2).

        Returns:
            Corners (n, 2) one after the other; two neighbours are a straight piece.
        """
        count = len(self.points)
        passed = [points[:, i] for i in range(count)]
        if self.closes:
            passed.append(passed[0])
        if not self.bends:
            return passed
        last = len(passed) - 1
        slopes = []
        for i in range(len(passed)):
            before = passed[i - 1] if i > 0 else passed[-2 if self.closes else 0]
            after = passed[i + 1] if i < last else passed[1 if self.closes else last]
            slopes.append(BEND * (after - before))
        corners = [passed[0]]
        for i in range(last):
            for t in (piece / PIECES for piece in range(1, PIECES + 1)):
                u = 1 - t
                corners.append(
                    u * u * (1 + 2 * t) * passed[i]
                    + t * t * (1 + 2 * u) * passed[i + 1]
                    + t * u * u * slopes[i]
                    - t * t * u * slopes[i + 1]
                )
        return corners


def line(*points: tuple[float, float]) -> Stroke:
    """Straight from point to point."""
    return Stroke(points)


def curve(*points: tuple[float, float]) -> Stroke:
    """Smooth through all points."""
    return Stroke(points, bends=True)


def loop(*points: tuple[float, float]) -> Stroke:
    """Smooth through all points and back to the first."""
    return Stroke(points, bends=True, closes=True)


DIGITS = {
    "0": (loop((5, 0), (8, 5), (5, 10), (2, 5)),),
    "1": (line((2.8, 2.4), (5.5, 0), (5.5, 10)),),
    "2": (curve((1.8, 2.6), (5, 0), (8, 2.8), (5.2, 6.4), (1.6, 10)), line((1.6, 10), (8.6, 10))),
    "3": (curve((1.8, 1.2), (5, 0), (7.8, 2.3), (4.6, 4.7)), curve((4.6, 4.7), (8.3, 7.2), (5, 10), (1.6, 8.7))),
    "4": (line((6.6, 10), (6.6, 0), (1.2, 6.8), (9, 6.8)),),
    "5": (line((8.2, 0), (2.6, 0), (2.2, 4.6)), curve((2.2, 4.6), (5.4, 3.8), (8.3, 6.8), (5.2, 10), (1.6, 8.8))),
    "6": (loop((5, 4.6), (8, 7.3), (5, 10), (2, 7.3)), curve((7.2, 0), (3.4, 3), (2, 7.3))),
    "7": (line((1.6, 0), (8.4, 0), (4, 10)),),
    "8": (loop((5, 0), (7.6, 2.35), (5, 4.7), (2.4, 2.35)), loop((5, 4.7), (8.2, 7.35), (5, 10), (1.8, 7.35))),
    "9": (loop((5, 0), (8, 2.7), (5, 5.4), (2, 2.7)), curve((8, 2.7), (7.2, 6.6), (4, 10))),
}

# B, I, O, S and Z are left out: small, they are 8, 1, 0, 5 and 2.
LETTERS = {
    "A": (line((1, 10), (5, 0), (9, 10)), line((2.6, 6.4), (7.4, 6.4))),
    "C": (curve((8.4, 2), (5.4, 0), (1.8, 5), (5.4, 10), (8.4, 8)),),
    "D": (line((3.5, 10), (2, 10), (2, 0), (3.5, 0)), curve((3.5, 0), (7, 1.4), (8.4, 5), (7, 8.6), (3.5, 10))),
    "E": (line((8.2, 0), (2, 0), (2, 10), (8.2, 10)), line((2, 5), (7.2, 5))),
    "F": (line((8.2, 0), (2, 0), (2, 10)), line((2, 5), (7.2, 5))),
    "G": (curve((8.4, 2), (5.4, 0), (1.8, 5), (5.4, 10), (8.6, 7.6)), line((8.6, 7.6), (8.6, 5.6), (5.4, 5.6))),
    "H": (line((1.8, 0), (1.8, 10)), line((8.2, 0), (8.2, 10)), line((1.8, 5), (8.2, 5))),
    "J": (line((3.6, 0), (8.4, 0)), curve((6.6, 0), (6.6, 6.6), (4.2, 10), (1.8, 7.4))),
    "K": (line((2, 0), (2, 10)), line((8.4, 0), (2, 6)), line((4.2, 4), (8.8, 10))),
    "L": (line((2, 0), (2, 10), (8.4, 10)),),
    "M": (line((1, 10), (1.4, 0), (5, 6.6), (8.6, 0), (9, 10)),),
    "N": (line((1.8, 10), (1.8, 0), (8.2, 10), (8.2, 0)),),
    "P": (line((2, 10), (2, 0), (5, 0)), curve((5, 0), (7.6, 0.9), (7.6, 4.5), (5, 5.4)), line((5, 5.4), (2, 5.4))),
    "Q": (loop((5, 0), (8.6, 4.8), (5, 9.6), (1.4, 4.8)), line((5.4, 6.4), (9.2, 10.4))),
    "R": (
        line((2, 10), (2, 0), (5, 0)),
        curve((5, 0), (7.6, 0.9), (7.6, 4.3), (5, 5.2)),
        line((5, 5.2), (2, 5.2)),
        line((4.6, 5.2), (8.6, 10)),
    ),
    "T": (line((1, 0), (9, 0)), line((5, 0), (5, 10))),
    "U": (curve((1.8, 0), (1.8, 5.6), (5, 10), (8.2, 5.6), (8.2, 0)),),
    "V": (line((1, 0), (5, 10), (9, 0)),),
    "W": (line((0.4, 0), (2.8, 10), (5, 3.4), (7.2, 10), (9.6, 0)),),
    "X": (line((1.2, 0), (8.8, 10)), line((8.8, 0), (1.2, 10))),
    "Y": (line((1, 0), (5, 5.2), (9, 0)), line((5, 5.2), (5, 10))),
}

SYMBOLS = {"digits": DIGITS, "letters": LETTERS, "both": DIGITS | LETTERS}
