"""Whether inputs are such as a zoo was trained on: a tensor its networks take, prepared as their training rows were."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from dwflow_lite.networks.constants import template_on
from dwflow_lite.networks.wishes import what_it_takes
from dwflow_lite.support.checks import failing_as
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.zoo import Zoo

FAR = 10  # standard deviations, beyond which half of the rows of a table never lie
LOOKED_AT = 1024  # rows


def require_inputs(zoo: Zoo, x: Tensor) -> None:
    """``TypeError`` unless these are a zoo and a tensor, such as :meth:`Task.prepare` makes of a reader's rows."""
    if not isinstance(zoo, Zoo):
        raise TypeError(f"outputs are those of a Zoo; got {type(zoo).__name__} (of one module: Zoo.from_modules([it]))")
    require_tensor(x)


def require_tensor(x: object) -> None:
    """``TypeError`` for inputs that are no tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"inputs of networks are a tensor (n, ...), and task.prepare(rows) makes it; got {type(x).__name__}"
        )


def check_taken(zoo: Zoo, x: Tensor, inputs: str) -> None:
    """``ValueError`` if a network does not take these inputs (n, ...): one of them, on two examples, will say.

    Args:
        zoo: whose networks.
        x: inputs (n, ...).
        inputs: how the error calls them.
    """
    first = zoo.layout.entries[0]
    networks = f"the networks (first tensor: {first.name} {first.shape})"
    with failing_as(f"{networks} do not take {inputs}{what_it_takes(zoo.network, x)}"), torch.no_grad():
        template_on(zoo.module(0), zoo.weights.device, zoo.weights.dtype)(x[:2].clone())


def note_untaken(zoo: Zoo, x: Tensor, error: Exception) -> None:
    """Add a note to an error if a network does not take these inputs (n, ...), not even two of them."""
    kind = str(x.dtype).removeprefix("torch.")
    try:
        check_taken(zoo, x, f"{kind} inputs of shape {tuple(x.shape[1:])}: task.prepare(rows) makes what they take")
    except ValueError as reason:
        error.add_note(str(reason).removesuffix(f" ({error})"))


def note_unprepared(zoo: Zoo, x: Tensor) -> None:
    """Warn of rows (n, ...) that lie where the reader's own do, while the zoo was trained on standardised ones.

    That is said of rows half of which lie beyond ``FAR`` as they are, and would not once standardised.
    """
    scale = _standardised(zoo).get("inputs")
    if scale is None or not x.is_floating_point() or x.ndim < 2 or len(x) == 0:
        return
    mean, std = (torch.tensor(scale[key], dtype=torch.float64) for key in ("mean", "std"))
    if x.shape[1:] != mean.shape:
        return
    rows = x[:LOOKED_AT].detach().double().cpu()
    if _half_within(rows) > FAR >= _half_within((rows - mean) / std):
        warnings.warn(
            "these inputs look like rows in a reader's own units, and the networks were trained on standardised ones: "
            "predict(zoo, task.prepare(rows))",
            stacklevel=4,
        )


def note_other_preparation(zoo: Zoo, task: Task) -> None:
    """Warn of a task that is standardised by other numbers than the one that the zoo was trained on."""
    trained_on = zoo.record.get("task", {})
    if "fingerprint" not in trained_on:  # train_zoo has not written this: nothing is known
        return
    if _standardised(zoo) == task.preparation.to_json().get("standardised", {}):
        return
    warnings.warn(
        f"the zoo was trained on task {trained_on.get('name')!r} (seed {trained_on.get('seed')}), whose numbers are "
        f"standardised otherwise than those of this task {task.name!r}: scores tell little; new rows are prepared by "
        "that task, made again of the same arrays",
        stacklevel=4,
    )


def _standardised(zoo: Zoo) -> dict[str, dict[str, list]]:
    """Mean and standard deviation of inputs and targets of the task that the zoo was trained on, as far as it was."""
    return zoo.record.get("task", {}).get("standardised", {})


def _half_within(rows: Tensor) -> float:
    """How far from 0 the largest number of a row lies: median over the rows (n, ...)."""
    return float(rows.abs().flatten(1).amax(1).median())
