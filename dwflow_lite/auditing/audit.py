"""New or copied? Generated networks beside their zoo, held-out networks and the trivial generators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from dwflow_lite.auditing.measures import nearest_distance, rematched_distance, wrong_set_overlap
from dwflow_lite.flow import dispersion_ratio
from dwflow_lite.generate.simple import TRIVIAL, Generator
from dwflow_lite.networks import architecture_of
from dwflow_lite.symmetry import PermutationSpec, basis_of, match_all, permute_all
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.forward import evaluate
from dwflow_lite.zoo.storage import Shards
from dwflow_lite.zoo.zoo import Zoo


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
        matchings = match_all(fitted.weights[0], fitted.weights, spec, restarts=0, seed=seed)
        based = permute_all(matchings, spec, fitted.weights)
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
