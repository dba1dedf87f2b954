"""Checks of 12_scoreboard."""

from __future__ import annotations

from collections.abc import Callable

from dwflow_lite.course.exercises import exercise


@exercise("12.1")
def lower_end_of_a_difference(answer: Callable) -> None:
    """Lower end of the mean difference, zoo by zoo, from Student's factor."""
    cases = (
        ([96.0, 95.0, 97.0], [95.0, 94.5, 95.5], 2.92, 1 - 2.92 * 0.5 / 3**0.5),
        ([90.0, 80.0, 70.0, 60.0], [89.0, 80.0, 69.0, 60.0], 2.35, 0.5 - 2.35 * (1 / 3) ** 0.5 / 2),
        ([1.0, 3.0], [2.0, 2.0], 6.31, -6.31),
    )
    for ours, theirs, factor, expected in cases:
        got = float(answer(list(ours), list(theirs), factor))
        assert abs(got - expected) < 1e-6, (
            f"ours {ours}, theirs {theirs}, factor {factor:g}: the lower end is {expected:.3f}; got {got:.3f}. Take "
            "differences zoo by zoo first: their deviation (with n - 1) over √n, times the factor, comes off their mean"
        )


@exercise("12.2")
def zoos_that_are_needed(answer: Callable) -> None:
    """Smallest number of zoos at which the interval is narrower than a margin."""
    factors = {5: 2.13, 2: 6.31, 3: 2.92, 10: 1.83, 4: 2.35, 20: 1.73}
    for deviation, margin, expected in ((0.5, 1.0, 3), (0.1, 1.0, 2), (1.0, 1.0, 5), (1.7, 1.0, 10), (2.5, 1.0, 20)):
        got = answer(deviation, margin, dict(factors))
        assert got == expected, (
            f"differences that spread by {deviation:g}, {margin:g} above the bar: it takes {expected} zoos, got {got}. "
            "The reach, factor · deviation / √n, must be smaller than the margin; keys come in any order"
        )


@exercise("12.3")
def rows_that_are_old(answer: Callable) -> None:
    """Names of rows that name a file which is not what it was when their result was made."""
    then = {
        "speed": {"flow.py": "a1", "pca.py": "b1"},
        "mnist": {"flow.py": "a0", "pca.py": "b1"},
        "solver": {"solver.py": "c1"},
        "early": {"flow.py": "a1", "audit.py": None},
    }
    now = {"flow.py": "a1", "pca.py": "b1", "audit.py": "d1", "solver.py": "c1", "new.py": "e1"}
    for change, expected in (
        ({}, ["early", "mnist"]),
        ({"pca.py": "b2"}, ["early", "mnist", "speed"]),
        ({"solver.py": None}, ["early", "mnist", "solver"]),
        ({"new.py": "e2"}, ["early", "mnist"]),
    ):
        today = now | change
        if None in today.values():
            today = {file: mark for file, mark in today.items() if mark is not None}  # the file is gone
        kept = {name: dict(files) for name, files in then.items()}
        got = answer(kept, today)
        assert list(got) == expected, (
            f"with {change or 'nothing changed since'} the old rows are {expected}, in this order; got {got}. A row is "
            "old if any file that it names has another fingerprint today, is gone, or was not there then"
        )
        assert kept == then, "the fingerprints have changed: leave them as they are"
