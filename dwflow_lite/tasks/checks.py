"""What functions of other rooms ask of a task."""

from __future__ import annotations

from dwflow_lite.tasks.task import Task


def require_task(task: object) -> None:
    """``TypeError`` for anything but a task, such as its name."""
    if not isinstance(task, Task):
        got = repr(task) if isinstance(task, str) else type(task).__name__
        raise TypeError(f"a task is made by load_task or Task.from_arrays; got {got}")
