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

What is fixed is listed with its reason: ``print(spec)``, or

    >>> spec.fixed
    {'2.bias': 'outputs keep their order'}

The files, in the order in which to read them:

1. ``labels.py``: labels, and what can become of them (equal, cut, joined, fixed);
2. ``operation_calls.py``, ``operation_sums.py``, ``operation_places.py``: what each operation says about labels, one
   small function each; ``operations.py``: which function speaks for which operation;
3. ``following.py``: the traced forward pass is labelled;
4. ``labelled_spec.py``: labels written as a spec;
5. ``probing.py`` and ``proving.py``: the spec is tested on the network itself, at random weights. A rule that is wrong
   can cost a group, but it cannot make a spec that changes outputs: the test finds such a group;
6. this one: all of that in a row.

How to add an operation. An operation that works number by number needs nothing: PyTorch marks it
(``torch.Tag.pointwise``). Nor does one that PyTorch makes of simpler ones (``glu``, ``einsum``, ``hardswish``): its
parts are followed. For others an error names it: "cdist in forward is not known". (``torch.cdist`` gives the distance
of each row of a matrix from each row of another.)

1. Ask what it says about units. Distances are summed over columns: if those of one matrix are permuted, those of the
   other must be. Rows go on, of the first matrix as rows of the result, of the second as its columns.
2. Say so in a function of ``operation_sums.py``, or ``operation_places.py`` if no numbers are changed. The labels of
   what it takes are in ``call.tensors``, its arguments by name in ``call.options``, the shapes of what it returns in
   ``call.shapes``. ``call.labelling`` makes labels equal (``unify``) and cuts and joins them (``deal``); ``broadcast``
   and ``fixed_axes`` are at hand there. ::

       def distances(call: Call) -> list[TensorLabels]:
           a, b = call.tensors  # (…, n, k) and (…, m, k)
           batch = broadcast(call.labelling, a[:-2], b[:-2])
           call.labelling.unify(a[-1], b[-1])
           return [[*batch, a[-2], b[-2]]]  # of the one tensor that it returns

   Return None for a form that you leave out (a step, a mode): it is refused as not known, and so is what returns labels
   of other sizes than ``call.shapes``.
3. Add the line ``"cdist": distances`` to ``OPERATIONS``, under the name that the error gives.
4. Test it, in ``tests/test_tracing.py``: a network in ``FREE`` (everything that may move is found), and one in
   ``SOUND`` where units are not alike (nothing else moves).
"""

from __future__ import annotations

import warnings
from contextlib import redirect_stderr
from io import StringIO

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from dwflow_lite.networks.constants import moved
from dwflow_lite.symmetry.following import label_forward_pass, labels_of_parameters, module_of, name_of_operator
from dwflow_lite.symmetry.labelled_spec import write_spec
from dwflow_lite.symmetry.labels import Labelling
from dwflow_lite.symmetry.proving import Groups, failing_groups
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.zoo.inputs import require_tensor
from dwflow_lite.zoo.layout import Layout, require_module

BY_HAND = "write the spec by hand (PermutationSpec(layout, axes)), or go on without alignment (align=None)"


def derive_spec(network: nn.Module, x: Tensor, *, unknown: str = "raise") -> PermutationSpec:
    """The permutation spec of a network of your own, from one traced forward pass in eval mode (``torch.export``).

    Every axis of every parameter gets a label. Operations make labels equal (a sum of both sides, a layer and what it
    reads), cut them (heads, slices) or put them in a row (concatenation); what reaches the output, meets inputs,
    positions or constants, or an operation that is not known, is fixed. What is left is a proposal. All of its groups
    are then permuted, at random and several times, in float64 and with random weights: what changes outputs is fixed as
    well. ``spec.fixed`` names the tensors in which nothing moves, with the reason.

    Known: linear layers, convolutions (plain, depthwise), BatchNorm, LayerNorm, RMSNorm, InstanceNorm, GroupNorm of one
    group, elementwise functions, softmax, sums with broadcasting, products of matrices, attention (fused or not),
    pooling, resizing, means and extrema, reshaping, concatenation, slices, embeddings, and what PyTorch makes of these.
    Refused by name: recurrent layers, convolutions of several groups, shuffled channels, and whatever depends on the
    order of units.

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
        TypeError: a network that is no module, or inputs that are no tensor.
    """
    if unknown not in ("raise", "fix"):
        raise ValueError(f"unknown must be 'raise' or 'fix', got {unknown!r}")
    require_module(network)
    require_tensor(x)
    name = type(network).__name__
    with torch.random.fork_rng(devices=[]):  # a forward pass may draw numbers
        network, x = checked_copy(network, x)
        program = trace(network, x)
        layout = Layout.of(network)
        tensors = labels_of_parameters(network, [entry.name for entry in layout.entries])
        labelling = Labelling()
        try:
            label_forward_pass(program, tensors, labelling)
            spec = write_spec(layout, tensors, labelling)
            labelling.here = "the test of permuting, in float64,"  # an error below names where it came from
            failing = failing_groups(network, spec, x)
        except Exception as error:
            why = str(error) or type(error).__name__
            raise ValueError(f"{name}: {labelling.here} is not understood ({one_line(why)}); {BY_HAND}") from error
        # Doubts might hide a group that is free, and are refused; notes tell of a freedom that a spec cannot express.
        doubts = in_short(labelling.doubts) + [f"permuting {', '.join(groups)} changes outputs" for groups in failing]
        if doubts and unknown == "raise":
            raise ValueError(
                f"{name}: {'; '.join(doubts)}; unknown='fix' leaves these units where they are; or {BY_HAND}"
            )
        spec = without(spec, failing, network, x)
    reasons = doubts + in_short(labelling.notes)
    if reasons:
        warnings.warn(f"{name}: units left where they are: {'; '.join(reasons)}", stacklevel=2)
    return spec


def without(spec: PermutationSpec, failing: list[Groups], network: nn.Module, x: Tensor) -> PermutationSpec:
    """The spec in which these groups are fixed, and all that then fail."""
    while failing:
        groups = [group for groups in failing for group in groups]
        spec = spec.fix(*groups, why="permuting its units changes outputs")
        failing = failing_groups(network, spec, x)
    return spec


def in_short(reasons: list[str]) -> list[str]:
    """Reasons that only name other places are said once: ``roll in a depends on …  (also in b, c and 5 more)``.

    Doubts are of this form (operation, place, why), as ``Labelling.refuse`` writes them; others stay as they are.
    """
    places: dict[tuple[str, str], list[str]] = {}
    for reason in dict.fromkeys(reasons):
        operation, found, rest = reason.partition(" in ")
        place, _, why = rest.partition(" ")
        key = (operation, why) if found else (reason, "")
        places.setdefault(key, []).append(place)
    short = []
    for (operation, why), (first, *others) in places.items():
        more = f" and {len(others) - 2} more" if len(others) > 2 else ""
        also = f" (also in {', '.join(others[:2])}{more})" if others else ""
        short.append(f"{operation} in {first} {why}{also}" if first else operation)
    return short


def one_line(message: str) -> str:
    """The first sentence of an error, to stand inside another."""
    lines = message.strip().splitlines() or [""]
    return lines[0].split(". ")[0].rstrip(" .")[:200]


# -- the network and its traced forward pass ---------------------------------------------------------------------------


@torch.no_grad()
def checked_copy(network: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy of the network in eval mode, and the inputs, on the CPU; its forward pass was tried.

    Raises:
        ValueError: it cannot be copied, does not run, changes a parameter, or returns anything but one tensor.
    """
    name = type(network).__name__
    try:
        copy = moved(network, "cpu").eval()
    except Exception as error:
        raise ValueError(f"{name} cannot be copied ({one_line(str(error))}); {BY_HAND}") from error
    x = x.detach().cpu()
    before = {path: parameter.clone() for path, parameter in copy.named_parameters()}
    try:
        before_drawing = torch.get_rng_state()
        outputs = copy(x)
    except Exception as error:  # whatever a reader's own code raises
        raise ValueError(f"{name} cannot be traced: it does not run on x ({one_line(str(error))})") from error
    for path, parameter in copy.named_parameters():
        if not torch.equal(parameter, before[path]):
            raise ValueError(f"{name} changes its parameter {path} in its forward pass, so it has no spec; {BY_HAND}")
    if not isinstance(outputs, Tensor):
        several = isinstance(outputs, tuple | list) and len(outputs) > 1
        number, kind = "more than one tensor" if several else "no tensor", type(outputs).__name__
        raise ValueError(f"{name} returns {number} ({kind}); derive the spec of a module that returns the one used")
    if not torch.equal(before_drawing, torch.get_rng_state()):
        raise ValueError(f"{name} draws random numbers in eval mode, so no spec can be tested; {BY_HAND}")
    return copy, x


def trace(network: nn.Module, x: Tensor) -> ExportedProgram:
    """The forward pass as a graph of ``aten`` operators, for inputs ``x`` (n, ...).

    Raises:
        ValueError: it cannot be traced, or has sizes that depend on the numbers in ``x``.
    """
    name = type(network).__name__
    try:
        # PyTorch prints half a graph as it fails, and warns of the list in which a recurrent layer keeps its weights.
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.filterwarnings("ignore", "The tensor attributes")
            program = torch.export.export(network, (x,), strict=False)
    except Exception as error:  # whatever a reader's own code raises
        raise ValueError(f"{name} cannot be traced ({why_not_traced(error)}); {BY_HAND}") from error
    for node in program.graph.nodes:
        sizes = getattr(node.meta.get("val"), "shape", ())  # of what the node gives; a symbol if it depends on numbers
        if any(not isinstance(size, int) for size in sizes):
            here = f"{name_of_operator(node)} in {module_of(node)}"
            raise ValueError(f"{name} cannot be traced ({here} gives a size that depends on numbers in x); {BY_HAND}")
    return program


def why_not_traced(error: Exception) -> str:
    """What a forward pass does that no graph of operations can show, in words."""
    text = f"{type(error).__name__} {error}"
    if "data-dependent" in text or "DataDependent" in text:
        return "its forward pass branches, or has sizes, by the numbers in a tensor"
    if "numpy" in text.lower():
        return "its forward pass leaves PyTorch for NumPy"
    return one_line(str(error))
