"""Parts of a task: some of its classes, or few labels of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dwflow_lite.support.checks import is_whole
from dwflow_lite.tasks.checks import require_task
from dwflow_lite.tasks.splits import Split
from dwflow_lite.tasks.task import Task


def of_classes(task: Task, names: Sequence[str], name: str | None = None) -> Task:
    """The task of telling some of the classes apart: their examples alone, labels counted anew in the order given.

    Args:
        task: a classification of C classes.
        names: of c <= C classes, as ``task.class_names`` has them.
        name: what reports call it; by default that of the task with the names of the classes, as ``"digits-3-7"``.

    Raises:
        ValueError: a regression, fewer than two names, one that the task does not have, or one twice.

    Example:
        >>> from dwflow_lite import load_task
        >>> task = of_classes(load_task("digits"), ["7", "3"])
        >>> task.name, task.class_names, task.outputs
        ('digits-7-3', ('7', '3'), 2)
    """
    require_classes(task)
    names = list(names)
    unknown = [each for each in names if each not in task.class_names]
    if unknown or len(set(names)) < len(names) or len(names) < 2:
        raise ValueError(f"name two or more different classes of {', '.join(task.class_names)}; got {names}")
    label_of = torch.full((task.outputs,), -1)  # old label -> new label, -1: left out
    for label, each in enumerate(names):
        label_of[task.class_names.index(each)] = label
    rows = {split: torch.nonzero(label_of[part.y.cpu()] >= 0)[:, 0] for split, part in task.splits.items()}
    smaller = _with_rows(task, rows)
    splits = {split: Split(part.x, label_of.to(part.y.device)[part.y]) for split, part in smaller.splits.items()}
    name = name or "-".join([task.name, *names])
    return replace(smaller, name=name, outputs=len(names), classes=tuple(names), splits=splits)


def few_labels(task: Task, per_class: int, seed: int = 0) -> Task:
    """The same task with few training examples, equally many of each class; all other splits stay as they are.

    Args:
        task: a classification.
        per_class: training examples of each class, drawn at random.
        seed: of the draw. With more examples a class, those of fewer are among them.

    Raises:
        ValueError: a regression, a number below 1, or a class with fewer training examples, which is named.

    Example:
        >>> from dwflow_lite import load_task
        >>> few_labels(load_task("digits"), 3).train.y.bincount()
        tensor([3, 3, 3, 3, 3, 3, 3, 3, 3, 3])
    """
    require_classes(task)
    if not is_whole(per_class, 1):
        raise ValueError(f"labels of each class are a whole number >= 1, got {per_class!r}")
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    labels = task.train.y.cpu()
    chosen = []
    for label, name in enumerate(task.class_names):
        rows = rng.permutation(torch.nonzero(labels == label)[:, 0].numpy())
        if len(rows) < per_class:
            raise ValueError(f"class {name!r} of task {task.name!r} has {len(rows)} training examples, not {per_class}")
        chosen.append(rows[:per_class])
    rows = torch.from_numpy(np.sort(np.concatenate(chosen)))  # (classes * per_class,), in the order of the task
    return _with_rows(task, {"train": rows})


def require_classes(task: Task) -> None:
    """``TypeError`` for anything but a task, ``ValueError`` for a regression, which has no classes."""
    require_task(task)
    if task.kind != "classification":
        raise ValueError(f"task {task.name!r} is a {task.kind} and has no classes")


def _with_rows(task: Task, rows: Mapping[str, Tensor]) -> Task:
    """The task with these rows (n,) of some splits, the others whole."""
    splits, indices = dict(task.splits), dict(task.indices)
    for split, kept in rows.items():
        part = task.splits[split]
        splits[split] = Split(part.x[kept], part.y[kept])
        indices[split] = np.asarray(task.indices[split])[kept.cpu().numpy()]
    return replace(task, splits=splits, indices=indices)
