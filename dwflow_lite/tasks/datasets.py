"""The tasks of the course: embedded, made, downloaded, or read from files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dwflow_lite.support.checks import failing_as
from dwflow_lite.tasks.task import DataNotFoundError, Split, Task
from dwflow_lite.tasks.text import Vocabulary, made_vocabulary, make_reviews, read_reviews


def digits(seed: int = 0) -> Task:
    """1,797 grey images of 8 × 8 pixels, ten classes (scikit-learn, embedded)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = (images / 16).reshape(-1, 1, 8, 8)
    return Task.from_arrays(x, labels, seed=seed, name="digits")


def iris(seed: int = 0) -> Task:
    """150 flowers, four measurements, three species (scikit-learn, embedded), standardised on train."""
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    fractions = {"train": 0.5, "calibration": 0.1, "validation": 0.2, "test": 0.2}
    return Task.from_arrays(x, y, fractions=fractions, standardise=True, seed=seed, name="iris")


def data_folders() -> list[Path]:
    """Where downloadable data is looked for: ``$DWFLOW_DATA``, ``./data``, the repository's, the user's cache."""
    named = [Path(os.environ["DWFLOW_DATA"])] if os.environ.get("DWFLOW_DATA") else []
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dwflow_lite"
    return [*named, Path("data"), Path(__file__).resolve().parents[2] / "data", cache]


def _torchvision_images(which: str, seed: int, folder: str | Path | None, download: bool) -> Task:
    """A torchvision image set, cut; torchvision verifies the checksum of what it downloads."""
    with failing_as(f"{which} needs torchvision; try `python -m dwflow_lite check`", RuntimeError):
        from torchvision import datasets
    make = getattr(datasets, which)
    folders = [Path(folder)] if folder else data_folders()
    for place in folders:
        try:
            parts = [make(root=str(place), train=train, download=False) for train in (True, False)]
            break
        except Exception as error:
            if "Dataset not found" in str(error):
                continue
            raise ValueError(f"the {which} files in {place} are damaged ({error}); delete {which}/raw there") from error
    else:
        looked = ", ".join(map(str, folders))
        if not download:
            raise DataNotFoundError(
                f"{which} is in none of: {looked}. Set DWFLOW_DATA to its folder or pass download=True"
            )
        place = Path(folder) if folder else folders[0] if os.environ.get("DWFLOW_DATA") else folders[-1]
        try:
            parts = [make(root=str(place), train=train, download=True) for train in (True, False)]
        except Exception as error:
            raise DataNotFoundError(
                f"{which} is in none of: {looked}, and could not be downloaded to {place} ({error}). Offline? "
                f"Copy the {which}/raw files of a machine that has them and set DWFLOW_DATA to their folder"
            ) from error
    (x, y), (x_test, y_test) = [(_channels_first(np.asarray(p.data)), np.asarray(p.targets)) for p in parts]
    fractions = {"train": 0.88, "calibration": 0.02, "validation": 0.1, "test": 0.0}
    options = {"fractions": fractions, "seed": seed, "name": which.lower(), "outputs": 10}
    return Task.from_arrays(x, y, x_test=x_test, y_test=y_test, **options)


def _channels_first(images: np.ndarray) -> np.ndarray:
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def cifar10(seed: int = 0, folder: str | Path | None = None, download: bool = True) -> Task:
    """CIFAR-10, 3 × 32 × 32: 44,000 train / 1,000 calibration / 5,000 validation, the official 10,000 test images."""
    return _torchvision_images("CIFAR10", seed, folder, download)


def mnist(seed: int = 0, folder: str | Path | None = None, download: bool = True) -> Task:
    """MNIST, 28 × 28: 52,800 train / 1,200 calibration / 6,000 validation images, the official 10,000 test images."""
    return _torchvision_images("MNIST", seed, folder, download)


def fashion_mnist(seed: int = 0, folder: str | Path | None = None, download: bool = True) -> Task:
    """Fashion-MNIST, 28 × 28, cut as :func:`mnist`."""
    return _torchvision_images("FashionMNIST", seed, folder, download)


STARS = {"kind": "regression", "metric": "Spearman", "tokens": True}


def reviews(seed: int = 0, examples: int = 7000) -> Task:
    """Made reviews (:func:`dwflow_lite.reviews.make_reviews`): 13 tokens, stars from 0 to 1, scored by rank."""
    texts, stars = make_reviews(examples, seed)
    tokens = made_vocabulary().encode(texts, 13)
    return Task.from_arrays(tokens, (stars - 1) / 4, seed=seed, name="reviews", **STARS)


def yelp(
    seed: int = 0, file: str | Path | None = None, test_file: str | Path | None = None, examples: int | None = None,
    words: int = 30_000, length: int = 128,
) -> Task:  # fmt: skip
    """Reviews of a file of yours, as Yelp's: tokens, stars from 0 to 1, scored by rank.

    Args:
        seed: of the cut.
        file: see :func:`dwflow_lite.reviews.read_reviews`. Of equal texts the first is kept.
        test_file: the official test set, which becomes the test split; without it one is cut from ``file``.
        examples: read at most so many of each file.
        words: size of the vocabulary, which the train split alone decides. length: of a text; longer ones are cut.

    Raises:
        DataNotFoundError: no file is given, or it is not there. ValueError: it holds anything but reviews.
    """
    if file is None or (missing := [f for f in (file, test_file) if f and not Path(f).is_file()]):
        raise DataNotFoundError(
            f"no file {'given' if file is None else missing[0]}: get train.csv and test.csv of yelp_review_full (or "
            "yelp_academic_dataset_review.json) and pass load_task('yelp', file='train.csv', test_file='test.csv')"
        )
    told: dict[str, int] = {}
    tested = 0
    for source in filter(None, (test_file, file)):  # a text of the test set is none to train on
        tested = len(told)
        for text, star in zip(*read_reviews(source, examples), strict=True):
            told.setdefault(text, star)
    texts, rows, y = list(told), np.arange(len(told))[:, None], (np.array(list(told.values())) - 1) / 4
    official = {"x_test": rows[:tested], "y_test": y[:tested]} if test_file else {}
    task = Task.from_arrays(rows[tested:], y[tested:], seed=seed, name="yelp", **official, **STARS)
    said = {s: [texts[i] for i in v.x[:, 0]] for s, v in task.splits.items()}
    vocabulary = Vocabulary.of(said["train"], words)
    tokens = {s: torch.from_numpy(vocabulary.encode(texts, length)) for s, texts in said.items()}
    return replace(task, splits={s: Split(x, task.splits[s].y) for s, x in tokens.items()})


TASKS = {"digits": digits, "iris": iris, "mnist": mnist, "fashion_mnist": fashion_mnist, "cifar10": cifar10,
         "reviews": reviews, "yelp": yelp}  # fmt: skip


def load_task(name: str, seed: int = 0, **options: object) -> Task:
    """A task of the course by name (one of ``TASKS``: ``digits``, ``iris``, ``reviews``, …), cut from ``seed``."""
    if name not in TASKS:
        raise ValueError(f"no task {name!r}: choose one of {', '.join(TASKS)}, or build one with Task.from_arrays")
    return TASKS[name](seed=seed, **options)
