"""Train a zoo: every member its own start and its own data order, all of them in one batched computation."""

from __future__ import annotations

import hashlib
import json
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from numbers import Real
from operator import itemgetter
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dwflow_lite.batchnorm import norms_with_statistics, recalibrate, without_statistics
from dwflow_lite.batchnorm import stage as statistics_of
from dwflow_lite.networks import INITS, architecture_of, behaviour_of, initialise
from dwflow_lite.support import checkpoints
from dwflow_lite.support.checks import failing_as, is_whole
from dwflow_lite.support.devices import one_thread
from dwflow_lite.support.files import check_writable
from dwflow_lite.support.jobs import run_jobs, runs
from dwflow_lite.support.progress import bar as progress_bar
from dwflow_lite.support.versions import versions
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.forward import batched_forward, evaluate, together
from dwflow_lite.zoo.layout import Layout
from dwflow_lite.zoo.record import folder_header, join_record
from dwflow_lite.zoo.storage import STORAGE, append, read_folder, start_folder, sweep
from dwflow_lite.zoo.zoo import Zoo

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


OUT_OF_MEMORY = ("not enough memory", "can't allocate memory")  # what the allocator of the CPU says


ONE_THREAD_BELOW = 1_000_000  # weights of a network that trains alone: smaller ones gain nothing from a second


class DivergedError(RuntimeError):
    """Members ended with NaN or infinite weights or losses; ``members`` lists their positions."""

    def __init__(self, members: list[int], total: int) -> None:
        self.members = members
        super().__init__(
            f"{len(members)} of {total} members diverged (NaN or infinite weights or losses): {members}. Lower lr, or "
            "pass on_diverged='drop' to go on without them (a checkpoint, if you gave one, spares the training)"
        )


def train_zoo(
    task: Task,
    network: nn.Module,
    *,
    members: int = 100,
    held_out: int = 0,
    seed: int = 0,
    epochs: int = 40,
    batch_size: int = 64,
    optimizer: str = "adam",
    lr: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    init: str | Sequence[str] = "default",
    method: str = "batched",
    members_at_once: int | None = None,
    precision: str = "float32",
    on_diverged: str = "raise",
    device: torch.device | str = "cpu",
    checkpoint: str | Path | None = None,
    folder: str | Path | None = None,
    storage: str = "float32",
    executor: Executor | None = None,
    progress: bool = False,
) -> Zoo:
    """Train ``members`` + ``held_out`` networks to completion, each alone on the same task.

    Member ``m`` of a zoo of any size with this seed and recipe is the same network: its start and the order in which
    it sees the data come from ``(seed, m)``. (With dropout, whose masks are drawn for all members at once, this holds
    for zoos of one size and one ``members_at_once``, trained by one method.)

    Args:
        task: data, loss and score; only ``task.train`` is trained on, all but calibration are scored.
        network: template module; its own weights are not used and not changed.
        members: networks a generator may be fitted on.
        held_out: further networks, trained alike, that no generator may see (last rows of the zoo).
        seed: of every start and every data order.
        epochs: passes over the training split.
        batch_size: examples a step and member; the last, smaller batch of an epoch is used too.
        optimizer: ``"adam"``, ``"adamw"`` or ``"sgd"``.
        lr: learning rate, constant.
        momentum: of ``"sgd"`` only.
        weight_decay: as the optimizer defines it.
        init: one of ``networks.INITS``, or several, dealt to the members in turn.
        method: ``"batched"`` (one computation for all), or ``"loop"`` (member after member: slow, for modules that
            ``torch.vmap`` refuses, and the oracle of the tests).
        members_at_once: how many ``"batched"`` trains, and either method scores, in one computation (None: all);
            bounds memory, not the result.
        precision: ``"bfloat16"`` computes outputs and losses under ``torch.autocast`` (which within ``torch.vmap``
            reaches products of matrices, not convolutions); weights, optimizer, statistics and scores are float32.
        on_diverged: ``"raise"`` names diverged members; ``"drop"`` leaves them out and says so in the record.
        device: where to train; the zoo comes back on the CPU.
        checkpoint: a file, or a folder (a name without suffix) in which the file is named after the recipe. A
            finished zoo found there is read; an interrupted ``"batched"`` training goes on from its last save (every
            ten seconds; with another ``members_at_once``, from the last members that were finished). Where the last
            save of all fails, the zoo is returned with a warning.
        folder: where the zoo is to live, for one that does not fit in memory: ``members_at_once`` (None: 1) members
            are trained, written there and forgotten. Called again, it goes on with the members that are not there.
        storage: ``"float32"`` or ``"bfloat16"``, of the folder.
        executor: where ``members_at_once`` (None: 1) members a job are trained, in any order: a pool of processes, or
            ``client.get_executor()`` of ``dask.distributed``. The same zoo as without it, up to rounding. With a
            folder, which the workers must see, they write to it themselves, and no weights travel. Threads of one
            process take turns.
        progress: show a bar.

    Raises:
        ValueError: an unknown name, a number out of range, a network that does not fit the task, or one that
            changes buffers as it trains that are not the running statistics of BatchNorm.
        DivergedError: see ``on_diverged``.
        MemoryError: too many members at once.
        OSError: the checkpoint cannot be written; found out before anything is trained.
    """
    if folder and checkpoint:
        raise ValueError("name a folder (the zoo lives there, and goes on from there) or a checkpoint, not both")
    if storage not in STORAGE or (storage != "float32" and not folder):
        raise ValueError(f"storage is {' or '.join(map(repr, STORAGE))}, of a folder; got {storage!r}, {folder=}")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"no optimizer {optimizer!r}: choose one of {', '.join(OPTIMIZERS)}")
    if method not in ("batched", "loop") or on_diverged not in ("raise", "drop"):
        raise ValueError("method is 'batched' or 'loop', on_diverged is 'raise' or 'drop'")
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"no precision {precision!r}: choose 'float32' or 'bfloat16'")
    whole = {"members": members, "epochs": epochs, "batch_size": batch_size, "held_out": held_out, "seed": seed}
    real = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
    bad = [n for n, v in whole.items() if not is_whole(v, n not in ("held_out", "seed"))]
    bad += [n for n, v in real.items() if not (isinstance(v, Real) and 0 <= v < np.inf) or (n == "lr" and v == 0)]
    bad += ["members_at_once"] if not (members_at_once is None or is_whole(members_at_once, 1)) else []
    if bad:
        raise ValueError(
            "members, epochs, batch_size and members_at_once (or None) must be whole numbers >= 1, held_out and seed "
            f">= 0; lr a number > 0, momentum and weight_decay >= 0; out of range: {', '.join(bad)}"
        )
    members, epochs, batch_size, held_out, seed = map(int, whole.values())  # JSON knows no NumPy numbers
    lr, momentum, weight_decay = map(float, real.values())
    inits = [init] if isinstance(init, str) else list(init)
    if unknown := [i for i in inits if i not in INITS] or ([] if inits else [init]):
        raise ValueError(f"no init {unknown[0]!r}: choose from {', '.join(INITS)}")
    _check_fit(task, network, method, batch_size)
    recipe = {
        "epochs": epochs, "batch_size": batch_size, "optimizer": optimizer, "lr": lr, "weight_decay": weight_decay,
        "momentum": momentum if optimizer == "sgd" else None, "init": inits,
    } | ({} if precision == "float32" else {"precision": precision})  # fmt: skip
    layout, total = Layout.of(network), members + held_out
    identity = {
        "architecture": architecture_of(network), "layout": layout.to_json(), "recipe": recipe, "seed": seed,
        "behaviour": [behaviour_of(network, task.input_shape, training) for training in (False, True)],
        "buffers": [repr(b.tolist()) for b in network.buffers()],
        "frozen": [n for n, p in network.named_parameters() if not p.requires_grad],
        "task": {"name": task.name, "kind": task.kind, "seed": task.seed, "fingerprint": task.fingerprint},
        "sizes": {"members": members, "held_out": held_out},
    }  # fmt: skip
    identity_hash = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    finished = _checkpoint_file(checkpoint, task, identity_hash)
    if finished and finished.is_file():
        zoo = Zoo.load(finished, network)
        if zoo.record.get("identity") != identity_hash:
            raise ValueError(f"{finished} holds another zoo ({zoo}): name another file, or a folder, or delete it")
        return _settle(zoo, on_diverged)
    if finished:
        check_writable(finished)
    with failing_as(f"cannot train on device {device!r} here; choose another, as 'cpu'"):
        torch.zeros(1, device=torch.device(device)).cpu()

    started = time.perf_counter()
    home = str(Path(folder).resolve()) if folder else None
    plan = _Plan(task, network, recipe, seed, inits, method, device, members, home)
    at_once = int(members_at_once or (1 if folder or executor else total))
    record = {
        "identity": identity_hash,
        "architecture": identity["architecture"],
        "behaviour": {"input": list(task.input_shape), "outputs": identity["behaviour"][0]},
        "task": identity["task"],
        "recipe": recipe,
        "seed": seed,
        "method": method,
        "versions": versions(),
        "stages": [statistics_of("train", len(task.train))] if norms_with_statistics(network) else [],
    }
    there = {}
    if folder:
        start_folder(folder, folder_header(layout, record, total), storage, identity=identity_hash)
        there = read_folder(folder)[2]
    if folder or executor:
        jobs = [(plan, run) for run in runs([m for m in range(total) if m not in there], at_once)]
        parts = run_jobs(_train_members, jobs, executor, progress=progress, desc=f"training {total}", unit="job")
        parts = [part for _, part in sorted(parts, key=itemgetter(0))]
    else:
        partial = finished.with_name(finished.name + ".partial") if finished else None
        parts = [_train_here(plan, range(total), at_once, partial, identity_hash, progress)]
    if folder:
        sweep(folder)
        weights, there = read_folder(folder)[1:]
        if len(there) < total:
            raise OSError(f"workers did not write to {folder}: it must be a folder that they and this process share")
        notes = [there[m] for m in range(total)]
    else:
        weights, notes = torch.cat([rows for rows, _ in parts]), [note for _, notes in parts for note in notes]
        record["seconds"] = round(time.perf_counter() - started, 3)
    record = join_record(record, notes)
    record["diverged"] = [m for m, member in enumerate(record["members"]) if member.get("diverged")]
    zoo = Zoo(weights, layout, deepcopy(network).cpu(), record, (False,) * members + (True,) * held_out)
    if finished:
        try:
            zoo.save(finished)
            finished.with_name(finished.name + ".partial").unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(f"the zoo is trained but not saved: {error}", RuntimeWarning, stacklevel=2)
    return _settle(zoo, on_diverged)


@dataclass(frozen=True)
class _Plan:
    """All that is needed to train any members of a zoo, wherever that is done."""

    task: Task
    network: nn.Module
    recipe: dict[str, Any]
    seed: int
    inits: list[str]
    method: str
    device: torch.device | str
    fitted: int
    folder: str | None


_ALONE = Lock()  # starts and masks come from the generator of the process, which its threads share


def _train_members(plan: _Plan, members: range) -> tuple[Tensor | None, list[dict[str, Any]]]:
    """A job: train some members, and write them to the folder of the plan or return their weights; and their notes."""
    with _ALONE:
        weights, notes = _train_here(plan, members, len(members))
    if plan.folder is None:
        return weights, notes
    append(plan.folder, members.start, weights, notes)
    return None, notes


def _train_here(
    plan: _Plan, members: range, at_once: int, partial: Path | None = None, identity: str = "", progress: bool = False
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Train members, measure the statistics of their BatchNorm, and score them: weights (m, d), and notes of each."""
    task, network, layout = plan.task, plan.network, Layout.of(plan.network)
    inits = {m: plan.inits[m % len(plan.inits)] for m in members}
    starts = [initialise(network, inits[m], _member_seed(plan.seed, m)) for m in members]
    run = _train_batched if plan.method == "batched" else _train_loop
    with one_thread(plan.method == "loop" and layout.size < ONE_THREAD_BELOW):
        state, history = run(task.to(plan.device), without_statistics(network).to(plan.device).train(), starts,
                             members.start, plan.recipe, plan.seed, partial, identity, progress, at_once)  # fmt: skip
    constants = {k: b.detach().cpu().expand(len(members), *b.shape) for k, b in network.named_buffers()}
    weights = layout.flatten({k: v.detach().cpu() for k, v in state.items()} | constants)
    finite = torch.isfinite(weights).all(1)
    zoo, scores, losses = Zoo(weights.nan_to_num(0.0, 0.0, 0.0), layout, deepcopy(network).cpu()), {}, {}
    at_once = min(at_once, together(layout))
    with _memory_for(at_once):
        if norms_with_statistics(network):
            zoo = recalibrate(zoo, task, "train", members_at_once=at_once)
        for split in ("train", "validation", "test"):
            parts = [evaluate(Zoo(rows, layout, zoo.network), task, split) for rows in zoo.weights.split(at_once)]
            score, loss = torch.cat([p.score for p in parts]), torch.cat([p.loss for p in parts])
            scores[split], losses[split] = _plain(score, 6), _plain(loss, 6)
            finite &= torch.isfinite(loss) & torch.isfinite(score)
    notes = [
        {
            "members": {"member": m, "seed": _member_seed(plan.seed, m), "init": inits[m]}
            | ({} if finite[i] else {"diverged": True}),
            "scores": {split: values[i] for split, values in scores.items()},
            "losses": {split: values[i] for split, values in losses.items()},
            "train_loss": _plain([row[i] for row in history], 5),
            "held_out": m >= plan.fitted,
        }
        for i, m in enumerate(members)
    ]
    return zoo.weights, notes


def _plain(values: Sequence[float] | Tensor, digits: int) -> list[float | None]:
    """Rounded numbers for the record; None for NaN and infinity, which JSON does not have."""
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in map(float, values)]


def _settle(zoo: Zoo, on_diverged: str) -> Zoo:
    """The zoo without its diverged members, or an error that names them."""
    diverged = zoo.record["diverged"]
    if not diverged:
        return zoo
    if on_diverged == "raise" or len(diverged) == len(zoo):
        raise DivergedError(diverged, len(zoo))
    return zoo.take([m for m in range(len(zoo)) if m not in diverged])


def _check_fit(task: Task, network: nn.Module, method: str, batch_size: int) -> None:
    """Forward passes of two examples, so that a network that does not fit fails here and not in a batch of many."""
    if not any(p.requires_grad for p in network.parameters()):
        raise ValueError(f"{type(network).__name__} has no parameters to train")
    probe = deepcopy(network).cpu().eval()
    x = task.train.x[:2].cpu()
    with failing_as(f"the network does not take inputs of shape {task.input_shape}"), torch.no_grad():
        shape = tuple(probe(x).shape)
    if shape != (len(x), task.outputs):
        raise ValueError(f"the network returns {shape} for two examples; task {task.name!r} wants (2, {task.outputs})")
    if norms_with_statistics(network) and len(task.train) % batch_size == 1:
        raise ValueError(
            f"batch_size {batch_size} leaves a last batch of one example, which BatchNorm cannot normalise: change it"
        )
    probe = without_statistics(probe)
    before = {name: b.clone() for name, b in probe.named_buffers()}
    with torch.no_grad(), _noise(x.device, 0):
        with failing_as("the network does not run in training mode"):
            probe.train()(x)
        if changed := [n for n, b in probe.named_buffers() if not torch.equal(b, before[n])]:
            raise ValueError(
                f"the network changes its buffers as it trains ({', '.join(changed)}); only BatchNorm may, whose "
                "statistics are measured after training"
            )
        if method == "batched":
            with failing_as("torch.vmap refuses the network; pass method='loop'"):
                batched_forward(probe, {k: p[None] for k, p in probe.named_parameters()}, x[None])


def _member_seed(seed: int, member: int) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=(member,)).generate_state(1)[0])


def _order(seed: int, member: int, epoch: int, n: int) -> np.ndarray:
    """The order in which a member sees the training split in an epoch."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(member, 1 + epoch))).permutation(n)


@contextmanager
def _noise(device: torch.device, seed: int, *key: int) -> Iterator[None]:
    """Dropout draws from ``(seed, *key)`` in here; the global generators are left as they were."""
    drawn = int(np.random.SeedSequence(seed, spawn_key=(*key, 0, 1)).generate_state(1)[0])
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(drawn)
        for one in cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(drawn)
        yield


def _autocast(device: torch.device, recipe: dict[str, Any]) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled="precision" in recipe)


@contextmanager
def _memory_for(members: int) -> Iterator[None]:
    """Out of memory in here, be it the GPU's or the CPU's, is a ``MemoryError`` that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(s in str(error) for s in OUT_OF_MEMORY):
            raise
        traceback.clear_frames(error.__traceback__)  # a notebook keeps the error, and with it all that they hold
        raise MemoryError(
            f"no memory for {members} members at once: pass a smaller members_at_once or batch_size (a checkpoint, if "
            "you gave one, keeps the members that are finished)"
        ) from error


def _checkpoint_file(checkpoint: str | Path | None, task: Task, identity: str) -> Path | None:
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    if path.suffix == "" and path.is_file():
        raise ValueError(f"checkpoint {path} is a file, but a name without suffix means a folder; name another")
    if path.suffix == "" or path.is_dir():
        return path / f"zoo-{task.name}-{identity}.safetensors"
    return path


def _optimizer(parameters: list[Tensor], recipe: dict[str, Any]) -> torch.optim.Optimizer:
    options = {"lr": recipe["lr"], "weight_decay": recipe["weight_decay"]}
    if recipe["optimizer"] == "sgd":
        options["momentum"] = recipe["momentum"]
    return OPTIMIZERS[recipe["optimizer"]](parameters, **options, fused=True)


def _train_batched(
    task: Task, network: nn.Module, starts: list[dict[str, Tensor]], offset: int, recipe: dict[str, Any], seed: int,
    partial: Path | None, identity: str, progress: bool, at_once: int,
) -> tuple[dict[str, Tensor], list[list[float]]]:  # fmt: skip
    """Chunk after chunk of members; ``partial`` holds the finished ones, and half-done the one under way."""
    saved = (checkpoints.read_partial(partial, identity, torch.device("cpu")) if partial else None) or {}
    finished = saved.get("finished", [])
    kept = {"identity": identity, "finished": finished}
    firsts = range(sum(len(history[0]) for _, history in finished), len(starts), at_once)
    if len(saved.get("sums", ())) != len(starts[firsts[0] :][:at_once]):
        saved = {}  # a chunk of another size was under way: its members start again
    steps = recipe["epochs"] * -(-len(task.train) // recipe["batch_size"])
    with progress_bar(total=steps * (len(finished) + len(firsts)), initial=steps * len(finished) + saved.get("done", 0),
                      desc=f"training {len(starts)}", unit="step", progress=progress) as bar:  # fmt: skip
        for first in firsts:
            chunk = starts[first : first + at_once]
            with _memory_for(len(chunk)):
                finished.append(
                    _train_chunk(task, network, chunk, offset + first, recipe, seed, partial, kept, saved, bar)
                )
            saved = {}
            if partial and first != firsts[-1]:
                checkpoints.write_partial(partial, kept)
    states, histories = zip(*finished, strict=True)
    return {k: torch.cat([s[k] for s in states]) for k in states[0]}, np.concatenate(histories, 1).tolist()


def _train_chunk(
    task: Task, network: nn.Module, starts: list[dict[str, Tensor]], first: int, recipe: dict[str, Any], seed: int,
    partial: Path | None, kept: dict[str, Any], saved: dict[str, Any], bar: Any,
) -> tuple[dict[str, Tensor], list[list[float]]]:  # fmt: skip
    """Members at once: tensors (N, *shape), one backward pass of the summed losses, one elementwise optimizer."""
    device, split, members = task.train.x.device, task.train, range(first, first + len(starts))
    state = {k: torch.stack([s[k] for s in starts]).to(device) for k in starts[0]}
    for name, parameter in network.named_parameters():
        state[name].requires_grad_(parameter.requires_grad)
    optimizer = _optimizer(list(state.values()), recipe)
    steps = -(-len(split) // recipe["batch_size"])
    done, history, sums = 0, [], torch.zeros(len(members), device=device)
    if saved:
        done, history, sums = saved["done"], saved["history"], saved["sums"].to(device)
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(saved["state"][name])
        optimizer.load_state_dict(saved["optimizer"])
    last_save, order = time.monotonic(), None
    while done < recipe["epochs"] * steps:
        epoch, step = divmod(done, steps)
        if order is None or step == 0:
            order = torch.from_numpy(np.stack([_order(seed, m, epoch, len(split)) for m in members])).to(device)
        rows = order[:, step * recipe["batch_size"] : (step + 1) * recipe["batch_size"]]
        key = (done, first) if first else (done,)  # unchunked training draws the masks it always drew
        with _noise(device, seed, *key), _autocast(device, recipe):
            losses = task.loss(batched_forward(network, state, split.x[rows]), split.y[rows])
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        sums += losses.detach() * rows.shape[1]
        done += 1
        if step == steps - 1:
            history.append((sums / len(split)).tolist())
            sums = torch.zeros_like(sums)
            bar.set_postfix(loss=f"{np.median(history[-1]):.3f}", refresh=False)
        if partial and time.monotonic() - last_save > checkpoints.SAVE_EVERY_SECONDS:
            checkpoints.write_partial(partial, kept | {
                "done": done, "history": history, "sums": sums,
                "state": {k: v.detach() for k, v in state.items()}, "optimizer": optimizer.state_dict(),
            })  # fmt: skip
            last_save = time.monotonic()
        bar.update()
    return {k: v.detach().cpu() for k, v in state.items()}, history


def _train_loop(
    task: Task, network: nn.Module, starts: list[dict[str, Tensor]], offset: int, recipe: dict[str, Any], seed: int,
    partial: Path | None, identity: str, progress: bool, at_once: int,
) -> tuple[dict[str, Tensor], list[list[float]]]:  # fmt: skip
    """The same training, member after member, with tensors in memory: the recipe a reader would write first."""
    split, states, histories = task.train, [], []
    for member, start in enumerate(progress_bar(starts, desc="training", unit="member", progress=progress), offset):
        one = deepcopy(network)
        with torch.no_grad():
            for name, parameter in one.named_parameters():
                parameter.copy_(start[name])
        optimizer, history, step = _optimizer(list(one.parameters()), recipe), [], 0
        for epoch in range(recipe["epochs"]):
            order, total = torch.from_numpy(_order(seed, member, epoch, len(split))).to(split.x.device), 0.0
            for rows in order.split(recipe["batch_size"]):
                with _noise(split.x.device, seed, member, step), _autocast(split.x.device, recipe):
                    loss = task.loss(one(split.x[rows]), split.y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(rows)
                step += 1
            history.append(float(total / len(split)))
        states.append({name: p.detach() for name, p in one.named_parameters()})
        histories.append(history)
    stacked = {k: torch.stack([s[k] for s in states]) for k in states[0]}
    return stacked, [list(row) for row in zip(*histories, strict=True)]
