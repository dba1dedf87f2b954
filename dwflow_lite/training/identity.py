"""What tells one zoo from all others, and what its record says of all members."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dwflow_lite.batchnorm import norms_with_statistics, statistics_stage
from dwflow_lite.networks import architecture_of, behaviour_of
from dwflow_lite.networks.constants import keys_of
from dwflow_lite.support.versions import versions
from dwflow_lite.tasks.task import Task
from dwflow_lite.training.plan import SCORED_SPLITS, Plan
from dwflow_lite.training.starting import digest_of
from dwflow_lite.zoo.layout import Layout


def identity_of(plan: Plan) -> dict[str, Any]:
    """Everything that decides which zoo it is. Its hash names the files of all versions: nothing may change here.

    What is as it was without ``start`` and ``scored`` adds nothing.
    """
    task, network = plan.task, plan.network
    behaviour = [behaviour_of(network, task.input_shape, training) for training in (False, True)]
    frozen = {name: parameter for name, parameter in network.named_parameters() if not parameter.requires_grad}
    values: dict[str, Any] = {"frozen_values": keys_of(frozen)} if frozen else {}
    if plan.given is not None:
        values["start"] = digest_of(plan.given)
    if plan.scored != SCORED_SPLITS:
        values["scored"] = list(plan.scored)
    return values | {
        "architecture": architecture_of(network),
        "layout": Layout.of(network).to_json(),
        "recipe": plan.recipe.to_json(),
        "seed": plan.seed,
        "behaviour": behaviour,
        "buffers": [repr(buffer.tolist()) for buffer in network.buffers()],
        "frozen": list(frozen),
        "task": {"name": task.name, "kind": task.kind, "seed": task.seed, "fingerprint": task.fingerprint},
        "sizes": {"members": plan.fitted, "held_out": plan.total - plan.fitted},
    }


def common_record(plan: Plan, facts: Mapping[str, Any], identity: str) -> dict[str, Any]:
    """What the record says of all members: of the facts that decide which zoo it is, and of their hash."""
    stages = []
    if norms_with_statistics(plan.network):
        stages.append(statistics_stage("train", len(plan.task.train)))
    start = {"start": facts["start"]} if "start" in facts else {}
    return start | {
        "identity": identity,
        "architecture": facts["architecture"],
        "behaviour": {"input": list(plan.task.input_shape), "outputs": facts["behaviour"][0]},
        "task": facts["task"] | _score_and_scale(plan.task),
        "recipe": facts["recipe"],
        "seed": plan.seed,
        "method": plan.method,
        "versions": versions(),
        "stages": stages,
    }


def _score_and_scale(task: Task) -> dict[str, Any]:
    """What a record says of a task beside its identity: its score, if it is not accuracy, and its scale."""
    score = {} if task.score_name == "accuracy" else {"score": task.score_name}
    return score | task.preparation.to_json()
