"""What came of a transfer: for each kind of start, accuracies after so many epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from dwflow_lite.support.cells import aligned, markdown_of


@dataclass(frozen=True)
class Transfer:
    """Accuracies of fine-tuned networks, by the kind of network that they started from; prints as a table.

    At epoch 0 nothing is trained yet, and new classes have outputs that nobody taught: there, examples of the
    ``shared`` classes alone are scored, and the largest output among these classes is the answer. After that, all
    examples and all classes are. The two are the same thing only where all classes are shared.

    Attributes:
        source: name of the task that the starts know.
        target: name of the task that they learn.
        split: of the target, on which accuracies were measured.
        epochs: of fine-tuning, E numbers that increase.
        scores: kind of start -> E rows, one for each number of epochs, of an accuracy in [0, 1] for each of n starts.
        shared: classes of the target whose name the source has too, in the order of the target.
        examples: that were trained on.
        labels_per_class: of them; None: all that the training split has.
    """

    source: str
    target: str
    split: str
    epochs: tuple[int, ...]
    scores: Mapping[str, tuple[tuple[float, ...], ...]] = field(repr=False)
    shared: tuple[str, ...]
    examples: int
    labels_per_class: int | None = None

    def __post_init__(self) -> None:  # lists, as JSON brings them back, become tuples, which nobody can change
        tables = {kind: tuple(tuple(row) for row in table) for kind, table in self.scores.items()}
        for name, value in {"epochs": tuple(self.epochs), "shared": tuple(self.shared), "scores": tables}.items():
            object.__setattr__(self, name, value)

    @property
    def kinds(self) -> list[str]:
        """Names of the kinds of start, in order."""
        return list(self.scores)

    def mean(self, kind: str) -> list[float]:
        """Mean accuracy over the starts of one kind after each number of epochs, E numbers."""
        return [fmean(row) for row in self._table(kind)]

    def spread(self, kind: str) -> list[float]:
        """Standard deviation over the starts of one kind after each number of epochs; 0 of a single start."""
        return [stdev(row) if len(row) > 1 else 0.0 for row in self._table(kind)]

    def gain(self, kind: str, over: str) -> list[tuple[float, float]]:
        """By how much one kind of start is better than another, start by start, after each number of epochs.

        The i-th starts of both kinds saw the same examples in the same order, and their new classes began alike; so
        the differences say more than the two means and spreads.

        Args:
            kind: of n starts.
            over: of n starts too.

        Returns:
            Mean difference of accuracies and its standard error, E times.

        Raises:
            KeyError: no such kind.
            ValueError: the kinds have other numbers of starts.
        """
        pairs = []
        for ours, theirs in zip(self._table(kind), self._table(over), strict=True):
            if len(ours) != len(theirs):
                raise ValueError(f"{kind!r} has {len(ours)} starts, {over!r} {len(theirs)}: only pairs are compared")
            differences = [one - other for one, other in zip(ours, theirs, strict=True)]
            error = stdev(differences) / sqrt(len(differences)) if len(differences) > 1 else 0.0
            pairs.append((fmean(differences), error))
        return pairs

    def _table(self, kind: str) -> tuple[tuple[float, ...], ...]:
        if kind not in self.scores:
            raise KeyError(f"no kind of start {kind!r}; there are {self.kinds}")
        return self.scores[kind]

    # -- as text and numbers -------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """What was measured, in one line."""
        labels = "all labels" if self.labels_per_class is None else f"{self.labels_per_class} labels a class"
        return f"{self.source} to {self.target}, {labels} ({self.examples:,} examples), accuracy ({self.split})"

    def cells(self) -> list[list[str]]:
        """The table as text, cell by cell, its heading first: mean ± standard deviation over starts, in per cent."""
        heading = ["start", "starts", *(self._heading(epochs) for epochs in self.epochs)]
        rows = [heading]
        for kind in self.kinds:
            numbers = zip(self.mean(kind), self.spread(kind), strict=True)
            scores = [f"{100 * mean:.1f} ± {100 * spread:.1f} %" for mean, spread in numbers]
            rows.append([kind.replace("|", "/"), str(len(self.scores[kind][0])), *scores])
        return rows

    def _heading(self, epochs: int) -> str:
        if epochs > 0:
            return f"{epochs} epoch{'s' if epochs > 1 else ''}"
        classes = "class" if len(self.shared) == 1 else "classes"
        return f"untrained, {len(self.shared)} shared {classes}"

    def markdown(self) -> str:
        """The table in Markdown, under its title."""
        return f"{self.title}\n\n{markdown_of(self.cells())}"

    def numbers(self) -> dict[str, Any]:
        """Everything, JSON-able; ``Transfer(**numbers)`` is the same again."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    def __str__(self) -> str:
        return f"{self.title}\n{aligned(self.cells())}"

    def _repr_markdown_(self) -> str:
        return self.markdown()


def _plain(value: Any) -> Any:
    """Tuples as lists, also in dictionaries and in each other."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value
