"""Train a zoo: check, find what is finished, train the rest, put the zoo together, save it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dwflow_lite.batchnorm import STATISTICS
from dwflow_lite.networks.constants import constants_of
from dwflow_lite.support.checkpoints import Checkpoint
from dwflow_lite.support.checks import COUNT, WHOLE, check_ranges, is_choice
from dwflow_lite.support.devices import usable_device
from dwflow_lite.support.files import json_hash, understood
from dwflow_lite.support.jobs import run_jobs, runs
from dwflow_lite.support.paths import as_path
from dwflow_lite.tasks.checks import require_task
from dwflow_lite.tasks.splits import SPLITS
from dwflow_lite.tasks.task import Task
from dwflow_lite.training.identity import common_record, identity_of
from dwflow_lite.training.members import train_job, train_members
from dwflow_lite.training.plan import SCORED_SPLITS, Plan
from dwflow_lite.training.recipe import Recipe
from dwflow_lite.training.starting import check_start
from dwflow_lite.training.trainable import check_trainable, with_working_method
from dwflow_lite.zoo.layout import Layout
from dwflow_lite.zoo.record import folder_header, join_record
from dwflow_lite.zoo.storage import (
    STORAGE,
    Shards,
    check_folder,
    read_folder,
    start_folder,
    sweep_folder,
    writing,
)
from dwflow_lite.zoo.zoo import Zoo


class DivergedError(RuntimeError):
    """Members ended with NaN or infinite weights or losses; ``members`` lists their positions."""

    def __init__(self, members: list[int], total: int) -> None:
        self.members = members
        super().__init__(
            f"{len(members)} of {total} members diverged (NaN or infinite weights or losses): {members}. Lower lr, or "
            "pass on_diverged='drop' to go on without them (a checkpoint, if you gave one, spares the training)"
        )


def train_zoo(  # noqa: PLR0913 - the door of this room: what, how many, how, where, and where it is kept
    task: Task,
    network: nn.Module,
    *,
    members: int = 100,
    held_out: int = 0,
    seed: int = 0,
    recipe: Recipe = Recipe(),
    start: Zoo | None = None,
    scored: Sequence[str] = SCORED_SPLITS,
    method: str = "batched",
    members_at_once: int | None = None,
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
        task: data, loss and score; only ``task.train`` is trained on.
        network: template module, which is not changed. Its own weights are not used, but for frozen ones
            (``requires_grad=False``, a pretrained backbone, say), which all members have as they are.
        members: networks a generator may be fitted on.
        held_out: further networks, trained alike, that no generator may see (last rows of the zoo).
        seed: of every start and every data order.
        recipe: epochs, batch size, optimizer, initialisation … of every member.
        start: networks that members start from, one each, in order (fine-tuning); frozen parameters are then those of
            each member's own start. It is not changed. None: members draw their own, as ``recipe.init`` says.
        scored: the splits on which finished members are scored, for the record; no other is read, but for training.
            Nothing is chosen by them here. Who chooses by the record (a recipe, say) leaves ``"test"`` out.
        method: ``"batched"`` (one computation for all), or ``"loop"`` (member after member: slow, and the oracle of the
            tests). A network of which ``torch.vmap`` cannot train many at once, or not as each would train alone, is
            trained by ``"loop"`` either way, and a warning says so; the record has what was done.
        members_at_once: how many ``"batched"`` trains, and either method scores, in one computation (None: all);
            bounds memory, not the result.
        on_diverged: ``"raise"`` names diverged members; ``"drop"`` leaves them out and says so in the record.
        device: where to train, and where the zoo comes to lie: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or
            ``"auto"`` for a GPU if there is one. The same networks on every device up to rounding (starts and orders
            are drawn on the CPU), but for dropout, whose masks come from the device's own generator.
        checkpoint: where the training is kept, half-done or finished: a file, or a folder (a name without suffix) in
            which the file is named after task, network, recipe, seed and sizes. A finished zoo found there is read; an
            interrupted training goes on from its last save (every ten seconds; with another ``members_at_once``, an
            executor, or a network that keeps more than its tensors from step to step, from the last members that were
            finished; with another method, or an executor where there was none, from the beginning). Where the last
            save of all fails, the zoo is returned with a warning.
        folder: where the zoo is to live, for one that does not fit in memory: ``members_at_once`` (None: 1) members
            are trained, written there and forgotten. Called again, it goes on with the members that are not there.
        storage: ``"float32"`` or ``"bfloat16"``, of the folder.
        executor: where ``members_at_once`` (None: 1) members a job are trained, in any order: a pool of processes, or
            ``client.get_executor()`` of ``dask.distributed``. The same zoo as without it, up to rounding. With a
            folder, which the workers must see, they write to it themselves, and no weights travel. Threads of one
            process take turns. Workers on a GPU are spawned (``mp_context=get_context("spawn")``), as CUDA cannot fork.
        progress: show a bar.

    Returns:
        The zoo, on the device, or in ``folder`` and read onto it; its record holds recipe, seeds, scores and losses of
        each member.

    Raises:
        ValueError: an unknown name, a number out of range, a network that does not fit the task, or does not train, or
            changes buffers or frozen parameters as it trains that are not the running statistics of BatchNorm; starts
            of another number or architecture; a checkpoint or a folder that holds another zoo, or what was made of this
            one (aligned, some of its members).
        DivergedError: see ``on_diverged``.
        MemoryError: too many members at once.
        OSError: the checkpoint cannot be written; found out before anything is trained.

    Warns:
        RuntimeWarning: a classifier that returns probabilities, where the loss wants numbers before the softmax.

    Example:
        >>> from dwflow_lite import MLP, Recipe, load_task, train_zoo
        >>> zoo = train_zoo(load_task("iris"), MLP([4, 5, 3]), members=2, held_out=1, recipe=Recipe(epochs=1))
        >>> zoo
        Zoo(3 MLP networks x 43 weights, 1 held out)
    """
    _check_choices(task, recipe, method, on_diverged)
    _check_places(checkpoint, folder, storage)
    _check_counts(members, held_out, seed, members_at_once)
    check_trainable(task, network, recipe.batch_size)
    check_start(start, network, members + held_out)
    plan = Plan(
        task=task,
        network=network,
        recipe=recipe,
        seed=int(seed),  # JSON knows no NumPy numbers
        method=method,
        device=usable_device(device),
        fitted=int(members),
        total=int(members + held_out),
        folder=_prepared(folder),
        given=start,
        scored=_checked_splits(scored),
    )
    facts = identity_of(plan)
    identity = json_hash(facts)[:16]
    store = Checkpoint(checkpoint, name=f"zoo-{task.name}-{identity}.safetensors", identity=identity)
    if store.finished:
        return _without_diverged(_read(store, plan), on_diverged)
    store.check_writable()

    in_jobs = folder is not None or executor is not None
    at_once = int(members_at_once or (1 if in_jobs else plan.total))
    plan = with_working_method(plan, at_once)  # not in the facts above: either method trains the same networks
    record = common_record(plan, facts, identity)
    record, weights, notes = _train(plan, record, at_once, storage, executor, store, progress)
    zoo = _assemble(plan, record, weights, notes)
    _save(zoo, store)
    return _without_diverged(zoo, on_diverged)


# -- check -------------------------------------------------------------------------------------------------------


def _check_choices(task: Task, recipe: Recipe, method: str, on_diverged: str) -> None:
    require_task(task)
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, as Recipe(epochs=10, lr=1e-3); got {type(recipe).__name__}")
    if method not in ("batched", "loop") or on_diverged not in ("raise", "drop"):
        raise ValueError(
            f"method is 'batched' or 'loop', on_diverged is 'raise' or 'drop'; got {method!r} and {on_diverged!r}"
        )


def _check_counts(members: int, held_out: int, seed: int, members_at_once: int | None) -> None:
    counts = {"members": members, "held_out": held_out, "seed": seed}
    if members_at_once is not None:
        counts["members_at_once"] = members_at_once
    check_ranges(counts, {"members": COUNT, "held_out": WHOLE, "seed": WHOLE, "members_at_once": COUNT})


def _check_places(checkpoint: str | Path | None, folder: str | Path | None, storage: str) -> None:
    if folder is not None and checkpoint is not None:
        raise ValueError("name a folder (the zoo lives there, and goes on from there) or a checkpoint, not both")
    if not is_choice(storage, STORAGE) or (storage != "float32" and folder is None):
        raise ValueError(f"storage is {' or '.join(map(repr, STORAGE))}, of a folder; got {storage!r}, {folder=}")


def _checked_splits(names: Sequence[str]) -> tuple[str, ...]:
    """Names of splits, in the order in which tasks have them; a single one may stand alone."""
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if not is_choice(name, SPLITS)]
    if unknown:
        raise ValueError(f"no split {unknown[0]!r} to be scored: choose from {', '.join(SPLITS)}")
    return tuple(name for name in SPLITS if name in names)


def _prepared(folder: str | Path | None) -> Path | None:
    """The folder, made if it is not there, as a whole path; ``None`` if none is asked for."""
    if folder is None:
        return None
    folder = as_path(folder).resolve()
    check_folder(folder)
    return folder


# -- find what is finished (in a checkpoint; the members in a folder are found where the others are trained) ------


def _read(store: Checkpoint, plan: Plan) -> Zoo:
    """The finished zoo, if it is the one that was asked for, and not one that was made of it."""
    zoo = Zoo.load(store.file, plan.network, device=plan.device)
    if zoo.record.get("identity") != store.identity:
        raise ValueError(f"{store.file} holds another zoo ({zoo}): name another file, or a folder, or delete it")
    with understood(store.file):
        what = _derived_from(zoo, plan)
    if what:
        raise ValueError(
            f"{store.file} does not hold the zoo as it was trained, but {what} ({zoo}): name another file, or move it"
        )
    return zoo


def _derived_from(zoo: Zoo, plan: Plan) -> str:
    """What a zoo is that keeps the identity of the one it was made of; empty if it is that zoo."""
    if "generated" in zoo.record or "members" not in zoo.record:
        return "networks that a generator made"
    stages = [stage.get("stage") for stage in zoo.record.get("stages", [])]
    if stages not in ([], [STATISTICS]):  # training measures them
        return f"what later stages made of it, {', '.join(map(str, stages))}"
    in_order = [about.get("member") for about in zoo.record["members"]] == list(range(plan.total))
    if not in_order or zoo.held_out != _held_out(plan.fitted, plan.total):
        return "some of its members"
    return ""


def _held_out(fitted: int, total: int) -> tuple[bool, ...]:
    """The last members are held out."""
    return tuple(member >= fitted for member in range(total))


def _diverged(record: Mapping[str, Any]) -> list[int]:
    """Positions of members that diverged, of which a folder says nothing but what it says of each."""
    return [member for member, about in enumerate(record["members"]) if about.get("diverged")]


# -- train -------------------------------------------------------------------------------------------------------


def _train(
    plan: Plan,
    record: dict[str, Any],
    at_once: int,
    storage: str,
    executor: Executor | None,
    store: Checkpoint,
    progress: bool,
) -> tuple[dict[str, Any], Tensor | Shards, list[dict[str, Any]]]:
    """Train all members where they are to be trained: what the record says of all, weights (N, d), notes of each."""
    if plan.folder is not None:  # its record is written before its members, and so without the seconds they take
        return _train_into_folder(plan, record, storage, at_once, executor, progress)
    started = time.perf_counter()
    if executor is not None:
        weights, notes = _train_in_jobs(plan, at_once, executor, store, progress)
    else:
        everybody = range(plan.total)
        weights, notes = train_members(plan, everybody, members_at_once=at_once, checkpoint=store, progress=progress)
    return record | {"seconds": round(time.perf_counter() - started, 3)}, weights, notes


def _train_in_jobs(
    plan: Plan, at_once: int, executor: Executor, store: Checkpoint, progress: bool
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Train all members in jobs of at most ``at_once``: weights (N, d) and notes of each member, in order.

    The checkpoint keeps the members that are finished; jobs that were under way begin again.
    """
    saved = store.half_done_state() or {}
    # Member -> its weights (d,) and notes. Without an executor another state is kept, which is of no use here.
    finished: dict[int, tuple[Tensor, dict[str, Any]]] = saved["finished"] if saved.get("method") == "jobs" else {}
    missing = [member for member in range(plan.total) if member not in finished]
    for members, (rows, notes) in _finished_jobs(plan, missing, at_once, executor, progress):
        for member, row, note in zip(members, rows, notes, strict=True):
            finished[member] = row, note
        if len(finished) < plan.total and store.due():  # what is complete is saved as a zoo, once
            store.save({"method": "jobs", "finished": finished})
    in_order = [finished[member] for member in range(plan.total)]
    return torch.stack([row for row, _ in in_order]), [note for _, note in in_order]


def _train_into_folder(
    plan: Plan, record: Mapping[str, Any], storage: str, at_once: int, executor: Executor | None, progress: bool
) -> tuple[dict[str, Any], Shards, list[dict[str, Any]]]:
    """Train the members that are not in the folder yet, and write them there.

    Args:
        plan: what to train; names the folder.
        record: what the record says of all members.
        storage: how weights are kept on disk.
        at_once: members that are trained, and written to one file, together.
        executor: where jobs run; None: here.
        progress: show a bar of jobs.

    Returns:
        What the folder says of all members, as whoever began it did; weights (N, d); and notes of each.
    """
    constants = constants_of(plan.network)
    header = folder_header(Layout.of(plan.network), record, plan.total, constants)
    with writing(plan.folder):
        start_folder(plan.folder, header, storage, identity=record["identity"], constants=constants)
        _, _, notes = read_folder(plan.folder)  # member -> notes, of those that are there
        missing = [member for member in range(plan.total) if member not in notes]
        for _ in _finished_jobs(plan, missing, at_once, executor, progress):
            pass  # its members are in the folder
        sweep_folder(plan.folder)  # half-written files of jobs that died
        of_folder, weights, notes = read_folder(plan.folder)
    if len(notes) < plan.total:
        raise OSError(f"workers did not write to {plan.folder}: it must be a folder that they and this process share")
    return of_folder["record"], weights, [notes[member] for member in range(plan.total)]


def _finished_jobs(
    plan: Plan, members: Sequence[int], at_once: int, executor: Executor | None, progress: bool
) -> Iterator[tuple[range, tuple[Tensor | None, list[dict[str, Any]]]]]:
    """Train these members in jobs: the members of each job, and what :func:`train_job` gave, as jobs finish."""
    neighbours = runs(members, at_once)
    jobs = [(plan, of_job) for of_job in neighbours]
    results = run_jobs(train_job, jobs, executor, progress=progress, desc=f"training {plan.total}", unit="job")
    for position, result in results:
        yield neighbours[position], result


# -- put the zoo together and save it ----------------------------------------------------------------------------


def _assemble(
    plan: Plan, common: Mapping[str, Any], weights: Tensor | Shards, notes: Sequence[Mapping[str, Any]]
) -> Zoo:
    """The zoo of these weights (N, d), on the device of the plan; the record says who diverged."""
    record = join_record(common, notes)
    record["diverged"] = _diverged(record)
    held_out = _held_out(plan.fitted, plan.total)
    return Zoo(weights, Layout.of(plan.network), plan.network, record, held_out).to(plan.device)


def _save(zoo: Zoo, store: Checkpoint) -> None:
    """Save the zoo in place of the half-done training. What is trained is not lost where that fails."""
    try:
        store.finish_with(zoo.save)
    except OSError as error:
        warnings.warn(f"the zoo is trained but not saved: {error}", RuntimeWarning, stacklevel=3)


def _without_diverged(zoo: Zoo, on_diverged: str) -> Zoo:
    """The zoo without its diverged members, or an error that names them."""
    diverged = zoo.record.get("diverged", _diverged(zoo.record))
    if not diverged:
        return zoo
    if on_diverged == "raise" or len(diverged) == len(zoo):
        raise DivergedError(diverged, len(zoo))
    return zoo.take([member for member in range(len(zoo)) if member not in diverged])
