"""What hidden units do: the outputs of modules, and matching by them (REPAIR, arXiv 2211.08403)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dwflow_lite.support.checks import whole
from dwflow_lite.symmetry.axes import Use
from dwflow_lite.symmetry.matching import Matching, State, best_orders, checked_states
from dwflow_lite.symmetry.permutation import Permutation
from dwflow_lite.symmetry.spec import PermutationSpec

UNITS_LAST = (nn.Linear, nn.LayerNorm)  # modules with units on the last axis of what they return; others: on axis 1


# -- the outputs of modules --------------------------------------------------------------------------------------------


def units_first(module: nn.Module, outputs: Tensor) -> Tensor:
    """What a module returned, one row a unit: (units, everything else)."""
    axis = -1 if isinstance(module, UNITS_LAST) else 1
    return outputs.movedim(axis, 0).flatten(1)


@contextmanager
def listening(
    network: nn.Module, names: Sequence[str], hear: Callable[[str, nn.Module, Tensor], Tensor | None]
) -> Iterator[None]:
    """In here ``hear`` is called with the name of each of these modules, the module, and what it returns.

    What ``hear`` returns, if anything, takes the place of the module's output.
    """

    def hook_of(name: str) -> Callable[[nn.Module, tuple, Tensor], Tensor | None]:
        return lambda module, _, outputs: hear(name, module, outputs)

    hooks = [network.get_submodule(name).register_forward_hook(hook_of(name)) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _outputs(network: nn.Module, state: State, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """What each named module returns in a network with these tensors: (units, numbers)."""
    outputs_of: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, outputs: Tensor) -> None:
        outputs_of[name] = units_first(module, outputs)

    with listening(network, names, keep):
        functional_call(network, state, (x,))
    return outputs_of


# -- matching ----------------------------------------------------------------------------------------------------------


def activation_matching(
    a: Tensor, b: Tensor, spec: PermutationSpec, network: nn.Module, x: Tensor, *, batch_size: int = 256
) -> Matching:
    """Permute the hidden units of ``b`` so that they *do* what those of ``a`` do: by correlation (arXiv 2211.08403).

    Unlike weights, the outputs of units can be compared before any other group is settled: one assignment a group (or
    block of heads), each on its own and exact, and no descent.

    Args:
        a: reference weights (d,).
        b: weights (d,) to permute.
        spec: what moves together.
        network: of this layout.
        x: inputs (n, ...) of the training or calibration split.
        batch_size: bounds memory.

    Returns:
        A matching whose objective is the sum of the correlations of partners, before and after each group.

    Raises:
        ValueError: weights or inputs that are not finite, or a group that no module writes to, so that nothing can be
            observed of it.
    """
    checked_states(a, b, spec)
    if len(x) == 0 or not x.isfinite().all():
        raise ValueError(f"x must be finite inputs (n >= 1, ...), got shape {tuple(x.shape)}")
    writers = {group: _writers(spec, group) for group in spec.groups}
    names = sorted({_module(use) for uses in writers.values() for use in uses})
    correlations = _correlations(a, b, spec, network, x.split(whole(batch_size, "batch_size", 1)), names)
    similarity = {}
    for group, uses in writers.items():
        similarity[group] = sum(_between_units(correlations[_module(use)], use) for use in uses).cpu()
    indices: dict[str, Tensor] = {}
    objective = [sum(float(units.trace()) for units in similarity.values())]
    for heads, groups in spec.coordinates:
        orders, gain = best_orders({group: similarity[group] for group in groups}, heads)
        indices |= orders
        objective.append(objective[-1] + gain)
    return Matching(Permutation(indices), objective)


def _writers(spec: PermutationSpec, group: str) -> list[Use]:
    """The weights whose rows are the units of a group: what their modules return is what the units do."""
    writers = [use for use in spec.uses[group] if use.axis == 0 and use.name.endswith(".weight")]
    if not writers:
        raise ValueError(f"no module writes to group {group!r}: match it by weights")
    return writers


def _module(use: Use) -> str:
    return use.name.removesuffix(".weight")


@torch.no_grad()
def _correlations(
    a: Tensor, b: Tensor, spec: PermutationSpec, network: nn.Module, batches: Sequence[Tensor], names: Sequence[str]
) -> Mapping[str, Tensor]:
    """Module name -> correlation (n, n) of each of its n outputs in ``a`` with each in ``b``, over all batches."""
    network = deepcopy(network).to(batches[0]).eval()
    state_a, state_b = (spec.layout.unflatten(weights.to(batches[0])) for weights in (a, b))
    products: dict[str, Tensor] = {}
    for batch in batches:
        outputs_a = _outputs(network, state_a, batch, names)
        outputs_b = _outputs(network, state_b, batch, names)
        for name in names:
            ones = torch.ones_like(outputs_a[name][:1])  # products with it are sums, with itself the count
            rows = torch.cat([outputs_a[name], outputs_b[name], ones]).double()  # (2 n + 1, numbers)
            products[name] = products.get(name, 0) + rows @ rows.T
    return {name: _correlation(product) for name, product in products.items()}


def _correlation(products: Tensor) -> Tensor:
    """Correlation (n, n) of the first n rows with the next n, from the inner products of all and a row of ones."""
    n = len(products) // 2
    count = products[-1, -1]
    mean = products[:-1, -1] / count  # (2 n,)
    covariance = products[:-1, :-1] / count - torch.outer(mean, mean)
    deviation = covariance.diagonal().clamp_min(1e-12).sqrt()
    return (covariance / torch.outer(deviation, deviation))[:n, n:]


def _between_units(correlation: Tensor, use: Use) -> Tensor:
    """Similarity (units, units) from the correlation of all outputs of a module: a unit's places, each with its own."""
    stretch = slice(use.start, use.start + use.units * use.each)
    pairs = correlation[stretch, stretch].unflatten(1, (use.units, use.each)).unflatten(0, (use.units, use.each))
    return pairs.diagonal(0, 1, 3).sum(-1)  # (units, each, units, each) -> (units, units)
