"""What a generator of networks is."""

from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

from dwflow_lite.generate.conditions import Asked, Numbers, Zoos
from dwflow_lite.support.checks import is_whole
from dwflow_lite.zoo.zoo import Zoo

FIT_FEWER = "no memory for so many members: pass a zoo of fewer, zoo.take(range(n))"
SAMPLE_FEWER = "no memory for so many networks at once: pass a smaller n"


@runtime_checkable
class Generator(Protocol):
    """Anything that learns from the fitted members of a zoo, and then makes further networks.

    Those of this package are estimators of scikit-learn (``BaseEstimator``) besides: ``__init__`` only stores its
    arguments, :meth:`fit` checks them, and ``sklearn.base.clone`` gives an unfitted copy. A fit that fails, or is
    stopped, leaves them as they were.
    """

    def fit(self, zoo: Zoo) -> Self:
        """Learn from the fitted members of ``zoo`` (never from held-out ones), which is not changed; gives itself."""
        ...

    def sample(self, n: int, *, seed: int) -> Zoo:
        """``n`` networks; the same seed gives the same ones."""
        ...


class ConditionalGenerator(Protocol):
    """Anything that learns from zoos what tells their members apart, and makes networks of the condition asked for.

    Estimators of scikit-learn, as every :class:`Generator` is, which has the same two methods: so ``isinstance`` tells
    the two kinds not apart, and only their arguments do.
    """

    def fit(self, zoos: Zoos, numbers: Numbers | None = None) -> Self:
        """Learn from the fitted members of ``zoos``, which names, ``numbers`` or both tell apart; gives itself."""
        ...

    def sample(self, n: int, *, seed: int, condition: Asked = None) -> Zoo:
        """``n`` networks of one condition, or of ``n`` in a list; the same seed gives the same ones.

        Raises:
            NotFittedError: nothing was fitted yet, whatever the condition.
            ValueError: a condition that was never seen, a list of another length, or None where one is needed.
        """
        ...


def is_generator(value: object) -> bool:
    """Whether it has both methods of a :class:`Generator`, and is not the class of one."""
    return isinstance(value, Generator) and not isinstance(value, type)


def require_zoo(zoo: object) -> None:
    """``TypeError`` for anything but a zoo, such as its weights."""
    if not isinstance(zoo, Zoo):
        raise TypeError(f"a generator learns from a Zoo (Zoo.from_modules makes one), not from {type(zoo).__name__}")


def check_number_of_networks(n: int) -> None:
    """``ValueError`` unless ``n`` is a whole number >= 1."""
    if not is_whole(n, 1):
        raise ValueError(f"how many networks? n must be a whole number >= 1, got {n!r}")
