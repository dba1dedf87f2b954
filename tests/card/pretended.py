"""A card made of the processor: what a card would refuse is refused, and numbers are computed on the CPU.

Tensors that are said to lie on the card are marked; every function of PyTorch is asked on its way (a
``TorchFunctionMode``) whether it mixes marked tensors with others, or reads a marked one as a NumPy array. Fake tensors
(``tests/test_fake_devices.py``) see every operation, also inside ``torch.vmap``, but have no numbers; this one sees
whole notebooks, and inside of ``torch.vmap`` nothing.

Of one thread: others, and other processes, have no card.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CARD, CPU = torch.device("cuda", 0), torch.device("cpu")
MAY_MIX = {"copy_", "__setitem__", "type_as", "_has_compatible_shallow_copy_type"}
SAID = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (pretended card)"


def on_card(tensor: object) -> bool:
    """Whether a tensor is marked."""
    return isinstance(tensor, Tensor) and tensor.__dict__.get("_on_card", False)


def mark(tensor: Tensor, there: bool = True) -> Tensor:
    """The same tensor, said to lie on the card or not."""
    tensor._on_card = there
    return tensor


def is_card(device: object) -> bool:
    """Whether a device, as PyTorch takes it, is the card."""
    return isinstance(device, int) or torch.device(device).type == "cuda"


def tensors_in(values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class PretendedCard(TorchFunctionMode):
    """Asks every function of PyTorch."""

    depth = 0  # how many calls of torch.vmap we are in

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        name = function.__name__
        if name in ("__get__", "__set__"):
            return self.attribute(function, name, args)
        if name == "to":
            return self.moved(function, args, kwargs)
        if name == "cpu":
            return self.moved(torch.Tensor.to, (args[0], "cpu"), kwargs)
        tensors = tensors_in((args, kwargs))
        if name in ("numpy", "__array__") and any(map(on_card, tensors)):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() (pretended card)")
        device = kwargs.get("device")
        there = any(map(on_card, tensors)) if device is None else is_card(device)
        if device is not None and there:
            kwargs["device"] = CPU
            if kwargs.get("generator") is not None:
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu' (pretended card)")
        if self.depth == 0 and name not in MAY_MIX:
            self.check(name, args, tensors)
        result = function(*args, **kwargs)
        if there or device is not None:
            for tensor in tensors_in(result):
                mark(tensor, there)
        return result

    def attribute(self, function: Callable, name: str, args: tuple) -> Any:
        """An attribute of a tensor is read or set; of a tensor on the card, those that are tensors lie there too."""
        which = function.__self__.__name__
        if name == "__set__":
            if which == "data":
                mark(args[0], on_card(args[1]))
            return function(*args)
        if which in ("device", "is_cuda") and on_card(args[0]):
            return CARD if which == "device" else True
        result = function(*args)
        return mark(result) if isinstance(result, Tensor) and on_card(args[0]) else result

    def moved(self, function: Callable, args: tuple, kwargs: dict) -> Tensor:
        """``tensor.to(…)``, in each of its three forms."""
        tensor, rest, target = args[0], list(args[1:]), kwargs.pop("device", None)
        other = kwargs.pop("other", rest.pop(0) if rest and isinstance(rest[0], Tensor) else None)
        if other is not None:
            target, kwargs["dtype"] = (CARD if on_card(other) else CPU), other.dtype
        elif rest and not isinstance(rest[0], torch.dtype):
            target = rest.pop(0)
        kwargs |= {n: v for n, v in zip(("dtype", "non_blocking", "copy"), rest, strict=False) if v is not None}
        if target is not None and torch.device(target).type not in ("cuda", "cpu"):
            return function(tensor, target, **kwargs)
        there = on_card(tensor) if target is None else is_card(target)
        result = function(tensor, **kwargs) if kwargs else tensor
        if result is tensor and there != on_card(tensor):
            result = tensor.clone()
        return mark(result, there) if result is not tensor else result

    def check(self, name: str, args: tuple, tensors: list[Tensor]) -> None:
        """RuntimeError if tensors on both devices are mixed; numbers (0 axes) may be, and indices from the CPU."""
        if not any(map(on_card, tensors)) or (name == "__getitem__" and on_card(args[0])):
            return
        if any(tensor.dim() > 0 and not on_card(tensor) for tensor in tensors):
            shapes = ", ".join(f"{tuple(t.shape)} on {'the card' if on_card(t) else 'the CPU'}" for t in tensors)
            raise RuntimeError(f"{SAID}: {name} of {shapes}")

    def over_vmap(self, vmap: Callable) -> Callable:
        """torch.vmap whose results lie where its arguments do."""

        @functools.wraps(vmap)
        def pretended(function: Callable, *options: Any, **named: Any) -> Callable:
            mapped = vmap(function, *options, **named)

            @functools.wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                tensors = tensors_in((args, kwargs))
                if self.depth == 0:
                    self.check("vmap", (None,), tensors)
                self.depth += 1
                try:
                    result = mapped(*args, **kwargs)
                finally:
                    self.depth -= 1
                for tensor in tensors_in(result):
                    mark(tensor, any(map(on_card, tensors)))
                return result

            return call

        return pretended


@contextmanager
def pretended_card() -> Iterator[None]:
    """In here there is a card, for this thread."""
    mode, generator = PretendedCard(), torch.Generator()
    new_parameter, fork = nn.Parameter.__new__, torch.random.fork_rng

    def parameter(cls: type, data: Tensor | None = None, requires_grad: bool = True) -> nn.Parameter:
        made = new_parameter(cls, data, requires_grad)
        return mark(made) if on_card(data) else made

    def forked(devices: object = None, *args: Any, **kwargs: Any) -> Any:
        return fork([], *args, **kwargs)

    cuda = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "synchronize": lambda device=None: None,
        "get_device_name": lambda device=None: "a pretended card",
        "default_generators": (generator,),
    }
    vmap = mode.over_vmap(torch.vmap)
    with ExitStack() as stack:
        stack.enter_context(patch.multiple(torch.cuda, **cuda))
        stack.enter_context(patch.multiple(torch, vmap=vmap))
        stack.enter_context(patch.multiple(torch.func, vmap=vmap))
        stack.enter_context(patch.multiple(nn.Parameter, __new__=parameter))
        stack.enter_context(patch.multiple(torch.random, fork_rng=forked))
        # Whether a card captures a graph is asked of its driver, at every step.
        for question in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            if hasattr(torch.optim.Optimizer, question):
                stack.enter_context(patch.object(torch.optim.Optimizer, question, lambda optimizer: None))
        stack.enter_context(mode)
        yield


_kept = []  # or what is forgotten is left


def put_in() -> None:
    """There is a card from here on, for this thread."""
    _kept.append(pretended_card())
    _kept[-1].__enter__()
