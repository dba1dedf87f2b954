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

from .. import __version__
from .claims import margins, shown
from .notebook import VERDICT
from .sweep import machine

PACKAGES = "torch torchvision numpy scipy matplotlib scikit-learn papermill ipykernel ipywidgets nbconvert"


class Progress:
    """One line that renews itself on a terminal; elsewhere a plain line now and then.

    Args:
        stream: where to.
        expected: stem -> minutes it should take, for those known.
        every: seconds between plain lines within one notebook.
    """

    def __init__(self, stream: TextIO, expected: Mapping[str, float], every: float = 60.0) -> None:
        self.stream, self.expected, self.every = stream, expected, every
        self.live = bool(getattr(stream, "isatty", lambda: False)())

    def line(self, text: str) -> None:
        """A line that stays."""
        self.stream.write(("\r\x1b[K" if self.live else "") + text + "\n")
        self.stream.flush()

    def begin(self, head: str, stems: Sequence[str]) -> None:
        """The first of `stems`, named by `head`, starts; the others come later."""
        self._head, self._last = head, time.monotonic()
        self._minutes = [self.expected.get(s) for s in stems]
        if not self.live:
            self.line(head)

    def tick(self, label: str, elapsed: float) -> None:
        """The live line: what is running, and seconds so far. Without a terminal the next is due after `every`."""
        if not self.live and time.monotonic() - self._last < self.every:
            return
        self._last = time.monotonic()
        text = f"{self._head}  {label}  {int(elapsed) // 60}:{int(elapsed) % 60:02d}"
        if None not in self._minutes:
            left = max(0.0, self._minutes[0] - elapsed / 60) + sum(self._minutes[1:])
            text += f", about {max(1, round(left))} min left"
        if self.live:
            self.stream.write("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])
            self.stream.flush()
        else:
            self.line("  " + text)


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
    place = f"cell {error['cell']}" if error["cell"] else ""
    place += f" («{error['heading']}»)" if error["heading"] else ""
    return f"{place}: {error['ename']}: {error['evalue']}".removeprefix(": ")


def surroundings(repository: Path) -> dict[str, Any]:
    """Versions, platform and commit of this run."""
    there = {d.name: d.version for d in metadata.distributions()}
    versions = {"python": platform.python_version(), "dwflow_lite": __version__}
    versions |= {name: there.get(name, "not installed") for name in PACKAGES.split()}
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
    for e in report["notebooks"]:
        page = f"[{e['title']}](pages/{e['stem']}.html)" if "page" in e else e["title"]
        stale, seed = "stale" if e["stale"] else "", "" if e["seed"] is None else e["seed"]
        lines.append(f"| {e['stem']} | {e['status']} | {stale} | {cost(e)} | {seed} | {page} |")
    for e in report["notebooks"]:
        parameters = ", ".join(f"{k}={v!r}" for k, v in e["parameters"].items()) or "none"
        lines += [f"\n## {e['stem']}: {e['title']}\n", f"Profile {e['profile']}, {e['status']}."]
        lines += [f"Parameters: {parameters}.\n", *(f"- {k}: {shown(v)}" for k, v in e["metrics"].items())]
        lines += [f"- {VERDICT[holds]}: {text}{margins(e['margins'], text)}" for text, holds in e["claims"].items()]
        if said := complaint(e):
            trace = [e["error"]["traceback"]] if e["error"] else []
            lines += ["\n```", said, *trace, "```"]
    lines += ["\n## Versions\n", *(f"- {k} {v}" for k, v in report["versions"].items())]
    return "\n".join(lines) + "\n"
