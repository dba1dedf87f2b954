"""Accurate *and* new: in which zoos do generators make networks that are both, and which generators?

    python benchmarks/new_and_accurate.py [--regimes digits-256-adamw1 …] [--seeds 0 1 2] [--list]

A regime is a task, a network and a recipe. For each seed: a zoo and held-out networks, in three bases (matched to a
member; to the mean, round after round; not aligned). Both bars come from the zoo alone, before anything is generated.
A generator with a width (noise around the mean, noise around members) is set to lie as far from the members as held-out
networks do, by distances alone: no score chooses it. Everything is measured on the test split, up to the symmetries of
the network. Regimes and seeds found in the file with the same settings are not run again.
MNIST is read from $DWFLOW_DATA.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import torch

from dwflow_lite import MLP, DeepWeightFlow, Recipe, Task, Zoo, audit, canonicalise, load_task, train_zoo
from dwflow_lite.auditing import nearest_distance
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import (
    AffineMixture,
    GaussianCodes,
    GaussianWeights,
    Generator,
    MemberNoise,
    PairInterpolation,
    Retrieval,
    Soup,
    UnitCrossover,
)

RECIPES = {
    "adam": Recipe(optimizer="adam"),
    "adamw0.1": Recipe(optimizer="adamw", weight_decay=0.1),
    "adamw1": Recipe(optimizer="adamw", weight_decay=1.0),
    "adamw5": Recipe(optimizer="adamw", weight_decay=5.0),
    "sgd": Recipe(optimizer="sgd", lr=0.05, weight_decay=5e-3),
}


@dataclass(frozen=True)
class Regime:
    """A zoo to be made: its task, the widths of its hidden layers, its recipe, and how many members."""

    task: str
    hidden: tuple[int, ...]
    recipe: str
    epochs: int = 40
    members: int = 100
    held_out: int = 20

    @property
    def name(self) -> str:
        """For example ``digits-128x128-adamw1``; members are named where they are not 100."""
        few = "" if self.members == 100 else f"-N{self.members}"
        return f"{self.task}-{'x'.join(map(str, self.hidden))}-{self.recipe}{few}"

    def zoo(self, task: Task, seed: int) -> Zoo:
        """The zoo of one seed."""
        inputs = task.train.x[0].numel()
        recipe = replace(RECIPES[self.recipe], epochs=self.epochs)
        network = MLP([inputs, *self.hidden, task.outputs])
        sizes = {"members": self.members, "held_out": self.held_out, "seed": seed}
        return train_zoo(task, network, recipe=recipe, **sizes)


DIGITS = [Regime("digits", (w,), "adamw1") for w in (32, 64, 128, 256, 512, 1024)]
DIGITS += [Regime("digits", (w, w), "adamw1") for w in (32, 64, 128, 256, 512)]
DIGITS += [Regime("digits", (w, w, w), "adamw1") for w in (32, 128, 256)]
DIGITS += [Regime("digits", (w,), "adam") for w in (128, 512)] + [Regime("digits", (256,), "adamw5")]
DIGITS += [Regime("digits", (128, 128), recipe) for recipe in ("adam", "adamw0.1", "adamw5", "sgd")]
DIGITS += [Regime("digits", (256,), "adamw1", members=n) for n in (30, 300)]
MNIST = [Regime("mnist", (w,), "adamw1", epochs=3, members=50, held_out=20) for w in (128, 512, 1024)]
REGIMES = {regime.name: regime for regime in DIGITS + MNIST}


def as_far(make: Callable[[float], Generator], zoo: Zoo, low: float, high: float, steps: int = 12) -> float:
    """The width at which a generator's median distance to the nearest member is that of held-out networks.

    Args:
        make: an unfitted generator of a width.
        zoo: with held-out members.
        low, high: between which the width lies.
        steps: of bisection.
    """
    members = zoo.fitted.weights
    wanted = float(nearest_distance(zoo.unseen.weights, members).median())
    for _ in range(steps):
        middle = (low + high) / 2
        made = make(middle).fit(zoo).sample(20, seed=0)
        if float(nearest_distance(made.weights, members).median()) < wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def generators(zoo: Zoo, seed: int, flows: bool) -> dict[str, Generator]:
    """All rivals, unfitted; those with a width as far from the members as held-out networks are."""
    factor = as_far(lambda f: GaussianCodes(factor=f), zoo, 0.2, 4.0)
    level = as_far(MemberNoise, zoo, 0.0, 4.0)
    rivals: dict[str, Generator] = {
        "retrieval": Retrieval(),
        f"Gaussian on codes x {factor:.2f}": GaussianCodes(factor=factor),
        "Gaussian on codes": GaussianCodes(),
        f"zoo + {level:.2f} noise": MemberNoise(level),
        "Gaussian on weights": GaussianWeights(),
        "affine mixture of 5": AffineMixture(5),
        "affine mixture of 20": AffineMixture(20),
        "pair interpolation": PairInterpolation(),
        "soup of 10": Soup(10),
        "crossover of 2": UnitCrossover(2),
    }
    if flows:
        matched = FlowSettings(hidden=256, steps=2000, keep="best")
        rivals["flow, default"] = DeepWeightFlow(align=None, seed=seed)
        rivals["flow, matched source, best held-out"] = DeepWeightFlow(
            align=None, source="matched", flow=matched, seed=seed
        )
    return rivals


def one_seed(regime: Regime, task: Task, seed: int, samples: int, flows: bool) -> dict:
    """Everything that is measured of one regime and seed."""
    start = time.perf_counter()
    zoo = regime.zoo(task, seed)
    bases = {
        "universe": canonicalise(zoo, rounds=10, seed=seed),
        "reference": canonicalise(zoo, seed=seed),
        "not aligned": zoo,
    }
    found: dict = {"seconds of the zoo": time.perf_counter() - start}
    for basis, networks in bases.items():
        rivals = generators(networks, seed, flows and basis == "universe")
        made = {name: rival.fit(networks).sample(samples, seed=seed + 1) for name, rival in rivals.items()}
        report = audit(made, networks, task, controls={}, split="test", seed=seed)
        found[basis] = [row.numbers() for row in report.rows]
        print(f"\n{regime.name}, seed {seed}, {basis}\n{report}", flush=True)
    found["seconds"] = time.perf_counter() - start
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regimes", nargs="*", default=list(REGIMES), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--no-flows", action="store_true", help="leave out the generators that need training")
    parser.add_argument("--list", action="store_true", help="say which regimes there are")
    parser.add_argument("--out", default="benchmarks/results/new_and_accurate.json")
    args = parser.parse_args()
    if args.list:
        print("\n".join(REGIMES))
        return
    unknown = sorted(set(args.regimes) - set(REGIMES))
    if unknown:
        parser.error(f"no regimes {', '.join(unknown)}: --list names all of them")
    out = Path(args.out)
    stored = json.loads(out.read_text()) if out.exists() else {"runs": {}}
    for seed in args.seeds:
        for name in args.regimes:
            key = f"{name}, seed {seed}, {args.samples} samples"
            if key in stored["runs"]:
                continue
            task = load_task(REGIMES[name].task, seed=seed)
            stored["runs"][key] = one_seed(REGIMES[name], task, seed, args.samples, not args.no_flows)
            stored |= {"command": "python benchmarks/new_and_accurate.py", "date": date.today().isoformat()}
            stored |= {"machine": {"cpu": platform.machine(), "torch": torch.__version__}}
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
