"""What a network is trained to do: arrays in four disjoint splits, a loss and a score."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dwflow_lite.tasks.arrays import (
    Reading,
    check_cut,
    check_same_scale,
    check_same_shapes,
    cut,
    read_npz,
    standardised,
    without_column_axis,
)
from dwflow_lite.tasks.measures import KINDS, MEASURES, SCORES
from dwflow_lite.tasks.splits import FRACTIONS, SPLITS, Split


class DataNotFoundError(FileNotFoundError):
    """A data set is neither in a data folder nor to be downloaded."""


@dataclass(frozen=True, eq=False)
class Task:
    """Data in four disjoint splits, with the loss that trains on it and the score that reports it.

    A task equals itself alone (``==``, and as a key of a dict), as a module of PyTorch does: the tensors inside may be
    changed in place. To ask whether two tasks hold the same data, cut alike, compare their :attr:`fingerprint`.

    Attributes:
        name: what reports call it.
        kind: ``"classification"`` (trained on cross-entropy) or ``"regression"`` (on squared error).
        outputs: numbers the network returns for one input (classes, or regression targets).
        splits: split name -> ``Split``.
        indices: split name -> positions (n,) in the array that was cut; those in an official test set, a second array,
            are counted on from the end of the first.
        seed: what the cut was drawn from.
        metric: which of :meth:`measures` is the score: ``"accuracy"``; ``"R²"`` (default of regression) or
            ``"Spearman"``. Empty: the default of the kind.

    Raises:
        ValueError: an unknown kind or metric, an empty or missing split, or splits that share an example.
    """

    name: str
    kind: str
    outputs: int
    splits: Mapping[str, Split]
    indices: Mapping[str, np.ndarray] = field(repr=False)
    seed: int = 0
    metric: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no task kind {self.kind!r}: choose one of {', '.join(KINDS)}")
        scores = SCORES[self.kind]
        if not self.metric:
            object.__setattr__(self, "metric", scores[0])  # a frozen dataclass has no other way
        if self.metric not in scores:
            raise ValueError(f"no metric {self.metric!r} of {self.kind}: choose one of {', '.join(scores)}")
        missing = [s for s in SPLITS if s not in self.splits or len(self.splits[s]) == 0]
        if missing:
            raise ValueError(f"task {self.name!r}: split(s) {missing} are empty or missing; all of {SPLITS} are needed")
        positions = np.concatenate([np.asarray(self.indices[s]) for s in SPLITS])
        if len(np.unique(positions)) != len(positions):
            raise ValueError(f"task {self.name!r}: the splits overlap; every example belongs to one split only")

    # -- data ---------------------------------------------------------------------------------------------

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
        """Shape of one input, without the axis of examples."""
        return tuple(self.train.x.shape[1:])

    def split(self, name: str) -> Split:
        """The split of that name; ``ValueError`` names the ones there are."""
        if name not in self.splits:
            raise ValueError(f"no split {name!r}: choose one of {', '.join(SPLITS)}")
        return self.splits[name]

    def to(self, device: torch.device | str) -> Task:
        """The same task with its tensors on ``device``."""
        moved = {name: Split(split.x.to(device), split.y.to(device)) for name, split in self.splits.items()}
        return replace(self, splits=moved)

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change when an example, the cut or the metric changes."""
        default = SCORES[self.kind][0]
        metric = "" if self.metric == default else self.metric
        digest = hashlib.sha256((self.kind + metric).encode())
        for name in SPLITS:
            for values in (self.splits[name].x, self.splits[name].y):
                digest.update(np.ascontiguousarray(values.cpu().numpy()).tobytes())
        return digest.hexdigest()[:12]

    # -- loss and score -----------------------------------------------------------------------------------

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean loss over examples, of one network or of many at once.

        Args:
            outputs: of the networks, (..., n, outputs).
            y: labels (..., n) or targets (..., n, outputs); one set for all networks, or one for each.

        Returns:
            One loss for each network, (...): cross-entropy in nats, or mean squared error.
        """
        if self.kind == "regression":
            return (outputs - y).square().mean((-2, -1))
        networks_and_examples = outputs.shape[:-1]  # (..., n)
        y = y.expand(networks_and_examples)  # one set of labels is every network's
        losses = F.cross_entropy(outputs.reshape(-1, self.outputs), y.reshape(-1), reduction="none")
        return losses.view(networks_and_examples).mean(-1)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The metric of the task (1 is perfect): shapes as in :meth:`loss`."""
        return MEASURES[self.kind][self.metric](outputs, y)

    def measures(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Every measure of the kind, by name: shapes as in :meth:`loss`.

        Classification: accuracy in [0, 1]. Regression: R², mean absolute error, and Spearman's rank correlation (equal
        values share the mean of their ranks; mean over outputs; 0 where the predictions, or targets, do not vary).
        """
        return {name: measure(outputs, y) for name, measure in MEASURES[self.kind].items()}

    @property
    def score_name(self) -> str:
        """``"accuracy"``, ``"R²"`` or ``"Spearman"``."""
        return self.metric

    # -- from a reader's data -----------------------------------------------------------------------------

    @classmethod
    def from_arrays(  # noqa: PLR0913 - the door for a reader's own data: each option is one decision about it
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

        Example:
            >>> x = np.random.default_rng(0).normal(size=(100, 4))
            >>> y = (x[:, 0] > 0).astype(int)
            >>> task = Task.from_arrays(x, y, seed=1)
            >>> task.outputs, task.input_shape, len(task.train)
            (2, (4,), 60)
        """
        # Check.
        reading = Reading(kind, outputs, tokens, standardise)
        if (x_test is None) != (y_test is None):
            raise ValueError("give both x_test and y_test, or neither")
        check_cut(fractions, seed)
        if x_test is not None and not tokens:
            check_same_scale(x, x_test)
        examples = reading.examples(x, y)
        if x_test is None:
            sources = [(examples, SPLITS)]
        else:
            official = reading.examples(x_test, y_test, "_test")
            check_same_shapes(examples, official)
            sources = [(examples, ("train", "calibration", "validation")), (official, ("test",))]

        # Cut and scale.
        parts, positions = cut(sources, kind == "classification", fractions, seed)
        if standardise:
            parts = standardised(parts)

        # Assemble.
        splits = {split: part.tensors() for split, part in parts.items()}
        if kind == "regression":
            outputs = examples.y.shape[1]
        elif outputs is None:
            outputs = 1 + max(source.y.max() for source, _ in sources)  # labels count from 0
        return cls(name, kind, int(outputs), splits, positions, int(seed), metric)

    @classmethod
    def from_npz(  # noqa: PLR0913 - the options of from_arrays, each by its name
        cls,
        path: str | Path,
        *,
        kind: str = "classification",
        metric: str = "",
        tokens: bool = False,
        outputs: int | None = None,
        fractions: Mapping[str, float] = FRACTIONS,
        standardise: bool = False,
        seed: int = 0,
        name: str | None = None,
    ) -> Task:
        """Read an ``.npz`` in the Keras convention: ``x_train, y_train, x_test, y_test``.

        Args:
            path: of the file.
            kind: this and the others as in :meth:`from_arrays`.
            metric: what the score is.
            tokens: inputs are whole numbers and stay so.
            outputs: number of classes.
            fractions: share of ``x_train`` for each split but ``test``.
            standardise: scale every feature as train says.
            seed: of the cut.
            name: what reports call the task; by default the name of the file, without suffix.

        Raises:
            DataNotFoundError: no such file.
            ValueError: a corrupt file, missing arrays, or arrays that :meth:`from_arrays` refuses.
        """
        path = Path(path)
        if not path.is_file():
            raise DataNotFoundError(f"no file {path}")
        arrays = read_npz(path, ("x_train", "y_train", "x_test", "y_test"))
        return cls.from_arrays(
            arrays["x_train"],
            without_column_axis(arrays["y_train"]),
            x_test=arrays["x_test"],
            y_test=without_column_axis(arrays["y_test"]),
            kind=kind,
            metric=metric,
            tokens=tokens,
            outputs=outputs,
            fractions=fractions,
            standardise=standardise,
            seed=seed,
            name=path.stem if name is None else name,
        )
