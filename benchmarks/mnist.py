"""Full MNIST, 784-32-32-10, the paper's recipe, through the reader's calls: zoo, flow, audit.

    DWFLOW_DATA=FOLDER python benchmarks/mnist.py [--members 100] [--out benchmarks/results/mnist.json]

Prints one table for each zoo basis and writes the figures with machine, date and command.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch

from dwflow_lite import MLP, DeepWeightFlow, audit, load_task, train_zoo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--flow-steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", default="build/artefacts")
    parser.add_argument("--out", default="benchmarks/results/mnist.json")
    args = parser.parse_args()
    task = load_task("mnist", seed=0)
    # The paper's recipe: Adam 1e-3, batch 64, 5 epochs, He-uniform weights and zero biases.
    zoo = train_zoo(
        task, MLP([784, 32, 32, 10]), members=args.members, held_out=args.held_out, epochs=args.epochs,
        batch_size=64, optimizer="adam", lr=1e-3, init="kaiming", seed=args.seed, checkpoint=args.checkpoint,
        progress=True,
    )  # fmt: skip
    print(
        f"zoo trained in {zoo.record['seconds']:.0f} s; test accuracy {100 * float(zoo.fitted.scores().mean()):.2f} %"
    )
    result = {"zoo_seconds": zoo.record["seconds"], "rows": {}, "seconds": {}}
    for basis, align in (("aligned", True), ("not aligned", None)):
        kinds = {}
        for hidden in (512, 64):
            start = time.perf_counter()
            model = DeepWeightFlow(align=align, flow={"hidden": hidden, "steps": args.flow_steps}, seed=args.seed).fit(
                zoo
            )
            fitted = time.perf_counter()
            kinds[f"flow h={hidden}"] = model.sample(100, seed=args.seed + 1)
            result["seconds"][f"{basis}, h={hidden}"] = {
                "fit": round(fitted - start, 2),
                "sample_and_decode_100": round(time.perf_counter() - fitted, 3),
            }
        report = audit(kinds, model.zoo_, task, seed=args.seed)
        result["rows"][basis] = [asdict(row) for row in report.rows]
        print(f"\n{basis}\n{report}", flush=True)
    result |= {
        "command": "python benchmarks/mnist.py", "date": date.today().isoformat(),
        "settings": {k: v for k, v in vars(args).items() if k not in ("checkpoint", "out")},
        "machine": {"cpu": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
    }  # fmt: skip
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
