"""A fair fight: generators whose networks lie equally far from the zoo, before any score is read."""

from __future__ import annotations

from collections.abc import Callable

from dwflow_lite.auditing.measures import nearest_distance
from dwflow_lite.generate.generator import Generator
from dwflow_lite.zoo.zoo import Zoo


def typical_distance(networks: Zoo, zoo: Zoo) -> float:
    """Median distance of networks to their nearest fitted member of a zoo."""
    return float(nearest_distance(networks.weights, zoo.fitted.weights).median())


def knob_by_distance(make: Callable[[float], Generator], zoo: Zoo, n: int, seed: int, high: float = 4.0) -> float:
    """The knob at which a generator's networks lie as far from members as held-out networks do, by bisection.

    Args:
        make: an unfitted generator of a knob, such as ``MemberNoise``; the farther it is turned, the farther its
            networks lie.
        zoo: with held-out members.
        n: networks that are drawn at each turn.
        seed: of what is drawn.
        high: the knob lies between 0 and this; it is found to a 256th of that.

    Returns:
        The least knob that was tried and is far enough; ``high`` if none is.

    Raises:
        ValueError: a zoo without held-out members, or what the generator refuses.

    Example:
        >>> from dwflow_lite import MLP, generate
        >>> zoo = Zoo.from_modules([MLP([2, 4, 1]) for _ in range(8)], held_out=[6, 7])
        >>> knob = knob_by_distance(generate.MemberNoise, zoo, n=20, seed=0)
        >>> networks = generate.MemberNoise(knob).fit(zoo).sample(20, seed=0)
        >>> typical_distance(networks, zoo) >= typical_distance(zoo.unseen, zoo)
        True
    """
    if zoo.unseen is None:
        raise ValueError("no held-out networks to compare with: train the zoo with held_out=10")
    target, low = typical_distance(zoo.unseen, zoo), 0.0
    for _ in range(8):
        middle = (low + high) / 2
        if typical_distance(make(middle).fit(zoo).sample(n, seed=seed), zoo) < target:
            low = middle
        else:
            high = middle
    return high


def as_far_as_held_out(make: Callable[[float], Generator], zoo: Zoo, n: int, seed: int) -> Zoo:
    """Networks (n) of a generator whose knob is set by :func:`knob_by_distance`; arguments as there."""
    return make(knob_by_distance(make, zoo, n, seed)).fit(zoo).sample(n, seed=seed)
