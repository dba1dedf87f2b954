"""Weight matching at the paper's sizes: this package against a plain transcription, and against the assignments alone.

    python benchmarks/matching_speed.py [--members 100] [--threads 1]

Pairs are a network with its initial weights and a permuted copy of it under noise (planted: both descents have a common
answer), or another initialisation (strangers: local optima). The transcription follows algorithm 1 of Git Re-Basin:
sweep over the groups in random order; for each, permute every tensor that knows it, one matrix product a tensor, one
assignment; until a whole sweep gains nothing. For transformers it follows TransFusion: singular values afresh for every
pair of heads, one order inside a pair, hidden units by the first matrix alone; once (a second pass would change
nothing, the published code makes ten). The floor is the time in the assignments that the package solved.
All of it in one run on the same threads. Then a whole zoo of each network is aligned in one call.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import sys
import time
from datetime import date
from itertools import product
from pathlib import Path
from statistics import median

import torch
from scipy.optimize import linear_sum_assignment

from dwflow_lite import PermutationSpec, Zoo
from dwflow_lite.networks import ResNet, ViT, initialise
from dwflow_lite.symmetry import Permutation, canonicalise, matching, permute_axes, weight_matching
from dwflow_lite.zoo import Layout


def transcription(a: dict, b: dict, spec: PermutationSpec, generator: torch.Generator) -> tuple[dict, int]:
    """Algorithm 1 of arXiv 2209.04836 as printed, in the precision of the weights."""
    indices = {g: torch.arange(n) for g, n in spec.groups.items()}
    for sweep in range(1, 101):
        progress = False
        for g in torch.randperm(len(spec.free), generator=generator).tolist():
            group = spec.free[g]
            similarity = torch.zeros(spec.groups[group], spec.groups[group])
            for use in spec.uses[group]:
                others = Permutation({h: i for h, i in indices.items() if h != group})
                moved = permute_axes(b[use.name], spec.axes[use.name], others)
                similarity += use.rows(a[use.name]) @ use.rows(moved).T
            new = torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])
            rows = torch.arange(len(new))
            if similarity[rows, new].sum() > similarity[rows, indices[group]].sum() + 1e-6 * similarity.abs().sum():
                indices[group], progress = new, True
        if not progress:
            return indices, sweep
    return indices, sweep


def transfusion(a: dict, b: dict, spec: PermutationSpec, generator: torch.Generator) -> tuple[dict, int]:
    """Heads by spectra, an SVD for every pair; one order inside a pair; hidden units by the first weight matrix."""
    indices = {g: torch.arange(n) for g, n in spec.groups.items()}
    for heads, groups in spec.heads.values():
        size = spec.groups[groups[0]] // heads
        writers = [u for g in groups for u in spec.uses[g] if u.axis == 0 and a[u.name].ndim == 2]
        cut = [[s[u.name].unflatten(0, (heads, size)) for s in (a, b)] for u in writers]
        distance = torch.tensor([
            [sum(float((torch.linalg.svdvals(x[i]) - torch.linalg.svdvals(y[j])).norm()) for x, y in cut)
             for j in range(heads)] for i in range(heads)
        ])  # fmt: skip
        partner = linear_sum_assignment(distance.numpy())[1]
        order = []
        for i, j in enumerate(partner):
            inside = sum(x[i] @ y[j].T for x, y in cut)
            order += (j * size + linear_sum_assignment(inside.numpy(), maximize=True)[1]).tolist()
        for g in groups:
            indices[g] = torch.tensor(order)
    for group in spec.free:
        use = next(u for u in spec.uses[group] if u.axis == 0 and a[u.name].ndim == 2)
        similarity = use.rows(a[use.name]) @ use.rows(b[use.name]).T
        indices[group] = torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])
    return indices, 1


def timed(call, repeats: int) -> tuple[float, object]:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return median(seconds), result


def pair_of(
    network: torch.nn.Module, kind: str, noise: float
) -> tuple[torch.Tensor, torch.Tensor, PermutationSpec]:  # fmt: skip
    layout, spec = Layout.of(network), PermutationSpec.of(network)
    a, b = (layout.flatten(initialise(network, seed=s) | dict(network.named_buffers())).detach() for s in (0, 1))
    if kind == "strangers":
        return a, b, spec
    generator = torch.Generator().manual_seed(1)
    shake = torch.cat([(noise * t.std(correction=0)).expand(t.numel()) for t in layout.unflatten(a).values()])
    b = spec.apply(spec.random(generator), a + shake * torch.randn(len(a), generator=generator))
    return a, b, spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--out", default="benchmarks/results/matching_speed.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table, solve = {}, matching.linear_sum_assignment
    networks = {"ViT-Small-192": (ViT(), transfusion), "ResNet-18": (ResNet((64, 128, 256, 512), 2), transcription)}
    for (name, (network, published)), kind in product(networks.items(), ("strangers", "planted")):
        a, b, spec = pair_of(network, kind, args.noise)
        name = f"{name}, {kind}"
        spent: list[float] = []

        def counted(*given, spent=spent, **options):
            start = time.perf_counter()
            result = solve(*given, **options)
            spent.append(time.perf_counter() - start)
            return result

        matching.linear_sum_assignment = counted
        weight_matching(a, b, spec, restarts=0)
        matching.linear_sum_assignment = solve
        ours, found = timed(lambda a=a, b=b, s=spec: weight_matching(a, b, s, restarts=0), args.repeats)
        plain, (indices, sweeps) = timed(
            lambda a=a, b=b, s=spec, f=published: f(
                s.parameters(a), s.parameters(b), s, torch.Generator().manual_seed(0)
            ), args.repeats
        )  # fmt: skip
        parameters = [spec.parameters(w) for w in (a, spec.apply(Permutation(indices), b))]
        objective = float(sum((x.double() * y).sum() for x, y in zip(*(p.values() for p in parameters), strict=True)))
        table[name] = {
            "weights": spec.layout.size, "seconds a pair": round(ours, 4), "transcription, seconds": round(plain, 4),
            "transcription over package": round(plain / ours, 2), "assignments alone, seconds": round(sum(spent), 4),
            "assignments": len(spent), "package over assignments": round(ours / sum(spent), 2),
            "objective": round(found.objective[-1], 2), "objective, transcription": round(objective, 2),
            "objective before": round(found.objective[0], 2), "sweeps, transcription": sweeps,
        }  # fmt: skip
        print(name, table[name], flush=True)
        if not args.members or kind != "planted":
            continue
        generator = torch.Generator().manual_seed(2)
        weights = torch.empty(args.members, len(a))
        for row in weights:  # one by one: a zoo of ResNet-18 takes gigabytes
            row.copy_(spec.apply(spec.random(generator), a + 0.5 * a.std() * torch.randn(len(a), generator=generator)))
        zoo = Zoo(weights, spec.layout, network)
        torch.set_num_threads(os.cpu_count())
        start = time.perf_counter()
        canonicalise(zoo, spec, restarts=0, progress=True)
        table[name]["zoo"] = {
            "members": args.members, "threads": os.cpu_count(), "seconds": round(time.perf_counter() - start, 1),
            "zoo in memory, GB": round(weights.nbytes / 1e9, 2),
            "peak memory, GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        }  # fmt: skip
        torch.set_num_threads(args.threads)
        print(table[name]["zoo"], flush=True)
        del zoo, weights
    result = {
        "command": shlex.join(["python", *sys.argv]), "date": date.today().isoformat(),
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__},
        "settings": {k: v for k, v in vars(args).items() if k != "out"}, "networks": table,
    }  # fmt: skip
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
