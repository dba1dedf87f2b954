"""Barriers between independently trained networks, every architecture, every way of matching; and planted orders.

    python benchmarks/barriers.py [--task digits] [--members 6] [--only "ResNet"]
    DWFLOW_DATA=../shared/data python benchmarks/barriers.py --task mnist --train 12800 --epochs 4 --steps 60
    python benchmarks/barriers.py --task cifar10 --device cuda --epochs 60 --members-at-once 6

Pairs are neighbours (i, i + 1), each matched directly. Every line is measured as it is and repaired (BatchNorm's
statistics afresh, or REPAIR), on the validation split. Prints a table and writes it, network by network, with machine,
date and command.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from dwflow_lite import MLP, PermutationSpec, Recipe, Task, Zoo, load_task, train_zoo
from dwflow_lite.networks import ResNet, ViT
from dwflow_lite.symmetry import (
    Matching,
    Permutation,
    activation_matching,
    fix_gauge,
    identity_matching,
    linear_barrier,
    match_heads,
    match_neighbours,
    straight_through_matching,
    weight_matching,
)

POINTS = 7  # networks on a line, both ends included


def networks(channels: int, side: int) -> dict[str, tuple[torch.nn.Module, dict]]:
    """Name -> network and recipe: SGD, as in the literature, but Adam for transformers. Colour: sizes of the paper."""
    sgd, adam = dict(optimizer="sgd", lr=0.05), dict(optimizer="adam", lr=2e-3)
    decayed = sgd | {"weight_decay": 5e-4}
    if channels == 3:
        found = {
            f"ResNet-20 x{w}, {norm} norm": (ResNet((16 * w, 32 * w, 64 * w), 3, norm=norm), decayed)
            for norm in ("batch", "layer") for w in (1, 4)
        }  # fmt: skip
        return found | {"ViT-Small-192": (ViT(), dict(optimizer="adamw", lr=5e-4, weight_decay=0.05))}
    found = {f"MLP {w}": (MLP([side * side, w, w, 10]), sgd) for w in (32, 128)}
    for norm in ("batch", "layer"):
        for w in (4, 16):
            found[f"ResNet-8 x{w}, {norm} norm"] = (ResNet((w, 2 * w, 4 * w), 1, channels=1, norm=norm), sgd)
    for dim in (24, 48):
        found[f"ViT {dim}"] = (ViT(side, side // 4, dim, 2, 3, channels=1), adam)
    return found


def spectral(a: torch.Tensor, b: torch.Tensor, spec: PermutationSpec) -> Matching:
    """TransFusion as published: heads by their spectra, one order inside them; hidden units by weight matching."""
    matching = weight_matching(a, b, spec)
    indices = dict(matching.permutation.indices)
    for block, (_, groups) in spec.heads.items():
        in_block = match_heads(a, b, spec, block, "spectral").permutation.indices
        indices |= {group: in_block[group] for group in groups}
    return replace(matching, permutation=Permutation(indices))


def ways(zoo: Zoo, task, steps: int) -> dict[str, tuple[Zoo, PermutationSpec, object]]:
    """Name -> the zoo to match in, its spec, and how to match b to a."""
    spec, network, x = PermutationSpec.of(zoo.network), zoo.network, task.train.x[:2048]
    found = {"naive": (zoo, spec, identity_matching)}
    if spec.heads:
        found["heads spectral, as published"] = (zoo, spec, spectral)
    found["weights"] = (zoo, spec, weight_matching)
    if spec.tied:
        found["weights, no restarts"] = (zoo, spec, lambda a, b, s: weight_matching(a, b, s, restarts=0))
    if spec.heads:
        free = PermutationSpec.of(network, stream=True)
        found["weights, stream as well"] = (zoo, free, weight_matching)
        found["activations, stream as well"] = (zoo, free, lambda a, b, s: activation_matching(a, b, s, network, x))
    found["activations"] = (zoo, spec, lambda a, b, s: activation_matching(a, b, s, network, x))
    try:
        found["gauge, then weights"] = (fix_gauge(zoo), spec, weight_matching)
    except ValueError:
        pass  # this network has none
    if steps:

        def refined(a: torch.Tensor, b: torch.Tensor, s: PermutationSpec) -> Matching:
            return straight_through_matching(a, b, s, network, task, steps=steps)

        found["straight-through"] = (zoo, spec, refined)
        if spec.heads:
            found["straight-through, stream as well"] = (zoo, free, refined)
    return found


def measure(zoo: Zoo, spec: PermutationSpec, match, task, device: str) -> dict:
    n, start = len(zoo), time.perf_counter()
    lines, pairs = match_neighbours(zoo, spec, lambda a, b: match(a, b, spec))
    seconds = (time.perf_counter() - start) / n
    compared = torch.cat([t.flatten(1) for t in spec.parameters(lines.weights).values()], 1)
    cosines = torch.cosine_similarity(compared[::2], compared[1::2]).tolist()
    lines = replace(lines, weights=lines.weights.to(device))
    curve = linear_barrier(lines, pairs, task, points=POINTS)
    row = {"cosine": round(sum(cosines) / n, 4), "seconds a pair": round(seconds, 4)}
    for name, c in (("as it is", curve), ("repaired", curve.repaired)):
        row[name] = {
            f"{what} barrier": [round(float(f(values)), 4) for f in (torch.mean, torch.std)]
            for what, values in (("loss", c.loss_barrier), ("score", c.score_barrier))
        } | {"score halfway": round(float(c.score[:, POINTS // 2].mean()), 4)}
    return row


def planted(zoo: Zoo, spec: PermutationSpec, plants: int, noise: float) -> dict[str, int]:
    """How many of some planted permutations are found again whole, on trained weights with noise."""
    found, generator = {"identity start": 0, "default restarts": 0}, torch.Generator().manual_seed(0)
    scale = torch.cat([t.std(correction=0).expand(t.numel()) for t in zoo.layout.unflatten(zoo.weights[0]).values()])
    for i in range(plants):
        w, hidden = zoo.weights[i % len(zoo)], spec.random(generator)
        b = spec.apply(hidden, w + noise * scale * torch.randn(len(w), generator=generator))
        for name, restarts in (("identity start", 0), ("default restarts", None)):
            back = weight_matching(w, b, spec, restarts=restarts, seed=i).permutation
            found[name] += back.compose(hidden).is_identity
    return found | {"of": plants}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--train", type=int, default=None, help="use so many, 256 for calibration, 500 to judge (all)")
    parser.add_argument("--npz", default=None, help="read the task from this file: x_train, y_train, x_test, y_test")
    parser.add_argument("--device", default="cpu", help="where to train and to measure lines, as cuda")
    parser.add_argument("--members-at-once", type=int, default=None)
    parser.add_argument("--members", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=100, help="of straight-through matching; 0: leave it out")
    parser.add_argument("--plants", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--out", default=None)
    args = parser.parse_args()
    task, table = Task.from_npz(args.npz, name=args.task) if args.npz else load_task(args.task, seed=0), {}
    if args.train:
        part = {"train": args.train, "calibration": 256, "validation": 500}
        splits = {s: replace(task.split(s), x=task.split(s).x[:n], y=task.split(s).y[:n]) for s, n in part.items()}
        task = replace(task, splits=task.splits | splits)
    out = Path(args.out or f"benchmarks/results/{args.task}-barriers.json")
    for name, (network, recipe) in networks(task.input_shape[0], task.input_shape[-1]).items():
        if args.only not in name:
            continue
        zoo = train_zoo(task, network, members=args.members, seed=args.seed,
                        recipe=Recipe(epochs=args.epochs, **recipe), device=args.device,
                        members_at_once=args.members_at_once, checkpoint="build/artefacts")  # fmt: skip
        spec = PermutationSpec.of(network)
        row = {"weights": zoo.layout.size, "validation score": round(float(zoo.scores("validation").mean()), 4)}
        row |= {"recipe": recipe, "seconds to train": zoo.record["seconds"], "tied": spec.tied}
        row["planted"] = {f"noise {v:g}": planted(zoo, spec, args.plants, v) for v in (0.0, 0.5)}
        print(f"\n{name}: {row}", flush=True)
        row["matched by"] = {}
        for way, (members, its_spec, match) in ways(zoo, task, args.steps).items():
            found = row["matched by"][way] = measure(members, its_spec, match, task, args.device)
            shown = [
                f"{k} {found[k]['loss barrier'][0]:6.3f} ± {found[k]['loss barrier'][1]:.3f} "
                f"(halfway {100 * found[k]['score halfway']:.1f} %)"
                for k in ("as it is", "repaired")
            ]
            print(f"  {way:30s} {'  '.join(shown)}  cosine {found['cosine']}", flush=True)
        table[name] = row
        result = {
            "command": shlex.join(["python", *sys.argv]), "date": date.today().isoformat(),
            "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
                        "torch": torch.__version__},
            "settings": {k: v for k, v in vars(args).items() if k not in ("out", "only", "npz")},
            "pairs": args.members, "points on a line": POINTS,
            "splits": {s: len(task.split(s)) for s in ("train", "calibration", "validation")}, "networks": table,
        }  # fmt: skip
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
