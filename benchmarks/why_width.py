"""Why do mixtures of aligned networks work when layers are wide? Explanations, and what each of them forbids.

    python -m benchmarks.why_width [--task digits] [--shapes 32 128 32x32 …] [--seeds 0 1 2] [--toy]

A mixture is the mean plus Σ cᵢ (wᵢ - mean) with Σ cᵢ² = 1 over all N members. What could make it a good network?

- *A linear regime*: near the mean, outputs are linear in the weights. Then a network replaced by its linearisation
  about the mean is as good as it is itself.
- *Products that members bring along*: outputs hold products of weights of neighbouring layers. Mixed by c and c', the
  members' own products keep the share ρ = Σ cᵢ c'ᵢ; the products of strangers, cᵢ c'ⱼ, are noise of mean zero. Then
  accuracy rises with ρ from -1 to 1, and c' = c is best.
- *Many units, each a draw of its own*: outputs are sums over units, and the noise of strangers averages out, by the
  square root of the width. Then every unit may have a c of its own, for all that it is made of, and it costs little.
- *The mean is all that counts*: in a layer that is wide enough, even what holds a unit together averages out. Then
  every weight may be drawn by itself, about the mean of that weight and as wide as the members lie about it.

For each shape: the share of right answers lost against the members, of each way to mix, for aligned members and for
members as they were trained. On digits, of the test split; on MNIST (read from $DWFLOW_DATA) of the validation split,
few members and one seed, by a recipe within a quarter point of the best at 512 units. Shapes and seeds that the file
holds are not run again. Beside the file lies ``width_law.json``, for figures: points lost against the width, a curve
for each depth, aligned and not.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call, jvp

from benchmarks.kept import ZOOS, run_missing
from dwflow_lite import MLP, PermutationSpec, Recipe, Task, Zoo, canonicalise, load_task, train_zoo
from dwflow_lite.generate import GaussianWeights
from dwflow_lite.generate.mixtures import owners, points_of_sphere
from dwflow_lite.zoo import evaluate

WIDTHS = {1: (32, 64, 128, 256, 512, 1024), 2: (32, 64, 128, 256, 512), 3: (32, 64, 128, 256)}  # by depth


@dataclass(frozen=True)
class Setting:
    """What is asked on one task: of which shapes, trained how, how many members and mixtures, read on which split."""

    shapes: tuple[str, ...]
    recipe: Recipe
    members: int
    held_out: int
    samples: int
    split: str
    seeds: tuple[int, ...]


SHAPES = tuple("x".join([str(width)] * depth) for depth, widths in WIDTHS.items() for width in widths)
ADAMW = Recipe(optimizer="adamw", lr=3e-3, weight_decay=1.0, epochs=60)
MNIST = replace(ADAMW, weight_decay=0.3, epochs=20, batch_size=512)
SETTINGS = {
    "digits": Setting(SHAPES, ADAMW, members=50, held_out=20, samples=50, split="test", seeds=(0, 1, 2)),
    "mnist": Setting(
        ("64", "128", "256", "512", "1024", "2048"),
        MNIST,
        members=10,
        held_out=0,
        samples=50,
        split="validation",
        seeds=(0,),
    ),
}
TOY = Setting(("8x8",), Recipe(epochs=2), members=6, held_out=2, samples=4, split="test", seeds=(0,))
OVERLAPS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def at_overlap(c: Tensor, overlap: float, generator: torch.Generator) -> Tensor:
    """Points of the sphere (n, N) whose inner product with those of ``c`` (n, N) is ``overlap``."""
    other = torch.randn(c.shape, generator=generator)
    other = torch.nn.functional.normalize(other - (other * c).sum(1, keepdim=True) * c)
    return overlap * c + (1 - overlap**2) ** 0.5 * other


def mixed(zoo: Zoo, coefficients: dict[str, Tensor]) -> Zoo:
    """Networks (n, d) whose tensors are mixed by coefficients (n, N) of their own, by name."""
    weights = zoo.weights
    mean = weights.mean(0)
    n = len(next(iter(coefficients.values())))
    networks = torch.empty(n, weights.shape[1])
    for name, columns in zoo.layout.slices.items():
        networks[:, columns] = mean[columns] + coefficients[name] @ (weights[:, columns] - mean[columns])
    return Zoo(networks, zoo.layout, zoo.network)


def mixed_by_layer(zoo: Zoo, overlap: float, n: int, seed: int) -> Zoo:
    """Every layer by coefficients that overlap so much with those of the layer before."""
    generator = torch.Generator().manual_seed(seed)
    c = points_of_sphere(n, len(zoo), "signs", generator)
    coefficients, layer = {}, None
    for name in zoo.layout.slices:  # layers.0.weight, layers.0.bias, layers.1.weight, …
        if layer not in (None, name.rpartition(".")[0]):
            c = at_overlap(c, overlap, generator)
        layer = name.rpartition(".")[0]
        coefficients[name] = c
    return mixed(zoo, coefficients)


def mixed_by_unit(zoo: Zoo, n: int, seed: int) -> Zoo:
    """Every hidden unit by coefficients of its own, for all weights that belong to it (:func:`owners`)."""
    generator = torch.Generator().manual_seed(seed)
    weights = zoo.weights
    mean = weights.mean(0)
    owner = owners(PermutationSpec.of(zoo.network))  # (d,), -1: of no unit
    networks = torch.empty(n, weights.shape[1])
    for unit in owner.unique().tolist():
        columns = (owner == unit).nonzero().flatten()
        c = points_of_sphere(n, len(zoo), "signs", generator)
        networks[:, columns] = mean[columns] + c @ (weights[:, columns] - mean[columns])
    return Zoo(networks, zoo.layout, zoo.network)


def linearised_accuracy(zoo: Zoo, networks: Zoo, task: Task, split_name: str) -> float:
    """Of each network (n, d) the outputs to first order about the zoo's mean: their share of right answers."""
    mean = zoo.weights.mean(0)
    split = task.split(split_name)
    x = split.inputs(mean)

    def outputs(weights: Tensor) -> Tensor:
        return functional_call(zoo.network, zoo.layout.unflatten(weights), (x,))

    right = []
    for row in networks.weights:
        at_mean, change = jvp(outputs, (mean,), (row - mean,))
        right.append(float(task.score(at_mean + change, split.y)))
    return sum(right) / len(right)


def one_run(task_name: str, shape: str, seed: int, toy: bool) -> dict:
    """All that is measured of one task, shape and seed: accuracies."""
    setting = TOY if toy else SETTINGS[task_name]
    samples = setting.samples
    task = load_task(task_name, seed=seed)

    def accuracy(networks: Zoo) -> float:
        return float(evaluate(networks, task, setting.split).score.mean())

    network = MLP([task.train.x[0].numel(), *map(int, shape.split("x")), task.outputs])
    sizes = {"members": setting.members, "held_out": setting.held_out, "seed": seed}
    trained = train_zoo(task, network, recipe=setting.recipe, checkpoint=None if toy else ZOOS, **sizes)
    found: dict = {"zoo": accuracy(trained.fitted)}
    for basis, zoo in (("aligned", canonicalise(trained, rounds=5, seed=seed)), ("not aligned", trained)):
        fitted = zoo.fitted
        here: dict = {"mean": accuracy(Zoo(fitted.weights.mean(0, keepdim=True), zoo.layout, zoo.network))}
        for overlap in OVERLAPS:
            here[f"overlap {overlap:g}"] = accuracy(mixed_by_layer(fitted, overlap, samples, seed + 1))
        here["each unit by itself"] = accuracy(mixed_by_unit(fitted, samples, seed + 1))
        by_weight = GaussianWeights().fit(fitted).sample(samples, seed=seed + 1)
        here["each weight by itself"] = accuracy(by_weight)
        one_c = mixed_by_layer(fitted, 1.0, samples, seed + 1)
        here["linearised"] = linearised_accuracy(fitted, one_c, task, setting.split)
        here["members, linearised"] = linearised_accuracy(fitted, fitted, task, setting.split)
        found[basis] = here
    return found


def page(task_name: str, runs: dict[str, dict]) -> str:
    """A table: points lost against the zoo, mean over seeds, a row for each shape."""
    setting = SETTINGS[task_name]
    head = (
        f"Points of accuracy lost against the zoo, {task_name}, {setting.split} split, {setting.members} members; "
        "see benchmarks/why_width.py."
    )
    columns = ["mean", *(f"overlap {o:g}" for o in OVERLAPS)]
    columns += ["each unit by itself", "each weight by itself", "linearised"]
    lines = [f"| shape | seeds | zoo | {' | '.join(columns)} |", "|---" * (len(columns) + 3) + "|"]
    for basis in ("aligned", "not aligned"):
        lines.append(f"| **{basis}** |" + " |" * (len(columns) + 2))
        for shape in setting.shapes:
            some = [run for key, run in runs.items() if key.split(", ")[0] == shape]
            if not some:
                continue
            zoo = sum(run["zoo"] for run in some) / len(some)
            lost = [sum(100 * (run["zoo"] - run[basis][column]) for run in some) / len(some) for column in columns]
            lines.append(
                f"| {shape} | {len(some)} | {100 * zoo:.1f} % | " + " | ".join(f"{x:.1f}" for x in lost) + " |"
            )
    return f"{head}\n\n" + "\n".join(lines) + "\n"


def law(runs: dict[str, dict]) -> list[dict]:
    """Curves: points lost against the width, of mixtures and of the mean; one for each depth and basis.

    Returns:
        Of each curve its widths, the mean loss over seeds, each seed's, and the slope of a line through the logarithms
        of both (where at least two widths lose anything): twice the width multiplies the loss by 2 ** slope.
    """
    curves = []
    for basis, depth, (what, column) in product(
        ("aligned", "not aligned"), (1, 2, 3), (("mixture of all", "overlap 1"), ("mean", "mean"))
    ):
        lost: dict[int, list[float]] = {}  # width -> one a seed
        for key, run in sorted(runs.items()):
            widths = key.split(", ")[0].split("x")
            if len(widths) == depth:
                lost.setdefault(int(widths[0]), []).append(100 * (run["zoo"] - run[basis][column]))
        mean = {width: sum(values) / len(values) for width, values in sorted(lost.items())}
        rising = [(math.log(width), math.log(value)) for width, value in mean.items() if value > 0]
        slope = statistics.linear_regression(*zip(*rising, strict=True)).slope if len(rising) > 1 else None
        curve = {"networks": what, "basis": basis, "hidden layers": depth, "width": list(mean)}
        curve |= {"points lost": list(mean.values()), "each seed": [lost[width] for width in mean], "slope": slope}
        curves.append(curve)
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits", choices=list(SETTINGS))
    parser.add_argument("--shapes", nargs="*", default=None, metavar="WIDTHS", help="of hidden layers, such as 64x64")
    parser.add_argument("--seeds", type=int, nargs="*", default=None)
    parser.add_argument("--toy", action="store_true", help="tiny sizes: whether it runs")
    parser.add_argument("--out", type=Path, default=None, help="benchmarks/results/why_width….json")
    args = parser.parse_args()
    setting = SETTINGS[args.task]
    of_task = "" if args.task == "digits" else f"_{args.task}"
    out = args.out or Path(f"benchmarks/results/why_width{of_task}.json")
    jobs = {}
    for seed, shape in product(args.seeds or setting.seeds, args.shapes or setting.shapes):
        jobs[f"{shape}, seed {seed}"] = partial(one_run, args.task, shape, seed, args.toy)
    command = "python -m benchmarks.why_width" + (f" --task {args.task}" if of_task else "")
    run_missing(out, command, jobs, partial(page, args.task))
    stored = json.loads(out.read_text())
    curves = {name: stored[name] for name in ("command", "date", "machine")} | {"curves": law(stored["runs"])}
    out.with_name(f"width_law{of_task}.json").write_text(json.dumps(curves, indent=1) + "\n")


if __name__ == "__main__":
    main()
