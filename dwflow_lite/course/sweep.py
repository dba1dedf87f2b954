"""What the runner does inside a kernel: bounds and quiet bars before the first cell, moved controls after the last."""

from __future__ import annotations

import os
import re
import sys
import types
from pathlib import Path
from typing import Any

KERNEL_MIME = "application/vnd.dwflow.kernel+json"


def prepare() -> None:
    """All that is done before the first cell."""
    from IPython import get_ipython

    from dwflow_lite.course.bounds import Bounds

    quiet_bars()
    Bounds(get_ipython())


def quiet_bars() -> None:
    """Make `tqdm.auto` and `tqdm.notebook` the plain bar: the widget one ignores TQDM_DISABLE."""
    from tqdm import std

    plain = types.ModuleType("tqdm.notebook")
    plain.tqdm = std.tqdm
    plain.tqdm_notebook = std.tqdm
    plain.trange = std.trange
    plain.tnrange = std.trange
    plain.IProgress = object
    plain.WARN_NOIPYW = ""
    sys.modules.setdefault("tqdm.notebook", plain)


class WidgetError(RuntimeError):
    """A callback raised when a control was moved."""


def candidates(control: Any) -> list[Any]:
    """Values to try on an ipywidgets control; empty for what a reader cannot set to a fixed value.

    Sliders: minimum, middle, maximum. Choices: every option. Check boxes and toggles: both states.
    """
    import ipywidgets as w

    if getattr(control, "disabled", False):
        return []
    if isinstance(control, w.Checkbox | w.ToggleButton):
        return [False, True]
    if hasattr(control, "_options_full"):
        values = [value for _, value in control._options_full]
    elif isinstance(control, w.FloatLogSlider):
        values = [control.base**e for e in (control.min, (control.min + control.max) / 2, control.max)]
    elif isinstance(control, w.IntSlider | w.BoundedIntText | w.IntRangeSlider):
        values = [control.min, (control.min + control.max) // 2, control.max]
    elif isinstance(control, w.FloatSlider | w.BoundedFloatText | w.FloatRangeSlider):
        values = [control.min, (control.min + control.max) / 2, control.max]
    else:
        values = []
    if values and isinstance(control, w.IntRangeSlider | w.FloatRangeSlider | w.SelectionRangeSlider):
        return [(values[0], values[-1]), (values[0], values[0]), (values[-1], values[-1])]
    if values and isinstance(control, w.SelectMultiple):
        return [(value,) for value in values] + [tuple(values)]
    if values and isinstance(control, w.SelectionSlider):
        first_middle_last = sorted({0, len(values) // 2, len(values) - 1})
        return [values[i] for i in first_middle_last]
    return values


def move_all() -> dict[str, int]:
    """Set each control of this kernel to each of its values, one control at a time, and put it back.

    Returns how many controls and values were tried. Raises WidgetError naming the control and the value
    for what a callback raises, also where `interact` or an Output widget would only have shown it.
    Not seen: buttons, and callbacks that run later (timers, asyncio tasks).
    """
    if "ipywidgets" not in sys.modules:
        return {"controls": 0, "values": 0}
    from ipywidgets.widgets import widget as registry

    moves = {control: candidates(control) for control in list(registry._instances.values())}
    moves = {control: values for control, values in moves.items() if values}
    for control, values in moves.items():
        _move(control, values)
    return {"controls": len(moves), "values": sum(len(values) for values in moves.values())}


def _move(control: Any, values: list[Any]) -> None:
    """Set a control to each value and back; WidgetError for what a callback raises."""
    from IPython import get_ipython
    from IPython.display import display

    shell = get_ipython()
    before = control.value
    shown: list[BaseException] = []  # what `interact` and Output widgets would only have displayed
    original = shell.showtraceback

    def keep(exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        _, error, _ = exc_tuple or sys.exc_info()
        shown.append(error)

    shell.showtraceback = keep
    try:
        for value in [*values, before]:
            control.value = value
            if shown:
                raise shown[0]
    except Exception as error:
        display({KERNEL_MIME: {"culprit": control.model_id}, "text/plain": ""}, raw=True)
        name = f"control '{control.description or type(control).__name__}' ({type(control).__name__})"
        raise WidgetError(f"{name} set to {value!r}: {type(error).__name__}: {error}") from error
    finally:
        shell.showtraceback = original


def machine(where: Any = None) -> dict[str, Any]:
    """Device and threads: torch's, if this process has imported it.

    Args:
        where: the device on which a notebook ran, as it names it (a ``torch.device``); anything else: the default one.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return {"device": "cpu", "threads": os.cpu_count()}
    from dwflow_lite.support.devices import name_of, usable_device

    where = where if isinstance(where, torch.device) else usable_device("auto")
    return {"device": name_of(where), "threads": torch.get_num_threads()}


def sweep() -> None:
    """Move every control, then display what the runner reports of this kernel."""
    from IPython import get_ipython
    from IPython.display import display

    facts = {**machine(get_ipython().user_ns.get("where")), **move_all()}
    status = Path("/proc/self/status")  # Linux keeps the high-water mark that sampling may miss
    mark = re.search(r"VmHWM:\s*(\d+)", status.read_text(encoding="utf-8")) if status.exists() else None
    if mark:
        facts["peak_mb"] = int(mark[1]) / 1024
    display({KERNEL_MIME: facts, "text/plain": ""}, raw=True)
