"""From a claim and a stored result to a row of the scoreboard."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from dwflow_lite.course.paths import repository
from dwflow_lite.course.scoreboard.verdicts import (
    CONFIDENCE,
    COPIES,
    NEAR,
    NOT_RUN,
    OPEN,
    REPRODUCED,
    interval,
    judge,
)


def select(content: Any, path: Sequence[Any]) -> list[Any]:
    """Everything in a JSON file that a path leads to, in the order of the file.

    Args:
        content: what ``json.loads`` gave.
        path: steps. Into a mapping: a key, or a pattern of keys with ``*``. Into a list: a position, or a mapping
            whose fields an item must have. Into the lines of a Markdown table: ``{"row": …, "column": …}``, the number
            in that cell.

    Example:
        >>> select({"a": {"rows": [{"name": "zoo", "score": 1}]}, "b": {"rows": []}}, ["*", "rows", {"name": "zoo"}])
        [{'name': 'zoo', 'score': 1}]
    """
    found = [content]
    for step in path:
        found = [inner for outer in found for inner in _one_step(outer, step)]
    return found


def _one_step(outer: Any, step: Any) -> list[Any]:
    if isinstance(outer, Mapping):
        return [value for key, value in outer.items() if key == step or fnmatchcase(str(key), str(step))]
    if isinstance(step, int):
        return [outer[step]]
    if "row" in step:
        return [_number_in_table(outer, step["row"], step["column"])]
    return [item for item in outer if all(item.get(name) == value for name, value in step.items())]


def _number_in_table(lines: Sequence[str], row: str, column: str) -> float:
    """The number with which a cell of a Markdown table begins."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    (place,) = [i for i, name in enumerate(cells[0]) if name == column]
    (found,) = [line[place] for line in cells if line[0] == row]
    return float(re.match(r"-?[\d.]+", found)[0])


@dataclass(frozen=True)
class Row:
    """A claim of the paper, and what the stored result says of it.

    Attributes:
        claim: its entry in ``scoreboard.yaml``.
        numbers: by name ("ours", "rival", "spread", "distance", …) what its paths lead to, one number for each repeat;
            empty if there is no result.
        about: command, date and machine of the result.
    """

    claim: Mapping[str, Any]
    numbers: Mapping[str, list[float]]
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        """By which the table knows it."""
        return self.claim["name"]

    @property
    def differences(self) -> list[float]:
        """How much better ours is than what it stands beside, one for each repeat, in the unit of the claim."""
        sign = -1 if self.claim.get("lower is better") else 1
        pairs = zip(self.numbers["ours"], self.numbers["rival"], strict=True)
        return [sign * (ours - rival) for ours, rival in pairs]

    @property
    def repeats(self) -> int:
        """How many zoos, or runs, the result holds."""
        return len(self.numbers.get("ours", ()))

    @property
    def networks(self) -> int | None:
        """How many networks each repeat measured; None if the file does not say."""
        return int(self.numbers["networks"][0]) if "networks" in self.numbers else None

    @property
    def distance(self) -> float | None:
        """Mean distance to the nearest training network, zoo's own = 1; None if none was measured."""
        return mean(self.numbers["distance"]) if "distance" in self.numbers else None

    def verdict(
        self, bar: float | None = None, near: float = NEAR, confidence: float = CONFIDENCE, distances: bool = True
    ) -> str:
        """One of ``VERDICTS``.

        Args:
            bar: None: that of the claim.
            near: see :func:`judge`.
            confidence: see :func:`judge`.
            distances: whether they count; without them a copy is as good as any other network.
        """
        if not self.numbers:
            return NOT_RUN
        bar = self.claim["bar"] if bar is None else bar
        found = judge(self.differences, bar, self.distance if distances else None, near, confidence)
        unknown = self.claim["generated"] and self.distance is None
        return OPEN if distances and unknown and found == REPRODUCED else found

    def why(self) -> str:
        """What the verdict rests on, in a few words."""
        if not self.numbers:
            return self.claim["missing"]
        bar, verdict = self.claim["bar"], self.verdict()
        if verdict == COPIES:
            return f"at {self.distance:.2f} of the zoo's own distance"
        if self.repeats < 2:
            return f"seen once: {mean(self.differences):+.2g}, bar {bar:g}"
        low, high = interval(self.differences)
        if verdict == OPEN and low > bar:
            return "no distance was stored: copies, or not?"
        return f"{low:+.2g} … {high:+.2g}, bar {bar:g}"


NUMBERS = ("ours", "rival", "spread", "distance", "networks")


def read_row(claim: Mapping[str, Any], results: Path) -> Row:
    """The row of one claim.

    Args:
        claim: its entry in ``scoreboard.yaml``.
        results: the folder of stored results.

    Raises:
        ValueError: see :func:`numbers_of`.
    """
    file = claim.get("result")
    if file is None or not (results / file).is_file():
        return Row(claim, {}, {})
    content = json.loads((results / file).read_text(encoding="utf-8"))
    numbers = numbers_of(claim, content)
    runs = select(content, claim["about"])
    said = {name: _each_once(runs, name) for name in ("command", "date", "machine", "processor") if name in runs[0]}
    return Row(claim, numbers, {"command": claim.get("command")} | said)


def _each_once(runs: Sequence[Mapping[str, Any]], name: str) -> Any:
    """What all runs say of themselves under a name; where they differ, everything that is said, once."""
    said: list[Any] = []
    for run in runs:
        if name in run and run[name] not in said:
            said.append(run[name])
    return said[0] if len(said) == 1 else " and ".join(sorted(map(str, said)))


def numbers_of(claim: Mapping[str, Any], content: Any) -> dict[str, list[float]]:
    """Name -> the numbers to which the path of this name leads in the content of a result, one for each repeat.

    Raises:
        ValueError: a path leads nowhere, or two lead to unequal numbers of repeats.
    """
    numbers = {name: _follow(claim, name, content) for name in NUMBERS if isinstance(claim.get(name), list)}
    repeats = len(numbers["ours"])
    if not isinstance(claim["rival"], list):
        numbers["rival"] = [float(claim["rival"])] * repeats  # a limit
    unequal = [name for name, found in numbers.items() if len(found) != repeats]
    if unequal:
        raise ValueError(
            f"{claim['name']}: {claim['result']} holds {repeats} of 'ours' and {len(numbers[unequal[0]])} of "
            f"{unequal[0]!r}: each repeat needs one"
        )
    return numbers


def _follow(claim: Mapping[str, Any], name: str, content: Any) -> list[float]:
    """What one path of a claim leads to; scores and spreads in percent where that is the unit."""
    found = select(content, claim[name])
    if not found:
        raise ValueError(f"{claim['name']}: the path of {name!r} leads nowhere in {claim['result']}: {claim[name]}")
    factor = claim.get("times", 1) if name in ("ours", "rival", "spread") else 1
    return [factor * float(number) for number in found]


def read_claims(root: Path | None = None) -> list[dict[str, Any]]:
    """The entries of ``scoreboard.yaml``, each with the files of code that it names.

    Args:
        root: of the repository; None: of this one.
    """
    root = repository() if root is None else root
    board = yaml.safe_load((root / "benchmarks" / "scoreboard.yaml").read_text(encoding="utf-8"))
    for claim in board["claims"]:
        claim["code"] = [file for group in claim.get("code", ()) for file in board["code"][group]]
    return board["claims"]


def read_rows(root: Path | None = None) -> list[Row]:
    """All claims with their numbers, in the order of ``scoreboard.yaml``; ``root`` as in :func:`read_claims`."""
    root = repository() if root is None else root
    return [read_row(claim, root / "benchmarks" / "results") for claim in read_claims(root)]
