"""Where the numbers of a run should lie: a band for everything that the notebooks record, by profile.

    python -m benchmarks.bands build/report.json      # a run of yours beside the bands
    python -m benchmarks.week                         # writes the bands anew, with INSTRUCTORS.md

A band reaches from the smallest to the largest value of the stored runs (benchmarks/results/claims.json: several seeds,
today's notebook), and on both sides further by twice its own width, by a tenth of its largest value, or by a millionth,
whichever is most. The margin of a claim has no band below zero: there the claim fails. Tried on earlier runs of many
seeds, threads and processors (those of commit 3105dce, and of notebook 09): of 1,295 metrics 51 lay outside bands of
two other runs, of 1,169 twelve outside bands of three, of 872 two outside bands of five; of margins 53 of 858, 14 of
773, none of 576. The same seed with other threads and another instruction set: none of 278.

Seconds and memory are the machine's: they are told, and have no band. Beside the bands stands what is usual: smallest,
median and largest value of the stored runs.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims import RESULTS as STORED
from benchmarks.claims import Run, is_stale
from dwflow_lite.course.claims import shown

RUNS = STORED / "claims.json"
BANDS = STORED / "bands.json"

WIDTHS, SHARE, LEAST = 2.0, 0.1, 1e-6  # by how much a band is widened on each side: see above
OF_THE_MACHINE = re.compile(r"\b(seconds|time|memory)\b")

Band = list[float]  # [low, high]
Bands = dict[str, dict[str, dict[str, Any]]]  # profile -> stem -> {"runs", "metrics", "margins"}


# -- from runs to bands ----------------------------------------------------------------------------------------------


def band_of(values: Iterable[float], least: float = -math.inf) -> Band:
    """The band of some values, widened; ``least`` is an end that it does not pass.

    Example:
        >>> band_of([0.5, 0.6])
        [0.3, 0.8]
        >>> band_of([20, 20])
        [18.0, 22.0]
    """
    values = list(values)
    low, high = min(values), max(values)
    wider = max(WIDTHS * (high - low), SHARE * max(abs(low), abs(high)), LEAST)
    return [float(f"{end:.4g}") for end in (max(low - wider, least), high + wider)]


def usual(values: Iterable[float]) -> list[float]:
    """Smallest, median and largest of some values, as they are.

    Example:
        >>> usual([0.6, 0.5, 0.9])
        [0.5, 0.6, 0.9]
    """
    values = list(values)
    return [float(f"{value:.4g}") for value in (min(values), statistics.median(values), max(values))]


def is_banded(name: str, value: Any) -> bool:
    """Whether a metric has a band: a finite number, and none that the machine decides."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return is_number and OF_THE_MACHINE.search(name) is None


def bands_of(runs: Mapping[str, Mapping[str, Any]]) -> Bands:
    """The bands of all stored runs that passed on the notebooks of today.

    Args:
        runs: as benchmarks/claims.py keeps them: "laptop 01_model_zoo seed=0 …" -> what the run recorded.
    """
    by_notebook = defaultdict(list)
    for key, entry in sorted(runs.items()):
        if entry["status"] == "passed" and not is_stale(key, entry):
            profile, stem, *_ = Run.of(key)
            by_notebook[profile, stem].append(entry)
    bands: Bands = defaultdict(dict)
    for (profile, stem), entries in sorted(by_notebook.items()):
        metrics, margins = dict(_columns(map(_metrics, entries))), dict(_columns(map(_margins, entries)))
        bands[profile][stem] = {
            "runs": len(entries),
            "metrics": {name: band_of(values) for name, values in metrics.items()},
            "margins": {name: band_of(values, least=0.0) for name, values in margins.items()},
            "usual": {
                "metrics": {name: usual(values) for name, values in metrics.items()},
                "margins": {name: usual(values) for name, values in margins.items()},
            },
        }
    return dict(bands)


def _metrics(entry: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in entry["metrics"].items() if is_banded(name, value)}


def _margins(entry: Mapping[str, Any]) -> dict[str, float]:
    """Claim -> its margin; where it has several bars, "(2)" and so on is added to those after the first."""
    found = {}
    for claim, comparisons in entry["margins"].items():
        for number, comparison in enumerate(comparisons, 1):
            name = claim if number == 1 else f"{claim} ({number})"
            if is_banded(name, comparison["margin"]):
                found[name] = comparison["margin"]
    return found


def _columns(rows: Iterable[Mapping[str, float]]) -> Iterator[tuple[str, list[float]]]:
    """Name -> its values, of what every row has."""
    rows = list(rows)
    for name in sorted(set.intersection(*(set(row) for row in rows))):
        yield name, [row[name] for row in rows]


def without_runs(bands: Bands, profile: str, stems: Sequence[str]) -> list[str]:
    """The notebooks that have no bands in a profile: no run of today's notebook is stored."""
    return [stem for stem in stems if stem not in bands.get(profile, {})]


# -- a run beside the bands ------------------------------------------------------------------------------------------


def outside(entry: Mapping[str, Any], bands: Mapping[str, Any]) -> list[str]:
    """What of a run lies outside its bands, or was expected and is missing, a sentence each.

    Args:
        entry: of one notebook, as report.json has it.
        bands: of this notebook in the run's profile.
    """
    said = []
    for kind, values in (("metric", _metrics(entry)), ("margin", _margins(entry))):
        expected = bands[f"{kind}s"]
        for name, (low, high) in expected.items():
            if name not in values:
                said.append(f"{kind} {name!r} is expected between {low:g} and {high:g}, and was not recorded")
            elif not low <= values[name] <= high:
                said.append(f"{kind} {name!r} is {shown(values[name])}, expected between {low:g} and {high:g}")
        said += [f"{kind} {name!r} has no band" for name in sorted(values.keys() - expected.keys())]
    return said


def main() -> int:
    """Compare a run with the bands: status 0 where all of it lies inside, 1 where something does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="report.json of a run, as in build/report.json")
    try:
        report = json.loads(parser.parse_args().report.read_text(encoding="utf-8"))
        entries = report["notebooks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: no report of a course run: {error}", file=sys.stderr)
        return 2
    bands = json.loads(BANDS.read_text(encoding="utf-8"))
    off, not_run = 0, []
    for entry in entries:
        stem, profile = entry["stem"], entry["profile"] or report["profile"]
        if not entry["metrics"]:
            not_run.append(f"{stem} ({entry['status']})")
        elif stem not in bands.get(profile, {}):
            print(f"{stem}: no stored run of today's notebook for profile {profile}, so no bands")
        else:
            said = outside(entry, bands[profile][stem])
            off += len(said)
            print(f"{stem}: {'inside all bands' if not said else f'{len(said)} outside'}")
            print("".join(f"  {sentence}\n" for sentence in said), end="")
    if not_run:
        print(f"nothing recorded: {', '.join(not_run)}")
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
