"""What a run says: one live line while it works, then a table, report.json and report.md."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from .. import __version__
from .notebook import shown
from .paths import write_atomic

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
        self._last = 0.0

    def line(self, text: str) -> None:
        """A line that stays."""
        self.stream.write(("\r\x1b[K" if self.live else "") + text + "\n")
        self.stream.flush()

    def begin(self) -> None:
        """A new notebook: the next plain line is due after `every` seconds."""
        self._last = time.monotonic()

    def tick(self, head: str, cell: str, elapsed: float, stem: str, later: Sequence[str]) -> None:
        """The live line: `head` names the notebook, `elapsed` seconds so far, `later` the stems to come."""
        if not self.live and time.monotonic() - self._last < self.every:
            return
        self._last = time.monotonic()
        text = f"{head}  {cell}  {clock(elapsed)}{self._left(elapsed, stem, later)}"
        if self.live:
            self.stream.write("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])
            self.stream.flush()
        else:
            self.line("  " + text)

    def _left(self, elapsed: float, stem: str, later: Sequence[str]) -> str:
        if any(s not in self.expected for s in (stem, *later)):
            return ""
        left = max(0.0, self.expected[stem] - elapsed / 60) + sum(self.expected[s] for s in later)
        return f", about {max(1, round(left))} min left"


def clock(seconds: float) -> str:
    """Seconds as m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def spent(minutes: float) -> str:
    """Minutes as a reader wants them: seconds below one minute."""
    return f"{minutes:.1f} min" if minutes >= 1 else f"{minutes * 60:.0f} s"


def surroundings(repository: Path) -> dict[str, Any]:
    """Versions, platform and commit of this run."""
    versions = {"python": platform.python_version(), "dwflow_lite": __version__}
    for name in PACKAGES.split():
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    commit = _git(repository, "rev-parse", "HEAD")
    if commit and _git(repository, "status", "--porcelain"):
        commit += " with changes"
    return {
        "versions": versions,
        "platform": platform.platform(),
        "commit": commit,
        "threads": os.cpu_count(),
    }


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def read_report(out: Path) -> dict[str, Any]:
    """The report of an earlier run in this folder; empty if there is none that can be read."""
    try:
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        return report if isinstance(report.get("notebooks"), list) else {}
    except (OSError, ValueError, AttributeError):
        return {}


def write_reports(out: Path, report: Mapping[str, Any]) -> None:
    """Write report.json and report.md, each whole or not at all."""
    write_atomic(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False, default=repr) + "\n")
    write_atomic(out / "report.md", _markdown(report))


def place(error: Mapping[str, Any]) -> str:
    """Where an error arose, in words."""
    if error.get("cell") is None:
        return "after the last cell" if error.get("source") is None else "parameters of this run"
    return f"cell {error['cell']}" + (f" («{error['heading']}»)" if error.get("heading") else "")


def headline(entry: Mapping[str, Any]) -> str:
    """The one thing to say of a notebook: its error, what blocks it, or its first metrics."""
    if error := entry.get("error"):
        return f"{place(error)}: {error['ename']}: {error['evalue']}".replace("\n", " ")[:110]
    if entry.get("blocked_by"):
        return "waits for " + ", ".join(entry["blocked_by"])
    return ", ".join(f"{k} {shown(v)}" for k, v in list(entry.get("metrics", {}).items())[:3])


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """The closing table on the terminal."""
    rows = [("notebook", "status", "time", "MB", "")]
    for e in entries:
        cost = (spent(e["minutes"]), f"{e['peak_mb']:.0f}") if e.get("minutes") is not None else ("", "")
        rows.append((e["stem"], e["status"] + (" (stale)" if e.get("stale") else ""), *cost, headline(e)))
    wide = [max(len(r[i]) for r in rows) for i in range(4)]
    lines = []
    for r in rows:
        line = f"{r[0]:<{wide[0]}}  {r[1]:<{wide[1]}}  {r[2]:>{wide[2]}}  {r[3]:>{wide[3]}}  {r[4]}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _markdown(report: Mapping[str, Any]) -> str:
    lines = [
        f"# Course run: {report['status']}",
        "",
        f"Profile {report['profile']}, {spent(report['minutes'])}, {report['date']}, {report['device']}, "
        f"{report['threads']} threads, {report['platform']}, commit {report['commit'] or 'unknown'}.",
        "",
        "| notebook | status | time | MB at most | seed |",
        "|---|---|---|---|---|",
    ]
    for e in report["notebooks"]:
        cost = f"{spent(e['minutes'])} | {e['peak_mb']:.0f}" if e.get("minutes") is not None else " | "
        seed = "" if e.get("seed") is None else e["seed"]
        lines.append(f"| {e['stem']} | {e['status']}{', stale' if e.get('stale') else ''} | {cost} | {seed} |")
    for e in report["notebooks"]:
        lines += [
            "",
            f"## {e['stem']}: {e['title']}",
            "",
            f"Profile {e.get('profile') or 'none yet'}, {e['status']}.",
        ]
        if e.get("parameters"):
            lines.append("Parameters: " + ", ".join(f"{k}={v!r}" for k, v in e["parameters"].items()) + ".")
        if slow := e.get("slowest"):
            lines.append("Slowest: " + ", ".join(f"cell {s['cell']} {s['seconds']:.1f} s" for s in slow) + ".")
        lines += [""] + [f"- {k}: {shown(v)}" for k, v in e.get("metrics", {}).items()]
        lines += [f"- {'✓' if holds else '✗'} {text}" for text, holds in e.get("claims", {}).items()]
        if error := e.get("error"):
            lines += ["", f"**{place(error)}: {error['ename']}: {error['evalue']}**", ""]
            lines += ["```", *(error["traceback"] or error["source"] or "").splitlines(), "```"]
        elif e.get("blocked_by"):
            lines.append(f"Waits for {', '.join(e['blocked_by'])}.")
    lines += ["", "## Versions", ""] + [f"- {k} {v}" for k, v in report["versions"].items()]
    return "\n".join(lines) + "\n"
