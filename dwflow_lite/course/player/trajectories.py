"""What the player shows: networks on their way from noise, along a flow and along a Gaussian, in two bases of a zoo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dwflow_lite.auditing import nearest_distance
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import DeepWeightFlow, GaussianCodes
from dwflow_lite.networks import MLP
from dwflow_lite.support.devices import generator_from
from dwflow_lite.support.products import row_shares
from dwflow_lite.symmetry import PermutationSpec, canonicalise, match_all
from dwflow_lite.tasks import Task
from dwflow_lite.training import Recipe, train_zoo
from dwflow_lite.zoo import Zoo, evaluate

SOURCE = 0.05  # standard deviation of the noise that all start from, in units of the codes' root mean square
BASES = ("aligned", "not aligned")
KINDS = ("flow", "Gaussian")


@dataclass(frozen=True)
class Sizes:
    """How large the zoos are, how long they and their flows are trained, and how many networks are made.

    Attributes:
        members: of each zoo.
        networks: that are followed.
        epochs: of the members' training.
        flow_steps: of the flows' training.
        times: moments that are kept, from noise to network.
        widths: of both hidden layers, one zoo each.
        seed: of everything that is drawn.
    """

    members: int = 22
    networks: int = 20
    epochs: int = 25
    flow_steps: int = 400
    times: int = 21
    widths: tuple[int, ...] = (16, 64)
    seed: int = 0


SMOKE = Sizes(members=12, networks=10, epochs=10, flow_steps=120)


@dataclass(frozen=True)
class Family:
    """A zoo of one width, and how alignment orders its units.

    Attributes:
        zoo: as it was trained.
        orders: group of units -> for each member the order of its units in the aligned zoo (N, units).
        accuracy: of its members on the validation split, (N,).
    """

    zoo: Zoo
    orders: Mapping[str, Tensor]
    accuracy: Tensor


@dataclass(frozen=True)
class Scene:
    """One choice of width, basis and kind: T moments of n networks.

    Attributes:
        width, basis, kind: what was chosen.
        shares: every network is a sum of all N members of the zoo, by these shares, whose sum is 1: (T, n, N).
        points: the first two codes of the networks (T, n, 2), and of the members (N, 2).
        members: see ``points``.
        accuracy: of the networks on the validation split, (T, n).
        distance: to their nearest member, in units of a member's own distance to its nearest other one, (T, n).
    """

    width: int
    basis: str
    kind: str
    shares: Tensor
    points: Tensor
    members: Tensor
    accuracy: Tensor
    distance: Tensor


def family(task: Task, width: int, sizes: Sizes) -> Family:
    """Train a zoo, and match its members to the first."""
    recipe = Recipe(optimizer="adamw", lr=3e-3, weight_decay=1.0, epochs=sizes.epochs)
    zoo = train_zoo(task, MLP([64, width, width, 10]), members=sizes.members, recipe=recipe, seed=sizes.seed)
    spec = PermutationSpec.of(zoo.network)
    matchings = match_all(zoo.weights[0], zoo.weights, spec, seed=sizes.seed)
    orders = {g: torch.stack([m.permutation.indices[g] for m in matchings]) for g in spec.groups}  # (N, units)
    return Family(zoo, orders, evaluate(zoo, task, "validation").score)


def fitted_flow(zoo: Zoo, sizes: Sizes) -> DeepWeightFlow:
    """The flow of a zoo, in the basis in which the zoo is."""
    settings = FlowSettings(hidden=256, steps=sizes.flow_steps, dropout=0.0, solver_steps=sizes.times - 1)
    return DeepWeightFlow(align=False, flow=settings, source=SOURCE, seed=sizes.seed).fit(zoo)


def gaussian_path(std: Tensor, noise: Tensor, times: int) -> Tensor:
    """Points (T, n, k) of the same noise (n, k) as it is stretched to a Gaussian with standard deviations ``std`` (k,).

    This is the exact flow along straight paths from the one Gaussian to the other, which nobody has to learn.
    """
    t = torch.linspace(0, 1, times)[:, None, None]  # (T, 1, 1)
    return noise * ((1 - t).square() * SOURCE**2 + t.square() * std.square()).sqrt()


def scenes(task: Task, of: Family, width: int, sizes: Sizes) -> Iterator[Scene]:
    """Those of one width: both bases, each with its flow and its Gaussian, which start from the same noise."""
    for basis in BASES:
        zoo = canonicalise(of.zoo, seed=sizes.seed) if basis == "aligned" else of.zoo
        model = fitted_flow(zoo, sizes)
        path = model.trajectory(sizes.networks, seed=sizes.seed + 1)
        std = GaussianCodes().fit(zoo).std_ / model.scale_
        noise = torch.randn(sizes.networks, len(std), generator=generator_from(sizes.seed + 1))  # as the flow draws it
        both = {"flow": path.points, "Gaussian": gaussian_path(std, noise, sizes.times)}
        for kind in KINDS:
            yield _scene(task, model, both[kind], (width, basis, kind))


def _scene(task: Task, model: DeepWeightFlow, points: Tensor, names: tuple[int, str, str]) -> Scene:
    """What the networks of a trajectory (T, n, k) are and can do."""
    times, n, _ = points.shape
    members = model.zoo_.weights
    networks = model.decode(points.flatten(0, 1))  # T n of them
    unit = nearest_distance(members, members, skip_self=True).median()
    distance = nearest_distance(networks.weights, members) / unit
    return Scene(
        *names,
        shares=row_shares(points * model.scale_, model.pca_.combination_).float(),
        points=points[..., :2],
        members=model.encode(model.zoo_)[:, :2],
        accuracy=evaluate(networks, task, "validation").score.reshape(times, n),
        distance=distance.reshape(times, n),
    )
