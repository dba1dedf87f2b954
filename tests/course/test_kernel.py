"""Answers of the kernel that get lost, and what must not be taken for it."""

import select
import subprocess
import sys
import threading
import time

import psutil
import pytest
from jupyter_client.channels import AsyncZMQSocketChannel
from nbclient.output_widget import OutputWidget

from dwflow_lite.course import conversation as conversation_module
from dwflow_lite.course.conversation import ANSWER_LOST, REQUEST_LOST, Conversation
from dwflow_lite.course.kernel import CourseChannel
from dwflow_lite.course.watch import Watch

from .conftest import RECORD, Ran, write_notebook

OUTPUT_WIDGET = """
import time
import ipywidgets as w
out = w.Output()
with out:
    print(n)
time.sleep(1)
"""


def message(kind, parent=None, state=None, own=None):
    return {
        "header": {"msg_type": kind, "msg_id": own},
        "parent_header": {"msg_id": parent} if parent else {},
        "content": {"execution_state": state},
    }


def status(state, parent):
    return message("status", parent, state)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(conversation_module, "time", clock)
    return clock


def listen(conversation, clock, seconds):
    """What `lost` says, asked every second."""
    losses = []
    for _ in range(seconds):
        clock.now += 1
        losses.append(conversation.lost())
    return losses[-1]


# -- what the conversation takes for a loss ------------------------------------------------------------------


def test_idle_without_a_reply_is_a_lost_answer(clock):
    conversation = Conversation()
    conversation.sent(message("execute_request", own="a"))
    conversation.taken(status("busy", "a"))
    assert listen(conversation, clock, 600) == "", "a cell may run as long as it likes"
    conversation.taken(status("idle", "a"))
    assert listen(conversation, clock, 4) == ""
    assert listen(conversation, clock, 1) == ANSWER_LOST
    conversation.taken(message("execute_reply", "a"))
    assert listen(conversation, clock, 60) == "", "the answer has come"


def test_the_reply_may_come_before_idle(clock):
    conversation = Conversation()
    conversation.sent(message("execute_request", own="a"))
    conversation.taken(status("busy", "a"))
    conversation.taken(message("execute_reply", "a"))
    conversation.taken(status("idle", "a"))
    assert listen(conversation, clock, 60) == ""


def test_time_alone_is_no_loss(clock):
    """The machine slept: seconds have passed, but the loop has not turned."""
    conversation = Conversation()
    conversation.sent(message("execute_request", own="a"))
    conversation.taken(status("idle", "a"))
    clock.now += 3600
    assert conversation.lost() == conversation.lost() == ""
    assert conversation.lost() == ANSWER_LOST


def test_widgets_have_pairs_of_their_own(clock):
    conversation = Conversation()
    conversation.sent(message("execute_request", own="a"))
    conversation.taken(status("busy", "a"))
    conversation.sent(message("comm_msg", own="widget"))
    conversation.taken(status("busy", "widget"))
    conversation.taken(status("idle", "widget"))
    assert listen(conversation, clock, 60) == "", "the cell is still busy"
    conversation.taken(status("idle", "a"))
    assert listen(conversation, clock, 60) == ANSWER_LOST


def test_a_request_that_an_idle_kernel_does_not_take_up(clock):
    conversation = Conversation()
    conversation.taken(status("idle", "before"))
    conversation.sent(message("execute_request", own="a"))
    assert listen(conversation, clock, 14) == ""
    conversation.taken(message("stream", "before"))
    assert listen(conversation, clock, 14) == "", "outputs of an earlier cell are still coming in"
    assert listen(conversation, clock, 1) == REQUEST_LOST


def test_a_request_after_a_reply_whose_idle_was_not_heard(clock):
    """A client begins to listen while the kernel answers its first question: no status of it arrives."""
    conversation = Conversation()
    conversation.sent(message("kernel_info_request", own="first"))
    conversation.taken(message("kernel_info_reply", "first"))
    conversation.sent(message("execute_request", own="a"))
    assert listen(conversation, clock, 14) == ""
    assert listen(conversation, clock, 1) == REQUEST_LOST


@pytest.mark.parametrize("last", [None, status("starting", "x"), status("busy", "widget")])
def test_a_kernel_that_starts_or_works_is_waited_for(clock, last):
    conversation = Conversation()
    if last:
        conversation.taken(last)
    conversation.sent(message("execute_request", own="a"))
    assert listen(conversation, clock, 600) == ""


def test_nothing_is_lost_between_cells(clock):
    conversation = Conversation()
    assert listen(conversation, clock, 600) == ""


# -- the runner, with a client that drops messages -----------------------------------------------------------


@pytest.fixture
def hurried(monkeypatch):
    """Less patience: what a clock was tried on above takes less of everybody's time below."""
    monkeypatch.setattr(conversation_module, "PATIENCE", conversation_module.PATIENCE / 4)
    monkeypatch.setattr(conversation_module, "PATIENCE_UNHEARD", conversation_module.PATIENCE_UNHEARD / 3)


def drop(monkeypatch, kind, times, after=None):
    """Make every client lose `times` messages of a kind, from the first message `after` on."""
    original = AsyncZMQSocketChannel.get_msg
    dropped = []
    begun = [after is None]

    async def get_msg(self, timeout=None):
        while True:
            message = await original(self, timeout)
            begun[0] = begun[0] or message["msg_type"] == after
            if not begun[0] or message["msg_type"] != kind or len(dropped) >= times:
                return message
            dropped.append(message)

    monkeypatch.setattr(AsyncZMQSocketChannel, "get_msg", get_msg)
    return dropped


def test_one_lost_answer_is_mended_by_a_second_run(tmp_path, monkeypatch, hurried):
    dropped = drop(monkeypatch, "execute_reply", times=1)
    write_notebook(tmp_path / "nb", "01_one", "md:## Where it hangs", RECORD)
    ran = Ran(tmp_path / "nb", tmp_path / "out", cell_timeout=200, notebook_timeout=200)
    assert len(dropped) == 1
    assert ran.status() == {"01_one": "passed"} and ran.code == 0
    entry = ran.entries["01_one"]
    assert entry["attempts"] == 2 and entry["repeated"] == f"cell 2/4  Title of 01_one: {ANSWER_LOST}"
    assert f"{ANSWER_LOST}; once more in a fresh kernel" in ran.text
    assert f"Run twice: cell 2/4  Title of 01_one: {ANSWER_LOST}." in (ran.out / "report.md").read_text()
    assert len([cell for cell in ran.executed("01_one").cells if cell.cell_type == "code"]) == 2, "one copy of each"


def test_answers_that_are_always_lost_fail_with_the_true_reason(tmp_path, monkeypatch, hurried):
    drop(monkeypatch, "execute_reply", times=99)
    before = set(psutil.Process().children(recursive=True))
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    start = time.monotonic()
    ran = Ran(tmp_path / "nb", tmp_path / "out", cell_timeout=200, notebook_timeout=200)
    assert time.monotonic() - start < 100, "in seconds, not when the time of the cell is over"
    error = ran.error("01_one")
    assert error["ename"] == "AnswerLost" and ANSWER_LOST in error["evalue"] and error["cell"] == 2
    assert ran.entries["01_one"]["attempts"] == 2 and (ran.out / "failed/01_one.ipynb").exists()
    left = set(psutil.Process().children(recursive=True)) - before
    assert [p for p in left if p.status() != psutil.STATUS_ZOMBIE] == []


def test_control_without_the_watch_the_time_of_the_cell_runs_out(tmp_path, monkeypatch):
    drop(monkeypatch, "execute_reply", times=1)
    monkeypatch.setattr(Watch, "listen", lambda self: None)
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    ran = Ran(tmp_path / "nb", tmp_path / "out", cell_timeout=6)
    assert ran.error("01_one")["ename"] == "CellTimeout" and ran.entries["01_one"]["attempts"] == 1


def test_a_cell_that_only_waits_is_not_disturbed(tmp_path, monkeypatch):
    monkeypatch.setattr(conversation_module, "PATIENCE", 1.0)
    monkeypatch.setattr(conversation_module, "PATIENCE_UNHEARD", 1.0)
    sleep = "import asyncio, time\ntime.sleep(2.5)\nawait asyncio.sleep(2.5)"
    write_notebook(tmp_path / "nb", "01_one", sleep, RECORD)
    ran = Ran(tmp_path / "nb", tmp_path / "out")
    assert ran.status() == {"01_one": "passed"}
    assert ran.entries["01_one"]["attempts"] == 1 and ran.entries["01_one"]["repeated"] is None
    assert "once more" not in ran.text and "Run twice" not in (ran.out / "report.md").read_text()


def test_a_lost_request_is_noticed_too(tmp_path, monkeypatch, hurried):
    original = AsyncZMQSocketChannel.send
    dropped = []

    def send(self, msg):
        if msg["header"]["msg_type"] == "execute_request" and not dropped:
            dropped.append(msg)
        else:
            original(self, msg)

    monkeypatch.setattr(AsyncZMQSocketChannel, "send", send)
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    ran = Ran(tmp_path / "nb", tmp_path / "out")
    assert ran.status() == {"01_one": "passed"} and REQUEST_LOST in ran.entries["01_one"]["repeated"]


def test_the_last_answer_of_a_notebook_is_watched_too(tmp_path, monkeypatch, hurried):
    """papermill asks once more after the last cell (papermill 711)."""
    dropped = drop(monkeypatch, "kernel_info_reply", times=1, after="execute_reply")
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    ran = Ran(tmp_path / "nb", tmp_path / "out")
    assert len(dropped) == 1 and ran.status() == {"01_one": "passed"} and ran.entries["01_one"]["attempts"] == 2


# -- the cause -----------------------------------------------------------------------------------------------


def reply_arrives_while_a_widget_sends(monkeypatch):
    original = OutputWidget.send

    def late(self, *args, **kwargs):
        signal = self.kernel_client.shell_channel.socket.FD
        select.select([signal], [], [], 20)  # the loop stands until the reply of the cell has come in
        return original(self, *args, **kwargs)

    monkeypatch.setattr(OutputWidget, "send", late)


def test_a_reply_that_arrives_while_a_widget_sends_is_taken(tmp_path, monkeypatch):
    reply_arrives_while_a_widget_sends(monkeypatch)
    write_notebook(tmp_path / "nb", "01_one", OUTPUT_WIDGET, RECORD)
    ran = Ran(tmp_path / "nb", tmp_path / "out")
    assert ran.status() == {"01_one": "passed"} and ran.entries["01_one"]["attempts"] == 1


def test_control_without_a_look_after_sending_it_is_lost(tmp_path, monkeypatch, hurried):
    def send(self, msg):
        AsyncZMQSocketChannel.send(self, msg)
        self.conversation.sent(msg)

    monkeypatch.setattr(CourseChannel, "send", send)
    reply_arrives_while_a_widget_sends(monkeypatch)
    write_notebook(tmp_path / "nb", "01_one", OUTPUT_WIDGET, RECORD)
    ran = Ran(tmp_path / "nb", tmp_path / "out")
    assert ran.error("01_one")["ename"] == "AnswerLost", "if this passes, jupyter_client is mended: drop our send"


# -- the watch -----------------------------------------------------------------------------------------------


def test_a_stream_that_raises_does_not_end_the_watch():
    def broken(label, elapsed):
        raise BrokenPipeError("nobody reads")

    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    watch = Watch(1.5, broken)
    watch.kernel_started(process.pid)
    watch.start()
    assert process.wait(timeout=30) != 0, "the deadline was kept"
    watch.finish()
    assert watch.reason == "timeout" and watch.peak_mb > 1


def test_a_progress_stream_that_raises_in_the_watch(tmp_path):
    class Terminal:
        def isatty(self):
            return True

        def write(self, text):
            if threading.current_thread() is not threading.main_thread():
                raise BrokenPipeError("nobody reads")

        def flush(self):
            pass

    write_notebook(tmp_path / "nb", "01_slow", RECORD, "import time\ntime.sleep(60)")
    ran = Ran(tmp_path / "nb", tmp_path / "out", stream=Terminal(), notebook_timeout=6)
    assert ran.error("01_slow")["ename"] == "NotebookTimeout" and ran.entries["01_slow"]["peak_mb"] > 20
