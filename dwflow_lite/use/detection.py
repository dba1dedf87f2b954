"""What networks know of their own doubt: inputs of another kind than those they were trained on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import log

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.use.ensembles import FEWER_AT_ONCE, members_of
from dwflow_lite.zoo.forward import outputs_of
from dwflow_lite.zoo.inputs import require_tensor
from dwflow_lite.zoo.zoo import Zoo


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """How unsure networks are of each of n inputs: (n,) each, larger is less sure.

    Attributes:
        doubt: 1 less the largest mean probability.
        entropy: of the mean probabilities, in nats.
        mutual_information: how much of that is disagreement: the entropy of the mean less the mean of the members'
            entropies, >= 0; 0 where all say the same, as a single network does. (Depeweg et al. 2018, eq. 5.)
    """

    doubt: Tensor
    entropy: Tensor
    mutual_information: Tensor


@out_of_memory_as(FEWER_AT_ONCE)
def uncertainty(
    zoo: Zoo, x: Tensor, *, members_at_once: int | None = None, inputs_at_once: int | None = None
) -> Uncertainty:
    """How unsure the networks of a zoo are, together, of each input; a few members at a time.

    Args:
        zoo: classifiers, in memory or on disk, on any device.
        x: inputs (n, ...), as :func:`predict` takes them.
        members_at_once: as of :func:`predict`.
        inputs_at_once: as of :func:`predict`.

    Raises:
        TypeError: no zoo, or inputs that are no tensor.
        ValueError: members that return NaN or infinite outputs.
        MemoryError: too many members, or inputs, at once.

    Example:
        >>> from dwflow_lite import MLP, Zoo
        >>> alone = Zoo.from_modules([MLP([4, 8, 3])])
        >>> float(uncertainty(alone, torch.zeros(5, 4)).mutual_information.max())
        0.0
    """
    outputs = outputs_of(zoo, x, members_at_once=members_at_once, inputs_at_once=inputs_at_once)
    log_sum = sum_of_entropies = None
    for member in members_of(outputs):  # (n, classes)
        log_sum = member if log_sum is None else torch.logaddexp(log_sum, member)
        entropies = _entropy(member)  # (n,)
        sum_of_entropies = entropies if sum_of_entropies is None else sum_of_entropies + entropies
    log_mean = log_sum - log(len(zoo))
    entropy = _entropy(log_mean)
    disagreement = (entropy - sum_of_entropies / len(zoo)).clamp_min(0)  # below only by rounding
    return Uncertainty(1 - log_mean.exp().amax(-1), entropy, disagreement)


def _entropy(log_probabilities: Tensor) -> Tensor:
    """In nats, of log-probabilities (..., classes): (...)."""
    return torch.special.entr(log_probabilities.exp()).sum(-1)


def auroc(inside: Uncertainty, outside: Uncertainty) -> dict[str, float]:
    """How well each kind of uncertainty tells inputs of one set from those of another, by its name.

    The area under the ROC curve: of all pairs of an input inside and one outside, in how many the one outside is the
    less certain; pairs alike count half. 1 tells them apart, 0.5 is chance.

    Args:
        inside: of inputs such as the networks were trained on.
        outside: of others.

    Example:
        >>> same = Uncertainty(*torch.rand(3, 10).unbind())
        >>> round(auroc(same, same)["entropy"], 6)
        0.5
    """
    found = {}
    for field in fields(Uncertainty):
        scores = torch.cat([getattr(inside, field.name), getattr(outside, field.name)]).cpu()  # (n + m,)
        is_outside = torch.arange(len(scores)) >= len(inside.doubt)
        found[field.name] = float(roc_auc_score(is_outside, scores))
    return found


def detect(
    zoo: Zoo, inside: Tensor, outside: Tensor, *, members_at_once: int | None = None, inputs_at_once: int | None = None
) -> dict[str, float]:
    """How well the doubt of networks tells inputs of another kind: :func:`auroc` of their :func:`uncertainty`.

    Args:
        zoo: classifiers.
        inside: inputs (n, ...) of the kind that they were trained on, but not those: ``task.test.x``.
        outside: inputs (m, ...) of another kind, of the same shape: letters for networks that know digits.
        members_at_once: as of :func:`predict`.
        inputs_at_once: as of :func:`predict`.

    Returns:
        ``"doubt"``, ``"entropy"`` and ``"mutual_information"``, each in [0, 1], 0.5 is chance.

    Raises:
        TypeError, ValueError, MemoryError: as :func:`uncertainty`; or inputs of two shapes, or none.
    """
    require_tensor(inside)
    require_tensor(outside)
    if inside.shape[1:] != outside.shape[1:] or len(inside) == 0 or len(outside) == 0:
        raise ValueError(
            f"inputs inside and outside are some of each, and of one shape; got {tuple(inside.shape)} and "
            f"{tuple(outside.shape)}"
        )
    sizes = {"members_at_once": members_at_once, "inputs_at_once": inputs_at_once}
    return auroc(uncertainty(zoo, inside, **sizes), uncertainty(zoo, outside, **sizes))
