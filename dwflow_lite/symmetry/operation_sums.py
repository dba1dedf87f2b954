"""What operations that sum over units, and norms, say about the labels of what they take and give.

Linear layers, products of matrices, attention, embeddings, reductions, norms, windows over images, recurrent layers.
"""

from __future__ import annotations

import re

from dwflow_lite.symmetry.labels import Label, Labelling, TensorLabels, fix_all, fixed_axes
from dwflow_lite.symmetry.operation_calls import Call, broadcast, elementwise

# -- sums over units: what is read is permuted as what was written -----------------------------------------------------


def multiply(labelling: Labelling, a: TensorLabels, b: TensorLabels) -> TensorLabels:
    """The product of (batches of) matrices, (…, n, k) and (…, k, m): both run over the same k; gives (…, n, m).

    ``a`` may also be one vector (k,), which gives (…, m).
    """
    batch = broadcast(labelling, a[:-2], b[:-2])  # first, so that heads are known before the units inside them
    a[-1].fix_copies()
    labelling.unify(a[-1], b[-2])
    rows = a[-2:-1]  # none for a vector
    return [*batch, *rows, b[-1]]


def linear(call: Call) -> list[TensorLabels]:
    """Columns of the weight (m, k) are the units that it reads, rows and bias (m,) those that it writes."""
    x, weight, *bias = call.tensors
    product = multiply(call.labelling, x, weight[::-1])  # (…, k) times (k, m)
    return [broadcast(call.labelling, product, *bias)]


def matrix_product(call: Call) -> list[TensorLabels]:
    """The sum runs over one axis of both; a vector on the right (k,) has no other."""
    a, b = call.tensors
    if len(b) > 1:
        return [multiply(call.labelling, a, b)]
    a[-1].fix_copies()
    call.labelling.unify(a[-1], b[0])
    return [a[:-1]]


def added_matrix_product(call: Call) -> list[TensorLabels]:
    """``bias + a @ b``: the bias lies on the product."""
    bias, a, b = call.tensors
    return [broadcast(call.labelling, bias, multiply(call.labelling, a, b))]


def attention(call: Call) -> list[TensorLabels] | None:
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


def embedding(call: Call) -> list[TensorLabels]:
    """A table (entries, units): entries are called by number, so they stay; units go on."""
    (entries, units), indices = call.tensors
    entries.fix("entries of a table, which are called by number")
    return [[*indices, units]]


def reduction(call: Call) -> list[TensorLabels]:
    """Sums, means and extrema do not depend on the order of what they run over; the other axes go on.

    Some return several tensors (mean and variance). The number of the place of an extremum does depend on the order.
    """
    x = call.tensors[0]
    if len(call.shapes) == 2 and call.name in WITH_PLACES and call.uses(1):
        call.labelling.refuse([x[dim] for dim in call.dims], "gives places by number")
    others = [axis for number, axis in enumerate(x) if number not in call.dims]
    # Axes of size 1 are put back (keepdim).
    return [call.labelling.deal(others, shape, "product") for shape in call.shapes]


WITH_PLACES = ("max", "min", "median", "nanmedian")  # what they return second


def extremum(call: Call) -> list[TensorLabels]:
    """``max`` of two tensors, number by number, or of one along an axis."""
    return elementwise(call) if len(call.tensors) == 2 else reduction(call)


def place_of_extremum(call: Call) -> list[TensorLabels]:
    """``argmax``: the number of a place, so what it runs over cannot move."""
    call.labelling.refuse([call.tensors[0][dim] for dim in call.dims], "gives places by number")
    return reduction(call)


def recurrent(call: Call) -> list[TensorLabels]:
    """One matrix reads the units that it writes: they are on both of its axes, which is no linear assignment."""
    axes = [axis for tensor in call.tensors for axis in tensor]
    call.labelling.refuse(axes, "is a recurrent layer, which no spec can describe")
    return [fixed_axes(shape, "units of a recurrent layer") for shape in call.shapes]


# -- norms -------------------------------------------------------------------------------------------------------------


def layer_norm(call: Call) -> list[TensorLabels]:
    """Mean and variance are over all units, in any order; gain and bias (if any) lie on the units they scale."""
    return [broadcast(call.labelling, *call.tensors)]


def channel_norm(call: Call) -> list[TensorLabels]:
    """Each channel (axis 1) has its own gain, bias and statistics; groups of channels tie neighbours together."""
    x, *vectors = call.tensors  # vectors: (channels,)
    channels = [x[1], *(axes[0] for axes in vectors)]
    if call.options.get("num_groups", 1) > 1:
        call.labelling.refuse(channels, "ties channels to their neighbours in groups")
    call.labelling.unify_all(channels)
    return [x]


# -- windows over images -----------------------------------------------------------------------------------------------


def split_image(call: Call) -> tuple[TensorLabels, Label, TensorLabels]:
    """Labels of a batch of images: (batch, channels, sides). Windows mix neighbours, so the sides are fixed."""
    sides = int(re.search(r"([123])d", call.name)[1])  # conv2d: 2
    x = call.tensors[0]
    call.labelling.refuse(x[-sides:], "mixes neighbours")
    *batch, channels = x[:-sides]
    return batch, channels, fixed_axes(call.shapes[0][-sides:], "places of an image")


def pool(call: Call) -> list[TensorLabels]:
    """A window slides over the places of each channel alone: channels go on. (Some also return where maxima were.)"""
    batch, channels, sides = split_image(call)
    return [[*batch, channels, *sides] for _ in call.shapes]


def convolution(call: Call) -> list[TensorLabels]:
    """A matrix of channels at every place of the window: it reads some and writes others, as a linear layer does.

    A kernel is (out, in / groups, …), that of a transposed convolution (in, out / groups, …). Depthwise, with one group
    for each channel, every channel is written from itself alone.
    """
    labelling = call.labelling
    batch, channels, sides = split_image(call)
    kernel, *biases = call.tensors[1:]  # one bias (out,), or none
    bias = [axes[0] for axes in biases]
    fix_all(kernel[2:], "places of a window")
    groups = call.options.get("groups", 1)
    written, read = kernel[:2]
    if "transpose" in call.name:
        written, read = read, written
    if groups == channels.size == kernel[0].size and kernel[1].size == 1:  # depthwise
        written = read = kernel[0]
    elif groups > 1:
        labelling.refuse([channels, *kernel, *bias], "has several groups of channels")
    channels.fix_copies()
    labelling.unify(channels, read)
    return [[*batch, labelling.unify_all([written, *bias]), *sides]]
