"""Numbers of NumPy and torch are taken where Python's are; what is no whole number is refused, True included."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dwflow_lite.batchnorm import recalibrate
from dwflow_lite.compress import DualPCA
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import ClosedFormFlow, DeepWeightFlow, Soup
from dwflow_lite.networks import BERT, MLP, ResNet, ViT, architecture_of
from dwflow_lite.support.checks import is_number, is_whole, whole
from dwflow_lite.symmetry import (
    PermutationSpec,
    activation_matching,
    canonicalise,
    linear_barrier,
    straight_through_matching,
    weight_matching,
)
from dwflow_lite.tasks import Task, Vocabulary, load_task, make_reviews
from dwflow_lite.training import Recipe, train_zoo
from dwflow_lite.zoo import Zoo, predict

IRIS = load_task("iris")
ZOO = Zoo.from_modules([MLP([4, 5, 3]) for _ in range(6)])
SPEC = PermutationSpec.of(ZOO.network)
A, B = ZOO.weights[0], ZOO.weights[1]
RESNET = Zoo.from_modules([ResNet((4,), blocks=1, channels=1) for _ in range(2)])
DIGITS = load_task("digits")


def small_flow(number):
    flow = FlowSettings(hidden=number(8), time_dim=number(8), steps=number(3), batch_size=number(4), every=number(2))
    model = DeepWeightFlow(components=number(3), seed=number(2), memory=number(1 << 20), flow=flow).fit(ZOO)
    return json.dumps(model.sample(number(2), seed=number(1)).record)


CALLS = {
    "MLP": lambda number: json.dumps(architecture_of(MLP([4, number(5), number(3)]))),
    "ResNet": lambda number: json.dumps(architecture_of(ResNet([number(4)], number(1), number(1), number(3)))),
    "ViT": lambda number: json.dumps(architecture_of(ViT(*map(number, (8, 4, 12, 1, 3, 8, 1, 3))))),
    "BERT": lambda number: json.dumps(architecture_of(BERT(*map(number, (20, 8, 1, 2, 8, 5, 1))))),
    "Recipe": lambda number: json.dumps(Recipe(epochs=number(1), batch_size=number(7)).to_json()),
    "train_zoo": lambda number: train_zoo(
        IRIS, MLP([4, 3]), members=number(2), held_out=number(1), seed=number(3), members_at_once=number(1),
        recipe=Recipe(epochs=1),
    ),
    "load_task": lambda number: load_task("iris", seed=number(3)),
    "make_reviews": lambda number: make_reviews(number(5), number(3)),
    "from_arrays": lambda number: Task.from_arrays(IRIS.train.x, IRIS.train.y, seed=number(3), outputs=number(3)),
    "Task": lambda number: Task("n", "classification", number(3), IRIS.splits, IRIS.indices, number(1)).fingerprint,
    "Vocabulary": lambda number: Vocabulary.of(["a b"], number(4)).encode(["a b"], number(4)),
    "DualPCA": lambda number: DualPCA(number(3), memory=number(1 << 20)).fit(ZOO.weights),
    "predict": lambda number: predict(ZOO, IRIS.test.x, members_at_once=number(2), inputs_at_once=number(3)),
    "recalibrate": lambda number: recalibrate(RESNET, DIGITS, batch_size=number(50), members_at_once=number(1)),
    "DeepWeightFlow": small_flow,
    "Soup": lambda number: Soup(size=number(3)).fit(ZOO).sample(number(2), seed=number(1)),
    "ClosedFormFlow": lambda number: ClosedFormFlow(steps=number(3)).fit(ZOO).sample(number(2), seed=number(1)),
    "canonicalise": lambda number: json.dumps(canonicalise(ZOO, restarts=number(1), rounds=number(1)).record),
    "linear_barrier": lambda number: linear_barrier(ZOO, [(number(0), number(1))], IRIS, points=number(3)),
    "weight_matching": lambda number: weight_matching(A, B, SPEC, restarts=number(1), seed=number(1)),
    "activation_matching": lambda number: activation_matching(
        A, B, SPEC, ZOO.network, IRIS.train.x, batch_size=number(9)
    ),
    "straight_through_matching": lambda number: straight_through_matching(
        A, B, SPEC, ZOO.network, IRIS, steps=number(2), batch_size=number(5), seed=number(1)
    ),
}  # fmt: skip

KINDS = {
    "int": int,
    "np.int64": np.int64,
    "np.int32": np.int32,
    "np.uint32": np.uint32,
    "array": np.array,
    "tensor": torch.tensor,
}


@pytest.mark.parametrize("name", CALLS)
def test_whole_numbers_of_all_kinds_are_taken(name):
    for number in KINDS.values():
        CALLS[name](number)
    for wrong in (lambda value: True, lambda value: value + 0.5, lambda value: np.array([value]), str):  # control
        with pytest.raises((ValueError, TypeError)):
            CALLS[name](wrong)


def test_what_a_whole_number_is():
    for number in (3, np.int8(3), np.uint64(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.uint8)):
        assert is_whole(number, 3) and not is_whole(number, 4) and is_number(number)
        assert type(whole(number, "n")) is int
    for value in (True, np.True_, np.array(True), torch.tensor(True), 3.0, np.float64(3), torch.tensor(3.0), "3", None,
                  np.array([3]), [3]):  # fmt: skip
        assert not is_whole(value)
        with pytest.raises(ValueError, match="n must be a whole number >= 0, got"):
            whole(value, "n")
    assert is_number(torch.tensor(0.5)) and is_number(np.array(0.5)) and not is_number(np.array(np.nan))
