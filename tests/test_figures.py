"""Figures and controls: every draw function gives a labelled picture and changes nothing; errors are not hidden."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure

from dwflow_lite import (
    MLP,
    DeepWeightFlow,
    PermutationSpec,
    Recipe,
    audit,
    figures,
    linear_barrier,
    load_task,
    train_zoo,
    widgets,
)
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
        "clouds": figures.draw_clouds({"a": plane, "b": plane}, plane, {"a": plane}),
        "trajectories": figures.draw_trajectories({"a": torch.randn(3, 7, 2)}, plane),
        "dispersion": figures.draw_accuracy_dispersion({"one": report, "two": report}),
        "audits": figures.draw_audit({"one": report, "two": report}),
        "curves": figures.draw_learning_curves(zoo, "test"),
        "scores": figures.draw_scores({"zoo": zoo.scores("test"), "one": torch.tensor([0.3])}, "title", chance=0.1),
        "barriers": figures.draw_barriers({"aligned": curve, "other": curve}),
        "matrices": figures.draw_matrices({"a": torch.randn(3, 4), "b": torch.randn(3, 4)}, "x", "y"),
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
