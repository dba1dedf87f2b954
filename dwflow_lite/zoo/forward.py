"""Many networks at once: outputs, loss and score of a whole zoo in one batched pass."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dwflow_lite.support.checks import failing_as
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.layout import Layout
from dwflow_lite.zoo.zoo import Zoo


def batched_forward(network: nn.Module, state: Mapping[str, Tensor], x: Tensor, shared_input: bool = False) -> Tensor:
    """Run N networks at once: ``state`` holds tensors (N, *shape), ``x`` is (N, n, ...), or (n, ...) if shared.

    Returns outputs (N, n, outputs). One call of :func:`torch.vmap` over :func:`torch.func.functional_call`.
    """

    def forward(member: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(network, member, (inputs,))

    return torch.vmap(forward, in_dims=(0, None if shared_input else 0), randomness="different")(state, x)


@torch.no_grad()
def predict(zoo: Zoo, x: Tensor, *, members_at_once: int | None = None, inputs_at_once: int | None = None) -> Tensor:
    """Outputs (N, n, outputs) of every member for inputs (n, ...), in eval mode and in one batched pass.

    ``members_at_once`` (None: :func:`together`) and ``inputs_at_once`` (None: 1024, or 128 for large networks) bound
    the memory of weights and activations, not the result.
    """
    network, rows = deepcopy(zoo.network).eval().to(zoo.weights.device), []
    inputs_at_once = inputs_at_once or (1024 if zoo.layout.size < LARGE else 128)
    for weights in zoo.weights.split(members_at_once or together(zoo.layout)):
        state = zoo.layout.unflatten(weights)
        rows.append(torch.cat([forward_all(network, state, part) for part in x.split(inputs_at_once)], 1))
    return torch.cat(rows)


LARGE = 1 << 20  # weights


def together(layout: Layout, at_most: int = 64) -> int:
    """How many members to hold at once: ``at_most``, fewer where that is more than 2²⁴ weights, and at least one."""
    return max(1, min(at_most, 16 * LARGE // layout.size))


def forward_all(network: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Batched where :func:`torch.vmap` takes the network, else member after member."""
    try:
        return batched_forward(network, state, x, shared_input=True)
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
    members = len(next(iter(state.values())))
    return torch.stack([functional_call(network, {k: t[m] for k, t in state.items()}, (x,)) for m in range(members)])


@dataclass(frozen=True)
class Evaluation:
    """Loss and score of every member on one split, (N,); for classification also which examples it errs on, (N, n)."""

    split: str
    loss: Tensor
    score: Tensor
    wrong: Tensor | None = None


def evaluate(zoo: Zoo, task: Task, split: str = "validation") -> Evaluation:
    """Loss and score of every member on one split of a task, all members in one batched pass."""
    data = task.split(split)
    x = data.inputs(zoo.weights)
    try:
        outputs = predict(zoo, x)
    except Exception:  # is it that the networks do not take these inputs? One of them, on two examples, will say
        first, given = zoo.layout.entries[0], f"inputs of shape {task.input_shape} of task {task.name!r}"
        said = f"the networks (first tensor: {first.name} {first.shape}) do not take {given}"
        with failing_as(said), torch.no_grad():
            zoo.module(0).to(zoo.weights.device, zoo.weights.dtype)(x[:2])
        raise
    if outputs.shape[-1] != task.outputs:
        raise ValueError(f"the networks return {outputs.shape[-1]} outputs, task {task.name!r} wants {task.outputs}")
    y = data.y.to(outputs.device)
    wrong = outputs.argmax(-1) != y if task.kind == "classification" else None
    return Evaluation(split, task.loss(outputs, y), task.score(outputs, y), wrong)
