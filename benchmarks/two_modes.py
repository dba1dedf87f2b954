"""Where a flow does what a Gaussian cannot: a zoo of two kinds of networks, pooled and aligned together.

    python -m benchmarks.two_modes [--seeds 0 1 2] [--toy]

Half of the members read digits; half were trained on the same images with every label moved on by one. Their hidden
units can be matched, their outputs cannot agree, so the pooled zoo is two clouds, and between them hardly any network
is accurate. A Gaussian on all codes draws from between them. A flow on all codes copies. A flow on the leading codes
alone, where 100 members are many, learns that there are two, and what is left is drawn, from all members or from
those that lie near in the leading codes. What of that is the flow's? Beside it stand a Gaussian for each half, told
which half a member belongs to; and the same draw with no flow at all, whose leading codes are those of a random
member.

A network is accurate if, for one of both tasks, it passes the bar of that half of the zoo (its lowest twentieth), and
new if it passes the bar of distance (the pooled zoo's lowest twentieth). All factors are set by distances alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.kept import run_missing
from benchmarks.new_and_accurate import as_new, reading_of
from dwflow_lite import MLP, DeepWeightFlow, PermutationSpec, Recipe, Task, Zoo, canonicalise, load_task, train_zoo
from dwflow_lite.auditing.audit import LOWEST_SHARE
from dwflow_lite.auditing.streams import Rows
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import AffineMixture, GaussianCodes, Generator, LeadingFlow, MemberNoise
from dwflow_lite.zoo import evaluate

RECIPE = Recipe(optimizer="adamw", lr=3e-3, weight_decay=1.0, epochs=60)
WIDTH, MEMBERS, SAMPLES = 160, 50, 100


def moved_on(task: Task) -> Task:
    """The same images, every label one further."""
    splits = {name: replace(split, y=(split.y + 1) % task.outputs) for name, split in task.splits.items()}
    classes = task.classes[-1:] + task.classes[:-1]
    return replace(task, name=f"{task.name}-moved", splits=splits, classes=classes)


class LeadingRetrieval(LeadingFlow):
    """What :class:`LeadingFlow` has to beat: the leading codes are those of a random member, and nothing is learned."""

    def __init__(self, components: int = 2, factor: float = 1.0, neighbours: int | None = None) -> None:
        untrained = FlowSettings(hidden=2, time_dim=2, steps=1, dropout=0.0)  # it is not asked
        super().__init__(components, untrained, factor, neighbours)

    def _leading(self, n: int, generator: torch.Generator) -> Tensor:
        return self.leading_[torch.randint(len(self.leading_), (n,), generator=generator)]


class GaussianOfHalves:
    """A Gaussian on the codes of each half of a zoo, told which is which: the first half comes first."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def fit(self, zoo: Zoo) -> GaussianOfHalves:
        half = len(zoo) // 2
        parts = (range(half), range(half, len(zoo)))
        self.halves = [GaussianCodes(factor=self.factor).fit(zoo.take(list(part))) for part in parts]
        return self

    def sample(self, n: int, *, seed: int) -> Zoo:
        drawn = [half.sample(n // 2, seed=seed + number) for number, half in enumerate(self.halves)]
        return Zoo(torch.cat([part.weights for part in drawn]), drawn[0].layout, drawn[0].network)


def scores(networks: Zoo, tasks: tuple[Task, Task]) -> Tensor:
    """Accuracy of n networks on the test split of both tasks, (2, n)."""
    return torch.stack([evaluate(networks, task, "test").score for task in tasks])


def one_seed(seed: int, toy: bool) -> dict:
    """All generators beside the pooled zoo of one seed."""
    members, samples, width, turns = (6, 6, 8, 1) if toy else (MEMBERS, SAMPLES, WIDTH, 7)
    recipe, flow = (Recipe(epochs=2), FlowSettings(hidden=16, steps=20)) if toy else (RECIPE, None)
    copies = FlowSettings(hidden=64, steps=200) if toy else FlowSettings()
    digits = load_task("digits", seed=seed)
    tasks = (digits, moved_on(digits))
    network = MLP([64, width, 10])
    halves = []
    for number, task in enumerate(tasks):
        halves.append(train_zoo(task, network, recipe=recipe, members=members, seed=seed + 1000 * number))
    weights = torch.cat([half.weights for half in halves])
    pooled = canonicalise(Zoo(weights, halves[0].layout, network), rounds=5, seed=seed)

    # Both bars, from the pooled zoo alone.
    spec = PermutationSpec.of(network)
    reading = reading_of(pooled, seed)
    unit, far_enough = reading.distance.median(), reading.distance.quantile(LOWEST_SHARE)
    of_zoo = scores(pooled, tasks)  # (2, 2 * members)
    bars = torch.stack([of_zoo[0, :members].quantile(LOWEST_SHARE), of_zoo[1, members:].quantile(LOWEST_SHARE)])

    def row(networks: Zoo) -> dict[str, float]:
        both = scores(networks, tasks)  # (2, n)
        accurate = (both >= bars[:, None]).any(0)
        distance = reading.distance_of(Rows(networks.weights), spec, seed)
        return {
            "accuracy, better of two": float(both.max(0).values.mean()),
            "reads digits": float((both[0] > both[1]).float().mean()),
            "distance": float(distance.median() / unit),
            "accurate": float(accurate.float().mean()),
            "accurate and new": float((accurate & (distance >= far_enough)).float().mean()),
        }

    signs = partial(AffineMixture, None, "signs")
    makers: dict[str, Callable[[float], Generator]] = {
        "Gaussian on codes": lambda f: GaussianCodes(factor=f),
        "mixture of all": lambda f: signs(factor=f),
        "Gaussian of each half (told which)": GaussianOfHalves,
        "zoo + noise": MemberNoise,
        f"a member's 2 codes, others of the {members // 2} nearest": lambda f: LeadingRetrieval(2, f, members // 2),
    }
    rivals: dict[str, Generator] = {
        name: make(as_new(make, pooled, reading, 0.2, 1.8, turns)) for name, make in makers.items()
    }
    for k, neighbours in ((2, None), (1, members // 2), (2, members // 2), (5, members // 2)):
        leading = partial(LeadingFlow, k, flow, neighbours=neighbours, seed=seed)
        others = "all" if neighbours is None else f"the {neighbours} nearest"
        rivals[f"flow on {k} codes, others of {others}"] = leading(
            factor=as_new(lambda f, leading=leading: leading(factor=f), pooled, reading, 0.5, 2.0, steps=min(turns, 5))
        )
    rivals["flow, default"] = DeepWeightFlow(align=None, flow=copies, seed=seed)
    found = {"bars": {"digits": float(bars[0]), "moved on": float(bars[1]), "distance": float(far_enough / unit)}}
    found["zoo"] = {"accuracy, better of two": float(of_zoo.max(0).values.mean())}
    for name, rival in rivals.items():
        found[name] = row(rival.fit(pooled).sample(samples, seed=seed + 1))
        print(f"seed {seed}, {name}: {found[name]}", flush=True)
    return found


def page(runs: dict[str, dict]) -> str:
    """A line for each kind of networks: means over seeds, and of the share over both bars each seed."""
    lines = ["Written by benchmarks/two_modes.py. Digits and digits moved on by one, pooled; test split; zoo = 1.", ""]
    lines += [
        "| networks | accuracy, better of two | distance | accurate | over both bars, each seed |",
        "|---" * 5 + "|",
    ]
    seeds = list(runs.values())
    for name in (name for name in seeds[0] if name not in ("bars", "zoo")):
        rows = [run[name] for run in seeds]
        accuracy, distance, accurate = (
            sum(row[number] for row in rows) / len(rows)
            for number in ("accuracy, better of two", "distance", "accurate")
        )
        each = ", ".join(f"{100 * row['accurate and new']:.0f}" for row in rows)
        lines.append(f"| {name} | {100 * accuracy:.1f} % | {distance:.2f} | {100 * accurate:.0f} % | {each} % |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--toy", action="store_true", help="tiny sizes: whether it runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/two_modes.json"))
    args = parser.parse_args()
    jobs = {f"seed {seed}": partial(one_seed, seed, args.toy) for seed in args.seeds}
    run_missing(args.out, "python -m benchmarks.two_modes", jobs, page)


if __name__ == "__main__":
    main()
