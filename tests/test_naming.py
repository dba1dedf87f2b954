"""Names of points: none over another, none outside, whatever crowds; and each has a line to its own point."""

import numpy as np
import pytest
from matplotlib.text import Annotation, Text

from dwflow_lite import figures
from dwflow_lite.auditing import Audit, Row
from dwflow_lite.figures.naming import name_points
from dwflow_lite.figures.style import new_figure


def boxes_of(ax):
    """Name -> where it stands, without its line."""
    ax.figure.draw_without_rendering()
    return {a.get_text(): Text.get_window_extent(a) for a in ax.texts if isinstance(a, Annotation)}


def overlapping(ax):
    boxes = list(boxes_of(ax).values())
    return [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])]


def crowd(n, seed, spread):
    rng = np.random.default_rng(seed)
    return [
        (f"name number {i}", *place) for i, place in enumerate(rng.normal([0.1, 0.9], spread, (n, 2)).clip(-0.3, 1))
    ]


def drawn(points, columns=1):
    _, panels = new_figure(columns)
    for ax in panels:
        ax.plot([x for _, x, _ in points], [y for _, _, y in points], "o")
        ax.set(xlim=(-0.3, 1), ylim=(0, 1.3), xlabel="x", ylabel="y", title="t")
    return panels


@pytest.mark.parametrize("n, spread", [(2, 0.0), (5, 0.01), (9, 0.05), (14, 0.2)])
@pytest.mark.parametrize("columns", [1, 2])
def test_no_name_covers_another_and_none_leaves_the_axes(n, spread, columns):
    points = crowd(n, n, spread)
    for ax in drawn(points, columns):
        name_points(ax, points)
        assert overlapping(ax) == [] and set(boxes_of(ax)) == {name for name, _, _ in points}
        frame = ax.get_window_extent()
        for box in boxes_of(ax).values():
            assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        assert {a.xy for a in ax.texts} == {(x, y) for _, x, y in points}  # where their lines end


def test_names_that_stand_at_their_points_overlap():
    """Control: what is measured above is not always so."""
    points = crowd(9, 0, 0.05)
    (ax,) = drawn(points)
    for name, x, y in points:
        ax.annotate(name, (x, y))
    assert overlapping(ax)


def test_a_name_of_a_lone_point_stands_beside_it_on_the_side_that_is_asked_for():
    for side in (1, -1):
        (ax,) = drawn([("alone", 0.5, 0.5)])
        nowhere = [("NaN", np.nan, 0.1), ("beyond", 2.0, 0.5)]
        name_points(ax, [("alone", 0.5, 0.5), *nowhere], side=side)
        (box,) = boxes_of(ax).values()
        x, y = ax.transData.transform((0.5, 0.5))
        assert side * ((box.x0 + box.x1) / 2 - x) > 0 and abs((box.y0 + box.y1) / 2 - y) < 30
        assert not box.contains(x, y)


def test_an_audit_of_many_kinds_has_names_that_can_be_read():
    def row(name, score, nearest, dispersion):
        numbers = {"rematched": None, "overlap": None, "dispersion": dispersion, "accurate_and_new": 0.0}
        return Row(name=name, networks=9, score=score, score_std=0.02, nearest=nearest, **numbers)

    copies = [row(f"h={2**i}", 0.96 - 0.004 * i, 0.01 * i, 1 - 0.01 * i) for i in range(8)]
    rest = [row("zoo", 0.96, 1, 1), row("held-out networks", 0.96, 1, 1), row("soup of 10", 0.6, 0.7, 0.3)]
    report = Audit((*copies, *rest), "accuracy", "test")
    for figure in (figures.draw_audit({"a": report, "b": report}), figures.draw_accuracy_dispersion({"a": report})):
        for ax in figure.axes:
            assert overlapping(ax) == [] and len(boxes_of(ax)) >= 8
