"""The tasks of the course by name: embedded in scikit-learn, made from a seed, or read from files."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch

from dwflow_lite.support.checks import check_options
from dwflow_lite.tasks.glyphs import Difficulty, glyphs
from dwflow_lite.tasks.images import cifar10, fashion_mnist, mnist
from dwflow_lite.tasks.splits import Split
from dwflow_lite.tasks.task import DataNotFoundError, Task
from dwflow_lite.tasks.text import Vocabulary, made_vocabulary, make_reviews, read_reviews


def digits(seed: int = 0) -> Task:
    """1,797 grey images of 8 × 8 pixels, in [0, 1], ten classes (scikit-learn, embedded)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)  # (1797, 64), from 0 to 16
    x = (images / 16).reshape(-1, 1, 8, 8)
    return Task.from_arrays(x, labels, classes=[str(digit) for digit in range(10)], seed=seed, name="digits")


def iris(seed: int = 0) -> Task:
    """150 flowers, four measurements, three species (scikit-learn, embedded), standardised on train."""
    from sklearn.datasets import load_iris

    flowers = load_iris()
    x = flowers.data.astype(np.float32)  # as version 0.1.0 had them when it measured their scale
    fractions = {"train": 0.5, "calibration": 0.1, "validation": 0.2, "test": 0.2}
    return Task.from_arrays(
        x,
        flowers.target,
        classes=flowers.target_names,
        fractions=fractions,
        standardise=True,
        seed=seed,
        name="iris",
    )


def reviews(seed: int = 0, examples: int = 7000) -> Task:
    """Made reviews (:func:`make_reviews`): 13 tokens, stars from 0 to 1, scored by rank.

    Args:
        seed: of the reviews and of the cut.
        examples: how many reviews.
    """
    texts, stars = make_reviews(examples, seed)
    tokens = made_vocabulary().encode(texts, 13)
    return Task.from_arrays(
        tokens,
        _from_zero_to_one(stars),
        kind="regression",
        metric="Spearman",
        tokens=True,
        standardise=False,
        seed=seed,
        name="reviews",
    )


def yelp(
    seed: int = 0,
    file: str | Path | None = None,
    test_file: str | Path | None = None,
    examples: int | None = None,
    words: int = 30_000,
    length: int = 128,
) -> Task:
    """Reviews of a file of yours, as Yelp's: tokens, stars from 0 to 1, scored by rank.

    Args:
        seed: of the cut.
        file: see :func:`read_reviews`. Of equal texts the first is kept.
        test_file: the official test set, which becomes the test split; without it one is cut from ``file``. No text of
            it is trained on, should ``file`` hold it too.
        examples: read at most so many of each file.
        words: size of the vocabulary, which the train split alone decides.
        length: of a text in tokens; longer ones are cut.

    Raises:
        DataNotFoundError: no file is given, or it is not there.
        ValueError: it holds anything but reviews.
    """
    _check_review_files(file, test_file)
    stars_of: dict[str, int] = {}  # text -> stars; a text met again keeps its first
    if test_file is not None:
        _add_reviews(stars_of, test_file, examples)
    tested = len(stars_of)
    _add_reviews(stars_of, file, examples)
    texts = list(stars_of)
    stars = np.array(list(stars_of.values()))

    # The cut comes before the words, which train alone decides: so cut the positions of the texts.
    positions = np.arange(len(texts))[:, None]  # (n, 1)
    targets = _from_zero_to_one(stars)
    official = {"x_test": positions[:tested], "y_test": targets[:tested]} if test_file is not None else {}
    task = Task.from_arrays(
        positions[tested:],
        targets[tested:],
        **official,
        kind="regression",
        metric="Spearman",
        tokens=True,
        standardise=False,
        seed=seed,
        name="yelp",
    )
    texts_of = {name: [texts[i] for i in split.x[:, 0]] for name, split in task.splits.items()}
    vocabulary = Vocabulary.of(texts_of["train"], words)
    splits = {
        name: Split(torch.from_numpy(vocabulary.encode(texts_of[name], length)), split.y)
        for name, split in task.splits.items()
    }
    return replace(task, splits=splits)


def _from_zero_to_one(stars: np.ndarray) -> np.ndarray:
    """Stars 1 … 5 (n,) as targets 0 … 1 (n,)."""
    return (stars - 1) / 4


def _check_review_files(file: str | Path | None, test_file: str | Path | None) -> None:
    """``DataNotFoundError`` that says which files to get, unless those named are there."""
    advice = (
        "get train.csv and test.csv of yelp_review_full (or yelp_academic_dataset_review.json) and pass "
        "load_task('yelp', file='train.csv', test_file='test.csv')"
    )
    if file is None:
        raise DataNotFoundError(f"no file given: {advice}")
    for path in (file, test_file):
        if path is not None and not Path(path).is_file():
            raise DataNotFoundError(f"no file {path}: {advice}")


def _add_reviews(stars_of: dict[str, int], path: str | Path, limit: int | None) -> None:
    """Add the texts of a file that are not in ``stars_of`` yet, with their stars."""
    texts, stars = read_reviews(path, limit)
    for text, star in zip(texts, stars, strict=True):
        stars_of.setdefault(text, star)


TASKS: dict[str, Callable[..., Task]] = {
    "digits": digits,
    "iris": iris,
    "glyphs": glyphs,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "reviews": reviews,
    "yelp": yelp,
}


# What an editor completes: the options of each task are those of its maker (a test holds them equal).
@overload
def load_task(name: Literal["digits", "iris"], seed: int = 0) -> Task: ...
@overload
def load_task(
    name: Literal["glyphs"],
    seed: int = 0,
    *,
    symbols: str = "digits",
    domain: str = "upright",
    size: int = 12,
    train: int = 6000,
    calibration: int = 1000,
    validation: int = 2000,
    test: int = 10_000,
    difficulty: Difficulty = Difficulty(),  # noqa: B008 - frozen
) -> Task: ...
@overload
def load_task(
    name: Literal["mnist", "fashion_mnist", "cifar10"],
    seed: int = 0,
    *,
    folder: str | Path | None = None,
    download: bool = True,
) -> Task: ...
@overload
def load_task(name: Literal["reviews"], seed: int = 0, *, examples: int = 7000) -> Task: ...
@overload
def load_task(
    name: Literal["yelp"],
    seed: int = 0,
    *,
    file: str | Path | None = None,
    test_file: str | Path | None = None,
    examples: int | None = None,
    words: int = 30_000,
    length: int = 128,
) -> Task: ...
@overload
def load_task(name: str, seed: int = 0, **options: object) -> Task: ...
def load_task(name: str, seed: int = 0, **options: object) -> Task:
    """A task of the course by name.

    Args:
        name: one of ``TASKS``: ``digits``, ``iris``, ``glyphs``, ``mnist``, ``fashion_mnist``, ``cifar10``,
            ``reviews``, ``yelp``.
        seed: of the cut; one seed gives one cut, always.
        options: of that task alone: ``symbols``, ``domain`` and others of :func:`glyphs`, ``folder`` and ``download``
            of the image sets, ``examples`` of ``reviews``, ``file`` and others of :func:`yelp`.

    Raises:
        ValueError: no task of that name.
        TypeError: an option that the task does not have.
        DataNotFoundError: the files of the task are not there.

    Example:
        >>> task = load_task("iris")
        >>> task.kind, task.outputs, task.input_shape
        ('classification', 3, (4,))
        >>> {split: len(task.split(split)) for split in task.splits}
        {'train': 75, 'calibration': 15, 'validation': 30, 'test': 30}
    """
    if name not in TASKS:
        raise ValueError(f"no task {name!r}: choose one of {', '.join(TASKS)}, or build one with Task.from_arrays")
    check_options(f"load_task({name!r})", options, list(inspect.signature(TASKS[name]).parameters))
    return TASKS[name](seed=seed, **options)
