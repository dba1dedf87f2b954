"""What a notebook says of its own run: prose with measured numbers, and its record of metrics and claims."""

from __future__ import annotations

import html
import inspect
import math
from collections.abc import Mapping
from typing import Any

RECORD_MIME = "application/vnd.dwflow.record+json"


def note(markdown: str) -> None:
    """Display `markdown` (common indentation removed): prose whose numbers come from the run."""
    from IPython.display import Markdown, display

    display(Markdown(inspect.cleandoc(markdown)))


def record(metrics: Mapping[str, float | int | str], claims: Mapping[str, bool] | None = None) -> None:
    """Display a small table of what was measured and claimed; the course runner collects the same.

    Args:
        metrics: name -> finite number (0-dimensional arrays and tensors count) or text.
        claims: sentence -> whether the run bears it out. A false one never raises here;
            the runner fails the notebook for it.

    Raises ValueError for a metric that is NaN or infinite, TypeError for any other kind of value.
    """
    from IPython.display import display

    numbers = {str(name): _plain(name, value) for name, value in metrics.items()}
    verdicts = {str(text): _verdict(text, value) for text, value in (claims or {}).items()}
    display(
        {
            # pairs, not mappings: notebooks are saved with sorted keys, and the order is the author's
            RECORD_MIME: {
                "metrics": [[n, v] for n, v in numbers.items()],
                "claims": [[t, ok] for t, ok in verdicts.items()],
            },
            "text/html": record_table(numbers, verdicts),
            "text/plain": "\n".join(
                [f"{name}: {shown(value)}" for name, value in numbers.items()]
                + [f"{'✓ holds' if ok else '✗ does not hold'}: {text}" for text, ok in verdicts.items()]
            ),
        },
        raw=True,
    )


def shown(value: float | int | str) -> str:
    """A metric as a reader sees it: four significant digits for a float, all of an integer."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def record_table(metrics: Mapping[str, Any], claims: Mapping[str, bool]) -> str:
    """The record as an HTML table."""
    rows = [
        f"<tr><td>{html.escape(name)}</td><td style='text-align:right'>{html.escape(shown(value))}</td></tr>"
        for name, value in metrics.items()
    ] + [
        f"<tr class='{'holds' if ok else 'broken'}'><td>{html.escape(text)}</td>"
        f"<td style='text-align:right'>{'✓ holds' if ok else '✗ does not hold'}</td></tr>"
        for text, ok in claims.items()
    ]
    return f"<table class='dwflow-record'><tbody>{''.join(rows)}</tbody></table>"


def _plain(name: str, value: Any) -> float | int | str:
    """`value` as a JSON scalar, by name in the error if it is none."""
    if isinstance(value, str):
        return value
    if hasattr(value, "item"):  # a NumPy scalar, a 0-d array, a tensor of one number
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            raise TypeError(f"metric '{name}' is an array of several values; record one number of it") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = "; a yes or no belongs in claims" if isinstance(value, bool) else ""
        raise TypeError(f"metric '{name}' must be a number or text, not {type(value).__name__}{hint}")
    if not math.isfinite(value):
        raise ValueError(f"metric '{name}' is {value}: a record holds finite numbers only")
    return value


def _verdict(text: str, value: Any) -> bool:
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, bool):
        raise TypeError(f"claim '{text}' must be True or False, not {type(value).__name__}")
    return value
