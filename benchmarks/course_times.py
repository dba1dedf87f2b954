"""How long the course takes, and how much memory: what a run measured beside what each notebook says of itself.

    make course
    python benchmarks/course_times.py build/report.json

writes benchmarks/results/course-laptop.json, names each statement that is off, and ends with status 1 if there is one.
tests/course/test_times.py compares every notebook with that file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "course-laptop.json"
FACTOR = 1.5  # between a statement and what was measured, either way
SHORT = "under a minute"  # says enough of whatever takes less

STATEMENT = re.compile(r"read, (?P<time>[a-z -]+) to run on two CPU cores; about (?P<memory>[\d.]+) GB of memory")
NUMBERS = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()
WORDS = {"half a minute": 0.5, "a minute": 1.0, "a minute and a half": 1.5}
WORDS |= {f"{word} minutes": float(number) for number, word in enumerate(NUMBERS, 2)}
WORDS |= {f"{word} and a half minutes": number + 0.5 for number, word in enumerate(NUMBERS, 2)}


class Cost(NamedTuple):
    """Minutes and gigabytes (of 10⁹ bytes); no minutes: under one, and no more is said."""

    minutes: float | None
    memory: float


def stated(first_screen: str) -> Cost:
    """What the first screen of a notebook says.

    Raises:
        ValueError: it says nothing, or in words that are not known here.

    Example:
        >>> stated("… to read, about two and a half minutes to run on two CPU cores; about 1.5 GB of memory.")
        Cost(minutes=2.5, memory=1.5)
    """
    match = STATEMENT.search(first_screen)
    if match is None:
        raise ValueError(
            "no time to run and memory, as in: … read, about two minutes to run on two CPU cores; about 1 GB of memory"
        )
    words = match["time"].removeprefix("about ")
    if words != SHORT and words not in WORDS:
        raise ValueError(f"unknown words for a time: {words!r}; known are {SHORT!r}, {', '.join(WORDS)}")
    return Cost(WORDS.get(words), float(match["memory"]))


def agrees(statement: Cost, measured: Cost) -> bool:
    """Whether time and memory are within 1.5 times of what was measured, either way."""
    if statement.minutes is None:
        time_agrees = measured.minutes < 1
    else:
        time_agrees = within(statement.minutes, measured.minutes)
    return time_agrees and within(statement.memory, measured.memory)


def within(a: float, b: float) -> bool:
    """Whether two numbers are at most 1.5 times apart."""
    return max(a, b) <= FACTOR * min(a, b)


def measured(result: dict[str, Any], stem: str) -> Cost:
    """What a notebook took by the committed file; ``KeyError`` if it is not there."""
    entry = result["notebooks"][stem]
    return Cost(entry["minutes"], entry["peak MB"] * 2**20 / 1e9)


def extract(report: dict[str, Any]) -> dict[str, Any]:
    """Of the report of a whole laptop run what the file keeps.

    Raises:
        ValueError: another profile, or a notebook that did not pass.
    """
    if report["profile"] != "laptop":
        raise ValueError(f"this is a run of profile {report['profile']!r}: times are stated for 'laptop'")
    failed = [entry["stem"] for entry in report["notebooks"] if entry["status"] != "passed"]
    if failed:
        raise ValueError(f"not passed: {', '.join(failed)}; run the whole course first")
    notebooks = {
        entry["stem"]: {"minutes": round(entry["minutes"], 2), "peak MB": round(entry["peak_mb"])}
        for entry in report["notebooks"]
    }
    return {
        "command": "make course",
        "date": report["date"][:10],
        "commit": report["commit"],
        "cores": os.cpu_count(),
        "threads": report["threads"],
        "torch": report["versions"]["torch"],
        "minutes": round(sum(entry["minutes"] for entry in notebooks.values()), 2),
        "notebooks": notebooks,
    }


def first_screen(stem: str) -> str:
    """The first cell of a notebook."""
    return nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4).cells[0].source


def main() -> int:
    """Write the file, and name what is off."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("report", type=Path, nargs="?", default=ROOT / "build" / "report.json")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    try:
        result = extract(json.loads(options.report.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    off = 0
    for stem in result["notebooks"]:
        says, took = stated(first_screen(stem)), measured(result, stem)
        is_right = agrees(says, took)
        off += not is_right
        time = SHORT if says.minutes is None else f"{says.minutes:g} min"
        mark = "" if is_right else "   <- off"
        print(
            f"{stem:28s} says {time:>14s}, {says.memory:g} GB; took {took.minutes:.2f} min, {took.memory:.2f} GB{mark}"
        )
    print(f"{result['minutes']:g} minutes in all")
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
