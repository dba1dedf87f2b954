"""Sliders over pure draw functions: the state goes in, a figure comes out, nothing is kept in between."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from dwflow_lite.figures.style import png


def explore(draw: Callable[..., Figure], *, alt: str, **controls: Sequence[Any]) -> Any:
    """Controls over ``draw(**state)``; the picture is redrawn when a control is let go.

    Args:
        draw: pure function of the controls' values.
        alt: what the picture shows, for readers who do not see it.
        controls: name of an argument of ``draw`` -> the values it may take. A list of numbers becomes a slider,
            anything else a menu; each starts at its first value. NumPy's numbers are numbers. A value that comes again
            counts once, so that ``[start, *values]`` starts where it should.

    Returns:
        A widget to display. An error in ``draw`` is shown below the picture and raised, so that no run hides it.

    Raises:
        ValueError: no control, or one without values.
    """
    import ipywidgets

    controls = {name: list(values) for name, values in controls.items()}
    if not controls or any(len(values) == 0 for values in controls.values()):
        raise ValueError("explore needs at least one control, each with at least one value")
    parts = {name: _control(name, values) for name, values in controls.items()}
    picture = ipywidgets.Image(format="png")
    picture.layout.max_width = "100%"
    trouble = ipywidgets.HTML()
    reset = ipywidgets.Button(description="reset", tooltip="every control back to its first value")

    def redraw(_: Any = None) -> None:
        state = {name: part.value for name, part in parts.items()}
        try:
            picture.value = png(draw(**state))
            trouble.value = ""
        except Exception as error:
            trouble.value = f"<b>{type(error).__name__}</b>: {html.escape(str(error))}"
            raise

    def back_to_first(_: Any) -> None:
        for part in parts.values():
            part.index = 0

    for part in parts.values():
        part.observe(redraw, names="value")
    reset.on_click(back_to_first)
    redraw()
    caption = ipywidgets.HTML(f"<span style='color:#555'>{html.escape(alt)}</span>")
    row = ipywidgets.HBox([*parts.values(), reset])
    return ipywidgets.VBox([row, picture, caption, trouble])


def _control(name: str, values: list[Any]) -> Any:
    """A slider for numbers, a menu for anything else; it starts at the first value."""
    import ipywidgets

    values = [value for i, value in enumerate(values) if not any(_is_the_same(value, other) for other in values[:i])]
    common = {
        "options": list(zip(_labels(values), values, strict=True)),
        "index": 0,
        "description": name.replace("_", " "),
        "equals": _is_the_same,
    }
    if not all(_is_number(value) for value in values):
        return ipywidgets.Dropdown(**common, style={"description_width": "initial"})
    return ipywidgets.SelectionSlider(
        **common,
        continuous_update=False,  # redraw when the slider is let go
        style={"description_width": "initial"},
        layout={"width": "26em"},
    )


def _labels(values: Sequence[Any]) -> list[str]:
    """What a reader sees of each value: no two alike, and of numbers no more digits than that takes."""
    plain = [_as_python(value) for value in values]
    short = [f"{value:g}" if isinstance(value, float) else str(value) for value in plain]
    if len(set(short)) == len(short):
        return short
    full = [repr(value) if isinstance(value, float) else str(value) for value in plain]
    return [text if full.count(text) == 1 else f"{text} ({i})" for i, text in enumerate(full, 1)]


def _as_python(value: Any) -> Any:
    """NumPy's scalars, and arrays and tensors without dimensions, as what Python has for them; others as they are."""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    return value


def _is_number(value: Any) -> bool:
    value = _as_python(value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_the_same(one: Any, other: Any) -> bool:
    """Whether two values are equal; NaN is itself, and so is an array, whose == has many answers."""
    if one is other:
        return True
    try:
        return bool(one == other)
    except (ValueError, RuntimeError, TypeError):
        return False
