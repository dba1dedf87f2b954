"""Matching by what hidden units do: the outputs of modules (REPAIR, arXiv 2211.08403)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dwflow_lite.networks.constants import template_on
from dwflow_lite.support.checks import whole
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.symmetry.axes import Use
from dwflow_lite.symmetry.listening import Watched, listening, output_axis, units_first, watchable
from dwflow_lite.symmetry.matching import Matching, best_orders, checked_states
from dwflow_lite.symmetry.permutation import Permutation
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.zoo.batching import module_with
from dwflow_lite.zoo.layout import Layout


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

    Networks run, and correlations are summed, on the device of ``a``; assignments are solved on the CPU.

    Returns:
        A matching whose objective is the sum of the correlations of partners, before and after each group.

    Raises:
        ValueError: weights or inputs that are not finite, or a group to which no module writes that can be watched, so
            that nothing can be observed of it.
        MemoryError: ``batch_size`` is too large.
    """
    checked_states(a, b, spec)
    if not isinstance(x, Tensor) or len(x) == 0 or not x.isfinite().all():
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be finite inputs (n >= 1, ...), got shape {shape}")
    batch_size = whole(batch_size, "batch_size", 1)
    _check_fits(network, spec)
    x = x.to(a.device, a.dtype if x.is_floating_point() else None)  # tokens stay whole
    network = template_on(network, a.device, a.dtype).eval()
    writers, watched = _writers(spec, network, x[:2])
    networks = [module_with(network, spec.layout.unflatten(weights.to(a))) for weights in (a, b)]
    with out_of_memory_as(f"no memory for {batch_size} inputs at once: pass a smaller batch_size"):
        correlations = _correlations(*networks, x.split(batch_size), watched)
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


def _check_fits(network: nn.Module, spec: PermutationSpec) -> None:
    """``ValueError`` unless a network has the tensors that the spec permutes, in whatever precision."""
    own = {entry.name: entry.shape for entry in Layout.of(network).entries}
    if own != {entry.name: entry.shape for entry in spec.layout.entries}:
        difference = spec.layout.difference(network)
        raise ValueError(f"{type(network).__name__} does not have the tensors of the spec: {difference}")


def _writers(spec: PermutationSpec, network: nn.Module, x: Tensor) -> tuple[dict[str, list[Use]], list[Watched]]:
    """The weights whose rows are the units of a group: what their modules return is what the units do.

    Args:
        spec: names the groups.
        network: in eval mode.
        x: inputs (n, ...) for a try of which modules can be watched.

    Returns:
        Group -> weights of modules that can be watched; and those modules.
    """
    modules = dict(network.named_modules())
    writers: dict[str, list[Use]] = {}
    units_of: dict[str, int] = {}
    for group, uses in spec.uses.items():
        writers[group] = []
        for use in uses:
            module = modules.get(_module(use))
            if use.name.endswith(".weight") and module is not None and use.axis == output_axis(module):
                writers[group].append(use)
                units_of[_module(use)] = spec.layout[use.name].shape[use.axis]
    watched, why_not = watchable(network, dict(sorted(units_of.items())), x)
    for group, uses in writers.items():
        writers[group] = [use for use in uses if _module(use) not in why_not]
        if not writers[group]:
            reasons = "".join(f"; {_module(use)} {why_not[_module(use)]}" for use in uses)
            raise ValueError(f"no module writes to group {group!r} and can be watched{reasons}: match it by weights")
    return writers, watched


def _module(use: Use) -> str:
    return use.name.removesuffix(".weight")


def _outputs(network: nn.Module, x: Tensor, watched: Sequence[Watched]) -> dict[str, Tensor]:
    """What each watched module returns, in all its calls: (units, numbers)."""
    outputs_of: dict[str, list[Tensor]] = {one.name: [] for one in watched}

    def keep(one: Watched, outputs: Tensor, axis: int) -> None:
        outputs_of[one.name].append(units_first(outputs, axis))

    with listening(network, watched, keep):
        network(x.clone())
    return {name: torch.cat(outputs, 1) for name, outputs in outputs_of.items()}


@torch.no_grad()
def _correlations(
    network_a: nn.Module, network_b: nn.Module, batches: Sequence[Tensor], watched: Sequence[Watched]
) -> Mapping[str, Tensor]:
    """Module name -> correlation (n, n) of each of its n outputs in ``a`` with each in ``b``, over all batches."""
    products: dict[str, Tensor] = {}
    for batch in batches:
        outputs_a = _outputs(network_a, batch, watched)
        outputs_b = _outputs(network_b, batch, watched)
        for name in outputs_a:
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
