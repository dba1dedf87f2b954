"""Do the claims of the notebooks hold for other seeds, other numbers of threads, another processor?

Runs notebooks through the course runner, each with its own seed, number of threads and instruction set, and keeps what
every claim measured: a claim that needs luck is a fault. ``ATEN_CPU_CAPABILITY=default`` (torch without its vector
instructions) stands in for another processor: it rounds otherwise. Interrupted, it goes on; what was run on another
version of a notebook is run again. With ``--carry`` one of the old runs is repeated first: where every claim comes out
as it did, the change was one of words and figures, and the other runs of that notebook count for it too. With
``--alike`` another number of threads is tried on the first seed alone where every margin comes out the same to the last
digit: there the runs with one thread count for the other number too, and the table says how many do.

    python benchmarks/claims.py --profile smoke --seeds 0-9 --threads 1 2 --capability native default
    python benchmarks/claims.py --profile laptop --seeds 0-9 --workers 2
    python benchmarks/claims.py --profile smoke laptop --seeds 0-9 --threads 2 --alike
    python benchmarks/claims.py --carry        # after an edit that should have changed nothing
    python benchmarks/claims.py --table        # only writes the table anew

Writes benchmarks/results/claims.json (every run) and claims.md (a row for every claim: how many runs, which failed, and
how far from its bar the worst of them came).
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import nbformat
import yaml

from dwflow_lite.course import notebooks_folder
from dwflow_lite.course.lessons import discover
from dwflow_lite.course.paths import number_of
from dwflow_lite.course.scoreboard import fingerprint

RESULTS = Path(__file__).parent / "results"
LOCK = threading.Lock()
AS_BEFORE = 0.02  # of a margin: memory and the last digits differ by less from run to run, another seed by more


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", nargs="+", default=["smoke"])
    parser.add_argument("--seeds", default="0-9", help="first-last, or one number")
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--capability", nargs="+", default=["native"], help="native, default, avx2 …")
    parser.add_argument("--notebooks", nargs="+", default=[], metavar="NN", help="default: all")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--results", type=Path, default=RESULTS / "claims.json")
    parser.add_argument("--retry", action="store_true", help="run again what was not able to finish")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--carry", action="store_true", help="repeat one old run of each changed notebook")
    parser.add_argument("--alike", action="store_true", help="do not repeat what threads do not change")
    asked = parser.parse_args()
    runs = json.loads(asked.results.read_text()) if asked.results.exists() else {}
    if asked.carry:
        carry(runs, asked.notebooks, lambda: write(asked.results, runs))
        return 0
    runs = {key: entry for key, entry in runs.items() if not is_stale(key, entry)}
    if asked.alike:
        count_for_other_threads(runs)
    first, _, last = asked.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    jobs = []
    for profile, capability, threads, seed, stem in product(
        asked.profile, asked.capability, asked.threads, seeds, stems(asked.notebooks)
    ):
        job = Run(profile, stem, seed, threads, capability)
        missing = str(job) not in runs or (asked.retry and runs[str(job)]["status"] != "passed")
        if missing and not asked.table:
            jobs.append(job)
    # Seed after seed, so that a run cut short has whole ones; the long notebooks of a seed first, so that none is last.
    jobs.sort(key=lambda job: (job.seed, -expected_minutes(runs, job.profile, job.stem)))

    def run_unless_counted(job: Run) -> dict | None:
        return None if "alike" in runs.get(str(job), {}) else run(*job)

    with ThreadPoolExecutor(asked.workers) as pool:
        futures = {pool.submit(run_unless_counted, job): job for job in jobs}
        for number, future in enumerate(as_completed(futures), 1):
            job, found = futures[future], future.result()
            key = str(job)
            if found is None:
                continue
            runs[key] = {"source": source_digest(job.profile, job.stem), **found}
            broken = [text for text, holds in runs[key]["claims"].items() if not holds]
            print(
                f"[{number}/{len(jobs)}] {key}: {runs[key]['status']}, {runs[key]['minutes']} min {broken or ''}",
                flush=True,
            )
            if asked.alike:
                count_for_other_threads(runs)
            write(asked.results, runs)
    write(asked.results, runs)
    return 0


def stems(wanted: list[str]) -> list[str]:
    """The notebooks asked for, by number or name; all if none is."""
    return [stem for stem in every_stem() if not wanted or stem in wanted or number_of(stem) in wanted]


@cache
def every_stem() -> tuple[str, ...]:
    """All notebooks, in order; read once."""
    return tuple(lesson.stem for lesson in discover(notebooks_folder()))


class Run(NamedTuple):
    """What was run; as text, the key under which it is kept."""

    profile: str
    stem: str
    seed: int
    threads: int
    capability: str

    def __str__(self) -> str:
        return f"{self.profile} {self.stem} seed={self.seed} threads={self.threads} {self.capability}"

    @classmethod
    def of(cls, key: str) -> Run:
        """The run that is kept under this key."""
        profile, stem, seed, threads, capability = key.split()
        return cls(profile, stem, int(seed.removeprefix("seed=")), int(threads.removeprefix("threads=")), capability)


def is_stale(key: str, entry: dict) -> bool:
    """Whether the notebook has changed since this run, or is gone."""
    profile, stem, *_ = Run.of(key)
    return stem not in every_stem() or entry["source"] != source_digest(profile, stem)


def carry(runs: dict, wanted: list[str], keep: Callable[[], None] = lambda: None) -> None:
    """Old runs of a notebook and profile count for it as it is now, if the first comes out the same (in place).

    Of a notebook that was cut in two, each part takes the claims that it makes.
    """
    old = defaultdict(list)
    for key, entry in runs.items():
        if is_stale(key, entry) and entry["status"] == "passed":
            was = Run.of(key)
            old[was.profile, was.stem].append((was, entry))
    for (profile, stem), entries in old.items():
        first, before = min(entries, key=lambda of: of[0].seed)
        for part in parts_of(stem, wanted):
            again = first._replace(stem=part)
            if str(again) in runs and not is_stale(str(again), runs[str(again)]):
                continue
            source, found = source_digest(profile, part), run(*again)
            same = measures_the_same(found, only_what(before, found))
            print(f"{again}: {f'as before, {len(entries)} runs carried over' if same else 'changed'}", flush=True)
            runs[str(again)] = {"source": source, **found}
            for was, entry in entries if same else ():
                of_today = {"source": source, "minutes": found["minutes"]}
                runs[str(was._replace(stem=part))] = only_what(entry, found) | of_today
            keep()


def count_for_other_threads(runs: dict) -> None:
    """Runs with one thread count for another number, where that changed no margin of what has both (in place).

    What rounds in another order differs in the last digits at least: equal margins come of equal computations. Only
    runs of one processor are compared, for another one rounds otherwise. Notebooks without a margin are not judged.
    """
    by_rest: dict[tuple[str, str, str], dict[int, dict[int, dict]]] = defaultdict(lambda: defaultdict(dict))
    for key, entry in runs.items():
        of = Run.of(key)
        if entry["status"] == "passed" and "alike" not in entry:
            by_rest[of.profile, of.stem, of.capability][of.threads][of.seed] = entry
    for (profile, stem, capability), by_threads in by_rest.items():
        alone = by_threads.get(1, {})
        for threads in set(by_threads) - {1}:
            several = by_threads[threads]
            both = set(alone) & set(several)
            comparable = [seed for seed in both if alone[seed].get("processor") == several[seed].get("processor")]
            same = [alone[seed]["margins"] == several[seed]["margins"] != {} for seed in comparable]
            if not same or not all(same):
                continue
            for seed in set(alone) - both:
                runs[str(Run(profile, stem, seed, threads, capability))] = alone[seed] | {"alike": "threads=1"}


def parts_of(stem: str, wanted: list[str]) -> list[str]:
    """The notebooks of today that may make the claims of this one: itself, and its second part."""
    return [part for part in stems(wanted) if part == stem or number_of(part).startswith(number_of(stem))]


def only_what(entry: dict, found: dict) -> dict:
    """A run, of which is kept what another run tells too."""
    kinds = ("claims", "margins", "metrics")
    return entry | {kind: {name: of for name, of in entry[kind].items() if name in found[kind]} for kind in kinds}


def measures_the_same(a: dict, b: dict) -> bool:
    """Whether two runs made the same claims, of which the same hold, with the same margins."""
    if a["status"] != b["status"] or a["claims"] != b["claims"]:
        return False
    margins, others = (
        [(text, measured["margin"]) for text in sorted(entry["margins"]) for measured in entry["margins"][text]]
        for entry in (a, b)
    )
    return [text for text, _ in margins] == [text for text, _ in others] and all(
        abs(margin - other) <= AS_BEFORE * abs(other) for (_, margin), (_, other) in zip(margins, others, strict=True)
    )


def expected_minutes(runs: dict, profile: str, stem: str) -> float:
    """What this notebook has taken, or says that it takes."""
    minutes = [entry["minutes"] for key, entry in runs.items() if key.startswith(f"{profile} {stem} ")]
    if any(minutes):
        return statistics.mean(filter(None, minutes))
    nb = nbformat.read(notebooks_folder() / f"{stem}.ipynb", as_version=4)
    return nb.metadata.get("dwflow", {}).get("minutes", {}).get(profile, 1.0)


@cache
def source_digest(profile: str, stem: str) -> str:
    """Changes when the code of the notebook, or its parameters in this profile, change.

    Layout, comments and where a cell is split do not count. Cells that show a function of the package do not either:
    they are the package's (a test holds them equal to it).
    """
    nb = nbformat.read(notebooks_folder() / f"{stem}.ipynb", as_version=4)
    own = [cell.source for cell in nb.cells if cell.cell_type == "code" and not shows_the_package(cell)]
    profiles = yaml.safe_load((notebooks_folder() / "profiles.yaml").read_text())
    parameters = (profiles.get(profile) or {}).get(stem, {})
    text = fingerprint("\n".join(own)) + json.dumps(parameters, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def shows_the_package(cell: nbformat.NotebookNode) -> bool:
    return any(tag.startswith("source:") for tag in cell.metadata.get("tags", ()))


def run(profile: str, stem: str, seed: int, threads: int, capability: str) -> dict:
    """One notebook through the runner, in a process of its own: what its entry in the report says."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if capability != "native":
        environment["ATEN_CPU_CAPABILITY"] = capability
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "dwflow_lite", "run", "--profile", profile, "--notebooks", stem, "--out", out]
        command += ["-p", "seed", str(seed), "--notebook-timeout", "7200", "--cell-timeout", "3600"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        report = Path(out) / "report.json"
        if not report.exists():
            raise RuntimeError(f"{stem}: {done.stdout}{done.stderr}")
        (entry,) = [e for e in json.loads(report.read_text())["notebooks"] if e["stem"] == stem]
    error = entry["error"]
    return {
        "status": entry["status"],
        "error": f"{error['ename']}: {error['evalue']}"[:300] if error else "",
        "claims": entry["claims"],
        "margins": entry.get("margins", {}),
        "metrics": entry["metrics"],
        "minutes": entry["minutes"],
        "processor": processor(),
        "date": datetime.date.today().isoformat(),
    }


def processor() -> str:
    """What the machine calls its processor."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor()


def write(path: Path, runs: dict) -> None:
    """All runs, and the table beside them; each file at once or not at all."""
    with LOCK:
        for target, text in (
            (path, json.dumps(runs, indent=0, sort_keys=True)),
            (path.with_suffix(".md"), table(runs)),
        ):
            draft = target.with_suffix(f".{os.getpid()}.draft")
            draft.write_text(text + "\n")
            draft.replace(target)


def bar_of(margins: list[dict]) -> str:
    """The bar of a claim: a number, or the range of a bar that is measured in the run itself."""
    bars = [margin["bar"] for margin in margins]
    low, high = f"{min(bars):.3g}", f"{max(bars):.3g}"
    return f"{margins[0]['direction']} {low if low == high else f'{low} … {high}'}"


def table(runs: dict) -> str:
    """A row for every claim and profile."""
    rows = defaultdict(list)
    for key, entry in sorted(runs.items()):
        profile, stem, *configuration = key.split()
        for text, holds in entry["claims"].items():
            rows[stem, text, profile].append((" ".join(configuration), holds, entry["margins"].get(text, [])))
        if not entry["claims"]:
            rows[stem, f"(did not reach its claims: {entry['error'][:80]})", profile].append(
                (" ".join(configuration), False, [])
            )
    lines = [
        "# Claims over seeds, threads and processors\n",
        "Margin: how far the measured value lies on the right side of its bar, in its own units: worst run, and",
        "mean over standard deviation of all (so many deviations is a run from failing). A dash: a plain yes or",
        "no, or all runs agree.\n",
        "| notebook | claim | profile | runs | failed | bar | worst margin | mean / std |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (stem, text, profile), found in rows.items():
        failed = [configuration for configuration, holds, _ in found if not holds]
        bars, worst, deviations = "–", "–", "–"
        if all(margins for _, _, margins in found):
            tight = [min(margins, key=lambda m: m["margin"] / max(abs(m["bar"]), 1e-12)) for _, _, margins in found]
            values = [m["margin"] for m in tight]
            bars = bar_of(tight)
            worst = f"{min(values):.3g}"
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            deviations = f"{statistics.mean(values) / spread:.1f}" if spread > 0 else "–"
        cells = [
            number_of(stem),
            text.replace("|", "/"),
            profile,
            str(len(found)),
            "; ".join(failed) or "none",
            bars,
            worst,
            deviations,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    processors = sorted({entry["processor"] for entry in runs.values()})
    alike = sum("alike" in entry for entry in runs.values())
    lines.append(
        f"\n{len(runs)} runs, on: {'; '.join(processors)}. Of them {alike} were made with one thread and count for "
        "two, where two had changed no margin, to the last digit."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
