"""A fair fight: generators whose knob is set by distance, before any score is read."""

import pytest
import torch

from dwflow_lite import MLP, Recipe, canonicalise, generate, load_task, train_zoo
from dwflow_lite.auditing import as_far_as_held_out, knob_by_distance, typical_distance


@pytest.fixture(scope="module")
def zoo():
    recipe = Recipe(epochs=3)
    return canonicalise(train_zoo(load_task("iris"), MLP([4, 8, 3]), members=12, held_out=4, recipe=recipe), rounds=2)


@pytest.mark.parametrize("make", [generate.MemberNoise, lambda f: generate.GaussianCodes(factor=f)])
def test_the_knob_is_the_least_that_is_far_enough(zoo, make):
    target = typical_distance(zoo.unseen, zoo)

    def distance(knob):
        return typical_distance(make(knob).fit(zoo).sample(30, seed=1), zoo)

    knob = knob_by_distance(make, zoo, 30, seed=1)
    assert 0 < knob < 4 and distance(knob) >= target
    assert distance(knob - 4 / 256) < target  # one step of the bisection less is not enough
    networks = as_far_as_held_out(make, zoo, 30, seed=1)
    assert torch.equal(networks.weights, make(knob).fit(zoo).sample(30, seed=1).weights)
    assert typical_distance(networks, zoo) == pytest.approx(target, rel=0.2)
    assert distance(2 * knob) > 1.2 * target  # control


def test_members_lie_on_themselves_and_nothing_is_far_enough_that_cannot_be(zoo):
    assert typical_distance(zoo.fitted, zoo) == 0 < typical_distance(zoo.unseen, zoo)
    assert knob_by_distance(lambda knob: generate.Retrieval(), zoo, 5, seed=0, high=2.0) == 2.0


def test_a_zoo_without_held_out_members_is_refused(zoo):
    with pytest.raises(ValueError, match="no held-out networks to compare with: train the zoo with held_out=10"):
        knob_by_distance(generate.MemberNoise, zoo.fitted, 5, seed=0)
