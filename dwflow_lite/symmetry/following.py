"""A traced forward pass is followed, one operation after another, and labels are passed on from each to the next."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import Node, map_arg

from dwflow_lite.symmetry.labels import (
    Label,
    Labelling,
    TensorLabels,
    all_fixed,
    first_reason,
    fix_all,
    fixed_axes,
)
from dwflow_lite.symmetry.operation_calls import Call
from dwflow_lite.symmetry.operations import OPERATIONS, SPREADING, labels_of_results

Labels = dict[Node, list[TensorLabels]]  # of the tensors that each node of a graph returns

# Parts of a forward pass that stand in a graph of their own: under torch.no_grad(), under autocast.
WRAPPERS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


def labels_of_parameters(network: nn.Module, moving: Sequence[str]) -> dict[str, TensorLabels]:
    """A label for every axis of every parameter and buffer, by name; those that are one tensor (tied) share theirs.

    Args:
        network: whose tensors they are.
        moving: names of those that are weights; all others (constants, numbers of tokens) stay as they are.
    """
    tensors = dict(network.named_parameters(remove_duplicate=False))
    tensors |= dict(network.named_buffers(remove_duplicate=False))
    weights = {id(tensors[name]) for name in moving}
    labels: dict[int, TensorLabels] = {}
    for tensor in tensors.values():
        if id(tensor) in weights:
            labels[id(tensor)] = [Label(size) for size in tensor.shape]
        else:
            labels[id(tensor)] = labels_of_constant(tensor)
    return {name: labels[id(tensor)] for name, tensor in tensors.items()}


def labels_of_constant(tensor: Tensor) -> TensorLabels:
    """The labels of a tensor that is no weight: it stays, but along an axis where all its numbers are alike.

    Units may move along such an axis: they find the same number wherever they go. Whole numbers (of tokens) stay.
    """
    labels: TensorLabels = []
    for axis, size in enumerate(tensor.shape):
        first = tensor.narrow(axis, 0, min(size, 1))
        alike = tensor.is_floating_point() and not bool((tensor != first).any())
        labels.append(Label(size, stays=not alike, why="meets a constant", alike=alike))
    return labels


def label_forward_pass(program: ExportedProgram, tensors: Mapping[str, TensorLabels], labelling: Labelling) -> None:
    """Follow the forward pass, and let each operation say what it asks of the labels of parameters.

    Args:
        program: the traced forward pass.
        tensors: labels of all parameters and buffers, by name; changed as operations ask for.
        labelling: gets a doubt for each operation that is not known.
    """
    labels: Labels = {}
    # The graph takes parameters and buffers as inputs, under names of its own: node name -> name in the network.
    name_of = {graph_input.arg.name: graph_input.target for graph_input in program.graph_signature.input_specs}
    used: set[int] = set()
    for node in program.graph.nodes:
        name = name_of.get(node.name)
        if name in tensors:
            labels[node] = [tensors[name]]
            if node.users:
                used.add(id(tensors[name]))
        elif name in program.constants:  # a tensor that is a plain attribute, or made in the forward pass
            labels[node] = [labels_of_constant(program.constants[name])]
        elif node.op == "placeholder":
            labels[node] = [fixed_axes(shape, "inputs keep their order") for shape in shapes_of_results(node)]
    for axes in tensors.values():
        if id(axes) not in used:  # under none of its names
            fix_all(axes, "no part of the forward pass")
    for node in program.graph.nodes:
        if node not in labels:
            labels[node] = labels_of_node(node, labels, labelling)


def labels_of_node(node: Node, labels: Labels, labelling: Labelling, inside: str = "") -> list[TensorLabels] | None:
    """The labels of all tensors that a node of the graph returns, from those of the nodes before it.

    Args:
        node: of a graph.
        labels: of the nodes before it.
        labelling: what is decided about labels.
        inside: the operation of which the graph is a part; then None is returned for what is not known.
    """
    if node.target is operator.getitem:  # one of the tensors that an operation returned
        source, index = node.args
        return [labels[source][index]]
    taken: list[TensorLabels] = []
    map_arg((node.args, node.kwargs), lambda argument: taken.extend(labels[argument]))
    axes = [axis for tensor in taken for axis in tensor]
    shapes = shapes_of_results(node)
    if node.op == "output":
        fix_all(axes, "outputs keep their order")
    name = name_of_operator(node)
    if all_fixed(axes) and name not in SPREADING:  # also of the network's inputs and of constants, which take nothing
        of_a_part = f"{inside} tells units apart" if inside else ""
        why = (
            first_reason(axes)
            or of_a_part
            or ("inputs keep their order" if node.op == "placeholder" else "meets a constant")
        )
        return [fixed_axes(shape, why) for shape in shapes]
    labelling.here = inside or f"{name} in {module_of(node)}"
    results = None
    if name in WRAPPERS:
        results = labels_of_part(part_of(node), taken[1:], labelling)  # the first is the part itself
    elif hasattr(node.target, "_schema"):  # an operator of PyTorch
        call = Call(name, node, taken, shapes, labelling)
        results = labels_of_results(call)
        if results is None and name not in OPERATIONS:
            results = labels_by_parts(call)
    if results is not None and [shape_of(tensor) for tensor in results] == shapes:
        return results
    if inside:
        return None
    labelling.refuse(axes, "is not known")
    return [fixed_axes(shape, first_reason(axes)) for shape in shapes]


# -- graphs inside a graph ---------------------------------------------------------------------------------------------


def part_of(node: Node) -> Graph:
    """The graph that a wrapper runs."""
    modules = [a for a in node.args if isinstance(a, Node) and a.op == "get_attr"]
    return node.graph.owning_module.get_submodule(modules[0].target).graph


def labels_of_part(
    graph: Graph, taken: Sequence[TensorLabels], labelling: Labelling, inside: str = ""
) -> list[TensorLabels] | None:
    """The labels of what a graph inside a graph returns, from those of what it takes.

    Args:
        graph: of operations.
        taken: labels of its inputs.
        labelling: what is decided about labels.
        inside: the operator that it is made of, for messages; empty for a stretch of the forward pass.

    Returns:
        One list of labels for each tensor; None if it is part of an operator and holds one that is not known.
    """
    places = [node for node in graph.nodes if node.op == "placeholder"]
    labels: Labels = {place: [axes] for place, axes in zip(places, taken, strict=True)}
    returned: list[Node] = []
    for node in graph.nodes:
        if node.op == "output":
            map_arg(node.args, returned.append)
        elif node not in labels:
            results = labels_of_node(node, labels, labelling, inside)
            if results is None:
                return None
            labels[node] = results
    return [tensor for source in returned for tensor in labels[source]]


def labels_by_parts(call: Call) -> list[TensorLabels] | None:
    """The labels of what an operator returns, from the simpler ones that PyTorch makes it of; None if it has none.

    A part that makes tensors of its own (a mask, say, of the numbers of places) and fixes units by them says that the
    operator tells units apart, and that is a doubt.
    """
    module = parts_of_operator(call.node)
    if module is None:
        return None
    atoms = [atom for tensor in call.tensors for axis in tensor for atom in free_atoms(axis)]
    doubts = len(call.labelling.doubts)
    results = labels_of_part(module.graph, call.tensors, call.labelling, call.labelling.here)
    doubt = f"{call.labelling.here} tells units apart"
    if len(call.labelling.doubts) == doubts and any(doubt in atom.reasons for atom in atoms):
        call.labelling.doubts.append(doubt)
    return results


def parts_of_operator(node: Node) -> GraphModule | None:
    """An operator as a graph of simpler ones, by PyTorch's own table and code; None if it is not made of others."""
    in_place, overload = node.target._schema.name.endswith("_"), node.target._overloadname
    # Some operators exist only in place, without a name for the form that is not (fill_diagonal_).
    plain = getattr(torch.ops.aten, name_of_operator(node), None) if in_place else None
    target = getattr(plain, overload, None) if in_place else node.target
    table = torch.export.default_decompositions()
    if target is None:
        return None
    function = table[target] if target in table else target  # which may be made of others in C++
    sources: list[Node] = []
    map_arg((node.args, node.kwargs), sources.append)
    examples = [source.meta.get("val") for source in sources]
    if not all(isinstance(example, Tensor) for example in examples):
        return None

    def run(*tensors: Tensor) -> object:
        one_by_one = iter(tensors)
        args, kwargs = map_arg((node.args, node.kwargs), lambda _: next(one_by_one))
        return function(*args, **kwargs)

    # Only shapes matter: tensors without numbers will do.
    shapes = [torch.empty(example.shape, dtype=example.dtype, device="meta") for example in examples]
    try:
        module = make_fx(run, tracing_mode="fake")(*shapes)
    except Exception:  # of the operator's own code: it is not known, as if it were in no table
        return None
    return None if any(part.target is target for part in module.graph.nodes) else module


def free_atoms(label: Label) -> list[Label]:
    """The atoms of a label that still move."""
    root = label.root
    if root.parts:
        return [atom for part in root.parts for atom in free_atoms(part)]
    return [] if root.is_fixed else [root]


# -- what a node is ----------------------------------------------------------------------------------------------------


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
