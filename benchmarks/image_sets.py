"""Image sets that benchmarks read from files: CIFAR-10 as JPEG or as an npz, and those of torchvision beside it.

Labels are matched by the names of their classes, so one thing must have one name everywhere: STL-10's car is CIFAR-10's
automobile here.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from dwflow_lite import Task
from dwflow_lite.tasks.images import CLASSES, data_folders
from dwflow_lite.tasks.task import DataNotFoundError

STL10 = ("airplane", "bird", "automobile", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
FRACTIONS = {"train": 0.88, "calibration": 0.02, "validation": 0.1, "test": 0.0}


def smaller(images: np.ndarray, size: int) -> np.ndarray:
    """Bytes (n, channels, h, h) as bytes (n, channels, size, size), each pixel the mean of those that it stands for."""
    shrunk = F.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(images)).float(), size)
    return shrunk.round().byte().numpy()


def read_cifar10(file: Path, size: int) -> dict[str, np.ndarray]:
    """CIFAR-10 of one npz: the JPEG files end to end (``train_bytes``, ``train_lengths``, ``train_labels``, and of
    ``test``), or in the Keras convention (``x_train``, ``y_train``, …).

    Args:
        file: the npz.
        size: of an image, in pixels, at most 32.

    Returns:
        ``x_train``, ``x_test`` as bytes (n, 3, size, size), and ``y_train``, ``y_test`` (n,).

    Raises:
        DataNotFoundError: no such file.
    """  # fmt: skip
    if not file.is_file():
        raise DataNotFoundError(f"no file {file}: pass --data, or set DWFLOW_DATA to its folder")
    found = {}
    with np.load(file) as arrays:
        for split in ("train", "test"):
            if f"{split}_bytes" in arrays:
                images = decoded(arrays[f"{split}_bytes"], arrays[f"{split}_lengths"])  # (n, 32, 32, 3)
                labels = arrays[f"{split}_labels"]
            else:
                images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
            found[f"x_{split}"] = smaller(images.transpose(0, 3, 1, 2), size)
            found[f"y_{split}"] = labels.reshape(-1).astype(np.int64)
    return found


def decoded(stream: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """JPEG files end to end, as bytes (total,) with the length of each (n,), as images (n, h, w, 3)."""
    from PIL import Image

    ends = np.cumsum(lengths)
    images = []
    for start, end in zip(ends - lengths, ends, strict=True):
        with Image.open(io.BytesIO(stream[start:end].tobytes())) as image:
            images.append(np.asarray(image.convert("RGB")))
    return np.stack(images)


def cifar10_file(named: Path | None) -> Path:
    """The npz of CIFAR-10: the one that is named, else the first in a data folder."""
    if named is not None:
        return named
    names = ("cifar10_jpeg.npz", "cifar10.npz")
    there = [folder / name for folder in data_folders() for name in names if (folder / name).is_file()]
    return there[0] if there else data_folders()[0] / names[0]


def cifar10_task(file: Path, names: Sequence[str], seed: int = 0, size: int = 16, most: int | None = None) -> Task:
    """The task of telling some classes of CIFAR-10 apart.

    Args:
        file: as of :func:`read_cifar10`.
        names: of the classes.
        seed: of the cut.
        size: of an image, in pixels.
        most: at most so many images of each class for the test split, and as many for all others together.
    """
    arrays = read_cifar10(file, size)
    return task_of_arrays(arrays, CLASSES["CIFAR10"], names, seed, "cifar10", most)


def task_of_arrays(
    arrays: dict[str, np.ndarray],
    classes: Sequence[str],
    names: Sequence[str],
    seed: int,
    name: str,
    most: int | None = None,
) -> Task:
    """The task of telling the named classes apart, of arrays that hold more of them.

    Args:
        arrays: ``x_train``, ``x_test`` (n, channels, h, w), bytes, and ``y_train``, ``y_test`` (n,).
        classes: names of labels 0, 1, 2 … of the arrays.
        names: of those that are kept, in the order of their new labels.
        seed: of the cut.
        name: of the task, to which the first and last class are added where not all are kept.
        most: at most so many images of each class for the test split, and as many for all others together: the first.
    """
    new_label = np.full(len(classes), -1)
    new_label[[list(classes).index(each) for each in names]] = np.arange(len(names))
    kept = {}
    for split in ("train", "test"):
        labels = new_label[arrays[f"y_{split}"]]
        rows = np.flatnonzero(labels >= 0)
        if most is not None:
            rows = np.sort(np.concatenate([rows[labels[rows] == label][:most] for label in range(len(names))]))
        kept[split] = arrays[f"x_{split}"][rows], labels[rows]
    (x, y), (x_test, y_test) = kept["train"], kept["test"]
    if len(names) < len(classes):
        name = f"{name}-{names[0]}-{names[-1]}"
    return Task.from_arrays(
        x, y, x_test=x_test, y_test=y_test, classes=names, fractions=FRACTIONS, seed=seed, name=name
    )  # fmt: skip


# -- of torchvision ----------------------------------------------------------------------------------------------


def torchvision_task(which: str, seed: int, folder: Path | None = None, size: int = 32) -> Task:
    """STL-10, SVHN or CIFAR-100 of torchvision, in the size of CIFAR-10, with the names of their classes.

    Args:
        which: ``"STL10"``, ``"SVHN"`` or ``"CIFAR100"``.
        seed: of the cut.
        folder: where torchvision finds it; None: the first data folder.
        size: of an image, in pixels.
    """
    from torchvision import datasets

    root = str(folder or data_folders()[0])
    if which == "CIFAR100":
        sets = {split: datasets.CIFAR100(root, train=split == "train") for split in ("train", "test")}
        images = {split: np.asarray(each.data).transpose(0, 3, 1, 2) for split, each in sets.items()}
        labels = {split: np.asarray(each.targets) for split, each in sets.items()}
        classes = tuple(sets["train"].classes)
    else:
        sets = {split: getattr(datasets, which)(root, split=split) for split in ("train", "test")}
        images = {split: np.asarray(each.data) for split, each in sets.items()}  # (n, 3, h, h) already
        labels = {split: np.asarray(each.labels) for split, each in sets.items()}
        classes = STL10 if which == "STL10" else tuple("0123456789")
    arrays = {f"x_{split}": smaller(images[split], size) for split in sets}
    arrays |= {f"y_{split}": labels[split].astype(np.int64) for split in sets}
    return task_of_arrays(arrays, classes, classes, seed, which.lower())
