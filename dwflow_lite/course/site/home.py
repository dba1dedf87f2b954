"""The course home, which a reader opens first, and the report of the run, one link away."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dwflow_lite.course.lessons import Lesson
from dwflow_lite.course.paths import number_of
from dwflow_lite.course.player.embed import FILE as PLAYER
from dwflow_lite.course.report import complaint, cost, spent
from dwflow_lite.course.site.dress import dress
from dwflow_lite.course.site.frame import COURSE, dated, frame, versions_line
from dwflow_lite.course.site.maths import markdown_html

HOME_TITLE = f"{COURSE}: the course"
REPORT_TITLE = f"The course, as it ran · {COURSE}"
SENTENCE = re.compile(r".*?[.?!](?=\s|$)", re.DOTALL)
SIGNATURE = re.compile(r'<img [^>]*class="signature"[^>]*>')
NOTEBOOK_LINK = re.compile(r"\[([^\]]*)\]\((?:\./)?([\w-]+)\.ipynb(?:#[^)]*)?\)")
STATES = "passed|cached|failed|blocked|interrupted|pending|stale"
LEAD = (
    "A course of notebooks, to read here or to run. Train a zoo of networks (many of one kind, on one task), remove "
    "their permutation symmetry, compress them, learn a flow from noise to weights, and generate complete networks "
    "that work without fine-tuning; then ask of each: is it accurate, and is it new? "
    "The notebooks build on each other; read them in order, or begin where your question is."
)


def opening(text: str) -> dict[str, str]:
    """What the first cell of a notebook says, as markdown: its claim's first sentence, what it needs, its time.

    Example:
        >>> opening("# T\\n\\n**Claim.** It works. It is quick.\\n\\n**You need** nothing.\\n\\n**Time** a minute.")
        {'claim': 'It works.', 'needs': 'nothing.', 'time': 'a minute.'}
    """
    said = {}
    for name, label in {"claim": "Claim.", "needs": "You need", "time": "Time"}.items():
        found = re.search(rf"^\*\*{re.escape(label)}\*\*\s*(.+?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
        said[name] = found[1].strip() if found else ""
    first = SENTENCE.match(said["claim"])
    return {**said, "claim": first[0] if first else said["claim"]}


def home_page(report: Mapping[str, Any], lessons: Sequence[Lesson], folder: Path) -> str:
    """The home: every notebook in order with a line, a picture, its times and its needs.

    Args:
        report: the report; its notebooks are those of `lessons`.
        lessons: in course order.
        folder: of the site; pictures are taken from the pages that are there.
    """
    entries = {entry["stem"]: entry for entry in report["notebooks"]}
    cards = "".join(_card(lesson, entries[lesson.stem], entries, folder) for lesson in lessons)
    ran = (
        f"Last run: {report['status']}, {report['date'][:10]}, {spent(report['minutes'])}, profile {report['profile']}"
    )
    body = (
        f"<h1>{COURSE}</h1><p>{LEAD}</p>{_begin(lessons[0], entries[lessons[0].stem])}"
        f'<p class="facts"><span>{dated(ran)}</span> <span><a href="report.html">What it measured and claims</a>'
        f'</span></p>{_player(folder)}<ol class="cards">{cards}</ol>'
    )
    return frame(HOME_TITLE, body, foot=versions_line(report["versions"]))


def _begin(first: Lesson, entry: Mapping[str, Any]) -> str:
    """What to open first, and what that takes; empty if it has no page."""
    if "page" not in entry:
        return ""
    to_read = re.match(r"(.+?) to read\b", opening(first.opening)["time"])
    takes = f"{html.escape(to_read[1])} to read, nothing to install" if to_read else "nothing to install"
    name = f"{number_of(first.stem)} · {html.escape(first.title)}"
    return f'<p><a href="pages/{first.stem}.html"><b>Begin with {name}</b></a>: {takes}.</p>'


def _card(lesson: Lesson, entry: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    """One notebook: picture on the left, words on the right."""
    number, title = number_of(lesson.stem), html.escape(lesson.title)
    address = f"pages/{lesson.stem}.html"
    has_page = "page" in entry
    heading = f'<a href="{address}">{number} · {title}</a>' if has_page else f"{number} · {title}"
    said = {name: _inline(text, entries) for name, text in opening(lesson.opening).items()}
    lines = [f"<h2>{heading}{_badge(entry)}</h2>"]
    lines += [f"<p>{said['claim']}</p>"] if said["claim"] else []
    lines += [f'<p class="facts">Time: {said["time"]}</p>'] if said["time"] else []
    lines += [f'<p class="facts">Ran here in {cost(entry)} at most.</p>'] if cost(entry) else []
    lines += [f'<p class="facts">You need {said["needs"]}</p>'] if said["needs"] else []
    reason = complaint(entry)
    lines += [f'<p class="facts">{html.escape(reason)}</p>'] if reason else []
    picture = _picture(folder / address) if has_page else ""
    if picture:  # pressed, it opens the notebook, as its heading does, which is read aloud and stopped at alone
        picture = f'<a href="{address}" tabindex="-1" aria-hidden="true">{picture}</a>'
    return f"<li><div>{picture}</div><div>{''.join(lines)}</div></li>"


def _player(folder: Path) -> str:
    """The player, if there is one: its picture and a line, on top of the notebooks."""
    picture = _picture(folder / PLAYER)
    if not picture:
        return ""
    return (
        f'<div class="cards player"><a href="{PLAYER}">{picture}</a><div><h2><a href="{PLAYER}">The player</a></h2>'
        "<p>Move time, and watch networks come out of noise: where they are in weight space, how well they read, and "
        "what they look like inside. It runs in the browser, without Jupyter.</p></div></div>"
    )


def _badge(entry: Mapping[str, Any]) -> str:
    """What became of it, where it is not plainly good."""
    states = [entry["status"]] if entry["status"] not in ("passed", "cached") else []
    states += ["stale"] if entry["stale"] else []
    return "".join(f' <span class="badge {state}">{state}</span>' for state in states)


def _inline(text: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """A line of markdown as HTML; links to notebooks lead to their pages, where there are any."""

    def linked(match: re.Match[str]) -> str:
        label, stem = match.groups()
        return f"[{label}](pages/{stem}.html)" if "page" in entries.get(stem, ()) else label

    inside = markdown_html(NOTEBOOK_LINK.sub(linked, text)).strip()
    return inside.removeprefix("<p>").removesuffix("</p>")


def _picture(page: Path) -> str:
    """The signature figure of a page; empty if there is none."""
    found = SIGNATURE.search(page.read_text(encoding="utf-8")) if page.is_file() else None
    return found[0] if found else ""


def report_page(report: str, versions: Mapping[str, str] | None = None) -> str:
    """The report as a page; `report` is its markdown."""
    body = markdown_html(report, formulas=False)
    body = re.sub(rf"<td>({STATES})</td>", r'<td><span class="badge \1">\1</span></td>', body)
    body = re.sub(r'(?<=<a href="pages/)([^"]*">)([^<]*)', lambda link: link[1] + link[2].replace("_", "_<wbr>"), body)
    body, headings = dress(body)
    return frame(REPORT_TITLE, body, contents=headings, foot=versions_line(versions) if versions else "")
