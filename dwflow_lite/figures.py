"""Figures of the course: each function takes what it draws and returns a Figure, and changes nothing else."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dwflow_lite.auditing import Audit
from dwflow_lite.flow import FlowTraining
from dwflow_lite.symmetry import BarrierCurve
from dwflow_lite.zoo import Zoo

COLOURS = {
    "zoo": "#4c566a", "held-out networks": "#8fa1b3", "generated": "#d1495b", "aligned": "#2a7f9e",
    "not aligned": "#e8963a", "soup of 10": "#6a994e", "Gaussian on codes": "#7b5ea7",
    "pair interpolation": "#3aa6a0", "zoo + noise": "#b5838d", "random weights": "#a0a0a0",
}  # fmt: skip


def colour(name: str, position: int = 0) -> str:
    """The colour a name has in every figure; others in turn."""
    return COLOURS.get(name, f"C{position}")


def show(figure: Figure, alt: str) -> None:
    """Display a figure with a text alternative for readers who do not see it."""
    from IPython.display import display

    display({"image/png": png(figure), "text/plain": alt}, metadata={"image/png": {"alt": alt}}, raw=True)


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def _new(columns: int = 1, width: float = 4.6, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure outside pyplot's memory, with the house's light axes."""
    figure = plt.Figure(figsize=(width * columns, height), layout="constrained")
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    return figure, axes


def draw_images(images: Tensor, titles: Sequence[str], columns: int = 10, heading: str = "") -> Figure:
    """Small grey images (n, 1, h, w) in a grid, each with a title."""
    rows = -(-len(images) // columns)
    figure = plt.Figure(figsize=(0.9 * columns, 1.15 * rows + 0.3), layout="constrained")
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        ax = figure.add_subplot(rows, columns, i + 1)
        ax.imshow(image.squeeze(0), cmap="gray_r")
        ax.set_title(title, fontsize=9)
        ax.set_xticks([]), ax.set_yticks([])
    figure.suptitle(heading, fontsize=11)
    return figure


def draw_learning_curves(zoo: Zoo) -> Figure:
    """Training loss of every member against the epoch, and the spread of the members' test scores."""
    figure, (left, right) = _new(2)
    losses = np.array(zoo.record["train_loss"], dtype=float)
    left.plot(np.arange(1, len(losses) + 1), losses, color=COLOURS["zoo"], alpha=0.15, lw=0.8)
    left.plot(np.arange(1, len(losses) + 1), losses.mean(1), color=COLOURS["generated"], label="mean of members")
    left.set(
        xlabel="epoch",
        ylabel="training loss (nats)",
        title=f"{losses.shape[1]} members, trained at once",
        yscale="log",
    )
    left.legend(frameon=False)
    for i, split in enumerate(("train", "test")):
        right.hist(100 * zoo.scores(split).numpy(), bins=20, alpha=0.7, label=split, color=f"C{i}")
    right.set(xlabel="accuracy (%)", ylabel="members", title="Same recipe, other seeds")
    right.legend(frameon=False)
    return figure


def draw_scores(
    groups: Mapping[str, Tensor], title: str, chance: float | None = None, xlabel: str = "accuracy (%)"
) -> Figure:
    """One row of dots for each group: the score of every network, and the group's mean as a bar."""
    figure, (ax,) = _new(1, width=7.5, height=0.55 * len(groups) + 1.1)
    rng = np.random.default_rng(0)
    for i, (name, scores) in enumerate(groups.items()):
        values = 100 * np.asarray(scores)
        ax.scatter(values, i + rng.uniform(-0.25, 0.25, len(values)), s=10, alpha=0.5, color=colour(name, i))
        ax.plot([values.mean()] * 2, [i - 0.38, i + 0.38], color="black", lw=2)
    if chance is not None:
        ax.axvline(100 * chance, color="gray", ls=":", label="chance")
        ax.legend(frameon=False)
    ax.set(yticks=range(len(groups)), yticklabels=list(groups), xlabel=xlabel, title=title)
    ax.invert_yaxis()
    return figure


def draw_barriers(curves: Mapping[str, BarrierCurve]) -> Figure:
    """Loss and accuracy along the lines between pairs of networks: every line faint, their mean strong."""
    figure, (left, right) = _new(2)
    for i, (name, curve) in enumerate(curves.items()):
        for ax, values in ((left, curve.loss), (right, 100 * curve.score)):
            ax.plot(curve.t, values.T, color=colour(name, i), alpha=0.15, lw=0.8)
            ax.plot(curve.t, values.mean(0), color=colour(name, i), lw=2.2, label=name)
    left.set(xlabel="position t on the line", ylabel="loss (nats)", title="Loss between two networks")
    right.set(xlabel="position t on the line", ylabel="accuracy (%)", title="Accuracy between two networks")
    right.legend(frameon=False)
    return figure


def draw_matrices(matrices: Mapping[str, Tensor], xlabel: str, ylabel: str) -> Figure:
    """Weight matrices side by side on one colour scale."""
    figure, axes = _new(len(matrices), width=3.4, height=3.2)
    limit = max(float(m.abs().max()) for m in matrices.values())
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        ax.grid(False)
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        ax.set(title=name, xlabel=xlabel, ylabel=ylabel)
    figure.colorbar(image, ax=axes, label="weight", shrink=0.8)
    return figure


def draw_distances(distances: Mapping[str, Tensor], xlabel: str, title: str) -> Figure:
    """Histograms of distances on one axis."""
    figure, (ax,) = _new(1, width=7)
    highest = max(float(d.max()) for d in distances.values())
    for i, (name, values) in enumerate(distances.items()):
        ax.hist(
            values.numpy(),
            bins=np.linspace(0, 1.02 * highest, 60),
            alpha=0.6,
            label=name,
            color=colour(name, i),
        )
    ax.set(xlabel=xlabel, ylabel="count", title=title)
    ax.legend(frameon=False)
    return figure


def draw_training(training: FlowTraining) -> Figure:
    """Loss of a flow on seen and held-out codes, and the spread of what it generates."""
    figure, (left, right) = _new(2)
    left.plot(training.steps, training.loss, color=COLOURS["generated"], label="training codes")
    if training.held_out_loss:
        left.plot(training.steps, training.held_out_loss, color=COLOURS["held-out networks"], label="held-out codes")
    left.set(xlabel="training step", ylabel="flow-matching loss", title="What the loss says")
    left.set_ylim(bottom=0)
    left.legend(frameon=False)
    right.plot(training.steps, training.dispersion, color=COLOURS["generated"])
    right.axhline(1, color="gray", ls=":", label="spread of the zoo")
    right.set(
        xlabel="training step",
        ylabel="dispersion ratio",
        title="Do samples spread like the zoo?",
        ylim=(0, 1.3),
    )
    right.legend(frameon=False)
    return figure


def draw_flow(codes: Tensor, points: Tensor, scores: Tensor, frame: int, chance: float) -> Figure:
    """One moment of a flow: where the points are in code space, and what the networks they decode to can do.

    Args:
        codes: zoo (N, k >= 2). points: trajectory (T, n, k). scores: (T, n) in [0, 1]. frame: 0 … T-1. chance: a score.
    """
    figure, (left, right) = _new(2)
    t = frame / (len(points) - 1)
    left.scatter(codes[:, 0], codes[:, 1], s=14, color=COLOURS["zoo"], alpha=0.5, label="zoo")
    left.plot(points[: frame + 1, :, 0], points[: frame + 1, :, 1], color=COLOURS["generated"], alpha=0.25, lw=0.7)
    left.scatter(points[frame, :, 0], points[frame, :, 1], s=12, color=COLOURS["generated"], label="flow")
    every = np.concatenate([codes[:, :2].numpy(), points[:, :, :2].reshape(-1, 2).numpy()])
    low, high = every.min(0) - 0.3, every.max(0) + 0.3
    left.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    left.set(
        xlabel="first code (rms units)",
        ylabel="second code (rms units)",
        title=f"Weight space at t = {t:.2f}",
    )
    left.legend(frameon=False, loc="upper right", fontsize=8)
    times = np.linspace(0, 1, len(points))
    right.plot(times, 100 * scores, color=COLOURS["generated"], alpha=0.15, lw=0.7)
    right.plot(times, 100 * scores.mean(1), color=COLOURS["generated"], lw=2, label="mean")
    right.axvline(t, color="black", lw=1)
    right.axhline(100 * chance, color="gray", ls=":", label="chance")
    right.set(
        xlabel="time t",
        ylabel="accuracy (%)",
        ylim=(0, 101),
        title=f"Decoded networks: {100 * scores[frame].mean():.1f} %",
    )
    right.legend(frameon=False, loc="upper left", fontsize=8)
    return figure


def draw_audit(audits: Mapping[str, Audit]) -> Figure:
    """Score against distance to the nearest member: accurate copies lie top left, accurate and new ones top right."""
    figure, axes = _new(len(audits), width=5.4, height=4.0)
    for ax, (title, result) in zip(axes, audits.items(), strict=True):
        for i, row in enumerate(result.rows):
            known = row.name in COLOURS
            # The zoo's own distance leaves out self; it is the unit of the axis.
            ax.errorbar(row.nearest, 100 * row.score, yerr=100 * row.score_std, fmt="o" if known else "D", ms=7,
                        color=colour(row.name, i), alpha=0.9, capsize=2, lw=1, label=row.name)  # fmt: skip
        ax.axvline(1, color="gray", ls=":", lw=1)
        ax.set(xlabel="distance to nearest member (zoo's own = 1)", ylabel=f"{result.score_name}, {result.split} (%)",
               title=title, ylim=(0, 104))  # fmt: skip
        ax.set_xlim(left=-0.05)
    axes[0].legend(frameon=False, fontsize=8, loc="center left")
    return figure
