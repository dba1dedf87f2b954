"""Sliders over pure draw functions: the state goes in, a figure comes out, nothing is kept in between."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from matplotlib.figure import Figure

from dwflow_lite.figures.style import png

PAUSE = 500  # between two pictures of a play button, in milliseconds: about what one takes to be drawn and sent


def explore(draw: Callable[..., Figure], *, alt: str, play: str | None = None, **controls: Sequence[Any]) -> Any:
    """Controls over ``draw(**state)``; the picture is redrawn when a control is let go.

    Args:
        draw: pure function of the controls' values.
        alt: what the picture shows, for readers who do not see it.
        play: the control that runs over time or steps, which gets a play button; None: none does.
        controls: name of an argument of ``draw`` -> the values it may take. A list of numbers becomes a slider from the
            least to the greatest, anything else a menu; each starts at the value that is given first. NumPy's numbers
            are numbers. A value that comes again counts once, so that ``[start, *values]`` starts where it should.

    Returns:
        A widget to display. An error in ``draw`` is shown below the picture and raised, so that no run hides it.

    Raises:
        ValueError: no control, one without values, or a ``play`` that names no slider.
    """
    import ipywidgets

    controls = {name: list(values) for name, values in controls.items()}
    if not controls or any(len(values) == 0 for values in controls.values()):
        raise ValueError("explore needs at least one control, each with at least one value")
    parts = {name: _control(name, values) for name, values in controls.items()}
    first = {name: part.index for name, part in parts.items()}
    if play is not None and not isinstance(parts.get(play), ipywidgets.SelectionSlider):
        raise ValueError(f"play={play!r} names no slider: name a control whose values are numbers")
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
        for name, part in parts.items():
            part.index = first[name]

    for part in parts.values():
        part.observe(redraw, names="value")
    reset.on_click(back_to_first)
    redraw()
    caption = ipywidgets.HTML(f"<span style='color:#555'>{html.escape(alt)}</span>")
    with_player = [[_player(part), part] if name == play else [part] for name, part in parts.items()]
    row = ipywidgets.HBox([*chain.from_iterable(with_player), reset], layout={"flex_flow": "row wrap"})
    return ipywidgets.VBox([row, picture, caption, trouble])


def _control(name: str, values: list[Any]) -> Any:
    """A slider for numbers, in ascending order, a menu for anything else; it starts at the first value."""
    import ipywidgets

    values = [value for i, value in enumerate(values) if not any(_is_the_same(value, other) for other in values[:i])]
    are_numbers = all(_is_number(value) for value in values)
    places = sorted(range(len(values)), key=lambda i: _rank(values[i])) if are_numbers else list(range(len(values)))
    values = [values[i] for i in places]
    common = {
        "options": list(zip(_labels(values), values, strict=True)),
        "index": places.index(0),
        "description": name.replace("_", " "),
        "equals": _is_the_same,
    }
    if not are_numbers:
        return ipywidgets.Dropdown(**common, style={"description_width": "initial"})
    return ipywidgets.SelectionSlider(
        **common,
        continuous_update=False,  # redraw when the slider is let go
        style={"description_width": "initial"},
        layout={"width": "26em"},
    )


def _player(slider: Any) -> Any:
    """A play button that moves a slider one value at a time, in the browser: a kernel at work does not stop it."""
    import ipywidgets

    player = ipywidgets.Play(
        value=slider.index,
        min=0,
        max=len(slider.options) - 1,
        interval=PAUSE,
        show_repeat=False,
        tooltip=f"play over {slider.description}",
    )
    ipywidgets.jslink((player, "value"), (slider, "index"))
    return player


def _rank(value: Any) -> tuple[bool, Any]:
    """Sorts numbers in ascending order, NaN before all."""
    value = _as_python(value)
    return value == value, value if value == value else 0


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
