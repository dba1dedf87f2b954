"""The version of this package, and those that a record names."""

from __future__ import annotations

import platform

__version__ = "0.2.0.dev0"


def versions() -> dict[str, str]:
    """Package, torch and Python, for the record of everything saved."""
    import torch  # only here: the course reads the version where torch is broken, too

    return {"dwflow_lite": __version__, "torch": torch.__version__, "python": platform.python_version()}
