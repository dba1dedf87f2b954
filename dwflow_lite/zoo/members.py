"""Which members of a zoo are meant: positions, one boolean each, or a slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from dwflow_lite.support.checks import brief


def positions_of(members: Sequence[int] | Sequence[bool] | slice, total: int, verb: str) -> list[int]:
    """Members as positions from 0 to ``total`` - 1, in the order given.

    Args:
        members: positions (negative ones count from the end), a mask of one boolean a member, or a slice.
        total: how many members there are.
        verb: what is done with them, for the message.

    Raises:
        ValueError: it is none of the three, or names members that are not there.

    Example:
        >>> positions_of([2, -1], total=4, verb="take"), positions_of([True, False, False, True], total=4, verb="take")
        ([2, 3], [0, 3])
    """
    if isinstance(members, slice):
        members = range(total)[members]
    array = members.cpu().numpy() if isinstance(members, Tensor) else np.asarray(members)
    is_empty = array.shape == (0,)
    is_mask = array.dtype == bool and array.shape == (total,)
    is_positions = array.dtype.kind in "iu" and array.ndim == 1
    if not (is_empty or is_mask or is_positions):
        raise ValueError(f"{verb} members by whole-number positions or by {total} booleans, got {brief(members)}")
    positions = np.flatnonzero(array).tolist() if is_mask else array.tolist()
    if any(position >= total or position < -total for position in positions):
        raise ValueError(f"cannot {verb} members {positions} of a zoo of {total}")
    return [position % total for position in positions]
