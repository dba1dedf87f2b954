"""Fit a velocity field to points, and watch whether it spreads, copies or collapses."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dwflow_lite.flow.field import VelocityField
from dwflow_lite.flow.path import Source, StraightPath, couple
from dwflow_lite.flow.solver import Field, integrate
from dwflow_lite.support import checkpoints
from dwflow_lite.support.devices import one_thread
from dwflow_lite.support.files import digest
from dwflow_lite.support.progress import bar as progress_bar

ONE_THREAD_BELOW = 2_000_000  # parameters of a field; measured: at most a quarter is lost, and nothing stalls


def dispersion_ratio(points: Tensor, reference: Tensor) -> float:
    """Spread of ``points`` (n, k) over that of ``reference`` (N, k), both about the mean of ``reference``.

    Root mean square distance: 1 for a set like the reference, 0 for a collapse to its mean, about 1/√m for m-soups.
    """
    centre = reference.mean(0)
    spread = (reference - centre).square().sum(-1).mean().sqrt()
    return float((points - centre).square().sum(-1).mean().sqrt() / spread)


@dataclass
class FlowTraining:
    """What happened in training: one entry for each look, every ``every`` steps.

    ``steps``, ``loss`` (mean training loss since the last look), ``held_out_loss`` (fixed noise and times, so that
    looks compare; empty without held-out points), ``dispersion`` (of 64 generated points). ``best_step`` is where the
    held-out loss was lowest; ``last`` and ``best`` are states of the field; ``lowest``, where asked for, the state
    after the single batch of lowest loss; ``stopped`` says why training ended.
    """

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    held_out_loss: list[float] = field(default_factory=list)
    dispersion: list[float] = field(default_factory=list)
    best_step: int = 0
    stopped: str = ""
    last: dict[str, Tensor] = field(default_factory=dict, repr=False)
    best: dict[str, Tensor] = field(default_factory=dict, repr=False)
    lowest: dict[str, Tensor] = field(default_factory=dict, repr=False)


def flow_matching_loss(
    field: Field, path: StraightPath, x0: Tensor, x1: Tensor, t: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """E ‖v(x_t, t) - u_t‖² per coordinate, for pairs x0, x1 (n, k) at times t (n,) (arXiv 2302.00482, eq. 9)."""
    x, velocity = path.sample(x0, x1, t, generator)
    return (field(x, t) - velocity).square().mean()


def train_flow(
    field: VelocityField,
    points: Tensor,
    source: Source,
    *,
    path: StraightPath | None = None,
    held_out: Tensor | None = None,
    steps: int = 3000,
    batch_size: int = 64,
    lr: float = 1e-3,
    final_lr: float = 1e-6,
    weight_decay: float = 1e-5,
    coupling: str = "independent",
    every: int = 250,
    patience: int | None = None,
    track_lowest: bool = False,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> FlowTraining:
    """Minimise E ‖v(x_t, t) - (x1 - x0)‖² by AdamW with a cosine schedule; ``field`` ends in its last state.

    Args:
        field: the network to train (changed).
        points: targets (N, k).
        source: of the starting points.
        path: ``StraightPath()`` by default.
        held_out: targets (M, k) the field is never trained on; they give ``held_out_loss`` and ``best``.
        steps: optimizer steps, each on ``batch_size`` pairs.
        batch_size: targets are drawn without repeats within a pass over the points.
        lr: learning rate at the start, falling to ``final_lr`` along a cosine.
        weight_decay: of AdamW; betas are (0.9, 0.95) as in the paper's code.
        coupling: ``"independent"`` or ``"assignment"`` within each batch.
        every: steps between looks.
        patience: stop after so many looks without a lower held-out loss; None: never (needs ``held_out``).
        track_lowest: keep the state after the single batch of lowest loss too. The paper's code generates from it; a
            lucky batch is no evidence, so this is here to be compared with.
        seed: of batches, times, noise and dropout.
        checkpoint: a file in which half-finished training is kept (every ten seconds) until it is done; found there,
            training of the same points and settings goes on and ends as if it had never stopped.
        progress: show a bar with loss and dispersion.

    Raises:
        ValueError: arguments that do not fit each other.
        FloatingPointError: the loss is no longer finite.
    """
    if points.ndim != 2 or points.shape[1] != field.dim or not torch.isfinite(points).all():
        raise ValueError(f"points must be finite and of shape (N, {field.dim}), got {tuple(points.shape)}")
    if held_out is not None and (
        held_out.ndim != 2 or held_out.shape[1] != field.dim or not len(held_out) or not torch.isfinite(held_out).all()
    ):
        raise ValueError(f"held_out must be finite and of shape (M >= 1, {field.dim}), got {tuple(held_out.shape)}")
    if patience is not None and held_out is None:
        raise ValueError("patience watches the held-out loss: give held_out points, or patience=None")
    if min(steps, batch_size, every, 1 if patience is None else patience) < 1 or not 0 < lr < float("inf"):
        raise ValueError("steps, batch_size, every and patience must be >= 1, and lr > 0")
    path, log, device = path or StraightPath(), FlowTraining(), points.device
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(field.parameters(), lr=lr, weight_decay=weight_decay, betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=min(final_lr, lr))
    probe = _probe(held_out, source, path, seed)
    look_from = source.sample(64, torch.Generator().manual_seed(seed + 1)).to(device)
    order, running, best, lowest = torch.empty(0, dtype=torch.long), [], float("inf"), float("inf")
    file, done, last_save = Path(checkpoint) if checkpoint else None, 0, time.monotonic()
    if file:
        settings = [repr(field), path.noise, steps, batch_size, lr, final_lr, weight_decay, coupling, every, patience]
        given = {"points": points, "look_from": look_from} | ({} if held_out is None else {"held_out": held_out})
        identity = digest(field.state_dict() | given, repr([*settings, track_lowest, seed]))
    field.train()
    cuda = [device] if device.type == "cuda" else []
    small = sum(p.numel() for p in field.parameters()) < ONE_THREAD_BELOW
    with (
        torch.random.fork_rng(devices=cuda),
        one_thread(small),
        progress_bar(total=steps, desc="flow", progress=progress) as bar,
    ):
        # Dropout draws from the global generator of its device, which fork_rng gives back as it was.
        torch.default_generator.manual_seed(seed)
        for one in cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        if file and (saved := checkpoints.read_partial(file, identity, device)):
            done, order, running, best, lowest = (saved[k] for k in ("done", "order", "running", "best", "lowest"))
            order, running, log = order.cpu(), list(running), FlowTraining(**saved["log"])
            for part, name in ((field, "field"), (optimizer, "optimizer"), (schedule, "schedule")):
                part.load_state_dict(saved[name])
            generator.set_state(saved["generator"].cpu())
            for draws, state in zip(_global_draws(cuda), saved["draws"], strict=True):
                draws.set_state(state.cpu())
            bar.update(done)
        for step in range(done + 1, steps + 1):
            while len(order) < batch_size:
                order = torch.cat([order, torch.randperm(len(points), generator=generator)])
            x1, order = points[order[:batch_size].to(device)], order[batch_size:]
            x0 = source.sample(batch_size, generator, training=True).to(x1)
            x0, x1 = couple(x0, x1, coupling)
            t = torch.rand(batch_size, generator=generator).to(x1)
            loss = flow_matching_loss(field, path, x0, x1, t, generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            running.append(loss.detach())
            if track_lowest and float(running[-1]) < lowest:
                lowest, log.lowest = float(running[-1]), _state(field)
            if step % every == 0 or step == steps:
                log.steps.append(step)
                log.loss.append(float(torch.stack(running).mean()))
                running = []
                if not log.loss[-1] < float("inf"):
                    raise FloatingPointError(f"flow training diverged at step {step} (loss {log.loss[-1]}): lower lr")
                log.dispersion.append(dispersion_ratio(integrate(field, look_from, steps=8, keep=False).end, points))
                current = log.loss[-1]
                if probe is not None:
                    log.held_out_loss.append(current := _held_out_loss(field, *probe))
                if probe is None or current < best:
                    best, log.best_step, log.best = current, step, _state(field)
                bar.set_postfix(loss=f"{log.loss[-1]:.3f}", dispersion=f"{log.dispersion[-1]:.2f}", refresh=False)
                if patience is not None and step - log.best_step >= patience * every:
                    log.stopped = f"held-out loss has not fallen for {patience} looks"
                    break
            if file and time.monotonic() - last_save > checkpoints.SAVE_EVERY_SECONDS:
                checkpoints.write_partial(file, {
                    "identity": identity, "done": step, "order": order, "running": running, "best": best,
                    "lowest": lowest, "log": vars(log), "field": field.state_dict(), "generator": generator.get_state(),
                    "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
                    "draws": [draws.get_state() for draws in _global_draws(cuda)],
                })  # fmt: skip
                last_save = time.monotonic()
            bar.update()
    log.stopped = log.stopped or "all steps taken"
    log.last = _state(field)
    field.eval()
    if file:
        file.unlink(missing_ok=True)
    return log


def _global_draws(cuda: list[torch.device]) -> list[torch.Generator]:
    """The generators that dropout draws from."""
    return [torch.default_generator, *(torch.cuda.default_generators[d.index or 0] for d in cuda)]


def _state(field: VelocityField) -> dict[str, Tensor]:
    return deepcopy({k: v.detach() for k, v in field.state_dict().items()})


def _probe(
    held_out: Tensor | None, source: Source, path: StraightPath, seed: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Fixed points, velocities and times from the held-out targets, drawn once: about 512 of them."""
    if held_out is None:
        return None
    generator = torch.Generator().manual_seed(seed + 2)
    x1 = held_out.repeat(-(-512 // len(held_out)), 1)
    t = torch.rand(len(x1), generator=generator).to(x1)
    x, velocity = path.sample(source.sample(len(x1), generator).to(x1), x1, t, generator)
    return x, t, velocity


@torch.no_grad()
def _held_out_loss(field: VelocityField, x: Tensor, t: Tensor, velocity: Tensor) -> float:
    field.eval()
    loss = (field(x, t) - velocity).square().mean()
    field.train()
    return float(loss)
