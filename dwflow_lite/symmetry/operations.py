"""What each operation of a forward pass says about the labels of the tensors that it takes and gives.

One small function for each kind of operation. It gets a ``Call``, makes labels equal, cuts, joins or fixes them as the
operation asks for, and returns the labels of what the operation returns: one list of labels, axis by axis, for each
tensor. None says: in this form it is not known. Then all that it takes is fixed, with a doubt.

``OPERATIONS``, at the end, says which function speaks for which operator. Names are those of PyTorch's ``aten``
operators, as they stand in the graph of ``torch.export`` and in messages, without a trailing ``_`` (in place).

The question to ask of every operation: *if the units along this axis are permuted, what else must be permuted with
them, so that results are the same or permuted likewise?* Where nothing can make up for it, the units are fixed:
silently (``Label.fix``) where they are called by number, as the entries of a table; with a reason
(``Labelling.refuse``) where a reader might expect them to move.
"""

from __future__ import annotations

import torch

from dwflow_lite.symmetry.labels import TensorLabels
from dwflow_lite.symmetry.operation_calls import Call, Operations, elementwise, no_result, unchanged
from dwflow_lite.symmetry.operation_places import (
    concatenate,
    cut,
    expand,
    filled,
    gather,
    index,
    index_select,
    ordered,
    pad,
    pixel_shuffle,
    pixel_unshuffle,
    repeat,
    repeat_each,
    roll,
    select,
    stack,
    transpose,
    triangle,
    unbind,
    view,
    windows,
)
from dwflow_lite.symmetry.operation_sums import (
    added_matrix_product,
    attention,
    channel_norm,
    convolution,
    embedding,
    extremum,
    layer_norm,
    linear,
    matrix_product,
    place_of_extremum,
    pool,
    recurrent,
    reduction,
)

# -- which function speaks for which operator --------------------------------------------------------------------------

OPERATIONS: Operations = {
    # sums over units, which are permuted as what wrote them
    "linear": linear,
    "matmul": matrix_product,
    "mm": matrix_product,
    "bmm": matrix_product,
    "mv": matrix_product,
    "dot": matrix_product,
    "vdot": matrix_product,
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
    "var_mean": reduction,
    "std_mean": reduction,
    "norm": reduction,
    "linalg_vector_norm": reduction,
    "nansum": reduction,
    "nanmean": reduction,
    "any": reduction,
    "all": reduction,
    "count_nonzero": reduction,
    "max": extremum,
    "min": extremum,
    "aminmax": reduction,
    "median": reduction,
    "nanmedian": reduction,
    "argmax": place_of_extremum,
    "argmin": place_of_extremum,
    # norms
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
    "batch_norm": channel_norm,
    "instance_norm": channel_norm,
    "group_norm": channel_norm,
    "prelu": channel_norm,
    "_weight_norm": elementwise,  # direction (units, …) and length (units, 1, …)
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
    "adaptive_max_pool1d": pool,
    "adaptive_max_pool2d": pool,
    "adaptive_max_pool3d": pool,
    "max_pool2d_with_indices": pool,
    "max_pool3d_with_indices": pool,
    "upsample_nearest1d": pool,
    "upsample_nearest2d": pool,
    "upsample_nearest3d": pool,
    "_upsample_nearest_exact1d": pool,
    "_upsample_nearest_exact2d": pool,
    "_upsample_nearest_exact3d": pool,
    "upsample_linear1d": pool,
    "upsample_bilinear2d": pool,
    "upsample_bicubic2d": pool,
    "upsample_trilinear3d": pool,
    "_upsample_bilinear2d_aa": pool,
    "_upsample_bicubic2d_aa": pool,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "im2col": windows,
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
    "mH": transpose,
    "movedim": transpose,
    "moveaxis": transpose,
    "swapaxes": transpose,
    "swapdims": transpose,
    "adjoint": transpose,
    "expand": expand,
    "expand_as": expand,
    "broadcast_to": expand,
    "zeros": filled,
    "ones": filled,
    "full": filled,
    "new_zeros": filled,
    "new_ones": filled,
    "new_full": filled,
    "zeros_like": filled,
    "ones_like": filled,
    "full_like": filled,
    "repeat": repeat,
    "tile": repeat,
    "repeat_interleave": repeat_each,
    "view_as": view,
    "reshape_as": view,
    "ravel": view,
    # parts of tensors
    "cat": concatenate,
    "stack": stack,
    "split": cut,
    "split_with_sizes": cut,
    "chunk": cut,
    "tensor_split": cut,
    "slice": cut,
    "narrow": cut,
    "select": select,
    "unbind": unbind,
    "index": index,
    "_unsafe_index": index,
    "index_select": index_select,
    "gather": gather,
    # the order along an axis
    "flip": ordered,
    "cumsum": ordered,
    "cumprod": ordered,
    "logcumsumexp": ordered,
    "cummax": ordered,
    "cummin": ordered,
    "diff": ordered,
    "sort": ordered,
    "argsort": ordered,
    "topk": ordered,
    "roll": roll,
    "tril": triangle,
    "triu": triangle,
    "pad": pad,
    "constant_pad_nd": pad,
    # units that a layer reads and writes by one matrix
    "lstm": recurrent,
    "gru": recurrent,
    "rnn_tanh": recurrent,
    "rnn_relu": recurrent,
    "lstm_cell": recurrent,
    "gru_cell": recurrent,
    "rnn_tanh_cell": recurrent,
    "rnn_relu_cell": recurrent,
    # labels as they were
    "contiguous": unchanged,
    "detach": unchanged,
    "alias": unchanged,
    "to": unchanged,
    "type_as": unchanged,
    "softmax": unchanged,
    "log_softmax": unchanged,
    "_safe_softmax": unchanged,
    "where": elementwise,
    "log_sigmoid": elementwise,
    "masked_fill": elementwise,
    "copy": elementwise,
    "fill": elementwise,
    "_to_copy": unchanged,
    "lift_fresh_copy": unchanged,
    "dropout": unchanged,  # in eval mode
    "alpha_dropout": unchanged,
    "feature_alpha_dropout": unchanged,
    "feature_dropout": unchanged,
    "_assert_tensor_metadata": no_result,
}


# What gives labels of its own to tensors that are fixed, or to none.
SPREADING = frozenset(name for name, operation in OPERATIONS.items() if operation in (expand, filled))


def labels_of_results(call: Call) -> list[TensorLabels] | None:
    """The labels of all tensors that an operation returns; None if it is not known.

    PyTorch itself marks the operators that work number by number (``torch.Tag.pointwise``: ``relu``, ``add``, ``gelu``,
    …); those need no line in ``OPERATIONS``.
    """
    operation = OPERATIONS.get(call.name)
    if operation is None and torch.Tag.pointwise in call.node.target.tags:
        operation = elementwise
    return operation(call) if operation else None
