"""Checks of 08_large_models."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dwflow_lite.course.exercises import exercise


@exercise("08.1")
def variances(answer: Callable) -> None:
    """Variances along the principal components, from the Gram matrix."""
    for n, d in ((5, 40), (3, 7), (4, 200_000)):  # a matrix d x d of the last would take 320 GB
        x = torch.randn(n, d, generator=torch.Generator().manual_seed(n), dtype=torch.float64) + 3
        expected, got = torch.linalg.svdvals(x - x.mean(0))[: n - 1] ** 2 / (n - 1), answer(x.clone())
        assert getattr(got, "shape", None) == (n - 1,), f"{n} networks have {n - 1} variances, a tensor ({n - 1},)"
        assert (got.diff() <= 0).all(), "largest first, please"
        assert torch.allclose(got, expected, rtol=1e-8), f"for a test matrix {expected.tolist()}, not {got.tolist()}"


@exercise("08.2")
def coefficients(answer: Callable) -> None:
    """The affine combination of networks nearest to another one."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 30, generator=generator, dtype=torch.float64) + 2
    planted = torch.tensor([0.7, 0.5, -0.4, 0.2], dtype=torch.float64)
    got = answer(rows.clone(), planted @ rows)
    assert getattr(got, "shape", None) == (4,), "four networks, so four coefficients: a tensor (4,)"
    assert abs(float(got.sum()) - 1) < 1e-8, f"coefficients of an affine combination sum to 1, these to {got.sum():.9g}"
    assert torch.allclose(got, planted), f"the point was built with {planted.tolist()}, you found {got.tolist()}"
    outside = torch.randn(30, generator=generator, dtype=torch.float64)
    got = answer(rows.clone(), outside)
    assert abs(float(got.sum()) - 1) < 1e-8, f"for a point outside the span they sum to {got.sum():.9g}, not to 1"
    best, _, _, _ = torch.linalg.lstsq((rows[1:] - rows[0]).T, outside - rows[0])
    found, least = (float((c @ rows - outside).norm()) for c in (got, torch.cat([1 - best.sum()[None], best])))
    assert found < least + 1e-6, f"there is a nearer affine combination: at {least:.4g}, yours is at {found:.4g}"
