"""A permutation spec read off a network's own forward pass.

The idea. Every axis of every parameter gets a label, which stands for the units along it. Then the forward pass is
followed, one operation after another, and each operation says which labels must be equal. A linear layer makes its
columns equal to what it reads, and gives its rows to what it writes; a sum makes both sides equal; inputs and outputs
are fixed. Labels that are still free at the end may be permuted, and all axes with equal labels are permuted together.

A worked example: a linear layer ``0`` of 4 inputs and 3 units, ReLU, a linear layer ``2`` of 2 outputs. At first

    0.weight (3, 4)   labels (a, b)          2.weight (2, 3)   labels (d, e)
    0.bias   (3,)     labels (c)             2.bias   (2,)     labels (f)

Then the forward pass is followed, for a batch of inputs with labels (., .), where a dot is fixed.

    operation   reads     writes    what it says
    linear      (., .)    (., a)    b = .    columns of the weight are the inputs
                                    c = a    the bias lies on the units that it writes
    relu        (., a)    (., a)
    linear      (., a)    (., d)    e = a    columns of the weight are the units that it reads
                                    f = d
    output      (., d)              d = .    outputs keep their order

What is free is ``a``: the rows of the first layer, its bias, and the columns of the second. That is the spec:

    >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> spec = derive_spec(network, torch.randn(5, 4))
    >>> spec.axes["0.weight"], spec.axes["0.bias"], spec.axes["2.weight"], spec.axes["2.bias"]
    (('0', None), ('0',), (None, '0'), (None,))

Four files, in the order in which to read them:

1. ``labels.py``: labels, and what can become of them (equal, cut, joined, fixed);
2. ``operations.py``: what each operation says about labels, one small function each;
3. ``labelled_spec.py``: labels written as a spec;
4. this one: the forward pass is traced, labelled, written as a spec, and every group of the spec is tested. A rule that
   is wrong can cost a group, but it cannot make a spec that changes outputs: the test finds such a group.

How to add an operation. An error names it: "stack in forward is not known". (``torch.stack`` puts tensors side by side
along a new axis.)

1. Ask what it says about units. Places of the new axis are called by number, so they are fixed. Along the other axes
   the tensors lie on one another: if one is permuted, all must be.
2. Say so in a function of ``operations.py``. The labels of what it takes are in ``call.tensors``, its arguments by name
   in ``call.options``, the shapes of what it returns in ``call.shapes``. ``call.labelling`` makes labels equal
   (``unify``) and cuts and joins them (``deal``); ``broadcast`` and ``fixed_axes`` are at hand there. ::

       def stack(call: Call) -> list[TensorLabels]:
           axes = broadcast(call.labelling, *call.tensors)
           new = call.options["dim"] % (len(axes) + 1)  # where the new axis stands
           places = fixed_axes([len(call.tensors)])
           return [[*axes[:new], *places, *axes[new:]]]  # of the one tensor that it returns

   Return None for a form that you leave out (a step, a mode): it is refused as not known, and so is what returns labels
   of other sizes than ``call.shapes``.
3. Add the line ``"stack": stack`` to ``OPERATIONS``, under the name that the error gives. An operation that works
   number by number needs no function: ``"hardswish": elementwise``.
4. Test it, in ``tests/test_tracing.py``: a network in ``FREE`` (everything that may move is found), and one in
   ``SOUND`` where units are not alike (nothing else moves).
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.func import functional_call
from torch.fx.node import Node, map_arg

from dwflow_lite.networks.constants import constants_of
from dwflow_lite.symmetry.labelled_spec import write_spec
from dwflow_lite.symmetry.labels import Label, Labelling, TensorLabels, all_fixed, fix_all, fixed_axes
from dwflow_lite.symmetry.operations import Call, labels_of_results
from dwflow_lite.symmetry.permutation import Permutation
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.zoo.layout import Layout

BY_HAND = "write the spec by hand: PermutationSpec(layout, axes)"


def derive_spec(network: nn.Module, x: Tensor, *, unknown: str = "raise") -> PermutationSpec:
    """The permutation spec of a network of your own, from one traced forward pass in eval mode (``torch.export``).

    Every axis of every parameter gets a label. Operations make labels equal (a sum of both sides, a layer and what it
    reads), cut them (heads, slices) or put them in a row (concatenation); what reaches the output, meets inputs,
    positions or constants, or an operation that is not known, is fixed. What is left is a proposal. Each of its groups
    is then permuted alone, by permutations of which all others are made, in float64 and with random weights: one that
    changes outputs is fixed as well.

    Known: linear layers, convolutions (plain, depthwise), BatchNorm, LayerNorm, RMSNorm, GroupNorm of one group,
    elementwise functions, softmax, sums with broadcasting, products of matrices, attention (fused or not), pooling,
    means, reshaping, concatenation, slices, embeddings.

    Args:
        network: a module of one tensor in, one out; it is left as it is.
        x: inputs (n, ...), n >= 2, of the shape and dtype that the network takes.
        unknown: ``"raise"`` where an operation is not known or a group fails the test; ``"fix"``: leave these units
            where they are. A warning names them, and also units that could move but not by assignments (a group on
            both axes of one tensor) or not in the words of a spec.

    Returns:
        The spec; its groups are named after the first layer that writes to them.

    Raises:
        ValueError: the network cannot be traced, or see ``unknown``.
    """
    if unknown not in ("raise", "fix"):
        raise ValueError(f"unknown must be 'raise' or 'fix', got {unknown!r}")
    name = type(network).__name__
    network = deepcopy(network).cpu().eval()
    x = x.cpu()
    program = trace(network, x)
    tensors = labels_of_parameters(network)
    labelling = Labelling()
    try:
        label_forward_pass(program, tensors, labelling)
        spec = write_spec(Layout.of(network), tensors, labelling)
        labelling.here = "the test of permuting, in float64,"
        failing = failing_groups(network, spec, x)
    except Exception as error:
        raise ValueError(f"{name}: {labelling.here} is not understood ({type(error).__name__}); {BY_HAND}") from error
    doubts = labelling.doubts + [f"permuting {', '.join(groups)} changes outputs" for groups in failing]
    if doubts and unknown == "raise":
        raise ValueError(f"{name}: {'; '.join(doubts)}. unknown='fix' leaves these units where they are; or {BY_HAND}")
    reasons = doubts + labelling.notes
    if reasons:
        warnings.warn(f"{name}: units left where they are: {'; '.join(reasons)}", stacklevel=2)
    return spec.fix(*(group for groups in failing for group in groups))


# -- the traced forward pass -------------------------------------------------------------------------------------------


def trace(network: nn.Module, x: Tensor) -> ExportedProgram:
    """The forward pass as a graph of ``aten`` operators, for inputs ``x`` (n, ...)."""
    name = type(network).__name__
    try:
        program = torch.export.export(network, (x,), strict=False)
    except Exception as error:  # whatever a reader's own code raises
        raise ValueError(f"{name} cannot be traced ({str(error).splitlines()[0]}); {BY_HAND}") from error
    if len(program.graph_signature.user_outputs) != 1:
        raise ValueError(f"{name} returns more than one tensor; derive the spec of a module that returns the one used")
    return program


def labels_of_parameters(network: nn.Module) -> dict[str, TensorLabels]:
    """A label for every axis of every parameter and buffer, by name; those that are one tensor (tied) share theirs."""
    tensors = dict(network.named_parameters(remove_duplicate=False))
    tensors |= dict(network.named_buffers(remove_duplicate=False))
    constants = {id(tensor) for tensor in constants_of(network).values()}
    labels: dict[int, TensorLabels] = {}
    for tensor in tensors.values():
        labels[id(tensor)] = [Label(size) for size in tensor.shape]
        if id(tensor) in constants or not tensor.is_floating_point():
            labels[id(tensor)] = labels_of_constant(tensor)
    return {name: labels[id(tensor)] for name, tensor in tensors.items()}


def labels_of_constant(tensor: Tensor) -> TensorLabels:
    """The labels of a tensor that is no weight: it stays, but along an axis where all its numbers are equal.

    Units may move along such an axis: they find the same number wherever they go. Whole numbers (of tokens) stay.
    """
    labels = []
    for axis, size in enumerate(tensor.shape):
        differences = tensor != tensor.narrow(axis, 0, min(size, 1))
        labels.append(Label(size, stays=not tensor.is_floating_point() or bool(differences.any())))
    return labels


def label_forward_pass(program: ExportedProgram, tensors: Mapping[str, TensorLabels], labelling: Labelling) -> None:
    """Follow the forward pass, and let each operation say what it asks of the labels of parameters.

    Args:
        program: the traced forward pass.
        tensors: labels of all parameters and buffers, by name; changed as operations ask for.
        labelling: gets a doubt for each operation that is not known.
    """
    labels: dict[Node, list[TensorLabels]] = {}  # of the tensors that each node returns
    # The graph takes parameters and buffers as inputs, under names of its own: node name -> name in the network.
    name_of = {graph_input.arg.name: graph_input.target for graph_input in program.graph_signature.input_specs}
    for node in program.graph.nodes:
        name = name_of.get(node.name)
        if name in tensors:
            labels[node] = [tensors[name]]
            if not node.users:  # a parameter that the forward pass does not use
                fix_all(tensors[name])
    for node in program.graph.nodes:
        if node not in labels:
            labels[node] = labels_of_node(node, labels, labelling)


def labels_of_node(node: Node, labels: Mapping[Node, list[TensorLabels]], labelling: Labelling) -> list[TensorLabels]:
    """The labels of all tensors that a node of the graph returns, from those of the nodes before it."""
    if node.target is operator.getitem:  # one of the tensors that an operation returned
        source, index = node.args
        return [labels[source][index]]
    taken: list[TensorLabels] = []
    map_arg((node.args, node.kwargs), lambda argument: taken.extend(labels[argument]))
    axes = [axis for tensor in taken for axis in tensor]
    shapes = shapes_of_results(node)
    if node.op == "output":
        fix_all(axes)
    if all_fixed(axes):  # also of the network's inputs and of constants, which take nothing
        return [fixed_axes(shape) for shape in shapes]
    name = name_of_operator(node)
    labelling.here = f"{name} in {module_of(node)}"
    results = None
    if hasattr(node.target, "_schema"):  # an operator of PyTorch
        results = labels_of_results(Call(name, node, taken, shapes, labelling))
    if results is not None and [shape_of(tensor) for tensor in results] == shapes:
        return results
    labelling.refuse(axes, "is not known")
    return [fixed_axes(shape) for shape in shapes]


def shape_of(tensor: TensorLabels) -> tuple[int, ...]:
    """The shape of a tensor with these labels."""
    return tuple(label.size for label in tensor)


def name_of_operator(node: Node) -> str:
    """The name that ``OPERATIONS`` has for it: ``aten.add_.Tensor`` -> ``add``."""
    without_overload = str(node.target).removeprefix("aten.").rsplit(".", 1)[0]
    return without_overload.rstrip("_")


def shapes_of_results(node: Node) -> list[tuple[int, ...]]:
    """Shapes of all tensors that a node returns; () for what is no tensor."""
    results = node.meta.get("val")
    if not isinstance(results, (list, tuple)):
        results = [results]
    return [tuple(getattr(result, "shape", ())) for result in results]


def module_of(node: Node) -> str:
    """The module in whose forward pass a node stands, for messages: ``layers.0``, or ``forward``."""
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    path = stack[-1] if stack else ""
    return path.removeprefix("L[self].") or "forward"


# -- the test of what is proposed --------------------------------------------------------------------------------------


@torch.no_grad()
def failing_groups(network: nn.Module, spec: PermutationSpec, x: Tensor) -> list[tuple[str, ...]]:
    """The groups (or blocks of heads) that cannot be permuted alone without a change of outputs."""
    double = deepcopy(network).double().eval()
    x = x.double() if x.is_floating_point() else x
    failing: dict[tuple[str, ...], None] = {}
    for seed in range(4):  # in some networks, for some weights, hardly anything reaches the output
        state = random_state(spec.layout, seed)
        before = functional_call(double, state, (x,))
        for heads, groups in spec.coordinates:
            sizes = {group: spec.groups[group] for group in groups}
            for permutation in generating_permutations(heads, sizes):
                after = functional_call(double, spec.permute(state, permutation), (x,))
                if not torch.allclose(before, after, rtol=1e-6, atol=1e-8):
                    failing[groups] = None
    return list(failing)


def random_state(layout: Layout, seed: int) -> dict[str, Tensor]:
    """Named tensors of a network, drawn at random in float64; running variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    weights = 0.5 * torch.randn(layout.size, generator=generator, dtype=torch.float64)
    state = dict(layout.unflatten(weights))
    for name in state:
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.1
    return state


def generating_permutations(heads: int, sizes: Mapping[str, int]) -> Iterator[Permutation]:
    """Permutations of which all others are made: a cycle and a swap, of heads, and of units in each group's first head.

    Args:
        heads: number of heads; 1 for a group without.
        sizes: group -> number of units, of the groups that have these heads.
    """
    for order in cycle_and_swap(heads):
        yield Permutation({g: torch.arange(size).view(heads, -1)[order].flatten() for g, size in sizes.items()})
    for group, size in sizes.items():
        inside = size // heads
        for order in cycle_and_swap(inside):
            yield Permutation({group: torch.cat([order, torch.arange(inside, size)])})


def cycle_and_swap(n: int) -> list[Tensor]:
    """The cycle of n places and the swap of the first two, which generate all permutations; none where n is 1."""
    if n < 2:
        return []
    return [torch.tensor([*range(1, n), 0]), torch.tensor([1, 0, *range(2, n)])]
