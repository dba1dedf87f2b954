"""A recipe checks itself, and tells zoos apart."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from dwflow_lite import Recipe
from dwflow_lite.networks import INITS

PLAIN = {
    "epochs": 40, "batch_size": 64, "optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0, "momentum": None,
    "init": ["default"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lbfgs"}, "no optimizer 'lbfgs': choose one of adam"),
        ({"init": "zeros"}, "no init 'zeros'"),
        ({"init": ["default", "zeros"]}, "no init 'zeros'"),
        ({"init": []}, "no init"),
        ({"init": None}, "no init None"),
        ({"init": np.array(["default"])}, "no init array"),
        ({"optimizer": ["adam"]}, r"no optimizer \['adam'\]"),
        ({"lr": 10**400}, "out of range: lr"),
        ({"epochs": 1.5, "batch_size": 0}, "out of range: epochs, batch_size"),
        ({"lr": 0.0}, "out of range: lr"),
        ({"lr": float("nan")}, "out of range: lr"),
        ({"momentum": -1.0}, "out of range: momentum"),
        ({"weight_decay": -1.0}, "out of range: weight_decay"),
        ({"weight_decay": float("inf"), "lr": None}, "out of range: lr, weight_decay"),
        *[({"lr": lr}, "out of range: lr") for lr in ("0.1", 1j, [0.1])],
        *[({"precision": p}, "no precision .*: choose 'float32'") for p in ("float16", None, torch.float32)],
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)
    with pytest.raises(ValueError, match=message):
        replace(Recipe(), **options)
    Recipe()  # control


def test_an_error_names_field_value_and_what_is_allowed():
    with pytest.raises(
        ValueError, match=r"\(epochs must be a whole number >= 1, got 0; lr must be a number > 0, got -1"
    ):
        Recipe(epochs=0, lr=-1)


def test_a_recipe_cannot_be_changed():
    recipe, inits = Recipe(), ["normal", "xavier"]
    with pytest.raises(FrozenInstanceError):
        recipe.lr = 1.0
    dealt = Recipe(init=inits)
    inits.append("zeros")
    assert dealt.inits == ("normal", "xavier") and [dealt.init_of(m) for m in range(3)] == [
        "normal",
        "xavier",
        "normal",
    ]


def test_equal_values_are_one_recipe():
    numpy = Recipe(epochs=np.int32(2), batch_size=np.int64(20), lr=np.float64(1e-2), init=list(INITS))
    plain = Recipe(epochs=2, batch_size=20, lr=1e-2, init=INITS)
    assert numpy == plain and hash(numpy) == hash(plain) and numpy != replace(plain, epochs=3)
    assert {type(v) for v in vars(numpy).values()} == {int, float, str, tuple}
    assert json.loads(json.dumps(numpy.to_json())) == numpy.to_json()


def test_what_has_no_effect_is_not_told():
    """The values by which zoos of version 0.1.0 are found."""
    assert Recipe().to_json() == PLAIN and list(Recipe().to_json()) == list(PLAIN)
    assert Recipe(momentum=0.5).to_json() == PLAIN
    assert Recipe(optimizer="sgd", momentum=0.5).to_json() == PLAIN | {"optimizer": "sgd", "momentum": 0.5}
    assert Recipe(precision="bfloat16").to_json() == PLAIN | {"precision": "bfloat16"}
    assert Recipe(init=INITS).to_json() == PLAIN | {"init": list(INITS)}


@pytest.mark.parametrize(("name", "made"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_the_optimizer_is_the_one_that_is_named(name, made):
    weights = torch.zeros(3, requires_grad=True)
    optimizer = Recipe(optimizer=name, lr=0.25, momentum=0.5, weight_decay=0.125).optimizer_for(iter([weights]))
    (group,) = optimizer.param_groups
    assert type(optimizer).__name__ == made and group["lr"] == 0.25 and group["weight_decay"] == 0.125
    assert group.get("momentum") == (0.5 if name == "sgd" else None) and group["params"][0] is weights
