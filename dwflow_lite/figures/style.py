"""What all figures share: colours by name, light axes, and how a figure is shown."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sized
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dwflow_lite.support.colours import COLOURS


def colour(name: str, position: int = 0) -> str:
    """The colour that a name has in every figure; other names take Matplotlib's, by their position in the figure."""
    return COLOURS.get(name, f"C{position}")


def as_text(name: str) -> str:
    """A reader's name as a figure shows it: letter by letter, no formula.

    Example:
        >>> print(as_text("worth $5 or $6"))
        worth \\$5 or \\$6
    """
    return name.replace("$", r"\$")


def on_cpu(value: Any) -> Any:
    """A tensor on the CPU, whose numbers Matplotlib draws; so those in mappings, lists and tuples; all else as it is.

    Example:
        >>> import torch
        >>> on_cpu({"a": [torch.ones(1)], "b": "text"})
        {'a': [tensor([1.])], 'b': 'text'}
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {name: on_cpu(one) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(on_cpu(one) for one in value)
    return value


def score_axis(score_name: str) -> tuple[str, float]:
    """What stands at an axis of scores, and the factor to its unit: accuracy in percent, any other score as it is.

    Example:
        >>> score_axis("accuracy"), score_axis("R²")
        (('accuracy (%)', 100.0), ('R²', 1.0))
    """
    return ("accuracy (%)", 100.0) if score_name == "accuracy" else (score_name, 1.0)


def loss_axis(score_name: str) -> str:
    """What stands at an axis of losses of a task with this score: only cross-entropy is measured in nats."""
    return "loss (nats)" if score_name == "accuracy" else "loss"


def require(things: Sized, what: str) -> None:
    """``ValueError`` if there is nothing to draw."""
    if len(things) == 0:
        raise ValueError(f"there is nothing to draw: give at least one {what}")


def require_named(things: Mapping[str, object], what: str) -> None:
    """``ValueError`` if there is nothing to draw, ``TypeError`` for things that have no names."""
    if not isinstance(things, Mapping):
        raise TypeError(f"a figure names what it shows: give {{'name': {what}}}, not {type(things).__name__} alone")
    require(things, what)


def finite_range(values: np.ndarray) -> tuple[float, float]:
    """Least and greatest of the finite values; (0, 1) if none is finite.

    Example:
        >>> finite_range(np.array([2.0, float("nan"), 3.0]))
        (2.0, 3.0)
    """
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def new_figure(columns: int = 1, width: float = 4.6, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure outside pyplot's memory, with the house's light axes.

    Args:
        columns: panels side by side.
        width: of one panel, in inches.
        height: of the figure, in inches.
    """
    figure = plt.Figure(figsize=(width * columns, height), layout="constrained")
    panels = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for ax in panels:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    return figure, panels


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG bytes, at ``dpi`` dots an inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook, with a text alternative for readers who do not see it."""
    from IPython.display import display

    display({"image/png": png(figure), "text/plain": alt}, metadata={"image/png": {"alt": alt}}, raw=True)
