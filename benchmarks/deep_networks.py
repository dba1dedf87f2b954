"""Accurate and new in residual networks and transformers: what is left of it, and what stands in the way?

    python -m benchmarks.deep_networks [--setups "ResNet-8" …] [--seeds 0] [--split test] [--audit] [--toy]

A setup is a network of the course and a recipe, on digits. For each, in several bases (weights matched to the mean;
activations matched to a member; both; not aligned): points of accuracy lost at the mean of two members (as it is, and
with statistics brought back), at the mean of all, and by mixtures of all on the sphere. With ``--audit``, of more
members: the share of generated networks over both bars, widths set by distance alone.

What stands in the way is asked by zoos made for it, of eight members each:

- *Shared parts.* All members are trained about one part that was trained once and is then frozen: where a part is the
  same in all members, no order of its units can be missed, and nothing of it is mixed. What mixtures then lose less is
  what this part costs.
- *Wider parts.* Only one stage is made wider. If narrow layers are what stands in the way, widening those that cost
  most must help most.

Setups are compared on validation; ``--split test`` is for reports. Runs that the file holds are not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.kept import ZOOS, run_missing
from benchmarks.new_and_accurate import least_width
from dwflow_lite import MLP, PermutationSpec, Recipe, Task, Zoo, audit, canonicalise, load_task, train_zoo
from dwflow_lite.auditing import nearest_distance
from dwflow_lite.auditing.audit import LOWEST_SHARE
from dwflow_lite.batchnorm import recalibrate
from dwflow_lite.generate import AffineMixture, GaussianCodes, GaussianWeights, Generator, MemberNoise
from dwflow_lite.networks import ResNet, ViT
from dwflow_lite.symmetry import activation_matching, linear_barrier
from dwflow_lite.zoo import evaluate

MEMBERS, AUDITED, HELD_OUT, SAMPLES = 8, 30, 10, 40


@dataclass(frozen=True)
class Setup:
    """A zoo to be made.

    Attributes:
        network: a template.
        recipe: of every member.
        shared: parts, by the beginnings of their parameters' names, that are trained once and then frozen for all.
    """

    network: nn.Module
    recipe: Recipe
    shared: tuple[str, ...] = ()

    @property
    def spec(self) -> PermutationSpec:
        """What moves together; of a transformer the stream too."""
        is_transformer = isinstance(self.network, ViT)
        return PermutationSpec.of(self.network, stream=True) if is_transformer else PermutationSpec.of(self.network)

    def zoo(self, task: Task, members: int, held_out: int, seed: int) -> Zoo:
        """The zoo of one seed."""
        template = self.network
        if self.shared:
            first = train_zoo(task, self.network, recipe=self.recipe, members=1, seed=seed + 100)
            template = deepcopy(self.network)
            template.load_state_dict(
                {name: tensor[0] for name, tensor in first.layout.unflatten(first.weights).items()}
            )
            for name, parameter in template.named_parameters():
                parameter.requires_grad_(not name.startswith(self.shared))
        sizes = {"members": members, "held_out": held_out, "seed": seed}
        checkpoint = None if self.shared else ZOOS
        return train_zoo(task, template, recipe=self.recipe, checkpoint=checkpoint, **sizes)


def resnet(widths: tuple[int, ...] = (16, 32, 64), norm: str = "layer") -> ResNet:
    return ResNet(widths, 1, channels=1, norm=norm)


def vit(dim: int = 48) -> ViT:
    return ViT(8, 2, dim, 2, 3, channels=1)


SGD = Recipe(15, optimizer="sgd", lr=0.05)
DECAYED = Recipe(15, optimizer="adamw", lr=3e-3, weight_decay=1.0)
FOR_VIT = Recipe(40, optimizer="adamw", lr=2e-3, weight_decay=0.1)
SETUPS = {
    "MLP 128x128": Setup(MLP([64, 128, 128, 10]), replace(DECAYED, epochs=60)),
    "ResNet-8": Setup(resnet(), SGD),
    "ResNet-8, decay": Setup(resnet(), DECAYED),
    "ResNet-8 batch": Setup(resnet(norm="batch"), SGD),
    "ResNet-8 batch, decay": Setup(resnet(norm="batch"), DECAYED),
    "ViT": Setup(vit(), FOR_VIT),
    "ViT, decay": Setup(vit(), replace(FOR_VIT, weight_decay=1.0)),
}


def in_blocks(*parts: str) -> tuple[str, ...]:
    """The beginnings of the names of these parts in both blocks of the transformer."""
    return tuple(f"blocks.{number}.{part}" for number in range(2) for part in parts)


RESNET_PARTS = {
    "first stage": ("stem", "stages.0"),
    "second stage": ("stages.1",),
    "third stage": ("stages.2", "head"),
}
VIT_PARTS = {
    "embedding": ("patches", "tokens"),
    "attention": in_blocks("norm1", "query", "key", "value", "project"),
    "perceptrons": in_blocks("norm2", "up", "down"),
    "embedding and head": ("patches", "tokens", "norm", "head"),
}
WIDER = {"first": (32, 32, 64), "second": (16, 64, 64), "third": (16, 32, 128)}
for part, names in RESNET_PARTS.items():
    SETUPS[f"ResNet-8, shared {part}"] = Setup(resnet(), SGD, names)
for stage, widths in WIDER.items():
    SETUPS[f"ResNet-8, wider {stage} stage"] = Setup(resnet(widths), SGD)
for part, names in VIT_PARTS.items():
    SETUPS[f"ViT, shared {part}"] = Setup(vit(), FOR_VIT, names)


def by_activations(zoo: Zoo, task: Task, spec: PermutationSpec) -> Zoo:
    """Every member, its units permuted to do what those of the first do on the training split."""
    x = task.train.inputs(zoo.weights)
    first = zoo.weights[0]
    rows = [first]
    for row in zoo.weights[1:]:
        rows.append(activation_matching(first, row, spec, zoo.network, x).apply(spec, row))
    return Zoo(torch.stack(rows), zoo.layout, zoo.network, {}, zoo.held_out)


def bases(zoo: Zoo, task: Task, spec: PermutationSpec, seed: int) -> dict[str, Zoo]:
    """Name -> the zoo in this basis."""
    doing = by_activations(zoo, task, spec)
    mean = doing.fitted.weights.mean(0)
    return {
        "weights": canonicalise(zoo, spec, rounds=10, seed=seed),
        "activations": doing,
        "activations, then weights": canonicalise(doing, spec, reference=mean, restarts=0, rounds=10, seed=seed),
        "not aligned": zoo,
    }


def scores(networks: Zoo, task: Task, split: str) -> Tensor:
    """Accuracy of each network, statistics of BatchNorm measured afresh, (n,)."""
    return evaluate(recalibrate(networks, task), task, split).score


def losses(zoo: Zoo, task: Task, split: str, seed: int) -> dict[str, float]:
    """Points lost against the members: by means of two and of all, and by mixtures of all.

    And the share of the mixtures, in percent, that pass the bar of accuracy: no more can pass both bars.
    """
    fitted = zoo.fitted
    members = evaluate(fitted, task, split).score  # (N,)
    pairs = [(member, member + 1) for member in range(0, len(fitted) - 1, 2)]
    curve = linear_barrier(fitted, pairs, task, split=split, points=3)
    mean = Zoo(fitted.weights.mean(0, keepdim=True), zoo.layout, zoo.network)
    mixture = AffineMixture(None, "signs").fit(zoo).sample(SAMPLES, seed=seed + 1)
    mixed = scores(mixture, task, split)
    found = {
        "mean of two": curve.score[:, 1],
        "mean of two, repaired": curve.repaired.score[:, 1],
        "mean of all": scores(mean, task, split),
        "mixture of all": mixed,
    }
    lost = {name: 100 * float(members.mean() - score.mean()) for name, score in found.items()}
    return lost | {"mixtures accurate": 100 * float((mixed >= members.quantile(LOWEST_SHARE)).float().mean())}


def as_far(make: Callable[[float], Generator], zoo: Zoo, high: float, steps: int = 7) -> float:
    """The width at which all but a twentieth of a generator's networks pass the zoo's bar, of plain distance."""
    columns = torch.cat([torch.full((entry.size,), entry.role == "parameter") for entry in zoo.layout.entries])
    members = zoo.fitted.weights[:, columns]
    bar = float(nearest_distance(members, members, skip_self=True).quantile(LOWEST_SHARE))

    def distance_of(weights: Tensor) -> Tensor:
        return nearest_distance(weights[:, columns], members)

    return least_width(make, zoo, distance_of, bar, 0.0, high, steps)


def shares(zoo: Zoo, task: Task, split: str, seed: int) -> dict[str, dict]:
    """The audit of a few generators in one basis, widths set by distance."""
    makers: dict[str, Callable[[float], Generator]] = {
        "mixture of all": lambda f: AffineMixture(None, "signs", f),
        "Gaussian on codes, wider": lambda f: GaussianCodes(factor=f),
        "zoo + noise": MemberNoise,
    }
    rivals = {name: make(as_far(make, zoo, 2.0)) for name, make in makers.items()}
    rivals["Gaussian on weights"] = GaussianWeights()
    made = {}
    for name, rival in rivals.items():
        made[name] = recalibrate(rival.fit(zoo).sample(SAMPLES, seed=seed + 1), task)
    report = audit(made, zoo, task, controls={}, split=split, seed=seed)
    print(report, flush=True)
    return {row.name: row.numbers() for row in report.rows}


def one_run(name: str, seed: int, split: str, audited: bool, toy: bool = False) -> dict:
    """Everything that is measured of one setup and seed."""
    setup = SETUPS[name]
    members, held_out = (AUDITED, HELD_OUT) if audited else (MEMBERS, 0)
    if toy:
        setup, members, held_out = replace(setup, recipe=Recipe(1)), 4, 2
    task = load_task("digits", seed=seed)
    trained = setup.zoo(task, members, held_out, seed)
    evaluation = evaluate(trained.fitted, task, split)
    found: dict = {"weights": trained.layout.size, "members": members, "accuracy": float(evaluation.score.mean())}
    in_basis = bases(trained, task, setup.spec, seed)
    found["points lost"] = {basis: losses(zoo, task, split, seed) for basis, zoo in in_basis.items()}
    print(f"{name}, seed {seed}: {found}", flush=True)
    if audited:
        chosen = {basis: losses(zoo, task, "validation", seed)["mixture of all"] for basis, zoo in in_basis.items()}
        best = min(chosen, key=chosen.get)
        found |= {"basis": best, "shares": shares(in_basis[best], task, split, seed)}
        found["shares, not aligned"] = shares(trained, task, split, seed)
    return found


def page(runs: dict[str, dict]) -> str:
    """Points lost of each setup in each basis; then the shares over both bars."""
    columns = ("mean of two", "mean of two, repaired", "mean of all", "mixture of all", "mixtures accurate")
    lines = [
        "Written by benchmarks/deep_networks.py. Digits; points of accuracy lost against the members. Last, the share",
        "of mixtures (in percent) that pass the bar of accuracy, the lowest twentieth of the members. (Of eight,",
        "one choice of signs in 32 gives a network close to a member: accurate, aligned or not, but not new.)",
        "",
        f"| run | members | zoo | basis | {' | '.join(columns)} |",
        "|---" * (4 + len(columns)) + "|",
    ]
    for key, run in runs.items():
        head = f"| {key} | {run['members']} | {100 * run['accuracy']:.1f} % "
        for basis, lost in run["points lost"].items():
            lines.append(
                f"{head}| {basis} | " + " | ".join(f"{lost[c]:.1f}" if c in lost else "–" for c in columns) + " |"
            )
    lines += ["", "| run | basis | networks | accuracy | distance | over both bars |", "|---" * 6 + "|"]
    for key, run in runs.items():
        for kind, basis in (("shares", run.get("basis", "")), ("shares, not aligned", "not aligned")):
            for name, row in run.get(kind, {}).items():
                cells = f"{100 * row['score']:.1f} % | {row['rematched']:.2f} | {100 * row['accurate_and_new']:.0f} %"
                lines.append(f"| {key} | {basis} | {name} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setups", nargs="*", default=list(SETUPS), metavar="NAME", choices=list(SETUPS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--split", default="validation", choices=["validation", "test"])
    parser.add_argument("--audit", action="store_true", help="more members, and shares over both bars")
    parser.add_argument("--toy", action="store_true", help="tiny sizes: whether it runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/deep_networks.json"))
    args = parser.parse_args()
    jobs = {}
    for seed, name in product(args.seeds, args.setups):
        key = f"{name}; seed {seed}; {args.split}{'; audit' if args.audit else ''}"
        jobs[key] = partial(one_run, name, seed, args.split, args.audit, args.toy)
    run_missing(args.out, "python -m benchmarks.deep_networks", jobs, page)


if __name__ == "__main__":
    main()
