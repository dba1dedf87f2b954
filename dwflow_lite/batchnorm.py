"""Running statistics of BatchNorm: measured on data that trains or calibrates, never on data that judges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from math import ceil
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # BatchNorm, SyncBatchNorm and InstanceNorm

from dwflow_lite.networks.constants import template_on
from dwflow_lite.support.checks import is_whole, whole
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.batching import run_all, runs_batched
from dwflow_lite.zoo.forward import together
from dwflow_lite.zoo.zoo import Zoo

BATCH = 256  # examples
STATISTICS = "recalibrate"  # name of the stage


def norms_with_statistics(network: nn.Module) -> dict[str, _NormBase]:
    """The norms of PyTorch, by name, that keep a running mean and variance: BatchNorm, and InstanceNorm if told to."""
    norms = {}
    for name, module in network.named_modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            norms[name] = module
    return norms


def without_statistics(network: nn.Module) -> nn.Module:
    """A copy that normalises by the batch and keeps no statistics: what trains, one or many at once."""
    network = deepcopy(network)
    for norm in norms_with_statistics(network).values():
        norm.track_running_stats = False
        norm.running_mean = None
        norm.running_var = None
        norm.num_batches_tracked = None
    return network


@torch.no_grad()
def measure_statistics(network: nn.Module, state: Mapping[str, Tensor], batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """Running statistics of N networks, measured afresh as the mean over batches.

    Nothing is trained, and no label is needed.

    Args:
        network: template module; not changed.
        state: tensors (N, *shape) of N networks, by name; not changed.
        batches: inputs, each (n, ...), that all N networks see.

    Returns:
        Copies of the tensors; the running statistics among them are the measured ones. (What else a network writes to
        its tensors is there too.)
    """
    network = deepcopy(network).eval()
    state = {name: tensor.clone() for name, tensor in state.items()}
    norms = norms_with_statistics(network)
    for name, norm in norms.items():
        norm.train()  # BatchNorm alone: it normalises by the batch, and remembers
        mean = state[f"{name}.running_mean"]  # (N, channels)
        state[f"{name}.num_batches_tracked"] = torch.zeros(len(mean), dtype=torch.long, device=mean.device)
    at_once = runs_batched(network, state, batches[0][:2])
    for i, batch in enumerate(batches):
        for norm in norms.values():
            norm.momentum = 1 / (i + 1)  # the first batch replaces what was there, later ones join
        run_all(network, state, batch, at_once)  # statistics are written to the state
    return state


@torch.no_grad()
def recalibrate(
    zoo: Zoo,
    task: Task,
    split: Literal["calibration", "train"] = "calibration",
    *,
    batch_size: int = BATCH,
    members_at_once: int | None = None,
    folder: str | Path | None = None,
) -> Zoo:
    """Measure the running statistics of every member afresh, as the mean over batches of one split.

    Generated or averaged networks need it: their statistics fit no network (arXiv 2601.05052, algorithm 1, whose
    released code reads test images for it; arXiv 2211.08403). This takes a task and not data, and from the task only
    the splits that may be seen.

    Args:
        zoo: of networks with BatchNorm; others come back with the same weights.
        task: gives the images.
        split: ``"calibration"`` or ``"train"``.
        batch_size: examples a batch.
        members_at_once: bounds memory, not the result; None: :func:`dwflow_lite.zoo.together`.
        folder: where the result is written, member after member; needed for a zoo on disk.

    Returns:
        The zoo with these statistics, on its device; what was measured is the last stage of its record.

    Raises:
        ValueError: another split, or batches of one example.
        MemoryError: too many members at once, or too large batches.
    """
    if split not in ("calibration", "train"):
        raise ValueError(f"statistics are measured on 'calibration' or 'train', never on {split!r}")
    inputs = task.split(split).inputs(zoo.weights)  # (n, ...)
    if len(inputs) < 2 or not is_whole(batch_size, 2):
        raise ValueError("statistics need batches of at least two examples")
    batch_size = int(batch_size)
    members_at_once = whole(together(zoo.layout) if members_at_once is None else members_at_once, "members_at_once", 1)
    stage = statistics_stage(split, len(inputs), batch_size)
    if not norms_with_statistics(zoo.network):
        return zoo.with_weights(zoo.weights, stage, keep_scores=True, folder=folder)
    batches = inputs.tensor_split(ceil(len(inputs) / batch_size))  # of nearly equal size: none is left with one example
    parts = _measured(zoo, batches, members_at_once)
    return zoo.with_weights(parts, stage, folder=folder)


def _measured(zoo: Zoo, batches: Sequence[Tensor], members_at_once: int) -> Iterator[Tensor]:
    """The weights of a zoo with statistics measured on these batches, some members (m, d) at a time."""
    network = template_on(zoo.network, zoo.weights.device, zoo.weights.dtype)
    message = (
        f"no memory for {members_at_once} members with {len(batches[0])} examples at once: pass a smaller "
        "members_at_once or batch_size"
    )
    for weights in zoo.weights.split(members_at_once):  # (m, d)
        with out_of_memory_as(message):
            state = zoo.layout.unflatten(weights)
            measured = measure_statistics(network, state, batches)
            statistics = {name: measured[name] for name in state if zoo.layout[name].role == "buffer"}
            part = zoo.layout.flatten({**state, **statistics})
        yield part


def statistics_stage(split: str, examples: int, batch_size: int = BATCH) -> dict[str, Any]:
    """What the record of a zoo says of its statistics."""
    return {"stage": STATISTICS, "split": split, "examples": examples, "batch_size": batch_size}
