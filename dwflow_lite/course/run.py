"""Run the notebooks in order under a profile, and keep whatever came out whole."""

from __future__ import annotations

import datetime
import importlib.util
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import filelock
import nbformat

from dwflow_lite.course import lessons
from dwflow_lite.course.execute import execute
from dwflow_lite.course.lessons import DEFAULT_PROFILE, Lesson, UsageError
from dwflow_lite.course.pages import checked_body
from dwflow_lite.course.paths import notebooks_folder, repository, sweep_drafts
from dwflow_lite.course.player import embed, making
from dwflow_lite.course.reading import NotebookError, read_notebook
from dwflow_lite.course.report import Progress, complaint, cost, surroundings
from dwflow_lite.course.results import Results
from dwflow_lite.course.site.home import HOME_TITLE
from dwflow_lite.course.verdict import Fault, problem
from dwflow_lite.course.watch import Watch


def run(  # noqa: PLR0913 - the options of the command line
    out: Path | str = "build",
    profile: str = DEFAULT_PROFILE,
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
        out: folder of the results; made if it is not there.
        profile: a key of profiles.yaml in the source folder; 'laptop' is the notebooks' own defaults.
        notebooks: numbers or stems; all if empty.
        parameters: name -> value for every selected notebook, over the profile.
        source: folder of the notebooks; the repository's if None.
        force: run also what has a valid result already.
        cell_timeout: seconds that one cell may take.
        notebook_timeout: seconds that one notebook may take.
        stream: for progress and complaints; standard output if None.

    Returns 0 if all selected passed, 1 if any failed or was blocked or the report could not be written,
    130 if interrupted. Raises lessons.UsageError, before anything runs, for what cannot be meant.
    """
    if not str(out).strip():
        raise UsageError("--out names no folder")
    if not all(0 < seconds < math.inf for seconds in (cell_timeout, notebook_timeout)):
        raise UsageError("timeouts are seconds above 0, and finite")
    if importlib.util.find_spec("ipykernel") is None:
        raise UsageError("no Jupyter kernel in this Python: install the project ('make course' does) or ipykernel")
    source = Path(source) if source is not None else notebooks_folder()
    plan = _plan(source, profile, notebooks, parameters or {})
    out = Path(out).absolute()
    with _locked(out):
        course = Course(out, plan, Limits(cell_timeout, notebook_timeout), stream or sys.stdout)
        return course.run(force)


class Plan(NamedTuple):
    """What to run: all lessons there are, those chosen, and the parameters that differ from the defaults by stem."""

    profile: str
    lessons: list[Lesson]
    chosen: list[Lesson]
    parameters: Mapping[str, Mapping[str, Any]]


class Limits(NamedTuple):
    """Seconds that a cell and a notebook may take."""

    cell: float
    notebook: float


def _plan(source: Path, profile: str, notebooks: Sequence[str], parameters: Mapping[str, Any]) -> Plan:
    """Read the notebooks and the profile; UsageError for a selection or a parameter that does not fit them."""
    available = lessons.discover(source)
    chosen = lessons.select(available, notebooks)
    by_stem: dict[str, dict[str, Any]] = {lesson.stem: {} for lesson in available}
    by_stem |= lessons.read_profile(source / "profiles.yaml", profile, available)
    for lesson in chosen:
        by_stem[lesson.stem] = by_stem[lesson.stem] | lessons.fit_lesson(lesson, parameters, "-p")
    return Plan(profile, available, chosen, by_stem)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Make `out` and hold its lock; UsageError if it cannot be written into, or another run holds the lock."""
    folder = out
    try:
        lock = filelock.FileLock(out / ".lock", timeout=0)
        out.mkdir(parents=True, exist_ok=True)
        for folder in (out, out / "executed", out / "failed", out / "pages"):
            if folder.exists():
                tempfile.TemporaryFile(dir=folder).close()
        folder = out
        _check_that_it_is_ours(out)
        lock.acquire()
    except filelock.Timeout:  # which is an OSError too
        raise UsageError(f"another run is using {out}; give this one its own --out") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UsageError(f"cannot write into {folder}: {getattr(error, 'strerror', error)}") from None
    try:
        _sweep(out)
        yield
    finally:
        lock.release()


def _check_that_it_is_ours(out: Path) -> None:
    """UsageError for a folder with an index or a report that no run has written there: it would be lost."""
    marks = {"index.html": f"<title>{HOME_TITLE}</title>", "report.md": "# Course run: "}
    if (out / ".lock").exists():
        return
    for name, mark in marks.items():
        path = out / name
        if path.is_file() and mark not in path.read_text(encoding="utf-8", errors="replace"):
            raise UsageError(f"{path} is not of a run of the course: give this one a folder of its own by --out")


def _sweep(out: Path) -> None:
    """Delete what runs that were killed have left half-done in the folder, whose lock is held."""
    shutil.rmtree(out / ".partial", ignore_errors=True)
    for kind in ("executed", "failed", "pages"):
        for path in (out / kind).glob("*.new"):
            path.unlink(missing_ok=True)
        sweep_drafts(out / kind)
    sweep_drafts(out)
    shared = out / "artefacts"  # notebooks opened in Jupyter may be writing there: what is theirs is left alone
    for folder in (shared, *(path for path in shared.glob("*/") if path.is_dir())):
        sweep_drafts(folder)


class Course:
    """One run over the chosen lessons.

    `entries` holds what the report says of every lesson, by stem: a dictionary, since it goes into report.json and
    into the metadata of the executed notebook as it is.
    """

    def __init__(self, out: Path, plan: Plan, limits: Limits, stream: TextIO) -> None:
        self.out = out
        self.plan = plan
        self.limits = limits
        self.begun = time.monotonic()
        self.watch: Watch | None = None  # beside the notebook that runs
        self.interrupted = False
        self.unwritten = ""  # why the report could not be written
        self.without_player = ""  # why the player could not be made
        self.results = Results(out)
        self.surroundings = surroundings(repository())
        self.fingerprints = lessons.fingerprints(plan.lessons, plan.parameters, lessons.code_digest())
        self.entries = {lesson.stem: self.results.earlier(lesson, self._blank(lesson)) for lesson in plan.lessons}
        self.progress = Progress(stream, self._expected_minutes())

    def _expected_minutes(self) -> dict[str, float]:
        """Stem -> minutes: what an earlier run took under this profile, else what the notebook states."""
        minutes: dict[str, float] = {}
        for lesson in self.plan.lessons:
            entry = self.entries[lesson.stem]
            if entry["minutes"] and entry["profile"] == self.plan.profile:
                minutes[lesson.stem] = entry["minutes"]
            elif self.plan.profile in lesson.minutes:
                minutes[lesson.stem] = lesson.minutes[self.plan.profile]
        return minutes

    def _blank(self, lesson: Lesson, status: str = "pending") -> dict[str, Any]:
        """The entry of a lesson that has not run."""
        parameters = {**lesson.defaults, **self.plan.parameters[lesson.stem]}
        return {
            "stem": lesson.stem,
            "title": lesson.title,
            "status": status,
            "profile": self.plan.profile,
            "parameters": parameters,
            "seed": parameters.get("seed"),
            "fingerprint": self.fingerprints[lesson.stem],
            "date": _now(),
            "blocked_by": [],
            "stale": False,
            "minutes": None,
            "peak_mb": None,
            "error": None,
            "attempts": 0,
            "repeated": None,
            "cut": [],  # what its cells showed beyond what is kept
            "kept": None,  # date of the earlier run whose good result stays, though this one failed
            "metrics": {},
            "claims": {},
            "margins": {},
        }

    def run(self, force: bool) -> int:
        """Run what has no valid result, or everything by `force`; returns the exit code."""
        self._choose_what_runs(force)
        with self._stoppable():
            for number, lesson in enumerate(self.plan.chosen, 1):
                if not self.interrupted:
                    self._run_lesson(number, lesson)
                    self._write_report("running")
            self._make_player()
        good = all(self._status(lesson) in ("passed", "cached") for lesson in self.plan.chosen)
        good = good and not self.without_player
        status = "interrupted" if self.interrupted else "passed" if good else "failed"
        self._write_report(status)
        if self.unwritten and status == "passed":
            status = "failed"
            self._write_report(status)  # what can be written says the same
        self._say_how_it_ended(status)
        return {"passed": 0, "failed": 1, "interrupted": 130}[status]

    def _status(self, lesson: Lesson) -> str:
        return self.entries[lesson.stem]["status"]

    def _choose_what_runs(self, force: bool) -> None:
        """Mark the chosen lessons whose earlier results hold as cached, and forget the others' results."""
        for lesson in self.plan.chosen:
            entry = self.entries[lesson.stem]
            if force or entry["stale"] or entry["status"] != "passed":
                self.entries[lesson.stem] = self._blank(lesson)
            else:
                entry["status"] = "cached"

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the kernel and let the report be written; a second one is final."""

        def stop(number: int, frame: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
            if self.watch is not None:
                self.watch.kill("interrupted")

        handlers = {}
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _run_lesson(self, number: int, lesson: Lesson) -> None:
        """Bring one lesson to its status: cached, blocked, passed, failed or interrupted."""
        head = f"[{number}/{len(self.plan.chosen)}] {lesson.stem}"
        statuses = {other.stem: self._status(other) for other in self.plan.chosen}
        blocked_by = [stem for stem in lesson.needs if statuses.get(stem) in ("failed", "blocked")]
        if blocked_by:
            entry = self._blank(lesson, "blocked")
            entry["blocked_by"] = blocked_by
            self.entries[lesson.stem] = entry
            self.progress.line(f"{head}  blocked: {complaint(entry)}")
            return
        if statuses[lesson.stem] == "cached":
            self.progress.line(f"{head}  cached")
            return
        pending = [stem for stem, status in statuses.items() if status == "pending"]
        self.progress.begin(head, pending)
        entry = self.entries[lesson.stem]
        self._execute_and_publish(lesson, entry)
        self.progress.line(f"{head}  {entry['status']}  {cost(entry)}".rstrip())

    def _execute_and_publish(self, lesson: Lesson, entry: dict[str, Any]) -> None:
        """Run the notebook and write its files. Whatever goes wrong here is a failure of this notebook only."""
        nb = nbformat.v4.new_notebook()
        try:
            nb = read_notebook(lesson.path)
            if lesson.fault:
                raise NotebookError(lesson.fault)
            checked_body(nb, entry, lesson.path.parent)  # what cannot be shown fails before it costs time
            nb, findings = execute(
                lesson,
                self.plan.parameters[lesson.stem],
                folder=self.out / ".partial",
                artefacts=self.out / "artefacts",
                cell_timeout=self.limits.cell,
                start_watch=self._start_watch,
                say=lambda sentence: self.progress.line(f"  {sentence}"),
            )
            entry.update(findings, date=_now(), versions=self.surroundings["versions"])
            for sentence in entry["cut"]:
                self.progress.line(f"  {sentence}")
            self.surroundings |= {name: entry[name] for name in ("device", "threads") if name in entry}
            if entry["status"] == "interrupted":
                self.interrupted = True
            if entry["status"] == "passed":
                self.results.publish(lesson, nb, entry)
        except Exception as error:
            entry.pop("page", None)
            expected = isinstance(error, OSError | ValueError)  # no room to write, nothing a page can show
            fault = Fault(None, type(error).__name__, str(error), "" if expected else traceback.format_exc())
            entry.update(status="failed", error=problem(fault))
        finally:
            self.watch = None
            shutil.rmtree(self.out / ".partial", ignore_errors=True)
        if entry["status"] == "failed":
            self.results.publish_failure(lesson, nb, entry, complaint(entry))

    def _make_player(self) -> None:
        """Make the player, if a notebook that it stands in was chosen and passed."""
        shown_in = [one for one in self.plan.chosen if one.stem in embed.PLACES]
        if self.interrupted or not any(self._status(lesson) in ("passed", "cached") for lesson in shown_in):
            return
        self.progress.line(f"{embed.FILE}, the player")
        trouble = making.make(self.out / embed.FILE, self.plan.profile, lambda: self.interrupted)
        if not self.interrupted:
            self.without_player = trouble

    def _start_watch(self) -> Watch:
        self.watch = Watch(self.limits.notebook, self.progress.tick)
        if self.interrupted:  # meanwhile: the kernel ends as it starts
            self.watch.reason = "interrupted"
        return self.watch

    def _write_report(self, status: str) -> None:
        """Write the report and the site; `unwritten` says what was in the way."""
        report = {
            "schema": 1,
            "status": status,
            "profile": self.plan.profile,
            "selected": [lesson.stem for lesson in self.plan.chosen],
            "date": _now(),
            "minutes": round((time.monotonic() - self.begun) / 60, 3),
            **self.surroundings,
            "notebooks": [self.entries[lesson.stem] for lesson in self.plan.lessons],
        }
        self.unwritten = self.results.publish_report(report, self.plan.lessons)

    def _say_how_it_ended(self, status: str) -> None:
        """The complaints of the chosen notebooks, and where to read on."""
        folder = _shortest(self.out)
        for lesson in self.plan.chosen:
            entry = self.entries[lesson.stem]
            if entry["error"]:
                self.progress.line(f"\n{lesson.stem}, {complaint(entry)}")
                if self.results.path("failed", lesson).exists():
                    self.progress.line(f"  as far as it got: {folder}/failed/{lesson.stem}.ipynb")
                if entry["kept"]:
                    self.progress.line(f"  what passed on {entry['kept'][:10]} is kept")
        if self.without_player:
            self.progress.line(f"\nerror: {embed.FILE} could not be made: {self.without_player}")
        ending = self.unwritten or f"read {folder}/index.html or {folder}/report.md"
        self.progress.line(f"\n{status}: {ending}")


def _shortest(folder: Path) -> str:
    """The folder as seen from where we are, if there is such a way."""
    try:
        return os.path.relpath(folder)
    except (OSError, ValueError):  # where we are is gone; another drive
        return str(folder)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
