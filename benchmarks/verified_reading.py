"""What it costs to verify rows on disk when they are first read, beside plain reading in the same run.

    python benchmarks/verified_reading.py            # 300 MB in a scratch folder; minutes

Ratios are of one run on one machine, from the page cache (the worst case: a disk is slower, the hash is not)."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors import safe_open

from dwflow_lite.zoo import append, read_folder, start_folder

RESULTS = Path(__file__).parent / "results" / "verified_reading.json"


def fill(folder, members, size):
    start_folder(folder, {"layout": [], "size": size, "record": {}, "members": members}, "float32")
    for member in range(members):
        append(folder, member, torch.randn(1, size), [{}])


def plain_rows(folder):
    for path in sorted(folder.glob("members-*")):
        with safe_open(path, framework="pt") as file:
            file.get_slice("weights")[:].clone()


def plain_columns(folder, size, chunks):
    paths = sorted(folder.glob("members-*"))
    for start in range(0, size, size // chunks):
        block = torch.empty(len(paths), size // chunks)
        for row, path in enumerate(paths):
            with safe_open(path, framework="pt") as file:
                block[row] = file.get_slice("weights")[:, start : start + size // chunks][0]


def seconds(work, repeats):
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    members, chunks = 30, 8
    size = args.megabytes * 250_000 // members // chunks * chunks
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "zoo"
        fill(folder, members, size)
        opened = read_folder(folder).weights
        list(opened.split(1))  # now all is verified
        content = b"".join(path.read_bytes() for path in folder.glob("members-*"))
        step = size // chunks
        columns = [slice(start, start + step) for start in range(0, size, step)]
        times = {
            "plain rows": seconds(lambda: plain_rows(folder), args.repeats),
            "rows, first time": seconds(lambda: list(read_folder(folder).weights.split(1)), args.repeats),
            "rows, again": seconds(lambda: list(opened.split(1)), args.repeats),
            "plain columns": seconds(lambda: plain_columns(folder, size, chunks), args.repeats),
            "columns, first time": seconds(
                lambda: [weights.columns(part) for weights in [read_folder(folder).weights] for part in columns],
                args.repeats,
            ),
            "columns, again": seconds(lambda: [opened.columns(part) for part in columns], args.repeats),
            "opening": seconds(lambda: read_folder(folder), args.repeats),
            "hash alone": seconds(lambda: hashlib.sha256(content).digest(), args.repeats),
        }
    result = {
        "command": "python benchmarks/verified_reading.py",
        "machine": {"processor": platform.machine(), "python": platform.python_version(), "torch": torch.__version__},
        "megabytes": args.megabytes,
        "members": members,
        "chunks of columns": chunks,
        "seconds": {name: round(value, 4) for name, value in times.items()},
        "ratios": {
            "rows, first time / plain": round(times["rows, first time"] / times["plain rows"], 2),
            "rows, again / plain": round(times["rows, again"] / times["plain rows"], 2),
            "columns, first time / plain": round(times["columns, first time"] / times["plain columns"], 2),
            "columns, again / plain": round(times["columns, again"] / times["plain columns"], 2),
            "first time - again, per hash alone": round(
                (times["rows, first time"] - times["rows, again"]) / times["hash alone"], 2
            ),
        },
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
