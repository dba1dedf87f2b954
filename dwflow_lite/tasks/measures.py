"""How outputs are compared with targets: accuracy, calibration, Brier score; R², rank correlation, mean absolute error.

Every measure takes ``outputs`` (..., n, outputs) of networks and targets ``y`` (..., n) or (..., n, outputs), and gives
one number for each network: (...). The leading axes are those of the networks, if there are several.
"""

from __future__ import annotations

import torch
from torch import Tensor

# What may be the score of each kind of task; the first is the default.
SCORES = {"classification": ("accuracy",), "regression": ("R²", "Spearman")}

KINDS = tuple(SCORES)

CALIBRATION_BINS = 15


def accuracy(outputs: Tensor, y: Tensor) -> Tensor:
    """Share of examples whose largest output is that of their label, in [0, 1]."""
    return (outputs.argmax(-1) == y).float().mean(-1)


def calibration_error(outputs: Tensor, y: Tensor, bins: int = CALIBRATION_BINS) -> Tensor:
    """Expected calibration error (ECE): how far confidence lies from accuracy, in [0, 1]; 0 is calibrated.

    Confidence is the softmax probability of the class that is named. Examples are put into bins of equal width by
    their confidence; in each bin mean confidence is compared with accuracy, and the differences are averaged, each bin
    by its number of examples (Guo et al. 2017, eq. 3).

    Args:
        outputs: logits (..., n, classes).
        y: labels (..., n).
        bins: how many, each open below and closed above.

    Example:
        Two examples at 0.9, of which one is right: 0.9 confidence, 0.5 accuracy.

        >>> logits = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
        >>> round(float(calibration_error(logits, torch.tensor([0, 1]))), 4)
        0.4
    """
    largest, named = outputs.max(-1)  # (..., n)
    confidence = (largest - outputs.logsumexp(-1)).exp()  # (..., n): the largest entry of the softmax, which is slower
    excess = confidence - (named == y).to(confidence)  # (..., n): above its accuracy
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1  # (..., n); of NaN: some bin, and the sum is NaN
    of_bins = torch.zeros(*excess.shape[:-1], bins).to(excess).scatter_add(-1, bin_of, excess)  # (..., bins)
    return of_bins.abs().sum(-1) / excess.shape[-1]


def brier(outputs: Tensor, y: Tensor) -> Tensor:
    """Brier score: squared distance of the probabilities to the label's (1 for it, 0 for others), in [0, 2]; mean.

    As the negative log-likelihood it is lowest, on average, where probabilities are the true ones (Brier 1950); it
    forgives a confident mistake more.

    Args:
        outputs: logits (..., n, classes).
        y: labels (..., n).

    Example:
        One example of two classes at one half each, and one that is certain and right.

        >>> logits = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log()
        >>> float(brier(logits, torch.tensor([0, 0])))
        0.25
    """
    probabilities = outputs.softmax(-1)  # (..., n, classes)
    of_label = probabilities.gather(-1, y.expand(outputs.shape[:-1])[..., None]).squeeze(-1)  # (..., n)
    # (p - 1)² of the label and p² of the others: Σ p² - 2 p + 1.
    return (probabilities.square().sum(-1) - 2 * of_label + 1).mean(-1)


def r2(outputs: Tensor, y: Tensor) -> Tensor:
    """Coefficient of determination, mean over outputs, at most 1; the mean of the targets, as a prediction, has 0.

    Each output is measured by its own variance, so that units do not matter. One whose targets do not vary has 1 if it
    is met exactly, else 0 (as ``sklearn.metrics.r2_score`` has it).
    """
    unexplained = (outputs - y).square().sum(-2)  # (..., outputs)
    total = (y - y.mean(-2, keepdim=True)).square().sum(-2)
    varies = total > 1e-13 * y.square().sum(-2)  # more than the rounding of float32 makes of equal targets
    exact = (unexplained == 0).to(unexplained.dtype)
    return torch.where(varies, 1 - unexplained / total, exact).mean(-1)


def spearman(outputs: Tensor, y: Tensor) -> Tensor:
    """Rank correlation in [-1, 1], mean over outputs; 0 where predictions, or targets, do not vary."""
    ranks, true_ranks = centred_ranks(outputs.mT), centred_ranks(y.mT)  # (..., outputs, n)
    products = (ranks * true_ranks).sum(-1)  # (..., outputs)
    norms = (ranks.square().sum(-1) * true_ranks.square().sum(-1)).sqrt().clamp_min(1e-12)
    return (products / norms).mean(-1).to(torch.promote_types(outputs.dtype, y.dtype))


def centred_ranks(values: Tensor) -> Tensor:
    """Centred ranks of each row, in float64, equal values sharing the mean of theirs: (..., n) -> (..., n)."""
    values = values.contiguous()
    ordered = values.sort(-1).values
    below = torch.searchsorted(ordered, values, right=False)  # how many of the row are smaller
    not_above = torch.searchsorted(ordered, values, right=True)  # how many are smaller or equal
    # Twice the rank, from the middle: whole numbers, so their sums are exact.
    return (below + not_above - values.shape[-1]).double()


def absolute_error(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error over examples and outputs, in units of the targets."""
    return (outputs - y).abs().mean((-2, -1))


MEASURES = {
    "classification": {"accuracy": accuracy},
    "regression": {"Spearman": spearman, "R²": r2, "MAE": absolute_error},
}
