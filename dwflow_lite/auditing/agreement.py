"""Measures that ask for more than an average: mistakes beyond chance, distances beyond held-out ones, directions."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan, sqrt

import torch
from torch import Tensor

from dwflow_lite.tasks.measures import centred_ranks


def error_consistency(wrong: Tensor, zoo_wrong: Tensor, *, skip_self: bool = False) -> Tensor:
    """Cohen's kappa of the mistakes of a network and those of its most similar member: (n,).

    Two networks that err seldom agree on most examples, whatever they do. Kappa is how often they are both right or
    both wrong, beyond what their accuracies alone would give: (observed - expected) / (1 - expected). It is 1 for
    one behaviour, 0 for mistakes that fall independently (Geirhos et al. 2020, eq. 3).

    Args:
        wrong: (n, examples), True where a network errs.
        zoo_wrong: (N, examples).
        skip_self: leave out the row of the same position, for a zoo measured against itself.

    Example:
        Each errs on two examples of four, of which they share one: what chance would give.

        >>> a, b = torch.tensor([[1, 1, 0, 0]]).bool(), torch.tensor([[0, 1, 1, 0]]).bool()
        >>> float(error_consistency(a, b)), float(error_consistency(a, a))
        (0.0, 1.0)
    """
    a = wrong.float()
    b = zoo_wrong.float()
    examples = wrong.shape[1]
    both_wrong = a @ b.T / examples  # (n, N), shares of the examples
    share_a, share_b = a.mean(1)[:, None], b.mean(1)  # (n, 1), (N,)
    observed = 1 - share_a - share_b + 2 * both_wrong  # (n, N): both right, or both wrong
    expected = share_a * share_b + (1 - share_a) * (1 - share_b)
    by_chance = 1 - expected  # 0 only where both are always right, or both always wrong: they behave alike
    kappa = torch.where(by_chance > 0, (observed - expected) / by_chance.clamp_min(1e-12), 1.0)
    if skip_self:
        kappa.fill_diagonal_(-1.0)
    return kappa.max(1).values


def copying_statistic(generated: Sequence[float] | Tensor, held_out: Sequence[float] | Tensor) -> float:
    """Z_U: whether generated networks lie nearer to the members than held-out networks do, in standard deviations.

    The statistic of Mann and Whitney: of all pairs of a generated and a held-out network, in how many the generated
    one lies farther from its nearest member, from its mean and in units of its deviation where both are drawn from
    one distribution. Far below 0: they copy; far above: they lie farther than trained networks do (Meehan et al. 2020,
    sec. 3). Distances that are equal count half.

    Args:
        generated: distance of each generated network to its nearest member, (n,).
        held_out: the same of held-out networks, (m,).

    Example:
        >>> round(copying_statistic([0.0] * 10, [1.0] * 10), 2), copying_statistic([1.0, 2.0], [1.0, 2.0])
        (-3.78, 0.0)
    """
    ours, theirs = (torch.as_tensor(distances, dtype=torch.float64) for distances in (generated, held_out))
    n, m = len(ours), len(theirs)
    # Ranks about their middle: twice as large, and their sum over ours is 2 (U - n m / 2).
    above_middle = float(centred_ranks(torch.cat([ours, theirs]))[:n].sum()) / 2
    return above_middle / sqrt(n * m * (n + m + 1) / 12)


def effective_rank(gram: Tensor) -> float:
    """In how many directions points spread about their mean: 1 on a line, k if they spread alike in k directions.

    The exponential of the entropy of the normalised eigenvalues of their Gram matrix (Roy & Vetterli 2007, of the
    eigenvalues, which are shares of variance). Points that are all the same spread in none.

    Args:
        gram: inner products (n, n), about any origin.

    Example:
        >>> square = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
        >>> line = square * torch.tensor([1.0, 0.0])
        >>> [round(effective_rank(points @ points.T), 2) for points in (square, line, 0 * square)]
        [2.0, 1.0, 0.0]
    """
    gram = gram.cpu().double()
    if not gram.isfinite().all():  # of weights beyond what can be squared
        return nan
    gram = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()  # about the mean of the points
    variances = torch.linalg.eigvalsh(gram).clamp_min(0)
    if float(variances.sum()) == 0:
        return 0.0
    shares = variances / variances.sum()
    return float(torch.special.entr(shares).sum().exp())
