"""One pass of many networks: all at once by ``torch.vmap``, or one by one; and a try that says which is right."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dwflow_lite.support.devices import is_out_of_memory, seeded

State = Mapping[str, Tensor]  # tensor name -> tensors (N, *shape) of N networks
Loss = Callable[[Tensor], Tensor]  # outputs (N, n, outputs) -> losses (N,)

_noted: set[type[nn.Module]] = set()  # classes of which it was said that they run one by one


def batched_forward(network: nn.Module, state: State, x: Tensor, shared_input: bool = False) -> Tensor:
    """Run N networks at once: ``state`` holds tensors (N, *shape), ``x`` is (N, n, ...), or (n, ...) if shared.

    Returns outputs (N, n, outputs). One call of :func:`torch.vmap` over :func:`torch.func.functional_call`. What a
    network writes to its own tensors is written to ``state``.
    """

    def forward(member: State, inputs: Tensor) -> Tensor:
        return functional_call(network, member, (inputs,))

    return torch.vmap(forward, in_dims=(0, None if shared_input else 0), randomness="different")(state, x)


def module_with(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a network in which some parameters and buffers have other values; nothing of it is shared."""
    module = deepcopy(network)
    targets = tensors_of(module)
    with torch.no_grad():
        for name, tensor in tensors.items():
            targets[name].copy_(tensor)
    return module


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name: the tensors themselves."""
    return dict(network.named_parameters()) | dict(network.named_buffers())


def member_of(network: nn.Module, state: State, member: int) -> nn.Module:
    """One of the N networks of ``state``, as a module of its own."""
    return module_with(network, {name: tensor[member] for name, tensor in state.items()})


def outputs_of(module: nn.Module, x: Tensor) -> Tensor:
    """What a module returns for inputs (n, ...); they are copied, as it may write to them.

    Raises:
        ValueError: it is something else than one tensor.
    """
    return one_tensor(module, module(x.clone()))


def one_tensor(network: nn.Module, outputs: object) -> Tensor:
    """Outputs as they are; ``ValueError`` if they are something else than one tensor."""
    if not isinstance(outputs, Tensor):
        kind = type(outputs).__name__
        raise ValueError(
            f"{type(network).__name__} returns a {kind}: return one tensor (n, outputs), such as its logits"
        )
    return outputs


def run_all(network: nn.Module, state: State, x: Tensor, at_once: bool) -> Tensor:
    """Outputs (N, n, outputs) of N networks for the same inputs; what they write to their tensors is in ``state``.

    Args:
        network: template; not changed.
        state: tensors (N, *shape) by name.
        x: inputs (n, ...).
        at_once: whether they run in one batched pass, or one by one (:func:`runs_batched`).

    Raises:
        ValueError: the network returns something else than one tensor.
    """
    if at_once:
        return one_tensor(network, batched_forward(network, state, x.clone(), shared_input=True))
    outputs = []
    for member in range(len(next(iter(state.values())))):
        module = member_of(network, state, member)
        outputs.append(outputs_of(module, x))  # (n, outputs)
        tensors = tensors_of(module)
        for name, tensor in state.items():
            tensor[member] = tensors[name].detach()
    return torch.stack(outputs)


def copies(state: State) -> dict[str, Tensor]:
    """Tensors of the same values, which a network may write to."""
    return {name: tensor.clone() for name, tensor in state.items()}


# -- which of the two --------------------------------------------------------------------------------------------------


def runs_batched(
    network: nn.Module, state: State, x: Tensor, loss: Loss | None = None, *, wraps: nn.Module | None = None
) -> bool:
    """Whether networks may run at once: whether ``torch.vmap`` takes them, and gives what each of them gives alone.

    Found out by a try on two networks, twice each. Where the answer is no, a warning says so, once for a class.

    Args:
        network: template, in the mode in which it is to run; on the device of ``state``, not changed.
        state: tensors (N, *shape) of N >= 1 networks, not changed; the first and the last of them are tried.
        x: inputs (n, ...) for the try; two will do.
        loss: of outputs (N, n, outputs), (N,), if networks are to be trained: gradients are compared too.
        wraps: the network that ``network`` wraps, for the warning.

    Raises:
        RuntimeError: memory ran out.
        Exception: of the network itself, where it does not run alone.
    """
    attempt = Attempt(network, first_and_last(state), x, loss)
    alone = attempt.alone(seed=0)
    try:
        together = attempt.together()
        if network.training and not alike(alone, attempt.alone(seed=1)):
            # Random outputs, those of dropout say, cannot be compared. In eval mode they are not random.
            attempt = Attempt(deepcopy(network).eval(), attempt.state, x, loss=None)
            alone, together = attempt.alone(seed=0), attempt.together()
        reason = None if alike(alone, together) else "at once they give other numbers than one by one"
    except Exception as error:  # whatever torch, or a reader's own code, raises: alone they do run
        if is_out_of_memory(error):
            raise
        reason = error
    if reason:
        note_one_by_one(wraps or network, reason)
    return reason is None


def note_one_by_one(network: nn.Module, reason: str | Exception) -> None:
    """Warn, once for a class, that its networks run one by one."""
    if type(network) not in _noted:
        _noted.add(type(network))
        if isinstance(reason, Exception):
            first_line = str(reason).strip().partition("\n")[0]
            reason = f"{type(reason).__name__}: {first_line}"
        name = type(network).__name__
        warnings.warn(f"{name} networks run one by one, as torch.vmap cannot run them at once ({reason})", stacklevel=3)


def first_and_last(state: State) -> dict[str, Tensor]:
    """Of tensors (N, *shape) those of the first and the last network, (2, *shape); of one network, (1, *shape)."""
    networks = len(next(iter(state.values())))
    ends = [0, -1] if networks > 1 else [0]
    return {name: tensor[ends] for name, tensor in state.items()}


Shown = tuple[list[Tensor], ...]  # outputs, tensors afterwards, gradients: each tensor (networks, ...)


@dataclass(frozen=True)
class Attempt:
    """One or two networks that run twice, at once or alone, and what they show.

    In training, a network goes on from what it wrote to its tensors and kept in its attributes; else it begins anew.

    Attributes:
        network: template.
        state: tensors (networks, *shape).
        x: inputs (n, ...), the same for all.
        loss: see :func:`runs_batched`.
    """

    network: nn.Module
    state: State
    x: Tensor
    loss: Loss | None

    def together(self) -> Shown:
        """All networks at once."""
        trains = self.loss is not None
        network = deepcopy(self.network)
        networks = len(next(iter(self.state.values())))
        shape = (networks, *self.x.shape) if trains else self.x.shape
        outputs = []
        with seeded(self.x.device, 0), torch.set_grad_enabled(trains):
            for call in range(2):
                if call == 0 or not trains:
                    tensors = self._leaves()
                x = self.x.expand(shape).clone()
                outputs_of_call = batched_forward(network, tensors, x, shared_input=not trains)
                outputs.append(one_tensor(network, outputs_of_call))  # (networks, n, outputs)
            losses = self.loss(outputs[-1]) if trains else None  # (networks,)
            return _shown(outputs, tensors, losses)

    def alone(self, seed: int) -> Shown:
        """One network after the other; random numbers from a seed, the same for each."""
        trains = self.loss is not None
        networks = len(next(iter(self.state.values())))
        shown = []
        for member in range(networks):
            outputs = []
            with seeded(self.x.device, seed), torch.set_grad_enabled(trains):
                for call in range(2):
                    if call == 0 or not trains:
                        module = member_of(self.network, self.state, member)
                    outputs.append(outputs_of(module, self.x))  # (n, outputs)
                own = tensors_of(module)
                losses = self.loss(outputs[-1][None]) if trains else None  # (1,)
                shown.append(_shown(outputs, {name: own[name] for name in self.state}, losses))
        kinds = zip(*shown, strict=True)
        return tuple([torch.stack(parts) for parts in zip(*kind, strict=True)] for kind in kinds)

    def _leaves(self) -> dict[str, Tensor]:
        """Copies of the tensors; those that training changes ask for gradients."""
        parameters = dict(self.network.named_parameters())
        leaves = copies(self.state)
        for name, leaf in leaves.items():
            leaf.requires_grad_(self.loss is not None and name in parameters and parameters[name].requires_grad)
        return leaves


def _shown(outputs: list[Tensor], tensors: Mapping[str, Tensor], losses: Tensor | None) -> Shown:
    """Outputs, tensors, and the gradients of the losses, if there are any."""
    gradients = []
    if losses is not None:
        losses.sum().backward()
        for tensor in tensors.values():
            gradients.append(torch.zeros_like(tensor) if tensor.grad is None else tensor.grad)
    return tuple([tensor.detach() for tensor in kind] for kind in (outputs, tensors.values(), gradients))


def alike(one: Shown, other: Shown) -> bool:
    """Whether the same is shown, up to rounding: a small share of the largest number of its kind and network."""
    for kind, other_kind in zip(one, other, strict=True):
        pairs = [(a, b) for a, b in zip(kind, other_kind, strict=True) if a.numel() > 0]
        if any(a.shape != b.shape or a.dtype != b.dtype for a, b in pairs):
            return False
        scales = [
            a.nan_to_num(0.0, 0.0, 0.0).abs().reshape(len(a), -1).amax(1) for a, _ in pairs if a.is_floating_point()
        ]
        largest = torch.stack([scale.double() for scale in scales]).amax(0) if scales else None  # (networks,)
        for a, b in pairs:
            same = (a == b) | (a.isnan() & b.isnan())  # infinities too
            if a.is_floating_point():
                # Sums of another order round otherwise: 1e-3 in float32.
                rounding = 3 * torch.finfo(a.dtype).eps ** 0.5 * largest
                same |= (a - b).abs() <= rounding.view(-1, *[1] * (a.ndim - 1))
            if not same.all():
                return False
    return True
