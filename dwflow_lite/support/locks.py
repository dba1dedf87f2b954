"""One writer at a time in a folder; readers need no leave.

``filelock``, which the course's runner uses, cannot do this: on Windows it locks the first byte, so nobody could read
there who holds the folder; in 3.12.0, which is allowed, a forked child keeps a killed writer's lock, whoever asks
empties the signature, and two hold the folder once a holder has removed the file (tried; 4.3.1 does none of the three).
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of a file system without locks
FAR = 1 << 30  # the byte that is locked on Windows: what is locked nobody else reads there, and the signature is to be
PATIENCE = 1.0  # seconds, for a writer to say who it is, and for one that was killed to let go
_held: set[int] = set()  # open lock files of this process


class FolderInUseError(OSError):
    """Another process, or another thread, is writing to the folder."""


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Hold a folder for as long as it is written to.

    The system lets go of what a killed process held. The lock lies in the folder, so that other machines which share
    it see it, and is gone afterwards.

    Raises:
        FolderInUseError: somebody else holds it; says who.
        OSError: nothing can be written there.
    """
    path = folder / LOCK
    file = _locked(path)
    try:
        if file is not None:
            _sign(file)
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                path.unlink()  # while it is held: see _locked
            _release(file)
            if fcntl is None:
                with suppress(OSError):
                    path.unlink()  # Windows removes no open file, be it this one or another's


def _locked(path: Path) -> int | None:
    """The lock file, open and locked; None where there are no locks."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OSError(f"cannot write {path.parent} ({error})") from error
        try:
            _lock(file)
        except BlockingIOError:
            os.close(file)
            holder = _signature(path)
            if not _may_live(holder) and time.monotonic() < until:
                time.sleep(0.02)
                continue
            raise FolderInUseError(
                f"{path.parent} is being written by {_in_words(holder)}: wait until it is done, or name another folder"
            ) from None
        except OSError as error:
            os.close(file)
            if error.errno not in NO_LOCKS:
                raise OSError(f"cannot lock {path} ({error})") from error
            warnings.warn(f"{path.parent} lies where no locks are: let one process write there", stacklevel=5)
            return None
        if _is_there(file, path):
            _held.add(file)
            return file
        os.close(file)  # whoever held it removed it after it was opened here: once more


def _lock(file: int) -> None:
    """Lock an open file; ``BlockingIOError`` where somebody else has."""
    if fcntl is None:
        import msvcrt

        try:
            os.lseek(file, FAR, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
        finally:
            os.lseek(file, 0, os.SEEK_SET)
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError as error:  # so some file systems say it
        raise BlockingIOError from error


def _is_there(file: int, path: Path) -> bool:
    """Whether an open file is the one that has this name; on Windows it cannot lose it while it is open."""
    if fcntl is None:
        return True
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), os.stat(path))
    return False


def _release(file: int) -> None:
    _held.discard(file)
    with suppress(OSError):
        _unlock(file)
    os.close(file)


def _unlock(file: int) -> None:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_UN)  # of copies in other processes, too
        return
    import msvcrt

    os.lseek(file, FAR, os.SEEK_SET)
    msvcrt.locking(file, msvcrt.LK_UNLCK, 1)


def _forget() -> None:
    """In a process that was forked from one that holds folders: it does not hold them."""
    for file in _held:
        with suppress(OSError):
            os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


# -- who holds it ------------------------------------------------------------------------------------------------


def _sign(file: int) -> None:
    """Write who holds the lock; on a full disk nobody gets to know."""
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    text = json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since})
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, text.encode(), 0) if hasattr(os, "pwrite") else os.write(file, text.encode())


def _signature(path: Path) -> Any:
    """What the holder of a lock wrote; nothing if it was locked just now."""
    with suppress(OSError, ValueError, RecursionError), path.open(encoding="utf-8") as file:
        return json.loads(file.read(1000))
    return {}


def _in_words(holder: Any) -> str:
    """Who holds a lock."""
    with suppress(KeyError, TypeError):
        return f"process {holder['process']} on {holder['host']} since {holder['since']}"
    return "another process"


def _may_live(holder: Any) -> bool:
    """Whether who signed a lock may be the one that holds it: not if it was a process here that is gone."""
    if not isinstance(holder, dict) or not isinstance(holder.get("process"), int):
        return False
    return holder.get("host") != socket.gethostname() or psutil.pid_exists(holder["process"])
