"""A reader's table as it comes: standardised, told in units, refused by the name of its column."""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

from dwflow_lite.auditing import audit
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import TRIVIAL, DeepWeightFlow
from dwflow_lite.networks import MLP
from dwflow_lite.symmetry import linear_barrier
from dwflow_lite.tasks import SPLITS, Task, load_task
from dwflow_lite.training import Recipe, train_zoo
from dwflow_lite.zoo import Zoo, evaluate, predict

REGRESSION = {"kind": "regression"}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = np.arange(60) % 3
T = 100 + 10 * X[:, 0]


class Column:
    """A column of a data frame, as pandas has it: values with a type of their own."""

    def __init__(self, values, dtype=None):
        self.values = np.asarray(values)
        self.dtype = dtype or self.values.dtype

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


class Frame:
    """As much of a data frame as tables ask of one; the tests need no pandas."""

    def __init__(self, **columns):
        self.data = {name: Column(values) for name, values in columns.items()}
        self.columns = list(columns)
        self.shape = (len(next(iter(self.data.values())).values), len(columns))

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, name):
        return self.data[name]

    def to_numpy(self):
        return np.stack([column.values for column in self.data.values()], 1)


def frame(**more):
    return Frame(age=X[:, 0], size=X[:, 1], weight=X[:, 2], **more)


# -- tables as they come ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("load", "least"), [(load_wine, 0.9), (load_breast_cancer, 0.9)])
def test_a_classification_is_as_good_as_on_standardised_data(load, least):
    x, y = load(return_X_y=True)
    task = Task.from_arrays(x, y)
    raw = Task.from_arrays(x, y, standardise=False)
    scaler = StandardScaler().fit(x[task.indices["train"]])
    by_hand = Task.from_arrays(scaler.transform(x), y, standardise=False)
    network = MLP([x.shape[1], 32, task.outputs])
    zoos = [train_zoo(t, network, members=4, recipe=Recipe(batch_size=32)) for t in (task, by_hand, raw)]
    means = [float(zoo.scores("validation").mean()) for zoo in zoos]
    assert means[0] > least and means[0] == pytest.approx(means[1], abs=0.01)
    assert means[2] < means[0] - 0.02  # control: columns from 0.1 to 1,000, as they are


@pytest.mark.parametrize("seed", [0, 3])
def test_diabetes_has_the_r2_of_the_recipe_and_losses_in_its_units(seed):
    x, y = load_diabetes(return_X_y=True)
    task = Task.from_arrays(x, y, **REGRESSION, seed=seed, name="diabetes")
    zoo = train_zoo(task, MLP([10, 64, 1]), members=6, held_out=1)
    assert float(zoo.scores("validation").mean()) > 0.4
    raw = train_zoo(Task.from_arrays(x, y, **REGRESSION, standardise=False, seed=seed), MLP([10, 64, 1]), members=2)
    assert float(raw.scores("validation").mean()) < 0  # control

    rows = task.indices["validation"]
    told = task.in_units(predict(zoo, task.prepare(x[rows])))  # (members, n, 1)
    error = told[..., 0].numpy() - y[rows]
    evaluation = evaluate(zoo, task)
    np.testing.assert_allclose(evaluation.loss, (error**2).mean(1), rtol=1e-5)
    np.testing.assert_allclose(evaluation.score, [r2_score(y[rows], y[rows] + e) for e in error], atol=1e-5)
    np.testing.assert_allclose(zoo.record["losses"]["validation"], (error**2).mean(1), rtol=1e-4)
    assert 1000 < np.mean(zoo.record["train_loss"][-1]) < zoo.record["train_loss"][0][0]  # squared units, not below 1
    measured = task.measures(predict(zoo, task.validation.x), task.validation.y)
    np.testing.assert_allclose(measured["MAE"], np.abs(error).mean(1), rtol=1e-5)


def test_the_whole_way_from_a_table_to_an_audit_and_back_to_units(tmp_path):
    x, y = load_diabetes(return_X_y=True)
    task = Task.from_arrays(x, y, **REGRESSION, name="diabetes")
    zoo = train_zoo(task, MLP([10, 16, 1]), members=5, recipe=Recipe(epochs=60))
    model = DeepWeightFlow(flow=FlowSettings(hidden=32, steps=100)).fit(zoo)
    generated = model.sample(3, seed=1)
    table = audit(generated, model.zoo_, task, controls={"retrieval": TRIVIAL["retrieval"]})
    assert table.score_name == "R²" and table["generated"].score > 0.3
    assert linear_barrier(model.zoo_, [(0, 1)], task, points=3).loss[0, 0] > 1000

    # Whoever has a generated network alone finds in its record what rows are to be scaled by.
    path = generated.save(tmp_path / "made.safetensors")
    record = Zoo.load(path, MLP([10, 16, 1])).record["task"]
    assert record["score"] == "R²" and json.dumps(record)
    scales = {what: [np.array(scale[k]) for k in ("mean", "std")] for what, scale in record["standardised"].items()}
    by_hand = torch.from_numpy((x - scales["inputs"][0]) / scales["inputs"][1]).float()
    torch.testing.assert_close(by_hand, task.prepare(x))
    outputs = predict(generated, by_hand).double()
    mean, std = (torch.from_numpy(number) for number in scales["targets"])
    torch.testing.assert_close(task.in_units(outputs), outputs * std + mean)


def test_one_loss_is_minimised_and_the_one_in_units_is_told():
    task = Task.from_arrays(X, 1e6 * T, **REGRESSION)
    recipe = Recipe(epochs=3, optimizer="sgd", lr=0.05, batch_size=16)
    batched, loop = (train_zoo(task, MLP([3, 4, 1]), members=2, recipe=recipe, method=m) for m in ("batched", "loop"))
    torch.testing.assert_close(batched.weights, loop.weights)
    assert batched.weights.abs().max() < 10  # a step of 1e14 has not been taken
    np.testing.assert_allclose(batched.record["train_loss"], loop.record["train_loss"], rtol=1e-3)
    assert batched.record["train_loss"][0][0] > 1e10
    y = task.test.y
    assert task.loss(y, y) == 0 and task.training_loss(y + 3, y) == pytest.approx(9)
    assert float(task.loss(y + 3, y)) == pytest.approx(9 * task.preparation.targets.std[0] ** 2)
    raw = Task.from_arrays(X, T, **REGRESSION, standardise=False)  # control: nothing to turn into units
    assert raw.loss(y + 3, y) == raw.training_loss(y + 3, y) and raw.in_units(y) is y


def test_vectors_are_standardised_by_default_images_and_tokens_are_not():
    images = 5 + RNG.normal(size=(60, 1, 4, 4))
    tokens = RNG.integers(0, 9, (60, 4))
    assert abs(float(Task.from_arrays(X * 1000, Y).train.x.std()) - 1) < 0.02
    assert float(Task.from_arrays(X * 1000, Y, standardise=False).train.x.std()) > 500
    assert float(Task.from_arrays(images, Y).train.x.mean()) > 4
    assert abs(float(Task.from_arrays(images, Y, standardise=True).train.x.mean())) < 1e-5
    text = Task.from_arrays(tokens, T, tokens=True, **REGRESSION)
    assert text.train.x.dtype == torch.int64 and abs(float(text.train.y.mean())) < 1e-5
    assert text.in_units(text.train.y)[:, 0].numpy() == pytest.approx(T[text.indices["train"]])
    assert load_task("reviews", examples=60).preparation.targets is None
    with pytest.raises(ValueError, match="standardise is True, False or None"):
        Task.from_arrays(X, Y, standardise="no")


def test_r2_is_the_mean_over_outputs_whatever_their_units():
    targets = np.stack([T, 1000 * X[:, 1] ** 2], 1)
    task, raw = (Task.from_arrays(X, targets, **REGRESSION, standardise=s) for s in (None, False))
    noise = torch.randn(len(task.validation), 2, generator=torch.Generator().manual_seed(0))
    outputs = task.validation.y + noise
    in_units = task.in_units(outputs)
    expected = r2_score(targets[task.indices["validation"]], in_units)
    assert float(task.score(outputs, task.validation.y)) == pytest.approx(expected, rel=1e-4)
    assert float(raw.score(in_units, raw.validation.y)) == pytest.approx(expected, rel=1e-4)
    pooled = 1 - ((in_units - raw.validation.y) ** 2).sum() / ((raw.validation.y - raw.validation.y.mean(0)) ** 2).sum()
    assert float(pooled) != pytest.approx(expected, rel=0.05)  # control: the larger units decide that one
    constant = torch.full((4, 1), 7.0)
    assert raw.score(constant, constant) == 1 and raw.score(constant + 1, constant) == 0  # as scikit-learn has it


# -- new rows ---------------------------------------------------------------------------------------------


def test_new_rows_are_prepared_as_the_old_ones_were():
    tokens = RNG.integers(0, 9, (60, 4))
    bytes_ = RNG.integers(0, 255, (60, 1, 2, 2)).astype(np.uint8)
    for x, options in ((1e8 + X, {}), (X, {"standardise": False}), (tokens, {"tokens": True}), (bytes_, {})):
        task = Task.from_arrays(x, Y, **options)
        for split in SPLITS:
            assert torch.equal(task.prepare(x[task.indices[split]]), task.split(split).x)
    task = Task.from_arrays(frame(), Y)
    rows = np.stack([X[:, i] for i in range(3)], 1)
    assert torch.equal(task.prepare(frame()), task.prepare(rows))
    assert torch.equal(pickle.loads(pickle.dumps(task)).prepare(rows), task.prepare(rows))
    assert torch.equal(task.to("cpu").prepare(rows), replace(task, name="other").prepare(rows))
    refused = {
        "order them alike": Frame(size=X[:, 1], age=X[:, 0], weight=X[:, 2]),
        r"inputs of shape \(2,\), the task of \(3,\)": X[:, :2],
        "NaN or infinite values in 1 places in column 'size'": Frame(
            age=X[:, 0], size=np.where(np.arange(60) == 3, np.nan, X[:, 1]), weight=X[:, 2]
        ),
        "bring alike": X.astype(np.uint8),
        r"must have shape \(examples": X[0],
    }
    for message, x in refused.items():
        with pytest.raises(ValueError, match=message):
            task.prepare(x)
    with pytest.raises(ValueError, match="of a classification"):
        task.in_units(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"the 1 target\(s\) of a regression"):
        Task.from_arrays(X, T, **REGRESSION).in_units(torch.zeros(2, 3))


# -- what tables hold -------------------------------------------------------------------------------------


def test_kinds_of_tables_that_say_the_same_are_the_same_task():
    same = Task.from_arrays(X, Y).fingerprint
    several = [
        (X.tolist(), Y.tolist()),
        (torch.from_numpy(X), torch.from_numpy(Y)),
        (np.ma.masked_greater(X, 100), Y[:, None]),
        (frame(), Column(Y)),
        (X, Y.astype(float)),
        (X.astype(np.longdouble), Y.astype(np.uint64)),
        (Frame(age=X[:, 0].astype(object), size=X[:, 1], weight=X[:, 2]), Y),
    ]
    for x, y in several:
        assert Task.from_arrays(x, y).fingerprint == same
    assert Task.from_arrays(X + 1e-3, Y, standardise=False).fingerprint != same  # control
    whole = Task.from_arrays((X > 0).astype(int), X[:, 0] > 0)
    for x in (X > 0, (X > 0).astype(np.uint8), Frame(a=X[:, 0] > 0, b=(X[:, 1] > 0).astype(np.uint8), c=X[:, 2] > 0)):
        torch.testing.assert_close(Task.from_arrays(x, X[:, 0] > 0).train.x, whole.train.x, atol=1e-5, rtol=0)


MASKED = np.ma.masked_greater(X, 1)
LARGE = np.where(X > 1, 1e39, X)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": frame(city=["Berlin"] * 60)}, "column 'city' holds 'Berlin', to be encoded as numbers"),
        ({"x": frame(city=np.array([1, None, "x"] * 20, object))}, "column 'city' holds 'x'"),
        ({"x": frame(day=np.full(60, "2020-01-01", "datetime64[D]"))}, "got dtype datetime64.*column 'day'"),
        ({"x": frame(gap=np.where(X[:, 0] > 1, np.nan, 1))}, "NaN or infinite values in .* places in column 'gap'"),
        ({"x": frame(gap=np.array([1, None] * 30, object))}, "NaN or infinite values in 30 places in column 'gap'"),
        ({"x": frame(), "x_test": Frame(size=X[:, 1], age=X[:, 0], weight=X[:, 2]), "y_test": Y}, "order them alike"),
        ({"x": np.where(X > 1, np.nan, X)}, "NaN or infinite values in .* places in columns 0, 1, 2; clean it"),
        ({"x": MASKED}, r"x is masked in \d+ places in columns 0, 1, 2: fill them"),
        ({"y": np.ma.masked_equal(Y, 1)}, "y is masked in 20 places: fill them"),
        ({"y": np.ma.masked_greater(T, 100), **REGRESSION}, "y is masked in"),
        ({"x": LARGE, "standardise": False}, r"x is beyond float32 \(3.4e38\) in \d+ places in columns 0, 1, 2"),
        ({"x": LARGE[:, :, None, None]}, "x is beyond float32"),
        ({"y": 1e39 * T, "standardise": False, **REGRESSION}, r"y is beyond float32 \(3.4e38\) in 36 places:"),
        ({"x": X * [1, 1e200, 1]}, "x is too large to be standardised in column 1: divide it"),
        ({"x": scipy.sparse.csr_matrix(X)}, r"x is sparse, of shape \(60, 3\): pass x.toarray\(\)"),
        ({"x": torch.from_numpy(X).to_sparse()}, r"pass x.to_dense\(\)"),
        ({"x": {"a": X}}, "x is no array of numbers but dict"),
        ({"x": None}, "x is no array of numbers but NoneType"),
        ({"x": X[:, 0]}, r"one feature is x\[:, None\]"),
        ({"x": X[:, :0]}, "one number in each"),
        ({"x": X.astype(str)}, r"its numbers are written as text, pass x.astype\(float\)"),
        (
            {"x": np.where(X > 1, "", X.astype(str))},
            "column 0 holds '' where a number is missing: fill it in, or leave",
        ),
        ({"x": np.where([False, False, True], "red", X.astype(str))}, "column 2 holds 'red', to be encoded as numbers"),
        ({"x": frame(city=["NA", "Berlin"] * 30)}, "column 'city' holds 'Berlin', to be encoded as numbers"),
        ({"x": frame(mass=["1.5", "2"] * 30)}, "column 'mass' holds numbers written as text"),
        ({"x": frame(mass=["1.5", "?"] * 30)}, r"column 'mass' holds '\?' where a number is missing"),
        ({"y": np.array(["a", "b", "c"])[Y]}, r"np.unique\(y, return_inverse=True\) gives the names"),
        ({"y": np.eye(3)[Y]}, r"y.argmax\(1\) makes labels"),
        ({"y": T}, "pass kind='regression'"),
        ({"y": np.round(T)}, "but only .* occur: count them from 0"),
        ({"y": Y + 1}, "labels up to 3, but only 3 of the classes 0 … 3 occur"),
        ({"y": 10 * Y}, r"but only 3 of the classes 0 … 20 occur: .* or pass outputs="),
        ({"y": 0 * Y}, "one class only"),
        ({"y": np.where(Y == 1, np.nan, Y)}, "20 of them are NaN or infinite"),
        ({"y": Y * 1e30}, r"labels up to 2e\+30, beyond int64"),
        ({"y": Y * 1e30, "outputs": 10**31}, r"labels up to 2e\+30, beyond int64"),
        ({"y": Y * 2.0**62}, "labels up to 9.22337e.18, beyond int64"),
        ({"y": np.where(Y == 1, np.uint64(2**63 + 1), np.uint64(0))}, "beyond int64"),
        ({"x": np.full((60, 4), 2**63, np.uint64), "tokens": True}, "token 9223372036854775808, beyond int64"),
        ({"x": np.full((60, 4), 1e30), "tokens": True}, "must be whole numbers"),
        ({"y": T * 0 + 7, **REGRESSION}, "y is the same for all 60 examples: there is nothing to learn"),
        ({"y": np.stack([T, T * 0], 1), **REGRESSION}, "y in column 1 is the same"),
        ({"y": T.astype(str), **REGRESSION}, "y must be finite targets of shape"),
        ({"y": np.where(T > 100, np.nan, T), **REGRESSION}, "y must be finite targets .*NaN or infinite"),
        *[({"fractions": {s: share for s in SPLITS}}, "a share >= 0") for share in (np.nan, np.inf, "half", True)],
        ({"fractions": [0.25] * 4}, "a share >= 0"),
    ],
)
def test_what_is_no_table_is_named(changes, message):
    Task.from_arrays(X, Y), Task.from_arrays(X, T, **REGRESSION)  # control
    with pytest.raises(ValueError, match=message):
        Task.from_arrays(**({"x": X, "y": Y} | changes))


@pytest.mark.parametrize("size", [1e39, 1e-30, 1e100])
def test_numbers_beyond_float32_are_taken_where_they_are_scaled(size):
    task, same = Task.from_arrays(size * X, Y), Task.from_arrays(X, Y)
    torch.testing.assert_close(task.train.x, same.train.x)
    task = Task.from_arrays(X, size * T, **REGRESSION)
    assert task.in_units(task.train.y)[:, 0].numpy() == pytest.approx(size * T[task.indices["train"]])
    loss = float(task.loss(task.train.y + 1, task.train.y))
    assert loss == pytest.approx(float(task.preparation.targets.std[0]) ** 2) and 0 < loss < np.inf
    assert not 1.2e-38 < loss < 3.4e38  # control: float32 could not hold it


@pytest.mark.parametrize("offset", [1e8, -1e6, 1.7e9])
def test_a_large_offset_loses_nothing(offset):
    shifted = Task.from_arrays(X * 20 + offset, 20 * T + offset, **REGRESSION)
    plain = Task.from_arrays(X * 20, 20 * T, **REGRESSION)
    torch.testing.assert_close(shifted.train.x, plain.train.x, atol=1e-5, rtol=0)
    torch.testing.assert_close(shifted.train.y, plain.train.y, atol=1e-5, rtol=0)
    outputs = plain.train.y + 0.1
    assert float(shifted.loss(outputs, shifted.train.y)) == pytest.approx(
        float(plain.loss(outputs, plain.train.y)), 1e-3
    )
    rounded = (X * 20 + offset).astype(np.float32)  # control: what float32 makes of them
    assert np.abs(rounded - offset - X * 20).max() > 0.01


def test_a_column_that_hardly_varies_is_said():
    x = X.copy()
    x[:, 1] = 5 + 1e-9 * X[:, 1]
    with pytest.warns(UserWarning, match="x hardly varies in column 1: centred, but not scaled"):
        task = Task.from_arrays(x, Y)
    assert task.train.x[:, 1].abs().max() < 1e-6
    x[:, 1], x[:, 2] = 0.1, 1e15 + 1e5 * X[:, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = Task.from_arrays(x, Y)  # control: a constant is a constant, and a spread of 1e5 a spread
    assert (task.train.x[:, 1] == 0).all() and abs(float(task.train.x[:, 2].std()) - 1) < 0.05


# -- few rows ---------------------------------------------------------------------------------------------


def classes_of(task):
    return {split: set(task.split(split).y.tolist()) for split in SPLITS}


def test_each_split_has_each_class_that_has_enough_examples():
    for each in (4, 5, 7, 10):
        y = np.repeat(range(10), each)
        x = RNG.normal(size=(len(y), 2))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for seed in range(20):
                task = Task.from_arrays(x, y, seed=seed)
                assert all(classes == set(range(10)) for classes in classes_of(task).values())
                assert len(task.train) == max(len(task.split(split)) for split in SPLITS)
    # Control: rounding alone would leave calibration, 5 % of ten, without a class.
    edges = np.floor(np.array([0.6, 0.65]) * 10 + np.linspace(0, 0.99, 20)[:, None]).astype(int)
    assert (np.diff(edges) == 0).any()


def test_classes_that_are_too_rare_are_named_with_their_splits():
    y = np.array([0] * 50 + [1] * 7 + [2, 2, 3])
    for seed in range(10):
        with pytest.warns(UserWarning) as told:
            task = Task.from_arrays(X, y, seed=seed, name="rare")
        assert str(told[0].message) == (
            "task 'rare': class 2 (2 examples in all) is missing in calibration, test; "
            "class 3 (1 example in all) is missing in calibration, validation, test"
        )
        assert classes_of(task)["train"] == {0, 1, 2, 3} and classes_of(task)["calibration"] == {0, 1}
    with pytest.warns(UserWarning, match=r"no example of 2 of 5 classes \(3, 4\)"):
        Task.from_arrays(X, Y, outputs=5)
    with pytest.warns(UserWarning, match=r"class 1 \(20 examples in all\) is missing in test"):
        Task.from_arrays(X, Y, x_test=X[:5], y_test=0 * Y[:5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Task.from_arrays(X, Y)  # control


def test_tables_of_few_rows():
    for seed in range(10):
        few = Task.from_arrays(X[:12], Y[:12], seed=seed)
        assert all(classes == {0, 1, 2} for classes in classes_of(few).values())
        assert min(len(Task.from_arrays(X[:12], T[:12], **REGRESSION, seed=seed).split(s)) for s in SPLITS) >= 1
    with pytest.warns(UserWarning, match="validation, test with one example each: R² needs two"):
        few = Task.from_arrays(X[:5], T[:5], **REGRESSION)
    zoo = train_zoo(few, MLP([3, 2, 1]), members=2, recipe=Recipe(epochs=1))
    assert np.isfinite(zoo.record["losses"]["validation"]).all() and set(zoo.record["scores"]["test"]) == {0.0}
    with pytest.raises(ValueError, match=r"split\(s\) \['calibration'\] are empty"):
        Task.from_arrays(X[:3], T[:3], **REGRESSION)


# -- what a task is called, and known by ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["x/../../../escaped", "../x", "/tmp/x", "C:\\x", "", "  ", "..", "a\0b", "a\nb", "CON", "nul.txt", "a" * 300,
     "\ud800", None, 5],
)  # fmt: skip
def test_a_name_that_is_a_path_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="a task's name is a part of file names"):
        Task.from_arrays(X, Y, name=name)
    with pytest.raises(ValueError, match="a task's name is a part of file names"):
        replace(load_task("iris"), name=name)
    task = Task.from_arrays(X, Y, name="my {draft} of größe 2")  # control: what any file may be called
    train_zoo(task, MLP([3, 3]), members=1, recipe=Recipe(epochs=1), checkpoint=tmp_path / "here")
    assert [file.name[:25] for file in (tmp_path / "here").iterdir()] == ["zoo-my {draft} of größe 2"]


def test_the_fingerprint_covers_what_training_depends_on():
    task = Task.from_arrays(X, Y)
    others = [
        Task.from_arrays(X, Y, standardise=False),
        replace(task, outputs=4),
        Task.from_arrays(X, Y, seed=1),
        Task.from_arrays(X, Y, **REGRESSION),
        Task.from_arrays(X, 2 * Y, **REGRESSION),
        Task.from_arrays(X, Y, **REGRESSION, metric="Spearman"),
        Task.from_arrays(X, Y, **REGRESSION, standardise=False),
        replace(task, outputs=5),
    ]
    fingerprints = [other.fingerprint for other in (task, *others)]
    assert len(set(fingerprints)) == len(fingerprints)
    assert Task.from_arrays(X, Y, outputs=3).fingerprint == task.fingerprint  # control: said aloud, the same
    for number in ({"outputs": 0}, {"outputs": True}, {"seed": -1}):
        with pytest.raises(ValueError, match="outputs is a whole number >= 1, seed one >= 0"):
            replace(task, **number)
