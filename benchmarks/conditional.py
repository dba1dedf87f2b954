"""Networks by request: does a conditional flow do what it is asked for, and better than the trivial ways?

    python -m benchmarks.conditional [--cases domains …] [--widths 128 …] [--seeds 0 1 2]

Three cases, each a pool of zoos of one network (144-w-10, AdamW, decay 1) on glyphs, matched into one universe:

- domains: zoos that read upright, rotated and inverted glyphs; asked for by name.
- training: members that stopped after 1, 2, 4, … epochs; asked for by accuracy, and by epochs.
- noise: members trained on images of more or less noise; asked for by accuracy on very noisy images (robustness).

What members are told is measured on validation, what is made of generated networks on test. Beside the flow: its
conditions shuffled in training (no control is possible), members with the nearest condition (no network is new), a
Gaussian on codes whose mean is linear in the condition, and one of the nearest members (the trivial ways). Distances to
the nearest member are in units of the zoo's own. Cases and seeds found in the file are not run again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, reduce
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.kept import run_missing
from dwflow_lite import MLP, DeepWeightFlow, Recipe, Task, Zoo, evaluate, load_task, train_zoo
from dwflow_lite.auditing import confusion, control_of, nearest_distance, scores_on
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

RECIPE = Recipe(optimizer="adamw", lr=3e-3, weight_decay=1.0, epochs=20)
DOMAINS = ("upright", "rotated", "inverted")
EPOCHS = (1, 2, 3, 5, 8, 13, 20)
NOISES = (0.0, 0.08, 0.15, 0.25, 0.4)
LOUD = 0.4  # noise of the images on which robustness is measured
GUIDANCES = (0.0, 1.0, 2.0, 4.0)
SPREAD_OUT = FlowSettings(hidden=256, keep="best")  # for the flow from a Gaussian as wide as the codes
FLOWS = ("flow", "flow, matched source")
NEIGHBOURS = 16  # of a condition, from which the local Gaussian is measured


# -- zoos ------------------------------------------------------------------------------------------------------------


def glyphs(seed: int, domain: str = "upright", noise: float = 0.15) -> Task:
    """Digits of one domain, with so much noise."""
    from dwflow_lite.tasks.glyphs import Difficulty

    sizes = {"train": 3000, "validation": 2000, "test": 4000}
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


def distance_from(zoo: Zoo, networks: Zoo) -> float:
    """How far networks lie from the nearest fitted member, in units of the zoo's own distances; medians."""
    return float(nearest_distance(networks.weights, zoo.fitted.weights).median() / neighbours_apart(zoo).median())


# -- rivals ----------------------------------------------------------------------------------------------------------


def rivals(seed: int) -> dict[str, object]:
    """All that can be asked, unfitted; zoos come aligned."""
    matched = {"align": None, "source": "matched", "flow": SPREAD_OUT, "seed": seed}
    return {
        "flow": ConditionalDeepWeightFlow(align=None, seed=seed),
        "flow, matched source": ConditionalDeepWeightFlow(**matched),
        "flow on 8 codes": ConditionalDeepWeightFlow(**matched, components=8),
        "Gaussian, mean linear in the condition": ConditionalGaussian(),
        "Gaussian of the nearest": ConditionalGaussian(neighbours=NEIGHBOURS),
        "retrieval of the nearest": ConditionalRetrieval(),
    }


def timed_fit(model: object, *arguments: object) -> float:
    """Seconds that a fit took."""
    start = time.perf_counter()
    model.fit(*arguments)
    return time.perf_counter() - start


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


def row_of_names(make: Callable[[str], Zoo], tasks: Mapping[str, Task], zoos: Mapping[str, Zoo]) -> dict:
    """What comes back when each dataset is asked for.

    "accurate and new": over the lowest twentieth of that dataset's members in score, and of all members in distance.
    """
    members = reduce(joined, zoos.values())
    far_enough = neighbours_apart(members).quantile(LOWEST_SHARE)
    made = {name: make(name) for name in tasks}
    own, reads, distances, both = [], [], [], []
    for place, (name, networks) in enumerate(made.items()):
        scores = scores_on(networks, tasks, "test")  # (n, datasets)
        bar = evaluate(zoos[name].fitted, tasks[name], "test").score.quantile(LOWEST_SHARE)
        distance = nearest_distance(networks.weights, members.fitted.weights)
        own.append(scores[:, place])
        reads.append(scores.argmax(1) == place)
        distances.append(distance)
        both.append((scores[:, place] >= bar) & (distance >= far_enough))
    return {
        "accuracy": float(torch.cat(own).mean()),
        "reads its own": float(torch.cat(reads).float().mean()),
        "distance": float(torch.cat(distances).median() / neighbours_apart(members).median()),
        "accurate and new": float(torch.cat(both).float().mean()),
        "confusion": [[round(float(score), 4) for score in row] for row in confusion(made, tasks, "test")],
    }


def by_name(zoos: Mapping[str, Zoo], tasks: Mapping[str, Task], seed: int, samples: int) -> dict:
    """Rows of all rivals, of zoos that are aligned."""
    rows = {"held-out members": row_of_names(lambda name: zoos[name].unseen, tasks, zoos)}
    models = rivals(seed) | {"flow over codes of each its own": OwnCodesFlow(align=False, seed=seed)}
    for name, model in models.items():
        seconds = timed_fit(model, zoos)
        rows[name] = row_of_names(asking(model, samples, seed), tasks, zoos) | {"seconds": seconds}
        for w in GUIDANCES if name in FLOWS else ():
            strongly = asking(model, samples, seed, guidance=w)
            rows[f"{name}, guidance {w:g}"] = row_of_names(strongly, tasks, zoos)
    for name in FLOWS:
        model = rivals(seed)[name].fit(dealt(zoos, seed))
        rows[f"{name}, conditions shuffled"] = row_of_names(asking(model, samples, seed), tasks, zoos)
    return rows


def one_or_several(zoos: Mapping[str, Zoo], tasks: Mapping[str, Task], seed: int, samples: int) -> dict:
    """One flow for all datasets, beside one for each: of a share of its size and steps, and each of all of them."""
    rows = {}
    share = 1 / len(zoos)
    small = replace(SPREAD_OUT, steps=int(SPREAD_OUT.steps * share), hidden=int(SPREAD_OUT.hidden * share**0.5))
    for name, flow in (("one flow each, equal in all", small), ("one flow each, each as large", SPREAD_OUT)):
        models = {key: DeepWeightFlow(align=None, source="matched", flow=flow, seed=seed) for key in zoos}
        seconds = sum(timed_fit(models[key], zoos[key]) for key in zoos)
        rows[name] = row_of_names(lambda key, fitted=models: fitted[key].sample(samples, seed=seed + 1), tasks, zoos)
        numbers = sum(tensor.numel() for model in models.values() for tensor in model.field_.parameters())
        rows[name] |= {"seconds": seconds, "parameters": numbers}
    return rows


def domains(width: int, seed: int, toy: bool) -> dict:
    """Zoos that read different domains of glyphs (as a try: digits under two orders of labels)."""
    members, held_out, samples, epochs = (5, 2, 4, 1) if toy else (40, 8, 40, RECIPE.epochs)
    tasks = orders_of_labels(seed) if toy else {name: glyphs(seed, name) for name in DOMAINS}
    zoos = {}
    for place, (name, task) in enumerate(tasks.items()):
        zoos[name] = trained(task, width, members, held_out, seed + 1000 * place, epochs)
    zoos = align_together(zoos, seed=seed)
    return {"tasks": list(tasks)} | by_name(zoos, tasks, seed, samples) | one_or_several(zoos, tasks, seed, samples)


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
    return control_of(asked[order], measure(networks))._asdict() | {"distance": distance_from(zoo, networks)}


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
    for name, model in rivals(seed).items():
        seconds = timed_fit(model, zoo, numbers)
        rows[name] = row_of_numbers(model, asked, measure, zoo, seed) | {"seconds": seconds}
        rows[name]["error in the middle"] = row_of_numbers(model, middle, measure, zoo, seed)["error"]
        for w in GUIDANCES if name in FLOWS else ():
            rows[f"{name}, guidance {w:g}"] = row_of_numbers(model, asked, measure, zoo, seed, guidance=w)
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))
    for name in FLOWS:
        model = rivals(seed)[name].fit(zoo, numbers[order])
        rows[f"{name}, conditions shuffled"] = row_of_numbers(model, asked, measure, zoo, seed)
    outside = (numbers < left) | (numbers > right)
    for name, model in rivals(seed).items():
        model.fit(zoo.take(outside), numbers[outside])
        found = row_of_numbers(model, middle, measure, zoo, seed)
        rows[name]["error in the middle, left out"] = found["error"]
    return rows


def pooled(zoos: list[Zoo], seed: int) -> Zoo:
    """All members in one zoo, matched to their mean."""
    return reduce(joined, align_together(zoos, seed=seed))


def training(width: int, seed: int, toy: bool) -> dict:
    """Members that stopped early or late, asked for by accuracy, and by epochs."""
    members, held_out, samples = (3, 2, 5) if toy else (16, 4, 80)
    several = EPOCHS[:3] if toy else EPOCHS
    task = load_task("digits", seed=seed) if toy else glyphs(seed)
    zoo = pooled([trained(task, width, members, held_out, seed + 1000 * e, e) for e in several], seed)
    accuracy = evaluate(zoo, task).score  # (N,), on validation
    epochs = torch.tensor(several).log2().repeat_interleave(members + held_out)  # (N,)

    # A network has as many epochs as held-out members of its loss have.
    losses = evaluate(zoo.unseen, task).loss.log().view(len(several), held_out).mean(1)  # (epochs,)
    falling = losses.cummin(0).values

    def epochs_of(networks: Zoo) -> Tensor:
        loss = evaluate(networks, task, "test").loss.log().cpu().numpy()
        return torch.from_numpy(np.interp(-loss, -falling.numpy(), np.log2(several)))

    return {
        "by accuracy": by_number(zoo, accuracy, lambda made: evaluate(made, task, "test").score, seed, samples),
        "by epochs (log2)": by_number(zoo, epochs, epochs_of, seed, samples),
    }


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
    return {"by robustness": by_number(zoo, robust, lambda made: evaluate(made, loud, "test").score, seed, samples)}


# -- results ---------------------------------------------------------------------------------------------------------

CASES = {"domains": domains, "training": training, "noise": noise}
COLUMNS = {  # of a page: name of a number -> how it is written
    "accuracy": "{:.1%}", "reads its own": "{:.0%}", "slope": "{:.2f}", "spread": "{:.3f}", "error": "{:.3f}",
    "error in the middle": "{:.3f}", "error in the middle, left out": "{:.3f}", "distance": "{:.2f}",
    "accurate and new": "{:.0%}", "seconds": "{:.1f}", "parameters": "{:.0f}",
}  # fmt: skip


def tables_of(run: dict) -> dict[str, dict]:
    """The tables of one run: one, or one for each number that was asked for."""
    run = {name: part for name, part in run.items() if isinstance(part, dict)}
    several = all("by " in name for name in run)
    return run if several else {"": run}


def page(runs: dict[str, dict]) -> str:
    """A table for each case and width: means over seeds."""
    several: dict[str, list[dict]] = {}
    for key, run in runs.items():
        for name, table in tables_of(run).items():
            heading = ", ".join(part for part in (key.split(", seed")[0], name) if part)
            several.setdefault(heading, []).append(table)
    lines = ["Written by benchmarks/conditional.py. Test split, means over seeds (their range); distance: zoo = 1."]
    for heading, tables in several.items():
        shown = [column for column in COLUMNS if any(column in row for row in tables[0].values())]
        lines += ["", f"## {heading}, {len(tables)} seeds", ""]
        lines += [f"| | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
        for name in tables[0]:
            cells = [
                cell([table[name][column] for table in tables if column in table[name]], column) for column in shown
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


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
