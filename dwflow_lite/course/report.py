"""What a run says: one live line while it works, then report.json and report.md."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from dwflow_lite import __version__
from dwflow_lite.course.claims import margins, shown
from dwflow_lite.course.notebook import VERDICT
from dwflow_lite.course.sweep import machine

PACKAGES = "torch torchvision numpy scipy matplotlib scikit-learn papermill ipykernel ipywidgets nbconvert"


def say(stream: TextIO | None, text: str) -> None:
    """Write at once. A stream that is closed, full, or cannot show a letter is no reason to end the course."""
    if stream is None:
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        with suppress(Exception):
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    except Exception:
        return
    with suppress(Exception):
        stream.flush()


class Progress:
    """One line that renews itself on a terminal; elsewhere a plain line now and then.

    Args:
        stream: where to; None, as where standard output is closed, for nowhere.
        expected: stem -> minutes it should take, for those known.
        every: seconds between plain lines within one notebook.
    """

    def __init__(self, stream: TextIO | None, expected: Mapping[str, float], every: float = 60.0) -> None:
        self.stream = stream
        self.expected = expected
        self.every = every
        self.live = bool(getattr(stream, "isatty", lambda: False)())
        self._head = ""
        self._last = time.monotonic()
        self._minutes: list[float | None] = []  # of the notebook that runs, and of those to come

    def line(self, text: str) -> None:
        """A line that stays."""
        say(self.stream, ("\r\x1b[K" if self.live else "") + text + "\n")

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
            say(self.stream, "\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])
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
    versions = {"python": platform.python_version(), "dwflow_lite": __version__}
    versions |= {name: _version(name) for name in PACKAGES.split()}
    try:
        git = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
        commit = subprocess.run(git, cwd=repository, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = ""
    return {"versions": versions, "platform": platform.platform(), "commit": commit, **machine()}


def _version(package: str) -> str:
    """Which version of a package is installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


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
    title = re.sub(r"([|\[\]])", r"\\\1", _plain(entry["title"]))  # they would end the cell, or the link
    name = f"[{entry['stem']}](pages/{entry['stem']}.html)" if "page" in entry else entry["stem"]
    stale = "stale" if entry["stale"] else ""
    seed = "" if entry["seed"] is None else _plain(entry["seed"]).replace("|", "\\|")
    return f"| {name} | {entry['status']} | {stale} | {cost(entry)} | {seed} | {title} |"


def _plain(text: Any) -> str:
    """Text on one line, in which no HTML begins."""
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", " ".join(str(text).splitlines()))


def _section(entry: Mapping[str, Any]) -> list[str]:
    """What one notebook measured, claims, or complains of."""
    parameters = ", ".join(f"{name}={value!r}" for name, value in entry["parameters"].items()) or "none"
    lines = [
        f"\n## {entry['stem']}: {_plain(entry['title'])}\n",
        f"Profile {entry['profile']}, {entry['status']}.",
        f"Parameters: {_plain(parameters)}.",
    ]
    if entry["repeated"]:
        lines.append(f"Run twice: {_plain(entry['repeated'])}.")
    lines += [f"Cut: {sentence}." for sentence in entry["cut"]]
    if entry["kept"]:
        lines.append(f"What passed on {entry['kept'][:10]} is kept in executed/ and pages/.")
    lines.append("")
    lines += [f"- {_plain(name)}: {_plain(shown(value))}" for name, value in entry["metrics"].items()]
    for text, holds in entry["claims"].items():
        lines.append(f"- {VERDICT[holds]}: {_plain(text)}{margins(entry['margins'], text)}")
    reason = complaint(entry)
    if reason:
        trace = entry["error"]["traceback"] if entry["error"] else ""
        fence = _fence(reason + trace)
        lines += [f"\n{fence}", reason, trace, fence]
    return lines


def _fence(text: str) -> str:
    """Backticks that begin and end a block of code, more than stand together inside it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)
