"""How hard glyphs are, how long they take to draw, and the picture of them in data/.

    python -m benchmarks.glyphs [--seeds 0 1 2] [--picture data/glyphs.png] [--toy]

For each seed: an MLP with two hidden layers of 64 units and a ResNet-8 are trained on the digits, upright, by default
difficulty, and read the test split once. Seeds that the file holds are not run again.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from benchmarks.kept import run_missing
from dwflow_lite import MLP, Recipe, evaluate, load_task, train_zoo
from dwflow_lite.networks import ResNet
from dwflow_lite.tasks import DOMAINS, SYMBOLS, Task
from dwflow_lite.tasks.strokes import DIGITS

COUNTS = ("train", "calibration", "validation", "test")
TOY = dict.fromkeys(COUNTS, 40)
NETWORKS: dict[str, tuple[nn.Module, Recipe]] = {
    "MLP 144-64-64-10": (MLP([144, 64, 64, 10]), Recipe(epochs=20)),
    "ResNet-8": (ResNet((16, 32, 64), 1, channels=1), Recipe(epochs=10)),
}


def drawn(toy: bool) -> dict[str, float]:
    """CPU seconds to draw all 19,000 images of each set of symbols."""
    seconds = {}
    for symbols in SYMBOLS:
        start = time.process_time()
        load_task("glyphs", symbols=symbols, **(TOY if toy else {}))
        seconds[symbols] = time.process_time() - start
    return seconds


def read(name: str, seed: int, members: int, toy: bool) -> dict[str, object]:
    """Share of the test images that each of some networks reads, and CPU seconds of training them all."""
    task: Task = load_task("glyphs", seed=seed, **(TOY if toy else {}))
    network, recipe = NETWORKS[name]
    start = time.process_time()
    zoo = train_zoo(task, network, members=members, seed=seed, recipe=Recipe(epochs=1) if toy else recipe)
    seconds = time.process_time() - start
    found = {"accuracy": evaluate(zoo, task, "test").score.tolist(), "CPU seconds": seconds}
    print(f"{name}, seed {seed}: {found}", flush=True)
    return found


def draw_glyphs(seed: int = 0, rows: int = 2) -> Figure:
    """Every symbol in every domain, ``rows`` times: digits to the left, letters to the right."""
    figure = Figure(figsize=(11, 0.75 * rows * len(DOMAINS) / 2), layout="compressed")
    wide = [len(DIGITS), len(SYMBOLS["letters"])]
    axes = figure.subplots(len(DOMAINS), 2, gridspec_kw={"width_ratios": wide})
    for of_domain, domain in zip(axes, DOMAINS, strict=True):
        for ax, symbols in zip(of_domain, ("digits", "letters"), strict=True):
            classes = len(SYMBOLS[symbols])
            counts = dict.fromkeys(COUNTS, classes) | {"train": rows * classes}
            images = load_task("glyphs", seed=seed, symbols=symbols, domain=domain, **counts).train.x[:, 0].numpy()
            images = np.pad(images, ((0, 0), (0, 1), (0, 1)), constant_values=0.5)  # a grey line between them
            board = images.reshape(rows, classes, *images.shape[1:]).transpose(0, 2, 1, 3)  # (rows, h, classes, w)
            board = board.reshape(board.shape[0] * board.shape[1], -1)
            ax.imshow(board, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        of_domain[0].set_ylabel(domain, fontsize=8)
    axes[0, 0].set_title("digits", fontsize=9)
    axes[0, 1].set_title("letters", fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--members", type=int, default=2, help="networks of each kind and seed")
    parser.add_argument("--toy", action="store_true", help="tiny sizes: whether it runs")
    parser.add_argument("--picture", type=Path, help="draw this PNG, and no more")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/glyphs.json"))
    args = parser.parse_args()
    if args.picture is not None:
        draw_glyphs().savefig(args.picture, dpi=110, pil_kwargs={"optimize": True})
        return
    torch.set_num_threads(1)
    jobs = {"CPU seconds to draw 19,000 images": partial(drawn, args.toy)}
    for seed in args.seeds:
        for name in NETWORKS:
            jobs[f"{name}, seed {seed}"] = partial(read, name, seed, args.members, args.toy)
    run_missing(args.out, "python -m benchmarks.glyphs", jobs)


if __name__ == "__main__":
    main()
