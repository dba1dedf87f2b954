"""Train many members in one computation: every tensor has a first axis of members."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dwflow_lite.support.checkpoints import Checkpoint
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.support.jobs import runs
from dwflow_lite.support.progress import bar as progress_bar
from dwflow_lite.training.plan import Plan, no_memory_for
from dwflow_lite.training.randomness import data_orders, step_noise
from dwflow_lite.zoo.batching import batched_forward


class Chunk:
    """The members that are trained at once, and all that a checkpoint must keep of them.

    Attributes:
        members: N neighbours.
        parameters: by name, each (N, *shape).
        optimizer: of all of them at once.
        step: optimizer steps taken.
        history: for each finished epoch, the mean training loss of each member: lists of N numbers.
        loss_sums: (N,), the losses of the examples seen so far in this epoch, summed.
    """

    def __init__(self, plan: Plan, members: range) -> None:
        self.members = members
        self.parameters = {}
        starts = [plan.start(member) for member in members]
        for name, template in plan.network.named_parameters():
            parameter = torch.stack([start[name] for start in starts]).to(plan.device)  # (N, *shape)
            self.parameters[name] = parameter.requires_grad_(template.requires_grad)
        self.optimizer = plan.recipe.optimizer_for(self.parameters.values())
        self.step = 0
        self.history: list[list[float]] = []
        self.loss_sums = torch.zeros(len(members), device=plan.device)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values, for a checkpoint."""
        return {
            "members": len(self.members),
            "step": self.step,
            "history": self.history,
            "loss_sums": self.loss_sums,
            "parameters": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
        }

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state that was saved of the same members."""
        self.step = state["step"]
        self.history = state["history"]
        self.loss_sums = state["loss_sums"].to(self.loss_sums.device)
        for name, parameter in self.parameters.items():
            parameter.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])

    def result(self) -> dict[str, Any]:
        """Trained parameters, by name and on the CPU, and the history."""
        parameters = {name: parameter.detach().cpu() for name, parameter in self.parameters.items()}
        return {"parameters": parameters, "history": self.history}


def train_batched(
    plan: Plan, members: range, *, members_at_once: int, checkpoint: Checkpoint, progress: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    """Train members, so many at once, one chunk after another.

    Args:
        plan: as :meth:`Plan.on_device` gives it.
        members: N neighbours.
        members_at_once: bounds memory, not the result (but for dropout, whose masks are drawn for a chunk at once).
        checkpoint: keeps the finished chunks, and half-done the one under way.
        progress: show a bar of steps.

    Returns:
        Trained parameters by name, each (N, *shape), on the CPU; and mean training losses (epochs, N).

    Raises:
        MemoryError: too many members at once.
    """
    saved = checkpoint.half_done_state() or {}
    if saved.get("method", "batched") != "batched":  # the other method began it
        saved = {}
    results: list[dict[str, Any]] = saved.get("results", [])  # of finished chunks, in order
    chunk_state: dict[str, Any] | None = saved.get("chunk")  # of the chunk that was interrupted
    finished_members = sum(len(result["history"][0]) for result in results)  # the first epoch has a loss for each
    chunks = runs(members[finished_members:], members_at_once)
    if chunk_state and chunk_state["members"] != len(chunks[0]):
        chunk_state = None  # members_at_once was another: the members of this chunk start again
    bar = progress_bar(
        total=plan.steps * (len(results) + len(chunks)),
        initial=plan.steps * len(results) + (chunk_state["step"] if chunk_state else 0),
        desc=f"training {len(members)}",
        unit="step",
        progress=progress,
    )
    with bar:
        for chunk_members in chunks:
            with out_of_memory_as(no_memory_for(len(chunk_members))):
                result = train_chunk(plan, chunk_members, results, chunk_state, checkpoint, bar)
            results.append(result)
            chunk_state = None
            if chunk_members != chunks[-1]:
                checkpoint.save({"results": results, "chunk": None})
    parameters = {}
    for name in results[0]["parameters"]:
        parameters[name] = torch.cat([result["parameters"][name] for result in results])  # (N, *shape)
    history = torch.cat([torch.tensor(result["history"]) for result in results], dim=1)  # (epochs, N)
    return parameters, history


def train_chunk(
    plan: Plan,
    members: range,
    results: list[dict[str, Any]],
    chunk_state: dict[str, Any] | None,
    checkpoint: Checkpoint,
    bar: tqdm,
) -> dict[str, Any]:
    """The training loop of N members at once.

    Members share no weight. The gradient of the sum of their losses is for each the gradient of its own loss, and an
    elementwise optimizer takes for each the step that it would take alone.

    Args:
        plan: as :meth:`Plan.on_device` gives it.
        members: N neighbours.
        results: of the chunks before, which a checkpoint keeps beside the state of this one.
        chunk_state: a state of this chunk from which to go on, or None.
        checkpoint: where a half-done state is kept.
        bar: told of every step.

    Returns:
        :meth:`Chunk.result`.
    """
    chunk = Chunk(plan, members)
    if chunk_state:
        chunk.load(chunk_state)
    network = deepcopy(plan.network)  # what it may keep from step to step ends with the chunk
    examples = len(plan.task.train)
    batch_size = plan.recipe.batch_size
    orders = None
    while chunk.step < plan.steps:  # one counter, so that training goes on from any step
        epoch, batch = divmod(chunk.step, plan.steps_per_epoch)
        if batch == 0 or orders is None:  # a new epoch, or one that was interrupted
            orders = data_orders(plan.seed, members, epoch, examples).to(plan.device)  # (N, n)
        rows = orders[:, batch * batch_size : (batch + 1) * batch_size]  # (N, b)

        # Noise is drawn for the whole chunk at once, from a key of its step; no two chunks draw the same.
        noise_key = (chunk.step,) if members.start == 0 else (chunk.step, members.start)
        with step_noise(plan.device, plan.seed, *noise_key):
            take_step(plan, chunk, network, rows)
        if batch == plan.steps_per_epoch - 1:
            chunk.history.append((chunk.loss_sums / examples).tolist())
            chunk.loss_sums = torch.zeros_like(chunk.loss_sums)
            bar.set_postfix(loss=f"{np.median(chunk.history[-1]):.3f}", refresh=False)
        if not plan.keeps_state and checkpoint.due():
            checkpoint.save({"results": results, "chunk": chunk.state()})
        bar.update()
    return chunk.result()


def take_step(plan: Plan, chunk: Chunk, network: nn.Module, rows: Tensor) -> None:
    """One step of N members at once. Nothing in it reads a number back, so that a GPU is not waited for.

    Args:
        plan: as :meth:`Plan.on_device` gives it.
        chunk: the members; changed.
        network: the template, in training mode.
        rows: of the training split, the examples of each member, (N, b).
    """
    x, y = plan.task.train.x[rows], plan.task.train.y[rows]  # (N, b, *input), (N, b) or (N, b, outputs)
    with plan.recipe.autocast(plan.device):
        outputs = batched_forward(network, chunk.parameters, x)  # (N, b, outputs)
        losses = plan.task.training_loss(outputs, y)  # (N,)
    chunk.optimizer.zero_grad()
    losses.sum().backward()
    chunk.optimizer.step()
    chunk.step += 1
    chunk.loss_sums += plan.task.reported(losses, outputs, y) * rows.shape[1]
