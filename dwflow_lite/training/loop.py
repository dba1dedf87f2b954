"""Train member after member: the training that one would write first, and the oracle of the batched one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dwflow_lite.support.checkpoints import Checkpoint
from dwflow_lite.support.progress import bar as progress_bar
from dwflow_lite.training.plan import Plan
from dwflow_lite.training.randomness import data_order, step_noise
from dwflow_lite.zoo.batching import module_with


class Trainee:
    """The member that is trained, and all that a checkpoint must keep of it.

    Attributes:
        network: a module of its own.
        optimizer: of its parameters.
        step: optimizer steps taken.
        history: its mean training loss in each finished epoch.
        loss_sum: the losses of the examples seen so far in this epoch, summed.
    """

    def __init__(self, plan: Plan, member: int) -> None:
        self.network = module_with(plan.network, plan.start(member))
        self.optimizer = plan.recipe.optimizer_for(self.network.parameters())
        self.step = 0
        self.history: list[float] = []
        self.loss_sum = torch.zeros((), device=plan.device)

    def parameters(self) -> dict[str, Tensor]:
        """By name."""
        return {name: parameter.detach() for name, parameter in self.network.named_parameters()}

    def state(self) -> dict[str, Any]:
        """Tensors and plain values, for a checkpoint."""
        return {
            "step": self.step,
            "history": self.history,
            "loss_sum": self.loss_sum,
            "parameters": self.parameters(),
            "optimizer": self.optimizer.state_dict(),
        }

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state that was saved of the same member."""
        self.step = state["step"]
        self.history = state["history"]
        self.loss_sum = state["loss_sum"].to(self.loss_sum.device)
        for name, parameter in self.network.named_parameters():
            parameter.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])


def train_loop(
    plan: Plan, members: range, *, checkpoint: Checkpoint, progress: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    """Train members one after another: slow, and for any module.

    Args:
        plan: as :meth:`Plan.on_device` gives it.
        members: N neighbours.
        checkpoint: keeps the finished members, and half-done the one under way.
        progress: show a bar of members.

    Returns:
        Trained parameters by name, each (N, *shape), on the CPU; and mean training losses (epochs, N).
    """
    saved = checkpoint.half_done_state() or {}
    if saved.get("method") != "loop":  # the other method began it
        saved = {}
    results: list[dict[str, Any]] = saved.get("results", [])  # of finished members, in order
    trainee_state: dict[str, Any] | None = saved.get("trainee")  # of the member that was interrupted
    left = members[len(results) :]
    bar = progress_bar(total=len(members), initial=len(results), desc="training", unit="member", progress=progress)
    with bar:
        for member in left:
            result = train_member(plan, member, results, trainee_state, checkpoint)
            results.append(result)
            trainee_state = None
            bar.update()
            if member != members[-1] and checkpoint.due():
                checkpoint.save({"method": "loop", "results": results, "trainee": None})
    parameters = {}
    for name in results[0]["parameters"]:
        parameters[name] = torch.stack([result["parameters"][name] for result in results])  # (N, *shape)
    return parameters, torch.tensor([result["history"] for result in results]).T  # (epochs, N)


def train_member(
    plan: Plan,
    member: int,
    results: list[dict[str, Any]],
    trainee_state: dict[str, Any] | None,
    checkpoint: Checkpoint,
) -> dict[str, Any]:
    """The training loop of one member.

    Args:
        plan: as :meth:`Plan.on_device` gives it.
        member: which one.
        results: of the members before, which a checkpoint keeps beside the state of this one.
        trainee_state: a state of this member from which to go on, or None.
        checkpoint: where a half-done state is kept.

    Returns:
        Its trained parameters, by name and on the CPU, and its mean training loss in each epoch.
    """
    trainee = Trainee(plan, member)
    if trainee_state:
        trainee.load(trainee_state)
    examples = len(plan.task.train)
    batch_size = plan.recipe.batch_size
    order = None
    while trainee.step < plan.steps:  # one counter, so that training goes on from any step
        epoch, batch = divmod(trainee.step, plan.steps_per_epoch)
        if batch == 0 or order is None:  # a new epoch, or one that was interrupted
            order = torch.from_numpy(data_order(plan.seed, member, epoch, examples)).to(plan.device)  # (n,)
        rows = order[batch * batch_size : (batch + 1) * batch_size]  # (b,)

        with step_noise(plan.device, plan.seed, member, trainee.step):
            take_step(plan, trainee, rows)
        if batch == plan.steps_per_epoch - 1:
            trainee.history.append(float(trainee.loss_sum / examples))
            trainee.loss_sum = torch.zeros_like(trainee.loss_sum)
        if not plan.keeps_state and checkpoint.due():
            checkpoint.save({"method": "loop", "results": results, "trainee": trainee.state()})
    parameters = {name: parameter.cpu() for name, parameter in trainee.parameters().items()}
    return {"parameters": parameters, "history": trainee.history}


def take_step(plan: Plan, trainee: Trainee, rows: Tensor) -> None:
    """One step of one member, on rows (b,) of the training split. Nothing in it reads a number back."""
    x, y = plan.task.train.x[rows], plan.task.train.y[rows]  # (b, *input), (b,) or (b, outputs)
    with plan.recipe.autocast(plan.device):
        outputs = trainee.network(x)  # (b, outputs)
        loss = plan.task.training_loss(outputs, y)
    trainee.optimizer.zero_grad()
    loss.backward()
    trainee.optimizer.step()
    trainee.step += 1
    trainee.loss_sum += plan.task.reported(loss, outputs, y) * len(rows)
