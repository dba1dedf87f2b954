"""The table of an audit: its rows, their mean over seeds, and how they print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

UNBROKEN = "\N{NO-BREAK SPACE}"  # in a table, so that a narrow column breaks no number from its unit


@dataclass(frozen=True)
class Row:
    """One line of an audit; distances are in units of the zoo's own median distance to the nearest other member.

    Attributes:
        name: of these networks.
        networks: how many.
        score: mean over networks.
        score_std: their standard deviation.
        nearest: median distance to the nearest fitted member (1: as far as a member from its nearest other, 0: a copy).
        rematched: the same up to the symmetries that the audit sees through; None where none is known. In a zoo
            aligned to a reference, only the reference was matched to everybody, so it is everybody's nearest plain
            neighbour; here all pairs are treated alike.
        overlap: mean :func:`wrong_set_overlap` with the fitted members; None for regression.
        dispersion: spread about the zoo's mean, over the zoo's spread.
        accurate_and_new: share of networks that score at least as well *and* lie at least as far from their nearest
            member as all but the lowest twentieth of the fitted members do (held-out networks: about 0.9).
    """

    name: str
    networks: int
    score: float
    score_std: float
    nearest: float
    rematched: float | None
    overlap: float | None
    dispersion: float
    accurate_and_new: float

    @classmethod
    def mean(cls, rows: Sequence[Row]) -> Row:
        """Average rows of one name, number by number; ``networks`` stays a whole number."""
        means = {}
        for field in fields(cls):
            values = [getattr(row, field.name) for row in rows]
            if field.name == "name" or values[0] is None:
                means[field.name] = values[0]
            else:
                means[field.name] = sum(values) / len(values)
        return cls(**means | {"networks": round(means["networks"])})


@dataclass(frozen=True)
class Audit:
    """The rows of an audit, in order; ``audit["name"]`` picks one; it prints as a table.

    Attributes:
        rows: one for each kind of network.
        score_name: of the task.
        split: where the score was measured.
        symmetries: what was seen through in ``rematched``, and so in ``accurate_and_new``; empty: nothing.
    """

    rows: tuple[Row, ...]
    score_name: str
    split: str
    symmetries: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}; there are {self.names}")

    @property
    def names(self) -> list[str]:
        """Names of the rows, in order."""
        return [row.name for row in self.rows]

    @classmethod
    def mean(cls, audits: Sequence[Audit]) -> Audit:
        """Average audits of several seeds, row by row, over the names that all of them have.

        Raises:
            ValueError: no audits, or some of another score, split or symmetries than the first.
        """
        if not audits:
            raise ValueError("there are no audits to average")
        first = audits[0]
        for audit in audits:
            if (audit.score_name, audit.split, audit.symmetries) != (first.score_name, first.split, first.symmetries):
                raise ValueError("audits are averaged that measured one score, on one split, up to the same symmetries")
        common = [name for name in first.names if all(name in audit.names for audit in audits)]
        rows = [Row.mean([audit[name] for audit in audits]) for name in common]
        return cls(tuple(rows), first.score_name, first.split, first.symmetries)

    def cells(self) -> list[list[str]]:
        """The table as text, cell by cell, its heading first."""
        heading = ["networks", f"{self.score_name} ({self.split})", "nearest member", "re-matched",
                   "wrong-set overlap", "dispersion", self._heading_of_new()]  # fmt: skip
        return [heading] + [self._cells_of(row) for row in self.rows]

    def _heading_of_new(self) -> str:
        """Up to what a network has to be new."""
        return f"accurate and new (up to {', '.join(self.symmetries)})" if self.symmetries else "accurate and new"

    def _cells_of(self, row: Row) -> list[str]:
        if self.score_name == "accuracy":
            score = f"{100 * row.score:.1f} ± {100 * row.score_std:.1f} %"
        else:
            score = f"{row.score:.3f} ± {row.score_std:.3f}"
        distances = [row.nearest, row.rematched, row.overlap, row.dispersion]
        numbers = ["–" if value is None else f"{value:.2f}" for value in distances]
        return [row.name.replace("|", "/"), score, *numbers, f"{100 * row.accurate_and_new:.0f} %"]

    def markdown(self) -> str:
        """The table in Markdown."""
        heading, *rows = self.cells()
        lines = [heading, ["---"] * len(heading)]
        for name, *numbers in rows:
            lines.append([name, *(number.replace(" ", UNBROKEN) for number in numbers)])
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def __str__(self) -> str:
        cells = self.cells()
        widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
        lines = []
        for row in cells:
            padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        return self.markdown()
