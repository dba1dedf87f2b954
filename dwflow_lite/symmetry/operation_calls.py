"""One operation of a forward pass as the rules of ``operations.py`` see it, and what most of these rules need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch.fx.node import Node

from dwflow_lite.symmetry.labels import Labelling, TensorLabels, fixed_axes


@dataclass(frozen=True)
class Call:
    """One operation in a forward pass, with the labels of the tensors that it takes.

    Attributes:
        name: of the operator, as in ``OPERATIONS``: ``"linear"``.
        node: its place in the traced graph.
        tensors: for each tensor that it takes, in the order of its arguments, one label for each axis.
        shapes: of the tensors that it returns.
        labelling: what is decided about labels; the only thing that an operation changes.
    """

    name: str
    node: Node
    tensors: Sequence[TensorLabels]
    shapes: Sequence[tuple[int, ...]]
    labelling: Labelling

    @cached_property
    def options(self) -> dict[str, Any]:
        """All arguments by name, with the defaults of those that were left out."""
        arguments = self.node.target._schema.arguments
        options = {a.name: a.default_value for a in arguments if a.has_default_value()}
        for argument, value in zip(arguments, self.node.args, strict=False):
            options[argument.name] = value
        return options | self.node.kwargs

    @property
    def dims(self) -> list[int]:
        """The axes of the first tensor that ``dim`` (or ``dims``) names, counted from 0; all, where it names none."""
        number = len(self.tensors[0])
        named = self.options.get("dim", self.options.get("dims"))
        if isinstance(named, int):
            named = [named]
        return [dim % max(number, 1) for dim in named or range(number)]

    @property
    def dim(self) -> int:
        """The one axis of the first tensor that ``dim`` names; the first, where it names none."""
        return self.dims[0]

    def uses(self, number: int) -> bool:
        """Whether the forward pass goes on with this one of the tensors that the operation returns."""
        return any(user.args[1] == number and user.users for user in self.node.users)


Operation = Callable[[Call], list[TensorLabels] | None]
Operations = Mapping[str, Operation]


def broadcast(labelling: Labelling, *tensors: TensorLabels) -> TensorLabels:
    """Tensors on one another: axes meet from the right, and those that meet run over the same units."""
    number = max(len(axes) for axes in tensors)
    padded = [fixed_axes([1] * (number - len(axes))) + axes for axes in tensors]
    return [labelling.unify_all(meeting) for meeting in zip(*padded, strict=True)]


def elementwise(call: Call) -> list[TensorLabels]:
    """Each number is changed alone, or meets those at its own place: what meets has the same units."""
    return [broadcast(call.labelling, *call.tensors)]


def unchanged(call: Call) -> list[TensorLabels]:
    """The first tensor keeps its places; a softmax also sums over all units, which may be done in any order."""
    return [call.tensors[0]]


def no_result(call: Call) -> list[TensorLabels]:
    """A check of types: no tensor comes out, and no label changes."""
    return [[]]
