"""What a network is trained to do: arrays in four disjoint splits, a loss and a score.

* ``train`` fits weights; ``calibration`` re-estimates BatchNorm statistics; ``validation`` makes choices;
  ``test`` is read once, to report. No other room of the package ever cuts data again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dwflow_lite.support.checks import failing_as, is_whole
from dwflow_lite.tasks.arrays import _array, _column, _cut, _pair

SPLITS = ("train", "calibration", "validation", "test")


FRACTIONS = {"train": 0.6, "calibration": 0.05, "validation": 0.15, "test": 0.2}


SCORES = {"classification": ("accuracy",), "regression": ("R²", "Spearman")}  # the first is the default


KINDS = tuple(SCORES)


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
