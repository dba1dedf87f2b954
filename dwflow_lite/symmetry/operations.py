"""What each operation of a forward pass says about the labels of the tensors that it takes and gives.

One small function for each kind of operation. It gets a ``Call``, makes labels equal, cuts, joins or fixes them as the
operation asks for, and returns the labels of what the operation returns: one list of labels, axis by axis, for each
tensor. None says: in this form it is not known. Then all that it takes is fixed, with a doubt.

``OPERATIONS``, at the end, says which function speaks for which operator. Names are those of PyTorch's ``aten``
operators, as they stand in the graph of ``torch.export`` and in messages, without a trailing ``_`` (in place).

The question to ask of every operation: *if the units along this axis are permuted, what else must be permuted with
them, so that results are the same or permuted likewise?* Where the answer is "nothing can make up for it", fix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import Node

from dwflow_lite.symmetry.labels import Axes, Label, Labelling, fix_all, fixed_axes, join


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
    tensors: Sequence[Axes]
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


Operation = Callable[[Call], list[Axes] | None]


# -- tensors on one another --------------------------------------------------------------------------------------------


def broadcast(labelling: Labelling, *tensors: Axes) -> Axes:
    """Tensors on one another: axes meet from the right, and those that meet run over the same units."""
    number = max(len(axes) for axes in tensors)
    padded = [fixed_axes([1] * (number - len(axes))) + axes for axes in tensors]
    return [labelling.unify_all(meeting) for meeting in zip(*padded, strict=True)]


def elementwise(call: Call) -> list[Axes]:
    """Each number is changed alone, or meets those at its own place: what meets has the same units."""
    return [broadcast(call.labelling, *call.tensors)]


def unchanged(call: Call) -> list[Axes]:
    """The first tensor keeps its places; a softmax also sums over all units, which may be done in any order."""
    return [call.tensors[0]]


def layer_norm(call: Call) -> list[Axes]:
    """Mean and variance are over all units, in any order; gain and offset (if any) lie on the units they scale."""
    return [broadcast(call.labelling, *call.tensors)]


def channel_norm(call: Call) -> list[Axes]:
    """Each channel (axis 1) has its own gain, offset and statistics (or slope); groups of channels tie neighbours."""
    x, *vectors = call.tensors
    channels = [x[1], *(axes[0] for axes in vectors)]
    if call.options.get("num_groups", 1) > 1:
        call.labelling.refuse(channels, "ties channels to their neighbours in groups")
    call.labelling.unify_all(channels)
    return [x]


def no_result(call: Call) -> list[Axes]:
    """A check of types: no tensor comes out, and no label changes."""
    return [[]]


# -- sums over units: what is read is permuted as what was written -----------------------------------------------------


def multiply(labelling: Labelling, a: Axes, b: Axes) -> Axes:
    """The product of (batches of) matrices, (…, n, k) and (…, k, m): both run over the same k; gives (…, n, m).

    ``a`` may also be one vector (k,), which gives (…, m).
    """
    batch = broadcast(labelling, a[:-2], b[:-2])  # first, so that heads are known before the units inside them
    labelling.unify(a[-1], b[-2])
    rows = a[-2:-1]  # none for a vector
    return [*batch, *rows, b[-1]]


def linear(call: Call) -> list[Axes]:
    """Columns of the weight (m, k) are the units that it reads, rows and offset (m,) those that it writes."""
    x, weight, *offset = call.tensors
    product = multiply(call.labelling, x, weight[::-1])  # (…, k) times (k, m)
    return [broadcast(call.labelling, product, *offset)]


def matrix_product(call: Call) -> list[Axes] | None:
    """The sum runs over one axis of both; products with a vector on the right are not known."""
    if any(len(axes) < 2 for axes in call.tensors):
        return None
    a, b = call.tensors
    return [multiply(call.labelling, a, b)]


def added_matrix_product(call: Call) -> list[Axes]:
    """``offset + a @ b``: the offset lies on the product."""
    offset, a, b = call.tensors
    return [broadcast(call.labelling, offset, multiply(call.labelling, a, b))]


def attention(call: Call) -> list[Axes] | None:
    """``softmax(q kᵀ + mask) v``: q and k have the same units, scores and v the same tokens, all the same heads."""
    if call.options.get("enable_gqa"):  # one key head for several queries
        return None
    labelling = call.labelling
    q, k, v, *mask = call.tensors  # each (…, tokens, units)
    *batch, tokens, units = k
    scores = broadcast(labelling, multiply(labelling, q, [*batch, units, tokens]), *mask)
    if call.options["is_causal"]:
        labelling.refuse(scores[-2:], "orders its tokens")
    return [multiply(labelling, scores, v)]


def embedding(call: Call) -> list[Axes]:
    """A table (entries, units): entries are called by number, so they stay; units go on."""
    (entries, units), indices = call.tensors
    entries.fix()
    return [[*indices, units]]


def reduction(call: Call) -> list[Axes]:
    """Sums, means and maxima do not depend on the order of what they run over; the other axes go on."""
    others = [axis for number, axis in enumerate(call.tensors[0]) if number not in call.dims]
    return [call.labelling.deal(others, call.shapes[0], "product")]  # puts axes of size 1 back (keepdim)


# -- windows over images -----------------------------------------------------------------------------------------------


def split_image(call: Call) -> tuple[Axes, Label, Axes]:
    """Labels of a batch of images: (batch, channels, sides). Windows mix neighbours, so the sides are fixed.

    Batch and channels are those of the images that a window slides over, sides those of the images that it returns.
    """
    number_of_sides = int(call.name[-2])  # conv2d: 2
    x = call.tensors[0]
    call.labelling.refuse(x[-number_of_sides:], "mixes neighbours")
    *batch, channels = x[:-number_of_sides]
    sides = fixed_axes(call.shapes[0][-number_of_sides:])
    return batch, channels, sides


def pool(call: Call) -> list[Axes]:
    """A window slides over the places of each channel alone: channels go on."""
    batch, channels, sides = split_image(call)
    return [[*batch, channels, *sides]]


def convolution(call: Call) -> list[Axes]:
    """A matrix of channels at every place of the window: it reads some and writes others, as a linear layer does.

    A kernel is (out, in / groups, …), that of a transposed convolution (in, out / groups, …). Depthwise, with one group
    for each channel, every channel is written from itself alone.
    """
    labelling = call.labelling
    batch, channels, sides = split_image(call)
    kernel, *offsets = call.tensors[1:]
    offset = [axes[0] for axes in offsets]
    fix_all(kernel[2:])
    groups = call.options.get("groups", 1)
    written, read = kernel[:2]
    if "transpose" in call.name:
        written, read = read, written
    if groups == channels.size == kernel[0].size and kernel[1].size == 1:  # depthwise
        written = read = kernel[0]
    elif groups > 1:
        labelling.refuse([channels, *kernel, *offset], "has several groups of channels")
    labelling.unify(channels, read)
    return [[*batch, labelling.unify_all([written, *offset]), *sides]]


# -- cutting, joining and moving axes ----------------------------------------------------------------------------------


def view(call: Call) -> list[Axes]:
    """The same numbers in the same order, under other axes: labels are cut into products, or joined to products."""
    return [call.labelling.deal(call.tensors[0], call.shapes[0], "product")]


def transpose(call: Call) -> list[Axes]:
    """Labels move with their axes; where to, is asked of the operator itself, with an axis of another size for each."""
    x = call.tensors[0]
    probe = torch.empty(*range(2, len(x) + 2), device="meta")  # axis number 0 has size 2, number 1 size 3, …
    turned: Tensor = call.node.target(probe, *call.node.args[1:], **call.node.kwargs)
    return [[x[size - 2] for size in turned.shape]]


def expand(call: Call) -> list[Axes]:
    """Copies along new axes, and along axes of size 1: all copies are alike, and their places are fixed."""
    shape = call.shapes[0]
    x = call.tensors[0]
    padded = [*fixed_axes(shape[: len(shape) - len(x)]), *x]
    copied = zip(padded, shape, strict=True)
    return [[axis if axis.size == size else Label(size, stays=True) for axis, size in copied]]


def concatenate(call: Call) -> list[Axes]:
    """Along ``dim`` the tensors stand in a row; along all other axes they meet, and so have the same units."""
    axes: Axes = []
    for number, meeting in enumerate(zip(*call.tensors, strict=True)):
        axes.append(join(meeting, "row") if number == call.dim else call.labelling.unify_all(meeting))
    return [axes]


def cut(call: Call) -> list[Axes] | None:
    """Stretches along ``dim``, one after another (a slice may begin later): labels are cut into rows."""
    if call.options.get("step", 1) != 1:
        return None
    x, dim = call.tensors[0], call.dim
    first = call.options.get("start")  # of a slice; others have none, and begin at 0
    start, _, _ = slice(first, None).indices(x[dim].size)  # from the front: where negative, it counts from the end
    lengths = [shape[dim] for shape in call.shapes]
    _, *parts = call.labelling.deal([x[dim]], [start, *lengths], "row")  # all but what lies before the start
    return [[*x[:dim], part, *x[dim + 1 :]] for part in parts]


def at_places(call: Call, places: Sequence[int]) -> list[Axes]:
    """The tensor at some places of ``dim``. A place is called by number, so the axis is fixed."""
    x, dim = call.tensors[0], call.dim
    x[dim].fix()
    others = [*x[:dim], *x[dim + 1 :]]
    results: list[Axes] = []
    for index in places:
        results.append([axis.place(x[dim], index) for axis in others])
    return results


def select(call: Call) -> list[Axes]:
    """One place of an axis, ``x[:, 2]``."""
    size = call.tensors[0][call.dim].size
    return at_places(call, [call.options["index"] % size])


def unbind(call: Call) -> list[Axes]:
    """All places of an axis, each as a tensor of its own: ``q, k, v = qkv.unbind(0)``."""
    return at_places(call, range(len(call.shapes)))


# -- which function speaks for which operator --------------------------------------------------------------------------

OPERATIONS: Mapping[str, Operation] = {
    # sums over units, which are permuted as what wrote them
    "linear": linear,
    "matmul": matrix_product,
    "mm": matrix_product,
    "bmm": matrix_product,
    "addmm": added_matrix_product,
    "baddbmm": added_matrix_product,
    "scaled_dot_product_attention": attention,
    "embedding": embedding,
    # sums along an axis, in any order
    "mean": reduction,
    "sum": reduction,
    "amax": reduction,
    "amin": reduction,
    "logsumexp": reduction,
    "var": reduction,
    "std": reduction,
    # norms
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
    "batch_norm": channel_norm,
    "instance_norm": channel_norm,
    "group_norm": channel_norm,
    "prelu": channel_norm,
    # windows over images
    "conv1d": convolution,
    "conv2d": convolution,
    "conv3d": convolution,
    "conv_transpose1d": convolution,
    "conv_transpose2d": convolution,
    "conv_transpose3d": convolution,
    "avg_pool1d": pool,
    "avg_pool2d": pool,
    "avg_pool3d": pool,
    "max_pool1d": pool,
    "max_pool2d": pool,
    "max_pool3d": pool,
    "adaptive_avg_pool1d": pool,
    "adaptive_avg_pool2d": pool,
    "adaptive_avg_pool3d": pool,
    "_adaptive_avg_pool2d": pool,
    "_adaptive_avg_pool3d": pool,
    # axes under another shape
    "view": view,
    "reshape": view,
    "_unsafe_view": view,
    "flatten": view,
    "unflatten": view,
    "squeeze": view,
    "unsqueeze": view,
    "permute": transpose,
    "transpose": transpose,
    "t": transpose,
    "numpy_T": transpose,
    "mT": transpose,
    "expand": expand,
    # parts of tensors
    "cat": concatenate,
    "split": cut,
    "split_with_sizes": cut,
    "chunk": cut,
    "tensor_split": cut,
    "slice": cut,
    "narrow": cut,
    "select": select,
    "unbind": unbind,
    # labels as they were
    "contiguous": unchanged,
    "detach": unchanged,
    "alias": unchanged,
    "to": unchanged,
    "type_as": unchanged,
    "softmax": unchanged,
    "log_softmax": unchanged,
    "dropout": unchanged,  # in eval mode
    "feature_dropout": unchanged,
    "_assert_tensor_metadata": no_result,
}


def labels_of_results(call: Call) -> list[Axes] | None:
    """The labels of all tensors that an operation returns; None if it is not known.

    PyTorch itself marks the operators that work number by number (``torch.Tag.pointwise``: ``relu``, ``add``, ``gelu``,
    …); those need no line in ``OPERATIONS``.
    """
    operation = OPERATIONS.get(call.name)
    if operation is None and torch.Tag.pointwise in call.node.target.tags:
        operation = elementwise
    return operation(call) if operation else None
