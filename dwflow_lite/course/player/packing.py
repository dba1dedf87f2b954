"""Numbers as text that a page can hold: of one or two bytes each, with a scale for each entry of the first axis."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from torch import Tensor


def packed(numbers: Tensor, bits: int) -> dict[str, Any]:
    """Numbers (m, ...) in 8 or 16 bits each.

    An entry is off by at most half a step: its row's largest size over 254 (8 bits) or 65534 (16 bits).

    Returns:
        What :func:`unpacked` and the page read: ``shape``, ``bits``, ``scale`` (m,) and ``data`` in base64.
    """
    largest = 2 ** (bits - 1) - 1
    values = numbers.detach().double().numpy()
    rows = values.reshape(len(values), -1)
    scale = np.maximum(np.abs(rows).max(1), 1e-12) / largest  # (m,)
    whole = np.rint(rows / scale[:, None]).astype(f"<i{bits // 8}")
    return {
        "shape": list(values.shape),
        "bits": bits,
        "scale": [float(f"{s:.6g}") for s in scale],
        "data": base64.b64encode(whole.tobytes()).decode(),
    }


def unpacked(pack: dict[str, Any]) -> np.ndarray:
    """The numbers, as the page reads them.

    Example:
        >>> import torch
        >>> unpacked(packed(torch.tensor([[0.5, -1.0], [20.0, 0.0]]), 8)).round(2).tolist()
        [[0.5, -1.0], [20.0, 0.0]]
    """
    whole = np.frombuffer(base64.b64decode(pack["data"]), f"<i{pack['bits'] // 8}")
    rows = whole.reshape(pack["shape"][0], -1) * np.array(pack["scale"])[:, None]
    return rows.reshape(pack["shape"])
