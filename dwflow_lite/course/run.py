"""Run the notebooks in order under a profile, and keep whatever came out whole."""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import nbformat

from . import lessons as ls
from .execute import Watch, execute, records
from .pages import PageError, check_formulas, index_page, link_pages, notebook_page
from .paths import notebooks_folder, repository, write_atomic
from .report import Progress, place, read_report, spent, surroundings, table, write_reports

CELL_TIMEOUT = 900.0
NOTEBOOK_TIMEOUT = 1800.0


def run(
    out: Path | str = "build",
    profile: str = ls.DEFAULT_PROFILE,
    notebooks: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    *,
    source: Path | str | None = None,
    force: bool = False,
    cell_timeout: float = CELL_TIMEOUT,
    notebook_timeout: float = NOTEBOOK_TIMEOUT,
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
        stream: for progress and the closing table; standard output if None.

    Returns 0 if all selected passed, 1 if any failed or was blocked, 130 if interrupted.
    Raises lessons.UsageError, before anything runs, for what cannot be meant.
    """
    source = Path(source) if source is not None else notebooks_folder()
    every = ls.discover(source)
    chosen = ls.select(every, notebooks)
    given = ls.read_profile(source / "profiles.yaml", profile, every)
    for lesson in chosen:
        given[lesson.stem] = {**given.get(lesson.stem, {}), **ls.fit(lesson, parameters or {}, "-p")}
    if cell_timeout <= 0 or notebook_timeout <= 0:
        raise ls.UsageError("timeouts are seconds above 0")
    if importlib.util.find_spec("ipykernel") is None:
        raise ls.UsageError("no Jupyter kernel in this Python: install the project ('make course' does) or ipykernel")
    with _locked(Path(out).absolute()) as folder:
        course = _Course(folder, profile, every, chosen, given, stream or sys.stdout)
        return course.go(force, cell_timeout, notebook_timeout)


@contextmanager
def _locked(out: Path) -> Iterator[Path]:
    """`out`, made, with an empty hidden folder `.partial`; UsageError if another run is using it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise ls.UsageError(f"cannot write into {out}: {error.strerror}") from None
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such lock on this system: go on without
            pass
        except OSError:
            raise ls.UsageError(f"another run is using {out}; give this one its own --out") from None
        shutil.rmtree(out / ".partial", ignore_errors=True)
        try:
            yield out
        finally:
            shutil.rmtree(out / ".partial", ignore_errors=True)


class _Course:
    """One run over the chosen lessons; `entries` is the report's list, by stem."""

    def __init__(
        self,
        out: Path,
        profile: str,
        every: list[ls.Lesson],
        chosen: list[ls.Lesson],
        given: Mapping[str, Mapping[str, Any]],
        stream: TextIO,
    ) -> None:
        self.out, self.profile, self.every, self.chosen, self.given = out, profile, every, chosen, given
        self.prints = ls.fingerprints(every, given, ls.code_digest())
        self.watch: Watch | None = None
        self.interrupted = False
        self.begun = time.monotonic()
        before = read_report(out)
        old = {e.get("stem"): e for e in before.get("notebooks", ())}
        self.entries = {x.stem: self._known(x, old.get(x.stem)) for x in every}
        timed = {
            s: e["minutes"] for s, e in old.items() if e.get("profile") == profile and e.get("minutes") is not None
        }
        stated = {x.stem: x.minutes[profile] for x in every if profile in x.minutes}
        self.progress = Progress(stream, {**stated, **timed})
        self.facts = {**surroundings(repository()), "device": "cpu"}

    def _blank(self, lesson: ls.Lesson, status: str) -> dict[str, Any]:
        resolved = {**lesson.defaults, **self.given.get(lesson.stem, {})}
        return {
            "stem": lesson.stem,
            "title": lesson.title,
            "status": status,
            "stale": False,
            "profile": self.profile,
            "parameters": resolved,
            "seed": resolved.get("seed"),
            "fingerprint": self.prints[lesson.stem],
            "date": _now(),
        }

    def _known(self, lesson: ls.Lesson, old: dict[str, Any] | None) -> dict[str, Any]:
        """What is known of a notebook beforehand: its kept result, else its last failure, else pending."""
        entry = self._kept(lesson)
        if entry is None and old and old.get("status") in ("failed", "blocked"):
            entry = dict(old)
        if entry is None:
            return self._blank(lesson, "pending")
        entry["stale"] = entry.get("fingerprint") != self.prints[lesson.stem]
        return entry

    def _kept(self, lesson: ls.Lesson) -> dict[str, Any] | None:
        try:
            nb = json.loads((self.out / "executed" / f"{lesson.stem}.ipynb").read_text(encoding="utf-8"))
            entry = nb["metadata"]["dwflow_run"]
            entry["metrics"], entry["claims"], _ = records(nb["cells"])  # in the author's order
            return entry if entry["status"] == "passed" and entry["stem"] == lesson.stem else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def go(self, force: bool, cell_timeout: float, notebook_timeout: float) -> int:
        """Run, and return the exit code."""
        valid = {x.stem: not force and self._reuse(x) for x in self.chosen}
        for lesson in self.chosen:
            if not valid[lesson.stem]:
                self.entries[lesson.stem] = self._blank(lesson, "pending")
        with self._signals():
            for i, lesson in enumerate(self.chosen):
                if self.interrupted:
                    break
                later = [x.stem for x in self.chosen[i + 1 :] if not valid[x.stem]]
                head = f"[{i + 1}/{len(self.chosen)}] {lesson.stem}"
                self._one(lesson, head, later, valid[lesson.stem], cell_timeout, notebook_timeout)
                self._write("running")
        statuses = {self.entries[x.stem]["status"] for x in self.chosen}
        if self.interrupted:
            status, code = "interrupted", 130
        else:
            status, code = ("passed", 0) if statuses <= {"passed", "cached"} else ("failed", 1)
        link_pages(self.out / "pages", {x.stem: x.title for x in self.every})
        self._write(status)
        self._say(status)
        return code

    def _one(
        self,
        lesson: ls.Lesson,
        head: str,
        later: list[str],
        valid: bool,
        cell_timeout: float,
        notebook_timeout: float,
    ) -> None:
        entry = self.entries[lesson.stem]
        mine = {x.stem for x in self.chosen}
        bad = [n for n in lesson.needs if n in mine and self.entries[n]["status"] in ("failed", "blocked")]
        if bad:
            self.entries[lesson.stem] = {**self._blank(lesson, "blocked"), "blocked_by": bad}
            self.progress.line(f"{head}  blocked: waits for {', '.join(bad)}")
            return
        if valid:
            entry["status"] = "cached"
            self.progress.line(f"{head}  cached")
            return
        self.progress.line(head) if not self.progress.live else None
        self.progress.begin()
        partial = self.out / ".partial" / lesson.stem
        try:
            nb = self._attempt(lesson, entry, partial, head, later, cell_timeout, notebook_timeout)
            self._publish(lesson, entry, nb)
        finally:
            self.watch = None
            shutil.rmtree(partial, ignore_errors=True)
        cost = f"{spent(entry['minutes'])}, {entry['peak_mb']:.0f} MB" if "minutes" in entry else ""
        self.progress.line(f"{head}  {entry['status']}  {cost}".rstrip())

    def _attempt(
        self,
        lesson: ls.Lesson,
        entry: dict[str, Any],
        partial: Path,
        head: str,
        later: list[str],
        cell_timeout: float,
        notebook_timeout: float,
    ) -> nbformat.NotebookNode:
        """Execute into `partial`, fill `entry`, return the notebook as far as it got."""
        nb = nbformat.read(lesson.path, as_version=4)
        try:
            check_formulas(nb)
        except PageError as error:
            entry.update(status="failed", error=_page_error(error))
            return nb
        total = len(nb.cells)
        shift = 1 if self.given.get(lesson.stem) else 0  # papermill adds the cell with our parameters
        names = _headings(nb)

        def tick(cell: int | None, elapsed: float) -> None:
            at = min(max((cell or 0) - shift, 0), total - 1)
            said = "sweeping the widgets" if (cell or 0) >= total + shift else f"cell {at + 1}/{total}  {names[at]}"
            self.progress.tick(head, said, elapsed, lesson.stem, later)

        self.watch = Watch(notebook_timeout, tick)
        if self.interrupted:
            self.watch.reason = "interrupted"
        env = {"DWFLOW_ARTEFACTS": str(self.out / "artefacts")}
        nb, found = execute(lesson, self.given.get(lesson.stem, {}), partial, self.watch, env, cell_timeout)
        kernel = found.pop("kernel")
        entry.update(found, minutes=round(found.pop("seconds") / 60, 3), date=_now())
        entry["widgets"] = {k: kernel.get(k, 0) for k in ("controls", "values")}
        entry.pop("seconds", None)
        entry["status"] = "failed" if entry["error"] else "passed"
        if self.watch.reason == "interrupted":
            self.interrupted = True
            entry.update(status="interrupted", error=None)
        for name in ("device", "threads"):
            if name in kernel:
                self.facts[name] = entry[name] = entry["metrics"].get(name, kernel[name])
        return nb

    def _publish(self, lesson: ls.Lesson, entry: dict[str, Any], nb: nbformat.NotebookNode) -> None:
        """Move results to where they are found: the executed copy comes last and marks the page as whole."""
        paths = {k: self.out / k / f"{lesson.stem}.ipynb" for k in ("executed", "failed")}
        page = self.out / "pages" / f"{lesson.stem}.html"
        if entry["status"] == "passed":
            try:
                write_atomic(page, notebook_page(nb, entry, lesson.path.parent))
            except PageError as error:
                entry.update(status="failed", error=_page_error(error))
        if entry["status"] == "interrupted":
            return
        nb.metadata["dwflow_run"] = entry
        if entry["status"] == "passed":
            write_atomic(paths["executed"], nbformat.writes(nb))
            paths["failed"].unlink(missing_ok=True)
            return
        error = entry["error"]
        said = f"**This run failed, {place(error)}:** `{error['ename']}`\n\n```\n{error['evalue']}\n```"
        nb.cells.insert(0, nbformat.v4.new_markdown_cell(said, metadata={"tags": ["dwflow-failure"]}))
        write_atomic(paths["failed"], nbformat.writes(nbformat.v4.upgrade(nb)))
        paths["executed"].unlink(missing_ok=True)
        page.unlink(missing_ok=True)

    def _reuse(self, lesson: ls.Lesson) -> bool:
        """Whether the kept result still stands; makes its page again if that is gone."""
        entry = self._kept(lesson)
        if entry is None or entry["fingerprint"] != self.prints[lesson.stem]:
            return False
        page = self.out / "pages" / f"{lesson.stem}.html"
        if not page.exists():
            nb = nbformat.read(self.out / "executed" / f"{lesson.stem}.ipynb", as_version=4)
            try:
                write_atomic(page, notebook_page(nb, entry, lesson.path.parent))
            except PageError:  # then it is run again, and fails aloud
                return False
        return True

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the kernel and let the report be written; a second one is final."""

        def stop(number: int, frame: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
            if self.watch is not None:
                self.watch.kill("interrupted")

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _write(self, status: str) -> None:
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
        write_reports(self.out, report)
        pages = [x.stem for x in self.every if (self.out / "pages" / f"{x.stem}.html").exists()]
        write_atomic(self.out / "index.html", index_page(report, pages))

    def _say(self, status: str) -> None:
        say, shown = self.progress.line, os.path.relpath(self.out)
        say("\n" + table([self.entries[x.stem] for x in self.chosen]))
        for lesson in self.chosen:
            if error := self.entries[lesson.stem].get("error"):
                say(f"\n{lesson.stem}, {place(error)}: {error['ename']}: {error['evalue']}")
                if error["source"]:
                    say("".join(f"    {line}\n" for line in error["source"].splitlines()).rstrip())
                say(f"  as far as it got: {shown}/failed/{lesson.stem}.ipynb")
        say(f"\n{status}: read {shown}/index.html or {shown}/report.md")


def _headings(nb: nbformat.NotebookNode) -> list[str]:
    """For every cell the heading it stands under."""
    names, last = [], ""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            lines = [line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")]
            last = lines[-1] if lines else last
        names.append(last)
    return names


def _page_error(error: PageError) -> dict[str, Any]:
    where = {"cell": None, "id": None, "heading": None, "source": None}
    return {**where, "ename": "PageError", "evalue": str(error), "traceback": ""}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
