"""Many networks at once: outputs, loss and score of a whole zoo in one batched pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dwflow_lite.networks.constants import template_on
from dwflow_lite.support.checks import failing_as, whole
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.layout import Layout
from dwflow_lite.zoo.zoo import Zoo

LARGE = 1 << 20  # weights of a network of which only a few inputs are held at once


def batched_forward(network: nn.Module, state: Mapping[str, Tensor], x: Tensor, shared_input: bool = False) -> Tensor:
    """Run N networks at once: ``state`` holds tensors (N, *shape), ``x`` is (N, n, ...), or (n, ...) if shared.

    Returns outputs (N, n, outputs). One call of :func:`torch.vmap` over :func:`torch.func.functional_call`.
    """

    def forward(member: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(network, member, (inputs,))

    return torch.vmap(forward, in_dims=(0, None if shared_input else 0), randomness="different")(state, x)


def forward_all(network: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Outputs (N, n, outputs) of N networks for the same inputs (n, ...).

    Batched where :func:`torch.vmap` takes the network, else member after member.
    """
    try:
        return batched_forward(network, state, x, shared_input=True)
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
    members = len(next(iter(state.values())))
    outputs = []
    for member in range(members):
        own_state = {name: tensor[member] for name, tensor in state.items()}
        outputs.append(functional_call(network, own_state, (x,)))  # (n, outputs)
    return torch.stack(outputs)


def together(layout: Layout, at_most: int = 64) -> int:
    """How many members to hold at once: ``at_most``, fewer where that is more than 2²⁴ weights, and at least one."""
    fitting = 16 * LARGE // layout.size
    return max(1, min(at_most, fitting))


@torch.no_grad()
def predict(zoo: Zoo, x: Tensor, *, members_at_once: int | None = None, inputs_at_once: int | None = None) -> Tensor:
    """Outputs of every member, in eval mode and in one batched pass.

    Args:
        zoo: N networks, in memory or on disk.
        x: inputs (n, ...), the same for all.
        members_at_once: bounds the memory of weights, not the result; None: as :func:`together` says.
        inputs_at_once: bounds the memory of activations, not the result; None: 1024, or 128 for large networks.

    Returns:
        (N, n, outputs), in the order of the members.

    Example:
        >>> from dwflow_lite.networks import MLP
        >>> zoo = Zoo.from_modules([MLP([4, 8, 3]) for _ in range(5)])
        >>> predict(zoo, torch.zeros(10, 4)).shape
        torch.Size([5, 10, 3])
    """
    members_at_once = whole(members_at_once or together(zoo.layout), "members_at_once", 1)
    inputs_at_once = whole(inputs_at_once or (1024 if zoo.layout.size < LARGE else 128), "inputs_at_once", 1)
    network = template_on(zoo.network, zoo.weights.device, zoo.weights.dtype).eval()
    outputs_of_members = []
    for weights in zoo.weights.split(members_at_once):  # (members, d)
        state = zoo.layout.unflatten(weights)
        outputs = [forward_all(network, state, inputs) for inputs in x.split(inputs_at_once)]
        outputs_of_members.append(torch.cat(outputs, 1))  # (members, n, outputs)
    return torch.cat(outputs_of_members)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Loss and score of every member on one split.

    Attributes:
        split: name of the split.
        loss: (N,), of the task.
        score: (N,), the metric of the task; 1 is perfect.
        wrong: for classification, which examples each member errs on, (N, n).
    """

    split: str
    loss: Tensor
    score: Tensor
    wrong: Tensor | None = None


def evaluate(zoo: Zoo, task: Task, split: str = "validation") -> Evaluation:
    """Loss and score of every member on one split of a task, all members in one batched pass.

    Args:
        zoo: N networks, in memory or on disk.
        task: whose inputs they take, and as many outputs as they return.
        split: one of the task's splits.

    Raises:
        ValueError: the networks do not take the inputs of the task, or return another number of outputs.

    Example:
        >>> from dwflow_lite.networks import MLP
        >>> task = Task.from_arrays(torch.randn(60, 4), torch.arange(60) % 3)
        >>> zoo = Zoo.from_modules([MLP([4, 8, 3]) for _ in range(5)])
        >>> evaluate(zoo, task).score.shape
        torch.Size([5])
    """
    examples = task.split(split)
    x = examples.inputs(zoo.weights)  # (n, ...)
    try:
        outputs = predict(zoo, x)  # (N, n, outputs)
    except Exception:
        _check_inputs(zoo, task, x)
        raise
    if outputs.shape[-1] != task.outputs:
        raise ValueError(f"the networks return {outputs.shape[-1]} outputs, task {task.name!r} wants {task.outputs}")
    y = examples.y.to(outputs.device)
    wrong = None
    if task.kind == "classification":
        wrong = outputs.argmax(-1) != y  # (N, n)
    return Evaluation(split, task.loss(outputs, y), task.score(outputs, y), wrong)


def _check_inputs(zoo: Zoo, task: Task, x: Tensor) -> None:
    """``ValueError`` if a network does not take the inputs of a task: one of them, on two examples, will say."""
    first = zoo.layout.entries[0]
    networks = f"the networks (first tensor: {first.name} {first.shape})"
    inputs = f"inputs of shape {task.input_shape} of task {task.name!r}"
    with failing_as(f"{networks} do not take {inputs}"), torch.no_grad():
        zoo.module(0).to(zoo.weights.device, zoo.weights.dtype)(x[:2])
