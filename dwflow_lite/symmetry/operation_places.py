"""What operations that only move numbers to other places say about the labels of what they take and give.

Views, transposing, copies, concatenation, slices, entries called by number, padding, sorting.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dwflow_lite.symmetry.labels import Label, TensorLabels, first_reason, fix_all, fixed_axes, join
from dwflow_lite.symmetry.operation_calls import Call, broadcast

# -- cutting, joining and moving axes ----------------------------------------------------------------------------------


def view(call: Call) -> list[TensorLabels]:
    """The same numbers in the same order, under other axes: labels are cut into products, or joined to products."""
    return [call.labelling.deal(call.tensors[0], call.shapes[0], "product")]


def transpose(call: Call) -> list[TensorLabels]:
    """Labels move with their axes; where to, is asked of the operator itself, with an axis of another size for each."""
    x = call.tensors[0]
    probe = torch.empty(*range(2, len(x) + 2), device="meta")  # axis number 0 has size 2, number 1 size 3, …
    turned: Tensor = call.node.target(probe, *call.node.args[1:], **call.node.kwargs)
    return [[x[size - 2] for size in turned.shape]]


def expand(call: Call) -> list[TensorLabels]:
    """Copies along new axes, and along axes of size 1: all copies are alike, so they go with units in any order."""
    shape = call.shapes[0]
    x = call.tensors[0]
    padded = [*fixed_axes([1] * (len(shape) - len(x))), *x]
    copied = zip(padded, shape, strict=True)
    return [[axis if axis.size == size else Label(size, alike=True) for axis, size in copied]]


def filled(call: Call) -> list[TensorLabels]:
    """The same number everywhere (``zeros_like``): it goes with units in any order."""
    return [[Label(size, alike=True) for size in shape] for shape in call.shapes]


def repeat(call: Call) -> list[TensorLabels]:
    """The whole tensor again and again along each axis: an axis is a product of copies and its own units."""
    x = call.tensors[0]
    shape = call.shapes[0]
    padded = [*fixed_axes([1] * (len(shape) - len(x))), *x]
    axes: TensorLabels = []
    for axis, size in zip(padded, shape, strict=True):
        copies = Label(size // axis.size, stays=True, why="copies of a tensor, one after another")
        axes.append(axis if axis.size == size else join([copies, axis], "product"))
    return [axes]


def repeat_each(call: Call) -> list[TensorLabels] | None:
    """Each place of ``dim`` several times in a row; only known along an axis that is fixed."""
    x, dim = call.tensors[0], call.dim
    if not x[dim].is_fixed or len(x) != len(call.shapes[0]):
        return None
    return [[*x[:dim], *fixed_axes([call.shapes[0][dim]], first_reason([x[dim]])), *x[dim + 1 :]]]


def concatenate(call: Call) -> list[TensorLabels]:
    """Along ``dim`` the tensors stand in a row; along all other axes they meet, and so have the same units."""
    axes: TensorLabels = []
    for number, meeting in enumerate(zip(*call.tensors, strict=True)):
        axes.append(join(meeting, "row") if number == call.dim else call.labelling.unify_all(meeting))
    return [axes]


def stack(call: Call) -> list[TensorLabels]:
    """Tensors side by side along a new axis, whose places are called by number; on all other axes they meet."""
    axes = broadcast(call.labelling, *call.tensors)
    new = call.options["dim"] % (len(axes) + 1)  # where the new axis stands
    places = fixed_axes([len(call.tensors)], "places of a stack")
    return [[*axes[:new], *places, *axes[new:]]]


def cut(call: Call) -> list[TensorLabels] | None:
    """Stretches along ``dim``, one after another (a slice may begin later): labels are cut into rows."""
    x, dim = call.tensors[0], call.dim
    if call.options.get("step", 1) != 1:
        every_other = fixed_axes([call.shapes[0][dim]], first_reason([x[dim]]))
        return [[*x[:dim], *every_other, *x[dim + 1 :]]] if x[dim].is_fixed else None
    first = call.options.get("start")  # None: 0; negative: counted from the end
    start, _, _ = slice(first, None).indices(x[dim].size)
    lengths = [shape[dim] for shape in call.shapes]
    _, *parts = call.labelling.deal([x[dim]], [start, *lengths], "row")  # what stands before the start is left out
    return [[*x[:dim], part, *x[dim + 1 :]] for part in parts]


BY_NUMBER = "places that are called by number"


def at_places(call: Call, places: Sequence[int]) -> list[TensorLabels]:
    """The tensor at some places of ``dim``. A place is called by number, so the axis is fixed."""
    x, dim = call.tensors[0], call.dim
    x[dim].fix(BY_NUMBER)
    others = [*x[:dim], *x[dim + 1 :]]
    return [[axis.place(x[dim], index) for axis in others] for index in places]


def select(call: Call) -> list[TensorLabels]:
    """One place of an axis, ``x[:, 2]``."""
    size = call.tensors[0][call.dim].size
    return at_places(call, [call.options["index"] % size])


def unbind(call: Call) -> list[TensorLabels]:
    """All places of an axis, each as a tensor of its own: ``q, k, v = qkv.unbind(0)``."""
    return at_places(call, range(len(call.shapes)))


def index(call: Call) -> list[TensorLabels] | None:
    """Places called by numbers in other tensors, ``x[:, numbers]``: such axes are fixed, the others go on."""
    x, *numbers = call.tensors
    asked = [number for number, tensor in enumerate(call.options["indices"]) if tensor is not None]
    fix_all([x[number] for number in asked], BY_NUMBER)
    called = broadcast(call.labelling, *numbers)
    side_by_side = asked == list(range(asked[0], asked[-1] + 1))
    before = asked[0] if side_by_side else 0  # otherwise what is called comes first
    others = [axis for number, axis in enumerate(x) if number not in asked]
    return [[*others[:before], *called, *others[before:]]]


def index_select(call: Call) -> list[TensorLabels]:
    """Some places of ``dim``, called by the numbers in a vector."""
    x, numbers = call.tensors
    x[call.dim].fix(BY_NUMBER)
    return [[*x[: call.dim], *numbers, *x[call.dim + 1 :]]]


def gather(call: Call) -> list[TensorLabels]:
    """At each place another entry of ``dim``, called by number; on all other axes both tensors meet."""
    x, numbers = call.tensors
    x[call.dim].fix(BY_NUMBER)
    axes = [numbers[n] if n == call.dim else call.labelling.unify(x[n], numbers[n]) for n in range(len(x))]
    return [axes]


# -- neighbours --------------------------------------------------------------------------------------------------------


def ordered(call: Call) -> list[TensorLabels]:
    """What asks who comes after whom along ``dim`` (``flip``, ``cumsum``, ``sort``): these axes are fixed.

    ``diff`` also takes what is put before and after; on all other axes it meets the tensor itself.
    """
    x, *put = call.tensors
    for other in put:
        for number in set(range(len(x))) - set(call.dims):
            call.labelling.unify(x[number], other[number])
    call.labelling.refuse([other[dim] for other in put for dim in call.dims], "depends on the order of units")
    return [ordered_along(call, call.dims, shape) for shape in call.shapes]


def ordered_along(call: Call, dims: Sequence[int], shape: tuple[int, ...]) -> TensorLabels:
    """Labels of a result of this shape, when the order of the first tensor along these axes matters."""
    x = call.tensors[0]
    call.labelling.refuse([x[dim] for dim in dims], "depends on the order of units")
    result = fixed_axes(shape, "places in an order")
    return [result[number] if number in dims else x[number] for number in range(len(shape))]


def roll(call: Call) -> list[TensorLabels]:
    """Places moved on along some axes; without ``dims``, through all of them."""
    return [ordered_along(call, call.dims, call.shapes[0])]


def triangle(call: Call) -> list[TensorLabels]:
    """Part of a matrix above or below its diagonal: rows and columns are in an order."""
    last = len(call.tensors[0])
    return [ordered_along(call, [last - 2, last - 1], call.shapes[0])]


def pad(call: Call) -> list[TensorLabels]:
    """Places before and after; ``pad`` names two numbers for each axis, from the last one on."""
    before_after = call.options["pad"]
    last = len(call.tensors[0]) - 1
    dims = [last - number // 2 for number, places in enumerate(before_after) if places != 0]
    return [ordered_along(call, dims, call.shapes[0])]


def pixel_shuffle(call: Call) -> list[TensorLabels]:
    """Channels of r·r consecutive pixels become images r times as wide: such channels move together."""
    *batch, channels, _, _ = call.tensors[0]
    pixels = call.options["upscale_factor"] ** 2
    channels, inside = call.labelling.deal([channels], [channels.size // pixels, pixels], "product")
    inside.fix("pixels of an image")
    return [[*batch, channels, *fixed_axes(call.shapes[0][-2:], "places of an image")]]


def pixel_unshuffle(call: Call) -> list[TensorLabels]:
    """Each channel becomes r·r consecutive ones, of the pixels in each window."""
    *batch, channels, _, _ = call.tensors[0]
    inside = Label(call.options["downscale_factor"] ** 2, stays=True, why="pixels of an image")
    sides = fixed_axes(call.shapes[0][-2:], "places of an image")
    return [[*batch, join([channels, inside], "product"), *sides]]


def windows(call: Call) -> list[TensorLabels]:
    """``F.unfold``: each channel with all places of a window, one window after another."""
    *batch, channels, height, width = call.tensors[0]
    call.labelling.refuse([height, width], "mixes neighbours")
    size, number = call.shapes[0][-2:]
    inside = Label(size // channels.size, stays=True, why="places of a window")
    return [[*batch, join([channels, inside], "product"), Label(number, stays=True, why="places of an image")]]
