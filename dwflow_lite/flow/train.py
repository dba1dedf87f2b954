"""Fit a velocity field to points."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from dwflow_lite.flow.conditional import Targets, check_coupling, given
from dwflow_lite.flow.field import VelocityField, dropout_from
from dwflow_lite.flow.path import Source, StraightPath, couple
from dwflow_lite.flow.settings import FlowSettings, require_settings
from dwflow_lite.flow.solver import Field
from dwflow_lite.flow.watch import LOOK_POINTS, FlowTraining, Watch
from dwflow_lite.support.checkpoints import Checkpoint
from dwflow_lite.support.checks import whole_seed
from dwflow_lite.support.devices import one_thread, out_of_memory_as
from dwflow_lite.support.files import digest, json_hash
from dwflow_lite.support.progress import bar as progress_bar

ONE_THREAD_BELOW = 2_000_000  # parameters of a field; measured: at most a quarter is lost, and nothing stalls


def flow_matching_loss(
    field: Field, path: StraightPath, x0: Tensor, x1: Tensor, t: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """E ‖v(x_t, t) - u_t‖² per coordinate, for pairs x0, x1 (n, k) at times t (n,) (arXiv 2302.00482, eq. 9)."""
    x, velocity = path.sample(x0, x1, t, generator)
    return (field(x, t) - velocity).square().mean()


@out_of_memory_as(
    "no memory to train the flow: pass FlowSettings with a smaller batch_size, or a narrower field (hidden)"
)
def train_flow(  # noqa: PLR0913 - a public door
    field: VelocityField,
    points: Tensor,
    source: Source,
    settings: FlowSettings = FlowSettings(),
    *,
    held_out: Tensor | None = None,
    conditions: Tensor | None = None,
    held_out_conditions: Tensor | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> FlowTraining:
    """Minimise E ‖v(x_t, t) - (x1 - x0)‖² by AdamW with a cosine schedule (arXiv 2210.02747; 2302.00482).

    Args:
        field: the network to train (changed); it ends in the state that ``settings.keep`` names, in eval mode.
        points: targets (N, k). Batches are drawn from them without repeats within a pass.
        source: of the starting points.
        settings: of batches, optimizer, path, coupling and looks. Those of the field itself (``hidden``, ``time_dim``,
            ``dropout``) and of the solver are not read here.
        held_out: targets (M, k) that the field is never trained on; they give ``held_out_loss`` and ``best``.
        conditions: what a ``ConditionalField`` is told of each target, (N, c); None for any other field.
        held_out_conditions: of each held-out target, (M, c).
        seed: of batches, times, noise and dropout.
        checkpoint: a file, or a folder (a name without a suffix), in which training is kept: half-finished every ten
            seconds, and finished. Called again with the same arguments it goes on as if it had never stopped, or gives
            back what is there; a file of other arguments is refused.
        progress: show a bar with loss and dispersion.

    Returns:
        What happened, look by look, and the states that were kept.

    Raises:
        TypeError: settings that are no ``FlowSettings``.
        ValueError: arguments that do not fit each other, or a checkpoint of other ones.
        FloatingPointError: the loss is no longer finite.
        MemoryError: ``batch_size`` or the field is too large.
    """
    require_settings(settings)
    seed = whole_seed(seed)
    check_targets(field, points, held_out, settings)
    targets = Targets(points, conditions)
    unseen = None if held_out is None else Targets(held_out, held_out_conditions)
    check_conditions(field, targets, unseen, settings)
    store = _checkpoint(checkpoint, field, targets, unseen, source, settings, seed)
    if store.finished:
        log = FlowTraining(**store.finished_state(points.device))
        return _with_kept_state(field, log, settings)

    path = StraightPath(settings.path_noise)
    # All that changes from step to step.
    generator = torch.Generator().manual_seed(seed)
    batches = Batches(points, settings.batch_size, generator, conditions)
    watch = Watch.of(targets, unseen, source, settings, seed)
    optimizer, schedule = make_optimizer(field, settings)
    parts = {"field": field, "batches": batches, "watch": watch, "optimizer": optimizer, "schedule": schedule}

    field.train()
    with (
        dropout_from(field, generator),
        one_thread(is_small(field)),
        progress_bar(total=settings.steps, desc="flow", progress=progress) as bar,
    ):
        done = _restore(store.half_done_state(points.device), parts, generator)
        bar.update(done)
        for step in range(done + 1, settings.steps + 1):
            loss = take_step(field, path, source, batches, optimizer, settings.coupling, generator)
            schedule.step()
            watch.note_loss(field, loss)
            if step % settings.every == 0 or step == settings.steps:
                watch.look(field, step)
                bar.set_postfix(watch.summary(), refresh=False)
                if watch.out_of_patience(step):
                    break
            if store.due():
                store.save(_state(step, parts, generator))
            bar.update()

    log = watch.close(field)
    store.finish(vars(log))
    return _with_kept_state(field, log, settings)


def take_step(
    field: VelocityField,
    path: StraightPath,
    source: Source,
    batches: Batches,
    optimizer: AdamW,
    coupling: str,
    generator: torch.Generator,
) -> Tensor:
    """One step of the optimizer on new pairs; gives their loss before it, on the device, where nobody waits for it."""
    x1, condition = batches.draw_targets()  # (B, k), and (B, c) or None
    x0 = source.sample(len(x1), generator, training=True).to(x1)  # (B, k)
    x0, x1 = couple(x0, x1, coupling)
    t = torch.rand(len(x1), generator=generator).to(x1)  # (B,)
    loss = flow_matching_loss(given(field, condition), path, x0, x1, t, generator)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def check_targets(field: VelocityField, points: Tensor, held_out: Tensor | None, settings: FlowSettings) -> None:
    """``ValueError`` unless targets (N, k), and held-out ones (M, k) if there are any, fit a field and its settings."""
    if points.ndim != 2 or points.shape[1] != field.dim or not torch.isfinite(points).all():
        raise ValueError(f"points must be finite and of shape (N, {field.dim}), got {tuple(points.shape)}")
    if held_out is None:
        if settings.patience is not None:
            raise ValueError("patience watches the held-out loss: give held_out points, or patience=None")
        if settings.keep == "best":
            raise ValueError("keep='best' goes by the held-out loss: give held_out points, or keep='last'")
        return
    fits = held_out.ndim == 2 and held_out.shape[1] == field.dim and len(held_out) > 0
    if not fits or not torch.isfinite(held_out).all():
        raise ValueError(f"held_out must be finite and of shape (M >= 1, {field.dim}), got {tuple(held_out.shape)}")


def check_conditions(field: VelocityField, targets: Targets, unseen: Targets | None, settings: FlowSettings) -> None:
    """``ValueError`` unless all targets have the conditions that a field takes, and none that it does not."""
    for points, conditions in (targets, unseen) if unseen is not None else (targets,):
        if conditions is None and field.conditions == 0:
            continue
        wanted = (len(points), field.conditions)
        if conditions is None or tuple(conditions.shape) != wanted:
            got = "none" if conditions is None else tuple(conditions.shape)
            raise ValueError(f"this field is told {field.conditions} numbers: conditions are {wanted}, got {got}")
        if not torch.isfinite(conditions).all():
            raise ValueError("conditions hold NaN or infinite numbers")
    if field.conditions:
        check_coupling(settings)


class Batches:
    """Endless batches of points (N, k), drawn without repeats within a pass over all of them.

    Args:
        points: (N, k).
        size: B of each batch; it may be larger than N.
        generator: of the order of each pass.
        conditions: of each point (N, c), or None.
    """

    def __init__(self, points: Tensor, size: int, generator: torch.Generator, conditions: Tensor | None = None) -> None:
        self.points = points
        self.conditions = conditions
        self.size = size
        self.generator = generator
        self.order = torch.empty(0, dtype=torch.long)  # positions of the points that are next

    def draw(self) -> Tensor:
        """The next points, (B, k)."""
        return self.draw_targets().points

    def draw_targets(self) -> Targets:
        """The next points (B, k), and their conditions (B, c) or None."""
        while len(self.order) < self.size:
            one_pass = torch.randperm(len(self.points), generator=self.generator)
            self.order = torch.cat([self.order, one_pass])
        rows, self.order = self.order.split([self.size, len(self.order) - self.size])
        rows = rows.to(self.points.device)
        return Targets(self.points[rows], None if self.conditions is None else self.conditions[rows])

    def state_dict(self) -> dict[str, Tensor]:
        """What is left of the pass."""
        return {"order": self.order}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.order = state["order"].cpu()


def make_optimizer(field: VelocityField, settings: FlowSettings) -> tuple[AdamW, CosineAnnealingLR]:
    """AdamW with the betas of the paper's code, and the cosine along which its learning rate falls."""
    optimizer = AdamW(
        field.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, betas=(0.9, 0.95), fused=True
    )
    final_lr = min(settings.final_lr, settings.lr)
    return optimizer, CosineAnnealingLR(optimizer, settings.steps, eta_min=final_lr)


def is_small(field: VelocityField) -> bool:
    """Whether a field trains as well on one thread."""
    return sum(parameter.numel() for parameter in field.parameters()) < ONE_THREAD_BELOW


def _with_kept_state(field: VelocityField, log: FlowTraining, settings: FlowSettings) -> FlowTraining:
    """Bring the field to the state that is asked for; gives the log."""
    field.load_state_dict(log.state(settings.keep))
    field.eval()
    return log


# -- checkpoints -------------------------------------------------------------------------------------------------


def _checkpoint(
    place: str | Path | None,
    field: VelocityField,
    targets: Targets,
    unseen: Targets | None,
    source: Source,
    settings: FlowSettings,
    seed: int,
) -> Checkpoint:
    """Where this training is kept, known by a hash of everything that decides its result."""
    if place is None:
        return Checkpoint(None, name="", identity="")
    values = settings.to_json()
    del values["solver"], values["solver_steps"]  # they come after training
    # A source is known by what it draws; the draws of a copy leave it as it is.
    fresh = deepcopy(source).sample(LOOK_POINTS, torch.Generator().manual_seed(seed + 1))
    in_training = deepcopy(source).sample(LOOK_POINTS, torch.Generator().manual_seed(seed + 1), training=True)
    tensors = {f"field.{name}": tensor for name, tensor in field.state_dict().items()}
    tensors |= {"points": targets.points, "source": fresh, "source in training": in_training}
    if targets.conditions is not None:
        tensors["conditions"] = targets.conditions
    if unseen is not None:
        tensors["held_out"] = unseen.points
        if unseen.conditions is not None:
            tensors["held_out_conditions"] = unseen.conditions
    identity = digest(tensors, json_hash([repr(field), values, seed]))
    checkpoint = Checkpoint(place, name=f"flow-{identity[:16]}.pt", identity=identity)
    if not checkpoint.finished:
        checkpoint.check_writable()
    return checkpoint


def _state(step: int, parts: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
    """All that changes in training, after ``step`` steps."""
    return {
        "step": step,
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "generator": generator.get_state(),
    }


def _restore(state: dict[str, Any] | None, parts: dict[str, Any], generator: torch.Generator) -> int:
    """Bring everything to a state that was kept, if one was; gives the steps that are done."""
    if state is None:
        return 0
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    generator.set_state(state["generator"].cpu())
    return state["step"]
