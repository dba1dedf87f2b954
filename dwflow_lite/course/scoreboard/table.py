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
    digits = ".2f" if unit == "%" else ".3g"
    return f"{number:{digits}}" + (f" ± {spread:{digits}}" if spread is not None else "") + f" {unit}".rstrip()


def paper_figure(claim: Mapping[str, Any], name: str = "ours") -> str:
    """What the paper reports for its networks (``ours``) or beside them (``rival``); nothing if we know no figure."""
    paper = claim["paper"]
    spread = paper.get("spread" if name == "ours" else "rival spread")
    return figure(paper[name], spread, claim["unit"]) if name in paper else ""


def our_figure(row: Row, name: str = "ours") -> str:
    """The mean over zoos, with the mean spread over networks if that is stored; nothing if nothing was run."""
    if not row.numbers:
        return ""
    spread = mean(row.numbers["spread"]) if name == "ours" and "spread" in row.numbers else None
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
    lines = ["| claim | paper | here | distance | verdict |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        mark = f" {OLD}" if row.name in old else ""
        cells = [row.claim["short"], paper_figure(row.claim), our_figure(row), distance_figure(row)]
        lines.append(f"| {' | '.join(cells)} | {row.verdict()}{mark} |")
    return "\n".join(lines)
