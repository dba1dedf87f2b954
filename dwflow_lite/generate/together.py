"""Fit several generators at once, as when one setting is varied and all others stay."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from dwflow_lite.generate.deepweightflow import DeepWeightFlow, PreparedFlow
from dwflow_lite.support.checks import is_whole
from dwflow_lite.support.devices import one_thread, out_of_memory_as
from dwflow_lite.support.jobs import run_jobs
from dwflow_lite.zoo.zoo import Zoo

Name = TypeVar("Name", bound=Hashable)


def fit_together(
    work: Mapping[Name, tuple[DeepWeightFlow, Zoo]], *, at_once: int | None = None, progress: bool = False
) -> dict[Name, DeepWeightFlow]:
    """Fit each generator to its zoo, several flows training side by side, each on one thread.

    A flow over codes is small: two threads that share its products wait for each other most of the time, and two flows
    on one thread each do not. Every flow draws from a generator of its own, so that it ends as it would alone.

    Args:
        work: for each name a generator, which is fitted, and the zoo it learns from.
        at_once: how many flows train at a time; None: as many as PyTorch has threads.
        progress: show a bar, flow by flow.

    Returns:
        The generators of ``work``, by name.

    Raises:
        ValueError: nothing to fit, one generator under two names, ``at_once`` that is no whole number >= 1; or what
            :meth:`DeepWeightFlow.fit` refuses.
        Exception: as of ``fit``; no generator is changed then.

    Example:
        >>> from dwflow_lite import MLP
        >>> from dwflow_lite.flow import FlowSettings
        >>> zoo = Zoo.from_modules([MLP([2, 4, 1]) for _ in range(5)])
        >>> narrow, wide = (DeepWeightFlow(flow=FlowSettings(hidden=h, steps=10)) for h in (4, 8))
        >>> models = fit_together({"narrow": (narrow, zoo), "wide": (wide, zoo)})
        >>> len(models["wide"].sample(3, seed=0))
        3
    """
    at_once = torch.get_num_threads() if at_once is None else at_once
    if not is_whole(at_once, 1):
        raise ValueError(f"at_once must be a whole number >= 1, got {at_once!r}")
    if len({id(model) for model, _ in work.values()}) != len(work) or not work:
        raise ValueError("work must name at least one generator, and each of them once: make a new one for each name")
    # Alignment and PCA draw from the generators of the process and use all threads: one after the other.
    prepared = {name: model._prepare(zoo, None, None, False) for name, (model, zoo) in work.items()}
    # The widest fields first, so that none of them is left to train alone at the end.
    names = sorted(prepared, key=lambda name: -prepared[name].fitted.settings["flow"].hidden)
    jobs = [(prepared[name],) for name in names]
    trainings = {}
    threads = ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(1,))
    message = f"no memory for {at_once} flows at once: pass a smaller at_once, or flows with a smaller batch_size"
    with out_of_memory_as(message), one_thread(), threads:
        for position, training in run_jobs(PreparedFlow.train, jobs, threads, progress=progress, desc="flows"):
            trainings[names[position]] = training
    for name, (model, _) in work.items():
        model._take(prepared[name], trainings[name])
    return {name: model for name, (model, _) in work.items()}
