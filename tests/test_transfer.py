"""Transfer: members start from given weights, labels are matched by name, and nothing that scores is read before."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import image_sets
from benchmarks import transfer as benchmark
from dwflow_lite import MLP, Recipe, Task, Zoo, evaluate, load_task, train_zoo
from dwflow_lite.networks import BERT, ResNet, ViT, architecture_of
from dwflow_lite.networks.outputs import output_layer, with_outputs
from dwflow_lite.tasks import Split, few_labels, of_classes
from dwflow_lite.training import DivergedError, batched, identity, members, randomness
from dwflow_lite.training import plan as plan_module
from dwflow_lite.use import Transfer, carry_over, random_starts, transfer, zero_shot

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(5, 6)) * 2
Y = np.arange(300) % 5
X = CENTRES[Y] + RNG.normal(size=(300, 6))
NAMES = ("ant", "bee", "cat", "dog", "emu")
FIVE = Task.from_arrays(X, Y, standardise=False, classes=NAMES, name="five")
SOURCE = of_classes(FIVE, ("ant", "bee", "cat"))
TARGET = of_classes(FIVE, ("dog", "cat", "ant", "emu"))  # other numbers: cat 2 -> 1, ant 0 -> 2
QUICK = Recipe(epochs=2, batch_size=20, lr=1e-2)
TRAIN = {"members": 3, "recipe": QUICK}
METHODS = ("batched", "loop")


def mlp(outputs=3):
    return MLP([6, 8, outputs])


def batchnorm(outputs=3):
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))


def same(a, b):
    return torch.equal(a.weights, b.weights)


def starts_of(network=mlp, task=SOURCE, n=3, seed=0):
    """Random networks, and networks that know the source."""
    zoo = train_zoo(task, network(), members=n, seed=seed, recipe=replace(QUICK, epochs=15))
    return {"random": random_starts(network(), n, seed=7), "a member": zoo}


def with_nan(task, *splits):
    """The same task, whose images of these splits are poisoned."""
    poisoned = {name: Split(task.splits[name].x * torch.nan, task.splits[name].y) for name in splits}
    return replace(task, splits=dict(task.splits) | poisoned)


# -- members start from given weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", [mlp, batchnorm])
def test_without_steps_that_count_the_starts_come_back(method, network):
    given = random_starts(network(), 3, seed=5)
    still = Recipe(epochs=1, batch_size=20, optimizer="sgd", lr=1e-12)
    zoo = train_zoo(SOURCE, network(), start=given, method=method, members=2, held_out=1, recipe=still)
    parameters = [entry.name for entry in given.layout.entries if entry.role == "parameter"]
    columns = torch.cat([torch.arange(given.layout.size)[given.layout.slices[name]] for name in parameters])
    torch.testing.assert_close(zoo.weights[:, columns], given.weights[:, columns], atol=1e-8, rtol=0)
    moved = train_zoo(SOURCE, network(), start=given, method=method, members=2, held_out=1, recipe=QUICK)
    assert (moved.weights - given.weights)[:, columns].abs().max() > 1e-2  # control
    assert zoo.held_out == (False, False, True)


@pytest.mark.parametrize("network", [mlp, batchnorm])
def test_batched_equals_loop_from_given_starts(network):
    given = random_starts(network(), 3, seed=5)
    before = given.weights.clone()
    options = {"members": 3, "recipe": replace(QUICK, optimizer="sgd")}  # Adam makes steps of rounding errors
    zoos = [train_zoo(SOURCE, network(), start=given, method=method, **options) for method in METHODS]
    torch.testing.assert_close(zoos[0].weights, zoos[1].weights, atol=1e-5, rtol=1e-5)
    assert torch.equal(given.weights, before)  # the caller's zoo is not changed
    drawn = train_zoo(SOURCE, network(), **options)
    assert (drawn.weights - zoos[0].weights).abs().max() > 1e-2  # control


def test_starts_that_would_have_been_drawn_give_the_same_zoo():
    drawn = train_zoo(SOURCE, mlp(), **TRAIN)
    given = train_zoo(SOURCE, mlp(), start=random_starts(mlp(), 3, seed=0), **TRAIN)
    assert same(drawn, given) and drawn.record["identity"] != given.record["identity"]
    assert [about["init"] for about in given.record["members"]] == ["given"] * 3
    assert given.record["start"] == identity.digest_of(random_starts(mlp(), 3, seed=0)) and "start" not in drawn.record


def test_frozen_layers_are_those_of_each_start():
    network = mlp()
    network.layers[0].requires_grad_(False)
    given = starts_of()["a member"]
    for method in METHODS:
        tuned = train_zoo(SOURCE, network, start=given, method=method, **TRAIN)
        for member in range(3):
            assert torch.equal(tuned.module(member).layers[0].weight, given.module(member).layers[0].weight)
            assert not torch.equal(tuned.module(member).layers[1].weight, given.module(member).layers[1].weight)


def test_a_start_is_part_of_what_tells_zoos_apart(tmp_path, monkeypatch):
    given, other = (random_starts(mlp(), 3, seed=seed) for seed in (5, 6))
    zoo = train_zoo(SOURCE, mlp(), start=given, checkpoint=tmp_path, **TRAIN)
    on_disk = Zoo.load(given.save(tmp_path / "starts"))
    calls = []
    plain = members.train_batched
    monkeypatch.setattr(members, "train_batched", lambda *a, **o: calls.append(1) or plain(*a, **o))
    assert same(zoo, train_zoo(SOURCE, mlp(), start=given, checkpoint=tmp_path, **TRAIN))
    assert same(zoo, train_zoo(SOURCE, mlp(), start=on_disk, checkpoint=tmp_path, **TRAIN)) and not calls
    different = train_zoo(SOURCE, mlp(), start=other, checkpoint=tmp_path, **TRAIN)
    train_zoo(SOURCE, mlp(), checkpoint=tmp_path, **TRAIN)
    assert len(calls) == 2 and not same(zoo, different)  # control


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_fine_tuning_goes_on(tmp_path, monkeypatch, method):
    given = random_starts(mlp(), 3, seed=5)
    options = TRAIN | {"start": given, "method": method}
    whole = train_zoo(SOURCE, mlp(), **options)
    module = batched if method == "batched" else __import__("dwflow_lite.training.loop", fromlist=["loop"])
    steps = []

    def stop(*arguments):
        steps.append(1)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return plain(*arguments)

    plain = module.take_step
    monkeypatch.setattr("dwflow_lite.support.checkpoints.SAVE_EVERY_SECONDS", -1.0)
    monkeypatch.setattr(module, "take_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train_zoo(SOURCE, mlp(), checkpoint=tmp_path, **options)
    assert len(list(tmp_path.glob("*.partial"))) == 1
    before = len(steps)
    resumed = train_zoo(SOURCE, mlp(), checkpoint=tmp_path, **options)
    needed = 2 * -(-len(SOURCE.train) // 20) * (1 if method == "batched" else 3)
    assert len(steps) - before == needed - 7  # what was done is not done again
    torch.testing.assert_close(resumed.weights, whole.weights, atol=1e-7, rtol=1e-6)


def test_jobs_and_folders_train_from_their_own_starts(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    given = random_starts(mlp(), 3, seed=5)
    whole = train_zoo(SOURCE, mlp(), start=given, **TRAIN)
    with ThreadPoolExecutor(2) as pool:
        jobs = train_zoo(SOURCE, mlp(), start=given, executor=pool, **TRAIN)
    folder = train_zoo(SOURCE, mlp(), start=given, folder=tmp_path / "zoo", members_at_once=2, **TRAIN)
    for zoo in (jobs, folder.in_memory()):
        torch.testing.assert_close(zoo.weights, whole.weights, atol=1e-6, rtol=1e-5)
    assert (whole.weights - whole.weights.roll(1, 0)).abs().max() > 1e-2  # control


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (random_starts(mlp(), 2), "start has 2 networks for 3 members"),
        (random_starts(mlp(4), 3), "the networks of start do not fit this one: layers.1.weight"),
        (random_starts(batchnorm(), 3), "the networks of start do not fit this one"),
    ],
)
def test_starts_that_do_not_fit_are_refused_in_one_sentence(start, message):
    with pytest.raises(ValueError, match=message) as raised:
        train_zoo(SOURCE, mlp(), start=start, **TRAIN)
    assert "\n" not in str(raised.value)
    with pytest.raises(TypeError, match="a zoo is made by"):
        train_zoo(SOURCE, mlp(), start=start.weights, **TRAIN)


def test_a_constant_that_differs_is_refused():
    class Masked(nn.Linear):
        def __init__(self, mask):
            super().__init__(6, 3)
            self.register_buffer("mask", torch.tensor(mask))

        def forward(self, x):
            return super().forward(x) * self.mask

    given = random_starts(Masked(1.0), 3)
    train_zoo(SOURCE, Masked(1.0), start=given, **TRAIN)  # control
    with pytest.raises(ValueError, match="the constant 'mask' has other numbers"):
        train_zoo(SOURCE, Masked(2.0), start=given, **TRAIN)


def test_only_the_splits_that_are_scored_are_read():
    blind = with_nan(SOURCE, "test", "calibration")
    zoo = train_zoo(blind, mlp(), scored=("validation",), **TRAIN)
    assert set(zoo.record["scores"]) == {"validation"} and zoo.record["diverged"] == []
    assert same(zoo, train_zoo(SOURCE, mlp(), **TRAIN))
    with pytest.raises(DivergedError):  # control: the test split is scored, and is NaN
        train_zoo(blind, mlp(), **TRAIN)
    assert train_zoo(SOURCE, mlp(), scored="train", **TRAIN).record["identity"] != zoo.record["identity"]
    with pytest.raises(ValueError, match="no split 'tests' to be scored: choose from train"):
        train_zoo(SOURCE, mlp(), scored=("tests",), **TRAIN)


# -- parts of a task ----------------------------------------------------------------------------------------------


def test_some_classes_are_their_examples_with_labels_of_their_own():
    for split in TARGET.splits:
        for label, name in enumerate(TARGET.class_names):
            theirs = FIVE.splits[split].x[FIVE.splits[split].y == NAMES.index(name)]
            assert torch.equal(TARGET.splits[split].x[TARGET.splits[split].y == label], theirs)
    everything = of_classes(FIVE, NAMES, "five")
    assert everything.fingerprint == FIVE.fingerprint and TARGET.fingerprint != FIVE.fingerprint
    for wrong in (("ant",), ("ant", "ant"), ("ant", "fox")):
        with pytest.raises(ValueError, match="name two or more different classes of ant, bee, cat, dog, emu; got"):
            of_classes(FIVE, wrong)


def test_few_labels_are_balanced_and_hang_on_the_seed():
    one, again, other, more = (
        few_labels(TARGET, 5),
        few_labels(TARGET, 5),
        few_labels(TARGET, 5, 1),
        few_labels(TARGET, 9),
    )
    assert one.train.y.bincount().tolist() == [5] * 4
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert set(one.indices["train"]) < set(more.indices["train"]) < set(TARGET.indices["train"])
    for split in ("calibration", "validation", "test"):
        assert torch.equal(one.splits[split].x, TARGET.splits[split].x)
    rows = {position: row for row, position in enumerate(TARGET.indices["train"])}
    kept = [rows[position] for position in one.indices["train"]]
    assert torch.equal(one.train.x, TARGET.train.x[kept]) and torch.equal(one.train.y, TARGET.train.y[kept])
    with pytest.raises(ValueError, match=r"class 'dog' of task .* has \d+ training examples, not 500"):
        few_labels(TARGET, 500)
    with pytest.raises(ValueError, match="whole number >= 1, got 0"):
        few_labels(TARGET, 0)
    curve = Task.from_arrays(X, X[:, :2], kind="regression", name="curve")
    with pytest.raises(ValueError, match="task 'curve' is a regression and has no classes"):
        few_labels(curve, 5)


# -- which layer makes the outputs ---------------------------------------------------------------------------------


class Upside(nn.Module):
    """The output layer comes first in the order of definition, and a hidden one has as many rows."""

    def __init__(self, outputs=3):
        super().__init__()
        self.last, self.first, self.middle = nn.Linear(3, outputs), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.relu(self.middle(torch.relu(self.first(x)))))


class Alike(nn.Linear):
    """All outputs are one number, so that their order is nobody's."""

    def forward(self, x):
        return super().forward(x)[:, :1].expand(-1, 3)


@pytest.mark.parametrize(
    ("network", "x", "layer"),
    [
        (mlp(), torch.randn(2, 6), "layers.1"),
        (batchnorm(), torch.randn(2, 6), "3"),
        (Upside(), torch.randn(2, 6), "last"),
        (nn.Linear(6, 3), torch.randn(2, 6), ""),
        (ResNet((4, 10), 1), torch.randn(2, 3, 8, 8), "head"),
        (ViT(8, 4, 12, 1, 2, channels=1), torch.randn(2, 1, 8, 8), "head"),
        (BERT(20, 8, 1, 2, 16, 5, outputs=3), torch.randint(20, (2, 5)), "head"),
    ],
)
def test_the_output_layer_is_found_and_exchanged(network, x, layer):
    before = [p.clone() for p in network.parameters()]
    assert output_layer(network, x) == layer
    assert all(torch.equal(p, kept) for p, kept in zip(network.parameters(), before, strict=True))
    wider = with_outputs(network, layer, 13)
    assert wider.eval()(x).shape == (2, 13) and network.eval()(x).shape[1] != 13
    assert output_layer(wider, x) == layer
    if not architecture_of(network).get("custom"):
        assert not architecture_of(wider).get("custom") and architecture_of(wider) != architecture_of(network)


def test_an_output_layer_that_cannot_be_told_is_refused():
    scaled = nn.Sequential(nn.Linear(6, 3), nn.LayerNorm(3))  # of neither layer are the rows the outputs
    with pytest.raises(ValueError, match="cannot tell which layer of Sequential makes its outputs: of no layer"):
        output_layer(scaled, torch.randn(2, 6))
    with pytest.raises(ValueError, match="cannot tell which layer of Alike makes its outputs: of no layer"):
        output_layer(Alike(6, 3), torch.randn(2, 6))
    with pytest.raises(ValueError, match=r"'1' of Sequential is not: it is a LayerNorm"):
        with_outputs(scaled, "1", 4)
    with pytest.raises(ValueError, match="'9' of Sequential is not: there is none of that name"):
        with_outputs(scaled, "9", 4)


# -- labels by name ------------------------------------------------------------------------------------------------


def test_rows_of_shared_names_are_kept_and_only_new_ones_are_drawn():
    zoo = starts_of()["a member"]
    carried = carry_over(zoo, TARGET, SOURCE, seed=3)
    for member in range(len(zoo)):
        old, new = zoo.module(member), carried.module(member)
        assert torch.equal(new.layers[0].weight, old.layers[0].weight)
        assert torch.equal(new.layers[0].bias, old.layers[0].bias)
        for tensor in ("weight", "bias"):
            rows, before = getattr(new.layers[1], tensor), getattr(old.layers[1], tensor)
            assert torch.equal(rows[[1, 2]], before[[2, 0]])  # cat, ant
            assert not torch.isin(rows[[0, 3]], before).any()  # dog, emu
    fresh = with_outputs(mlp(), "layers.1", 4)
    drawn = carry_over(random_starts(mlp(), 3, seed=99), TARGET, SOURCE, seed=3)
    for number in range(3):  # new rows hang on the seed and the number of the start alone
        assert torch.equal(drawn.module(number).layers[1].weight[0], carried.module(number).layers[1].weight[0])
    assert float(fresh.layers[1].weight.abs().max()) <= 8**-0.5  # as PyTorch draws them, so the new rows are too
    assert float(carried.module(0).layers[1].weight[[0, 3]].abs().max()) <= 8**-0.5


def test_the_same_classes_are_carried_over_unchanged():
    zoo = starts_of()["a member"]
    assert same(zoo, carry_over(zoo, SOURCE, SOURCE))
    found = zero_shot(carry_over(zoo, SOURCE, SOURCE), SOURCE, SOURCE)
    torch.testing.assert_close(found, evaluate(zoo, SOURCE).score)


def permuted(task, order, names=True):
    """The same task whose labels count in another order; without ``names``, the names stay where they were."""
    place = torch.tensor([order.index(label) for label in range(task.outputs)])
    splits = {name: Split(split.x, place[split.y]) for name, split in task.splits.items()}
    classes = tuple(task.class_names[label] for label in order) if names else task.class_names
    return replace(task, splits=splits, classes=classes)


def test_the_order_of_the_targets_classes_changes_nothing():
    zoo = {"a member": starts_of(task=FIVE, network=lambda: mlp(5))["a member"]}
    order = [3, 0, 4, 2, 1]
    options = {"epochs": (0, 1, 2), "recipe": QUICK}
    plain = transfer(zoo, FIVE, FIVE, **options).scores["a member"]
    turned = transfer(zoo, permuted(FIVE, order), FIVE, **options).scores["a member"]
    np.testing.assert_allclose(
        turned, plain, atol=0.03
    )  # sums in another order round otherwise; an example more or less
    np.testing.assert_allclose(turned[0], plain[0], atol=1e-6)
    by_index = transfer(zoo, permuted(FIVE, order, names=False), FIVE, **options).scores["a member"]  # control
    assert np.mean(by_index[0]) < 0.5 < 0.8 < np.mean(plain[0])


def test_zero_shot_is_of_shared_classes_among_each_other():
    zoo = starts_of()["a member"]
    carried = carry_over(zoo, TARGET, SOURCE)
    part = of_classes(SOURCE, ("cat", "ant"))
    rows = torch.isin(TARGET.validation.y, torch.tensor([1, 2]))
    assert torch.equal(TARGET.validation.x[rows], part.validation.x)
    alone = carry_over(zoo, part, SOURCE)  # a head of the shared classes alone
    torch.testing.assert_close(zero_shot(carried, TARGET, SOURCE), evaluate(alone, part).score)
    assert zero_shot(carried, TARGET, SOURCE).mean() > evaluate(carried, TARGET).score.mean()  # control: not of all


# -- fine-tuning ---------------------------------------------------------------------------------------------------


def test_every_kind_sees_the_same_order_and_begins_new_classes_alike(monkeypatch):
    seen = []
    starts = starts_of()
    plain = randomness.data_orders
    monkeypatch.setattr(batched, "data_orders", lambda *a: seen.append(plain(*a)) or seen[-1])
    given = []
    plain_start = plan_module.Plan.start
    monkeypatch.setattr(plan_module.Plan, "start", lambda self, m: given.append((self, m)) or plain_start(self, m))
    transfer(starts, TARGET, SOURCE, epochs=(2,), recipe=QUICK)
    (one, other) = seen[:2], seen[2:]
    assert len(one) == len(other) == 2
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(seen[0][0], seen[0][1])  # control: other starts of a kind, other orders
    plans = list({id(each): each for each, _ in given}.values())
    heads = [plain_start(plans[0], m)["layers.1.weight"][0] for m in range(3)]
    assert all(torch.equal(head, plain_start(plans[-1], m)["layers.1.weight"][0]) for m, head in enumerate(heads))


def test_a_curve_is_that_of_separate_trainings_and_learns():
    starts = starts_of()
    found = transfer(starts, TARGET, SOURCE, epochs=(0, 1, 4), recipe=QUICK)
    assert found.epochs == (0, 1, 4) and found.kinds == ["random", "a member"] and found.shared == ("cat", "ant")
    assert found.examples == len(TARGET.train) and found.split == "validation"
    carried = carry_over(starts["a member"], TARGET, SOURCE)
    by_hand = train_zoo(TARGET, carried.network, members=3, start=carried, recipe=replace(QUICK, epochs=4))
    np.testing.assert_allclose(found.scores["a member"][2], by_hand.scores("validation"), atol=1e-6)
    assert found.mean("a member")[2] > found.mean("a member")[1]
    assert found.mean("a member")[1] > found.mean("random")[1] > 0.2
    gains = found.gain("a member", "random")
    assert gains[1][0] == pytest.approx(found.mean("a member")[1] - found.mean("random")[1])
    assert found.gain("random", "random") == [(0.0, 0.0)] * 3  # control
    few = transfer(starts, TARGET, SOURCE, epochs=(1,), labels_per_class=5, recipe=QUICK)
    assert few.examples == 20 and few.labels_per_class == 5


@pytest.mark.parametrize("split", ["validation", "test"])
def test_nothing_that_judges_is_read_before_the_report(split):
    starts = starts_of(batchnorm)
    other = {"validation": "test", "test": "validation"}[split]
    options = {"epochs": (0, 2), "recipe": QUICK, "split": split}
    clean = transfer(starts, TARGET, SOURCE, **options)
    blind = transfer(starts, with_nan(TARGET, other, "calibration"), SOURCE, **options)
    assert clean == blind
    with pytest.raises((ValueError, DivergedError)):  # control: statistics are measured on train
        transfer(starts, with_nan(TARGET, "train"), SOURCE, **options)


def test_statistics_of_batchnorm_are_those_of_the_target():
    shift = torch.tensor([90.0, -90, 90, -90, 90, -90])
    moved = replace(SOURCE, splits={name: Split(3 * part.x + shift, part.y) for name, part in SOURCE.splits.items()})
    zoo = starts_of(batchnorm)["a member"]
    measured = zero_shot(zoo, moved, SOURCE)
    assert measured.mean() > 0.8  # what BatchNorm can undo is undone
    assert evaluate(zoo, moved).score.mean() < 0.7  # control: with the statistics of the source


def test_starts_on_disk_and_in_chunks_are_the_same(tmp_path):
    starts = starts_of()
    options = {"epochs": (0, 1), "recipe": QUICK}
    plain = transfer(starts, TARGET, SOURCE, **options)
    on_disk = {kind: Zoo.load(zoo.save(tmp_path / f"{len(kind)}"), mlp()) for kind, zoo in starts.items()}
    chunked = transfer(on_disk, TARGET, SOURCE, members_at_once=2, checkpoint=tmp_path / "kept", **options)
    again = transfer(starts, TARGET, SOURCE, checkpoint=tmp_path / "kept", **options)
    for found in (chunked, again):
        np.testing.assert_allclose(found.scores["a member"], plain.scores["a member"], atol=0.03)
    assert len(list((tmp_path / "kept").iterdir())) == 2


# -- the report ----------------------------------------------------------------------------------------------------


def test_a_transfer_prints_and_comes_back_from_json():
    scores = {"random": [[0.1, 0.3], [0.5, 0.7]], "a|b": [[0.2, 0.6], [0.9, 0.9]]}
    found = Transfer("digits", "letters", "test", [0, 3], scores, ["A"], 210, 10)
    assert Transfer(**json.loads(json.dumps(found.numbers()))) == found
    assert found.mean("random") == pytest.approx([0.2, 0.6]) and found.spread("a|b")[1] == 0
    mean, error = found.gain("a|b", "random")[0]
    assert mean == pytest.approx(0.2) and error == pytest.approx(0.1)
    text = found.markdown()
    assert text.startswith("digits to letters, 10 labels a class (210 examples), accuracy (test)\n\n| start | starts |")
    assert "untrained, 1 shared class | 3 epochs |" in text and "| a/b | 2 |" in text and "90.0" in text
    assert str(found).count("\n") == 3
    single = replace(found, scores={"one": [[0.5], [0.6]]} | scores)
    assert single.spread("one") == [0.0, 0.0]
    with pytest.raises(ValueError, match="'one' has 1 starts, 'random' 2"):
        single.gain("one", "random")
    with pytest.raises(KeyError, match="no kind of start 'two'"):
        found.mean("two")


STARTS = {"random": random_starts(mlp(), 2)}
UNNAMED = replace(SOURCE, classes=())
NOWHERE = replace(TARGET, classes=("w", "x", "y", "z"))
WITHOUT = replace(SOURCE, outputs=4, classes=("ant", "bee", "cat", "yak"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"starts": {}}, "starts are a dictionary of one or more kinds"),
        ({"starts": STARTS["random"]}, "starts are a dictionary of one or more kinds"),
        ({"task": UNNAMED}, "names no classes, by which labels are matched: give it classes="),
        ({"source": UNNAMED}, "names no classes"),
        ({"task": NOWHERE}, "leave 0 out of epochs .*no class of task .* has the name of one of"),
        ({"task": WITHOUT}, "class 'yak' of task .* has no training example"),
        ({"source": FIVE}, "starts 'random' cannot be fine-tuned .*3 outputs, and their source 'five' 5"),
        ({"task": replace(load_task("digits"), name="d"), "epochs": (1,)}, r"do not take inputs of shape \(1, 8, 8\)"),
        ({"epochs": (0, 3, 1)}, r"epochs are whole numbers >= 0 that increase, .* got \(0, 3, 1\)"),
        ({"epochs": ()}, "epochs are whole numbers"),
        ({"epochs": (1, 1)}, "epochs are whole numbers"),
        ({"epochs": 3}, "epochs are whole numbers"),
        ({"split": "tests"}, "no split 'tests'"),
        ({"labels_per_class": 1000}, "training examples, not 1000"),
        ({"head": "layers.7"}, "there is none of that name"),
        ({"task": Task.from_arrays(X, X[:, :2], kind="regression", name="curve")}, "'curve' is a regression"),
    ],
)
def test_bad_input_is_one_sentence(change, message):
    arguments = {"starts": STARTS, "task": TARGET, "source": SOURCE, "epochs": (0, 1), "recipe": QUICK} | change
    with pytest.raises(ValueError, match=message) as raised:
        transfer(**arguments)
    assert "\n" not in str(raised.value)


def test_what_nobody_shares_is_fine_tuned_all_the_same():
    found = transfer(STARTS, NOWHERE, SOURCE, epochs=(1,), recipe=QUICK)  # the control of "leave 0 out of epochs"
    assert found.shared == () and len(found.mean("random")) == 1


def test_starts_that_diverge_are_named():
    with pytest.raises(DivergedError) as raised:
        transfer(STARTS, TARGET, SOURCE, epochs=(40,), recipe=Recipe(optimizer="sgd", lr=1e9, batch_size=20))
    assert "these are the starts 'random', after 40 epochs" in raised.value.__notes__[0]


# -- the benchmark -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp-digits-letters", "mlp-upright-rotated", "resnet-upright-rotated"])
def test_the_benchmark_answers_its_question_at_toy_size(tmp_path, monkeypatch, name):
    args = argparse.Namespace(data=None, folder=tmp_path, toy=True)
    if name != "mlp-upright-rotated":
        monkeypatch.setattr(benchmark, "as_new", lambda *_, **__: 0.5)  # matching takes longest
    runs = {}
    for labels in benchmark.LABELS if name.startswith("mlp") else benchmark.LABELS[:1]:
        run = benchmark.one_run(name, labels, 0, args)
        assert json.loads(json.dumps(run)) == run
        assert set(run["kinds"]) >= {"random", *benchmark.GENERATED, *benchmark.TRIVIAL}
        assert run["kinds"]["the mean"]["gain over the mean"] == [[0.0, 0.0]] * len(run["epochs"])
        assert run["epochs"] == ([1] if name.endswith("letters") else [0, 1])
        runs[f"{name}, {labels} labels, seed 0"] = run
    sections = 1 + len(runs)
    if name == "mlp-upright-rotated":
        apart = runs[f"{benchmark.DISTANCE}{name}, seed 0"] = benchmark.distances(name, 0, args)
        assert apart.keys() == run["kinds"].keys() and apart["a member"] < 0.01 < apart["zoo + noise"]
        sections += 1
    if name == "mlp-digits-letters":
        runs["cost of starts, here"] = benchmark.cost(name, args)
        assert runs["cost of starts, here"].keys() >= {"one member", "a zoo of 4", *benchmark.GENERATED}
    text = benchmark.page(runs)
    assert ("Seconds of one core to make starts, here: one member" in text) == (name == "mlp-digits-letters")
    assert "Do generated starts beat the trivial way at equal cost?" in text and text.count("\n## ") == sections
    if name == "mlp-upright-rotated":
        assert f"\n| {name} | 1 | {apart['random']:.2f} | 0.00 |" in text
    assert all(f"| {kind} |" in text for kind in run["kinds"])


def test_what_counts_as_better():
    assert benchmark.is_clear([[1.0, 0.4], [0.5, 0.2]]) == 1
    assert benchmark.is_clear([[1.0, 0.4], [0.5, 0.3]]) == 0
    assert benchmark.is_clear([[-1.0, 0.4], [-0.5, 0.2]]) == -1 and benchmark.is_clear([[-1.0, 0.4], [0.5, 0.2]]) == 0


def jpeg_stream(images):
    import io

    from PIL import Image

    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    return np.frombuffer(b"".join(files), np.uint8), np.array([len(file) for file in files])


def test_halves_of_cifar_are_read_from_jpeg_and_from_arrays(tmp_path):
    labels = np.arange(200) % 10
    blocks = RNG.integers(0, 256, (200, 4, 4, 3), dtype=np.uint8)  # smooth images lose little
    images = np.repeat(np.repeat(blocks, 8, 1), 8, 2)  # (200, 32, 32, 3)
    stream, lengths = jpeg_stream(images)
    jpeg, plain = tmp_path / "cifar10_jpeg.npz", tmp_path / "cifar10.npz"
    parts = {"train": slice(0, 150), "test": slice(150, 200)}
    ends = np.cumsum(lengths)
    kept = {}
    for split, rows in parts.items():
        start = ends[rows.start] - lengths[rows.start]
        kept[f"{split}_bytes"] = stream[start : ends[rows.stop - 1]]
        kept |= {f"{split}_lengths": lengths[rows], f"{split}_labels": labels[rows].astype(np.uint8)}
    np.savez(jpeg, **kept)
    arrays = {f"x_{split}": images[rows] for split, rows in parts.items()}
    np.savez(plain, **arrays, **{f"y_{split}": labels[rows] for split, rows in parts.items()})
    one, other = (benchmark.cifar_half(file, 1)(0) for file in (jpeg, plain))
    assert one.input_shape == (3, 16, 16) and one.class_names == ("dog", "frog", "horse", "ship", "truck")
    assert torch.equal(one.test.y, other.test.y)
    assert float((one.test.x - other.test.x).abs().mean()) < 0.03
    assert float((one.test.x - other.test.x.flip(0)).abs().mean()) > 0.2  # control: other images
    assert not set(benchmark.cifar_half(jpeg, 0)(0).class_names) & set(one.class_names)
    most = image_sets.cifar10_task(plain, ("cat", "dog"), size=8, most=7)
    assert sum(len(most.splits[split]) for split in ("train", "calibration", "validation")) == 14
    assert torch.bincount(image_sets.cifar10_task(plain, ("cat", "dog"), size=8, most=3).test.y).tolist() == [3, 3]
    with pytest.raises(FileNotFoundError, match="pass --data, or set DWFLOW_DATA"):
        image_sets.read_cifar10(tmp_path / "none.npz", 16)


SHAPES = {"STL10": (60, 3, 96, 96), "SVHN": (60, 3, 32, 32), "CIFAR100": (400, 32, 32, 3)}


class FakeSet:
    """As torchvision holds STL-10, SVHN and CIFAR-100: their shapes, a few images."""

    def __init__(self, which, root, **_):
        shape = SHAPES[which]
        self.data = RNG.integers(0, 256, shape, dtype=np.uint8)
        self.labels = self.targets = np.arange(shape[0]) % (100 if which == "CIFAR100" else 10)
        self.classes = [f"class {label}" for label in range(100)]


@pytest.mark.parametrize(("which", "shared"), [("STL10", 9), ("SVHN", 0), ("CIFAR100", 0)])
def test_the_cases_for_a_gpu_at_toy_size(monkeypatch, tmp_path, which, shared):
    from torchvision import datasets

    for name in SHAPES:
        monkeypatch.setattr(datasets, name, partial(FakeSet, name))
    case = benchmark.cases(toy=True)[f"gpu-{which}"]
    assert case.needs_cuda
    target = case.target(0)
    assert target.input_shape == (3, 32, 32)
    x = RNG.integers(0, 256, (80, 3, 32, 32), dtype=np.uint8)
    source = Task.from_arrays(x, np.arange(80) % 10, classes=image_sets.CLASSES["CIFAR10"], name="cifar10")
    assert len(set(source.class_names) & set(target.class_names)) == shared
    tiny = replace(
        case,
        source=lambda seed: source,
        network=lambda task: MLP([3 * 32 * 32, 4, task.outputs]),
        needs_cuda=False,
        tuning=replace(case.tuning, batch_size=48),
    )
    monkeypatch.setattr(benchmark, "cases", lambda *_: {"tiny": tiny})
    monkeypatch.setattr(benchmark, "as_new", lambda *_, **__: 0.5)
    run = benchmark.one_run("tiny", None, 0, argparse.Namespace(data=None, folder=tmp_path, toy=True))
    assert run["epochs"] == ([0, 1] if shared else [1]) and len(run["shared"]) == shared


def test_without_a_gpu_its_cases_are_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for cases, message in (("gpu-STL10", "need a CUDA device"), ("nowhere", "no cases nowhere")):
        monkeypatch.setattr("sys.argv", ["transfer", "--cases", cases, "--out", str(tmp_path / "none.json")])
        with pytest.raises(SystemExit):
            benchmark.main()
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
