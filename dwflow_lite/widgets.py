"""Sliders over pure draw functions: the state goes in, a figure comes out, nothing is kept in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from dwflow_lite.figures import png


def explore(draw: Callable[..., Figure], *, alt: str, **controls: Sequence[Any]) -> Any:
    """Controls over ``draw(**state)``; the picture is redrawn when a control is let go.

    Args:
        draw: pure function of the controls' values.
        alt: what the picture shows, for readers who do not see it.
        controls: name -> the values it may take. A list of numbers becomes a slider, anything else a menu; each
            starts at its first value.

    Returns:
        A widget to display. An error in ``draw`` is shown below the picture and raised, so that no run hides it.
    """
    import ipywidgets as w

    if not controls or any(not len(values) for values in controls.values()):
        raise ValueError("explore needs at least one control, each with at least one value")
    parts = {}
    for name, values in controls.items():
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        options = [(f"{v:g}" if numeric else str(v), v) for v in values]
        kind = w.SelectionSlider if numeric else w.Dropdown
        parts[name] = kind(
            options=options, value=values[0], description=name.replace("_", " "), continuous_update=False,
            style={"description_width": "initial"}, layout={"width": "26em"},
        ) if numeric else kind(options=options, value=values[0], description=name.replace("_", " "),
                               style={"description_width": "initial"})  # fmt: skip
    picture, trouble = w.Image(format="png"), w.HTML()
    picture.layout.max_width = "100%"
    reset = w.Button(description="reset", tooltip="every control back to its first value")

    def redraw(_: Any = None) -> None:
        try:
            picture.value = png(draw(**{name: part.value for name, part in parts.items()}))
            trouble.value = ""
        except Exception as error:
            trouble.value = f"<b>{type(error).__name__}</b>: {error}"
            raise

    def restart(_: Any) -> None:
        for name, part in parts.items():
            part.value = controls[name][0]

    for part in parts.values():
        part.observe(redraw, names="value")
    reset.on_click(restart)
    redraw()
    caption = w.HTML(f"<span style='color:#555'>{alt}</span>")
    return w.VBox([w.HBox([*parts.values(), reset]), picture, caption, trouble])
