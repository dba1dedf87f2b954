"""A zoo and a reader's rows: what belongs together, and what is said of what does not."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from torch import nn

from dwflow_lite.auditing import audit
from dwflow_lite.networks import MLP
from dwflow_lite.tasks import SPLITS, Task, Vocabulary
from dwflow_lite.training import Recipe, train_zoo
from dwflow_lite.zoo import Zoo, evaluate, predict

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
REGRESSION = {"kind": "regression"}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = np.arange(60) % 3
T = 100 + 10 * X[:, 0]


class Frame:
    """As much of a data frame as tables ask of one; the tests need no pandas."""

    def __init__(self, **columns):
        self.data = columns
        self.columns = list(columns)
        self.shape = (len(next(iter(columns.values()))), len(columns))

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, name):
        return self.data[name]

    def to_numpy(self):
        return np.stack(list(self.data.values()), 1)


def trained_on(task, *sizes):
    return train_zoo(task, MLP(sizes), members=3, recipe=Recipe(epochs=2))


def warnings_of(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return caught


@pytest.mark.parametrize(
    "load, options", [(load_wine, {}), (load_breast_cancer, {}), (load_diabetes, {"kind": "regression"})]
)
def test_predictions_of_raw_rows_are_warned_of_and_those_of_prepared_rows_are_not(load, options):
    x, y = load(return_X_y=True, **({"scaled": False} if load is load_diabetes else {}))
    task = Task.from_arrays(x, y, **options)
    zoo = trained_on(task, x.shape[1], 4, task.outputs)
    for rows in (1, 5, len(x)):
        (warning,) = warnings_of(lambda rows=rows: predict(zoo, torch.tensor(x[:rows], dtype=torch.float32)))
        assert "task.prepare(rows)" in str(warning.message) and warning.filename == __file__
        assert not warnings_of(lambda rows=rows: predict(zoo, task.prepare(x[:rows])))
    assert not warnings_of(lambda: [evaluate(zoo, task, split) for split in SPLITS])
    # Control: one prepared row far out is no reason, nor are raw rows of a task that is not standardised.
    far = task.prepare(x[:5])
    far[0] = 1e4
    assert not warnings_of(lambda: predict(zoo, far))
    plain = Task.from_arrays(x, y, standardise=False, **options)
    assert not warnings_of(lambda: predict(trained_on(plain, x.shape[1], 4, task.outputs), plain.prepare(x[:5])))


def test_a_task_made_of_new_rows_is_not_the_one_that_the_zoo_was_trained_on():
    x, y = load_wine(return_X_y=True)
    first, new = np.arange(0, len(x), 2), np.arange(1, len(x), 2)
    task = Task.from_arrays(x[first], y[first], name="wine")
    zoo = trained_on(task, 13, 4, 3)
    of_new_rows = Task.from_arrays(x[new], y[new], name="new")
    (warning,) = warnings_of(lambda: evaluate(zoo, of_new_rows))
    assert "standardised otherwise" in str(warning.message) and "'wine'" in str(warning.message)
    assert warning.filename == __file__
    as_they_are = Task.from_arrays(x[first], y[first], standardise=False, name="wine")
    assert len(warnings_of(lambda: evaluate(zoo, as_they_are))) == 1
    # Control: the task itself, made again, and networks of which no task is known.
    again = Task.from_arrays(x[first].tolist(), y[first], name="again")
    assert again.fingerprint == task.fingerprint
    assert not warnings_of(lambda: evaluate(zoo, again))
    for record in ({}, {"task": {"name": "wine"}}):
        assert not warnings_of(lambda r=record: evaluate(Zoo.from_modules([MLP([13, 4, 3])], record=r), of_new_rows))


@pytest.mark.parametrize(
    "call, kind, says",
    [
        (lambda zoo, task: predict(zoo, X[:2]), TypeError, r"task.prepare\(rows\) makes it; got ndarray"),
        (lambda zoo, task: predict(zoo, X[:2].tolist()), TypeError, "got list"),
        (lambda zoo, task: predict(zoo, "rows.csv"), TypeError, "got str"),
        (lambda zoo, task: predict(torch.zeros(2, 3), zoo), TypeError, "outputs are those of a Zoo; got Tensor"),
        (lambda zoo, task: predict(zoo.module(0), torch.zeros(2, 3)), TypeError, "got MLP .*from_modules"),
        (
            lambda zoo, task: predict(zoo, torch.tensor(X[:2])),
            (RuntimeError, IndexError),
            r"float64 inputs of shape \(3,\): task.prep",
        ),
        (
            lambda zoo, task: predict(zoo, torch.zeros(2, 3, dtype=torch.int64)),
            (RuntimeError, IndexError),
            "int64 inputs of shape",
        ),
        (
            lambda zoo, task: predict(zoo, torch.zeros(2, 4)),
            (RuntimeError, IndexError),
            r"float32 inputs of shape \(4,\)",
        ),
        (lambda zoo, task: predict(zoo, torch.zeros(3)), (RuntimeError, IndexError), r"float32 inputs of shape \(\)"),
        (lambda zoo, task: evaluate(task, zoo), TypeError, "a task is made by .*; got Zoo$"),
        (lambda zoo, task: evaluate(zoo.module(0), task), TypeError, "outputs are those of a Zoo; got MLP"),
        (lambda zoo, task: train_zoo((X, T), MLP([3, 1]), members=1), TypeError, "a task is made by .*; got tuple$"),
        (lambda zoo, task: task.in_units(0.5), ValueError, r"\(\.\.\., 1\); got \(\)"),
        (lambda zoo, task: task.in_units([["much"]]), ValueError, "values are numbers"),
    ],
)
def test_what_is_no_input_of_a_zoo_is_said_in_one_sentence(call, kind, says):
    task = Task.from_arrays(X, T, **REGRESSION)
    zoo = trained_on(task, 3, 4, 1)
    with pytest.raises(kind) as error:
        call(zoo, task)
    said = "; ".join([str(error.value), *getattr(error.value, "__notes__", [])])  # errors of networks keep their words
    assert re.search(says, said)
    assert predict(zoo, task.prepare(X[:2])).shape == (3, 2, 1)  # the control


def test_outputs_have_units_as_tensors_arrays_and_lists():
    task = Task.from_arrays(X, T, **REGRESSION)
    outputs = torch.tensor([[0.5], [-1.0]])
    for same in (outputs.numpy(), outputs.tolist()):
        assert torch.equal(task.in_units(same), task.in_units(outputs))
    assert torch.equal(task.in_units(outputs), outputs.double() * T[task.indices["train"]].std() + task.in_units([0.0]))


def test_a_task_prints_in_one_line_without_its_data():
    task = Task.from_arrays(X, Y, name="mine")
    assert repr(task) == (
        "Task('mine': classification, inputs (3,), 3 classes; train 36, calibration 3, validation 9, test 12)"
    )
    assert "1 targets" in repr(Task.from_arrays(X, T, **REGRESSION))


def test_a_pickled_task_prepares_new_rows_in_another_process(tmp_path):
    task = Task.from_arrays(X * 1e3, T, **REGRESSION)
    zoo = trained_on(task, 3, 4, 1)
    zoo.save(tmp_path / "zoo.safetensors")
    (tmp_path / "task.pickle").write_bytes(pickle.dumps(task))
    code = (
        "import pickle, sys, torch; from dwflow_lite import MLP, Zoo, predict\n"
        "task, zoo = pickle.load(open('task.pickle', 'rb')), Zoo.load('zoo.safetensors', MLP([3, 4, 1]))\n"
        "print(task.in_units(predict(zoo, task.prepare([[1.0, 20.0, 300.0]]))).flatten().tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    there = json.loads(done.stdout)
    here = task.in_units(predict(zoo, task.prepare([[1.0, 20.0, 300.0]]))).flatten().tolist()
    assert np.allclose(there, here)
    assert not np.allclose(there, task.in_units(predict(zoo, torch.tensor([[1.0, 20.0, 300.0]]))).flatten())  # control


# -- what newcomers bring ----------------------------------------------------------------------------------------------

TEXTS = ["a good film", "a bad film"] * 30
FIELDS = np.array([(1, 2.0)] * 60, dtype=[("age", int), ("size", float)])


@pytest.mark.parametrize(
    "changed, says",
    [
        ({"x": TEXTS}, r"x holds texts \('a good film'\), .*Vocabulary.*tokens=True"),
        ({"x": TEXTS, "tokens": True}, r"x holds texts \('a good film'\)"),
        ({"x": np.array(TEXTS, dtype=object)}, r"x holds texts"),
        ({"x": "table.csv"}, "x is the text 'table.csv' and no array: if it names a file, read that first"),
        ({"x": FIELDS}, r"x has named fields \(age, size\)"),
        ({"y": np.array([None, *"ab" * 29, "a"], dtype=object)}, "1 of them are missing: leave these"),
        ({"y": np.array([np.nan, np.nan, *"ab" * 29], dtype=object)}, "2 of them are missing: leave these"),
        ({"y": np.array([*"ab" * 30], dtype=object)}, r"; np.unique\(y, return_inverse=True\)"),  # a control
        ({"y": np.where(Y > 0, 1, -1)}, r"count the classes from 0 \(np.unique.*take kind='regression'"),
        ({"y": np.arange(60)}, "are needed: bring more examples"),
    ],
)
def test_arrays_of_newcomers_are_refused_with_what_to_do(changed, says):
    with pytest.raises(ValueError, match=says) as error:
        Task.from_arrays(**({"x": X, "y": Y} | changed))
    assert "\n" not in str(error.value) and "np.str_" not in str(error.value)


def test_what_an_error_says_to_do_works():
    tokens = Vocabulary.of(TEXTS).encode(TEXTS, length=5)
    assert Task.from_arrays(tokens, Y, tokens=True).input_shape == (5,)
    names, labels = np.unique(np.where(Y > 0, 1, -1), return_inverse=True)
    assert Task.from_arrays(X, labels).outputs == len(names) == 2
    columns = np.stack([FIELDS[field] for field in FIELDS.dtype.names], 1)
    assert Task.from_arrays(columns, Y).input_shape == (2,)
    task = Task.from_arrays(X, Y)
    assert torch.equal(task.prepare([X[7]]), task.prepare(X[7:8]))


@pytest.mark.parametrize("unit", ["D", "us"])
def test_times_in_a_column_are_named_as_what_they_are(unit):
    times = np.arange(60).astype(f"timedelta64[{unit}]")
    with pytest.raises(ValueError, match=r"column 'wait' holds datetime\.timedelta"):
        Task.from_arrays(Frame(wait=times), Y)
    assert Task.from_arrays(Frame(wait=times / np.timedelta64(1, unit)), Y).input_shape == (1,)  # the control


@pytest.mark.parametrize("shape", [(3,), (2, 4, 4)])
def test_one_row_alone_is_told_from_rows_of_another_shape(shape):
    x = RNG.normal(size=(60, *shape))
    task = Task.from_arrays(x, Y)
    with pytest.raises(ValueError, match=r"that of one row alone: .*\[x\]"):
        task.prepare(x[0])
    with pytest.raises(ValueError, match="these rows have inputs of shape"):
        task.prepare(x[:3, ..., :-1])  # the control


@pytest.mark.parametrize(
    "names, says",
    [
        ("bac", r"\['a', 'b', 'c'\]: order them alike$"),
        ("abcy", ": order them alike, and leave the others out$"),
        ("ab", r": \['c'\] is missing$"),
        ("ay", r": \['b', 'c'\] are missing, and leave the others out$"),
    ],
)
def test_columns_of_new_rows_are_told_apart(names, says):
    task = Task.from_arrays(Frame(a=X[:, 0], b=X[:, 1], c=X[:, 2]), Y)
    assert task.prepare(Frame(a=X[:, 0], b=X[:, 1], c=X[:, 2])).shape == (60, 3)
    with pytest.raises(ValueError, match=says):
        task.prepare(Frame(**{name: X[:, 0] for name in names}))


def test_images_that_would_not_be_scaled_are_warned_of():
    pixels = RNG.integers(0, 256, (60, 3, 4, 4))
    for x in (pixels, pixels.astype(float), torch.tensor(pixels), pixels[:, 0]):
        (warning,) = warnings_of(lambda x=x: Task.from_arrays(x, Y))
        assert "x.astype(np.uint8)" in str(warning.message) and warning.filename == __file__
    for x in (pixels.astype(np.uint8), pixels / 255, pixels % 100, pixels - 1, pixels.reshape(60, -1)):  # controls
        assert not warnings_of(lambda x=x: Task.from_arrays(x, Y))
    assert not warnings_of(lambda: Task.from_arrays(pixels, Y, standardise=True))


@pytest.mark.parametrize(
    "shape, says",
    [((8, 8, 3), r"channels first: x.transpose\(0, 3, 1, 2\) \("), ((8, 8), r"here of one: x\[:, None\] \(")],
)
def test_a_convolution_says_where_its_channels_go(shape, says):
    x = RNG.integers(0, 256, (60, *shape), dtype=np.uint8)
    ready = x.transpose(0, 3, 1, 2) if len(shape) == 3 else x[:, None]
    network = nn.Sequential(nn.Conv2d(ready.shape[1], 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    task = Task.from_arrays(x, Y)
    zoo = train_zoo(Task.from_arrays(ready, Y), network, members=2, recipe=Recipe(epochs=1))  # the control
    with pytest.raises(ValueError, match=says):
        train_zoo(task, network, members=2, recipe=Recipe(epochs=1))
    with pytest.raises(ValueError, match=says):
        evaluate(zoo, task)
    with pytest.raises(ValueError, match=r"do not take inputs of shape \([^;]*$"):
        evaluate(Zoo.from_modules([MLP([5, 3])]), task)  # a control: it has no channels


def test_tokens_and_embeddings_belong_together():
    tokens = np.arange(300).reshape(60, 5) % 7
    embeds = nn.Sequential(nn.Embedding(7, 2), nn.Flatten(), nn.Linear(10, 3))
    as_tokens, as_amounts = Task.from_arrays(tokens, Y, tokens=True), Task.from_arrays(tokens, Y)
    with pytest.raises(ValueError, match=r"takes whole numbers: .*tokens=True"):
        train_zoo(as_amounts, embeds, members=1, recipe=Recipe(epochs=1))
    with pytest.raises(ValueError, match=r"to be looked up in nn\.Embedding first"):
        train_zoo(as_tokens, MLP([5, 3]), members=1, recipe=Recipe(epochs=1))
    for task, network in ((as_tokens, embeds), (as_amounts, MLP([5, 3]))):  # the control
        assert len(train_zoo(task, network, members=1, recipe=Recipe(epochs=1))) == 1


@pytest.mark.parametrize(
    "texts, says",
    [
        ("a good day", r"not one alone: \['a good day'\]"),
        (["a good day", None], "text 1 is None, not a text"),
        ([1, 2], "text 0 is 1, not a text"),
        (["a", float("nan")], "text 1 is nan"),
    ],
)
def test_one_text_is_not_taken_for_its_letters(texts, says):
    words = Vocabulary.of(["a good day"])
    for call in (Vocabulary.of, lambda texts: words.encode(texts, length=4)):
        with pytest.raises(ValueError, match=says):
            call(texts)
    assert words.encode(["a good day"], length=4).tolist() == [[1, 3, 5, 4]]  # the control


def test_an_audit_may_score_by_another_metric_than_training_did():
    task = Task.from_arrays(X, T, **REGRESSION)
    zoo = train_zoo(task, MLP([3, 4, 1]), members=4, recipe=Recipe(epochs=1))
    by_rank = Task.from_arrays(X, T, metric="Spearman", **REGRESSION)
    assert audit(zoo, zoo, by_rank, controls={}).score_name == "Spearman"
    other_cut = Task.from_arrays(X, T, metric="Spearman", seed=1, **REGRESSION)
    with pytest.raises(ValueError, match="another cut of 'arrays'"):  # the control
        audit(zoo, zoo, other_cut, controls={})
