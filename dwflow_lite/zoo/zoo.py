"""A zoo: one matrix (members x weights), the layout that gives each column its tensor, and how it was made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dwflow_lite.networks import architecture_of
from dwflow_lite.networks.constants import constants_of, moved, running_statistics
from dwflow_lite.support.checks import failing_as
from dwflow_lite.support.devices import usable_device
from dwflow_lite.support.files import understood
from dwflow_lite.support.paths import as_path, names_folder
from dwflow_lite.zoo.alike import check_alike
from dwflow_lite.zoo.layout import Layout
from dwflow_lite.zoo.members import positions_of
from dwflow_lite.zoo.older import without_constants
from dwflow_lite.zoo.record import record_of_members
from dwflow_lite.zoo.saving import Writable, read_file, read_members, write_file, write_folder
from dwflow_lite.zoo.storage import Shards, check_folder
from dwflow_lite.zoo.template import template_for


@dataclass(frozen=True, eq=False)
class Zoo:
    """Networks of one architecture, as data. Immutable: every stage takes a zoo and returns a new one.

    A zoo equals itself only, as a module does: ``zoo == other`` asks whether they are one object, and reads no weights.
    Whether two zoos hold the same networks is ``torch.equal(zoo.weights, other.weights)``.

    Attributes:
        weights: (N, d), one network a row: a tensor, or :class:`~dwflow_lite.zoo.storage.Shards` on disk.
        layout: which columns are which tensor.
        network: a template module of the architecture; its own weights mean nothing.
        record: JSON-able account of how the zoo was made (recipe, seeds, versions, per-member scores, stages).
        held_out: for each member, whether it is kept from fitting a generator (the control of every audit).
    """

    weights: Tensor | Shards = field(repr=False)
    layout: Layout = field(repr=False)
    network: nn.Module = field(repr=False)
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)
    held_out: tuple[bool, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Tensor | Shards):
            kind = type(self.weights).__name__
            raise TypeError(f"weights of a zoo are a tensor (members, d), not a {kind}: take torch.as_tensor of it")
        if not self.weights.dtype.is_floating_point:
            what_to_do = "keep pairs of real numbers" if self.weights.is_complex() else "take weights.float()"
            raise ValueError(f"weights of a zoo are real numbers, not {self.weights.dtype}: {what_to_do}")
        if self.weights.ndim != 2 or len(self.weights) == 0:
            raise ValueError(f"a zoo needs weights of shape (members >= 1, d), got {tuple(self.weights.shape)}")
        self.layout.check(self.weights)
        self.layout.check_network(self.network)
        held_out = self.held_out if len(self.held_out) else (False,) * len(self)
        if len(held_out) != len(self):
            raise ValueError(f"held_out has {len(held_out)} entries for {len(self)} members")
        object.__setattr__(self, "held_out", tuple(bool(held) for held in held_out))
        if isinstance(self.weights, Tensor):  # rows on disk were checked when they were written
            object.__setattr__(self, "weights", self.weights.detach())  # numbers, whatever they were computed from
            self._check_finite()

    def _check_finite(self) -> None:
        # A sum is finite only if all weights are, and reads them once; those that are not are looked at more closely.
        suspects = (~self.weights.sum(1).isfinite()).nonzero().flatten().tolist()
        members = [member for member in suspects if not self.weights[member].isfinite().all()]
        if members:
            remedy = "leave them out (zoo.take) or retrain them"
            if "generated" in self.record:
                remedy = "as they were generated, they overflow: a smaller factor or level, or weights in float64"
            raise ValueError(f"members {members} hold NaN or infinite weights; {remedy}")

    @classmethod
    def from_modules(
        cls,
        modules: Sequence[nn.Module],
        *,
        held_out: Sequence[int] | Sequence[bool] = (),
        record: Mapping[str, Any] | None = None,
    ) -> Zoo:
        """A zoo of a reader's own trained modules, all of one architecture.

        Args:
            modules: the networks; they are copied.
            held_out: which of them no generator may be fitted on: positions, or one boolean a module.
            record: what else is to be known of them, JSON-able.

        Raises:
            ValueError: no module, modules that differ in more than their weights (say, in a buffer that is a constant),
                tensors that a zoo cannot keep (see :meth:`Layout.of`), or ``held_out`` that names none, or one
                twice.
            TypeError: one module that is in no list.

        Example:
            >>> zoo = Zoo.from_modules([nn.Linear(3, 2) for _ in range(5)], held_out=[4])
            >>> zoo
            Zoo(5 Linear networks x 8 weights, 1 held out)
            >>> len(zoo.fitted), len(zoo.unseen)
            (4, 1)
        """
        if isinstance(modules, nn.Module):
            raise TypeError(f"a zoo needs a list of modules, got one {type(modules).__name__}: [module] if it is one")
        modules = list(modules)
        if not modules:
            raise ValueError("a zoo needs at least one module")
        layout = Layout.of(modules[0])
        check_alike(modules, layout)
        held_out_positions = positions_of(held_out, len(modules), "hold out")
        if len(set(held_out_positions)) < len(held_out_positions):
            raise ValueError(f"held_out names a module twice: {held_out_positions}; of a mask, give True and False")
        rows = []
        for module in modules:
            state = dict(module.named_parameters()) | running_statistics(module)
            rows.append(layout.flatten(state).detach())  # (d,)
        return cls(
            torch.stack(rows),
            layout,
            deepcopy(modules[0]),
            {"architecture": architecture_of(modules[0])} | dict(record or {}),
            tuple(position in held_out_positions for position in range(len(modules))),
        )

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        name = self.record.get("architecture", {}).get("class", type(self.network).__name__)
        where = f", in {self.weights.folder}" if isinstance(self.weights, Shards) else ""
        held_out = sum(self.held_out)
        return f"Zoo({len(self)} {name} networks x {self.layout.size:,} weights, {held_out} held out{where})"

    @property
    def constants(self) -> dict[str, Tensor]:
        """What all members share and nobody trains (masks, tables of positions), by name; kept in the template."""
        return constants_of(self.network)

    # -- choosing members ----------------------------------------------------------------------------------------

    def take(self, members: Sequence[int] | Sequence[bool] | slice) -> Zoo:
        """The zoo of some members; what the record says of each comes along.

        Args:
            members: positions, in the order given; a mask of one boolean a member; or a slice.

        Raises:
            ValueError: no members, or members that are not there.

        Example:
            >>> modules = [nn.Linear(3, 2) for _ in range(5)]
            >>> zoo = Zoo.from_modules(modules, record={"scores": {"test": [0.5, 0.25, 0.75, 0.5, 1.0]}})
            >>> zoo.take([4, 0]).scores("test")
            tensor([1.0000, 0.5000])
            >>> zoo.take(slice(3))
            Zoo(3 Linear networks x 8 weights, 0 held out)
            >>> zoo.take(zoo.scores("test") > 0.6).scores("test")
            tensor([0.7500, 1.0000])
        """
        positions = positions_of(members, len(self), "take")
        if not positions:
            raise ValueError(f"cannot take members [] of a zoo of {len(self)}")
        return replace(
            self,
            weights=self.weights[positions],
            record=record_of_members(self.record, positions, len(self)),
            held_out=tuple(self.held_out[position] for position in positions),
        )

    @property
    def fitted(self) -> Zoo:
        """The members a generator may be fitted on; ``ValueError`` where all are held out."""
        if not any(self.held_out):
            return self
        if all(self.held_out):
            raise ValueError(f"{self!r} has no member that a generator may be fitted on: all are held out")
        return self.take([not held for held in self.held_out])

    @property
    def unseen(self) -> Zoo | None:
        """The held-out members, or None where there are none."""
        if not any(self.held_out):
            return None
        return self.take(self.held_out)

    # -- stages of the pipeline ----------------------------------------------------------------------------------

    def with_weights(
        self,
        weights: Tensor | Shards | Iterable[Tensor],
        stage: Mapping[str, Any],
        keep_scores: bool = False,
        *,
        folder: str | Path | None = None,
    ) -> Zoo:
        """The same members after a stage of the pipeline, which is added to the record.

        Args:
            weights: (N, d), or its rows in order, some at a time.
            stage: what was done, JSON-able.
            keep_scores: whether it changed no function.
            folder: where the rows are written as they come, none of them kept in memory.

        Raises:
            ValueError: rows of a zoo that lives on disk, and no folder; or a folder with another zoo.
        """
        record = dict(self.record)
        record["stages"] = [*self.record.get("stages", []), dict(stage)]
        if not keep_scores:
            record.pop("scores", None)
            record.pop("losses", None)
        if folder is not None:
            storage = self.weights.storage if isinstance(self.weights, Shards) else "float32"
            written = write_zoo(folder, weights, self.layout, self.network, record, self.held_out, storage)
            return written.to(self.device)
        if not isinstance(weights, Tensor | Shards):
            self.check_room(None)
            weights = torch.cat(list(weights))
        return replace(self, weights=weights, record=record)

    def check_room(self, folder: str | Path | None) -> None:
        """Before a stage begins, whether its result has a place.

        Raises:
            ValueError: a zoo on disk and no folder, or its own; or a folder whose name has a suffix.
            OSError: the folder cannot be made.
        """
        if folder is not None:
            self._check_elsewhere(folder)
            check_folder(folder)
        elif isinstance(self.weights, Shards):
            raise ValueError(f"{self!r} lives on disk: name a folder for the result, or take zoo.in_memory()")

    def _check_elsewhere(self, folder: str | Path) -> None:
        """``ValueError`` if a zoo that lives on disk would be written where it lives."""
        if isinstance(self.weights, Shards) and Path(folder).resolve() == self.weights.folder:
            raise ValueError(f"{self!r} lives in that folder already: name another")

    def in_memory(self) -> Zoo:
        """The same zoo with its weights in one tensor."""
        if isinstance(self.weights, Tensor):
            return self
        return replace(self, weights=self.weights.columns(slice(None)))

    @property
    def device(self) -> torch.device:
        """Where its weights lie, or are read onto: every stage computes there, and its result lies there."""
        return self.weights.device

    def to(self, device: torch.device | str) -> Zoo:
        """The same zoo on another device: its weights (those on disk are read onto it), its template and constants.

        Args:
            device: as :func:`~dwflow_lite.support.devices.usable_device` takes it: ``"auto"``, ``"cpu"``, ``"cuda:1"``.

        Raises:
            ValueError: a device that is not here.
        """
        device = usable_device(device)
        return replace(self, weights=self.weights.to(device), network=moved(self.network, device))

    # -- back to networks ----------------------------------------------------------------------------------------

    def module(self, member: int) -> nn.Module:
        """Member ``member`` (its position) as a plain module in eval mode, independent of the zoo, on its device."""
        (position,) = positions_of([member], len(self), "take")
        return self.layout.load_into(moved(self.network, self.device), self.weights[position]).eval()

    def scores(self, split: str = "validation") -> Tensor:
        """Recorded score of each member on a split, (N,); NaN for a member that diverged in training.

        Raises:
            ValueError: the record has no scores on this split.
        """
        recorded = self.record.get("scores") or {}
        if split not in recorded:
            raise ValueError(f"no recorded {split} scores; call evaluate(zoo, task, {split!r})")
        return torch.tensor([math.nan if score is None else score for score in recorded[split]])

    # -- files ---------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, storage: str = "float32") -> Path:
        """Write the zoo with its record: to a file at once or not at all, to a folder member after member.

        A zoo that lives on disk can be saved too: to a folder a row at a time, to a file if it fits in memory. In a
        folder that holds a part of the same zoo, members that are there stay as they are.

        Args:
            path: a name with a suffix is a safetensors file, one without a suffix a folder.
            storage: ``"float32"``, or ``"bfloat16"`` (half the size, three digits), which is read as float32 again.
                A file keeps a zoo of another precision as it is, unless it is told ``"bfloat16"``; a folder rounds
                float64 to float32, and a warning says so.

        Returns:
            The path, for :meth:`load`.

        Raises:
            OSError: it cannot be written (what was there before is as it was), or the path has a suffix and is a
                folder, or has none and is a file.
            ValueError: the folder holds another zoo or is where this one lives, ``storage`` is unknown, or the record
                is not JSON-able.
            MemoryError: a zoo on disk does not fit in memory, and ``path`` is a file.

        Example:
            >>> import tempfile
            >>> zoo = Zoo.from_modules([nn.Linear(3, 2) for _ in range(5)])
            >>> with tempfile.TemporaryDirectory() as home:
            ...     file = zoo.save(f"{home}/linear.safetensors")
            ...     folder = zoo.save(f"{home}/linear")
            ...     print(sorted(path.name for path in folder.iterdir())[-2:])
            ...     torch.equal(Zoo.load(file, nn.Linear(3, 2)).weights, zoo.weights)
            ['members-00000004.safetensors', 'zoo.json']
            True
        """
        path = as_path(path)
        with failing_as(f"cannot write {path}", OSError):
            in_folder = names_folder(path)
        if in_folder:
            self._check_elsewhere(path)
            write_folder(path, self.weights, self.layout, self.constants, self.record, self.held_out, storage)
        else:
            write_file(path, self.weights, self.layout, self.constants, self.record, self.held_out, storage)
        return path

    @classmethod
    def load(
        cls,
        path: str | Path,
        network: nn.Module | None = None,
        *,
        verify: bool = False,
        device: torch.device | str = "cpu",
    ) -> Zoo:
        """Read a zoo: from a file into memory, or from a folder, where a row is read when it is asked for.

        Warns if a folder is not complete (of an interrupted training, say), and has the members that are there; and
        of members that diverged.

        Args:
            path: written by :meth:`save`, ``train_zoo(folder=...)`` or a stage; a name without a suffix is a folder.
            network: template module; needed for a reader's own class, otherwise checked against the record.
            verify: of a folder, read everything now and compare hashes; otherwise that is done file by file, before
                a row of it is first used. (What files say of members, and a single file, are always verified at once.)
            device: where it comes to lie, as of :meth:`to`; of which device it was saved does not matter.

        Raises:
            FileNotFoundError: no such file, no zoo in the folder, or none of its members.
            ZooFileError: truncated, altered, of another format, or not the weights of ``network``.
            OSError: it cannot be read, or the path has a suffix and is a folder, or has none and is a file.
            ValueError: a device that is not here.
        """
        device = usable_device(device)
        path = as_path(path)
        with failing_as(f"cannot read {path}", OSError):
            in_folder = names_folder(path)
        saved = read_members(path, verify) if in_folder else read_file(path)
        saved = without_constants(path, saved, network)
        template = template_for(path, saved.record, saved.layout, network, saved.constants)
        with understood(path):
            zoo = cls(saved.weights, Layout.of(template), template, saved.record, saved.held_out)
        return zoo.to(device)


def write_zoo(
    folder: str | Path,
    weights: Writable,
    layout: Layout,
    network: nn.Module,
    record: Mapping[str, Any],
    held_out: Sequence[bool],
    storage: str,
) -> Zoo:
    """Write a zoo to a folder as its rows come, and give the zoo that is there.

    Where the folder holds part of the same zoo, members that are there stay as they are.

    Args:
        folder: a name without suffix.
        weights: (N, d); or its rows in order, some at a time; or its columns, as blocks (slice, (N, columns)).
        layout: as of a :class:`Zoo`, like ``network``, ``record`` and ``held_out``.
        network: the template.
        record: JSON-able.
        held_out: for each member.
        storage: ``"float32"`` or ``"bfloat16"``.

    Raises:
        ValueError: the folder holds another zoo, or ``storage`` is unknown.
        OSError: it cannot be written; what was finished is there.
    """
    shards = write_folder(folder, weights, layout, constants_of(network), record, held_out, storage)
    return Zoo(shards, layout, network, record, tuple(held_out))
