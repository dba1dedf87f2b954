"""Whether a spec is a symmetry of a network: all of its groups are permuted, at random weights, in float64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from dwflow_lite.symmetry.permutation import Permutation
from dwflow_lite.symmetry.probing import (
    Probe,
    generic_inputs,
    in_double,
    probes,
    random_state,
    smaller_inputs,
)
from dwflow_lite.symmetry.spec import PermutationSpec

LARGE = 2e8  # operations (for one forward pass, and to move its weights) from which on fewer draws are made

Groups = tuple[str, ...]


@torch.no_grad()
def failing_groups(network: nn.Module, spec: PermutationSpec, x: Tensor) -> list[Groups]:
    """The groups (or blocks of heads) that cannot be permuted without a change of outputs.

    First all groups are permuted at once, at random, several times. If a spec is wrong, a draw shows it with a
    probability of at least 1/2, since what keeps outputs is a subgroup of all permutations; and of 1 - 1/n! where one
    group of n units is wrong. Small networks are drawn 20 times, large ones, whose groups are large, 6 times. Only if
    outputs change is each group permuted alone, by permutations of which all others are made, to find out which it is.

    Args:
        network: in any dtype; not changed.
        spec: what is proposed.
        x: inputs (n, ...); a few of them are used, and images are cut to 64 × 64 pixels if the network takes these.

    Raises:
        ValueError: outputs are not finite.
    """
    double = in_double(network)
    x = generic_inputs(x)
    small, cost = smaller_inputs(double, random_state(spec.layout, 0), x)
    is_large = cost + 100 * spec.layout.size > LARGE
    seeds, draws = (2, 3) if is_large else (4, 5)

    def keeps_at_full_size() -> bool:
        """Once more with whole images, if small ones were tried."""
        found = probes(double, spec.layout, x[: len(small)], seeds=1)
        return small.shape[1:] == x.shape[1:] or keeps_outputs(double, spec, found, draws=1)

    if keeps_outputs(double, spec, probes(double, spec.layout, small, seeds), draws) and keeps_at_full_size():
        return []
    few = list(probes(double, spec.layout, small, seeds))
    failing = [groups for heads, groups in spec.coordinates if not keeps_alone(double, spec, few, heads, groups)]
    return failing or [groups for _, groups in spec.coordinates]  # only together they fail: none can be trusted


def keeps_outputs(network: nn.Module, spec: PermutationSpec, found: Iterable[Probe], draws: int) -> bool:
    """Whether permuting all groups at once, at random, changes no output; so many draws for each probe."""
    generator = torch.Generator().manual_seed(0)
    for probe in found:
        for _ in range(draws):
            if not probe.keeps(network, spec.permute(probe.state, spec.random(generator))):
                return False
    return True


def keeps_alone(network: nn.Module, spec: PermutationSpec, found: list[Probe], heads: int, groups: Groups) -> bool:
    """Whether permuting one group, or one block of heads, changes no output."""
    sizes = {group: spec.groups[group] for group in groups}
    for probe in found:
        for permutation in generating_permutations(heads, sizes):
            if not probe.keeps(network, spec.permute(probe.state, permutation)):
                return False
    return True


def generating_permutations(heads: int, sizes: Mapping[str, int]) -> Iterator[Permutation]:
    """Permutations of which all others are made: a cycle and a swap, of heads, and of units in each group's first head.

    Args:
        heads: number of heads; 1 for a group without.
        sizes: group -> number of units, of the groups that have these heads.
    """
    for order in cycle_and_swap(heads):
        yield Permutation({g: torch.arange(size).view(heads, -1)[order].flatten() for g, size in sizes.items()})
    for group, size in sizes.items():
        inside = size // heads
        for order in cycle_and_swap(inside):
            yield Permutation({group: torch.cat([order, torch.arange(inside, size)])})


def cycle_and_swap(n: int) -> list[Tensor]:
    """The cycle of n places and the swap of the first two, which generate all permutations; none where n is 1."""
    if n < 2:
        return []
    return [torch.tensor([*range(1, n), 0]), torch.tensor([1, 0, *range(2, n)])]
