"""One way to show progress: a tqdm bar that a caller asks for and ``TQDM_DISABLE`` can silence."""

from __future__ import annotations

from collections.abc import Iterable

from tqdm.auto import tqdm


def bar(
    items: Iterable | None = None,
    *,
    progress: bool,
    total: int | None = None,
    initial: int = 0,
    desc: str | None = None,
    unit: str = "it",
) -> tqdm:
    """A progress bar, over ``items`` or moved by its ``update()``.

    Args:
        items: what to go through; None: the caller moves the bar.
        progress: whether it is shown; if not, the same object without output.
        total: how many steps there are; None: as many as items.
        initial: steps that were done before.
        desc: what is being done.
        unit: what one step is.
    """
    # An explicit disable=False would overrule the environment variable, so it is only ever set to True.
    silenced = {} if progress else {"disable": True}
    return tqdm(items, total=total, initial=initial, desc=desc, unit=unit, **silenced)
