"""Alignment: each row beside its floor, one network after the other, and a plain transcription of what is published.

The floor is the matrix products and the assignments of the same run, made again alone. The transcription follows
algorithm 1 of Git Re-Basin (arXiv 2209.04836) in the precision of the weights, and for transformers TransFusion (arXiv
2505.22697). Pairs are strangers (two initialisations, with local optima) or planted (a permuted copy under noise).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from unittest.mock import patch

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from benchmarks.measure import Measured, side_by_side, timed
from dwflow_lite import PermutationSpec, Zoo
from dwflow_lite.networks import MLP, ResNet, ViT, initialise
from dwflow_lite.support.devices import one_thread
from dwflow_lite.symmetry import (
    Permutation,
    canonicalise,
    coordinate_descent,
    permute_axes,
    weight_matching,
)
from dwflow_lite.symmetry import descents as descents_module
from dwflow_lite.symmetry import matching as matching_module
from dwflow_lite.symmetry.many import LARGE
from dwflow_lite.symmetry.matching import State, checked_states, inner_product
from dwflow_lite.zoo import Layout

MOST_SECONDS = {"100 MNIST MLPs": 0.12, "ResNet-18 pair": 1.5}
MOST_DESCENTS = {"ResNet-20 pair": 1.5}
TOLD = 1e-6  # seconds: the least difference of two clocks that says anything
STARTS = 5  # of the descents beside which the default stands

Published = Callable[[State, State, PermutationSpec], dict[str, Tensor]]


# -- what is published, in plain words ---------------------------------------------------------------------------------


def git_rebasin(a: State, b: State, spec: PermutationSpec) -> dict[str, Tensor]:
    """Algorithm 1 of arXiv 2209.04836 as printed: sweep over the groups until a whole sweep gains nothing."""
    generator = torch.Generator().manual_seed(0)
    indices = {g: torch.arange(n) for g, n in spec.groups.items()}
    for _ in range(100):
        progress = False
        for number in torch.randperm(len(spec.free), generator=generator).tolist():
            group = spec.free[number]
            others = Permutation({h: index for h, index in indices.items() if h != group})
            similarity = torch.zeros(spec.groups[group], spec.groups[group])
            for use in spec.uses[group]:
                moved = permute_axes(b[use.name], spec.axes[use.name], others)
                similarity += use.rows(a[use.name]) @ use.rows(moved).T
            new = torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])
            rows = torch.arange(len(new))
            gain = similarity[rows, new].sum() - similarity[rows, indices[group]].sum()
            if gain > 1e-6 * similarity.abs().sum():
                indices[group], progress = new, True
        if not progress:
            break
    return indices


def transfusion(a: State, b: State, spec: PermutationSpec) -> dict[str, Tensor]:
    """Heads by spectra, an SVD for every pair; one order inside a pair; hidden units by the first weight matrix. Once.

    (A second pass would change nothing; the published code makes ten.)
    """
    indices = {}
    for heads, groups in spec.heads.values():
        size = spec.groups[groups[0]] // heads
        writers = [u for g in groups for u in spec.uses[g] if u.axis == 0 and a[u.name].ndim == 2]
        cut = [[state[u.name].unflatten(0, (heads, size)) for state in (a, b)] for u in writers]
        distance = torch.zeros(heads, heads)
        for x, y in cut:
            for i in range(heads):
                for j in range(heads):
                    distance[i, j] += (torch.linalg.svdvals(x[i]) - torch.linalg.svdvals(y[j])).norm()
        order = []
        for i, j in enumerate(linear_sum_assignment(distance.numpy())[1]):
            inside = sum(x[i] @ y[j].T for x, y in cut)
            order += (j * size + linear_sum_assignment(inside.numpy(), maximize=True)[1]).tolist()
        indices |= {g: torch.tensor(order) for g in groups}
    for group in spec.free:
        use = next(u for u in spec.uses[group] if u.axis == 0 and a[u.name].ndim == 2)
        similarity = use.rows(a[use.name]) @ use.rows(b[use.name]).T
        indices[group] = torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])
    return indices


# -- the floor ---------------------------------------------------------------------------------------------------------


@dataclass
class Floor:
    """The products and assignments of a run, to be made again alone."""

    products: list[tuple[int, int, int]] = field(default_factory=list)  # rows of b, numbers, rows of a
    similarities: list = field(default_factory=list)

    @classmethod
    def of(cls, call: Callable[[], object]) -> Floor:
        """What a call makes of both."""
        floor = cls()
        products_at, assign = descents_module.products_at, linear_sum_assignment

        def noted_products(a: Tensor, b: Tensor, units: int, others, members: Tensor | None, orders) -> Tensor:
            products = products_at(a, b, units, others, members, orders)
            floor.products.append((len(products) * units, a.numel() // units, units))
            return products

        def noted_assignment(similarity, **options):
            floor.similarities.append(similarity.copy())
            return assign(similarity, **options)

        with (
            patch.object(descents_module, "products_at", noted_products),
            patch.object(matching_module, "linear_sum_assignment", noted_assignment),
        ):
            call()
        return floor

    def seconds(self) -> float:
        """How long they take alone."""
        largest = max(max(rows, units) * numbers for rows, numbers, units in self.products)
        numbers_of_b, numbers_of_a = torch.randn(largest), torch.randn(largest)

        def again() -> None:
            for rows, numbers, units in self.products:
                b = numbers_of_b[: rows * numbers].view(rows, numbers)
                b @ numbers_of_a[: units * numbers].view(units, numbers).T
            for similarity in self.similarities:
                linear_sum_assignment(similarity, maximize=True)

        with one_thread():
            alone = timed(again)[0]
        return min(alone, timed(again)[0])  # on one thread, or on all: whichever is faster


# -- pairs -------------------------------------------------------------------------------------------------------------


def weights_of(network: nn.Module, seed: int) -> Tensor:
    """Initial weights (d,) of a network."""
    return Layout.of(network).flatten(initialise(network, seed=seed) | dict(network.named_buffers())).detach()


def pair_of(network: nn.Module, kind: str, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    """Weights (d,) of two strangers; or of a network and of a permuted copy under noise, in deviations of a tensor."""
    a = weights_of(network, 0)
    if kind == "strangers":
        return a, weights_of(network, 1)
    spec, generator = PermutationSpec.of(network), torch.Generator().manual_seed(1)
    deviations = [tensor.std(correction=0).expand(tensor.numel()) for tensor in spec.layout.unflatten(a).values()]
    noisy = a + noise * torch.cat(deviations) * torch.randn(len(a), generator=generator)
    return a, spec.apply(spec.random(generator), noisy)


def of_pair(name: str, network: nn.Module, kind: str, published: Published, toy: bool) -> Measured:
    """A pair at default settings, beside its floor, one descent, five, and the transcription."""
    spec = PermutationSpec.of(network)
    a, b = pair_of(network, kind)
    states = spec.parameters(a), spec.parameters(b)

    def descent(number: int) -> float:
        generator = torch.Generator().manual_seed(number)
        start = spec.random(generator) if number else spec.identity()
        return coordinate_descent(*checked_states(a, b, spec), spec, start, generator).objective[-1]

    found = weight_matching(a, b, spec)
    indices = published(*states, spec)
    with one_thread(spec.layout.size < LARGE):  # as the package does
        beside = side_by_side({
            "default": lambda: weight_matching(a, b, spec),
            "one descent": lambda: descent(0),
            "published": lambda: published(*states, spec),
        }, repeats=5 if spec.layout.size >= LARGE else 25)  # fmt: skip
        five_starts, _, reached = timed(lambda: [descent(number) for number in range(STARTS)], repeats=1, warm=0)
    seconds, spread = beside["default"]
    one_descent, transcription = beside["one descent"][0], beside["published"][0]
    there = inner_product(states[0], spec.permute(states[1], Permutation(indices)))
    margin = 1e-6 * inner_product(states[0], states[0])
    holds = {"objective no worse than the transcription's": found.objective[-1] >= there - margin}
    if not toy:
        holds[f"objective no worse than {STARTS} full starts"] = found.objective[-1] >= max(reached) - margin
        if name in MOST_SECONDS:
            holds[f"at most {MOST_SECONDS[name]} s"] = seconds <= MOST_SECONDS[name]
        if name in MOST_DESCENTS:
            holds[f"at most {MOST_DESCENTS[name]} times one descent"] = seconds <= MOST_DESCENTS[name] * one_descent
    return Measured(
        seconds, spread,
        {"floor": Floor.of(lambda: weight_matching(a, b, spec)).seconds(), "one descent": one_descent,
         f"{STARTS} full starts": five_starts, "published": transcription},
        {"objective": found.objective[-1], "before": found.objective[0], "from the identity": found.starts[0],
         f"{STARTS} full starts": max(reached), "published": there, "starts": len(found.starts)},
        holds,
    )  # fmt: skip


# -- a whole zoo -------------------------------------------------------------------------------------------------------


def mlps(toy: bool) -> Zoo:
    """Initial MLPs, of MNIST's size or tiny ones."""
    network = MLP([6, 5, 4, 3]) if toy else MLP([784, 32, 32, 10])
    rows = torch.stack([weights_of(network, seed) for seed in range(6 if toy else 100)])
    return Zoo(rows, Layout.of(network), network)


def of_zoo(toy: bool) -> Measured:
    """A zoo in one call, beside its floor, one member after the other, and the transcription."""
    name, zoo = "100 MNIST MLPs", mlps(toy)
    spec = PermutationSpec.of(zoo.network)
    first = zoo.weights[0]

    def one_at_a_time() -> list[float]:
        return [weight_matching(first, row, spec).objective[-1] for row in zoo.weights]

    def published() -> list[float]:
        state, values = spec.parameters(first), []
        for row in zoo.weights:
            own = spec.parameters(row)
            values.append(inner_product(state, spec.permute(own, Permutation(git_rebasin(state, own, spec)))))
        return values

    seconds, spread, aligned = timed(lambda: canonicalise(zoo), repeats=5)
    with one_thread():
        alone, _, of_each = timed(one_at_a_time, repeats=1)
        transcription, _, there = timed(published, repeats=1)
    found = torch.tensor(aligned.record["stages"][-1]["objective_after"], dtype=torch.float64)
    difference = float((found / torch.tensor(of_each, dtype=torch.float64) - 1).abs().max())
    holds = {"objectives as one at a time": difference < 1e-5}
    if not toy:
        holds[f"at most {MOST_SECONDS[name]} s"] = seconds <= MOST_SECONDS[name]
        holds["objective no worse than the transcription's"] = float(found.mean()) >= 0.999 * sum(there) / len(there)
    return Measured(
        seconds, spread,
        {"floor": Floor.of(lambda: canonicalise(zoo)).seconds(), "one at a time": alone, "published": transcription},
        {"largest relative difference to one at a time": difference, "mean objective": float(found.mean()),
         "mean objective, published": sum(there) / len(there)},
        holds,
    )  # fmt: skip


def of_universe(toy: bool) -> Measured:
    """A round of matching to the mean, with what belongs to it; beside it the matching to one member."""
    zoo = mlps(toy)
    seconds, spread, universe = timed(lambda: canonicalise(zoo, rounds=1), repeats=5)
    without, _, _ = timed(lambda: canonicalise(zoo), repeats=5)
    spreads = universe.record["stages"][-1]["spread"]
    both = Floor.of(lambda: canonicalise(zoo, rounds=1)).seconds()
    floor = max(both - Floor.of(lambda: canonicalise(zoo)).seconds(), TOLD)
    return Measured(
        max(seconds - without, TOLD), spread, {"floor": floor, "matching to one member": without},
        {"spread before": spreads[0], "spread after": spreads[-1]},
        {"the zoo is no wider": spreads[-1] <= spreads[0] * (1 + 1e-6)},
    )  # fmt: skip


def resnet_20(toy: bool) -> Measured:
    """Two strangers."""
    network = ResNet((4, 5), 1, channels=1, outputs=3) if toy else ResNet((16, 32, 64), 3)
    return of_pair("ResNet-20 pair", network, "planted" if toy else "strangers", git_rebasin, toy)


def resnet_18(toy: bool) -> Measured:
    """Two strangers."""
    network = ResNet((4, 5), 1, channels=1, outputs=3) if toy else ResNet((64, 128, 256, 512), 2)
    return of_pair("ResNet-18 pair", network, "planted" if toy else "strangers", git_rebasin, toy)


def vit_small(toy: bool) -> Measured:
    """A network and a permuted copy under noise."""
    network = ViT(8, 4, 12, 2, 3, hidden=10, channels=2, outputs=3) if toy else ViT()
    return of_pair("ViT-Small-192 pair", network, "planted", transfusion, toy)


ROWS: dict[str, Callable[[bool], Measured]] = {
    "100 MNIST MLPs": of_zoo,
    "a universe round": of_universe,
    "ResNet-20 pair": resnet_20,
    "ResNet-18 pair": resnet_18,
    "ViT-Small-192 pair": vit_small,
}
