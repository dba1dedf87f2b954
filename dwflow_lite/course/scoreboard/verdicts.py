"""From numbers to a verdict: when may one say "reproduced"?"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

REPRODUCED = "reproduced"
COPIES = "reproduced, by copies"
NOT_REPRODUCED = "not reproduced"
OPEN = "open"
NOT_RUN = "not run here"
VERDICTS = (REPRODUCED, COPIES, OPEN, NOT_REPRODUCED, NOT_RUN)

NEAR = 0.5  # of the zoo's own distance: what lies nearer to a member is a copy of it
CONFIDENCE = 0.95  # of each end of an interval


def interval(differences: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Between which ends the mean of independent repeats lies, each end by itself with this confidence (Student's t).

    Args:
        differences: one number for each repeat; of a single one nothing is known, and the ends are infinite.
        confidence: of each end.

    Example:
        >>> low, high = interval([1.0, 2.0, 3.0])
        >>> round(low, 2), round(high, 2)
        (0.31, 3.69)
    """
    from scipy.stats import t

    n = len(differences)
    if n < 2:
        return float("-inf"), float("inf")
    reach = float(t.ppf(confidence, n - 1)) * stdev(differences) / n**0.5
    return mean(differences) - reach, mean(differences) + reach


def judge(
    differences: Sequence[float],
    bar: float,
    distance: float | None = None,
    near: float = NEAR,
    confidence: float = CONFIDENCE,
) -> str:
    """Verdict of a claim that the differences lie above a bar.

    Args:
        differences: how much better ours is than what it is compared with, one for each repeat.
        bar: 0 for "better than", -1 for "as good as, to a point".
        distance: of generated networks to the nearest training network, zoo's own = 1; None: none were generated.
        near: the distance below which networks are copies.
        confidence: see :func:`interval`.

    Example:
        >>> judge([-0.1, 0.0, 0.1], bar=-1.0, distance=1.0), judge([-0.1, 0.0, 0.1], bar=-1.0, distance=0.02)
        ('reproduced', 'reproduced, by copies')
        >>> judge([-0.1], bar=-1.0), judge([-3.0, -2.9, -3.1], bar=-1.0)
        ('open', 'not reproduced')
    """
    low, high = interval(differences, confidence)
    if high < bar:
        return NOT_REPRODUCED
    if low < bar:
        return OPEN
    if distance is not None and distance < near:
        return COPIES
    return REPRODUCED
