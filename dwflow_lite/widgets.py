"""Sliders over pure draw functions: the state goes in, a figure comes out, nothing is kept in between."""

from __future__ import annotations

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
            anything else a menu; each starts at its first value.

    Returns:
        A widget to display. An error in ``draw`` is shown below the picture and raised, so that no run hides it.

    Raises:
        ValueError: no control, or one without values.
    """
    import ipywidgets

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
            trouble.value = f"<b>{type(error).__name__}</b>: {error}"
            raise

    def back_to_first(_: Any) -> None:
        for name, part in parts.items():
            part.value = controls[name][0]

    for part in parts.values():
        part.observe(redraw, names="value")
    reset.on_click(back_to_first)
    redraw()
    caption = ipywidgets.HTML(f"<span style='color:#555'>{alt}</span>")
    row = ipywidgets.HBox([*parts.values(), reset])
    return ipywidgets.VBox([row, picture, caption, trouble])


def _control(name: str, values: Sequence[Any]) -> Any:
    """A slider for numbers, a menu for anything else; it starts at the first value."""
    import ipywidgets

    description = name.replace("_", " ")
    style = {"description_width": "initial"}
    if not all(_is_number(value) for value in values):
        options = [(str(value), value) for value in values]
        return ipywidgets.Dropdown(options=options, value=values[0], description=description, style=style)
    return ipywidgets.SelectionSlider(
        options=[(f"{value:g}", value) for value in values],
        value=values[0],
        description=description,
        continuous_update=False,  # redraw when the slider is let go
        style=style,
        layout={"width": "26em"},
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
