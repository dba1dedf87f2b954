"""What notebooks 07, 08 and 08b show of ``benchmarks/results/large.json``: one table for each question.

Nothing here computes a result: ``benchmarks/large.py`` wrote them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dwflow_lite.course.notebook import markdown_table
from dwflow_lite.course.paths import repository

Curves = dict[str, tuple[list[float], list[float]]]


def results(part: str) -> dict[str, Any]:
    """The results of one part: "networks", "base", "bound", "pca", "cost" or "cluster"."""
    return _stored()[part]["results"]


def _stored() -> dict[str, Any]:
    return json.loads((repository() / "benchmarks" / "results" / "large.json").read_text(encoding="utf-8"))


def sizes() -> dict[str, int]:
    """Network -> how many numbers it has, statistics of BatchNorm among them; the largest last."""
    found = {name: row["weights"] for name, row in results("networks").items()}
    found = found | {"BERT-base": results("base")["weights"]}
    return dict(sorted(found.items(), key=lambda item: item[1]))


# -- accuracy --------------------------------------------------------------------------------------------------------


def networks_table() -> str:
    """Zoos of the paper's architectures: their own scores, and those of networks generated from them."""
    rows = []
    for name, row in results("networks").items():
        for kind in (kind for kind in ("aligned", "as trained") if kind in row):
            found = row[kind]
            scores = [f"{mean:.3f} ± {std:.3f}" for mean, std in (found["original"], found["generated"])]
            kept = f"{100 * found['held-out networks kept by the PCA']:.1f} %"
            rows.append([f"{name}, {kind}", f"{row['weights']:,}", row["members"], found["codes"], *scores, kept])
    heading = ["zoo", "weights", "members", "codes", "original", "generated", "of held-out networks kept"]
    return markdown_table(heading, rows)


def resnet_words() -> str:
    """What was run on ResNet-18, in a sentence."""
    row = results("networks")["ResNet-18"]
    about, aligned = row["about"], row["aligned"]
    return (
        f"`{about['command']}`, {about['date']}, {about['machine']['cores']} cores. {row['members']} networks of "
        f"{row['weights']:,} weights on {row['task']}, {aligned['codes']} codes, aligned; zoo "
        f"{_percent(aligned['original'])}, generated and recalibrated {_percent(aligned['generated'])}."
    )


def resnet_table() -> str:
    """Accuracy of generated ResNet-18s by where their statistics come from."""
    rows = results("networks")["ResNet-18"]["statistics"].items()
    heading = ["statistics of generated ResNet-18s", "test accuracy"]
    return markdown_table(heading, [[name, _percent(found)] for name, found in rows])


def resnet_audit() -> str:
    """The audit of some of them, as it was written."""
    return "\n".join(results("networks")["ResNet-18"]["audit"])


def _percent(found: Sequence[float]) -> str:
    mean, std = found
    return f"{100 * mean:.1f} ± {100 * std:.1f} %"


# -- time and memory -------------------------------------------------------------------------------------------------


def stages_table() -> str:
    """Seconds of each stage of generating a hundred networks."""
    stages = {}
    for name, row in results("networks").items():
        (stages[name],) = (v for k, v in row["aligned"].items() if k.startswith("seconds to generate 100"))
    names = list(dict.fromkeys(stage for found in stages.values() for stage in found))
    rows = []
    for name, found in stages.items():
        rows.append([name, *(f"{found[stage]:g} s" if stage in found else "–" for stage in names)])
    return markdown_table(["100 networks of", *names], rows)


def base_words() -> str:
    """BERT-base in a sentence: seconds, memory, and whether planted permutations were found."""
    base = results("base")
    stages = ", ".join(f"{stage} {seconds:g}" for stage, seconds in base["seconds by stage"].items())
    planted = max(base["distance to the reference over that of planted copies without permutation"])
    return (
        f"BERT-base, {base['weights']:,} weights, {base['members']} members ({base['zoo MB'] / 1024:.1f} GB on disk): "
        f"seconds by stage {stages}; at most {base['peak MB'] / 1024:.1f} GB of memory. Permuted copies come back to "
        f"{planted:.3f} of the distance of copies that were not permuted; permuting changes outputs by "
        f"{base['largest change of an output by a random permutation']:.0e}."
    )


def bounds_table() -> str:
    """Peak memory of fit and decoding under several bounds, and how much of it comes on top of the bound."""
    found = results("bound")
    rows = []
    for bound, row in found["bounds"].items():
        rows.append([bound, f"{row['peak MB']} MB", f"{row['peak MB'] - _mb(bound)} MB", f"{row['seconds']:g} s"])
    heading = ["bound", "peak, fit and decoding", "on top of the bound", "time"]
    return f"{found['N']} × {found['d']:,}, {found['zoo MB']:,} MB on disk:\n\n" + markdown_table(heading, rows)


def on_top() -> tuple[int, int]:
    """The least and the most MB that came on top of a bound."""
    found = [row["peak MB"] - _mb(bound) for bound, row in results("bound")["bounds"].items()]
    return min(found), max(found)


def _off(difference: float) -> str:
    return f"{difference:.0e}" if difference else "0"


def _mb(bound: str) -> int:
    return int(bound.removesuffix(" MB"))


def pca_table() -> str:
    """PCA by this package, streamed and in memory, beside scikit-learn's."""
    rows = []
    for title, found in results("pca").items():
        for name, run in ((name, run) for name, run in found.items() if isinstance(run, Mapping)):
            off = _off(run["largest relative difference of a variance"])
            size = title.replace("N = ", "").replace(", d = ", " × ")
            rows.append([name, size, f"{run['seconds']:g} s", f"{run['peak MB']:,} MB", off])
    return markdown_table(["PCA", "zoo, N × d", "time", "peak", "variances differ by"], rows)


def seconds_by_weights() -> Curves:
    """Seconds of one pass, and of reading alone, against the weights of a network."""
    curves = {}
    for label, chosen in {
        "N = 100, float32": [c for c in _passes() if c["N"] == 100 and c["bytes"] > 3.9 * 100 * c["d"]],
        "N = 8, float32 or bfloat16": [c for c in _passes() if c["N"] == 8],
    }.items():
        curves |= _against("d", chosen, label, f"{label}: reading alone")
    return curves


def seconds_by_members() -> Curves:
    """The same against the number of networks, of a million weights each."""
    return _against("N", [c for c in _passes() if c["d"] == 10**6], "one pass", "reading alone")


def _passes() -> list[dict[str, float]]:
    return list(results("cost")["passes"].values())


def _against(what: str, passes: list[dict[str, float]], label: str, reading: str) -> Curves:
    passes = sorted(passes, key=lambda c: c[what])
    x = [c[what] for c in passes]
    return {label: (x, [c["seconds"] for c in passes]), reading: (x, [c["reading alone, seconds"] for c in passes])}


def cluster_table() -> str:
    """One Dask worker beside two: seconds, and the largest difference between their results."""
    found, rows = results("cluster"), []
    for what in ("train_zoo", "alignment", "Gram matrix"):
        seconds = [f"{found[f'{n} worker(s), seconds'][what]:g} s" for n in (1, 2)]
        off = _off(found[f"{what}: largest difference between one worker and two"])
        rows.append([what, *seconds, f"{found[f'{what}: one worker over two']:g}", off])
    cores = _stored()["cluster"]["machine"]["cores"]
    heading = ["stage", "one worker", "two workers", "ratio", "largest difference"]
    return f"A Dask cluster on the machine of the result file ({cores} cores):\n\n" + markdown_table(heading, rows)
