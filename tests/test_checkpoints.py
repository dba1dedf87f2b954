"""Checkpoints: whole or not at all, verified, and of one training only."""

from __future__ import annotations

import hashlib

import pytest
import torch

from dwflow_lite.support import checkpoints
from dwflow_lite.support.checkpoints import Checkpoint

STATE = {"step": 3, "weights": torch.arange(4.0), "history": [[1.0, 2.0]], "best": None}


def checkpoint(place, identity="this"):
    return Checkpoint(place, name=f"flow-{identity}.pt", identity=identity)


def rewrite(path, change):
    """Change the content of a checkpoint and vouch for it with a new hash, as its writer would have."""
    content = torch.load(path)
    change(content)
    torch.save(content, path)
    raw = path.read_bytes()
    path.write_bytes(raw + hashlib.sha256(raw).digest())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_state_comes_back_as_it_was_saved(tmp_path):
    store = checkpoint(tmp_path)
    assert store.load() is None and not store.finished
    store.save(STATE)
    assert names(tmp_path) == ["flow-this.pt.partial"]
    state = checkpoint(tmp_path).load()
    assert torch.equal(state.pop("weights"), STATE["weights"])
    assert state == {key: value for key, value in STATE.items() if key != "weights"}
    assert checkpoint(tmp_path, "another").load() is None  # control: each training has a file of its own


def test_what_is_finished_takes_the_place_of_what_is_half_done(tmp_path):
    store = checkpoint(tmp_path / "new" / "flow.pt")
    store.save({"step": 1})
    store.finish({"step": 2})
    assert names(tmp_path / "new") == ["flow.pt"] and store.finished
    assert checkpoint(tmp_path / "new" / "flow.pt").load() == {"step": 2}


def test_a_result_may_have_a_format_of_its_own(tmp_path):
    store = checkpoint(tmp_path)
    store.save({"step": 1})
    store.finish_with(lambda file: file.write_text("done"))
    assert names(tmp_path) == ["flow-this.pt"] and store.finished and store.file.read_text() == "done"


def test_a_result_that_cannot_be_written_leaves_the_half_done_state(tmp_path):
    def full(file):
        raise OSError("disk full")

    store = checkpoint(tmp_path)
    store.save({"step": 1})
    with pytest.raises(OSError, match="disk full"):
        store.finish_with(full)
    assert not store.finished and store.load() == {"step": 1}


def test_no_place_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", -1.0)
    store = checkpoint(None)
    store.check_writable()
    store.save(STATE)
    store.finish(STATE)
    assert not store.due() and store.load() is None and not store.finished and store.file is None
    assert checkpoint(tmp_path).due()  # control


def test_a_save_is_due_when_the_last_is_old(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    store = checkpoint(tmp_path)
    dues = []
    for second in range(1, 24):
        now[0] = 100.0 + second
        if store.due():
            store.save(STATE)
            dues.append(second)
    assert dues == [11, 22]


@pytest.mark.parametrize("half_done", [True, False])
def test_damage_and_foreign_trainings_are_refused(tmp_path, half_done):
    store = checkpoint(tmp_path / "flow.pt")
    store.save(STATE) if half_done else store.finish(STATE)
    path = store.partial if half_done else store.file
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.find(STATE["weights"].numpy().tobytes()) + 2] ^= 1
    for damaged in (flipped, whole[:-40], whole[: len(whole) // 2], b"", b"nothing"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{path} is truncated or was altered; delete it to train afresh"):
            store.load()
        with pytest.raises(ValueError, match=r"\(if it is no checkpoint: name another file\)$"):
            store.load()
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=rf"{path} belongs to another training; name another checkpoint or delete it"):
        checkpoint(tmp_path / "flow.pt", "another").load()
    assert store.load()["step"] == 3  # control: the whole one serves


def test_a_state_that_another_process_replaces_as_it_is_read_is_read(tmp_path, monkeypatch):
    store = checkpoint(tmp_path / "flow.pt")
    store.save(STATE)
    real = checkpoints._check_hash

    def replaced(file, path):
        checkpoint(tmp_path / "flow.pt").save(STATE | {"more": torch.ones(100)})  # open is what was there before
        real(file, path)

    monkeypatch.setattr(checkpoints, "_check_hash", replaced)
    assert "more" not in store.load() and "more" in checkpoint(tmp_path / "flow.pt").load()
    store.partial.write_bytes(store.partial.read_bytes()[:-1])  # control: a damaged one is still seen
    monkeypatch.setattr(checkpoints, "_check_hash", real)
    with pytest.raises(ValueError, match="is truncated or was altered"):
        store.load()


def test_other_formats_are_refused_with_the_version_that_wrote_them(tmp_path):
    store = checkpoint(tmp_path)
    store.save(STATE)
    rewrite(store.partial, lambda content: None)
    assert store.load()["step"] == 3  # control
    rewrite(store.partial, lambda content: content.update(format="dwflow_lite.checkpoint/9", version="3.1"))
    with pytest.raises(ValueError, match=r"written by version 3\.1 in format 'dwflow_lite\.checkpoint/9', and version"):
        store.load()
    rewrite(store.partial, lambda content: [content.pop(key) for key in ("format", "version")])
    with pytest.raises(ValueError, match=r"written by version 0\.1\.0 or before .* goes on from 'dwflow_lite\.ch.*/1'"):
        store.load()


def test_a_failed_save_leaves_the_last_one(tmp_path, monkeypatch):
    def half(content, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    store = checkpoint(tmp_path)
    store.save({"step": 1})
    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        store.save({"step": 2})
    assert store.load() == {"step": 1} and names(tmp_path) == ["flow-this.pt.partial"]


def test_a_suffix_means_a_file_and_none_a_folder(tmp_path):
    assert checkpoint(tmp_path / "a.pt").file == tmp_path / "a.pt"
    assert checkpoint(str(tmp_path / "a")).file == tmp_path / "a" / "flow-this.pt"
    (tmp_path / "flows.v1").mkdir()
    assert checkpoint(tmp_path / "flows.v1").file == tmp_path / "flows.v1" / "flow-this.pt"
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file, but a name without suffix means a folder; name another"):
        checkpoint(tmp_path / "file")
    with pytest.raises(OSError, match="cannot write"):
        checkpoint(tmp_path / "file" / "a.pt").check_writable()
    checkpoint(tmp_path / "b").check_writable()
    assert (tmp_path / "b").is_dir()
