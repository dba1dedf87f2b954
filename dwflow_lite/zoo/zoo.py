"""A zoo: one matrix (members x weights), the layout that gives each column its tensor, and how it was made."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dwflow_lite.networks import architecture_of, behaviour_of, build
from dwflow_lite.support.files import ZooFileError, check_writable, read_safetensors, write_safetensors
from dwflow_lite.zoo.layout import Layout
from dwflow_lite.zoo.record import folder_header, join_record, split_record
from dwflow_lite.zoo.storage import Shards, append, read_folder, rows_of_columns, start_folder

FORMAT = "dwflow_lite.zoo/1"


@dataclass(frozen=True)
class Zoo:
    """Networks of one architecture, as data. Immutable: every stage takes a zoo and returns a new one.

    Attributes:
        weights: (N, d), one network a row: a tensor, or :class:`~dwflow_lite.storage.Shards` on disk.
        layout: which columns are which tensor.
        network: a template module of the architecture; its own weights mean nothing.
        record: JSON-able account of how the zoo was made (recipe, seeds, versions, per-member scores, stages).
        held_out: for each member, whether it is kept from fitting a generator (the control of every audit).
    """

    weights: Tensor | Shards = field(repr=False)
    layout: Layout = field(repr=False)
    network: nn.Module = field(repr=False, compare=False)
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)
    held_out: tuple[bool, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or not len(self.weights):
            raise ValueError(f"a zoo needs weights of shape (members >= 1, d), got {tuple(self.weights.shape)}")
        self.layout.check(self.weights)
        if not self.held_out:
            object.__setattr__(self, "held_out", (False,) * len(self.weights))
        if len(self.held_out) != len(self.weights):
            raise ValueError(f"held_out has {len(self.held_out)} entries for {len(self.weights)} members")
        if isinstance(self.weights, Shards):
            return  # each row was checked when it was written
        rows = max(1, (1 << 24) // self.layout.size)  # at a time: no second zoo in memory
        parts = self.weights.split(rows)
        bad = (~torch.cat([part.abs().amax(1) for part in parts]).isfinite()).nonzero().flatten().tolist()
        if bad:
            raise ValueError(f"members {bad} hold NaN or infinite weights; leave them out (zoo.take) or retrain them")

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        name, held = self.record.get("architecture", {}).get("class", "?"), sum(self.held_out)
        where = f", in {self.weights.folder}" if isinstance(self.weights, Shards) else ""
        return f"Zoo({len(self)} {name} networks x {self.layout.size:,} weights, {held} held out{where})"

    # -- choosing members ----------------------------------------------------------------------------------------

    def take(self, members: Sequence[int] | Sequence[bool] | slice) -> Zoo:
        """The zoo of these members: positions, in the order given, or a mask of one boolean a member."""
        if isinstance(members, slice):
            members = range(len(self))[members]
        chosen = members.cpu().numpy() if isinstance(members, Tensor) else np.asarray(members)
        mask = chosen.dtype == bool
        if chosen.ndim != 1 or (mask and len(chosen) != len(self)) or (len(chosen) and chosen.dtype.kind not in "iub"):
            raise ValueError(f"take members by whole-number positions or by {len(self)} booleans, got {members!r}")
        rows = (np.flatnonzero(chosen) if mask else chosen).tolist()
        if not rows or max(rows) >= len(self) or min(rows) < -len(self):
            raise ValueError(f"cannot take members {rows} of a zoo of {len(self)}")
        common, notes = split_record(self.record, len(self))
        record = join_record(common, [notes[r] for r in rows])
        return replace(self, weights=self.weights[rows], record=record, held_out=tuple(self.held_out[r] for r in rows))

    @property
    def fitted(self) -> Zoo:
        """The members a generator may be fitted on."""
        if not any(self.held_out):
            return self
        return self.take([i for i, held in enumerate(self.held_out) if not held])

    @property
    def unseen(self) -> Zoo | None:
        """The held-out members, or None where there are none."""
        rows = [i for i, held in enumerate(self.held_out) if held]
        return self.take(rows) if rows else None

    def with_weights(
        self, weights: Tensor | Shards | Iterable[Tensor], stage: Mapping[str, Any], keep_scores: bool = False, *,
        folder: str | Path | None = None,
    ) -> Zoo:  # fmt: skip
        """The same members after a stage of the pipeline, which is added to the record.

        Args:
            weights: (N, d), or its rows in order, some at a time.
            stage: what was done, JSON-able.
            keep_scores: whether it changed no function.
            folder: where the rows are written as they come, none of them kept in memory.

        Raises:
            ValueError: rows of a zoo that lives on disk, and no folder; or a folder with another zoo.
        """
        record = dict(self.record) | {"stages": [*self.record.get("stages", []), dict(stage)]}
        if not keep_scores:
            record.pop("scores", None), record.pop("losses", None)
        if folder is not None:
            storage = self.weights.storage if isinstance(self.weights, Shards) else "float32"
            return write_zoo(folder, weights, self.layout, self.network, record, self.held_out, storage)
        if not isinstance(weights, Tensor | Shards):
            self.check_room(None)
            weights = torch.cat(list(weights))
        return replace(self, weights=weights, record=record)

    def check_room(self, folder: str | Path | None) -> None:
        """Before a stage begins: ``ValueError`` for a zoo on disk and no folder, ``OSError`` where none can be made."""
        if folder is not None:
            check_writable(Path(folder) / "zoo.json")
        elif isinstance(self.weights, Shards):
            raise ValueError(f"{self!r} lives on disk: name a folder for the result, or take zoo.in_memory()")

    # -- back to networks ----------------------------------------------------------------------------------------

    def module(self, member: int) -> nn.Module:
        """Member ``member`` as a plain module in eval mode, independent of the zoo."""
        return self.layout.load_into(deepcopy(self.network), self.weights[member]).eval()

    def scores(self, split: str = "test") -> Tensor:
        """Recorded score of each member on a split, (N,); ``ValueError`` where the record has none."""
        if split not in (self.record.get("scores") or {}):
            raise ValueError(f"no recorded {split} scores; call evaluate(zoo, task, {split!r})")
        return torch.tensor(self.record["scores"][split])

    # -- files ---------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file with its record, at once or not at all. (On disk: :meth:`write`.)"""
        if isinstance(self.weights, Shards):
            raise ValueError(f"{self!r} is on disk already; zoo.write(folder) copies it, zoo.in_memory() reads it")
        record = dict(self.record) | {"layout": self.layout.to_json(), "held_out": list(self.held_out)}
        weights = self.weights.detach().cpu().contiguous()
        text = json.dumps(record, sort_keys=True, allow_nan=False)
        metadata = {"format": FORMAT, "record": text, "sha256": _digest(weights, text)}
        return write_safetensors({"weights": weights}, path, metadata)

    @classmethod
    def load(cls, path: str | Path, network: nn.Module | None = None) -> Zoo:
        """Read a zoo and verify it.

        Args:
            path: file written by :meth:`save`.
            network: template module; needed for a reader's own class, otherwise checked against the record.

        Raises:
            FileNotFoundError: no such file.
            ZooFileError: truncated, altered, of another format, or not the weights of ``network``.
        """
        tensors, metadata = read_safetensors(path, FORMAT)
        text, weights = metadata.get("record", ""), tensors.get("weights")
        if weights is None or metadata.get("sha256") != _digest(weights, text):
            raise ZooFileError(f"{path} was altered after it was written: its hash does not match. Delete it")
        record = json.loads(text)
        layout, held_out = Layout.from_json(record.pop("layout")), tuple(record.pop("held_out"))
        return cls(weights, layout, _fitting(path, record, layout, network), record, held_out)

    # -- folders: zoos that need not fit in memory ----------------------------------------------------------------

    def write(self, folder: str | Path, storage: str = "float32") -> Zoo:
        """A copy on disk, one file a member, in ``"float32"`` or ``"bfloat16"`` (half the size, three digits)."""
        return write_zoo(folder, self.weights, self.layout, self.network, self.record, self.held_out, storage)

    @classmethod
    def open(cls, folder: str | Path, network: nn.Module | None = None, *, verify: bool = False) -> Zoo:
        """A zoo that lives in a folder; a row is read when it is asked for.

        Warns if it is not complete (of an interrupted training, say), and has the members that are there; and of
        members that diverged.

        Args:
            folder: written by :meth:`write`, ``train_zoo(folder=...)`` or a stage. network: as in :meth:`load`.
            verify: read everything and compare hashes; otherwise files are only checked to be complete.

        Raises:
            FileNotFoundError: no zoo there, or none of its members.
            ZooFileError: as :meth:`load`.
        """
        header, weights, notes = read_folder(folder, verify)
        if missing := [i for i in range(header["members"]) if i not in notes]:
            said = f"{folder} holds {len(notes)} of {header['members']} members; missing: {missing}"
            if not notes:
                raise FileNotFoundError(said)
            warnings.warn(said, RuntimeWarning, stacklevel=2)
        members = [dict(notes[position]) for position in sorted(notes)]
        held_out = tuple(member.pop("held_out") for member in members)
        if diverged := [i for i, member in enumerate(members) if member.get("members", {}).get("diverged")]:
            said = f"members {diverged} of {folder} diverged in training and hold no networks; zoo.take the others"
            warnings.warn(said, RuntimeWarning, stacklevel=2)
        layout, record = Layout.from_json(header["layout"]), join_record(header["record"], members)
        return cls(weights, layout, _fitting(folder, record, layout, network), record, held_out)

    def in_memory(self) -> Zoo:
        """The same zoo with its weights in one tensor."""
        whole = self.weights.columns(slice(None)) if isinstance(self.weights, Shards) else self.weights
        return replace(self, weights=whole)

    def to(self, device: torch.device | str) -> Zoo:
        """The same zoo with its weights on ``device``, or read onto it."""
        return replace(self, weights=self.weights.to(device))

    @classmethod
    def from_modules(cls, modules: Sequence[nn.Module], **record: Any) -> Zoo:
        """A zoo of a reader's own trained modules, all of one architecture."""
        if not modules:
            raise ValueError("a zoo needs at least one module")
        layout, first = Layout.of(modules[0]), architecture_of(modules[0])
        for i, module in enumerate(modules):
            if Layout.of(module) != layout:
                raise ValueError(f"module {i} differs from module 0: {layout.difference(module)}")
            if type(module) is not type(modules[0]) or architecture_of(module) != first:
                raise ValueError(f"module {i} differs from module 0: {architecture_of(module)}, not {first}")
        states = [dict(m.named_parameters()) | dict(m.named_buffers()) for m in modules]
        weights = torch.stack([layout.flatten(s) for s in states]).detach()
        record = {"architecture": first} | record
        return cls(weights, layout, deepcopy(modules[0]), record)


def _fitting(path: str | Path, record: Mapping[str, Any], layout: Layout, network: nn.Module | None) -> nn.Module:
    """The template for weights of a record: built, or a copy of ``network``; ``ZooFileError`` unless it fits."""
    written, probe = record.get("architecture", {}), record.get("behaviour")
    network = build(written) if network is None else network
    if Layout.of(network) != layout:
        raise ZooFileError(f"{path} does not fit the network: {layout.difference(network)}")
    if not written.items() <= architecture_of(network).items():
        raise ZooFileError(f"{path} holds {written} networks, not {architecture_of(network)}")
    if probe:
        known, found = np.array(probe["outputs"]), np.array(behaviour_of(network, probe["input"]))
        if known.shape != found.shape or (np.abs(found - known) > 2e-3 * np.abs(known).max(initial=0.0)).any():
            raise ZooFileError(f"{path} holds networks of another forward pass than this {type(network).__name__}")
    return deepcopy(network)


def write_zoo(
    folder: str | Path, weights: Tensor | Shards | Iterable, layout: Layout, network: nn.Module,
    record: Mapping[str, Any], held_out: Sequence[bool], storage: str,
) -> Zoo:  # fmt: skip
    """Write a zoo to a folder as its rows come, and give the zoo that is there.

    Args:
        weights: (N, d); or its rows in order, some at a time; or its columns, as blocks (slice, (N, columns)).
        storage: ``"float32"`` or ``"bfloat16"``. The others: as of a :class:`Zoo`.

    Where the folder holds part of the same zoo, members that are there stay as they are.

    Raises:
        ValueError: the folder holds another zoo, or ``storage`` is unknown.
        OSError: it cannot be written; what was finished is there.
    """
    members = len(held_out)
    common, notes = split_record(record, members)
    notes = [note | {"held_out": held} for note, held in zip(notes, held_out, strict=True)]
    start_folder(folder, folder_header(layout, common, members), storage)
    _, kept, known = read_folder(folder)
    places = {position: place for place, position in enumerate(known)}
    parts = iter(weights.split(1) if isinstance(weights, Tensor | Shards) else weights)
    first = next(parts)
    parts = chain([first], parts)
    parts = rows_of_columns(folder, members, parts) if isinstance(first, tuple) else parts
    rows = (row for part in parts for row in part.split(1))
    for position, (row, note) in enumerate(zip(rows, notes, strict=True)):
        if position not in places:
            append(folder, position, row, [note])
            continue
        same, tolerance = kept[places[position]], 1e-4 * float(row.abs().max())  # rows may have been rounded otherwise
        known_note = json.loads(json.dumps(note)) == known[position]
        if not known_note or not torch.allclose(same, row[0].to(same), rtol=1e-2, atol=tolerance):
            raise ValueError(f"{folder} holds another zoo (see member {position}): name another folder, or delete it")
    return Zoo(read_folder(folder)[1], layout, network, record, tuple(held_out))


def _digest(weights: Tensor, text: str) -> str:
    digest = hashlib.sha256(text.encode())
    digest.update(str((weights.dtype, tuple(weights.shape))).encode())
    digest.update(weights.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
