"""What does a round zoo cost? On MNIST, and on digits: width and weight decay against what a mixture loses.

    python -m benchmarks.roundness [--task mnist] [--widths 128 512 1024] [--decays 0 0.1 0.3 1] [--rates 0.003] …

A mixture (the mean plus Σ ± (wᵢ - mean) / √N over all members) is as far from the members as they are from one another.
How good it is says how round the zoo is. Decay makes a zoo rounder, and in few epochs less accurate: so both numbers
stand beside each other, with the same of the Gaussian of the codes, of one for each weight, and of the mixture without
alignment. Accuracies of the validation split: this is where recipes are chosen, nothing is reported of the test split.
Zoos that the file holds are not trained again. MNIST is read from $DWFLOW_DATA.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.kept import run_missing
from dwflow_lite import MLP, Recipe, Zoo, canonicalise, load_task, train_zoo
from dwflow_lite.generate import AffineMixture, GaussianCodes, GaussianWeights
from dwflow_lite.zoo import evaluate

DRAWN = ("mixture", "Gaussian on codes", "Gaussian on weights", "mixture, not aligned")


def one_zoo(task_name: str, width: int, recipe: Recipe, members: int, seed: int) -> dict[str, float]:
    """Accuracies of a zoo, and of what is drawn about its mean."""
    started = time.perf_counter()
    task = load_task(task_name, seed=seed)
    network = MLP([task.train.x[0].numel(), width, task.outputs])
    zoo = train_zoo(task, network, members=members, recipe=recipe, seed=seed)
    trained = time.perf_counter()
    aligned = canonicalise(zoo, rounds=5, seed=seed)

    def accuracy(networks: Zoo) -> tuple[float, float]:
        scores = evaluate(networks, task, split="validation").score
        return float(scores.mean()), float(scores.std())

    mixture = AffineMixture(None, "signs")
    drawn = {
        "mixture": (mixture, aligned),
        "Gaussian on codes": (GaussianCodes(), aligned),
        "Gaussian on weights": (GaussianWeights(), aligned),
        "mixture, not aligned": (mixture, zoo),
    }
    mean, deviation = accuracy(zoo)
    found = {"zoo": mean, "deviation": deviation}
    for name, (generator, networks) in drawn.items():
        found[name], _ = accuracy(generator.fit(networks).sample(members, seed=seed + 1))
    return found | {"seconds of training": trained - started, "seconds": time.perf_counter() - started}


def page(runs: dict[str, dict]) -> str:
    """One row a zoo."""
    lines = [
        "Written by benchmarks/roundness.py. Validation split, accuracies in %; in brackets points below the zoo.",
        "",
    ]
    lines += [
        "| zoo | accuracy | mixture | Gaussian on codes | Gaussian on weights | mixture, not aligned |",
        "|---" * 6 + "|",
    ]
    for name, run in runs.items():
        cells = [f"{100 * run['zoo']:.2f} ± {100 * run['deviation']:.2f}"]
        for kind in DRAWN:
            cells.append(f"{100 * run[kind]:.2f} ({100 * (run['zoo'] - run[kind]):.2f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mnist")
    parser.add_argument("--widths", type=int, nargs="*", default=[128, 512, 1024])
    parser.add_argument("--decays", type=float, nargs="*", default=[0.0, 0.1, 0.3, 1.0])
    parser.add_argument("--rates", type=float, nargs="*", default=[3e-3])
    parser.add_argument("--epochs", type=int, nargs="*", default=[5])
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/roundness.json"))
    args = parser.parse_args()
    jobs = {}
    for seed, width, rate, decay, epochs in product(args.seeds, args.widths, args.rates, args.decays, args.epochs):
        recipe = Recipe(optimizer="adamw", lr=rate, weight_decay=decay, epochs=epochs, batch_size=args.batch_size)
        what = f"{args.task}, {width} units, rate {rate:g}, decay {decay:g}, {epochs} epochs"
        name = f"{what}, {args.members} members, seed {seed}"
        jobs[name] = partial(one_zoo, args.task, width, recipe, args.members, seed)
    run_missing(args.out, "python -m benchmarks.roundness", jobs, page)


if __name__ == "__main__":
    main()
