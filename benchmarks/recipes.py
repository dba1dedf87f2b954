"""Is a zoo as accurate as networks of its width can be? Recipes side by side, on the validation split.

    python -m benchmarks.recipes [--task digits] [--widths 160] [--seeds 0 1 2] [--members 10]

A regime whose networks are worse than they need be makes it easy to be as accurate as they are. So recipes are compared
before: the same network and seeds, ten members each. The regimes of ``new_and_accurate`` are to be within half a point
of the best recipe at their width. Recipes and seeds that the file holds are not run again.
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.kept import run_missing
from dwflow_lite import MLP, Recipe, load_task, train_zoo
from dwflow_lite.zoo import evaluate

ADAM = {f"adam {lr:g}, {epochs} epochs": Recipe(epochs, lr=lr) for lr in (1e-3, 3e-3) for epochs in (60, 120)}
ADAMW = {
    f"adamw {lr:g}, decay {decay:g}, {epochs} epochs": Recipe(epochs, optimizer="adamw", lr=lr, weight_decay=decay)
    for lr, epochs in ((1e-3, 60), (3e-3, 60), (3e-3, 120))
    for decay in (0.1, 0.3, 1.0, 3.0)
}
SGD = {
    f"sgd {lr:g}, decay {decay:g}, 60 epochs": Recipe(60, optimizer="sgd", lr=lr, weight_decay=decay)
    for lr in (0.05, 0.2)
    for decay in (0.0, 5e-4, 5e-3)
}
BATCH = 512  # of MNIST
MNIST = {f"adam 0.001, {epochs} epochs": Recipe(epochs, batch_size=BATCH, lr=1e-3) for epochs in (5, 20)}
MNIST |= {
    f"adamw 0.003, decay {decay:g}, {epochs} epochs": Recipe(
        epochs, batch_size=BATCH, optimizer="adamw", lr=3e-3, weight_decay=decay
    )
    for epochs in (5, 20)
    for decay in (0.1, 0.3, 1.0)
}
MNIST |= {
    f"sgd 0.2, decay {decay:g}, 20 epochs": Recipe(20, batch_size=BATCH, optimizer="sgd", lr=0.2, weight_decay=decay)
    for decay in (0.0, 5e-4)
}
RECIPES = {"digits": ADAM | ADAMW | SGD, "mnist": MNIST}


def one_recipe(task_name: str, name: str, width: int, seed: int, members: int, toy: bool = False) -> dict:
    """Scores on the validation split of a small zoo of one recipe."""
    task = load_task(task_name, seed=seed)
    recipe = Recipe(epochs=2) if toy else RECIPES[task_name][name]
    network = MLP([task.train.x[0].numel(), width, task.outputs])
    zoo = train_zoo(task, network, recipe=recipe, members=members, seed=seed)
    evaluation = evaluate(zoo, task, "validation")
    return {"accuracy": evaluation.score.tolist(), "nll": float(evaluation.loss.mean())}


def page(runs: dict[str, dict]) -> str:
    """A line for each width and recipe, the best first: mean accuracy over members and seeds, how far from the best."""
    by_recipe: dict[str, dict[str, dict[str, dict]]] = {}  # width -> recipe -> seed -> run
    for key, run in runs.items():
        width, recipe, seed = key.split("; ")
        by_recipe.setdefault(width, {}).setdefault(recipe, {})[seed] = run
    lines = [
        "Written by benchmarks/recipes.py. Digits where no task is named; validation split, over members and seeds."
    ]
    for width, recipes in by_recipe.items():
        mean = {name: [sum(r["accuracy"]) / len(r["accuracy"]) for r in of.values()] for name, of in recipes.items()}
        overall = {name: sum(values) / len(values) for name, values in mean.items()}
        best = max(overall.values())
        lines += ["", f"## {width}", "", "| recipe | accuracy | below the best | each seed | NLL |", "|---" * 5 + "|"]
        for name in sorted(overall, key=overall.get, reverse=True):
            each = ", ".join(f"{100 * value:.1f}" for value in mean[name])
            nll = sum(run["nll"] for run in recipes[name].values()) / len(recipes[name])
            below = 100 * (best - overall[name])
            lines.append(f"| {name} | {100 * overall[name]:.2f} % | {below:.2f} | {each} | {nll:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits", choices=list(RECIPES))
    parser.add_argument("--widths", type=int, nargs="*", default=[160])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--toy", action="store_true", help="tiny sizes: whether it runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recipes.json"))
    args = parser.parse_args()
    jobs = {}
    prefix = "" if args.task == "digits" else f"{args.task}, "
    for seed, width, name in product(args.seeds, args.widths, RECIPES[args.task]):
        key = f"{prefix}width {width}, {args.members} members; {name}; seed {seed}"
        jobs[key] = partial(one_recipe, args.task, name, width, seed, args.members, args.toy)
    run_missing(args.out, "python -m benchmarks.recipes", jobs, page)


if __name__ == "__main__":
    main()
