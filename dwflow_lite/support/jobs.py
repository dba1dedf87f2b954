"""Independent jobs, in this process or in any executor: a pool of processes, a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from typing import TypeVar

from dwflow_lite.support.progress import bar as progress_bar

Result = TypeVar("Result")


def run_jobs(
    function: Callable[..., Result], jobs: Sequence[tuple], executor: Executor | None = None, *,
    progress: bool = False, desc: str | None = None, unit: str = "job",
) -> Iterator[tuple[int, Result]]:  # fmt: skip
    """Call ``function(*job)`` for every job; gives (position of the job, result) as jobs finish.

    Args:
        function: of a module, with arguments and result that can be pickled, where there is an executor.
        jobs: the arguments of each call.
        executor: anything with the interface of ``concurrent.futures``; None: here, in order. (Processes on one
            machine should share its cores: ``ProcessPoolExecutor(2, mp_context=get_context("spawn"),
            initializer=torch.set_num_threads, initargs=(1,))``.)

    An error in a job is raised here, and jobs that have not begun are cancelled.
    """
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(
            f"executor must be a concurrent.futures.Executor, got {type(executor).__name__} (of a dask client: "
            "client.get_executor())"
        )
    with progress_bar(total=len(jobs), desc=desc, unit=unit, progress=progress) as shown:
        if executor is None:
            for position, job in enumerate(jobs):
                yield position, function(*job)
                shown.update()
            return
        futures = {executor.submit(function, *job): position for position, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()  # no result is kept longer than it is wanted
                shown.update()
        finally:
            for future in futures:
                future.cancel()


def runs(positions: Sequence[int], at_most: int) -> list[range]:
    """Ascending positions as runs of neighbours, each of at most so many."""
    found: list[range] = []
    for position in positions:
        if found and found[-1].stop == position and len(found[-1]) < at_most:
            found[-1] = range(found[-1].start, position + 1)
        else:
            found.append(range(position, position + 1))
    return found
