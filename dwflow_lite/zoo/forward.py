"""Outputs, loss and score of a whole zoo: in one batched pass, or one by one where networks do not run at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from dwflow_lite.networks.constants import template_on
from dwflow_lite.support.checks import whole
from dwflow_lite.support.devices import is_out_of_memory, out_of_memory_as
from dwflow_lite.tasks.checks import require_task
from dwflow_lite.tasks.measures import calibration_error
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.batching import State, copies, note_one_by_one, run_all, runs_batched
from dwflow_lite.zoo.checks import warn_of_other_cut
from dwflow_lite.zoo.inputs import check_taken, note_other_preparation, note_unprepared, note_untaken, require_inputs
from dwflow_lite.zoo.layout import Layout
from dwflow_lite.zoo.zoo import Zoo

LARGE = 1 << 20  # weights of a network of which only a few inputs are held at once
IN_CACHE = 1 << 13  # networks times inputs that run at once on a CPU: what they compute on the way stays in its cache


def forward_all(network: nn.Module, state: State, x: Tensor, at_once: bool | None = None) -> Tensor:
    """Outputs (N, n, outputs) of N networks for the same inputs (n, ...); no tensor of ``state`` changes.

    Args:
        network: template; not changed.
        state: tensors (N, *shape) by name.
        x: inputs (n, ...).
        at_once: whether they run in one pass, or one by one; None: :func:`runs_batched` finds out.

    Raises:
        ValueError: the network returns something else than one tensor.
        RuntimeError: memory ran out.
    """
    if at_once is None:
        at_once = runs_batched(network, state, x[:2])
    if at_once:
        try:
            return run_all(network, copies(state), x, at_once=True)
        except Exception as error:  # two examples went through, and these do not: one by one they may, or say why not
            if is_out_of_memory(error):
                raise
            outputs = run_all(network, copies(state), x, at_once=False)
            note_one_by_one(network, error)
            return outputs
    return run_all(network, copies(state), x, at_once=False)


def together(layout: Layout, at_most: int = 64) -> int:
    """How many members to hold at once: ``at_most``, fewer where that is more than 2²⁴ weights, and at least one."""
    fitting = 16 * LARGE // layout.size
    return max(1, min(at_most, fitting))


def inputs_together(zoo: Zoo, members: int) -> int:
    """How many inputs to hold at once, beside so many members: 1024, fewer for large networks and in a CPU's cache."""
    if zoo.layout.size >= LARGE:
        return 128
    if zoo.weights.device.type != "cpu":
        return 1024
    return max(64, min(1024, IN_CACHE // members))


def predict(zoo: Zoo, x: Tensor, *, members_at_once: int | None = None, inputs_at_once: int | None = None) -> Tensor:
    """Outputs of every member, in eval mode; in one batched pass, or one by one with networks that do not run at once.

    Networks run on copies: neither weights nor template change, whatever a network does. A network that keeps something
    from call to call begins every call anew.

    Args:
        zoo: N networks, in memory or on disk.
        x: inputs (n, ...), the same for all; of a reader's rows ``task.prepare(rows)`` makes them. They are moved to
            the device of the zoo, once.
        members_at_once: bounds the memory of weights, not the result; None: as :func:`together` says.
        inputs_at_once: bounds the memory of activations, not the result; None: as :func:`inputs_together` says.

    Returns:
        (N, n, outputs), in the order of the members, on the device of the zoo.

    Raises:
        ValueError: a size that is no whole number >= 1, or a network that returns something else than one tensor.
        MemoryError: too many members, or inputs, at once.
        TypeError: no zoo, or inputs that are no tensor.
        Exception: of a network that does not take these inputs.

    Warns:
        UserWarning: inputs that look as if they had not been prepared.

    Example:
        >>> from dwflow_lite.networks import MLP
        >>> zoo = Zoo.from_modules([MLP([4, 8, 3]) for _ in range(5)])
        >>> predict(zoo, torch.zeros(10, 4)).shape
        torch.Size([5, 10, 3])
    """
    pieces = list(outputs_of(zoo, x, members_at_once=members_at_once, inputs_at_once=inputs_at_once))
    with out_of_memory_as(f"no memory for the outputs of {len(zoo)} members: predict fewer members, or inputs"):
        return torch.cat(pieces)


def outputs_of(
    zoo: Zoo, x: Tensor, *, members_at_once: int | None = None, inputs_at_once: int | None = None
) -> Iterator[Tensor]:
    """What members return for inputs (n, ...), a few members at a time: (members, n, outputs), in order.

    What does not fit is refused before this returns, or with the first outputs. Arguments, errors and warnings are
    those of :func:`predict`; the caller keeps of the outputs what it needs.
    """
    require_inputs(zoo, x)
    note_unprepared(zoo, x)
    return _with_advice(zoo, x.to(zoo.device), members_at_once, inputs_at_once)


def _with_advice(zoo: Zoo, x: Tensor, members_at_once: int | None, inputs_at_once: int | None) -> Iterator[Tensor]:
    """:func:`outputs_of`, of inputs that were checked; an error of the network says what to do about it."""
    try:
        yield from _predict(zoo, x, members_at_once, inputs_at_once)
    except MemoryError:
        raise
    except Exception as error:  # the network's own, which stays
        note_untaken(zoo, x, error)
        raise


@torch.no_grad()
def _predict(
    zoo: Zoo, x: Tensor, members_at_once: int | None = None, inputs_at_once: int | None = None
) -> Iterator[Tensor]:
    """:func:`predict`, of inputs that are known to be some, a few members at a time: outputs (members, n, outputs)."""
    members_at_once = whole(together(zoo.layout) if members_at_once is None else members_at_once, "members_at_once", 1)
    if inputs_at_once is None:
        inputs_at_once = inputs_together(zoo, min(members_at_once, len(zoo)))
    inputs_at_once = whole(inputs_at_once, "inputs_at_once", 1)
    network = template_on(zoo.network, zoo.weights.device, zoo.weights.dtype).eval()
    at_once = None
    for weights in zoo.weights.split(members_at_once):  # (members, d)
        with out_of_memory_as(no_memory_for(members_at_once, inputs_at_once)):
            state = zoo.layout.unflatten(weights)
            if at_once is None:
                at_once = runs_batched(network, state, x[:2])
            outputs = [forward_all(network, state, inputs, at_once) for inputs in x.split(inputs_at_once)]
            outputs = torch.cat(outputs, 1)  # (members, n, outputs)
        yield outputs


def no_memory_for(members: int, inputs: int) -> str:
    """What to do where memory runs out as outputs are computed."""
    return (
        f"no memory for {members} members with {inputs} inputs at once: pass a smaller members_at_once or "
        "inputs_at_once"
    )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Loss and score of every member on one split.

    Attributes:
        split: name of the split.
        loss: (N,), of the task.
        score: (N,), the metric of the task; 1 is perfect.
        wrong: for classification, which examples each member errs on, (N, n).
        ece: for classification, how far confidence lies from accuracy, (N,): :func:`calibration_error`.
    """

    split: str
    loss: Tensor
    score: Tensor
    wrong: Tensor | None = None
    ece: Tensor | None = None


def evaluate(
    zoo: Zoo,
    task: Task,
    split: str = "validation",
    *,
    members_at_once: int | None = None,
    inputs_at_once: int | None = None,
) -> Evaluation:
    """Loss, score, mistakes and calibration of every member on one split of a task, a few members at a time.

    What is measured of members is kept, their outputs are not. Examples are moved to the device of the zoo, once; the
    results lie there.

    Args:
        zoo: N networks, in memory or on disk.
        task: whose inputs they take, and as many outputs as they return.
        split: one of the task's splits.
        members_at_once: as of :func:`predict`.
        inputs_at_once: as of :func:`predict`.

    Raises:
        ValueError: the networks do not take the inputs of the task, or return another number of outputs.
        MemoryError: too many members, or inputs, at once.
        TypeError: a zoo or a task that is none.

    Warns:
        RuntimeWarning: the zoo was trained on another cut of the task, and its training examples may be in the split.
        UserWarning: the task is standardised by other numbers than the one that the zoo was trained on.

    Example:
        >>> from dwflow_lite.networks import MLP
        >>> task = Task.from_arrays(torch.randn(60, 4), torch.arange(60) % 3)
        >>> zoo = Zoo.from_modules([MLP([4, 8, 3]) for _ in range(5)])
        >>> evaluate(zoo, task).score.shape
        torch.Size([5])
    """
    outputs = outputs_on(zoo, task, split, members_at_once=members_at_once, inputs_at_once=inputs_at_once)
    pieces = [_measured(some, task, split) for some in outputs]  # of (members, n, outputs)
    names = [field.name for field in fields(Evaluation) if getattr(pieces[0], field.name) is not None]
    joined = {name: torch.cat([getattr(piece, name) for piece in pieces]) for name in names if name != "split"}
    return Evaluation(split, **joined)


def _measured(outputs: Tensor, task: Task, split: str) -> Evaluation:
    """What outputs (members, n, outputs) on one split are worth."""
    y = task.split(split).y.to(outputs.device)
    wrong = ece = None
    if task.kind == "classification":
        wrong = outputs.argmax(-1) != y  # (members, n)
        ece = calibration_error(outputs, y)  # (members,)
    return Evaluation(split, task.loss(outputs, y), task.score(outputs, y), wrong, ece)


def outputs_on(
    zoo: Zoo, task: Task, split: str, *, members_at_once: int | None = None, inputs_at_once: int | None = None
) -> Iterator[Tensor]:
    """What members return on one split of a task, a few members at a time: (members, n, outputs), in order.

    What does not fit is refused before this returns, or with the first outputs. Arguments, errors and warnings are
    those of :func:`evaluate`; the caller keeps of the outputs what it needs.
    """
    require_task(task)
    examples = task.split(split)
    require_inputs(zoo, examples.x)
    warn_of_other_cut(zoo, task, split, stacklevel=4)
    note_other_preparation(zoo, task)
    x = examples.inputs(zoo.weights)  # (n, ...)
    return _outputs_for(zoo, task, x, members_at_once, inputs_at_once)


def _outputs_for(
    zoo: Zoo, task: Task, x: Tensor, members_at_once: int | None, inputs_at_once: int | None
) -> Iterator[Tensor]:
    """:func:`outputs_on`, of inputs that were checked."""
    try:
        for outputs in _predict(zoo, x, members_at_once, inputs_at_once):  # (members, n, outputs)
            _check_outputs(outputs, task, len(x))
            yield outputs
    except MemoryError:
        raise
    except Exception:
        check_taken(zoo, x, f"inputs of shape {task.input_shape} of task {task.name!r}")
        raise


def _check_outputs(outputs: Tensor, task: Task, examples: int) -> None:
    """``ValueError`` unless these are (members, n, outputs), as many as the task wants."""
    if outputs.ndim != 3:
        shape = tuple(outputs.shape[1:])
        raise ValueError(
            f"the networks return {shape} for {examples} examples: return one row an example, (n, outputs)"
        )
    if outputs.shape[-1] != task.outputs:
        raise ValueError(f"the networks return {outputs.shape[-1]} outputs, task {task.name!r} wants {task.outputs}")
