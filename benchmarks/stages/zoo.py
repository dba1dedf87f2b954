"""Training a zoo: all members in one computation, beside a plain loop over them, each on the threads that suit it best.

The loop trains a few of the members, and its seconds are scaled to all: each costs the same. What is *not* forward and
backward pass is told apart: seconds of the optimizer, of gathering the examples, of drawing their orders, and the rest.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import Measured, timed
from dwflow_lite import MLP, Recipe, Task, Zoo, load_task, train_zoo
from dwflow_lite.networks import ResNet, ViT
from dwflow_lite.training import batched as batched_module

LIKE_THE_LOOP = 1e-3  # largest difference of a weight after one epoch: of rounding, which training magnifies
SHORT = Recipe(epochs=1)


def digits(size: int | None = None) -> Task:
    """Handwritten digits (n, 1, 8, 8); or as vectors, enlarged to ``size`` x ``size`` pixels (MNIST's 28)."""
    task = load_task("digits")
    if size is None:
        return task
    return replace(task, splits={name: replace(s, x=enlarged(s.x, size).flatten(1)) for name, s in task.splits.items()})


def enlarged(x: Tensor, size: int) -> Tensor:
    """Images (n, 1, size, size) of small ones (n, 1, 8, 8)."""
    return F.interpolate(x, size=size, mode="bilinear")


def some_of(task: Task, examples: int) -> Task:
    """So many examples of each split."""
    few = {name: replace(split, x=split.x[:examples], y=split.y[:examples]) for name, split in task.splits.items()}
    return replace(task, splits=few, indices={name: at[:examples] for name, at in task.indices.items()})


# -- where the time goes ---------------------------------------------------------------------------------------------


@contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Seconds of the parts of a batched training in here, each without what is called inside it."""
    seconds: dict[str, float] = defaultdict(float)

    def watched(name: str, function: Callable) -> Callable:
        def call(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **options)
            seconds[name] += time.perf_counter() - start
            return result

        return call

    plain = Recipe.optimizer_for

    def watched_optimizer(recipe: Recipe, parameters: Any) -> torch.optim.Optimizer:
        optimizer = plain(recipe, parameters)
        optimizer.step = watched("optimizer", optimizer.step)
        return optimizer

    with (
        patch.object(batched_module, "batched_forward", watched("forward", batched_module.batched_forward)),
        patch.object(batched_module, "data_orders", watched("orders of the examples", batched_module.data_orders)),
        patch.object(Tensor, "backward", watched("backward", Tensor.backward)),
        patch.object(Task, "training_loss", watched("loss", Task.training_loss)),
        patch.object(Recipe, "optimizer_for", watched_optimizer),
        patch.object(batched_module, "train_chunk", watched("steps", batched_module.train_chunk)),
    ):
        yield seconds


def gathering(task: Task, members: int, recipe: Recipe) -> float:
    """Seconds to gather the examples of one epoch for so many members."""
    x = task.splits["train"].x
    rows = torch.stack([torch.randperm(len(x)) for _ in range(members)])  # (N, n)
    start = time.perf_counter()
    for batch in rows.split(recipe.batch_size, 1):
        x[batch]
    return time.perf_counter() - start


def parts_of(task: Task, network: nn.Module, members: int, recipe: Recipe) -> dict[str, float]:
    """Shares of a batched training that go to each part; they sum to one."""
    with stopwatch() as seconds:
        start = time.perf_counter()
        train_zoo(task, network, members=members, recipe=recipe)
        whole = time.perf_counter() - start
    found = dict(seconds)
    steps = found.pop("steps")
    found["examples gathered"] = gathering(task, members, recipe) * recipe.epochs
    found["rest of a step"] = steps - sum(found.values())
    found["starting, scoring, packing"] = whole - steps
    return {f"share of {name}": part / whole for name, part in found.items()}


# -- rows ------------------------------------------------------------------------------------------------------------


def best_threads(call: Callable[[], Zoo], repeats: int) -> tuple[float, float, int, Zoo]:
    """Seconds, spread and result of a call on the number of threads that suits it best, and that number."""
    cores = torch.get_num_threads()
    found = []
    try:
        for threads in sorted({1, cores}):
            torch.set_num_threads(threads)
            found.append((*timed(call, repeats, warm=0), threads))
    finally:
        torch.set_num_threads(cores)
    seconds, spread, zoo, threads = min(found, key=lambda each: each[0])
    return seconds, spread, threads, zoo


def zoo_of(
    make_task: Callable[[], Task], network: nn.Module, members: int, loop_members: int, epochs: int, at_least: float,
    toy: bool,
) -> Measured:  # fmt: skip
    """Members at once and one by one; ``at_least`` so many times the loop is the target (0: none)."""
    task = make_task()
    if toy:
        members, loop_members, epochs = 2, 2, 1
        task = some_of(task, 64)
    recipe = Recipe(epochs=epochs)
    short = train_zoo(task, network, members=loop_members, recipe=SHORT)
    alone = train_zoo(task, network, members=loop_members, recipe=SHORT, method="loop")
    off = float((short.weights - alone.weights).abs().max())
    repeats = 1 if toy else 3
    seconds, spread, threads, zoo = best_threads(
        lambda: train_zoo(task, network, members=members, recipe=recipe), repeats
    )
    loop, _, loop_threads, _ = best_threads(
        lambda: train_zoo(task, network, members=loop_members, recipe=recipe, method="loop"), repeats
    )
    loop *= members / loop_members
    checks = {"largest difference of a weight": off, "threads": threads, "threads, loop": loop_threads}
    checks["mean validation accuracy"] = float(zoo.scores("validation").mean())
    if not toy:
        cores = torch.get_num_threads()
        torch.set_num_threads(threads)
        checks |= parts_of(task, network, members, recipe)
        torch.set_num_threads(cores)
    holds = {"as the loop trains them": off < LIKE_THE_LOOP}
    if at_least and not toy:
        holds[f"at least {at_least:g} times the loop"] = loop >= at_least * seconds
    return Measured(seconds, spread, {"loop": loop}, checks, holds)


ROWS: dict[str, Callable[[bool], Measured]] = {
    "100 MLPs 64-32-32-10 on digits": partial(zoo_of, digits, MLP([64, 32, 32, 10]), 100, 5, 40, 10.0),
    "100 MLPs 784-32-32-10 on enlarged digits": partial(
        zoo_of, partial(digits, 28), MLP([784, 32, 32, 10]), 100, 10, 6, 3.0
    ),
    "20 ResNet-8 on digits": partial(zoo_of, digits, ResNet((4, 8, 16), 1, channels=1), 20, 4, 3, 0.0),
    "20 small vision transformers on digits": partial(
        zoo_of, digits, ViT(8, 2, 32, 2, 4, channels=1), 20, 4, 3, 0.0
    ),
}  # fmt: skip
