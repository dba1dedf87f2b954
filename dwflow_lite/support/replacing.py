"""One file in the place of another, on every system. Imports nothing that could be missing: ``make check`` needs it."""

from __future__ import annotations

import os
import time
from pathlib import Path

PATIENCE = 1.0  # seconds


def replace(draft: Path, target: Path) -> None:
    """Give a file that is whole the name of another, which goes.

    Windows refuses while any process has the other open, as virus scanners have for a moment: it is tried for a second.

    Raises:
        OSError: the system refuses; on Windows, still after a second.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            os.replace(draft, target)
            return
        except PermissionError:
            if os.name != "nt" or time.monotonic() > until:
                raise
            time.sleep(0.05)
