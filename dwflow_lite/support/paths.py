"""Where files go: paths as readers give them, files that are written whole or not at all, and what a kill leaves."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path

import psutil

from dwflow_lite.support.checks import brief, failing_as
from dwflow_lite.support.replacing import replace

LONGEST_STEM = 150  # bytes of a file's own name in the name of its half-written file; file systems allow 255 in all
LEFT_OVER_AFTER = 24 * 3600.0  # seconds; of a process on another machine nobody here knows whether it lives
STARTED_WITHIN = 2.0  # seconds by which two readings of when a process started may differ
_WRITES = count()  # of this process: two threads may write to one path


# -- paths as readers give them ----------------------------------------------------------------------------------


def as_path(path: str | Path) -> Path:
    """A path that a reader gave.

    Raises:
        TypeError: it is no path.
        ValueError: it is empty, or holds a zero byte.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"a path is text or a Path, got {brief(path)}")
    if not os.fspath(path) or "\0" in str(path):
        raise ValueError(f"a path needs a name, got {str(path)!r}: '.' is the folder of now")
    return Path(path)


def names_folder(path: str | Path) -> bool:
    """Whether a path names a folder, because it has no suffix, and not a file.

    Raises:
        IsADirectoryError: it has a suffix, and a folder is there.
        NotADirectoryError: it has none, and something else is there.
        OSError: it is too long, or goes round in a circle of links.

    Example:
        >>> names_folder("zoos/digits"), names_folder("zoos/digits.safetensors")
        (True, False)
    """
    path = as_path(path)
    exists(path)  # it may be too long, or a circle of links
    if path.suffix and path.is_dir():
        raise IsADirectoryError(
            f"it is a folder, and a name with a suffix, here {path.suffix!r}, means a file: name a file in it, or "
            "rename the folder so that it has no suffix"
        )
    if not path.suffix and path.is_file():
        raise NotADirectoryError(
            "it is a file, and a name without a suffix means a folder: name another folder, or rename the file to "
            f"{path.name}.safetensors"
        )
    if not path.suffix and exists(path) and not path.is_dir():
        raise NotADirectoryError("it is a pipe or a device, and a name without a suffix means a folder: name another")
    return not path.suffix


def exists(path: Path) -> bool:
    """Whether something is there, at the end of all links; ``OSError`` where nothing could ever be."""
    with suppress(FileNotFoundError, NotADirectoryError):
        path.stat()
        return True
    return False


def check_writable(path: Path) -> None:
    """``OSError`` that names the path, unless a file can be written there; its folder is made."""
    with failing_as(f"cannot write {path}", OSError):
        target = at_end_of_links(path)
        if target.is_dir():
            raise IsADirectoryError("it is a folder; name a file in it")
        if exists(target) and not target.is_file():
            raise OSError("it is a pipe or a device; name a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        probe = partial_of(target)
        probe.touch()
        probe.unlink()


def at_end_of_links(path: Path) -> Path:
    """Where a file is written whose name is a link: the link stays one, and what it points to is replaced."""
    return Path(os.path.realpath(path))


# -- written whole or not at all ---------------------------------------------------------------------------------


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A place to write to: it becomes ``path`` once its content has reached the disk, or is gone if that fails."""
    target = at_end_of_links(path)
    partial = partial_of(target)
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())  # a power cut leaves no empty file
        replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """Where this process writes a file before it gets its name: a name that says which process that is."""
    process = f"{_machine()}-{os.getpid()}-{_hundredths(psutil.Process().create_time())}"
    return path.with_name(f".{_stem(path.name)}.{process}-{next(_WRITES)}.partial")


def _stem(name: str) -> str:
    """The name of a file, shortened so that something can be added to it."""
    if len(os.fsencode(name)) <= LONGEST_STEM:
        return name
    return f"{name[: LONGEST_STEM // 4]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


# -- what a kill leaves ------------------------------------------------------------------------------------------

OF_THIS_VERSION = re.compile(r"\.([0-9a-f]{8})-(\d+)-(\d+)-\d+\.partial$")  # machine, process, its start
OF_OLDER_VERSIONS = re.compile(r"\.\d+\.partial$")  # a process that cannot be running with this version


def sweep(folder: str | Path, *names: str) -> None:
    """Remove half-written files whose process is gone; those of living processes stay.

    A process on another machine counts as gone when it has not written for a day.

    Args:
        folder: where they are.
        names: with what the names of the files begin that they were to become.
    """
    for partial in Path(folder).glob(".*.partial"):
        for name in names:
            if partial.name.startswith(f".{_stem(name)}") and _is_left_over(partial):
                with suppress(OSError):  # another process was faster, or only the owner may
                    partial.unlink()


def _is_left_over(partial: Path) -> bool:
    """Whether nobody writes to a half-written file any more."""
    found = OF_THIS_VERSION.search(partial.name)
    if found is None:
        return OF_OLDER_VERSIONS.search(partial.name) is not None
    machine, process, started = found.groups()
    if machine == _machine():
        return not is_running(int(process), int(started) / 100)
    with suppress(OSError):
        return time.time() - partial.stat().st_mtime > LEFT_OVER_AFTER
    return False


def is_running(process: int, started: float) -> bool:
    """Whether a process of this machine that started then, in seconds since 1970, still runs; numbers are reused."""
    with suppress(psutil.Error, OverflowError):
        found = psutil.Process(process)
        same_start = abs(found.create_time() - started) < STARTED_WITHIN
        return same_start and found.status() != psutil.STATUS_ZOMBIE
    return False


def _hundredths(seconds: float) -> int:
    return round(100 * seconds)


@cache
def _machine() -> str:
    """This machine, or the container on it that counts processes by itself, in eight letters."""
    name = socket.gethostname()
    with suppress(OSError):
        name += str(os.stat("/proc/self/ns/pid").st_ino)
    return hashlib.sha256(name.encode()).hexdigest()[:8]
