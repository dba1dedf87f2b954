"""All that is needed to train any members of a zoo, wherever that is done."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import torch
from torch import Tensor, nn

from dwflow_lite.batchnorm import without_statistics
from dwflow_lite.networks import initialise
from dwflow_lite.networks.constants import moved
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.tasks.task import Task
from dwflow_lite.training.randomness import member_seed
from dwflow_lite.training.recipe import Recipe
from dwflow_lite.training.starting import parameters_of
from dwflow_lite.zoo.zoo import Zoo

NO_MEMORY_FOR_EXAMPLES = 'no memory for the examples of the task there: pass a task of fewer, or device="cpu"'
NO_MEMORY_FOR_ONE = "no memory for one member: pass a recipe of a smaller batch_size, or a smaller network"
SCORED_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Plan:
    """What every job of one zoo needs, and carries to another process.

    Attributes:
        task: data, loss and score.
        network: template module.
        recipe: how members are trained.
        seed: of the whole zoo.
        method: ``"batched"`` or ``"loop"``.
        device: where members are trained.
        fitted: number of members that a generator may be fitted on; they come first, those held out after them.
        total: all members, with those held out.
        folder: where finished members are written, or None.
        keeps_state: whether the network goes on from what it kept of the step before, beside its tensors. No checkpoint
            has that, so that members are kept when they are finished, and not before. (Found out where training
            begins, by a try, if there is a checkpoint.)
        given: networks that members start from, one each; None: members draw their own starts.
        scored: the splits on which finished members are scored.
    """

    task: Task
    network: nn.Module
    recipe: Recipe
    seed: int
    method: str
    device: torch.device
    fitted: int
    total: int
    folder: Path | None
    keeps_state: bool = False
    given: Zoo | None = None
    scored: tuple[str, ...] = SCORED_SPLITS

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the training split; the last batch may be a smaller one."""
        return ceil(len(self.task.train) / self.recipe.batch_size)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.recipe.epochs * self.steps_per_epoch

    def start(self, member: int) -> dict[str, Tensor]:
        """The parameters that a member starts from, by name; on the CPU, so that all devices start alike."""
        if self.given is not None:
            return parameters_of(self.given, member, self.network)
        return initialise(self.network, self.recipe.init_of(member), member_seed(self.seed, member))

    def origin(self, member: int) -> dict[str, int | str]:
        """What the record says of a member's beginning: its number, its seed, and how its weights started."""
        init = self.recipe.init_of(member) if self.given is None else "given"
        return {"member": member, "seed": member_seed(self.seed, member), "init": init}

    def on_device(self) -> Plan:
        """The same plan, ready to train: data and network on the device, the network in training mode.

        BatchNorm normalises by the batch at hand and keeps no running statistics; they are measured after training.
        """
        with out_of_memory_as(NO_MEMORY_FOR_EXAMPLES):
            network = moved(without_statistics(self.network), self.device).train()
            return replace(self, task=self.task.to(self.device), network=network)


def no_memory_for(members: int) -> str:
    """What to do where memory runs out."""
    return (
        f"no memory for {members} members at once: pass a smaller members_at_once or batch_size (a checkpoint, if you "
        "gave one, keeps the members that are finished)"
    )
