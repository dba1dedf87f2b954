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

    numbers = {str(name): _metric(name, value) for name, value in metrics.items()}
    verdicts = {str(text): _claim(text, value) for text, value in (claims or {}).items()}
    verdict = {True: ("✓ holds", "holds"), False: ("✗ does not hold", "broken")}
    rows = [(name, shown(value), "metric") for name, value in numbers.items()]
    rows += [(text, *verdict[ok]) for text, ok in verdicts.items()]
    table = "".join(
        f"<tr class='{kind}'><td>{html.escape(name)}</td><td style='text-align:right'>{html.escape(said)}</td></tr>"
        for name, said, kind in rows
    )
    # pairs, not mappings: notebooks are saved with sorted keys, and the order is the author's
    pairs = {"metrics": list(map(list, numbers.items())), "claims": list(map(list, verdicts.items()))}
    data = {
        RECORD_MIME: pairs,
        "text/html": f"<table class='dwflow-record'><tbody>{table}</tbody></table>",
        "text/plain": "\n".join(f"{name}: {said}" for name, said, _ in rows),
    }
    display(data, raw=True)


def shown(value: float | int | str) -> str:
    """A metric as a reader sees it: four significant digits for a float, all of an integer."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _metric(name: str, value: Any) -> float | int | str:
    if hasattr(value, "item"):  # a NumPy scalar, a 0-d array, a tensor of one number
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            raise TypeError(f"metric '{name}' is an array of several values; record one number of it") from None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        hint = "; a yes or no belongs in claims" if isinstance(value, bool) else ""
        raise TypeError(f"metric '{name}' must be a number or text, not {type(value).__name__}{hint}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"metric '{name}' is {value}: a record holds finite numbers only")
    return value


def _claim(text: str, value: Any) -> bool:
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, bool):
        raise TypeError(f"claim '{text}' must be True or False, not {type(value).__name__}")
    return value
