"""Independent jobs: the same result in one process, in threads, in processes and on a cluster that loses a worker."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import time
import warnings
import weakref
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from torch import nn

from dwflow_lite.compress import DualPCA
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import DeepWeightFlow
from dwflow_lite.networks import MLP
from dwflow_lite.support.jobs import run_jobs, runs
from dwflow_lite.support.progress import bar
from dwflow_lite.symmetry import canonicalise
from dwflow_lite.tasks import Task
from dwflow_lite.training import Recipe, train_zoo
from dwflow_lite.training import members as members_module
from dwflow_lite.zoo import Layout, Zoo

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 4))
TASK = Task.from_arrays(X, (X[:, 0] * X[:, 1] > 0).astype(int) + (X[:, 2] > 0), name="small")
FAST = {"members": 5, "held_out": 1, "recipe": Recipe(epochs=2, batch_size=20, lr=1e-2)}
SMALL = FlowSettings(hidden=16, steps=20, every=10)


class Backwards(Executor):
    """One thread that begins with the last job; everything travels as pickles, as to another process."""

    def __init__(self, between=lambda: None):
        self.jobs, self.between, self.largest = [], between, 0

    def submit(self, function, /, *args, **options):
        if not self.jobs:
            Thread(target=self.run).start()
        self.jobs.append((Future(), pickle.dumps((function, args, options))))
        self.largest = max(self.largest, len(self.jobs[-1][1]))
        return self.jobs[-1][0]

    def run(self):
        time.sleep(0.05)
        while self.jobs:
            future, job = self.jobs.pop()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                self.between()
                function, args, options = pickle.loads(job)
                future.set_result(pickle.loads(pickle.dumps(function(*args, **options))))
            except BaseException as error:
                future.set_exception(error)


class Dying(nn.Module):
    """Kills its process as it trains in another than this one, once for each flag that is up."""

    def __init__(self, flag=None):
        super().__init__()
        self.layers, self.flag, self.home, self.calls = nn.Linear(4, 3), flag, os.getpid(), 0

    def forward(self, x):
        self.calls += self.training
        if self.flag and self.calls > 3 and os.getpid() != self.home:
            die_once(self.flag, None)
        return self.layers(x)


def die_once(flag, result):
    try:
        Path(flag).unlink()
    except FileNotFoundError:
        return result
    os.kill(os.getpid(), signal.SIGKILL)


def flag(folder):
    (folder / "flag").write_text("")
    return str(folder / "flag")


def divide(number, by):
    return torch.tensor([number / by])


def weights(zoo):
    return zoo.in_memory().weights


@pytest.fixture(scope="module")
def zoo():
    return train_zoo(TASK, MLP([4, 6, 3]), members_at_once=1, **FAST)


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        warnings.catch_warnings(),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client.get_executor()


# -- jobs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [lambda: None, Backwards, lambda: ThreadPoolExecutor(2)])
def test_every_job_is_done_once(executor):
    results = list(run_jobs(divide, [(n, 2) for n in range(9)], executor()))
    assert sorted((p, float(r)) for p, r in results) == [(n, n / 2) for n in range(9)]
    order = [p for p, _ in run_jobs(divide, [(n, 2) for n in range(3)], executor())]
    assert sorted(order) == [0, 1, 2] and list(run_jobs(divide, [], executor())) == []


@pytest.mark.parametrize("executor", [lambda: None, Backwards, lambda: ThreadPoolExecutor(1)])
def test_an_error_is_raised_and_what_has_not_begun_is_cancelled(executor):
    done = []

    with pytest.raises(ZeroDivisionError):
        for position, _ in run_jobs(divide, [(n, 0 if n == 4 else 1) for n in range(9)], executor()):
            done.append(position)
    assert done in ([0, 1, 2, 3], [8, 7, 6, 5])


def test_jobs_that_have_not_begun_are_cancelled_by_an_interruption():
    begun = []

    def slow(n):
        begun.append(n)
        time.sleep(0.02)

    with ThreadPoolExecutor(1) as pool:
        going = run_jobs(slow, [(n,) for n in range(50)], pool)
        next(going)
        going.close()  # what Ctrl-C in the caller comes to
    assert len(begun) < 10


def test_results_are_not_kept():
    alive, most = [], 0
    with ThreadPoolExecutor(1) as pool:
        for _, result in run_jobs(divide, [(n, 1) for n in range(40)], pool):
            time.sleep(0.001)
            alive.append(weakref.ref(result))
            del result
            most = max(most, sum(ref() is not None for ref in alive))
    assert most < 5


@pytest.mark.parametrize("wrong", [2, "processes", ThreadPoolExecutor, map])
def test_what_is_no_executor_is_named(tmp_path, zoo, wrong):
    message = r"executor must be a concurrent\.futures\.Executor, got .*client\.get_executor"
    for use in (
        lambda: train_zoo(TASK, MLP([4, 6, 3]), executor=wrong, **FAST),
        lambda: train_zoo(TASK, MLP([4, 6, 3]), executor=wrong, folder=tmp_path, **FAST),
        lambda: canonicalise(zoo, executor=wrong),
        lambda: DualPCA().fit(zoo.weights, executor=wrong),
        lambda: DeepWeightFlow(flow=SMALL).fit(zoo, executor=wrong),
    ):
        with pytest.raises(TypeError, match=message):
            use()
    assert not list(tmp_path.glob("members-*"))


@pytest.mark.parametrize(
    ("positions", "at_most", "expected"),
    [
        (range(5), 2, [range(0, 2), range(2, 4), range(4, 5)]),
        ([0, 1, 4, 5, 7], 9, [range(0, 2), range(4, 6), range(7, 8)]),
        ([3], 1, [range(3, 4)]),
        ([], 3, []),
    ],
)
def test_positions_become_runs(positions, at_most, expected):
    assert runs(positions, at_most) == expected


def test_a_bar_takes_what_it_names_and_shows_what_is_asked_of_it(capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    for progress in (True, False):
        assert list(bar(range(3), progress=progress, desc="counting", unit="number")) == [0, 1, 2]
        assert ("counting" in capsys.readouterr().err) == progress
    with bar(progress=False, total=9, initial=4) as moved:
        assert (moved.n, moved.total) == (4, 9)
    with pytest.raises(TypeError, match="unexpected keyword argument 'totl'"):
        bar(range(3), progress=True, totl=3)


# -- stages ------------------------------------------------------------------------------------------------------


def check_stages(executor, zoo, folder):
    """Training, alignment, PCA and a whole generator: as in one process, in memory and on disk."""
    network, close = MLP([4, 6, 3]), {"atol": 1e-6, "rtol": 1e-5}
    for i, options in enumerate(({}, {"folder": folder / "a"}, {"members_at_once": 4}, {"method": "loop"})):
        made = train_zoo(TASK, network, executor=executor, **FAST, **options)
        torch.testing.assert_close(weights(made), zoo.weights, **({"atol": 0, "rtol": 0} if i < 2 else close))
        assert made.record["members"] == zoo.record["members"] and made.held_out == zoo.held_out
        torch.testing.assert_close(made.scores("test"), zoo.scores("test"))
    disk = Zoo.load(folder / "a", verify=True)
    here = canonicalise(zoo, rounds=1)
    for there in (
        canonicalise(zoo, rounds=1, executor=executor),
        canonicalise(disk, rounds=1, executor=executor, folder=folder / "b"),
    ):
        torch.testing.assert_close(weights(there), here.weights, **close)
        stage, expected = there.record["stages"][-1], here.record["stages"][-1]
        assert stage["objective_after"] == pytest.approx(expected["objective_after"])
    pca = DualPCA().fit(zoo.weights)
    assert not torch.allclose(weights(there), zoo.weights)  # control: there was something to align
    for x in (zoo.weights, disk.weights):
        other = DualPCA(memory=8 * 12 * len(zoo)).fit(x, executor=executor)
        torch.testing.assert_close(other.singular_values_, pca.singular_values_, rtol=1e-9, atol=0)
        torch.testing.assert_close(other.transform(zoo.weights), pca.transform(zoo.weights), atol=1e-5, rtol=1e-5)
        again = DualPCA(memory=8 * 12 * len(zoo)).fit(x, executor=Backwards())
        assert torch.equal(again.singular_values_, other.singular_values_)  # whoever was first
    models = [DeepWeightFlow(flow=SMALL).fit(zoo, executor=e).sample(3, seed=0) for e in (None, executor)]
    torch.testing.assert_close(models[0].weights, models[1].weights, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("executor", [Backwards, lambda: ThreadPoolExecutor(2)])
def test_stages_in_threads_give_the_same(tmp_path, zoo, executor):
    check_stages(executor(), zoo, tmp_path)


def test_stages_on_a_cluster_give_the_same(tmp_path, zoo, cluster):
    check_stages(cluster, zoo, tmp_path)


def test_a_job_carries_its_part_of_the_matrix_and_of_a_zoo_on_disk_none(tmp_path):
    network = MLP([400, 100, 3])
    layout = Layout.of(network)
    zoo = Zoo(torch.randn(6, layout.size), layout, network)
    disk, row = Zoo.load(zoo.save(tmp_path / "zoo"), network), 4 * layout.size
    for work, rows in (
        (lambda z, e: DualPCA(memory=12 * layout.size).fit(z.weights, executor=e), 1),
        (lambda z, e: canonicalise(z, restarts=0, executor=e, folder=tmp_path / "aligned"), 2),
    ):
        for given, least, most in ((zoo, rows * row, rows * row + 40_000), (disk, 0, 40_000)):
            executor = Backwards()
            work(given, executor)
            assert least < executor.largest < most


class Slow(nn.Linear):
    """Takes its start from the generator in two draws, with time for another thread between them."""

    def __init__(self):
        super().__init__(4, 3)

    def reset_parameters(self):
        with torch.no_grad():
            self.weight.normal_()
            time.sleep(0.01)
            self.bias.normal_()


def test_threads_do_not_share_a_generator(monkeypatch):
    network = nn.Sequential(Slow(), nn.Dropout(0.5))
    alone = train_zoo(TASK, network, members_at_once=1, method="loop", **FAST)
    with ThreadPoolExecutor(3) as pool:
        state = torch.get_rng_state()
        together = train_zoo(TASK, network, executor=pool, method="loop", **FAST)
        assert torch.equal(together.weights, alone.weights) and torch.equal(torch.get_rng_state(), state)
        monkeypatch.setattr(members_module, "_ONE_JOB_AT_A_TIME", nullcontext())  # control
        assert not torch.equal(train_zoo(TASK, network, executor=pool, method="loop", **FAST).weights, alone.weights)


def test_what_a_worker_left_half_written_is_swept(tmp_path):
    left = tmp_path / ".members-00000001.safetensors.1.partial"
    train_zoo(TASK, MLP([4, 6, 3]), folder=tmp_path, executor=Backwards(lambda: left.write_bytes(b"half")), **FAST)
    assert len(list(tmp_path.iterdir())) == 7 and not left.exists()


def test_workers_that_see_another_disk_are_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(members_module, "append", lambda *_: None)
    with pytest.raises(OSError, match=f"workers did not write to {tmp_path}: it must be a folder that they and this"):
        train_zoo(TASK, MLP([4, 6, 3]), folder=tmp_path, executor=Backwards(), **FAST)


def test_a_checkpoint_keeps_the_members_that_jobs_have_finished(tmp_path, monkeypatch, zoo):
    monkeypatch.setattr("dwflow_lite.support.checkpoints.SAVE_EVERY_SECONDS", -1.0)
    trained = []

    def stop_before(last):
        if len(trained) == last:
            raise RuntimeError("stopped")
        trained.append(1)

    def train(place, last):
        return train_zoo(TASK, MLP([4, 6, 3]), executor=Backwards(lambda: stop_before(last)), checkpoint=place, **FAST)

    for place, repeated in (tmp_path / "zoo.safetensors", 0), (None, 4):  # control: kept nowhere
        trained.clear()
        with pytest.raises(RuntimeError, match="stopped"):
            train(place, last=4)
        again = train(place, last=None)
        assert len(trained) == 6 + repeated
        assert torch.equal(again.weights, zoo.weights) and again.record["members"] == zoo.record["members"]
    assert [path.name for path in tmp_path.iterdir()] == ["zoo.safetensors"]


def test_a_training_begun_without_an_executor_is_begun_again_with_one_and_back(tmp_path, monkeypatch, zoo):
    monkeypatch.setattr("dwflow_lite.support.checkpoints.SAVE_EVERY_SECONDS", -1.0)

    def stop(self, write):
        raise RuntimeError("stopped")

    for place, first, second in (("a", None, Backwards), ("b", Backwards, None)):
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
            patch.setattr("dwflow_lite.support.checkpoints.Checkpoint.finish_with", stop)
            train_zoo(TASK, MLP([4, 6, 3]), executor=first and first(), checkpoint=tmp_path / place, **FAST)
        assert list((tmp_path / place).glob("*.partial"))  # something is kept
        made = train_zoo(TASK, MLP([4, 6, 3]), executor=second and second(), checkpoint=tmp_path / place, **FAST)
        assert torch.allclose(made.weights, zoo.weights, atol=1e-5)


# -- workers that die --------------------------------------------------------------------------------------------


def test_a_pool_that_loses_a_process_keeps_what_was_finished(tmp_path):
    alone = train_zoo(TASK, Dying(), members_at_once=1, **FAST)
    up, folder = flag(tmp_path), tmp_path / "zoo"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, pytest.raises(BrokenProcessPool):
        train_zoo(TASK, Dying(up), folder=folder, executor=pool, **FAST)
    assert not Path(up).exists()
    again = train_zoo(TASK, Dying(up), folder=folder, **FAST)
    assert torch.equal(weights(again), alone.weights)


def test_a_cluster_that_loses_a_worker_loses_nothing(tmp_path, cluster):
    alone = train_zoo(TASK, Dying(), members_at_once=1, **FAST)
    up, folder = flag(tmp_path), tmp_path / "zoo"
    zoo = train_zoo(TASK, Dying(up), folder=folder, executor=cluster, **FAST)
    assert not Path(up).exists()  # it did die
    assert torch.equal(weights(zoo), alone.weights) and zoo.record["members"] == alone.record["members"]
    assert len(list(folder.iterdir())) == 7 and len(Zoo.load(folder, Dying(), verify=True)) == 6
    results = dict(run_jobs(die_once, [(up := flag(tmp_path), n) for n in range(6)], cluster))
    assert results == {n: n for n in range(6)} and not Path(up).exists()


# -- what does not travel ----------------------------------------------------------------------------------------

LIVES = r"must live at the top level of a module \(a \.py file\) that is imported.*or use Dask"


def unpicklable(kind):
    """Networks that another process cannot be sent."""

    class Local(nn.Linear):
        pass

    network = Local(4, 3) if kind == "local class" else nn.Linear(4, 3)
    if kind == "lambda":
        network.register_forward_hook(lambda module, x, y: y)
    return network


@pytest.mark.parametrize("kind", ["local class", "lambda"])
@pytest.mark.parametrize("context", ["spawn", "fork"])
def test_what_cannot_be_sent_is_said_before_anything_is_begun(tmp_path, kind, context):
    with (
        ProcessPoolExecutor(1, mp_context=get_context(context)) as pool,
        pytest.raises(TypeError, match=rf"a job cannot be sent to another process \(.*\): its classes and.*{LIVES}"),
    ):
        train_zoo(TASK, unpicklable(kind), executor=pool, folder=tmp_path / "zoo", **FAST)
    assert not list((tmp_path / "zoo").glob("members-*"))
    with ThreadPoolExecutor(2) as threads:  # control: threads are sent nothing
        assert len(train_zoo(TASK, unpicklable(kind), executor=threads, **FAST)) == 6


SCRIPT = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from torch import nn

from dwflow_lite.tasks import Task
from dwflow_lite.training import Recipe, train_zoo


class Own(nn.Linear):
    pass


def run(context):
    x = np.random.default_rng(0).normal(size=(80, 4))
    task = Task.from_arrays(x, (x[:, 0] > 0).astype(int))
    try:
        with ProcessPoolExecutor(1, mp_context=get_context(context)) as pool:
            print(train_zoo(task, Own(4, 2), members=2, recipe=Recipe(epochs=1), executor=pool))
    except Exception as error:
        print(type(error).__name__, error)
"""


def run_as_notebook(code, folder):
    """What Python code prints as the program of a process of its own, which has no file, as that of a kernel."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", SCRIPT + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=folder).stdout


@pytest.mark.parametrize(
    ("context", "says"),
    [
        ("spawn", rf"TypeError a process of the pool cannot unpack its job \(.*Own.*\): .*{LIVES}"),
        ("fork", r"Zoo\(2 Own networks"),  # a copy of this process has the class; and it does not hang
    ],
)
def test_a_class_of_the_notebook_and_a_pool_of_processes(tmp_path, context, says):
    assert re.search(says, run_as_notebook(f"run({context!r})", tmp_path))


def test_a_pool_that_dies_is_named(tmp_path):
    up = flag(tmp_path)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(BrokenProcessPool, match="a process of the pool ended before its job did"):
            list(run_jobs(die_once, [(up, 1)], pool))
        with pytest.raises(BrokenProcessPool, match="a pool that has lost a process is to be made anew"):
            list(run_jobs(divide, [(1, 1)], pool))


def test_a_forked_process_works_on_one_thread():
    """PyTorch's threads are not forked with their process, and a job that waits for them never ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.randn(400, 400) @ torch.randn(400, 400)
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
            assert dict(run_jobs(threads_here, [()], pool)) == {0: 1}
        with ThreadPoolExecutor(1) as pool:
            assert dict(run_jobs(threads_here, [()], pool)) == {0: 2}  # control
    finally:
        torch.set_num_threads(before)


def threads_here():
    return torch.get_num_threads()


def test_a_cluster_carries_a_class_of_a_function(cluster):
    class Local(nn.Linear):
        pass

    assert len(train_zoo(TASK, Local(4, 3), executor=cluster, **FAST)) == 6
