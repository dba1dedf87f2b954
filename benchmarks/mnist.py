"""Full MNIST, 784-32-32-10, the paper's recipe: is a flow over weights accurate, is it new, what does alignment buy?

    DWFLOW_DATA=FOLDER python benchmarks/mnist.py [--task mnist] [--seeds 0 1 2] [--out benchmarks/results/mnist.json]

For every seed: a zoo and held-out networks, aligned and not; flows of all widths, each beside held-out networks and the
trivial generators; what the PCA can represent of networks it has not seen; the paper's own settings on the aligned zoo.
For the first seed also other sources, couplings and component counts. Prints tables, and writes the figures with
machine, date and command after every seed; seeds found in the file with the same settings are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch

from dwflow_lite import MLP, DeepWeightFlow, Recipe, Task, Zoo, audit, canonicalise, load_task, train_zoo
from dwflow_lite.auditing import codec_ceiling
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import NOISE_LADDER, TRIVIAL

WIDTHS = (32, 64, 128, 256, 512, 1024)
COMPONENTS = (5, 20, 50, 99)
VARIANTS: dict[str, dict[str, Any]] = {
    "source 0.2": {"source": 0.2},
    "source 1": {"source": 1.0},
    "source matched": {"source": "matched"},
    "source kaiming": {"source": "kaiming"},
    "source 1, assignment coupling": {"source": 1.0, "flow": {"coupling": "assignment"}},
    "fixed source": {"fixed_source": True},
    "20 components": {"components": 20},
    "kept by held-out loss": {"flow": {"keep": "best"}},
}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), round(time.perf_counter() - start, 3)


def one_basis(zoo: Zoo, task: Task, models: Mapping[str, DeepWeightFlow], seed: int) -> dict[str, Any]:
    """Fit every model on the zoo as it stands, draw 100 networks from each, and audit all of them together."""
    made, seconds = {}, {}
    for name, model in models.items():
        _, fit = timed(lambda model=model: model.fit(zoo))
        made[name], sample = timed(lambda model=model: model.sample(100, seed=seed + 1))
        seconds[name] = {"fit": fit, "sample and decode 100": sample}
        print(f"  {name}: {fit:.0f} s", flush=True)
    report, spent = timed(lambda: audit(made, zoo, task, controls=TRIVIAL | NOISE_LADDER, split="test", seed=seed))
    print(report, flush=True)
    return {"rows": [row.numbers() for row in report.rows], "seconds": seconds | {"audit": spent},
            "ceiling": [asdict(c) for c in codec_ceiling(zoo, task, COMPONENTS, split="test")]}  # fmt: skip


def one_seed(task: Task, seed: int, args: argparse.Namespace, extras: bool) -> dict[str, Any]:
    # The paper's recipe: Adam 1e-3, batch 64, 5 epochs, He-uniform weights and zero biases.
    recipe = Recipe(epochs=args.epochs, batch_size=64, optimizer="adam", lr=1e-3, init="kaiming")
    zoo = train_zoo(
        task, MLP([784, 32, 32, 10]), members=args.members, held_out=args.held_out, seed=seed, recipe=recipe,
        checkpoint=args.checkpoint, progress=True,
    )  # fmt: skip
    bases = {"not aligned": zoo}
    bases["aligned"], spent = timed(lambda: canonicalise(zoo, seed=seed))
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "zoo seconds": zoo.record["seconds"]}
    found[f"align {len(zoo)} seconds"] = spent
    for basis, members in bases.items():
        print(f"\nseed {seed}, {basis}", flush=True)
        models = {
            f"h={h}": DeepWeightFlow(align=None, flow=FlowSettings(hidden=h, steps=args.flow_steps), seed=seed)
            for h in WIDTHS
        }
        if extras or basis == "aligned":
            models["published"] = DeepWeightFlow.published(align=None, seed=seed)
        if extras and basis == "aligned":
            for name, options in VARIANTS.items():
                flow = FlowSettings(**{"steps": args.flow_steps} | options.get("flow", {}))
                models[name] = DeepWeightFlow(align=None, seed=seed, **options | {"flow": flow})
        found[basis] = one_basis(members, task, models, seed)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mnist", choices=("mnist", "fashion_mnist"))
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--flow-steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--checkpoint", default="build/artefacts")
    parser.add_argument("--out", default=None)
    args = parser.parse_args()
    out = Path(args.out or f"benchmarks/results/{args.task}.json")
    settings = {k: v for k, v in vars(args).items() if k not in ("checkpoint", "out", "seeds")}
    before = json.loads(out.read_text()) if out.is_file() else {}
    seeds = before["by seed"] if before.get("settings") == settings else {}
    task, begun = load_task(args.task, seed=0), time.perf_counter()
    for seed in args.seeds:
        if str(seed) in seeds:
            continue
        seeds[str(seed)], spent = timed(lambda seed=seed: one_seed(task, seed, args, extras=seed == args.seeds[0]))
        seeds[str(seed)]["seconds"] = spent
        result = {
            "command": f"python benchmarks/mnist.py --task {args.task}", "date": date.today().isoformat(),
            "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__},
            "settings": settings, "by seed": seeds,
        }  # fmt: skip
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{time.perf_counter() - begun:.0f} s in this run")
    for basis in ("aligned", "not aligned"):
        for h in WIDTHS:
            rows = [next(r for r in s[basis]["rows"] if r["name"] == f"h={h}") for s in seeds.values()]
            scores = [round(100 * r["score"], 1) for r in rows]
            print(f"{basis:12s} h={h:<5d} accuracy {sum(scores) / len(scores):5.1f} (seeds {scores})"
                  f"  dispersion {sum(r['dispersion'] for r in rows) / len(rows):.2f}"
                  f"  nearest {sum(r['nearest'] for r in rows) / len(rows):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
