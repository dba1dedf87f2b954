"""DeepWeightFlow: from a zoo of networks to new ones (arXiv 2601.05052, with the choices of this course)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dwflow_lite.compress import DualPCA
from dwflow_lite.flow import (
    COUPLINGS,
    SOLVERS,
    FixedSource,
    GaussianSource,
    StraightPath,
    Trajectory,
    VelocityField,
    integrate,
    train_flow,
)
from dwflow_lite.networks import architecture_of, build
from dwflow_lite.support.checks import failing_as, is_whole
from dwflow_lite.support.files import ZooFileError, digest, read_safetensors, write_safetensors
from dwflow_lite.support.versions import versions
from dwflow_lite.symmetry import PermutationSpec, basis_of, canonicalise
from dwflow_lite.zoo.layout import Layout
from dwflow_lite.zoo.storage import Shards
from dwflow_lite.zoo.zoo import Zoo, write_zoo

FORMAT = "dwflow_lite.model/1"


FLOW = {
    "hidden": 512, "time_dim": 64, "dropout": 0.1, "steps": 3000, "batch_size": 64, "lr": 1e-3, "path_noise": 0.0,
    "coupling": "independent", "every": 250, "patience": None, "keep": "last", "solver": "heun", "solver_steps": 20,
}  # fmt: skip


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: isinstance(v, int) and is_whole(v, least), f"a whole number >= {least}"


def _number(test: Callable[[float], bool], says: str) -> tuple[Callable[[Any], bool], str]:
    return lambda v: isinstance(v, int | float) and not isinstance(v, bool) and test(v), f"a number {says}"


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return lambda v: v in names, "one of " + ", ".join(map(repr, names))


_ALLOWED = {
    "hidden": _whole(2), "time_dim": _whole(1), "steps": _whole(1), "batch_size": _whole(1), "every": _whole(1),
    "solver_steps": _whole(1), "patience": (lambda v: v is None or _whole(1)[0](v), "None or a whole number >= 1"),
    "dropout": _number(lambda v: 0 <= v < 1, "in [0, 1)"), "lr": _number(lambda v: 0 < v < float("inf"), "> 0"),
    "path_noise": _number(lambda v: 0 <= v < float("inf"), ">= 0"), "coupling": _one_of(*COUPLINGS),
    "keep": _one_of("last", "best", "lowest"), "solver": _one_of(*SOLVERS),
}  # fmt: skip


# The settings of the paper's released code for its MLPs. Its noise is in weight units, so codes are not rescaled.
PUBLISHED = {
    "source": 0.01, "fixed_source": True, "rescale": False,
    "flow": {"steps": 30_000, "batch_size": 8, "lr": 5e-4, "path_noise": 0.001, "keep": "lowest", "solver": "rk4",
             "solver_steps": 99},
}  # fmt: skip


def _single(weights: Tensor | Shards) -> Tensor | Shards:
    return weights if isinstance(weights, Shards) else weights.float()


class DeepWeightFlow:
    """Align a zoo, compress it, learn a flow from noise to its codes, and generate networks that need no training.

    Codes are divided by one number, their root mean square, so that a code coordinate has size about 1 whatever the
    network; distances keep their proportions (this is not whitening).

    Args:
        align: True: weight matching to the first fitted member, with the network's own spec; a ``PermutationSpec``
            for a reader's own network; None or False: no alignment.
        components: k of the PCA: a number, a share of variance in (0, 1), or None for all N-1.
        flow: settings that differ from ``generate.FLOW``: ``hidden`` (width of the field), ``steps``,
            ``coupling``, ``patience``, ``solver`` and so on; ``keep`` is ``"last"``, ``"best"`` by held-out loss, or
            ``"lowest"`` by the loss of a single batch.
        source: standard deviation of Gaussian noise, in units of the codes' root mean square; ``"matched"``: each
            coordinate's own standard deviation; ``"kaiming"``: freshly initialised networks, seen through the PCA.
        fixed_source: draw the training noise once, one vector a network, as the paper's code does. Default: fresh.
        rescale: divide the codes by their root mean square; without it ``source`` is in weight units.
        seed: of the alignment, the field and its training.
        memory: bytes that chunks of weights may take in the PCA and in decoding.

    After :meth:`fit`: ``zoo_`` (aligned), ``pca_``, ``scale_``, ``source_``, ``field_``, ``training_``.
    """

    def __init__(
        self,
        *,
        align: bool | PermutationSpec | None = True,
        components: int | float | None = None,
        flow: Mapping[str, Any] | None = None,
        source: float | str = 0.05,
        fixed_source: bool = False,
        rescale: bool = True,
        seed: int = 0,
        memory: int = 1 << 28,
    ) -> None:
        if unknown := set(flow or {}) - set(FLOW):
            raise ValueError(f"unknown flow settings {sorted(unknown)}; there are {', '.join(FLOW)}")
        if not (source in ("matched", "kaiming") if isinstance(source, str) else 0 < source < float("inf")):
            raise ValueError(f"source must be a number > 0, 'matched' or 'kaiming', got {source!r}")
        if not isinstance(align, bool | PermutationSpec | None):
            raise ValueError(f"align must be True, False, None or a PermutationSpec, got {align!r}")
        self.align, self.components, self.flow = align, components, dict(FLOW) | dict(flow or {})
        for name, value in self.flow.items():
            allowed, says = _ALLOWED[name]
            if not allowed(value):
                raise ValueError(f"flow {name} must be {says}, got {value!r}")
        self.source, self.fixed_source, self.rescale, self.seed = source, fixed_source, rescale, seed
        self.memory = memory

    @classmethod
    def published(cls, *, align: bool | PermutationSpec | None = True, seed: int = 0, **flow: Any) -> DeepWeightFlow:
        """The settings of the paper's code (``generate.PUBLISHED``), except the flow settings given."""
        return cls(align=align, seed=seed, **PUBLISHED | {"flow": PUBLISHED["flow"] | flow})

    def fit(
        self, zoo: Zoo, *, checkpoint: str | Path | None = None, folder: str | Path | None = None,
        executor: Executor | None = None, progress: bool = False,
    ) -> DeepWeightFlow:  # fmt: skip
        """Learn from the fitted members of a zoo; held-out members only steer ``patience`` and ``keep="best"``.

        Args:
            zoo: in memory or on disk.
            checkpoint: a file from which an interrupted training of the flow goes on (see ``train_flow``).
            folder: where the aligned zoo is written; needed to align a zoo on disk.
            executor: where members are aligned and the Gram matrix is summed (:func:`dwflow_lite.jobs.run_jobs`).
            progress: show bars.

        Raises:
            ValueError: fewer than two fitted members, k >= N, or alignment asked for a network without a spec.
        """
        if sum(not held for held in zoo.held_out) < 2:
            raise ValueError(f"a generator needs at least two members it may see, got {zoo!r}")
        options = self.flow
        if zoo.unseen is None and (options["patience"] or options["keep"] == "best"):
            raise ValueError("patience and keep='best' watch held-out members, and this zoo has none")
        if self.align:
            spec = self.align if isinstance(self.align, PermutationSpec) else None
            first = zoo.held_out.index(False)
            zoo = canonicalise(
                zoo, spec, reference=first, seed=self.seed, folder=folder, executor=executor, progress=progress
            )
        fitted, unseen = _single(zoo.fitted.weights), zoo.unseen
        pca = DualPCA(self.components, memory=self.memory)
        codes = pca.fit_transform(fitted, executor=executor, progress=progress)
        scale = float(codes.square().mean().sqrt()) if self.rescale else 1.0
        codes = codes / scale
        held_out = pca.transform(_single(unseen.weights)) / scale if unseen else None
        source = training_source = self._source(codes, pca, scale, zoo.layout)
        if self.fixed_source:
            training_source = FixedSource(source, len(codes), torch.Generator().manual_seed(self.seed + 3))
        field = self._field(codes.shape[1])
        training = train_flow(
            field, codes, training_source, path=StraightPath(options["path_noise"]), held_out=held_out,
            steps=options["steps"], batch_size=options["batch_size"], lr=options["lr"], coupling=options["coupling"],
            every=options["every"], patience=options["patience"], track_lowest=options["keep"] == "lowest",
            seed=self.seed, checkpoint=checkpoint, progress=progress,
        )  # fmt: skip
        field.load_state_dict(getattr(training, options["keep"]))
        # All at once and last: a fit that failed or was interrupted leaves the estimator as it was.
        self.zoo_, self.network_, self.layout_, self.pca_, self.scale_ = zoo, zoo.network, zoo.layout, pca, scale
        self.source_, self.field_, self.training_ = source, field, training
        self.record_ = {k: zoo.record[k] for k in ("architecture", "task", "identity", "seed") if k in zoo.record}
        self.record_["basis"] = basis_of(zoo)
        return self

    def trajectory(self, n: int, *, seed: int, steps: int | None = None, solver: str | None = None) -> Trajectory:
        """Follow ``n`` points from noise to codes; :meth:`decode` turns any of them into networks."""
        self._fitted()
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"how many networks? n must be a whole number >= 1, got {n!r}")
        start = self.source_.sample(n, torch.Generator().manual_seed(seed))
        steps = self.flow["solver_steps"] if steps is None else steps
        return integrate(self.field_, start, steps=steps, solver=self.flow["solver"] if solver is None else solver)

    def decode(self, codes: Tensor, folder: str | Path | None = None, **how: Any) -> Zoo:
        """The networks (n, d) of codes (n, k), as a zoo; written to ``folder`` as they are made, if one is named."""
        self._fitted()
        record = self.record_ | {
            "generated": {"align": bool(self.align), "source": self.source, "flow": self.flow} | how
        }
        codes = codes * self.scale_
        if folder is None:
            return Zoo(self.pca_.inverse_transform(codes), self.layout_, self.network_, record)
        blocks, storage = self.pca_.blocks(codes), getattr(self.pca_.rows_, "storage", "float32")
        return write_zoo(folder, blocks, self.layout_, self.network_, record, (False,) * len(codes), storage)

    def sample(self, n: int, *, seed: int, folder: str | Path | None = None) -> Zoo:
        """Generate ``n`` complete networks; the same seed gives the same networks. ``folder``: keep them on disk."""
        return self.decode(self.trajectory(n, seed=seed).end, folder, sample_seed=seed)

    # -- inside --------------------------------------------------------------------------------------------------

    def _fitted(self) -> None:
        if not hasattr(self, "field_"):
            raise RuntimeError("this DeepWeightFlow is not fitted yet: call fit(zoo) first")

    def _field(self, dim: int) -> VelocityField:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)  # torch.manual_seed would seed the GPUs' generators too
            return VelocityField(dim, self.flow["hidden"], self.flow["time_dim"], self.flow["dropout"])

    def _source(self, codes: Tensor, pca: DualPCA, scale: float, layout: Layout) -> GaussianSource:
        dim = codes.shape[1]
        if self.source == "matched":
            return GaussianSource(dim, codes.std(0))
        if self.source != "kaiming":
            return GaussianSource(dim, float(self.source))
        # Fresh Kaiming networks are Gaussian in weight space, so their codes are Gaussian too: project both moments.
        std, known = torch.zeros(layout.size), torch.ones(layout.size)  # tensors of one axis stay at the zoo's mean
        for entry in layout.entries:
            if len(entry.shape) >= 2:
                columns, fan_in = layout.slices[entry.name], entry.size // entry.shape[0]
                std[columns], known[columns] = (2 / fan_in) ** 0.5, 0.0
        covariance, centre = 1e-9 * torch.eye(dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64)
        for columns, mean, basis in pca.basis():
            spread = basis * std[columns].to(basis)
            covariance += (spread @ spread.T).cpu() / scale**2
            centre += (basis @ ((known[columns].to(basis) - 1) * mean)).cpu() / scale
        factor = torch.linalg.cholesky(covariance).float()
        return GaussianSource(dim, factor.contiguous(), centre.float())

    # -- files ---------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the generator (field, PCA, source, layout) to one safetensors file; the zoo itself is not in it.

        Fitted on a zoo on disk it decodes from that zoo, whose folder the file names and :meth:`load` needs.
        """
        self._fitted()
        tensors = {f"field.{k}": v for k, v in self.field_.state_dict().items()}
        kept = ("components", "mean") if self.pca_.rows_ is None else ("combination",)
        tensors |= {f"pca.{k}": getattr(self.pca_, k + "_") for k in (*kept, "singular_values")}
        tensors |= {"pca.ratio": self.pca_.explained_variance_ratio_}
        tensors |= {"source.scale": self.source_.scale, "source.mean": self.source_.mean}
        record = {
            "layout": self.layout_.to_json(), "architecture": architecture_of(self.network_), "record": self.record_,
            "align": bool(self.align), "components": self.components, "flow": self.flow, "source": self.source,
            "fixed_source": self.fixed_source, "rescale": self.rescale, "seed": self.seed, "scale": self.scale_,
            "memory": self.memory, "n_samples": self.pca_.n_samples_,
            "versions": versions(),
        }  # fmt: skip
        if (rows := self.pca_.rows_) is not None:
            record["rows"] = {"folder": str(rows.folder), "rows": rows.rows, "storage": rows.storage}
            record["fingerprint"] = rows.fingerprint()
        text = json.dumps(record, sort_keys=True)
        return write_safetensors(tensors, path, {"format": FORMAT, "record": text, "sha256": digest(tensors, text)})

    @classmethod
    def load(cls, path: str | Path, network: nn.Module | None = None) -> DeepWeightFlow:
        """Read a generator and verify it; ``network`` as in :meth:`Zoo.load`. It samples; ``zoo_`` is not there."""
        tensors, metadata = read_safetensors(path, FORMAT)
        if metadata.get("sha256") != digest(tensors, metadata.get("record", "")):
            raise ZooFileError(f"{Path(path).name} was altered after it was written: its hash does not match")
        record = json.loads(metadata["record"])
        model = cls(
            **{k: record[k] for k in ("align", "components", "flow", "source", "fixed_source", "rescale", "seed")},
            memory=record.get("memory", 1 << 28),
        )
        model.layout_ = Layout.from_json(record["layout"])
        written = record["architecture"]
        model.network_ = build(written) if network is None else deepcopy(network)
        if Layout.of(model.network_) != model.layout_:
            difference = model.layout_.difference(model.network_)
            raise ZooFileError(f"{Path(path).name} does not fit the network: {difference}")
        if not written.get("custom") and written != architecture_of(model.network_):
            raise ZooFileError(f"{Path(path).name} makes {written} networks, not {architecture_of(model.network_)}")
        model.record_, model.scale_ = record["record"], record["scale"]
        pca = model.pca_ = DualPCA(record["components"], memory=model.memory)
        for name in ("components", "mean", "combination", "singular_values"):
            setattr(pca, f"{name}_", tensors.get(f"pca.{name}"))
        pca.explained_variance_ratio_, pca.rows_ = tensors["pca.ratio"], None
        if stored := record.get("rows"):
            rows = tuple(map(tuple, stored["rows"]))
            pca.rows_ = Shards(Path(stored["folder"]), rows, model.layout_.size, stored["storage"])
            with failing_as(
                f"{path} decodes from the zoo in {stored['folder']}: put it back, or fit anew", ZooFileError
            ):
                if pca.rows_.fingerprint() != record["fingerprint"]:
                    raise ValueError("which has changed")
        pca.n_components_, pca.n_features_in_ = len(pca.singular_values_), model.layout_.size
        pca.n_samples_ = record["n_samples"]
        pca.explained_variance_ = pca.singular_values_**2 / (pca.n_samples_ - 1)
        model.source_ = GaussianSource(pca.n_components_, tensors["source.scale"], tensors["source.mean"])
        model.field_ = model._field(pca.n_components_)
        model.field_.load_state_dict(
            {k.removeprefix("field."): v for k, v in tensors.items() if k.startswith("field.")}
        )
        model.field_.eval()
        return model
