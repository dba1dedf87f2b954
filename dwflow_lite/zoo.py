"""A zoo: one matrix (members x weights), the layout that gives each column its tensor, and how it was made."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

from dwflow_lite.layout import Layout
from dwflow_lite.networks import architecture_of, behaviour_of, build
from dwflow_lite.tasks import Task, failing_as

FORMAT = "dwflow_lite.zoo/1"


class ZooFileError(ValueError):
    """A zoo file is truncated, altered, of another format, or does not fit the network given."""


@dataclass(frozen=True)
class Zoo:
    """Networks of one architecture, as data. Immutable: every stage takes a zoo and returns a new one.

    Attributes:
        weights: (N, d), one network a row.
        layout: which columns are which tensor.
        network: a template module of the architecture; its own weights mean nothing.
        record: JSON-able account of how the zoo was made (recipe, seeds, versions, per-member scores, stages).
        held_out: for each member, whether it is kept from fitting a generator (the control of every audit).
    """

    weights: Tensor = field(repr=False)
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
        rows = max(1, (1 << 24) // self.layout.size)  # at a time: no second zoo in memory
        parts = self.weights.split(rows)
        bad = (~torch.cat([part.abs().amax(1) for part in parts]).isfinite()).nonzero().flatten().tolist()
        if bad:
            raise ValueError(f"members {bad} hold NaN or infinite weights; leave them out (zoo.take) or retrain them")

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        name, held = self.record.get("architecture", {}).get("class", "?"), sum(self.held_out)
        return f"Zoo({len(self)} {name} networks x {self.layout.size:,} weights, {held} held out)"

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
        record = dict(self.record)
        for key in ("members", "scores", "losses"):
            if isinstance(record.get(key), list):
                record[key] = [record[key][r] for r in rows]
            elif record.get(key):
                record[key] = {s: [values[r] for r in rows] for s, values in record[key].items()}
        if "train_loss" in record:
            record["train_loss"] = [[row[r] for r in rows] for row in record["train_loss"]]
        return replace(self, weights=self.weights[rows], record=record, held_out=tuple(self.held_out[r] for r in rows))

    @property
    def fitted(self) -> Zoo:
        """The members a generator may be fitted on."""
        return self.take([i for i, held in enumerate(self.held_out) if not held])

    @property
    def unseen(self) -> Zoo | None:
        """The held-out members, or None where there are none."""
        rows = [i for i, held in enumerate(self.held_out) if held]
        return self.take(rows) if rows else None

    def with_weights(self, weights: Tensor, stage: Mapping[str, Any], keep_scores: bool = False) -> Zoo:
        """The same members after a stage of the pipeline, which is added to the record."""
        record = dict(self.record) | {"stages": [*self.record.get("stages", []), dict(stage)]}
        if not keep_scores:
            record.pop("scores", None), record.pop("losses", None)
        return replace(self, weights=weights, record=record)

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
        """Write one safetensors file with its record, at once or not at all."""
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
        return cls(weights, layout, deepcopy(network), record, held_out)

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


def _digest(weights: Tensor, text: str) -> str:
    digest = hashlib.sha256(text.encode())
    digest.update(str((weights.dtype, tuple(weights.shape))).encode())
    digest.update(weights.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_writable(path: Path) -> None:
    """``OSError`` that names the path, unless a file can be written there; its folder is made."""
    with failing_as(f"cannot write {path}", OSError):
        if path.is_dir():
            raise IsADirectoryError("it is a folder; name a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.{os.getpid()}.partial")
        probe.touch()
        probe.unlink()


def write_safetensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> Path:
    """Write a safetensors file beside its name, then move it there: never half-written."""
    path = Path(path)
    check_writable(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata=dict(metadata))
        partial.chmod(0o644)  # safetensors writes for the owner only; a zoo is there to be shared
        os.replace(partial, path)
    except (SafetensorError, OSError) as error:
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_safetensors(path: str | Path, expected: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file of format ``expected``; ``ZooFileError`` says what is wrong with another."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except OSError as error:
        raise OSError(f"cannot read {path}: {error}") from error
    except (SafetensorError, ValueError) as error:
        raise ZooFileError(f"{path} is truncated or not a safetensors file ({error}). Delete it") from error
    if metadata.get("format") != expected:
        raise ZooFileError(f"{path} is of format {metadata.get('format')!r}, not {expected!r}")
    return tensors, metadata


# -- many networks at once ---------------------------------------------------------------------------------------


def batched_forward(network: nn.Module, state: Mapping[str, Tensor], x: Tensor, shared_input: bool = False) -> Tensor:
    """Run N networks at once: ``state`` holds tensors (N, *shape), ``x`` is (N, n, ...), or (n, ...) if shared.

    Returns outputs (N, n, outputs). One call of :func:`torch.vmap` over :func:`torch.func.functional_call`.
    """

    def forward(member: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(network, member, (inputs,))

    return torch.vmap(forward, in_dims=(0, None if shared_input else 0), randomness="different")(state, x)


@torch.no_grad()
def predict(zoo: Zoo, x: Tensor, *, members_at_once: int = 64, inputs_at_once: int = 1024) -> Tensor:
    """Outputs (N, n, outputs) of every member for inputs (n, ...), in eval mode and in one batched pass.

    ``members_at_once`` and ``inputs_at_once`` bound the memory of activations, not the result.
    """
    network, rows = deepcopy(zoo.network).eval().to(zoo.weights.device), []
    for weights in zoo.weights.split(members_at_once):
        state = zoo.layout.unflatten(weights)
        rows.append(torch.cat([forward_all(network, state, part) for part in x.split(inputs_at_once)], 1))
    return torch.cat(rows)


def forward_all(network: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Batched where :func:`torch.vmap` takes the network, else member after member."""
    try:
        return batched_forward(network, state, x, shared_input=True)
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
    members = len(next(iter(state.values())))
    return torch.stack([functional_call(network, {k: t[m] for k, t in state.items()}, (x,)) for m in range(members)])


@dataclass(frozen=True)
class Evaluation:
    """Loss and score of every member on one split, (N,); for classification also which examples it errs on, (N, n)."""

    split: str
    loss: Tensor
    score: Tensor
    wrong: Tensor | None = None


def evaluate(zoo: Zoo, task: Task, split: str = "validation") -> Evaluation:
    """Loss and score of every member on one split of a task, all members in one batched pass."""
    data = task.split(split)
    x = data.x.to(zoo.weights)
    try:
        outputs = predict(zoo, x)
    except Exception:  # is it that the networks do not take these inputs? One of them, on two examples, will say
        first, given = zoo.layout.entries[0], f"inputs of shape {task.input_shape} of task {task.name!r}"
        said = f"the networks (first tensor: {first.name} {first.shape}) do not take {given}"
        with failing_as(said), torch.no_grad():
            zoo.module(0).to(x)(x[:2])
        raise
    if outputs.shape[-1] != task.outputs:
        raise ValueError(f"the networks return {outputs.shape[-1]} outputs, task {task.name!r} wants {task.outputs}")
    y = data.y.to(outputs.device)
    wrong = outputs.argmax(-1) != y if task.kind == "classification" else None
    return Evaluation(split, task.loss(outputs, y), task.score(outputs, y), wrong)
