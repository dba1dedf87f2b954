"""Which tensors a network may have: those whose numbers can be read, kept in one row, and trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dwflow_lite.networks.constants import running_statistics

REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def require_usual_tensors(network: nn.Module) -> None:
    """``ValueError`` that names the first tensor of a network that a zoo cannot keep, and what to do about it."""
    kind = type(network).__name__
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                raise ValueError(
                    f"{kind}: {path or kind}.{name} was computed from other tensors, and PyTorch cannot copy it: "
                    "delete it (instead of nn.utils.weight_norm take nn.utils.parametrizations.weight_norm)"
                )
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        problem = _problem_of(tensor)
        if problem:
            raise ValueError(f"{kind}: {name} {problem}")
    weights = dict(network.named_parameters()) | running_statistics(network)
    for name, tensor in weights.items():
        if tensor.is_complex():
            raise ValueError(
                f"{kind}: {name} is complex ({tensor.dtype}), and a zoo holds real weights: make it a real parameter "
                "of shape (..., 2), and call torch.view_as_complex on it in forward"
            )
        if tensor.dtype not in REAL:
            raise ValueError(f"{kind}: {name} is of {tensor.dtype}, which nobody can train: make it a buffer")
    first = next(iter(weights), None)
    for name, tensor in weights.items():
        if tensor.dtype != weights[first].dtype:
            raise ValueError(
                f"{kind}: {first} is of {weights[first].dtype} and {name} of {tensor.dtype}; a zoo has one precision: "
                "call network.float()"
            )


def _problem_of(tensor: Tensor) -> str | None:
    """Why the numbers of a tensor cannot be read one after the other; None where they can."""
    if is_lazy(tensor):
        return "has no shape yet: run the network once on some inputs"
    if tensor.is_meta:
        return "lies on the device 'meta' and has no values: call network.to_empty(device='cpu') and fill it"
    if tensor.is_quantized:
        return "is quantised: take the network as it was before"
    if tensor.layout != torch.strided:
        return f"is sparse ({tensor.layout}): call .to_dense() on it"
    return None
