"""What a card is good for: every stage on it, beside the processor of the same machine, and a loop or a product on it.

    python -m benchmarks.bench --stages card --out benchmarks/results/bench-card.json

Where there is no card, both columns are the processor's, and say that the rows run and are right. Zoos are trained for
some steps only, as every step costs the same; images are MNIST and CIFAR-10, which $DWFLOW_DATA has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measure import Measured, side_by_side, timed
from benchmarks.stages.alignment import mlps, pair_of
from benchmarks.stages.pca import rows_of, some_codes
from benchmarks.stages.zoo import some_of
from dwflow_lite import MLP, DualPCA, PermutationSpec, Recipe, Task, Zoo, canonicalise, load_task, train_zoo
from dwflow_lite.flow import FlowSettings, VelocityField, integrate, train_flow
from dwflow_lite.flow.path import GaussianSource
from dwflow_lite.networks import ResNet, ViT
from dwflow_lite.support.devices import usable_device
from dwflow_lite.symmetry import weight_matching

CARD, CPU = usable_device(), torch.device("cpu")
TIMES_THE_LOOP = 30.0  # of 100 MNIST MLPs, on the card
NETWORKS_AGREE = 0.1  # after some steps on two devices; others of the zoo differ by 1.4
ENDS_AGREE = 1e-4


def noise(shape: tuple[int, ...]) -> Task:
    """Images of noise, in ten classes."""
    x = torch.rand(2000, *shape, generator=torch.Generator().manual_seed(0))
    return Task.from_arrays(x.numpy(), (torch.arange(len(x)) % 10).numpy(), outputs=10, name="noise")


def difference(a: Tensor, b: Tensor) -> float:
    """Of two tensors on any devices, relative to the second."""
    return float((a.cpu() - b.cpu()).norm() / b.cpu().norm())


# -- training ----------------------------------------------------------------------------------------------------------


def zoo_of(
    name: str, network: nn.Module, tiny: nn.Module, members: int, steps: int, at_least: float, toy: bool
) -> Measured:
    """Members at once on the card; beside it one by one on the card, and at once on the processor (a few steps).

    ``at_least`` so many times the loop is the target (0: none, and large networks are trained once).
    """
    few_steps = max(2, steps // 50)
    if toy:
        task, network, members, steps = noise((3, 8, 8)), tiny, 2, 2
    else:
        task = load_task(name)
    recipe = Recipe(epochs=1)

    def trained(steps: int, members: int, device: torch.device, method: str = "batched") -> Zoo:
        some = some_of(task, steps * recipe.batch_size)
        sizes = {"members": members, "members_at_once": members, "scored": ["validation"]}
        return train_zoo(some, network, recipe=recipe, device=device, method=method, **sizes)

    loop_members = 2
    repeats = 3 if at_least and not toy else 1
    seconds, spread, _ = timed(lambda: trained(steps, members, CARD), repeats)
    loop, _, _ = timed(lambda: trained(steps, loop_members, CARD, "loop"), repeats=1)
    processor, _, there = timed(lambda: trained(few_steps, members, CPU), repeats=1, warm=0)
    off = difference(trained(few_steps, members, CARD).weights, there.weights)
    beside = {"loop (scaled)": loop * members / loop_members, "processor (scaled)": processor * steps / few_steps}
    checks = {"members": members, "steps": steps, "difference to the processor's networks": off}
    holds = {"the networks of the processor": off < NETWORKS_AGREE}
    if at_least and not toy and CARD != CPU:
        holds[f"at least {at_least:g} times the loop"] = beside["loop (scaled)"] >= at_least * seconds
    return Measured(seconds, spread, beside, checks, holds)


# -- alignment ---------------------------------------------------------------------------------------------------------


def aligned_zoo(toy: bool) -> Measured:
    """Products on the card, assignments on the processor."""
    zoo = mlps(toy)
    there = zoo.to(CARD)
    found = side_by_side({"card": lambda: canonicalise(there), "processor": lambda: canonicalise(zoo)})
    off = difference(canonicalise(there).weights, canonicalise(zoo).weights)
    checks = {"largest difference of a weight": off}
    return Measured(*found["card"], {"processor": found["processor"][0]}, checks, {"the same permutations": off == 0})


def aligned_pair(toy: bool) -> Measured:
    """Two ResNet-18, strangers."""
    network = ResNet((4, 5), 1, channels=1, outputs=3) if toy else ResNet((64, 128, 256, 512), 2)
    spec = PermutationSpec.of(network)
    a, b = pair_of(network, "strangers")
    on_card = a.to(CARD), b.to(CARD)
    found = side_by_side(
        {"card": lambda: weight_matching(*on_card, spec), "processor": lambda: weight_matching(a, b, spec)}
    )
    objectives = [weight_matching(*pair, spec).objective[-1] for pair in (on_card, (a, b))]
    checks = {"objective": objectives[0], "objective, processor": objectives[1]}
    holds = {"objectives within 1 %": math.isclose(*objectives, rel_tol=0.01)}
    return Measured(*found["card"], {"processor": found["processor"][0]}, checks, holds)


# -- PCA ---------------------------------------------------------------------------------------------------------------


def fitted(toy: bool) -> Measured:
    """100 networks of two million weights, in memory of the device."""
    x = rows_of(8, 3000) if toy else rows_of(100, 2_000_000)
    there = x.to(CARD)
    found = side_by_side({
        "card": lambda: DualPCA(copy=False).fit(there),
        "one product": lambda: there @ there.T,
        "processor": lambda: DualPCA(copy=False).fit(x),
    })  # fmt: skip
    variances = [DualPCA(copy=False).fit(rows).explained_variance_.cpu() for rows in (there, x)]
    off = float((variances[0] / variances[1] - 1).abs().max())
    beside = {name: found[name][0] for name in ("one product", "processor")}
    checks = {"largest relative difference of a variance": off}
    return Measured(*found["card"], beside, checks, {"variances are those of the processor": off < 1e-6})


def decoded(toy: bool) -> Measured:
    """100 networks of two million weights from their codes."""
    x = rows_of(8, 3000) if toy else rows_of(100, 2_000_000)
    there = x.to(CARD)
    pca, here = DualPCA(copy=False).fit(there), DualPCA(copy=False).fit(x)
    codes = some_codes(here, len(x))  # signs of the components are the same: see the check
    on_card, coefficients = codes.to(CARD), (codes @ here.combination_.T.float()).to(CARD)
    found = side_by_side({
        "card": lambda: pca.inverse_transform(on_card),
        "one product": lambda: coefficients @ there,
        "processor": lambda: here.inverse_transform(codes),
    })  # fmt: skip
    back = [p.transform(p.inverse_transform(c)).cpu() for p, c in ((pca, on_card), (here, codes))]
    off = max(difference(b, codes) for b in back)
    beside = {name: found[name][0] for name in ("one product", "processor")}
    return Measured(*found["card"], beside, {"largest difference of a code": off}, {"codes come back": off < 1e-3})


# -- flow --------------------------------------------------------------------------------------------------------------


def flow(toy: bool) -> Measured:
    """A training in default settings on 100 codes of 99 numbers, from one seed on both devices."""
    dim, settings = (5, FlowSettings(hidden=16, steps=3)) if toy else (99, FlowSettings())
    codes = torch.randn(100, dim, generator=torch.Generator().manual_seed(0))

    def trained(device: torch.device) -> float:
        torch.manual_seed(0)
        field = VelocityField(dim, settings.hidden).to(device)
        return train_flow(field, codes.to(device), GaussianSource(dim, 1.0), settings).loss[-1]

    seconds, spread, loss = timed(lambda: trained(CARD))
    processor, _, its_loss = timed(lambda: trained(CPU), repeats=1, warm=0)
    checks = {"loss": loss, "loss, processor": its_loss}
    holds = {"losses within 5 %": math.isclose(loss, its_loss, rel_tol=0.05)}
    return Measured(seconds, spread, {"processor": processor}, checks, holds)


def followed(n: int, toy: bool) -> Measured:
    """Codes from noise to their end, Heun in 20 steps."""
    n = min(n, 100) if toy else n
    field = VelocityField(99, 16 if toy else 512)
    nn.init.normal_(field.head.weight, std=0.05, generator=torch.Generator().manual_seed(0))
    x0 = torch.randn(n, 99, generator=torch.Generator().manual_seed(1))
    processor, _, its_end = timed(lambda: integrate(field.eval(), x0, steps=20, keep=False).end)
    there, start = field.to(CARD), x0.to(CARD)
    seconds, spread, end = timed(lambda: integrate(there, start, steps=20, keep=False).end)
    off = float((end.cpu() - its_end).norm() / its_end.norm())
    checks = {"difference to the processor": off}
    return Measured(seconds, spread, {"processor": processor}, checks, {"the same ends": off < ENDS_AGREE})


MNIST_MLP, RESNET_18, VIT_SMALL = MLP([784, 32, 32, 10]), ResNet((64, 128, 256, 512), 2), ViT(32, 4, 192, 6, 3)
TINY = MLP([192, 4, 10]), ResNet((4, 5), 1), ViT(8, 4, 12, 1, 3)
ROWS: dict[str, Callable[[bool], Measured]] = {
    "train 100 MLPs 784-32-32-10 on MNIST": partial(zoo_of, "mnist", MNIST_MLP, TINY[0], 100, 800, TIMES_THE_LOOP),
    "train 12 ResNet-18 on CIFAR-10": partial(zoo_of, "cifar10", RESNET_18, TINY[1], 12, 20, 0.0),
    "train 12 ViT-Small-192 on CIFAR-10": partial(zoo_of, "cifar10", VIT_SMALL, TINY[2], 12, 20, 0.0),
    "align 100 MNIST MLPs": aligned_zoo,
    "align a ResNet-18 pair": aligned_pair,
    "fit 100 networks of 2 million weights": fitted,
    "decode 100 of them": decoded,
    "train a flow in default settings": flow,
    "follow 100 codes": partial(followed, 100),
    "follow 10,000 codes": partial(followed, 10_000),
}  # fmt: skip
