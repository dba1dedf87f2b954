"""Seconds, and by how many MB memory rises, while one PCA of a zoo on disk is fitted in this process.

    python benchmarks/peak_of_pca.py FOLDER BOUND       # BOUND in MB; 0: the zoo is read into memory first

Prints two numbers as JSON. Notebook 08b runs it once for each bound, since memory that was once taken is seldom given
back: only a fresh process tells the peak of one fit.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import psutil
import torch

from dwflow_lite import DualPCA
from dwflow_lite.zoo.storage import read_folder


def main(folder: str, bound: int) -> None:
    """Fit the zoo of a folder under a bound, and print what it took."""
    shards = read_folder(folder)[1]
    DualPCA().fit(torch.randn(9, 1000))  # wakes libraries up
    held, seen, stop = psutil.Process().memory_info, [], threading.Event()
    watcher = threading.Thread(target=lambda: [seen.append(held().rss) for _ in iter(lambda: stop.wait(0.002), True)])
    before, start = held().rss, time.perf_counter()
    watcher.start()
    DualPCA(memory=bound << 20).fit(shards) if bound else DualPCA().fit(shards.columns(slice(None)))
    seconds = time.perf_counter() - start
    stop.set(), watcher.join()
    print(json.dumps([seconds, (max(seen) - before) / 2**20]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
