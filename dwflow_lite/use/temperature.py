"""One number that makes probabilities honest: the temperature by which logits are divided."""

from __future__ import annotations

from scipy.optimize import brentq
from torch import Tensor

from dwflow_lite.support.checks import brief

COLDEST, HOTTEST = 0.01, 100.0


def fit_temperature(outputs: Tensor, y: Tensor) -> float:
    """The temperature T at which softmax(outputs / T) has the lowest negative log-likelihood of the labels.

    Above 1: these outputs were too certain; below 1: not certain enough. The class that is named stays the same. (Guo
    et al. 2017, sec. 4.2.) The likelihood is concave in 1/T, so its slope is zero at one place, which is enclosed and
    found; where every example is named rightly it has none, and the coldest temperature, 0.01, is returned; where
    knowing nothing would be best, the hottest, 100.

    Args:
        outputs: logits (n, classes), or the logarithms of probabilities: those of an ensemble's mean, say.
        y: labels (n,), of a split on which nothing else is reported.

    Raises:
        TypeError: no tensors.
        ValueError: shapes that do not fit, labels that are no classes, or outputs that are not finite.

    Example:
        Three of four are right, and all are said with a probability of 0.999.

        >>> import torch
        >>> logits = torch.tensor([[0.0, 6.9]]).repeat(4, 1)
        >>> temperature = fit_temperature(logits, torch.tensor([1, 1, 1, 0]))
        >>> (logits / temperature).softmax(1)[0]
        tensor([0.2500, 0.7500])
    """
    _check(outputs, y)
    logits = outputs.detach().cpu().double()  # (n, classes)
    of_label = logits.gather(1, y.cpu()[:, None]).mean()

    def slope(sharpness: float) -> float:
        """Of the negative log-likelihood, along the sharpness 1/T: what is expected of a logit, less the label's."""
        probabilities = (sharpness * logits).softmax(1)  # (n, classes)
        return float((probabilities * logits).sum(1).mean() - of_label)

    flattest, sharpest = 1 / HOTTEST, 1 / COLDEST
    if slope(flattest) >= 0:
        return HOTTEST
    if slope(sharpest) <= 0:
        return COLDEST
    return 1 / brentq(slope, flattest, sharpest, rtol=1e-6)


def _check(outputs: Tensor, y: Tensor) -> None:
    for name, value in (("outputs", outputs), ("labels", y)):
        if not isinstance(value, Tensor):
            raise TypeError(f"a temperature is fitted to tensors; these {name} are {brief(value)}")
    if outputs.ndim != 2 or y.shape != outputs.shape[:1] or len(y) == 0 or y.is_floating_point():
        raise ValueError(
            f"outputs are (n, classes) and labels whole numbers (n,), n >= 1; got {tuple(outputs.shape)} and "
            f"{tuple(y.shape)} of {y.dtype}"
        )
    if int(y.min()) < 0 or int(y.max()) >= outputs.shape[1]:
        raise ValueError(f"labels are from 0 to {outputs.shape[1] - 1}, got {int(y.min())} to {int(y.max())}")
    if not outputs.isfinite().all():
        raise ValueError("outputs hold NaN or infinite values: leave out the network that returns them")
