"""What notebook 09 shows of ``benchmarks/results/new_and_accurate.json``: every zoo of which the test split was read.

Nothing here computes a result: ``benchmarks/new_and_accurate.py`` wrote them, ``benchmarks/recipes.py`` what other
recipes reach at the same width, and ``benchmarks/why_width.py`` what 09b shows of many widths.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

from dwflow_lite.course.notebook import markdown_table
from dwflow_lite.course.paths import repository

Runs = list[dict[str, Any]]

LEAST_LOST = 0.01  # points: about one image in ten thousand

# Zoo -> how it stands in the tables, its epochs, and its own of the recipes tried at its width, if any were.
ZOOS = {
    "digits-128-adam": ("digits 128, no decay", 60, None),
    "digits-128-fast1": ("digits 128, decay 1", 60, None),
    "digits-160-fast1": ("digits 160, decay 1", 60, "width 160; adamw 0.003, decay 1, 60 epochs"),
    "digits-256-long0.3": ("digits 256, decay 0.3", 120, "width 256; adamw 0.003, decay 0.3, 120 epochs"),
    "digits-384-long0.3": ("digits 384, decay 0.3", 120, "width 384; adamw 0.003, decay 0.3, 120 epochs"),
    "mnist-512-large1-N50": ("MNIST 512, decay 1", 5, "mnist, width 512; adamw 0.003, decay 1, 5 epochs"),
    "mnist-768-large0.3-N30": ("MNIST 768, decay 0.3", 20, "mnist, width 768; adamw 0.003, decay 0.3, 20 epochs"),
    "mnist-1024-large1-N50": ("MNIST 1,024, decay 1", 5, None),
}

SHARES = {  # heading -> names of rows, of which the best counts, and the basis
    "held-out": (["held-out networks"], "universe"),
    "mix of all": (["mixture of all"], "universe"),
    "the same, not aligned": (["mixture of all", "mixture of all, factor 1"], "not aligned"),
    "units of all": (["unit crossover of all, wider", "unit crossover of all"], "universe"),
    "Gaussian about the mean": (["Gaussian on codes, wider"], "universe"),
    "flow on 2 codes": (["flow on 2 codes, others drawn"], "universe"),
    "noise": (["zoo + noise"], "universe"),
    "Gaussian on weights": (["Gaussian on weights, narrower", "Gaussian on weights"], "universe"),
}
BEST = "best of all, not aligned"  # the heading of the last column

DECAYS = {0: "digits-128-fast0", 0.3: "digits-128-fast0.3", 1: "digits-128-fast1", 3: "digits-128-fast3"}


def accuracy_table() -> str:
    """What zoos read, how far below the best recipe of their width that is, and what generators lose: points."""
    lines = []
    for name, runs in _by_zoo().items():
        words, epochs, recipe = ZOOS[name]
        zoo = mean(_scores(runs, "zoo"))
        below = f"{below_the_best(recipe):.1f}" if recipe else "–"
        lost = [f"{zoo - mean(_scores(runs, kind)):.1f}" for kind in ("mixture of all", "Gaussian on codes, wider")]
        lines.append([_in_two_lines(words), epochs, len(runs), f"{zoo:.1f} %", below, *lost])
    best = "below the best recipe (validation)"
    heading = ["zoo, units", "epochs", "seeds", "accuracy (test)", best, "lost by mixtures", "lost by the Gaussian"]
    return markdown_table(heading, lines)


def share_table() -> str:
    """Of each kind of network the share over both bars, in percent: a number for each seed.

    Gaussians on weights, units of all members, and mixtures that are not aligned, count at the better of two widths:
    that which was set by distance, and that of the members. (Older runs have units of all members at the latter alone.)
    """
    lines = []
    for name, runs in _by_zoo().items():
        lines.append([ZOOS[name][0], *_share_cells(runs, SHARES)])
    return markdown_table(["zoo, units", *SHARES, BEST], lines)


def decay_table() -> str:
    """What decay does to a zoo of 128 units on digits, and to its rivals: validation, one zoo each, in percent."""
    columns = ("held-out", "mix of all", "noise", "Gaussian on weights")
    stored = _stored("new_and_accurate_few_validation")
    lines = []
    for decay, name in DECAYS.items():
        runs = [run for key, run in stored.items() if key.partition(",")[0] == name]
        zoo = mean(_scores(runs, "zoo"))
        lost = zoo - mean(_scores(runs, "mixture of all"))
        lines.append([f"{decay:g}", f"{zoo:.1f} %", f"{lost:.1f}", *_share_cells(runs, columns)])
    return markdown_table(["decay", "zoo, accuracy", "points lost by mixtures", *columns, BEST], lines)


def lost_by_width() -> dict[str, dict[str, tuple[list[int], list[float]]]]:
    """What four ways to mix members lose by width, in words: title -> name of a line -> widths, points."""
    ways = {
        "one coin for each member": "overlap 1",
        "one for each of its layers": "overlap 0",
        "one for each of its units": "each unit by itself",
        "each weight by itself": "each weight by itself",
    }
    found = {}
    for task, words in {"digits": "digits, decay 1", "mnist": "MNIST, decay 0.3"}.items():
        lines = {name: points_lost(task, way) for name, way in ways.items()}
        lines["one coin, not aligned"] = points_lost(task, "overlap 1", "not aligned")
        found[f"{words} (losses below {LEAST_LOST} stand at it)"] = lines
    return found


def points_lost(task: str, way: str, basis: str = "aligned") -> tuple[list[int], list[float]]:
    """What a way to mix members loses against its zoo, by width: networks of one hidden layer.

    Args:
        task: ``"digits"`` or ``"mnist"``.
        way: of ``benchmarks/why_width.py``, such as ``"overlap 1"``.
        basis: ``"aligned"`` or ``"not aligned"``.

    Returns:
        Widths, and points of accuracy lost, means over seeds. For a logarithmic axis: less than ``LEAST_LOST``, also
        nothing and gains, reads as that.
    """
    lost = defaultdict(list)
    for key, run in _stored("why_width" if task == "digits" else f"why_width_{task}").items():
        shape = key.partition(", ")[0]
        if shape.isdecimal():  # one hidden layer
            lost[int(shape)].append(100 * (run["zoo"] - run[basis][way]))
    widths = sorted(lost)
    return widths, [max(mean(lost[width]), LEAST_LOST) for width in widths]


def best_without_alignment(run: dict[str, Any]) -> float:
    """With hindsight: the largest share over both bars of all generators but noise about members, not aligned."""
    trained = ("zoo", "held-out networks", "zoo + noise")
    return max(row["accurate_and_new"] for row in run["not aligned"] if row["name"] not in trained)


def below_the_best(recipe: str) -> float:
    """Points that a recipe, by width and name, lies below the best of its width: validation, mean over seeds."""
    width = recipe.partition("; ")[0]
    found = defaultdict(list)
    for key, run in _stored("recipes").items():
        at, name, _ = key.split("; ")
        if at.startswith(f"{width}, "):
            found[f"{width}; {name}"].append(mean(run["accuracy"]))
    return 100 * (max(map(mean, found.values())) - mean(found[recipe]))


def _by_zoo() -> dict[str, Runs]:
    """The runs of each zoo, a seed each, in the order of ``ZOOS``."""
    found: dict[str, Runs] = {name: [] for name in ZOOS}
    for key, run in _stored("new_and_accurate").items():
        found[key.partition(",")[0]].append(run)
    return found


def _stored(name: str) -> dict[str, dict[str, Any]]:
    path = repository() / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["runs"]


def _scores(runs: Runs, kind: str) -> list[float]:
    return [100 * row["score"] for run in runs for row in run["universe"] if row["name"] == kind]


def _shares(runs: Runs, kinds: Sequence[str], basis: str) -> list[float]:
    """Of each run the largest share among rows of these names, of which older runs lack some; NaN: all of them."""
    shares = [[row["accurate_and_new"] for row in run[basis] if row["name"] in kinds] for run in runs]
    return [max(of_run, default=math.nan) for of_run in shares]


def _share_cells(runs: Runs, headings: Iterable[str]) -> list[str]:
    """The cells of a zoo in the columns of ``SHARES`` that are asked for, and what did best without alignment."""
    cells = [_percent(_shares(runs, *SHARES[heading])) for heading in headings]
    return [*cells, _percent([best_without_alignment(run) for run in runs])]


def _in_two_lines(words: str) -> str:
    """Words that a narrow column may break after a comma, and nowhere else."""
    return words.replace(" ", "\N{NO-BREAK SPACE}").replace(",\N{NO-BREAK SPACE}", ", ")


def _percent(shares: Sequence[float]) -> str:
    return "/".join("–" if math.isnan(share) else f"{100 * share:.0f}" for share in shares)
