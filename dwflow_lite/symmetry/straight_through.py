"""Refine a matching by the loss itself: straight-through estimation (Git Re-Basin, arXiv 2209.04836, algorithm 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dwflow_lite.batchnorm import without_statistics
from dwflow_lite.support.progress import bar as progress_bar
from dwflow_lite.symmetry.matching import coordinate_descent, weight_matching
from dwflow_lite.symmetry.spec import Permutation, PermutationSpec
from dwflow_lite.tasks.task import Task


def straight_through_matching(
    a: Tensor, b: Tensor, spec: PermutationSpec, network: nn.Module, task: Task, *,
    steps: int = 100, batch_size: int = 256, lr: float = 1e-3, seed: int = 0, progress: bool = False,
) -> tuple[Permutation, list[float]]:  # fmt: skip
    """Rename the units of ``b`` so that the network halfway to ``a`` has a low loss on training data.

    Latent weights start at ``a``. Each step matches ``b`` to them by weights, from where the last step ended, and takes
    the gradient of the loss halfway between ``a`` and the renamed ``b``; the renaming has no derivative, so the
    gradient is handed to the latent weights as if they were the renamed ``b``. The permutation of the lowest loss on
    the calibration split is kept; the first is that of weight matching, so on that split it is never worse.

    Args:
        a: reference weights (d,). b: weights (d,) to rename. spec: what moves together.
        network: of this layout; its BatchNorm, if any, normalises by the batch. task: gives loss, training and
            calibration split.
        steps: of Adam with learning rate ``lr`` and ``batch_size`` training examples each.
        seed: of the batches and the order of groups.

    Returns:
        The permutation, and the loss halfway on the calibration split before the first and after every step.
    """
    generator = torch.Generator().manual_seed(seed)
    halfway = without_statistics(network).to(a).train()
    names = {n for n, _ in halfway.named_parameters()}
    state_a, state_b = (spec.parameters(w.detach()) for w in (a, b))
    latent = {n: t.clone().requires_grad_() for n, t in state_a.items()}
    optimizer = torch.optim.Adam(latent.values(), lr=lr)

    def loss_of(permutation: Permutation, x: Tensor, y: Tensor, through: bool = False) -> Tensor:
        moved = spec.rename(state_b, permutation)
        middle = {n: (state_a[n] + moved[n] + (latent[n] - latent[n].detach() if through else 0)) / 2 for n in names}
        return task.loss(functional_call(halfway, middle, (x.to(a),))[None], y[None])[0]

    permutation = weight_matching(a, b, spec, seed=seed).permutation
    judge = (task.calibration.x, task.calibration.y)
    with torch.no_grad():
        losses, best = [float(loss_of(permutation, *judge))], permutation
    for _ in progress_bar(range(steps), desc="straight-through", unit="step", progress=progress):
        rows = torch.randint(len(task.train), (batch_size,), generator=generator)
        loss = loss_of(permutation, task.train.x[rows], task.train.y[rows], through=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        goal = {n: t.detach() for n, t in latent.items()}
        permutation, _ = coordinate_descent(goal, state_b, spec, permutation, generator)
        with torch.no_grad():
            losses.append(float(loss_of(permutation, *judge)))
        if losses[-1] == min(losses):
            best = permutation
    return best, losses
