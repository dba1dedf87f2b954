"""The names of classes, by which labels of one task are found again in another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dwflow_lite.support.checks import brief, plain


def checked_classes(classes: Any, kind: str, outputs: int) -> tuple[str, ...]:
    """Names of classes as a tuple of text; an empty one stays empty.

    Args:
        classes: a name for each label, in the order of the labels: a tuple, a list, an array of text.
        kind: of the task.
        outputs: number of classes.

    Raises:
        ValueError: not as many as outputs, no text, one name twice, or names of a regression.

    Example:
        >>> checked_classes(["cat", "dog"], "classification", 2)
        ('cat', 'dog')
        >>> checked_classes(["cat", "cat"], "classification", 2)
        Traceback (most recent call last):
        ValueError: classes are different names, and 'cat' stands there twice
    """
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise ValueError(f"classes are a list of names, one for each label; got {brief(classes)}")
    names = tuple(classes)
    if not names:
        return ()
    if kind != "classification":
        raise ValueError(f"a {kind} has no classes: leave their names out")
    for name in names:
        if not isinstance(name, str) or not name.strip():
            advice = ": leave out the rows that have no label" if isinstance(name, str) else ""
            raise ValueError(f"the name of a class is text, and not empty; got {brief(plain(name))}{advice}")
    if len(names) != outputs:
        raise ValueError(f"{len(names)} names are given for {outputs} classes: name each, in the order of the labels")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"classes are different names, and {str(twice[0])!r} stands there twice")
    return tuple(str(name) for name in names)  # without NumPy's own class of text
