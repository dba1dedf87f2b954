"""Zoos on disk: the same zoo as in memory, whole members or none whatever happens, and nothing damaged that is read."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dwflow_lite.batchnorm import recalibrate
from dwflow_lite.networks import MLP, ResNet, architecture_of
from dwflow_lite.support import files as files_module
from dwflow_lite.symmetry import canonical, canonicalise
from dwflow_lite.tasks import Task, load_task
from dwflow_lite.training import DivergedError, Recipe, plan, randomness, train_zoo
from dwflow_lite.training import members as members_module
from dwflow_lite.zoo import (
    Layout,
    Shards,
    Zoo,
    ZooFileError,
    append,
    evaluate,
    predict,
    read_folder,
    saving,
    start_folder,
    write_zoo,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 4))
TASK = Task.from_arrays(X, (X[:, 0] * X[:, 1] > 0).astype(int) + (X[:, 2] > 0), name="small")
QUICK = Recipe(epochs=2, batch_size=20, lr=1e-2)
FAST = {"members": 4, "held_out": 1, "recipe": QUICK}


def mlp():
    return MLP([4, 6, 3])


def random_zoo(members=6, network=None, seed=0, held_out=2, **record):
    network = network or mlp()
    layout, generator = Layout.of(network), torch.Generator().manual_seed(seed)
    weights = torch.randn(members, layout.size, generator=generator)
    record = {"architecture": architecture_of(network)} | record
    return Zoo(weights, layout, network, record, (False,) * (members - held_out) + (True,) * held_out)


@pytest.fixture(scope="module")
def trained():
    return train_zoo(TASK, mlp(), members_at_once=1, **FAST)


def same(one, other):
    return torch.equal(one.in_memory().weights, other.in_memory().weights)


def on_disk(zoo, folder, storage="float32"):
    return Zoo.load(zoo.save(folder, storage), zoo.network)


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


def quietly_open(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return Zoo.load(folder)


# -- the same zoo ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_a_zoo_on_disk_is_the_zoo(tmp_path, trained, storage):
    written = on_disk(trained, tmp_path / "zoo", storage)
    kept = trained.weights if storage == "float32" else trained.weights.bfloat16().float()
    assert not torch.equal(trained.weights, trained.weights.bfloat16().float())  # control
    for zoo in (written, Zoo.load(tmp_path / "zoo", verify=True), pickle.loads(pickle.dumps(written))):
        assert isinstance(zoo.weights, Shards) and torch.equal(zoo.in_memory().weights, kept)
        assert zoo.record == trained.record and zoo.held_out == trained.held_out and zoo.layout == trained.layout
        assert torch.equal(zoo.module(3)(TASK.test.x), zoo.in_memory().module(3)(TASK.test.x))
    assert f"in {tmp_path / 'zoo'}" in repr(written)
    assert same(on_disk(Zoo.load(tmp_path / "zoo"), tmp_path / "copy", storage), written)


def test_bfloat16_halves_the_files(tmp_path):
    zoo = random_zoo(2, MLP([100, 500, 10]))
    sizes = []
    for storage in ("float32", "bfloat16"):
        zoo.save(tmp_path / storage, storage)
        sizes.append(sum(p.stat().st_size for p in (tmp_path / storage).glob("members-*")))
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.05)
    with pytest.raises(ValueError, match=r"members \[1\] hold NaN or infinite weights, or beyond the storage"):
        large = zoo.weights.clone()
        large[1, 0] = 3.4e38
        Zoo(large, zoo.layout, zoo.network).save(tmp_path / "large", "bfloat16")


@pytest.mark.parametrize(
    "which",
    [
        slice(None),
        slice(1, 5, 2),
        [4, 0, -1],
        range(2),
        torch.tensor([3, 3]),
        np.array([5, 1]),
        [False, True, True, False, False, True],  # a mask chooses as it does of a tensor, and is not rows 0 and 1
        torch.tensor([False, False, True, False, True, False]),
        np.array([True, False, False, False, False, True]),
    ],
)
def test_rows_are_a_view_that_reads_nothing(tmp_path, which):
    zoo = random_zoo()
    shards = on_disk(zoo, tmp_path / "zoo").weights
    view, expected = shards[which], zoo.weights[list(which) if isinstance(which, range) else which]
    assert torch.equal(torch.cat(list(view.split(2))), expected) and view.shape == tuple(expected.shape)
    assert torch.equal(view.columns(slice(7, 30)), expected[:, 7:30])
    shutil.rmtree(tmp_path / "zoo")
    again = shards[which]  # nothing is read
    with pytest.raises(ZooFileError, match=r"cannot read .*members-0000000.\.safetensors"):
        again.columns(slice(1))


@pytest.mark.parametrize(
    ("which", "error", "message"),
    [
        (
            (0, 1),
            TypeError,
            r"weights on disk are read by rows, not by \(0, 1\): \.columns\(slice\) reads some columns",
        ),
        ((slice(None), 3), TypeError, r"read by rows, not by \(slice\(None, None, None\), 3\)"),
        ((..., slice(2)), TypeError, "read by rows, not by"),
        (True, TypeError, "read by rows, not by True"),
        (np.True_, TypeError, "read by rows, not by True"),
        (None, TypeError, "read by rows, not by None"),
        (1.0, TypeError, "read by rows, not by 1.0"),
        ([True, False], ValueError, r"read members by whole-number positions or by 6 booleans, got \[True, False\]"),
        ([0.0, 1.0], ValueError, "read members by whole-number positions or by 6 booleans"),
        ([[0, 1]], ValueError, "read members by whole-number positions or by 6 booleans"),
        ([0, 6], ValueError, r"cannot read members \[0, 6\] of a zoo of 6"),
        (6, IndexError, r"no row 6 of weights \(6, 51\) on disk"),
        (-7, IndexError, r"no row -7 of weights"),
    ],
)
def test_what_is_no_row_is_not_taken_for_one(tmp_path, which, error, message):
    zoo = random_zoo()
    shards = on_disk(zoo, tmp_path / "zoo").weights
    with pytest.raises(error, match=message):
        shards[which]
    assert torch.equal(torch.stack(list(shards)), zoo.weights)  # control: a loop over rows ends


@pytest.mark.parametrize("columns", [slice(0, 8, 2), slice(None, None, -1), 3, [1, 2]])
def test_columns_are_neighbours(tmp_path, columns):
    zoo = random_zoo()
    shards = on_disk(zoo, tmp_path / "zoo").weights
    with pytest.raises(ValueError, match=r"columns of weights on disk are neighbours, as slice\(2, 5\); got "):
        shards.columns(columns)
    for some in (slice(2, 5), slice(-3, None), slice(5, 3)):  # control
        assert torch.equal(shards.columns(some), zoo.weights[:, some])


def test_what_a_folder_rounds_is_said(tmp_path):
    networks = [MLP([4, 6, 3]).double() for _ in range(3)]
    zoo = Zoo.from_modules(networks)
    zoo = replace(zoo, weights=zoo.weights + 1e-10 * torch.rand(zoo.weights.shape, dtype=torch.float64))
    said = r"keeps float32, to which these weights in float64 are rounded; a file, a name with a suffix, keeps them as"
    with pytest.warns(RuntimeWarning, match=f"saved {said}"):
        zoo.save(tmp_path / "saved")
    with pytest.warns(RuntimeWarning, match=f"stage {said}"):
        zoo.with_weights(iter(zoo.weights.split(2)), {}, folder=tmp_path / "stage")
    with pytest.warns(RuntimeWarning, match=f"columns {said}"):
        blocks = ((part, zoo.weights[:, part]) for part in (slice(0, 20), slice(20, 51)))
        write_zoo(tmp_path / "columns", blocks, zoo.layout, zoo.network, zoo.record, zoo.held_out, "float32")
    for name in ("saved", "stage", "columns"):
        assert torch.equal(Zoo.load(tmp_path / name).in_memory().weights, zoo.weights.float())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # control: whoever asks for bfloat16 knows, and these lose nothing
        zoo.save(tmp_path / "asked", "bfloat16")
        assert torch.equal(Zoo.load(zoo.save(tmp_path / "zoo.safetensors")).weights, zoo.weights)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            replace(zoo, weights=zoo.weights.to(dtype)).save(tmp_path / str(dtype).removeprefix("torch."))


@pytest.mark.parametrize("row", [2, -1, np.int64(3), torch.tensor(1)])
def test_a_row_is_a_vector_of_ones_own(tmp_path, row):
    zoo = random_zoo()
    shards = on_disk(zoo, tmp_path / "zoo").weights
    vector = shards[row]
    assert torch.equal(vector, zoo.weights[row])
    vector.zero_()
    assert torch.equal(shards[row], zoo.weights[row])


def test_members_are_chosen_as_in_memory(tmp_path, trained):
    zoo = on_disk(trained, tmp_path / "zoo")
    for choose in (lambda z: z.take([4, 0]), lambda z: z.take([True, False] * 2 + [True]), lambda z: z.fitted):
        there, here = choose(zoo), choose(trained)
        assert same(there, here) and there.record == here.record and there.held_out == here.held_out
    assert same(zoo.unseen, trained.unseen) and not same(zoo.take([0]), trained.take([1]))  # control
    with pytest.raises(ValueError, match=r"cannot take members \[5\]"):
        zoo.take([5])


def test_predictions_and_scores_are_those_of_the_zoo_in_memory(tmp_path, trained):
    zoo = on_disk(trained, tmp_path / "zoo")
    torch.testing.assert_close(predict(zoo, TASK.test.x, members_at_once=2), predict(trained, TASK.test.x))
    for split in ("train", "test"):
        there, here = evaluate(zoo, TASK, split), evaluate(trained, TASK, split)
        assert torch.equal(there.loss, here.loss) and torch.equal(there.wrong, here.wrong)
        torch.testing.assert_close(zoo.scores(split), there.score, atol=1e-5, rtol=1e-5)


def test_alignment_streams_to_the_same_zoo(tmp_path, trained):
    zoo = on_disk(trained, tmp_path / "zoo")
    for i, options in enumerate(({}, {"rounds": 2, "seed": 1}, {"reference": trained.weights[2]})):
        there = canonicalise(zoo, folder=tmp_path / f"aligned-{i}", **options)
        here = canonicalise(trained, **options)
        assert isinstance(there.weights, Shards) and same(there, here) and there.record == here.record
        assert not same(there, trained)  # control
        assert same(Zoo.load(tmp_path / f"aligned-{i}"), here)


def test_statistics_are_measured_member_after_member(tmp_path):
    task, network = load_task("digits"), ResNet((4, 6), 1, channels=1)
    zoo = train_zoo(task, network, members=3, recipe=Recipe(epochs=1, batch_size=200), folder=tmp_path / "zoo")
    here, there = recalibrate(zoo.in_memory(), task), recalibrate(zoo, task, folder=tmp_path / "new")
    assert torch.equal(here.weights, there.in_memory().weights) and here.record == there.record
    other = recalibrate(zoo, task, folder=tmp_path / "new2", members_at_once=2)
    torch.testing.assert_close(other.in_memory().weights, here.weights, atol=1e-5, rtol=1e-5)
    assert not same(there, zoo)  # control
    plain = on_disk(random_zoo(), tmp_path / "plain")
    assert same(recalibrate(plain, TASK), plain)  # no BatchNorm: nothing to write
    with pytest.raises(ValueError, match="holds another zoo"):  # of the same record, and other weights
        recalibrate(zoo, load_task("digits", seed=1), folder=tmp_path / "new")
    assert same(Zoo.load(tmp_path / "new"), here)


@pytest.mark.parametrize("stage", [canonicalise, lambda zoo: recalibrate(zoo, load_task("digits"))])
def test_a_stage_of_a_zoo_on_disk_wants_a_folder_before_it_begins(tmp_path, monkeypatch, stage):
    zoo = on_disk(random_zoo(3, ResNet((4, 6), 1, channels=1), held_out=0), tmp_path / "zoo")
    monkeypatch.setattr(canonical, "match_rows", None)
    with pytest.raises(ValueError, match="lives on disk: name a folder for the result"):
        stage(zoo)


def test_what_needs_all_weights_at_once_says_so(tmp_path):
    zoo = on_disk(random_zoo(), tmp_path / "zoo")
    with pytest.raises(AttributeError, match=r"weights on disk have no 'roll': zoo\.in_memory\(\)"):
        zoo.weights.roll(1, 0)
    with pytest.raises(TypeError, match=r"cdist takes no weights on disk: zoo\.in_memory\(\)"):
        torch.cdist(zoo.weights, zoo.weights)


# -- one pair of verbs: a suffix means a file, none a folder -----------------------------------------------------


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_a_zoo_on_disk_is_saved_to_a_file(tmp_path, trained, storage):
    disk = on_disk(trained, tmp_path / "zoo", storage)
    again = Zoo.load(disk.save(tmp_path / "zoo.safetensors"))
    assert isinstance(again.weights, torch.Tensor) and same(again, disk)
    assert again.record == disk.record == trained.record and again.held_out == disk.held_out
    part = Zoo.load(disk.take([4, 1]).save(tmp_path / "part.safetensors", "bfloat16"))
    assert torch.equal(part.weights, trained.weights[[4, 1]].bfloat16().float()) and part.held_out == (True, False)


def test_a_zoo_on_disk_that_memory_cannot_hold_is_sent_to_a_folder(tmp_path, monkeypatch):
    disk = on_disk(random_zoo(), tmp_path / "zoo")
    needed = 2 * 4 * disk.weights.shape[0] * disk.weights.shape[1]
    memory = saving.psutil.virtual_memory()
    monkeypatch.setattr(saving.psutil, "virtual_memory", lambda: memory._replace(available=needed - 1))
    with (
        monkeypatch.context() as patch,
        pytest.raises(MemoryError, match=r"cannot write .*x\.safetensors: .* a folder"),
    ):
        patch.setattr(Shards, "columns", None)  # nothing is read
        disk.save(tmp_path / "x.safetensors")
    assert names(tmp_path) == ["zoo"] and same(on_disk(disk, tmp_path / "copy"), disk)  # a folder takes it
    monkeypatch.setattr(saving.psutil, "virtual_memory", lambda: memory._replace(available=needed))
    assert same(Zoo.load(disk.save(tmp_path / "x.safetensors")), disk)  # control


def test_a_name_of_the_other_kind_is_one_clear_sentence(tmp_path):
    zoo = random_zoo()
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder.v2").mkdir()
    is_file = (
        r"file \(it is a file, and a name without a suffix means a folder: .* rename the file to file\.safetensors"
    )
    is_folder = r"folder\.v2 \(it is a folder, and a name with a suffix, here '\.v2', means a file: .*rename the folder"
    for name, message in (("file", is_file), ("folder.v2", is_folder)):
        with pytest.raises(OSError, match="cannot write .*" + message):
            zoo.save(tmp_path / name)
        with pytest.raises(OSError, match="cannot read .*" + message):
            Zoo.load(tmp_path / name)
    assert (tmp_path / "file").read_text() == "a file" and not names(tmp_path / "folder.v2")
    assert (
        len(Zoo.load(zoo.save(str(tmp_path / "folder")))) == len(Zoo.load(zoo.save(tmp_path / "a.b.c"))) == 6
    )  # control


def test_a_zoo_is_not_written_where_it_lives(tmp_path, trained, monkeypatch):
    disk = on_disk(trained, tmp_path / "zoo")
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "zoo").iterdir()}
    for use in (
        lambda: disk.save("zoo"),
        lambda: disk.take([0, 1]).save("zoo"),
        lambda: canonicalise(disk, folder="zoo"),
    ):
        with pytest.raises(ValueError, match=r"lives in that folder already: name another$"):
            use()
    assert {path: path.read_bytes() for path in (tmp_path / "zoo").iterdir()} == before
    assert same(on_disk(disk, "other"), disk) and same(on_disk(trained, "zoo"), disk)  # control


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_with_a_suffix_is_refused_before_anything_is_done(tmp_path, monkeypatch, made):
    folder = tmp_path / "lr-0.01"
    if made:
        folder.mkdir()
    monkeypatch.setattr(plan, "initialise", None)
    monkeypatch.setattr(canonical, "match_rows", None)
    for use in (
        lambda: train_zoo(TASK, mlp(), folder=folder, **FAST),
        lambda: canonicalise(random_zoo(), folder=folder),
        lambda: random_zoo().with_weights(random_zoo().weights, {}, folder=folder),
    ):
        with pytest.raises(
            ValueError, match=r"lr-0\.01 could not be loaded: a name with a suffix, here '\.01', means a"
        ):
            use()
    assert names(tmp_path) == ["lr-0.01"] * made


# -- training into a folder --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at_once", "files"), [(None, 5), (2, 3), (9, 1)])
def test_members_are_written_as_they_finish(tmp_path, monkeypatch, trained, at_once, files):
    seen, plain = [], members_module.train_members

    def counted(*arguments, **options):
        seen.append(len(list(tmp_path.glob("members-*"))))
        return plain(*arguments, **options)

    monkeypatch.setattr(members_module, "train_members", counted)
    zoo = train_zoo(TASK, mlp(), folder=tmp_path, members_at_once=at_once, **FAST)
    assert seen == list(range(files)) and isinstance(zoo.weights, Shards)
    torch.testing.assert_close(zoo.in_memory().weights, trained.weights, atol=1e-6, rtol=1e-5)
    assert at_once or same(zoo, trained)
    assert zoo.record["members"] == trained.record["members"] and zoo.held_out == trained.held_out
    seen.clear()
    assert same(train_zoo(TASK, mlp(), folder=tmp_path, members_at_once=1, **FAST), zoo) and not seen


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_an_interrupted_training_says_what_is_there_and_goes_on(tmp_path, monkeypatch, storage):
    options = FAST | {"storage": storage}
    whole = train_zoo(TASK, mlp(), folder=tmp_path / "whole", **options)
    plain, calls = members_module.train_members, []

    def interrupted(plan, members, **options):
        calls.append(members.start)
        if calls == [0, 1, 2]:
            raise KeyboardInterrupt
        return plain(plan, members, **options)

    monkeypatch.setattr(members_module, "train_members", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_zoo(TASK, mlp(), folder=tmp_path / "zoo", **options)
    with pytest.warns(RuntimeWarning, match=r"holds 2 of 5 members; missing: \[2, 3, 4\]"):
        part = Zoo.load(tmp_path / "zoo")
    assert same(part, whole.take([0, 1])) and part.record["members"] == whole.record["members"][:2]
    (tmp_path / "zoo" / "members-00000000.safetensors").unlink()  # a gap is filled, too
    calls.clear()
    again = train_zoo(TASK, mlp(), folder=tmp_path / "zoo", **options)
    assert calls == [0, 2, 3, 4] and same(again, whole) and again.record == whole.record
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # control: of a whole zoo nothing is said
        assert same(Zoo.load(tmp_path / "zoo", verify=True), whole)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import dwflow_lite.training.batched
import test_storage as t
plain, calls = {module}.{name}, []
def killing(*args, **options):
    calls.append(1)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*args, **options)
{module}.{name} = killing
t.train_zoo(t.TASK, t.mlp(), folder={folder!r}, **t.FAST)
"""


@pytest.mark.parametrize(
    ("module", "name", "call", "there"),
    [
        ("os", "replace", 4, 2),
        ("dwflow_lite.training.batched", "batched_forward", 16, 2),
    ],  # after zoo.json; 6 steps each
)
def test_a_killed_training_loses_the_member_in_flight_at_most(tmp_path, trained, module, name, call, there):
    tests, folder = str(Path(__file__).parent), str(tmp_path / "zoo")
    script = KILLED.format(tests=tests, module=module, name=name, call=call, folder=folder)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert any(n.endswith(".partial") for n in names(folder)) == (name == "replace")  # it died as it wrote
    with pytest.warns(RuntimeWarning, match=rf"holds {there} of 5 members; missing: \[{there}, "):
        assert same(Zoo.load(folder, verify=True), trained.take(range(there)))
    assert same(train_zoo(TASK, mlp(), folder=folder, **FAST), trained)
    assert names(folder) == [*(f"members-{m:08d}.safetensors" for m in range(5)), "zoo.json"]


# -- a full disk -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["train", "write", "align"])
def test_a_full_disk_loses_the_member_in_flight_at_most(tmp_path, monkeypatch, trained, stage):
    make = {
        "train": lambda: train_zoo(TASK, mlp(), folder=tmp_path / "zoo", **FAST),
        "write": lambda: on_disk(trained, tmp_path / "zoo"),
        "align": lambda: canonicalise(trained, folder=tmp_path / "zoo"),
    }[stage]
    plain = files_module.save_file

    def full(tensors, path, metadata):
        if metadata.get("first") == "3":
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(tensors, path, metadata=metadata)

    with monkeypatch.context() as patch:
        patch.setattr(files_module, "save_file", full)
        with pytest.raises(OSError, match=r"cannot write .*members-00000003\.safetensors: .*No space left"):
            make()
    assert names(tmp_path / "zoo") == [*(f"members-{m:08d}.safetensors" for m in range(3)), "zoo.json"]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "zoo").glob("members-*")}
    (tmp_path / "zoo" / ".members-00000003.safetensors.1.partial").write_bytes(b"of a process that was killed")
    zoo = make()
    expected = canonicalise(trained) if stage == "align" else trained
    assert same(zoo, expected) and len(names(tmp_path / "zoo")) == 6
    assert all(p.stat().st_mtime_ns == time for p, time in before.items())  # what was there stayed


@pytest.mark.parametrize(
    ("size", "by_columns", "message"),
    [
        (100, False, r"cannot write .*zoo\.json .*File too large"),
        (4000, False, r"cannot write .*members-00000000\.safetensors: .*File too large"),
        (20_000, True, "cannot write 6 members to .*File too large"),
    ],
)
def test_files_that_may_not_grow(tmp_path, size, by_columns, message):
    zoo = random_zoo(6, MLP([4, 200, 3]))
    blocks = ((slice(i, i + 100), zoo.weights[:, i : i + 100]) for i in range(0, zoo.layout.size, 100))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(OSError, match=message):
            write_zoo(
                tmp_path, blocks if by_columns else zoo.weights, zoo.layout, zoo.network, {}, zoo.held_out, "float32"
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["zoo.json"] * (size > 100)
    assert same(on_disk(zoo, tmp_path / "control"), zoo)


def test_columns_in_any_order_make_the_same_zoo(tmp_path):
    zoo = random_zoo()
    blocks = [(slice(i, i + 7), zoo.weights[:, i : i + 7]) for i in range(0, zoo.layout.size, 7)]
    for storage in ("float32", "bfloat16"):
        made = write_zoo(tmp_path / storage, blocks[::-1], zoo.layout, zoo.network, {}, zoo.held_out, storage)
        assert same(made, on_disk(random_zoo(), tmp_path / f"{storage}-rows", storage))
    assert len(names(tmp_path / "float32")) == 7


# -- the folder of another zoo -----------------------------------------------------------------------------------


def test_the_folder_of_another_zoo_is_left_alone(tmp_path, trained):
    train_zoo(TASK, mlp(), folder=tmp_path, **FAST)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    for other in ({"recipe": replace(QUICK, lr=2e-2)}, {"members": 5}, {"storage": "bfloat16"}, {"seed": 1}):
        with pytest.raises(ValueError, match=f"{tmp_path} holds another zoo: name another folder, or delete it"):
            train_zoo(TASK, mlp(), folder=tmp_path, **(FAST | other))
    with pytest.raises(ValueError, match="holds another zoo"):
        trained.save(tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    train_zoo(TASK, mlp(), folder=tmp_path, **FAST)  # control


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_two_zoos_of_one_record_are_two_zoos(tmp_path, storage):
    zoo, other = random_zoo(), random_zoo(seed=1)
    first = on_disk(zoo, tmp_path, storage)
    assert same(on_disk(zoo, tmp_path, storage), first)  # control
    for wrong in (other, zoo.take([1, 0, 2, 3, 4, 5]), zoo.take([0, 1, 2, 4, 3, 5])):
        with pytest.raises(ValueError, match=r"holds another zoo \(see member .\): name another folder, or delete it"):
            wrong.save(tmp_path, storage)
    for factor in (1.005, 1.003) + (1 + 1e-6,) * (storage == "float32"):  # an identity of what is kept, to the bit
        close = Zoo(zoo.weights * factor, zoo.layout, zoo.network, zoo.record, zoo.held_out)
        with pytest.raises(ValueError, match=r"holds another zoo .*differ by up to .*, as if .* another processor"):
            close.save(tmp_path, storage)
    kept = Zoo(first.in_memory().weights, zoo.layout, zoo.network, zoo.record, zoo.held_out)
    assert same(on_disk(kept, tmp_path, storage), first)  # control: what is kept, to the bit


def test_rows_that_are_not_as_many_or_as_long_are_refused(tmp_path):
    zoo = random_zoo()
    for i, rows in enumerate((zoo.weights[:5], zoo.weights.repeat(2, 1), zoo.weights[:, :-1])):
        with pytest.raises(ValueError, match=r"zip\(\) argument|are no rows of"):
            zoo.with_weights(iter(rows.split(1)), {"stage": "wrong"}, folder=tmp_path / str(i))
    assert same(zoo.with_weights(iter(zoo.weights.split(4)), {"stage": "right"}, folder=tmp_path / "right"), zoo)


def test_bad_places_and_storages_are_found_before_anything_is_done(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file")
    monkeypatch.setattr(plan, "initialise", None)
    for options, kind, message in (
        ({"folder": tmp_path / "z", "checkpoint": tmp_path / "c"}, ValueError, "a folder .* or a checkpoint, not both"),
        ({"folder": tmp_path / "z", "storage": "float16"}, ValueError, "storage is 'float32' or 'bfloat16'.*'float16'"),
        ({"storage": "bfloat16"}, ValueError, "of a folder; got 'bfloat16', folder=None"),
        ({"folder": tmp_path / "file"}, OSError, r"cannot write .*file/zoo\.json"),
        ({"folder": tmp_path / "file" / "below"}, OSError, r"cannot write .*below/zoo\.json"),
    ):
        with pytest.raises(kind, match=message):
            train_zoo(TASK, mlp(), **FAST, **options)
    with pytest.raises(ValueError, match="no storage 'int8': choose one of float32, bfloat16"):
        random_zoo().save(tmp_path / "z", "int8")
    monkeypatch.setattr(canonical, "match_rows", None)
    with pytest.raises(OSError, match="cannot write"):
        canonicalise(random_zoo(), folder=tmp_path / "file")
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named_and_can_be_read(tmp_path):
    zoo = on_disk(random_zoo(), tmp_path / "zoo")
    (tmp_path / "zoo").chmod(0o555)
    try:
        with pytest.raises(OSError, match=r"cannot write .*zoo\.json .*Permission denied"):
            random_zoo().save(tmp_path / "zoo")
        assert same(Zoo.load(tmp_path / "zoo"), zoo)
    finally:
        (tmp_path / "zoo").chmod(0o755)


# -- damage ------------------------------------------------------------------------------------------------------


def shard(folder, member=2):
    return folder / f"members-{member:08d}.safetensors"


def change(path, at, by):
    raw = bytearray(path.read_bytes())
    raw[at] ^= by
    path.write_bytes(raw)


def replace_in(path, old, new):
    raw = path.read_bytes()
    assert raw.count(old) and len(old) == len(new)
    path.write_bytes(raw.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: os.truncate(shard(f), 200), r"00002\.safetensors is truncated or not a safetensors .*delete it"),
        (lambda f: os.truncate(shard(f), shard(f).stat().st_size - 4), r"00002\.safetensors is truncated .*delete it"),
        (lambda f: shard(f).write_bytes(b""), r"00002\.safetensors is truncated .*delete it"),
        (lambda f: replace_in(shard(f), b'"notes"', b'"NOTES"'), r"00002\.safetensors was altered .*delete it"),
        (lambda f: replace_in(shard(f), b'"first":"2"', b'"first":"x"'), r"00002\.safetensors was altered"),
        (lambda f: shutil.copy(shard(f), f / "members-x.safetensors"), r"x\.safetensors holds members \[2\], which"),
        (lambda f: shutil.copy(shard(f, 0), shard(f)), r"00002\.safetensors holds members \[0\], which another"),
        (lambda f: random_zoo(seed=1).save(shard(f)), r"00002\.safetensors is of format 'dwflow_lite\.zoo/1', not"),
        (lambda f: shutil.copy(shard(random_zoo(held_out=1, seed=1, task="x").save(f / "other")),
                               shard(f)), r"00002\.safetensors belongs to another zoo"),
        (lambda f: (f / "zoo.json").write_text(""), r"zoo\.json is damaged; delete the folder"),
        (lambda f: os.truncate(f / "zoo.json", 100), r"zoo\.json is damaged"),
        (lambda f: (f / "zoo.json").write_text("[]"), r"zoo\.json is damaged"),
        (lambda f: (f / "zoo.json").write_text('{"format": "x/9"}'), r"zoo\.json is damaged.*'x/9', not"),
        (lambda f: (f / "zoo.json").write_text('{"format": "dwflow_lite.folder/1"}'), r"it lacks \['identity'"),
        (lambda f: replace_in(f / "zoo.json", b'"members": 6', b'"members": 5'), r"zoo\.json is damaged.*its hash"),
        (lambda f: replace_in(f / "zoo.json", b"relu", b"tanh"), r"zoo\.json is damaged.*its hash"),
    ],
)  # fmt: skip
def test_damage_is_named_when_a_zoo_is_opened_or_gone_on_with(tmp_path, damage, message):
    zoo = random_zoo()
    zoo.save(tmp_path)
    Zoo.load(tmp_path)  # control
    damage(tmp_path)
    for use in (lambda: Zoo.load(tmp_path), lambda: zoo.save(tmp_path)):
        with pytest.raises(ZooFileError, match=message):
            use()


@pytest.mark.parametrize(
    "damage", [lambda f: change(shard(f), -3, 1), lambda f: replace_in(shard(f), b"false", b"true ")]
)
def test_altered_content_is_seen_when_verified(tmp_path, damage):
    random_zoo().save(tmp_path)
    Zoo.load(tmp_path, verify=True)  # control
    damage(tmp_path)
    with pytest.raises(ZooFileError, match=r"00002\.safetensors was altered after it was written.*its hash does not"):
        Zoo.load(tmp_path, verify=True)


def test_a_shard_that_goes_after_the_zoo_was_opened_is_named(tmp_path):
    zoo = on_disk(random_zoo(), tmp_path)
    os.truncate(shard(tmp_path), 150)
    for use in (lambda: zoo.weights[2], lambda: zoo.in_memory(), lambda: predict(zoo, TASK.test.x)):
        with pytest.raises(ZooFileError, match=r"cannot read .*00002\.safetensors"):
            use()
    assert torch.equal(zoo.weights[1], random_zoo().weights[1])  # control


def test_missing_members_are_named(tmp_path):
    zoo = random_zoo()
    zoo.save(tmp_path)
    for member in (1, 4):
        shard(tmp_path, member).unlink()
    with pytest.warns(RuntimeWarning, match=rf"{tmp_path} holds 4 of 6 members; missing: \[1, 4\]"):
        assert same(Zoo.load(tmp_path), zoo.take([0, 2, 3, 5]))
    assert quietly_open(tmp_path).held_out == (False, False, False, True)
    for path in tmp_path.glob("members-*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="holds 0 of 6 members"):
        Zoo.load(tmp_path)
    (tmp_path / "zoo.json").unlink()
    for nothing in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match=f"no zoo in {nothing}: it has no zoo.json"):
            Zoo.load(nothing)


def exchange(one, other):
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (
            lambda f: exchange(shard(f, 0), shard(f, 5)),
            r"00000\.safetensors holds members from 5 on, and would be called",
        ),
        (
            lambda f: shard(f, 2).rename(shard(f, 9)),
            r"00009\.safetensors holds members from 2 on, .*-00000002\.safetensors: ",
        ),
        (lambda f: shard(f, 2).rename(f / "members-x.safetensors"), r"members-x\.safetensors holds members from 2 on"),
        (
            lambda f: shutil.copy(shard(f, 2), f / "members-00000002 (copy).safetensors"),
            r"holds members \[2\], which an",
        ),
        (
            lambda f: (shard(f, 4).unlink(), shutil.copy(shard(f, 3), shard(f, 4))),
            r"holds members \[3\], which another",
        ),
        (lambda f: (shard(f, 3).unlink(), shard(f, 4).rename(shard(f, 3))), r"00003\.safetensors holds members from 4"),
    ],
)
def test_files_go_by_the_names_of_their_members(tmp_path, rename, message):
    zoo = random_zoo(scores={"validation": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]})
    zoo.save(tmp_path)
    again = Zoo.load(tmp_path, verify=True)
    assert same(again, zoo) and again.record == zoo.record and again.held_out == zoo.held_out  # control
    assert torch.equal(again.fitted.in_memory().weights, zoo.fitted.weights)
    rename(tmp_path)
    for verify in (False, True):
        with pytest.raises(ZooFileError, match=message):
            Zoo.load(tmp_path, verify=verify)


def test_a_file_of_another_zoo_of_the_same_record_is_refused(tmp_path):
    zoo, other = random_zoo(), random_zoo(seed=1)
    zoo.save(tmp_path / "one")
    other.save(tmp_path / "other")
    assert same(Zoo.load(tmp_path / "one"), zoo)  # control
    shutil.copy(shard(tmp_path / "other"), shard(tmp_path / "one"))
    with pytest.raises(ZooFileError, match=r"00002\.safetensors belongs to another zoo than .*one/zoo\.json"):
        Zoo.load(tmp_path / "one")


def test_what_stages_say_of_members_that_are_missing_is_left_out(tmp_path, trained):
    aligned = canonicalise(trained, folder=tmp_path / "zoo")
    shard(tmp_path / "zoo", 1).unlink()
    stages = [zoo.record["stages"][-1] for zoo in (aligned.take([0, 2, 3, 4]), quietly_open(tmp_path / "zoo"))]
    assert stages[0] == stages[1] and len(stages[0]["objective_after"]) == 4


class Own(nn.Module):
    def __init__(self, activation=torch.tanh, width=5):
        super().__init__()
        self.inner, self.out, self.activation = nn.Linear(4, width), nn.Linear(width, 3), activation

    def forward(self, x):
        return self.out(self.activation(self.inner(x)))


def test_a_network_that_does_not_fit_is_refused(tmp_path):
    random_zoo().save(tmp_path / "mlp")
    with pytest.raises(ZooFileError, match="mlp does not fit the network"):
        Zoo.load(tmp_path / "mlp", MLP([4, 7, 3]))
    with pytest.raises(ZooFileError, match=r"mlp holds .*'relu'.* networks, not .*'tanh'"):
        Zoo.load(tmp_path / "mlp", MLP([4, 6, 3], "tanh"))
    zoo = train_zoo(TASK, Own(), folder=tmp_path / "own", **FAST)
    with pytest.raises(ValueError, match=r"cannot rebuild a 'Own' network .*network="):
        Zoo.load(tmp_path / "own")
    with pytest.raises(ZooFileError, match="own holds networks of another forward pass"):
        Zoo.load(tmp_path / "own", Own(torch.relu))
    assert same(Zoo.load(tmp_path / "own", Own()), zoo)  # control


def test_diverged_members_are_named_or_dropped(tmp_path, monkeypatch):
    poisoned, plain = randomness.member_seed(0, 1), plan.initialise

    def start(network, init, seed):
        return {k: v * (float("nan") if seed == poisoned else 1) for k, v in plain(network, init, seed).items()}

    monkeypatch.setattr(plan, "initialise", start)
    with pytest.raises(DivergedError, match=r"1 of 5 members diverged .*: \[1\]"):
        train_zoo(TASK, mlp(), folder=tmp_path, **FAST)
    monkeypatch.setattr("dwflow_lite.training.members.train_batched", None)  # they are all there
    zoo = train_zoo(TASK, mlp(), folder=tmp_path, on_diverged="drop", **FAST)
    assert [m["member"] for m in zoo.record["members"]] == [0, 2, 3, 4] and zoo.record["diverged"] == [1]
    with pytest.warns(RuntimeWarning, match=r"members \[1\] of .* diverged in training and hold no networks"):
        assert len(Zoo.load(tmp_path)) == 5


def test_a_folder_of_many_rows_a_file_in_any_order(tmp_path):
    start_folder(tmp_path, {"layout": [], "size": 4, "record": {}, "members": 6}, "float32")
    rows = torch.arange(24.0).view(6, 4)
    for first, stop in ((3, 6), (0, 1), (1, 3)):
        append(tmp_path, first, rows[first:stop], [{"at": m} for m in range(first, stop)])
    _, shards, notes = read_folder(tmp_path, verify=True)
    assert torch.equal(shards.columns(slice(None)), rows) and notes == {m: {"at": m} for m in range(6)}
    assert list(notes) == list(range(6)) and torch.equal(shards[[4, 0]].columns(slice(1, 3)), rows[[4, 0], 1:3])
    with pytest.raises(ValueError, match=r"1 members of 4 weights are no rows of \(2, 4\)"):
        append(tmp_path, 6, rows[:2], [{}])
    with pytest.raises(ValueError, match=r"members \[7\] hold NaN"):
        append(tmp_path, 6, torch.tensor([[1.0] * 4, [float("nan")] * 4]), [{}, {}])
    assert json.loads((tmp_path / "zoo.json").read_text())["members"] == 6 and len(names(tmp_path)) == 4
    assert deepcopy(shards).shape == (6, 4)
