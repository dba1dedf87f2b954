"""Train some members of a zoo from start to record: the loop, the statistics of their BatchNorm, their scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dwflow_lite.batchnorm import norms_with_statistics, recalibrate
from dwflow_lite.networks.constants import running_statistics
from dwflow_lite.support.checkpoints import Checkpoint
from dwflow_lite.support.devices import one_thread, out_of_memory_as
from dwflow_lite.tasks.task import Task
from dwflow_lite.training.batched import train_batched
from dwflow_lite.training.loop import train_loop
from dwflow_lite.training.plan import NO_MEMORY_FOR_ONE, Plan, no_memory_for
from dwflow_lite.training.trainable import keeps_state
from dwflow_lite.zoo.forward import Evaluation, evaluate, together
from dwflow_lite.zoo.layout import Layout
from dwflow_lite.zoo.storage import append
from dwflow_lite.zoo.zoo import Zoo

ONE_THREAD_BELOW = 1_000_000  # weights of a network that trains alone: smaller ones gain nothing from a second

# Starts and masks come from the generator of the process, which its threads share: jobs in threads take turns.
_ONE_JOB_AT_A_TIME = Lock()


def train_job(plan: Plan, members: range) -> tuple[Tensor | None, list[dict[str, Any]]]:
    """One job, wherever it runs: train some members at once.

    Returns:
        Their weights (m, d), on the CPU, or None where they were written to the folder of the plan; and notes of each.
    """
    with _ONE_JOB_AT_A_TIME:
        no_checkpoint = Checkpoint(None, name="", identity="")  # what is finished is kept by who gave the job
        weights, notes = train_members(plan, members, members_at_once=len(members), checkpoint=no_checkpoint)
    if plan.folder is None:
        return weights.cpu(), notes
    append(plan.folder, members.start, weights, notes)
    return None, notes


def train_members(
    plan: Plan, members: range, *, members_at_once: int, checkpoint: Checkpoint, progress: bool = False
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Train members, measure the statistics of their BatchNorm, and score them.

    Args:
        plan: what to train.
        members: m neighbours.
        members_at_once: how many in one computation.
        checkpoint: where a half-done training is kept.
        progress: show a bar.

    Returns:
        Weights (m, d) on the device of the plan, finite (a diverged member's have zeros instead of NaN and infinity);
        and for each member the notes that a record keeps of it.
    """
    layout = Layout.of(plan.network)
    parameters, history = _trained_parameters(plan, members, members_at_once, checkpoint, progress)
    weights = _flat(plan, layout, parameters)  # (m, d)
    finite = torch.isfinite(weights).all(1)  # (m,)
    zoo = Zoo(weights.nan_to_num(0.0, 0.0, 0.0), layout, plan.network).to(plan.device)
    scored_at_once = min(members_at_once, together(layout))  # as many as memory holds easily, and no more than allowed
    with out_of_memory_as(no_memory_for(scored_at_once)):
        if norms_with_statistics(plan.network):
            zoo = recalibrate(zoo, plan.task, "train", members_at_once=scored_at_once)
        task = plan.task.to(plan.device)  # once for all members
        evaluations = [_evaluate(zoo, task, split, scored_at_once) for split in plan.scored]
    for evaluation in evaluations:  # on the CPU
        finite &= torch.isfinite(evaluation.loss) & torch.isfinite(evaluation.score)
    return zoo.weights, _notes(plan, members, finite, evaluations, history)


def _trained_parameters(
    plan: Plan, members: range, members_at_once: int, checkpoint: Checkpoint, progress: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Trained parameters by name, each (m, *shape), and mean training losses (epochs, m)."""
    small = Layout.of(plan.network).size < ONE_THREAD_BELOW
    plan = plan.on_device()
    if checkpoint.file is not None:
        plan = replace(plan, keeps_state=keeps_state(plan.network, plan.task.train.x[:2]))
    if plan.method == "batched":
        return train_batched(plan, members, members_at_once=members_at_once, checkpoint=checkpoint, progress=progress)
    with one_thread(small), out_of_memory_as(NO_MEMORY_FOR_ONE):
        return train_loop(plan, members, checkpoint=checkpoint, progress=progress)


def _flat(plan: Plan, layout: Layout, parameters: dict[str, Tensor]) -> Tensor:
    """Weights (m, d): trained parameters beside the running statistics of the template, shared by all so far."""
    tensors = {name: parameter.detach().cpu() for name, parameter in parameters.items()}
    members = len(next(iter(tensors.values())))
    for name, statistic in running_statistics(plan.network).items():
        tensors[name] = statistic.detach().cpu().expand(members, *statistic.shape)
    return layout.flatten(tensors)


def _evaluate(zoo: Zoo, task: Task, split: str, members_at_once: int) -> Evaluation:
    """Loss and score (m,) of every member on one split, so many members at a time; on the CPU."""
    losses, scores = [], []
    for weights in zoo.weights.split(members_at_once):
        evaluation = evaluate(Zoo(weights, zoo.layout, zoo.network), task, split)
        losses.append(evaluation.loss)
        scores.append(evaluation.score)
    return Evaluation(split, torch.cat(losses).cpu(), torch.cat(scores).cpu())


def _notes(
    plan: Plan, members: range, finite: Tensor, evaluations: list[Evaluation], history: Tensor
) -> list[dict[str, Any]]:
    """What the record says of each member, as :func:`dwflow_lite.zoo.join_record` takes it.

    Args:
        plan: whose members they are.
        members: m neighbours.
        finite: (m,), whether its weights, losses and scores are.
        evaluations: one for each split.
        history: mean training losses (epochs, m).
    """
    scores = {evaluation.split: rounded(evaluation.score, 6) for evaluation in evaluations}
    losses = {evaluation.split: rounded(evaluation.loss, 6) for evaluation in evaluations}
    notes = []
    for place, member in enumerate(members):
        origin = plan.origin(member)
        if not finite[place]:
            origin["diverged"] = True
        notes.append(
            {
                "members": origin,
                "scores": {split: values[place] for split, values in scores.items()},
                "losses": {split: values[place] for split, values in losses.items()},
                "train_loss": rounded(history[:, place], 5),
                "held_out": member >= plan.fitted,
            }
        )
    return notes


def rounded(values: Iterable[float] | Tensor, digits: int) -> list[float | None]:
    """Numbers to so many digits for the record; None for NaN and infinity, which JSON does not have.

    Example:
        >>> rounded([1.23456, float("nan"), 1e-9], 3)
        [1.23, None, 1e-09]
    """
    numbers = []
    for value in values:
        number = float(value)
        numbers.append(float(f"{number:.{digits}g}") if np.isfinite(number) else None)
    return numbers
