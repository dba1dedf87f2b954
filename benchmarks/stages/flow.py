"""The flow, from a step of its training to the ladder of notebook 06.

Beside it stand the published recipe (arXiv 2601.05052, its released code), written down again here in plain PyTorch,
this course as it was at a9c0612, and the floor: the matrix products that a step cannot do without. Long trainings of
what stands beside are measured for some hundred steps and extrapolated, for every step costs the same; rows that do
so name it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.measure import Measured, timed
from dwflow_lite import DeepWeightFlow, Zoo, evaluate, load_task
from dwflow_lite.auditing import nearest_distance
from dwflow_lite.flow import (
    FixedSource,
    FlowSettings,
    GaussianSource,
    VelocityField,
    dispersion_ratio,
    integrate,
    train_flow,
)
from dwflow_lite.generate import fit_together
from dwflow_lite.support.devices import one_thread
from dwflow_lite.symmetry import canonicalise

ZOO = Path(__file__).parents[2] / "data" / "digits_mlp.safetensors"  # 100 networks, and 20 held out
BEFORE = FlowSettings(steps=3000, batch_size=64, lr=1e-3, every=250)  # the defaults of a9c0612
# Steps after which the flow reads at least 95 % of the zoo's accuracy (200 are enough; some more are safe) …
ENOUGH = FlowSettings(steps=250, batch_size=64)
# … and how far the published recipe is along its 30,000 when it first does, looked at every 500 steps: one fixed noise
# vector a network, of 0.01 in weight units, is a far easier task than fresh noise, and is soon learned.
PUBLISHED_ENOUGH = 500
GOAL = 0.95  # of the zoo's accuracy


# -- the published loop ----------------------------------------------------------------------------------------------


def published_field(dim: int, hidden: int, time_dim: int = 64) -> nn.Module:
    """The field of the paper's code, with the dropout of PyTorch, started from the package's seed."""
    field = VelocityField(dim, hidden, time_dim, dropout=0.1)
    field.body[3], field.body[7] = nn.Dropout(0.1), nn.Dropout(0.1)
    return field


def published_loop(field: nn.Module, codes: Tensor, noise: Tensor, steps: int, batch_size: int = 8) -> list[float]:
    """Batches of eight, one fixed noise vector a network, AdamW, and a copy of the luckiest state; gives the losses."""
    optimizer = torch.optim.AdamW(field.parameters(), lr=5e-4, weight_decay=1e-5, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30_000, eta_min=1e-6)
    losses, lowest, best = [], float("inf"), {}
    field.train()
    for _ in range(steps):
        rows = torch.randperm(len(codes))[:batch_size]
        x0, x1, t = noise[rows], codes[rows], torch.rand(len(rows))
        x = torch.lerp(x0, x1, t[:, None]) + 0.001 * torch.randn_like(x1)
        loss = (field(x, t) - (x1 - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if losses[-1] < lowest:
            lowest, best = losses[-1], deepcopy(field.state_dict())
    field.load_state_dict(best)
    return losses


@torch.no_grad()
def published_solver(field: nn.Module, x: Tensor, steps: int = 99) -> Tensor:
    """RK4 in equal steps, as the paper follows its flow."""
    h = 1 / steps
    for step in range(steps):
        t = torch.tensor(step * h)
        k1 = field(x, t)
        k2 = field(x + h / 2 * k1, t + h / 2)
        k3 = field(x + h / 2 * k2, t + h / 2)
        k4 = field(x + h * k3, t + h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def products(field: VelocityField, batch_size: int) -> Callable[[], None]:
    """The matrix products of one step: each layer forwards, and backwards for its weight and its input."""
    weights = [layer.weight.detach() for layer in field.modules() if isinstance(layer, nn.Linear)]
    inputs = [torch.randn(batch_size, weight.shape[1]) for weight in weights]

    def step() -> None:
        for x, weight in zip(inputs, weights, strict=True):
            out = x @ weight.T  # (B, out)
            out.T @ x  # (out, in)
            out @ weight  # (B, in)

    return step


# -- rows ------------------------------------------------------------------------------------------------------------


def step_rate(toy: bool) -> Measured:
    """One step at k = 99, h = 512, batches of eight, in the published settings."""
    steps, hidden = (5, 16) if toy else (300, 512)
    codes = torch.randn(100, 99, generator=torch.Generator().manual_seed(0))
    source = FixedSource(GaussianSource(99, 0.05), 100, torch.Generator().manual_seed(1))
    settings = replace(FlowSettings.published(), steps=steps, hidden=hidden)

    def package() -> float:
        torch.manual_seed(0)
        log = train_flow(VelocityField(99, hidden), codes, source, settings)
        return log.loss[-1]

    def published() -> float:
        torch.manual_seed(0)
        losses = published_loop(published_field(99, hidden), codes, source.points, steps)
        return sum(losses) / len(losses)

    with one_thread():
        seconds, spread, loss = timed(package)
        beside, _, its_loss = timed(published)
        multiply = products(VelocityField(99, hidden), 8)
        floor, _, _ = timed(lambda: [multiply() for _ in range(steps)])
    holds = {"the same loss (within 20 %)": abs(loss / its_loss - 1) < 0.2}
    if not toy:
        holds["no slower than the published loop"] = seconds <= beside
    return Measured(
        seconds / steps, spread, {"published": beside / steps, "floor": floor / steps},
        {"loss": loss, "published loss": its_loss}, holds,
    )  # fmt: skip


def time_to_accuracy(toy: bool) -> Measured:
    """From codes to a flow whose networks read 95 % of what the embedded digits zoo reads, on the test split.

    The published recipe is measured for some hundred steps; its time is that of a step times the 30,000 it takes, and,
    as "published, stopped in time", times those after which it first reads as much.
    """
    task, zoo = load_task("digits"), canonicalise(Zoo.load(ZOO))
    measured_steps, settings = (3, FlowSettings(hidden=16, steps=3)) if toy else (300, ENOUGH)

    def package() -> DeepWeightFlow:
        return DeepWeightFlow(align=None, flow=settings).fit(zoo)

    def published() -> None:
        flow = replace(FlowSettings.published(), steps=measured_steps)
        DeepWeightFlow.published(align=None, flow=flow).fit(zoo)

    with one_thread():
        seconds, spread, model = timed(package)
        recipe, _, _ = timed(published)
    made = model.sample(100, seed=1)
    score, its_score = (float(evaluate(z, task, "test").score.mean()) for z in (made, zoo.fitted))
    each = recipe / measured_steps
    beside = {"published (extrapolated)": 30_000 * each, "published, stopped in time": PUBLISHED_ENOUGH * each}
    checks = {"accuracy": score, "of the zoo": its_score, "nearest member": _nearest(made, zoo)}
    holds = {"networks": len(made) == 100}
    if not toy:
        holds |= {"95 % of the zoo's accuracy": score >= GOAL * its_score}
        holds |= {"10 times shorter than the published recipe": 10 * seconds <= 30_000 * each}
    return Measured(seconds, spread, beside, checks, holds)


def default_settings(toy: bool) -> Measured:
    """A whole training in default settings beside one in those of a9c0612 (a tenth of it, times ten)."""
    task, zoo = load_task("digits"), canonicalise(Zoo.load(ZOO))
    now, tenth = FlowSettings(), replace(BEFORE, steps=BEFORE.steps // 10)
    if toy:
        now, tenth = (replace(settings, hidden=16, steps=3) for settings in (now, tenth))
    with one_thread():
        seconds, spread, model = timed(lambda: DeepWeightFlow(align=None, flow=now).fit(zoo))
        part, _, _ = timed(lambda: DeepWeightFlow(align=None, flow=tenth).fit(zoo))
    was = part * BEFORE.steps / tenth.steps
    made = model.sample(100, seed=1)
    score, its_score = (float(evaluate(z, task, "test").score.mean()) for z in (made, zoo.fitted))
    dispersion = dispersion_ratio(made.weights, zoo.fitted.weights)
    checks = {"accuracy": score, "of the zoo": its_score}
    checks |= {"nearest member": _nearest(made, zoo), "dispersion": dispersion}
    holds = {"networks": len(made) == 100}
    if not toy:
        holds |= {"within 1.5 points of the zoo": score >= its_score - 0.015, "dispersion": dispersion > 0.9}
    return Measured(seconds, spread, {"settings of a9c0612 (extrapolated)": was}, checks, holds)


def solvers(toy: bool) -> Measured:
    """A hundred codes from noise to their end: Heun in 20 steps beside RK4 in 99."""
    hidden, steps = (16, 3) if toy else (512, 99)
    generator = torch.Generator().manual_seed(0)
    field = VelocityField(99, hidden)
    nn.init.normal_(field.head.weight, std=0.05, generator=generator)
    field.eval()
    x0 = torch.randn(100, 99, generator=generator)
    with one_thread():
        seconds, spread, heun = timed(lambda: integrate(field, x0, steps=20, keep=False).end)
        rk4, _, ours = timed(lambda: integrate(field, x0, steps=steps, solver="rk4", keep=False).end)
        published, _, theirs = timed(lambda: published_solver(field, x0, steps))
    difference = float((ours - theirs).norm() / theirs.norm())
    error = float((heun - ours).norm() / ours.norm())
    holds = {"RK4 is the published one": difference < 1e-4, "Heun within 1 %": error < 0.01}
    return Measured(
        seconds, spread, {"RK4 99": rk4, "published RK4 99": published},
        {"RK4 against published": difference, "Heun against RK4": error}, holds,
    )  # fmt: skip


def ladder(toy: bool) -> Measured:
    """Notebook 06: six widths on two bases, seven sources and three numbers of components.

    As it was, one flow after the other in the settings of a9c0612, is measured for a fiftieth of its steps.
    """
    zoo = Zoo.load(ZOO)
    bases = {"aligned": canonicalise(zoo), "not aligned": zoo}
    widths = (8, 16) if toy else (32, 64, 128, 256, 512, 1024)

    def flows(settings: FlowSettings) -> dict[tuple, tuple[DeepWeightFlow, Zoo]]:
        work = {}
        for basis, networks in bases.items():
            for h in widths:
                work[basis, h] = DeepWeightFlow(align=None, flow=replace(settings, hidden=h)), networks
        flow = replace(settings, hidden=widths[-2])
        variants = [{"source": source} for source in (0.02, 0.2, 1.0, "matched", "kaiming")]
        variants += [{"fixed_source": True}, {"source": 1.0, "flow": replace(flow, coupling="assignment")}]
        variants += [{"components": k} for k in (5, 20, 50)]
        for number, options in enumerate(variants):
            work["variant", number] = DeepWeightFlow(**{"align": None, "flow": flow} | options), bases["aligned"]
        return work

    def one_after_the_other(settings: FlowSettings) -> None:
        for model, networks in flows(settings).values():
            model.fit(networks)

    before = replace(BEFORE, steps=2 if toy else BEFORE.steps // 50)
    now = FlowSettings(steps=2) if toy else FlowSettings()
    seconds, spread, models = timed(lambda: fit_together(flows(now)), repeats=1, warm=0)
    part, _, _ = timed(lambda: one_after_the_other(before), repeats=1, warm=0)
    was = part * BEFORE.steps / before.steps
    holds = {"all flows": len(models) == 2 * len(widths) + 10}
    if not toy:
        holds["3 times faster"] = 3 * seconds <= was
    return Measured(seconds, spread, {"as it was (extrapolated)": was}, {"flows": float(len(models))}, holds)


def _nearest(made: Zoo, zoo: Zoo) -> float:
    """Median distance to the nearest member, in units of the members' own."""
    members = zoo.fitted.weights
    own = nearest_distance(members, members, skip_self=True)
    return float(nearest_distance(made.weights, members).median() / own.median())


ROWS: dict[str, Callable[[bool], Measured]] = {
    "flow: a step, k = 99, h = 512, batches of 8": step_rate,
    "flow: time to 95 % of the zoo's accuracy": time_to_accuracy,
    "flow: a training in default settings": default_settings,
    "flow: 100 codes followed": solvers,
    "flow: ladder, sources and components of notebook 06": ladder,
}
