"""Zoos that do not fit in memory: what the streamed PCA costs, and large networks through the whole pipeline.

    python benchmarks/large.py pca        # against scikit-learn's PCA and IncrementalPCA: seconds, peak memory
    python benchmarks/large.py bound      # peak memory against the bound that was set
    python benchmarks/large.py cost       # seconds and bytes against N and d, up to a billion weights; the disk's floor
    python benchmarks/large.py networks   # ResNet-18, ViT-Small-192, a small BERT: generated beside original
    python benchmarks/large.py base       # BERT-base: memory, alignment, PCA, generation
    python benchmarks/large.py cluster    # one and two workers of a Dask cluster

Each section replaces its part of results/large.json, with machine, date and command. Folders of ``--folder`` are kept,
so that an interrupted section goes on; those that a section made for itself are deleted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA, IncrementalPCA
from torch import Tensor

from dwflow_lite import (
    DeepWeightFlow,
    DualPCA,
    PermutationSpec,
    Recipe,
    Task,
    Zoo,
    audit,
    evaluate,
    load_task,
    train_zoo,
)
from dwflow_lite.batchnorm import norms_with_statistics, recalibrate
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import TRIVIAL, Generator
from dwflow_lite.networks import BERT, ResNet, ViT, initialise
from dwflow_lite.symmetry import canonicalise
from dwflow_lite.zoo import Entry, Layout, Shards, append, folder_header, read_folder, start_folder, write_zoo

RESULTS = Path(__file__).parent / "results" / "large.json"
MB = 1 << 20


# -- measuring ---------------------------------------------------------------------------------------------------


def peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def _child(connection: Any, function: Callable, arguments: tuple) -> None:
    torch.set_num_threads(os.cpu_count())
    x = torch.randn(50, 1000)
    DualPCA(5).fit(x), PCA(5).fit(x.numpy())  # libraries wake up before the measurement
    before, start = peak(), time.perf_counter()
    result = function(*arguments)
    connection.send(
        {"seconds": round(time.perf_counter() - start, 2), "peak MB": round((peak() - before) / MB)} | result
    )


def measured(function: Callable[..., dict], *arguments: Any) -> dict:
    """Seconds, and the rise of peak memory, of a call in a fresh process; what became of it if it died."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(there, function, arguments))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        process.join()
        return {"failed": f"exit code {process.exitcode} (-9: killed for want of memory)"}
    finally:
        process.join()


def forget(folder: Path) -> None:
    """Have the system drop what it caches of these files, so that a read comes from the disk."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(folder: Path) -> float:
    """Seconds to read the files from the disk and do nothing: the floor of every pass."""
    forget(folder)
    start, buffer = time.perf_counter(), bytearray(16 * MB)
    for path in folder.glob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def synthetic(folder: Path, members: int, d: int, storage: str = "float32") -> Shards:
    """A zoo of numbers on disk: noise on one of five multiples of a ramp."""
    layout = Layout((Entry("w", (d,), "float32"),))
    start_folder(folder, folder_header(layout, {"synthetic": True}, members), storage)
    there = read_folder(folder)[2]
    for member in range(members):
        if member in there:
            continue
        row = torch.randn(d, generator=torch.Generator().manual_seed(member))
        row += torch.linspace(-1, 1, d) * (1 + member % 5)
        append(folder, member, row[None], [{"held_out": False}])
    return read_folder(folder)[1]


@contextmanager
def scratch(name: str, base: Path) -> Iterator[Path]:
    folder = base / name
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Clock(dict):
    """Seconds by name, and the peak of memory so far in ``peaks``: ``with clock("decode"): ...``."""

    def __init__(self) -> None:
        super().__init__()
        self.peaks: dict[str, int] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self[name], self.peaks[name] = round(time.perf_counter() - start, 2), round(peak() / MB)


def mean_and_std(score: Tensor) -> list[float]:
    return [round(float(score.mean()), 4), round(float(score.std()), 4)]


# -- sections ----------------------------------------------------------------------------------------------------


def _ours(folder: Path, streamed: bool) -> dict:
    rows = read_folder(folder)[1]
    pca = DualPCA(memory=256 * MB).fit(rows if streamed else rows.columns(slice(None)))
    return {"variance": [float(v) for v in pca.explained_variance_]}


def _theirs(folder: Path, kind: str) -> dict:
    rows = read_folder(folder)[1].columns(slice(None)).numpy()
    n = len(rows) - 1
    pca = PCA(n) if kind == "PCA" else IncrementalPCA(n, batch_size=len(rows))
    pca.fit(rows)
    return {"variance": [float(v) for v in pca.explained_variance_]}


def pca_section(args: argparse.Namespace) -> dict:
    found = {}
    for d in (10**6, 10**7):
        with scratch(f"pca-{d}", args.folder) as folder:
            synthetic(folder, 100, d)
            floor = read_all(folder)
            runs = {"DualPCA, streamed, 256 MB": measured(_ours, folder, True)}
            runs["DualPCA, in memory"] = measured(_ours, folder, False)
            for kind in ("PCA", "IncrementalPCA"):
                runs[f"scikit-learn {kind}"] = measured(_theirs, folder, kind)
                print(d, kind, {k: v for k, v in runs[f"scikit-learn {kind}"].items() if k != "variance"}, flush=True)
            ours = runs["DualPCA, streamed, 256 MB"]
            variances = {name: run.pop("variance") for name, run in runs.items() if "variance" in run}
            for name, theirs in variances.items():
                pairs = zip(theirs, variances["DualPCA, streamed, 256 MB"], strict=True)
                worst = max(abs(a / b - 1) for a, b in pairs)
                runs[name] |= {
                    "largest relative difference of a variance": float(f"{worst:.1e}"),
                    "seconds over ours": round(runs[name]["seconds"] / ours["seconds"], 2),
                    "peak over ours": round(runs[name]["peak MB"] / ours["peak MB"], 2),
                }
            found[f"N = 100, d = {d:.0e}"] = {
                "zoo MB": round(400 * d / MB),
                "reading alone, seconds": round(floor, 2),
            } | runs
            print(json.dumps(found[f"N = 100, d = {d:.0e}"], indent=1), flush=True)
    return found


def _fit_and_decode(folder: Path, memory: int) -> dict:
    rows = read_folder(folder)[1]
    pca = DualPCA(memory=memory)
    codes = pca.fit_transform(rows)
    fitted = peak()
    checksum = sum(float(block.double().sum()) for _, block in pca.blocks(codes[:10]))
    return {"peak after decoding 10 over peak of the fit": round(peak() / fitted, 2), "checksum": round(checksum)}


def bound_section(args: argparse.Namespace) -> dict:
    found = {}
    with scratch("bound", args.folder) as folder:
        synthetic(folder, 50, 2 * 10**7)
        for memory in (64, 128, 256, 512, 1024):
            found[f"{memory} MB"] = measured(_fit_and_decode, folder, memory * MB)
            print(memory, found[f"{memory} MB"], flush=True)
    return {"N": 50, "d": 2 * 10**7, "zoo MB": round(4 * 50 * 2e7 / MB), "bounds": found}


def _pass(folder: Path, memory: int) -> dict:
    forget(folder)
    DualPCA(memory=memory).fit(read_folder(folder)[1])
    return {}


def cost_section(args: argparse.Namespace) -> dict:
    found = {}
    sizes = [(25, 10**6), (50, 10**6), (100, 10**6), (200, 10**6), (100, 10**5), (100, 10**7), (8, 10**8)]
    for n, d, storage in [*((n, d, "float32") for n, d in sizes), (100, 10**7, "bfloat16"), (8, 10**9, "bfloat16")]:
        with scratch(f"cost-{n}-{d}-{storage}", args.folder) as folder:
            start = time.perf_counter()
            synthetic(folder, n, d, storage)
            wrote = time.perf_counter() - start
            size = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
            floor, run = read_all(folder), measured(_pass, folder, 512 * MB)
            found[f"N = {n}, d = {d:.0e}, {storage}"] = run | {
                "N": n, "d": d, "bytes": size, "reading alone, seconds": round(floor, 2),
                "reading alone, MB/s": round(size / MB / floor), "making it, seconds": round(wrote, 1),
                "over reading alone": round(run["seconds"] / floor, 2),
                "multiply-adds a second": float(f"{n * n * d / run['seconds']:.2e}"),
            }  # fmt: skip
            print(json.dumps(found[f"N = {n}, d = {d:.0e}, {storage}"]), flush=True)
    return {"memory bound MB": 512, "passes": found}


RECIPES: dict[str, tuple] = {
    "ResNet-18": (lambda: ResNet((64, 128, 256, 512), 2, channels=1), "digits",
                  Recipe(optimizer="adam", lr=5e-4, epochs=3, batch_size=64), {"method": "loop"}),
    "ViT-Small-192": (lambda: ViT(8, 4, 192, 6, 3, channels=1), "digits",
                      Recipe(optimizer="adamw", lr=1e-3, epochs=6, batch_size=64), {"method": "loop"}),
    "a small BERT": (lambda: BERT(60, 32, 2, 2, 64, 13), "reviews",
                     Recipe(optimizer="adam", lr=4e-3, epochs=5, batch_size=32), {"members_at_once": 20}),
}  # fmt: skip


class GaussianKnownCodes:
    """Gaussian noise in the codes of a PCA that is there already: no second one in memory."""

    def __init__(self, pca: DualPCA) -> None:
        self.pca = pca

    def __deepcopy__(self, memo: dict) -> GaussianKnownCodes:
        return GaussianKnownCodes(self.pca)  # the audit copies its controls, and the PCA is as large as the zoo

    def fit(self, zoo: Zoo) -> GaussianKnownCodes:
        self.zoo = zoo
        return self

    def sample(self, n: int, *, seed: int) -> Zoo:
        noise = torch.randn(n, self.pca.n_components_, generator=torch.Generator().manual_seed(seed))
        weights = self.pca.inverse_transform(noise * self.pca.explained_variance_.sqrt().float())
        return Zoo(weights, self.zoo.layout, self.zoo.network)


class Recalibrated(BaseEstimator):
    """A generator whose networks have their BatchNorm measured afresh."""

    def __init__(self, generator: Generator, task: Task) -> None:
        self.generator = generator
        self.task = task

    def fit(self, zoo: Zoo) -> Recalibrated:
        self.generator_ = clone(self.generator, safe=False).fit(zoo)
        return self

    def sample(self, n: int, *, seed: int) -> Zoo:
        return recalibrate(self.generator_.sample(n, seed=seed), self.task)


def rivals(model: DeepWeightFlow, task: Task) -> dict[str, Generator]:
    """Simple generators without a second PCA in memory; their BatchNorm measured afresh, as for generated networks."""
    generators = {name: generator for name, generator in TRIVIAL.items() if name != "closed-form flow"}
    generators["Gaussian on codes"] = GaussianKnownCodes(model.pca_)
    if norms_with_statistics(model.network_):
        return {name: Recalibrated(generator, task) for name, generator in generators.items()}
    return generators


def strategies(model: DeepWeightFlow, generated: Zoo, task: Any) -> dict[str, list[float]]:
    """Score of generated networks by where their running statistics come from: mean and standard deviation."""
    zoo, norms = model.zoo_.fitted, norms_with_statistics(model.zoo_.network)
    columns = [zoo.layout.slices[f"{n}.{part}"] for n in norms for part in ("running_mean", "running_var")]
    generated, first = generated.in_memory(), zoo.weights[0]
    reference, fresh = generated.weights.clone(), generated.weights.clone()
    for number, place in enumerate(columns):
        reference[:, place], fresh[:, place] = first[place], float(number % 2)
    candidates = {
        "generated with the weights": generated, "mean 0, variance 1": replace(generated, weights=fresh),
        "of the reference network": replace(generated, weights=reference),
        "measured on calibration": recalibrate(generated, task),
        "measured on train": recalibrate(generated, task, "train"),
    }  # fmt: skip
    return {name: mean_and_std(evaluate(kind, task, "test").score) for name, kind in candidates.items()}


def network_section(args: argparse.Namespace) -> dict:
    found = {}
    for name, (make, task_name, recipe, how) in RECIPES.items():
        if args.only and args.only not in name:
            continue
        task, network, home = load_task(task_name), make(), args.folder / name
        start = time.perf_counter()
        options = dict(members=args.members, held_out=5, seed=0, on_diverged="drop", progress=True) | how
        zoo = train_zoo(task, network, recipe=recipe, folder=home / "zoo", **options)
        row: dict[str, Any] = {
            "weights": zoo.layout.size,
            "task": task_name,
            "recipe": recipe.to_json() | how,
            "members": len(zoo.fitted),
        }
        row["training this time, seconds"] = round(time.perf_counter() - start, 1)
        clock = Clock()
        if (home / "aligned" / "zoo.json").is_file():  # of an interrupted run
            aligned = Zoo.load(home / "aligned")
        else:
            with clock("alignment"):
                aligned = canonicalise(zoo, PermutationSpec.of(network), folder=home / "aligned", progress=True)
        for kind, source in (("aligned", aligned), ("as trained", zoo))[: 1 if args.aligned_only else 2]:
            model = DeepWeightFlow(align=None, flow=FlowSettings(hidden=args.hidden), memory=512 * MB)
            with clock(f"PCA and flow, {kind}"):
                model.fit(source, progress=True)
            with clock("field"):
                codes = model.trajectory(args.samples, seed=1).end
            with clock("decode"):
                generated = ready = model.decode(codes, home / f"generated-{kind}")
            if norms_with_statistics(network):
                with clock("BatchNorm"):
                    ready = recalibrate(generated, task, folder=home / f"ready-{kind}")
            with clock("evaluation"):
                score = evaluate(ready, task, "test").score
            original = evaluate(source.fitted, task, "test").score
            pca = model.pca_
            kept = pca.reconstruction(source.unseen.weights)[:, -1].mean()
            row[kind] = {
                "codes": pca.n_components_,
                "original": mean_and_std(original), "generated": mean_and_std(score), "score": task.score_name,
                "held-out networks kept by the PCA": round(float(kept), 4),
                "components for 99 % of the variance": int((pca.explained_variance_ratio_.cumsum(0) < 0.99).sum()) + 1,
                "dispersion": round(model.training_.dispersion[-1], 3),
            }  # fmt: skip
            if kind == "aligned":
                row[kind]["seconds to generate " + str(args.samples)] = {
                    k: clock[k] for k in ("field", "decode", "BatchNorm", "evaluation") if k in clock
                }
                if norms_with_statistics(network):
                    row["statistics"] = strategies(model, generated.take(range(min(20, len(generated)))), task)
                few = ready.take(range(min(args.audited, len(ready)))).in_memory()
                in_memory, controls = model.zoo_.in_memory(), rivals(model, task)
                table = audit(few, in_memory, task, controls=controls, split="test", rematch=False)
                row["audit"] = table.markdown().splitlines()
            shutil.rmtree(home / f"generated-{kind}"), shutil.rmtree(home / f"ready-{kind}", ignore_errors=True)
            print(name, json.dumps(row[kind], indent=1), flush=True)
        parts = ("field", "decode", "BatchNorm", "evaluation")
        found[name] = row | {"seconds": {k: v for k, v in clock.items() if k not in parts}}
        shutil.rmtree(home / "aligned")
        print(name, json.dumps(found[name], indent=1), flush=True)
    return found


def _base(folder: Path, members: int, memory: int) -> dict:
    """BERT-base end to end but for training: planted permutations found, PCA, generation."""
    network = BERT()
    spec, layout = PermutationSpec.of(network), Layout.of(network)
    start_weights = layout.flatten(initialise(network, seed=0))
    scale = start_weights.std()

    def rows() -> Iterator[Tensor]:
        for member in range(members):
            generator = torch.Generator().manual_seed(member)
            row = start_weights + 0.5 * scale * torch.randn(layout.size, generator=generator)
            yield spec.apply(spec.random(generator), row)[None] if member else row[None]

    record = {"architecture": network.architecture}
    clock = Clock()
    with clock("writing the zoo"):
        zoo = write_zoo(folder / "zoo", rows(), layout, network, record, (False,) * members, "bfloat16")
    with clock("alignment"):
        aligned = canonicalise(zoo, spec, folder=folder / "aligned", progress=True)
    distance = [float((aligned.weights[m] - zoo.weights[0]).norm() / (0.5 * 2**0.5 * scale * layout.size**0.5))
                for m in range(1, members)]  # fmt: skip
    model = DeepWeightFlow(align=None, memory=memory, flow=FlowSettings(steps=500))
    with clock("PCA and flow"):
        model.fit(aligned, progress=True)
    with clock("generation"):
        generated = model.sample(members, seed=1, folder=folder / "generated")
    x = torch.randint(1, 30522, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        moved = spec.apply(spec.random(torch.Generator().manual_seed(9)), start_weights)
        double = [layout.load_into(BERT(), w).eval()(x) for w in (start_weights, moved)]
        runs = generated.module(0)(x)
    return {
        "weights": layout.size, "members": members, "storage": "bfloat16", "memory bound MB": memory // MB,
        "zoo MB": round(2 * layout.size * members / MB), "seconds by stage": clock, "peak MB by stage": clock.peaks,
        "distance to the reference over that of planted copies without permutation": [round(d, 3) for d in distance],
        "largest change of an output by a random permutation": float((double[0] - double[1]).abs().max()),
        "outputs": float(double[0].abs().max()), "a generated network runs": bool(runs.isfinite().all()),
        "codes": model.pca_.n_components_,
    }  # fmt: skip


def base_section(args: argparse.Namespace) -> dict:
    with scratch("bert-base", args.folder) as folder:
        return measured(_base, folder, args.base_members, 512 * MB)


def cluster_section(args: argparse.Namespace) -> dict:
    from distributed import Client, LocalCluster

    task, network = load_task("digits"), ResNet((16, 32, 64), 1, channels=1)
    options = dict(members=16, members_at_once=2, seed=0, recipe=Recipe(epochs=4))
    found: dict[str, Any] = {"network": "ResNet-8 x16", "members": 16, "jobs of": 2}
    results: list[dict[str, Tensor]] = []
    torch.set_num_threads(1)
    with scratch("cluster", args.folder) as folder:
        large = synthetic(folder / "gram", 50, 2 * 10**7)
        for workers in (1, 2):
            with (
                LocalCluster(
                    n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
                ) as cluster,
                Client(cluster) as client,
            ):
                executor, clock = client.get_executor(), Clock()
                list(executor.map(_awake, range(8 * workers)))
                with clock("train_zoo"):
                    zoo = train_zoo(task, network, executor=executor, **options)
                with clock("alignment"):
                    aligned = canonicalise(zoo, executor=executor, restarts=20)
                with clock("Gram matrix"):
                    pca = DualPCA(memory=128 * MB).fit(large, executor=executor)
                results.append(
                    {"train_zoo": zoo.weights, "alignment": aligned.weights, "Gram matrix": pca.singular_values_}
                )
                found[f"{workers} worker(s), seconds"] = clock
                print(clock, flush=True)
    for what in ("train_zoo", "alignment", "Gram matrix"):
        one, two = (result[what] for result in results)
        found[f"{what}: largest difference between one worker and two"] = float((one - two).abs().max())
        seconds = [found[f"{w} worker(s), seconds"][what] for w in (1, 2)]
        found[f"{what}: one worker over two"] = round(seconds[0] / seconds[1], 2)
    return found


def _awake(_: int) -> int:
    return torch.get_num_threads()


SECTIONS = {
    "pca": pca_section, "bound": bound_section, "cost": cost_section, "networks": network_section,
    "base": base_section, "cluster": cluster_section,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("--only", help="networks: part of a name")
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--audited", type=int, default=20)
    parser.add_argument("--aligned-only", action="store_true")
    parser.add_argument("--base-members", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("build/large"), help="where the large files go")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    result = SECTIONS[args.section](args)
    given = {
        "--only": args.only,
        "--members": args.members,
        "--samples": args.samples,
        "--hidden": args.hidden,
        "--audited": args.audited,
    }
    given = given if args.section == "networks" else {"--base-members": args.base_members}
    changed = [word for key, value in given.items() for word in (key, str(value))
               if value != parser.get_default(key[2:].replace("-", "_"))]  # fmt: skip
    changed += ["--aligned-only"] if args.aligned_only else []
    about = {
        "command": shlex.join(["python", "benchmarks/large.py", args.section, *changed]),
        "date": date.today().isoformat(),
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__},
        "seconds": round(time.perf_counter() - start),
    }  # fmt: skip
    table = json.loads(args.out.read_text()) if args.out.is_file() else {}
    if args.section == "networks":
        result = table.get("networks", {}).get("results", {}) | {k: v | {"about": about} for k, v in result.items()}
    table[args.section] = about | {"results": result}
    args.out.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
