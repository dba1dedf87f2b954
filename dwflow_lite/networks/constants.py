"""What a network holds beside its weights: tensors that nobody trains, and that all members of a zoo share.

Weights are parameters, and the running mean and variance of PyTorch's norm layers: a zoo has a column for each of their
numbers. All else is a constant: masks, tables of positions, random features, whole numbers. It is kept once, in the
template of the zoo, and beside the members in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # BatchNorm, SyncBatchNorm and InstanceNorm

PREFIX = "constants."  # of their names in a file that holds other tensors too
Key = dict[str, Any]


def running_statistics(network: nn.Module) -> dict[str, Tensor]:
    """Running means and variances of PyTorch's norm layers, by name.

    Example:
        >>> list(running_statistics(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))))
        ['1.running_mean', '1.running_var']
    """
    statistics = {}
    for prefix, module in network.named_modules():
        if isinstance(module, _NormBase) and module.running_mean is not None:
            statistics[_name(prefix, "running_mean")] = module.running_mean
            statistics[_name(prefix, "running_var")] = module.running_var
    return statistics


def constants_of(network: nn.Module) -> dict[str, Tensor]:
    """All tensors that are no weights, by name: buffers, and tensors that are plain attributes of a module.

    The batch counter of a norm layer is left out: it counts in training, and no network needs it to run.

    Args:
        network: any module.

    Returns:
        The tensors themselves; one under several names has the first of them.

    Example:
        >>> network = nn.Linear(3, 3)
        >>> network.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        >>> list(constants_of(network))
        ['mask']
    """
    constants = {}
    seen = {id(tensor) for tensor in running_statistics(network).values()}
    for name, _, _, tensor in _tensors_beside_parameters(network):
        if id(tensor) not in seen:
            constants[name] = tensor
            seen.add(id(tensor))
    return constants


def buffers_of(network: nn.Module) -> set[str]:
    """The names of those constants that are buffers."""
    return set(constants_of(network)) & {name for name, _ in network.named_buffers(remove_duplicate=False)}


def set_constants(network: nn.Module, constants: Mapping[str, Tensor]) -> None:
    """Give a network (which is changed) copies of other constants, under each of their names."""
    own = constants_of(network)
    places = list(_tensors_beside_parameters(network))  # before any of them is set
    for name, constant in constants.items():
        value = constant.clone()
        for _, module, attribute, tensor in places:
            if tensor is own[name]:
                setattr(module, attribute, value)


def moved(network: nn.Module, device: torch.device | str) -> nn.Module:
    """A copy of a network on a device: with its constants, of which ``network.to`` leaves plain attributes behind.

    Args:
        network: any module; not changed.
        device: where the copy comes to lie.
    """
    network = deepcopy(network).to(device)
    left_behind = {}
    for name, constant in constants_of(network).items():
        there = constant.to(device)
        if there is not constant:
            left_behind[name] = there
    set_constants(network, left_behind)
    return network


def template_on(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A copy of a template, ready to run weights that lie on a device and may be of another precision than it is.

    Tensors that are as precise as its own weights become as precise as these, constants too; others (complex ones, and
    those that are kept in a higher precision) stay as they are.

    Args:
        network: the template.
        device: of the weights.
        dtype: of the weights: float32 where those of a float64 network were generated, say.
    """
    own_dtype = next((parameter.dtype for parameter in network.parameters()), dtype)
    network = deepcopy(network).to(device)
    network._apply(lambda tensor: tensor.to(dtype) if tensor.dtype == own_dtype else tensor)  # as network.float() does
    constants = {}
    for name, constant in constants_of(network).items():  # also those that are plain attributes
        constants[name] = constant.to(device, dtype if constant.dtype == own_dtype else constant.dtype)
    set_constants(network, constants)
    return network


def _tensors_beside_parameters(network: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Name, module, attribute and tensor, under every name, of buffers and of tensors that are plain attributes."""
    for prefix, module in network.named_modules():
        for attribute, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            if not (isinstance(module, _NormBase) and attribute == "num_batches_tracked"):
                yield _name(prefix, attribute), module, attribute, buffer
        for attribute, value in vars(module).items():
            # What has a gradient was computed in a forward pass, and is kept by chance.
            if type(value) is Tensor and not value.requires_grad and _is_plain(value):
                yield _name(prefix, attribute), module, attribute, value


def _name(prefix: str, attribute: str) -> str:
    return f"{prefix}.{attribute}" if prefix else attribute


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has numbers, all of them, one after the other."""
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


# -- comparing them ------------------------------------------------------------------------------------------------


def first_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str | None:
    """The name of the first constant in which two networks differ; None where they have the same."""
    for name in [*one, *other]:
        if name not in one or name not in other or key_of(one[name]) != key_of(other[name]):
            return name
    return None


def key_of(tensor: Tensor) -> Key:
    """Shape, dtype and a hash of the bytes of a tensor, made of JSON's types: equal keys, equal tensors."""
    numbers = bytes_of(tensor).numpy()
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {"shape": list(tensor.shape), "dtype": dtype, "sha256": hashlib.sha256(numbers).hexdigest()}


# -- in files ------------------------------------------------------------------------------------------------------


def keys_of(constants: Mapping[str, Tensor]) -> dict[str, Key]:
    """What a record says of constants: the key of each, by name."""
    return {name: key_of(tensor) for name, tensor in constants.items()}


def packed(constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Constants as a file keeps them, whatever their dtype: bytes, under names with a prefix."""
    return {PREFIX + name: bytes_of(tensor) for name, tensor in constants.items()}


def unpacked(tensors: Mapping[str, Tensor], keys: Mapping[str, Key]) -> dict[str, Tensor]:
    """The constants that a file keeps.

    Args:
        tensors: of the file, by name.
        keys: what its record says of them (:func:`keys_of`).

    Raises:
        ValueError: one is missing, or its bytes are not those that were written.
    """
    constants = {}
    for name, key in keys.items():
        numbers = tensors.get(PREFIX + name)
        if numbers is None:
            raise ValueError(f"the constant {name!r} is missing")
        constant = numbers.clone().view(getattr(torch, key["dtype"])).reshape(key["shape"])
        if key_of(constant) != key:
            raise ValueError(f"the constant {name!r} is not as it was written")
        constants[name] = constant
    return constants


def bytes_of(tensor: Tensor) -> Tensor:
    """The numbers of a tensor as the bytes they are kept in, (bytes,), on the CPU."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8)
