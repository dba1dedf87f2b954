"""The files that a run leaves for a notebook, and how a later run knows them again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from dwflow_lite.course.lessons import Lesson, digest
from dwflow_lite.course.outputs import records
from dwflow_lite.course.pages import NAVIGATION, link_pages, notebook_page
from dwflow_lite.course.paths import json_text, write_atomic
from dwflow_lite.course.player.embed import MARK
from dwflow_lite.course.report import markdown
from dwflow_lite.course.site.frame import LOOK_DIGEST
from dwflow_lite.course.site.writing import writings
from dwflow_lite.support.replacing import replace

KEY = "dwflow_run"  # in the metadata of an executed notebook: its entry of the report, and the seal


def sealed(nb: nbformat.NotebookNode, entry: Mapping[str, Any]) -> str:
    """The notebook as text, with its entry of the report, and a digest of all this, in the metadata.

    The seal is for readers who open an executed notebook in Jupyter and run cells: Jupyter saves it with the entry
    of the runner, and without the seal those outputs would pass for a result of the runner.
    """
    nb.metadata[KEY] = dict(entry)
    content = json.loads(json_text(json.loads(nbformat.writes(nb))))  # without NaN, as it will be read
    content["metadata"][KEY].pop("seal", None)  # of an earlier file, if the entry comes from one
    content["metadata"][KEY]["seal"] = digest(content)
    return json_text(content)


def unsealed(path: Path) -> nbformat.NotebookNode | None:
    """The notebook at `path` if it is exactly what `sealed` made, else None."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        seal = content["metadata"][KEY].pop("seal")
        if seal != digest(content):
            return None
        return nbformat.reads(json.dumps(content), as_version=4)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def page_digest(page: str) -> str:
    """Digest of a page without its links to other pages and the player, which change as those come and go."""
    return digest(MARK.sub("", NAVIGATION.sub("", page)))


@dataclass(frozen=True)
class Results:
    """The folder of a course run.

    `executed` and `pages` hold of every notebook the last run that passed, `failed` the last that failed, if that was
    later. A result goes only when another is whole.
    """

    folder: Path

    def path(self, kind: str, lesson: Lesson) -> Path:
        """Where the result of this kind lies: executed, failed or pages."""
        suffix = "html" if kind == "pages" else "ipynb"
        return self.folder / kind / f"{lesson.stem}.{suffix}"

    def remove(self, kind: str, lesson: Lesson) -> None:
        """Delete the result of this kind, if it is there."""
        with suppress(OSError):
            self.path(kind, lesson).unlink(missing_ok=True)

    def publish(self, lesson: Lesson, nb: nbformat.NotebookNode, entry: dict[str, Any]) -> None:
        """Write page and notebook of a passed run. Raises OSError, and PageError for what no page can show."""
        page = notebook_page(nb, entry, lesson.path.parent)
        entry["page"] = page_digest(page)
        texts = {self.path("pages", lesson): page, self.path("executed", lesson): sealed(nb, entry)}
        new = {path: path.with_suffix(".new") for path in texts}
        try:
            for path, text in texts.items():
                if path.is_dir():
                    raise IsADirectoryError(f"cannot write {path}: it is a folder")
                write_atomic(new[path], text)
            for path in texts:  # both are on the disk: now they take the place of the earlier ones
                replace(new[path], path)
        finally:
            for path in new.values():
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        self.remove("failed", lesson)

    def publish_failure(self, lesson: Lesson, nb: nbformat.NotebookNode, entry: dict[str, Any], reason: str) -> None:
        """Write the notebook of a failed run as far as it got; a good earlier result stays, any other goes."""
        earlier = self._passed(lesson)
        if earlier is None:
            self.remove("executed", lesson)
            self.remove("pages", lesson)
        else:
            entry["kept"] = earlier.metadata[KEY].get("date")
        complaint = f"**This run failed.**\n\n```\n{reason}\n```"
        nb.cells.insert(0, nbformat.v4.new_markdown_cell(complaint))
        with suppress(Exception):  # the report holds the reason, whatever becomes of the copy
            write_atomic(self.path("failed", lesson), sealed(nbformat.v4.upgrade(nb), entry))

    def _passed(self, lesson: Lesson) -> nbformat.NotebookNode | None:
        """The notebook of an earlier run that passed, if it is as that run wrote it."""
        nb = unsealed(self.path("executed", lesson))
        if nb is None or nb.metadata[KEY].get("stem") != lesson.stem or nb.metadata[KEY].get("status") != "passed":
            return None
        recorded = records(nb.cells)
        return nb if recorded.malformed is None and all(recorded.claims.values()) else None

    def _failed(self, lesson: Lesson) -> nbformat.NotebookNode | None:
        """The notebook of an earlier run that failed, if it is as that run wrote it."""
        nb = unsealed(self.path("failed", lesson))
        if nb is None or nb.metadata[KEY].get("stem") != lesson.stem or nb.metadata[KEY].get("status") != "failed":
            return None
        return nb

    def earlier(self, lesson: Lesson, blank: Mapping[str, Any]) -> dict[str, Any]:
        """The entry that the last run left for this notebook, `blank` if none did.

        Files count only as they were written; a page that is gone or broken is made again. `blank` is the entry
        of a notebook that has not run; an earlier one is stale where its fingerprint differs.
        """
        passed = self._passed(lesson)
        failed = self._failed(lesson)
        if passed is not None and failed is not None:
            if str(passed.metadata[KEY].get("date")) > str(failed.metadata[KEY].get("date")):
                failed = None
        nb = failed or passed
        if nb is None:
            return dict(blank)
        entry = {**blank, **nb.metadata[KEY]}
        entry |= records(nb.cells).content()  # as the cells have them, in the author's order
        entry["stale"] = entry["fingerprint"] != blank["fingerprint"]
        if failed is None and not self._page_is_whole(lesson, nb, entry):
            return dict(blank)
        return entry

    def _page_is_whole(self, lesson: Lesson, nb: nbformat.NotebookNode, entry: dict[str, Any]) -> bool:
        """Whether the page is as it was written, with the look of today, or could be made again."""
        path = self.path("pages", lesson)
        try:
            page = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            if page_digest(page) != entry.get("page") or LOOK_DIGEST not in page:
                page = notebook_page(nb, entry, lesson.path.parent)
                write_atomic(path, page)
                entry["page"] = page_digest(page)
        except Exception:  # the notebook is run again, and fails aloud
            return False
        return True

    def publish_report(self, report: Mapping[str, Any], lessons: Sequence[Lesson]) -> str:
        """Write report.json, report.md, the links between pages and the site; one that fails keeps none from others.

        Args:
            report: all that report.json holds.
            lessons: all there are, in course order.

        Returns what could not be written first, in one sentence; empty if all could.
        """
        entries = {entry["stem"]: entry for entry in report["notebooks"]}
        titles = {lesson.stem: lesson.title for lesson in lessons if "page" in entries[lesson.stem]}
        parts = {
            "report.json": lambda: write_atomic(self.folder / "report.json", json_text(report)),
            "report.md": lambda: write_atomic(self.folder / "report.md", markdown(report)),
            "the links between pages": lambda: link_pages(self.folder / "pages", titles),
            **writings(self.folder, report, lessons),
        }
        troubles = []
        for name, write in parts.items():
            try:
                write()
            except Exception as error:  # the disk is full, a folder has the name
                troubles.append(f"error: the report could not be written: {error} ({name})")
        return troubles[0] if troubles else ""
