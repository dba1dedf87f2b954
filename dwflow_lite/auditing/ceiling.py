"""What a PCA can say of networks at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dwflow_lite.compress import DualPCA
from dwflow_lite.generate.simple import computable
from dwflow_lite.support.checks import is_number, is_whole
from dwflow_lite.tasks.checks import require_task
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.forward import evaluate
from dwflow_lite.zoo.zoo import Zoo


@dataclass(frozen=True)
class Ceiling:
    """What a PCA of ``components`` directions can say of networks: share of their variance, and score once decoded.

    ``fitted`` are the members it was fitted on, ``held_out`` trained networks it has not seen. A generator that decodes
    through this PCA cannot return a network with the part that the PCA loses of it, whatever its codes are.
    """

    components: int
    fitted_share: float
    fitted_score: float
    held_out_share: float
    held_out_score: float


def codec_ceiling(zoo: Zoo, task: Task, components: Sequence[int], split: str = "validation") -> list[Ceiling]:
    """Send fitted and held-out members through PCAs of several sizes and back, and score what comes out.

    Args:
        zoo: with held-out members.
        task: gives the score.
        components: k of each PCA.
        split: where the score is measured.

    Raises:
        ValueError: the zoo has no held-out members, or k of a PCA is too large.
        TypeError: a task or a list of components that is none.
    """
    require_task(task)
    if is_whole(components) or is_number(components):
        raise TypeError(f"components are several, such as [5, 20], not {components!r}")
    zoo = computable(zoo)
    unseen = zoo.unseen
    if unseen is None:
        raise ValueError("the zoo has no held-out members; train it with held_out > 0")
    ceilings = []
    for k in components:
        pca = DualPCA(k, copy=False).fit(zoo.fitted.weights)
        fitted_share, fitted_score = _through(pca, zoo.fitted, task, split)
        held_out_share, held_out_score = _through(pca, unseen, task, split)
        ceilings.append(Ceiling(k, fitted_share, fitted_score, held_out_share, held_out_score))
    return ceilings


def _through(pca: DualPCA, networks: Zoo, task: Task, split: str) -> tuple[float, float]:
    """Of networks sent through a PCA and back: the share that survives of their squared distance to the mean; score."""
    decoded = pca.inverse_transform(pca.transform(networks.weights))  # (n, d)
    left = (decoded - pca.mean_).square().sum()
    whole = (networks.weights - pca.mean_).square().sum()
    score = evaluate(Zoo(decoded, networks.layout, networks.network), task, split).score.mean()
    return float(left / whole), float(score)
