"""Accurate *and* new: in which zoos do generators make networks that are both, and which generators?

    python -m benchmarks.new_and_accurate [--regimes digits-128-fast1 …] [--seeds 0 1 2] [--list]

A regime is a task, a network and a recipe. For each seed: a zoo and held-out networks, in three bases (matched to a
member; to the mean, round after round; not aligned). Both bars come from the zoo alone, before anything is generated.
A generator with a width (noise around the mean, noise around members, mixtures) is made so wide that all but a
twentieth of its networks pass the bar of distance: by distances alone, no score chooses it. Everything is measured on
the test split, up to the symmetries of the network. Regimes and seeds found in the file are not run again.
MNIST is read from $DWFLOW_DATA.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.kept import run_missing
from dwflow_lite import (
    MLP,
    DeepWeightFlow,
    PermutationSpec,
    Recipe,
    Task,
    Zoo,
    audit,
    canonicalise,
    load_task,
    train_zoo,
)
from dwflow_lite.auditing.audit import LOWEST_SHARE, Reading
from dwflow_lite.auditing.streams import Rows
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import (
    AffineMixture,
    GaussianCodes,
    GaussianWeights,
    Generator,
    LeadingFlow,
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
    # Weight decay acts within 1 / (lr · decay) steps: with a larger rate it is done within the training.
    "fast0": Recipe(optimizer="adamw", lr=3e-3, weight_decay=0.0),
    "fast0.3": Recipe(optimizer="adamw", lr=3e-3, weight_decay=0.3),
    "fast1": Recipe(optimizer="adamw", lr=3e-3, weight_decay=1.0),
    "fast3": Recipe(optimizer="adamw", lr=3e-3, weight_decay=3.0),
    "large1": Recipe(optimizer="adamw", lr=3e-3, weight_decay=1.0, batch_size=512),
    "half1": Recipe(optimizer="adamw", lr=3e-3, weight_decay=1.0, batch_size=512, precision="bfloat16"),
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
        """For example ``digits-128x128-fast1``; members are named where they are not 100."""
        few = "" if self.members == 100 else f"-N{self.members}"
        return f"{self.task}-{'x'.join(map(str, self.hidden))}-{self.recipe}{few}"

    def zoo(self, task: Task, seed: int) -> Zoo:
        """The zoo of one seed."""
        inputs = task.train.x[0].numel()
        recipe = replace(RECIPES[self.recipe], epochs=self.epochs)
        network = MLP([inputs, *self.hidden, task.outputs])
        sizes = {"members": self.members, "held_out": self.held_out, "seed": seed}
        return train_zoo(task, network, recipe=recipe, **sizes)


DIGITS = [Regime("digits", (w,), "fast1", epochs=60) for w in (128, 160, 32, 64, 256, 512)]
DIGITS += [Regime("digits", (w, w), "fast1", epochs=60) for w in (32, 64, 128, 256)]
DIGITS += [Regime("digits", (128,), recipe, epochs=60) for recipe in ("fast0", "fast0.3", "fast3", "adam", "sgd")]
DIGITS += [Regime("digits", (128,), "fast1", epochs=60, members=n) for n in (30, 300)]
MNIST = [Regime("mnist", (w,), recipe, epochs=5, members=50) for w in (512, 1024) for recipe in ("large1", "half1")]
REGIMES = {regime.name: regime for regime in DIGITS + MNIST}


def reading_of(zoo: Zoo, seed: int = 0) -> Reading:
    """The fitted members, matched and measured once: distances up to permutation."""
    return Reading.of(Rows(zoo.fitted.weights), PermutationSpec.of(zoo.network), seed)


def as_new(
    make: Callable[[float], Generator], zoo: Zoo, reading: Reading, low: float, high: float, steps: int = 7
) -> float:  # fmt: skip
    """The width at which all but the lowest twentieth of a generator's networks pass the bar of distance.

    Args:
        make: an unfitted generator of a width.
        zoo: that it is fitted on.
        reading: of the zoo, whose own lowest twentieth is the bar.
        low, high: between which the width lies.
        steps: of bisection.
    """
    spec = PermutationSpec.of(zoo.network)
    bar = float(reading.distance.quantile(LOWEST_SHARE))
    for _ in range(steps):
        middle = (low + high) / 2
        made = make(middle).fit(zoo).sample(40, seed=0)
        distance = reading.distance_of(Rows(made.weights), spec, seed=0)
        if float(distance.quantile(LOWEST_SHARE)) < bar:
            low = middle
        else:
            high = middle
    return high


def generators(zoo: Zoo, seed: int, flows: bool) -> dict[str, Generator]:
    """All rivals, unfitted, by names that do not hang on what was measured."""
    signs = partial(AffineMixture, None, "signs")
    new_at = partial(as_new, zoo=zoo, reading=reading_of(zoo), high=1.6)
    rivals: dict[str, Generator] = {
        "retrieval": Retrieval(),
        "mixture of all": signs(factor=new_at(lambda f: signs(factor=f), low=0.4)),
        "Gaussian on codes, wider": GaussianCodes(factor=new_at(lambda f: GaussianCodes(factor=f), low=0.4)),
        "Gaussian on codes": GaussianCodes(),
        "zoo + noise": MemberNoise(new_at(MemberNoise, low=0.0)),
        "Gaussian on weights": GaussianWeights(),
        "affine mixture of 5": AffineMixture(5),
        "pair interpolation": PairInterpolation(),
        "soup of 10": Soup(10),
        "unit crossover of 2": UnitCrossover(2),
        "unit crossover of all": UnitCrossover(len(zoo.fitted)),
    }
    if flows:
        matched = FlowSettings(hidden=256, keep="best")
        rivals["flow, default"] = DeepWeightFlow(align=None, seed=seed)
        rivals["flow, matched source, best held-out"] = DeepWeightFlow(
            align=None, source="matched", flow=matched, seed=seed
        )
        rivals["flow on 2 codes, others drawn"] = LeadingFlow(2, factor=1.2, seed=seed)
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
        found[basis] = [row.numbers() | {"area": report.area(row.name)} for row in report.rows]
        found["bars" if basis == "universe" else f"bars, {basis}"] = report.bars._asdict()
        print(f"\n{regime.name}, seed {seed}, {basis}\n{report}", flush=True)
    found["seconds"] = time.perf_counter() - start
    return found


def page(runs: dict[str, dict]) -> str:
    """A table for each regime: means over seeds, and of the share over both bars each seed."""
    by_regime: dict[str, list[dict]] = {}
    for key, run in runs.items():
        by_regime.setdefault(key.split(", ")[0], []).append(run)
    lines = ["Written by benchmarks/new_and_accurate.py. Test split; distances up to permutation and scale, zoo = 1."]
    for regime, several in by_regime.items():
        lines += ["", f"## {regime}", ""]
        lines += [
            "| networks | accuracy | distance | kappa | NLL | area | over both bars, each seed |",
            "|---" * 7 + "|",
        ]
        for basis in ("universe", "reference", "not aligned"):
            lines.append(f"| **{basis}** |" + " |" * 6)
            for number, row in enumerate(several[0][basis]):
                rows = [run[basis][number] for run in several]
                mean = {name: sum(r[name] for r in rows) / len(rows) for name in ("score", "kappa", "nll", "area")}
                distance = sum(r["rematched"] for r in rows) / len(rows)
                shares = ", ".join(f"{100 * r['accurate_and_new']:.0f}" for r in rows)
                lines.append(
                    f"| {row['name']} | {100 * mean['score']:.1f} % | {distance:.2f} | {mean['kappa']:.2f} "
                    f"| {mean['nll']:.3f} | {mean['area']:.2f} | {shares} % |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regimes", nargs="*", default=list(REGIMES), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--no-flows", action="store_true", help="leave out the generators that need training")
    parser.add_argument("--list", action="store_true", help="say which regimes there are")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/new_and_accurate.json"))
    args = parser.parse_args()
    if args.list:
        print("\n".join(REGIMES))
        return
    unknown = sorted(set(args.regimes) - set(REGIMES))
    if unknown:
        parser.error(f"no regimes {', '.join(unknown)}: --list names all of them")

    def job(name: str, seed: int) -> dict:
        task = load_task(REGIMES[name].task, seed=seed)
        return one_seed(REGIMES[name], task, seed, args.samples, not args.no_flows)

    jobs = {}
    for seed, name in product(args.seeds, args.regimes):
        jobs[f"{name}, seed {seed}, {args.samples} samples"] = partial(job, name, seed)
    run_missing(args.out, "python -m benchmarks.new_and_accurate", jobs, page)


if __name__ == "__main__":
    main()
