"""Accurate *and* new: in which zoos do generators make networks that are both, and which generators?

    python -m benchmarks.new_and_accurate --few [--regimes digits-128-fast1 …] [--list]   # to choose a regime
    python -m benchmarks.new_and_accurate --split test --regimes … [--seeds 0 1 2]        # to report

A regime is a task, a network and a recipe. For each seed: a zoo and held-out networks, in several bases (matched to a
member; to the mean, round after round; this with every unit's scale fixed before; not aligned). Both bars come from the
zoo alone, before anything is generated. A generator with a width (noise around the mean, noise around members,
mixtures) is made so wide that all but a twentieth of its networks pass the bar of distance: by distances alone, no
score chooses it. Where units are balanced, it is by 64 inputs of the calibration split without their labels, and rivals
have the same choice, between two candidates. Everything is measured up to the symmetries of the network.
Regimes are compared on the validation split; the test split is for those that were chosen before, and its runs are kept
in a file of their own.
Regimes and seeds found in the file are not run again. MNIST is read from $DWFLOW_DATA.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from torch import Tensor

from benchmarks.kept import ZOOS, run_missing
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
    BalancedUnits,
    ClosedFormFlow,
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
from dwflow_lite.symmetry import fix_gauge

RECIPES = {
    "adam": Recipe(optimizer="adam"),
    "adamw0.1": Recipe(optimizer="adamw", weight_decay=0.1),
    "adamw1": Recipe(optimizer="adamw", weight_decay=1.0),
    "adamw5": Recipe(optimizer="adamw", weight_decay=5.0),
    "sgd": Recipe(optimizer="sgd", lr=0.05, weight_decay=5e-3),
    # The best of ``recipes`` at width 160 that decays; and fast0.3 for twice as long, within half a point of it.
    "steep0.0005": Recipe(optimizer="sgd", lr=0.2, weight_decay=5e-4),
    "long0.3": Recipe(optimizer="adamw", lr=3e-3, weight_decay=0.3),
    # Weight decay acts within 1 / (lr · decay) steps: with a larger rate it is done within the training.
    **{f"fast{decay:g}": Recipe(optimizer="adamw", lr=3e-3, weight_decay=decay) for decay in (0, 0.1, 0.3, 1, 3, 10)},
    **{f"large{d:g}": Recipe(optimizer="adamw", lr=3e-3, weight_decay=d, batch_size=512) for d in (1.0, 0.3)},
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
        return train_zoo(task, network, recipe=recipe, checkpoint=ZOOS, **sizes)


DIGITS = [Regime("digits", (w,), "fast1", epochs=60) for w in (128, 160, 32, 64, 256, 512)]
DIGITS += [Regime("digits", (w, w), "fast1", epochs=60) for w in (32, 64, 128, 256)]
DIGITS += [Regime("digits", (128,), recipe, epochs=60) for recipe in ("fast0", "fast0.3", "fast3", "adam", "sgd")]
DIGITS += [Regime("digits", (128,), "fast1", epochs=60, members=n) for n in (30, 300)]
# At the width at which three quarters pass both bars: weight decay over two decades, and the number of members.
DIGITS += [Regime("digits", (160,), f"fast{d}", epochs=60, members=50) for d in ("0", "0.1", "0.3", "3", "10")]
DIGITS += [Regime("digits", (160,), "fast1", epochs=60, members=n) for n in (30, 300, 1000)]
# Recipes within half a point of the best.
DIGITS += [Regime("digits", (w,), "long0.3", epochs=120) for w in (160, 256, 384)]
DIGITS += [Regime("digits", (256,), "long0.3", epochs=120, members=300)]
DIGITS += [Regime("digits", (w,), "steep0.0005", epochs=60) for w in (160, 256)]
# Deeper and wider, half as many members.
WIDE = [(w,) for w in (64, 160, 512, 1024)] + [(w, w) for w in (128, 256, 512)] + [(w, w, w) for w in (128, 256, 512)]
DIGITS += [Regime("digits", hidden, "fast1", epochs=60, members=50) for hidden in WIDE]
MNIST = [Regime("mnist", (w,), recipe, epochs=5, members=50) for w in (512, 1024) for recipe in ("large1", "half1")]
# Within half a point of the best recipe, at 512 units.
MNIST += [Regime("mnist", (w,), "large0.3", epochs=20, members=30, held_out=10) for w in (512, 768, 1024)]
REGIMES = {regime.name: regime for regime in DIGITS + MNIST}


BASES: dict[str, Callable[[Zoo, int], Zoo]] = {
    "universe": lambda zoo, seed: canonicalise(zoo, rounds=10, seed=seed),
    "reference": lambda zoo, seed: canonicalise(zoo, seed=seed),
    "universe, scales fixed": lambda zoo, seed: canonicalise(fix_gauge(zoo), rounds=10, seed=seed),
    "not aligned": lambda zoo, seed: zoo,
}
# What ``--few`` measures, to compare regimes.
FEW_BASES = ("universe", "not aligned")
FEW = (
    "mixture of all",
    "mixture of all, factor 1",
    "Gaussian on codes, wider",
    "Gaussian on codes",
    "zoo + noise",
    "Gaussian on weights, narrower",
    "Gaussian on weights",
    "affine mixture of 5",
    "unit crossover of all",
    "unit crossover of all, wider",
    "units of all in balance",
    "Gaussian on weights, in balance",
)


FLOWS = {"flow, default", "flow, matched source, best held-out", "flow on 2 codes, others drawn"}
BALANCED_BY = 64  # inputs, without their labels


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

    def distance_of(weights: Tensor) -> Tensor:
        return reading.distance_of(Rows(weights), spec, seed=0)

    return least_width(make, zoo, distance_of, float(reading.distance.quantile(LOWEST_SHARE)), low, high, steps)


def least_width(
    make: Callable[[float], Generator], zoo: Zoo, distance_of: Callable[[Tensor], Tensor], bar: float,
    low: float, high: float, steps: int,
) -> float:  # fmt: skip
    """The width between two at which all but a twentieth of a generator's networks (n, d) are beyond a bar of distance.

    By bisection, so that it is known to a 2^steps-th of what lies between.
    """
    for _ in range(steps):
        middle = (low + high) / 2
        made = make(middle).fit(zoo).sample(40, seed=0)
        if float(distance_of(made.weights).quantile(LOWEST_SHARE)) < bar:
            low = middle
        else:
            high = middle
    return high


def generators(zoo: Zoo, task: Task, seed: int) -> dict[str, Callable[[], Generator]]:
    """All rivals, by names that do not hang on what was measured: called, each gives an unfitted generator.

    Widths are set when it is called, as that takes a while.

    Args:
        zoo: that they will be fitted on.
        task: whose inputs units are balanced by.
        seed: of the flows.
    """
    reading = reading_of(zoo)
    inputs = task.calibration.x[:BALANCED_BY]  # (b, ...)
    signs = partial(AffineMixture, None, "signs")
    children = partial(UnitCrossover, len(zoo.fitted))
    matched = FlowSettings(hidden=256, keep="best")
    leading = partial(LeadingFlow, 2, seed=seed)

    def new(make: Callable[..., Generator], low: float = 0.4) -> Generator:
        return make(factor=as_new(lambda factor: make(factor=factor), zoo, reading, low, high=1.6))

    def noisy(factor: float) -> MemberNoise:
        return MemberNoise(level=factor)

    def in_balance(make: Callable[..., Generator]) -> Callable[..., Generator]:
        return lambda factor: BalancedUnits(make(factor=factor), inputs)

    return {
        "retrieval": Retrieval,
        "closed form": ClosedFormFlow,
        "mixture of all": lambda: new(signs),
        "mixture of all, factor 1": signs,
        "Gaussian on codes, wider": lambda: new(GaussianCodes),
        "Gaussian on codes": GaussianCodes,
        "zoo + noise": lambda: new(noisy, low=0.0),
        "Gaussian on weights, narrower": lambda: new(GaussianWeights),
        "Gaussian on weights": GaussianWeights,
        "affine mixture of 5": lambda: AffineMixture(5),
        "pair interpolation": PairInterpolation,
        "soup of 10": lambda: Soup(10),
        "unit crossover of 2": lambda: UnitCrossover(2),
        "unit crossover of all": children,
        "unit crossover of all, wider": lambda: new(children),
        "units of all in balance": lambda: new(in_balance(children)),
        "mixture of all, in balance": lambda: new(in_balance(signs)),
        "Gaussian on weights, in balance": lambda: new(in_balance(GaussianWeights)),
        "zoo + noise, in balance": lambda: new(in_balance(noisy), low=0.0),
        "flow, default": lambda: DeepWeightFlow(align=None, seed=seed),
        "flow, matched source, best held-out": lambda: DeepWeightFlow(
            align=None, source="matched", flow=matched, seed=seed
        ),
        "flow on 2 codes, others drawn": lambda: new(leading),
    }


def width_of(rival: Generator) -> dict[str, float]:
    """The width that was set for a generator, or for the one whose units it puts together, if it has one."""
    inner = rival.of if isinstance(rival, BalancedUnits) else rival
    return {name: value for name, value in vars(inner).items() if name in ("factor", "level")}


def one_seed(  # noqa: PLR0913 - what the command line may ask for
    regime: Regime, task: Task, seed: int, samples: int, flows: bool, bases: Sequence[str] = tuple(BASES),
    few: bool = False, *, split: str,
) -> dict:  # fmt: skip
    """Everything that is measured of one regime and seed."""
    start = time.perf_counter()
    zoo = regime.zoo(task, seed)
    found: dict = {"seconds of the zoo": time.perf_counter() - start}
    for basis in bases:
        networks = BASES[basis](zoo, seed)
        makers = generators(networks, task, seed)
        left_out = set() if flows and basis == "universe" else FLOWS
        wanted = FEW if few else [name for name in makers if name not in left_out]
        rivals = {name: makers[name]() for name in wanted}
        made = {name: rival.fit(networks).sample(samples, seed=seed + 1) for name, rival in rivals.items()}
        report = audit(made, networks, task, controls={}, split=split, seed=seed)
        found[basis] = [row.numbers() | {"area": report.area(row.name)} for row in report.rows]
        found["bars" if basis == "universe" else f"bars, {basis}"] = report.bars._asdict()
        found[f"widths, {basis}"] = {name: width_of(rival) for name, rival in rivals.items()}
        print(f"\n{regime.name}, seed {seed}, {basis}\n{report}", flush=True)
    found["seconds"] = time.perf_counter() - start
    return found


def by_regime(runs: dict[str, dict]) -> dict[str, list[dict]]:
    """The runs of each regime, a seed each."""
    found: dict[str, list[dict]] = {}
    for key, run in runs.items():
        found.setdefault(key.split(", ")[0], []).append(run)
    return found


def percent(rows: Sequence[dict]) -> str:
    """Of rows of several seeds: the share over both bars of each, in percent."""
    return ", ".join(f"{100 * row['accurate_and_new']:.0f}" for row in rows)


def luckiest(rows: Sequence[dict]) -> dict:
    """With hindsight: the generator of the largest share over both bars, noise about members aside."""
    return best_of([row for row in rows if row["name"] not in ("zoo", "held-out networks", "zoo + noise")])


def best_of(rows: Sequence[dict]) -> dict:
    """The row of the largest share over both bars."""
    return max(rows, key=lambda row: row["accurate_and_new"], default={"accurate_and_new": float("nan")})


def summary(runs: dict[str, dict]) -> list[str]:
    """A line for each regime: its zoo, what mixtures lose, and the share over both bars of each kind of network.

    The Gaussian on weights counts at the better of its two widths.
    """
    kinds = {
        kind: [kind]
        for kind in (
            "held-out networks",
            "units of all in balance",
            "mixture of all",
            "Gaussian on codes, wider",
            "zoo + noise",
        )
    }
    kinds["Gaussian on weights"] = ["Gaussian on weights", "Gaussian on weights, narrower"]
    heads = ["regime", "zoo", "points lost by mixtures", "their width", *kinds, "best without alignment"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for regime, several in by_regime(runs).items():
        tables = [{row["name"]: row for row in run["universe"]} for run in several if "universe" in run]
        if not tables:
            continue
        zoo = sum(table["zoo"]["score"] for table in tables) / len(tables)
        mixture = sum(table["mixture of all"]["score"] for table in tables) / len(tables)
        widths = [run["widths, universe"]["mixture of all"]["factor"] for run in several if "widths, universe" in run]
        cells = [regime, f"{100 * zoo:.1f} %", f"{100 * (zoo - mixture):.1f}", ", ".join(f"{w:.2f}" for w in widths)]
        for names in kinds.values():
            found = [best_of([table[name] for name in names if name in table]) for table in tables]
            cells.append(percent(found) if any(name in table for name in names for table in tables) else "")
        cells.append(percent([luckiest(run["not aligned"]) for run in several if "not aligned" in run]))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def page(runs: dict[str, dict]) -> str:
    """A line for each regime, then a table: means over seeds, and of the share over both bars each seed."""
    split = "Validation" if all("validation" in key for key in runs) else "Test"
    lines = [
        f"Written by benchmarks/new_and_accurate.py. {split} split; distances up to permutation and scale, zoo = 1.",
        "Width: the factor or level that was set by distance. Several numbers: one for each seed. In percent.",
        "",
        *summary(runs),
    ]
    for regime, several in by_regime(runs).items():
        lines += ["", f"## {regime}", ""]
        lines += [
            "| networks | width | accuracy | distance | kappa | NLL | area | over both bars, each seed |",
            "|---" * 8 + "|",
        ]
        for basis in [name for name in BASES if any(name in run for run in several)]:
            lines.append(f"| **{basis}** |" + " |" * 7)
            tables = [(run, {row["name"]: row for row in run[basis]}) for run in several if basis in run]
            for name in tables[0][1]:
                having = [(run, table[name]) for run, table in tables if name in table]
                rows = [row for _, row in having]
                numbers = ("score", "rematched", "kappa", "nll", "area")
                mean = {number: sum(row[number] for row in rows) / len(rows) for number in numbers}
                of_run = [run.get(f"widths, {basis}", {}).get(name, {}) for run, _ in having]
                widths = [width for found in of_run for width in found.values()]
                width = f"{sum(widths) / len(widths):.2f}" if widths else ""
                lines.append(
                    f"| {name} | {width} | {100 * mean['score']:.1f} % | {mean['rematched']:.2f} | {mean['kappa']:.2f} "
                    f"| {mean['nll']:.3f} | {mean['area']:.2f} | {percent(rows)} % |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regimes", nargs="*", default=list(REGIMES), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--no-flows", action="store_true", help="leave out the generators that need training")
    parser.add_argument("--bases", nargs="*", default=[], choices=list(BASES), help="all, or those of --few")
    parser.add_argument("--few", action="store_true", help="a few generators: to compare regimes")
    parser.add_argument("--split", default="validation", choices=["validation", "test"])
    parser.add_argument("--list", action="store_true", help="say which regimes there are")
    parser.add_argument("--out", type=Path, default=None, help="benchmarks/results/new_and_accurate….json")
    args = parser.parse_args()
    if args.list:
        print("\n".join(REGIMES))
        return
    unknown = sorted(set(args.regimes) - set(REGIMES))
    if unknown:
        parser.error(f"no regimes {', '.join(unknown)}: --list names all of them")
    bases = args.bases or (FEW_BASES if args.few else tuple(BASES))
    # What is left out, and the split, belong to the name of a run: pages show runs of one kind side by side.
    kind = (" few" if args.few else "") + ("" if args.split == "test" else f" {args.split}")
    out = args.out or Path(f"benchmarks/results/new_and_accurate{kind.replace(' ', '_')}.json")

    def job(name: str, seed: int) -> dict:
        task = load_task(REGIMES[name].task, seed=seed)
        flows = not args.no_flows
        return one_seed(REGIMES[name], task, seed, args.samples, flows, bases, args.few, split=args.split)

    jobs = {}
    for seed, name in product(args.seeds, args.regimes):
        jobs[f"{name}, seed {seed}, {args.samples} samples{kind and ',' + kind}"] = partial(job, name, seed)
    run_missing(out, "python -m benchmarks.new_and_accurate", jobs, page)


if __name__ == "__main__":
    main()
