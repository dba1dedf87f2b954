"""Claims that keep their distance: a measured value, the bar it has to clear, and the margin between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Comparison:
    """One measured value and the bar that it should be above or below."""

    value: float | int
    bar: float | int
    direction: Literal["above", "below"]

    @property
    def finite(self) -> bool:
        """Whether value and bar are both finite numbers."""
        return math.isfinite(self.value) and math.isfinite(self.bar)

    @property
    def holds(self) -> bool:
        """Whether the value clears the bar; equal does not, and neither does NaN or infinity."""
        if not self.finite:
            return False
        if self.direction == "above":
            return self.value > self.bar
        return self.value < self.bar

    @property
    def margin(self) -> float | int:
        """How far the value is beyond the bar, in the direction claimed; negative where the claim fails."""
        if self.direction == "above":
            return self.value - self.bar
        return self.bar - self.value

    def describe(self) -> str:
        """The comparison in words, such as "0.93 above 0.5, margin 0.43"."""
        relation = self.direction if self.holds else f"not {self.direction}"
        sentence = f"{shown(self.value)} {relation} {shown(self.bar)}"
        if not self.finite:
            return f"{sentence}: not a finite number"
        return f"{sentence}, margin {shown(self.margin)}"

    def as_json(self) -> dict[str, float | int | str]:
        """The comparison for a report; NaN and infinities are the text "nan", "inf", "-inf", which float() reads."""
        return {
            "value": _json_number(self.value),
            "bar": _json_number(self.bar),
            "direction": self.direction,
            "margin": _json_number(self.margin),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Comparison:
        """The comparison that `as_json` wrote."""
        value, bar = (float(x) if isinstance(x, str) else x for x in (content["value"], content["bar"]))
        return cls(value, bar, content["direction"])


@dataclass(frozen=True)
class Claim:
    """Comparisons that must all hold; made by `above` and `below`, and joined with `&`."""

    comparisons: tuple[Comparison, ...]

    @property
    def holds(self) -> bool:
        """Whether every comparison holds."""
        return all(comparison.holds for comparison in self.comparisons)

    def __and__(self, other: Claim) -> Claim:
        if not isinstance(other, Claim):
            raise TypeError(
                f"'&' joins above(...) and below(...), not {type(other).__name__}: make it a claim of its own"
            )
        return Claim(self.comparisons + other.comparisons)

    __rand__ = __and__

    def __bool__(self) -> bool:
        # `above(...) and below(...)` would quietly drop the first margin
        raise TypeError("a claim has no truth value of its own: join claims with '&', and read .holds")


def above(value: Any, bar: Any) -> Claim:
    """The claim that a measured value is above a bar.

    Args:
        value: a number, or an array or tensor that holds one.
        bar: the same; what the value has to exceed.

    Returns a claim for `record`, which can be joined with others by `&`. NaN and infinity make it false.
    Raises TypeError for anything that is no single number.

    Example:
        >>> accuracy = 0.93
        >>> claim = above(accuracy, 0.5) & below(accuracy, 0.99)
        >>> claim.holds
        True
        >>> [comparison.describe() for comparison in claim.comparisons]
        ['0.93 above 0.5, margin 0.43', '0.93 below 0.99, margin 0.06']
    """
    return Claim((Comparison(_number(value, "value"), _number(bar, "bar"), "above"),))


def below(value: Any, bar: Any) -> Claim:
    """The claim that a measured value is below a bar; arguments and result as for `above`.

    Example:
        >>> below(0.3, 0.2).holds
        False
    """
    return Claim((Comparison(_number(value, "value"), _number(bar, "bar"), "below"),))


def margins(recorded: Mapping[str, Sequence[Mapping[str, Any]]], text: str) -> str:
    """The comparisons behind a claim of a report, in brackets with a space before them; empty if there are none."""
    comparisons = [Comparison.from_json(content).describe() for content in recorded.get(text, ())]
    return f" ({'; '.join(comparisons)})" if comparisons else ""


def shown(value: float | int | str) -> str:
    """A number as a reader sees it: four significant digits for a float, all of an integer; text as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def scalar(value: Any) -> Any:
    """A NumPy scalar, a 0-dimensional array or a tensor of one number as a number of Python; others as they are.

    Raises ValueError for an array of several values.
    """
    if not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except (ValueError, RuntimeError):  # NumPy, torch
        raise ValueError("an array of several values") from None


def _number(value: Any, role: str) -> float | int:
    try:
        number = scalar(value)
    except ValueError as error:
        raise TypeError(f"the {role} of a claim is {error}; compare one number") from None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"the {role} of a claim must be a number, not {type(number).__name__}")
    return number


def _json_number(number: float | int) -> float | int | str:
    return number if math.isfinite(number) else str(number)
