"""One basin or another: the straight line from a network to its nearest member, and how far the score falls on it."""

from __future__ import annotations

import torch
from torch import Tensor

from dwflow_lite.auditing.measures import in_range, nearest_member
from dwflow_lite.auditing.streams import Rows
from dwflow_lite.batchnorm import norms_with_statistics
from dwflow_lite.symmetry.barrier import linear_barrier
from dwflow_lite.symmetry.many import match_all, permute_all
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.zoo import Zoo

POINTS = 9  # networks on a line, both ends included


def barrier_to_nearest(  # noqa: PLR0913 - one caller
    networks: Zoo,
    members: Zoo,
    task: Task,
    split: str,
    spec: PermutationSpec | None,
    *,
    at_once: int,
    skip_self: bool = False,
    seed: int = 0,
) -> Tensor:
    """How far the score falls between a network and its nearest member: below the line between their two scores.

    Each member is the nearest as weights stand; its units are permuted to agree with the network first, so that what is
    found is no matter of their order (arXiv 2209.04836, def. 2.2). Scales stay as they are. BatchNorm's running
    statistics are measured afresh for every network on the line, on the calibration split: interpolated ones fit none.

    Args:
        networks: (n, d).
        members: (N, d), in the same basis.
        task, split: where the score is measured.
        spec: which units may be permuted; None: members stay as they stand.
        at_once: how many networks may be held at a time.
        skip_self: for members beside each other.
        seed: of the matching.

    Returns:
        The fall of each (n,), in units of the score, on the CPU: never below zero.
    """
    rows, others = Rows(networks.weights, at_once), Rows(members.weights, at_once)
    nearest = nearest_member(rows, others, skip_self=skip_self).tolist()
    has_statistics = bool(norms_with_statistics(networks.network))
    step = max(1, at_once // POINTS)
    falls = []
    for start in range(0, len(nearest), step):
        positions = range(start, min(start + step, len(nearest)))
        starts = rows[positions]  # (m, d)
        ends = others[nearest[start : start + step]].to(starts)  # (m, d)
        if spec is not None:
            ends = matched_each(starts, ends, spec, seed)
        both = Zoo(torch.cat([starts, ends]), networks.layout, networks.network)
        pairs = [(pair, len(positions) + pair) for pair in range(len(positions))]
        curve = linear_barrier(both, pairs, task, split=split, points=POINTS, repaired=has_statistics)
        falls.append((curve.repaired or curve).score_barrier)
    return torch.cat(falls)


def matched_each(networks: Tensor, members: Tensor, spec: PermutationSpec, seed: int = 0) -> Tensor:
    """Members (m, d), the units of each permuted to agree with the network (m, d) of the same position."""
    rows = []
    for network, member in zip(networks.split(1), members.split(1), strict=True):
        network_in_range, member_in_range, _ = in_range(network, member)  # (1, d) each
        matchings = match_all(network_in_range[0], member_in_range, spec, restarts=0, seed=seed)
        rows.append(permute_all(matchings, spec, member))
    return torch.cat(rows)
