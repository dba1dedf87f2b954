"""The parts of INSTRUCTORS.md that come from files: what each notebook takes, the week, the bands, the cell for Colab.

    python -m benchmarks.week [--check]

reads the notebooks, benchmarks/week.yaml and benchmarks/results (course-laptop.json, claims.json), and writes
benchmarks/results/bands.json and what stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` in
INSTRUCTORS.md. ``--check`` writes nothing, and ends with status 1 if something is not what would be written.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import nbformat
import yaml

from benchmarks.bands import BANDS, RUNS, Bands, bands_of, without_runs
from benchmarks.course_times import NUMBERS, RESULT, ROOT, measured
from dwflow_lite.course.lessons import Lesson, discover
from dwflow_lite.course.notebook import markdown_table
from dwflow_lite.course.paths import json_text, notebooks_folder, number_of, write_atomic

GUIDE = ROOT / "INSTRUCTORS.md"
WEEK = ROOT / "benchmarks" / "week.yaml"
PROFILES = ("smoke", "laptop", "gpu")

READING = re.compile(r"\*\*Time\*\* (?:about )?(?P<time>[a-z -]+?) to read")
EXERCISE = re.compile(r"\*\*(?P<number>\d\d[a-z]?\.\d+) · .+?\*\* \*\((?P<level>\w+), (?P<minutes>\d+) minutes\)\*")
TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50}
UNITS = {word: number for number, word in enumerate(NUMBERS, 2)} | {"one": 1}
MINUTES = {f"{word} minutes": number for word, number in UNITS.items()} | {"half an hour": 30, "an hour": 60}
MINUTES |= {f"{ten} minutes": number for ten, number in TENS.items()}
MINUTES |= {f"{t}-{u} minutes": TENS[t] + UNITS[u] for t in TENS for u in UNITS if UNITS[u] < 10}

OF_COLAB = {
    "torch",
    "torchvision",
    "ipykernel",
    "ipywidgets",
    "jupyterlab",
}  # what Colab has, and must stay as Colab has it


class Cost(NamedTuple):
    """What a notebook asks of a class; ``run`` and ``memory`` are None where no whole laptop run is stored."""

    read: int  # minutes, as its first screen says
    exercises: Mapping[str, tuple[str, int]]  # number -> (level, minutes), as it says
    run: float | None  # minutes, measured
    memory: float | None  # GB of 10⁹ bytes, measured

    @property
    def work(self) -> int:
        """Minutes of all its exercises."""
        return sum(minutes for _, minutes in self.exercises.values())


# -- what the files say ----------------------------------------------------------------------------------------------


def reading_minutes(first_screen: str) -> int:
    """Minutes to read, as the first screen of a notebook says.

    Raises:
        ValueError: it does not, or in words that are not known here.

    Example:
        >>> reading_minutes("**Time** about thirty-five minutes to read, a minute to run")
        35
    """
    found = READING.search(first_screen)
    if found is None or found["time"] not in MINUTES:
        raise ValueError("no time to read, as in: **Time** about thirty-five minutes to read")
    return MINUTES[found["time"]]


def cost_of(lesson: Lesson, result: Mapping[str, Any]) -> Cost:
    """What a notebook takes; ``result`` is the content of course-laptop.json."""
    cells = nbformat.read(lesson.path, as_version=4).cells
    prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    exercises = {m["number"]: (m["level"], int(m["minutes"])) for m in EXERCISE.finditer(prose)}
    took = measured(result, lesson.stem) if lesson.stem in result["notebooks"] else None
    return Cost(
        reading_minutes(lesson.opening), exercises, took.minutes if took else None, took.memory if took else None
    )


def named(week: Mapping[str, Any]) -> set[str]:
    """All numbers that week.yaml names."""
    meetings = week["classes"]
    lists = [meeting[column] for meeting in meetings for column in ("read", "exercises")]
    lists += [meeting["home"][column] for meeting in meetings for column in ("read", "exercises")]
    return {number for numbers in [*lists, week["weekend"]] for number in numbers}


def chosen(numbers: Sequence[str], stems: Iterable[str], own: Collection[str] = ()) -> list[str]:
    """The notebooks of these numbers; a second part goes with the first, unless it is among ``own``.

    Example:
        >>> chosen(["03"], ["02_a", "03_b", "03b_c", "04_d"])
        ['03_b', '03b_c']
        >>> chosen(["03"], ["02_a", "03_b", "03b_c", "04_d"], own={"03", "03b"})
        ['03_b']
    """
    return [stem for stem in stems if (number_of(stem) if number_of(stem) in own else stem[:2]) in numbers]


class Meeting(NamedTuple):
    """One class: the stems of what is read and done in it and before it."""

    read: list[str]
    exercises: list[str]
    home_read: list[str]
    home_exercises: list[str]

    def minutes(self, costs: Mapping[str, Cost]) -> float:
        """Minutes of the class that are spoken for: reading, runs and exercises."""
        reading = sum(costs[stem].read + (costs[stem].run or 0) for stem in self.read)
        return reading + sum(costs[stem].work for stem in self.exercises)

    def home_minutes(self, costs: Mapping[str, Cost]) -> int:
        """Minutes of work before the class."""
        return sum(costs[s].read for s in self.home_read) + sum(costs[s].work for s in self.home_exercises)


def meetings_of(week: Mapping[str, Any], stems: Sequence[str]) -> list[Meeting]:
    """The classes of week.yaml, with the notebooks there are."""
    own = named(week)
    return [
        Meeting(
            chosen(one["read"], stems, own),
            chosen(one["exercises"], stems, own),
            chosen(one["home"]["read"], stems, own),
            chosen(one["home"]["exercises"], stems, own),
        )
        for one in week["classes"]
    ]


# -- how it is written -----------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown, whose cells may hold bars."""
    return markdown_table(head, ([cell.replace("|", "/") for cell in row] for row in rows))


def numbers_of(stems: Iterable[str]) -> str:
    """ "03, 03b", linked; a dash if there are none."""
    return ", ".join(f"[{number_of(stem)}](notebooks/{stem}.ipynb)" for stem in stems) or "–"


def measured_or_dash(value: float | None, unit: str) -> str:
    """A measured value, or a dash."""
    return "–" if value is None else f"{value:.1f} {unit}"


def notebooks_part(lessons: Sequence[Lesson], costs: Mapping[str, Cost], result: Mapping[str, Any]) -> str:
    """A row for every notebook, and what the whole course takes."""
    rows = []
    for lesson in lessons:
        cost = costs[lesson.stem]
        hard = [number for number, (level, _) in cost.exercises.items() if level == "hard"]
        work = f"{len(cost.exercises)}, {cost.work} min" + (f" (hard: {', '.join(hard)})" if hard else "")
        title = f"[{number_of(lesson.stem)} · {lesson.title}](notebooks/{lesson.stem}.ipynb)"
        needs = measured_or_dash(cost.run, "min"), measured_or_dash(cost.memory, "GB")
        rows.append((title, f"{cost.read} min", work, *needs))
    run = sum(cost.run or 0 for cost in costs.values())
    read, work = sum(cost.read for cost in costs.values()) / 60, sum(cost.work for cost in costs.values()) / 60
    most = max(cost.memory or 0 for cost in costs.values())
    unmeasured = [lesson.stem for lesson in lessons if costs[lesson.stem].run is None]
    summary = (
        f"All of them run in {run:.0f} minutes, in at most {most:.1f} GB of memory (measured on {result['cores']} CPU "
        f"cores on {result['date']}, torch {result['torch']}); reading takes {read:.1f} hours, exercises {work:.1f}."
    )
    if unmeasured:
        summary += f" Not in that run, a dash: {', '.join(unmeasured)}."
    head = ("notebook", "reading", "exercises", "run", "memory")
    return table(head, rows) + "\n\n" + summary


def week_part(week: Mapping[str, Any], costs: Mapping[str, Cost]) -> str:
    """A row for every class, and what is left for the weekend."""
    rows = []
    for number, (one, meeting) in enumerate(zip(week["classes"], meetings_of(week, list(costs)), strict=True), 1):
        home = [f"read {numbers_of(meeting.home_read)}"] if meeting.home_read else []
        home += [f"exercises of {numbers_of(meeting.home_exercises)}"] if meeting.home_exercises else []
        takes = meeting.minutes(costs)
        rows.append(
            (
                f"{number}. {one['name']}",
                f"{'; '.join(home)} ({meeting.home_minutes(costs)} min)" if home else "–",
                numbers_of(meeting.read),
                numbers_of(meeting.exercises),
                f"{takes:.0f} min",
                f"{week['minutes'] - takes:.0f} min",
                "; ".join(f"*{heading}*" for heading in one["optional"]),
            )
        )
    weekend = chosen(week["weekend"], costs, named(week))
    work = sum(costs[stem].read + costs[stem].work + (costs[stem].run or 0) for stem in weekend) / 60
    head = ("class", "at home before", "read and run", "exercises of", "takes", "left to you", "leave out when late")
    return table(head, rows) + f"\n\nFor the weekend: {numbers_of(weekend)}; {work:.1f} hours if all are done."


def bands_part(bands: Bands, lessons: Sequence[Lesson]) -> str:
    """What is known for which profile, and a folded table for every notebook."""
    lines = []
    for profile in PROFILES:
        missing = without_runs(bands, profile, [lesson.stem for lesson in lessons])
        runs = [found["runs"] for found in bands.get(profile, {}).values()]
        known = "no stored runs"
        if runs:
            few, many = min(runs), max(runs)
            known = f"{few if few == many else f'{few} to {many}'} stored runs a notebook"
        none = f"; none of today's notebook, so no bands: {', '.join(missing)}" if runs and missing else ""
        lines.append(f"- `{profile}`: {known}{none}.")
    profiles = [profile for profile in PROFILES if profile in bands]
    folds = []
    for lesson in lessons:
        found = {profile: bands[profile][lesson.stem] for profile in profiles if lesson.stem in bands[profile]}
        if found:
            folds.append(_fold(lesson, found, profiles))
    return "\n".join(lines) + "\n\n" + "\n".join(folds)


def _fold(lesson: Lesson, found: Mapping[str, Mapping[str, Any]], profiles: Sequence[str]) -> str:
    """The bands of one notebook, of its metrics and the margins of its claims, beside what is usual at laptop size."""
    rows = []
    for kind in ("metrics", "margins"):
        for name in sorted({name for bands in found.values() for name in bands[kind]}):
            ends = (found.get(profile, {}).get(kind, {}).get(name) for profile in profiles)
            cells = ("–" if band is None else f"{band[0]:.3g} … {band[1]:.3g}" for band in ends)
            seen = found.get("laptop", {}).get("usual", {}).get(kind, {}).get(name)
            typical = "–" if seen is None else "{1:.3g} ({0:.3g} … {2:.3g})".format(*seen)
            rows.append((name if kind == "metrics" else f"*claim:* {name}", typical, *cells))
    summary = f"<summary>{number_of(lesson.stem)} · {lesson.title}</summary>"
    head = ("metric, or margin of a claim", "usual, laptop", *(f"band, {profile}" for profile in profiles))
    return f"<details>{summary}\n\n{table(head, rows)}\n\n</details>\n"


def colab_part() -> str:
    """The first cell of a notebook in Colab: the course, and what of its requirements Colab lacks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = project["dependencies"] + extras["text"] + extras["cluster"]
    wanted = [r for r in needed if re.match(r"[\w-]+", r)[0].lower() not in OF_COLAB]
    packages = " ".join(f'"{requirement}"' for requirement in wanted)
    lines = ["!git clone --quiet --depth 1 REPOSITORY /content/course", f"!pip install --quiet {packages}"]
    return "\n".join(["```text", *lines, "%cd /content/course", "```"])


# -- the file --------------------------------------------------------------------------------------------------------


def parts() -> tuple[dict[str, str], Bands]:
    """Name -> text of every generated part, and the bands."""
    lessons = discover(notebooks_folder())
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    week = yaml.safe_load(WEEK.read_text(encoding="utf-8"))
    costs = {lesson.stem: cost_of(lesson, result) for lesson in lessons}
    bands = bands_of(json.loads(RUNS.read_text(encoding="utf-8")))
    texts = {
        "notebooks": notebooks_part(lessons, costs, result),
        "week": week_part(week, costs),
        "bands": bands_part(bands, lessons),
        "colab": colab_part(),
    }
    return texts, bands


def filled(guide: str, texts: Mapping[str, str]) -> str:
    """The guide with every part between its marks.

    Raises:
        ValueError: marks are missing, or stand twice.

    Example:
        >>> print(filled("<!-- begin x -->\\nold\\n<!-- end x -->", {"x": "new"}))
        <!-- begin x -->
        new
        <!-- end x -->
    """
    for name, text in texts.items():
        begin, end = f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"
        if guide.count(begin) != 1 or guide.count(end) != 1:
            raise ValueError(f"INSTRUCTORS.md needs one {begin.strip()} and one {end.strip()}")
        before, _, rest = guide.partition(begin)
        guide = before + begin + text + end + rest.partition(end)[2]
    return guide


def main() -> int:
    """Write the bands and the guide, or say whether they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; say whether the files are up to date")
    check = parser.parse_args().check
    texts, bands = parts()
    new = {BANDS: json_text(bands), GUIDE: filled(GUIDE.read_text(encoding="utf-8"), texts)}
    old = [path.name for path, text in new.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if not check:
        for path, text in new.items():
            write_atomic(path, text)
    elif old:
        print(f"not up to date: {', '.join(old)}; run python -m benchmarks.week", file=sys.stderr)
    return 1 if check and old else 0


if __name__ == "__main__":
    sys.exit(main())
