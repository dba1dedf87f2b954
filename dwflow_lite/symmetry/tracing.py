"""A permutation spec read off a network's own forward pass: labels proposed by tracing, and tested by renaming."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from functools import reduce
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.node import Node, map_arg

from dwflow_lite.symmetry.axes import Stretch
from dwflow_lite.symmetry.permutation import Permutation
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.zoo.layout import Layout

BY_HAND = "write the spec by hand: PermutationSpec(layout, axes)"


def derive_spec(network: nn.Module, x: Tensor, *, unknown: str = "raise") -> PermutationSpec:
    """The permutation spec of a network of your own, from one traced forward pass in eval mode (``torch.export``).

    Every axis of every parameter gets a label. Operations make labels equal (a sum of both sides, a layer and what it
    reads), cut them (heads, slices) or put them in a row (concatenation); what reaches the output, meets inputs,
    positions or constants, or an operation that is not known, is fixed. What is left is a proposal. Each of its groups
    is then renamed alone, by renamings of which all others are made, in float64 and with random weights: one that
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
    network, name = deepcopy(network).cpu().eval(), type(network).__name__
    try:
        program = torch.export.export(network, (x.cpu(),), strict=False)
    except Exception as error:  # whatever a reader's own code raises
        raise ValueError(f"{name} cannot be traced ({str(error).splitlines()[0]}); {BY_HAND}") from error
    if len(program.graph_signature.user_outputs) != 1:
        raise ValueError(f"{name} returns more than one tensor; derive the spec of a module that returns the one used")
    tracer = _Tracer(program, network)
    try:
        spec = tracer.run(Layout.of(network))
        tracer.here = "the test of renaming, in float64,"
        failing = _failing(network, spec, x.cpu())
    except Exception as error:
        raise ValueError(f"{name}: {tracer.here} is not understood ({type(error).__name__}); {BY_HAND}") from error
    doubts = tracer.doubts + [f"renaming {', '.join(groups)} changes outputs" for groups in failing]
    if doubts and unknown == "raise":
        raise ValueError(f"{name}: {'; '.join(doubts)}. unknown='fix' leaves these units where they are; or {BY_HAND}")
    if told := doubts + tracer.notes:
        warnings.warn(f"{name}: units left where they are: {'; '.join(told)}", stacklevel=2)
    return spec.fix(*(g for groups in failing for g in groups))


@torch.no_grad()
def _failing(network: nn.Module, spec: PermutationSpec, x: Tensor) -> list[tuple[str, ...]]:
    """The groups (or blocks of heads) that cannot be renamed alone without a change of outputs."""
    double, failing = deepcopy(network).double().eval(), {}
    x = x.double() if x.is_floating_point() else x
    for seed in range(4):  # in some networks, for some weights, hardly anything reaches the output
        generator = torch.Generator().manual_seed(seed)
        weights = 0.5 * torch.randn(spec.layout.size, generator=generator, dtype=torch.float64)
        state = spec.layout.unflatten(weights)
        state |= {name: t.abs() + 0.1 for name, t in state.items() if name.endswith("running_var")}
        before = functional_call(double, state, (x,))
        for heads, groups in spec.coordinates:
            for move in _generators(heads, {g: spec.groups[g] for g in groups}):
                after = functional_call(double, spec.permute(state, Permutation(move)), (x,))
                if not torch.allclose(before, after, rtol=1e-6, atol=1e-8):
                    failing[groups] = True
    return list(failing)


def _generators(heads: int, sizes: dict[str, int]) -> Iterator[dict[str, Tensor]]:
    """Renamings of which all others are made: a cycle and a swap, of heads and inside the first head."""

    def moves(n: int) -> list[Tensor]:
        return [torch.tensor([*range(1, n), 0]), torch.tensor([1, 0, *range(2, n)])] if n > 1 else []

    for order in moves(heads):
        yield {g: torch.arange(size).view(heads, -1)[order].flatten() for g, size in sizes.items()}
    for group, size in sizes.items():
        for order in moves(size // heads):
            yield {group: torch.cat([order, torch.arange(size // heads, size)])}


class _Label:
    """Units of an axis: an atom, a ``product`` of outer and inner units, or a ``row`` of parts."""

    def __init__(self, size: int, kind: str = "", parts: Sequence[_Label] = (), stays: bool = False) -> None:
        self.size, self.kind, self.parts, self.stays = size, kind, tuple(parts), stays or size == 1
        self.same: _Label | None = None  # the label that it was made equal to
        self.under: tuple[_Label, ...] = ()  # the outer units of the products that it is inside of
        self.at: dict[tuple[_Label, int], _Label] = {}  # what it is at one place of an outer atom

    @property
    def root(self) -> _Label:
        return self.same.root if self.same else self

    @property
    def fixed(self) -> bool:
        root = self.root
        return all(p.fixed for p in root.parts) if root.parts else root.stays

    @property
    def outers(self) -> list[_Label]:
        """The atoms that its order may depend on."""
        return [atom for label in self.root.under for atom in label.leaves("product")]

    def fix(self) -> None:
        root = self.root
        root.stays = True
        for label in (*root.parts, *root.at.values()):
            if not label.fixed:
                label.fix()

    def leaves(self, kind: str) -> list[_Label]:
        """With products (or rows) taken apart."""
        root = self.root
        return [leaf for part in root.parts for leaf in part.leaves(kind)] if root.kind == kind else [root]

    def place(self, outer: _Label, index: int) -> _Label:
        """The units as they are at one place of an outer label."""
        root, outer = self.root, outer.root
        if outer.kind == "product":
            first, second = outer.parts
            return root.place(first, index // second.size).place(second, index % second.size)
        if root.parts:
            return _Label(root.size, root.kind, [p.place(outer, index) for p in root.parts])
        if outer not in root.outers:
            return root
        label = _Label(root.size, stays=root.stays)
        label.under = tuple(u.place(outer, index) for u in root.outers if u is not outer)
        return root.at.setdefault((outer, index), label).root


Value = list[_Label]  # one for each axis
Key = tuple[_Label, ...]  # what moves: (atom,) or (head, unit inside)


def _plain(shape: Iterable[int]) -> Value:
    return [_Label(n, stays=True) for n in shape]


def _whole(kind: str, labels: Sequence[_Label]) -> _Label:
    """Several labels as one: all their pairs of units, outer first, or all in a row."""
    size = operator.mul if kind == "product" else operator.add
    *outers, last = labels or [_Label(1)]
    return reduce(lambda inner, outer: _Label(size(outer.size, inner.size), kind, (outer, inner)), outers[::-1], last)


VIEWS = {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"}
TURNS = {"permute", "transpose", "t", "numpy_T", "mT"}
SAME = {"contiguous", "detach", "alias", "to", "type_as", "softmax", "log_softmax", "dropout", "feature_dropout"}
MEANS = {"mean", "sum", "amax", "amin", "logsumexp", "var", "std"}


class _Tracer:
    """Walks through a traced forward pass and makes labels equal where an operation asks for it."""

    def __init__(self, program: torch.export.ExportedProgram, network: nn.Module) -> None:
        self.nodes, self.here = list(program.graph.nodes), ""
        self.doubts: list[str] = []  # what is not known to be safe
        self.notes: list[str] = []  # what is free, but not in a way that a spec can say
        tensors = dict(network.named_parameters(remove_duplicate=False))
        tensors |= dict(network.named_buffers(remove_duplicate=False))
        labels = {id(t): [_Label(n, stays=not t.is_floating_point()) for n in t.shape] for t in tensors.values()}
        self.tensors = {name: labels[id(t)] for name, t in tensors.items()}  # tied ones share their labels
        given = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
        self.env = {n: [self.tensors[given[n.name]]] for n in self.nodes if given.get(n.name) in tensors}
        self.fix(axis for node, (axes,) in self.env.items() if not node.users for axis in axes)

    def fix(self, axes: Iterable[_Label]) -> None:
        for label in axes:
            label.fix()

    def refuse(self, axes: Sequence[_Label], why: str = "is not known") -> None:
        """These units stay, and that is said; nothing is said where nothing moved."""
        if not all(label.fixed for label in axes):
            self.doubts.append(f"{self.here} {why}")
            self.fix(axes)

    # -- labels that are equal -------------------------------------------------------------------------------------

    def unify(self, a: _Label, b: _Label) -> _Label:
        """Both run over the same units, in one order; or one is a single place, which goes with any units."""
        a, b = a.root, b.root
        if a is b or 1 in (a.size, b.size):
            return b if a.size == 1 else a
        if a.fixed or b.fixed or a.size != b.size:
            self.fix([a, b])
        elif a.parts or b.parts:
            whole, other = (a, b) if a.parts else (b, a)
            parts = self.deal([other], [p.size for p in whole.parts], whole.kind)
            for one, two in zip(whole.parts, parts, strict=True):
                self.unify(one, two)
        else:
            shared = tuple(u for u in a.outers if u in b.outers)
            a.same, b.under = b, shared
            for (outer, index), there in [*a.at.items(), *b.at.items()]:
                self.unify(there, b.place(outer, index))
        return a.root

    def deal(self, axes: Value, sizes: Sequence[int], kind: str) -> Value:
        """The units of these axes dealt out to axes of other sizes: row-major by a view, in a row by slices."""
        dealt, product = [], kind == "product"
        queue = [leaf for axis in axes for leaf in axis.leaves(kind) if leaf.size != 1 or not product][::-1]
        for size in sizes:
            taken = []
            while size > (1 if product else 0):
                label = queue.pop().root
                if size % label.size if product else size < label.size:
                    if (parts := self.divide(label, size, kind)) is None:
                        self.refuse(axes, "tears units apart" if product else "takes a part of heads")
                        return _plain(sizes)
                    label, rest = parts
                    queue.append(rest)
                taken.append(label)
                size = size // label.size if product else size - label.size
            dealt.append(_whole(kind, taken))
        return dealt

    def divide(self, label: _Label, size: int, kind: str) -> Value | None:
        """A label as two, the first of this size; None if that would tear units apart."""
        rest, left = divmod(label.size, size) if kind == "product" else (label.size - size, 0)
        if label.fixed and not left:
            return _plain([size, rest])
        if label.parts or left:
            return None
        label.kind, label.parts = kind, (_Label(size), _Label(rest))
        first, second = label.parts
        first.under = label.under
        second.under = (*label.under, first) if kind == "product" else label.under
        for (outer, index), there in label.at.items():
            self.unify(there, label.place(outer, index))
        return [first, second]

    # -- operations ------------------------------------------------------------------------------------------------

    def run(self, layout: Layout) -> PermutationSpec:
        for node in self.nodes:
            if node not in self.env:
                self.env[node] = self.results(node)
        return self.spec(layout)

    def results(self, node: Node) -> list[Value]:
        """The labels of all tensors that a node returns; those that it takes are refused if it is not known."""
        if node.target is operator.getitem:
            return [self.env[node.args[0]][node.args[1]]]
        values: list[Value] = []
        map_arg((node.args, node.kwargs), lambda n: values.extend(self.env[n]))
        taken = [axis for v in values for axis in v]
        if node.op == "output":
            self.fix(taken)
        val = node.meta.get("val")
        shapes = [tuple(getattr(v, "shape", ())) for v in (val if isinstance(val, (list, tuple)) else [val])]
        if not all(axis.fixed for axis in taken):
            name = str(node.target).removeprefix("aten.").rsplit(".", 1)[0].rstrip("_")
            module = [*(node.meta.get("nn_module_stack") or {"": ("", "")}).values()][-1][0]
            self.here = f"{name} in {module.removeprefix('L[self].') or 'forward'}"
            found = self.apply(name, node, values, shapes) if hasattr(node.target, "_schema") else None
            if found is not None and [tuple(axis.size for axis in v) for v in found] == shapes:
                return found
            self.refuse(taken)
        return [_plain(shape) for shape in shapes]

    def apply(self, name: str, node: Node, values: list[Value], shapes: list[tuple]) -> list[Value] | None:
        """The labels of all that an operation returns; None if it is not known."""
        known = node.target._schema.arguments
        a = {s.name: s.default_value for s in known if s.has_default_value()}
        a |= dict(zip([s.name for s in known], node.args, strict=False)) | node.kwargs
        x, shape = values[0], shapes[0]
        given = a.get("dim", a.get("dims"))
        dims = [given] if isinstance(given, int) else given or range(len(x))  # none: all
        dims = [d % max(len(x), 1) for d in dims]
        dim = dims[0] if dims else 0
        match name:
            case "linear":
                weight, *bias = values[1:]
                return [self.broadcast(self.matmul(x, weight[::-1]), *bias)]
            case "matmul" | "mm" | "bmm" if min(map(len, values)) > 1:
                return [self.matmul(*values)]
            case "addmm" | "baddbmm":
                return [self.broadcast(x, self.matmul(*values[1:]))]
            case "scaled_dot_product_attention" if not a.get("enable_gqa"):
                q, k, v, *mask = values
                scores = self.broadcast(self.matmul(q, [*k[:-2], k[-1], k[-2]]), *mask)
                if a["is_causal"]:
                    self.refuse(scores[-2:], "orders its tokens")
                return [self.matmul(scores, v)]
            case "batch_norm" | "instance_norm" | "prelu" | "group_norm":
                channels = [x[1], *(v[0] for v in values[1:])]
                if a.get("num_groups", 1) > 1:
                    self.refuse(channels, "ties channels to their neighbours in groups")
                reduce(self.unify, channels)
                return [x]
            case "_assert_tensor_metadata":
                return [[]]  # nothing
            case "embedding":
                self.fix(x[:1])  # entries of a table
                return [[*values[1], x[1]]]
            case "cat":
                meet = zip(*values, strict=True)
                return [[_whole("row", axes) if d == dim else reduce(self.unify, axes) for d, axes in enumerate(meet)]]
            case "select" | "unbind":
                x[dim].fix()  # what is inside of it is known by its place
                places = [a["index"] % x[dim].size] if name == "select" else range(len(shapes))
                return [[axis.place(x[dim], k) for axis in (*x[:dim], *x[dim + 1 :])] for k in places]
            case "split" | "split_with_sizes" | "chunk" | "tensor_split" | "slice" | "narrow" if a.get("step", 1) == 1:
                start = range(x[dim].size)[a.get("start") :].start
                _, *parts = self.deal([x[dim]], [start, *(s[dim] for s in shapes)], "row")
                return [[*x[:dim], part, *x[dim + 1 :]] for part in parts]
            case "expand":
                padded = zip([*_plain(shape[: len(shape) - len(x)]), *x], shape, strict=True)
                return [[axis if axis.size == n else _Label(n, stays=True) for axis, n in padded]]
            case _ if name in VIEWS:
                return [self.deal(x, shape, "product")]
            case _ if name in TURNS:
                probe = torch.empty(*range(2, len(x) + 2), device="meta")  # the size tells the axis
                return [[x[m - 2] for m in node.target(probe, *node.args[1:], **node.kwargs).shape]]
            case _ if name in SAME:
                return [x]
            case _ if name in ("layer_norm", "rms_norm") or torch.Tag.pointwise in node.target.tags:
                return [self.broadcast(*values)]
            case _ if name in MEANS and len(shapes) == 1:
                return [self.deal([axis for d, axis in enumerate(x) if d not in dims], shape, "product")]
            case _ if name[-1] == "d" and ("pool" in name or name.startswith("conv")):
                return [self.windows(name, x, values[1:], a.get("groups", 1), shape)]
        return None

    def windows(self, name: str, x: Value, weights: list[Value], groups: int, shape: tuple) -> Value:
        """Windows that slide over places: a pool keeps the channels, a convolution is a matrix of them."""
        sides = int(name[-2])
        self.refuse(x[-sides:], "mixes neighbours")
        *batch, channels = x[:-sides]
        if weights:
            weight, *bias = weights[0], *(v[0] for v in weights[1:])
            self.fix(weight[2:])  # places of a kernel
            columns, rows = weight[:2] if "transpose" in name else weight[1::-1]
            if groups == channels.size == weight[0].size and weight[1].size == 1:  # depthwise
                columns = rows = weight[0]
            elif groups > 1:
                self.refuse([channels, *weight, *bias], "has several groups of channels")
            self.unify(channels, columns)
            channels = reduce(self.unify, bias, rows)
        return [*batch, channels, *_plain(shape[-sides:])]

    def matmul(self, a: Value, b: Value) -> Value:
        """Products of matrices, or of batches of them; a may be one vector."""
        batch = self.broadcast(a[:-2], b[:-2])  # heads before the units inside them
        self.unify(a[-1], b[-2])
        return [*batch, *a[-2:-1], b[-1]]

    def broadcast(self, *values: Value) -> Value:
        """Tensors on one another: axes joined from the right."""
        n = max(map(len, values))
        padded = [_plain([1] * (n - len(v))) + v for v in values]
        return [reduce(self.unify, axes) for axes in zip(*padded, strict=True)]

    # -- the spec --------------------------------------------------------------------------------------------------

    def spec(self, layout: Layout) -> PermutationSpec:
        """What is free, in the words of a spec; what those cannot say is fixed."""
        rows: dict[str, list[list[Stretch]]] = {}
        for self.here in (e.name for e in layout.entries):
            rows[self.here] = [self.words(axis) for axis in self.tensors[self.here]]
        if bad := _not_in_words(rows):
            self.fix(bad)
            self.notes += dict.fromkeys(bad.values())
            return self.spec(layout)
        names: dict[Key, str] = {}
        for entry in sorted(layout.entries, key=lambda e: len(e.shape) < 2):  # matrices name what they write to
            path = entry.name.rpartition(".")[0] or entry.name
            for key in (stretch.group for axis in rows[entry.name] for stretch in axis if stretch.group):
                if key not in names:
                    number = sum(name.partition("[")[0] == path for name in names.values())
                    names[key] = f"{path}[{number}]" if number else path
        pairs = [key for key in names if len(key) == 2]
        blocks = {heads: tuple(names[key] for key in pairs if key[0] is heads) for heads, _ in pairs}
        axes = {name: tuple(_axis(words, names) for words in rows[name]) for name in rows}
        return PermutationSpec(layout, axes, {groups[0]: (h.size, groups) for h, groups in blocks.items()})

    def words(self, label: _Label) -> list[Stretch]:
        """An axis as stretches; what moves is not a name yet, but (atom,) or (head, unit inside)."""
        root = label.root
        if root.fixed or not root.parts:
            return [Stretch(None if root.fixed else (root,), root.size)]
        if root.kind == "row":
            return [word for part in root.parts for word in self.words(part)]
        outer, inner = (p.root for p in root.parts)
        if outer.fixed:
            return [word for k in range(outer.size) for word in self.words(inner.place(outer, k))]
        if not inner.fixed:
            if outer in inner.outers and not inner.parts:
                return [Stretch((outer, inner), root.size)]
            inner.fix()
            self.notes.append(f"{self.here}: in an order that a spec has no word for")
        return [word._replace(each=word.each * inner.size) for word in self.words(outer)]


def _not_in_words(rows: dict[str, list[list[Stretch]]]) -> dict[_Label, str]:
    """Labels that a spec cannot say, and why."""
    keys = {word.group for axes in rows.values() for axis in axes for word in axis if word.group}
    inside = {key[-1]: {k[:-1] for k in keys if k[-1] is key[-1]} for key in keys}
    bad = {i: "units inside heads, which other tensors share" for i, found in inside.items() if len(found) > 1}
    bad |= {key[-1]: "units inside heads that are named elsewhere" for key in keys if key[0] in inside and key[1:]}
    for name, axes in rows.items():
        labels = [{label for word in axis for label in word.group or ()} for axis in axes]
        for one, other in combinations(labels, 2):
            bad |= dict.fromkeys(one & other, f"on two axes of {name}")
    return bad


def _axis(words: list[Stretch], names: dict[Key, str]) -> Any:
    """A spec's axis: a group, None, or stretches."""
    found: list[Stretch] = []
    for key, units, each in words:
        if not key and found and found[-1].group is None:
            units, each = found.pop().units + units * each, 1
        found.append(Stretch(names[key], units, each) if key else Stretch(None, units * each))
    return found[0].group if len(found) == 1 and found[0].each == 1 else tuple(found)
