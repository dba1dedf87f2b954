"""What a network is trained to do: arrays in four disjoint splits, a loss and a score."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dwflow_lite.support.checks import check_file_name, failing_as, is_whole
from dwflow_lite.tasks.arrays import (
    Reading,
    check_cut,
    check_same_scale,
    check_same_shapes,
    count_outputs,
    cut,
    is_pixels,
    prepared,
    read_npz,
    read_rows,
    standardised,
)
from dwflow_lite.tasks.classes import checked_classes
from dwflow_lite.tasks.fingerprint import fingerprint_of
from dwflow_lite.tasks.measures import KINDS, MEASURES, SCORES
from dwflow_lite.tasks.scaling import Preparation
from dwflow_lite.tasks.splits import FRACTIONS, SPLITS, Split, check_disjoint, check_not_empty, what_is_missing
from dwflow_lite.tasks.tables import check_same_columns, column_names


class DataNotFoundError(FileNotFoundError):
    """A data set is neither in a data folder nor to be downloaded."""


@dataclass(frozen=True, eq=False)
class Task:
    """Data in four disjoint splits, with the loss that trains on it and the score that reports it.

    A task equals itself alone (``==``, and as a key of a dict), as a module of PyTorch does: the tensors inside may be
    changed in place. To ask whether two tasks hold the same data, cut alike, compare their :attr:`fingerprint`.

    Attributes:
        name: what reports call it, and files of its zoos.
        kind: ``"classification"`` (trained on cross-entropy) or ``"regression"`` (on squared error).
        outputs: numbers the network returns for one input (classes, or regression targets).
        splits: split name -> ``Split``.
        indices: split name -> positions (n,) in the array that was cut; those in an official test set, a second array,
            are counted on from the end of the first.
        seed: what the cut was drawn from.
        metric: which of :meth:`measures` is the score: ``"accuracy"``; ``"R²"`` (default of regression) or
            ``"Spearman"``. Empty: the default of the kind.
        preparation: how a reader's numbers were standardised.
        classes: the names of the labels, in their order; empty: their numbers (:attr:`class_names` has either).

    Raises:
        ValueError: an unknown kind or metric, an empty or missing split, splits that share an example, a name that no
            file can have, or classes that are not as many different names as outputs.
    """

    name: str
    kind: str
    outputs: int
    splits: Mapping[str, Split]
    indices: Mapping[str, np.ndarray] = field(repr=False)
    seed: int = 0
    metric: str = ""
    preparation: Preparation = field(default_factory=Preparation, repr=False)
    classes: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_file_name(self.name, "a task's name")
        if not is_whole(self.outputs, 1) or not is_whole(self.seed):
            raise ValueError(f"outputs is a whole number >= 1, seed one >= 0; got {self.outputs!r} and {self.seed!r}")
        object.__setattr__(self, "outputs", int(self.outputs))  # a frozen dataclass has no other way
        object.__setattr__(self, "seed", int(self.seed))
        if self.kind not in KINDS:
            raise ValueError(f"no task kind {self.kind!r}: choose one of {', '.join(KINDS)}")
        scores = SCORES[self.kind]
        if not self.metric:
            object.__setattr__(self, "metric", scores[0])
        if self.metric not in scores:
            raise ValueError(f"no metric {self.metric!r} of {self.kind}: choose one of {', '.join(scores)}")
        object.__setattr__(self, "classes", checked_classes(self.classes, self.kind, self.outputs))
        check_not_empty(self.name, self.splits)
        check_disjoint(self.name, self.indices)

    def __repr__(self) -> str:
        """In one line, without the data."""
        sizes = ", ".join(f"{name} {len(split)}" for name, split in self.splits.items())
        what = "classes" if self.kind == "classification" else "targets"
        return f"Task({self.name!r}: {self.kind}, inputs {self.input_shape}, {self.outputs} {what}; {sizes})"

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

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name for each label: ``classes``, or the numbers as text; none of a regression."""
        numbers = () if self.kind == "regression" else tuple(str(label) for label in range(self.outputs))
        return self.classes or numbers

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
        """Twelve hexadecimal digits of all that training depends on: examples as the networks see them, cut, metric,
        number of outputs, units of the targets. Zoos on disk name it.
        """  # fmt: skip
        return fingerprint_of(self.kind, self.metric, self.outputs, self.splits, self.preparation.targets)

    # -- loss and score -----------------------------------------------------------------------------------

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean loss over examples, of one network or of many at once: what is reported.

        Args:
            outputs: of the networks, (..., n, outputs).
            y: labels (..., n) or targets (..., n, outputs), as the splits hold them; one set for all networks, or one
                for each.

        Returns:
            One loss for each network, (...): cross-entropy in nats; or mean squared error in squared units of the
            targets (mean over outputs, each in its own; its root is the RMSE), float64 if they were standardised.
        """
        if self.preparation.targets is None:
            return self.training_loss(outputs, y)
        return self.training_loss(self.in_units(outputs), self.in_units(y))

    def training_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """What training minimises: :meth:`loss`, but of targets as the splits hold them, so standardised ones."""
        if self.kind == "regression":
            return (outputs - y).square().mean((-2, -1))
        networks_and_examples = outputs.shape[:-1]  # (..., n)
        y = y.expand(networks_and_examples)  # one set of labels is every network's
        losses = F.cross_entropy(outputs.reshape(-1, self.outputs), y.reshape(-1), reduction="none")
        return losses.view(networks_and_examples).mean(-1)

    def reported(self, losses: Tensor, outputs: Tensor, y: Tensor) -> Tensor:
        """:meth:`loss`, where :meth:`training_loss` is known, with which it may agree; without gradient."""
        if self.preparation.targets is None:
            return losses.detach()
        return self.loss(outputs.detach(), y).to(losses.dtype)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The metric of the task (1 is perfect; R² has no lower end): shapes as in :meth:`loss`."""
        return MEASURES[self.kind][self.metric](outputs, y)  # of any units

    def measures(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Every measure of the kind, by name: shapes as in :meth:`loss`.

        Classification: accuracy in [0, 1]. Regression: R², mean absolute error in units of the targets, and Spearman's
        rank correlation (equal values share the mean of their ranks; mean over outputs; 0 where the predictions, or
        targets, do not vary).
        """
        found = {name: measure(outputs, y) for name, measure in MEASURES[self.kind].items()}
        if self.preparation.targets is not None:
            found["MAE"] = MEASURES[self.kind]["MAE"](self.in_units(outputs), self.in_units(y))
        return found

    @property
    def score_name(self) -> str:
        """``"accuracy"``, ``"R²"`` or ``"Spearman"``."""
        return self.metric

    # -- a reader's units ---------------------------------------------------------------------------------

    def prepare(self, x: Any) -> Tensor:
        """New examples of a reader, as the networks of this task take them.

        Args:
            x: inputs (n, ...) in the units of what :meth:`from_arrays` was given: an array, tensor, list or data frame.

        Returns:
            Inputs (n, ...): standardised as the training split was, if it was; float32, or int64 tokens.

        Raises:
            ValueError: other shapes, dtypes or columns than those of the task, NaN, or infinite values.

        Example:
            >>> x = np.array([[20.0, 1000.0], [30.0, 3000.0], [40.0, 2000.0], [50.0, 4000.0]] * 10)
            >>> task = Task.from_arrays(x, np.arange(40) % 2)
            >>> rows = task.indices["test"]
            >>> torch.equal(task.prepare(x[rows]), task.test.x)
            True
        """
        check_same_columns(column_names(x), self.preparation.columns, "these rows")
        holds_tokens = not self.train.x.is_floating_point()
        if not holds_tokens and self.preparation.pixels != is_pixels(x):
            raise ValueError("of these rows and the task's one is bytes (divided by 255), one is not: bring alike")
        inputs = read_rows(x, self.input_shape, holds_tokens)
        if not holds_tokens:
            inputs = prepared(inputs, self.preparation.inputs, "x", self.preparation.columns)
        return torch.from_numpy(np.ascontiguousarray(inputs))

    def in_units(self, values: Any) -> Tensor:
        """What networks of a regression return, or the targets of a split, in the reader's units.

        Args:
            values: (..., outputs), as ``predict`` returns them and as ``task.test.y`` is: a tensor, array or list.

        Returns:
            (..., outputs), float64 where targets were standardised; as they are where not.

        Raises:
            ValueError: a classification, whose outputs have no units; or another number of outputs.

        Example:
            >>> price = np.arange(40.0) * 100
            >>> task = Task.from_arrays(price[:, None] / 7, price, kind="regression")
            >>> rows = task.indices["test"]
            >>> np.allclose(task.in_units(task.test.y)[:, 0], price[rows])
            True
        """
        with failing_as(f"values are numbers (..., {self.outputs}), as predict returns them"):
            values = torch.as_tensor(values)
        if self.kind != "regression" or values.shape[-1:] != (self.outputs,):
            raise ValueError(
                f"units are those of the {self.outputs} target(s) of a regression, (..., {self.outputs}); got "
                f"{tuple(values.shape)} of a {self.kind}"
            )
        return values if self.preparation.targets is None else self.preparation.targets.undo(values)

    # -- from a reader's data -----------------------------------------------------------------------------

    @classmethod
    def from_arrays(  # noqa: PLR0913 - the door for a reader's own data: each option is one decision about it
        cls,
        x: Any,
        y: Any,
        *,
        x_test: Any = None,
        y_test: Any = None,
        kind: str = "classification",
        metric: str = "",
        tokens: bool = False,
        outputs: int | None = None,
        classes: Sequence[str] = (),
        fractions: Mapping[str, float] = FRACTIONS,
        standardise: bool | None = None,
        seed: int = 0,
        name: str = "arrays",
    ) -> Task:
        """Cut a reader's own arrays (NumPy, torch, lists, data frames) into a task.

        Vectors (inputs of shape (n, features)) are standardised: every feature has mean 0 and standard deviation 1 on
        train, which alone is measured. So are the targets of a regression; scores and losses are told in the reader's
        units all the same. :meth:`prepare` does the same to new examples, :meth:`in_units` gives predictions back.

        Args:
            x: inputs (n, ...). Unsigned bytes are read as pixels and divided by 255.
            y: labels 0 … classes-1 of shape (n,), or targets (n,) / (n, outputs) for regression.
            x_test: an official test set; without it ``fractions["test"]`` of ``x`` is the test split.
            y_test: its labels or targets.
            kind: ``"classification"`` or ``"regression"``.
            metric: what the score is: ``"R²"`` (default) or ``"Spearman"`` in regression.
            tokens: ``x`` holds whole numbers >= 0 of shape (n, length), words of texts say, and stays whole (int64).
            outputs: number of classes (classification only); by default the largest label plus one.
            classes: the names of labels 0, 1, 2 …; of labels that are text, ``classes, y = np.unique(y,
                return_inverse=True)`` makes both.
            fractions: share of ``x`` for each split (rescaled to what is cut).
            standardise: False: numbers stay as they are; True: features of images are scaled too. A feature that does
                not vary on train is only centred.
            seed: of the cut. Classes are cut separately (stratified): each split has an example of each class that has
                as many examples as there are splits. A warning names the classes that a split lacks.
            name: what reports call the task.

        Raises:
            ValueError: shapes or dtypes that do not fit, text, NaN, masked or infinite values, labels that do not
                count from 0, one class or one target only, empty splits, a name that no file can have.

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
        seed = int(seed)
        if x_test is not None and not tokens:
            check_same_scale(x, x_test)
        examples = reading.examples(x, y)
        sources = [(examples, SPLITS)]
        if x_test is not None:
            official = reading.examples(x_test, y_test, "_test")
            check_same_shapes(examples, official)
            sources = [(examples, ("train", "calibration", "validation")), (official, ("test",))]
        outputs = count_outputs(kind, outputs, [source for source, _ in sources])

        # Cut and scale.
        parts, positions = cut(sources, kind == "classification", fractions, seed)
        check_not_empty(name, parts)
        missing = what_is_missing(kind, {split: part.y for split, part in parts.items()}, outputs)
        if missing:
            warnings.warn(f"task {name!r}: {missing}", stacklevel=2)
        parts, preparation = standardised(parts, reading, pixels=is_pixels(x))

        # Assemble.
        splits = {split: part.tensors() for split, part in parts.items()}
        return cls(name, kind, outputs, splits, positions, seed, metric, preparation, classes)

    @classmethod
    def from_npz(  # noqa: PLR0913 - the options of from_arrays, each by its name
        cls,
        path: str | Path,
        *,
        kind: str = "classification",
        metric: str = "",
        tokens: bool = False,
        outputs: int | None = None,
        classes: Sequence[str] = (),
        fractions: Mapping[str, float] = FRACTIONS,
        standardise: bool | None = None,
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
            classes: their names.
            fractions: share of ``x_train`` for each split but ``test``.
            standardise: False: numbers stay as they are.
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
            arrays["y_train"],
            x_test=arrays["x_test"],
            y_test=arrays["y_test"],
            kind=kind,
            metric=metric,
            tokens=tokens,
            outputs=outputs,
            classes=classes,
            fractions=fractions,
            standardise=standardise,
            seed=seed,
            name=path.stem if name is None else name,
        )
