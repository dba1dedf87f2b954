"""Runs that take long, kept one by one in a JSON file: what it holds is not run again."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import torch

from dwflow_lite.support.paths import written_whole

Runs = dict[str, dict]

ZOOS = Path("build/artefacts")  # where zoos are kept, for all who ask about the same one


def run_missing(
    out: Path, command: str, jobs: Mapping[str, Callable[[], dict]], page: Callable[[Runs], str] | None = None
) -> None:  # fmt: skip
    """Run the jobs that a file does not hold, and write it after each of them.

    Several processes may share a file, each with jobs of its own: what another has added meanwhile is kept. (It is not
    locked: two that end within the same moment may lose a run, which is then missing and run again.)

    Args:
        out: the JSON file, which holds ``runs``: what each job gave, by its name; with command, date and machine.
        command: that the file names.
        jobs: name -> what is run.
        page: writes all runs as Markdown, beside the file.
    """
    for name, job in jobs.items():
        if name in _stored(out)["runs"]:
            continue
        found = job()
        stored = _stored(out)  # read again: another process may have added to it meanwhile
        stored["runs"][name] = found
        stored |= {"command": command, "date": date.today().isoformat()}
        stored |= {"machine": {"cpu": platform.machine(), "torch": torch.__version__}}
        out.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(out) as partial:
            partial.write_text(json.dumps(stored, indent=1) + "\n")
        if page is not None:
            out.with_suffix(".md").write_text(page(stored["runs"]))


def _stored(out: Path) -> dict:
    """What the file holds."""
    return json.loads(out.read_text()) if out.exists() else {"runs": {}}
