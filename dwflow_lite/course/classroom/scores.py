"""Score files: what ``check`` said last of each exercise, kept beside the notebooks of a student's copy."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dwflow_lite import __version__
from dwflow_lite.course.paths import COPY, json_text, number_of, student_copy, write_atomic

FORMAT = "dwflow_lite.scores/1"
COPY_FORMAT = "dwflow_lite.student/1"
FOLDER = "scores"
RIGHT, WRONG, NOT_YET = "right", "wrong", "not yet"
STATUSES = (RIGHT, WRONG, NOT_YET)
LARGEST_FILE = 2**20  # bytes; a score file has about two thousand


class ScoreError(ValueError):
    """A score file cannot be read; the message says why, to follow the name of the file."""


class Score(NamedTuple):
    """What is known of one exercise: how it stands, what was said, how often an answer was tried, and when last."""

    status: str
    message: str
    attempts: int
    date: str

    @property
    def when(self) -> datetime.datetime:
        """The date, to be compared with others, wherever they were written."""
        return datetime.datetime.fromisoformat(self.date)


class ScoreFile(NamedTuple):
    """One score file: the notebook, its digest in the student's copy, the version of the package, scores by number."""

    notebook: str
    digest: str
    version: str
    scores: Mapping[str, Score]


# -- in a student's notebook ---------------------------------------------------------------------------------------


def keep(number: str, status: str, message: str) -> str:
    """Keep a verdict in the score file of its notebook, if we stand in a student's copy.

    A file that cannot be written or read does not stop a student's work.

    Args:
        number: of the exercise, "03.1".
        status: one of STATUSES.
        message: what was said.

    Returns what the student should know of it: a sentence, or nothing.
    """
    copy = student_copy()
    if copy is None:
        return ""
    said = ""
    try:
        notebook, digest = _notebook_of(number, copy)
        path = score_file(copy, notebook)
        before: Mapping[str, Score] = {}
        if path.exists():
            try:
                before = read_scores(path).scores
            except ScoreError as error:
                said = f"({FOLDER}/{path.name} {error}: it begins anew. Run all exercises once more.)"
        scores = {**before, number: _after(before.get(number), status, message)}
        in_order = dict(sorted(scores.items(), key=lambda pair: order(pair[0])))
        write_scores(path, ScoreFile(notebook, digest, __version__, in_order))
    except (OSError, ScoreError) as error:
        return f"(Your score was not kept in {FOLDER}/: {getattr(error, 'strerror', None) or error}.)"
    return said


def kept(number: str) -> tuple[Mapping[str, Score], str, str]:
    """The scores in the file that keeps this exercise's, and its name; without any, why there are none."""
    copy = student_copy()
    if copy is None:
        return {}, "", f"no file {COPY} lies beside the notebook"
    try:
        path = score_file(copy, _notebook_of(number, copy)[0])
        name = f"{FOLDER}/{path.name}"
        if not path.exists():
            return {}, "", f"there is no {name}"
        return read_scores(path).scores, name, ""
    except (OSError, ScoreError) as error:
        return {}, "", getattr(error, "strerror", None) or str(error)


def score_file(copy: Path, stem: str) -> Path:
    """Where the scores of a notebook are kept: `scores/03.json` for `03_topic`."""
    return copy / FOLDER / f"{number_of(stem)}.json"


def _after(before: Score | None, status: str, message: str) -> Score:
    """The score after one more check. An attempt is a check of an answer that was begun, until it is right."""
    attempts = before.attempts if before else 0
    if status != NOT_YET and not (before and before.status == RIGHT):
        attempts += 1
    return Score(status, message, attempts, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))


def _notebook_of(number: str, copy: Path) -> tuple[str, str]:
    """The notebook that has this exercise, and its digest, by the list in a student's copy."""
    try:
        content = _read_json(copy / COPY)
        for stem, entry in content["notebooks"].items():
            if number in entry["exercises"]:
                return stem, entry["digest"]
    except ScoreError as error:
        raise ScoreError(f"{COPY} {error}; take it from the copy you were given") from None
    except (AttributeError, KeyError, TypeError):
        raise ScoreError(f"{COPY} is not what it was; take it from the copy you were given") from None
    raise ScoreError(f"{COPY} knows no exercise {number}")


def order(number: str) -> tuple[str, int]:
    """What exercises are sorted by: 03.2 before 03.10 before 03b.1."""
    notebook, _, exercise = number.partition(".")
    return notebook, int(exercise)


# -- files ---------------------------------------------------------------------------------------------------------


def write_scores(path: Path, scores: ScoreFile) -> None:
    """Write a score file whole or not at all; OSError if it cannot be."""
    exercises = {number: score._asdict() for number, score in scores.scores.items()}
    write_atomic(path, json_text({"format": FORMAT, **scores._asdict(), "scores": exercises}))


def read_scores(path: Path) -> ScoreFile:
    """A score file; whoever wrote it, it comes back in this shape, or ScoreError says in a few words what is wrong."""
    content = _read_json(path)
    if not isinstance(content, dict) or not str(content.get("format")).startswith(FORMAT.partition("/")[0]):
        raise ScoreError("is no score file of this course")
    if content["format"] != FORMAT:
        version = _text(content.get("version"))
        raise ScoreError(f"is of another format, written by version {version} of the package; this is {__version__}")
    entries = content.get("scores")
    if not isinstance(entries, dict):
        raise ScoreError("holds no scores")
    scores = {_text(number): _score(_text(number), entry) for number, entry in entries.items()}
    return ScoreFile(*(_text(content.get(name)) for name in ("notebook", "digest", "version")), scores)


def _score(number: str, entry: Any) -> Score:
    try:
        score = Score(entry["status"], entry["message"], entry["attempts"], entry["date"])
        order(number)
        kinds = [type(value) for value in score]
        when = score.when
    except (KeyError, TypeError, ValueError):
        raise ScoreError(f"has no whole entry for exercise {number}") from None
    if kinds != [str, str, int, str] or score.status not in STATUSES or score.attempts < 0 or when.tzinfo is None:
        raise ScoreError(f"has no whole entry for exercise {number}")
    return score._replace(message=_text(score.message))


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ScoreError("is far too large for a score file")
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ScoreError(f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, ScoreError):
            raise
        raise ScoreError("is damaged: it is not whole JSON") from None


def _text(value: Any) -> str:
    """A text of a stranger on one line, without letters that steer a terminal, not too long."""
    line = " ".join(str(value).split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:500]
