"""Tables of text, cell by cell, a heading first: as Markdown, and with columns that stand under each other."""

from __future__ import annotations

from collections.abc import Sequence

UNBROKEN = "\N{NO-BREAK SPACE}"  # so that a narrow column breaks no number from its unit


def markdown_of(cells: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table in Markdown; the first cell of a row is its name, the others are numbers.

    Example:
        >>> print(markdown_of([["zoo", "score"], ["members", "90 %"]]).replace(UNBROKEN, "_"))
        | zoo | score |
        | --- | --- |
        | members | 90_% |
    """
    heading, *rows = cells
    lines = [heading, ["---"] * len(heading)]
    for name, *numbers in rows:
        lines.append([name, *(number.replace(" ", UNBROKEN) for number in numbers)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Rows of cells as plain text, each column as wide as its widest cell.

    Example:
        >>> print(aligned([["zoo", "score"], ["members", "90 %"]]))
        zoo      score
        members  90 %
    """
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
