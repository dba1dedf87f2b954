"""Independent jobs, in this process or in any executor: a pool of processes, a cluster."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed
from contextlib import closing
from typing import TypeVar

from dwflow_lite.support.devices import one_thread
from dwflow_lite.support.progress import bar as progress_bar

Result = TypeVar("Result")

IMPORTED_BY = os.getpid()  # a process that was forked after the import has another number


def run_jobs(
    function: Callable[..., Result],
    jobs: Sequence[tuple],
    executor: Executor | None = None,
    *,
    progress: bool = False,
    desc: str | None = None,
    unit: str = "job",
) -> Iterator[tuple[int, Result]]:
    """Call ``function(*job)`` for every job; gives (position of the job, result) as jobs finish.

    Args:
        function: of a module, with arguments and result that can be pickled, where there is an executor.
        jobs: the arguments of each call.
        executor: anything with the interface of ``concurrent.futures``; None: here, in order. (Processes on one
            machine should share its cores: ``ProcessPoolExecutor(2, mp_context=get_context("spawn"),
            initializer=torch.set_num_threads, initargs=(1,))``.)
        progress: show a bar.
        desc: what the bar says is being done.
        unit: what one job is.

    Raises:
        TypeError: ``executor`` is not one; or its processes cannot be sent a job, or do not find its classes (found out
            before any job is begun).
        BrokenExecutor: its processes die.
        Exception: the error of a job; jobs that have not begun are cancelled.

    Example:
        >>> list(run_jobs(pow, [(2, 3), (3, 2)]))
        [(0, 8), (1, 9)]
    """
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(
            f"executor must be a concurrent.futures.Executor, got {type(executor).__name__} (of a dask client: "
            "client.get_executor())"
        )
    results = _in_order(function, jobs) if executor is None else _as_finished(function, jobs, executor)
    with progress_bar(total=len(jobs), desc=desc, unit=unit, progress=progress) as bar, closing(results):
        for finished in results:  # (position, result)
            yield finished
            del finished  # no result is kept longer than the caller wants it
            bar.update()


def _in_order(function: Callable[..., Result], jobs: Sequence[tuple]) -> Iterator[tuple[int, Result]]:
    """One job after the other, in this process."""
    for position, job in enumerate(jobs):
        yield position, function(*job)


def _as_finished(
    function: Callable[..., Result], jobs: Sequence[tuple], executor: Executor
) -> Iterator[tuple[int, Result]]:
    """All jobs given to an executor at once; whoever finishes first comes first."""
    if jobs and isinstance(executor, ProcessPoolExecutor):
        _check_arrives(function, jobs[0], executor)
    positions = {executor.submit(in_worker, function, *job): position for position, job in enumerate(jobs)}
    try:
        for future in as_completed(list(positions)):
            yield positions.pop(future), future.result()
    except BrokenExecutor as error:
        raise type(error)(
            "a process of the pool ended before its job did, killed or for lack of memory: make a new pool (what was "
            "written to a folder is kept)"
        ) from error
    finally:  # of an error or an interruption: what is left has not begun, or is not wanted
        for future in positions:
            future.cancel()


def by_position(parts: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """Results as :func:`run_jobs` gives them, in the order of their jobs, each as soon as all before it are there.

    Example:
        >>> list(by_position([(1, "b"), (0, "a"), (2, "c")]))
        ['a', 'b', 'c']
    """
    early: dict[int, Result] = {}  # what came before its turn
    turn = 0
    for position, part in parts:
        early[position] = part
        while turn in early:
            yield early.pop(turn)
            turn += 1


def in_worker(function: Callable[..., Result], *job: object) -> Result:
    """One job where it runs. A process that was forked has one thread: PyTorch's others were not forked with it."""
    with one_thread(os.getpid() != IMPORTED_BY):
        return function(*job)


# -- what travels to another process -----------------------------------------------------------------------------------

HOME = (
    "its classes and functions must live at the top level of a module (a .py file) that is imported, not in a notebook "
    "or in another function; or use Dask, whose client.get_executor() carries those too"
)


def _check_arrives(function: Callable, job: tuple, executor: ProcessPoolExecutor) -> None:
    """Send one job to a process of a pool, which unpacks it and does nothing else."""
    try:
        packed = pickle.dumps((function, job))
    except Exception as error:  # whatever a reader's own classes raise
        raise TypeError(f"a job cannot be sent to another process ({error}): {HOME}") from error
    try:
        reason = executor.submit(_why_not_unpacked, packed).result()
    except BrokenExecutor as error:
        raise type(error)(
            "the processes of the pool end as they begin: in a script, call it below if __name__ == '__main__', and "
            "keep what it needs in a module (a .py file); a pool that has lost a process is to be made anew"
        ) from error
    if reason:
        raise TypeError(f"a process of the pool cannot unpack its job ({reason}): {HOME}")


def _why_not_unpacked(packed: bytes) -> str:
    """What fails as a job is unpacked; empty if nothing does."""
    try:
        pickle.loads(packed)
    except Exception as error:  # returned as text: it might not travel itself
        return f"{type(error).__name__}: {error}"
    return ""


# -- who does what -----------------------------------------------------------------------------------------------------


def runs(positions: Sequence[int], at_most: int) -> list[range]:
    """Ascending positions as runs of neighbours, each of at most so many.

    Example:
        >>> runs([0, 1, 2, 5, 6], at_most=2)
        [range(0, 2), range(2, 3), range(5, 7)]
    """
    neighbours: list[range] = []
    for position in positions:
        if neighbours and neighbours[-1].stop == position and len(neighbours[-1]) < at_most:
            neighbours[-1] = range(neighbours[-1].start, position + 1)
        else:
            neighbours.append(range(position, position + 1))
    return neighbours
