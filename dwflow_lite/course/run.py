"""Run the notebooks in order under a profile, and keep whatever came out whole."""

from __future__ import annotations

import datetime
import fcntl
import importlib.util
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import nbformat

from . import lessons as ls
from .execute import Fault, Watch, execute, problem, records
from .pages import NAVIGATION, index_page, link_pages, notebook_page
from .paths import notebooks_folder, repository, write_atomic
from .report import Progress, complaint, cost, markdown, surroundings

NOT_RUN = {"stale": False, "minutes": None, "peak_mb": None, "error": None, "metrics": {}, "claims": {}, "margins": {}}


def run(
    out: Path | str = "build",
    profile: str = ls.DEFAULT_PROFILE,
    notebooks: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    *,
    source: Path | str | None = None,
    force: bool = False,
    cell_timeout: float = 900.0,
    notebook_timeout: float = 1800.0,
    stream: TextIO | None = None,
) -> int:
    """Run the selected notebooks and write executed copies, pages and reports into `out`.

    Args:
        profile: a key of profiles.yaml in the source folder; 'laptop' is the notebooks' own defaults.
        notebooks: numbers or stems; all if empty.
        parameters: name -> value for every selected notebook, over the profile.
        source: folder of the notebooks; the repository's if None.
        force: run also what has a valid result already.
        cell_timeout, notebook_timeout: seconds.
        stream: for progress and complaints; standard output if None.

    Returns 0 if all selected passed, 1 if any failed or was blocked or the report could not be written,
    130 if interrupted. Raises lessons.UsageError, before anything runs, for what cannot be meant.
    """
    if not str(out).strip():
        raise ls.UsageError("--out names no folder")
    if not all(0 < seconds < math.inf for seconds in (cell_timeout, notebook_timeout)):
        raise ls.UsageError("timeouts are seconds above 0, and finite")
    if importlib.util.find_spec("ipykernel") is None:
        raise ls.UsageError("no Jupyter kernel in this Python: install the project ('make course' does) or ipykernel")
    source = Path(source) if source is not None else notebooks_folder()
    every = ls.discover(source)
    chosen = ls.select(every, notebooks)
    given = {x.stem: {} for x in every} | ls.read_profile(source / "profiles.yaml", profile, every)
    for lesson in chosen:
        given[lesson.stem] = given[lesson.stem] | ls.fit(lesson, parameters or {}, "-p")
    out, stream = Path(out).absolute(), stream or sys.stdout
    with _lock(out):
        return _Course(out, profile, every, chosen, given, cell_timeout, notebook_timeout, stream).go(force)


def _lock(out: Path) -> TextIO:
    """Make `out`; UsageError if it or a folder in it cannot be written into, or another run holds the lock."""
    folder = out
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
        for folder in (out, out / "executed", out / "failed", out / "pages"):
            if folder.exists():
                tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ls.UsageError(f"cannot write into {folder}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ls.UsageError(f"another run is using {out}; give this one its own --out") from None
    shutil.rmtree(out / ".partial", ignore_errors=True)
    return lock


@dataclass
class _Course:
    """One run over the chosen lessons; `entries` is the report's list, by stem."""

    out: Path
    profile: str
    every: list[ls.Lesson]
    chosen: list[ls.Lesson]
    given: Mapping[str, Mapping[str, Any]]
    cell_timeout: float
    notebook_timeout: float
    stream: TextIO

    def __post_init__(self) -> None:
        self.begun = time.monotonic()
        self.watch: Watch | None = None
        self.interrupted = False
        self.unwritten = ""  # why the report could not be written
        self.facts = surroundings(repository())
        self.prints = ls.fingerprints(self.every, self.given, ls.code_digest())
        self.entries = {x.stem: self._kept(x) for x in self.every}
        stated = {x.stem: x.minutes[self.profile] for x in self.every if self.profile in x.minutes}
        known = {s: e["minutes"] for s, e in self.entries.items() if e["minutes"] and e["profile"] == self.profile}
        self.progress = Progress(self.stream, stated | known)

    def _file(self, kind: str, lesson: ls.Lesson) -> Path:
        return self.out / kind / f"{lesson.stem}.{'html' if kind == 'pages' else 'ipynb'}"

    def _blank(self, lesson: ls.Lesson, status: str = "pending") -> dict[str, Any]:
        parameters = {**lesson.defaults, **self.given[lesson.stem]}
        return {
            "stem": lesson.stem,
            "title": lesson.title,
            "status": status,
            "profile": self.profile,
            "parameters": parameters,
            "seed": parameters.get("seed"),
            "fingerprint": self.prints[lesson.stem],
            "date": _now(),
            "blocked_by": [],
            **NOT_RUN,
        }

    def _kept(self, lesson: ls.Lesson) -> dict[str, Any]:
        """The entry of an earlier run whose files are untouched (a page that is not is made again), else a blank."""
        for kind, status in (("executed", "passed"), ("failed", "failed")):
            nb = unsealed(self._file(kind, lesson))
            entry = {**self._blank(lesson), **(nb.metadata.dwflow_run if nb else {})}
            if (entry["stem"], entry["status"]) != (lesson.stem, status):
                continue
            entry |= records(nb.cells).content()  # in the author's order
            entry["stale"] = entry["fingerprint"] != self.prints[lesson.stem]
            if status == "failed":
                return entry
            page = self._file("pages", lesson)
            with suppress(OSError, ValueError):  # a page that cannot be made: it is run again, and fails aloud
                old = page.read_text(encoding="utf-8", errors="replace") if page.exists() else ""
                if ls.digest(NAVIGATION.sub("", old)) != entry["page"]:
                    write_atomic(page, notebook_page(nb, entry, lesson.path.parent))
                if all(entry["claims"].values()):
                    return entry
        return self._blank(lesson)

    def go(self, force: bool) -> int:
        """Run, and return the exit code."""
        for lesson in self.chosen:
            kept = self.entries[lesson.stem]
            if force or kept["stale"] or kept["status"] != "passed":
                self.entries[lesson.stem] = self._blank(lesson)
            else:
                kept["status"] = "cached"
        main = threading.current_thread() is threading.main_thread()
        before = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM) if main}
        try:
            for number, lesson in enumerate(self.chosen, 1):
                if not self.interrupted:
                    self._one(number, lesson)
                    self._write("running")
        finally:
            for signaled, handler in before.items():
                signal.signal(signaled, handler)
        good = all(self.entries[x.stem]["status"] in ("passed", "cached") for x in self.chosen)
        status = "interrupted" if self.interrupted else "passed" if good else "failed"
        self._write(status)
        say, shown = self.progress.line, os.path.relpath(self.out)
        for entry in (self.entries[x.stem] for x in self.chosen):
            if entry["error"]:
                say(f"\n{entry['stem']}, {complaint(entry)}\n  as far as it got: {shown}/failed/{entry['stem']}.ipynb")
        say(f"\n{status}: " + (self.unwritten or f"read {shown}/index.html or {shown}/report.md"))
        return 130 if self.interrupted else int(not good or bool(self.unwritten))

    def _one(self, number: int, lesson: ls.Lesson) -> None:
        """Bring one lesson to its status: cached, blocked, passed, failed or interrupted."""
        status = {x.stem: self.entries[x.stem]["status"] for x in self.chosen}
        head = f"[{number}/{len(self.chosen)}] {lesson.stem}"
        if bad := [n for n in lesson.needs if status.get(n) in ("failed", "blocked")]:
            entry = self.entries[lesson.stem] = {**self._blank(lesson, "blocked"), "blocked_by": bad}
            self.progress.line(f"{head}  blocked: {complaint(entry)}")
        elif status[lesson.stem] == "cached":
            self.progress.line(f"{head}  cached")
        else:
            self.progress.begin(head, [n for n in status if status[n] == "pending"])
            self._run(lesson, entry := self.entries[lesson.stem])
            self.progress.line(f"{head}  {entry['status']}  {cost(entry)}".rstrip())

    def _run(self, lesson: ls.Lesson, entry: dict[str, Any]) -> None:
        """Execute, judge and publish. What cannot be shown or written is a failure of this notebook only."""
        partial = self.out / ".partial"
        nb = nbformat.v4.new_notebook()
        try:
            nb = nbformat.read(lesson.path, as_version=4)
            notebook_page(nb, entry, lesson.path.parent)  # what cannot be shown fails before it costs time
            self.watch = Watch(self.notebook_timeout, self.progress.tick)
            if self.interrupted:
                self.watch.reason = "interrupted"
            artefacts, given = self.out / "artefacts", self.given[lesson.stem]
            nb, found = execute(lesson, given, partial, self.watch, artefacts, self.cell_timeout)
            entry.update(found, date=_now())
            self.facts.update({k: entry[k] for k in ("device", "threads") if k in entry})
            self.interrupted |= entry["status"] == "interrupted"
            if entry["status"] == "passed":
                page = notebook_page(nb, entry, lesson.path.parent)
                entry["page"] = ls.digest(NAVIGATION.sub("", page))
                write_atomic(self._file("pages", lesson), page)
                write_atomic(self._file("executed", lesson), sealed(nb, entry))  # last: it vouches for the page
        except (OSError, ValueError) as error:  # no page, no room to write
            entry.pop("page", None)
            entry.update(status="failed", error=problem(Fault(None, type(error).__name__, str(error))))
        finally:
            self.watch = None
            shutil.rmtree(partial, ignore_errors=True)
        for kind in {"passed": ["failed"], "failed": ["executed", "pages"]}.get(entry["status"], ()):
            with suppress(OSError):
                self._file(kind, lesson).unlink(missing_ok=True)
        if entry["status"] == "failed":
            said = f"**This run failed.**\n\n```\n{complaint(entry)}\n```"
            nb.cells.insert(0, nbformat.v4.new_markdown_cell(said))
            with suppress(OSError):
                write_atomic(self._file("failed", lesson), sealed(nbformat.v4.upgrade(nb), entry))

    def _stop(self, number: int, frame: Any) -> None:
        """Ctrl-C and SIGTERM end the kernel and let the report be written; a second one is final."""
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        if self.watch is not None:
            self.watch.kill("interrupted")

    def _write(self, status: str) -> None:
        """Write the report, the index and the links between pages; `unwritten` says what was in the way."""
        titles = {x.stem: x.title for x in self.every if "page" in self.entries[x.stem]}
        report = {
            "schema": 1,
            "status": status,
            "profile": self.profile,
            "selected": [x.stem for x in self.chosen],
            "date": _now(),
            "minutes": round((time.monotonic() - self.begun) / 60, 3),
            **self.facts,
            "notebooks": [self.entries[x.stem] for x in self.every],
        }
        try:
            data = json.dumps(report, indent=1, ensure_ascii=False, default=repr)
            write_atomic(self.out / "report.json", data + "\n")
            write_atomic(self.out / "report.md", markdown(report))
            write_atomic(self.out / "index.html", index_page(markdown(report)))
            link_pages(self.out / "pages", titles)
            self.unwritten = ""
        except (OSError, ValueError) as error:
            self.unwritten = f"error: the report could not be written: {error}"


def sealed(nb: nbformat.NotebookNode, entry: Mapping[str, Any]) -> str:
    """The notebook as text, with its entry of the report and a digest of all this in the metadata."""
    nb.metadata["dwflow_run"] = {**entry, "seal": ""}
    text = nbformat.writes(nb)
    return text.replace('"seal": ""', f'"seal": "{ls.digest(text)}"')


def unsealed(path: Path) -> nbformat.NotebookNode | None:
    """The notebook at `path` if it is exactly what `sealed` made, else None."""
    try:
        text = path.read_text(encoding="utf-8")
        seal = json.loads(text)["metadata"]["dwflow_run"]["seal"]
        whole = ls.digest(text.replace(f'"seal": "{seal}"', '"seal": ""')) == seal
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return nbformat.reads(text, as_version=4) if whole else None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
