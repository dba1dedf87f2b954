"""Are generated networks better starts for another task than a member of the zoo, or the mean, at equal cost?

    python -m benchmarks.transfer [--cases mlp-digits-letters …] [--seeds 0 1 2] [--list] [--toy]

For each case and seed: a zoo on the source; eight kinds of start, ``STARTS`` networks of each; all of them fine-tuned
on the target, with ten labels of each class and with all, and scored on its test split before any training (where
classes are shared) and after 1, 3 and 10 epochs. All kinds take the same steps on the same examples: fine-tuning costs
all of them the same, and what it costs to make them stands beside. Generators with a width are made so wide that all
but a twentieth of their networks pass the bar of distance, by distances alone.

Zoos are kept in ``--folder``, results after each run; what the file holds is not run again. ``cifar`` reads CIFAR-10
(an npz, ``--data`` or in $DWFLOW_DATA); those of ``gpu`` want a CUDA device, and STL-10, SVHN and CIFAR-100 where
torchvision finds them in $DWFLOW_DATA. ``--estimate`` says how many seconds of one core a case takes, by a small part.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from benchmarks.image_sets import cifar10_file, cifar10_task, torchvision_task
from benchmarks.kept import run_missing
from benchmarks.new_and_accurate import as_new, reading_of
from dwflow_lite import MLP, DeepWeightFlow, Recipe, Task, Zoo, canonicalise, load_task, train_zoo
from dwflow_lite.auditing.audit import Reading, median_in_units
from dwflow_lite.auditing.streams import Rows
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import AffineMixture, GaussianCodes, Generator, MemberNoise, Soup
from dwflow_lite.networks import ResNet
from dwflow_lite.symmetry import PermutationSpec
from dwflow_lite.tasks import Split
from dwflow_lite.tasks.images import CLASSES
from dwflow_lite.use import Transfer, random_starts, transfer
from dwflow_lite.zoo import evaluate

STARTS = 20  # networks of each kind
LABELS = (10, None)  # of each class; None: all
GENERATED = ("flow, default", "mixture of all", "Gaussian on codes, wider")
OTHERS = ("soup of 10", "zoo + noise", "random")  # that need no generator
TRIVIAL = ("a member", "the mean")
COST = "cost of starts, "  # runs of this name
COSTED = ("mlp-digits-letters",)  # cases of which it is measured
DISTANCE = "distance of starts, "  # runs of this name, for each case and seed


@dataclass(frozen=True)
class Case:
    """What is carried over, and how: tasks are functions of a seed, so that nothing is read before it is needed."""

    source: Callable[[int], Task]
    target: Callable[[int], Task]
    network: Callable[[Task], nn.Module]
    zoo: Recipe
    tuning: Recipe
    members: int = 50
    epochs: tuple[int, ...] = (1, 3, 10)
    steps: int = 5  # of the bisection that finds how wide generators may be
    flow: FlowSettings | None = None  # None: its defaults
    zoo_options: dict = field(default_factory=dict)
    needs_cuda: bool = False


def glyphs(sizes: dict[str, int], symbols: str = "digits", domain: str = "upright") -> Callable[[int], Task]:
    """Glyphs of a domain; ``sizes`` says how many images each split has."""
    return lambda seed: load_task("glyphs", seed=seed, symbols=symbols, domain=domain, **sizes)


def wide_mlp(task: Task) -> nn.Module:
    """The network of notebook 09, in whose zoos generated networks are both accurate and new."""
    return MLP([task.train.x[0].numel(), 160, task.outputs])


def resnet8(task: Task, width: int = 8) -> nn.Module:
    """ResNet-8 with BatchNorm; by default of half the CIFAR width."""
    return ResNet((width, 2 * width, 4 * width), 1, channels=task.input_shape[0], outputs=task.outputs)


def resnet18(task: Task) -> nn.Module:
    return ResNet((64, 128, 256, 512), 2, channels=task.input_shape[0], outputs=task.outputs)


def cifar_half(file: Path | None, part: int) -> Callable[[int], Task]:
    """Five classes of CIFAR-10, 16 × 16: 400 images of each to train, calibrate and validate, and 400 to test."""
    names = CLASSES["CIFAR10"][5 * part : 5 * part + 5]
    return lambda seed: cifar10_task(cifar10_file(file), names, seed, size=16, most=400)


WIDE = Recipe(optimizer="adamw", lr=3e-3, weight_decay=1.0, epochs=40)  # of notebook 09: decay acts within 333 steps
CONVOLUTIONS = Recipe(epochs=8, lr=3e-3)
LARGE = Recipe(optimizer="sgd", lr=0.05, weight_decay=5e-4, epochs=30, batch_size=128)
TUNING = Recipe(batch_size=32, lr=1e-2)  # of 0.001, 0.003, 0.01, 0.03 the best on validation, for all kinds looked at
TUNING_LARGE = Recipe(optimizer="adamw", lr=1e-4, weight_decay=1e-5, batch_size=32)
SIZES = {"train": 2000, "calibration": 200, "validation": 1000, "test": 10_000}  # of glyphs
FEWER = {"train": 1000, "calibration": 200, "validation": 500, "test": 1000}  # for networks of convolutions
TOY_SIZES = dict.fromkeys(SIZES, 260)


def cases(data: Path | None = None, toy: bool = False) -> dict[str, Case]:
    """Every case by name.

    Args:
        data: the npz of CIFAR-10.
        toy: tiny sizes, at which it only shows that it runs.
    """
    drawn = partial(glyphs, TOY_SIZES if toy else SIZES)
    mlp = partial(Case, network=wide_mlp, zoo=WIDE, tuning=TUNING)
    resnet = partial(Case, zoo=CONVOLUTIONS, tuning=TUNING, epochs=(1, 3), steps=3)
    fewer, fewest = (partial(glyphs, TOY_SIZES if toy else FEWER | more) for more in ({}, {"train": 500}))
    narrow = partial(resnet8, width=4)
    found = {
        "mlp-digits-letters": mlp(drawn(), drawn("letters")),
        "mlp-upright-rotated": mlp(drawn(), drawn(domain="rotated")),
        "mlp-thin-noisy": mlp(drawn(domain="thin"), drawn(domain="noisy")),
        "resnet-upright-rotated": resnet(fewer(), fewest(domain="rotated"), narrow, members=20),
        "cifar": resnet(cifar_half(data, 0), cifar_half(data, 1), resnet8, members=30),
    }
    for which in ("STL10", "SVHN", "CIFAR100"):
        found[f"gpu-{which}"] = Case(
            source=lambda seed: load_task("cifar10", seed=seed),
            target=partial(torchvision_task, which),
            network=resnet18,
            zoo=LARGE,
            tuning=TUNING_LARGE,
            members=20,
            epochs=(1, 5),
            zoo_options={"members_at_once": 5},
            needs_cuda=True,
        )
    if toy:
        tiny = {"members": 4, "epochs": (1,), "steps": 1, "flow": FlowSettings(hidden=8, steps=5)}
        return {name: replace(case, zoo=replace(case.zoo, epochs=1), **tiny) for name, case in found.items()}
    return found


# -- starts --------------------------------------------------------------------------------------------------------


def generators(
    zoo: Zoo, reading: Reading, seed: int, steps: int, flow: FlowSettings | None
) -> dict[str, Generator]:  # fmt: skip
    """What makes starts of an aligned zoo, unfitted, by name; the widths of three are found by distances alone."""
    signs = partial(AffineMixture, None, "signs")
    wide = partial(as_new, zoo=zoo, reading=reading, high=1.6, steps=steps)
    return {
        "the mean": Soup(len(zoo.fitted)),
        "soup of 10": Soup(10),
        "zoo + noise": MemberNoise(wide(MemberNoise, low=0.0)),
        "flow, default": DeepWeightFlow(align=None, flow=flow, seed=seed),
        "mixture of all": signs(factor=wide(lambda f: signs(factor=f), low=0.4)),
        "Gaussian on codes, wider": GaussianCodes(factor=wide(lambda f: GaussianCodes(factor=f), low=0.4)),
    }


def starts_of(
    zoo: Zoo, n: int, seed: int, steps: int = 5, flow: FlowSettings | None = None
) -> tuple[dict[str, Zoo], dict[str, float], Reading]:
    """``n`` starts of every kind, the seconds of this process to make them, and the distances of the aligned zoo.

    Args:
        zoo: trained on the source, N members in which no generator was fitted yet.
        n: of each kind; the mean is the same n times, and where there are fewer members they come again.
        seed: of all that is drawn.
        steps: of bisection.
        flow: how the flow is trained; None: as by default.
    """
    started = time.process_time()
    aligned = canonicalise(zoo, rounds=10, seed=seed)
    seconds = {"alignment": time.process_time() - started}
    reading = reading_of(aligned)
    starts = {
        "random": random_starts(zoo.network, n, seed + 1000),
        "a member": aligned.take([number % len(aligned) for number in range(n)]),
    }
    for name, generator in generators(aligned, reading, seed, steps, flow).items():
        started = time.process_time()
        starts[name] = generator.fit(aligned).sample(n, seed=seed + 1)
        seconds[name] = time.process_time() - started
    return starts, seconds, reading


def trained(case: Case, source: Task, seed: int, members: int, folder: Path | None, device: str) -> Zoo:
    """So many members of the zoo of a case."""
    sizes = {"members": members, "seed": seed, "device": device} | case.zoo_options
    return train_zoo(source, case.network(source), recipe=case.zoo, checkpoint=folder, **sizes)


@lru_cache(maxsize=1)
def prepared(name: str, seed: int, toy: bool, data: Path | None, folder: Path, device: str) -> tuple:
    """A case, its source and target, its starts, and its zoo's distances; kept while both numbers of labels are run."""
    case = cases(data, toy)[name]
    source, target = case.source(seed), case.target(seed)
    zoo = trained(case, source, seed, case.members, folder, device)
    starts, _, reading = starts_of(zoo, 2 if toy else STARTS, seed, case.steps, case.flow)
    return case, source, target, starts, reading


def cost(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of one core that it takes to train one member, the zoo, and to make starts of it."""
    case = cases(args.data, args.toy)[name]
    source = case.source(0)
    found = {}
    for what, members in (("one member", 1), (f"a zoo of {case.members}", case.members)):
        started = time.process_time()
        zoo = trained(case, source, 0, members, None, "cpu")
        found[what] = time.process_time() - started
    found |= starts_of(zoo, 2 if args.toy else STARTS, 0, case.steps, case.flow)[1]
    return {what: round(seconds, 2) for what, seconds in found.items()}


# -- one run -------------------------------------------------------------------------------------------------------


def device_of(name: str, args: argparse.Namespace) -> str:
    """Where a case runs."""
    return "cuda" if cases(args.data)[name].needs_cuda else "cpu"


def distances(name: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Of every kind of start: the median distance to the nearest training network, up to permutation; zoo's own = 1."""
    *_, starts, reading = prepared(name, seed, args.toy, args.data, args.folder, device_of(name, args))
    spec = PermutationSpec.of(starts["a member"].network)
    found = {}
    for kind, networks in starts.items():
        distance = reading.distance_of(Rows(networks.weights), spec, seed=0)
        found[kind] = round(median_in_units(distance, reading.distance), 3)
    return found


def one_run(name: str, labels: int | None, seed: int, args: argparse.Namespace) -> dict:
    """All kinds of start of one case, seed and number of labels."""
    case, source, target, starts, _ = prepared(name, seed, args.toy, args.data, args.folder, device_of(name, args))
    is_shared = set(source.class_names) & set(target.class_names)
    found = transfer(
        starts,
        target,
        source,
        epochs=(0, *case.epochs) if is_shared else case.epochs,
        labels_per_class=labels,
        recipe=case.tuning,
        split="test",
        seed=seed,
        device=device_of(name, args),
    )
    print(f"\n{name}, seed {seed}\n{found}", flush=True)
    on_source = {kind: round(float(evaluate(zoo, source).score.mean()), 4) for kind, zoo in starts.items()}
    return summary(found) | {"validation score on the source": on_source}


def summary(found: Transfer) -> dict:
    """Means, spreads and paired gains of a transfer, in per cent, JSON-able."""
    kinds = {}
    for kind in found.kinds:
        kinds[kind] = {"mean": rounded(found.mean(kind)), "spread": rounded(found.spread(kind))}
        for over in TRIVIAL:
            kinds[kind][f"gain over {over}"] = [rounded(pair) for pair in found.gain(kind, over)]
    return {
        "title": found.title,
        "epochs": list(found.epochs),
        "shared": list(found.shared),
        "starts": len(found.scores[found.kinds[0]][0]),
        "kinds": kinds,
    }


def rounded(shares: list[float] | tuple[float, ...]) -> list[float]:
    """Shares in per cent, to a hundredth of a point."""
    return [round(100 * share, 2) for share in shares]


# -- the page ------------------------------------------------------------------------------------------------------


def is_clear(pairs: list[list[float]]) -> int:
    """1 if a gain is larger than twice its standard error in each seed, -1 if it is smaller than minus that, else 0."""
    if all(mean > 2 * error for mean, error in pairs):
        return 1
    return -1 if all(mean < -2 * error for mean, error in pairs) else 0


def verdict(by_case: dict[str, list[dict]], kind: str, over: str) -> str:
    """How often one kind of start is clearly better, or worse, than another, over cases and epochs, in words."""
    signs, gains = [], []
    for several in by_case.values():
        for place in range(len(several[0]["epochs"])):
            pairs = [run["kinds"][kind][f"gain over {over}"][place] for run in several]
            signs.append(is_clear(pairs))
            gains.append(fmean(mean for mean, _ in pairs))
    better, worse = signs.count(1), signs.count(-1)
    size = f"from {min(gains):+.1f} to {max(gains):+.1f} points, mean {fmean(gains):+.1f}"
    return f"better in {better}, worse in {worse} of {len(signs)} ({size})"


def page(runs: dict[str, dict]) -> str:
    """The answer in one line for each generated kind, then a table for each case and number of labels."""
    costs, apart = (
        {key.removeprefix(what): run for key, run in runs.items() if key.startswith(what)} for what in (COST, DISTANCE)
    )
    by_case = several_of({key: run for key, run in runs.items() if not key.startswith((COST, DISTANCE))})
    lines = [
        "Written by benchmarks/transfer.py. Accuracy on the test split of the target, in per cent; means over seeds of "
        "the zoo. Every kind of start was trained on the same examples in the same order. On the source networks read "
        "as they were made: of those with BatchNorm statistics are measured anew on the target alone.",
        "",
        "## Do generated starts beat the trivial way at equal cost?",
        "",
        "A case, number of labels and number of epochs counts as better, or worse, where the paired difference is "
        "larger than twice its standard error over starts in every seed; those that need no generator stand below.",
        "",
        "| start | against a member of the zoo | against the mean of the zoo |",
        "|---|---|---|",
    ]
    for kind in (*GENERATED, *OTHERS):
        lines.append(f"| {kind} | " + " | ".join(verdict(by_case, kind, over) for over in TRIVIAL) + " |")
    for case, seconds in costs.items():
        said = ", ".join(f"{what} {value:.1f}" for what, value in seconds.items())
        lines += ["", f"Seconds of one core to make starts, {case}: {said} ({STARTS} of each kind)."]
    lines += distance_lines(several_of(apart))
    for case, several in by_case.items():
        lines += ["", f"## {case}, {len(several)} seed{'s' if len(several) > 1 else ''}", ""]
        lines += table(several)
    return "\n".join(lines) + "\n"


def several_of(runs: dict[str, dict]) -> dict[str, list[dict]]:
    """What stands before the seed in the name of a run -> its runs, a seed each."""
    several: dict[str, list[dict]] = {}
    for key, run in runs.items():
        several.setdefault(key.rpartition(", seed")[0], []).append(run)
    return several


def distance_lines(by_case: dict[str, list[dict]]) -> list[str]:
    """Lines of Markdown: how far each kind of start lies from training networks, case by case, a mean over seeds."""
    if not by_case:
        return []
    kinds = list(next(iter(by_case.values()))[0])
    lines = ["", "## How far starts lie from the nearest training network", ""]
    lines += ["Medians, up to permutation; between neighbours in the zoo: 1. Below a half: copies.", ""]
    lines += ["| case | seeds | " + " | ".join(kinds) + " |", "|---" * (2 + len(kinds)) + "|"]
    for case, several in by_case.items():
        means = [f"{fmean(run[kind] for run in several):.2f}" for kind in kinds]
        lines.append(f"| {case} | {len(several)} | " + " | ".join(means) + " |")
    return lines


def table(several: list[dict]) -> list[str]:
    """Lines of Markdown: of each kind the mean ± spread over starts, its paired gains at the end, seed by seed."""
    first = several[0]
    heading = ["start", *("untrained" if epochs == 0 else f"after {epochs}" for epochs in first["epochs"])]
    heading += ["gain over a member, last", "gain over the mean, last", "on the source"]
    lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    for kind in first["kinds"]:
        of_kind = [run["kinds"][kind] for run in several]
        cells = [kind]
        for place in range(len(first["epochs"])):
            mean, spread = (fmean(each[what][place] for each in of_kind) for what in ("mean", "spread"))
            cells.append(f"{mean:.1f} ± {spread:.1f}")
        for over in TRIVIAL:
            gains = [each[f"gain over {over}"][-1][0] for each in of_kind]
            cells.append("–" if kind == over else ", ".join(f"{gain:+.1f}" for gain in gains))
        cells.append(f"{100 * fmean(run['validation score on the source'][kind] for run in several):.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


# -- how long will it take? ----------------------------------------------------------------------------------------


def estimate(case: Case, seed: int = 0) -> dict[str, float]:
    """Seconds of one core that a case and seed will take: of one epoch of ten members on 256 examples, scaled up."""
    source, target = case.source(seed), case.target(seed)
    rows = torch.arange(min(256, len(source.train)))
    few = {"train": Split(source.train.x[rows], source.train.y[rows])}
    indices = {"train": source.indices["train"][rows.numpy()]}
    part = replace(source, splits=dict(source.splits) | few, indices=dict(source.indices) | indices)
    network, recipe = case.network(source), replace(case.zoo, epochs=1)
    started = time.process_time()
    train_zoo(part, network, members=10, recipe=recipe, seed=seed, scored=())
    an_example = (time.process_time() - started) / (10 * len(rows))
    of_tuning = an_example * 8 * STARTS * (sum(case.epochs) * len(target.train) + len(target.test) / 3)
    return {
        "zoo": an_example * case.members * case.zoo.epochs * len(source.train),
        "fine-tuning, all labels": of_tuning,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plain = [name for name in cases() if not name.startswith(("cifar", "gpu"))]
    parser.add_argument("--cases", nargs="*", default=plain, metavar="NAME", help="default: those that need no files")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, help="the npz of CIFAR-10")
    parser.add_argument("--folder", type=Path, default=Path("build/transfer"), help="where zoos are kept")
    parser.add_argument("--toy", action="store_true", help="tiny sizes: whether it runs")
    parser.add_argument("--list", action="store_true", help="say which cases there are")
    parser.add_argument("--estimate", action="store_true", help="say how many core-seconds they take, and run none")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/transfer.json"))
    args = parser.parse_args()
    if args.list:
        print("\n".join(cases()))
        return
    unknown = sorted(set(args.cases) - set(cases()))
    if unknown:
        parser.error(f"no cases {', '.join(unknown)}: --list names all of them")
    if any(cases()[name].needs_cuda for name in args.cases) and not torch.cuda.is_available():
        parser.error("cases of gpu need a CUDA device, and there is none: leave them out")
    if args.estimate:
        for name in args.cases:
            print(name, {what: round(seconds) for what, seconds in estimate(cases(args.data)[name]).items()})
        return
    torch.set_num_threads(1)  # so that the process spends the seconds of one core
    jobs = {f"{COST}{name}": partial(cost, name, args) for name in args.cases if name in COSTED}
    for name, seed, labels in product(args.cases, args.seeds, LABELS):
        key = f"{name}, {'all' if labels is None else labels} labels, seed {seed}"
        jobs[key] = partial(one_run, name, labels, seed, args)
        jobs[f"{DISTANCE}{name}, seed {seed}"] = partial(distances, name, seed, args)  # while its starts are at hand
    run_missing(args.out, "python -m benchmarks.transfer", jobs, page)


if __name__ == "__main__":
    main()
