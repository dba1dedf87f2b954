"""One basin or another? Straight lines from generated networks to members, and what the networks on them score.

    python -m benchmarks.basins [--seeds 0 1 2] [--toy]

Of each kind of network: the line to its nearest member, as both stand and with the member's units matched to it, and
the line to the mean of the zoo. The fall below the straight line between the scores of both ends says whether there is
a barrier; the lowest score on the line, whether one stays among good networks. Two controls: networks of the zoo as it
was trained (not aligned), where as they stand there must be a barrier; and a good network whose units were shuffled,
which has one until it is matched.

The regime is that of ``new_and_accurate`` at which most of the mixtures pass both bars; widths of generators
are set as there, by distance. Test split.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.kept import run_missing
from benchmarks.new_and_accurate import REGIMES, as_new, generators, reading_of
from dwflow_lite import PermutationSpec, Task, Zoo, canonicalise, load_task
from dwflow_lite.auditing.lines import matched_each
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import LeadingFlow
from dwflow_lite.symmetry import linear_barrier

REGIME = REGIMES["digits-160-fast1"]
KINDS = ("mixture of all", "Gaussian on codes, wider", "zoo + noise", "Gaussian on weights", "unit crossover of 2")
POINTS = 11  # networks on a line, both ends included


def nearest_member(networks: Tensor, members: Tensor) -> Tensor:
    """For each network (n, d) the nearest of the members (N, d), as they stand: (n, d)."""
    return members[torch.cdist(networks, members).argmin(1)]


def lines(starts: Tensor, ends: Tensor, zoo: Zoo, task: Task) -> dict[str, float]:
    """Of straight lines between networks (n, d) and (n, d): fall of the score, rise of the loss, lowest score."""
    n = len(starts)
    pairs = [(number, n + number) for number in range(n)]
    both = Zoo(torch.cat([starts, ends]), zoo.layout, zoo.network)
    curve = linear_barrier(both, pairs, task, split="test", points=POINTS, repaired=False)
    lowest = curve.score.amin(1)  # (n,)
    return {
        "fall": float(curve.score_barrier.mean()),
        "largest fall": float(curve.score_barrier.max()),
        "rise of the loss": float(curve.loss_barrier.mean()),
        "lowest score": float(lowest.mean()),
        "distance": float((starts - ends).norm(dim=1).mean()),
    }


def one_seed(seed: int, toy: bool) -> dict:
    """Lines of every kind of network of one seed."""
    regime = replace(REGIME, hidden=(16,), members=6, held_out=3, epochs=2) if toy else REGIME
    samples, turns, flow = (4, 1, FlowSettings(hidden=16, steps=20)) if toy else (40, 5, None)
    task = load_task(regime.task, seed=seed)
    trained = regime.zoo(task, seed)
    zoo = canonicalise(trained, rounds=10, seed=seed)
    spec = PermutationSpec.of(zoo.network)
    rivals = generators(zoo, task, seed)
    leading = partial(LeadingFlow, 2, flow, seed=seed)
    factor = as_new(lambda f: leading(factor=f), zoo, reading_of(zoo), 0.5, 2.0, turns)
    made = {name: rivals[name]().fit(zoo).sample(samples, seed=seed + 1).weights for name in KINDS}
    made["flow on 2 codes, others drawn"] = leading(factor=factor).fit(zoo).sample(samples, seed=seed + 1).weights
    members, raw = zoo.fitted.weights, trained.fitted.weights
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.stack([spec.apply(spec.random(generator), row) for row in made["mixture of all"]])
    kinds = {
        "held-out networks": (zoo.unseen.weights, members),
        **{name: (weights, members) for name, weights in made.items()},
        "mixture of all, units shuffled": (shuffled, members),
        "held-out networks, not aligned": (trained.unseen.weights, raw),
    }
    found: dict = {"accuracy of the zoo": zoo.fitted.scores("test").mean().item()}
    for name, (networks, of_zoo) in kinds.items():
        nearest = nearest_member(networks, of_zoo)
        mean = of_zoo.mean(0).expand_as(networks)
        found[name] = {
            "as they stand": lines(networks, nearest, zoo, task),
            "matched": lines(networks, matched_each(networks, nearest, spec), zoo, task),
            "to the mean": lines(networks, mean, zoo, task),
        }
        print(f"seed {seed}, {name}: {found[name]}", flush=True)
    return found


def page(runs: dict[str, dict]) -> str:
    """A line for each kind of network, means over seeds, in points."""
    several = list(runs.values())
    ways = ("as they stand", "matched", "to the mean")
    heads = [f"{way}: {what}" for way in ways for what in ("fall", "lowest")]
    zoo = sum(run["accuracy of the zoo"] for run in several) / len(several)
    text = [
        f"Written by benchmarks/basins.py. {REGIME.name}, test split, {len(several)} seeds; zoo: {100 * zoo:.1f} %.",
        "Straight lines from each network to its nearest member (as they stand; units matched) and to the zoo's mean.",
        "How far accuracy falls below the line between both ends, and the lowest on it: means over networks, points.",
        "",
        f"| from | {' | '.join(heads)} |",
        "|---" * (1 + len(heads)) + "|",
    ]
    for name in [key for key in several[0] if key != "accuracy of the zoo"]:
        cells = []
        for way in ways:
            for what in ("fall", "lowest score"):
                cells.append(f"{100 * sum(run[name][way][what] for run in several) / len(several):.1f}")
        text.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--toy", action="store_true", help="tiny sizes: whether it runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/basins.json"))
    args = parser.parse_args()
    jobs = {f"seed {seed}": partial(one_seed, seed, args.toy) for seed in args.seeds}
    run_missing(args.out, "python -m benchmarks.basins", jobs, page)


if __name__ == "__main__":
    main()
