"""Where training is kept, half-done or finished: written whole or not at all, and verified when it is read."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dwflow_lite.support.checks import check_file_name
from dwflow_lite.support.files import check_writable, written_whole
from dwflow_lite.support.versions import __version__

FORMAT = "dwflow_lite.checkpoint/1"
SAVE_EVERY_SECONDS = 10.0
LONGEST_FILE_NAME = 240  # bytes; most systems take 255, and .partial is added
DIGEST_BYTES = 32  # a file ends in the SHA-256 of all that stands before


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
        ValueError: ``place`` has no suffix and is a file; or ``name`` cannot be that of a file, or is a path.

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
        self.file = None if place is None else _file_in(Path(place), name)
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

    def load(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """The state that :meth:`finish` kept, else the one that :meth:`save` kept last, else None.

        Args:
            device: where its tensors come to lie.

        Raises:
            ValueError: the file is damaged, of another version's format, or of another training.
        """
        self._last_save = time.monotonic()
        for path in (self.file, self.partial):
            if path is not None and path.is_file():
                return _read_state(path, self.identity, device)
        return None

    def due(self) -> bool:
        """Whether ``SAVE_EVERY_SECONDS`` have passed since the last save (or load); never where nothing is kept."""
        return self.file is not None and time.monotonic() - self._last_save > SAVE_EVERY_SECONDS

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a half-done state: tensors and plain Python values, in nested dictionaries and lists.

        Raises:
            OSError: it cannot be written; what was saved before is still there.
        """
        if self.partial is not None:
            _write_state(self.partial, self.identity, state)
            self._last_save = time.monotonic()

    def finish(self, state: Mapping[str, Any]) -> None:
        """Keep the final state, and delete the half-done one.

        Raises:
            OSError: it cannot be written; the half-done state is still there.
        """
        self.finish_with(lambda file: _write_state(file, self.identity, state))

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
    if place.suffix == "" and place.is_file():
        raise ValueError(f"checkpoint {place} is a file, but a name without suffix means a folder; name another")
    if place.suffix == "" or place.is_dir():
        return place / name
    return place


def _write_state(path: Path, identity: str, state: Mapping[str, Any]) -> None:
    """Write a state with its format, version and identity, and a hash of all of it; whole or not at all."""
    content = {"format": FORMAT, "version": __version__, "identity": identity, "state": dict(state)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as unnamed:
        torch.save(content, unnamed)
        with unnamed.open("r+b") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.write(digest)


def _read_state(path: Path, identity: str, device: torch.device | str) -> dict[str, Any]:
    """The state in a file, or a ``ValueError`` that says why it is not to be used."""
    whole = path.read_bytes()
    content, digest = whole[:-DIGEST_BYTES], whole[-DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError(
            f"{path} is truncated or was altered; delete it to train afresh (if it is no checkpoint: name another file)"
        )
    saved = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    if saved.get("format") != FORMAT:
        writer = saved.get("version", "0.1.0 or before")
        form = f"format {saved['format']!r}" if "format" in saved else "a format without a name"
        raise ValueError(
            f"{path} was written by version {writer} in {form}, and version {__version__} goes "
            f"on from {FORMAT!r} only; finish that training with the version that began it, or delete the file"
        )
    if saved["identity"] != identity:
        raise ValueError(f"{path} belongs to another training; name another checkpoint or delete it")
    return saved["state"]
