"""What a PCA can say of networks at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dwflow_lite.compress import DualPCA
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

    Raises ``ValueError`` for a zoo without held-out members.
    """
    if zoo.unseen is None:
        raise ValueError("the zoo has no held-out members; train it with held_out > 0")
    found = []
    for k in components:
        pca, values = DualPCA(k).fit(zoo.fitted.weights), []
        for networks in (zoo.fitted, zoo.unseen):
            back = pca.inverse_transform(pca.transform(networks.weights))
            kept, whole = ((w - pca.mean_).square().sum() for w in (back, networks.weights))
            decoded = Zoo(back, zoo.layout, zoo.network)
            values += [float(kept / whole), float(evaluate(decoded, task, split).score.mean())]
        found.append(Ceiling(k, *values))
    return found
