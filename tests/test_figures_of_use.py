"""Figures of ensembles and transfers: labelled, true to what they are given, and errors in one sentence."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from dwflow_lite import MLP, Zoo, figures, load_task
from dwflow_lite.use import Transfer, ensemble


@pytest.fixture(scope="module")
def iris():
    return load_task("iris")


@pytest.fixture(scope="module")
def answers(iris):
    zoo = Zoo.from_modules([MLP([4, 5, 3]) for _ in range(4)])
    return ensemble(zoo, iris)


@pytest.fixture(scope="module")
def tuned():
    scores = {"random": [[0.3, 0.4], [0.5, 0.7]], "a member": [[0.8, 0.9], [0.9, 0.9]]}
    return Transfer("digits", "noisy", "test", (0, 3), scores, ("0", "1"), 20, 10)


def words(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_every_figure_has_titles_and_axis_labels(answers, iris, tuned):
    kept = answers.probabilities.clone()
    drawn = {
        "two": figures.draw_two_opinions(0.2, 0.8),
        "growth": figures.draw_growth({"a": answers, "b": [answers, answers]}),
        "every measure": figures.draw_growth({"a": answers}, ("brier", "temperature", "ece"), kind="a", members=2),
        "reliability": figures.draw_reliability({"a": answers.probabilities}, iris.validation.y, "t", bins=3),
        "cost": figures.draw_cost(([1, 2], [0.3, 0.2]), {"a": ([1.5, 1.6], [0.25, 0.26])}),
        "transfer": figures.draw_transfer({"ten labels": tuned, "all": tuned}, kind="random"),
    }
    for name, figure in drawn.items():
        assert isinstance(figure, Figure), name
        for ax in figure.axes:
            assert ax.get_xlabel() and ax.get_ylabel() and ax.get_title(), name
        assert figures.png(figure)[:4] == b"\x89PNG"
    assert torch.equal(answers.probabilities, kept)
    assert plt.get_fignums() == []  # nothing is left in pyplot's memory


@pytest.mark.parametrize(("one", "other"), [(0.2, 0.8), (0.01, 1.0), (0.5, 0.5)])
def test_the_mean_of_two_probabilities_is_drawn_below_the_mean_of_their_losses(one, other):
    (ax,) = figures.draw_two_opinions(one, other).axes
    above, below = (line.get_ydata()[0] for line in ax.lines if line.get_marker() == "D")
    assert above == pytest.approx(-(np.log(one) + np.log(other)) / 2)
    assert below == pytest.approx(-np.log((one + other) / 2))
    assert below < above if one != other else below == pytest.approx(above)


def test_growth_is_that_of_the_ensemble_and_of_several_their_mean_and_range(answers):
    worse = replace(answers, nll=answers.nll + 1)
    (ax,) = figures.draw_growth({"one": answers, "two": [answers, worse]}, ["nll"]).axes
    one, two = ax.lines
    assert list(one.get_xdata()) == [1, 2, 3, 4]
    assert np.allclose(one.get_ydata(), answers.nll) and np.allclose(two.get_ydata(), answers.nll + 0.5)
    (band,) = ax.collections  # of the two alone
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(float(answers.nll.min()))
    assert heights.max() == pytest.approx(float(worse.nll.max()))


@pytest.mark.parametrize(("members", "place"), [(None, 3), (1, 0), (3, 2), (99, 3)])
def test_one_kind_is_looked_at_and_its_number_is_told(answers, members, place):
    figure = figures.draw_growth({"mine": answers, "theirs": answers}, ["accuracy"], kind="mine", members=members)
    (ax,) = figure.axes
    assert ax.get_title() == f"{100 * float(answers.accuracy[place]):.4g} at {place + 1}"
    mine, marked, theirs = ax.lines
    assert mine.get_alpha() == 1 and theirs.get_alpha() < 0.5
    assert marked.get_xdata()[0] == place + 1
    (plain,) = figures.draw_growth({"mine": answers, "theirs": answers}, ["accuracy"]).axes  # control
    assert plain.get_title() == "accuracy" and {line.get_alpha() for line in plain.lines} == {1.0}


def test_what_is_as_sure_as_right_lies_on_the_diagonal():
    p = torch.linspace(0.55, 0.95, 5).repeat_interleave(1000)  # 1000 answers at each of five degrees
    wrong = torch.cat([torch.arange(1000) >= round(1000 * float(q)) for q in p[::1000]])
    honest = torch.stack([p, 1 - p], 1)
    shy = torch.stack([(p + 0.5) / 2, (1.5 - p) / 2], 1)
    (ax,) = figures.draw_reliability({"honest": honest, "shy": shy}, wrong.long(), "t", bins=5).axes
    diagonal, drawn, below = ax.lines
    assert np.allclose(drawn.get_xdata(), drawn.get_ydata(), atol=1e-3)
    assert (below.get_ydata() > below.get_xdata() + 1).all()  # control: more often right than sure
    assert list(diagonal.get_xdata()) == [0, 100]


def test_costs_are_drawn_where_they_are():
    (ax,) = figures.draw_cost(([1, 10], [0.3, 0.2]), {"a": ([4.0, 5.0], [0.25, 0.27])}).axes
    assert np.allclose(ax.collections[0].get_offsets(), [[4, 0.25], [5, 0.27]])
    assert ax.get_xscale() == "log" and words(ax) == ["trained", "a"]


def test_a_transfer_is_drawn_as_mean_and_spread_on_one_scale(tuned):
    better = replace(tuned, scores={kind: [[0.95, 0.95]] * 2 for kind in tuned.scores})
    left, right = figures.draw_transfer({"a": tuned, "b": better}).axes
    random, member = left.lines
    assert np.allclose(random.get_ydata(), [35, 60]) and np.allclose(member.get_ydata(), [85, 90])
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["0", "3"]
    assert left.get_ylim() == right.get_ylim()
    (faint,) = figures.draw_transfer({"a": tuned}, kind="a member").axes
    assert faint.lines[0].get_alpha() < 0.5 and faint.lines[1].get_alpha() == 1


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda e, t: figures.draw_two_opinions(0.0, 0.5), "above 0 and at most 1, not 0"),
        (lambda e, t: figures.draw_growth({}), "at least one ensemble"),
        (lambda e, t: figures.draw_growth({"a": []}), "at least one ensemble of 'a'"),
        (lambda e, t: figures.draw_growth({"a": e}, []), "at least one measure"),
        (lambda e, t: figures.draw_growth({"a": e}, ["kappa"]), "no measure 'kappa': choose from accuracy"),
        (lambda e, t: figures.draw_growth({"a": e}, kind="b"), "no kind 'b': choose from a"),
        (lambda e, t: figures.draw_growth({"a": [e, replace(e, counts=(1, 2, 3, 5))]}), "different counts"),
        (lambda e, t: figures.draw_reliability({}, torch.zeros(9), "t"), "at least one table of probabilities"),
        (lambda e, t: figures.draw_reliability({"a": torch.ones(9, 1)}, torch.zeros(9), "t"), "do not fill 10 bins"),
        (lambda e, t: figures.draw_cost(([1], [0.1]), {}), "at least one way"),
        (lambda e, t: figures.draw_cost(([], []), {"a": ([1], [0.1])}), "at least one ensemble of trained"),
        (lambda e, t: figures.draw_cost(([1], [0.1]), {"a": ([], [])}), "at least one cost of 'a'"),
        (lambda e, t: figures.draw_transfer({}), "at least one transfer"),
        (lambda e, t: figures.draw_transfer({"x": t}, kind="b"), "no kind of start 'b' in 'x': choose from random"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_sentence(answers, tuned, draw, says):
    with pytest.raises(ValueError, match=says):
        draw(answers, tuned)


@pytest.mark.parametrize(
    "draw",
    [
        lambda e, t: figures.draw_growth([e]),
        lambda e, t: figures.draw_reliability(torch.ones(20, 2), torch.zeros(20), "t"),
        lambda e, t: figures.draw_cost(([1], [0.1]), [([1], [0.1])]),
        lambda e, t: figures.draw_transfer(t),
    ],
)
def test_what_a_figure_shows_has_a_name(answers, tuned, draw):
    with pytest.raises(TypeError, match="a figure names what it shows"):
        draw(answers, tuned)
