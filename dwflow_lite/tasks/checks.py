"""What functions of other rooms ask of a task."""

from __future__ import annotations

from dwflow_lite.tasks.task import Task


def require_task(task: object) -> None:
    """``TypeError`` for anything but a task, such as its name."""
    if not isinstance(task, Task):
        got = repr(task) if isinstance(task, str) else type(task).__name__
        raise TypeError(f"a task is made by load_task or Task.from_arrays; got {got}")


def shared_classes(source: Task, target: Task) -> list[tuple[int, int]]:
    """The labels that stand for the same class in two tasks, matched by name, never by number.

    Args:
        source: the task that networks know.
        target: the task that they are to learn.

    Returns:
        (label in ``source``, label in ``target``) of each shared name, in the order of the target's labels.

    Raises:
        TypeError: one is no task.
        ValueError: a regression, which has no classes; or not one name stands in both.

    Example:
        >>> x, y = [[0.0], [1.0]] * 20, [0, 1] * 20
        >>> pets = Task.from_arrays(x, y, classes=["cat", "dog"], name="pets")
        >>> farm = Task.from_arrays(x, y, classes=["dog", "cow"], name="farm")
        >>> shared_classes(pets, farm)
        [(1, 0)]
    """
    for task in (source, target):
        require_task(task)
        if task.kind != "classification":
            raise ValueError(f"task {task.name!r} is a {task.kind} and has no classes: give two classifications")
    label_of = {name: label for label, name in enumerate(source.class_names)}
    pairs = [(label_of[name], label) for label, name in enumerate(target.class_names) if name in label_of]
    if not pairs:
        raise ValueError(
            f"no class of task {target.name!r} ({', '.join(target.class_names)}) has the name of one of "
            f"{source.name!r} ({', '.join(source.class_names)}): name the labels alike by classes="
        )
    return pairs
