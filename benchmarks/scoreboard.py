"""The scoreboard: every claim of the paper that can be reached, beside what the stored results say.

    python -m benchmarks.scoreboard [--check]

reads benchmarks/scoreboard.yaml and the results that it names, and writes benchmarks/results/scoreboard.json and .md;
it computes no result. ``--check`` writes nothing, says which code has changed, and ends with status 1 if the files are
not what would be written.

Each row keeps the fingerprints of the code that it names, as the code was when the row's numbers first stood in the
repository: in the oldest commit since which they have not changed, or as it is now if they are in no commit yet. A row
keeps its fingerprints as long as its numbers stay, so that the history is asked once, and a clone without history (an
archive, a shallow checkout) tells as well as any which rows are older than their code.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dwflow_lite.course.paths import json_text, write_atomic
from dwflow_lite.course.scoreboard import (
    Row,
    code_of,
    fingerprint,
    fingerprints,
    numbers_of,
    read_rows,
    read_stored,
    what_is_old,
)
from dwflow_lite.course.scoreboard.table import OLD, distance_figure, our_figure, paper_figure

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "scoreboard.json"


# -- when a result was made ------------------------------------------------------------------------------------------


def git(*arguments: str) -> str | None:
    """What git says; None where there is no git, no history, or nothing of that name in it."""
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def commit_of(row: Row) -> str | None:
    """The commit in which the numbers of a row first stood as they stand now; None if they are in none."""
    file = f"benchmarks/results/{row.claim['result']}"
    found = None
    for commit in (git("log", "--format=%H", "--", file) or "").split():
        if numbers_then(row, git("show", f"{commit}:{file}")) != row.numbers:
            break
        found = commit
    return found


def numbers_then(row: Row, text: str | None) -> dict[str, list[float]] | None:
    """The numbers of a row in an older version of its file; None if they were not there."""
    try:
        return numbers_of(row.claim, json.loads(text))
    except (TypeError, ValueError, KeyError, IndexError, AttributeError):
        return None  # the file, or what is in it, had another shape


def fingerprints_then(files: Sequence[str], commit: str | None) -> dict[str, str | None]:
    """File -> its fingerprint in a commit, None if it was not there; as it is now for no commit."""
    if commit is None:
        return fingerprints(files, ROOT)
    found: dict[str, str | None] = {}
    for file in files:
        text = git("show", f"{commit}:{file}")
        found[file] = None if text is None else fingerprint(code_of(file, text))
    return found


# -- the table -------------------------------------------------------------------------------------------------------


def entry_of(row: Row, stored: Mapping[str, Any]) -> dict[str, Any]:
    """What the file holds of a row."""
    words = {key: row.claim[key] for key in ("claim", "paper", "here", "same", "result") if key in row.claim}
    entry = words | {"verdict": row.verdict(), "why": row.why()}
    if not row.numbers:
        return entry
    known = stored.get(row.name, {})
    if known.get("numbers") == row.numbers and list(known["code"]) == row.claim["code"]:
        code, since = known["code"], known["since"]
    else:
        commit = commit_of(row)
        code, since = fingerprints_then(row.claim["code"], commit), commit and commit[:12]
    entry |= {"bar": row.claim["bar"], "unit": row.claim["unit"], "repeats": row.repeats, "networks": row.networks}
    return entry | {"numbers": row.numbers, "about": row.about, "since": since, "code": code}


def build() -> tuple[dict[str, Any], str]:
    """The content of the JSON file, and the page."""
    rows, stored = read_rows(ROOT), read_stored(ROOT)
    entries = {row.name: entry_of(row, stored) for row in rows}
    return {"command": "python -m benchmarks.scoreboard", "rows": entries}, page(rows, entries)


COLUMNS = (
    "claim", "the paper", "ours", "beside it", "zoos × networks", "distance", "verdict", "because", "what was run",
    "command, date, machine",
)  # fmt: skip
INTRODUCTION = """# The paper's claims, and ours

Written by `python -m benchmarks.scoreboard` from the files beside it; notebook 12 says how to read it. Figures of the
paper were read second-hand (each says how). *± of the paper*: over networks of one zoo; *ours*: mean over zoos ± mean
spread over networks. *Distance*: to the nearest training network, zoo's own = 1. † The result is older than code that
the row names (comments do not count): `python -m benchmarks.scoreboard --check` says which.
"""


def page(rows: Sequence[Row], entries: Mapping[str, Any]) -> str:
    """The whole table."""
    head = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    return "\n".join([INTRODUCTION, *head, *(f"| {' | '.join(cells(row, entries))} |" for row in rows)]) + "\n"


def cells(row: Row, entries: Mapping[str, Any]) -> list[str]:
    """One line of the page."""
    claim = row.claim
    figures = " beside ".join(filter(None, (paper_figure(claim), paper_figure(claim, "rival"))))
    first = [claim["claim"], "; ".join(filter(None, (figures, claim["paper"]["where"])))]
    if not row.numbers:
        return [*first, "", "", "", "", row.verdict(), row.why(), claim.get("here", ""), ""]
    machine = row.about.get("machine", row.about.get("processor", ""))
    machine = ", ".join(f"{k} {v}" for k, v in machine.items()) if isinstance(machine, Mapping) else machine
    return [
        *first, our_figure(row), our_figure(row, "rival"), f"{row.repeats} × {row.networks or '?'}",
        distance_figure(row), f"**{row.verdict()}**{f' {OLD}' if what_is_old(row, entries, ROOT) else ''}", row.why(),
        claim["here"], f"`{row.about['command']}`, {row.about['date']}, {machine}".rstrip(", "),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; say whether the files are up to date")
    check = parser.parse_args().check
    content, text = build()
    texts = {OUT: json_text(content), OUT.with_suffix(".md"): text}
    if check:
        old = {path: path.read_text(encoding="utf-8") if path.is_file() else None for path in texts}
        differ = [path.name for path, new in texts.items() if old[path] != new]
        for row in read_rows(ROOT):
            for file in what_is_old(row, content["rows"], ROOT):
                print(f"{row.name}: older than {file}")
        print(f"not as it would be written: {', '.join(differ)}" if differ else "the table is as it would be written")
        return int(bool(differ))
    for path, new in texts.items():
        write_atomic(path, new)
    for row in content["rows"].values():
        print(f"{row['verdict']:22} {row['claim']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
