"""Twelve digits that stand for a task: equal where networks would be trained and scored alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from dwflow_lite.tasks.measures import SCORES
from dwflow_lite.tasks.scaling import Scale
from dwflow_lite.tasks.splits import SPLITS, Split


def fingerprint_of(
    kind: str, metric: str, outputs: int, splits: Mapping[str, Split], targets: Scale | None
) -> str:  # fmt: skip
    """Twelve hexadecimal digits of what a task is made of.

    Zoos on disk name them, so that whatever is as it was in version 0.1.0 adds nothing. Names (of the task, of its
    classes) are in none: they change no network.

    Args:
        kind: of the task.
        metric: its score.
        outputs: number of classes or targets.
        splits: split name -> examples as the networks see them.
        targets: how targets were standardised; None: not.
    """
    default = SCORES[kind][0]
    digest = hashlib.sha256((kind + ("" if metric == default else metric)).encode())
    for name in SPLITS:
        for values in (splits[name].x, splits[name].y):
            digest.update(np.ascontiguousarray(values.cpu().numpy()).tobytes())
    if kind == "classification" and outputs != 1 + max(int(splits[name].y.max()) for name in SPLITS):
        digest.update(f"outputs {outputs}".encode())
    if targets is not None:
        digest.update(targets.mean.tobytes() + targets.std.tobytes())
    return digest.hexdigest()[:12]
