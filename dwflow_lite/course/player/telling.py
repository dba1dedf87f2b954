"""What to look for in a scene, in words, with its own numbers."""

from __future__ import annotations

import numpy as np

from dwflow_lite.course.player.trajectories import Scene

NEAR_CHANCE = 1.5  # times chance: no better than guessing
POOR = 3  # times chance: nobody would use it
A_CHANGE = 5  # points of accuracy: less is no change
A_COPY = 0.3  # of a member's own distance to its nearest other one


def medians(scene: Scene) -> tuple[np.ndarray, float]:
    """The networks' median accuracy at each time (T,), and at the end their median distance to the nearest member."""
    return np.median(scene.accuracy.numpy(), axis=1), float(np.median(scene.distance[-1].numpy()))


def halfway(medians: np.ndarray) -> float:
    """The time, from 0 to 1, at which accuracy first has half of what it gains from start to end.

    Example:
        >>> halfway(np.array([0.1, 0.1, 0.1, 0.8, 0.9]))
        0.75
    """
    middle = (medians[0] + medians[-1]) / 2
    return float(np.argmax(medians >= middle) / (len(medians) - 1))


def sentence(scene: Scene, chance: float) -> str:
    """What a reader should look for: where accuracy starts, when it changes, and whether the end is a copy."""
    accuracy, distance = medians(scene)
    start, end = 100 * accuracy[0], 100 * accuracy[-1]
    guessing = 100 * chance
    says = (
        f"All start beside the average of the zoo, {scene.basis}, and read {start:.0f}\N{NO-BREAK SPACE}% of the digits"
    )
    says += ", no better than guessing" if start <= NEAR_CHANCE * guessing else ""
    if end <= POOR * guessing:
        says += f"; they never get far, {end:.0f}\N{NO-BREAK SPACE}% at the end"
    elif end - start >= A_CHANGE:
        says += f"; half of the way up to {end:.0f}\N{NO-BREAK SPACE}% is reached at t = {halfway(accuracy):.2f}"
    elif start - end >= A_CHANGE:
        says += f"; moving outwards they fall to {end:.0f}\N{NO-BREAK SPACE}%"
    else:
        says += f"; they keep it, {end:.0f}\N{NO-BREAK SPACE}% at the end"
    if distance <= A_COPY:
        return says + f". They end on members, as copies: {distance:.2f} of the distance between members away."
    return says + f". They end on no member: the nearest is {distance:.2f} of the distance between members away."
