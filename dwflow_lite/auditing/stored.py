"""Audits that a benchmark has left in a file of results."""

from __future__ import annotations

import json
from pathlib import Path

from dwflow_lite.auditing.rows import Row
from dwflow_lite.auditing.table import Audit


def stored_audits(path: Path, *, split: str, score_name: str = "accuracy") -> dict[str, Audit]:
    """The audits of a result file, averaged over its seeds.

    Args:
        path: JSON that holds, under ``"by seed"``, for each seed and each kind of zoo the ``"rows"`` of an audit.
        split: where its scores were measured.
        score_name: what they are.

    Returns:
        Kind of zoo, such as ``"aligned"`` -> its audit.

    Raises:
        ValueError: a file without audits.
    """
    runs = list(json.loads(path.read_text(encoding="utf-8")).get("by seed", {}).values())
    kinds = [kind for kind, found in runs[0].items() if isinstance(found, dict) and "rows" in found] if runs else []
    if not kinds:
        raise ValueError(f"{path.name} holds no audits by seed: run the benchmark that writes it again")
    audits = {}
    for kind in kinds:
        each = [Audit(tuple(Row(**row) for row in run[kind]["rows"]), score_name, split) for run in runs]
        audits[kind] = Audit.mean(each)
    return audits
