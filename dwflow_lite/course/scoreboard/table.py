"""The scoreboard as a reader sees it: figures with their spreads, and a table of short columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import mean
from typing import Any

from dwflow_lite.course.scoreboard.rows import Row

OLD = "†"  # at the verdict of a row whose result is older than its code


def figure(number: float, spread: float | None, unit: str) -> str:
    """A number with its spread, if there is one, and its unit.

    Example:
        >>> figure(96.1, 0.26, "%"), figure(0.469, None, "s")
        ('96.10 ± 0.26 %', '0.469 s')
    """
    digits, fewer = (".2f", ".2f") if unit == "%" else (".3g", ".2g")
    return f"{number:{digits}}" + (f" ± {spread:{fewer}}" if spread is not None else "") + f" {unit}".rstrip()


def paper_figure(claim: Mapping[str, Any], name: str = "ours", with_spread: bool = True) -> str:
    """What the paper reports for its networks (``ours``) or beside them (``rival``); nothing if we know no figure."""
    paper = claim["paper"]
    if name not in paper:
        return ""
    spread = paper.get("spread" if name == "ours" else "rival spread")
    return figure(paper[name], spread if with_spread else None, paper.get("unit", claim["unit"]))


def our_figure(row: Row, name: str = "ours", with_spread: bool = True) -> str:
    """The mean over zoos, with the mean spread over networks if that is stored; nothing if nothing was run."""
    if not row.numbers:
        return ""
    has_spread = with_spread and name == "ours" and "spread" in row.numbers
    spread = mean(row.numbers["spread"]) if has_spread else None
    return figure(mean(row.numbers[name]), spread, row.claim["unit"])


def distance_figure(row: Row) -> str:
    """The distance to the nearest training network; nothing if none was measured."""
    return "" if row.distance is None else f"{row.distance:.2f}"


def short_table(rows: Sequence[Row], old: Collection[str]) -> str:
    """A table in Markdown, narrow enough for a telephone.

    Args:
        rows: of the scoreboard.
        old: names of rows that are marked as older than their code.
    """
    lines = ["| claim | verdict | distance | paper | here |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        mark = f" {OLD}" if row.name in old else ""
        figures = paper_figure(row.claim, with_spread=False), our_figure(row, with_spread=False)
        cells = [row.claim["short"], row.verdict() + mark, distance_figure(row), *figures]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def reasons(rows: Sequence[Row]) -> str:
    """A table in Markdown: how many zoos each row has, and what its verdict rests on."""
    lines = ["| claim | zoos | because |", "| --- | --- | --- |"]
    lines += [f"| {row.claim['short']} | {row.repeats or ''} | {row.why()} |" for row in rows]
    return "\n".join(lines)


def accuracies(rows: Sequence[Row]) -> list[tuple[str, tuple[float, float], tuple[float, float], bool]]:
    """Where both the paper and we have accuracies (%): name, mean and spread of the paper, ours, and whether both are
    of the same task and network; both sides of each claim.
    """
    found = []
    for row in rows:
        paper, sides = row.claim["paper"], row.claim.get("sides")
        if not row.numbers or not sides:
            continue
        spread = mean(row.numbers["spread"])
        ours = (mean(row.numbers["ours"]), spread), (mean(row.numbers["rival"]), 0.0)
        theirs = (paper["ours"], paper.get("spread", 0.0)), (paper["rival"], paper.get("rival spread", 0.0))
        found += [(sides[i], theirs[i], ours[i], row.claim["same"]) for i in range(2)]
    return found
