"""Audits of zoos that are odd, not wrong: copies among members, one that diverged, names and seeds of any kind."""

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from dwflow_lite import MLP, Recipe, Task, Zoo, audit, figures, load_task, train_zoo
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import AffineMixture, GaussianCodes, GaussianWeights, LeadingFlow, MemberNoise, UnitCrossover
from dwflow_lite.zoo import Layout

X = torch.linspace(-1, 1, 600).view(200, 3).sin()
LINE = Task.from_arrays(X, 2 * X[:, :1] + 1, kind="regression", name="line")


@pytest.fixture(scope="module")
def task():
    return load_task("iris")


@pytest.fixture(scope="module")
def zoo(task):
    return train_zoo(task, MLP([4, 8, 3]), members=6, held_out=2, recipe=Recipe(epochs=8, batch_size=16))


def untrained(network, n):
    """So many networks of random weights, the same in every run."""
    layout = Layout.of(network)
    return Zoo(torch.randn(n, layout.size, generator=torch.Generator().manual_seed(0)), layout, network)


def test_a_seed_may_be_numpys_and_one_that_is_none_is_refused_at_once(zoo, task):
    plain = audit(zoo.take([0, 1, 2]), zoo, task, seed=3)
    for seed in (np.int64(3), torch.tensor(3)):
        assert audit(zoo.take([0, 1, 2]), zoo, task, seed=seed) == plain
    for seed in (-1, "abc", 0.5, 2**70):
        with pytest.raises(ValueError, match="seed must be a whole number"):
            audit(zoo.take([0]), zoo, task, controls={}, rematch=False, seed=seed)


def test_beside_members_that_are_copies_no_rank_is_told(zoo, task):
    drawn = torch.randperm(6, generator=torch.Generator().manual_seed(0))[:2].tolist()  # whom two networks stand beside

    def rank(twins):
        rows = list(range(6))
        rows[twins[1]] = twins[0]
        copies = Zoo(zoo.weights[rows], zoo.layout, zoo.network)
        return audit(zoo.take([6, 7]), copies, task, controls={}, seed=0)["generated"].effective_rank

    others = [row for row in range(6) if row not in drawn]
    assert rank(drawn) is None
    assert rank(others[:2]) > 0.5  # control: copies that are not drawn
    outlier = zoo.weights.clone()
    outlier[1] *= 1e10  # finite, and so far away that the others are one point
    far = audit(zoo.take([6, 7]), Zoo(outlier, zoo.layout, zoo.network), task, controls={})
    assert far["generated"].effective_rank is None or far["generated"].effective_rank > 0


def test_members_without_a_score_are_refused_by_position():
    zoo = untrained(MLP([3, 8, 1]), 6)
    weights = zoo.weights.clone()
    weights[4] *= 1e15
    bad = Zoo(weights, zoo.layout, zoo.network)
    with pytest.raises(ValueError, match=r"1 of 6 fitted members have no finite score \(positions \[4\] of zoo.fit"):
        audit(zoo.take([0]), bad, LINE, controls={})
    kept = audit(zoo.take([0]), bad.take([0, 1, 2, 3, 5]), LINE, controls={})  # what the error says to do
    assert np.isfinite(kept.bars.score)


def test_a_network_without_a_loss_is_never_accurate(zoo, task):
    weak = untrained(MLP([4, 8, 3]), 6)
    weights = zoo.weights[:2].clone()
    weights[1] *= 1e25
    made = Zoo(weights, zoo.layout, zoo.network)
    with pytest.warns(RuntimeWarning, match=r"1 of 2 networks of 'generated' have no finite loss \(positions \[1\]\)"):
        result = audit(made, weak, task, controls={})
    assert not result["generated"].values.accurate[1]
    assert result["generated"].values.distance[1] > 1  # new it would be
    assert audit(made.take([0]), weak, task, controls={})["generated"].values.accurate == (True,)  # control


@pytest.mark.parametrize(
    "generator",
    [AffineMixture(), UnitCrossover(), MemberNoise(), GaussianWeights(), LeadingFlow(1, FlowSettings(steps=3))],
)
def test_weights_that_remember_where_they_come_from_are_numbers(generator):
    modules = [MLP([4, 8, 3]) for _ in range(5)]
    rows = torch.stack([parameters_to_vector(module.parameters()) for module in modules])
    assert rows.requires_grad
    zoo = Zoo(rows, Layout.of(modules[0]), modules[0])
    assert torch.equal(zoo.weights, rows) and not zoo.weights.requires_grad
    assert not generator.fit(zoo).sample(2, seed=0).weights.requires_grad


@pytest.mark.parametrize(
    "generator", [UnitCrossover(factor=1e39), GaussianCodes(factor=1e39), AffineMixture(factor=1e39), MemberNoise(1e39)]
)
def test_a_factor_that_overflows_is_named_and_not_the_members(zoo, generator):
    with pytest.raises(ValueError, match="as they were generated, they overflow: a smaller factor or level"):
        generator.fit(zoo).sample(2, seed=0)


def test_a_leading_flow_says_that_it_watches_nothing(zoo):
    for settings in (FlowSettings(steps=3, patience=2), FlowSettings(steps=3, keep="best")):
        with pytest.raises(ValueError, match="watches no held-out members: patience=None and keep='last'"):
            LeadingFlow(1, settings).fit(zoo)


NAMES = ("_mine", "", "cost $5", r"$\frac$", "a|b", "two\nlines")


def test_a_kind_may_have_any_name(zoo, task, tmp_path):
    kinds = {name: zoo.take([0, 1, 2]) for name in NAMES}
    result = audit(kinds, zoo, task, controls={})
    lines = result.markdown().splitlines()
    assert len(lines) == len(result.rows) + 2 and len({line.count("|") for line in lines}) == 1
    result.report(tmp_path / "page.html")
    for draw in (figures.draw_audit, figures.draw_frontier, figures.draw_shares, figures.draw_accuracy_dispersion):
        figure = draw({"all": result})
        figure.draw_without_rendering()  # nothing is read as a formula
        legend = figure.axes[0].get_legend()
        if legend is not None:
            assert len(legend.get_texts()) == len(result.rows)
