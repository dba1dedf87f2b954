"""Train member after member: the training that one would write first, and the oracle of the batched one."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from dwflow_lite.support.progress import bar as progress_bar
from dwflow_lite.training.plan import Plan
from dwflow_lite.training.randomness import data_order, step_noise


def train_loop(plan: Plan, members: range, *, progress: bool = False) -> tuple[dict[str, Tensor], Tensor]:
    """Train members one after another: slow, and for any module.

    Args:
        plan: as :meth:`Plan.on_device` gives it.
        members: N neighbours.
        progress: show a bar of members.

    Returns:
        Trained parameters by name, each (N, *shape); and mean training losses (epochs, N).
    """
    networks, histories = [], []
    for member in progress_bar(members, desc="training", unit="member", progress=progress):
        network, history = train_member(plan, member)
        networks.append(network)
        histories.append(history)
    parameters = {}
    for name, _ in plan.network.named_parameters():
        parameters[name] = torch.stack([network.get_parameter(name).detach() for network in networks])  # (N, *shape)
    return parameters, torch.tensor(histories).T  # (epochs, N)


def train_member(plan: Plan, member: int) -> tuple[nn.Module, list[float]]:
    """The training loop of one member: its network, and its mean training loss in each epoch."""
    recipe = plan.recipe
    x, y = plan.task.train.x, plan.task.train.y  # (n, *input), (n,) or (n, outputs)
    network = deepcopy(plan.network)
    start = plan.start(member)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(start[name])
    optimizer = recipe.optimizer_for(network.parameters())
    step = 0
    history = []
    for epoch in range(recipe.epochs):
        order = torch.from_numpy(data_order(plan.seed, member, epoch, len(x))).to(plan.device)  # (n,)
        loss_sum = 0.0
        for rows in order.split(recipe.batch_size):  # (b,)
            with step_noise(plan.device, plan.seed, member, step), recipe.autocast(plan.device):
                outputs = network(x[rows])  # (b, outputs)
                loss = plan.task.training_loss(outputs, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += plan.task.reported(loss, outputs, y[rows]) * len(rows)
            step += 1
        history.append(float(loss_sum / len(x)))
    return network, history
