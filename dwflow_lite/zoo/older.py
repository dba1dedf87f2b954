"""Files of versions before 0.2.0, in which every floating-point buffer had columns: constants are taken out of them."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from dwflow_lite.networks.constants import constants_of
from dwflow_lite.support.files import ZooFileError
from dwflow_lite.zoo.layout import Entry, Layout, require_module
from dwflow_lite.zoo.saving import SavedZoo
from dwflow_lite.zoo.storage import Shards


def without_constants(path: str | Path, saved: SavedZoo, network: nn.Module | None) -> SavedZoo:
    """What a file or folder says of a zoo, its constants apart from the weights.

    Args:
        path: for messages.
        saved: as it was read; that of this version comes back as it is.
        network: a reader's, which tells constants from running statistics. (Networks of this package have none.)

    Raises:
        ZooFileError: the members differ in a constant.
    """
    entries = constants_in_columns(saved.layout, network)
    if not entries:
        return saved
    weights = saved.weights
    if isinstance(weights, Shards):
        names = [entry.name for entry in entries]
        warnings.warn(
            f"{path} was written by a version before 0.2.0, which kept the constants {names} as weights; it is read "
            "into memory without them: zoo.save it to another folder",
            RuntimeWarning,
            stacklevel=3,
        )
        weights = weights.columns(slice(None))
    constants = constants_of_columns(path, weights, saved.layout, entries, network)
    layout, columns = weights_alone(saved.layout, entries)
    return saved._replace(weights=weights[:, columns], layout=layout, constants=constants)


def constants_in_columns(layout: Layout, network: nn.Module | None) -> list[Entry]:
    """The entries of a layout that are constants of the network."""
    if network is None:
        return []
    require_module(network)
    constants = constants_of(network)
    return [entry for entry in layout.entries if entry.role == "buffer" and entry.name in constants]


def constants_of_columns(
    path: str | Path, rows: Tensor, layout: Layout, entries: list[Entry], network: nn.Module
) -> dict[str, Tensor]:
    """The constants of a network: those that have columns in rows (N, d), which must all agree, and its own others.

    Raises:
        ZooFileError: members that differ in a constant.
    """
    constants = dict(constants_of(network))
    for entry in entries:
        numbers = rows[:, layout.slices[entry.name]]  # (N, size)
        if not torch.equal(numbers, numbers[:1].expand_as(numbers)):
            raise ZooFileError(
                f"{path} was written by a version before 0.2.0, which kept the constant {entry.name!r} as weights, and "
                "its members differ in it: read it with that version, or make them anew with this one"
            )
        dtype = getattr(torch, entry.dtype)
        constants[entry.name] = numbers[0].to(dtype).reshape(entry.shape)
    return constants


def weights_alone(layout: Layout, entries: list[Entry]) -> tuple[Layout, Tensor]:
    """The layout without these entries, and the numbers of the columns that stay."""
    kept = tuple(entry for entry in layout.entries if entry not in entries)
    columns = torch.cat([torch.arange(layout.size)[layout.slices[entry.name]] for entry in kept])
    return Layout(kept), columns
