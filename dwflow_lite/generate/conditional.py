"""One flow over several zoos, told of each network which dataset it is for, or a number, or both."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dwflow_lite.flow.conditional import (
    check_coupling,
    check_label_dropout,
    guided,
    make_conditional_field,
)
from dwflow_lite.flow.settings import FlowSettings
from dwflow_lite.flow.solver import Trajectory
from dwflow_lite.generate.conditions import ROUNDS, Asked, Numbers, Zoos, pool_of
from dwflow_lite.generate.deepweightflow import DeepWeightFlow, PreparedFlow
from dwflow_lite.generate.files import FittedFlow
from dwflow_lite.generate.generator import SAMPLE_FEWER
from dwflow_lite.support.checks import is_number, plain, whole_seed
from dwflow_lite.support.devices import generator_from, out_of_memory_as
from dwflow_lite.symmetry.canonical import canonicalise
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.zoo.zoo import Zoo


class ConditionalDeepWeightFlow(DeepWeightFlow):
    """One :class:`DeepWeightFlow` over several zoos of one architecture, whose networks can be asked for by condition.

    A condition is the name of a dataset, or a number (training epochs, accuracy, weight decay, …), or both. All zoos
    are pooled: one alignment, to the mean of all members (a universe); one PCA; one flow v(x, t, c). In training the
    condition is forgotten now and then, so that the same network also learns v(x, t) of all members together, and
    ``guidance`` can follow a condition more, or less, strongly (classifier-free guidance, Ho & Salimans 2022).

    The paper conditions a flow on one label of the dataset, over codes of a PCA for each (arXiv 2601.05052, App. K):
    that is :class:`OwnCodesFlow`. BatchNorm is as in :class:`DeepWeightFlow`: running statistics are columns like
    others, to be measured afresh on the dataset that was asked for, ``recalibrate(networks, task)``.

    Args:
        align: True: weight matching to the mean of all members; a ``PermutationSpec`` for a reader's own network; None
            or False: the zoos are in one basis already (see :func:`align_together`).
        label_dropout: probability with which a condition is forgotten in training; 0: never, and then there is no
            guidance, and no network without a condition.

    ``components``, ``flow``, ``source``, ``fixed_source``, ``rescale``, ``seed`` and ``memory`` are as of
    :class:`DeepWeightFlow`.

    Attributes:
        conditions_: what conditions were seen.
        zoo_: all members, aligned (not there once saved and loaded); others as of :class:`DeepWeightFlow`.

    Example:
        >>> import torch
        >>> from dwflow_lite import MLP, Zoo
        >>> zoos = {name: Zoo.from_modules([MLP([2, 4, 1]) for _ in range(4)]) for name in ("upright", "inverted")}
        >>> model = ConditionalDeepWeightFlow(flow=FlowSettings(hidden=8, steps=10)).fit(zoos)
        >>> len(model.sample(3, seed=0, condition="inverted")), len(model.sample(3, seed=0))
        (3, 3)
        >>> model.sample(3, seed=0, condition="rotated")
        Traceback (most recent call last):
        ValueError: no dataset 'rotated' was seen: choose one of 'upright', 'inverted'
    """

    conditional = True

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
        label_dropout: float = 0.1,
    ) -> None:
        super().__init__(
            align=align,
            components=components,
            flow=flow,
            source=source,
            fixed_source=fixed_source,
            rescale=rescale,
            seed=seed,
            memory=memory,
        )
        self.label_dropout = label_dropout

    def fit(
        self,
        zoos: Zoos,
        numbers: Numbers | None = None,
        *,
        checkpoint: str | Path | None = None,
        executor: Executor | None = None,
        progress: bool = False,
    ) -> ConditionalDeepWeightFlow:
        """Learn from the fitted members of several zoos, which are not changed; those on disk are read into memory.

        Args:
            zoos: a mapping of names to zoos: the name of its dataset is a condition of each member. Or a list of zoos,
                or one zoo, which have no names, and of whose members numbers are the condition.
            numbers: in the form of ``zoos``: for each zoo a list with a number for each member (held-out ones too), or
                one number for all of them; or the name under which records have it: a split, for the score on it; a
                setting of the recipe, such as ``"weight_decay"``; or an entry of the members. None: names alone.
            checkpoint: as of :meth:`DeepWeightFlow.fit`, like ``executor`` and ``progress``.

        Raises:
            ValueError: as of :meth:`DeepWeightFlow.fit`; or nothing tells members apart, two architectures, two bases
                where nothing is aligned, a zoo of held-out members alone; numbers that are not one for each member,
                finite, or not all the same.
            TypeError: anything but zoos.
        """
        prepared = self._prepare(zoos, None, executor, progress, numbers)
        self._take(prepared, prepared.train(checkpoint=checkpoint, progress=progress))
        return self

    @out_of_memory_as(SAMPLE_FEWER)
    def sample(
        self,
        n: int,
        *,
        seed: int,
        condition: Asked = None,
        guidance: float = 1.0,
        extrapolate: bool = False,
        folder: str | Path | None = None,
    ) -> Zoo:
        """Generate ``n`` complete networks; the same seed starts them from the same noise, whatever the condition.

        Args:
            n: how many.
            seed: of the noise.
            condition: a name, ``"digits"``; a number, ``0.9``; both, ``("digits", 0.9)``; or a list of n of these. A
                name alone, where members have numbers too, draws numbers of that dataset's members. None: no
                condition, networks like those of all zoos together.
            guidance: w of :func:`guided`: 1 follows the condition, 0 ignores it, more goes beyond it.
            extrapolate: let numbers lie beyond those of the members (of that dataset).
            folder: keep the networks on disk.

        Raises:
            ValueError: a dataset that was not seen, a number beyond those that were, a kind of condition that there is
                none of; no condition, or another guidance than 1, of a flow that forgot none; guidance below 0.
        """
        codes = self.trajectory(n, seed=seed, condition=condition, guidance=guidance, extrapolate=extrapolate).end
        notes = {"sample_seed": whole_seed(seed), "condition": _noted(condition), "guidance": float(guidance)}
        return self._decode(codes, folder, notes)

    @out_of_memory_as(SAMPLE_FEWER)
    def trajectory(
        self,
        n: int,
        *,
        seed: int,
        steps: int | None = None,
        solver: str | None = None,
        condition: Asked = None,
        guidance: float = 1.0,
        extrapolate: bool = False,
    ) -> Trajectory:
        """As :meth:`DeepWeightFlow.trajectory`, of what is asked for as in :meth:`sample`."""
        generator = generator_from(seed)
        x0 = self._noise(n, generator)  # (n, k)
        self._check_guidance(condition, guidance)
        vectors = None
        if condition is not None:
            vectors = self.conditions_.of_request(condition, n, generator, extrapolate).to(x0)  # (n, c)
        return self._follow(guided(self.field_, vectors, guidance), x0, steps, solver)

    # -- inside --------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        check_coupling(settings["flow"])
        check_label_dropout(self.label_dropout)
        return settings

    def _prepare(
        self, zoos: Zoos, folder: None, executor: Executor | None, progress: bool, numbers: Numbers | None = None
    ) -> PreparedFlow:
        """As of :class:`DeepWeightFlow`, for all members as one zoo; then the field is one that is told conditions."""
        settings = self._settings()
        pool = pool_of(zoos, numbers, same_basis=not settings["align"])
        prepared = super()._prepare(pool.zoo, folder, executor, progress)
        k = prepared.codes.shape[1]
        field = make_conditional_field(
            k, pool.conditions.size, settings["flow"], settings["label_dropout"], settings["seed"]
        ).to(prepared.codes.device)
        fitted = replace(prepared.fitted, field=field, conditions=pool.conditions)
        return replace(prepared, fitted=fitted, conditions=pool.fitted(), held_out_conditions=pool.unseen())

    def _aligned(self, zoo: Zoo, seed: int, folder: None, executor: Executor | None, progress: bool) -> Zoo:
        """All members in one universe: matched to the first fitted one, then to the mean of all, round after round."""
        spec = self.align if isinstance(self.align, PermutationSpec) else None
        first = zoo.held_out.index(False)
        return canonicalise(
            zoo, spec, reference=first, rounds=ROUNDS, seed=seed, folder=folder, executor=executor, progress=progress
        )

    def _check_guidance(self, condition: Asked, guidance: float) -> None:
        """``ValueError`` where v(x, t) of no condition is asked for, and was never trained."""
        follows = condition is not None and is_number(guidance) and guidance == 1
        if not follows and self.settings_["label_dropout"] == 0:
            raise ValueError(
                "this flow never forgot a condition (label_dropout=0): name a condition, and leave guidance at 1"
            )

    def _learn(self, fitted: FittedFlow) -> None:
        super()._learn(fitted)
        self.conditions_ = fitted.conditions

    def _learned(self) -> FittedFlow:
        return replace(super()._learned(), conditions=self.conditions_)


def _noted(condition: Asked) -> Any:
    """A condition as a record keeps it: text, numbers and lists of Python."""
    if isinstance(condition, list | tuple | np.ndarray | Tensor) and getattr(condition, "ndim", 1):
        return [_noted(one) for one in condition]
    return plain(condition)
