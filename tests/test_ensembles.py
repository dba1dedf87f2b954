"""Many networks together: what must hold of every ensemble, each beside a control; temperatures; doubt; masks."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from dwflow_lite import MLP, Recipe, Task, Zoo, evaluate, load_task, predict, train_zoo
from dwflow_lite.auditing import error_consistency
from dwflow_lite.generate import DropoutMasks
from dwflow_lite.networks import architecture_of, build
from dwflow_lite.symmetry import PermutationSpec
from dwflow_lite.tasks.measures import brier
from dwflow_lite.use import Uncertainty, auroc, detect, ensemble, fit_temperature, uncertainty
from dwflow_lite.zoo import Layout

MEMBERS = 7
CURVES = ("accuracy", "nll", "ece", "brier", "disagreement", "kappa", "temperature")


@pytest.fixture(scope="module")
def task():
    return load_task("iris")


@pytest.fixture(scope="module")
def zoo(task):
    """A little training, so that members are right here and there, and differ."""
    return train_zoo(task, MLP([4, 6, 3]), members=MEMBERS, recipe=Recipe(epochs=12, batch_size=8, lr=0.01))


@pytest.fixture(scope="module")
def whole(zoo, task):
    return ensemble(zoo, task)


def assert_alike(one, other, names=CURVES, tolerance=1e-5):
    for name in names:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=tolerance, rtol=tolerance)


def mean_of(zoo, task, split="validation"):
    """The oracle: all outputs at once, softmax, mean."""
    return predict(zoo, task.split(split).x).double().softmax(-1).mean(0)  # (n, classes)


# -- what a mean of probabilities is ------------------------------------------------------------------------------


def test_the_whole_is_the_mean_of_probabilities(zoo, task, whole):
    y = task.validation.y
    mean = mean_of(zoo, task)
    torch.testing.assert_close(whole.probabilities.double(), mean, atol=1e-6, rtol=0)
    assert whole.whole["accuracy"] == pytest.approx(float((mean.argmax(1) == y).double().mean()))
    of_label = mean[torch.arange(len(y)), y]
    assert whole.whole["nll"] == pytest.approx(float(-of_label.log().mean()), abs=1e-5)
    one_hot = nn.functional.one_hot(y, 3)
    assert whole.whole["brier"] == pytest.approx(float((mean - one_hot).square().sum(1).mean()), abs=1e-5)
    mean_of_logits = predict(zoo, task.validation.x).mean(0).softmax(-1)  # control: another mean is another ensemble
    assert not torch.allclose(whole.probabilities, mean_of_logits, atol=1e-3)


def test_every_point_of_the_curve_is_the_ensemble_of_the_first_members(zoo, task, whole):
    assert whole.counts == tuple(range(1, MEMBERS + 1)) and whole.order == tuple(range(MEMBERS))
    for count in (1, 3, MEMBERS):
        first = ensemble(zoo.take(range(count)), task)
        assert first.whole == pytest.approx(whole.at(count), abs=1e-5)
    assert whole.at(1) != pytest.approx(whole.at(3), abs=1e-5)  # control
    with pytest.raises(ValueError, match="nothing was measured at 99 members: choose from"):
        whole.at(99)


def test_an_ensemble_of_one_is_that_member(zoo, task, whole):
    alone = evaluate(zoo, task)
    for member in range(MEMBERS):
        one = ensemble(zoo.take([member]), task).whole
        assert one["accuracy"] == pytest.approx(float(alone.score[member]))
        assert one["nll"] == pytest.approx(float(alone.loss[member]), abs=1e-6)
        assert one["ece"] == pytest.approx(float(alone.ece[member]), abs=1e-6)
        assert (one["disagreement"], one["kappa"], one["temperature"]) == (0.0, 1.0, 1.0)
    torch.testing.assert_close(whole.members, alone.score)
    assert whole.whole["nll"] != pytest.approx(float(alone.loss.mean()), abs=1e-3)  # control: a mean of losses


def test_the_same_member_again_and_again_changes_nothing(zoo, task):
    same = ensemble(zoo.take([2] * 5), task)
    for name in ("accuracy", "nll", "ece", "brier", "disagreement", "kappa"):
        curve = getattr(same, name)
        torch.testing.assert_close(curve, curve[:1].expand(5), atol=1e-5, rtol=1e-5)
    assert same.whole["disagreement"] == 0.0 and same.whole["kappa"] == 1.0
    others = ensemble(zoo.take([2, 0, 1, 3, 4]), task)  # control
    assert others.whole["disagreement"] > 0 and others.whole["nll"] != pytest.approx(same.whole["nll"], abs=1e-3)


def test_whoever_comes_first_the_whole_is_the_same(zoo, task, whole):
    shuffled = ensemble(zoo, task, seed=3)
    assert sorted(shuffled.order) == list(range(MEMBERS)) and shuffled.order != whole.order
    assert shuffled.whole == pytest.approx(whole.whole, abs=1e-5)
    assert shuffled.at(1) != pytest.approx(whole.at(1), abs=1e-5)  # control: the way there is another
    assert ensemble(zoo, task, seed=3).order == shuffled.order
    alone = evaluate(zoo, task).score
    torch.testing.assert_close(shuffled.members, alone[list(shuffled.order)])


@pytest.mark.parametrize("seed", range(5))
def test_a_mean_loses_less_than_its_members_on_average(task, seed):
    """Convexity of NLL and Brier: it holds for networks that nobody trained, too."""
    torch.manual_seed(seed)
    networks = Zoo.from_modules([MLP([4, 6, 3]) for _ in range(6)])
    networks = networks.with_weights(4 * networks.weights, {"stage": "louder"})
    together = ensemble(networks, task)
    of_members = evaluate(networks, task).loss
    briers = brier(predict(networks, task.validation.x), task.validation.y)
    for count in range(1, 7):
        at = together.at(count)
        assert at["nll"] <= float(of_members[:count].mean()) + 1e-6
        assert at["brier"] <= float(briers[:count].mean()) + 1e-6
    assert at["nll"] < float(of_members.mean()) - 1e-3  # and less where they differ
    assert bool((of_members < at["nll"]).any()) or bool((of_members > at["nll"]).any())


def test_chunks_and_zoos_on_disk_give_the_whole(zoo, task, whole, tmp_path):
    assert_alike(ensemble(zoo, task, members_at_once=2, inputs_at_once=5), whole)
    assert_alike(ensemble(zoo, task, members_at_once=100), whole)
    zoo.save(tmp_path / "zoo")
    on_disk = Zoo.load(tmp_path / "zoo", zoo.network)
    assert_alike(ensemble(on_disk, task, members_at_once=3), whole)
    assert_alike(ensemble(on_disk, task, seed=3), ensemble(zoo, task, seed=3))
    fewer = ensemble(zoo.take(range(MEMBERS - 1)), task, members_at_once=2)  # control
    assert fewer.whole["nll"] != pytest.approx(whole.whole["nll"], abs=1e-6)


def test_counts_choose_where_to_look_and_change_nothing(zoo, task, whole):
    some = ensemble(zoo, task, counts=[4, 2, 2, np.int64(3)])
    assert some.counts == (2, 3, 4, MEMBERS)
    for count in some.counts:
        assert some.at(count) == whole.at(count)


def test_members_that_are_certain_and_wrong_do_not_make_the_loss_infinite(task):
    network = MLP([4, 3])
    weights = torch.zeros(2, Layout.of(network).size)
    weights[:, -3:] = torch.tensor([[500.0, 0, 0], [0, 500.0, 0]])  # biases: certain of class 0, of class 1
    sure = ensemble(Zoo(weights, Layout.of(network), network), task)
    share = float((task.validation.y == 2).double().mean())
    expected = share * (500 + np.log(1)) + (1 - share) * np.log(2)
    assert sure.whole["nll"] == pytest.approx(expected, rel=1e-5)
    assert torch.log(sure.probabilities[0, 2]).isinf()  # control: the probability itself is 0 in float32


def test_half_precision_is_summed_in_single(zoo, task, whole):
    half = Zoo(zoo.weights.bfloat16(), zoo.layout, zoo.network)
    together = ensemble(half, task)
    assert together.nll.dtype == torch.float32
    assert together.whole["nll"] == pytest.approx(whole.whole["nll"], abs=0.05)


# -- pairs --------------------------------------------------------------------------------------------------------


def test_disagreement_and_kappa_are_those_of_all_pairs(zoo, task, whole):
    named = predict(zoo, task.validation.x).argmax(-1)  # (N, n)
    pairs = [(i, j) for i in range(MEMBERS) for j in range(MEMBERS) if i != j]
    differ = np.mean([float((named[i] != named[j]).double().mean()) for i, j in pairs])
    assert whole.whole["disagreement"] == pytest.approx(differ, abs=1e-6) and differ > 0
    wrong = evaluate(zoo, task).wrong
    for i, j in ((0, 1), (2, 5)):
        two = ensemble(zoo.take([i, j]), task).whole
        assert two["kappa"] == pytest.approx(float(error_consistency(wrong[[i]], wrong[[j]])), abs=1e-5)


def test_kappa_of_mistakes_that_fall_by_chance_is_zero():
    """1000 examples, members that are right by the toss of a coin: they say the class, or another one."""
    generator = torch.Generator().manual_seed(0)
    n, members = 1000, 20
    x = torch.eye(n)
    y = torch.arange(n) % 2
    task = Task.from_arrays(
        x, y, standardise=False, fractions={"train": 1, "calibration": 1, "validation": 7, "test": 1}
    )
    network = MLP([n, 2])
    state = {
        "layers.0.weight": torch.randn(members, 2, n, generator=generator),
        "layers.0.bias": torch.zeros(members, 2),
    }
    tossed = Zoo(Layout.of(network).flatten(state), Layout.of(network), network)
    assert abs(ensemble(tossed, task).whole["kappa"]) < 0.05
    same = ensemble(tossed.take([0] * members), task).whole["kappa"]  # control
    assert same == pytest.approx(1.0, abs=1e-5)


# -- temperature ----------------------------------------------------------------------------------------------------


def drawn(sharpness, n=20_000):
    """Logits (n, 4), and labels drawn from softmax(logits / sharpness): its true temperature is ``sharpness``."""
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(n, 4, generator=generator)
    y = torch.multinomial((logits / sharpness).softmax(-1), 1, generator=generator).squeeze(1)
    return logits, y


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_a_temperature_is_found_again(sharpness):
    logits, y = drawn(sharpness)
    found = fit_temperature(logits, y)
    assert found == pytest.approx(sharpness, rel=0.05)
    assert fit_temperature(logits.log_softmax(-1), y) == pytest.approx(found, rel=1e-4)  # of log-probabilities too
    assert fit_temperature(logits / found, y) == pytest.approx(1.0, rel=1e-3)  # fitted once is fitted

    def nll(temperature):
        return float(nn.functional.cross_entropy(logits / temperature, y))

    assert nll(found) <= min(nll(0.97 * found), nll(1.03 * found))  # control: neighbours are worse


def test_a_temperature_has_ends():
    logits = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == 0.01  # always right
    assert fit_temperature(logits, torch.tensor([1, 0])) == 100.0  # always wrong
    assert 0.01 < fit_temperature(logits.repeat(2, 1), torch.tensor([0, 1, 0, 0])) < 100.0  # control


def test_a_temperature_is_that_of_the_mean(zoo, task, whole):
    cooled = ensemble(zoo, task, temperature=0.5)
    expected = mean_of(zoo, task).square()
    expected = expected / expected.sum(1, keepdim=True)
    torch.testing.assert_close(cooled.probabilities.double(), expected, atol=1e-5, rtol=0)
    of_members = (predict(zoo, task.validation.x) / 0.5).softmax(-1).mean(0)  # control: members cooled one by one
    assert not torch.allclose(cooled.probabilities, of_members, atol=1e-3)
    for name in ("accuracy", "disagreement", "kappa", "members"):
        assert torch.equal(getattr(cooled, name), getattr(whole, name))


def test_what_is_fitted_on_validation_is_passed_to_test(zoo, task, whole):
    fitted = ensemble(zoo, task, temperature="fitted")
    assert bool((fitted.nll <= whole.nll + 1e-6).all()) and bool((fitted.nll < whole.nll - 1e-6).any())
    y = task.validation.y
    assert float(fitted.temperature[-1]) == pytest.approx(fit_temperature(mean_of(zoo, task).log(), y), rel=1e-3)
    reported = ensemble(zoo, task, "test", temperature=fitted.temperature)
    torch.testing.assert_close(reported.temperature, fitted.temperature)
    with pytest.raises(ValueError, match="fitted on the test split would choose by what it reports"):
        ensemble(zoo, task, "test", temperature="fitted")


# -- doubt ------------------------------------------------------------------------------------------------------------


def test_auroc_is_that_of_scikit_learn_and_half_on_the_same():
    generator = torch.Generator().manual_seed(0)
    inside = Uncertainty(*torch.rand(3, 50, generator=generator))
    outside = Uncertainty(*(torch.rand(3, 30, generator=generator) + 0.2))
    found = auroc(inside, outside)
    labels = np.repeat([0, 1], [50, 30])
    for name, value in found.items():
        scores = torch.cat([getattr(inside, name), getattr(outside, name)]).numpy()
        assert value == pytest.approx(roc_auc_score(labels, scores))
        assert value == pytest.approx(1 - auroc(outside, inside)[name])
        assert value > 0.6
    assert list(auroc(inside, inside).values()) == pytest.approx([0.5] * 3)  # control


def test_doubt_is_that_of_the_mean_and_its_members(zoo, task):
    x = task.validation.x
    found = uncertainty(zoo, x, members_at_once=2)
    p = predict(zoo, x).double().softmax(-1)
    mean = p.mean(0)
    entropies = torch.special.entr(p).sum(-1).mean(0)
    torch.testing.assert_close(found.doubt.double(), 1 - mean.amax(-1), atol=1e-5, rtol=0)
    entropy = torch.special.entr(mean).sum(-1)
    torch.testing.assert_close(found.entropy.double(), entropy, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.mutual_information.double(), entropy - entropies, atol=1e-5, rtol=0)
    assert float(found.mutual_information.max()) > 1e-3 and float(found.mutual_information.min()) >= 0
    alone = uncertainty(zoo.take([0]), x)  # control: one network does not disagree
    assert float(alone.mutual_information.max()) == 0.0


def test_what_lies_far_from_all_examples_is_told_and_the_same_is_not(zoo, task):
    """Near the middle of all classes nobody is sure."""
    x = task.validation.x
    between = x.mean(0) + 0.1 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    assert detect(zoo, x, between)["entropy"] > 0.6
    assert list(detect(zoo, x, x).values()) == pytest.approx([0.5] * 3)  # control


# -- dropout ----------------------------------------------------------------------------------------------------------


def test_masks_leave_units_out_as_dropout_does(task):
    """Averaged over masks, a layer gives what it gives without: the expectation is what dropout keeps."""
    network = MLP([4, 6, 5, 3], activation="identity", dropout=0.4)
    zoo = Zoo.from_modules([network])
    masked = DropoutMasks().fit(zoo).sample(4000, seed=0)
    x = task.validation.x[:5]
    mean, alone = predict(masked, x).mean(0), predict(zoo, x)[0]
    spread = predict(masked, x).std(0)
    assert bool(((mean - alone).abs() < 5 * spread / 4000**0.5).all())
    weights = masked.layout.unflatten(masked.weights)["layers.1.weight"]  # (n, 5, 6)
    share = float((weights == 0).float().mean())
    assert share == pytest.approx(0.4, abs=0.02)
    none = DropoutMasks(rate=0.0).fit(zoo).sample(3, seed=0)  # control
    assert torch.equal(none.weights, zoo.weights.expand(3, -1))


def test_masks_are_what_the_network_itself_draws_in_training(task):
    """Spread of outputs over masks, here and by ``nn.Dropout``."""
    torch.manual_seed(0)
    network = MLP([4, 30, 3], dropout=0.5)
    x = task.validation.x[:1].expand(4000, -1)
    own = network.train()(x).std(0)  # a mask for every example
    masked = DropoutMasks().fit(Zoo.from_modules([network])).sample(4000, seed=1)
    torch.testing.assert_close(predict(masked, x[:1])[:, 0].std(0), own, rtol=0.06, atol=0)
    other = DropoutMasks(rate=0.2).fit(Zoo.from_modules([network])).sample(4000, seed=1)  # control
    assert not torch.allclose(predict(other, x[:1])[:, 0].std(0), own, rtol=0.06)


def test_an_mlp_trains_with_dropout_and_is_read_without(task):
    network = MLP([4, 8, 3], dropout=0.5)
    assert architecture_of(network) == {"class": "MLP", "sizes": [4, 8, 3], "activation": "relu", "dropout": 0.5}
    assert repr(build(architecture_of(network))) == repr(network)
    assert "dropout" not in architecture_of(MLP([4, 8, 3]))  # zoos of today keep their names
    recipe = Recipe(epochs=2)
    zoo = train_zoo(task, network, members=3, recipe=recipe)
    assert torch.equal(zoo.weights, train_zoo(task, network, members=3, recipe=recipe).weights)
    without = train_zoo(task, MLP([4, 8, 3]), members=3, recipe=recipe)
    assert zoo.layout == without.layout and not torch.allclose(zoo.weights, without.weights)  # control
    assert torch.equal(predict(zoo, task.validation.x), predict(zoo, task.validation.x))
    assert PermutationSpec.of(network).groups == PermutationSpec.of(MLP([4, 8, 3])).groups
    for wrong in (1.0, -0.1, "half"):
        with pytest.raises(ValueError, match="dropout must be a number from 0 to below 1"):
            MLP([4, 8, 3], dropout=wrong)


# -- what is refused --------------------------------------------------------------------------------------------------


def regression():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    return Task.from_arrays(x, x.sum(1), kind="regression")


REFUSED = {
    "a regression": (lambda z, t: ensemble(z, regression()), ValueError, "an ensemble averages probabilities"),
    "no zoo": (lambda z, t: ensemble([z], t), TypeError, "a zoo is made by"),
    "no task": (lambda z, t: ensemble(z, "iris"), TypeError, "a task is made by"),
    "another task": (lambda z, t: ensemble(z, load_task("digits")), ValueError, "do not take"),
    "other classes": (
        lambda z, t: ensemble(Zoo.from_modules([MLP([4, 2])]), t), ValueError, "return 2 outputs, task 'iris' wants 3",
    ),
    "no such split": (lambda z, t: ensemble(z, t, "valid"), ValueError, "no split 'valid'"),
    "no members": (lambda z, t: ensemble(z.take([]), t), ValueError, "cannot take members"),
    "too many": (lambda z, t: ensemble(z, t, counts=[3, 8]), ValueError, "whole numbers from 1 to 7, .* got 8"),
    "half a member": (lambda z, t: ensemble(z, t, counts=[1.5]), ValueError, "whole numbers from 1 to 7"),
    "too cold": (lambda z, t: ensemble(z, t, temperature=0.0), ValueError, "numbers > 0"),
    "no temperature": (lambda z, t: ensemble(z, t, temperature="warm"), ValueError, "a number > 0, one for each of 7"),
    "too few": (lambda z, t: ensemble(z, t, temperature=[1.0, 2.0]), ValueError, "one for each of 7 counts"),
    "a seed that is none": (lambda z, t: ensemble(z, t, seed=-1), ValueError, "seed must be"),
    "fitted to a list": (lambda z, t: fit_temperature([[1.0]], t.test.y), TypeError, "fitted to tensors"),
    "fitted to others": (lambda z, t: fit_temperature(torch.ones(3, 2), torch.ones(2).long()), ValueError, "labels"),
    "no such labels": (lambda z, t: fit_temperature(torch.ones(1, 2), torch.tensor([2])), ValueError, "from 0 to 1"),
    "fitted to NaN": (lambda z, t: fit_temperature(torch.ones(1, 2) / 0, torch.tensor([1])), ValueError, "infinite"),
    "two shapes": (lambda z, t: detect(z, t.test.x, torch.ones(3, 5)), ValueError, "of one shape"),
    "nothing outside": (lambda z, t: detect(z, t.test.x, t.test.x[:0]), ValueError, "some of each"),
    "rows": (lambda z, t: uncertainty(z, [[1.0] * 4]), TypeError, "task.prepare"),
    "no dropout": (lambda z, t: DropoutMasks().fit(z), ValueError, "these networks have no dropout"),
    "all of them": (lambda z, t: DropoutMasks(1.0).fit(z), ValueError, "rate must be"),
    "no MLP": (lambda z, t: DropoutMasks(0.1).fit(Zoo.from_modules([nn.Linear(4, 3)])), ValueError, "not of a Linear"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_in_one_sentence(zoo, task, case):
    call, kind, says = REFUSED[case]
    with pytest.raises(kind, match=says):
        call(zoo, task)


def test_a_member_that_returns_nan_is_named(task):
    network = MLP([4, 3])
    weights = torch.zeros(4, Layout.of(network).size)
    weights[2] = 3e38
    networks = Zoo(weights, Layout.of(network), network)
    for ask in (lambda: ensemble(networks, task), lambda: uncertainty(networks, task.validation.x)):
        with pytest.raises(ValueError, match="member 2 returns NaN or infinite outputs"):
            ask()
    assert ensemble(networks.take([0, 1, 3]), task).whole["nll"] == pytest.approx(np.log(3), rel=1e-5)  # control


def test_members_trained_on_another_cut_are_warned_of(zoo):
    with pytest.warns(RuntimeWarning, match="another cut of 'iris'") as caught:
        ensemble(zoo, load_task("iris", seed=1))
    assert caught[0].filename == __file__
