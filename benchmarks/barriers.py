"""Barriers between independently trained networks: naive, matched, matched and recalibrated; for every architecture.

    python benchmarks/barriers.py [--task digits] [--members 6] [--out benchmarks/results/barriers-digits.json]

Pairs are matched to each other directly (both orders of neighbours i, i + 1). Recalibration measures BatchNorm's
statistics afresh, from the calibration split. Transformers are matched by whole heads, exactly and by the published
spectral heuristic. Prints a table and writes it with machine, date and command.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from datetime import date
from pathlib import Path

import torch

from dwflow_lite import MLP, PermutationSpec, Zoo, load_task, train_zoo
from dwflow_lite.networks import ResNet, ViT
from dwflow_lite.symmetry import Permutation, linear_barrier, match_heads, weight_matching


def networks(side: int) -> dict[str, torch.nn.Module]:
    found = {f"MLP {w}": MLP([side * side, w, w, 10]) for w in (32, 128)}
    for norm in ("batch", "layer"):
        for w in (4, 16):
            found[f"ResNet-8 x{w}, {norm} norm"] = ResNet((w, 2 * w, 4 * w), 1, channels=1, norm=norm)
    for dim, heads in ((24, 3), (48, 3)):
        found[f"ViT {dim}"] = ViT(side, side // 4, dim, 2, heads, channels=1)
    return found


def matched(zoo: Zoo, spec: PermutationSpec, heads: str) -> tuple[Zoo, list[tuple[int, int]], list[float]]:
    """Every member beside its neighbour, renamed to agree with it: rows 2i and 2i + 1, and the cosine of each pair."""
    rows, cosines = [], []
    for i in range(len(zoo)):
        a, b = zoo.weights[i], zoo.weights[(i + 1) % len(zoo)]
        permutation = weight_matching(a, b, spec, restarts=5).permutation
        if heads == "spectral":
            state = [spec.parameters(w.double()) for w in (a, b)]
            found = {g: x for block in spec.heads for g, x in match_heads(*state, spec, block, "spectral").items()}
            permutation = Permutation(dict(permutation.indices) | found)
        b = spec.apply(permutation, b)
        rows += [a, b]
        cosines.append(float(torch.cosine_similarity(a, b, 0)))
    pairs = [(2 * i, 2 * i + 1) for i in range(len(zoo))]
    return Zoo(torch.stack(rows), zoo.layout, zoo.network), pairs, cosines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--members", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=None)
    args = parser.parse_args()
    task, table = load_task(args.task, seed=0), {}
    for name, network in networks(task.input_shape[-1]).items():
        start = time.perf_counter()
        zoo = train_zoo(task, network, members=args.members, epochs=args.epochs, seed=args.seed, lr=2e-3,
                        checkpoint="build/artefacts")  # fmt: skip
        spec, row = PermutationSpec.of(network), {}
        naive = [(i, (i + 1) % len(zoo)) for i in range(len(zoo))]
        kinds = {"naive": (zoo, naive, [])}
        kinds |= {f"matched{', ' + h if spec.heads else ''}": matched(zoo, spec, h)
                  for h in (("exact", "spectral") if spec.heads else ("exact",))}  # fmt: skip
        for kind, (members, pairs, cosines) in kinds.items():
            for again in (False, True) if any(e.role == "buffer" for e in zoo.layout.entries) else (False,):
                curve = linear_barrier(members, pairs, task, points=11, recalibrated=again)
                row[kind + (", recalibrated" if again else "")] = {
                    "loss barrier": [round(float(f(curve.loss_barrier)), 4) for f in (torch.mean, torch.std)],
                    "score barrier": [round(float(f(curve.score_barrier)), 4) for f in (torch.mean, torch.std)],
                    "cosine": round(sum(cosines) / len(cosines), 4) if cosines else None,
                }
        table[name] = {"weights": zoo.layout.size, "validation score": float(zoo.scores("validation").mean()), **row}
        print(f"\n{name}: {zoo.layout.size:,} weights, {100 * table[name]['validation score']:.1f} %, "
              f"{time.perf_counter() - start:.0f} s")  # fmt: skip
        for kind, found in row.items():
            mean, std = found["loss barrier"]
            points = 100 * found["score barrier"][0]
            print(
                f"  {kind:32s} loss {mean:6.3f} ± {std:.3f}  score {points:5.1f}  cosine {found['cosine']}", flush=True
            )
    out = Path(args.out or f"benchmarks/results/barriers-{args.task}.json")
    result = {
        "command": f"python benchmarks/barriers.py --task {args.task}", "date": date.today().isoformat(),
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__},
        "settings": {k: v for k, v in vars(args).items() if k != "out"}, "pairs": args.members, "networks": table,
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
