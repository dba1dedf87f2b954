"""Figures of zoos: how their members were trained."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from dwflow_lite.figures.style import finite_range, loss_axis, new_figure, score_axis
from dwflow_lite.support.colours import COLOURS
from dwflow_lite.zoo.zoo import Zoo


def draw_learning_curves(zoo: Zoo, split: str = "validation") -> Figure:
    """Training loss of every member against the epoch, and the spread of the members' scores.

    Args:
        zoo: a trained one, whose record holds losses and scores.
        split: whose scores stand beside those of ``train``.

    Raises:
        ValueError: the record of the zoo holds no training.
    """
    if "train_loss" not in zoo.record:
        raise ValueError("this zoo's record holds no training losses: draw a zoo that train_zoo has made")
    label, unit = score_axis(_score_name(zoo))
    figure, (left, right) = new_figure(2)
    losses = np.array(zoo.record["train_loss"], dtype=float)  # (epochs, members)
    epochs = np.arange(1, len(losses) + 1)
    left.plot(epochs, losses, color=COLOURS["zoo"], alpha=0.15, lw=0.8)
    left.plot(epochs, losses.mean(1), color=COLOURS["generated"], label="mean of members")
    left.set(
        xlabel="epoch",
        ylabel=f"training {loss_axis(_score_name(zoo))}",
        title=f"{losses.shape[1]} members, trained at once",
        yscale="log",
    )
    left.legend(frameon=False)
    scores = {name: unit * zoo.scores(name).numpy() for name in ("train", split)}
    lowest, highest = finite_range(np.concatenate(list(scores.values())))
    highest = max(highest, unit)
    lowest = min(lowest, highest - 0.01 * unit)  # all alike: one narrow bar
    bins = np.linspace(lowest, highest, 13)  # wider than one example of a held-out split
    for i, (name, values) in enumerate(scores.items()):
        right.hist(values, bins=bins, alpha=0.7, label=name, color=f"C{i}")
    right.set(xlabel=label, ylabel="members", title="Same recipe, other seeds")
    right.legend(frameon=False)
    return figure


def _score_name(zoo: Zoo) -> str:
    """What the scores of the record are; older records say only whether they are of a classification."""
    task = zoo.record.get("task", {})
    return task.get("score", "score" if task.get("kind") == "regression" else "accuracy")
