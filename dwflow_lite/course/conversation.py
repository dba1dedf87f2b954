"""What papermill and a kernel say to each other, watched for an answer that never arrives.

For every cell papermill sends a request and waits for the kernel's reply. The kernel says "busy" when it takes the
request up, "idle" when it is done with it, and replies. If a request or a reply gets lost, papermill would wait
until the time of the cell is over, though the kernel is idle.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

PATIENCE = 5.0  # seconds between the kernel's "idle" and the reply, which normally is there already
PATIENCE_UNHEARD = 15.0  # seconds of silence after a request that an idle kernel does not take up
ANSWER_LOST = "the kernel is idle and done with it, but its answer did not arrive"
REQUEST_LOST = "the kernel is idle and has not taken it up: the request did not arrive"


class Conversation:
    """Requests and answers in the order in which papermill's client sends and takes them.

    Everything happens in papermill's event loop, so that `lost` never judges while papermill is still busy with
    outputs: "idle" is taken after all outputs of its cell, and the loop turns between two calls of `lost`.
    """

    def __init__(self) -> None:
        self.request: str | None = None  # id of the request whose reply is awaited
        self.state = "unheard"  # of that request: unheard, busy, idle
        self.kernel_is_idle = False  # what the kernel last said of itself, whatever it was doing
        self._begin_waiting()

    def _begin_waiting(self) -> None:
        self._since = time.monotonic()
        self._turns = 0

    def sent(self, message: Mapping[str, Any]) -> None:
        """The client has sent a message to the kernel; those of widgets expect no reply."""
        header = message["header"]
        if header["msg_type"].endswith("_request"):
            self.request = header["msg_id"]
            self.state = "unheard"
            self._begin_waiting()

    def taken(self, message: Mapping[str, Any]) -> None:
        """The client has taken a message of the kernel: a reply, a status, an output."""
        kind = message["header"]["msg_type"]
        own = message["parent_header"].get("msg_id") == self.request
        if kind == "status":
            state = message["content"]["execution_state"]
            self.kernel_is_idle = state == "idle"
            if own:
                self.state = state
                self._begin_waiting()
        if own and kind.endswith("_reply"):
            self.request = None
            self.kernel_is_idle = True  # its "idle" is said to whoever listens by then: a client that starts may not
        if self.state == "unheard":  # the outputs of an earlier cell may still be coming in
            self._begin_waiting()

    def lost(self) -> str:
        """What got lost, in words; empty if nothing did. To be asked about once a second by the event loop.

        A third call means that the loop has turned since the second, so that whatever had arrived was taken.
        Time alone would blame a machine that slept, or a loop that was busy.
        """
        self._turns += 1
        if self.request is None or self._turns < 3:
            return ""
        waited = time.monotonic() - self._since
        if self.state == "idle" and waited >= PATIENCE:
            return ANSWER_LOST
        if self.state == "unheard" and self.kernel_is_idle and waited >= PATIENCE_UNHEARD:
            return REQUEST_LOST
        return ""
