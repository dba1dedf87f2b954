"""Refine a matching by the loss itself: straight-through estimation (Git Re-Basin, arXiv 2209.04836, algorithm 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dwflow_lite.batchnorm import without_statistics
from dwflow_lite.networks.constants import template_on
from dwflow_lite.support.checks import COUNT, POSITIVE, WHOLE, check_ranges
from dwflow_lite.support.devices import generator_from, out_of_memory_as
from dwflow_lite.support.progress import bar as progress_bar
from dwflow_lite.symmetry.many import weight_matching
from dwflow_lite.symmetry.matching import Matching, State, coordinate_descent
from dwflow_lite.symmetry.permutation import Permutation
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.tasks.splits import Split
from dwflow_lite.tasks.task import Task


@out_of_memory_as("no memory for so many examples at once: pass a smaller batch_size")
def straight_through_matching(  # noqa: PLR0913 - how it trains is part of the method
    a: Tensor,
    b: Tensor,
    spec: PermutationSpec,
    network: nn.Module,
    task: Task,
    *,
    steps: int = 100,
    batch_size: int = 256,
    lr: float = 1e-3,
    seed: int = 0,
    progress: bool = False,
) -> Matching:
    """Permute the units of ``b`` so that the network halfway to ``a`` has a low loss on training data.

    Latent weights start at ``a``. Each step matches ``b`` to them by weights, from where the last step ended, and takes
    the gradient of the loss halfway between ``a`` and the permuted ``b``; the permutation has no derivative, so the
    gradient is handed to the latent weights as if they were the permuted ``b``. The permutation of the lowest loss on
    the calibration split is kept; the first is that of weight matching, so on that split it is never worse.

    Args:
        a: reference weights (d,).
        b: weights (d,) to permute.
        spec: what moves together.
        network: of this layout, in eval mode (nothing is dropped); its BatchNorm, if any, normalises by the batch.
        task: gives loss, training and calibration split.
        steps: of Adam.
        batch_size: training examples for each step.
        lr: learning rate.
        seed: of the batches and the order of groups.
        progress: show a bar.

    Returns:
        A matching whose objective is the lowest loss so far, halfway on the calibration split: of weight matching, and
        after every step.

    Raises:
        ValueError: a number out of range, or weights that are not finite.
        MemoryError: ``batch_size`` is too large.
    """
    numbers = {"steps": steps, "batch_size": batch_size, "lr": lr}
    check_ranges(numbers, {"steps": WHOLE, "batch_size": COUNT, "lr": POSITIVE})
    steps, batch_size = int(steps), int(batch_size)
    task = task.to(a.device)
    generator = generator_from(seed)
    halfway = template_on(without_statistics(network), a.device, a.dtype).eval()
    trained_names = {name for name, _ in halfway.named_parameters()}
    state_a, state_b = (spec.parameters(weights.detach()) for weights in (a, b))
    latent = {name: tensor.clone().requires_grad_() for name, tensor in state_a.items()}
    optimizer = torch.optim.Adam(latent.values(), lr=lr)

    def loss_halfway(permuted: State, examples: Split) -> Tensor:
        """Of the network between ``a`` and a permuted ``b``."""
        middle = {name: (state_a[name] + permuted[name]) / 2 for name in trained_names}
        outputs = functional_call(halfway, middle, (examples.inputs(a).clone(),))  # (n, outputs)
        return task.training_loss(outputs[None], examples.y[None])[0]

    @torch.no_grad()
    def calibration_loss(permutation: Permutation) -> float:
        permuted = spec.permute(state_b, permutation)
        return float(loss_halfway(permuted, task.calibration))

    permutation = best = weight_matching(a, b, spec, seed=seed).permutation
    lowest = [calibration_loss(permutation)]
    for _ in progress_bar(range(steps), desc="straight-through", unit="step", progress=progress):
        rows = torch.randint(len(task.train), (int(batch_size),), generator=generator)
        permuted = spec.permute(state_b, permutation)
        # Adds nothing to the value; its gradient with respect to the latent weights is that of the permuted b.
        through = {name: permuted[name] + (latent[name] - latent[name].detach()) for name in trained_names}
        loss = loss_halfway(through, Split(task.train.x[rows], task.train.y[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        targets = {name: tensor.detach() for name, tensor in latent.items()}
        permutation = coordinate_descent(targets, state_b, spec, permutation, generator).permutation
        loss_now = calibration_loss(permutation)
        if loss_now <= lowest[-1]:
            best = permutation
        lowest.append(min(loss_now, lowest[-1]))
    return Matching(best, lowest)
