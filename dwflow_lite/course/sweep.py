"""What the runner does inside a kernel: quiet bars before the first cell, move controls after the last."""

from __future__ import annotations

import os
import re
import sys
import types
from pathlib import Path
from typing import Any

KERNEL_MIME = "application/vnd.dwflow.kernel+json"


def quiet_bars() -> None:
    """Make `tqdm.auto` and `tqdm.notebook` the plain bar: the widget one ignores TQDM_DISABLE."""
    from tqdm import std

    plain = types.ModuleType("tqdm.notebook")
    plain.tqdm = plain.tqdm_notebook = std.tqdm
    plain.trange = plain.tnrange = std.trange
    plain.IProgress, plain.WARN_NOIPYW = object, ""
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
        return [values[i] for i in sorted({0, len(values) // 2, len(values) - 1})]
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

    found = {control: candidates(control) for control in list(registry._instances.values())}
    moves = {control: values for control, values in found.items() if values}
    for control, values in moves.items():
        _move(control, values)
    return {"controls": len(moves), "values": sum(map(len, moves.values()))}


def _move(control: Any, values: list[Any]) -> None:
    from IPython import get_ipython
    from IPython.display import display

    shell, before, shown = get_ipython(), control.value, []
    original = shell.showtraceback
    shell.showtraceback = lambda exc_tuple=None, *args, **kwargs: shown.append((exc_tuple or sys.exc_info())[1])
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


def machine() -> dict[str, Any]:
    """Device and threads: torch's, if this process has imported it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {"device": "cpu", "threads": os.cpu_count()}
    device = "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else device
    return {"device": device, "threads": torch.get_num_threads()}


def sweep() -> None:
    """Move every control, then display what the runner reports of this kernel."""
    from IPython.display import display

    facts = {**machine(), **move_all()}
    status = Path("/proc/self/status")  # Linux keeps the high-water mark that sampling may miss
    if mark := re.search(r"VmHWM:\s*(\d+)", status.read_text() if status.exists() else ""):
        facts["peak_mb"] = int(mark[1]) / 1024
    display({KERNEL_MIME: facts, "text/plain": ""}, raw=True)
