"""Independent jobs, in this process or in any executor: a pool of processes, a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import closing
from typing import TypeVar

from dwflow_lite.support.progress import bar as progress_bar

Result = TypeVar("Result")


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
        TypeError: ``executor`` is not one.
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
    positions = {executor.submit(function, *job): position for position, job in enumerate(jobs)}
    try:
        for future in as_completed(list(positions)):
            yield positions.pop(future), future.result()
    finally:  # of an error or an interruption: what is left has not begun, or is not wanted
        for future in positions:
            future.cancel()


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
