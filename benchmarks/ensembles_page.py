"""What benchmarks/ensembles.py found, as a page: each way beside trained networks that cost no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def page(runs: Mapping[str, Mapping]) -> str:
    """For each number of images: a table for each size of zoo, and one of trained networks."""
    lines = [
        "Written by benchmarks/ensembles.py. Digits of glyphs, test split of 10,000; means over seeds. *Cost*: in "
        "trained networks. *T*: temperature, fitted on validation. *Told*: area under the ROC curve of entropy, digits "
        "against letters, or against digits of twice the noise. *− trained*: less what trained networks of the same "
        "cost have, seed by seed; of NLL, below 0 is better. *Members, and …*: as many join as validation wants."
    ]
    found: dict[str, dict[str, dict[str, Mapping]]] = {}  # images -> what was made -> seed -> run
    for key, run in runs.items():
        images, seed, made = key.split(", ")  # "1000 images", "seed 0", "3 members" or "trained"
        found.setdefault(images, {}).setdefault(made, {})[seed] = run
    for images, tables in found.items():
        lines += tables_of(images, tables)
    return "\n".join(lines) + "\n"


def tables_of(images: str, tables: Mapping[str, Mapping[str, Mapping]]) -> list[str]:
    """The tables of networks that learn from so many images; those whose trained networks were not measured are not."""
    trained = tables.get("trained", {})
    each = ", ".join(f"{run['seconds of one network']:.2f}" for run in trained.values())
    lines = ["", f"# Learning from {images}", "", f"{', '.join(trained)}: {each} seconds to train a network."]
    for made, several in tables.items():
        runs = [run for seed, run in several.items() if seed in trained]
        others = [trained[seed]["trained"] for seed in several if seed in trained]
        if made == "trained" or not runs:
            continue
        lines += ["", f"## From {made}", "", f"| way | {' | '.join(HEADINGS)} |", "|---" * 15 + "|"]
        for name in runs[0]["ways"]:
            lines.append(row_of(name, [run["ways"][name] for run in runs], runs, others))
        lines += ["", verdict(runs, others), "", f"One more network: {further(runs)}."]
    lines += ["", "## Trained networks", "", f"| networks | {' | '.join(HEADINGS[2:12])} |", "|---" * 11 + "|"]
    for count in next(iter(trained.values()))["trained"] if trained else ():
        numbers = mean([numbers_of(run["trained"][count]) for run in trained.values()])
        lines.append(f"| {count} | {cells(numbers)} |")
    return lines


def at_equal_cost(way: Mapping, run: Mapping, trained: Mapping) -> tuple[float, Mapping]:
    """How many trained networks a way costs, and what the largest number that costs no more is worth."""
    cost = sum(way["seconds"].values()) / run["seconds of one network"]
    counts = [int(count) for count in trained if int(count) <= max(cost, 1) + 0.01]
    return cost, trained[str(max(counts))]


def numbers_of(found: Mapping) -> dict[str, float]:
    """The numbers of a report that the page compares."""
    numbers = {name: found[name][-1] for name in ("accuracy", "nll", "ece", "brier", "disagreement", "temperature")}
    areas = {f"{name} detected": found["detected"][name]["entropy"] for name in ("letters", "noisy")}
    return numbers | areas | {"alone": found["alone"], "noisy": found["noisy"]["accuracy"]}


def mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number over seeds."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


HEADINGS = (
    "networks", "cost", "accuracy", "NLL", "ECE", "Brier", "each alone", "disagreement", "T", "letters told",
    "noisy told", "noisy read", "accuracy − trained", "NLL − trained",
)  # fmt: skip


def row_of(name: str, ways: Sequence[Mapping], runs: Sequence[Mapping], trained: Sequence[Mapping]) -> str:
    """A line of the page: means over seeds, and the differences to trained networks of equal cost, seed by seed."""
    costs, beside = zip(*map(at_equal_cost, ways, runs, trained), strict=True)
    rows, others = [numbers_of(way) for way in ways], [numbers_of(other) for other in beside]
    points = ", ".join(f"{100 * (r['accuracy'] - o['accuracy']):+.2f}" for r, o in zip(rows, others, strict=True))
    nll = ", ".join(f"{r['nll'] - o['nll']:+.4f}" for r, o in zip(rows, others, strict=True))
    networks = ", ".join(str(n) for n in dict.fromkeys(way["counts"][-1] for way in ways))
    return f"| {name} | {networks} | {sum(costs) / len(costs):.1f} | {cells(mean(rows))} | {points} | {nll} |"


def cells(numbers: Mapping[str, float]) -> str:
    """The numbers of a report in the order of the headings, from accuracy to noisy digits read."""
    shown = [f"{100 * numbers['accuracy']:.2f} %", *(f"{numbers[name]:.4f}" for name in ("nll", "ece", "brier"))]
    shown += [f"{100 * numbers['alone']:.2f} %", f"{numbers['disagreement']:.3f}", f"{numbers['temperature']:.2f}"]
    shown += [f"{numbers[name]:.4f}" for name in ("letters detected", "noisy detected")]
    return " | ".join([*shown, f"{100 * numbers['noisy']:.2f} %"])


def verdict(runs: Sequence[Mapping], trained: Sequence[Mapping]) -> str:
    """The generated way that validation chooses in each seed, less trained networks of the same cost."""
    names, points, nll = [], [], []
    for run, others in zip(runs, trained, strict=True):
        generated = {name: way for name, way in run["ways"].items() if "align" in way["seconds"]}
        names.append(min(generated, key=lambda name: generated[name]["validation nll"]))
        way = generated[names[-1]]
        _, other = at_equal_cost(way, run, others)
        points.append(100 * (way["accuracy"][-1] - other["accuracy"][-1]))
        nll.append(way["nll"][-1] - other["nll"][-1])
    return (
        f"Of the generated, validation chooses: {'; '.join(names)}. Less trained networks of the same cost: accuracy "
        f"{', '.join(f'{p:+.2f}' for p in points)} points, NLL {', '.join(f'{n:+.4f}' for n in nll)}."
    )


def further(found: Sequence[Mapping]) -> str:
    """Milliseconds of one further network of each way that generates."""
    parts = []
    for name, way in found[0]["ways"].items():
        if way["seconds"].get("generate") and not name.startswith("members"):
            several = [run["ways"][name] for run in found]
            seconds = sum(w["seconds"]["generate"] / w["networks"] for w in several) / len(several)
            parts.append(f"{name} {1000 * seconds:.2g} ms")
    return "; ".join(parts)
