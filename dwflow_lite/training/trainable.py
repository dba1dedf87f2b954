"""Whether a network can be trained on a task: found out on two examples, and not in a batch of many."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from dwflow_lite.batchnorm import norms_with_statistics, without_statistics
from dwflow_lite.networks.tensors import require_usual_tensors
from dwflow_lite.support.checks import failing_as
from dwflow_lite.tasks.task import Task
from dwflow_lite.training.randomness import step_noise
from dwflow_lite.zoo.forward import batched_forward
from dwflow_lite.zoo.layout import require_module


def check_trainable(task: Task, network: nn.Module, method: str, batch_size: int) -> None:
    """Refuse a network that does not fit the task or the method; the network is not changed.

    Raises:
        ValueError: it has no parameters to train, does not take the inputs, returns another number of outputs,
            changes buffers as it trains, or ``torch.vmap`` refuses it; or BatchNorm would see a batch of one example.
        TypeError: it is no module.
    """
    require_module(network)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"{type(network).__name__} has no parameters to train")
    require_usual_tensors(network)
    x = task.train.x[:2].cpu()  # (2, *input)
    _check_outputs(task, deepcopy(network).cpu().eval(), x)
    last_batch = (len(task.train) - 1) % batch_size + 1
    if norms_with_statistics(network) and last_batch == 1:
        raise ValueError(
            f"batch_size {batch_size} leaves a last batch of one example, which BatchNorm cannot normalise: change it"
        )
    in_training = without_statistics(network).cpu().train()
    with torch.no_grad(), step_noise(x.device, 0):
        _check_buffers(in_training, x)
        if method == "batched":
            _check_vmap(in_training, x)


@torch.no_grad()
def _check_outputs(task: Task, network: nn.Module, x: Tensor) -> None:
    with failing_as(f"the network does not take inputs of shape {task.input_shape}"):
        shape = tuple(network(x).shape)
    if shape != (len(x), task.outputs):
        raise ValueError(f"the network returns {shape} for two examples; task {task.name!r} wants (2, {task.outputs})")


def _check_buffers(network: nn.Module, x: Tensor) -> None:
    """Buffers are the same for all members, so that no member may change its own."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with failing_as("the network does not run in training mode"):
        network(x)
    changed = [name for name, buffer in network.named_buffers() if not torch.equal(buffer, before[name])]
    if changed:
        raise ValueError(
            f"the network changes its buffers as it trains ({', '.join(changed)}); only BatchNorm may, whose "
            "statistics are measured after training"
        )


def _check_vmap(network: nn.Module, x: Tensor) -> None:
    """One member of one, as the batched training would run it."""
    parameters = {name: parameter[None] for name, parameter in network.named_parameters()}  # (1, *shape)
    with failing_as("torch.vmap refuses the network; pass method='loop'"):
        batched_forward(network, parameters, x[None])
