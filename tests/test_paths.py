"""Paths as readers give them, files that are written whole or not at all, and what a kill leaves behind."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from dwflow_lite import DeepWeightFlow
from dwflow_lite.flow import FlowSettings, GaussianSource, VelocityField, train_flow
from dwflow_lite.networks import MLP
from dwflow_lite.support import checkpoints, paths
from dwflow_lite.support.checkpoints import Checkpoint
from dwflow_lite.support.files import ZooFileError
from dwflow_lite.support.paths import partial_of, sweep, written_whole
from dwflow_lite.symmetry import canonicalise
from dwflow_lite.tasks import Task
from dwflow_lite.training import Recipe, train_zoo
from dwflow_lite.zoo import Zoo

X = torch.linspace(-1, 1, 160).view(40, 4).sin()
TASK = Task.from_arrays(X, (X[:, 0] > 0).long(), name="paths")
FAST = {"members": 2, "held_out": 0, "recipe": Recipe(epochs=1, batch_size=20, lr=1e-2)}
QUICK = FlowSettings(hidden=4, time_dim=2, steps=2, solver_steps=2)


def a_zoo(members=3, hidden=3, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Zoo.from_modules([MLP([4, hidden, 2]) for _ in range(members)])


def same(one, other):
    return torch.equal(one.in_memory().weights, other.in_memory().weights)


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


# -- names -------------------------------------------------------------------------------------------------------

STRANGE = [
    "{draft}",
    "a b",
    "ünï-雪-🎈",
    "100%",
    "it's",
    "[x]*?",
    "-rf",
    "$HOME",
    "~",
    "new\nline",
    "x" * 240,
    "é" * 100,
]


@pytest.mark.parametrize("name", STRANGE)
def test_strange_names_are_taken_as_they_are(tmp_path, name):
    zoo, home = a_zoo(), tmp_path / name
    assert same(Zoo.load(zoo.save(home / "zoo")), zoo) and same(Zoo.load(zoo.save(home)), zoo)
    assert same(Zoo.load(zoo.save(tmp_path / f"{name}.zoo")), zoo)
    model = DeepWeightFlow(flow=QUICK).fit(Zoo.load(home), folder=home / "aligned")
    again = DeepWeightFlow.load(model.save(home / f"{name}.model"))
    assert same(again.sample(2, seed=1), model.sample(2, seed=1))
    trained = train_zoo(TASK, MLP([4, 3, 2]), folder=home / "trained", **FAST)
    assert same(train_zoo(TASK, MLP([4, 3, 2]), checkpoint=home / f"{name}.done", **FAST), trained)
    assert names(tmp_path) == sorted([name, f"{name}.zoo"])  # and nothing beside


@pytest.mark.parametrize("name", ["y" * 256, "y" * 300 + ".zoo", "é" * 200])
def test_a_name_that_is_too_long_is_found_before_anything_is_done(tmp_path, monkeypatch, name):
    monkeypatch.setattr("dwflow_lite.training.plan.initialise", None)
    for use in (
        lambda: a_zoo().save(tmp_path / name),
        lambda: train_zoo(TASK, MLP([4, 3, 2]), folder=tmp_path / name.replace(".", "-"), **FAST),
        lambda: train_zoo(TASK, MLP([4, 3, 2]), checkpoint=tmp_path / f"{name}.x", **FAST),
    ):
        with pytest.raises(OSError, match=r"cannot write .*File name too long"):
            use()
    with pytest.raises(OSError, match=r"cannot read .*File name too long"):
        Zoo.load(tmp_path / name)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("path", "kind"), [("", ValueError), ("a\0b", ValueError), (5, TypeError), (b"x", TypeError)])
def test_what_is_no_path_is_no_place(tmp_path, monkeypatch, path, kind):
    monkeypatch.chdir(tmp_path)
    zoo, message = a_zoo(), r"a path needs a name, got|a path is text or a Path, got"
    model = DeepWeightFlow(flow=QUICK).fit(zoo)
    for use in (
        lambda: zoo.save(path),
        lambda: Zoo.load(path),
        lambda: model.save(path),
        lambda: DeepWeightFlow.load(path),
        lambda: model.sample(2, seed=1, folder=path),
        lambda: canonicalise(zoo, folder=path),
        lambda: train_zoo(TASK, MLP([4, 3, 2]), folder=path, **FAST),
        lambda: train_zoo(TASK, MLP([4, 3, 2]), checkpoint=path, **FAST),
    ):
        with pytest.raises(kind, match=message):
            use()
    assert names(tmp_path) == []
    zoo.save(".")  # control: the folder of now, by its name
    assert "zoo.json" in names(tmp_path)


# -- what is there already ---------------------------------------------------------------------------------------


def test_a_link_stays_a_link_and_what_it_points_to_is_written(tmp_path):
    (tmp_path / "real").mkdir()
    for target in ("real/there.zoo", "real/not yet.zoo", "new/home.zoo"):  # the last two dangle
        link = tmp_path / f"{Path(target).stem}.zoo"
        link.symlink_to(tmp_path / target)
    a_zoo(seed=1).save(tmp_path / "real/there.zoo")
    for link in ("there.zoo", "not yet.zoo", "home.zoo"):
        assert same(Zoo.load(a_zoo().save(tmp_path / link)), a_zoo()) and (tmp_path / link).is_symlink()
    assert same(Zoo.load(tmp_path / "real/there.zoo"), a_zoo()) and names(tmp_path / "new") == ["home.zoo"]
    (tmp_path / "folder").symlink_to(tmp_path / "real/folder")  # dangles too
    assert same(Zoo.load(a_zoo().save(tmp_path / "folder")), a_zoo()) and (tmp_path / "real/folder").is_dir()
    (tmp_path / "round.zoo").symlink_to(tmp_path / "round.zoo")
    for use in (lambda: a_zoo().save(tmp_path / "round.zoo"), lambda: Zoo.load(tmp_path / "round.zoo")):
        with pytest.raises(OSError, match=r"cannot (read|write) .*round\.zoo .*symbolic links"):
            use()


@pytest.mark.parametrize("suffix", ["", ".zoo"])
def test_pipes_and_devices_are_no_places(tmp_path, suffix):
    pipe, device = tmp_path / f"pipe{suffix}", tmp_path / f"device{suffix}"
    os.mkfifo(pipe)
    device.symlink_to("/dev/null")
    for path in (pipe, device):
        with pytest.raises(OSError, match=rf"cannot write {path} .*it is a pipe or a device"):
            a_zoo().save(path)
        with pytest.raises(OSError, match=rf"{path}.*(it is a pipe or a device|it is no file)"):
            Zoo.load(path)
        with pytest.raises(OSError, match=rf"cannot write {path}"):
            train_zoo(TASK, MLP([4, 3, 2]), checkpoint=path, **FAST)
    assert pipe.is_fifo() and Path("/dev/null").is_char_device()


# -- a full disk -------------------------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size):
    """As on a full disk: no file may be longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def small_flow(home):
    torch.manual_seed(0)
    field = VelocityField(2, hidden=40, time_dim=2, dropout=0.0)
    return train_flow(field, torch.randn(6, 2), GaussianSource(2), QUICK, seed=1, checkpoint=home / "flow.pt")


def test_a_file_for_which_there_is_no_room_says_so_and_what_was_there_stays(tmp_path, monkeypatch):
    zoo, large = a_zoo(), a_zoo(hidden=200)
    model, wide = DeepWeightFlow(flow=QUICK).fit(zoo), DeepWeightFlow(flow=QUICK).fit(large)
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", -1.0)
    zoo.save(tmp_path / "a.zoo")
    model.save(tmp_path / "a.model")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for use, name in (
        (lambda: large.save(tmp_path / "a.zoo"), "a.zoo"),
        (lambda: wide.save(tmp_path / "a.model"), "a.model"),
        (lambda: small_flow(tmp_path), "flow.pt.partial"),
        (lambda: train_zoo(TASK, MLP([4, 200, 2]), checkpoint=tmp_path / "b.zoo", **FAST), "b.zoo.partial"),
        (lambda: Checkpoint(tmp_path / "c.pt", name="c", identity="").finish({"x": torch.ones(2000)}), "c.pt"),
    ):
        with (
            files_of_at_most(2000),
            pytest.raises(OSError, match=rf"^cannot write {tmp_path}/{name}: .*File too large"),
        ):
            use()
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    small_flow(tmp_path)  # control
    assert same(Zoo.load(large.save(tmp_path / "a.zoo")), large)


def test_what_was_half_done_stays_where_the_result_has_no_room(tmp_path):
    store = Checkpoint(tmp_path / "a.pt", name="a", identity="")
    store.save({"step": 1})
    with files_of_at_most(2000), pytest.raises(OSError, match="File too large"):
        store.save({"step": 2, "x": torch.ones(2000)})
    with files_of_at_most(2000), pytest.raises(OSError, match="File too large"):
        store.finish({"step": 3, "x": torch.ones(2000)})
    assert store.load() == {"step": 1} and names(tmp_path) == ["a.pt.partial"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_no_room_is_found_at_any_step_of_a_write(tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    a_zoo(seed=1).save(tmp_path / "a.zoo")
    Checkpoint(tmp_path / "a.pt", name="a", identity="").finish({"step": 1})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        for use, name in (
            (lambda: a_zoo().save(tmp_path / "a.zoo"), r"a\.zoo: "),
            (lambda: a_zoo().save(tmp_path / "folder"), r"folder/zoo\.json "),
            (lambda: Checkpoint(tmp_path / "a.pt", name="a", identity="").finish({"step": 2}), r"a\.pt: "),
        ):
            with pytest.raises(OSError, match=rf"^cannot write .*{name}.*No space left on device"):
                use()
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert names(tmp_path / "folder") == []
    assert same(Zoo.load(a_zoo().save(tmp_path / "a.zoo")), a_zoo())  # control


# -- what a kill leaves ------------------------------------------------------------------------------------------


@pytest.fixture
def living():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def left_by(path, process, started=None, machine=None):
    """A half-written file of another process."""
    mine = partial_of(path)
    stem, writer, _ = mine.name.rsplit(".", 2)
    started = psutil.Process(process).create_time() if started is None else started
    left = path.with_name(f"{stem}.{machine or writer.split('-')[0]}-{process}-{round(100 * started)}-0.partial")
    left.write_bytes(b"half")
    return left


def test_half_written_files_go_when_their_process_is_gone(tmp_path, living):
    target = tmp_path / "a.zoo"
    alive = left_by(target, living.pid)
    reused = left_by(target, living.pid, started=time.time() - 3600)  # an older process of the same number
    elsewhere = left_by(target, living.pid, machine="0123abcd")
    of_others = [left_by(tmp_path / "b.zoo", living.pid, started=1.0), tmp_path / ".a.zoo.download.partial"]
    of_others[1].write_text("of another program")
    long_ago = tmp_path / ".a.zoo.4711.partial"  # as older versions called it
    long_ago.write_text("half")
    a_zoo().save(target)
    assert alive.exists() and elsewhere.exists() and all(path.exists() for path in of_others)
    assert not reused.exists() and not long_ago.exists()
    os.utime(elsewhere, (time.time() - 2 * 24 * 3600,) * 2)
    living.kill()
    living.wait()
    a_zoo().save(target)
    assert not alive.exists() and not elsewhere.exists() and all(path.exists() for path in of_others)
    assert same(Zoo.load(target), a_zoo())


def test_a_zombie_writes_no_more(tmp_path, living):
    left = left_by(tmp_path / "members-00000001.safetensors", living.pid)
    sweep(tmp_path, "members-")
    assert left.exists()  # control
    os.kill(living.pid, signal.SIGKILL)
    while psutil.Process(living.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    sweep(tmp_path, "members-")
    assert not left.exists()


KILLED = """
import os, signal, sys
from dwflow_lite.networks import MLP
from dwflow_lite.support import checkpoints, paths
import dwflow_lite.training.train
sys.path.insert(0, {tests!r})
import test_paths as t
calls, plain = [], os.replace
def replace(*arguments):
    calls.append(1)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    plain(*arguments)
os.replace = replace
checkpoints.SAVE_EVERY_SECONDS = -1.0
{work}
"""
SAVE = "t.a_zoo(seed=1).save({home!r} + '/a.zoo'); t.a_zoo().save({home!r} + '/a.zoo')"
TRAIN = "t.train_zoo(t.TASK, MLP([4, 3, 2]), checkpoint={home!r} + '/b.zoo', **t.FAST)"


@pytest.mark.parametrize(("work", "call", "kept"), [(SAVE, 2, "a.zoo"), (TRAIN, 2, "b.zoo.partial"), (TRAIN, 3, None)])
def test_a_kill_inside_a_write_loses_nothing_and_what_it_leaves_is_swept(tmp_path, work, call, kept):
    work = work.format(home=str(tmp_path))
    script = KILLED.format(tests=str(Path(__file__).parent), call=call, work=work)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [name for name in names(tmp_path) if name.startswith(".")]
    assert len(left) == 1 and (kept is None or kept in names(tmp_path))
    if work.startswith("t.a_zoo"):
        assert same(Zoo.load(tmp_path / "a.zoo"), a_zoo(seed=1))  # the earlier one is whole
        a_zoo().save(tmp_path / "a.zoo")
        assert names(tmp_path) == ["a.zoo"] and same(Zoo.load(tmp_path / "a.zoo"), a_zoo())
    else:
        expected = train_zoo(TASK, MLP([4, 3, 2]), **FAST)
        assert same(train_zoo(TASK, MLP([4, 3, 2]), checkpoint=tmp_path / "b.zoo", **FAST), expected)
        assert names(tmp_path) == ["b.zoo"]


def test_two_threads_write_to_one_path_each_to_its_own_file(tmp_path):
    with written_whole(tmp_path / "x") as one, written_whole(tmp_path / "x") as other:
        assert one != other and one.name.endswith(".partial")
        one.write_text("one")
        other.write_text("other")
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "one"
    assert partial_of(tmp_path / ("y" * 250)).name.startswith(f".{'y' * (paths.LONGEST_STEM // 4)}-")


# -- generators that move with their zoo -------------------------------------------------------------------------


@pytest.fixture
def moved(tmp_path):
    """A generator beside the zoo that it decodes from, both moved from where they were written; and its samples."""
    zoo = Zoo.load(a_zoo(5).save(tmp_path / "old/zoo"))
    model = DeepWeightFlow(flow=QUICK).fit(zoo, folder=tmp_path / "old/deep/aligned")
    model.save(tmp_path / "old/model.x")
    expected = model.sample(2, seed=1).weights
    (tmp_path / "old").rename(tmp_path / "new home")
    return tmp_path / "new home", expected


def test_a_generator_and_its_zoo_are_moved_together(moved):
    home, expected = moved
    assert torch.equal(DeepWeightFlow.load(home / "model.x").sample(2, seed=1).weights, expected)
    again = DeepWeightFlow.load(home / "model.x").save(home.parent / "elsewhere.x")  # and saved again from there
    assert torch.equal(DeepWeightFlow.load(again).sample(2, seed=1).weights, expected)


def test_a_generator_that_was_moved_alone_is_told_where_its_zoo_is(moved):
    home, expected = moved
    (home / "model.x").rename(home.parent / "alone.x")
    with pytest.raises(ZooFileError, match=r"alone\.x decodes from the zoo in .*aligned: put it back, .* \(folder=\)"):
        DeepWeightFlow.load(home.parent / "alone.x")
    model = DeepWeightFlow.load(home.parent / "alone.x", folder=home / "deep/aligned")
    assert torch.equal(model.sample(2, seed=1).weights, expected)
    other = a_zoo(5, seed=3).save(home / "other")
    for wrong in (other, home, home / "absent"):
        with pytest.raises(ZooFileError, match=rf"decodes from the zoo in {wrong}: put it back"):
            DeepWeightFlow.load(home.parent / "alone.x", folder=wrong)
    whole = DeepWeightFlow(flow=QUICK).fit(a_zoo()).save(home / "whole.x")
    with pytest.raises(ValueError, match=r"whole\.x holds all that it decodes from: name no folder"):
        DeepWeightFlow.load(whole, folder=other)


class Own(nn.Module):
    def __init__(self, activation=torch.tanh):
        super().__init__()
        self.inner, self.out, self.activation = nn.Linear(4, 3), nn.Linear(3, 2), activation

    def forward(self, x):
        return self.out(self.activation(self.inner(x)))


def test_a_generator_of_another_forward_pass_is_refused(tmp_path):
    zoo = train_zoo(TASK, Own(), **FAST)
    model = DeepWeightFlow(flow=QUICK, align=None).fit(zoo)
    path = model.save(tmp_path / "model.x")
    made = model.sample(2, seed=1).save(tmp_path / "made.x")
    for load, file in ((DeepWeightFlow.load, path), (Zoo.load, made)):
        load(file, Own())  # control
        with pytest.raises(ZooFileError, match=r"holds networks of another forward pass than this Own"):
            load(file, Own(torch.relu))
