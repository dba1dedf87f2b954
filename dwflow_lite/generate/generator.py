"""What a generator of networks is."""

from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

from dwflow_lite.support.checks import is_whole
from dwflow_lite.zoo.zoo import Zoo

FIT_FEWER = "no memory for so many members: pass a zoo of fewer, zoo.take(range(n))"
SAMPLE_FEWER = "no memory for so many networks at once: pass a smaller n"


@runtime_checkable
class Generator(Protocol):
    """Anything that learns from the fitted members of a zoo, and then makes further networks.

    Those of this package are estimators of scikit-learn (``BaseEstimator``) besides: ``__init__`` only stores its
    arguments, :meth:`fit` checks them, and ``sklearn.base.clone`` gives an unfitted copy.
    """

    def fit(self, zoo: Zoo) -> Self:
        """Learn from the fitted members of ``zoo`` (never from held-out ones), which is not changed; gives itself."""
        ...

    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` networks; the same seed gives the same ones."""
        ...


def require_zoo(zoo: object) -> None:
    """``TypeError`` for anything but a zoo, such as its weights."""
    if not isinstance(zoo, Zoo):
        raise TypeError(f"a generator learns from a Zoo (Zoo.from_modules makes one), not from {type(zoo).__name__}")


def check_number_of_networks(n: int) -> None:
    """``ValueError`` unless ``n`` is a whole number >= 1."""
    if not is_whole(n, 1):
        raise ValueError(f"how many networks? n must be a whole number >= 1, got {n!r}")
