"""What an audit refuses, before it measures anything; and the numbers that it takes instead of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch

from dwflow_lite.generate.generator import Generator, is_generator
from dwflow_lite.networks import architecture_of
from dwflow_lite.symmetry.basis import check_same_basis
from dwflow_lite.symmetry.spec import PermutationSpec, require_spec
from dwflow_lite.tasks.checks import require_task
from dwflow_lite.tasks.task import Task
from dwflow_lite.zoo.checks import other_cut
from dwflow_lite.zoo.zoo import Zoo

PRECISIONS = (torch.float32, torch.float64)  # in which networks are run and distances measured


def check_kinds(kinds: Mapping[str, Zoo]) -> None:
    """``ValueError`` unless these are zoos by name."""
    if not isinstance(kinds, Mapping) or not all(isinstance(kind, Zoo) for kind in kinds.values()):
        raise ValueError("generated must be a Zoo (as model.sample returns it), or several by name")
    if not kinds:
        raise ValueError("an audit needs at least two fitted members and some generated networks")


def check_controls(controls: Mapping[str, Generator]) -> None:
    """``TypeError`` unless these are generators by name."""
    if not isinstance(controls, Mapping):
        raise TypeError(
            f"controls are generators by name, such as {{'soup': Soup(size=10)}}, not {type(controls).__name__}"
        )
    for name, control in controls.items():
        if not is_generator(control):
            raise TypeError(
                f"control {name!r} must be a generator with fit(zoo) and sample(n, seed=…), such as Soup(size=10), "
                f"not {control!r}"
            )


def check_names(names: Sequence[str]) -> None:
    """``ValueError`` if two rows would have one name, ``TypeError`` for a name that is no text."""
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"a row of the audit is named by a text, not by {name!r}")
        if names.count(name) > 1:
            raise ValueError(f"two rows of the audit would be named {name!r}; give one of them another name")


def check_zoo(zoo: Zoo) -> None:
    """``TypeError`` for anything but a zoo, ``ValueError`` for one with fewer than two fitted members."""
    if not isinstance(zoo, Zoo):
        raise TypeError(f"networks are audited against a Zoo, such as model.zoo_, not against {type(zoo).__name__}")
    if len(zoo.fitted) < 2:
        raise ValueError("an audit needs at least two fitted members and some generated networks")


def check_scores(score: torch.Tensor) -> None:
    """``ValueError`` unless every fitted member has a score (N,): of others there is no bar."""
    without = ~score.isfinite()
    if without.any():
        raise ValueError(
            f"{int(without.sum())} of {len(score)} fitted members have no finite score (positions {listed(without)} of "
            "zoo.fitted), and what is accurate is judged by theirs: leave them out (zoo.take), or train them again"
        )


def listed(which: torch.Tensor) -> str:
    """The first ten positions at which a mask (n,) is True, as an error or a warning lists them."""
    positions = which.nonzero().flatten().tolist()
    return f"{positions[:10]}{', …' if len(positions) > 10 else ''}"


def check_symmetries(zoo: Zoo, spec: PermutationSpec | None, switches: Mapping[str, bool]) -> None:
    """``ValueError`` unless a spec is one of this zoo's networks, and switches are True or False."""
    for name, value in switches.items():
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name} must be True or False, got {value!r}")
    require_spec(spec)
    if spec is not None and spec.layout != zoo.layout:
        raise ValueError("the spec belongs to another layout than the zoo's: make it from zoo.network")


def check_order(kinds: Mapping[str, Zoo], zoo: Zoo) -> None:
    """``ValueError`` if the zoo was generated and nothing beside it was: the two are in each other's place."""
    if "generated" in zoo.record and not any("generated" in networks.record for networks in kinds.values()):
        raise ValueError("these were trained and the zoo was generated: audit(generated, zoo, task) is the order")


def check_kind(name: str, networks: Zoo, zoo: Zoo) -> None:
    """``ValueError`` unless the weights of these networks may be compared with those of the zoo, one by one."""
    if networks.layout != zoo.layout or architecture_of(networks.network) != architecture_of(zoo.network):
        raise ValueError(f"{name!r} has another architecture than the zoo it is audited against")
    check_same_basis(
        networks,
        zoo,
        f"{name!r} is in another basis than the zoo it is audited against",
        "audit against model.zoo_, or align both to one reference (canonicalise)",
    )


def check_task(zoo: Zoo, task: Task, split: str) -> None:
    """Whether the zoo was trained on this cut of the task; of another, its training examples might be in the split.

    Raises:
        ValueError: another cut, or a split that the task does not have.
        TypeError: anything but a task.
    """
    require_task(task)
    task.split(split)
    says = other_cut(zoo, task, split)
    if says:
        raise ValueError(says)


def as_numbers(zoo: Zoo, like: Zoo | None = None) -> Zoo:
    """A zoo in a precision in which networks can be measured: that of ``like``, or its own if it is one.

    Half precision and whole numbers become float32, in which all of them can be written; rows on disk are read as such,
    and stay there unless ``like`` is in float64.
    """
    if like is not None:
        device, dtype = like.weights.device, like.weights.dtype
    else:
        device = zoo.weights.device
        dtype = zoo.weights.dtype if zoo.weights.dtype in PRECISIONS else torch.float32
    if (zoo.weights.device, zoo.weights.dtype) == (device, dtype):
        return zoo
    zoo = zoo.in_memory()
    return replace(zoo, weights=zoo.weights.to(device, dtype), network=deepcopy(zoo.network).to(dtype))
