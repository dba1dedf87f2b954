"""What is watched while a flow trains: its loss on held-out points, and whether it spreads, copies or collapses."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, inf, isfinite
from typing import Any

import torch
from torch import Tensor

from dwflow_lite.flow.conditional import Targets, given
from dwflow_lite.flow.field import VelocityField
from dwflow_lite.flow.path import Source, StraightPath
from dwflow_lite.flow.settings import FlowSettings
from dwflow_lite.flow.solver import integrate

LOOK_POINTS = 64  # generated at each look
LOOK_STEPS = 8  # of the solver
PROBE_POINTS = 512  # about so many held-out pairs, fixed


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

    Attributes:
        steps: of each look.
        loss: mean training loss since the last look.
        held_out_loss: on fixed noise and times, so that looks compare; empty without held-out points.
        dispersion: :func:`dispersion_ratio` of a few generated points.
        best_step: the look of the lowest held-out loss (without held-out points, the last look).
        stopped: why training ended.
        last: state of the field at the end.
        best: state of the field at ``best_step``.
        lowest: state after the single batch of lowest loss; kept only where ``keep="lowest"`` asks for it.
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

    def state(self, keep: str) -> dict[str, Tensor]:
        """The state of the field that ``keep`` names: ``"last"``, ``"best"`` or ``"lowest"``."""
        return {"last": self.last, "best": self.best, "lowest": self.lowest}[keep]


@dataclass(frozen=True)
class Probe:
    """Held-out pairs, drawn once: points ``x`` (m, k) on their paths, times ``t`` (m,) and velocities ``u`` (m, k).

    And the conditions of their targets (m, c), if they have any.
    """

    x: Tensor
    t: Tensor
    u: Tensor
    conditions: Tensor | None = None

    @classmethod
    def of(cls, held_out: Targets, source: Source, path: StraightPath, seed: int) -> Probe:
        """Pair held-out targets (M, k), repeated to about ``PROBE_POINTS``, with points of the source."""
        generator = torch.Generator().manual_seed(seed)
        repeats = ceil(PROBE_POINTS / len(held_out.points))
        x1 = held_out.points.repeat(repeats, 1)  # (m, k)
        conditions = None if held_out.conditions is None else held_out.conditions.repeat(repeats, 1)  # (m, c)
        t = torch.rand(len(x1), generator=generator).to(x1)  # (m,)
        x0 = source.sample(len(x1), generator).to(x1)  # (m, k)
        x, u = path.sample(x0, x1, t, generator)
        return cls(x, t, u, conditions)

    @torch.no_grad()
    def loss(self, field: VelocityField) -> float:
        """The flow-matching loss of a field on these pairs, its dropout asleep."""
        field.eval()
        loss = (given(field, self.conditions)(self.x, self.t) - self.u).square().mean()
        field.train()
        return float(loss)


class Watch:
    """Follows a training: takes the loss of every batch, looks at the field now and then, and writes ``log``.

    Args:
        points: targets (N, k), beside which generated points are seen.
        starts: points (m, k) of the source, from which they are generated.
        probe: held-out pairs, or None.
        settings: ``every``, ``patience`` and ``keep``.
        conditions: of the starts (m, c), or None.
    """

    def __init__(
        self,
        points: Tensor,
        starts: Tensor,
        probe: Probe | None,
        settings: FlowSettings,
        conditions: Tensor | None = None,
    ) -> None:
        self.points = points
        self.starts = starts
        self.conditions = conditions
        self.probe = probe
        self.settings = settings
        self.log = FlowTraining()
        self.recent: list[Tensor] = []  # losses of the batches since the last look
        self.best_loss = inf  # of all looks
        self.lowest_loss = torch.tensor(inf, device=points.device)  # of all batches

    @classmethod
    def of(cls, targets: Targets, held_out: Targets | None, source: Source, settings: FlowSettings, seed: int) -> Watch:
        """Draw what looks compare: starting points, and pairs of held-out targets if there are any."""
        points, conditions = targets
        starts = source.sample(LOOK_POINTS, torch.Generator().manual_seed(seed + 1)).to(points.device)
        if conditions is not None:  # of targets spread evenly over all, in whatever order they stand
            conditions = conditions[torch.linspace(0, len(points) - 1, LOOK_POINTS).long().to(points.device)]
        probe = None
        if held_out is not None:
            probe = Probe.of(held_out, source, StraightPath(settings.path_noise), seed + 2)
        return cls(points, starts, probe, settings, conditions)

    def note_loss(self, field: VelocityField, loss: Tensor) -> None:
        """After a step: note the loss of its batch, and keep the state if it is the lowest and that is asked for."""
        self.recent.append(loss)
        if self.settings.keep != "lowest":
            return
        is_lower = loss < self.lowest_loss
        if loss.is_cpu and not is_lower:
            return
        # On a GPU chosen where the numbers are: to ask it whether the loss is lower would be to wait for it.
        self.lowest_loss = torch.where(is_lower, loss, self.lowest_loss)
        lowest = self.log.lowest or state_of(field)
        self.log.lowest = {name: torch.where(is_lower, now, lowest[name]) for name, now in field.state_dict().items()}

    def look(self, field: VelocityField, step: int) -> None:
        """Every so many steps: mean loss since the last look, held-out loss, dispersion, and the best state so far.

        Raises:
            FloatingPointError: the loss is no longer finite.
        """
        log = self.log
        loss = float(torch.stack(self.recent).mean())
        self.recent = []
        if not isfinite(loss):
            raise FloatingPointError(f"flow training diverged at step {step} (loss {loss}): lower lr")
        log.steps.append(step)
        log.loss.append(loss)
        field.eval()
        generated = integrate(given(field, self.conditions), self.starts, steps=LOOK_STEPS, keep=False).end  # (m, k)
        field.train()
        log.dispersion.append(dispersion_ratio(generated, self.points))
        if self.probe is None:
            self._keep_as_best(field, step, loss)
            return
        held_out_loss = self.probe.loss(field)
        log.held_out_loss.append(held_out_loss)
        if held_out_loss < self.best_loss:
            self._keep_as_best(field, step, held_out_loss)

    def out_of_patience(self, step: int) -> bool:
        """Whether the held-out loss has not fallen for ``patience`` looks."""
        patience = self.settings.patience
        return patience is not None and step - self.log.best_step >= patience * self.settings.every

    def summary(self) -> dict[str, str]:
        """The last look, for a bar."""
        return {"loss": f"{self.log.loss[-1]:.3f}", "dispersion": f"{self.log.dispersion[-1]:.2f}"}

    def close(self, field: VelocityField) -> FlowTraining:
        """At the end: the last state, and why training ended.

        Raises:
            FloatingPointError: the best state is asked for, and the held-out loss was never finite.
        """
        if not self.log.best and self.settings.keep == "best":
            raise FloatingPointError(
                "keep='best' goes by the held-out loss, which was never finite: held-out points lie too far away, or "
                "lower lr"
            )
        self.log.last = state_of(field)
        if self.out_of_patience(self.log.steps[-1]):
            self.log.stopped = f"held-out loss has not fallen for {self.settings.patience} looks"
        else:
            self.log.stopped = "all steps taken"
        return self.log

    def state_dict(self) -> dict[str, Any]:
        """All that changes, to be kept in a checkpoint."""
        return {
            "log": vars(self.log),
            "recent": self.recent,
            "best_loss": self.best_loss,
            "lowest_loss": self.lowest_loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.log = FlowTraining(**state["log"])
        self.recent = list(state["recent"])
        self.best_loss = state["best_loss"]
        self.lowest_loss = state["lowest_loss"]

    def _keep_as_best(self, field: VelocityField, step: int, loss: float) -> None:
        self.best_loss = loss
        self.log.best_step = step
        self.log.best = state_of(field)


def state_of(field: VelocityField) -> dict[str, Tensor]:
    """A copy of all tensors of a field."""
    return {name: tensor.detach().clone() for name, tensor in field.state_dict().items()}
