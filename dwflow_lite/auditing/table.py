"""The table of an audit: its rows, their mean over seeds, what is asked of each, and how they print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dwflow_lite.auditing.drawing import curves_of, frontier_of, histograms_of
from dwflow_lite.auditing.page import FLAGS, page_of, write_page
from dwflow_lite.auditing.rows import Bars, Row, Values
from dwflow_lite.support.cells import aligned, markdown_of

THRESHOLDS = [i / 100 for i in range(151)]  # of the curves of a page
FARTHEST = 1.5  # distance, in units of the zoo, to which the area under a curve goes
COPY = 0.5  # distance, in units of the zoo, below which most networks are copies
LOST_SPREAD = 0.5  # of the zoo's dispersion: below, most of its variance is lost
LOST_DIRECTIONS = 0.25  # of the zoo's effective rank

EXTRA_COLUMNS = {
    "kappa": "kappa",
    "NLL": "nll",
    "ECE": "ece",
    "Z_U": "z_u",
    "effective rank": "effective_rank",
    "barrier": "barrier",
}


@dataclass(frozen=True)
class Audit:
    """The rows of an audit, in order; ``audit["name"]`` picks one; it prints as a table.

    Attributes:
        rows: one for each kind of network.
        score_name: of the task.
        split: where the score was measured.
        symmetries: what was seen through in ``rematched``, and so in ``accurate_and_new``; empty: nothing.
        bars: by which networks are judged; None in tables of older versions.
    """

    rows: tuple[Row, ...]
    score_name: str
    split: str
    symmetries: tuple[str, ...] = ()
    bars: Bars | None = None

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}; there are {self.names}")

    @property
    def names(self) -> list[str]:
        """Names of the rows, in order."""
        return [row.name for row in self.rows]

    def take(self, names: Iterable[str]) -> Audit:
        """The rows of these names, in this order, under the same bars.

        Raises:
            KeyError: no row of that name.
        """
        return replace(self, rows=tuple(self[name] for name in names))

    @classmethod
    def mean(cls, audits: Sequence[Audit]) -> Audit:
        """Average audits of several seeds, row by row, over the names that all of them have.

        Numbers, and the bars, are averaged. The values of networks are pooled: each was judged by the bars of its own
        seed, and distances are in units of its own zoo.

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
        bars = [audit.bars for audit in audits]
        mean_bars = None if None in bars else Bars(*(sum(each) / len(each) for each in zip(*bars, strict=True)))
        return cls(tuple(rows), first.score_name, first.split, first.symmetries, mean_bars)

    # -- what is asked of one kind of network --------------------------------------------------------------------

    def curve(self, name: str, thresholds: Iterable[float]) -> list[float]:
        """The share of networks that are accurate *and* lie at least so far from their nearest member.

        Args:
            name: of a row.
            thresholds: of distance, in units of the zoo. At ``bars.distance`` the share is ``accurate_and_new``.

        Returns:
            A share for each threshold, which falls as they grow.

        Raises:
            KeyError: no row of that name.
            ValueError: a row of an older version, without the values of each network.
        """
        values = self._values(name)
        accurate = [far for far, is_accurate in zip(values.distance, values.accurate, strict=True) if is_accurate]
        return [sum(far >= threshold for far in accurate) / len(values.distance) for threshold in thresholds]

    def area(self, name: str) -> float:
        """The area under :meth:`curve` for thresholds from 0 to 1.5: one number by which generators are compared.

        It is 0 for networks that are copies or not accurate, 1.5 where all are accurate and farther than that; a zoo
        itself has about 1. (Each accurate network adds its distance.) Errors as of :meth:`curve`.
        """
        values = self._values(name)
        far = [min(far, FARTHEST) * ok for far, ok in zip(values.distance, values.accurate, strict=True)]
        return sum(far) / len(far)

    def flags(self, name: str) -> tuple[str, ...]:
        """What is wrong with the networks of a row, by bars that come from the zoo and the task alone.

        - ``"copy"``: the median network lies nearer to a member than half way to where the zoo's own nearest
          neighbours are (distance below 0.5, up to symmetries): it is that member, changed.
        - ``"collapse"``: dispersion below half of the zoo's, or effective rank below a quarter. (As many draws of a
          Gaussian as it has directions read 0.6, since they do not fill them evenly; members drawn with repeats do
          too.)
        - ``"noise"``: the mean score is nearer to the best constant answer's than to the bar. Of a zoo whose own bar
          is no better than a constant answer, nothing is called noise; nor in tables of older versions, without bars.

        Raises:
            KeyError: no row of that name.
        """
        row = self[name]
        few_directions = row.effective_rank is not None and row.effective_rank < LOST_DIRECTIONS
        is_noise = False
        if self.bars is not None and self.bars.score > self.bars.chance:
            is_noise = not row.score >= (self.bars.score + self.bars.chance) / 2  # nor is NaN
        is_collapsed = row.dispersion < LOST_SPREAD or few_directions
        found = {"copy": row.distance < COPY, "collapse": is_collapsed, "noise": is_noise}
        return tuple(flag for flag, is_so in found.items() if is_so)

    def _values(self, name: str) -> Values:
        values = self[name].values
        if values is None:
            raise ValueError(f"row {name!r} holds averages alone, not the values of each network: audit anew")
        return values

    # -- the table -----------------------------------------------------------------------------------------------

    def cells(self, columns: Sequence[str] = ()) -> list[list[str]]:
        """The table as text, cell by cell, its heading first.

        Args:
            columns: what is added to it, of ``"kappa"``, ``"NLL"``, ``"ECE"``, ``"Z_U"``, ``"effective rank"``,
                ``"barrier"`` (of an accuracy in points) and ``"flags"``.

        Raises:
            ValueError: a column that there is none of.
        """
        unknown = [column for column in columns if column not in (*EXTRA_COLUMNS, FLAGS)]
        if unknown:
            raise ValueError(f"no column {unknown[0]!r}: add some of {', '.join((*EXTRA_COLUMNS, FLAGS))}")
        heading = [
            "networks",
            f"{self.score_name} ({self.split})",
            "nearest member",
            "re-matched",
            "wrong-set overlap",
            "dispersion",
            self._heading_of_new(),
        ]
        headings = {"barrier": "barrier (points)"} if self.score_name == "accuracy" else {"NLL": "loss"}
        heading += [headings.get(column, column) for column in columns]
        return [heading] + [self._cells_of(row, columns) for row in self.rows]

    def _heading_of_new(self) -> str:
        """Up to what a network has to be new."""
        return f"accurate and new (up to {', '.join(self.symmetries)})" if self.symmetries else "accurate and new"

    def _cells_of(self, row: Row, columns: Sequence[str]) -> list[str]:
        if self.score_name == "accuracy":
            score = f"{100 * row.score:.1f} ± {100 * row.score_std:.1f} %"
        else:
            score = f"{row.score:.3f} ± {row.score_std:.3f}"
        distances = [row.nearest, row.rematched, row.overlap, row.dispersion]
        numbers = [_two_places(value) for value in distances]
        extra = []
        for column in columns:
            if column == FLAGS:
                extra.append(", ".join(self.flags(row.name)) or "–")
            else:
                value = getattr(row, EXTRA_COLUMNS[column])
                in_points = column == "barrier" and value is not None and self.score_name == "accuracy"
                extra.append(_two_places(100 * value if in_points else value))
        return [
            " ".join(row.name.replace("|", "/").split()),
            score,
            *numbers,
            f"{100 * row.accurate_and_new:.0f} %",
            *extra,
        ]

    def markdown(self, columns: Sequence[str] = ()) -> str:
        """The table in Markdown, with more columns if they are asked for, as of :meth:`cells`."""
        return markdown_of(self.cells(columns))

    def report(self, path: str | Path) -> Path:
        """Write a page: the table, the frontier, the distances and the curves, in one HTML file that fetches nothing.

        Args:
            path: of the file, such as ``"audit.html"``; its folder is made.

        Returns:
            Where it was written.

        Raises:
            ValueError: rows of an older version, without the values of each network, or no bars.
            OSError: it cannot be written.
        """
        for row in self.rows:
            self._values(row.name)
        if self.bars is None:
            raise ValueError("these averages have no bars, which a page draws: audit anew")
        noise = {row.name for row in self.rows if "noise" in self.flags(row.name)}
        curves = {row.name: self.curve(row.name, THRESHOLDS) for row in self.rows}
        areas = {row.name: self.area(row.name) for row in self.rows}
        pictures = {
            "Accurate and new": frontier_of(self.rows, self.bars, f"{self.score_name}, {self.split}", noise),
            "How far from the nearest member": histograms_of(self.rows, self.bars, noise),
            "How many are accurate and at least that far": curves_of(curves, areas, THRESHOLDS, self.bars),
        }
        measured = [
            name for name, of in EXTRA_COLUMNS.items() if any(getattr(row, of) is not None for row in self.rows)
        ]
        return write_page(path, page_of(self.cells((FLAGS, *measured)), pictures, self.bars, self.symmetries))

    def __str__(self) -> str:
        return aligned(self.cells())

    def _repr_markdown_(self) -> str:
        return self.markdown()


def _two_places(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
