"""Measure every stage, and write one JSON file with a readable page beside it.

    make bench                                     (STAGES="pca zoo" picks some, OUT=file.json goes elsewhere)
    python -m benchmarks.bench [--stages pca zoo] [--out benchmarks/results/bench-cpu.json] [--again] [--toy]

A row is a function in ``ROWS`` of a file in benchmarks/stages. What the file holds of the same code, versions, machine
and threads is not measured again, so that an interrupted run goes on where it was. A row that raises, or whose result
is wrong or too late, is named, the others run, and the status at the end is 1.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import json
import os
import platform
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Measured
from dwflow_lite.support.paths import written_whole
from dwflow_lite.support.versions import versions

ROOT = Path(__file__).resolve().parents[1]
STAGES = ROOT / "benchmarks" / "stages"
RESULTS = ROOT / "benchmarks" / "results"

Rows = Mapping[str, Callable[[bool], Measured]]


# -- what a result depends on ----------------------------------------------------------------------------------------


def processor() -> str:
    """The model of the processor; no name of the machine."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def surroundings() -> dict[str, Any]:
    """Card, if there is one, machine, threads and versions."""
    libraries = {name: version(name) for name in ("numpy", "scipy")}
    card = {"card": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return card | {
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions() | libraries,
    }


def result_here() -> Path:
    """Where results of this machine go: a file of the card's name, or ``bench-cpu.json`` without one."""
    if not torch.cuda.is_available():
        return RESULTS / "bench-cpu.json"
    words = re.findall("[a-z0-9]+", torch.cuda.get_device_name().casefold())
    return RESULTS / f"bench-{'-'.join(word for word in words if word != 'nvidia')}.json"


def code_digest(stage: str) -> str:
    """Of the package, of a stage, and of what it measures with: whatever the commit is called."""
    files = [*sorted((ROOT / "dwflow_lite").rglob("*.py")), STAGES / f"{stage}.py", ROOT / "benchmarks" / "measure.py"]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(ROOT).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


# -- measuring -------------------------------------------------------------------------------------------------------


def all_stages() -> list[str]:
    """Names of the files in benchmarks/stages."""
    return sorted(path.stem for path in STAGES.glob("*.py") if path.stem != "__init__")


def default_stages() -> list[str]:
    """All of them; without a card, those that need none."""
    return [stage for stage in all_stages() if stage != "card" or torch.cuda.is_available()]


def rows_of(stage: str) -> Rows:
    """The rows of a stage, by name."""
    return importlib.import_module(f"benchmarks.stages.{stage}").ROWS


def full_name(stage: str, row: str) -> str:
    return row if row.startswith(f"{stage}:") else f"{stage}: {row}"


def measure_row(function: Callable[[bool], Measured], toy: bool) -> dict[str, Any]:
    """One row as JSON, whatever it raises: ``error`` is there then, and nothing else."""
    threads = torch.get_num_threads()
    try:
        return json.loads(json.dumps(asdict(function(toy)), allow_nan=False))
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        torch.set_num_threads(threads)
        gc.collect()


def is_good(row: Mapping[str, Any]) -> bool:
    """Whether a row was measured, and all of it holds."""
    return "error" not in row and all(row["holds"].values())


def run(stages: Sequence[str], out: Path, again: bool, toy: bool, command: str) -> dict[str, dict[str, Any]]:
    """Measure what is not there yet; write file and page after every row. Gives the rows of these stages by name."""
    result = read(out)
    here = surroundings() | {"toy": toy}
    asked: dict[str, dict[str, Any]] = {}
    for stage in stages:
        try:
            functions = rows_of(stage)
            digest = code_digest(stage)
        except Exception as error:
            traceback.print_exc()
            asked[f"{stage}: (all)"] = {"error": f"{type(error).__name__}: {error}"}
            continue
        for row, function in functions.items():
            name = full_name(stage, row)
            key = here | {"code": digest}
            known = result["rows"].get(name)
            if known is not None and known["key"] == key and not again:
                print(f"{name}: known", flush=True)
                asked[name] = known
                continue
            found = measure_row(function, toy)
            asked[name] = found
            print(f"{name}: {in_words(found)}", flush=True)
            if "error" in found:
                continue
            result["rows"][name] = found | {"stage": stage, "date": date.today().isoformat(), "key": key}
            result |= {"command": command, "date": date.today().isoformat()}
            write(out, result)
    return asked


# -- file and page ---------------------------------------------------------------------------------------------------


def read(out: Path) -> dict[str, Any]:
    """What was measured before, or nothing."""
    if out.is_file():
        return json.loads(out.read_text())
    return {"rows": {}}


def write(out: Path, result: Mapping[str, Any]) -> None:
    """The JSON file, and the page beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, text in ((out, json.dumps(result, indent=1, ensure_ascii=False) + "\n"), (page_of(out), page(result))):
        with written_whole(path) as partial:
            partial.write_text(text)


def page_of(out: Path) -> Path:
    return out.with_suffix(".md")


def number(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def compared(seconds: float, name: str, other: float) -> str:
    """How the package stands to something beside it."""
    if other <= seconds:
        return f"{number(seconds / max(other, 1e-12))} × {name} ({number(other)} s)"
    return f"{name}: {number(other / max(seconds, 1e-12))} × as long ({number(other)} s)"


def in_words(row: Mapping[str, Any]) -> str:
    """One line for the terminal."""
    if "error" in row:
        return f"FAILED, {row['error']}"
    beside = [compared(row["seconds"], name, other) for name, other in row["beside"].items()]
    broken = [name for name, holds in row["holds"].items() if not holds]
    says = f"{number(row['seconds'])} s; " + "; ".join(beside)
    return says + (f"; DOES NOT HOLD: {', '.join(broken)}" if broken else "")


def page(result: Mapping[str, Any]) -> str:
    """Markdown: where it was measured, and a table for every stage."""
    lines = [
        "# Benchmarks",
        "",
        f"`{result['command']}`, {result['date']}. Seconds are medians of several repeats in one",
    ]
    lines += ["run; spread is the longest over the shortest; what stands beside was measured in the same run.", ""]
    keys = {}
    for row in result["rows"].values():
        keys.setdefault(json.dumps({k: v for k, v in row["key"].items() if k != "code"}, sort_keys=True), row["key"])
    for key in keys.values():
        libraries = ", ".join(f"{name} {number_}" for name, number_ in key["versions"].items())
        machine = ", ".join(key[name] for name in ("card", "processor") if name in key)
        lines.append(
            f"- {machine} ({key['system']}), {key['cores']} cores, {key['threads']} threads; {libraries}"
            f"{'; toy sizes, whose seconds say nothing' if key['toy'] else ''}"
        )
    for stage in dict.fromkeys(row["stage"] for row in result["rows"].values()):
        lines += [
            "",
            f"## {stage}",
            "",
            "| row | seconds | spread | beside it | checks | holds |",
            "|---|---|---|---|---|---|",
        ]
        for name, row in result["rows"].items():
            if row["stage"] == stage:
                lines.append(line_of(name.removeprefix(f"{stage}: "), row))
    return "\n".join(lines) + "\n"


def line_of(name: str, row: Mapping[str, Any]) -> str:
    """A row of a table."""
    beside = "<br>".join(compared(row["seconds"], other, seconds) for other, seconds in row["beside"].items())
    checks = "<br>".join(f"{check} {number(value)}" for check, value in row["checks"].items())
    holds = "<br>".join(f"{'yes' if good else '**no**'}: {what}" for what, good in row["holds"].items())
    return f"| {name} | {number(row['seconds'])} | {number(row['spread'])} | {beside} | {checks} | {holds} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="*", default=[], help=f"some of {', '.join(all_stages())} (all)")
    parser.add_argument(
        "--out", type=Path, default=result_here(), help="the JSON file; the page lies beside it, as .md"
    )
    parser.add_argument("--again", action="store_true", help="measure rows that are known, too")
    parser.add_argument("--toy", action="store_true", help="tiny sizes: whether it runs, and is right")
    given = parser.parse_args(arguments)
    unknown = [stage for stage in given.stages if stage not in all_stages()]
    if unknown:
        parser.error(f"no stage {', '.join(unknown)}: choose from {', '.join(all_stages())}")
    if given.out.suffix != ".json":
        parser.error(f"--out names a JSON file, such as {given.out.name}.json")
    stages = given.stages or default_stages()
    command = "python -m benchmarks.bench" + (f" --stages {' '.join(stages)}" if given.stages else "")
    rows = run(stages, given.out, given.again, given.toy, command + (" --toy" if given.toy else ""))
    bad = [name for name, row in rows.items() if not is_good(row)]
    print(f"{len(rows) - len(bad)} of {len(rows)} rows hold" + (f"; not: {'; '.join(bad)}" if bad else ""))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
