"""Names of classes: what is refused, what keeps them, and how two tasks share them."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from dwflow_lite import MLP, Recipe, Task, Zoo, load_task, train_zoo
from dwflow_lite.tasks import SPLITS, shared_classes

X = np.random.default_rng(0).normal(size=(60, 2))
Y = np.arange(60) % 3
NAMES = ("cat", "dog", "cow")


def named(classes=NAMES, **options):
    return Task.from_arrays(X, Y, classes=classes, **options)


@pytest.mark.parametrize("classes", [NAMES, list(NAMES), np.array(NAMES), np.array(NAMES, dtype=object), iter(NAMES)])
def test_names_come_as_a_list_or_an_array_and_are_pythons_own_text(classes):
    task = named(classes)
    assert task.classes == task.class_names == NAMES
    assert {type(name) for name in task.classes} == {str}


def test_classes_without_names_are_called_by_their_numbers():
    task = Task.from_arrays(X, Y)
    assert task.classes == () and task.class_names == ("0", "1", "2")
    assert replace(task, outputs=4).class_names == ("0", "1", "2", "3")
    assert Task.from_arrays(X, Y, kind="regression").class_names == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["cat", "dog"]}, "2 names are given for 3 classes"),
        ({"classes": [*NAMES, "hen"]}, "4 names are given for 3 classes"),
        ({"classes": ["cat", "dog", "cat"]}, "classes are different names, and 'cat' stands there twice"),
        ({"classes": "abc"}, "classes are a list of names"),
        ({"classes": 3}, "classes are a list of names"),
        ({"classes": [0, 1, 2]}, "the name of a class is text, and not empty; got 0"),
        ({"classes": ["cat", " ", "dog"]}, "the name of a class is text, and not empty; got ' '"),
        ({"classes": np.array(["", "cat", "dog"])}, "got '': leave out the rows that have no label"),
        ({"kind": "regression"}, "a regression has no classes"),
    ],
)
def test_each_bad_list_of_names_is_refused_in_one_sentence(options, message):
    named()  # control
    with pytest.raises(ValueError, match=message) as error:
        named(**options)
    assert "\n" not in str(error.value) and ". " not in str(error.value)


def test_another_number_of_outputs_needs_other_names():
    with pytest.raises(ValueError, match="3 names are given for 4 classes"):
        replace(named(), outputs=4)
    assert replace(named(), outputs=4, classes=(*NAMES, "hen")).class_names[3] == "hen"  # control


def test_whatever_makes_a_task_of_a_task_keeps_the_names():
    task = named()
    for same in (task.to("cpu"), task.to("meta"), replace(task, name="other"), pickle.loads(pickle.dumps(task))):
        assert same.classes == NAMES


def test_an_archive_takes_names_as_arrays_do(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X, y_test=Y)
    assert Task.from_npz(tmp_path / "a.npz", classes=NAMES).classes == NAMES


def test_labels_that_are_text_are_made_numbers_and_names_by_one_line():
    species = np.array(NAMES)[Y]
    classes, y = np.unique(species, return_inverse=True)
    task = Task.from_arrays(X, y, classes=classes)
    rows = task.indices["test"]
    assert [task.class_names[label] for label in task.test.y] == species[rows].tolist()
    with pytest.raises(ValueError, match=r"names of the classes \(for classes=\)"):
        Task.from_arrays(X, species)


def test_names_are_in_no_fingerprint_so_that_zoos_are_found_again(tmp_path):
    plain, task = Task.from_arrays(X, Y), named()
    assert task.fingerprint == plain.fingerprint
    assert Task.from_arrays(X, Y, seed=1, classes=NAMES).fingerprint != plain.fingerprint  # control
    options = {"members": 2, "recipe": Recipe(epochs=1), "checkpoint": tmp_path / "kept"}
    zoo = train_zoo(plain, MLP([2, 3]), **options)
    again = train_zoo(task, MLP([2, 3]), **options)
    (file,) = (tmp_path / "kept").glob("*.safetensors")
    assert torch.equal(zoo.weights, again.weights) and zoo.record == again.record == Zoo.load(file, MLP([2, 3])).record


def test_the_tasks_of_the_course_have_names():
    assert load_task("digits").classes == tuple("0123456789")
    assert load_task("iris").classes == ("setosa", "versicolor", "virginica")
    assert load_task("reviews", examples=200).classes == ()


# -- two tasks --------------------------------------------------------------------------------------------


def test_labels_are_matched_by_name_and_never_by_number():
    source, target = named(), named(["hen", "cow", "cat"])
    assert shared_classes(source, target) == [(2, 1), (0, 2)]
    assert shared_classes(target, source) == [(2, 0), (1, 2)]
    assert shared_classes(source, source) == [(0, 0), (1, 1), (2, 2)]


def test_however_the_labels_are_numbered_the_same_examples_are_shared():
    rng = np.random.default_rng(1)
    for _ in range(5):
        order = rng.permutation(3)  # label i of the source is order[i] here
        target = Task.from_arrays(X, order[Y], classes=[NAMES[i] for i in np.argsort(order)])
        pairs = dict(shared_classes(named(), target))
        for split in SPLITS:
            original = torch.from_numpy(Y[target.indices[split]])
            assert torch.equal(torch.tensor([pairs[int(label)] for label in original]), target.split(split).y)


def test_two_tasks_without_a_common_name_are_refused_with_both_lists():
    with pytest.raises(ValueError, match=r"no class of task 'arrays' \(a, b, c\) has the name of one of"):
        shared_classes(named(), named(["a", "b", "c"]))
    assert shared_classes(named(), named(["a", "b", "dog"])) == [(1, 2)]  # control
    with pytest.raises(ValueError, match="is a regression and has no classes"):
        shared_classes(named(), Task.from_arrays(X, Y, kind="regression"))
    with pytest.raises(TypeError, match="a task is made by load_task"):
        shared_classes(named(), "digits")
