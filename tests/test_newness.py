"""Figures of where networks lie: spheres and chords, and basins."""

import numpy as np
import pytest
import torch

from dwflow_lite import figures
from dwflow_lite.figures.newness import draw_basin

FOUR = torch.tensor([[2.0, 0], [-2, 0], [0, 2], [0, -2]])


def sphere():
    points = {"mean": torch.zeros(2), "average": torch.tensor([1.0, 1.0])}
    return figures.draw_sphere(FOUR, points, {"mean": 0.71, "average": 0.5}, "title")


def plane(loss):
    axis = torch.linspace(-1.5, 1.5, 7)
    return figures.Plane(axis, loss(axis[None, :], axis[:, None]), {"mean": (0.0, 0.0), "A": (1.0, 0.0)})


def bowl(x, y):
    return 0.1 + x**2 + 2 * y**2


def test_figures_have_titles_labels_and_pictures():
    for figure in (sphere(), draw_basin({"one": plane(bowl), "two": plane(bowl)})):
        for ax in figure.axes:
            if ax.get_label() != "<colorbar>":
                assert ax.get_title() and ax.get_xlabel() and ax.get_ylabel()
        assert figures.png(figure)[:4] == b"\x89PNG"


def test_the_circle_goes_through_the_members_and_each_point_is_joined_to_its_nearest():
    (ax,) = sphere().axes
    (circle,) = ax.patches
    assert circle.get_radius() == pytest.approx(2) and tuple(circle.center) == (0, 0)
    (shifted,) = figures.draw_sphere(FOUR + 5, {"a": FOUR[0]}, {"a": 1.0}, "t").axes[0].patches
    assert tuple(shifted.center) == (5, 5)
    chords = [line for line in ax.lines if line.get_linestyle() == "-"]
    assert len(chords) == 4 * 3 / 2
    dotted = [line.get_xydata() for line in ax.lines if line.get_linestyle() == ":"]
    lengths = [float(np.linalg.norm(ends[1] - ends[0])) for ends in dotted]
    assert lengths == pytest.approx([2.0, 2**0.5])
    assert [text.get_text() for text in ax.texts] == ["mean: 0.71", "average: 0.50"]


def test_a_basin_is_drawn_with_rows_along_the_second_direction():
    """The valley of 2 y² is narrow in y: of the lowest level the contour is wider than it is high."""
    ax = draw_basin({"one": plane(bowl)}).axes[0]
    filled = ax.collections[0]
    low = next(path for path in filled.get_paths() if len(path.vertices))
    width, height = np.ptp(low.vertices, axis=0)
    assert width > 1.2 * height
    turned = draw_basin({"one": plane(lambda x, y: bowl(y, x))}).axes[0].collections[0]  # control
    width, height = np.ptp(next(p for p in turned.get_paths() if len(p.vertices)).vertices, axis=0)
    assert height > 1.2 * width


def test_panels_have_one_scale_that_ends_where_it_is_told():
    planes = {"low": plane(bowl), "high": plane(lambda x, y: 100 * bowl(x, y))}
    figure = draw_basin(planes, highest=5.0)
    scales = [ax.collections[0].get_clim() for ax in figure.axes[:2]]
    assert scales[0] == scales[1] == pytest.approx((0.1, 5.0), abs=1e-4)
    whole = draw_basin(planes)
    assert whole.axes[0].collections[0].get_clim()[1] == pytest.approx(100 * (0.1 + 3 * 1.5**2), rel=1e-4)


def test_what_diverged_and_level_ground_are_drawn():
    hole = bowl(torch.zeros(1, 7), torch.zeros(7, 1))
    level = plane(lambda x, y: hole)
    hole = hole.clone()
    hole[0, 0] = float("nan")
    broken = plane(lambda x, y: hole)
    for one in (level, broken):
        assert figures.png(draw_basin({"one": one}))


def test_nothing_is_changed_and_nothing_to_draw_is_refused():
    kept, one = FOUR.clone(), plane(bowl)
    loss = one.loss.clone()
    sphere()
    draw_basin({"one": one}, highest=0.5)
    assert torch.equal(kept, FOUR) and torch.equal(loss, one.loss)
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_basin({})
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.draw_sphere(FOUR, {}, {}, "t")


def test_a_few_places_on_a_logarithmic_axis_are_named_by_their_numbers():
    def ticks(places):
        (ax,) = figures.draw_lines({"a": (places, places)}, "x", "y", "t", log="x").axes
        ax.figure.canvas.draw()
        return [label.get_text() for label in ax.get_xticklabels() if label.get_text()]

    assert ticks([16, 32, 64, 128]) == ["16", "32", "64", "128"]
    for others in ([1, 1.1, 1.2, 50], list(range(1, 40)), [0, 1, 10]):  # crowded, many, or no place for zero: as before
        assert ticks(others) != [f"{place:g}" for place in others]


def test_panels_of_a_frontier_that_show_the_same_kinds_have_one_legend():
    from dwflow_lite.auditing import Audit, Bars, Row, Values

    def result(*names):
        values = Values((0.9, 0.8), (1.0, 0.2), (1.0, 0.2), None, (True, False))
        rows = [Row(name, 2, 0.85, 0.05, 0.6, None, None, 1.0, 0.5, values=values) for name in names]
        return Audit(tuple(rows), "accuracy", "validation", bars=Bars(0.85, 0.9, 0.1))

    def legends(audits):
        return [ax.get_legend() is not None for ax in figures.draw_frontier(audits).axes]

    assert legends({"a": result("zoo", "flow"), "b": result("zoo", "flow")}) == [False, True]
    assert legends({"a": result("zoo", "flow"), "b": result("zoo", "other")}) == [True, True]
    (ax,) = figures.draw_frontier({"a": result("zoo")}).axes
    (corner,) = ax.patches
    assert corner.get_xy() == (0.9, 85.0)
    assert corner.get_x() + corner.get_width() == pytest.approx(ax.get_xlim()[1])
