"""What functions ask of the zoo that they are given: that it is one, and has not seen what it is scored on."""

from __future__ import annotations

import warnings
from dataclasses import replace

from dwflow_lite.support.checks import brief
from dwflow_lite.tasks.measures import SCORES
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.zoo import Zoo


def require_zoo(zoo: object) -> None:
    """``TypeError`` for anything but a zoo, such as a list of zoos or of modules."""
    if not isinstance(zoo, Zoo):
        raise TypeError(f"a zoo is made by train_zoo, Zoo.load or Zoo.from_modules([...]); got {brief(zoo)}")


def other_cut(zoo: Zoo, task: Task, split: str) -> str:
    """A sentence if the zoo was trained on another cut of the task, so that it may have seen examples of ``split``."""
    trained_on = zoo.record.get("task", {})
    is_same_task = trained_on.get("name") == task.name
    if not is_same_task or _is_of_cut(task, trained_on.get("fingerprint", task.fingerprint)):
        return ""
    return (
        f"the zoo was trained on another cut of {task.name!r} (seed {trained_on.get('seed')}): its training examples "
        f"may be among the {split} examples of this task"
    )


def warn_of_other_cut(zoo: Zoo, task: Task, split: str, stacklevel: int = 3) -> None:
    """Warns where a score may be of examples that networks have seen. (Seeds are compared first: that is quick.)"""
    if split != "train" and zoo.record.get("task", {}).get("seed", task.seed) != task.seed:
        says = other_cut(zoo, task, split)
        if says:
            warnings.warn(says, RuntimeWarning, stacklevel=stacklevel)


def _is_of_cut(task: Task, fingerprint: str) -> bool:
    """Whether a fingerprint is that of this cut, by whichever metric its networks were scored."""
    if fingerprint == task.fingerprint:
        return True
    return any(replace(task, metric=metric).fingerprint == fingerprint for metric in SCORES[task.kind])
