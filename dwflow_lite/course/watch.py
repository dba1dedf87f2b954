"""The watch beside a running notebook: memory, the deadline, progress, and an answer that got lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal

import psutil

from dwflow_lite.course.conversation import Conversation

Reason = Literal["timeout", "interrupted", "lost"]

# Reads until the other end of its input is closed, as it is when the process that holds it has gone.
GUARD = """
import os, signal, sys
sys.stdin.buffer.read()
end, number = {"group": os.killpg, "process": os.kill}[sys.argv[1]], int(sys.argv[2])
end(number, signal.SIGKILL)
"""


def guard(pid: int) -> subprocess.Popen[bytes] | None:
    """A small process that kills process `pid`, with its group if it leads one, when this process ends in any way.

    Without it a kernel would outlive a runner that was killed. None where there are no groups of processes (Windows).
    """
    if not hasattr(os, "killpg"):
        return None
    try:
        whole = "group" if os.getpgid(pid) == pid else "process"
    except ProcessLookupError:  # it has ended
        return None
    words = [sys.executable, "-I", "-S", "-c", GUARD, whole, str(pid)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)


class Watch(threading.Thread):
    """Beside a running notebook: samples memory, keeps the deadline, tells progress, kills the kernel.

    Args:
        limit: seconds the notebook may run.
        tick: called often with (what is running, seconds since the start).
    """

    def __init__(self, limit: float, tick: Callable[[str, float], None]) -> None:
        super().__init__(daemon=True)
        self.limit = limit
        self.tick = tick
        self.begun = time.monotonic()
        self.labels: Sequence[str] = ()  # what to say of each cell
        self.cell: int | None = None  # index of the one that runs
        self._cell_begun = self.begun
        self.peak_mb = 0.0
        self.reason: Reason | None = None  # why the kernel was killed
        self.conversation = Conversation()
        self.loss = ""  # what the conversation with the kernel lost
        self._kernel: psutil.Process | None = None
        self._processes: set[psutil.Process] = set()
        self._guard: subprocess.Popen[bytes] | None = None  # ends the kernel if this process is killed
        self._over = threading.Event()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.begun

    @property
    def cell_elapsed(self) -> float:
        """Seconds since the start of the cell that runs."""
        return time.monotonic() - self._cell_begun

    def cell_starts(self, index: int) -> None:
        """A cell begins to run."""
        self.cell = index
        self._cell_begun = time.monotonic()

    def label(self) -> str:
        """What to say of the cell that runs."""
        return self.labels[self.cell or 0] if self.labels else ""

    def kernel_started(self, pid: int) -> None:
        """The kernel process exists now."""
        self._kernel = psutil.Process(pid)
        self._processes.add(self._kernel)
        self._guard = guard(pid)
        if self.reason:
            self.kill(self.reason)

    def run(self) -> None:
        """Sample until `finish`."""
        while not self._over.wait(0.2):
            self._sample()
            if self.reason is None and self.elapsed > self.limit:
                self.kill("timeout")
            # a stream that is closed or full must not end the watch, which keeps the deadline
            with suppress(Exception):
                self.tick(self.label(), self.elapsed)

    def _sample(self) -> None:
        """Measure the kernel and its children, and remember them for `kill`."""
        if self._kernel is not None:
            with suppress(psutil.Error):
                self._processes.update(self._kernel.children(recursive=True))
        total = 0
        for process in list(self._processes):
            with suppress(psutil.Error):
                total += process.memory_info().rss
        self.peak_mb = max(self.peak_mb, total / 2**20)

    def listen(self) -> None:
        """Kill the kernel if it is idle behind a running cell; papermill's event loop calls this every second."""
        loss = self.conversation.lost()
        if loss and self.reason is None:
            self.loss = loss
            self.kill("lost")

    def kill(self, reason: Reason | None = None) -> None:
        """End the kernel and every process it started; the first reason is kept for the verdict."""
        self.reason = self.reason or reason
        self._sample()
        for process in list(self._processes):
            with suppress(psutil.Error):
                process.kill()

    def finish(self) -> None:
        """Stop watching; nothing of the kernel outlives this call."""
        self._over.set()
        self.join()
        self.kill()
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
