"""Figures of zoos: how their members were trained."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from dwflow_lite.figures.style import COLOURS, new_figure
from dwflow_lite.zoo.zoo import Zoo


def draw_learning_curves(zoo: Zoo, split: str = "validation") -> Figure:
    """Training loss of every member against the epoch, and the spread of the members' scores.

    Args:
        zoo: a trained one, whose record holds losses and scores.
        split: whose scores stand beside those of ``train``.
    """
    figure, (left, right) = new_figure(2)
    losses = np.array(zoo.record["train_loss"], dtype=float)  # (epochs, members)
    epochs = np.arange(1, len(losses) + 1)
    left.plot(epochs, losses, color=COLOURS["zoo"], alpha=0.15, lw=0.8)
    left.plot(epochs, losses.mean(1), color=COLOURS["generated"], label="mean of members")
    left.set(
        xlabel="epoch",
        ylabel="training loss (nats)",
        title=f"{losses.shape[1]} members, trained at once",
        yscale="log",
    )
    left.legend(frameon=False)
    scores = {name: 100 * zoo.scores(name).numpy() for name in ("train", split)}
    lowest = min(values.min() for values in scores.values())
    bins = np.linspace(lowest, 100, 13)  # wider than one example of a held-out split
    for i, (name, values) in enumerate(scores.items()):
        right.hist(values, bins=bins, alpha=0.7, label=name, color=f"C{i}")
    right.set(xlabel="accuracy (%)", ylabel="members", title="Same recipe, other seeds")
    right.legend(frameon=False)
    return figure
