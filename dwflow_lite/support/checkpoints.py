"""Where training is kept, half-done or finished: written whole or not at all, and verified when it is read."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from dwflow_lite.support.checks import check_file_name, failing_as
from dwflow_lite.support.paths import as_path, check_writable, exists, sweep, written_whole
from dwflow_lite.support.versions import __version__

FORMAT = "dwflow_lite.checkpoint/1"
SAVE_EVERY_SECONDS = 10.0
LONGEST_FILE_NAME = 240  # bytes; most systems take 255, and .partial is added
DIGEST_BYTES = 32  # a file ends in the SHA-256 of all that stands before
READ_AT_ONCE = 1 << 20  # bytes


class Checkpoint:
    """Where one training is kept, half-done or finished.

    Called again with the same arguments, a training goes on from what is kept here, or gives back what is finished;
    a training with other arguments is refused.

    Args:
        place: a file (a name with a suffix), or a folder (a name without one, or any folder that is there) in which
            the file is called ``name``. None: nothing is kept, and no method does anything.
        name: of the file in a folder. It should tell what is trained, so that each training has a file of its own.
        identity: what tells this training from all others: a hash of everything that decides its result.

    Attributes:
        file: where the finished result is kept, or None.
        partial: where the half-done state is kept: beside it, ``.partial`` added to its name; or None.

    Raises:
        ValueError: ``place`` has no suffix and is a file, or is no path; or ``name`` cannot be that of a file.

    Example:
        A training that may be stopped anywhere, and called again:

        >>> import tempfile
        >>> def count_to(last, place):
        ...     checkpoint = Checkpoint(place, name=f"count-{last}.pt", identity=f"count to {last}")
        ...     checkpoint.check_writable()
        ...     state = checkpoint.load() or {"step": 0}
        ...     while state["step"] < last:
        ...         state["step"] += 1
        ...         if checkpoint.due():  # every ten seconds
        ...             checkpoint.save(state)
        ...     checkpoint.finish(state)
        ...     return state
        >>> folder = tempfile.TemporaryDirectory()
        >>> count_to(3, folder.name)
        {'step': 3}
        >>> count_to(3, folder.name)  # read, not counted again
        {'step': 3}
    """

    def __init__(self, place: str | Path | None, *, name: str, identity: str) -> None:
        self.identity = identity
        self.file = None if place is None else _file_in(as_path(place), name)
        self.partial = None if self.file is None else self.file.with_name(self.file.name + ".partial")
        self._last_save = time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether the finished result is there."""
        return self.file is not None and self.file.is_file()

    def check_writable(self) -> None:
        """Make the folder, or raise an ``OSError`` that names the file: to be found out before anything is trained."""
        if self.file is not None:
            check_writable(self.file)
            sweep(self.file.parent, self.file.name, self.partial.name)

    def load(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """The state that :meth:`finish` kept, else the one that :meth:`save` kept last, else None.

        Args:
            device: where its tensors come to lie.

        Raises:
            ValueError: the file is damaged, of another version's format, or of another training.
        """
        self._last_save = time.monotonic()
        return self.finished_state(device) or self.half_done_state(device)

    def finished_state(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """The state that :meth:`finish` kept, or None; errors as of :meth:`load`."""
        return None if self.file is None else _read_state(self.file, self.identity, device, finished=True)

    def half_done_state(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """The state that :meth:`save` kept last, or None; errors as of :meth:`load`."""
        return None if self.partial is None else _read_state(self.partial, self.identity, device, finished=False)

    def due(self) -> bool:
        """Whether ``SAVE_EVERY_SECONDS`` have passed since the last save (or load); never where nothing is kept."""
        return self.file is not None and time.monotonic() - self._last_save > SAVE_EVERY_SECONDS

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a half-done state: tensors and plain Python values, in nested dictionaries and lists.

        Raises:
            OSError: it cannot be written; what was saved before is still there.
        """
        if self.partial is not None:
            _write_state(self.partial, self.identity, state, finished=False)
            self._last_save = time.monotonic()

    def finish(self, state: Mapping[str, Any]) -> None:
        """Keep the final state, and delete the half-done one.

        Raises:
            OSError: it cannot be written; the half-done state is still there.
        """
        self.finish_with(lambda file: _write_state(file, self.identity, state, finished=True))

    def finish_with(self, write: Callable[[Path], object]) -> None:
        """Let ``write(file)`` keep the result in a format of its own (as ``zoo.save``); delete the half-done state.

        Such a file is not for :meth:`load`: the caller reads it where :attr:`finished` says that it is there.
        """
        if self.file is not None:
            write(self.file)
            self.partial.unlink(missing_ok=True)


def _file_in(place: Path, name: str) -> Path:
    """The file that ``place`` means: itself, or ``name`` in it."""
    check_file_name(name, "the name of a checkpoint", longest=LONGEST_FILE_NAME)
    with failing_as(f"cannot write {place}", OSError):
        exists(place)  # it may be too long
    if place.suffix == "" and place.is_file():
        raise ValueError(f"checkpoint {place} is a file, but a name without suffix means a folder; name another")
    if place.suffix == "" or place.is_dir():
        return place / name
    return place


# -- the file ----------------------------------------------------------------------------------------------------


def _write_state(path: Path, identity: str, state: Mapping[str, Any], *, finished: bool) -> None:
    """Write a state with its format, version and identity, and a hash of all of it; whole or not at all."""
    content = {"format": FORMAT, "version": __version__, "identity": identity, "finished": finished}
    content["state"] = dict(state)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as unnamed:
            try:
                torch.save(content, unnamed)
            except RuntimeError as error:
                _ask_the_system(unnamed)
                raise OSError(str(error)) from error
            with unnamed.open("r+b") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
                file.write(digest)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error}") from error


def _ask_the_system(unnamed: Path) -> None:
    """Raise the ``OSError`` for which a file could not be written: of a full disk PyTorch says something else."""
    with unnamed.open("ab") as file:
        file.write(bytes(READ_AT_ONCE))


def _read_state(path: Path, identity: str, device: torch.device | str, *, finished: bool) -> dict[str, Any] | None:
    """The state in a file, None where there is none, or a ``ValueError`` that says why it is not to be used."""
    if not path.is_file():
        return None
    try:
        file = path.open("rb")
    except FileNotFoundError:  # another process has finished, and deleted what was half-done
        return None
    with file:
        _check_hash(file, path)
        try:
            saved = dict(torch.load(file, map_location=device, weights_only=True))
        except Exception as error:
            raise ValueError(f"{path} holds no state of a training ({error}); delete it to train afresh") from error
    if saved.get("format") != FORMAT:
        writer = saved.get("version", "0.1.0 or before")
        form = f"format {saved['format']!r}" if "format" in saved else "a format without a name"
        raise ValueError(
            f"{path} was written by version {writer} in {form}, and version {__version__} goes "
            f"on from {FORMAT!r} only; finish that training with the version that began it, or delete the file"
        )
    if saved.get("identity") != identity:
        raise ValueError(f"{path} belongs to another training; name another checkpoint or delete it")
    if saved.get("finished", finished) != finished:  # an older version did not say
        what = ("a half-done", "a finished") if finished else ("a finished", "a half-done")
        raise ValueError(f"{path} holds {what[0]} training, and is called as {what[1]} one; give it back its name")
    if not isinstance(saved.get("state"), dict):
        raise ValueError(f"{path} holds no state of a training; delete it to train afresh")
    return saved["state"]


def _check_hash(file: BinaryIO, path: Path) -> None:
    """``ValueError`` unless an open file ends in the hash of all that stands before; leaves it at its beginning."""
    left = os.fstat(file.fileno()).st_size - DIGEST_BYTES  # of this file, not of one that just took its name
    whole = hashlib.sha256()
    while left > 0 and (part := file.read(min(left, READ_AT_ONCE))):
        whole.update(part)
        left -= len(part)
    if left != 0 or file.read() != whole.digest():
        raise ValueError(
            f"{path} is truncated or was altered; delete it to train afresh (if it is no checkpoint: name another file)"
        )
    file.seek(0)
