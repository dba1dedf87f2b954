"""Figures of the course: each function takes what it draws and returns a Figure, and changes nothing else."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dwflow_lite.auditing.audit import Audit
from dwflow_lite.flow import FlowTraining
from dwflow_lite.symmetry import BarrierCurve
from dwflow_lite.zoo.zoo import Zoo

COLOURS = {
    "zoo": "#4c566a", "held-out networks": "#8fa1b3", "generated": "#d1495b", "aligned": "#2a7f9e",
    "not aligned": "#e8963a", "soup of 10": "#6a994e", "Gaussian on codes": "#7b5ea7",
    "pair interpolation": "#3aa6a0", "zoo + noise": "#b5838d", "random weights": "#a0a0a0",
    "random renumbering": "#8b5a83", "retrieval": "#1b1b1b", "closed-form flow": "#c9a227",
    "Gaussian on weights": "#b39ddb", "published": "#111e6c", "held-out, aligned": "#2a7f9e",
    "members, aligned": "#9cc5d6", "held-out, not aligned": "#e8963a", "members, not aligned": "#f3cfa0",
    "heads matched, exact": "#2a7f9e", "heads matched, spectral": "#7b5ea7",
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
    scores = {split: 100 * zoo.scores(split).numpy() for split in ("train", "test")}
    bins = np.linspace(min(v.min() for v in scores.values()), 100, 13)  # wider than one example of the test split
    for i, (split, values) in enumerate(scores.items()):
        right.hist(values, bins=bins, alpha=0.7, label=split, color=f"C{i}")
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


def draw_barriers(curves: Mapping[str, BarrierCurve], pair: int | None = None, strong: str | None = None) -> Figure:
    """Loss and accuracy along the lines between pairs of networks: every line faint, their mean strong, and dashed
    the mean of the repaired lines where they were measured.

    Args:
        curves: name -> curves of the same pairs.
        pair: draw this pair alone. strong: keep this name strong and the others faint. The axes stay the same.
    """
    figure, (left, right) = _new(2)
    for ax, field, factor in ((left, "loss", 1), (right, "score", 100)):
        values = {name: factor * getattr(curve, field).numpy() for name, curve in curves.items()}
        for i, (name, lines) in enumerate(values.items()):
            t, faint = curves[name].t, strong not in (None, name)
            mean = lines.mean(0) if pair is None else lines[pair]
            ax.plot(t, mean, color=colour(name, i), lw=2.2, alpha=0.2 if faint else 1, label=name)
            if pair is None:
                ax.plot(t, lines.T, color=colour(name, i), alpha=0.15, lw=0.8)
            if curves[name].repaired:
                mended = factor * getattr(curves[name].repaired, field).numpy()
                mended = mended.mean(0) if pair is None else mended[pair]
                ax.plot(t, mended, color=colour(name, i), lw=1.6, ls="--", alpha=0.2 if faint else 1)
        low, high = min(v.min() for v in values.values()), max(v.max() for v in values.values())
        ax.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    left.set(xlabel="position t on the line", ylabel="loss (nats)", title="Loss between two networks")
    right.set(xlabel="position t on the line", ylabel="accuracy (%)", title="Accuracy between two networks")
    if any(curve.repaired for curve in curves.values()):
        right.plot([], [], color="black", lw=1.6, ls="--", label="repaired")
    right.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def draw_barrier_table(curves: Mapping[str, BarrierCurve], title: str = "Barriers") -> Figure:
    """Mean barrier of each kind in loss and accuracy, as it is (full) and repaired (pale); dots are single pairs."""
    figure, axes = _new(2, width=4.4, height=0.9 + 0.42 * len(curves))
    for ax, field, factor in zip(axes, ("loss_barrier", "score_barrier"), (1, 100), strict=True):
        for i, curve in enumerate(curves.values()):
            for shift, measured, shade in ((-0.19, curve, 0.9), (0.19, curve.repaired, 0.4)):
                if measured:
                    values = factor * getattr(measured, field).numpy()
                    ax.barh(i + shift, values.mean(), 0.36, color=COLOURS["aligned"], alpha=shade)
                    ax.plot(values, np.full(len(values), i + shift), ".", color="black", ms=3, alpha=0.5)
        ax.set_yticks(range(len(curves)), list(curves) if ax is axes[0] else [""] * len(curves))
        ax.invert_yaxis()
        ax.set(ylabel="matched by" if ax is axes[0] else " ", xlim=(0, None))
    axes[0].set(xlabel="loss barrier (nats)", title=title)
    axes[1].set(xlabel="accuracy barrier (points)", title="full: as it is, pale: repaired")
    return figure


def draw_matrices(matrices: Mapping[str, Tensor], xlabel: str, ylabel: str, label: str = "weight") -> Figure:
    """Matrices side by side on one colour scale, which ``label`` names."""
    figure, axes = _new(len(matrices), width=3.4, height=3.2)
    limit = max(float(m.abs().max()) for m in matrices.values())
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        ax.grid(False)
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        ax.set(title=name, xlabel=xlabel, ylabel=ylabel)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(6, integer=True))
    figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    return figure


def draw_distances(distances: Mapping[str, Tensor], xlabel: str, title: str) -> Figure:
    """Histograms of distances on one axis, each in percent of its own number."""
    figure, (ax,) = _new(1, width=7)
    highest = max(float(d.max()) for d in distances.values())
    for i, (name, values) in enumerate(distances.items()):
        ax.hist(
            values.numpy(),
            bins=np.linspace(0, 1.02 * highest, 60),
            weights=np.full(len(values), 100 / len(values)),
            alpha=0.6,
            label=name,
            color=colour(name, i),
        )
    ax.set(xlabel=xlabel, ylabel="share (%)", title=title)
    ax.legend(frameon=False)
    return figure


def draw_training(training: FlowTraining) -> Figure:
    """Loss of a flow on seen and held-out codes, and the spread of what it generates."""
    figure, (left, right) = _new(2)
    left.plot(training.steps, training.loss, color=COLOURS["generated"], label="training")
    if training.held_out_loss:
        left.plot(training.steps, training.held_out_loss, color=COLOURS["held-out networks"], label="held out")
    left.set(xlabel="training step", ylabel="flow-matching loss", title="What the loss says")
    left.set_ylim(bottom=0)
    left.legend(frameon=False)
    right.plot(training.steps, training.dispersion, color=COLOURS["generated"])
    right.axhline(1, color="gray", ls=":", label="spread of the targets")
    right.set(
        xlabel="training step",
        ylabel="dispersion ratio",
        title="Do samples spread like their targets?",
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
    right.legend(frameon=False, loc="lower right", fontsize=8)
    return figure


def _label(ax: Axes, points: Sequence[tuple[str, float, float]], side: int = 1) -> None:
    """Name points, below each other where they crowd, with a line to the point."""
    taken: list[tuple[float, float]] = []
    wide, high = (limits[1] - limits[0] for limits in (ax.get_xlim(), ax.get_ylim()))
    for name, x, y in sorted(points, key=lambda p: (-p[2], p[1])):
        at = y
        while any(abs(at - h) < 0.042 * high and abs(x - other) < 0.26 * wide for other, h in taken):
            at -= 0.005 * high
        taken.append((x, at))
        ax.annotate(
            name, (x, y), xytext=(x + side * 0.035 * wide, at), fontsize=8, va="center",
            ha="left" if side > 0 else "right",
            arrowprops={"arrowstyle": "-", "color": "gray", "lw": 0.5, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip


def draw_audit(audits: Mapping[str, Audit]) -> Figure:
    """Score against distance to the nearest member, each kind named at its point.

    Accurate copies lie top left; top right, with the held-out networks, lie accurate *and* new ones. Squares are the
    zoo and the trivial generators, diamonds what is being audited.
    """
    figure, axes = _new(len(audits), width=6.2, height=4.6)
    rows = [r for result in audits.values() for r in result.rows]
    right, low = max(r.nearest for r in rows), 100 * min(r.score - r.score_std for r in rows)
    for ax, (title, result) in zip(axes, audits.items(), strict=True):
        for i, row in enumerate(result.rows):
            shade = colour(row.name, i)
            ax.errorbar(row.nearest, 100 * row.score, yerr=100 * row.score_std, fmt="s" if row.name in COLOURS else "D",
                        ms=6, color=shade, mfc="none" if row.name == "zoo" else shade, mew=1.6, capsize=2, lw=1,
                        zorder=4 if row.name == "zoo" else 3)  # fmt: skip
        ax.axvline(1, color="gray", ls=":", lw=1)
        ax.set(xlabel="distance to nearest member (zoo's own = 1)", ylabel=f"{result.score_name}, {result.split} (%)",
               title=title, ylim=(max(low, 0) - 6, 104), xlim=(-0.05, 1.4 * right))  # fmt: skip
        _label(ax, [(r.name, r.nearest, 100 * r.score) for r in result.rows])
    return figure


def draw_lines(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float] | Tensor]], xlabel: str, ylabel: str, title: str,
    *, log: str = "", marker: str | None = "o", bottom: float | None = None,
) -> Figure:  # fmt: skip
    """Named lines on one pair of axes: name -> (x, y); ``y`` of shape (repeats, x) becomes its mean and range.

    ``log`` names the logarithmic axes: ``""``, ``"x"``, ``"y"`` or ``"xy"``.
    """
    figure, (ax,) = _new(1, width=6.6)
    for i, (name, (x, y)) in enumerate(lines.items()):
        y = np.asarray(y, dtype=float)
        ax.plot(x, y.mean(0) if y.ndim == 2 else y, color=colour(name, i), marker=marker, ms=4, label=name)
        if y.ndim == 2:
            ax.fill_between(x, y.min(0), y.max(0), color=colour(name, i), alpha=0.15, lw=0)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.set(**{f"{axis}scale": "log" for axis in log})
    if bottom is not None:
        ax.set_ylim(bottom=bottom)
    ax.legend(frameon=False)
    return figure


def draw_assignment(
    similarity: Tensor, order: Tensor, objective: Sequence[float], step: int, group: str
) -> Figure:  # fmt: skip
    """One update of coordinate descent: the matrix to assign, its columns in the old and the new order, and the gain.

    Args:
        similarity: (n, n), every unit of the reference against every unit of the other network, as it stands.
        order: (n,) new order of the other network's units.
        objective: history, one value at the start and one after each update.
        step: which update this is, from 1. group: the units it renames.
    """
    figure, axes = _new(3, width=3.9, height=3.5)
    limit = float(similarity.abs().max())
    for ax, index, when in zip(axes[:2], (np.arange(len(order)), order), ("before", "after"), strict=True):
        ax.grid(False)
        image = ax.imshow(similarity[:, index], cmap="RdBu_r", vmin=-limit, vmax=limit)
        total = float(similarity[:, index].trace())
        ax.set(title=f"{group}, {when}: diagonal sums to {total:.1f}", xlabel="unit of the other network, in order",
               ylabel="unit of the reference")  # fmt: skip
        ax.title.set_fontsize(10)
    figure.colorbar(image, ax=axes[:2], label="similarity", shrink=0.8)
    axes[2].plot(objective, color=COLOURS["aligned"], marker="o", ms=4)
    axes[2].axvline(step, color="black", lw=1)
    axes[2].set(xlabel="update", ylabel="objective ⟨A, permuted B⟩", title="It never falls")
    return figure


def draw_clouds(clouds: Mapping[str, Tensor], reference: Tensor, arrows: Mapping[str, Tensor] | None = None) -> Figure:
    """Clouds of points (n, 2), one panel each, the reference grey beneath; ``arrows`` (n, 2) start at the points."""
    figure, axes = _new(len(clouds), width=3.4, height=3.5)
    every = np.concatenate([np.asarray(reference), *(np.asarray(c) for c in clouds.values())])
    low, high = every.min(0) - 0.3, every.max(0) + 0.3
    for ax, (name, points) in zip(axes, clouds.items(), strict=True):
        ax.scatter(*reference.T, s=6, color=COLOURS["zoo"], alpha=0.25, lw=0)
        if arrows and name in arrows:
            ax.quiver(*points.T, *arrows[name].T, color=COLOURS["generated"], angles="xy", width=0.004)
        else:
            ax.scatter(*points.T, s=7, color=COLOURS["generated"], alpha=0.7, lw=0)
        ax.set(title=name, xlabel="$x_1$", ylabel="$x_2$", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    return figure


def draw_trajectories(paths: Mapping[str, Tensor], reference: Tensor) -> Figure:
    """Trajectories (T, n, 2), one panel for each set: start light, way thin, end strong; the reference grey beneath."""
    figure, axes = _new(len(paths), width=3.8, height=3.7)
    for ax, (name, points) in zip(axes, paths.items(), strict=True):
        ax.scatter(*reference.T, s=6, color=COLOURS["zoo"], alpha=0.25, lw=0)
        ax.plot(points[..., 0], points[..., 1], color=COLOURS["generated"], lw=0.6, alpha=0.4)
        ax.scatter(*points[0].T, s=8, color=COLOURS["not aligned"], label="start, t = 0")
        ax.scatter(*points[-1].T, s=8, color=COLOURS["generated"], label="end, t = 1")
        ax.set(title=name, xlabel="$x_1$", ylabel="$x_2$")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def draw_accuracy_dispersion(audits: Mapping[str, Audit], flows: str = "h=") -> Figure:
    """Score against dispersion, one panel for each audit: flows joined in their order, everything else beside them.

    Args:
        audits: title -> audit. flows: how the names of the rows begin that belong on the line.
    """
    figure, axes = _new(len(audits), width=5.6, height=4.4)
    for ax, (title, result) in zip(axes, audits.items(), strict=True):
        line = [r for r in result.rows if r.name.startswith(flows)]
        ax.plot([r.dispersion for r in line], [100 * r.score for r in line], color=COLOURS["generated"], marker="o",
                label="flows, by width h")  # fmt: skip
        for i, r in enumerate(r for r in result.rows if r not in line):
            ax.scatter(r.dispersion, 100 * r.score, color=colour(r.name, i), marker="D", s=34, label=r.name, zorder=3)
        ax.set(xlabel="dispersion ratio (0: all at the mean, 1: as the zoo)",
               ylabel=f"{result.score_name}, {result.split} (%)", title=title)  # fmt: skip
        ax.set(ylim=(-4, 106), xlim=(0, 1.55))
        _label(ax, [(r.name, r.dispersion, 100 * r.score) for r in line], side=-1)
    axes[-1].legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
