"""Figures and controls: every draw function gives a labelled picture and changes nothing; errors are not hidden."""

import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from ipywidgets import Widget
from ipywidgets.widgets.widget_link import Link
from matplotlib.figure import Figure

from dwflow_lite import (
    MLP,
    DeepWeightFlow,
    PermutationSpec,
    Recipe,
    Task,
    audit,
    figures,
    linear_barrier,
    load_task,
    train_zoo,
    widgets,
)
from dwflow_lite.auditing import Audit, Bars, Row, Values
from dwflow_lite.course import sweep
from dwflow_lite.flow import FlowSettings
from dwflow_lite.symmetry import coordinate_descent


@pytest.fixture(scope="module")
def world():
    task = load_task("digits")
    zoo = train_zoo(task, MLP([64, 8, 10]), members=5, held_out=2, recipe=Recipe(epochs=2))
    model = DeepWeightFlow(flow=FlowSettings(hidden=16, steps=20, every=10)).fit(zoo)
    return task, zoo, model


def every_figure(world):
    task, zoo, model = world
    path = model.trajectory(4, seed=1, steps=5)
    scores = torch.rand(6, 4)
    codes = model.pca_.transform(zoo.fitted.weights)
    curve = linear_barrier(zoo, [(0, 1), (0, 2)], task, points=5)
    report = audit({"h=4": model.sample(4, seed=0), "h=8": model.sample(4, seed=1)}, model.zoo_, task, split="test")
    steps, plane = [], torch.randn(7, 2)
    a, b = (zoo.layout.unflatten(w.double()) for w in model.zoo_.weights[:2])
    spec = PermutationSpec.of(zoo.network)
    objective = coordinate_descent(
        a, b, spec, spec.random(torch.Generator().manual_seed(0)), torch.Generator(), watch=lambda *u: steps.append(u)
    ).objective
    first = next(s for s in steps if "hidden0" in s[0])
    return {
        "pair": figures.draw_barriers({"aligned": curve, "other": curve}, pair=1, strong="other"),
        "lines": figures.draw_lines({"a": ([1, 2], [3, 4]), "b": ([1, 2], torch.ones(3, 2))}, "x", "y", "t", log="xy"),
        "assignment": figures.draw_assignment(*(d["hidden0"] for d in first), objective, 1, "hidden0"),
        "table": figures.draw_barrier_table({"aligned": curve, "other": curve}),
        "climbs": figures.draw_climbs([[1.0, 2.0, 3.0], [1.0, 2.5]]),
        "planted": figures.draw_planted([0.0, 1.0], torch.rand(3, 2), chance=0.1),
        "spectra": figures.draw_spectra({"zoo": torch.rand(4)}, "title"),
        "rounds": figures.draw_rounds(100 * torch.rand(3, 4)),
        "strengths": figures.draw_strengths(torch.linspace(0, 1, 3), {"aligned": torch.rand(2, 3)}),
        "by width": figures.draw_barriers_by_width([4, 8], {"aligned": torch.rand(3, 2)}),
        "times": figures.draw_times_by_width([4, 8], {"matching": [1.0, 2.0]}),
        "clouds": figures.draw_clouds({"a": plane, "b": plane}, plane, {"a": plane}),
        "trajectories": figures.draw_trajectories({"a": torch.randn(3, 7, 2)}, plane),
        "labelled": figures.draw_labelled(
            {"one": {"left": plane}, "two": {"left": plane, "none": plane}}, {"left": plane}
        ),
        "confusion": figures.draw_confusion({"one": torch.eye(2), "two": torch.rand(2, 2)}, ["left", "right"]),
        "control": figures.draw_control({"flow": (torch.rand(9), torch.rand(9))}, "accuracy (%)"),
        "dispersion": figures.draw_accuracy_dispersion({"one": report, "two": report}),
        "audits": figures.draw_audit({"one": report, "two": report}),
        "curves": figures.draw_learning_curves(zoo, "test"),
        "reported": figures.draw_reported([figures.Reported("a", (96.0, 0.3), (95.0, 0.2), True)], "accuracy (%)", "t"),
        "verdicts": figures.draw_verdicts({"a": figures.Judged(0.5, (-1.0, 2.0), 0.1, "open")}, -1, 0.5, "better", "t"),
        "scores": figures.draw_scores({"zoo": zoo.scores("test"), "one": torch.tensor([0.3])}, "title", chance=0.1),
        "barriers": figures.draw_barriers({"aligned": curve, "other": curve}),
        "matrices": figures.draw_matrices({"a": torch.randn(3, 4), "b": torch.randn(3, 4)}, "x", "y"),
        "heads": figures.draw_heads({"query": torch.randn(6, 4), "project": torch.randn(4, 6)}, [2, 0, 1]),
        "distances": figures.draw_distances({"zoo": torch.rand(9)}, "distance", "title"),
        "training": figures.draw_training(model.training_),
        **{f"flow {f}": figures.draw_flow(codes, path.points, scores, f, 0.1) for f in (0, 3, 5)},
        "audit": figures.draw_audit({"one": audit(model.sample(4, seed=0), model.zoo_, task, split="test")}),
    }


def test_every_figure_has_titles_and_axis_labels(world):
    kept = world[1].weights.clone()
    for name, figure in every_figure(world).items():
        assert isinstance(figure, Figure), name
        for ax in figure.axes:
            if ax.get_label() != "<colorbar>":
                assert (ax.get_xlabel() and ax.get_ylabel()) or name == "scores", name
                assert ax.get_title(), name
        assert figures.png(figure)[:4] == b"\x89PNG"
    assert torch.equal(world[1].weights, kept)
    assert plt.get_fignums() == []  # nothing is left in pyplot's memory


def test_a_climb_that_ends_sooner_stays_where_it_is():
    (ax,) = figures.draw_climbs([[0.0, 4.0, 5.0], [2.0, 3.0]]).axes
    assert list(ax.lines[0].get_ydata()) == [1.0, 3.5, 4.0] and ax.get_title() == "The objective of 2 pairs"
    with pytest.raises(ValueError):
        figures.draw_climbs([])


def test_one_pair_is_drawn_on_the_axes_of_all(world):
    task, zoo, _ = world
    curve = linear_barrier(zoo, [(0, 1), (0, 2)], task, points=5)
    limits = [[ax.get_ylim() for ax in figures.draw_barriers({"a": curve}, pair=p).axes] for p in (None, 0, 1)]
    assert limits[0] == limits[1] == limits[2]
    drawn = [len(figures.draw_barriers({"a": curve}, pair=p).axes[0].lines) for p in (None, 0)]
    assert drawn == [4, 2]  # the repaired mean is dashed


def test_learning_curves_stand_on_the_split_that_is_typed(world):
    def names(figure):
        return [text.get_text() for text in figure.axes[1].get_legend().get_texts()]

    zoo = world[1]
    assert names(figures.draw_learning_curves(zoo)) == ["train", "validation"]  # "test" is never a default
    assert names(figures.draw_learning_curves(zoo, split="test")) == ["train", "test"]
    assert names(figures.draw_learning_curves(zoo, split="train")) == ["train"]
    with pytest.raises(ValueError):
        figures.draw_learning_curves(zoo, split="dev")


def test_heads_have_borders_and_the_numbers_they_were_given():
    figure = figures.draw_heads({"query": torch.randn(6, 4), "project": torch.randn(4, 6)}, [2, 0, 1])
    query, project = figure.axes[:2]
    for axis, ax in ((query.yaxis, query), (project.xaxis, project)):
        assert [label.get_text() for label in axis.get_ticklabels()] == ["head 2", "head 0", "head 1"]
        assert list(axis.get_ticklocs()) == [0.5, 2.5, 4.5] and len(ax.lines) == 2
    assert list(query.lines[0].get_ydata()) == [1.5, 1.5] and list(project.lines[0].get_xdata()) == [1.5, 1.5]
    with pytest.raises(ValueError, match="'query' has 6 units, which 4 heads do not share evenly"):
        figures.draw_heads({"query": torch.randn(6, 4)}, [0, 1, 2, 3])


def test_images_are_titled(world):
    figure = figures.draw_images(world[0].train.x[:3], ["1", "2", "3"], columns=2)
    assert [ax.get_title() for ax in figure.axes] == ["1", "2", "3"]
    with pytest.raises(ValueError):
        figures.draw_images(world[0].train.x[:3], ["1"])


def parts(box):
    row, picture, _, trouble = box.children
    *controls, reset = row.children
    return controls, reset, picture, trouble


def simple(level, colour):
    figure = Figure()
    figure.add_subplot().plot([0, level], color=colour)
    return figure


def test_controls_redraw_and_reset():
    (level, colour), reset, picture, trouble = parts(
        widgets.explore(simple, alt="a line", level=[1, 2, 5], colour=["red", "blue"])
    )
    first = picture.value
    level.value = 5
    assert picture.value != first
    colour.value = "blue"
    reset.click()
    assert picture.value == first and (level.value, colour.value) == (1, "red") and trouble.value == ""


def test_an_error_while_drawing_is_shown_and_raised():
    def fails_at_two(level):
        if level == 2:
            raise ZeroDivisionError("no such level")
        return simple(level, "red")

    (level,), _, _, trouble = parts(widgets.explore(fails_at_two, alt="a line", level=[1, 2]))
    with pytest.raises(ZeroDivisionError):
        level.value = 2
    assert "no such level" in trouble.value


def test_bad_controls_are_refused():
    with pytest.raises(ValueError, match="at least one control"):
        widgets.explore(simple, alt="")
    with pytest.raises(ValueError, match="at least one value"):
        widgets.explore(simple, alt="", level=[])


def slider_of(values):
    (part,), reset, _, _ = parts(widgets.explore(lambda it: simple(1, "red"), alt="a < b", it=values))
    return part, reset


@pytest.mark.parametrize(
    "values, labels",
    [
        (list(np.arange(3) + 1234567), ["1234567", "1234568", "1234569"]),
        ([1234567, 1234568], ["1234567", "1234568"]),
        (np.array([1, 2, 3]), ["1", "2", "3"]),
        (np.linspace(0, 1, 3, dtype=np.float32), ["0", "0.5", "1"]),
        ([0.1, 0.1000001], ["0.1", "0.1000001"]),
        ([torch.tensor(1), torch.tensor(2)], ["1", "2"]),
        ([float("nan"), 1.0], ["nan", "1"]),
        (range(2), ["0", "1"]),
    ],
)
def test_numbers_of_any_kind_make_a_slider_with_labels_that_differ(values, labels):
    part, reset = slider_of(values)
    assert type(part).__name__ == "SelectionSlider" and list(part._options_labels) == labels
    part.index = len(labels) - 1
    assert part.value is list(values)[-1] or part.value == list(values)[-1]
    reset.click()
    assert part.index == 0


@pytest.mark.parametrize(
    "values, labels",
    [
        ([np.True_, np.False_], ["True", "False"]),
        ([None, 1], ["None", "1"]),
        ([torch.zeros(2), torch.ones(2)], ["tensor([0., 0.])", "tensor([1., 1.])"]),
        (["1", 1], ["1 (1)", "1 (2)"]),
    ],
)
def test_control_anything_else_makes_a_menu(values, labels):
    part, reset = slider_of(values)
    assert type(part).__name__ == "Dropdown" and list(part._options_labels) == labels
    part.index = 1
    reset.click()
    assert part.value is values[0]


def test_a_value_given_twice_counts_once_and_html_is_text():
    part, _ = slider_of([2, 1, 2, np.int64(1), 3])  # [start, *values]
    assert part.value == 2 and list(part._options_values) == [1, 2, 3]
    part, _ = slider_of([1, 2, 3])  # control: nothing is lost
    assert part.value == 1 and list(part._options_values) == [1, 2, 3]

    def fails(level):
        if level:
            raise ValueError("<img src=x>")
        return simple(level, "red")

    box = widgets.explore(fails, alt="<b>", level=[0, 1])
    with pytest.raises(ValueError):
        parts(box)[0][0].value = 1
    assert "&lt;img src=x&gt;" in parts(box)[3].value and "&lt;b&gt;" in box.children[2].value


def test_a_slider_ascends_and_starts_and_resets_where_its_still_stands():
    (time, kind), reset, picture, _ = parts(
        widgets.explore(lambda time, kind: simple(time, kind), alt="", time=[1.0, 0.0, 0.5, 1.0], kind=["red", "blue"])
    )
    still = figures.png(simple(1.0, "red"))
    assert picture.value == still != figures.png(simple(0.0, "red"))  # control
    assert list(time._options_values) == [0.0, 0.5, 1.0]
    time.index, kind.index = 0, 1
    assert picture.value != still
    reset.click()
    assert picture.value == still and time.value == 1.0


def test_a_play_button_moves_the_slider_over_time_and_no_sweep_moves_the_button():
    levels = [3, 1, 2, 5]
    box = widgets.explore(simple, alt="", play="level", level=levels, colour=["red"])
    player, slider, colour, _ = box.children[0].children
    assert type(player).__name__ == "Play" and type(colour).__name__ == "Dropdown"
    assert (player.min, player.value, player.max) == (0, slider.index, len(levels) - 1) and slider.value == 3
    (link,) = (w for w in Widget.widgets.values() if isinstance(w, Link) and w.source[0] is player)
    assert link.source == (player, "value") and link.target == (slider, "index")
    assert sweep.candidates(player) == [] and sweep.candidates(slider) == [1, 3, 5]  # first, middle, last
    without = widgets.explore(simple, alt="", level=levels, colour=["red"])  # control
    assert [type(part).__name__ for part in without.children[0].children] == ["SelectionSlider", "Dropdown", "Button"]
    for name in ("colour", "levels"):
        with pytest.raises(ValueError, match=f"play='{name}' names no slider"):
            widgets.explore(simple, alt="", play=name, level=levels, colour=["red"])


# -- states that have no number, and tasks that have no accuracy ----------------------------------------------------


@pytest.fixture(scope="module")
def regression():
    """A zoo, a barrier and an audit of a task whose score is R²."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150, 5, generator=generator)
    task = Task.from_arrays(x, x[:, 0] - x[:, 1], kind="regression")
    zoo = train_zoo(task, MLP([5, 4, 1]), members=5, held_out=2, recipe=Recipe(epochs=2))
    curve = linear_barrier(zoo, [(0, 1), (0, 2)], task, points=5)
    return zoo, curve, audit({"h=4": zoo.take([0, 1, 2])}, zoo, task, split="test")


def test_axes_carry_the_score_of_the_task(regression, world):
    zoo, curve, report = regression
    drawn = {
        "barriers": figures.draw_barriers({"a": curve}),
        "table": figures.draw_barrier_table({"a": curve}),
        "curves": figures.draw_learning_curves(zoo, "test"),
        "audit": figures.draw_audit({"a": report}),
        "dispersion": figures.draw_accuracy_dispersion({"a": report}),
    }
    for name, figure in drawn.items():
        words = " ".join(ax.get_xlabel() + ax.get_ylabel() + ax.get_title() for ax in figure.axes)
        assert "R²" in words and "ccuracy" not in words and "%" not in words and "nats" not in words, (name, words)
    values = np.concatenate([line.get_ydata() for line in drawn["barriers"].axes[1].lines])
    assert np.nanmax(np.abs(values)) < 3, "R² is no percentage"
    control = figures.draw_learning_curves(world[1])
    assert control.axes[1].get_xlabel() == "accuracy (%)" and control.axes[0].get_ylabel() == "training loss (nats)"
    with pytest.raises(ValueError, match="show one score, these show R² and accuracy"):
        figures.draw_barriers({"a": curve, "b": replace(curve, score_name="accuracy")})
    two = figures.draw_audit({"a": report, "b": replace(report, score_name="accuracy")})  # each score on its own axis
    assert two.axes[0].get_ylim()[1] == pytest.approx(1.04) and two.axes[1].get_ylim()[1] == pytest.approx(104)
    one = figures.draw_audit({"a": report, "b": report})  # control
    assert one.axes[0].get_ylim() == one.axes[1].get_ylim()


def test_what_is_not_finite_is_left_out_and_the_rest_is_drawn(world, regression):
    nan = float("nan")
    _, curve, report = regression
    plane = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    broken = replace(curve, loss=curve.loss.clone(), repaired=None)
    broken.loss[0, 2] = float("inf")
    lost = replace(curve, loss=curve.loss * nan, score=curve.score * nan, repaired=None)
    row = replace(report.rows[0], score=nan, nearest=float("inf"))
    one = train_zoo(world[0], MLP([64, 4, 10]), members=1, recipe=Recipe(epochs=1))
    perfect = replace(one, record={**one.record, "scores": {"train": [1.0], "validation": [1.0]}})
    for figure in (
        figures.draw_barriers({"a": broken}),
        figures.draw_barriers({"a": lost}),
        figures.draw_barrier_table({"a": broken, "b": lost}),
        figures.draw_audit({"a": replace(report, rows=(row, *report.rows[1:]))}),
        figures.draw_audit({"a": replace(report, rows=(row,))}),
        figures.draw_scores({"a": torch.tensor([nan, 0.5])}, "t"),
        figures.draw_distances({"a": torch.tensor([nan, 0.5]), "b": torch.zeros(3)}, "x", "t"),
        figures.draw_matrices({"a": torch.full((2, 2), nan)}, "x", "y"),
        figures.draw_clouds({"a": plane}, plane * nan),
        figures.draw_flow(plane, torch.randn(1, 3, 2) * nan, torch.rand(1, 3), 0, 0.1),
        figures.draw_learning_curves(one),
        figures.draw_learning_curves(perfect),
    ):
        assert figures.png(figure)[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "draw, says",
    [
        (lambda c, z: figures.draw_barriers({}), "at least one curve"),
        (lambda c, z: figures.draw_barriers({"a": c}, pair=9), "no pair 9: each of the curves has 2"),
        (lambda c, z: figures.draw_barrier_table({}), "at least one curve"),
        (lambda c, z: figures.draw_audit({}), "at least one audit"),
        (lambda c, z: figures.draw_accuracy_dispersion({}), "at least one audit"),
        (lambda c, z: figures.draw_scores({}, "t"), "at least one group"),
        (lambda c, z: figures.draw_scores({"a": torch.zeros(0)}, "t"), "at least one score of 'a'"),
        (lambda c, z: figures.draw_distances({"a": torch.zeros(0)}, "x", "t"), "at least one distance of 'a'"),
        (lambda c, z: figures.draw_matrices({"a": torch.zeros(0, 2)}, "x", "y"), "at least one entry of 'a'"),
        (lambda c, z: figures.draw_lines({}, "x", "y", "t"), "at least one line"),
        (lambda c, z: figures.draw_clouds({}, torch.zeros(2, 2)), "at least one cloud"),
        (lambda c, z: figures.draw_trajectories({}, torch.zeros(2, 2)), "at least one set"),
        (lambda c, z: figures.draw_labelled({}, {"a": torch.zeros(2, 2)}), "at least one points by label"),
        (lambda c, z: figures.draw_labelled({"a": {}}, {}), "at least one points"),
        (lambda c, z: figures.draw_confusion({}, ["a"]), "at least one table"),
        (lambda c, z: figures.draw_confusion({"a": torch.eye(2)}, []), "at least one name"),
        (
            lambda c, z: figures.draw_confusion({"a": torch.eye(3)}, ["a", "b"]),
            r"'a' has the shape \(3, 3\), .* 2 names",
        ),
        (lambda c, z: figures.draw_control({}, "accuracy"), "at least one requested"),
        (lambda c, z: figures.draw_control({"a": (torch.ones(4), torch.rand(4))}, "x"), "all requests are 1"),
        (lambda c, z: figures.draw_images(torch.zeros(2, 3, 8, 8), ["a", "b"]), r"shape \(n, 1, h, w\)"),
        (lambda c, z: figures.draw_images(torch.zeros(0, 1, 8, 8), []), "at least one image"),
        (
            lambda c, z: figures.draw_flow(torch.zeros(4, 2), torch.zeros(3, 4, 2), torch.zeros(3, 4), 3, 0.1),
            "no frame 3",
        ),
        (lambda c, z: figures.draw_learning_curves(replace(z, record={})), "holds no training losses"),
    ],
)
def test_nothing_to_draw_is_said_in_one_sentence(regression, draw, says):
    with pytest.raises(ValueError, match=says) as error:
        draw(regression[1], regression[0])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "draw, says",
    [
        (lambda report, c, t: figures.draw_audit(report), "{'name': audit}, not Audit alone"),
        (lambda report, c, t: figures.draw_accuracy_dispersion(report), "{'name': audit}, not Audit alone"),
        (lambda report, c, t: figures.draw_audit([report]), "{'name': audit}, not list alone"),
        (lambda report, c, t: figures.draw_barriers(c), "{'name': curve}, not BarrierCurve alone"),
        (lambda report, c, t: figures.draw_barrier_table(c), "{'name': curve}, not BarrierCurve alone"),
        (lambda report, c, t: figures.draw_scores(t, "t"), "{'name': group}, not Tensor alone"),
        (lambda report, c, t: figures.draw_distances(t, "x", "t"), "{'name': histogram}, not Tensor alone"),
        (lambda report, c, t: figures.draw_matrices(t, "x", "y"), "{'name': matrix}, not Tensor alone"),
        (lambda report, c, t: figures.draw_lines(([1], t), "x", "y", "t"), "{'name': line}, not tuple alone"),
        (lambda report, c, t: figures.draw_clouds(t, t), "{'name': cloud}, not Tensor alone"),
        (lambda report, c, t: figures.draw_trajectories(t, t), "{'name': set of trajectories}, not Tensor alone"),
        (lambda report, c, t: figures.draw_labelled({"a": {}}, t), "{'name': points}, not Tensor alone"),
        (lambda report, c, t: figures.draw_confusion(t, ["a"]), "{'name': table}, not Tensor alone"),
        (
            lambda report, c, t: figures.draw_control(t, "x"),
            "{'name': requested and measured numbers}, not Tensor alone",
        ),
    ],
)
def test_what_a_figure_shows_has_a_name(regression, draw, says):
    row = Row("zoo", 3, 0.5, 0.1, 1.0, None, None, 1.0, 0.5)
    with pytest.raises(TypeError, match=re.escape(says)):
        draw(Audit((row,), "R²", "test"), regression[1], torch.zeros(4, 2))
    assert figures.draw_audit({"a title": Audit((row,), "R²", "test")})  # the control


def test_scores_of_a_regression_are_not_drawn_as_accuracies():
    scores = {"zoo": torch.tensor([0.5, -0.25])}
    for options, label, values in (
        ({"score_name": "R²"}, "R²", [0.5, -0.25]),
        ({"score_name": "R²", "xlabel": "R², test"}, "R², test", [0.5, -0.25]),
        ({}, "accuracy (%)", [50, -25]),  # the control
    ):
        (ax,) = figures.draw_scores(scores, "t", chance=0.1, **options).axes
        assert ax.get_xlabel() == label
        assert np.allclose(ax.collections[0].get_offsets()[:, 0], values)
        assert np.allclose(ax.lines[-1].get_xdata(), 0.1 * values[0] / 0.5)


def test_every_point_of_a_dispersion_figure_is_inside_and_its_legend_names_nothing_else():
    rows = tuple(Row(name, 3, 0.5, 0.1, 1.0, None, None, spread, 0.5) for name, spread in (("zoo", 1), ("random", 1.9)))
    for shown, named in ((rows, ["zoo", "random"]), ((replace(rows[0], name="h=8"),), ["flows, by width h"])):
        (ax,) = figures.draw_accuracy_dispersion({"a": Audit(shown, "accuracy", "test")}).axes
        assert [text.get_text() for text in ax.get_legend().get_texts()] == named
        assert ax.get_xlim()[1] > max(row.dispersion for row in shown)
    assert ax.get_xlim() == (0, 1.55)  # as in the course, where nothing lies farther


def test_a_frontier_shows_every_network_inside_its_axes_with_both_bars():
    near = Values((0.9, 0.2), (1.0, 9.0), (1.0, 9.0), None, (True, False))
    rows = (Row("zoo", 2, 0.55, 0.1, 1.0, None, None, 1.0, 0.5, values=near),
            Row("mine", 2, 0.0, 0.1, 4.0, None, None, 1.0, 0.5, values=replace(near, score=(0.0, -0.1))))  # fmt: skip
    result = Audit(rows, "accuracy", "test", bars=Bars(0.8, 0.7, 0.1))
    (ax,) = figures.draw_frontier({"a": result}).axes
    points = np.concatenate([points.get_offsets() for points in ax.collections])
    assert len(points) == 4  # one each, those beyond an edge on it
    for values, (low, high) in zip(points.T, (ax.get_xlim(), ax.get_ylim()), strict=True):
        assert low <= values.min() and values.max() <= high
    assert ax.get_ylim()[0] > 50  # a fifth of the way down to chance
    drawn = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_linestyle() == "--"]
    assert drawn[0][0] == 0.7 and drawn[1][1] == 80
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["zoo", "mine"]
    lower = replace(result, bars=Bars(0.4, 0.7, 0.1))
    first, second = figures.draw_frontier({"a": result, "b": lower}).axes[:2]
    assert first.get_ylim() == second.get_ylim() and first.get_xlim() == second.get_xlim()
    first, second = figures.draw_frontier({"a": result, "b": replace(lower, score_name="Spearman")}).axes[:2]
    assert first.get_ylim() != second.get_ylim()  # control: of other scores
    older = Audit((replace(rows[0], values=None),), "accuracy", "test", bars=result.bars)
    for without in (older, replace(result, bars=None)):
        with pytest.raises(ValueError, match="'a' holds averages alone"):
            figures.draw_frontier({"a": without})


def test_shares_fall_from_the_accurate_to_those_that_are_new_under_every_bar():
    near = Values((0.9, 0.2, 0.9, 0.9), (1.0, 1.4, 0.5, 0.1), (1.0,) * 4, None, (True, False, True, True))
    rows = (Row("zoo", 4, 0.7, 0.1, 1.0, None, None, 1.0, 0.25, values=near),)
    result = Audit(rows, "accuracy", "test", bars=Bars(0.8, 0.7, 0.1))
    (ax,) = figures.draw_shares({"a": result}).axes
    curve, bar = ax.lines
    shares = dict(zip(curve.get_xdata().round(2), curve.get_ydata(), strict=True))
    assert [shares[at] for at in (0.0, 0.1, 0.2, 0.5, 0.6, 1.0, 1.1, 1.5)] == [75, 75, 50, 50, 25, 25, 0, 0]
    assert bar.get_xdata()[0] == 0.7 and shares[0.7] == 100 * rows[0].accurate_and_new
    other = replace(result, rows=(replace(rows[0], name="mine"), *rows))
    first, second = figures.draw_shares({"a": result, "b": other}).axes
    assert first.get_legend() is None
    assert [text.get_text() for text in second.get_legend().get_texts()] == ["zoo", "mine"]
    assert first.lines[0].get_color() == second.lines[1].get_color() != second.lines[0].get_color()
    with pytest.raises(ValueError, match="'a' holds averages alone"):
        figures.draw_shares({"a": replace(result, bars=None)})


# -- the scoreboard ------------------------------------------------------------------------------------------------


def dots_of(figure):
    """Name of each marker -> where it stands; lines between ends have none."""
    (ax,) = figure.axes
    return [
        (line.get_marker(), line.get_xdata()[-1], line.get_ydata()[-1])
        for line in ax.lines
        if len(line.get_xdata()) == 1
    ]


def test_verdicts_stand_at_their_distance_and_what_lies_below_the_edge_is_a_triangle():
    judged = {
        "flow": figures.Judged(0.1, (-0.2, 0.4), 0.02, "reproduced, by copies"),
        "random": figures.Judged(-86.0, (-87.0, -85.0), 1.1, "not reproduced"),
        "one zoo": figures.Judged(0.3, (float("-inf"), float("inf")), 0.7, "open"),
    }
    figure = figures.draw_verdicts(judged, -1.0, 0.5, "better (points)", "title")
    marks = {x: (marker, round(y, 6)) for marker, x, y in dots_of(figure)}
    assert marks[0.02] == ("o", 0.1) and marks[1.1] == ("v", -3.0)
    (of_one_zoo,) = [line for line in figure.axes[0].lines if list(line.get_xdata()) == [0.7, 0.7]]
    assert list(of_one_zoo.get_ydata()) == [-3.0, figure.axes[0].get_ylim()[1]]  # nothing is known of it
    (shaded,) = [patch for patch in figure.axes[0].patches if patch.get_width() > 0]
    blind = figures.draw_verdicts(judged, -1.0, None, "better (points)", "title")
    (whole,) = blind.axes[0].patches
    assert shaded.get_x() == 0.5 and whole.get_x() < 0  # without distances, copies stand in the green too
    with pytest.raises(ValueError, match="at least one judged"):
        figures.draw_verdicts({}, -1.0, None, "y", "t")


def test_reported_figures_are_hollow_where_the_task_is_another():
    def faces(same):
        figure = figures.draw_reported([figures.Reported("a", (96.0, 0.3), (95.0, 0.2), same)], "x", "t")
        return [line.get_markerfacecolor() for line in figure.axes[0].lines if line.get_marker() == "o"]

    assert faces(False) == ["white"] and faces(True) != ["white"]
    with pytest.raises(ValueError, match="at least one pair"):
        figures.draw_reported([], "x", "t")


# -- what was asked for -------------------------------------------------------------------------------------------


def test_a_table_of_what_was_asked_for_is_written_out_in_the_unit_of_its_score():
    table = torch.tensor([[0.9, 0.1], [0.25, 0.8]])
    for score_name, written in (("accuracy", ["90", "10", "25", "80"]), ("R²", ["0.90", "0.10", "0.25", "0.80"])):
        ax, bar = figures.draw_confusion({"a": table}, ["left", "right"], score_name).axes
        assert [text.get_text() for text in ax.texts] == written
        assert [label.get_text() for label in ax.get_yticklabels()] == ["left", "right"]
        assert score_name in bar.get_ylabel()


def test_control_is_drawn_as_the_line_of_least_squares_beside_the_one_that_was_wished():
    asked = torch.linspace(0.2, 0.8, 20)
    given = {"follows": (asked, asked), "halfway": (asked, 0.25 + asked / 2), "does not": (asked, 0 * asked + 0.5)}
    axes = figures.draw_control(given, "accuracy (%)").axes
    slopes = []
    for ax in axes:
        wished, found = ax.lines
        assert list(wished.get_xdata()) == list(wished.get_ydata())
        slopes.append(float(np.diff(found.get_ydata())[0] / np.diff(found.get_xdata())[0]))
        assert f"slope {slopes[-1]:z.2f}" in [text.get_text() for text in ax.get_legend().get_texts()]
        dots = ax.collections[0].get_offsets()
        assert dots[:, 0].min() == pytest.approx(20) and ax.get_xlim()[0] < 20 and ax.get_xlim() == axes[0].get_xlim()
    assert slopes == pytest.approx([1, 0.5, 0], abs=1e-5)


def test_points_of_all_panels_and_of_the_data_lie_on_the_same_axes():
    data = {"left": torch.tensor([[-1.0, 0.0], [0.0, 1.0]]), "right": torch.tensor([[1.0, 0.0], [2.0, 5.0]])}
    far = torch.tensor([[-9.0, 3.0]])
    axes = figures.draw_labelled({"one": data, "two": {"left": far}}, data).axes
    assert axes[0].get_xlim() == axes[1].get_xlim() and axes[0].get_xlim()[0] < -9 and axes[0].get_ylim()[1] > 5
    colours = [tuple(dots.get_facecolor()[0][:3]) for dots in axes[1].collections]
    assert colours[0] == colours[-1] != colours[1]  # of a label, in the data and in what was asked for
