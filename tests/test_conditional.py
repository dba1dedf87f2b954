"""Conditional generation: what is asked for comes back, and does not where conditions were shuffled."""

import inspect
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch._subclasses.fake_tensor import FakeTensorMode

from dwflow_lite import MLP, DeepWeightFlow, Recipe, Zoo, canonicalise, load_task, train_zoo
from dwflow_lite.auditing import confusion, control_of, scores_on
from dwflow_lite.batchnorm import recalibrate
from dwflow_lite.flow import (
    SOLVERS,
    ConditionalField,
    FlowSettings,
    GaussianSource,
    StraightPath,
    VelocityField,
    flow_matching_loss,
    guided,
    integrate,
    train_flow,
)
from dwflow_lite.flow.conditional import given, make_conditional_field
from dwflow_lite.flow.field import dropout_from, make_field
from dwflow_lite.flow.train import Batches, make_optimizer
from dwflow_lite.generate import (
    ConditionalDeepWeightFlow,
    ConditionalGaussian,
    ConditionalGenerator,
    ConditionalRetrieval,
    Generator,
    OwnCodesFlow,
    align_together,
    fit_together,
)
from dwflow_lite.generate.conditions import Conditions, pool_of
from dwflow_lite.networks import ResNet
from dwflow_lite.support.files import ZooFileError
from dwflow_lite.symmetry.basis import basis_of
from dwflow_lite.tasks import Task
from dwflow_lite.zoo import Layout, predict

QUICK = FlowSettings(hidden=32, time_dim=16, dropout=0.0, steps=60, every=30)
LONGER = replace(QUICK, hidden=64, steps=300, every=100)
NETWORK = MLP([2, 3, 1])  # 13 weights
D = Layout.of(NETWORK).size
CONDITIONAL = [partial(ConditionalDeepWeightFlow, align=None, flow=QUICK), ConditionalGaussian, ConditionalRetrieval]
BY_NAME = [*CONDITIONAL, partial(OwnCodesFlow, align=False, flow=QUICK)]  # of zoos with names


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed))


def zoo_of(weights, held_out=()):
    held = tuple(member in held_out for member in range(len(weights)))
    return Zoo(weights, Layout.of(NETWORK), NETWORK, {}, held)


def two_zoos(members=20, held_out=()):
    """Two clusters of weights, two apart in every coordinate."""
    return {
        "left": zoo_of(-1 + 0.3 * noise(members, D, seed=1), held_out),
        "right": zoo_of(1 + 0.3 * noise(members, D, seed=2), held_out),
    }


DIRECTION = noise(D, seed=3) / noise(D, seed=3).norm()


def zoo_along_a_line(members=60, width=0.1):
    """Weights that move along one direction with a number from 0 to 1, and a little noise; and the numbers."""
    numbers = torch.linspace(0, 1, members)
    return zoo_of(4 * numbers[:, None] * DIRECTION + width * noise(members, D, seed=4)), numbers


def measured(networks):
    return networks.weights @ DIRECTION / 4


def slope(asked, found):
    return float(np.polyfit(asked, found, 1)[0])


# -- the field -------------------------------------------------------------------------------------------------------


def two_clusters():
    points = torch.cat([0.2 * noise(60, 2, seed=1) - 1, 0.2 * noise(60, 2, seed=2) + 1])
    return points, torch.eye(2).repeat_interleave(60, 0)


def trained(points, conditions, settings=LONGER, label_dropout=0.1, **named):
    field = make_conditional_field(points.shape[1], conditions.shape[1], settings, label_dropout, seed=0)
    log = train_flow(field, points, GaussianSource(points.shape[1]), settings, conditions=conditions, **named)
    return field, log


def ends(field, condition, guidance=1.0):
    conditions = torch.tensor(condition, dtype=torch.float32).expand(200, len(condition))
    return integrate(guided(field, conditions, guidance), noise(200, 2, seed=9)).end


def test_the_label_that_is_asked_for_comes_back_and_not_where_labels_were_shuffled():
    points, labels = two_clusters()
    field, _ = trained(points, labels)
    left, right = ends(field, [1, 0]), ends(field, [0, 1])
    assert (left.sum(1) < 0).float().mean() > 0.95 and (right.sum(1) > 0).float().mean() > 0.95
    assert abs(float((ends(field, [1, 0], 0.0).sum(1) < 0).float().mean()) - 0.5) < 0.2  # told nothing: both
    shuffled, _ = trained(points, labels[torch.randperm(120, generator=rng())])  # control
    for label in ([1, 0], [0, 1]):
        assert abs(float((ends(shuffled, label).sum(1) < 0).float().mean()) - 0.5) < 0.25


def test_a_held_out_loss_is_of_the_conditions_of_held_out_points():
    points, labels = two_clusters()
    rows = torch.arange(120)
    fitted, held = rows[rows % 4 > 0], rows[rows % 4 == 0]
    settings = replace(LONGER, steps=150, every=50)
    losses = {}
    for name, told in (("true", labels[held]), ("of the other cluster", labels[held].flip(1))):
        named = {"held_out": points[held], "held_out_conditions": told}
        losses[name] = trained(points[fitted], labels[fitted], settings, **named)[1].held_out_loss[-1]
    assert losses["true"] < 0.7 * losses["of the other cluster"]


def test_guidance_is_a_line_through_no_condition_and_the_condition():
    points, labels = two_clusters()
    field, _ = trained(points, labels, QUICK)
    x, t, c = noise(5, 2), torch.tensor(0.4), labels[:5]
    free, told = field(x, t), field(x, t, c)
    assert torch.equal(guided(field, c, 0.0)(x, t), free) and torch.equal(guided(field, c, 1.0)(x, t), told)
    torch.testing.assert_close(guided(field, c, 3.0)(x, t), free + 3 * (told - free))
    assert torch.equal(guided(field, None, 3.0)(x, t), free)
    assert (told - free).abs().max() > 0.01  # control: a condition matters
    for bad in (-1, float("nan"), "strong", None):
        with pytest.raises(ValueError, match="guidance must be"):
            guided(field, c, bad)


def test_guidance_goes_further_in_the_direction_of_the_condition():
    points, labels = two_clusters()
    field, _ = trained(points, labels)
    means = [float(ends(field, [0, 1], w).mean()) for w in (0.0, 0.5, 1.0, 2.0)]
    assert means == sorted(means) and means[2] - means[0] > 0.5


def test_with_one_condition_it_is_the_plain_flow():
    """Not bit by bit: the embedded condition is a second bias beside that of time, and Adam moves both.

    So both end nearer to each other, from the same noise, than two plain flows of two seeds do.
    """
    points, _ = two_clusters()
    x0 = noise(200, 2, seed=9)
    plain = {}
    for seed in (0, 1):
        field = make_field(2, LONGER, seed=seed)
        train_flow(field, points, GaussianSource(2), LONGER, seed=seed)
        plain[seed] = integrate(field, x0).end
    same = torch.ones(len(points), 1)
    field, _ = trained(points, same, label_dropout=0.0)
    told = integrate(given(field, torch.ones(200, 1)), x0).end
    apart = (told - plain[0]).norm(dim=1).mean()
    assert apart < 0.5 * (plain[1] - plain[0]).norm(dim=1).mean()
    assert abs(float(told.std() / plain[0].std()) - 1) < 0.05


def test_an_untrained_field_is_the_plain_one_whatever_the_condition():
    field, plain = make_conditional_field(2, 3, QUICK, 0.1, seed=4), make_field(2, QUICK, seed=4)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(field.state_dict()[name], tensor), name
    with torch.no_grad():
        for one in (field, plain):
            one.head.weight.copy_(noise(2, 32))
    x, t = noise(6, 2), torch.tensor(0.3)
    assert torch.equal(field.eval()(x, t, noise(6, 3)), plain.eval()(x, t))


def test_conditions_are_forgotten_in_training_only_and_as_often_as_told():
    field = ConditionalField(1, 1, hidden=8, time_dim=4, dropout=0.0, label_dropout=0.3)
    embedded, nothing = torch.ones(20000, 4), torch.zeros(4)
    field.train()
    with dropout_from(field, rng()):
        once = field.forget(embedded, nothing)
    with dropout_from(field, rng()):
        assert torch.equal(once, field.forget(embedded, nothing))  # drawn from that generator
    assert abs(float((once[:, 0] == 0).float().mean()) - 0.3) < 0.02
    assert set(once.mean(1).tolist()) == {0.0, 1.0}  # a condition as a whole
    assert torch.equal(field.eval().forget(embedded, nothing), embedded)
    for bad in (-0.1, 1, None, "often"):
        with pytest.raises(ValueError, match="label_dropout"):
            ConditionalField(1, 1, label_dropout=bad)
    with pytest.raises(ValueError, match="conditions must be"):
        ConditionalField(1, 0)


def test_conditions_that_do_not_fit_the_field_are_refused():
    points, labels = two_clusters()
    field = make_conditional_field(2, 2, QUICK, 0.1, seed=0)
    source = GaussianSource(2)
    for wrong in (None, labels[:5], labels[:, :1], labels.flatten()):
        with pytest.raises(ValueError, match="told 2 numbers"):
            train_flow(field, points, source, QUICK, conditions=wrong)
    with pytest.raises(ValueError, match="NaN"):
        train_flow(field, points, source, QUICK, conditions=labels / 0)
    with pytest.raises(ValueError, match="told 0 numbers"):
        train_flow(VelocityField(2, 8), points, source, QUICK, conditions=labels)
    with pytest.raises(ValueError, match="told 2 numbers"):
        train_flow(field, points, source, QUICK, conditions=labels, held_out=points)
    with pytest.raises(ValueError, match="coupling='assignment'"):
        train_flow(field, points, source, replace(QUICK, coupling="assignment"), conditions=labels)


def test_a_kept_training_is_known_by_its_conditions(tmp_path):
    points, labels = two_clusters()
    place = tmp_path / "flow.pt"
    field, _ = trained(points, labels, QUICK, checkpoint=place)
    again, log = trained(points, labels, QUICK, checkpoint=place)
    assert all(torch.equal(a, b) for a, b in zip(field.parameters(), again.parameters(), strict=True))
    assert log.stopped == "all steps taken"
    with pytest.raises(ValueError):
        trained(points, labels.flip(0), QUICK, checkpoint=place)


def test_batches_carry_the_conditions_of_their_points():
    points = torch.arange(10.0)[:, None]
    batches = Batches(points, 4, rng(), 2 * points)
    for _ in range(6):
        drawn, conditions = batches.draw_targets()
        assert torch.equal(conditions, 2 * drawn)
    assert Batches(points, 4, rng()).draw_targets().conditions is None


# -- the estimator -----------------------------------------------------------------------------------------------------


def test_the_dataset_that_is_asked_for_comes_back():
    zoos = two_zoos()
    model = ConditionalDeepWeightFlow(align=None, flow=LONGER).fit(zoos)
    rivals = [model, ConditionalGaussian().fit(zoos), ConditionalGaussian(neighbours=5).fit(zoos)]
    rivals += [ConditionalRetrieval().fit(zoos), OwnCodesFlow(align=False, flow=LONGER).fit(zoos)]
    for rival in rivals:
        left, right = (rival.sample(50, seed=0, condition=name).weights.mean(1) for name in zoos)
        assert (left < 0).float().mean() > 0.9 and (right > 0).float().mean() > 0.9, rival
    mixed = torch.cat([zoo.weights for zoo in zoos.values()])[torch.randperm(40, generator=rng())]
    shuffled = {name: zoo_of(part) for name, part in zip(zoos, mixed.split(20), strict=True)}  # control
    model = ConditionalDeepWeightFlow(align=None, flow=LONGER).fit(shuffled)
    left, right = (model.sample(100, seed=0, condition=name).weights.mean(1) for name in zoos)
    assert abs(float((left < 0).float().mean()) - float((right < 0).float().mean())) < 0.5


@pytest.mark.parametrize("kind", ["flow", "Gaussian", "retrieval"])
def test_a_number_moves_networks_along_the_line_that_was_planted(kind):
    makers = {
        "flow": partial(ConditionalDeepWeightFlow, align=None, flow=LONGER, source="matched"),
        "Gaussian": ConditionalGaussian,
        "retrieval": ConditionalRetrieval,
    }
    zoo, numbers = zoo_along_a_line()
    asked = torch.linspace(0.05, 0.95, 40).tolist()
    model = makers[kind]().fit(zoo, numbers)
    assert abs(slope(asked, measured(model.sample(40, seed=0, condition=asked))) - 1) < 0.15
    shuffled = makers[kind]().fit(zoo, numbers[torch.randperm(60, generator=rng(5))])  # control
    assert abs(slope(asked, measured(shuffled.sample(40, seed=0, condition=asked)))) < 0.35


def test_a_gap_in_the_numbers_is_bridged():
    zoo, numbers = zoo_along_a_line()
    outside = (numbers - 0.5).abs() > 0.15
    model = ConditionalDeepWeightFlow(align=None, flow=LONGER, source="matched")
    model.fit(zoo.take(outside), numbers[outside])
    assert abs(float(measured(model.sample(50, seed=0, condition=0.5)).mean()) - 0.5) < 0.12


def test_guidance_zero_is_no_condition_and_noise_is_the_same_for_all_conditions():
    model = ConditionalDeepWeightFlow(align=None, flow=QUICK).fit(two_zoos())
    told = partial(model.sample, 5, seed=3)
    assert torch.equal(told(condition="left", guidance=0.0).weights, told().weights)
    assert torch.equal(told(condition="left", guidance=0.0).weights, told(condition="right", guidance=0).weights)
    assert not torch.equal(told(condition="left").weights, told(condition="right").weights)  # control
    starts = [model.trajectory(5, seed=3, condition=name).points[0] for name in (None, "left", "right")]
    assert torch.equal(starts[0], starts[1]) and torch.equal(starts[0], starts[2])


def test_one_condition_for_each_network():
    zoo, numbers = zoo_along_a_line()
    model = ConditionalDeepWeightFlow(align=None, flow=QUICK).fit(zoo, numbers)
    one = model.sample(3, seed=0, condition=0.5).weights
    for several in ([0.5] * 3, np.full(3, 0.5), torch.full((3,), 0.5, dtype=torch.float64)):
        torch.testing.assert_close(model.sample(3, seed=0, condition=several).weights, one)
    with pytest.raises(ValueError, match="got 2 for n = 3"):
        model.sample(3, seed=0, condition=[0.5, 0.6])


def test_names_and_numbers_together():
    zoos = two_zoos()
    numbers = {"left": torch.linspace(0, 1, 20), "right": torch.linspace(5, 6, 20)}
    model = ConditionalDeepWeightFlow(align=None, flow=QUICK).fit(zoos, numbers)
    assert model.conditions_.names == ("left", "right") and model.conditions_.size == 3
    vectors = model.conditions_.of_request("right", 50, rng())
    assert vectors[:, :2].unique(dim=0).tolist() == [[0, 1]]
    every = torch.cat(list(numbers.values())).double()
    drawn = vectors[:, 2] * every.std(correction=0) + every.mean()
    assert drawn.min() > 4.99 and drawn.max() < 6.01 and len(drawn.unique()) > 10  # of that dataset's members
    assert len(model.sample(2, seed=0, condition=("left", 0.3))) == 2
    assert len(model.sample(2, seed=0, condition=[("left", 0.3), "right"])) == 2
    with pytest.raises(ValueError, match="beyond the numbers of 'left'"):
        model.sample(2, seed=0, condition=("left", 5.5))
    with pytest.raises(ValueError, match="told apart by"):
        model.sample(2, seed=0, condition=5.5)


def test_numbers_may_be_given_in_many_ways():
    task = load_task("iris")
    zoos = {}
    for name, decay in (("free", 0.0), ("decayed", 0.5)):
        recipe = Recipe(epochs=2, optimizer="adamw", weight_decay=decay)
        zoos[name] = train_zoo(task, MLP([4, 3, 3]), members=3, held_out=1, recipe=recipe)
    recorded = pool_of(zoos, "weight_decay", same_basis=False)
    for given_as in ({"free": 0.0, "decayed": 0.5}, {"free": [0.0] * 4, "decayed": np.full(4, 0.5)}):
        pool = pool_of(zoos, given_as, same_basis=False)
        assert torch.equal(pool.vectors, recorded.vectors) and pool.conditions == recorded.conditions
    assert recorded.fitted().shape == (6, 3) and recorded.unseen().shape == (2, 3)
    unnamed = pool_of(list(zoos.values()), [0.0, 0.5], same_basis=False)
    assert torch.equal(unnamed.vectors, recorded.vectors[:, 2:]) and unnamed.conditions.names == ()
    scores = pool_of(zoos["free"], "validation", same_basis=False)
    assert scores.conditions.seen == (tuple(zoos["free"].scores().double()[:3].tolist()),)
    with pytest.raises(ValueError, match=r"no number 'decay'.*'weight_decay'"):
        pool_of(zoos, "decay", same_basis=False)


def test_held_out_members_do_not_reach_the_generator():
    zoos = two_zoos(held_out=(18, 19))
    model = ConditionalDeepWeightFlow(align=None, flow=QUICK).fit(zoos)
    assert len(model.training_.held_out_loss) == 2
    moved = zoos["left"].weights.clone()
    moved[18:] += 5
    other = clone(model).fit(zoos | {"left": zoo_of(moved, (18, 19))})
    assert torch.equal(other.sample(3, seed=1).weights, model.sample(3, seed=1).weights)
    moved[3] += 5  # control
    other = clone(model).fit(zoos | {"left": zoo_of(moved, (18, 19))})
    assert not torch.equal(other.sample(3, seed=1).weights, model.sample(3, seed=1).weights)


def test_save_and_load_give_the_same_networks(tmp_path):
    zoos = two_zoos()
    numbers = {"left": torch.linspace(0, 1, 20), "right": torch.linspace(5, 6, 20)}
    model = ConditionalDeepWeightFlow(align=None, flow=QUICK, label_dropout=0.2).fit(zoos, numbers)
    path = model.save(tmp_path / "model.safetensors")
    again = ConditionalDeepWeightFlow.load(path)
    assert again.label_dropout == 0.2 and again.conditions_ == model.conditions_
    for named in ({}, {"condition": "left"}, {"condition": ("right", 5.2), "guidance": 2.0}):
        assert torch.equal(again.sample(4, seed=1, **named).weights, model.sample(4, seed=1, **named).weights)
    with pytest.raises(ZooFileError, match=r"ConditionalDeepWeightFlow\.load"):
        DeepWeightFlow.load(path)
    plain = DeepWeightFlow(align=None, flow=QUICK).fit(zoos["left"]).save(tmp_path / "plain.safetensors")
    with pytest.raises(ZooFileError, match=r"holds a DeepWeightFlow: read it by DeepWeightFlow\.load"):
        ConditionalDeepWeightFlow.load(plain)
    networks = model.sample(3, seed=0, condition=[("left", np.float64(0.5)), "right", "left"], guidance=1.5)
    kept = Zoo.load(networks.save(tmp_path / "networks.safetensors"), NETWORK)
    assert kept.record["generated"]["condition"] == [["left", 0.5], "right", "left"]
    assert json.dumps(kept.record["generated"])


def test_conditions_of_a_file_are_checked():
    good = Conditions(("a", "b"), ((1.0,), (2.0, 3.0)))
    assert Conditions.from_json(json.loads(json.dumps(good.to_json()))) == good
    for bad in ({"names": [], "seen": []}, {"names": ["a", "a"], "seen": []}, {"names": ["a", "b"], "seen": [[1.0]]}):
        with pytest.raises(ValueError):
            Conditions.from_json(bad)


def test_it_is_an_estimator_of_scikit_learn():
    model = ConditionalDeepWeightFlow(flow=QUICK, label_dropout=0.2, source="matched")
    assert isinstance(model, Generator) and clone(model).get_params() == model.get_params()
    assert "label_dropout=0.2" in repr(model)
    again = [clone(model).set_params(align=None).fit(two_zoos()).sample(3, seed=0).weights for _ in range(2)]
    assert torch.equal(*again)


# -- one interface -----------------------------------------------------------------------------------------------------


def parameters_of(method):
    """Name -> kind and default of each argument."""
    return {name: (p.kind, p.default) for name, p in inspect.signature(method).parameters.items()}


def check_conditional_generator(generator):
    """What ``ConditionalGenerator`` promises, and scikit-learn of its estimators."""
    for name in ("fit", "sample"):
        promised = parameters_of(getattr(ConditionalGenerator, name))
        mine = parameters_of(getattr(type(generator), name))
        assert dict(list(mine.items())[: len(promised)]) == promised  # others only after these
        assert all(default is not inspect.Parameter.empty for _, default in list(mine.values())[len(promised) :])
    zoos, mine = two_zoos(held_out=(19,)), clone(generator)
    assert repr(mine) == repr(generator) and repr(mine).startswith(type(mine).__name__ + "(")
    for condition in ("left", "up", ["left"], None):
        with pytest.raises(NotFittedError, match="call fit"):
            mine.sample(2, seed=0, condition=condition)
    assert mine.fit(zoos) is mine
    for condition in ("left", ["left", "right", "left", "right"]):
        made = mine.sample(4, seed=1, condition=condition)
        assert isinstance(made, Zoo) and len(made) == 4 and made.weights.isfinite().all()
        assert torch.equal(mine.sample(4, seed=1, condition=condition).weights, made.weights)
        assert not torch.equal(mine.sample(4, seed=2, condition=condition).weights, made.weights)
    assert torch.equal(clone(mine).fit(zoos, None).sample(4, seed=1, condition=condition).weights, made.weights)
    for condition, message in (
        ("up", "no dataset 'up' was seen: choose one of 'left', 'right'"),
        (["left", "up"], "no dataset 'up' was seen"),
        (["left"], "got 1 for n = 2"),
        (("left", 0.5), "told apart by the name of their dataset"),
        (0.5, "told apart by the name of their dataset"),
        ({"left": 2}, "a condition is a name"),
    ):
        with pytest.raises(ValueError, match=message):
            mine.sample(2, seed=0, condition=condition)


@pytest.mark.parametrize("make", BY_NAME)
def test_every_conditional_generator_has_one_interface(make):
    check_conditional_generator(make())


class Demanding(ConditionalRetrieval):
    """Wants a condition before it says that it is not fitted."""

    def sample(self, n, *, seed, condition):
        return super().sample(n, seed=seed, condition=condition)


class Forgetting(ConditionalRetrieval):
    """Knows no numbers."""

    def fit(self, zoos):
        return super().fit(zoos)


class Complaining(ConditionalRetrieval):
    """Complains of the condition before it says that it is not fitted."""

    def sample(self, n, *, seed, condition=None, extrapolate=False):
        if condition is None:
            raise ValueError("no condition")
        return super().sample(n, seed=seed, condition=condition, extrapolate=extrapolate)


class OneForAll(ConditionalRetrieval):
    """Takes no list."""

    def sample(self, n, *, seed, condition=None, extrapolate=False):
        hash(condition)
        return super().sample(n, seed=seed, condition=condition, extrapolate=extrapolate)


@pytest.mark.parametrize("broken", [Demanding, Forgetting, Complaining, OneForAll])
def test_a_conditional_generator_that_breaks_a_promise_is_found_out(broken):
    """Control of the test above."""
    with pytest.raises((AssertionError, ValueError, TypeError)):
        check_conditional_generator(broken())


@pytest.mark.parametrize("make", BY_NAME[1:])
def test_a_condition_that_is_missing_is_asked_for(make):
    """A flow that forgets its conditions now and then needs none."""
    model = make().fit(two_zoos())
    with pytest.raises(ValueError, match="pass a condition=; members were told apart by the name of their dataset"):
        model.sample(2, seed=0)
    assert len(BY_NAME[0]().fit(two_zoos()).sample(2, seed=0)) == 2  # control


def test_a_list_of_conditions_gives_each_network_its_own():
    order = ["right", "left", "left", "right"]
    for make in (*BY_NAME[1:], partial(ConditionalDeepWeightFlow, align=None, flow=LONGER)):
        made = make().fit(two_zoos()).sample(4, seed=0, condition=order).weights.mean(1)
        assert [("right" if mean > 0 else "left") for mean in made.tolist()] == order


def test_codes_of_each_zoo_take_names_and_numbers():
    numbers = {"left": torch.linspace(0, 1, 20), "right": torch.linspace(5, 6, 20)}
    model = OwnCodesFlow(align=False, flow=QUICK).fit(two_zoos(), numbers)
    made = model.sample(3, seed=0, condition=[("left", 0.5), ("right", 5.5), "left"]).weights.mean(1)
    assert [float(mean) > 0 for mean in made] == [False, True, False]
    assert len(model.sample(1, seed=0, condition=("left", 5.5), extrapolate=True)) == 1
    for condition, message in ((("left", 5.5), "lies beyond the numbers of 'left'"), (5.5, "told apart by")):
        with pytest.raises(ValueError, match=message):
            model.sample(1, seed=0, condition=condition)
    with pytest.raises(ValueError, match="give zoos by name"):
        OwnCodesFlow(align=False, flow=QUICK).fit(*zoo_along_a_line())


def test_zoos_of_a_caller_are_not_changed():
    zoos = {name: canonicalise(zoo) for name, zoo in two_zoos().items()}
    before = {name: (zoo.weights.clone(), json.dumps(zoo.record)) for name, zoo in zoos.items()}
    numbers = torch.linspace(0, 1, 20)
    kept = numbers.clone()
    ConditionalDeepWeightFlow(flow=QUICK).fit(zoos, {"left": numbers, "right": numbers})
    align_together(zoos)
    for name, zoo in zoos.items():
        assert torch.equal(zoo.weights, before[name][0]) and json.dumps(zoo.record) == before[name][1]
    assert torch.equal(numbers, kept)


def test_zoos_are_aligned_into_one_universe():
    zoos = two_zoos()
    x = noise(7, 2)
    together = align_together(zoos)
    apart = {name: canonicalise(zoo) for name, zoo in zoos.items()}
    for name, zoo in zoos.items():
        torch.testing.assert_close(predict(together[name], x), predict(zoo, x), atol=1e-5, rtol=1e-5)
    assert basis_of(together["left"]) == basis_of(together["right"])
    assert basis_of(apart["left"]) != basis_of(apart["right"])  # control
    ConditionalDeepWeightFlow(align=None, flow=QUICK).fit(together)
    with pytest.raises(ValueError, match="zoos 'left' and 'right' are in two bases"):
        ConditionalDeepWeightFlow(align=None, flow=QUICK).fit(apart)
    assert isinstance(align_together(list(zoos.values())), list) and len(align_together(zoos["left"])) == 20
    fitted_itself = ConditionalDeepWeightFlow(flow=QUICK).fit(zoos)
    torch.testing.assert_close(fitted_itself.zoo_.weights[:20], together["left"].weights)


def test_several_generators_at_once_and_networks_with_batchnorm():
    zoos = two_zoos()
    models = fit_together({"a": (ConditionalDeepWeightFlow(align=None, flow=QUICK), zoos)})
    alone = ConditionalDeepWeightFlow(align=None, flow=QUICK).fit(zoos)
    asked = {"seed": 0, "condition": "right"}
    assert torch.equal(models["a"].sample(3, **asked).weights, alone.sample(3, **asked).weights)
    task = Task.from_arrays(noise(80, 1, 8, 8), torch.arange(80) % 2, name="noise")
    nets = {name: Zoo.from_modules([ResNet((4,), blocks=1, channels=1, outputs=2) for _ in range(3)]) for name in "ab"}
    made = ConditionalDeepWeightFlow(flow=QUICK).fit(nets).sample(2, seed=0, condition="a")
    measured_anew = recalibrate(made, task)
    assert predict(measured_anew, task.validation.x).isfinite().all()
    assert not torch.equal(measured_anew.weights, made.weights)


# -- what is refused ---------------------------------------------------------------------------------------------------

LINE, NUMBERS = zoo_along_a_line(6)


def with_nan(numbers):
    return torch.where(torch.arange(len(numbers)) == 2, float("nan"), numbers)


REFUSED = {
    "one zoo and nothing else": ((LINE,), "nothing tells the members apart"),
    "one zoo of one name": (({"left": LINE},), "nothing tells the members apart"),
    "two architectures": (
        ({"a": LINE, "b": Zoo.from_modules([MLP([2, 4, 1]) for _ in range(3)])},),
        "zoos 'a' and 'b' have networks of two architectures",
    ),
    "all held out": (({"a": LINE, "b": zoo_of(LINE.weights, range(6))},), "zoo 'b' has no member"),
    "a number for some": ((LINE, NUMBERS[:4]), "has 6 members and 4 numbers"),
    "NaN": ((LINE, with_nan(NUMBERS)), r"members \[2\].*NaN or infinite"),
    "infinite": ((LINE, NUMBERS / 0), r"members \[.*\].*NaN or infinite"),
    "all the same": ((LINE, torch.ones(6)), "all members have the same number, 1"),
    "text": ((LINE, [["a"]] * 6), "are no list of numbers"),
    "numbers without their names": (({"a": LINE, "b": LINE}, [0.0, 1.0]), "numbers are given for each: {'a'"),
    "numbers of another name": (({"a": LINE, "b": LINE}, {"a": 0.0, "c": 1.0}), "numbers are given for each"),
    "fewer numbers than zoos": (([LINE, LINE], [NUMBERS]), "for each of 2 zoos"),
    "a name that is none": (({0: LINE, 1: LINE},), "the name of a dataset is text"),
    "a record without it": ((LINE, "weight_decay"), "has no number 'weight_decay'"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("make", CONDITIONAL)
def test_what_cannot_be_fitted_is_refused_in_a_sentence(make, name):
    arguments, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        make().fit(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("zoos", [{}, [], None, "digits", 3, [NETWORK], {"a": NETWORK, "b": NETWORK}])
def test_what_is_no_zoo_is_refused(zoos):
    with pytest.raises(TypeError):
        ConditionalDeepWeightFlow(align=None, flow=QUICK).fit(zoos)


def test_settings_are_checked_before_anything_is_computed():
    for named, message in (
        ({"label_dropout": 1.0}, "label_dropout"),
        ({"label_dropout": "often"}, "label_dropout"),
        ({"flow": replace(QUICK, coupling="assignment")}, "coupling"),
        ({"source": -1}, "source"),
    ):
        with pytest.raises(ValueError, match=message):
            ConditionalDeepWeightFlow(**named).fit(two_zoos())
    for rival in (ConditionalGaussian(neighbours=1), ConditionalGaussian(factor=-1), ConditionalRetrieval(0)):
        with pytest.raises(ValueError):
            rival.fit(two_zoos())


@pytest.mark.parametrize("make", CONDITIONAL)
def test_a_condition_never_seen_is_refused(make):
    named = make().fit(two_zoos())
    for bad, message in (
        ("up", "no dataset 'up' was seen: choose one of 'left', 'right'"),
        (0.5, "told apart by the name of their dataset"),
        (("left", 0.5), "told apart by the name of their dataset"),
        (["left"], "got 1 for n = 2"),
        (object(), "a condition is a name"),
        (float("nan"), "a condition is a name"),
        (True, "a condition is a name"),
    ):
        with pytest.raises(ValueError, match=message):
            named.sample(2, seed=0, condition=bad)
    numbered = make().fit(*zoo_along_a_line())
    with pytest.raises(ValueError, match=r"1.5 lies beyond the numbers that were seen, 0 to 1: pass extrapolate"):
        numbered.sample(2, seed=0, condition=1.5)
    assert len(numbered.sample(2, seed=0, condition=1.5, extrapolate=True)) == 2
    with pytest.raises(ValueError, match="told apart by a number"):
        numbered.sample(2, seed=0, condition="left")


def test_a_flow_that_forgot_nothing_has_no_guidance():
    model = ConditionalDeepWeightFlow(align=None, flow=QUICK, label_dropout=0.0).fit(two_zoos())
    assert len(model.sample(2, seed=0, condition="left")) == 2
    for named in ({}, {"condition": "left", "guidance": 2.0}, {"condition": "left", "guidance": 0.0}):
        with pytest.raises(ValueError, match="never forgot a condition"):
            model.sample(2, seed=0, **named)


# -- requested against measured ----------------------------------------------------------------------------------------


def test_the_line_of_control():
    asked = torch.linspace(0, 1, 50)
    error = 0.1 * noise(50)
    for true in (0.0, 0.5, 1.0):
        found = control_of(asked, true * asked + 0.2 + error)
        assert abs(found.slope - true) < 0.15 and abs(found.spread - float(error.std())) < 0.02
        assert found.error == pytest.approx(
            float((true * asked + 0.2 + error - asked).square().mean().sqrt()), rel=1e-4
        )
    assert abs(control_of(asked[torch.randperm(50, generator=rng())], asked).slope) < 0.5  # control
    for asked_for, came in (([0, 1], [0, 1]), ([0, 1, 2], [0, 1]), ([1, 1, 1], [0, 1, 2]), ([0, 1, 2], [0, 1, np.nan])):
        with pytest.raises(ValueError):
            control_of(asked_for, came)


def test_which_dataset_is_read():
    task = load_task("iris")
    splits = {name: replace(split, y=(split.y + 1) % 3) for name, split in task.splits.items()}
    tasks = {"iris": task, "moved": replace(task, name="moved", splits=splits)}
    recipe = Recipe(epochs=30, lr=1e-2, batch_size=16)
    made = {name: train_zoo(one, MLP([4, 8, 3]), members=2, recipe=recipe) for name, one in tasks.items()}
    table = confusion(made, tasks)
    assert table.shape == (2, 2) and table.diagonal().min() > 0.8 and table[0, 1] + table[1, 0] < 0.5
    swapped = confusion({"iris": made["moved"], "moved": made["iris"]}, tasks)  # control
    assert torch.equal(swapped, table.flip(0))
    torch.testing.assert_close(scores_on(made["iris"], tasks).mean(0), table[0])


# -- on a device -------------------------------------------------------------------------------------------------------


def one_step(field, points, conditions):
    """What train_flow does at each step."""
    generator = rng()
    optimizer, _ = make_optimizer(field, QUICK)
    x1, told = Batches(points, 8, generator, conditions).draw_targets()
    x0 = GaussianSource(points.shape[1]).sample(len(x1), generator).to(x1)
    t = torch.rand(len(x1), generator=generator).to(x1)
    with dropout_from(field.train(), generator):
        loss = flow_matching_loss(given(field, told), StraightPath(), x0, x1, t, generator)
    for parameter in field.parameters():  # backward() would ask the driver of the card, and there is none
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return loss


def test_a_step_runs_on_the_device_of_the_points():
    """Fake CUDA tensors refuse any mixing of devices."""
    with FakeTensorMode():
        with torch.device("cuda"):
            field, points, conditions = ConditionalField(3, 2, 16, 8, 0.1, 0.2), torch.zeros(20, 3), torch.zeros(20, 2)
        loss = one_step(field, points, conditions)
        assert {tensor.device.type for tensor in [loss, *field.parameters()]} == {"cuda"}
        for w in (0.0, 1.0, 2.0):
            follow = guided(field.eval(), conditions, w)
            end = SOLVERS["heun"](follow, points, torch.tensor(0.0, device="cuda"), torch.tensor(0.1, device="cuda"))
            assert end.device.type == "cuda" and end.shape == (20, 3)
        with pytest.raises(RuntimeError, match="device"):  # control: conditions stay behind
            field(points, torch.tensor(0.0, device="cuda"), torch.zeros(20, 2))
