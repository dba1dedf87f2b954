"""Runs that take long, kept one by one in a JSON file: what it holds is not run again."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import torch

Runs = dict[str, dict]

ZOOS = Path("build/artefacts")  # where zoos are kept, for all who ask about the same one


def run_missing(
    out: Path, command: str, jobs: Mapping[str, Callable[[], dict]], page: Callable[[Runs], str] | None = None
) -> None:  # fmt: skip
    """Run the jobs that a file does not hold, and write it after each of them.

    Args:
        out: the JSON file, which holds ``runs``: what each job gave, by its name; with command, date and machine.
        command: that the file names.
        jobs: name -> what is run.
        page: writes all runs as Markdown, beside the file.
    """
    stored = json.loads(out.read_text()) if out.exists() else {"runs": {}}
    for name, job in jobs.items():
        if name in stored["runs"]:
            continue
        stored["runs"][name] = job()
        stored |= {"command": command, "date": date.today().isoformat()}
        stored |= {"machine": {"cpu": platform.machine(), "torch": torch.__version__}}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(stored, indent=1) + "\n")
        if page is not None:
            out.with_suffix(".md").write_text(page(stored["runs"]))
