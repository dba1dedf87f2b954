"""One way to show progress: a tqdm bar that a caller asks for and ``TQDM_DISABLE`` can silence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def bar(items: Iterable | None = None, *, progress: bool, **options: Any) -> tqdm:
    """``tqdm`` over ``items`` if ``progress``, else the same object without output."""
    # An explicit disable=False would overrule the environment variable, so it is only ever set to True.
    return tqdm(items, **options, **({} if progress else {"disable": True}))
