"""What the runner does inside a kernel so that one cell cannot fill memory and disk with its outputs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

CUT_MIME = "application/vnd.dwflow.cut+json"
TEXT_KEPT = 1_000_000  # letters that a cell may print
DATA_KEPT = 20_000_000  # letters that it may display
SHOWN_KEPT = 1_000  # times that it may display something


def _let_go_of_terminal(stream: Any) -> None:
    """Keep what child processes print out of the runner's own output: ipykernel would write it there too.

    Its thread ends if that output is closed or full, and the child process waits for ever.
    """
    copy = getattr(stream, "_original_stdstream_copy", None)
    if copy is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, copy)
        os.close(nowhere)


class Bounds:
    """Counts what a cell prints and displays, lets through what is kept, and says afterwards what was not.

    Whatever clears the output of a cell (an animation) begins to count anew.
    """

    def __init__(self, shell: Any) -> None:
        self._streams = {"stdout": sys.stdout, "stderr": sys.stderr}
        self._begin()
        for stream in self._streams.values():
            _let_go_of_terminal(stream)
        publisher = shell.display_pub
        self._publish = publisher.publish
        self._clear = publisher.clear_output
        self._write_result = shell.displayhook.write_format_data
        publisher.publish = self._bounded_publish
        publisher.clear_output = self._clear_output
        shell.displayhook.write_format_data = self._bounded_result
        shell.events.register("pre_run_cell", lambda *info: self._cell_begins())
        shell.events.register("post_run_cell", lambda *result: self._say())

    def _cell_begins(self) -> None:
        """Count anew. IPython has put its own `write` before the stream's for this cell, and keeps what it sees."""
        self._begin()
        for stream in self._streams.values():
            if not hasattr(stream.write, "bounds"):
                stream.write = self._bounded_write(stream.write)

    def _begin(self) -> None:
        self._printed = 0
        self._displayed = 0
        self._shown = 0
        self._not_shown = 0

    def _bounded_write(self, write: Callable[[str], Any]) -> Callable[[str], int]:
        def bounded(text: str) -> int:
            if not isinstance(text, str):
                return write(text)  # which complains
            left = max(0, TEXT_KEPT - self._printed)
            self._printed += len(text)
            if left:
                write(text[:left])
            return len(text)

        bounded.bounds = self
        return bounded

    def _fits(self, data: Any) -> bool:
        """Count an output; whether it is kept."""
        texts = data.values() if isinstance(data, Mapping) else ()
        size = sum(len(content) for content in texts if isinstance(content, str | bytes))
        if self._shown >= SHOWN_KEPT or self._displayed + size > DATA_KEPT:
            self._not_shown += 1
            return False
        self._shown += 1
        self._displayed += size
        return True

    def _bounded_publish(self, data: Any, metadata: Any = None, *, update: bool = False, **options: Any) -> None:
        if update or self._fits(data):  # an update replaces what was counted
            self._publish(data, metadata, update=update, **options)

    def _bounded_result(self, format_dict: Any, md_dict: Any = None) -> None:
        if not self._fits(format_dict):
            format_dict = {"text/plain": "[cut: see below]"}
            md_dict = {}
        self._write_result(format_dict, md_dict)

    def _clear_output(self, *args: Any, **kwargs: Any) -> None:
        self._begin()
        self._clear(*args, **kwargs)

    def _say(self) -> None:
        """Display what was not kept of the cell that has ended; give back a stream that it took away."""
        for name, stream in self._streams.items():
            if not hasattr(getattr(sys, name, None), "flush"):  # ipykernel would not answer
                setattr(sys, name, stream)
        parts = []
        if self._printed > TEXT_KEPT:
            parts.append(f"printed {self._printed:,} letters, of which a run keeps {TEXT_KEPT:,}")
        if self._not_shown:
            most = f"{SHOWN_KEPT:,} displays and {DATA_KEPT:,} letters"
            parts.append(f"displayed {self._not_shown:,} times more than a run keeps ({most} of a cell)")
        if parts:
            sentence = ", and ".join(parts)
            self._publish({CUT_MIME: sentence, "text/plain": f"[cut: this cell {sentence}]"}, {})
