"""What a network is trained to do: arrays in four disjoint splits, a loss and a score.

* ``train`` fits weights; ``calibration`` re-estimates BatchNorm statistics; ``validation`` makes choices;
  ``test`` is read once, to report. No other room of the package ever cuts data again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dwflow_lite.reviews import Vocabulary, made_vocabulary, make_reviews, read_reviews

SPLITS = ("train", "calibration", "validation", "test")
FRACTIONS = {"train": 0.6, "calibration": 0.05, "validation": 0.15, "test": 0.2}
SCORES = {"classification": ("accuracy",), "regression": ("R²", "Spearman")}  # the first is the default
KINDS = tuple(SCORES)


def is_whole(value: object, least: int = 0) -> bool:
    """Whether ``value`` is an integer (of Python or NumPy) of at least ``least``."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least


@contextmanager
def failing_as(message: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """Whatever fails in here fails as an error of this kind that says ``message``, and why."""
    try:
        yield
    except Exception as error:
        raise kind(f"{message} ({error})") from error


class DataNotFoundError(FileNotFoundError):
    """A data set is neither in a data folder nor to be downloaded."""


@dataclass(frozen=True)
class Split:
    """One split: inputs ``x`` of shape (n, ...) and targets ``y`` of shape (n,) or (n, outputs)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def inputs(self, like: Tensor) -> Tensor:
        """``x`` on the device of ``like``, and in its dtype; whole numbers (tokens) keep theirs."""
        return self.x.to(like.device, like.dtype if self.x.is_floating_point() else None)


@dataclass(frozen=True)
class Task:
    """Data in four disjoint splits, with the loss that trains on it and the score that reports it.

    Attributes:
        name: what reports call it.
        kind: ``"classification"`` (trained on cross-entropy) or ``"regression"`` (on squared error).
        outputs: numbers the network returns for one input (classes, or regression targets).
        splits: split name -> ``Split``.
        indices: split name -> positions in the array that was cut (one array a source file).
        seed: what the cut was drawn from.
        metric: which of :meth:`measures` is the score: ``"accuracy"``; ``"R²"`` (default of regression) or
            ``"Spearman"``. Empty: the default of the kind.
    """

    name: str
    kind: str
    outputs: int
    splits: Mapping[str, Split]
    indices: Mapping[str, np.ndarray] = field(repr=False)
    seed: int = 0
    metric: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", self.metric or SCORES[self.kind][0])
        if self.metric not in SCORES[self.kind]:
            raise ValueError(f"no metric {self.metric!r} of {self.kind}: choose one of {', '.join(SCORES[self.kind])}")
        if missing := [s for s in SPLITS if s not in self.splits or not len(self.splits[s])]:
            raise ValueError(f"task {self.name!r}: split(s) {missing} are empty or missing; all of {SPLITS} are needed")
        parts = [np.asarray(self.indices[s]) for s in SPLITS]
        if len(np.unique(np.concatenate(parts))) != sum(map(len, parts)):
            raise ValueError(f"task {self.name!r}: the splits overlap; every example belongs to one split only")

    @property
    def train(self) -> Split:
        """The split that fits weights."""
        return self.splits["train"]

    @property
    def calibration(self) -> Split:
        """The split that re-estimates running statistics."""
        return self.splits["calibration"]

    @property
    def validation(self) -> Split:
        """The split that makes choices."""
        return self.splits["validation"]

    @property
    def test(self) -> Split:
        """The split that is read once, to report."""
        return self.splits["test"]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.train.x.shape[1:])

    def split(self, name: str) -> Split:
        """The split of that name; ``ValueError`` names the ones there are."""
        if name not in self.splits:
            raise ValueError(f"no split {name!r}: choose one of {', '.join(SPLITS)}")
        return self.splits[name]

    def to(self, device: torch.device | str) -> Task:
        """The same task with its tensors on ``device``."""
        return replace(self, splits={s: Split(v.x.to(device), v.y.to(device)) for s, v in self.splits.items()})

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean loss over examples: ``outputs`` (..., n, outputs), ``y`` (..., n[, outputs]) -> (...)."""
        if self.kind == "classification":
            y = y.expand(outputs.shape[:-1])
            losses = F.cross_entropy(outputs.reshape(-1, self.outputs), y.reshape(-1), reduction="none")
            return losses.view(outputs.shape[:-1]).mean(-1)
        return (outputs - y).square().mean((-2, -1))

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The metric of the task (1 is perfect): ``outputs`` (..., n, outputs) -> (...)."""
        return MEASURES[self.kind][self.metric](outputs, y)

    def measures(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Every measure of the kind, by name, each (...): ``outputs`` (..., n, outputs), ``y`` (..., n[, outputs]).

        Classification: accuracy in [0, 1]. Regression: R², mean absolute error, and Spearman's rank correlation (equal
        values share the mean of their ranks; mean over outputs; 0 where the predictions, or targets, do not vary).
        """
        return {name: measure(outputs, y) for name, measure in MEASURES[self.kind].items()}

    @property
    def score_name(self) -> str:
        """``"accuracy"``, ``"R²"`` or ``"Spearman"``."""
        return self.metric

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change when an example, the cut or the metric changes."""
        metric = "" if self.metric == SCORES[self.kind][0] else self.metric
        digest = hashlib.sha256((self.kind + metric).encode())
        for name in SPLITS:
            digest.update(np.ascontiguousarray(self.splits[name].x.cpu().numpy()).tobytes())
            digest.update(np.ascontiguousarray(self.splits[name].y.cpu().numpy()).tobytes())
        return digest.hexdigest()[:12]

    @classmethod
    def from_arrays(
        cls,
        x: np.ndarray | Tensor,
        y: np.ndarray | Tensor,
        *,
        x_test: np.ndarray | Tensor | None = None,
        y_test: np.ndarray | Tensor | None = None,
        kind: str = "classification",
        metric: str = "",
        tokens: bool = False,
        outputs: int | None = None,
        fractions: Mapping[str, float] = FRACTIONS,
        standardise: bool = False,
        seed: int = 0,
        name: str = "arrays",
    ) -> Task:
        """Cut a reader's own arrays into a task.

        Args:
            x: inputs (n, ...). Unsigned bytes are read as pixels and divided by 255.
            y: labels 0 … classes-1 of shape (n,), or targets (n,) / (n, outputs) for regression.
            x_test: an official test set; without it ``fractions["test"]`` of ``x`` is the test split.
            y_test: its labels or targets.
            kind: ``"classification"`` or ``"regression"``.
            metric: what the score is: ``"R²"`` (default) or ``"Spearman"`` in regression.
            tokens: ``x`` holds whole numbers >= 0 of shape (n, length), words of texts say, and stays whole (int64).
            outputs: number of classes (classification only); by default the largest label plus one.
            fractions: share of ``x`` for each split (rescaled to what is cut).
            standardise: give every feature mean 0 and standard deviation 1, measured on train only; one that (nearly)
                does not vary there, by less than 1e-6 of max(1, its mean), is only centred.
            seed: of the cut. Classes are cut separately (stratified), so small splits keep every class.
            name: what reports call the task.

        Raises:
            ValueError: shapes or dtypes that do not fit, NaN or infinite values, labels out of range, empty splits.
        """
        if kind not in KINDS:
            raise ValueError(f"no task kind {kind!r}: choose one of {', '.join(KINDS)}")
        if tokens and standardise:
            raise ValueError("tokens are names, not amounts: leave standardise out")
        if (x_test is None) != (y_test is None):
            raise ValueError("give both x_test and y_test, or neither")
        if set(fractions) != set(SPLITS) or min(fractions.values()) < 0:
            raise ValueError(f"fractions must give a share >= 0 for each of {SPLITS}, got {dict(fractions)}")
        if not is_whole(seed):
            raise ValueError(f"seed must be a whole number >= 0, got {seed!r}")
        if outputs is not None and (kind == "regression" or not is_whole(outputs, 1)):
            raise ValueError(f"outputs is a whole number >= 1 of classes; leave it out in regression; got {outputs!r}")
        scaled = () if tokens or x_test is None else (x, x_test)
        if len({_array(a, "x or x_test").dtype == np.uint8 for a in scaled}) > 1:
            raise ValueError("of x and x_test one is bytes (divided by 255), one is not: make both uint8 or both float")
        x, y = _pair(x, y, kind, outputs, tokens, "")
        sources = [(x, y, SPLITS if x_test is None else SPLITS[:3])]
        if x_test is not None:
            xt, yt = _pair(x_test, y_test, kind, outputs, tokens, "_test")
            if xt.shape[1:] != x.shape[1:]:
                raise ValueError(f"x_test has inputs of shape {xt.shape[1:]}, x of shape {x.shape[1:]}")
            if yt.shape[1:] != y.shape[1:]:
                raise ValueError(f"y_test has targets of shape {yt.shape[1:]}, y of shape {y.shape[1:]}")
            sources.append((xt, yt, SPLITS[3:]))
        rng, offset, splits, indices = np.random.default_rng(seed), 0, {}, {}
        for xs, ys, names in sources:
            for split, rows in _cut(ys, kind, {s: fractions[s] for s in names}, rng).items():
                splits[split], indices[split] = (xs[rows], ys[rows]), rows + offset
            offset += len(xs)
        if standardise:
            mean, std = (f(splits["train"][0], axis=0, dtype=np.float64) for f in (np.mean, np.std))
            std[std < 1e-6 * np.maximum(1, np.abs(mean))] = 1.0
            splits = {s: (((xs - mean) / std).astype(np.float32), ys) for s, (xs, ys) in splits.items()}
        labels = 1 + max(ys.max() for _, ys, _ in sources)
        outputs = y.shape[1] if kind == "regression" else int(outputs or labels)
        tensors = {s: Split(torch.from_numpy(xs.copy()), torch.from_numpy(ys.copy())) for s, (xs, ys) in splits.items()}
        return cls(name, kind, outputs, tensors, indices, int(seed), metric)

    @classmethod
    def from_npz(cls, path: str | Path, **options: object) -> Task:
        """Read an ``.npz`` in the Keras convention: ``x_train, y_train, x_test, y_test``.

        ``options`` go to :meth:`from_arrays`. ``ValueError`` for a corrupt file or missing arrays.
        """
        path = Path(path)
        if not path.is_file():
            raise DataNotFoundError(f"no file {path}")
        wanted = ("x_train", "y_train", "x_test", "y_test")
        with failing_as(f"{path.name} is truncated or not a readable .npz of plain arrays"):
            with np.load(path, allow_pickle=False) as archive:
                held = archive.files
                arrays = {k: archive[k] for k in wanted if k in held}
        if missing := [k for k in wanted if k not in held]:
            raise ValueError(f"{path.name} lacks {missing}; it holds {held}")
        options = {"name": path.stem} | options
        x, y, x_test, y_test = arrays.values()
        return cls.from_arrays(x, _column(y), x_test=x_test, y_test=_column(y_test), **options)


def _accuracy(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs.argmax(-1) == y).float().mean(-1)


def _r2(outputs: Tensor, y: Tensor) -> Tensor:
    residual = (outputs - y).square().sum((-2, -1))
    return 1 - residual / (y - y.mean(-2, keepdim=True)).square().sum((-2, -1)).clamp_min(1e-12)


def _spearman(outputs: Tensor, y: Tensor) -> Tensor:
    a, b = (_ranks(v.mT) for v in (outputs, y))
    norms = (a.square().sum(-1) * b.square().sum(-1)).sqrt().clamp_min(1e-12)
    return ((a * b).sum(-1) / norms).mean(-1).to(torch.promote_types(outputs.dtype, y.dtype))


def _absolute_error(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs - y).abs().mean((-2, -1))


MEASURES = {
    "classification": {"accuracy": _accuracy},
    "regression": {"Spearman": _spearman, "R²": _r2, "MAE": _absolute_error},
}


def _ranks(values: Tensor) -> Tensor:
    """Centred ranks of each row, in float64, equal values sharing the mean of theirs: (..., n) -> (..., n)."""
    values = values.contiguous()
    rows = values.sort(-1).values
    below, upto = (torch.searchsorted(rows, values, right=right) for right in (False, True))
    return (below + upto - values.shape[-1]).double()  # twice the rank, from the middle: whole, so their sums are exact


def _column(y: np.ndarray) -> np.ndarray:
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def _array(values: np.ndarray | Tensor, name: str) -> np.ndarray:
    with failing_as(f"{name} is no array of numbers: make its rows equally long, and bfloat16 .float()"):
        return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)


def _inputs(x: np.ndarray | Tensor, name: str, tokens: bool = False) -> np.ndarray:
    x = _array(x, name)
    if tokens:
        if x.ndim != 2 or not x.size or x.dtype.kind not in "iu" or x.min() < 0:
            raise ValueError(f"{name} must be whole numbers >= 0 of shape (texts, length), got {x.dtype} of {x.shape}")
        return x.astype(np.int64)
    if x.ndim < 2 or not len(x):
        raise ValueError(f"{name} must have shape (examples, ...) with at least one example, got {x.shape}")
    if x.dtype.kind not in "iuf":
        raise ValueError(f"{name} must hold real numbers, got dtype {x.dtype}")
    x = x.astype(np.float32) / 255 if x.dtype == np.uint8 else x.astype(np.float32)
    if not np.isfinite(x).all():
        raise ValueError(f"{name} holds NaN or infinite values in {(~np.isfinite(x)).sum()} places; clean it first")
    return x


def _targets(y: np.ndarray | Tensor, kind: str, outputs: int | None, name: str) -> np.ndarray:
    y = _array(y, name)
    if kind == "regression":
        y = y[:, None] if y.ndim == 1 else y
        if y.ndim != 2 or y.dtype.kind not in "biuf" or not np.isfinite(y.astype(np.float32)).all():
            raise ValueError(
                f"{name} must be finite targets of shape (n,) or (n, outputs), got {y.dtype} of shape {y.shape}"
            )
        return y.astype(np.float32)
    if y.ndim != 1 or y.dtype.kind not in "iuf" or not len(y) or not np.isfinite(y).all() or (y != np.round(y)).any():
        raise ValueError(f"{name} must be whole-number labels of shape (n,), got {y.dtype} of shape {y.shape}")
    top = outputs - 1 if outputs else int(y.max())
    if y.min() < 0 or y.max() > top:
        raise ValueError(f"{name} has labels from {y.min():g} to {y.max():g}, outside 0 … {top}; renumber them from 0")
    return y.astype(np.int64)


def _pair(x: Any, y: Any, kind: str, outputs: int | None, tokens: bool, end: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = _inputs(x, f"x{end}", tokens), _targets(y, kind, outputs, f"y{end}")
    if len(x) != len(y):
        raise ValueError(f"x{end} has {len(x)} examples but y{end} has {len(y)}")
    return x, y


def _cut(y: np.ndarray, kind: str, fractions: Mapping[str, float], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Split name -> row positions, cut class by class (regression: all rows as one class)."""
    groups = [np.flatnonzero(y == c) for c in np.unique(y)] if kind == "classification" else [np.arange(len(y))]
    shares = np.array(list(fractions.values()))
    rows: dict[str, list[np.ndarray]] = {name: [] for name in fractions}
    # A random offset a class keeps rounding from starving the small splits when classes are small.
    for group in map(rng.permutation, groups):
        edges = np.cumsum(shares) / max(shares.sum(), 1e-12) * len(group)
        edges = np.floor(edges + rng.random()).clip(0, len(group)).astype(int)
        edges[-1] = len(group)
        for name, part in zip(fractions, np.split(group, edges[:-1]), strict=True):
            rows[name].append(part)
    return {name: rng.permutation(np.concatenate(parts)) for name, parts in rows.items()}


# -- the tasks of the course ------------------------------------------------------------------------------------


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
    return [*named, Path("data"), Path(__file__).resolve().parents[1] / "data", cache]


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
