"""The files that a run leaves for a notebook, and how a later run knows them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from dwflow_lite.course.lessons import Lesson, digest
from dwflow_lite.course.outputs import records
from dwflow_lite.course.pages import NAVIGATION, notebook_page
from dwflow_lite.course.paths import write_atomic

KEY = "dwflow_run"  # in the metadata of an executed notebook: its entry of the report, and the seal


def sealed(nb: nbformat.NotebookNode, entry: Mapping[str, Any]) -> str:
    """The notebook as text, with its entry of the report, and a digest of all this, in the metadata.

    The seal is for readers who open an executed notebook in Jupyter and run cells: Jupyter saves it with the entry
    of the runner, and without the seal those outputs would pass for a result of the runner.
    """
    nb.metadata[KEY] = dict(entry)
    content = json.loads(nbformat.writes(nb))
    content["metadata"][KEY].pop("seal", None)  # of an earlier file, if the entry comes from one
    content["metadata"][KEY]["seal"] = digest(content)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


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
    """Digest of a page without its links to other pages, which change as those come and go."""
    return digest(NAVIGATION.sub("", page))


@dataclass(frozen=True)
class Results:
    """The folder of a course run: `executed` and `failed` notebooks, and `pages`."""

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
        write_atomic(self.path("pages", lesson), page)
        write_atomic(self.path("executed", lesson), sealed(nb, entry))  # last: it vouches for the page
        self.remove("failed", lesson)

    def publish_failure(self, lesson: Lesson, nb: nbformat.NotebookNode, entry: dict[str, Any], reason: str) -> None:
        """Write the notebook of a failed run as far as it got, and take away what an earlier one left."""
        self.remove("executed", lesson)
        self.remove("pages", lesson)
        complaint = f"**This run failed.**\n\n```\n{reason}\n```"
        nb.cells.insert(0, nbformat.v4.new_markdown_cell(complaint))
        with suppress(Exception):  # the report holds the reason, whatever becomes of the copy
            write_atomic(self.path("failed", lesson), sealed(nbformat.v4.upgrade(nb), entry))

    def earlier(self, lesson: Lesson, blank: Mapping[str, Any]) -> dict[str, Any]:
        """The entry that an earlier run left for this notebook, `blank` if none did.

        Files count only as they were written; a page that is gone or broken is made again. `blank` is the entry
        of a notebook that has not run; an earlier one is stale where its fingerprint differs.
        """
        for kind, status in (("executed", "passed"), ("failed", "failed")):
            nb = unsealed(self.path(kind, lesson))
            if nb is None:
                continue
            entry = {**blank, **nb.metadata[KEY]}
            if entry["stem"] != lesson.stem or entry["status"] != status:
                continue
            entry |= records(nb.cells).content()  # as the cells have them, in the author's order
            entry["stale"] = entry["fingerprint"] != blank["fingerprint"]
            if status == "failed":
                return entry
            if all(entry["claims"].values()) and self._page_is_whole(lesson, nb, entry):
                return entry
        return dict(blank)

    def _page_is_whole(self, lesson: Lesson, nb: nbformat.NotebookNode, entry: dict[str, Any]) -> bool:
        """Whether the page is as it was written, or could be made again."""
        path = self.path("pages", lesson)
        try:
            page = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            if page_digest(page) != entry.get("page"):
                write_atomic(path, notebook_page(nb, entry, lesson.path.parent))
        except Exception:  # the notebook is run again, and fails aloud
            return False
        return True
