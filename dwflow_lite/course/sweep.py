"""What the runner does inside a kernel: quiet bars before the first cell, move controls after the last."""

from __future__ import annotations

import os
import sys
import types
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
    if isinstance(control, w.SelectionSlider):
        values = [value for _, value in control._options_full]
        return [values[i] for i in sorted({0, len(values) // 2, len(values) - 1})]
    if isinstance(control, w.SelectionRangeSlider):
        values = [value for _, value in control._options_full]
        return [(values[0], values[-1]), (values[0], values[0]), (values[-1], values[-1])]
    if isinstance(control, w.Dropdown | w.RadioButtons | w.Select | w.ToggleButtons):
        return [value for _, value in control._options_full]
    if isinstance(control, w.SelectMultiple):
        values = [value for _, value in control._options_full]
        return [(value,) for value in values] + [tuple(values)]
    if isinstance(control, w.FloatLogSlider):
        return [control.base**e for e in (control.min, (control.min + control.max) / 2, control.max)]
    if isinstance(control, w.IntRangeSlider | w.FloatRangeSlider):
        low, high = control.min, control.max
        return [(low, high), (low, low), (high, high)]
    if isinstance(control, w.IntSlider | w.BoundedIntText):
        return [control.min, (control.min + control.max) // 2, control.max]
    if isinstance(control, w.FloatSlider | w.BoundedFloatText):
        return [control.min, (control.min + control.max) / 2, control.max]
    return []


def move_all() -> dict[str, int]:
    """Set each control of this kernel to each of its values, one control at a time, and put it back.

    Returns how many controls and values were tried. Raises WidgetError naming the control and the value
    for what a callback raises, also where `interact` or an Output widget would only have shown it.
    Not seen: buttons, and callbacks that run later (timers, asyncio tasks).
    """
    if "ipywidgets" not in sys.modules:
        return {"controls": 0, "values": 0}
    from ipywidgets import Widget
    from ipywidgets.widgets import widget as registry

    live = getattr(registry, "_instances", None)
    controls = [c for c in list((Widget.widgets if live is None else live).values()) if candidates(c)]
    tried = sum(_move(control) for control in controls)
    return {"controls": len(controls), "values": tried}


def _move(control: Any) -> int:
    from IPython import get_ipython

    shell = get_ipython()
    shown: list[BaseException] = []

    def catch(exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        shown.append((exc_tuple or sys.exc_info())[1])

    before, values = control.value, candidates(control)
    original, shell.showtraceback = shell.showtraceback, catch
    value = before
    try:
        for value in [*values, before]:
            control.value = value
            if shown:
                raise shown[0]
    except Exception as error:
        from IPython.display import display

        display({KERNEL_MIME: {"culprit": control.model_id}, "text/plain": ""}, raw=True)
        name = control.description or type(control).__name__
        raise WidgetError(
            f"control '{name}' ({type(control).__name__}) set to {value!r}: {type(error).__name__}: {error}"
        ) from error
    finally:
        shell.showtraceback = original
    return len(values)


def sweep() -> None:
    """Move every control, then display what the runner reports of this kernel."""
    from IPython.display import display

    facts: dict[str, Any] = {
        "executable": sys.executable,
        "threads": os.cpu_count(),
        "device": "cpu",
        **move_all(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            facts["device"] = torch.cuda.get_device_name()
        elif torch.backends.mps.is_available():
            facts["device"] = "mps"
    try:  # Linux keeps the high-water mark that sampling may miss
        with open("/proc/self/status") as status:
            facts["peak_mb"] = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    display({KERNEL_MIME: facts, "text/plain": ""}, raw=True)
