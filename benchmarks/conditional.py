"""Networks by request: does a conditional flow do what it is asked for, and better than the trivial ways?

    python -m benchmarks.conditional [--cases domains …] [--widths 128 …] [--seeds 0 1 2]

Three cases, each a pool of zoos of one network (144-w-10, AdamW, decay 1) on glyphs, matched into one universe:

- domains: zoos that read upright, rotated and inverted glyphs; asked for by name.
- training: members that stopped after 1, 2, 4, … epochs; asked for by accuracy.
- noise: members trained on images of more or less noise; asked for by accuracy on very noisy images (robustness).

What members are told is measured on validation, what is made of generated networks on test. Beside the flow: its
conditions shuffled in training (no control is possible), members with the nearest condition (no network is new), a
Gaussian on codes whose mean is linear in the condition, and one of the nearest members (the trivial ways). Distances to
the nearest member are in units of the zoo's own. Cases and seeds found in the file are not run again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial, reduce
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.kept import run_missing
from dwflow_lite import MLP, DeepWeightFlow, Recipe, Task, Zoo, evaluate, load_task, train_zoo
from dwflow_lite.auditing import control_of, nearest_distance, scores_on
from dwflow_lite.auditing.audit import LOWEST_SHARE
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import (
    ConditionalDeepWeightFlow,
    ConditionalGaussian,
    ConditionalRetrieval,
    OwnCodesFlow,
    align_together,
)
from dwflow_lite.symmetry.basis import joined
from dwflow_lite.tasks.glyphs import Difficulty

RECIPE = Recipe(optimizer="adamw", lr=3e-3, weight_decay=1.0, epochs=20)
DOMAINS = ("upright", "rotated", "inverted")
EPOCHS = (1, 2, 3, 5, 8, 13, 20)
NOISES = (0.0, 0.08, 0.15, 0.25, 0.4)
LOUD = 0.4  # noise of the images on which robustness is measured
GUIDANCES = (0.0, 1.0, 2.0, 4.0)
DEFAULT = FlowSettings()
SPREAD_OUT = FlowSettings(hidden=256, keep="best")  # for the flow from a Gaussian as wide as the codes
MATCHED, FEW = "flow, matched source", "flow on 8 codes"
LINEAR, LOCAL = "Gaussian, mean linear in the condition", "Gaussian of the nearest"
EACH_SMALL, EACH_LARGE = "one flow each, equal in all", "one flow each, each as large"
FLOWS = ("flow", MATCHED)
NEIGHBOURS = 16  # of a condition, from which the local Gaussian is measured


# -- zoos ------------------------------------------------------------------------------------------------------------


def glyphs(seed: int, domain: str = "upright", noise: float = 0.15) -> Task:
    """Digits of one domain, with so much noise."""
    sizes = {"train": 3000, "validation": 2000, "test": 3000}
    return load_task("glyphs", seed=seed, domain=domain, difficulty=Difficulty(noise=noise), **sizes)


def trained(task: Task, width: int, members: int, held_out: int, seed: int, epochs: int = RECIPE.epochs) -> Zoo:
    """A zoo of one hidden layer."""
    network = MLP([task.train.x[0].numel(), width, task.outputs])
    recipe = replace(RECIPE, epochs=epochs)
    return train_zoo(task, network, members=members, held_out=held_out, recipe=recipe, seed=seed)


def neighbours_apart(zoo: Zoo) -> Tensor:
    """How far each fitted member lies from the nearest other one, (N,)."""
    weights = zoo.fitted.weights
    return nearest_distance(weights, weights, skip_self=True)


class Bars(NamedTuple):
    """When a network is accurate, and when it is new: over the lowest twentieth of the members.

    Attributes:
        score: of each dataset's own members.
        distance: of all members, to their nearest.
        unit: their median distance.
    """

    score: dict[str, float]
    distance: float
    unit: float

    @classmethod
    def of(cls, zoos: Mapping[str, Zoo], tasks: Mapping[str, Task]) -> Bars:
        """From aligned zoos alone."""
        scores = {name: evaluate(zoo.fitted, tasks[name], "test").score for name, zoo in zoos.items()}
        apart = neighbours_apart(reduce(joined, zoos.values()))
        low = {name: float(score.quantile(LOWEST_SHARE)) for name, score in scores.items()}
        return cls(low, float(apart.quantile(LOWEST_SHARE)), float(apart.median()))


# -- rivals ----------------------------------------------------------------------------------------------------------


def rivals(zoos: Zoo | Mapping[str, Zoo], seed: int) -> dict[str, object]:
    """All that can be asked, unfitted; zoos come aligned."""
    members = len(zoos.fitted) if isinstance(zoos, Zoo) else sum(len(zoo.fitted) for zoo in zoos.values())
    matched = {"align": None, "source": "matched", "flow": SPREAD_OUT, "seed": seed}
    return {
        "flow": ConditionalDeepWeightFlow(align=None, flow=DEFAULT, seed=seed),
        MATCHED: ConditionalDeepWeightFlow(**matched),
        FEW: ConditionalDeepWeightFlow(**matched, components=min(8, members - 1)),
        LINEAR: ConditionalGaussian(),
        LOCAL: ConditionalGaussian(neighbours=NEIGHBOURS),
        "retrieval of the nearest": ConditionalRetrieval(),
    }


def timed_fit(model: object, *arguments: object) -> float:
    """Seconds of the processor that a fit took."""
    start = time.process_time()
    model.fit(*arguments)
    return time.process_time() - start


def asking(model: object, n: int, seed: int, **named: object) -> Callable[[str], Zoo]:
    """A function that asks a fitted generator for n networks of a dataset."""
    return lambda name: model.sample(n, seed=seed + 1, condition=name, **named)


# -- asked for by name -----------------------------------------------------------------------------------------------


def dealt(zoos: Mapping[str, Zoo], seed: int) -> dict[str, Zoo]:
    """The same members, as many under each name, but dealt at random."""
    together = torch.cat([zoo.weights for zoo in zoos.values()])
    order = torch.randperm(len(together), generator=torch.Generator().manual_seed(seed))
    parts = together[order].split([len(zoo) for zoo in zoos.values()])
    return {name: replace(zoo, weights=part) for (name, zoo), part in zip(zoos.items(), parts, strict=True)}


def row_of_names(make: Callable[[str], Zoo], tasks: Mapping[str, Task], zoos: Mapping[str, Zoo], bars: Bars) -> dict:
    """What comes back when each dataset is asked for."""
    members = torch.cat([zoo.fitted.weights for zoo in zoos.values()])
    table, own, reads, distances, both = [], [], [], [], []
    for place, name in enumerate(tasks):
        networks = make(name)
        scores = scores_on(networks, tasks, "test")  # (n, datasets)
        distance = nearest_distance(networks.weights, members)  # (n,)
        table.append([round(float(score), 4) for score in scores.mean(0)])
        own.append(scores[:, place])
        reads.append(scores.argmax(1) == place)
        distances.append(distance)
        both.append((scores[:, place] >= bars.score[name]) & (distance >= bars.distance))
    return {
        "accuracy": float(torch.cat(own).mean()),
        "reads its own": float(torch.cat(reads).float().mean()),
        "distance": float(torch.cat(distances).median()) / bars.unit,
        "accurate and new": float(torch.cat(both).float().mean()),
        "asked for, by measured": table,
    }


def by_name(zoos: Mapping[str, Zoo], tasks: Mapping[str, Task], seed: int, samples: int) -> dict:
    """Rows of all rivals, of zoos that are aligned."""
    bars = Bars.of(zoos, tasks)

    def row(make: Callable[[str], Zoo]) -> dict:
        return row_of_names(make, tasks, zoos, bars)

    rows = {"held-out members": row(lambda name: zoos[name].unseen)}
    models = rivals(zoos, seed) | {
        "flow over codes of each its own": OwnCodesFlow(align=False, flow=DEFAULT, seed=seed)
    }
    for name, model in models.items():
        seconds = timed_fit(model, zoos)
        rows[name] = row(asking(model, samples, seed)) | {"seconds": seconds}
        for w in GUIDANCES if name in FLOWS else ():
            rows[f"{name}, guidance {w:g}"] = row(asking(model, samples, seed, guidance=w))
    for name in FLOWS:
        model = rivals(zoos, seed)[name].fit(dealt(zoos, seed))
        rows[f"{name}, conditions shuffled"] = row(asking(model, samples, seed))

    # One flow for all datasets, or one for each: of a share of its size and steps, and each of all of them.
    rows[MATCHED]["parameters"] = parameters([models[MATCHED]])
    share = 1 / len(zoos)
    small = replace(SPREAD_OUT, steps=int(SPREAD_OUT.steps * share), hidden=int(SPREAD_OUT.hidden * share**0.5))
    for name, flow in ((EACH_SMALL, small), (EACH_LARGE, SPREAD_OUT)):
        each = {key: DeepWeightFlow(align=None, source="matched", flow=flow, seed=seed) for key in zoos}
        seconds = sum(timed_fit(model, zoos[key]) for key, model in each.items())
        rows[name] = row(lambda key, each=each: each[key].sample(samples, seed=seed + 1))
        rows[name] |= {"seconds": seconds, "parameters": parameters(each.values())}
    return rows


def parameters(models: Iterable[DeepWeightFlow]) -> int:
    """Of the fields of several flows."""
    return sum(tensor.numel() for model in models for tensor in model.field_.parameters())


def domains(width: int, seed: int, toy: bool) -> dict:
    """Zoos that read different domains of glyphs (as a try: digits under two orders of labels)."""
    members, held_out, samples, epochs = (5, 2, 4, 1) if toy else (40, 8, 30, RECIPE.epochs)
    tasks = orders_of_labels(seed) if toy else {name: glyphs(seed, name) for name in DOMAINS}
    zoos = {}
    for place, (name, task) in enumerate(tasks.items()):
        zoos[name] = trained(task, width, members, held_out, seed + 1000 * place, epochs)
    return {"tasks": list(tasks)} | by_name(align_together(zoos, seed=seed), tasks, seed, samples)


def orders_of_labels(seed: int) -> dict[str, Task]:
    """Digits, and digits with every label one further."""
    task = load_task("digits", seed=seed)
    splits = {name: replace(split, y=(split.y + 1) % task.outputs) for name, split in task.splits.items()}
    return {"digits": task, "moved on": replace(task, name="digits-moved", splits=splits)}


# -- asked for by number ---------------------------------------------------------------------------------------------


def row_of_numbers(
    model: object, asked: Tensor, measure: Callable[[Zoo], Tensor], zoo: Zoo, seed: int, **named: object
) -> dict:
    """What comes back when each of these numbers (n,) is asked for, one network each."""
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(seed))  # no number has noise of its own
    networks = model.sample(len(asked), seed=seed + 1, condition=asked[order], **named)
    distance = nearest_distance(networks.weights, zoo.fitted.weights).median() / neighbours_apart(zoo).median()
    return control_of(asked[order], measure(networks))._asdict() | {"distance": float(distance)}


def by_number(zoo: Zoo, numbers: Tensor, measure: Callable[[Zoo], Tensor], seed: int, samples: int) -> dict:
    """Rows of all rivals; and how they do in the middle of all numbers, also where no member from there was seen.

    Args:
        zoo: N members, aligned.
        numbers: of each (N,).
        measure: the same number of n networks (n,).
        seed: of everything.
        samples: how many networks are asked for.
    """
    held_out = torch.tensor(zoo.held_out)
    low, left, right, high = (float(numbers[~held_out].quantile(q)) for q in (0.05, 0.35, 0.65, 0.95))
    asked, middle = torch.linspace(low, high, samples), torch.linspace(left, right, samples)
    # How well a number of validation can be met on test at all:
    rows = {"held-out members": control_of(numbers[held_out], measure(zoo.unseen))._asdict()}
    for name, model in rivals(zoo, seed).items():
        seconds = timed_fit(model, zoo, numbers)
        rows[name] = row_of_numbers(model, asked, measure, zoo, seed) | {"seconds": seconds}
        rows[name]["error in the middle"] = row_of_numbers(model, middle, measure, zoo, seed)["error"]
        for w in GUIDANCES if name in FLOWS else ():
            rows[f"{name}, guidance {w:g}"] = row_of_numbers(model, asked, measure, zoo, seed, guidance=w)
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))
    for name in FLOWS:
        model = rivals(zoo, seed)[name].fit(zoo, numbers[order])
        rows[f"{name}, conditions shuffled"] = row_of_numbers(model, asked, measure, zoo, seed)
    outside = (numbers < left) | (numbers > right)
    for name, model in rivals(zoo.take(outside), seed).items():
        model.fit(zoo.take(outside), numbers[outside])
        found = row_of_numbers(model, middle, measure, zoo, seed)
        rows[name]["error in the middle, left out"] = found["error"]
    return rows


def pooled(zoos: list[Zoo], seed: int) -> Zoo:
    """All members in one zoo, matched to their mean."""
    return reduce(joined, align_together(zoos, seed=seed))


def training(width: int, seed: int, toy: bool) -> dict:
    """Members that stopped early or late, asked for by accuracy."""
    members, held_out, samples = (3, 2, 5) if toy else (16, 4, 80)
    task = load_task("digits", seed=seed) if toy else glyphs(seed)
    several = EPOCHS[:3] if toy else EPOCHS
    zoo = pooled([trained(task, width, members, held_out, seed + 1000 * e, e) for e in several], seed)
    accuracy = evaluate(zoo, task).score  # (N,), on validation
    return by_number(zoo, accuracy, lambda made: evaluate(made, task, "test").score, seed, samples)


def noise(width: int, seed: int, toy: bool) -> dict:
    """Members that were trained on images of more or less noise, asked for by accuracy on very noisy ones."""
    members, held_out, samples = (3, 2, 5) if toy else (20, 4, 80)
    if toy:
        tasks = list(orders_of_labels(seed).values())
        loud = tasks[0]
    else:
        tasks, loud = [glyphs(seed, noise=level) for level in NOISES], glyphs(seed, noise=LOUD)
    epochs = 1 if toy else RECIPE.epochs
    zoos = [trained(task, width, members, held_out, seed + 1000 * place, epochs) for place, task in enumerate(tasks)]
    zoo = pooled(zoos, seed)
    robust = evaluate(zoo, loud).score  # (N,), on validation
    return by_number(zoo, robust, lambda made: evaluate(made, loud, "test").score, seed, samples)


# -- results ---------------------------------------------------------------------------------------------------------

CASES = {"domains": domains, "training": training, "noise": noise}
COLUMNS = {  # of a page: name of a number -> how it is written
    "accuracy": "{:.1%}", "reads its own": "{:.0%}", "slope": "{:.2f}", "spread": "{:.3f}", "error": "{:.3f}",
    "error in the middle": "{:.3f}", "error in the middle, left out": "{:.3f}", "distance": "{:.2f}",
    "accurate and new": "{:.0%}", "seconds": "{:.1f}", "parameters": "{:.0f}",
}  # fmt: skip


def page(runs: dict[str, dict]) -> str:
    """A table for each case and width: means over seeds."""
    several: dict[str, list[dict]] = {}
    for key, run in runs.items():
        rows = {name: row for name, row in run.items() if isinstance(row, dict)}
        several.setdefault(key.split(", seed")[0], []).append(rows)
    lines = ["Written by benchmarks/conditional.py. Test split, means over seeds (their range); distance: zoo = 1."]
    for heading, tables in several.items():
        shown = [column for column in COLUMNS if any(column in row for row in tables[0].values())]
        lines += ["", f"## {heading}, {len(tables)} seeds", "", *answers(tables), ""]
        lines += [f"| | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
        for name in tables[0]:
            cells = [
                cell([table[name][column] for table in tables if column in table[name]], column) for column in shown
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def answers(tables: list[dict]) -> list[str]:
    """The questions, each answered in a line by the means over seeds."""

    def said(name: str, column: str) -> str:
        numbers = [table[name][column] for table in tables if column in table.get(name, {})]
        return COLUMNS[column].format(sum(numbers) / len(numbers)) if numbers else "?"

    told = "slope" if "slope" in tables[0]["flow"] else "reads its own"
    lines = [
        f"- Is control real? {told} {said('flow', told)}, with conditions shuffled "
        f"{said('flow, conditions shuffled', told)} (from a matched source {said(MATCHED, told)} and "
        f"{said(f'{MATCHED}, conditions shuffled', told)})."
    ]
    quality = "error" if told == "slope" else "accuracy"
    lines.append(
        f"- Does a flow do better than the trivial way? {quality} {said(MATCHED, quality)} at distance "
        f"{said(MATCHED, 'distance')} from a matched source, {said('flow', quality)} at {said('flow', 'distance')} by "
        f"default; {LOCAL}: {said(LOCAL, quality)} at {said(LOCAL, 'distance')}; {LINEAR}: {said(LINEAR, quality)} at "
        f"{said(LINEAR, 'distance')}."
    )
    if told != "slope":
        lines.append(
            f"- One flow or several? One {said(MATCHED, quality)} at distance {said(MATCHED, 'distance')} in "
            f"{said(MATCHED, 'seconds')} s, on 8 codes {said(FEW, quality)} at {said(FEW, 'distance')}; {EACH_SMALL}: "
            f"{said(EACH_SMALL, quality)} at {said(EACH_SMALL, 'distance')} in {said(EACH_SMALL, 'seconds')} s."
        )
    return lines


def cell(numbers: list[float], column: str) -> str:
    """The mean of several numbers, and from where to where they go."""
    if not numbers:
        return ""
    low, mean, high = (COLUMNS[column].format(x) for x in (min(numbers), sum(numbers) / len(numbers), max(numbers)))
    return mean if low == high else f"{mean} ({low} … {high})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--widths", type=int, nargs="*", default=[128])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--toy", action="store_true", help="tiny sizes: whether it runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/conditional.json"))
    args = parser.parse_args()
    jobs = {}
    for seed, width, case in product(args.seeds, args.widths, args.cases):
        jobs[f"{case}, width {width}, seed {seed}"] = partial(timed_case, case, width, seed, args.toy)
    run_missing(args.out, "python -m benchmarks.conditional", jobs, page)


def timed_case(case: str, width: int, seed: int, toy: bool) -> dict:
    """One case, and how many seconds of the processor it took."""
    start = time.process_time()
    found = CASES[case](width, seed, toy)
    print(f"\n{page({f'{case}, width {width}, seed {seed}': found})}", flush=True)
    return found | {"processor seconds": round(time.process_time() - start, 1)}


if __name__ == "__main__":
    main()
