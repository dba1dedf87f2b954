"""Every function that takes a task takes every kind of task: numbers, images, texts, classes and targets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from dwflow_lite.auditing import audit
from dwflow_lite.auditing.ceiling import codec_ceiling
from dwflow_lite.batchnorm import recalibrate
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import DeepWeightFlow
from dwflow_lite.networks import BERT, MLP, ResNet
from dwflow_lite.symmetry import (
    PermutationSpec,
    activation_matching,
    derive_spec,
    linear_barrier,
    repair,
    straight_through_matching,
    unit_statistics,
    weight_matching,
)
from dwflow_lite.tasks import Task, load_task
from dwflow_lite.training import Recipe, train_zoo
from dwflow_lite.zoo import Zoo, evaluate

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 4))
IMAGES = RNG.integers(0, 256, size=(200, 1, 8, 8), dtype=np.uint8)
TOKENS = RNG.integers(1, 9, size=(200, 6))


class Words(nn.Module):
    """A reader's own network of tokens, with BatchNorm if told to."""

    def __init__(self, outputs, norm=False):
        super().__init__()
        self.table = nn.Embedding(9, 8)
        self.hidden = nn.Linear(8, 6)
        self.norm = nn.BatchNorm1d(6) if norm else nn.Identity()
        self.out = nn.Linear(6, outputs)

    def forward(self, tokens):
        if tokens.is_floating_point():
            raise TypeError("tokens arrived as numbers")
        return self.out(self.norm(self.hidden(self.table(tokens).mean(1))).relu())


def numbers(kind):
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0) if kind == "classification" else X[:, :2] ** 2
    return Task.from_arrays(X, y, kind=kind, name="numbers")


def images(kind):
    mean = IMAGES.mean((1, 2, 3))
    y = (mean > np.median(mean)).astype(int) if kind == "classification" else mean[:, None] / 255
    return Task.from_arrays(IMAGES, y, kind=kind, name="images")


def texts(kind):
    y = (TOKENS == 3).sum(1).clip(0, 1) if kind == "classification" else (TOKENS == 3).sum(1, keepdims=True) * 1.0
    return Task.from_arrays(TOKENS, y, kind=kind, tokens=True, name="texts")


@cache
def reviews():
    return load_task("reviews", examples=120)


def bert(vocabulary, length):
    return BERT(vocabulary, dim=8, depth=1, heads=2, hidden=12, length=length, outputs=1)


@dataclass
class Case:
    task: Task
    zoo: Zoo
    spec: PermutationSpec


CASES = {
    "numbers, classes": lambda: (numbers("classification"), MLP([4, 6, 3])),
    "numbers, targets": lambda: (numbers("regression"), MLP([4, 6, 2])),
    "images, classes, BatchNorm": lambda: (images("classification"), ResNet((4, 4), 1, channels=1, outputs=2)),
    "images, classes": lambda: (images("classification"), ResNet((4, 4), 1, channels=1, outputs=2, norm="layer")),
    "images, targets": lambda: (images("regression"), ResNet((4, 4), 1, channels=1, outputs=1, norm="layer")),
    "texts, classes": lambda: (texts("classification"), Words(2)),
    "texts, classes, BatchNorm": lambda: (texts("classification"), Words(2, norm=True)),
    "texts, targets": lambda: (texts("regression"), Words(1)),
    "texts, targets, BERT": lambda: (texts("regression"), bert(vocabulary=9, length=6)),
    "reviews, BERT": lambda: (reviews(), bert(vocabulary=int(reviews().train.x.max()) + 1, length=128)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    task, network = CASES[request.param]()
    zoo = train_zoo(task, network, members=4, held_out=1, recipe=Recipe(epochs=1, batch_size=40))
    try:
        spec = PermutationSpec.of(network)
    except ValueError:
        spec = derive_spec(network, task.train.x[:4])
    assert spec.groups
    return Case(task, zoo, spec)


def pair_of(case):
    return case.zoo.weights[:2]


USES = {
    "evaluate": lambda c: [evaluate(c.zoo, c.task, split).loss for split in ("train", "validation", "test")],
    "recalibrate": lambda c: recalibrate(c.zoo, c.task, batch_size=4).weights,
    "linear_barrier": lambda c: linear_barrier(c.zoo, [(0, 1)], c.task, points=3, spec=c.spec).repaired.loss,
    "unit_statistics": lambda c: unit_statistics(c.zoo, c.task, c.spec),
    "repair": lambda c: repair(c.zoo, unit_statistics(c.zoo, c.task, c.spec), c.task, c.spec).weights,
    "activation_matching": lambda c: activation_matching(
        *pair_of(c), c.spec, c.zoo.network, c.task.calibration.x, batch_size=3
    ).objective,
    "straight_through_matching": lambda c: straight_through_matching(
        *pair_of(c), c.spec, c.zoo.network, c.task, steps=2, batch_size=5
    ).objective,
    "spec.verify": lambda c: c.spec.verify(c.zoo.network, c.zoo.weights[0], c.task.calibration.x) or 0.0,
    "codec_ceiling": lambda c: codec_ceiling(c.zoo, c.task, [2])[0].held_out_score,
    "audit": lambda c: [
        row.score
        for row in audit(
            DeepWeightFlow(align=None, flow=FlowSettings(hidden=8, steps=4, every=2)).fit(c.zoo).sample(2, seed=0),
            c.zoo, c.task, spec=c.spec,
        ).rows
    ],
}  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_every_function_takes_every_kind_of_task(case, use):
    kept = case.zoo.weights.clone()
    found = USES[use](case)
    tensors = found if isinstance(found, list) else [found]
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in tensors)
    assert torch.equal(case.zoo.weights, kept)


def test_matchings_of_every_kind_of_task_are_right(case):
    """A planted permutation is found again, and functions stay."""
    planted = case.spec.random(torch.Generator().manual_seed(3))
    a = case.zoo.weights[0]
    twin = case.spec.apply(planted, a)
    network, x = case.zoo.network, case.task.train.x
    for matching in (
        activation_matching(a, twin, case.spec, network, x),
        straight_through_matching(a, twin, case.spec, network, case.task, steps=1),
    ):
        back = matching.apply(case.spec, twin)
        pair = Zoo(torch.stack([a, back]), case.zoo.layout, network)
        one, other = evaluate(pair, case.task).loss
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert (back - a).norm() < 0.2 * (twin - a).norm()  # twins of units that do the same may be left
    assert weight_matching(a, twin, case.spec).permutation.compose(planted).is_identity


def test_tokens_never_arrive_as_numbers():
    """Control: the networks above do refuse them."""
    task, network = texts("classification"), Words(2)
    with pytest.raises(TypeError, match="tokens arrived as numbers"):
        network(task.train.x.float())
    with pytest.raises(ValueError, match=r"does not take inputs of shape .*tokens arrived as numbers"):
        train_zoo(numbers("classification"), Words(3), members=2)
