"""Statistics of hidden units: bring those of averaged networks back (REPAIR, arXiv 2211.08403), or match by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dwflow_lite.symmetry.matching import best_orders
from dwflow_lite.symmetry.spec import Permutation, PermutationSpec
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.forward import forward_all
from dwflow_lite.zoo.zoo import Zoo

LAST = (nn.Linear, nn.LayerNorm)  # modules with units on the last axis of what they return; others have them on axis 1


def unit_statistics(zoo: Zoo, task: Task, spec: PermutationSpec, *, examples: int = 512) -> Tensor:
    """Mean and standard deviation of every hidden unit of every member, on the calibration split: (N, 2, units).

    Hidden units are those of modules with a weight and a bias whose outputs the spec gives to a group.
    """
    return _run(zoo, task, spec, examples, None)


def repair(zoo: Zoo, targets: Tensor, task: Task, spec: PermutationSpec, *, examples: int = 512) -> Zoo:
    """Rescale and shift every hidden unit so that it has a given mean and standard deviation.

    For networks without BatchNorm (with it: :func:`recalibrate`). One pass, in which each module is corrected before
    the next one sees its outputs; the correction is then written into its weight and bias.

    Args:
        zoo: averaged networks. targets: (N, 2, units) as from :func:`unit_statistics`, such as an average of those of
            the networks that were averaged.
        task: its calibration split is what units are measured on, its first ``examples``.
        spec: names the hidden units.
    """
    found, state, start = _run(zoo, task, spec, examples, targets), dict(zoo.layout.unflatten(zoo.weights)), 0
    for name in _hidden_modules(zoo.network, spec):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        units = slice(start, start + bias.shape[1])
        start = units.stop
        (mean, std), (new_mean, _) = found[:, :, units].unbind(1), targets[:, :, units].unbind(1)
        scale = _scale(std, targets[:, 1, units])
        state[f"{name}.weight"] = weight * scale.view(*scale.shape, *[1] * (weight.ndim - 2))
        state[f"{name}.bias"] = (bias - mean) * scale + new_mean
    return zoo.with_weights(zoo.layout.flatten(state), {"stage": "repair", "examples": examples})


def activation_matching(
    a: Tensor, b: Tensor, spec: PermutationSpec, network: nn.Module, x: Tensor, *, batch_size: int = 256
) -> Permutation:
    """Rename the hidden units of ``b`` so that they *do* what those of ``a`` do: by correlation (arXiv 2211.08403).

    Unlike weights, the outputs of units can be compared before any other group is settled: one assignment a group (or
    block of heads), each on its own and exact, and no descent.

    Args:
        a: reference weights (d,). b: weights (d,) to rename.
        spec: what moves together. network: of this layout.
        x: inputs (n, ...) of the training or calibration split. batch_size: bounds memory.

    Raises:
        ValueError: a group that no module writes to, so that nothing can be observed of it.
    """
    writers = {g: [u for u in uses if u.axis == 0 and u.name.endswith(".weight")] for g, uses in spec.uses.items()}
    if unseen := [g for g, uses in writers.items() if not uses]:
        raise ValueError(f"no module writes to group {unseen[0]!r}: match it by weights")
    names = sorted({u.name.removesuffix(".weight") for uses in writers.values() for u in uses})
    watched, states = deepcopy(network).to(x).eval(), [spec.layout.unflatten(w.to(x)) for w in (a, b)]
    sums: dict[str, Tensor] = {}
    with torch.no_grad():
        for batch in x.split(batch_size):
            for name, (one, other) in _outputs(watched, states, batch, names).items():
                both = torch.cat([one, other, torch.ones_like(one[:1])]).double()  # ones: count and means
                sums[name] = sums.get(name, 0) + both @ both.T
    similarity = {}
    for group, uses in writers.items():
        found = [_correlation(sums[u.name.removesuffix(".weight")]) for u in uses]
        similarity[group] = sum(
            c[u.start : u.start + u.units * u.each, u.start : u.start + u.units * u.each]
            .unflatten(0, (u.units, u.each)).unflatten(2, (u.units, u.each)).diagonal(0, 1, 3).sum(-1)
            for c, u in zip(found, uses, strict=True)
        )  # fmt: skip
    orders = {}
    for heads, groups in spec.coordinates:
        orders |= best_orders({g: similarity[g].cpu() for g in groups}, heads)[0]
    return Permutation(orders)


def _correlation(products: Tensor) -> Tensor:
    """Correlation (n, n) of the first n rows with the next n, from the inner products of all and a row of ones."""
    n = len(products) // 2
    covariance = products[:-1, :-1] / products[-1, -1] - torch.outer(*2 * [products[:-1, -1] / products[-1, -1]])
    std = covariance.diagonal().clamp_min(1e-12).sqrt()
    return (covariance / torch.outer(std, std))[:n, n:]


def _units_first(module: nn.Module, outputs: Tensor) -> Tensor:
    """(units, everything else)."""
    return outputs.movedim(-1 if isinstance(module, LAST) else 1, 0).flatten(1)


def _outputs(network: nn.Module, states: list[dict], x: Tensor, names: list[str]) -> dict[str, list[Tensor]]:
    """What each named module returns in each of some networks, (units, numbers)."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    with _listening(network, names, lambda n, m, y: seen[names[n]].append(_units_first(m, y))):
        for state in states:
            functional_call(network, state, (x,))
    return seen


@contextmanager
def _listening(
    network: nn.Module, names: Sequence[str], hear: Callable[[int, nn.Module, Tensor], Tensor | None]
) -> Iterator[None]:
    """In here ``hear`` is called with the number of each named module, the module, and what it returns."""
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda m, _, y, number=number: hear(number, m, y))
        for number, name in enumerate(names)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hidden_modules(network: nn.Module, spec: PermutationSpec) -> list[str]:
    names = {n.removesuffix(".weight") for n, axes in spec.axes.items() if n.endswith(".weight") and axes[0]}
    return [n for n, _ in network.named_modules() if n in names and f"{n}.bias" in spec.axes]


class _Watched(nn.Module):
    """Runs a network and returns mean and deviation (2, units) of its hidden units; with targets, mends them first."""

    def __init__(self, network: nn.Module, names: list[str], sizes: list[int], mend: bool) -> None:
        super().__init__()
        self.network, self.names, self.sizes, self.mend = network, names, sizes, mend
        self.register_buffer("targets", torch.zeros(2, sum(sizes)))

    def forward(self, x: Tensor) -> Tensor:
        seen: dict[int, Tensor] = {}
        targets = self.targets.split(self.sizes, 1)

        def look(number: int, module: nn.Module, outputs: Tensor) -> Tensor | None:
            units, target = _units_first(module, outputs), targets[number]
            mean, std = seen[number] = torch.stack([units.mean(1), units.std(1, correction=0)])
            if not self.mend:
                return None
            shape = [-1] + [1] * (outputs.ndim - 2 if not isinstance(module, LAST) else 0)
            scale = _scale(std, target[1])
            return outputs * scale.view(shape) + (target[0] - mean * scale).view(shape)

        with _listening(self.network, self.names, look):
            self.network(x)
        return torch.cat([seen[number] for number in range(len(self.names))], 1)


def _scale(std: Tensor, target: Tensor) -> Tensor:
    """What brings a deviation to its target; units that never change are only shifted."""
    return torch.where(std > 1e-6, target / std.clamp_min(1e-6), torch.ones_like(std))


@torch.no_grad()
def _run(
    zoo: Zoo, task: Task, spec: PermutationSpec, examples: int, targets: Tensor | None, members_at_once: int = 16
) -> Tensor:  # fmt: skip
    """What :class:`_Watched` returns for every member, on the calibration split."""
    names = _hidden_modules(zoo.network, spec)
    if not names:
        raise ValueError(f"no module of this {type(zoo.network).__name__} has hidden units with a weight and a bias")
    sizes = [zoo.layout[f"{name}.bias"].size for name in names]
    watched = _Watched(deepcopy(zoo.network).eval(), names, sizes, targets is not None).to(zoo.weights.device)
    x, found = task.calibration.x[:examples].to(zoo.weights), []
    for rows in torch.arange(len(zoo)).split(members_at_once):
        state = {f"network.{n}": t for n, t in zoo.layout.unflatten(zoo.weights[rows]).items()}
        state["targets"] = zoo.weights.new_zeros(len(rows), 2, sum(sizes)) if targets is None else targets[rows]
        found.append(forward_all(watched, state, x))
    return torch.cat(found)
