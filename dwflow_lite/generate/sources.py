"""Where a flow over weights may start: Gaussian noise in the space of codes, of three kinds."""

from __future__ import annotations

import torch
from torch import Tensor

from dwflow_lite.compress import DualPCA
from dwflow_lite.flow.path import GaussianSource
from dwflow_lite.support.checks import is_number
from dwflow_lite.zoo.layout import Layout

NAMED_SOURCES = ("matched", "kaiming")


def check_source(source: float | str) -> None:
    """``ValueError`` unless ``source`` is a number > 0, ``"matched"`` or ``"kaiming"``."""
    is_name = isinstance(source, str) and source in NAMED_SOURCES
    is_scale = is_number(source, 0) and source > 0
    if not is_name and not is_scale:
        raise ValueError(f"source must be a number > 0, 'matched' or 'kaiming', got {source!r}")


def make_source(source: float | str, codes: Tensor, pca: DualPCA, scale: float, layout: Layout) -> GaussianSource:
    """The source of a flow to ``codes`` (N, k).

    Args:
        source: one standard deviation for all coordinates; ``"matched"``: of each coordinate, as in the codes; or
            ``"kaiming"``: freshly initialised networks, seen through the PCA.
        codes: of the fitted members, divided by ``scale``.
        pca: which made them.
        scale: their root mean square before the division, in weight units.
        layout: of the networks.
    """
    if source == "matched":
        return GaussianSource(codes.shape[1], codes.std(0))
    if source == "kaiming":
        return kaiming_source(pca, scale, layout)
    return GaussianSource(codes.shape[1], float(source))


def kaiming_source(pca: DualPCA, scale: float, layout: Layout) -> GaussianSource:
    """The codes of networks with fresh Kaiming weights (arXiv 1502.01852) and the zoo's mean in all vectors.

    Such networks are Gaussian in weight space, so their codes are Gaussian too: both moments are projected, and none
    of the networks is made. Biases, norms and other tensors of one axis stay at the zoo's mean.
    """
    std = torch.zeros(layout.size)  # (d,)
    is_random = torch.zeros(layout.size)  # (d,)
    for entry in layout.entries:
        if len(entry.shape) >= 2:
            columns = layout.slices[entry.name]
            fan_in = entry.size // entry.shape[0]
            std[columns] = (2 / fan_in) ** 0.5
            is_random[columns] = 1.0
    k = pca.n_components_
    covariance = 1e-9 * torch.eye(k, dtype=torch.float64)  # (k, k); never singular
    centre = torch.zeros(k, dtype=torch.float64)  # (k,)
    for columns, mean, basis in pca.basis():  # (c,), (k, c)
        spread = basis * std[columns].to(basis)  # (k, c)
        covariance += (spread @ spread.T).cpu() / scale**2
        centre += (basis @ (-is_random[columns].to(basis) * mean)).cpu() / scale  # random tensors have mean 0
    factor = torch.linalg.cholesky(covariance).float()
    return GaussianSource(k, factor.contiguous(), centre.float())
