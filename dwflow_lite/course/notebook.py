"""What a notebook says of its own run: prose and tables of measured numbers, and its record of metrics and claims."""

from __future__ import annotations

import html
import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dwflow_lite.course.claims import Claim, scalar, shown

RECORD_MIME = "application/vnd.dwflow.record+json"
VERDICT = {True: "✓ holds", False: "✗ does not hold"}


def note(markdown: str) -> None:
    """Display `markdown` (common indentation removed): prose whose numbers come from the run."""
    from IPython.display import Markdown, display

    display(Markdown(inspect.cleandoc(markdown)))


def markdown_table(heading: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown, for :func:`note`.

    Args:
        heading: of the columns.
        rows: their cells, as text or as what ``str`` makes of them; as many as the heading has.

    Raises ValueError for a row of another length.

    Example:
        >>> print(markdown_table(["network", "weights"], [["small", 131]]))
        | network | weights |
        | --- | --- |
        | small | 131 |
    """
    heading = list(heading)
    lines = [heading, ["---"] * len(heading), *([str(cell) for cell in row] for row in rows)]
    for line in lines:
        if len(line) != len(heading):
            raise ValueError(f"a row of {len(line)} cells under a heading of {len(heading)}: {line}")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def runs_on(where: Any) -> str:
    """A sentence for the first cell: on which device (``usable_device(device)``) this notebook runs."""
    from dwflow_lite.support.devices import said

    return f"This notebook runs on {said(where)}."


def record(metrics: Mapping[str, float | int | str], claims: Mapping[str, bool | Claim] | None = None) -> None:
    """Display a small table of what was measured and claimed; the course runner collects the same.

    Args:
        metrics: name -> finite number (0-dimensional arrays and tensors count) or text.
        claims: sentence -> whether the run bears it out: `above(value, bar)` or `below(value, bar)`, which
            show and keep value, bar and margin (joined by `&`), or a plain bool. A false one never raises
            here; the runner fails the notebook for it.

    Raises ValueError for a metric that is NaN or infinite, TypeError for any other kind of value.
    """
    from IPython.display import display

    numbers = {str(name): _metric(name, value) for name, value in metrics.items()}
    verdicts = {str(text): _claim(text, value) for text, value in (claims or {}).items()}
    compared = {str(text): value for text, value in (claims or {}).items() if isinstance(value, Claim)}
    margins = {text: [comparison.as_json() for comparison in claim.comparisons] for text, claim in compared.items()}
    # pairs, not mappings: notebooks are saved with sorted keys, and the order is the author's
    pairs = {
        "metrics": [[name, value] for name, value in numbers.items()],
        "claims": [[text, holds] for text, holds in verdicts.items()],
        "margins": [[text, comparisons] for text, comparisons in margins.items()],
    }
    rows = [_metric_row(name, value) for name, value in numbers.items()]
    rows += [_claim_row(text, holds, compared.get(text)) for text, holds in verdicts.items()]
    data = {
        RECORD_MIME: pairs,
        "text/html": "<table class='dwflow-record'><tbody>" + "".join(row.html() for row in rows) + "</tbody></table>",
        "text/plain": "\n".join(row.text() for row in rows),
    }
    display(data, raw=True)


class _Row(NamedTuple):
    """One row of the table: a name, what stands at the right of it, and lines in small print below that."""

    kind: str
    name: str
    value: str
    details: tuple[str, ...] = ()

    def html(self) -> str:
        small = "".join(f"<br><small>{html.escape(detail)}</small>" for detail in self.details)
        right = f"<td style='text-align:right'>{html.escape(self.value)}{small}</td>"
        return f"<tr class='{self.kind}'><td>{html.escape(self.name)}</td>{right}</tr>"

    def text(self) -> str:
        details = f" ({'; '.join(self.details)})" if self.details else ""
        return f"{self.name}: {self.value}{details}"


def _metric_row(name: str, value: float | int | str) -> _Row:
    return _Row("metric", name, shown(value))


def _claim_row(text: str, holds: bool, claim: Claim | None) -> _Row:
    details = tuple(comparison.describe() for comparison in claim.comparisons) if claim is not None else ()
    kind = "holds" if holds else "broken"
    return _Row(kind, text, VERDICT[holds], details)


def _metric(name: str, value: Any) -> float | int | str:
    try:
        value = scalar(value)
    except ValueError as error:
        raise TypeError(f"metric '{name}' is {error}; record one number of it") from None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        hint = "; a yes or no belongs in claims" if isinstance(value, bool) else ""
        raise TypeError(f"metric '{name}' must be a number or text, not {type(value).__name__}{hint}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"metric '{name}' is {value}: a record holds finite numbers only")
    return value


def _claim(text: str, value: Any) -> bool:
    if isinstance(value, Claim):
        return value.holds
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, bool):
        raise TypeError(
            f"claim '{text}' must be True, False, above(value, bar) or below(value, bar), not {type(value).__name__}"
        )
    return value
