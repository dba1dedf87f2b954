"""DeepWeightFlow: from a zoo of networks to new ones (arXiv 2601.05052, with the choices of this course)."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from dwflow_lite.compress import DualPCA, root_mean_square
from dwflow_lite.flow.field import make_field
from dwflow_lite.flow.path import FixedSource, Source
from dwflow_lite.flow.settings import FlowSettings, require_settings
from dwflow_lite.flow.solver import Field, Trajectory, integrate
from dwflow_lite.flow.train import train_flow
from dwflow_lite.flow.watch import FlowTraining
from dwflow_lite.generate.files import FittedFlow, on_device, read_generator, write_generator
from dwflow_lite.generate.generator import SAMPLE_FEWER, check_number_of_networks, require_zoo
from dwflow_lite.generate.simple import computable
from dwflow_lite.generate.sources import check_source, make_source
from dwflow_lite.support.checks import is_whole, plain, whole_seed
from dwflow_lite.support.devices import generator_from, out_of_memory_as, usable_device
from dwflow_lite.symmetry.basis import basis_of, check_same_basis
from dwflow_lite.symmetry.canonical import canonicalise
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.zoo.storage import Shards
from dwflow_lite.zoo.zoo import Zoo, write_zoo


@dataclass(frozen=True)
class PreparedFlow:
    """What a flow is trained on.

    Attributes:
        fitted: the generator to be; its field is not trained yet.
        zoo: aligned.
        codes: of its fitted members (N, k).
        held_out: codes of its held-out members (M, k), or None.
        source: of the points that training starts from.
        conditions: what the field is told of each of the codes (N, c), or None; likewise ``held_out_conditions``.
    """

    fitted: FittedFlow
    zoo: Zoo
    codes: Tensor
    held_out: Tensor | None
    source: Source
    conditions: Tensor | None = None
    held_out_conditions: Tensor | None = None

    def train(self, *, checkpoint: str | Path | None = None, progress: bool = False) -> FlowTraining:
        """Train the field; the arguments are those of :func:`train_flow`."""
        settings = self.fitted.settings
        return train_flow(
            self.fitted.field, self.codes, self.source, settings["flow"], held_out=self.held_out,
            conditions=self.conditions, held_out_conditions=self.held_out_conditions,
            seed=settings["seed"], checkpoint=checkpoint, progress=progress,
        )  # fmt: skip


class DeepWeightFlow(BaseEstimator):
    """Align a zoo, compress it, learn a flow from noise to its codes, and generate networks that need no training.

    An estimator of scikit-learn: arguments are stored as they are and checked by :meth:`fit`; ``sklearn.base.clone``
    gives an unfitted copy. Codes are divided by one number, their root mean square, so that a code coordinate has size
    about 1 whatever the network; distances keep their proportions (this is not whitening).

    Args:
        align: True: weight matching to the first fitted member, with the network's own spec; a ``PermutationSpec``
            for a reader's own network; None or False: no alignment.
        components: k of the PCA: a number, a share of variance in (0, 1), or None for all N-1.
        flow: ``FlowSettings`` of its field, its training and its solver; None: the defaults.
        source: standard deviation of Gaussian noise, in units of the codes' root mean square; ``"matched"``: each
            coordinate's own standard deviation; ``"kaiming"``: freshly initialised networks, seen through the PCA.
        fixed_source: draw the training noise once, one vector a network, as the paper's code does. Default: fresh.
        rescale: divide the codes by their root mean square; without it ``source`` is in weight units.
        seed: of the alignment, the field and its training.
        memory: bytes that chunks of weights may take in the PCA and in decoding.

    Attributes:
        zoo_: the zoo it was fitted on, aligned (not there once saved and loaded).
        pca_: between weights (d,) and codes (k,).
        scale_: by which codes are divided.
        source_: from which points are drawn when it generates.
        field_: v(x, t) on codes.
        training_: what happened in training.
        layout_, network_, record_: of the networks it makes.
        settings_: the arguments it was fitted with.

    Example:
        >>> import torch
        >>> from dwflow_lite import MLP, Zoo
        >>> zoo = Zoo.from_modules([MLP([2, 4, 1]) for _ in range(5)])
        >>> model = DeepWeightFlow(flow=FlowSettings(hidden=8, steps=10)).fit(zoo)
        >>> generated = model.sample(3, seed=0)
        >>> len(generated), generated.module(0)(torch.zeros(1, 2)).shape
        (3, torch.Size([1, 1]))
    """

    conditional = False  # whether its flow is told conditions: see ConditionalDeepWeightFlow

    def __init__(  # noqa: PLR0913 - a public door
        self,
        *,
        align: bool | PermutationSpec | None = True,
        components: int | float | None = None,
        flow: FlowSettings | None = None,
        source: float | str = 0.05,
        fixed_source: bool = False,
        rescale: bool = True,
        seed: int = 0,
        memory: int = 1 << 28,
    ) -> None:
        self.align = align
        self.components = components
        self.flow = flow
        self.source = source
        self.fixed_source = fixed_source
        self.rescale = rescale
        self.seed = seed
        self.memory = memory

    @classmethod
    def published(
        cls, *, align: bool | PermutationSpec | None = True, seed: int = 0, flow: FlowSettings | None = None
    ) -> DeepWeightFlow:
        """The settings of the paper's code: its noise is in weight units, drawn once, and codes are not rescaled.

        Args:
            align: as above.
            seed: as above.
            flow: None: ``FlowSettings.published()``.
        """
        flow = FlowSettings.published() if flow is None else flow
        return cls(align=align, flow=flow, source=0.01, fixed_source=True, rescale=False, seed=seed)

    def fit(
        self, zoo: Zoo, *, checkpoint: str | Path | None = None, folder: str | Path | None = None,
        executor: Executor | None = None, progress: bool = False,
    ) -> DeepWeightFlow:  # fmt: skip
        """Learn from the fitted members of a zoo; held-out members only steer ``patience`` and ``keep="best"``.

        Args:
            zoo: in memory or on disk.
            checkpoint: a file or folder in which the training of the flow is kept (see :func:`train_flow`).
            folder: where the aligned zoo is written; needed to align a zoo on disk, and refused if nothing is aligned.
            executor: where members are aligned and the Gram matrix is summed (see ``support.jobs.run_jobs``).
            progress: show bars.

        Raises:
            ValueError: a setting that makes no sense, fewer than two fitted members, k >= N, members that are all the
                same, alignment asked for a network without a spec, or a folder and no alignment.
            TypeError: ``flow`` that is no ``FlowSettings``, or a zoo that is none.
        """
        prepared = self._prepare(zoo, folder, executor, progress)
        self._take(prepared, prepared.train(checkpoint=checkpoint, progress=progress))
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(self, n: int, *, seed: int, folder: str | Path | None = None) -> Zoo:
        """Generate ``n`` complete networks; the same seed gives the same networks. ``folder``: keep them on disk."""
        codes = self.trajectory(n, seed=seed).end  # (n, k)
        return self._decode(codes, folder, {"sample_seed": whole_seed(seed)})

    @out_of_memory_as(SAMPLE_FEWER)
    def trajectory(self, n: int, *, seed: int, steps: int | None = None, solver: str | None = None) -> Trajectory:
        """Follow ``n`` points from noise to codes; :meth:`decode` turns any of them into networks.

        Args:
            n: how many.
            seed: of the noise.
            steps: of the solver; None: as in ``flow``.
            solver: None: as in ``flow``.
        """
        x0 = self._noise(n, generator_from(seed))  # (n, k)
        return self._follow(self.field_, x0, steps, solver)

    @out_of_memory_as("no memory for so many networks at once: pass fewer, or fit with a smaller memory=")
    def encode(self, zoo: Zoo) -> Tensor:
        """The codes (n, k) of a zoo's networks, of which :meth:`decode` is the inverse as far as the PCA reaches.

        Args:
            zoo: in the basis of ``zoo_``, in memory or on disk.

        Raises:
            ValueError: networks of another layout, or in another basis.
        """
        self._check_fitted()
        require_zoo(zoo)
        if zoo.layout != self.layout_:
            raise ValueError(f"{zoo!r} has another architecture than the zoo that this generator was fitted on")
        check_same_basis(
            zoo,
            Zoo(zoo.weights[:1], self.layout_, self.network_, self.record_),
            "these networks are in another basis than the zoo that this generator was fitted on",
            "take networks of model.zoo_, or align both to one reference (canonicalise)",
        )
        return (self.pca_.transform(computable(zoo).weights) / self.scale_).float()

    @out_of_memory_as("no memory for so many networks at once: pass fewer codes, or fit with a smaller memory=")
    def decode(self, codes: Tensor, folder: str | Path | None = None) -> Zoo:
        """The networks (n, d) of codes (n, k), as a zoo; written to ``folder`` as they are made, if one is named.

        They are in the basis of the zoo that the generator was fitted on, and in its precision; of a zoo in half
        precision, in float32.

        Raises:
            ValueError: codes of another shape, none, or NaN or infinite ones.
            TypeError: codes that are no tensor of floating-point numbers.
        """
        self._check_fitted()
        if not isinstance(codes, Tensor) or not codes.is_floating_point():
            kind = codes.dtype if isinstance(codes, Tensor) else type(codes).__name__
            raise TypeError(f"codes are a tensor of floating-point numbers (n, k), not {kind}")
        k = self.pca_.n_components_
        if codes.ndim != 2 or codes.shape[1] != k or len(codes) == 0:
            raise ValueError(f"codes of this generator are of shape (n >= 1, {k}), got {tuple(codes.shape)}")
        if not codes.isfinite().all():
            raise ValueError("codes hold NaN or infinite numbers, of which no networks can be made")
        return self._decode(codes, folder, {})

    def save(self, path: str | Path) -> Path:
        """Write the generator (field, PCA, source, layout) to one safetensors file.

        What its PCA makes weights of is in it: the components, or the rows of the aligned zoo where they are no more.
        Fitted on a zoo on disk it decodes from that zoo, whose folder the file names and :meth:`load` needs. Move them
        together, as you like.
        """
        return write_generator(path, self._learned())

    @classmethod
    def load(
        cls, path: str | Path, network: nn.Module | None = None, *, folder: str | Path | None = None,
        device: torch.device | str = "cpu",
    ) -> DeepWeightFlow:  # fmt: skip
        """Read a generator and verify it; ``network`` as in :meth:`Zoo.load`. It samples; ``zoo_`` is not there.

        Fitted on a zoo on disk it decodes from that zoo: where it was beside the file, where it was, or in ``folder``.
        Field and networks come to lie on ``device`` (as of :meth:`Zoo.to`), wherever it was fitted.
        """
        device = usable_device(device)
        fitted = on_device(read_generator(path, network, folder, conditional=cls.conditional), device)
        model = cls(**fitted.settings)
        model._learn(fitted)
        return model

    # -- inside --------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        """The arguments, checked before anything is computed; NumPy's numbers become Python's, which JSON can write."""
        flow = FlowSettings() if self.flow is None else self.flow
        require_settings(flow)
        check_source(self.source)
        if not isinstance(self.align, bool | np.bool_ | PermutationSpec | None):
            raise ValueError(f"align must be True, False, None or a PermutationSpec, got {self.align!r}")
        for name in ("fixed_source", "rescale"):
            value = getattr(self, name)
            if not isinstance(value, bool | np.bool_):
                raise ValueError(f"{name} must be True or False, got {value!r}")
        settings = {}
        for name, value in self.get_params(deep=False).items():
            settings[name] = plain(value)
        return settings | {"align": bool(self.align), "flow": flow, "seed": whole_seed(self.seed)}

    def _prepare(self, zoo: Zoo, folder: str | Path | None, executor: Executor | None, progress: bool) -> PreparedFlow:
        """All that comes before the training of the flow; the arguments are those of :meth:`fit`."""
        settings = self._settings()
        flow = settings["flow"]
        _check_members(zoo, flow)
        pca = DualPCA(settings["components"], memory=settings["memory"], copy=False)  # nobody changes a zoo
        members = sum(not held_out for held_out in zoo.held_out)
        components = settings["components"]
        pca.check(members, others=components if is_whole(components, 1) else members - 1, name="components")
        if folder is not None and not self.align:
            raise ValueError(f"folder is where the aligned zoo is written, and align={self.align!r}: leave it out")

        # 1. Align: permute the hidden units of every member, so that its weights lie close to those of the first.
        if self.align:
            zoo = self._aligned(zoo, settings["seed"], folder, executor, progress)

        # 2. Compress: weights (N, d) to codes (N, k) of size about 1.
        codes = pca.fit_transform(computable(zoo.fitted).weights, executor=executor, progress=progress)
        scale = root_mean_square(codes) if settings["rescale"] else 1.0
        codes = (codes / scale).float()  # in single precision, whatever weights are in
        unseen = zoo.unseen
        held_out = None
        if unseen is not None:
            held_out = (pca.transform(computable(unseen).weights) / scale).float()  # (M, k)

        # 3. A flow from noise to codes, not yet trained.
        source = make_source(settings["source"], codes, pca, scale, zoo.layout)
        training_source = source
        if settings["fixed_source"]:
            generator = generator_from(settings["seed"] + 3)  # seed, seed + 1 and seed + 2 are train_flow's
            training_source = FixedSource(source, len(codes), generator)
        field = make_field(codes.shape[1], flow, settings["seed"]).to(codes.device)
        keys = ("architecture", "behaviour", "task", "identity", "seed")
        record = {key: zoo.record[key] for key in keys if key in zoo.record} | {"basis": basis_of(zoo)}
        fitted = FittedFlow(
            settings=settings,
            layout=zoo.layout,
            network=zoo.network,
            record=record,
            pca=pca,
            scale=scale,
            source=source,
            field=field,
        )
        return PreparedFlow(fitted, zoo, codes, held_out, training_source)

    def _aligned(
        self, zoo: Zoo, seed: int, folder: str | Path | None, executor: Executor | None, progress: bool
    ) -> Zoo:
        """The zoo in the basis of its first fitted member."""
        spec = self.align if isinstance(self.align, PermutationSpec) else None
        first = zoo.held_out.index(False)
        return canonicalise(zoo, spec, reference=first, seed=seed, folder=folder, executor=executor, progress=progress)

    def _take(self, prepared: PreparedFlow, training: FlowTraining) -> None:
        """All at once and last: a fit that failed or was interrupted leaves the estimator as it was."""
        self._learn(prepared.fitted)
        self.zoo_ = prepared.zoo
        self.training_ = training

    def _learn(self, fitted: FittedFlow) -> None:
        """Take over what was learned, or read from a file."""
        self.settings_ = fitted.settings
        self.layout_ = fitted.layout
        self.network_ = fitted.network
        self.record_ = fitted.record
        self.pca_ = fitted.pca
        self.scale_ = fitted.scale
        self.source_ = fitted.source
        self.field_ = fitted.field

    def _learned(self) -> FittedFlow:
        """What :meth:`_learn` took over."""
        self._check_fitted()
        return FittedFlow(
            settings=self.settings_,
            layout=self.layout_,
            network=self.network_,
            record=self.record_,
            pca=self.pca_,
            scale=self.scale_,
            source=self.source_,
            field=self.field_,
        )

    def _noise(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` points of the source (n, k), where the field is."""
        self._check_fitted()
        check_number_of_networks(n)
        return self.source_.sample(n, generator).to(self.field_.head.weight)

    def _follow(self, field: Field, x0: Tensor, steps: int | None, solver: str | None) -> Trajectory:
        """Points x0 (n, k) along a field; steps and solver as in ``flow`` where they are None."""
        flow = self.settings_["flow"]
        steps = flow.solver_steps if steps is None else steps
        return integrate(field, x0, steps=steps, solver=flow.solver if solver is None else solver)

    def _precision(self) -> torch.dtype:
        """Of the weights that are decoded."""
        return torch.float32 if self.pca_.mean_ is None else self.pca_.mean_.dtype

    def _check_fitted(self) -> None:
        check_is_fitted(self, msg="this %(name)s is not fitted yet: call fit(zoo) first")

    def _decode(self, codes: Tensor, folder: str | Path | None, notes: dict[str, Any]) -> Zoo:
        """Networks of codes (n, k); ``notes`` go to the record."""
        self._check_fitted()
        how = {
            "align": self.settings_["align"],
            "source": self.settings_["source"],
            "flow": self.settings_["flow"].to_json(),
        }
        record = self.record_ | {"generated": how | notes}
        codes = codes.to(self._precision()) * self.scale_
        if folder is None:
            return Zoo(self.pca_.inverse_transform(codes), self.layout_, self.network_, record)
        rows, held_out = self.pca_.rows_, (False,) * len(codes)
        storage = rows.storage if isinstance(rows, Shards) else "float32"
        blocks = self.pca_.blocks(codes)  # of columns, one after the other
        return write_zoo(folder, blocks, self.layout_, self.network_, record, held_out, storage).to(codes.device)


def _check_members(zoo: Zoo, flow: FlowSettings) -> None:
    """Whether a zoo has the members that a flow with these settings needs."""
    require_zoo(zoo)
    if sum(not held_out for held_out in zoo.held_out) < 2:
        raise ValueError(f"a generator needs at least two members it may see, got {zoo!r}")
    watches_held_out = flow.patience is not None or flow.keep == "best"
    if watches_held_out and zoo.unseen is None:
        raise ValueError("patience and keep='best' watch held-out members, and this zoo has none")
