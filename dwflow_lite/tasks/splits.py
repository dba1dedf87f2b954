"""The four splits of a task, and the one place where examples are dealt to them.

* ``train`` fits weights; ``calibration`` re-estimates BatchNorm statistics; ``validation`` makes choices;
  ``test`` is read once, to report. No other room of the package ever cuts data again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dwflow_lite.support.checks import is_number

SPLITS = ("train", "calibration", "validation", "test")

# Which split gets an example first where there are too few of a class for all of them.
BY_NEED = ("train", "validation", "test", "calibration")

FRACTIONS = {"train": 0.6, "calibration": 0.05, "validation": 0.15, "test": 0.2}


@dataclass(frozen=True, eq=False)
class Split:
    """One split: inputs and targets of the same examples, in the same order.

    Attributes:
        x: inputs (n, ...), float32, or int64 where they are tokens.
        y: labels (n,), int64, or targets (n, outputs), float32.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def inputs(self, like: Tensor) -> Tensor:
        """``x`` on the device of ``like``, and in its dtype; whole numbers (tokens) keep theirs."""
        dtype = like.dtype if self.x.is_floating_point() else None
        return self.x.to(like.device, dtype)


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raise ``ValueError`` unless there is a share of at least 0 for each split, and for nothing else."""
    is_complete = isinstance(fractions, Mapping) and set(fractions) == set(SPLITS)
    if not is_complete or not all(is_number(share, 0) for share in fractions.values()):
        raise ValueError(f"fractions must give a share >= 0 for each of {SPLITS}, got {fractions!r}")


def deal_rows(
    y: np.ndarray, stratified: bool, fractions: Mapping[str, float], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Deal the examples of one array to splits at random.

    Args:
        y: labels (n,) or targets (n, outputs).
        stratified: deal class by class, so that each split has its share of every class, and at least one example of
            each class that has enough; of a class with fewer examples than there are splits, those come first that
            :data:`BY_NEED` names first.
        fractions: split name -> share. Only their ratios count; the last split takes what rounding leaves, and all if
            it is the only one, even with a share of 0.
        rng: draws the order.

    Returns:
        Split name -> rows of ``y``, shuffled. Every row is in one split.
    """
    if stratified:
        groups = [np.flatnonzero(y == label) for label in np.unique(y)]
    else:
        groups = [np.arange(len(y))]
    shares = np.array(list(fractions.values()))
    ends = np.cumsum(shares) / max(shares.sum(), 1e-12)  # where each split ends, as a share of the rows
    needy = [split for split in BY_NEED if fractions.get(split, 0) > 0]
    dealt: dict[str, list[np.ndarray]] = {split: [] for split in fractions}
    for group in groups:
        group = rng.permutation(group)
        # A random offset a class keeps rounding from starving the small splits when classes are small.
        edges = np.floor(ends * len(group) + rng.random()).clip(0, len(group)).astype(int)
        edges[-1] = len(group)
        counts = dict(zip(fractions, np.diff(edges, prepend=0).tolist(), strict=True))
        _fill_empty(counts, needy)
        edges = np.cumsum(list(counts.values()))
        for split, rows in zip(fractions, np.split(group, edges[:-1]), strict=True):
            dealt[split].append(rows)
    return {split: rng.permutation(np.concatenate(parts)) for split, parts in dealt.items()}


def _fill_empty(counts: dict[str, int], needy: Sequence[str]) -> None:
    """Give each empty split one example of the largest, as far as there are examples.

    Args:
        counts: split name -> how many examples of one class it gets; changed in place.
        needy: the splits that want one, the most important first.

    Example:
        >>> counts = {"train": 7, "calibration": 0, "validation": 1, "test": 2}
        >>> _fill_empty(counts, ["train", "validation", "test", "calibration"])
        >>> counts
        {'train': 6, 'calibration': 1, 'validation': 1, 'test': 2}
    """
    served = needy[: sum(counts.values())]
    for split in served:
        if counts[split] == 0:
            unserved = [donor for donor in counts if donor not in served and counts[donor] > 0]
            donor = max(unserved or counts, key=counts.get)
            counts[donor] -= 1
            counts[split] += 1


def check_not_empty(name: str, splits: Mapping[str, Sized]) -> None:
    """Raise ``ValueError`` unless each split of the task of this name has an example."""
    missing = [split for split in SPLITS if split not in splits or len(splits[split]) == 0]
    if missing:
        raise ValueError(
            f"task {name!r}: split(s) {missing} are empty or missing; all of {SPLITS} are needed: "
            "bring more examples (a class of few goes to train first), or give those splits a larger share in fractions"
        )


def check_disjoint(name: str, indices: Mapping[str, np.ndarray]) -> None:
    """Raise ``ValueError`` if two splits of the task of this name share a position (split name -> positions (n,))."""
    positions = np.concatenate([np.asarray(indices[split]) for split in SPLITS])
    if len(np.unique(positions)) != len(positions):
        raise ValueError(f"task {name!r}: the splits overlap; every example belongs to one split only")


def what_is_missing(kind: str, y_of: Mapping[str, np.ndarray], outputs: int) -> str:
    """What splits lack that they should have, in words; empty if nothing.

    Args:
        kind: of the task.
        y_of: split name -> labels (n,), or targets (n, outputs).
        outputs: number of classes or targets.

    Returns:
        Which classes have no example in which split; or which split of a regression has too few examples for R².

    Example:
        >>> what_is_missing("classification", {"train": np.array([0, 1]), "test": np.array([0])}, outputs=2)
        'class 1 (1 example in all) is missing in test'
    """
    if kind == "regression":
        few = [split for split in ("train", "validation", "test") if len(y_of[split]) < 2]
        return f"{', '.join(few)} with one example each: R² needs two or more, and tells nothing here" if few else ""
    counts = {split: np.bincount(y, minlength=outputs) for split, y in y_of.items()}  # each (outputs,)
    total = sum(counts.values())
    fewest = np.min(list(counts.values()), axis=0)
    rare = np.flatnonzero((fewest == 0) & (total > 0))
    absent = np.flatnonzero(total == 0)
    sentences = []
    if len(absent):
        named = ", ".join(str(label) for label in absent[:5]) + (" …" if len(absent) > 5 else "")
        sentences.append(f"no example of {len(absent)} of {outputs} classes ({named})")
    for label in rare[:5]:
        splits = ", ".join(split for split in counts if counts[split][label] == 0)
        examples = "1 example" if total[label] == 1 else f"{total[label]} examples"
        sentences.append(f"class {label} ({examples} in all) is missing in {splits}")
    if len(rare) > 5:
        sentences.append(f"and so on, {len(rare)} of {outputs} classes")
    return "; ".join(sentences)
