"""What each notebook says of its time and memory, beside what the last whole run took (benchmarks/course_times.py)."""

import json

import nbformat
import pytest

from benchmarks import course_times as times
from dwflow_lite.course.paths import notebooks_folder

RESULT = json.loads(times.RESULT.read_text(encoding="utf-8"))
STEMS = sorted(path.stem for path in notebooks_folder().glob("[0-9]*.ipynb"))


def test_the_last_whole_run_had_every_notebook_and_kept_its_promise():
    assert sorted(RESULT["notebooks"]) == STEMS
    minutes = {stem: entry["minutes"] for stem, entry in RESULT["notebooks"].items()}
    assert max(minutes.values()) <= 3
    assert sum(of for stem, of in minutes.items() if stem < "09") <= 15  # from noise to large models
    assert sum(minutes.values()) <= 20  # with what they are good for
    assert {"command", "date", "commit", "cores", "threads", "torch"} <= RESULT.keys()
    assert "/" not in json.dumps(RESULT)  # no paths


@pytest.mark.parametrize("stem", STEMS)
def test_a_notebook_says_what_it_takes(stem):
    says, took = times.stated(times.first_screen(stem)), times.measured(RESULT, stem)
    assert times.agrees(says, took), f"{stem} says {says}, and took {took}"
    ten_times = times.Cost(10 * (says.minutes or 1.0), says.memory)
    assert not times.agrees(ten_times, took)  # control
    assert not times.agrees(says._replace(memory=10 * says.memory), took)  # control


@pytest.mark.parametrize("stem", STEMS)
def test_the_progress_line_promises_what_the_first_screen_says(stem):
    notebook = nbformat.read(notebooks_folder() / f"{stem}.ipynb", as_version=4)
    minutes = notebook.metadata["dwflow"]["minutes"]["laptop"]
    took = times.measured(RESULT, stem).minutes
    assert times.within(max(minutes, 1.0), max(took, 1.0))


@pytest.mark.parametrize(
    ("words", "minutes"),
    [
        ("under a minute", None),
        ("half a minute", 0.5),
        ("about a minute and a half", 1.5),
        ("about three minutes", 3.0),
    ],
)
def test_words_for_times(words, minutes):
    assert times.stated(f"ten minutes to read, {words} to run on two CPU cores; about 1.5 GB of memory.") == (
        minutes,
        1.5,
    )


@pytest.mark.parametrize("words", ["a jiffy", "about twenty minutes", "three"])
def test_other_words_are_refused(words):
    with pytest.raises(ValueError, match="unknown words for a time"):
        times.stated(f"ten minutes to read, {words} to run on two CPU cores; about 1.5 GB of memory.")
    with pytest.raises(ValueError, match="no time to run"):
        times.stated("**Time** ten minutes to read.")


def test_under_a_minute_says_enough_and_no_more():
    assert times.agrees(times.Cost(None, 1.0), times.Cost(0.1, 1.0))
    assert not times.agrees(times.Cost(None, 1.0), times.Cost(1.1, 1.0))
    assert not times.agrees(times.Cost(2.0, 1.0), times.Cost(0.9, 1.0))


def test_only_a_whole_laptop_run_is_kept():
    entry = {"stem": "00_a", "status": "passed", "minutes": 0.523, "peak_mb": 800.4}
    report = {
        "profile": "laptop",
        "date": "2026-01-02T03:04:05",
        "commit": "abc",
        "threads": 2,
        "versions": {"torch": "2"},
        "notebooks": [entry],
    }
    assert times.extract(report)["notebooks"] == {"00_a": {"minutes": 0.52, "peak MB": 800}}
    with pytest.raises(ValueError, match="profile 'smoke'"):
        times.extract(report | {"profile": "smoke"})
    with pytest.raises(ValueError, match="not passed: 00_a"):
        times.extract(report | {"notebooks": [entry | {"status": "failed"}]})
