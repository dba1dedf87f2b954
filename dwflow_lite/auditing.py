"""New or copied? Generated networks beside their zoo, held-out networks and the trivial generators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dwflow_lite.compress import DualPCA
from dwflow_lite.flow import dispersion_ratio
from dwflow_lite.symmetry import interpolate
from dwflow_lite.tasks import Task
from dwflow_lite.zoo import Zoo, evaluate

# -- trivial generators: what anybody could do with a zoo, no flow needed ----------------------------------------


def member_noise(zoo: Zoo, n: int, seed: int, level: float = 0.1) -> Zoo:
    """Random fitted members plus Gaussian noise of ``level`` times each tensor's own standard deviation."""
    generator, weights = torch.Generator().manual_seed(seed), zoo.fitted.weights
    copies = weights[torch.randint(len(weights), (n,), generator=generator)]
    noise = torch.randn(copies.shape, generator=generator)
    for columns in zoo.layout.slices.values():
        noise[:, columns] *= level * weights[:, columns].std()
    return _made(zoo, copies + noise, f"zoo + {level:g} noise")


def gaussian_codes(zoo: Zoo, n: int, seed: int, components: int | float | None = None) -> Zoo:
    """Gaussian noise in the PCA codes of the fitted members, with each code's own standard deviation."""
    pca = DualPCA(components)
    codes = pca.fit_transform(zoo.fitted.weights)
    noise = torch.randn(n, codes.shape[1], generator=torch.Generator().manual_seed(seed))
    return _made(zoo, pca.inverse_transform(noise * codes.std(0)), "Gaussian on codes")


def pair_interpolation(zoo: Zoo, n: int, seed: int) -> Zoo:
    """Points on the lines between random pairs of fitted members, at t uniform in [0, 1]."""
    generator, weights = torch.Generator().manual_seed(seed), zoo.fitted.weights
    _needs(weights, 2, "pair interpolation")
    pairs = torch.stack([torch.randperm(len(weights), generator=generator)[:2] for _ in range(n)])
    t = torch.rand(n, 1, generator=generator)
    points = interpolate(weights[pairs[:, 0]], weights[pairs[:, 1]], t.to(weights))
    return _made(zoo, points.squeeze(1), "pair interpolation")


def soup(zoo: Zoo, n: int, seed: int, size: int = 10) -> Zoo:
    """Averages of ``size`` random fitted members (all of them where there are fewer)."""
    generator, weights = torch.Generator().manual_seed(seed), zoo.fitted.weights
    _needs(weights, 2, "a soup")
    rows = torch.stack([torch.randperm(len(weights), generator=generator)[:size] for _ in range(n)])
    return _made(zoo, weights[rows].mean(1), f"soup of {min(size, len(weights))}")


def fresh_start(zoo: Zoo, n: int, seed: int) -> Zoo:
    """Noise of each tensor's own mean and standard deviation: no network at all, the floor."""
    weights, generator = zoo.fitted.weights, torch.Generator().manual_seed(seed)
    noise = torch.randn(n, zoo.layout.size, generator=generator)
    for columns in zoo.layout.slices.values():
        noise[:, columns] = weights[:, columns].mean() + noise[:, columns] * weights[:, columns].std()
    return _made(zoo, noise, "random weights")


TRIVIAL: dict[str, Callable[[Zoo, int, int], Zoo]] = {
    "zoo + noise": member_noise,
    "pair interpolation": pair_interpolation,
    "soup of 10": soup,
    "Gaussian on codes": gaussian_codes,
    "random weights": fresh_start,
}


def _needs(weights: Tensor, members: int, what: str) -> None:
    if len(weights) < members:
        raise ValueError(f"{what} needs at least {members} fitted members, got {len(weights)}")


def _made(zoo: Zoo, weights: Tensor, name: str) -> Zoo:
    record = {k: zoo.record[k] for k in ("architecture", "task") if k in zoo.record}
    return Zoo(weights, zoo.layout, zoo.network, record | {"generated": {"by": name}})


# -- measures ----------------------------------------------------------------------------------------------------


def nearest_distance(weights: Tensor, zoo: Tensor, *, skip_self: bool = False) -> Tensor:
    """Euclidean distance of each row of ``weights`` (n, d) to its nearest row of ``zoo`` (N, d): (n,).

    ``skip_self`` leaves out the row of the same position, for a zoo measured against itself.
    """
    distance = torch.cdist(weights, zoo, compute_mode="donot_use_mm_for_euclid_dist")
    if skip_self:
        if weights.shape != zoo.shape or len(zoo) < 2:
            raise ValueError("skip_self compares a zoo of at least two members with itself")
        distance.fill_diagonal_(float("inf"))
    return distance.min(1).values


@dataclass(frozen=True)
class Row:
    """One line of an audit.

    ``score`` and ``score_std`` over networks; ``nearest``: median distance to the nearest fitted member, in units of
    the zoo's own (1: as far as members from each other, 0: a copy); ``dispersion``: spread about the zoo's mean.
    """

    name: str
    networks: int
    score: float
    score_std: float
    nearest: float
    dispersion: float


@dataclass(frozen=True)
class Audit:
    """The rows of an audit, in order; ``audit["name"]`` picks one; it prints as a table."""

    rows: tuple[Row, ...]
    score_name: str
    split: str

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}; there are {[r.name for r in self.rows]}")

    def markdown(self) -> str:
        """The table in Markdown."""
        percent = self.score_name == "accuracy"
        lines = [
            f"| networks | {self.score_name} ({self.split}) | nearest member | dispersion |",
            "|---|---|---|---|",
        ]
        for r in self.rows:
            score = (
                f"{100 * r.score:.1f} ± {100 * r.score_std:.1f} %" if percent else f"{r.score:.3f} ± {r.score_std:.3f}"
            )
            lines.append(f"| {r.name} | {score} | {r.nearest:.2f} | {r.dispersion:.2f} |")
        return "\n".join(lines)

    def __str__(self) -> str:
        cells = [[c.strip() for c in line.strip("|").split("|")] for line in self.markdown().splitlines()]
        cells.pop(1)
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)

    def _repr_markdown_(self) -> str:
        return self.markdown()


def audit(
    generated: Zoo | Mapping[str, Zoo],
    zoo: Zoo,
    task: Task,
    *,
    controls: Mapping[str, Callable[[Zoo, int, int], Zoo]] | None = None,
    split: str = "test",
    seed: int = 0,
) -> Audit:
    """Measure generated networks beside the zoo, its held-out members, and the trivial generators.

    Args:
        generated: networks in the same basis as ``zoo`` (for an aligning model, audit against ``model.zoo_``); several
            kinds may be given by name.
        zoo: what the generator was fitted on.
        task: gives the score.
        controls: trivial generators f(zoo, n, seed); by default all of ``TRIVIAL``. They never change the zoo.
        split: where the score is measured; ``"test"`` is for the final report only.
        seed: of the controls.
    """
    generated = {"generated": generated} if isinstance(generated, Zoo) else dict(generated)
    fitted = zoo.fitted
    if len(fitted) < 2 or not generated:
        raise ValueError("an audit needs at least two fitted members and some generated networks")
    controls = TRIVIAL if controls is None else controls
    names = ["zoo", "held-out networks", *generated, *controls]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two rows of the audit would be named {twice[0]!r}; give one of them another name")
    for name, other in generated.items():
        if other.layout != zoo.layout:
            raise ValueError(f"{name!r} has other tensors than the zoo it is audited against")
    own = nearest_distance(fitted.weights, fitted.weights, skip_self=True)
    unit = float(own.median())
    if unit == 0:
        raise ValueError("half of the zoo are exact copies of each other; there is no distance to measure by")
    n = max(map(len, generated.values()))
    kinds: dict[str, Zoo] = {"zoo": fitted}
    if zoo.unseen:
        kinds["held-out networks"] = zoo.unseen
    kinds |= generated
    kinds |= {name: make(zoo, n, seed) for name, make in controls.items()}
    rows = []
    for name, networks in kinds.items():
        score = evaluate(networks, task, split).score
        near = own if name == "zoo" else nearest_distance(networks.weights, fitted.weights)
        spread = float(score.std()) if len(score) > 1 else 0.0
        rows.append(Row(name, len(networks), float(score.mean()), spread, float(near.median()) / unit,
                        dispersion_ratio(networks.weights, fitted.weights)))  # fmt: skip
    return Audit(tuple(rows), task.score_name, split)
