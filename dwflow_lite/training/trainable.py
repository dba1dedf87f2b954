"""Whether a network can be trained on a task, and how: found out on two examples, before anything is trained."""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dwflow_lite.batchnorm import norms_with_statistics, without_statistics
from dwflow_lite.networks.constants import moved
from dwflow_lite.networks.tensors import require_usual_tensors
from dwflow_lite.networks.wishes import what_it_takes
from dwflow_lite.support.checks import failing_as
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.tasks.task import Task
from dwflow_lite.training.plan import Plan, no_memory_for
from dwflow_lite.training.randomness import step_noise
from dwflow_lite.zoo.batching import outputs_of, runs_batched
from dwflow_lite.zoo.layout import require_module


def check_trainable(task: Task, network: nn.Module, batch_size: int) -> None:
    """Refuse a network that does not fit the task, or does not train; it is not changed.

    Raises:
        ValueError: it has no parameters to train, cannot be copied, does not take the inputs, returns something else
            than the task wants, does not train, or changes buffers or frozen parameters as it trains; or the last
            batch has one example, which it does not take.
        TypeError: it is no module.
    """
    require_module(network)
    kind = type(network).__name__
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"{kind} has no parameters to train")
    require_usual_tensors(network)
    with failing_as(f"{kind} cannot be copied, as every member is: keep in it only what deepcopy takes, and detached"):
        network = moved(network, "cpu")
    x, y = task.train.x[:2].cpu(), task.train.y[:2].cpu()
    _check_outputs(task, deepcopy(network).eval(), x)
    in_training = without_statistics(network).train()
    _check_last_batch(network, in_training, x[:1], batch_size, len(task.train))
    _check_training(task, in_training, x, y)


@torch.no_grad()
def _check_outputs(task: Task, network: nn.Module, x: Tensor) -> None:
    what = f"inputs of shape {task.input_shape}{_precision(network, x)}{what_it_takes(network, x)}"
    with failing_as(f"the network does not take {what}"):
        outputs = network(x.clone())  # it may write to them
    if not isinstance(outputs, Tensor):
        raise ValueError(f"the network returns a {type(outputs).__name__}: return one tensor (n, {task.outputs})")
    shape = tuple(outputs.shape)
    if shape != (len(x), task.outputs):
        wanted = f"task {task.name!r} wants (2, {task.outputs}): let its last layer return {task.outputs}"
        raise ValueError(f"the network returns {shape} for two examples; {wanted}")
    sums = outputs.double().sum(-1)
    if task.kind == "classification" and bool((outputs >= 0).all()) and torch.allclose(sums, torch.ones_like(sums)):
        warnings.warn(
            "the network returns probabilities, and the loss takes a softmax of its own: take off the last one, as two "
            "of them train slowly and never to the end",
            RuntimeWarning,
            stacklevel=4,
        )


def _precision(network: nn.Module, x: Tensor) -> str:
    """What is to be said of a network whose weights are of another precision than the inputs."""
    weights = next(network.parameters())
    if not x.is_floating_point() or weights.dtype == x.dtype:
        return ""
    try:
        deepcopy(network).to(x.dtype)(x.clone())
    except Exception:  # whatever a reader's own code raises: then it is not the precision alone
        return ""
    ours, theirs = (str(tensor.dtype).removeprefix("torch.") for tensor in (x, weights))
    return f" and {ours}, as its weights are {theirs}: train network.float()"


def _check_last_batch(network: nn.Module, in_training: nn.Module, x: Tensor, batch_size: int, examples: int) -> None:
    """A last batch of one example has no variance; ``x`` (1, *input) is one."""
    last_batch = (examples - 1) % batch_size + 1
    if last_batch > 1:
        return
    says = f"batch_size {batch_size} leaves a last batch of one example, which"
    if any(isinstance(norm, _BatchNorm) for norm in norms_with_statistics(network).values()):
        raise ValueError(f"{says} BatchNorm cannot normalise: change it")
    with failing_as(f"{says} the network does not take in training mode: change it"), step_noise(x.device, 0):
        deepcopy(in_training)(x.clone())


def _check_training(task: Task, network: nn.Module, x: Tensor, y: Tensor) -> None:
    """One step but for the optimizer: there are gradients, and nothing else changes that all members share."""
    fixed = dict(network.named_buffers())
    fixed |= {name: p for name, p in network.named_parameters() if not p.requires_grad}
    before = {name: tensor.detach().clone() for name, tensor in fixed.items()}
    with failing_as("the network does not run in training mode"), step_noise(x.device, 0):
        loss = task.training_loss(network(x.clone()), y)
    if not loss.requires_grad:
        raise ValueError("no output of the network depends on a parameter: it leaves torch, or is detached, on the way")
    with failing_as("the network does not train"):
        loss.backward()
    changed = [name for name, tensor in fixed.items() if not torch.equal(tensor, before[name])]
    if changed:
        frozen = "" if set(changed) <= dict(network.named_buffers()).keys() else " or frozen parameters"
        raise ValueError(
            f"the network changes its buffers{frozen} as it trains ({', '.join(changed)}); only BatchNorm may, whose "
            "statistics are measured after training"
        )


# -- how it is trained -------------------------------------------------------------------------------------------------


def with_working_method(plan: Plan, members_at_once: int) -> Plan:
    """The plan, by the method ``"loop"`` where members in one computation do not train as each would alone.

    A warning says so.

    Args:
        plan: what to train.
        members_at_once: how many would train in one computation.

    Raises:
        MemoryError: no memory for the examples, or for two members; it says what to lower.
    """
    if plan.method == "loop":
        return plan
    ready = plan.on_device()
    x, y = ready.task.train.x[:2], ready.task.train.y[:2]
    first, last = 0, min(members_at_once, plan.total) - 1
    starts = [ready.start(member) for member in sorted({first, last})]
    state = {name: torch.stack([start[name] for start in starts]).to(plan.device) for name in starts[0]}  # (2, *shape)
    with out_of_memory_as(no_memory_for(len(starts))):
        at_once = runs_batched(ready.network, state, x, loss=lambda outputs: plan.task.training_loss(outputs, y))
    return plan if at_once else replace(plan, method="loop")


def keeps_state(network: nn.Module, x: Tensor) -> bool:
    """Whether a network in training mode goes on from what it kept of the last call, which no checkpoint has.

    Args:
        network: not changed.
        x: inputs (n, *input).
    """
    network = deepcopy(network)
    outputs = []
    with torch.no_grad():
        for _ in range(2):
            with step_noise(x.device, 0):
                outputs.append(outputs_of(network, x))
    return not torch.allclose(*outputs, equal_nan=True)
