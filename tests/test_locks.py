"""One writer at a time: real processes, kills, and readers that are not disturbed."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from dwflow_lite.networks import MLP
from dwflow_lite.support import locks
from dwflow_lite.support.locks import LOCK, FolderInUseError, one_writer
from dwflow_lite.symmetry import canonicalise
from dwflow_lite.tasks import Task
from dwflow_lite.training import Recipe, train_zoo
from dwflow_lite.zoo import Zoo

X = torch.linspace(-1, 1, 160).view(40, 4).sin()
TASK = Task.from_arrays(X, (X[:, 0] > 0).long(), name="locks")
FAST = {"members": 4, "held_out": 1, "recipe": Recipe(epochs=1, batch_size=20, lr=1e-2)}


def train(folder):
    return train_zoo(TASK, MLP([4, 3, 2]), folder=folder, **FAST)


def same(one, other):
    return torch.equal(one.in_memory().weights, other.in_memory().weights)


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def wait_for(is_so, seconds=60):
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


# -- processes ---------------------------------------------------------------------------------------------------

TRAINS = """
import sys, time
sys.path.insert(0, {tests!r})
import test_locks as t
from pathlib import Path
from dwflow_lite.training import members
home, plain = Path({home!r}), members.train_members
def slow(*arguments, **options):
    time.sleep(0.3)
    return plain(*arguments, **options)
members.train_members = slow
(home / ("ready-" + sys.argv[1])).touch()
t.wait_for((home / "go").exists)
try:
    t.train(home / "zoo")
except OSError as error:
    sys.exit(str(error))
"""


def processes(home, count):
    script = TRAINS.format(tests=str(Path(__file__).parent), home=str(home))
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(i)], stderr=subprocess.PIPE, text=True)
        for i in range(count)
    ]
    wait_for(lambda: len(list(home.glob("ready-*"))) == count, 120)
    (home / "go").touch()
    return started


def test_of_three_processes_one_trains_and_the_others_say_who(tmp_path):
    started = processes(tmp_path, 3)
    said = [process.communicate(timeout=120)[1] for process in started]
    winners = [process for process in started if process.returncode == 0]
    assert len(winners) == 1, said
    since = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S+"
    in_use = (
        rf"zoo is being written by process {winners[0].pid} on \S+ since {since}: wait until it is done, or name an"
    )
    assert sum(bool(re.search(in_use, text)) for text in said) == 2, said
    assert names(tmp_path / "zoo") == [*(f"members-{m:08d}.safetensors" for m in range(5)), "zoo.json"]
    alone = train(tmp_path / "alone")  # control, and the rest of the claim: it is the zoo of one process
    assert same(Zoo.load(tmp_path / "zoo", verify=True), alone)
    assert same(train(tmp_path / "zoo"), alone)  # it is free again


def test_a_folder_is_free_when_its_writer_is_killed_and_the_rest_is_bit_equal(tmp_path):
    (process,) = processes(tmp_path, 1)
    folder = tmp_path / "zoo"
    wait_for(lambda: list(folder.glob("members-*")))
    with pytest.raises(FolderInUseError, match=rf"being written by process {process.pid} on "):
        train(folder)
    with pytest.warns(RuntimeWarning, match="of 5 members; missing"):  # a reader is not disturbed, and disturbs nobody
        part = Zoo.load(folder)
    assert torch.isfinite(part.weights[0]).all()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert LOCK in names(folder)
    assert same(train(folder), train(tmp_path / "alone"))
    assert names(folder) == names(tmp_path / "alone")


HOLDS = """
import os, sys, time
from pathlib import Path
from dwflow_lite.support.locks import one_writer
with one_writer(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


def test_a_process_that_was_forked_holds_nothing(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        with pytest.raises(FolderInUseError), one_writer(tmp_path):
            pass
        process.kill()
        process.wait()
        with one_writer(tmp_path):
            os.kill(child, 0)  # it lives
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


# -- within a process --------------------------------------------------------------------------------------------


def test_everything_that_writes_to_a_folder_holds_it(tmp_path):
    zoo = train(tmp_path / "there").in_memory()
    (tmp_path / "zoo").mkdir()
    uses = (lambda f: zoo.save(f), lambda f: canonicalise(zoo, folder=f), train)
    with one_writer(tmp_path / "zoo"):
        for use in uses:
            with pytest.raises(FolderInUseError, match=rf"being written by process {os.getpid()} on "):
                use(tmp_path / "zoo")
        assert names(tmp_path / "zoo") == [LOCK]
        for i, use in enumerate(uses):
            use(tmp_path / f"other-{i}")  # control
    with one_writer(tmp_path / "there"):
        assert same(Zoo.load(tmp_path / "there", verify=True), zoo)
    assert LOCK not in names(tmp_path / "there") and names(tmp_path / "zoo") == []


def test_threads_wait_their_turn_by_name_too(tmp_path):
    held, done, said = threading.Event(), threading.Event(), []

    def hold():
        with one_writer(tmp_path):
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    with pytest.raises(FolderInUseError, match=f"process {os.getpid()} "), one_writer(tmp_path):
        said.append("entered")
    done.set()
    thread.join()
    with one_writer(tmp_path):
        said.append("now")
    assert said == ["now"]


def test_a_failed_write_lets_go(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), one_writer(tmp_path):
            raise KeyError
    assert names(tmp_path) == []


def test_a_lock_that_is_removed_as_it_is_taken_is_taken_once_more(tmp_path, monkeypatch):
    plain, calls = locks._lock, []

    def slow(file):
        calls.append(file)
        if len(calls) == 1:  # between opening and locking, its holder has finished
            (tmp_path / LOCK).unlink()
        plain(file)

    with monkeypatch.context() as patch:
        patch.setattr(locks, "_lock", slow)
        with one_writer(tmp_path):
            assert len(calls) == 2 and names(tmp_path) == [LOCK]
            patch.setattr(locks, "_lock", plain)
            with pytest.raises(FolderInUseError), one_writer(tmp_path):
                pass


@pytest.mark.parametrize("text", ["", "[]", "5", '{"process": 5}', '{"process": "x", "host": 1}', "[" * 999, "\xff"])
def test_a_lock_that_says_nothing_is_a_lock(tmp_path, monkeypatch, text):
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    with one_writer(tmp_path):
        (tmp_path / LOCK).write_text(text)
        with pytest.raises(FolderInUseError, match="is being written by another process: wait"), one_writer(tmp_path):
            pass
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / LOCK).write_text(json.dumps({"process": gone.pid, "host": "h", "since": "s"}))  # nobody holds it
    with one_writer(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_where_there_are_no_locks_this_is_said(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", none)
    with pytest.warns(UserWarning, match=r"lies where no locks are: let one process write there"):
        zoo = train(tmp_path / "zoo")
    assert len(zoo) == 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_can_be_read(tmp_path):
    zoo = train(tmp_path / "zoo")
    (tmp_path / "zoo").chmod(0o555)
    try:
        assert same(Zoo.load(tmp_path / "zoo", verify=True), zoo)
        with pytest.raises(OSError, match=r"cannot write .*Permission denied"):
            train(tmp_path / "zoo")
    finally:
        (tmp_path / "zoo").chmod(0o755)
