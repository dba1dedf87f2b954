"""What a run says: one live line while it works, then report.json and report.md."""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from dwflow_lite import __version__
from dwflow_lite.course.claims import margins, shown
from dwflow_lite.course.notebook import VERDICT
from dwflow_lite.course.sweep import machine

PACKAGES = "torch torchvision numpy scipy matplotlib scikit-learn papermill ipykernel ipywidgets nbconvert"


class Progress:
    """One line that renews itself on a terminal; elsewhere a plain line now and then.

    Args:
        stream: where to.
        expected: stem -> minutes it should take, for those known.
        every: seconds between plain lines within one notebook.
    """

    def __init__(self, stream: TextIO, expected: Mapping[str, float], every: float = 60.0) -> None:
        self.stream = stream
        self.expected = expected
        self.every = every
        self.live = bool(getattr(stream, "isatty", lambda: False)())
        self._head = ""
        self._last = time.monotonic()
        self._minutes: list[float | None] = []  # of the notebook that runs, and of those to come

    def line(self, text: str) -> None:
        """A line that stays."""
        self.stream.write(("\r\x1b[K" if self.live else "") + text + "\n")
        self.stream.flush()

    def begin(self, head: str, stems: Sequence[str]) -> None:
        """The first of `stems`, named by `head`, starts; the others come later."""
        self._head = head
        self._last = time.monotonic()
        self._minutes = [self.expected.get(stem) for stem in stems]
        if not self.live:
            self.line(head)

    def tick(self, label: str, elapsed: float) -> None:
        """The live line: what is running, and seconds so far. Without a terminal the next is due after `every`."""
        if not self.live and time.monotonic() - self._last < self.every:
            return
        self._last = time.monotonic()
        minutes, seconds = divmod(int(elapsed), 60)
        text = f"{self._head}  {label}  {minutes}:{seconds:02d}{self._left(elapsed / 60)}"
        if self.live:
            self.stream.write("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])
            self.stream.flush()
        else:
            self.line("  " + text)

    def _left(self, minutes: float) -> str:
        """How long it will take, if all that is to come is known; `minutes` are those spent on this notebook."""
        if not self._minutes or None in self._minutes:
            return ""
        this, *others = self._minutes
        left = max(0.0, this - minutes) + sum(others)
        return f", about {max(1, round(left))} min left"


def spent(minutes: float) -> str:
    """Minutes as a reader wants them: seconds below one minute."""
    return f"{minutes:.1f} min" if minutes >= 1 else f"{minutes * 60:.0f} s"


def cost(entry: Mapping[str, Any]) -> str:
    """Time and peak memory of a notebook; empty if it did not run."""
    return "" if entry["minutes"] is None else f"{spent(entry['minutes'])}, {entry['peak_mb']:.0f} MB"


def complaint(entry: Mapping[str, Any]) -> str:
    """Why a notebook did not pass: cell and error, or what it waits for; empty if there is nothing to say."""
    if entry["blocked_by"]:
        return "waits for " + ", ".join(entry["blocked_by"])
    error = entry["error"]
    if not error:
        return ""
    reason = f"{error['ename']}: {error['evalue']}"
    if not error["cell"]:
        return reason
    heading = f" («{error['heading']}»)" if error["heading"] else ""
    return f"cell {error['cell']}{heading}: {reason}"


def surroundings(repository: Path) -> dict[str, Any]:
    """Versions, platform and commit of this run."""
    installed = {distribution.name: distribution.version for distribution in metadata.distributions()}
    versions = {"python": platform.python_version(), "dwflow_lite": __version__}
    versions |= {name: installed.get(name, "not installed") for name in PACKAGES.split()}
    try:
        git = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
        commit = subprocess.run(git, cwd=repository, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = ""
    return {"versions": versions, "platform": platform.platform(), "commit": commit, **machine()}


def markdown(report: Mapping[str, Any]) -> str:
    """The report to read: a table of all notebooks, then what each measured, claims, or complains of."""
    lines = [
        f"# Course run: {report['status']}\n",
        f"Profile {report['profile']}, {spent(report['minutes'])}, {report['date']}, {report['device']}, "
        f"{report['threads']} threads, {report['platform']}, commit {report['commit'] or 'unknown'}.\n",
        "| notebook | status | | time, memory at most | seed | title |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_table_row(entry) for entry in report["notebooks"]]
    for entry in report["notebooks"]:
        lines += _section(entry)
    lines.append("\n## Versions\n")
    lines += [f"- {name} {version}" for name, version in report["versions"].items()]
    return "\n".join(lines) + "\n"


def _table_row(entry: Mapping[str, Any]) -> str:
    title = f"[{entry['title']}](pages/{entry['stem']}.html)" if "page" in entry else entry["title"]
    stale = "stale" if entry["stale"] else ""
    seed = "" if entry["seed"] is None else entry["seed"]
    return f"| {entry['stem']} | {entry['status']} | {stale} | {cost(entry)} | {seed} | {title} |"


def _section(entry: Mapping[str, Any]) -> list[str]:
    """What one notebook measured, claims, or complains of."""
    parameters = ", ".join(f"{name}={value!r}" for name, value in entry["parameters"].items()) or "none"
    lines = [
        f"\n## {entry['stem']}: {entry['title']}\n",
        f"Profile {entry['profile']}, {entry['status']}.",
        f"Parameters: {parameters}.",
    ]
    if entry["repeated"]:
        lines.append(f"Run twice: {entry['repeated']}.")
    lines.append("")
    lines += [f"- {name}: {shown(value)}" for name, value in entry["metrics"].items()]
    for text, holds in entry["claims"].items():
        lines.append(f"- {VERDICT[holds]}: {text}{margins(entry['margins'], text)}")
    reason = complaint(entry)
    if reason:
        trace = entry["error"]["traceback"] if entry["error"] else ""
        lines += ["\n```", reason, trace, "```"]
    return lines
