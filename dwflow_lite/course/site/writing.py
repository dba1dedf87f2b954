"""Write the site: what changes with every notebook, and, once a run has ended, what is made of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dwflow_lite.course.lessons import Lesson
from dwflow_lite.course.paths import number_of, write_atomic
from dwflow_lite.course.report import markdown
from dwflow_lite.course.site.glossary import glossary_page
from dwflow_lite.course.site.home import home_page, report_page
from dwflow_lite.course.site.reference import reference_pages
from dwflow_lite.course.site.search import search_script


def writings(folder: Path, report: Mapping[str, Any], lessons: Sequence[Lesson]) -> dict[str, Callable[[], None]]:
    """Name of a file -> what writes it (and those beside it), in the order in which that is to be done.

    Args:
        folder: of the site.
        report: the report of the run. While it is running, home and report are written, and else what is not there yet.
        lessons: all there are, in course order.
    """
    at_once = {
        "index.html": lambda: write_atomic(folder / "index.html", home_page(report, lessons, folder)),
        "report.html": lambda: write_atomic(folder / "report.html", report_page(markdown(report), report["versions"])),
    }
    at_the_end = {
        "glossary.html": lambda: write_atomic(folder / "glossary.html", glossary_page(_addresses(report))),
        "api/index.html": lambda: _write_reference(folder),
        "search.js": lambda: write_atomic(folder / "search.js", search_script(_pages(folder, report))),
    }
    is_running = report.get("status") == "running"
    return at_once | {name: w for name, w in at_the_end.items() if not (is_running and (folder / name).exists())}


def _addresses(report: Mapping[str, Any]) -> dict[str, str]:
    """Number of a notebook -> address of its page."""
    return {number_of(e["stem"]): f"pages/{e['stem']}.html" for e in report["notebooks"] if "page" in e}


def _write_reference(folder: Path) -> None:
    for name, page in reference_pages().items():
        write_atomic(folder / "api" / name, page)


def _pages(folder: Path, report: Mapping[str, Any]) -> dict[str, str]:
    """Address -> HTML of what can be searched: glossary, notebooks, reference."""
    names = ["glossary.html", *_addresses(report).values(), *(f"api/{name}" for name in reference_pages())]
    return {name: (folder / name).read_text(encoding="utf-8") for name in names if (folder / name).is_file()}
