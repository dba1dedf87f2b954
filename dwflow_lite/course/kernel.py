"""The kernel that papermill runs a notebook in, and the client through which the two speak."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import zmq
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets import Type

from dwflow_lite.course.conversation import Conversation
from dwflow_lite.course.watch import Watch


class CourseChannel(AsyncZMQSocketChannel):
    """A channel to the kernel that tells the conversation what it sends and takes, and that misses no message."""

    conversation: Conversation  # of its client, which sets it

    async def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        """The next message of the kernel; raises queue.Empty after `timeout` seconds."""
        message = await super().get_msg(timeout)
        self.conversation.taken(message)
        return message

    def send(self, msg: dict[str, Any]) -> None:
        """Send a message, and see whether another has arrived meanwhile.

        jupyter_client sends past asyncio (Session.send uses the bare socket). Such a send takes ZeroMQ's one
        signal that a message has arrived, so that whoever waits for the message is never woken: nbclient sends
        the state of Output widgets while it waits for the reply of their cell. Reading EVENTS wakes the waiting.
        """
        super().send(msg)
        self.conversation.sent(msg)
        if _loop_is_running():  # nobody waits outside of a loop
            self.socket.get(zmq.EVENTS)


class CourseClient(AsyncKernelClient):
    """The client that papermill speaks through; the watch listens."""

    shell_channel_class = Type(CourseChannel)
    iopub_channel_class = Type(CourseChannel)
    watch: Watch

    def start_channels(self, *args: bool, **kwargs: bool) -> None:
        """Open the channels."""
        self.context.rcvhwm = 0  # no message is dropped, however fast the kernel sends
        super().start_channels(*args, **kwargs)
        self.shell_channel.conversation = self.watch.conversation
        self.iopub_channel.conversation = self.watch.conversation

    async def is_alive(self) -> bool:
        """Whether the kernel's process runs; nbclient asks every second while it waits for a cell."""
        self.watch.listen()
        return await super().is_alive()


class CourseKernel(AsyncKernelManager):
    """Always starts this very interpreter, whatever kernelspecs are installed."""

    client_factory = Type(CourseClient)
    environment: Mapping[str, str]
    watch: Watch

    @property
    def kernel_spec(self) -> KernelSpec:
        """How to start the kernel."""
        return KernelSpec(**get_kernel_dict())

    async def start_kernel(self, **kwargs: Any) -> None:
        """Start the process, and tell the watch."""
        await super().start_kernel(env={**os.environ, **self.environment}, **kwargs)
        self.watch.kernel_started(self.provisioner.pid)

    def client(self, **kwargs: Any) -> CourseClient:
        """A client of this kernel."""
        client = super().client(**kwargs)
        client.watch = self.watch
        return client


def kernel_class(variables: Mapping[str, str], its_watch: Watch) -> type[CourseKernel]:
    """The kernel manager for one run: papermill takes a class, and makes the manager itself.

    Args:
        variables: environment variables of the kernel, over those of this process.
        its_watch: is told when the kernel starts, and listens to what is said.
    """

    class KernelOfOneRun(CourseKernel):
        environment = variables
        watch = its_watch

    return KernelOfOneRun


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
