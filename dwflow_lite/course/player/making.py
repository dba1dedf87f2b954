"""The player as a step of a course run: made in a process of its own, and only if anything has changed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from dwflow_lite.course.lessons import code_digest, digest
from dwflow_lite.course.player.embed import LOOK_OF_PLAYER
from dwflow_lite.course.site.frame import LOOK_DIGEST
from dwflow_lite.course.watch import guard

SECONDS = 600.0  # that making it may take: it takes about twenty


def fingerprint(profile: str) -> str:
    """Digest of all that the player depends on: the package and its data, how it looks, and its sizes."""
    texts = [(Path(__file__).parent / name).read_text(encoding="utf-8") for name in LOOK_OF_PLAYER]
    return digest([code_digest(), LOOK_DIGEST, texts, profile == "smoke"])


def is_made(path: Path, made: str) -> bool:
    """Whether the player lies at ``path`` whole, as it was made with this fingerprint."""
    if not path.is_file():
        return False
    page = path.read_text(encoding="utf-8", errors="replace")
    return f'<meta name="made" content="{made}">' in page and page.endswith("</html>\n")


def make(path: Path, profile: str, stop: Callable[[], bool]) -> str:
    """Make the player, unless it is there as it would be made now.

    Args:
        path: of the page.
        profile: ``smoke`` makes a small one, any other the usual one.
        stop: asked several times a second; True ends it, and nothing is written.

    Returns what went wrong, in one line; empty if nothing did.
    """
    made = fingerprint(profile)
    if is_made(path, made):
        return ""
    command = [sys.executable, "-m", "dwflow_lite", "player", str(path), "--made", made]
    command += ["--small"] if profile == "smoke" else []
    package = str(Path(__file__).resolve().parents[3])
    paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH", ""))))
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": paths},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    watch = guard(process.pid)
    try:
        return _wait(process, stop)
    finally:
        process.kill()
        process.communicate()
        if watch is not None:
            watch.kill()
            watch.communicate()


def _wait(process: subprocess.Popen[str], stop: Callable[[], bool]) -> str:
    """Why the process did not succeed: the last line that it said, or that it was stopped; empty if it did."""
    waited = 0.0
    said = ""
    while process.returncode is None:
        if stop():
            return "interrupted"
        if waited > SECONDS:
            return f"it took more than {SECONDS:g} s"
        try:
            _, said = process.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            waited += 0.2
    lines = said.strip().splitlines()
    return "" if process.returncode == 0 else lines[-1] if lines else f"it ended with code {process.returncode}"
