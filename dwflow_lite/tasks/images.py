"""The image sets of torchvision: found in a data folder, or downloaded, and cut."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dwflow_lite.support.checks import failing_as
from dwflow_lite.tasks.task import DataNotFoundError, Task

# What torchvision reads of each image set, from the folder that is named.
IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
FILES = {
    "MNIST": [Path("MNIST", "raw", file) for file in IDX_FILES],
    "FashionMNIST": [Path("FashionMNIST", "raw", file) for file in IDX_FILES],
    "CIFAR10": [Path("cifar-10-batches-py", file) for file in CIFAR_FILES],
}

# The names of labels 0, 1, 2 …, as those who made the sets give them.
CLASSES = {
    "MNIST": tuple("0123456789"),
    "FashionMNIST": (
        "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
    ),
    "CIFAR10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}  # fmt: skip


def mnist(seed: int = 0, folder: str | Path | None = None, download: bool = True) -> Task:
    """MNIST, 28 × 28: 52,800 train / 1,200 calibration / 6,000 validation images, the official 10,000 test images.

    Args:
        seed: of the cut.
        folder: that holds ``MNIST/raw``; by default the first of :func:`data_folders` that does.
        download: fetch the files if no folder has them.

    Raises:
        DataNotFoundError: the files are in no folder, and were not to be or could not be downloaded.
        ValueError: a file is damaged.
    """
    return _image_task("MNIST", seed, folder, download)


def fashion_mnist(seed: int = 0, folder: str | Path | None = None, download: bool = True) -> Task:
    """Fashion-MNIST, 28 × 28, cut as :func:`mnist`, with its options."""
    return _image_task("FashionMNIST", seed, folder, download)


def cifar10(seed: int = 0, folder: str | Path | None = None, download: bool = True) -> Task:
    """CIFAR-10, 3 × 32 × 32: 44,000 train / 1,000 calibration / 5,000 validation, the official 10,000 test images.

    Options as for :func:`mnist`.
    """
    return _image_task("CIFAR10", seed, folder, download)


def data_folders() -> list[Path]:
    """Where downloadable data is looked for: ``$DWFLOW_DATA``, ``./data``, the repository's, the user's cache."""
    repository = Path(__file__).resolve().parents[2]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folders = [Path("data"), repository / "data", cache / "dwflow_lite"]
    named = os.environ.get("DWFLOW_DATA")
    return [Path(named), *folders] if named else folders


def _image_task(which: str, seed: int, folder: str | Path | None, download: bool) -> Task:
    """The image set that torchvision has under this name, cut."""
    with failing_as(f"{which} needs torchvision; try `python -m dwflow_lite check`", RuntimeError):
        from torchvision import datasets
    image_set = getattr(datasets, which)
    folders = [Path(folder)] if folder else data_folders()
    parts = _find(image_set, which, folders)
    if parts is None:
        searched = f"{which} is in none of: {'; '.join(_what_is_there(which, folder) for folder in folders)}"
        lies_above = any(_above(which, folder) for folder in folders)
        if not download or lies_above:
            place = f"the folder that holds {FILES[which][0].parts[0]}"
            raise DataNotFoundError(f"{searched}. Set DWFLOW_DATA to {place}, or pass download=True")
        parts = _download(image_set, which, _download_folder(folder), searched)
    train, test = parts
    return Task.from_arrays(
        _channels_first(train.data),
        np.asarray(train.targets),
        x_test=_channels_first(test.data),
        y_test=np.asarray(test.targets),
        fractions={"train": 0.88, "calibration": 0.02, "validation": 0.1, "test": 0.0},
        outputs=10,
        classes=CLASSES[which],
        seed=seed,
        name=which.lower(),
    )


def _read(image_set: Any, folder: Path, download: bool) -> tuple[Any, Any]:
    """Official train and test part in a folder; torchvision verifies the checksum of what it downloads."""
    train = image_set(root=str(folder), train=True, download=download)
    test = image_set(root=str(folder), train=False, download=download)
    return train, test


def _find(image_set: Any, which: str, folders: Sequence[Path]) -> tuple[Any, Any] | None:
    """Train and test part of the first folder that has them; None if none has."""
    for folder in folders:
        try:
            return _read(image_set, folder, download=False)
        except Exception as error:
            if "Dataset not found" in str(error):  # torchvision has no class for it
                continue
            raise ValueError(
                f"the {which} files in {folder} are damaged ({error}); delete {FILES[which][0].parent} there"
            ) from error
    return None


def _what_is_there(which: str, folder: Path) -> str:
    """A folder that was searched in vain, in words: which file was expected first, and what was found."""
    missing = [file for file in FILES[which] if not (folder / file).is_file()]
    expected = missing[0] if missing else FILES[which][0]  # all there, and yet refused by torchvision
    place = next(place for place in (folder / expected).parents if place.exists() or place == folder)
    if not place.is_dir():
        return f"{folder} ({'is no folder' if place.exists() else 'is not there'}; wanted: {expected} in it)"
    found = sorted(path.name + ("/" if path.is_dir() else "") for path in place.iterdir())
    listed = ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
    problem = "wanted" if missing else "damaged?"
    return f"{folder} ({problem}: {expected}; found in {place}: {listed or 'nothing'}{_above(which, folder)})"


def _above(which: str, folder: Path) -> str:
    """What to name instead, in words, if this folder lies inside the one that is meant; else nothing."""
    folder = folder.resolve()
    for above in list(folder.parents)[:2]:
        first_file = above / FILES[which][0]
        if first_file.is_file() and folder in first_file.parents:
            return f"; name {above} instead"
    return ""


def _download(image_set: Any, which: str, folder: Path, searched: str) -> tuple[Any, Any]:
    """Train and test part, fetched to a folder; ``searched`` says where they were not."""
    try:
        return _read(image_set, folder, download=True)
    except Exception as error:
        raise DataNotFoundError(
            f"{searched}, and could not be downloaded to {folder} ({error}). Offline? Copy {FILES[which][0].parent} "
            "of a machine that has it, and set DWFLOW_DATA to the folder that holds the copy"
        ) from error


def _download_folder(folder: str | Path | None) -> Path:
    """Where a download goes: the folder asked for, else ``$DWFLOW_DATA``, else the user's cache."""
    if folder:
        return Path(folder)
    folders = data_folders()
    return folders[0] if os.environ.get("DWFLOW_DATA") else folders[-1]


def _channels_first(images: Any) -> np.ndarray:
    """Bytes (n, h, w) or (n, h, w, channels) to (n, channels, h, w)."""
    images = np.asarray(images)
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
