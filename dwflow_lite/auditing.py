"""New or copied? Generated networks beside their zoo, held-out networks and the trivial generators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from dwflow_lite.compress import DualPCA
from dwflow_lite.flow import ClosedFormField, GaussianSource, dispersion_ratio, integrate
from dwflow_lite.networks import architecture_of
from dwflow_lite.storage import Shards
from dwflow_lite.symmetry import PermutationSpec, basis_of, interpolate, match_all, match_each, weight_matching
from dwflow_lite.tasks import Task
from dwflow_lite.zoo import Zoo, evaluate

Generator = Callable[[Zoo, int, int], Zoo]

# -- trivial generators: what anybody could do with a zoo, no training needed. None of them changes the zoo --------


def retrieval(zoo: Zoo, n: int, seed: int) -> Zoo:
    """Random fitted members, handed back as they are: perfect in every score that does not ask for novelty."""
    generator, weights = torch.Generator().manual_seed(seed), zoo.fitted.weights
    return _made(zoo, weights[torch.randint(len(weights), (n,), generator=generator)], "retrieval")


def member_noise(zoo: Zoo, n: int, seed: int, level: float = 0.1) -> Zoo:
    """Random fitted members plus Gaussian noise of ``level`` times each tensor's own standard deviation."""
    generator, weights = torch.Generator().manual_seed(seed), zoo.fitted.weights
    copies = weights[torch.randint(len(weights), (n,), generator=generator)]
    noise = torch.randn(copies.shape, generator=generator).to(weights)
    for columns in zoo.layout.slices.values():
        noise[:, columns] *= level * weights[:, columns].std()
    return _made(zoo, copies + noise, f"zoo + {level:g} noise")


def gaussian_weights(zoo: Zoo, n: int, seed: int) -> Zoo:
    """Gaussian noise with the mean and standard deviation of every single weight over the fitted members."""
    weights = zoo.fitted.weights
    _needs(weights, 2, "a Gaussian")
    noise = torch.randn(n, zoo.layout.size, generator=torch.Generator().manual_seed(seed)).to(weights)
    return _made(zoo, weights.mean(0) + noise * weights.std(0), "Gaussian on weights")


def closed_form_flow(zoo: Zoo, n: int, seed: int, source: float = 0.05, steps: int = 100) -> Zoo:
    """The flow a perfect learner would find in the codes (:class:`ClosedFormField`): it can only return members."""
    pca = DualPCA()
    codes = pca.fit_transform(zoo.fitted.weights)
    scale = float(codes.square().mean().sqrt())
    start = GaussianSource(codes.shape[1], source).sample(n, torch.Generator().manual_seed(seed)).to(codes)
    end = integrate(ClosedFormField(codes / scale, source), start, steps=steps, solver="euler", keep=False).end
    return _made(zoo, pca.inverse_transform(end * scale), "closed-form flow")


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


TRIVIAL: dict[str, Generator] = {
    "retrieval": retrieval,
    "closed-form flow": closed_form_flow,
    "zoo + noise": member_noise,
    "pair interpolation": pair_interpolation,
    "soup of 10": soup,
    "Gaussian on codes": gaussian_codes,
    "Gaussian on weights": gaussian_weights,
    "random weights": fresh_start,
}
NOISE_LADDER: dict[str, Generator] = {
    f"zoo + {level:g} noise": partial(member_noise, level=level) for level in (0.03, 0.1, 0.2, 0.4, 0.8)
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
    return _distances(weights, zoo, skip_self).min(1).values


def _distances(weights: Tensor, zoo: Tensor, skip_self: bool) -> Tensor:
    distance = torch.cdist(weights, zoo, compute_mode="donot_use_mm_for_euclid_dist")
    if skip_self:
        if weights.shape != zoo.shape or len(zoo) < 2:
            raise ValueError("skip_self compares a zoo of at least two members with itself")
        distance.fill_diagonal_(float("inf"))
    return distance


def rematched_distance(
    weights: Tensor, zoo: Tensor, spec: PermutationSpec, *, skip_self: bool = False, candidates: int = 3,
    based: Tensor | None = None, seed: int = 0,
) -> Tensor:  # fmt: skip
    """Distance to the nearest row of ``zoo`` up to a renaming of hidden units: (n,), never above the plain one.

    Two networks may be neighbours under other names. Each row is weight-matched to its ``candidates`` nearest rows,
    once as the rows stand and once with all of them matched to the first row of ``zoo``. Both steps are heuristics,
    so this bounds the true distance from above. ``based`` is ``zoo`` already matched to its first row, for a caller
    that asks about several sets of ``weights``.
    """
    plain = _distances(weights, zoo, skip_self)
    based = match_all(zoo[0], zoo, spec, restarts=0, seed=seed) if based is None else based
    in_basis = _distances(match_all(zoo[0], weights, spec, restarts=0, seed=seed), based, skip_self)
    nearest = [d.topk(min(candidates, len(zoo)), largest=False).indices for d in (plain, in_basis)]
    pairs = {(i, j) for near in nearest for i, row in enumerate(near.tolist()) for j in row}
    pairs = sorted((i, j) for i, j in pairs if not (skip_self and i == j))

    def match(pair: tuple[int, int]) -> Tensor:
        found = weight_matching(weights[pair[0]], zoo[pair[1]], spec, restarts=0, seed=seed)
        return (weights[pair[0]] - spec.apply(found.permutation, zoo[pair[1]])).norm()

    best = plain.min(1).values.tolist()
    for (i, _), distance in zip(pairs, match_each(match, pairs), strict=True):
        best[i] = min(best[i], float(distance))
    return torch.tensor(best)


def wrong_set_overlap(wrong: Tensor, zoo_wrong: Tensor, *, skip_self: bool = False) -> Tensor:
    """Largest overlap |A ∩ B| / |A ∪ B| of the examples a network gets wrong with those a member gets wrong: (n,).

    The paper's measure of behaviour (arXiv 2601.05052, fig. 2): 1 is a behavioural copy. ``skip_self`` leaves out the
    row of the same position: without it a zoo measured against itself reads 1 whatever it does.

    Args:
        wrong: (n, examples), True where a network errs. zoo_wrong: (N, examples).
    """
    a, b = wrong.float(), zoo_wrong.float()
    both = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1) - both
    overlap = torch.where(either > 0, both / either.clamp_min(1), 1.0)  # two networks without errors behave alike
    if skip_self:
        overlap.fill_diagonal_(-1.0)
    return overlap.max(1).values


@dataclass(frozen=True)
class Row:
    """One line of an audit; distances are in units of the zoo's own median distance to the nearest other member.

    Attributes:
        name: of these networks. networks: how many.
        score: mean over networks. score_std: their standard deviation.
        nearest: median distance to the nearest fitted member (1: as far as a member from its nearest other, 0: a copy).
        rematched: the same up to a renaming of hidden units; None where no permutation spec is known. In a zoo aligned
            to a reference, only the reference was matched to everybody, so it is everybody's nearest plain neighbour;
            here all pairs are treated alike.
        overlap: mean :func:`wrong_set_overlap` with the fitted members; None for regression.
        dispersion: spread about the zoo's mean, over the zoo's spread.
        accurate_and_new: share of networks that score at least as well *and* lie at least as far from their nearest
            member as all but the lowest twentieth of the fitted members do (held-out networks: about 0.9).
    """

    name: str
    networks: int
    score: float
    score_std: float
    nearest: float
    rematched: float | None
    overlap: float | None
    dispersion: float
    accurate_and_new: float


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

    @classmethod
    def mean(cls, audits: Sequence[Audit]) -> Audit:
        """Average audits of several seeds, row by row, over the names that all of them have."""
        common = [r.name for r in audits[0].rows if all(r.name in [x.name for x in a.rows] for a in audits)]
        rows = []
        for name in common:
            many = [asdict(a[name]) for a in audits]
            numbers = {k: v for k, v in many[0].items() if k != "name"}
            means = {k: None if v is None else sum(m[k] for m in many) / len(many) for k, v in numbers.items()}
            rows.append(Row(name, **means))
        return cls(tuple(rows), audits[0].score_name, audits[0].split)

    def markdown(self) -> str:
        """The table in Markdown."""
        percent = self.score_name == "accuracy"
        heads = ["networks", f"{self.score_name} ({self.split})", "nearest member", "re-matched", "wrong-set overlap",
                 "dispersion", "accurate and new"]  # fmt: skip
        lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for r in self.rows:
            scale, digits, unit = (100, 1, " %") if percent else (1, 3, "")
            cells = [r.name.replace("|", "/"), f"{scale * r.score:.{digits}f} ± {scale * r.score_std:.{digits}f}{unit}"]
            cells += ["–" if v is None else f"{v:.2f}" for v in (r.nearest, r.rematched, r.overlap, r.dispersion)]
            lines.append("| " + " | ".join([*cells, f"{100 * r.accurate_and_new:.0f} %"]) + " |")
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
    controls: Mapping[str, Generator] | None = None,
    split: str = "test",
    spec: PermutationSpec | None = None,
    rematch: bool = True,
    seed: int = 0,
) -> Audit:
    """Measure generated networks beside the zoo, its held-out members, and the trivial generators.

    Args:
        generated: networks in the same basis as ``zoo`` (for an aligning model, audit against ``model.zoo_``); several
            kinds may be given by name.
        zoo: what the generator was fitted on.
        task: gives the score.
        controls: trivial generators f(fitted members, n, seed); by default all of ``TRIVIAL``. They change no zoo.
        split: where the score is measured; ``"test"`` is for the final report only.
        spec: of a reader's own network, for the distance up to renaming; the course's networks have theirs.
        rematch: measure that distance (a second or so for each kind of network).
        seed: of the controls.
    """
    generated = {"generated": generated} if isinstance(generated, Zoo) else generated
    if not isinstance(generated, Mapping) or not all(isinstance(z, Zoo) for z in generated.values()):
        raise ValueError("generated must be a Zoo (as model.sample returns it), or several by name")
    if isinstance(zoo.weights, Shards):
        raise ValueError(f"{zoo!r} lives on disk, and an audit measures all distances: audit(…, zoo.in_memory(), …)")
    fitted = zoo.fitted
    if len(fitted) < 2 or not generated:
        raise ValueError("an audit needs at least two fitted members and some generated networks")
    controls = TRIVIAL if controls is None else controls
    names = ["zoo", "held-out networks", *generated, *controls]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two rows of the audit would be named {twice[0]!r}; give one of them another name")
    for name, other in generated.items():
        if other.layout != zoo.layout or architecture_of(other.network) != architecture_of(zoo.network):
            raise ValueError(f"{name!r} has another architecture than the zoo it is audited against")
        if other.record.get("basis", basis_of(zoo)) != basis_of(zoo):
            raise ValueError(f"{name!r} was generated in another basis than this zoo's; audit against model.zoo_")
    cut = zoo.record.get("task", {})
    if cut.get("name") == task.name and cut.get("fingerprint", task.fingerprint) != task.fingerprint:
        raise ValueError(
            f"the zoo was trained on another cut of {task.name!r} (seed {cut.get('seed')}): its training examples "
            f"may be among the {split} examples of this task"
        )
    own = nearest_distance(fitted.weights, fitted.weights, skip_self=True)
    unit = float(own.median())
    if unit == 0:
        raise ValueError("half of the zoo are exact copies of each other; there is no distance to measure by")
    n = max(map(len, generated.values()))
    kinds: dict[str, Callable[[], Zoo]] = {"zoo": lambda: fitted}  # made when it is their turn: large zoos fill memory
    if any(zoo.held_out):
        kinds["held-out networks"] = lambda: zoo.unseen
    kinds |= {name: partial(generated.__getitem__, name) for name in generated}
    kinds |= {name: partial(make, fitted, n, seed) for name, make in controls.items()}
    if rematch and spec is None:
        try:
            spec = PermutationSpec.of(zoo.network)
        except ValueError:  # a reader's own network: the column says that it was not measured
            rematch = False
    # What everything is measured by, from the fitted members themselves.
    of_zoo, own_renamed = evaluate(fitted, task, split), None
    if rematch:
        based = match_all(fitted.weights[0], fitted.weights, spec, restarts=0, seed=seed)
        renaming = partial(rematched_distance, zoo=fitted.weights, spec=spec, based=based, seed=seed)
        own_renamed = renaming(fitted.weights, skip_self=True)
        renamed_unit = float(own_renamed.median())
    least_score = float(of_zoo.score.quantile(0.05))
    least_distance = float((own_renamed if rematch else own).quantile(0.05))
    rows = []
    for name, make in kinds.items():
        itself, networks = name == "zoo", make()
        found = of_zoo if itself else evaluate(networks, task, split)
        near = own if itself else nearest_distance(networks.weights, fitted.weights)
        renamed = own_renamed if itself or not rematch else renaming(networks.weights)
        overlap = None
        if found.wrong is not None:
            overlap = float(wrong_set_overlap(found.wrong, of_zoo.wrong, skip_self=itself).mean())
        new = (near if renamed is None else renamed) >= least_distance
        rows.append(Row(
            name, len(networks), float(found.score.mean()), float(found.score.std()) if len(networks) > 1 else 0.0,
            float(near.median()) / unit, None if renamed is None else float(renamed.median()) / renamed_unit, overlap,
            dispersion_ratio(networks.weights, fitted.weights),
            float(((found.score >= least_score) & new).float().mean()),
        ))  # fmt: skip
    return Audit(tuple(rows), task.score_name, split)


@dataclass(frozen=True)
class Ceiling:
    """What a PCA of ``components`` directions can say of networks: share of their variance, and score once decoded.

    ``fitted`` are the members it was fitted on, ``held_out`` trained networks it has not seen. A generator that decodes
    through this PCA cannot return a network with the part that the PCA loses of it, whatever its codes are.
    """

    components: int
    fitted_share: float
    fitted_score: float
    held_out_share: float
    held_out_score: float


def codec_ceiling(zoo: Zoo, task: Task, components: Sequence[int], split: str = "validation") -> list[Ceiling]:
    """Send fitted and held-out members through PCAs of several sizes and back, and score what comes out.

    Raises ``ValueError`` for a zoo without held-out members.
    """
    if zoo.unseen is None:
        raise ValueError("the zoo has no held-out members; train it with held_out > 0")
    found = []
    for k in components:
        pca, values = DualPCA(k).fit(zoo.fitted.weights), []
        for networks in (zoo.fitted, zoo.unseen):
            back = pca.inverse_transform(pca.transform(networks.weights))
            kept, whole = ((w - pca.mean_).square().sum() for w in (back, networks.weights))
            decoded = Zoo(back, zoo.layout, zoo.network)
            values += [float(kept / whole), float(evaluate(decoded, task, split).score.mean())]
        found.append(Ceiling(k, *values))
    return found
